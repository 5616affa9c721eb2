"""Places: what looks like an image, by corners or by a network's tokens; which files fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pointmap_networks import random_network
from retrieval_heads import head_tensors

from slam.config import Config
from slam.frame import Frame, Image, InverseDepth, Keyframe
from slam.initialization import identity
from slam.places import Places, make_places
from slam.predictors import Grid, PointmapPredictor, Predictor
from slam.predictors.factory import make_predictor
from slam.predictors.pointmap import LoadedViews
from slam.relocalization import Relocaliser

SIZE = (192, 160)  # px


def picture(seed: int) -> torch.Tensor:
    """[160, 192, 3] uint8: squares of all colours."""
    small = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    return torch.from_numpy(np.kron(small, np.ones((8, 8, 1), np.uint8)))


def keyframes(predictor: Predictor, count: int) -> list[Keyframe]:
    """Of pictures 0 to count - 1, which show different things."""
    depth = InverseDepth(torch.ones(48), torch.ones(48))
    return [Keyframe(frame(predictor, n, n), identity(), depth) for n in range(count)]


def frame(predictor: Predictor, index: int, seed: int) -> Frame:
    features = predictor.encode(Image(index, float(index), float(index), picture(seed)))
    return Frame(index, float(index), float(index), features)


@pytest.fixture(scope="module")
def network() -> PointmapPredictor:
    return PointmapPredictor(
        LoadedViews(random_network(), 64, 48), Grid(64, 48, 8), Config().matching
    )


def with_head(folder: Path, channels: int = 32, codebook: str = "") -> Config:
    file = folder / "head.pth"
    torch.save(head_tensors(channels, channels, last=128), file)
    chosen = replace(Config().retrieval, head=str(file), codebook=codebook, assignments=1)
    return replace(Config(predictor="mast3r"), retrieval=chosen)


def test_tokens_find_the_place_where_a_head_is_named(
    network: PointmapPredictor, tmp_path: Path
) -> None:
    config = with_head(tmp_path)
    places, known = make_places(config, network), keyframes(network, 6)
    places.take(known)
    assert len(places) == 6
    for seed in range(6):
        found = places.similar(frame(network, 100 + seed, seed), 3)
        assert found[0].number == seed and found[0].score == pytest.approx(1, abs=1e-5)
    relocaliser = Relocaliser(network, config, places)
    assert relocaliser.similar(known, frame(network, 100, 1))[0] == 1  # though corners are few
    places.clear()
    assert len(places) == 0


def test_corners_find_it_where_none_is() -> None:
    predictor = make_predictor(*SIZE, Config())
    places = make_places(Config(), predictor)
    assert places.head is None
    places.take(keyframes(predictor, 4))
    assert places.similar(frame(predictor, 100, 2), 3)[0].number == 2
    assert not places.similar(frame(predictor, 100, 2), 3, exclude_after=-1)
    predictor.close()


def test_an_image_without_tokens_looks_like_none(
    network: PointmapPredictor, tmp_path: Path
) -> None:
    places = make_places(with_head(tmp_path), network)
    places.take(keyframes(network, 2))
    blind = frame(network, 9, 1)
    features = replace(blind.features, tokens=None)
    assert places.similar(replace(blind, features=features), 3) == []


def test_a_codebook_gives_the_words(network: PointmapPredictor, tmp_path: Path) -> None:
    np.save(tmp_path / "words.npy", np.random.default_rng(0).normal(size=(20, 128)).astype("f4"))
    places = make_places(with_head(tmp_path, codebook=str(tmp_path / "words.npy")), network)
    assert places.codebook is not None and len(places.codebook) == 20
    places.take(keyframes(network, 3))
    assert places.similar(frame(network, 9, 2), 1)[0].number == 2


def test_what_does_not_fit_is_refused(network: PointmapPredictor, tmp_path: Path) -> None:
    predictor = make_predictor(*SIZE, Config())
    with pytest.raises(ValueError, match=r"wants --predictor mast3r, got flow"):
        make_places(replace(with_head(tmp_path), predictor="flow"), predictor)
    predictor.close()
    with pytest.raises(ValueError, match=r"tokens of 24 channels, the network's have 32"):
        make_places(with_head(tmp_path, 24), network)
    lonely = replace(Config(), retrieval=replace(Config().retrieval, codebook="words.npy"))
    with pytest.raises(ValueError, match=r"wants retrieval\.head, got none"):
        make_places(lonely, network)
    with pytest.raises(FileNotFoundError):
        missing = replace(Config().retrieval, head=str(tmp_path / "none.pth"))
        make_places(replace(Config(), retrieval=missing), network)


def test_corners_of_a_keyframe_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = make_predictor(*SIZE, Config())
    [one] = keyframes(predictor, 1)
    places = Places(Config())
    first = places.corners(one)
    monkeypatch.setattr("slam.places.orb", lambda *_: pytest.fail("found again"))
    assert places.corners(one) is first and places.of(one.frame) is first
    predictor.close()
