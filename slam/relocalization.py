"""Where am I? Features of a lost frame against keyframes, a pose from their depths, then flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slam.config import Config
from slam.corners import match_corners
from slam.frame import Frame, Intrinsics, Keyframe, PairGuess, PairPrediction, TrackResult
from slam.mapping import dense_flow, project_grid
from slam.places import Places
from slam.predictors import Predictor
from slam.tracking import perspective_n_point, track, unproject


@dataclass(frozen=True, slots=True)
class Relocalisation:
    """A lost frame found again."""

    keyframe: int  # number of the keyframe it was found against
    T_fk: Tensor  # [7] float64 SE(3): takes points of that keyframe to the frame


@dataclass(frozen=True, slots=True)
class Verified:
    """An image that sees what a keyframe saw."""

    result: TrackResult  # its pose
    pair: PairPrediction  # the dense flow that agrees with it


class Relocaliser:
    """Finds a lost frame against the keyframes that look like it, and those made last."""

    def __init__(
        self, predictor: Predictor, config: Config, places: Places, *, one_thread: bool = False
    ) -> None:
        """Args:
        places: knows the keyframes, but perhaps not yet the last ones.
        one_thread: for the backend's thread: the predictor's others are the frontend's.
        """
        self.one_thread = one_thread
        self.predictor = predictor
        self.config = config
        self.places = places

    def find(
        self, keyframes: Sequence[Keyframe], frame: Frame, intrinsics: Intrinsics
    ) -> Relocalisation | None:
        """Pose of `frame`, from feature matches and verified by dense flow; None = not found."""
        for number in self.similar(keyframes, frame):
            found = self.verify(keyframes[number], frame, intrinsics)
            if found is not None:
                return Relocalisation(number, found.result.T_fk)
        return None

    def similar(self, keyframes: Sequence[Keyframe], frame: Frame) -> list[int]:
        """Numbers of the keyframes with most feature matches, of those alike, the best first."""
        settings, corners = self.config.relocalization, self.places.of(frame)
        found = [c.number for c in self.places.similar(frame, settings.keyframes)]
        if self.places.head is not None:  # it knows places by more than their corners
            last = [len(keyframes) - 1 - k for k in range(min(settings.recent, len(keyframes)))]
            return list(dict.fromkeys([*found[: settings.candidates], *last]))
        alike = set(found)
        alike |= set(range(len(self.places), len(keyframes)))
        alike |= set(range(max(0, len(keyframes) - settings.recent), len(keyframes)))
        scored = [
            (len(match_corners(self.places.corners(keyframes[number]), corners)[0]), number)
            for number in alike
            if number < len(keyframes)
        ]
        scored = sorted(s for s in scored if s[0] >= settings.minimum_matches)
        return [number for _, number in scored[::-1][: settings.candidates]]

    def verify(self, keyframe: Keyframe, frame: Frame, intrinsics: Intrinsics) -> Verified | None:
        """Pose of a frame against one keyframe: features, then dense flow; None = not the place."""
        T_fk = self.from_features(keyframe, frame, intrinsics)
        return None if T_fk is None else self._dense(keyframe, frame, T_fk, intrinsics)

    def from_features(
        self, keyframe: Keyframe, frame: Frame, intrinsics: Intrinsics
    ) -> Tensor | None:
        """T_fk [7] from feature matches with one keyframe alone, unverified; None = too few."""
        settings = self.config.relocalization
        corners = self.places.corners(keyframe), self.places.of(frame)
        matches = match_corners(*corners)
        if len(matches[0]) < settings.minimum_matches:
            return None
        return self._pose(keyframe, *matches, intrinsics)

    def _pose(
        self, keyframe: Keyframe, first: np.ndarray, second: np.ndarray, intrinsics: Intrinsics
    ) -> Tensor | None:
        """Perspective-n-point pose from matches and the keyframe's depth at the nearest cell."""
        settings, grid = self.config.relocalization, self.predictor.grid
        place = grid.nearest(torch.from_numpy(first))
        known = (keyframe.depth.information[place] > 0).numpy()
        if known.sum() < settings.minimum_matches:
            return None
        X = unproject(torch.from_numpy(first), keyframe.depth.value[place], intrinsics).numpy()
        return perspective_n_point(X[known], second[known], intrinsics, settings.error)

    def _dense(
        self, keyframe: Keyframe, frame: Frame, T_fk: Tensor, intrinsics: Intrinsics
    ) -> Verified | None:
        """Dense flow, started from where the pose says, must agree with one pose."""
        grid, settings = self.predictor.grid, self.config.relocalization
        target, _ = project_grid(grid, keyframe.depth, T_fk, intrinsics)
        guess = PairGuess(dense_flow(grid, target), None)
        pair = self.predictor.pair(
            *(keyframe.frame.features, frame.features, guess), fine=True, one_thread=self.one_thread
        )
        result = track(
            grid.pixel, keyframe.depth, pair.forward, T_fk, intrinsics, self.config.tracking
        )
        good = result.inlier_fraction > settings.inliers and pair.match_fraction > settings.overlap
        enough = result.count >= self.config.tracking.minimum_points
        return Verified(result, pair) if good and enough else None
