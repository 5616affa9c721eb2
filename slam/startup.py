"""Waits for the first map: a reference image, and the frames since, until two views make one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from slam.config import Config
from slam.frame import Correspondence, Frame, Intrinsics, Keyframe, PairGuess, PairPrediction
from slam.initialization import (
    TwoViewMap,
    candidate_maps,
    identity,
    known_depths,
    spread,
    two_view_map,
    with_focal_factors,
)
from slam.mapping import extrapolated
from slam.predictors import Predictor
from slam.recovery import induced_flow
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
        hurried = self._hurried(pair.match_fraction)
        parting = hurried or pair.match_fraction < self.config.start.match_fraction
        with self.timings.measure("start"):
            maps = self._maps(pair, intrinsics)
            if hurried:
                pair, maps = self._look_again(reference, frame, pair, maps, intrinsics)
            start = self.config.start
            parallax = start.hurried_parallax if hurried else start.parallax
            found = two_view_map(
                self.predictor.grid, pair, maps, start, parallax=parallax, last_chance=parting
            )
        if found is not None:
            self.begin(None)
            return FirstMap(reference, pair, found)
        self._guess = pair.flow
        self._between.append(pair.forward)
        if parting:
            self._renew_reference()
        return None

    def _hurried(self, match_fraction: float) -> bool:
        """Whether the view changes so fast that with the next frame it will be another."""
        count = len(self._since)
        expected = 1 - (1 - match_fraction) * (count + 1) / count
        return expected < self.config.start.match_fraction / 2

    def _maps(self, pair: PairPrediction, intrinsics: Intrinsics) -> list[TwoViewMap]:
        return candidate_maps(
            self.predictor.grid,
            pair,
            spread(self._between, self.config.start.between),
            with_focal_factors(intrinsics, self.focal_factors),
            self.config,
        )

    def _look_again(
        self,
        reference: Frame,
        frame: Frame,
        pair: PairPrediction,
        maps: list[TwoViewMap],
        intrinsics: Intrinsics,
    ) -> tuple[PairPrediction, list[TwoViewMap]]:
        """Measures the pair from the flow that its best map induces, as long as that finds more.

        What is near moves far, and flow from nothing misses it; but the rest says where it went.
        """
        grid, config = self.predictor.grid, self.config
        for _ in range(config.start.looks if maps else 0):
            best = maps[0]
            depth = extrapolated(grid, best.depth, known_depths(best.depth, config.start))
            keyframe = Keyframe(reference, identity(), depth)
            guess = induced_flow(grid, keyframe, best.T_ji, best.intrinsics, config)
            other = self.predictor.pair(reference.features, frame.features, guess, fine=True)
            found = self._maps(other, intrinsics)
            if other.match_fraction <= pair.match_fraction or not found:
                break
            pair, maps = other, found
        return pair, maps

    def begin(self, reference: Frame | None) -> None:
        """Starts over, from a reference or from the frame to come."""
        self._reference, self._guess = reference, PairGuess()
        self._since.clear()
        self._between.clear()

    def _renew_reference(self) -> None:
        """A newer reference: half way between the old one and now, so that parallax is kept."""
        since = self._since
        self.begin(since[len(since) // 2] if len(since) > 2 else since[-1])
