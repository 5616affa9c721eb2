"""A camera that drives: far between frames, straight ahead, in wide images with little height."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from stress import along
from torch import Tensor

from slam.config import Config, FlowSettings
from slam.frame import Features, Frame, InverseDepth, Keyframe, PairGuess, PairPrediction
from slam.initialization import candidate_maps, two_view_map
from slam.lie import se3_from_matrix, se3_mul
from slam.mapping import dense_flow, extrapolated, project_grid, relative
from slam.predictors import FlowPredictor, Grid
from slam.predictors.flow import Effort
from slam.predictors.grid import working_size
from slam.recovery import induced_flow
from slam.rendering import Scene, SceneBuilder, develop, render, render_depth, standing
from slam.rendering import texture as paint
from slam.startup import FirstMap, Startup
from slam.timing import Timings

WIDTH, HEIGHT = 416, 128  # px
INTRINSICS = (240.0, 240.0, 207.5, 63.5)
TIMES = np.array([1.0, 1.1, 1.2])  # s, at 12 m/s
GRID = Grid(WIDTH, HEIGHT, 4)


@dataclass(frozen=True, slots=True)
class Drive:
    """Three frames of a drive, 1.2 m apart, and their exact geometry."""

    rgb: list[np.ndarray]  # each [H, W, 3] uint8
    T_WC: Tensor  # [3, 7]
    depth: list[InverseDepth]  # of the grid's pixels

    def target(self, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Where i's grid pixels really land in j [P, 2] px, and which are there."""
        T_ji = relative(self.T_WC[i], self.T_WC[j])
        return project_grid(GRID, self.depth[i], T_ji, INTRINSICS)

    def induced(self, i: int, j: int) -> PairGuess:
        """The real flow, as coarse as the map knows it."""
        ends = self.target(i, j)[0], self.target(j, i)[0]
        return PairGuess(*(dense_flow(GRID, end) for end in ends))


def lane() -> Scene:
    """A road and some houses beside it."""
    build, rng = SceneBuilder(), np.random.default_rng(3)
    road = build.paint(
        partial(
            *(paint.mottled, rng, (10.0, 10.0), (0.4, 0.4, 0.42)),
            contrast=0.12,
            finest=0.05,
            texel=0.03,
        )
    )
    front = build.paint(
        partial(paint.mottled, rng, (6.0, 6.0), (0.5, 0.5, 0.4), contrast=0.3, texel=0.02)
    )
    build.box(standing(0, 20, -0.5), (30, 60, 1.0), [road])
    for k in range(5):
        for side in (-1, 1):
            where = standing(side * rng.uniform(7, 10), 5 * k + 14, 3)
            build.box(where, (3, 4, 6), [front])
    return build.scene([], 1.0)


@pytest.fixture(scope="module")
def drive() -> Drive:
    scene, T_WC = lane(), along(12.0, 1.65, 1.5, 25.0)(TIMES)
    rgb, depth = [], []
    for index, T in enumerate(T_WC):
        light = render(scene, INTRINSICS, WIDTH, HEIGHT, T).rgb
        rgb.append(develop(light, 0.9, 2.0, seed=index, lens_blur=0.5))
        z = GRID.sample(render_depth(scene.surfaces, INTRINSICS, WIDTH, HEIGHT, T))
        hit = z > 0
        depth.append(InverseDepth(torch.where(hit, 1 / z.clamp(min=0.1), 0.0), hit.float()))
    return Drive(rgb, se3_from_matrix(T_WC), depth)


@pytest.fixture
def predictor() -> Iterator[FlowPredictor]:
    with closing(FlowPredictor(WIDTH, HEIGHT, FlowSettings())) as predictor:
        yield predictor


def features(predictor: FlowPredictor, drive: Drive) -> list[Features]:
    return [predictor.features(image) for image in drive.rgb]


def right_share(drive: Drive, i: int, j: int, pair: PairPrediction) -> float:
    """Share of what both images show that is matched to a pixel."""
    target, seen = drive.target(i, j)
    error = torch.linalg.vector_norm(pair.forward.target - target, dim=-1)
    right = (pair.forward.weight > 0) & (error < 1)
    return float(right[seen].float().mean())


def test_what_little_is_matched_of_is_measured_finer(drive: Drive) -> None:
    shares = []
    for sparse in (FlowSettings().sparse, 0.0):
        settings = replace(FlowSettings(), sparse=sparse)
        with closing(FlowPredictor(WIDTH, HEIGHT, settings)) as predictor:
            first, _, third = features(predictor, drive)
            pair = predictor.pair(first, third, drive.induced(0, 2))
        shares.append(right_share(drive, 0, 2, pair))
    assert shares[0] > 1.7 * shares[1]


def test_the_expected_motion_leads_where_the_flow_before_does_not(
    drive: Drive, predictor: FlowPredictor
) -> None:
    seen = features(predictor, drive)
    warm = predictor.pair(seen[0], seen[2], drive.induced(0, 1))
    T_guess = se3_mul(*2 * [relative(drive.T_WC[0], drive.T_WC[1])])
    keyframe = Keyframe(Frame(0, 0.0, 0.0, seen[0]), drive.T_WC[0], drive.depth[0])
    start = induced_flow(GRID, keyframe, T_guess, INTRINSICS, Config())
    expected = predictor.pair(seen[0], seen[2], start, fine=True)
    shares = [right_share(drive, 0, 2, pair) for pair in (warm, expected)]
    assert shares[0] < 0.3
    assert shares[1] > 0.6


def test_what_is_matched_well_is_measured_once(
    drive: Drive, predictor: FlowPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    efforts: list[Effort] = []
    measure = FlowPredictor._measure

    def counted(
        self: FlowPredictor,
        keyframe: Features,
        frame: Features,
        guess: PairGuess,
        effort: Effort,
        one_thread: bool,
    ) -> PairPrediction:
        efforts.append(effort)
        return measure(self, keyframe, frame, guess, effort, one_thread)

    monkeypatch.setattr(FlowPredictor, "_measure", counted)
    first, second, _ = features(predictor, drive)
    predictor.pair(first, first, PairGuess())
    assert efforts == [Effort.TRACKING]
    predictor.pair(first, second, PairGuess())
    assert efforts[1:] == [Effort.TRACKING, Effort.KEYFRAME]
    predictor.pair(first, second, PairGuess(), fine=True)
    assert efforts[3:] == [Effort.KEYFRAME]


@pytest.mark.parametrize("fine", [False, True])
def test_threads_change_the_time_and_nothing_else(
    drive: Drive, predictor: FlowPredictor, fine: bool
) -> None:
    first, second, _ = features(predictor, drive)
    pairs = [
        predictor.pair(first, second, drive.induced(0, 1), fine=fine, one_thread=one_thread)
        for one_thread in (False, True)
    ]
    assert torch.equal(pairs[0].forward.target, pairs[1].forward.target)
    assert torch.equal(pairs[0].backward.weight, pairs[1].backward.weight)


def test_two_frames_of_a_drive_start_a_map(drive: Drive, predictor: FlowPredictor) -> None:
    first, second, _ = features(predictor, drive)
    pair = predictor.pair(first, second, drive.induced(0, 1), fine=True)
    maps, settings = candidate_maps(GRID, pair, [], [INTRINSICS], Config()), Config().start
    found = two_view_map(GRID, pair, maps, settings, parallax=settings.parallax)
    assert found is not None
    true = relative(drive.T_WC[0], drive.T_WC[1])[:3]
    assert torch.nn.functional.cosine_similarity(found.T_ji[:3], true, dim=0) > np.cos(0.01)


def begun(drive: Drive, **start: float) -> FirstMap | None:
    """The map that a start makes of the last two frames."""
    config = Config()
    config = replace(config, start=replace(config.start, **start))
    with closing(FlowPredictor(WIDTH, HEIGHT, config.flow)) as predictor:
        startup = Startup(predictor, config, Timings(), (1.0,))
        _, *seen = features(predictor, drive)
        found = [startup.take(Frame(n, n / 10, n / 10, f), INTRINSICS) for n, f in enumerate(seen)]
    return found[-1]


def test_a_hurried_start_looks_again_where_its_first_map_points(drive: Drive) -> None:
    looked, once = begun(drive), begun(drive, looks=0)
    assert looked is not None
    assert once is not None
    assert looked.map.cost < 0.3 * once.map.cost
    shares = [right_share(drive, 1, 2, made.pair) for made in (looked, once)]
    assert shares[0] > 2 * shares[1]


def test_a_hurried_start_takes_the_parallax_it_gets(drive: Drive) -> None:
    assert begun(drive, hurried_parallax=Config().start.parallax) is None


def test_depths_are_extrapolated_along_planes() -> None:
    plane = 0.5 + 0.001 * GRID.pixel[:, 0] + 0.002 * GRID.pixel[:, 1]
    known = (GRID.pixel[:, 1] < 80) & (GRID.pixel[:, 0] > 100)
    value = torch.where(known, plane, 7.0)
    found = extrapolated(GRID, InverseDepth(value, known.float()), known)
    assert torch.equal(found.value[known], plane[known])
    error = (found.value / plane - 1).abs()
    assert error.max() < 0.05
    assert error.median() < 0.01


def test_without_a_known_depth_there_is_nothing_to_extrapolate() -> None:
    count = len(GRID.pixel)
    depth = InverseDepth(torch.zeros(count), torch.zeros(count))
    found = extrapolated(GRID, depth, torch.zeros(count, dtype=torch.bool))
    assert torch.equal(found.value, torch.ones(count))


@pytest.mark.parametrize(
    ("size", "working"),
    [
        ((640, 480), (400, 300)),
        ((752, 480), (400, 256)),
        ((480, 640), (300, 400)),
        ((1241, 376), (660, 200)),
        ((622, 186), (622, 186)),
    ],
)
def test_wide_images_keep_enough_height(size: tuple[int, int], working: tuple[int, int]) -> None:
    assert working_size(*size, 400) == working
