"""The pointmap predictor: what it says of pairs, which matches it believes, what it refuses."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pointmap_networks import CALL, DUST3R, random_network
from pointmap_runs import STRIDE, WORLD, configured, image
from sequences import SAMPLE
from simulated_room import CAMERA, CountingWorld
from torch import Tensor

from slam.camera import pixel_grid
from slam.config import Config, SimulatedSettings
from slam.frame import Correspondence, PairGuess, PairPrediction, Pointmap, PointmapMatch
from slam.lie import se3_act, se3_inv, se3_mul
from slam.matching import overlap
from slam.networks.pointmap import PointmapNetwork
from slam.predictors import FlowPredictor, Grid, PointmapPredictor
from slam.predictors.factory import make_predictor
from slam.predictors.pointmap import LoadedViews, whole_patches
from slam.predictors.posed_depth import RoomDepth, SourceDepth
from slam.predictors.simulated import SimulatedNetwork
from slam.predictors.simulated_views import SimulatedViews
from slam.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (CAMERA.height, CAMERA.width)


def predictor(known: range = range(300), **noise: float) -> PointmapPredictor:
    settings = replace(configured().simulated, **noise)  # type: ignore[arg-type]
    views = SimulatedViews(SimulatedNetwork(WORLD, settings), known)
    return PointmapPredictor(views, Grid(CAMERA.width, CAMERA.height, STRIDE), Config().matching)


def seen(one: PointmapPredictor, i: int, j: int, *, fine: bool = False) -> PairPrediction:
    first, second = one.encode(image(i)), one.encode(image(j))
    return one.pair(first, second, PairGuess(), fine=fine)


def true_places(i: int, j: int) -> Tensor:
    """Where i's pixels [P, 2] lie in image j, hidden or not."""
    X = CAMERA.unproject(pixel_grid(*SIZE)) * WORLD.read(i).depth[..., None]
    T_ji = se3_mul(se3_inv(WORLD.read(j).T_WC), WORLD.read(i).T_WC)
    return CAMERA.project(se3_act(T_ji, X.reshape(-1, 3).double())).float()


def test_matches_lie_where_the_geometry_says_both_ways_and_on_the_grid() -> None:
    one = predictor()
    pair = seen(one, 10, 25, fine=True)
    assert pair.ahead is not None and pair.behind is not None
    for found, ends in ((pair.ahead.match, (10, 25)), (pair.behind.match, (25, 10))):
        error = (found.target - true_places(*ends)).norm(dim=-1)[found.weight > 1]
        assert len(error) > 0.5 * CAMERA.width * CAMERA.height
        assert error.quantile(0.9) < 0.1 and error.quantile(0.99) < 0.3
    for on_grid, full in ((pair.forward, pair.ahead), (pair.backward, pair.behind)):
        target = full.match.target.reshape(*SIZE, 2)
        assert torch.equal(on_grid.target, one.grid.sample(target))
        assert torch.equal(on_grid.weight, one.grid.sample(full.match.weight.reshape(SIZE)))
    assert pair.flow.forward is not None
    flow = pair.flow.forward.reshape(-1, 2) + Grid(CAMERA.width, CAMERA.height, 1).pixel
    torch.testing.assert_close(flow, pair.ahead.match.target)


def test_tracking_asks_for_one_direction_only() -> None:
    pair = seen(predictor(), 10, 25)
    assert pair.behind is None and not pair.backward.weight.any()


def test_without_noise_what_is_hidden_is_not_believed() -> None:
    """Points behind something match the nearest that is seen of their surface: not much."""
    found = seen(predictor(), 10, 40).ahead
    assert found is not None
    error = (found.match.target - true_places(10, 40)).norm(dim=-1)
    wrong, right = error > 1, error < 0.1
    matched = found.match.weight > 0
    assert (matched & wrong).sum() > 20
    assert found.match.weight[wrong].sum() < 1e-3 * found.match.weight[right].sum()


def test_with_noise_matches_stay_where_they_were_by_their_descriptors() -> None:
    noisy = seen(predictor(pair_scale=0.05, warp=0.02, noise=0.01), 10, 25).ahead
    assert noisy is not None
    error = (noisy.match.target - true_places(10, 25)).norm(dim=-1)[noisy.match.weight > 1]
    assert error.median() < 0.05 and error.quantile(0.9) < 0.6


def test_it_is_blind_to_frames_without_depth() -> None:
    one = predictor(range(20))
    pair = seen(one, 10, 25, fine=True)
    assert pair.match_fraction == 0 and not pair.forward.weight.any()
    assert not one.single(one.encode(image(25))).confidence.any()
    assert one.single(one.encode(image(10))).confidence.all()


def overlap_of(target: Tensor, weight: Tensor, known: int = 100) -> float:
    confidence = (torch.arange(100) < known).float().reshape(10, 10)
    points = Pointmap(torch.ones(10, 10, 3), confidence)
    return overlap(PointmapMatch(points, points, Correspondence(target, weight)))


def test_overlap_sees_many_pixels_collapse_onto_few_and_counts_known_ones_only() -> None:
    weight = torch.ones(100)
    target = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0)).flip(-1)
    assert overlap_of(target, weight) == 1
    weight[:40] = 0
    assert overlap_of(target, weight) == pytest.approx(0.6)
    assert overlap_of(target, weight, known=80) == pytest.approx(0.75)
    collapsed = (target / 5).floor()
    assert overlap_of(collapsed, torch.ones(100)) == pytest.approx(0.04)
    assert overlap_of(target, torch.zeros(100), known=0) == 0


@pytest.mark.parametrize(
    ("width", "height", "patch", "size"),
    [
        (640, 480, 16, (512, 384)),
        (320, 240, 16, (512, 384)),
        (480, 640, 16, (384, 512)),
        (752, 480, 16, (512, 320)),
        (640, 480, 4, (512, 384)),
    ],
)
def test_working_images_are_of_whole_patches_and_keep_their_shape(
    width: int, height: int, patch: int, size: tuple[int, int]
) -> None:
    assert whole_patches(width, height, 512, patch) == size


def test_images_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 48 px on each side, got 40 x 300"):
        whole_patches(40, 300, 512, 16)


@pytest.mark.parametrize("descriptors", [True, False])
def test_a_network_with_weights_stands_behind_the_same_calls(descriptors: bool) -> None:
    network = random_network() if descriptors else random_network(DUST3R)
    grid = Grid(64, 48, 8)
    one = PointmapPredictor(LoadedViews(network, 64, 48), grid, Config().matching)
    features = one.encode(image(3))
    tokens = network.encode(features.rgb.permute(2, 0, 1)[None] / 127.5 - 1)
    torch.testing.assert_close(features.tokens, tokens)
    X = network.decode(tokens, tokens, (48, 64))[0].X[0]
    torch.testing.assert_close(one.single(features).X_C, X)
    pair = one.pair(features, one.encode(image(70)), PairGuess(), fine=True)
    assert pair.ahead is not None and pair.ahead.sought.X_C.shape == (48, 64, 3)
    assert pair.forward.target.isfinite().all() and pair.forward.weight.isfinite().all()


def simulated(**settings: str) -> Config:
    source = replace(Config().source, path=str(SAMPLE), end=30)
    return replace(
        Config(predictor="simulated", source=source),
        simulated=SimulatedSettings(**settings),  # type: ignore[arg-type]
    )


def test_the_configuration_names_the_predictor() -> None:
    assert isinstance(make_predictor(320, 240, Config()), FlowPredictor)
    one = make_predictor(320, 240, simulated(world="sample"))
    assert isinstance(one, PointmapPredictor)
    assert (one.grid.width, one.grid.height, one.grid.stride) == (512, 384, 8)


def test_a_network_without_weights_says_how_to_name_them() -> None:
    with pytest.raises(ValueError, match=r"wants weights of MASt3R or DUSt3R, got none; .*--check"):
        make_predictor(320, 240, Config(predictor="mast3r"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config = Config(predictor="mast3r")
    pointmap = replace(config.pointmap, checkpoint=str(tmp_path / "x.pth"), device="cuda")
    with pytest.raises(ValueError, match=r"pointmap.device: wanted a GPU, found none"):
        make_predictor(320, 240, replace(config, pointmap=pointmap))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_network_is_compiled_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    made: list[PointmapNetwork] = []

    def noted(network: PointmapNetwork) -> PointmapNetwork:
        made.append(network)
        return network

    monkeypatch.setattr(PointmapNetwork, "compile_parts", noted)
    path, config = tmp_path / "x.pth", Config(predictor="mast3r")
    arguments = argparse.Namespace(model=CALL)
    torch.save({"model": random_network().state_dict(), "args": arguments}, path)
    pointmap = replace(config.pointmap, checkpoint=str(path), compiled=compiled)
    make_predictor(320, 240, replace(config, pointmap=pointmap))
    assert len(made) == compiled


def test_the_samples_room_is_where_its_own_depth_maps_are() -> None:
    source = open_source(str(SAMPLE))
    stored, cast = SourceDepth(source, 96, 72), RoomDepth(source, 96, 72)
    assert len(cast.indices) == 300 > len(stored.indices) > 5
    first, second = (world.read(stored.indices[1]) for world in (stored, cast))
    torch.testing.assert_close(first.T_WC, second.T_WC)
    error = (first.depth - second.depth).abs()[first.depth > 0]
    assert error.quantile(0.8) < 0.03


def test_the_simulation_wants_a_known_camera(tmp_path: Path) -> None:
    config = simulated()
    plain = tmp_path / "plain"
    plain.mkdir()
    for n in range(2):
        (plain / f"{n}.jpg").symlink_to(sorted((SAMPLE / "rgb").iterdir())[n])
    with pytest.raises(ValueError, match=r"wants the true camera, got no calibration; name one"):
        make_predictor(320, 240, replace(config, source=replace(config.source, path=str(plain))))


def test_nothing_is_read_but_the_two_frames_asked_for() -> None:
    world = CountingWorld()
    views = SimulatedViews(SimulatedNetwork(world, configured().simulated), range(300))
    grid = Grid(CAMERA.width, CAMERA.height, STRIDE)
    seen(PointmapPredictor(views, grid, Config().matching), 10, 25, fine=True)
    assert world.reads == [10, 25]
