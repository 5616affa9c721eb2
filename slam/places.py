"""Which keyframes look like an image, for the frontend (lost) and the backend (loops)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from slam.config import Config
from slam.corners import Corners, orb
from slam.descriptor_space import Binary
from slam.frame import Features, Keyframe
from slam.retrieval import Candidate, Retrieval


class Places:
    """The keyframes' corners, and an index of them. One thread adds, any may ask."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._retrieval = Retrieval(Binary(), config.retrieval)
        self._corners: dict[int, Corners] = {}  # by the index of the keyframe's image

    def clear(self) -> None:
        """Forgets the keyframes; their corners are kept: an image's stay the same."""
        with self._lock:
            self._retrieval = Retrieval(Binary(), self.config.retrieval)

    def take(self, keyframes: Sequence[Keyframe]) -> None:
        """Adds those keyframes, a map's first ones in order, that are not known yet."""
        for number in range(len(self), len(keyframes)):
            descriptors = self.corners(keyframes[number]).descriptor
            with self._lock:
                self._retrieval.add(number, descriptors)

    def __len__(self) -> int:
        with self._lock:
            return len(self._retrieval)

    def similar(
        self, corners: Corners, most: int, *, exclude_after: int | None = None
    ) -> list[Candidate]:
        """Keyframes that look like an image, best first.

        Args: exclude_after: keyframes of larger numbers are left out.
        """
        with self._lock:
            return self._retrieval.query(corners.descriptor, most=most, exclude_after=exclude_after)

    def corners(self, keyframe: Keyframe) -> Corners:
        """Of a keyframe; found once."""
        index = keyframe.frame.index
        if index not in self._corners:
            self._corners[index] = self.of(keyframe.frame.features)
        return self._corners[index]

    def of(self, features: Features) -> Corners:
        """Corners of any image."""
        return orb(features, self.config.relocalization.features)
