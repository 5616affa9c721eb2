"""Matching of pointmaps: the pixel whose viewing ray fits a point, then the best descriptor there.

Notation: image f is searched; points and descriptors of other pixels, seen by f's camera, are
sought in it.
"""

from __future__ import annotations

from typing import NamedTuple

import _slam_native as _native
import torch
from torch import Tensor
from torch.nn import functional

from slam.kernels.checks import check, check_not_negative, check_positive, where

CHANNELS = 8  # descriptors are padded to a multiple of it
MOST_CHANNELS = 32
ALIGNMENT = 16  # bytes, of a ray in memory


class RayMatches(NamedTuple):
    """Where points fit the viewing rays of an image."""

    target: Tensor  # [P, 2] float32 px, always inside of the image
    error: Tensor  # [P] float32 px, between the target's ray and the point's; inf = no ray
    gap: Tensor  # [P] float32, distance between point and surface over the smaller of theirs


class RefinedMatches(NamedTuple):
    """Where descriptors fit best."""

    target: Tensor  # [P, 2] float32 px
    gap: Tensor  # [P] float32, as of RayMatches; inf = not refined


def match_rays(
    rays: Tensor, points: Tensor, starts: Tensor, *, iterations: int, damping: float
) -> RayMatches:
    """The pixels of an image whose viewing rays pass through points: iterative projection.

    Levenberg-Marquardt on the pixel, for the difference of unit rays; rays are bilinear between
    pixels, and their derivatives lie in the plane at right angles to the ray (Murai et al. 2025,
    MASt3R-SLAM, section 3.2, where they do not). It ends after a step below 0.001 px.

    Args:
        rays: [h, w, 4] float32: unit viewing ray of each pixel, then the distance of what it saw;
            0 = not measured. Every ray has to be finite.
        points: [P, 3] float32, in the same camera, in the same unit as the distances.
        starts: [S, P, 2] float32 px; of the S places the one that fits best is where it starts.
        damping: of the first step, relative to the mean curvature.
    The gap is measured at the nearest pixel; inf where that was not measured. Where a point is
    not finite or 0, the target is the first start and error and gap are inf.
    """
    check("points", points, (-1, 3), points)
    check("rays", rays, (-1, -1, 4), points)
    check("starts", starts, (-1, len(points), 2), points)
    _check_searched(rays, points)
    if len(starts) == 0:
        raise ValueError("starts: want shape [1 or more, P, 2], got none; give one place a point")
    check_positive(iterations=iterations)
    check_not_negative(damping=damping)
    out = RayMatches(points.new_empty(len(points), 2), *points.new_empty(2, len(points)))
    arguments = _aligned(rays), points, starts, iterations, damping, *out
    _native.match_rays(*arguments, *where(points))
    return out


def refine_matches(
    descriptors: Tensor,
    sought: Tensor,
    rays: Tensor,
    points: Tensor,
    start: Tensor,
    active: Tensor,
    *,
    radius: int,
    dilation: int,
) -> RefinedMatches:
    """Move matches to the pixels near them whose descriptors fit best, then between pixels.

    Windows of (2 radius + 1)^2 pixels, `dilation` px apart in the first and 1 px less in each that
    follows, are centred on the best pixel so far; the last step is a parabola through its
    neighbours' scores, at most half a pixel. The score is the dot product.

    Args:
        descriptors: [h, w, D] float32, D <= 32; sought: [P, D] float32.
        rays: [h, w, 4] and points: [P, 3] as for match_rays.
        start: [P, 2] float32 px; active: [P] bool, the others stay where they are.
    The gap is measured at the best pixel.
    """
    check("points", points, (-1, 3), points)
    check("rays", rays, (-1, -1, 4), points)
    check("descriptors", descriptors, (*rays.shape[:2], -1), points)
    check("sought", sought, (len(points), descriptors.shape[-1]), points)
    check("start", start, (len(points), 2), points)
    check("active", active, (len(points),), points, torch.bool)
    _check_searched(rays, points)
    check_not_negative(radius=radius, dilation=dilation)
    channels = descriptors.shape[-1]
    if not 1 <= channels <= MOST_CHANNELS:
        raise ValueError(
            f"descriptors: want 1 to {MOST_CHANNELS} channels, got {channels}; reduce them"
        )
    out = RefinedMatches(torch.empty_like(start), torch.empty_like(start[:, 0]))
    features = _padded(descriptors), _padded(sought)
    arguments = *features, _aligned(rays), points, start, active, radius, dilation, *out
    _native.refine_matches(*arguments, *where(points))
    return out


def _check_searched(rays: Tensor, points: Tensor) -> None:
    if len(points) and not rays.numel():
        raise ValueError(
            f"rays: want at least one pixel to search, got shape {list(rays.shape)}; "
            "leave the call out"
        )


def _aligned(rays: Tensor) -> Tensor:
    """Rays that a GPU can load whole."""
    return rays if rays.data_ptr() % ALIGNMENT == 0 else rays.clone()


def _padded(descriptors: Tensor) -> Tensor:
    """With zeros up to a multiple of CHANNELS channels."""
    missing = -descriptors.shape[-1] % CHANNELS
    return functional.pad(descriptors, (0, missing)).contiguous() if missing else descriptors
