"""The system on pointmaps: rays, pixels, dense adjustment, self-calibration, loss, threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from pointmap_runs import (
    FRAMES,
    NOISE,
    WORLD,
    Finished,
    configured,
    image,
    path_error,
    run,
    started,
)
from simulated_room import CAMERA

from slam.frame import TrackState
from slam.pointmap_backend import PointmapBackend, pointmap_of
from slam.pointmap_frontend import PointmapFrontend

pytestmark = pytest.mark.usefixtures("one_thread")
FOCAL = CAMERA.intrinsics[0]
WRONG = 0.8  # times the focal length, that an uncalibrated run starts from
NEVER = 1e-6  # relative sigma of a focal length that is never reached: rays to the end


@cache
def on(what: str, level: float) -> Finished:
    """A run on `rays`, `pixels` or with `dense` adjustment, with a part of the usual noise."""
    noise = {name: level * size for name, size in NOISE.items()}
    if what == "rays":
        return run(configured(noise, focal_sigma=NEVER), focal_factor=WRONG)
    return run(configured(noise, dense=what == "dense"))


@pytest.mark.parametrize("what", ["rays", "pixels", "dense"])
def test_the_path_is_right_without_noise_and_grows_with_it(what: str) -> None:
    levels = (0.0, 1.0) if what == "pixels" else (0.0, 0.3, 1.0)
    errors = [on(what, level).path_error for level in levels]
    assert errors[0] < 2e-4  # of 96 x 72 px; see the command's test for 1e-4
    assert errors[-1] < 3e-3
    for less, more in pairwise(errors):
        assert 1.2 * less < more
    for level in levels:
        assert {s.record.state for s in on(what, level).steps} == {TrackState.TRACKED}


def test_dense_adjustment_halves_the_error_on_rays_and_beats_pixels() -> None:
    rays, pixels, dense = (on(what, 1.0).path_error for what in ("rays", "pixels", "dense"))
    assert dense < 0.5 * rays
    assert dense < 0.5 * pixels


def test_poses_are_published_at_once_and_nearly_as_right() -> None:
    for what in ("rays", "pixels", "dense"):
        finished = on(what, 1.0)
        assert all(step.T_WC is not None for step in finished.steps)
        assert finished.causal_error < 5e-3


def test_keyframes_keep_one_scale_though_every_pair_has_its_own() -> None:
    graph = on("rays", 1.0).slam.graph
    ratios = []
    for keyframe in graph.keyframes():
        true = WORLD.read(keyframe.frame.index).depth
        ratios.append(float((pointmap_of(keyframe).X_C[..., 2] / true).median()))
    spread = max(ratios) / min(ratios)
    assert len(ratios) > 3 and spread < 1.04  # the pairs' scales spread over 10 %
    for keyframe in graph.keyframes():  # depth and points of a keyframe go together
        z = graph_grid(on("rays", 1.0)).sample(pointmap_of(keyframe).X_C[..., 2])
        torch.testing.assert_close(1 / keyframe.depth.value, z, rtol=2e-3, atol=0)


def graph_grid(finished: Finished) -> Any:
    return finished.slam.predictor.grid


def test_uncalibrated_it_finds_the_focal_length_and_goes_over_to_pixels() -> None:
    found = run(configured(NOISE), focal_factor=WRONG)
    graph = found.slam.graph
    assert graph.pinhole
    assert graph.intrinsics[0] == pytest.approx(FOCAL, rel=2e-3)
    assert graph.intrinsics[1] / graph.intrinsics[0] == pytest.approx(
        CAMERA.intrinsics[1] / FOCAL, rel=1e-9
    )
    assert found.slam.backend.focal_sigma < 0.01
    assert found.path_error < 0.7 * on("rays", 1.0).path_error


def test_keyframes_that_disagree_on_the_focal_length_keep_it_on_rays() -> None:
    unsure = run(configured({"focal": 0.06, "noise": 0.01}), focal_factor=WRONG)
    assert not unsure.slam.graph.pinhole
    assert unsure.slam.backend.focal_sigma > 0.01
    assert {s.record.state for s in unsure.steps} == {TrackState.TRACKED}


def test_what_it_cannot_see_is_lost_and_the_rest_is_found_again() -> None:
    """Frames without depth, then a view of another side of the room, then the first once more."""
    away = [*range(0, 30, 5), 150, 155, *range(30, 60, 5)]
    finished = run(configured(), away, blind=[10, 15])
    states = {s.record.index: s.record.state for s in finished.steps}
    assert [n for n, state in states.items() if state is TrackState.LOST] == [10, 15, 150, 155]
    posed = [s for s in finished.steps if s.record.index not in (10, 15, 150, 155)]
    graph = finished.slam.graph
    assert finished.path_error > 0.01  # lost ones are somewhere between the others
    kept = [graph.T_WC(graph.record(s.record.index)) for s in posed]
    assert path_error(kept, [s.record.index for s in posed]) < 3e-4


def test_a_blind_start_waits_for_the_first_frame_that_tells_something() -> None:
    finished = run(configured(), FRAMES[:8], blind=FRAMES[:2])
    states = [s.record.state for s in finished.steps]
    assert states[:2] == [TrackState.PENDING] * 2 and set(states[2:]) == {TrackState.TRACKED}
    assert finished.slam.graph.keyframe(0).frame.index == FRAMES[2]
    final = [r.state for r in finished.slam.graph.records()]
    assert final[:2] == [TrackState.WEAK] * 2


def test_a_still_camera_feeds_nothing_and_stays_where_it_is() -> None:
    with started(configured(NOISE)) as slam:
        for index in FRAMES[:3]:
            slam.feed(image(index))
        before = pointmap_of(slam.graph.keyframe(-1))
        first = slam.feed(image(FRAMES[2]))
        assert pointmap_of(slam.graph.keyframe(-1)) is before
        assert first.record.state is TrackState.TRACKED
        slam.finish()


def test_offline_results_do_not_depend_on_which_thread_is_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured(NOISE)
    usual = outcome(run(config, FRAMES[:10], focal_factor=WRONG))
    for owner, name, delay in (
        (PointmapBackend, "step", 0.1),
        (PointmapFrontend, "_attempt", 0.02),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, delayed(getattr(owner, name), delay))
            again = outcome(run(config, FRAMES[:10], focal_factor=WRONG))
        assert len(usual) == len(again)
        assert all(torch.equal(a, b) for a, b in zip(usual, again, strict=True))


def delayed(act: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def late(*arguments: Any) -> Any:
        time.sleep(seconds)
        return act(*arguments)

    return late


def outcome(finished: Finished) -> list[torch.Tensor]:
    """All poses, at once and in the end, depths and points."""
    graph = finished.slam.graph
    found = [s.T_WC for s in finished.steps if s.T_WC is not None]
    found += [graph.T_WC(r) for r in graph.records()]
    for keyframe in graph.keyframes():
        found += [keyframe.depth.value, keyframe.depth.information, pointmap_of(keyframe).X_C]
    return found


def test_edges_keep_a_few_bytes_for_each_match() -> None:
    backend = on("dense", 1.0).slam.backend
    assert isinstance(backend, PointmapBackend)
    factors = backend._factors.values()
    assert len(factors) > 4
    for factor in factors:
        assert 24 < len(factor.source) <= 3000
        assert factor.memory == 14 * len(factor.source)


def test_two_views_that_share_nothing_get_no_edge_unless_next_in_time() -> None:
    keyframes = on("dense", 0.0).slam.graph.keyframes()
    anywhere = torch.zeros(len(keyframes[0].depth.value), 2)
    with started(configured()) as slam:
        backend = slam.backend
        assert isinstance(backend, PointmapBackend)
        for near in (True, False):
            ends = (0, len(keyframes) - 1)
            found = backend.edges._measure_pair(keyframes, ends, anywhere, anywhere, near)
            assert bool(found) is near
