"""Loops: believed once several keyframes say the same, and only where the map may be so wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from slam.adjustment import near_part
from slam.config import Config, load_config
from slam.evaluation import evaluate
from slam.frame import Correspondence, Features, Frame, InverseDepth, Keyframe
from slam.graph import Graph
from slam.lie import se3_to_sim3, sim3_act, sim3_exp, sim3_inv, sim3_mul, sim3_to_se3
from slam.loops import Found, Loop, LoopSearch
from slam.places import Places
from slam.rescaling import rescaled_keyframe
from slam.retrieval import Candidate
from slam.sources import open_source
from slam.sources.looped import LoopedSource
from slam.system import Slam
from slam.trajectory import Trajectory

SAMPLE = Path(__file__).parents[1] / "datasets" / "sample"
COUNT = 40
STEP = 0.5  # m between keyframes


class AllAlike(Places):
    """Every keyframe looks like the ones that a test says."""

    def __init__(self, config: Config, alike: dict[int, Sequence[int]]) -> None:
        super().__init__(config)
        self.alike = alike

    def similar(
        self, frame: Frame, most: int, *, exclude_after: int | None = None
    ) -> list[Candidate]:
        last = COUNT if exclude_after is None else exclude_after
        found = [n for n in self.alike.get(frame.index, ()) if n <= last]
        return [Candidate(n, 1.0) for n in found[:most]]


def keyframe(index: int, T_WC: Tensor) -> Keyframe:
    """A keyframe that sees what is 2 m away."""
    empty = torch.zeros(1)
    features = Features(empty, empty, empty)
    depth = InverseDepth(torch.full((100,), 0.5), torch.ones(100))
    return Keyframe(Frame(index, float(index), float(index), features), T_WC, depth)


def circle() -> list[Keyframe]:
    """Once round and a quarter more: the last 8 keyframes are where the first ones were."""
    out = []
    for n in range(COUNT):
        angle = 2 * np.pi * n / (COUNT - 8)
        radius = STEP * (COUNT - 8) / (2 * np.pi)
        twist = torch.zeros(7, dtype=torch.float64)
        twist[4] = -angle
        T = sim3_to_se3(sim3_exp(twist))
        T[0], T[2] = radius * np.cos(angle), radius * np.sin(angle)
        out.append(keyframe(n, T))
    return out


def bent(keyframes: Sequence[Keyframe], twist: Sequence[float]) -> list[Keyframe]:
    """Keyframes with a drift that grows evenly to `twist` at the last one."""
    out = []
    for n, one in enumerate(keyframes):
        drift = torch.tensor(twist, dtype=torch.float64) * n / (len(keyframes) - 1)
        T = sim3_mul(sim3_exp(drift), se3_to_sim3(one.T_WC))
        out.append(rescaled_keyframe(one, sim3_to_se3(T), float(T[7])))
    return out


def true_pairs(truth: Sequence[Keyframe], now: Sequence[Keyframe]) -> Callable[..., Tensor | None]:
    """What a perfect verification says of keyframes whose map is bent."""
    sizes = [float(t.depth.value[0] / n.depth.value[0]) for t, n in zip(truth, now, strict=True)]

    def verify(_: Sequence[Keyframe], older: int, newer: int) -> Tensor | None:
        T = sim3_mul(sim3_inv(se3_to_sim3(truth[older].T_WC)), se3_to_sim3(truth[newer].T_WC))
        T[:3] *= sizes[older]
        T[7] = sizes[older] / sizes[newer]
        return T

    return verify


def search(
    now: list[Keyframe], alike: dict[int, Sequence[int]], verify: Callable[..., Tensor | None]
) -> list[Found]:
    """What each keyframe in turn finds."""
    made = LoopSearch(AllAlike(Config(), alike), Config(), verify)
    return [made.find(now[: n + 1], n, {n - 1, n - 2} & {*range(n)}) for n in range(len(now))]


DRIFT = (0.4, 0.2, -0.3, 0.02, 0.1, 0.03, 0.15)
REVISITED = {n: (n - (COUNT - 8), n - (COUNT - 8) + 1) for n in range(COUNT - 8, COUNT)}


def test_a_loop_is_believed_when_two_keyframes_say_the_same() -> None:
    truth = circle()
    now = bent(truth, DRIFT)
    found = search(now, REVISITED, true_pairs(truth, now))
    first = next(n for n, f in enumerate(found) if f.loops)
    assert first == COUNT - 7  # the second of those that look like earlier ones
    assert {v.newer for v in found[first].loops} == {COUNT - 8, COUNT - 7}
    loop = found[first].loops[-1]
    T_Wo = se3_to_sim3(now[loop.older].T_WC)
    there = sim3_act(sim3_mul(T_Wo, loop.T_on), torch.zeros(3, dtype=torch.float64))
    turned_back = true_pairs(truth, now)(now, loop.older, loop.newer)
    assert turned_back is not None and torch.allclose(loop.T_on, turned_back)
    assert (there - now[loop.newer].T_WC[:3]).norm() > 0.1  # the map was off, and says so


def test_one_keyframe_alone_is_not_believed() -> None:
    truth = circle()
    now = bent(truth, DRIFT)
    found = search(now, {COUNT - 1: (5, 6, 7)}, true_pairs(truth, now))
    assert not any(f.loops for f in found)


def test_votes_that_contradict_each_other_are_not_believed() -> None:
    truth = circle()
    now = bent(truth, DRIFT)
    right = true_pairs(truth, now)
    rng = np.random.default_rng(0)

    def verify(keyframes: Sequence[Keyframe], older: int, newer: int) -> Tensor | None:
        T = right(keyframes, older, newer)
        assert T is not None
        return sim3_mul(sim3_exp(torch.from_numpy(rng.normal(0, 0.3, 7))), T)

    assert not any(f.loops for f in search(now, REVISITED, verify))


def test_a_place_that_only_looks_the_same_is_not_believed() -> None:
    """Half round, a room like the first one: it would fold the map by several metres."""
    truth = circle()
    same = {n: (n - 16, n - 15) for n in range(16, COUNT)}

    def verify(_: Sequence[Keyframe], older: int, newer: int) -> Tensor | None:
        T = torch.zeros(8, dtype=torch.float64)
        T[6:] = 1.0
        T[2] = 0.5 * (newer - older - 16)
        return T

    assert not any(f.loops for f in search(truth, same, verify))


@pytest.mark.parametrize(
    ("twist", "good"),
    [
        ((0, 0, 0, 0, 0, 0, 0.4), True),
        ((0, 0, 0, 0, 0, 0, 1.3), False),  # stretched by more than a map is
        ((0, 0, 0, 0, 0.4, 0, 0), True),
        ((0, 0, 0, 0, 0.7, 0, 0), False),  # turned
        ((1.5, 0, 0, 0, 0, 0, 0), True),
        ((3.5, 0, 0, 0, 0, 0, 0), False),  # moved by more than its share of the way
    ],
)
def test_a_map_is_taken_to_be_wrong_only_so_far(twist: Sequence[float], good: bool) -> None:
    """The camera is at the origin: a turn or a stretch of the world does not move it."""
    now = [keyframe(n, torch.tensor([STEP * (n - COUNT + 1), 0, 0, 0, 0, 0, 1.0]).double())
           for n in range(COUNT)]  # fmt: skip
    made = LoopSearch(AllAlike(Config(), {}), Config(), lambda *_: None)
    T_oW = sim3_inv(se3_to_sim3(now[0].T_WC))
    moved = sim3_exp(torch.tensor(twist, dtype=torch.float64))
    T_on = sim3_mul(sim3_mul(T_oW, moved), se3_to_sim3(now[-1].T_WC))
    assert made.plausible(now, Loop(0, COUNT - 1, T_on)) is good


def test_votes_are_told_in_the_scale_of_their_time_and_expire() -> None:
    truth = circle()
    now = bent(truth, DRIFT)
    right = true_pairs(truth, now)
    made = LoopSearch(AllAlike(Config(), REVISITED), Config(), right)
    first, second = COUNT - 8, COUNT - 7
    assert not made.find(now, first, ()).loops
    scaled = [torch.cat([2 * k.T_WC[:3], k.T_WC[3:]]) for k in now]
    grown = [rescaled_keyframe(k, T, 2.0) for k, T in zip(now, scaled, strict=True)]
    made.verify = true_pairs(truth, grown)
    found = made.find(grown, second, ())
    late = next(v for v in found.loops if v.newer == first)
    wanted = true_pairs(truth, grown)(grown, late.older, first)
    assert wanted is not None and torch.allclose(late.T_on, wanted)

    made = LoopSearch(AllAlike(Config(), REVISITED), Config(), right)
    made.find(now, first, ())
    assert not made.find(now, first + made.exclude + 1, ()).loops


def test_neither_the_last_keyframes_nor_those_near_a_link_are_asked() -> None:
    asked: list[int] = []

    def verify(_: Sequence[Keyframe], older: int, __: int) -> None:
        asked.append(older)

    now = circle()
    alike = {30: (4, 12, 24, 26)}
    made = LoopSearch(AllAlike(Config(), alike), replace_candidates(4), verify)
    made.find(now, 30, {14})
    assert asked == [4, 24]  # not 12, beside 14; not 26, just before


def replace_candidates(count: int) -> Config:
    return load_config(None, [f"retrieval.candidates={count}"])


def test_what_the_map_knows_already_is_a_link_and_no_loop() -> None:
    truth = circle()
    found = search(truth, REVISITED, true_pairs(truth, truth))
    assert not any(f.loops for f in found)
    assert {v.newer for f in found for v in f.links} == set(REVISITED)


def test_around_a_loop_the_nearest_by_edges_move() -> None:
    """A chain of ten whose ends see the same; the first pose and what is frozen stay."""
    graph = Graph((1.0, 1.0, 0.0, 0.0))
    for one in circle()[:10]:
        graph.add_keyframe(one)
    none = Correspondence(torch.zeros(4, 2), torch.zeros(4))
    pairs = [*((k, k + 1) for k in range(9)), (0, 9)]
    graph.set_edges(pairs, {e: none for i, j in pairs for e in ((i, j), (j, i))})
    part = near_part(graph, range(10), [9, 0], 5)
    moving = [k for k, stays in zip(part.numbers, part.fixed, strict=True) if not stays]
    assert (part.numbers, moving) == ([0, 1, 2, 3, 7, 8, 9], [1, 2, 8, 9])
    assert part.held == part.fixed
    assert part.edges.keys() == {
        e for i, j in pairs if {i, j} & {*moving} for e in ((i, j), (j, i))
    }


# --- on images -----------------------------------------------------------------------------------


@pytest.fixture
def there_and_back() -> Iterator[Slam]:
    """The sample's first third forwards and backwards, every second image."""
    source = open_source(SAMPLE, end=100, stride=2)
    config = load_config(None, ["source.path=" + str(SAMPLE)])
    with closing(Slam(source.camera, config, calibrated=True)) as slam:
        for image in LoopedSource(source, 2).images():
            slam.feed(image)
        slam.backend.publish()
        yield slam


def error(keyframes: Sequence[Keyframe], truth: Sequence[Keyframe]) -> float:
    """RMSE of positions after Sim(3) alignment."""
    both = [
        Trajectory(np.arange(len(keys), dtype=float), torch.stack([k.T_WC for k in keys]).numpy())
        for keys in (keyframes, truth)
    ]
    return evaluate(*both).ate_sim3.rmse


def test_a_bent_map_is_mended_where_the_camera_comes_back(there_and_back: Slam) -> None:
    slam = there_and_back
    good = slam.graph.keyframes()
    assert len(good) > 14
    half = len(good) // 2
    edges = slam.graph.edges()
    slam.graph.keep_edges([e for e in edges if abs(e[0] - e[1]) <= 3])
    now = bent(good, (0.06, 0.03, -0.05, 0.02, 0.05, 0.01, 0.12))
    before = error(now, good)
    slam.backend.places.clear()
    slam.backend._loops.forget(0)
    mended = slam.backend._close_loops(now, half)
    assert error(mended, good) < 0.2 * before
    scale = [
        float(m.depth.value.median() / g.depth.value.median())
        for m, g in zip(mended, good, strict=True)
    ]
    far = [e for e in slam.graph.edges() if abs(e[0] - e[1]) > slam.backend._loops.exclude]
    every = slam.backend.edges.all_pairs(mended[:-1], slam.graph.intrinsics)
    assert far and {(min(e), max(e)) for e in far if max(e) < len(now) - 1} <= set(every)
    assert np.log(scale).std() < 0.05  # distances of all keyframes are of one size again
