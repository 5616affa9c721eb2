"""Loops: keyframes that look alike, verified, and believed once several say the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slam.config import Config
from slam.frame import Correspondence, Intrinsics, InverseDepth, Keyframe
from slam.lie import se3_act, se3_inv, se3_to_sim3, sim3_act, sim3_inv, sim3_log, sim3_mul
from slam.optimization import RelativePose
from slam.places import Places
from slam.predictors.grid import Grid
from slam.rescaling import scale_change
from slam.retrieval_settings import LoopSettings
from slam.submaps import ONE, Submaps
from slam.tracking import unproject

log = logging.getLogger(__name__)

ENOUGH = 50  # depths that a ratio of scales is taken from, at least


@dataclass(frozen=True, slots=True)
class Loop:
    """Two keyframes that see one place."""

    older: int
    newer: int
    T_on: Tensor  # [8] float64 Sim(3), takes points of the newer, in its scale, to the older


def regrown(loop: Loop, scale: float) -> Loop:
    """The same when distances of the newer keyframe have become `scale` times as long."""
    T_on = loop.T_on.clone()
    T_on[7] /= scale
    return replace(loop, T_on=T_on)


@dataclass(frozen=True, slots=True)
class Vote:
    """A loop that waits for others, and the scales that it is told in."""

    loop: Loop
    older: InverseDepth  # of the older keyframe then
    newer: InverseDepth  # of the newer one

    def now(self, keyframes: Sequence[Keyframe]) -> Loop:
        """The same in the scales that the keyframes have now."""
        loop, T_on = self.loop, self.loop.T_on.clone()
        grown = scale_change(self.older, keyframes[loop.older].depth)
        T_on[:3] *= grown
        T_on[7] *= grown / scale_change(self.newer, keyframes[loop.newer].depth)
        return replace(loop, T_on=T_on)


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    loops: tuple[Loop, ...] = ()  # that the map contradicts, and enough votes believe
    links: tuple[Loop, ...] = ()  # that it agrees with: no more than edges to measure


Verify = Callable[[Sequence[Keyframe], int, int], Tensor | None]  # older, newer -> T_on


class LoopSearch:
    """Looks for loops at every new keyframe; keeps the votes of the last ones."""

    def __init__(self, places: Places, config: Config, verify: Verify) -> None:
        """Args: verify: the relative pose of two keyframes by what both see; None = none."""
        self.places = places
        self.settings = config.loops
        self.most = config.retrieval.candidates
        self.exclude = config.retrieval.exclude  # most recent keyframes that close no loop
        self.verify = verify
        self._votes: list[Vote] = []

    def find(
        self,
        keyframes: Sequence[Keyframe],
        number: int,
        linked: Collection[int],
        submaps: Submaps = ONE,
    ) -> Found:
        """Loops that keyframe `number` closes, in its submap.

        Args: linked: keyframes that it is tied to.
        """
        verified = [
            Loop(older, number, T_on)
            for older in self._candidates(keyframes, number, linked, submaps)
            if (T_on := self.verify(keyframes, older, number)) is not None
        ]
        known = [
            v
            for v in verified
            if is_slight(correction(keyframes, v), keyframes[number], self.settings)
        ]
        new = [v for v in verified if v not in known and self.plausible(keyframes, v, submaps)]
        self._votes = [v for v in self._votes if number - v.loop.newer <= self.exclude]
        self._votes += [Vote(v, keyframes[v.older].depth, keyframes[v.newer].depth) for v in new]
        return Found(tuple(self._believed(keyframes, number, submaps)), tuple(known))

    def _candidates(
        self,
        keyframes: Sequence[Keyframe],
        number: int,
        linked: Collection[int],
        submaps: Submaps,
    ) -> list[int]:
        """Keyframes that look like this one and are not near one that it is linked to."""
        last, most = number - self.exclude - 1, len(keyframes) if submaps.several else self.most
        found = self.places.similar(keyframes[number].frame, most, exclude_after=last)
        same = [c.number for c in found if submaps.of(c.number) == submaps.of(number)]
        near = {k + d for k in linked for d in range(-self.exclude, self.exclude + 1)}
        return [n for n in same[: self.most] if n not in near]

    def _believed(self, keyframes: Sequence[Keyframe], number: int, submaps: Submaps) -> list[Loop]:
        """The largest set of votes that say the same as one of this keyframe, if large enough.

        Votes of one keyframe alone do not count: what misled one would mislead the others.
        """
        of, votes = submaps.of, [vote.now(keyframes) for vote in self._votes]
        votes = [v for v in votes if of(v.older) == of(v.newer) == of(number)]
        best = agreeing(keyframes, votes, self.settings, number)
        if best:
            self._votes = []
        return best

    def forget(self, first: int) -> None:
        """Drops what keyframes from `first` on said."""
        self._votes = [v for v in self._votes if v.loop.newer < first]

    def plausible(self, keyframes: Sequence[Keyframe], loop: Loop, submaps: Submaps = ONE) -> bool:
        """Whether a map can have gone so wrong on the way between: two places may look the same."""
        settings = self.settings
        between = range(loop.older, loop.newer + 1)
        between = [n for n in between if submaps.of(n) == submaps.of(loop.newer)]
        position = torch.stack([keyframes[n].T_WC[:3] for n in between])
        way = float(torch.linalg.vector_norm(position.diff(dim=0), dim=1).sum())
        shift, turn, stretch = _size(correction(keyframes, loop), keyframes[loop.newer].T_WC)
        near = shift <= settings.drift * way + settings.shift * typical_depth(
            keyframes[loop.newer].depth
        )
        good = near and turn <= settings.most_turn and stretch <= settings.most_stretch
        if not good:
            log.info(
                "keyframes %d and %d look alike, but are %.2f apart (way %.2f, turn %.2f rad)",
                *(loop.older, loop.newer, shift, way, turn),
            )
        return good


def agreeing(
    keyframes: Sequence[Keyframe],
    votes: Sequence[Loop],
    settings: LoopSettings,
    number: int | None = None,
) -> list[Loop]:
    """The largest set of votes that say the same as one of them; none where they are too few.

    Args: number: a keyframe of that one; None = any.
    """
    corrections = [correction(keyframes, v) for v in votes]
    best: list[Loop] = []
    for one, its in zip(votes, corrections, strict=True):
        if number is not None and number not in (one.older, one.newer):
            continue
        back = sim3_inv(its)
        same = [
            v
            for v, other in zip(votes, corrections, strict=True)
            if is_slight(sim3_mul(back, other), keyframes[one.newer], settings)
        ]
        best = max(best, same, key=len)
    return best if enough(best, settings) else []


def enough(votes: Sequence[Loop], settings: LoopSettings) -> bool:
    """Whether votes are to be believed: those of one keyframe alone are not."""
    return len(votes) >= settings.votes and len({v.newer for v in votes}) >= 2


def is_slight(correction: Tensor, keyframe: Keyframe, settings: LoopSettings) -> bool:
    """Whether a correction [8] of the world leaves a keyframe nearly where it is."""
    shift, turn, stretch = _size(correction, keyframe.T_WC)
    close = shift <= settings.shift * typical_depth(keyframe.depth)
    return close and turn <= settings.turn and stretch <= settings.stretch


def correction(keyframes: Sequence[Keyframe], loop: Loop) -> Tensor:
    """Sim(3) [8] that moves the newer keyframe's world to where the loop says it is."""
    T_Wo, T_Wn = (se3_to_sim3(keyframes[k].T_WC) for k in (loop.older, loop.newer))
    return sim3_mul(sim3_mul(T_Wo, loop.T_on), sim3_inv(T_Wn))


def _size(correction: Tensor, T_WC: Tensor) -> tuple[float, float, float]:
    """How far a correction of the world moves a camera, turns (rad) and stretches (log) it."""
    moved = sim3_act(correction, T_WC[:3])
    twist = sim3_log(correction)
    turn, stretch = float(torch.linalg.vector_norm(twist[3:6])), abs(float(twist[6]))
    return float(torch.linalg.vector_norm(moved - T_WC[:3])), turn, stretch


def typical_depth(depth: InverseDepth) -> float:
    """Median of what is known; 1 where nothing is."""
    known = is_known(depth)
    return float(1 / depth.value[known].median()) if known.any() else 1.0


def is_known(depth: InverseDepth) -> Tensor:
    """[P] bool: measured, and not at infinity."""
    return (depth.information > 0) & (depth.value > 0)


def similarity(
    older: Keyframe,
    newer: Keyframe,
    T_no: Tensor,
    forward: Correspondence,
    grid: Grid,
    intrinsics: Intrinsics,
    spread: float,
) -> Tensor | None:
    """T_on [8] from the pose T_no [7], in the older one's scale, and the depths of both.

    Args:
        forward: the older one's grid pixels in the newer.
        spread: median deviation of the log ratios of their depths beyond which there is none.
    """
    X_o = unproject(grid.pixel, older.depth.value, intrinsics).double()
    seen_from_older = se3_act(T_no, X_o)[:, 2]
    inside = grid.contains(forward.target)
    place = grid.nearest(forward.target)
    own = newer.depth.value[place]
    used = inside & (forward.weight > 0) & (seen_from_older > 0) & is_known(older.depth)
    used &= is_known(newer.depth)[place]
    if int(used.sum()) < ENOUGH:
        return None
    ratio = (seen_from_older[used] * own[used]).log()  # a point's depth by the older, by its own
    middle = ratio.median()
    if float((ratio - middle).abs().median()) > spread:
        return None
    T_on = se3_to_sim3(se3_inv(T_no))
    T_on[7] = middle.exp()
    return T_on


def relative_edges(
    keyframes: Sequence[Keyframe],
    measured: Collection[tuple[int, int]],
    loops: Sequence[Loop],
    sigma: float,
) -> list[RelativePose]:
    """What a map's keyframes and loops say of each other, in Sim(3).

    Args:
        measured: pairs of keyframes whose pixels were matched: the map has their relative poses.
        sigma: of all, rad; see `RelativePose`.
    """
    T_WC = se3_to_sim3(torch.stack([k.T_WC for k in keyframes]))
    depth = [typical_depth(k.depth) for k in keyframes]
    pairs = {(min(e), max(e)) for e in measured if max(e) < len(keyframes)}
    pairs |= {(n, n + 1) for n in range(len(keyframes) - 1)}
    i, j = torch.tensor(sorted(pairs)).T
    own = sim3_mul(sim3_inv(T_WC[i]), T_WC[j])
    ties = [
        RelativePose(*pair, T_ij, sigma, depth[pair[0]])
        for pair, T_ij in zip(sorted(pairs), own, strict=True)
    ]
    return ties + [RelativePose(v.older, v.newer, v.T_on, sigma, depth[v.older]) for v in loops]
