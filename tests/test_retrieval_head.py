"""Files of retrieval: the head on an encoder's tokens, and codebooks; damaged and foreign ones."""

from __future__ import annotations

import argparse
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from slam.descriptor_space import Real
from slam.networks.retrieval_head import RetrievalHead, load_retrieval_head
from slam.retrieval import Retrieval
from slam.retrieval_settings import RetrievalSettings
from slam.vocabulary import load_codebook
from tests.retrieval_heads import head_tensors


def reference(
    tokens: np.ndarray, tensors: dict[str, Tensor], keep: int, *, residual: bool
) -> np.ndarray:
    t = {name: tensor.double().numpy() for name, tensor in tensors.items()}
    x = (tokens - t["prewhiten.m"]) @ t["prewhiten.p"]
    y = x @ t["projector.weight"].T + t["projector.bias"] + (x if residual else 0)
    order = np.argsort(-np.sqrt((y**2).sum(1)))[:keep]
    return (y[order] - t["postwhiten.m"]) @ t["postwhiten.p"]


def write(path: Path, tensors: dict[str, Tensor], **arguments: object) -> Path:
    torch.save({"model": tensors, "args": argparse.Namespace(**arguments)}, path)
    return path


# --- the head ------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("keep", [1, 10, 300])
def test_the_head_follows_the_reference(tmp_path: Path, residual: bool, keep: int) -> None:
    tensors = head_tensors()
    path = write(tmp_path / "head.pth", tensors, residual=residual, hdims="24")
    tokens = torch.randn(50, 24, generator=torch.Generator().manual_seed(4))
    got = load_retrieval_head(path)(tokens, keep).numpy()
    wanted = reference(tokens.double().numpy(), tensors, keep, residual=residual)
    assert got.shape == wanted.shape == (min(keep, 50), 16)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-3)


def test_the_encoder_in_the_file_and_other_spellings_do_not_matter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = head_tensors()
    spelt = {name.replace("projector.", "projector.0."): t for name, t in tensors.items()}
    spelt["prewhiten.m"] = spelt["prewhiten.m"][0]
    spelt["backbone.enc_norm.weight"] = torch.ones(24)
    one = load_retrieval_head(write(tmp_path / "one.pth", tensors, residual=False))
    two = load_retrieval_head(write(tmp_path / "two.pth", spelt, residual=False))
    tokens = torch.randn(20, 24)
    assert torch.equal(one(tokens), two(tokens))
    assert (two.channels, two.out_channels) == (24, 16)
    assert "CC BY-NC-SA" in caplog.text


@pytest.mark.parametrize("part", ["prewhiten", "projector", "postwhiten"])
def test_a_step_may_be_missing(part: str) -> None:
    tensors = {n: t for n, t in head_tensors(24, 24, 24).items() if not n.startswith(part)}
    head = RetrievalHead(tensors, residual=False, source="test")
    assert head(torch.randn(5, 24)).shape == (5, 24)


def test_no_tokens_give_no_descriptors() -> None:
    head = RetrievalHead(head_tensors(), residual=False, source="test")
    assert head(torch.empty(0, 24)).shape == (0, 16)
    for shape in ((5, 23), (24,), (1, 5, 24)):
        with pytest.raises(ValueError, match=r"tokens: wanted \[S, 24\] of one image, got"):
            head(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prewhiten.m": torch.zeros(1, 23)}, r"wanted prewhiten.m \[1, C\] and prewhiten.p"),
        ({"postwhiten.p": None}, r"wanted postwhiten.m .* got \[\[1, 24\], None\]"),
        ({"projector.weight": torch.zeros(20, 24), "projector.bias": torch.zeros(20)}, "24 -> 20"),
        ({"projector.bias": torch.zeros(3)}, "1 of another shape"),
        ({"projector.weight": None}, r"wanted projector.weight \[D, C\], got None"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, Tensor | None], words: str) -> None:
    changed = {n: t for n, t in {**head_tensors(), **change}.items() if t is not None}
    with pytest.raises(ValueError, match=words) as caught:
        RetrievalHead(changed, residual=False, source="head.pth")
    assert str(caught.value).startswith("head.pth: ") and "\n" not in str(caught.value)


def test_a_residual_needs_as_many_channels_as_there_were(tmp_path: Path) -> None:
    tensors = head_tensors(24, 20)
    assert (
        load_retrieval_head(write(tmp_path / "a.pth", tensors, residual=False)).out_channels == 16
    )
    with pytest.raises(ValueError, match="that fit with a residual, got 24 -> 24, 24 -> 20"):
        load_retrieval_head(write(tmp_path / "b.pth", tensors, residual=True))
    with pytest.raises(ValueError, match=r"wanted args\.residual true or false, got 'yes'"):
        load_retrieval_head(write(tmp_path / "c.pth", tensors, residual="yes"))


def test_other_files_are_no_heads(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file; wanted the weights of a retrieval"):
        load_retrieval_head(tmp_path / "none.pth")
    other = write(tmp_path / "other.pth", {"enc_norm.weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"got 1 others, the first enc_norm\.weight"):
        load_retrieval_head(other)


# --- codebooks -----------------------------------------------------------------------------------


def asmk_file(path: Path, centroids: object, protocol: int = 4) -> Path:
    content = {"type": "Codebook", "params": {"size": "20k"}, "state": {"centroids": centroids}}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_codebooks_are_read_as_asmk_writes_them(tmp_path: Path, protocol: int) -> None:
    centres = np.random.default_rng(1).normal(size=(50, 12)).astype(np.float32)
    vocabulary = load_codebook(asmk_file(tmp_path / "codebook.pkl", centres, protocol))
    assert np.array_equal(vocabulary.words, centres)
    np.save(tmp_path / "codebook.npy", centres.astype(np.float64))
    assert np.array_equal(load_codebook(tmp_path / "codebook.npy").words, centres)


def test_an_older_numpy_s_pickle_is_read(tmp_path: Path) -> None:
    centres = np.arange(12, dtype=np.float32).reshape(3, 4)
    written = asmk_file(tmp_path / "codebook.pkl", centres, protocol=2).read_bytes()
    for one, other in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        (tmp_path / "other.pkl").write_bytes(written.replace(one, other))
        assert np.array_equal(load_codebook(tmp_path / "other.pkl").words, centres)


class _Runs:
    def __reduce__(self) -> tuple:
        return os.system, ("touch was_run",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros(5), r"wanted a codebook \[words, channels\], got an array \(5,\)"),
        (np.zeros((0, 5)), r"got an array \(0, 5\)"),
        ([[1.0, 2.0]], "got no array"),
        (np.zeros((2, 3), int), "finite real numbers, got int64"),
        (np.full((2, 3), np.nan), "wanted a codebook of finite real numbers"),
        (_Runs(), "a pickle that would run posix.system; nothing was run"),
    ],
)
def test_other_pickles_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        load_codebook(asmk_file(tmp_path / "codebook.pkl", content))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("name", ["codebook.pkl", "codebook.npy"])
def test_cut_off_codebooks_are_refused(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ones((20, 4), np.float32))
    asmk_file(tmp_path / name, np.ones((20, 4), np.float32))
    whole = stream.getvalue() if name.endswith("npy") else (tmp_path / name).read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{name}: wanted a codebook as .npy or .pkl, got"):
            load_codebook(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file; wanted a codebook"):
        load_codebook(tmp_path / "none.pkl")


def test_head_codebook_and_index_work_together(tmp_path: Path) -> None:
    """Tokens of places, seen again a little changed, through the head and a codebook's words."""
    made = torch.Generator().manual_seed(8)
    places = torch.randn(12, 60, 24, generator=made)
    head = RetrievalHead(head_tensors(), residual=True, source="test")
    described = torch.cat([head(place) for place in places]).numpy()
    vocabulary = load_codebook(asmk_file(tmp_path / "codebook.pkl", described[::4]))
    retrieval = Retrieval(Real(head.out_channels), RetrievalSettings(), vocabulary)
    for number, place in enumerate(places):
        retrieval.add(number, head(place))
    again = places + 0.05 * torch.randn(places.shape, generator=made)
    found = [retrieval.query(head(place))[0].number for place in again]
    assert found == list(range(12))
