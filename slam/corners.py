"""Sparse features: ORB corners of an image, and which of two images are the same."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from slam.frame import Features

FURTHEST = 64  # bits that the descriptors of a match differ in, less than


@dataclass(frozen=True, slots=True)
class Corners:
    """Sparse features of one image."""

    pixel: np.ndarray  # [N, 2] float32 (u, v) px
    descriptor: np.ndarray  # [N, 32] uint8


def orb(features: Features, count: int) -> Corners:
    """ORB corners and descriptors of a working image (Rublee et al., ICCV 2011)."""
    detector = cv2.ORB.create(count, fastThreshold=7)
    found, descriptors = detector.detectAndCompute(features.grey.numpy(), None)
    pixel = np.array([c.pt for c in found], np.float32).reshape(-1, 2)
    return Corners(pixel, np.empty((0, 32), np.uint8) if descriptors is None else descriptors)


def match_corners(first: Corners, second: Corners) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [M, 2] of mutual nearest descriptors, in the first and in the second image."""
    if len(first.pixel) == 0 or len(second.pixel) == 0:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    found = matcher.match(first.descriptor, second.descriptor)
    pairs = [p for p in found if p.distance < FURTHEST]
    return (
        first.pixel[[p.queryIdx for p in pairs]],
        second.pixel[[p.trainIdx for p in pairs]],
    )
