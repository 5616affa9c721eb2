"""What happened when: the frames of a finished run, as a replay goes through them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slam.frame import PER_SOURCE, TrackState


@dataclass(frozen=True, slots=True)
class Recording:
    """N frames, one source after the other, each in the order of time; K keyframes as well."""

    index: np.ndarray  # [N] int64, as in a map's file: place in its source, + 2^32 a source before
    time: np.ndarray  # [N] float64, as the source writes it
    seconds: np.ndarray  # [N] float64 s since the first frame, never decreasing
    states: tuple[TrackState, ...]  # [N] how each pose was obtained
    T_WC: np.ndarray  # [N, 7] float64, NaN = the frame has no pose
    keyframe: np.ndarray  # [N] int64, number of the keyframe it was tracked by; -1 = of none
    made: np.ndarray  # [K] int64, place among the frames of each keyframe's own; sorted

    def __len__(self) -> int:
        return len(self.index)

    @property
    def posed(self) -> np.ndarray:
        """[N] bool, whether a frame has a pose."""
        return np.isfinite(self.T_WC[:, 0])

    def keyframes_until(self, place: int) -> int:
        """How many keyframes, the first ones, were made when a frame was seen."""
        return int(np.searchsorted(self.made, place, side="right"))

    def posed_until(self, place: int) -> int:
        """How many frames with a pose there are up to one, with it."""
        return int(self.posed[: place + 1].sum())

    def shown_keyframe(self, place: int) -> int:
        """The keyframe that a frame became, or was tracked by, or the newest; -1 = none yet."""
        newest = self.keyframes_until(place) - 1
        if newest >= 0 and self.made[newest] == place:
            return newest
        known = 0 <= self.keyframe[place] <= newest
        return int(self.keyframe[place]) if known else newest

    def place_at(self, seconds: float) -> int:
        """The last frame that was seen by then; the first one, where none was."""
        return max(int(np.searchsorted(self.seconds, seconds, side="right")) - 1, 0)


def playing_seconds(index: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """[N] s since the first frame; a source begins one frame's time after the one before it.

    Args:
        index: [N] as Recording's. seconds: [N] on the clock of each source.
    """
    steps = np.diff(seconds)
    within = np.diff(index // PER_SOURCE) == 0
    usual = float(np.median(steps[within])) if within.any() else 0.0
    steps = np.maximum(np.where(within, steps, usual), 0)
    return np.concatenate([np.zeros(min(len(seconds), 1)), np.cumsum(steps)])


def places_of(made: np.ndarray, index: np.ndarray) -> np.ndarray:
    """[K] places among frames of the keyframes' images. Args: both sorted, as Recording.index."""
    return np.minimum(np.searchsorted(index, made), max(len(index) - 1, 0))
