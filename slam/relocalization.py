"""Where am I? Features of a lost frame against keyframes, a pose from their depths, then flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from slam.config import Config
from slam.frame import Features, Frame, Intrinsics, Keyframe, PairGuess, TrackResult
from slam.mapping import dense_flow, project_grid
from slam.predictors import Predictor
from slam.tracking import perspective_n_point, track, unproject


@dataclass(frozen=True, slots=True)
class Corners:
    """Sparse features of one image."""

    pixel: np.ndarray  # [N, 2] float32 (u, v) px
    descriptor: np.ndarray  # [N, 32] uint8


@dataclass(frozen=True, slots=True)
class Relocalisation:
    """A lost frame found again."""

    keyframe: int  # number of the keyframe it was found against
    T_fk: Tensor  # [7] float64 SE(3): takes points of that keyframe to the frame


class Relocaliser:
    """Finds a lost frame against the most recent keyframes; keeps their features."""

    def __init__(self, predictor: Predictor, config: Config) -> None:
        self.predictor = predictor
        self.config = config
        self._known: dict[int, Corners] = {}

    def find(
        self, keyframes: Sequence[Keyframe], frame: Frame, intrinsics: Intrinsics
    ) -> Relocalisation | None:
        """Pose of `frame`, from feature matches and verified by dense flow; None = not found."""
        for number, matches in self.similar(keyframes, frame):
            T_fk = self._pose(keyframes[number], *matches, intrinsics)
            found = (
                None if T_fk is None else self._verify(keyframes[number], frame, T_fk, intrinsics)
            )
            if found is not None:
                return Relocalisation(number, found.T_fk)
        return None

    def similar(
        self, keyframes: Sequence[Keyframe], frame: Frame
    ) -> list[tuple[int, tuple[np.ndarray, np.ndarray]]]:
        """Numbers of the recent keyframes with most feature matches, and these, the best first."""
        settings = self.config.relocalization
        corners = orb(frame.features, settings.features)
        first = max(0, len(keyframes) - settings.keyframes)
        scored = [
            (len(matches[0]), number, matches)
            for number in range(first, len(keyframes))
            if len((matches := match(self._corners(keyframes[number]), corners))[0])
            >= settings.minimum_matches
        ]
        scored.sort(key=lambda s: (-s[0], -s[1]))
        return [(number, matches) for _, number, matches in scored[: settings.candidates]]

    def from_features(
        self, keyframe: Keyframe, frame: Frame, intrinsics: Intrinsics
    ) -> Tensor | None:
        """T_fk [7] from feature matches with one keyframe alone, unverified; None = too few."""
        settings = self.config.relocalization
        matches = match(self._corners(keyframe), orb(frame.features, settings.features))
        if len(matches[0]) < settings.minimum_matches:
            return None
        return self._pose(keyframe, *matches, intrinsics)

    def _corners(self, keyframe: Keyframe) -> Corners:
        index = keyframe.frame.index
        if index not in self._known:
            count = self.config.relocalization.features
            self._known[index] = orb(keyframe.frame.features, count)
        return self._known[index]

    def _pose(
        self, keyframe: Keyframe, first: np.ndarray, second: np.ndarray, intrinsics: Intrinsics
    ) -> Tensor | None:
        """Perspective-n-point pose from matches and the keyframe's depth at the nearest cell."""
        settings, grid = self.config.relocalization, self.predictor.grid
        cell = np.floor(first / grid.stride).astype(int)
        cell = np.minimum(cell, [grid.columns - 1, grid.rows - 1])
        place = torch.from_numpy(cell[:, 1] * grid.columns + cell[:, 0])
        known = (keyframe.depth.information[place] > 0).numpy()
        if known.sum() < settings.minimum_matches:
            return None
        X = unproject(torch.from_numpy(first), keyframe.depth.value[place], intrinsics).numpy()
        return perspective_n_point(X[known], second[known], intrinsics, settings.error)

    def _verify(
        self, keyframe: Keyframe, frame: Frame, T_fk: Tensor, intrinsics: Intrinsics
    ) -> TrackResult | None:
        """Dense flow, started from where the pose says, must agree with one pose."""
        grid, settings = self.predictor.grid, self.config.relocalization
        target, _ = project_grid(grid, keyframe.depth, T_fk, intrinsics)
        guess = PairGuess(dense_flow(grid, target), None)
        pair = self.predictor.pair(keyframe.frame.features, frame.features, guess, fine=True)
        result = track(
            grid.pixel, keyframe.depth, pair.forward, T_fk, intrinsics, self.config.tracking
        )
        good = result.inlier_fraction > settings.inliers and pair.match_fraction > settings.overlap
        return result if good and result.count >= self.config.tracking.minimum_points else None


def orb(features: Features, count: int) -> Corners:
    """ORB corners and descriptors of a working image (Rublee et al., ICCV 2011)."""
    detector = cv2.ORB.create(count, fastThreshold=7)
    found, descriptors = detector.detectAndCompute(features.grey.numpy(), None)
    pixel = np.array([c.pt for c in found], np.float32).reshape(-1, 2)
    return Corners(pixel, np.empty((0, 32), np.uint8) if descriptors is None else descriptors)


def match(first: Corners, second: Corners) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [M, 2] of mutual nearest descriptors, in the first and in the second image."""
    if len(first.pixel) == 0 or len(second.pixel) == 0:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    pairs = [p for p in matcher.match(first.descriptor, second.descriptor) if p.distance < 64]
    return (
        first.pixel[[p.queryIdx for p in pairs]],
        second.pixel[[p.trainIdx for p in pairs]],
    )
