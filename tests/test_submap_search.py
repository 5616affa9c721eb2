"""Where two submaps see the same: what is believed of it, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from test_loops import AllAlike, keyframe
from torch import Tensor

from slam.config import Config
from slam.frame import Keyframe
from slam.lie import se3_to_sim3, sim3_exp, sim3_inv, sim3_mul, sim3_to_se3
from slam.loops import Loop, LoopSearch, Verify, Vote
from slam.rescaling import rescaled_keyframe
from slam.submap_search import Join, SubmapSearch
from slam.submaps import ONE, Submaps

SIZE = 208  # px
NORTH = range(0, 60, 2)  # of the sample: one wall of its room
EAST = range(126, 180)  # another one, no part of which is in those images
BACK = [*range(180, 300, 2), *range(1, 50, 2)]  # from there back to the first
GAP = 3.0  # s, while the camera is carried off
SHORT_TRIAL = "start.trial_keyframes=3"

WORLD = torch.tensor([1.5, -2.0, 3.0, 0.4, 2.5, -0.3, 0.7], dtype=torch.float64)  # of the second


@dataclass(frozen=True, slots=True)
class TwoWorlds:
    """Ten keyframes of one path, the last five of them in a world of their own."""

    keyframes: list[Keyframe]
    T: Tensor  # [8] Sim(3) from the second world to the first

    def verify(self, _: Sequence[Keyframe], older: int, newer: int) -> Tensor:
        T = self.T_WC
        return sim3_mul(sim3_inv(T[older]), T[newer])

    @property
    def T_WC(self) -> Tensor:
        own = [se3_to_sim3(k.T_WC) for k in self.keyframes]
        return torch.stack([*own[:5], *(sim3_mul(self.T, T) for T in own[5:])])


@pytest.fixture(params=["the newer looks at the older", "the other way round"])
def worlds(request: pytest.FixtureRequest) -> tuple[TwoWorlds, Submaps]:
    keyframes = []
    T = sim3_exp(WORLD)
    for number in range(10):
        T_WC = sim3_exp(torch.tensor([0.3 * number, 0.1, 0, 0, 0.05 * number, 0, 0]).double())
        one = keyframe(number, sim3_to_se3(T_WC))
        if number >= 5:
            there = sim3_mul(sim3_inv(T), T_WC)
            one = rescaled_keyframe(one, sim3_to_se3(there), float(1 / T[7]))
        keyframes.append(one)
    names = (0,) * 5 + (5,) * 5
    if request.param != "the newer looks at the older":  # the later keyframes are of submap 0
        names = (5,) * 5 + (0,) * 5
        T = sim3_inv(T)
    return TwoWorlds(keyframes, sim3_exp(WORLD)), Submaps(names)


def found(
    worlds: tuple[TwoWorlds, Submaps],
    alike: dict[int, Sequence[int]],
    verify: Verify | None = None,
) -> Join | None:
    """What the last keyframes find, each in turn."""
    world, submaps = worlds
    search = SubmapSearch(AllAlike(Config(), alike), Config(), verify or world.verify)
    joins = [search.find(world.keyframes[: n + 1], n, Submaps(submaps.names[: n + 1]))
             for n in range(10)]  # fmt: skip
    return next((j for j in joins if j), None)


def test_two_worlds_that_share_a_place_are_put_together(
    worlds: tuple[TwoWorlds, Submaps],
) -> None:
    join = found(worlds, {6: (1, 2), 7: (2, 3), 8: (3, 4)})
    assert join is not None and (join.into, join.gone) == (0, 5)
    wanted = worlds[0].T if worlds[1].of(0) == 0 else sim3_inv(worlds[0].T)
    assert torch.allclose(join.T, wanted)
    assert all(worlds[1].of(v.older) == 0 for v in join.loops)


@pytest.mark.parametrize("alike", [{7: (1, 2, 3)}, {6: (2,), 7: (2,), 8: (2,)}])
def test_one_keyframe_at_either_end_is_not_believed(
    worlds: tuple[TwoWorlds, Submaps], alike: dict[int, Sequence[int]]
) -> None:
    assert found(worlds, alike) is None


def test_votes_that_differ_by_scale_alone_are_not_believed(
    worlds: tuple[TwoWorlds, Submaps],
) -> None:
    sizes = iter(np.linspace(0.5, 2.0, 6))

    def verify(keyframes: Sequence[Keyframe], older: int, newer: int) -> Tensor:
        T = worlds[0].verify(keyframes, older, newer)
        T[7] *= next(sizes)
        return T

    assert found(worlds, {6: (1, 2), 7: (2, 3), 8: (3, 4)}, verify) is None


def test_at_the_end_every_pair_is_asked_once_and_nothing_that_was_refused(
    worlds: tuple[TwoWorlds, Submaps],
) -> None:
    """Three submaps: two of them are sought in each other from both ends."""
    world, (asked, names) = worlds[0], (list[tuple[int, int]](), (0, 0, 0, 0, 4, 4, 4, 7, 7, 7))

    def verify(keyframes: Sequence[Keyframe], older: int, newer: int) -> Tensor | None:
        asked.append((older, newer))
        return None if len(asked) % 3 else world.verify(keyframes, older, newer)

    every = {n: [k for k in range(10) if k != n] for n in range(10)}
    search = SubmapSearch(AllAlike(Config(), every), Config(), verify)
    never = {(0, 4), (0, 7), (4, 7)}
    join = search.find_last(world.keyframes, Submaps(names), never, lambda: False)
    assert join is None and asked
    seen = [v.loop for v in search._votes]
    assert len({(v.older, v.newer) for v in seen}) == len(seen)
    asked.clear()
    assert search.find_last(world.keyframes, Submaps(names), (), lambda: True) is None
    assert not asked


def test_votes_of_other_submaps_do_not_count_for_a_loop(
    worlds: tuple[TwoWorlds, Submaps],
) -> None:
    world, submaps = worlds
    search = LoopSearch(AllAlike(Config(), {}), Config(), world.verify)
    loops = [Loop(o, n, world.verify(world.keyframes, o, n)) for o in (0, 1) for n in (8, 9)]
    keyframes = world.keyframes
    votes = [Vote(v, keyframes[v.older].depth, keyframes[v.newer].depth) for v in loops]
    search._votes = [*votes]
    assert len(search._believed(keyframes, 9, ONE)) == 4
    search._votes = [*votes]
    assert search._believed(keyframes, 9, submaps) == []
