"""The whole system on a short cut of the sample: threads, errors, starts, keyframes, ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from sequences import cut_sample

from slam.backend import Backend
from slam.camera import Camera
from slam.config import Config
from slam.frame import Image, Step, TrackState
from slam.mapping import covisibility, relative
from slam.sources import open_source
from slam.system import Slam

FIRST = 3  # images that show the same view, before the camera moves


@dataclass(frozen=True, slots=True)
class Sequence:
    """Decoded images of a short sequence."""

    camera: Camera
    images: list[Image]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run, and what it published on the way."""

    slam: Slam
    steps: list[Step]


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Sequence:
    frames = [40] * FIRST + list(range(40, 104, 2))
    source = open_source(cut_sample(tmp_path_factory.mktemp("sequence") / "cut", frames))
    return Sequence(source.camera, list(source.images()))


def small(**keyframes: float) -> Config:
    """Small images, so that a run takes a second."""
    config = Config()
    flow = replace(config.flow, long_side=160)
    return replace(config, flow=flow, keyframes=replace(config.keyframes, **keyframes))


def started(sequence: Sequence, config: Config | None = None) -> Slam:
    return Slam(sequence.camera, config or small())


@pytest.fixture(scope="module")
def finished(sequence: Sequence) -> Iterator[Finished]:
    with closing(started(sequence)) as slam:
        steps = [slam.feed(image) for image in sequence.images]
        slam.finish()
        yield Finished(slam, steps)


def test_frames_before_the_start_get_poses_afterwards(finished: Finished) -> None:
    pending = [s.record.index for s in finished.steps if s.record.state is TrackState.PENDING]
    assert pending[: FIRST + 1] == list(range(FIRST + 1))  # no parallax until then
    assert all(s.T_WC is None for s in finished.steps if s.record.index in pending)
    for record in finished.slam.graph.records():
        assert record.state is TrackState.TRACKED and record.keyframe >= 0
        assert finished.slam.graph.T_WC(record).isfinite().all()


def test_images_of_one_view_get_one_pose(finished: Finished) -> None:
    graph = finished.slam.graph
    centres = torch.stack([graph.T_WC(record)[:3] for record in graph.records()])
    way = float(torch.linalg.vector_norm(centres[-1] - centres[0]))
    assert way > 0
    assert float((centres[: FIRST + 1] - centres[0]).abs().max()) < 0.01 * way


def test_every_image_has_one_record_in_order(finished: Finished, sequence: Sequence) -> None:
    records = finished.slam.graph.records()
    assert [r.index for r in records] == [i.index for i in sequence.images]
    assert [r.seconds for r in records] == [i.seconds for i in sequence.images]


def test_keyframes_are_made_where_the_view_has_moved_on(finished: Finished) -> None:
    slam = finished.slam
    first_of = {k.frame.index for k in slam.graph.keyframes()}
    numbers = [s.record.keyframe for s in finished.steps if s.record.index in first_of]
    assert numbers == [-1, *range(1, len(slam.graph))]  # the first was seen before the start
    keyframes, grid = slam.graph.keyframes(), slam.predictor.grid
    settings = slam.config.keyframes
    least, limit = settings.trial_flow * grid.width, settings.flow * grid.width
    for first, second in pairwise(keyframes[1:]):
        T_ji = relative(first.T_WC, second.T_WC)[None]
        _, flow = covisibility(grid, first.depth, T_ji, slam.graph.intrinsics)
        assert 0.8 * least < float(flow) < 2.5 * limit


def test_the_keyframes_flow_limit_sets_their_number(sequence: Sequence) -> None:
    counts = []
    for limit in (0.06, 0.2):
        with closing(started(sequence, small(flow=limit, match_fraction=0.0))) as slam:
            for image in sequence.images:
                slam.feed(image)
            counts.append(len(slam.graph))
    assert counts[0] > 1.5 * counts[1] >= 3


def test_frames_follow_their_keyframe(finished: Finished) -> None:
    """A frame that became a keyframe has the keyframe's own pose, whatever was adjusted since."""
    graph = finished.slam.graph
    place = {k.frame.index: n for n, k in enumerate(graph.keyframes())}
    own = [r for r in graph.records() if place.get(r.index) == r.keyframe]
    assert len(own) == len(graph)
    for record in own:
        pose = graph.keyframe(record.keyframe).T_WC
        assert float((graph.T_WC(record) - pose).abs().max()) < 1e-9


def test_an_error_in_the_backend_is_raised_where_images_are_fed(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(backend: Backend, keyframes: object, number: int) -> None:
        raise ArithmeticError(f"keyframe {number} is cursed")

    monkeypatch.setattr(Backend, "step", broken)
    with closing(started(sequence)) as slam:
        with pytest.raises(ArithmeticError, match="keyframe 1 is cursed"):
            for image in sequence.images:
                slam.feed(image)
        with pytest.raises(ArithmeticError, match="keyframe 1 is cursed"):
            slam.feed(sequence.images[-1])  # and again: nothing goes on as if all were well
        with pytest.raises(ArithmeticError, match="keyframe 1 is cursed"):
            slam.finish()


def test_in_real_time_the_error_comes_with_a_later_call(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(backend: Backend, keyframes: object, number: int) -> None:
        raise ArithmeticError("cursed")

    monkeypatch.setattr(Backend, "step", broken)
    config = small()
    live = replace(config, run=replace(config.run, realtime=True))
    with (
        closing(started(sequence, live)) as slam,
        pytest.raises(ArithmeticError, match="cursed"),
    ):
        for image in sequence.images:
            slam.feed(image)
        slam.finish()


def test_close_ends_every_thread(sequence: Sequence) -> None:
    before = set(threading.enumerate())
    slam = started(sequence)
    for image in sequence.images[:16]:
        slam.feed(image)
    assert set(threading.enumerate()) - before
    slam.close()
    assert not set(threading.enumerate()) - before


def test_close_ends_every_thread_after_an_error(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(backend: Backend, keyframes: object, number: int) -> None:
        raise ArithmeticError

    before = set(threading.enumerate())
    monkeypatch.setattr(Backend, "step", broken)
    slam = started(sequence)
    with pytest.raises(ArithmeticError):
        for image in sequence.images:
            slam.feed(image)
    slam.close()
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_images_for_a_map_finish_all_the_same(sequence: Sequence, count: int) -> None:
    with closing(started(sequence)) as slam:
        steps = [slam.feed(image) for image in sequence.images[:count]]
        slam.finish()
        assert len(slam.graph) == 0
        assert [r.state for r in slam.graph.records()] == [TrackState.PENDING] * count
        assert all(s.T_WC is None for s in steps)


def test_two_runs_are_equal_to_the_bit(finished: Finished, sequence: Sequence) -> None:
    with closing(started(sequence)) as slam:
        for image in sequence.images:
            slam.feed(image)
        slam.finish()
        for ours, theirs in zip(slam.graph.records(), finished.slam.graph.records(), strict=True):
            assert torch.equal(slam.graph.T_WC(ours), finished.slam.graph.T_WC(theirs))


def test_a_view_seen_again_is_posed_and_feeds_no_depths(sequence: Sequence) -> None:
    """The motion filter: one view, however often, is one observation."""
    moving = sequence.images[: FIRST + 20]
    last = moving[-1]
    with closing(started(sequence)) as slam:
        for image in moving:
            slam.feed(image)
        again = [replace(last, index=last.index + n, time=last.time + n) for n in range(1, 5)]
        slam.feed(again[0])
        before = slam.graph.keyframe(-1).depth
        steps = [slam.feed(image) for image in again[1:]]
        assert slam.graph.keyframe(-1).depth is before
        assert {step.record.state for step in steps} == {TrackState.TRACKED}
