"""Submaps: parts of the map that nothing ties together yet; which of them each keyframe is of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Submaps:
    """Which submap each keyframe is of. Each has a world, and a scale, of its own.

    A submap's name is the number of its first keyframe: the older of two has the smaller one.
    """

    names: tuple[int, ...] = ()  # by keyframe; empty = all are of one, 0

    def of(self, number: int) -> int:
        """Name of a keyframe's submap."""
        return self.names[number] if self.names else 0

    @property
    def every(self) -> list[int]:
        """Names of all, the oldest first."""
        return sorted(set(self.names)) or [0]

    @property
    def several(self) -> bool:
        """Whether there is more than one."""
        return len(set(self.names)) > 1

    @property
    def largest(self) -> int:
        """The one of most keyframes, of equals the older."""
        count = Counter(self.names)
        return max(self.every, key=lambda name: (count[name], -name))

    def members(self, name: int, count: int) -> list[int]:
        """A submap's keyframes, of the first `count` of all."""
        return [number for number in range(count) if self.of(number) == name]

    def joined(self, into: Mapping[int, int]) -> Submaps:
        """After some became part of others. Args: into: name to the name that it takes on."""
        return Submaps(tuple(into.get(name, name) for name in self.names))

    def followers(self, newest: int) -> dict[int, list[int]]:
        """Keyframes after `newest`, by the last one up to it that is of their submap."""
        found: dict[int, list[int]] = {}
        for number in range(newest + 1, len(self.names)):
            known = self.members(self.of(number), newest + 1)
            if known:
                found.setdefault(known[-1], []).append(number)
        return found


ONE = Submaps()  # all keyframes are of one
