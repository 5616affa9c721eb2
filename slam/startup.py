"""Waits for the first map: a reference image, and the frames since, until two views make one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from slam.config import Config
from slam.frame import Correspondence, Frame, Intrinsics, PairGuess, PairPrediction
from slam.initialization import TwoViewMap, spread, two_view_map, with_focal_factors
from slam.predictors import Predictor
from slam.timing import Timings


@dataclass(frozen=True, slots=True)
class FirstMap:
    """What a start ends with."""

    reference: Frame  # becomes the first keyframe
    pair: PairPrediction  # its pixels in the frame that made the map
    map: TwoViewMap


class Startup:
    """Takes frames until the last one and the reference make a map."""

    def __init__(
        self,
        predictor: Predictor,
        config: Config,
        timings: Timings,
        focal_factors: Sequence[float],
    ) -> None:
        """Args: focal_factors: focal lengths that are tried, relative to the one given."""
        self.predictor = predictor
        self.config = config
        self.timings = timings
        self.focal_factors = focal_factors
        self._reference: Frame | None = None
        self._since: deque[Frame] = deque(maxlen=config.start.remember)
        self._between: deque[Correspondence] = deque(maxlen=config.start.remember)
        self._guess = PairGuess()

    def take(self, frame: Frame, intrinsics: Intrinsics) -> FirstMap | None:
        """One frame more; a map, or None while there is none. The reference follows the view."""
        reference = self._reference
        if reference is None:
            self._reference = frame
            return None
        self._since.append(frame)
        with self.timings.measure("flow"):
            pair = self.predictor.pair(reference.features, frame.features, self._guess)
        parting = pair.match_fraction < self.config.start.match_fraction
        with self.timings.measure("start"):
            found = two_view_map(
                self.predictor.grid,
                pair,
                spread(self._between, self.config.start.between),
                with_focal_factors(intrinsics, self.focal_factors),
                self.config,
                last_chance=parting,
            )
        if found is not None:
            self.begin(None)
            return FirstMap(reference, pair, found)
        self._guess = pair.flow
        self._between.append(pair.forward)
        if parting:
            self._renew_reference()
        return None

    def begin(self, reference: Frame | None) -> None:
        """Starts over, from a reference or from the frame to come."""
        self._reference, self._guess = reference, PairGuess()
        self._since.clear()
        self._between.clear()

    def _renew_reference(self) -> None:
        """A newer reference: half way between the old one and now, so that parallax is kept."""
        since = self._since
        self.begin(since[len(since) // 2] if len(since) > 2 else since[-1])
