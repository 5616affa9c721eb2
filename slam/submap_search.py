"""Where two submaps see the same: keyframes of both that agree on how one lies in the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from slam.config import Config
from slam.frame import Keyframe
from slam.lie import sim3_inv
from slam.loops import Loop, Verify, Vote, agreeing, correction
from slam.places import Places
from slam.submaps import Submaps

log = logging.getLogger(__name__)

MOST_VOTES = 60  # that are kept, the last ones


@dataclass(frozen=True, slots=True)
class Join:
    """Two submaps that are parts of one map."""

    into: int  # name of the older one, which stays where it is
    gone: int  # name of the one that moves
    loops: tuple[Loop, ...]  # what says so; `older` is in the one that stays
    T: Tensor  # [8] float64 Sim(3), takes points of the world that goes to the one that stays


class SubmapSearch:
    """Seeks keyframes in the other submaps; keeps what was found until they are joined.

    Nothing is known beforehand of how two submaps lie to each other, so that no correction is
    implausible. Instead the votes must be of at least two keyframes at both ends.
    """

    def __init__(self, places: Places, config: Config, verify: Verify) -> None:
        """Args: verify: the relative pose of two keyframes by what both see; None = none."""
        self.places = places
        self.settings = config.loops
        self.most = config.retrieval.candidates
        self.verify = verify
        self._votes: list[Vote] = []

    def forget(self, first: int) -> None:
        """Drops what keyframes from `first` on said."""
        self._votes = [v for v in self._votes if max(v.loop.older, v.loop.newer) < first]

    def find(self, keyframes: Sequence[Keyframe], number: int, submaps: Submaps) -> Join | None:
        """What keyframe `number`, the last one, adds; None = nothing is to be joined."""
        of = submaps.of
        self._votes = [v for v in self._votes if of(v.loop.older) != of(v.loop.newer)]
        if not submaps.several:
            return None
        return self._agreed(keyframes, submaps, number, range(number))

    def find_last(
        self,
        keyframes: Sequence[Keyframe],
        submaps: Submaps,
        refused: Container[tuple[int, int]],
        stop: Callable[[], bool],
    ) -> Join | None:
        """Seeks all keyframes but the largest submap's, as they are now, in the other submaps.

        Args:
            refused: names of two, the older first, that could not be joined.
            stop: asked before each keyframe; True = what was not found by now is not sought.
        """
        self._votes = []
        for number in range(len(keyframes)):
            if stop():
                return None
            if submaps.of(number) != submaps.largest:
                every = range(len(keyframes))
                found = self._agreed(keyframes, submaps, number, every, refused)
                if found is not None:
                    return found
        return None

    def _agreed(
        self,
        keyframes: Sequence[Keyframe],
        submaps: Submaps,
        number: int,
        among: Iterable[int],
        refused: Container[tuple[int, int]] = (),
    ) -> Join | None:
        """The votes that say the same, with those of one keyframe more, where they are enough.

        Args: among: where it is sought; keyframes of its own submap are left out.
        """
        own = submaps.of(number)
        others = {n for n in among if submaps.of(n) != own}
        seen = self._look(keyframes, number, others)
        for into, gone in sorted({(min(own, n), max(own, n)) for n in map(submaps.of, seen)}):
            if (into, gone) in refused:
                continue
            told = self._told(keyframes, submaps, into, gone)
            believed = agreeing(keyframes, told, self.settings, number)
            if len({v.older for v in believed}) >= 2:
                return Join(into, gone, tuple(believed), correction(keyframes, believed[0]))
        return None

    def _look(self, keyframes: Sequence[Keyframe], number: int, others: set[int]) -> set[int]:
        """Adds the votes of a keyframe and some others; returns which of those had one."""
        alike = self.places.similar(keyframes[number].frame, len(keyframes))
        asked = {(v.loop.older, v.loop.newer) for v in self._votes}
        seen: set[int] = set()
        for other in [c.number for c in alike if c.number in others][: self.most]:
            older, newer = min(number, other), max(number, other)
            if (older, newer) in asked:
                continue
            T_on = self.verify(keyframes, older, newer)
            if T_on is not None:
                log.info("keyframes %d and %d, of two submaps, see the same", older, newer)
                ends = keyframes[older].depth, keyframes[newer].depth
                self._votes.append(Vote(Loop(older, newer, T_on), *ends))
                seen.add(other)
        del self._votes[:-MOST_VOTES]
        return seen

    def _told(
        self, keyframes: Sequence[Keyframe], submaps: Submaps, into: int, gone: int
    ) -> list[Loop]:
        """The votes of two submaps, as how the second lies in the first."""
        told = [vote.now(keyframes) for vote in self._votes]
        told = [v if submaps.of(v.older) < submaps.of(v.newer) else turned(v) for v in told]
        ends = into, gone
        return [v for v in told if (submaps.of(v.older), submaps.of(v.newer)) == ends]


def turned(loop: Loop) -> Loop:
    """The same said the other way round."""
    return Loop(loop.newer, loop.older, sim3_inv(loop.T_on))
