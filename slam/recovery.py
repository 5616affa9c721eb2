"""When tracking is poor: how poor, and where else the flow may start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from slam.config import Config
from slam.frame import (
    Correspondence,
    Frame,
    Intrinsics,
    Keyframe,
    PairGuess,
    PairPrediction,
    TrackResult,
    source_of,
)
from slam.lie import se3_inv
from slam.mapping import dense_flow, hand_on, project_grid
from slam.predictors.grid import Grid
from slam.relocalization import Relocaliser
from slam.tracking import better


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a frame's pose against a keyframe."""

    pair: PairPrediction  # what was measured
    result: TrackResult  # the pose that explains it
    measured: Correspondence  # the measurements as the pose explains them (rolling shutter removed)

    def good(self, config: Config) -> bool:
        """Whether there is nothing to try anew."""
        enough = self.pair.match_fraction >= config.keyframes.match_fraction / 2
        agreed = self.result.inlier_fraction >= config.tracking.good_inliers
        return enough and agreed and not self.lost(config)

    def lost(self, config: Config) -> bool:
        """Whether the pose is worth nothing."""
        settings = config.tracking
        return (
            self.result.count < settings.minimum_points
            or self.pair.match_fraction < settings.lost_matches
            or self.result.inlier_fraction < settings.lost_inliers
        )

    def better_than(self, other: Attempt) -> bool:
        """Whether more measurements agree with the pose."""
        return better(other.result, self.result) is self.result

    def verified(self, config: Config) -> bool:
        """Whether the pose may be believed where nothing else speaks for it."""
        settings = config.relocalization
        agreed = self.result.inlier_fraction > settings.inliers
        return agreed and self.pair.match_fraction > settings.overlap


def other_starts(
    grid: Grid,
    keyframe: Keyframe,
    frame: Frame,
    T_guess: Tensor,
    intrinsics: Intrinsics,
    relocaliser: Relocaliser,
    config: Config,
) -> Iterator[PairGuess]:
    """Flows to start from where the last one misled, the cheapest first; each made when asked for.

    From where the expected motion takes the keyframe's depths; from nothing; from where the motion
    that feature matches say takes them.

    Args: T_guess: [7] SE(3), takes points of the keyframe to the frame.
    """
    yield induced_flow(grid, keyframe, T_guess, intrinsics, config)
    yield PairGuess()
    T_fk = relocaliser.from_features(keyframe, frame, intrinsics)
    if T_fk is not None:
        yield induced_flow(grid, keyframe, T_fk, intrinsics, config)


def induced_flow(
    grid: Grid, keyframe: Keyframe, T_fk: Tensor, intrinsics: Intrinsics, config: Config
) -> PairGuess:
    """Flow that a motion of the camera gives the keyframe's depths, both ways."""
    there = hand_on(grid, keyframe.depth, T_fk, intrinsics, config.mapping)
    ahead, _ = project_grid(grid, keyframe.depth, T_fk, intrinsics)
    behind, _ = project_grid(grid, there, se3_inv(T_fk), intrinsics)
    return PairGuess(dense_flow(grid, ahead), dense_flow(grid, behind))


def nearest_in_time(keyframes: Sequence[Keyframe], frame: Frame, count: int = 2) -> list[int]:
    """Numbers of the keyframes around a frame, of its own source, the nearest first."""
    source = source_of(frame.index)
    apart = {
        number: abs(keyframe.frame.seconds - frame.seconds)
        for number, keyframe in enumerate(keyframes)
        if source_of(keyframe.frame.index) == source
    }
    return sorted(apart, key=apart.__getitem__)[:count]
