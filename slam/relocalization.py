"""Where am I? Features of a lost frame against keyframes, a pose from their depths, then flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from slam.config import Config
from slam.frame import Features, Frame, Keyframe, PairGuess, TrackResult
from slam.mapping import project_grid
from slam.predictors import Predictor
from slam.tracking import perspective_n_point, track, unproject

Intrinsics = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Relocalisation:
    """A lost frame found again."""

    keyframe: int  # number of the keyframe it was found against
    T_fk: Tensor  # [7] float64 SE(3): takes points of that keyframe to the frame


def relocalise(
    predictor: Predictor,
    keyframes: Sequence[Keyframe],
    frame: Frame,
    intrinsics: Intrinsics,
    config: Config,
) -> Relocalisation | None:
    """Pose of `frame` against one of the last keyframes, verified by dense flow; None = not found.

    Tries the most recent keyframes, newest first, and takes the one with most feature matches.
    """
    settings = config.relocalization
    points, descriptors = orb(frame.features, settings.features)
    if descriptors is None:
        return None
    first = max(0, len(keyframes) - settings.keyframes)
    scored = [
        (len(m), number, m)
        for number in range(first, len(keyframes))
        if len(m := _matches(keyframes[number], points, descriptors, settings.features)[0])
        >= settings.minimum_matches
    ]
    for _, number, _ in sorted(scored, key=lambda s: (-s[0], -s[1]))[: settings.candidates]:
        pose = _pose(keyframes[number], points, descriptors, intrinsics, config)
        if pose is None:
            continue
        found = _verify(predictor, keyframes[number], frame, pose, intrinsics, config)
        if found is not None:
            return Relocalisation(number, found.T_fk)
    return None


def orb(features: Features, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """ORB corners [N, 2] px and descriptors [N, 32] (None where the image has none)."""
    detector = cv2.ORB_create(count, fastThreshold=7)
    corners, descriptors = detector.detectAndCompute(features.grey.numpy(), None)
    return np.array([c.pt for c in corners], np.float32).reshape(-1, 2), descriptors


def _matches(
    keyframe: Keyframe, points: np.ndarray, descriptors: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Matched pixels [M, 2] of the keyframe and of the frame (mutual nearest descriptors)."""
    corners, known = orb(keyframe.frame.features, count)
    if known is None:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(known, descriptors)
    pairs = [p for p in pairs if p.distance < 64]
    first = np.array([p.queryIdx for p in pairs], int)
    second = np.array([p.trainIdx for p in pairs], int)
    return corners[first], points[second]


def _pose(
    keyframe: Keyframe,
    points: np.ndarray,
    descriptors: np.ndarray,
    intrinsics: Intrinsics,
    config: Config,
) -> Tensor | None:
    """Perspective-n-point pose from matched features and the keyframe's depth at the nearest cell."""
    first, second = _matches(keyframe, points, descriptors, config.relocalization.features)
    stride = config.flow.grid_stride
    columns = len(range(stride // 2, keyframe.frame.features.grey.shape[1], stride))
    cell = np.floor(first / stride).astype(int)
    place = torch.from_numpy(cell[:, 1] * columns + np.minimum(cell[:, 0], columns - 1))
    place = place.clamp(max=len(keyframe.depth.value) - 1)
    known = (keyframe.depth.information[place] > 0).numpy()
    if known.sum() < config.relocalization.minimum_matches:
        return None
    X = unproject(torch.from_numpy(first), keyframe.depth.value[place], intrinsics).numpy()
    return perspective_n_point(X[known], second[known], intrinsics, config.relocalization.error)


def _verify(
    predictor: Predictor,
    keyframe: Keyframe,
    frame: Frame,
    T_fk: Tensor,
    intrinsics: Intrinsics,
    config: Config,
) -> TrackResult | None:
    """Dense flow, from nothing and then from where the pose says, must agree with one pose."""
    grid = predictor.grid
    target, _ = project_grid(grid, keyframe.depth, T_fk, intrinsics)
    flow = (target - grid.pixel).nan_to_num(0.0, 0.0, 0.0).clamp(-grid.width / 2, grid.width / 2)
    coarse = flow.reshape(grid.rows, grid.columns, 2).numpy()
    dense = cv2.resize(coarse, (grid.width, grid.height), interpolation=cv2.INTER_LINEAR)
    guess = PairGuess(torch.from_numpy(dense), None)
    pair = predictor.pair(keyframe.frame.features, frame.features, guess, fine=True)
    result = track(grid.pixel, keyframe.depth, pair.forward, T_fk, intrinsics, config.tracking)
    settings = config.relocalization
    good = result.inlier_fraction > settings.inliers and pair.match_fraction > settings.overlap
    return result if good and result.count >= config.tracking.minimum_points else None
