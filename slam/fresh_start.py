"""A camera that stays lost: when a new submap is begun, and what it is begun from."""

from __future__ import annotations

from collections import deque

from slam.config import Config
from slam.frame import Frame, Intrinsics
from slam.predictors import Predictor
from slam.startup import FirstMap, Startup
from slam.timing import Timings


class FreshStart:
    """Takes frames that are found nowhere; after a while, lets them make a map of their own."""

    def __init__(self, predictor: Predictor, config: Config, timings: Timings) -> None:
        self._patience = config.relocalization.patience
        self._startup = Startup(predictor, config, timings, (1.0,))  # the camera is as before
        self._lost_since: float | None = None  # s
        self.tried: deque[Frame] = deque(maxlen=config.relocalization.retried)  # on trial

    @property
    def is_lost(self) -> bool:
        """Whether the last frame was found nowhere."""
        return self._lost_since is not None

    def take(self, frame: Frame, intrinsics: Intrinsics) -> FirstMap | None:
        """A lost frame; a map that it and others since make, or None."""
        if self._lost_since is None:
            self._lost_since = frame.seconds
        if frame.seconds - self._lost_since < self._patience:
            return None
        return self._startup.take(frame, intrinsics)

    def found(self) -> None:
        """The camera is somewhere again."""
        if self._lost_since is not None:
            self._lost_since = None
            self._startup.begin(None)

    def again(self, frame: Frame) -> None:
        """A start was discarded: the next one begins at this frame, at once."""
        self._lost_since = frame.seconds - self._patience
        self._startup.begin(frame)
