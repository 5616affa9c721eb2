"""Files of weights: published ones in both formats, damaged and foreign ones, and what they are."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slam.checkpoints import describe_checkpoint
from slam.networks.pointmap import PointmapNetwork, load_pointmap_network
from slam.networks.raft_small import RaftSmall, load_raft_small
from slam.networks.weights import read_weights
from tests.pointmap_networks import random_network
from tests.retrieval_heads import head_tensors

if TYPE_CHECKING:
    from tests.conftest import CommandResult

CALL = (
    "AsymmetricMASt3R(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', "
    "img_size=(512, 512), head_type='catmlp+dpt', output_mode='pts3d+desc24', "
    "depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), enc_embed_dim=32, enc_depth=2, "
    "enc_num_heads=2, dec_embed_dim=24, dec_depth=4, dec_num_heads=3, two_confs=True)"
)
TYPES = {torch.float32: "F32", torch.float16: "F16", torch.int64: "I64", torch.bool: "BOOL"}


@pytest.fixture(scope="module")
def network() -> PointmapNetwork:
    return random_network()


@pytest.fixture(scope="module")
def published(network: PointmapNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the authors write them: state and arguments of the training in a pickle."""
    path = tmp_path_factory.mktemp("published") / "mast3r.pth"
    state = {**network.state_dict(), "mask_token": torch.zeros(1, 1, 24)}
    arguments = argparse.Namespace(model=CALL, epochs=20, lr=1e-4, pretrained=None, tags=["a"])
    torch.save({"model": state, "args": arguments, "epoch": 19, "best_so_far": 0.5}, path)
    return path


def safetensors(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as the format lays them out, written here from its description."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    values = b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().numpy().tobytes()
        offsets = [len(values), len(values) + len(raw)]
        header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        values += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + values


def same(a: PointmapNetwork, b: PointmapNetwork) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return a.sizes == b.sizes and all(torch.equal(one[name], two[name]) for name in one)


# --- what loads ----------------------------------------------------------------------------------


def test_a_published_pickle_loads_and_its_licence_is_said(
    network: PointmapNetwork, published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(torch.serialization.get_safe_globals())
    assert same(load_pointmap_network(published), network)
    assert "CC BY-NC-SA 4.0" in caplog.text
    assert set(torch.serialization.get_safe_globals()) == before  # nothing more is allowed than was


def test_safetensors_load(network: PointmapNetwork, tmp_path: Path) -> None:
    path = tmp_path / "mast3r.safetensors"
    path.write_bytes(safetensors(network.state_dict(), {"model": CALL, "format": "pt"}))
    assert same(load_pointmap_network(path), network)


def test_safetensors_of_all_kinds_are_read(tmp_path: Path) -> None:
    tensors = {
        "odd": torch.tensor([True, False, True]),
        "unaligned": torch.tensor([[1.5, -2.0], [0.25, 1e30]]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "half": torch.tensor([0.5, 2.0], dtype=torch.float16),
    }
    path = tmp_path / "all.safetensors"
    path.write_bytes(safetensors(tensors))
    got = read_weights(path, "a test").tensors
    assert list(got) == list(tensors)
    for name, value in tensors.items():
        assert got[name].dtype == value.dtype and torch.equal(got[name], value), name


def test_half_precision_files_become_float32(network: PointmapNetwork, tmp_path: Path) -> None:
    path = tmp_path / "half.pth"
    torch.save({k: v.half() for k, v in network.state_dict().items()}, path)
    with pytest.raises(ValueError, match="the checkpoint does not say how many heads"):
        load_pointmap_network(path)
    halved = PointmapNetwork.from_state_dict(torch.load(path, weights_only=True), (2, 3))
    assert {value.dtype for value in halved.parameters()} == {torch.float32}


# --- what does not -------------------------------------------------------------------------------


def refused(path: Path, error: type[Exception] = ValueError) -> str:
    """The one line that says why a file does not load."""
    with pytest.raises(error) as caught:
        load_pointmap_network(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400
    return message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file; wanted" in refused(tmp_path / "none.pth", FileNotFoundError)
    assert "no such file" in refused(tmp_path, FileNotFoundError)


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_cut_off_is_refused(
    network: PointmapNetwork, published: Path, tmp_path: Path, suffix: str, part: float
) -> None:
    whole = published.read_bytes() if suffix == ".pth" else safetensors(network.state_dict())
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(part * len(whole))])
    assert "got a file that is cut off or something else" in refused(path)


class Code:
    """What a pickle may hold that is not for loading."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(
    network: PointmapNetwork, tmp_path: Path, legacy: bool
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "code.pth"
    content = {"model": network.state_dict(), "args": argparse.Namespace(model=Code(mark))}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert refused(path).endswith("got a pickle that would run posix.mkdir; nothing was run")
    path.write_bytes(pickle.dumps(Code(mark), protocol=2))
    assert "posix.mkdir" in refused(path)
    assert not mark.exists()


def test_the_constructor_call_is_not_run(
    network: PointmapNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mark, path = tmp_path / "mark", tmp_path / "call.pth"
    for call in (
        f"__import__('os').mkdir({str(mark)!r})",
        f"Network(enc_num_heads=__import__('os').mkdir({str(mark)!r}), dec_num_heads=3)",
    ):
        torch.save({"model": network.state_dict(), "args": argparse.Namespace(model=call)}, path)
        assert "does not say how many heads" in refused(path)
    assert not mark.exists()


def test_other_networks_are_refused(published: Path, tmp_path: Path) -> None:
    path = tmp_path / "raft.pth"
    torch.save({f"module.{k}": v for k, v in RaftSmall().state_dict().items()}, path)
    message = refused(path)
    assert "wanted a two-view pointmap network (MASt3R or DUSt3R)" in message
    assert "the first module.fnet.conv1.weight" in message
    with pytest.raises(ValueError, match="wanted the 106 tensors of RAFT-small"):
        load_raft_small(published)
    torch.save([1, 2], path)
    assert "wanted tensors by name" in refused(path)
    torch.save({"model": {"a": 1}}, path)
    assert "wanted tensors by name" in refused(path)


def test_another_kind_of_network_under_the_same_names_is_refused(
    network: PointmapNetwork, tmp_path: Path
) -> None:
    path = tmp_path / "croco.pth"
    arguments = argparse.Namespace(model="CroCoNet(pos_embed='cosine')")
    torch.save({"model": network.state_dict(), "args": arguments}, path)
    assert "wanted a pointmap network with pos_embed='RoPE100'" in refused(path)
    state = {name: value for name, value in network.state_dict().items() if "head2" not in name}
    torch.save({"model": state, "args": argparse.Namespace(model=CALL)}, path)
    assert "6 missing (downstream_head2.proj.weight, " in refused(path)


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}, "a described as"),
        ({"dtype": "F32", "shape": [2]}, "a described as"),
        ({"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}, "a described as"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "a of shape [2] in bytes 0 to 4"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, "a of shape [-1, -1]"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "a of shape [1] in bytes -4"),
        ({"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}, "a up to byte 36 of 8"),
        ("text", "a described as 'text'"),
    ],
)
def test_safetensors_that_contradict_themselves_are_refused(
    tmp_path: Path, entry: object, found: str
) -> None:
    text = json.dumps({"a": entry}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    assert found in refused(path)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"{]]}",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
    ],
)
def test_safetensors_without_a_header_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    assert "cut off or something else" in refused(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes_give_an_error_of_one_line_or_load(tmp_path: Path, legacy: bool) -> None:
    """Also where the reader of pickles stumbles in its own ways."""
    generator, path = random.Random(4), tmp_path / "damaged.pth"
    content = {"model": {"a": torch.zeros(3, 4)}, "args": argparse.Namespace(model="N(a=1)")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(generator.choice((1, 5, 20))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged[: generator.choice((None, generator.randrange(len(damaged))))])
        try:
            read_weights(path, "a test")
        except ValueError as error:
            assert str(error).startswith(f"{path}: wanted ") and "\n" not in str(error)


# --- slam doctor --checkpoint --------------------------------------------------------------------


def test_doctor_says_what_a_file_is(
    run_cli: Callable[..., CommandResult], network: PointmapNetwork, published: Path, tmp_path: Path
) -> None:
    result = run_cli("doctor", "--checkpoint", published)
    assert (result.code, result.err) == (0, "")
    rows = [line.split(maxsplit=1) for line in result.out.splitlines()]
    count = sum(value.numel() for value in network.parameters())
    assert rows[0] == ["architecture", "MASt3R: pointmaps of two views"]
    assert rows[1][1] == "patches of 16 x 16 px, linear heads, descriptors of 24"
    assert rows[2][1] == "encoder: 2 blocks of 32 channels, 2 heads of attention"
    assert rows[3][1] == "decoders: 2 x 4 blocks of 24 channels, 3 heads of attention"
    assert rows[4] == ["parameters", f"{count / 1e6:.1f} M, 0.01 GB in memory"]
    assert rows[5][0] == "licence" and "no commercial use" in rows[5][1]
    path = tmp_path / "raft.pth"
    torch.save({f"module.{k}": v for k, v in RaftSmall().state_dict().items()}, path)
    raft = run_cli("doctor", "--checkpoint", path).out
    assert "RAFT-small" in raft and "1.0 M" in raft and "BSD-3-Clause" in raft


def test_doctor_knows_the_files_of_place_recognition(
    run_cli: Callable[..., CommandResult], tmp_path: Path
) -> None:
    head = tmp_path / "retrieval.pth"
    tensors = {**head_tensors(24, 24, 16), "backbone.enc_norm.weight": torch.ones(24)}
    torch.save({"model": tensors, "args": argparse.Namespace(residual=True)}, head)
    result = run_cli("doctor", "--checkpoint", head)
    assert (result.code, result.err) == (0, "")
    rows = [line.split(maxsplit=1)[1] for line in result.out.splitlines()]
    assert rows[0].startswith("retrieval head: ")
    assert rows[1].startswith("tokens of 24 channels to descriptors of 16, ")
    assert rows[2:5] == ["prewhiten 24 -> 24", "projector 24 -> 24", "postwhiten 24 -> 16"]
    assert rows[5] == "the projection is added to what it projects"
    assert "CC BY-NC-SA 4.0" in rows[7]
    summary = describe_checkpoint(head)
    whitening, projector = 24 + 24 * 24 + 24 + 24 * 16, 24 * 24 + 24
    assert summary.parameters == whitening + projector  # the encoder is not the head's
    assert summary.bytes == 8 * whitening + 4 * projector


@pytest.mark.parametrize("name", ["codebook.pkl", "codebook.npy"])
def test_doctor_knows_a_codebook(
    run_cli: Callable[..., CommandResult], tmp_path: Path, name: str
) -> None:
    path, centres = tmp_path / name, np.ones((3000, 64), np.float32)
    content = {"type": "Codebook", "state": {"centroids": centres}}
    path.write_bytes(pickle.dumps(content))
    if name.endswith("npy"):
        np.save(path, centres)
    result = run_cli("doctor", "--checkpoint", path)
    assert (result.code, result.err) == (0, "")
    rows = [line.split(maxsplit=1)[1] for line in result.out.splitlines()]
    assert rows[0].startswith("codebook: ") and rows[1] == "3000 words of 64 channels"
    assert rows[2] == "0.2 M, 0.00 GB in memory" and "no commercial use" in rows[3]


def test_doctor_refuses_other_files_in_one_line(
    run_cli: Callable[..., CommandResult], tmp_path: Path
) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2)}, path)
    (tmp_path / "other.pkl").write_bytes(pickle.dumps([1, 2]))
    head = {name: value for name, value in head_tensors().items() if name != "postwhiten.m"}
    torch.save(head, tmp_path / "head.pth")
    for file, found in (
        (path, "the first fc.weight"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "none.pkl", "no such file; wanted a codebook"),
        (tmp_path / "other.pkl", "wanted a codebook"),
        (tmp_path / "head.pth", "wanted postwhiten.m [1, C]"),
    ):
        result = run_cli("doctor", "--checkpoint", file)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert found in result.err
