"""Robustness: exposure, blur, darkness, quick turns, ... Each measure works, and is missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sequences import SAMPLE, cut_sample
from torch import Tensor

from slam.config import Config, FlowSettings
from slam.evaluation import evaluate
from slam.frame import Frame, Image, InverseDepth, Keyframe, PairGuess, PairPrediction, TrackState
from slam.frontend import Frontend
from slam.initialization import identity
from slam.places import Places
from slam.predictors import FlowPredictor
from slam.predictors.photometry import Exposure, equalise, fit_exposure
from slam.recovery import other_starts
from slam.relocalization import Relocaliser
from slam.sources import open_source
from slam.system import Slam
from slam.trajectory import Trajectory, read_trajectory

SIZE = (320, 240)
OFF = replace(FlowSettings(), exposure_tolerance=100.0)
IMAGE_NUMBERS = (0, 90, 200)


@dataclass(frozen=True, slots=True)
class View:
    """A picture, the same moved by a known warp, and that warp."""

    first: np.ndarray  # [h, w, 3] uint8
    second: np.ndarray  # [h, w, 3] uint8
    M: np.ndarray  # [2, 3] pixels of the first to pixels of the second


@pytest.fixture(scope="module", params=IMAGE_NUMBERS)
def view(request: pytest.FixtureRequest) -> View:
    files = sorted((SAMPLE / "rgb").iterdir())
    image = cv2.imread(str(files[request.param]))[..., ::-1]
    first = cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA)
    M = cv2.getRotationMatrix2D((160, 120), 1.5, 1.03)
    M[:, 2] += (9, 5)
    large = M.copy()
    large[:, 2] = 2 * M[:, 2] + M[:, :2].sum(1) * -0.5 + 0.5  # pixel centres at integers
    moved = cv2.warpAffine(image, large, (640, 480), flags=cv2.INTER_CUBIC)
    return View(first, cv2.resize(moved, SIZE, interpolation=cv2.INTER_AREA), M)


def exposed(image: np.ndarray, gain: float, bias: float = 0.0, noise: float = 1.0) -> np.ndarray:
    """The picture with another exposure, as a camera stores it."""
    grain = np.random.default_rng(1).normal(0, noise, image.shape)
    return np.clip(np.round(gain * image + bias + grain), 0, 255).astype(np.uint8)


@contextmanager
def flow(settings: FlowSettings) -> Iterator[FlowPredictor]:
    with closing(FlowPredictor(*SIZE, settings)) as predictor:
        yield predictor


def measure(first: np.ndarray, second: np.ndarray, settings: FlowSettings) -> PairPrediction:
    """Flow between two pictures."""
    images = [Image(0, 0.0, 0.0, torch.from_numpy(i.copy())) for i in (first, second)]
    with flow(settings) as predictor:
        return predictor.pair(*(predictor.encode(i) for i in images), PairGuess())


def errors(pair: PairPrediction, view: View) -> np.ndarray:
    """px, of the grid pixels that have a match."""
    with flow(OFF) as predictor:
        pixel = predictor.grid.pixel.numpy()
    true = pixel @ view.M[:, :2].T + view.M[:, 2]
    valid = (pair.forward.weight > 0).numpy()
    return np.linalg.norm(pair.forward.target.numpy() - true, axis=1)[valid]


def grey(image: np.ndarray) -> Tensor:
    return torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


# --- exposure ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gain", "bias"), [(0.3, 0.0), (0.6, 12.0), (0.8, 40.0)])
@pytest.mark.parametrize("dimmer", [0, 1])
def test_a_change_of_exposure_costs_no_matches(
    view: View, gain: float, bias: float, dimmer: int
) -> None:
    change = [(1.0, 0.0), (1.0, 0.0)]
    change[dimmer] = (gain, bias)
    first, second = exposed(view.first, *change[0]), exposed(view.second, *change[1])
    steady = measure(exposed(view.first, 1.0), exposed(view.second, 1.0), FlowSettings())
    taken_out = measure(first, second, FlowSettings())
    left_in = measure(first, second, OFF)
    assert taken_out.match_fraction > 0.94 * steady.match_fraction > left_in.match_fraction - 0.05
    typical = float(np.median(errors(steady, view)))
    assert np.median(errors(taken_out, view)) < 1.4 * typical
    assert np.median(errors(left_in, view)) > 1.2 * typical


@pytest.mark.parametrize(("gain", "bias"), [(0.3, 5.0), (0.7, 0.0), (1.4, -8.0)])
def test_the_exposure_is_measured_where_the_camera_moved(
    view: View, gain: float, bias: float
) -> None:
    first, second = grey(exposed(view.first, 1.0)), grey(exposed(view.second, gain, bias))
    for flow in (None, true_flow(view)):
        found = fit_exposure(first.numpy(), second.numpy(), flow)
        assert abs(found.gain / gain - 1) < 0.04
        assert abs(found.gain * found.level + found.bias - gain * found.level - bias) < 2.5


def test_images_of_one_exposure_stay_the_very_same(view: View) -> None:
    first, second = grey(exposed(view.first, 1.0)), grey(exposed(view.second, 1.01))
    assert fit_exposure(first.numpy(), second.numpy(), true_flow(view)).change < 0.03
    same = equalise(first, second, torch.from_numpy(true_flow(view)), 0.03)
    assert same[0] is first and same[1] is second and same[2] == 1


def test_what_clips_in_one_image_clips_in_the_other_afterwards(view: View) -> None:
    """The image of less contrast is raised: nothing is lost that was still there."""
    first, second = grey(exposed(view.first, 2.0)), grey(exposed(view.first, 1.0))
    assert (first == 255).float().mean() > 0.1
    bright, raised, _ = equalise(first, second, None, 0.03)
    assert bright is first
    clipped = (bright == 255) & (raised >= 245)
    assert clipped.sum() > 0.95 * (bright == 255).sum()


def test_no_exposure_is_read_from_images_that_have_nothing_in_common(view: View) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320), np.uint8)
    plain = np.full((240, 320), 90, np.uint8)
    here = grey(view.first).numpy()
    for other in (plain, np.zeros_like(plain), np.full_like(plain, 255)):
        assert fit_exposure(here, other, None) == Exposure()
        assert fit_exposure(other, here, None) == Exposure()
    assert fit_exposure(noise, np.ascontiguousarray(noise[::-1]), None) == Exposure()


def true_flow(view: View) -> np.ndarray:
    """[h, w, 2] float32 px."""
    pixel = np.dstack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])))
    return (pixel @ view.M[:, :2].T + view.M[:, 2] - pixel).astype(np.float32)


# --- blur ----------------------------------------------------------------------------------------


def smeared(image: np.ndarray, length: int) -> np.ndarray:
    """The picture as a camera sees it that turns sideways: blurred over `length` px."""
    kernel = np.full((1, length), 1 / length, np.float32)
    return cv2.filter2D(image, -1, kernel)


def whitened(pair: PairPrediction, view: View) -> float:
    """Median error of the matches in units of their own deviation."""
    weight = pair.forward.weight.numpy()
    return float(np.median(np.sqrt(weight[weight > 0]) * errors(pair, view)))


@pytest.mark.parametrize("blurred", [0, 1])
def test_matches_with_a_blurred_image_know_that_they_are_worse(view: View, blurred: int) -> None:
    images = [exposed(view.first, 1.0), exposed(view.second, 1.0)]
    sharp = measure(images[0], images[1], FlowSettings())
    images[blurred] = exposed(smeared((view.first, view.second)[blurred], 9), 1.0)
    pair = measure(images[0], images[1], FlowSettings())
    assert 0.9 < sharp.sharpness < 1.1
    share = pair.sharpness if blurred else 1 / pair.sharpness
    assert 0.15 < share < 0.4
    assert whitened(pair, view) < 1.5 * whitened(sharp, view)
    assert whitened(pair, view) / share**0.5 > 2 * whitened(sharp, view)  # what it was without


@pytest.mark.parametrize("gain", [0.5, 1.3])
def test_an_exposure_is_no_blur(view: View, gain: float) -> None:
    pair = measure(exposed(view.first, 1.0), exposed(view.second, gain), FlowSettings())
    assert 0.8 < pair.sharpness < 1.2


# --- quick turns and jumps -----------------------------------------------------------------------

CAMERA = (262.5, 262.5, 159.5, 119.5)


def test_flow_from_nothing_forgets_the_flow_before(view: View) -> None:
    with flow(FlowSettings()) as predictor:
        here, there = (predictor.features(i) for i in (view.first, view.second))
        before = predictor.pair(here, there, PairGuess())
        wrong = torch.full((SIZE[1], SIZE[0], 2), 40.0)
        predictor.pair(here, there, PairGuess(wrong, wrong))
        after = predictor.pair(here, there, PairGuess())
    assert torch.equal(before.forward.target, after.forward.target)
    assert torch.equal(before.backward.weight, after.backward.weight)


def leap(T_guess: Tensor) -> tuple[float, list[float]]:
    """Matched share of a wall after a leap sideways of 2/5 of the view.

    Returns that of flow from nothing, and those from each of the other starts.
    """
    config = Config()
    image = cv2.imread(str(sorted((SAMPLE / "rgb").iterdir())[200]))[..., ::-1]
    wide = cv2.resize(image, (480, 360), interpolation=cv2.INTER_AREA)
    views = [wide[60:300, left : left + SIZE[0]] for left in (0, LEAP)]
    with flow(config.flow) as predictor:
        frames = [
            Frame(n, n / 30, n / 30, predictor.features(np.ascontiguousarray(v)))
            for n, v in enumerate(views)
        ]
        count = len(predictor.grid.pixel)
        depth = InverseDepth(torch.ones(count), torch.full((count,), 1e3))
        starts = other_starts(
            *(predictor.grid, Keyframe(frames[0], identity(), depth), frames[1], T_guess, CAMERA),
            *(Relocaliser(predictor, config, Places(config)), config),
        )
        features = [f.features for f in frames]
        nothing = predictor.pair(*features, PairGuess())
        return nothing.match_fraction, [predictor.pair(*features, s).match_fraction for s in starts]


LEAP = 128  # px


@pytest.mark.parametrize("known", [True, False])
def test_after_a_leap_flow_starts_from_the_motion_or_from_features(known: bool) -> None:
    T_guess = identity()
    if known:
        T_guess[0] = -LEAP / CAMERA[0]
    nothing, (moved, again, features) = leap(T_guess)
    assert again == nothing < 0.1  # of the 0.6 that both views show
    assert features > 0.5
    assert (moved > 0.5) == known


# --- whole runs ----------------------------------------------------------------------------------


def run(
    folder: Path,
    frames: Sequence[int],
    *,
    change: Callable[[int, np.ndarray], np.ndarray] | None = None,
    relocalization: dict[str, int] | None = None,
    start: Mapping[str, float] | None = None,
    **keyframes: float,
) -> Slam:
    """A run, small, over frames of the sample. Closed, but its graph is as it was."""
    source = open_source(cut_sample(folder / "cut", frames, change=change))
    config = Config()
    config = replace(
        config,
        flow=replace(config.flow, long_side=160),
        keyframes=replace(config.keyframes, **keyframes),
        relocalization=replace(config.relocalization, **(relocalization or {})),
        start=replace(config.start, **(start or {})),
        bundle_adjustment=replace(config.bundle_adjustment, global_rounds=1),
    )
    with closing(Slam(source.camera, config)) as slam:
        for image in source.images():
            slam.feed(image)
        slam.finish()
    return slam


def states(slam: Slam) -> list[TrackState]:
    return [record.state for record in slam.graph.records()]


def test_a_blurred_frame_waits_for_a_sharper_keyframe(tmp_path: Path) -> None:
    blurred = {n for n in range(16, 60) if n % 6 < 4}

    def change(place: int, image: np.ndarray) -> np.ndarray:
        return smeared(image, 25) if place in blurred else image

    for least, waits in ((0.5, True), (0.0, False)):
        slam = run(tmp_path / str(waits), range(40, 88), change=change, sharpness=least)
        made = {k.frame.index for k in slam.graph.keyframes()}
        assert blurred.isdisjoint(made) == waits
        assert states(slam) == [TrackState.TRACKED] * 48


@pytest.mark.slow
def test_the_last_frame_becomes_a_keyframe_before_all_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"flow": 10.0, "match_fraction": 0.0, "trial_flow": 0.06}
    frames = range(30, 222, 6)
    kept = run(tmp_path / "kept", frames, **few)
    monkeypatch.setattr(Frontend, "_last_becomes_keyframe", lambda _: False)
    left = run(tmp_path / "left", frames, **few)
    assert states(kept) == [TrackState.TRACKED] * len(frames)
    assert TrackState.LOST in states(left)


def test_a_lost_frame_is_tried_again_at_the_end(tmp_path: Path) -> None:
    place = 16
    frames = [*range(30, 62, 2), 120, *range(62, 122, 2)]  # a glance ahead
    for retried in (60, 0):
        slam = run(tmp_path / str(retried), frames, relocalization={"retried": retried})
        found = states(slam)
        assert (found.pop(place) is TrackState.LOST) == (retried == 0)
        assert set(found) == {TrackState.TRACKED}
        same_view = slam.graph.T_WC(slam.graph.record(len(frames) - 1))
        there = slam.graph.T_WC(slam.graph.record(place))
        away = slam.graph.T_WC(slam.graph.record(place - 1))
        apart, way = (float((T - same_view)[:3].norm()) for T in (there, away))
        assert (apart < 0.02 * way) == bool(retried)


# --- bad starts ----------------------------------------------------------------------------------


def waving(size: float, last: int) -> Callable[[int, np.ndarray], np.ndarray]:
    """Waves of `size` px go through the images before the `last`: no rigid world looks like it."""

    def change(place: int, image: np.ndarray) -> np.ndarray:
        v, u = np.indices(image.shape[:2]).astype(np.float32)
        u_there = u + size * np.sin(v / 40 + 0.9 * place)
        v_there = v + size * np.cos(u / 40 + 1.17 * place)
        moved = cv2.remap(image, u_there, v_there, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return moved if place < last else image

    return change


def error_after(slam: Slam, folder: Path, first: int) -> float:
    """ATE, m, of the frames from the first on."""
    records = [r for r in slam.graph.records() if r.index >= first]
    poses = torch.stack([slam.graph.T_WC(r) for r in records])
    estimate = Trajectory(np.array([r.time for r in records]), poses.numpy())
    found = evaluate(estimate, read_trajectory(folder / "cut" / "groundtruth.txt")).ate_sim3
    assert found is not None
    return found.rmse


@pytest.mark.slow
def test_a_start_that_leads_nowhere_is_made_again(tmp_path: Path) -> None:
    good = 14
    slam = run(tmp_path, range(40, 90), change=waving(6, good))
    assert slam.graph.keyframe(0).frame.index >= good
    assert set(states(slam)[good:]) == {TrackState.TRACKED}
    assert error_after(slam, tmp_path, good) < 0.01
    once, frames = {"trials": 1}, range(40, 58)
    kept = run(tmp_path / "kept", frames, change=waving(6, good), start=once)
    assert set(states(kept)[good:]) == {TrackState.LOST}


@pytest.mark.slow
def test_a_start_that_explains_too_little_is_made_again(tmp_path: Path) -> None:
    first = []
    for trials in (3, 1):
        start = {"trials": trials, "trial_cost": 5.0}
        slam = run(tmp_path / str(trials), range(40, 80), change=waving(3, 20), start=start)
        first.append(slam.graph.keyframe(0).frame.index)
    assert first[1] == 0 < first[0]


def test_a_discarded_start_is_better_than_none(tmp_path: Path) -> None:
    slam = run(tmp_path, range(40, 64), start={"trial_cost": 0.01})
    assert TrackState.PENDING not in states(slam)
    assert states(slam).count(TrackState.TRACKED) == 24
