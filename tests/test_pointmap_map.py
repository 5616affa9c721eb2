"""Pointmaps in the map: their scale, their depths as priors, and the focal length they tell."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from four_keyframes import EDGES, FIRST, MAPPING, NONE, SETTINGS, depths, measurements, start
from small_map import IDENTITY, keyframe, record
from synthetic import GRID
from torch import Tensor

from slam.camera import Camera, pixel_grid
from slam.config import PointmapSettings
from slam.frame import FusedPointmap, InverseDepth, Keyframe
from slam.graph import Graph
from slam.optimization import bundle_adjust
from slam.pointmap_fusion import grid_depth, known_points
from slam.predictors import Grid
from slam.self_calibration import SelfCalibration

pytestmark = pytest.mark.usefixtures("one_thread")
CAMERA = Camera("pinhole", 80, 60, (93.0, 96.0, 41.0, 28.0))


def with_points(index: int, z: float = 1.0) -> Keyframe:
    points = FusedPointmap(torch.full((8, 8, 3), z), torch.ones(8, 8), 1)
    return replace(keyframe(index, depth=1 / z), pointmap=points)


def points_of(graph: Graph, number: int) -> Tensor:
    pointmap = graph.keyframe(number).pointmap
    assert pointmap is not None
    return pointmap.X_C


def two_keyframes() -> Graph:
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    for index in (0, 10):
        graph.add_keyframe(with_points(index))
        graph.set_record(record(index + 1, index // 10, 0.5))
    return graph


def test_a_scale_lengthens_depths_points_and_the_ways_to_frames() -> None:
    graph = two_keyframes()
    graph.adopt({}, {}, scales={1: 2.0}, newest=1)
    now = graph.keyframe(1)
    assert (now.depth.value == 0.5).all() and (now.depth.information == 4).all()
    assert (points_of(graph, 1) == 2).all() and (points_of(graph, 0) == 1).all()
    assert float(graph.record(11).T_kf[0]) == 1.0 and float(graph.record(1).T_kf[0]) == 0.5


def test_a_scale_keeps_what_was_fed_since() -> None:
    """The backend tells how far to go, not what the depths were when it looked."""
    graph = two_keyframes()
    before = graph.keyframe(1)
    fed = InverseDepth(torch.tensor([1.0, 1.1, 0.9, 1.0]), torch.full((4,), 5.0))
    points = FusedPointmap(torch.full((8, 8, 3), 1.01), torch.full((8, 8), 2.0), 2)
    assert graph.fused(1, before.depth, fed, points)[1] == 1.0
    graph.adopt({}, {}, scales={1: 2.0}, newest=1)
    torch.testing.assert_close(graph.keyframe(1).depth.value, fed.value / 2)
    torch.testing.assert_close(points_of(graph, 1), torch.full((8, 8, 3), 2.02))


def test_points_are_not_replaced_by_ones_in_a_scale_that_is_past() -> None:
    graph = two_keyframes()
    before = graph.keyframe(1)
    graph.adopt({}, {}, scales={1: 2.0}, newest=1)
    late = FusedPointmap(torch.full((8, 8, 3), 1.01), torch.full((8, 8), 2.0), 2)
    _, scale = graph.fused(1, before.depth, before.depth, late)
    assert scale == 2.0 and (points_of(graph, 1) == 2).all()


def test_points_follow_the_scale_of_adjusted_depths_and_of_earlier_keyframes() -> None:
    graph = two_keyframes()
    graph.adopt({0: IDENTITY}, {0: keyframe(0, depth=0.25).depth}, newest=0)
    for number in (0, 1):  # the second came after what the adjustment knew
        assert (points_of(graph, number) == 4).all()


def test_grid_depths_are_those_of_the_points_and_know_how_vague_they_are() -> None:
    grid = Grid(80, 60, 4)
    X_C = CAMERA.unproject(pixel_grid(60, 80).float()) * (1 + torch.arange(80) / 40)[:, None]
    confidence = torch.full((60, 80), 8.0)
    confidence[:, :20] = 0
    X_C[:10] *= -1
    depth = grid_depth(grid, FusedPointmap(X_C, confidence, 2), sigma=0.1)
    known = depth.information > 0
    u, v = grid.pixel.unbind(-1)
    assert torch.equal(known, (u >= 20) & (v >= 10))
    torch.testing.assert_close(depth.value[known], 1 / (1 + u[known] / 40))
    relative = 1 / (depth.value * depth.information.sqrt())
    torch.testing.assert_close(relative[known], torch.full_like(u[known], 0.05))
    assert (depth.value[~known] == 1 / (1 / depth.value[known]).median()).all()


def test_points_that_are_not_known_are_none() -> None:
    fused = FusedPointmap(torch.ones(2, 2, 3), torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 1)
    assert known_points(fused)[..., 0].tolist() == [[1.0, 0.0], [0.0, 1.0]]


def adjusted(prior: list[InverseDepth] | None, held: list[bool] = NONE) -> Tensor:
    """Inverse depths after an adjustment without measurements of the first keyframe's pixels."""
    edges = {e: c for e, c in measurements().items() if e[0] != 0}
    state = start()
    settings = (FIRST, held, SETTINGS, MAPPING)
    result = bundle_adjust(GRID, state, edges, *settings, iterations=5, prior=prior)
    return torch.stack([d.value for d in result.depth])


def priors(information: float) -> list[InverseDepth]:
    return [InverseDepth(value, torch.full_like(value, information)) for value in depths()]


def test_a_prior_gives_depths_that_nothing_measures() -> None:
    assert len(EDGES) == 12
    true, without, with_one = depths()[0], adjusted(None)[0], adjusted(priors(1e6))[0]
    assert (with_one / true - 1).abs().median() < 1e-3 < (without / true - 1).abs().median()


def test_a_prior_of_no_information_changes_nothing_nor_does_one_on_depths_that_stay() -> None:
    assert torch.equal(adjusted(priors(0.0)), adjusted(None))
    held = [True, False, False, False]
    assert torch.equal(adjusted(priors(1e6), held)[0], start().depth[0].value)


def pointmap(focal_factor: float, noise: float = 0.0, seed: int = 0) -> FusedPointmap:
    """Of a camera whose focal lengths are `focal_factor` times CAMERA's."""
    fx, fy, cx, cy = CAMERA.intrinsics
    camera = Camera("pinhole", 80, 60, (focal_factor * fx, focal_factor * fy, cx, cy))
    generator = torch.Generator().manual_seed(seed)
    X_C = camera.unproject(pixel_grid(60, 80).float())
    X_C = X_C * (1 + torch.rand(60, 80, 1, generator=generator))
    X_C = X_C + noise * torch.randn(60, 80, 3, generator=generator)
    return FusedPointmap(X_C, torch.ones(60, 80), 1)


def test_the_focal_length_is_found_from_any_guess_and_keeps_the_shape_of_pixels() -> None:
    fx, fy, cx, cy = CAMERA.intrinsics
    for guess in (0.5, 1.0, 2.0):
        found = SelfCalibration((guess * fx, guess * fy, cx, cy), PointmapSettings())
        for number in range(4):
            found.observe(number, pointmap(1.0, noise=0.01, seed=number))
        assert found.intrinsics == pytest.approx((fx, fy, cx, cy), rel=2e-3)
        assert found.is_stable and found.sigma < 0.01


def test_it_is_not_stable_with_too_few_or_such_as_disagree() -> None:
    settings = PointmapSettings(focal_keyframes=3)
    found = SelfCalibration(CAMERA.intrinsics, settings)
    assert not found.is_stable and found.intrinsics == CAMERA.intrinsics
    assert found.sigma == math.inf
    for number in range(3):
        assert not found.is_stable
        found.observe(number, pointmap(1.0, noise=0.01, seed=number))
    assert found.is_stable
    found.observe(2, pointmap(1.3, noise=0.01))
    assert not found.is_stable and 0.05 < found.sigma < 0.3


def test_a_keyframe_that_says_more_replaces_what_it_said() -> None:
    found = SelfCalibration(CAMERA.intrinsics, PointmapSettings())
    found.observe(0, pointmap(2.0, noise=0.01))
    found.observe(0, pointmap(1.0, noise=0.01))
    assert found.fused.focal == pytest.approx(CAMERA.intrinsics[0], rel=5e-3)


def test_points_behind_or_without_confidence_tell_no_focal_length() -> None:
    found = SelfCalibration(CAMERA.intrinsics, PointmapSettings())
    behind = pointmap(1.0)
    found.observe(0, replace(behind, X_C=-behind.X_C))
    found.observe(1, replace(behind, confidence=torch.zeros(60, 80)))
    assert found.fused.variance == math.inf
