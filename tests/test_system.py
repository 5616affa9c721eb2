"""The whole system on a short cut of the sample: threads, errors, starts, keyframes, ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from sequences import cut_sample
from torch import Tensor

from slam.backend import Backend
from slam.camera import Camera
from slam.config import Config
from slam.frame import Image, Keyframe, Step, TrackState
from slam.frontend import Frontend
from slam.graph import Graph
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
    def broken(backend: Backend, keyframes: list[Keyframe], first: int) -> None:
        raise ArithmeticError(f"keyframe {first} is cursed")

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
    def broken(backend: Backend, keyframes: list[Keyframe], first: int) -> None:
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


def test_in_real_time_a_start_is_judged_though_the_backend_is_never_idle(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, add = Backend.step, Graph.add_keyframe
    announced, made = threading.Condition(), [0]

    def announce(count: int) -> None:
        with announced:
            made[0] = count
            announced.notify_all()

    def adding(graph: Graph, keyframe: Keyframe, submap: int = 0) -> int:
        number = add(graph, keyframe, submap)
        announce(number + 1)
        return number

    def behind(backend: Backend, keyframes: list[Keyframe], first: int) -> None:
        """Comes to an end only when there is another keyframe to do."""
        act(backend, keyframes, first)
        with announced:
            announced.wait_for(lambda: made[0] != len(keyframes), timeout=5)

    monkeypatch.setattr(Graph, "add_keyframe", adding)
    monkeypatch.setattr(Backend, "step", behind)
    config = small(flow=0.04, trial_flow=0.04)
    live = replace(config, run=replace(config.run, realtime=True))
    with closing(started(sequence, live)) as slam:
        steps = []
        for image in sequence.images:
            steps.append(slam.feed(image))
            time.sleep(0.03)  # the camera's pace
        announce(0)  # nothing is left to wait for
        assert len(slam.graph) > config.start.trial_keyframes + 2
    assert sum(step.T_WC is not None for step in steps) > 3


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
    def broken(backend: Backend, keyframes: list[Keyframe], first: int) -> None:
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


@pytest.mark.parametrize("slow", ["backend", "frontend"])
def test_offline_results_do_not_depend_on_which_thread_is_fast(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """To the bit: with a start thrown away, keyframes among its frames, and a rolling shutter."""
    config = small(flow=0.05)
    config = replace(
        config,
        start=replace(config.start, trial_cost=0.0, trials=2),
        shutter=replace(config.shutter, readout=0.02),
    )
    assert config.run.ahead > 1
    usual = results_of(sequence, config)
    assert usual.early_keyframes > 0
    owner, name = (Backend, "step") if slow == "backend" else (Frontend, "_track")
    act = getattr(owner, name)

    def late(*arguments: object, **named: object) -> object:
        time.sleep(0.15 if slow == "backend" else 0.03)
        return act(*arguments, **named)

    monkeypatch.setattr(owner, name, late)
    assert differences(usual, results_of(sequence, config)) == []


@dataclass(frozen=True, slots=True)
class Results:
    """What came out of a run."""

    poses: dict[str, Tensor]  # [7], as published at once and in the end, by what they are
    depths: list[Tensor]  # [2, P] of each keyframe
    early_keyframes: int  # made after the last image


def results_of(sequence: Sequence, config: Config) -> Results:
    with closing(started(sequence, config)) as slam:
        steps = [slam.feed(image) for image in sequence.images]
        count = len(slam.graph)
        slam.finish()
        graph = slam.graph
        poses = {f"published {s.record.index}": s.T_WC for s in steps if s.T_WC is not None}
        poses |= {f"final {r.index}": graph.T_WC(r) for r in graph.records()}
        depths = [torch.stack([k.depth.value, k.depth.information]) for k in graph.keyframes()]
        return Results(poses, depths, len(graph) - count)


def differences(first: Results, second: Results) -> list[str]:
    """What is not the same to the bit."""
    assert first.poses.keys() == second.poses.keys() and len(first.depths) == len(second.depths)
    moved = [
        name for name, pose in first.poses.items() if not torch.equal(pose, second.poses[name])
    ]
    both = enumerate(zip(first.depths, second.depths, strict=True))
    return moved + [f"depth {n}" for n, (a, b) in both if not torch.equal(a, b)]


def test_the_frontend_is_at_most_so_many_frames_ahead(
    sequence: Sequence, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, began, ended, behind = Backend.step, [0], [0], [0]

    def late(backend: Backend, keyframes: list[Keyframe], first: int) -> None:
        began[0] = fed[0]
        time.sleep(0.3)
        act(backend, keyframes, first)
        behind.append(fed[0] - began[0])
        ended[0] += 1

    monkeypatch.setattr(Backend, "step", late)
    config, fed = small(), [0]
    with closing(started(sequence, config)) as slam:
        for image in sequence.images:
            slam.feed(image)
            fed[0] += 1
    assert ended[0] > 3
    assert 1 < max(behind) <= config.run.ahead + 1  # the keyframe's own image counts when it ends


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
