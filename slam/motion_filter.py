"""Motion filter: frames of a camera that stands still are posed, and feed no depths."""

from __future__ import annotations

import torch

from slam.frame import Correspondence


class MotionFilter:
    """Remembers what last fed a keyframe: what is seen from there again is no new observation."""

    def __init__(self, least: float) -> None:
        """Args: least: px, median motion below which a view is the same."""
        self.least = least
        self._last: tuple[int, Correspondence] | None = None

    def reset(self) -> None:
        """Forgets what was seen."""
        self._last = None

    def is_still(self, number: int, measured: Correspondence) -> bool:
        """Whether a view is where it was when it last fed keyframe `number`.

        Args: measured: the keyframe's grid pixels in it. One that moved is remembered.
        """
        last, self._last = self._last, (number, measured)
        if last is None or last[0] != number:
            return False
        both = (last[1].weight > 0) & (measured.weight > 0)
        moved = torch.linalg.vector_norm(measured.target - last[1].target, dim=-1)[both]
        still = len(moved) > 0 and float(moved.median()) < self.least
        if still:
            self._last = last
        return still
