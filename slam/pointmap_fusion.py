"""A keyframe's pointmap as the mean of all that was seen of it, by confidence."""

from __future__ import annotations

import torch
from torch import Tensor

from slam.frame import FusedPointmap, InverseDepth
from slam.lie import sim3_act
from slam.pointmap_settings import PointmapFusionSettings
from slam.predictors.grid import Grid

NEAREST = 1e-6  # depth of a point that is in front of the camera


def start_pointmap(X_C: Tensor, confidence: Tensor) -> FusedPointmap:
    """The first observation [H, W, 3] and [H, W]; points that are not finite count as unknown.

    Raises ValueError where the shapes do not fit.
    """
    _check(X_C, confidence, confidence)
    points, known = _usable(X_C, confidence)
    return FusedPointmap(points, known, 1)


def fuse_pointmap(
    fused: FusedPointmap,
    X_f: Tensor,
    confidence: Tensor,
    T_kf: Tensor,
    settings: PointmapFusionSettings,
) -> FusedPointmap:
    """Take in what a frame says of the keyframe's pixels.

    The mean weighted by confidence (MASt3R-SLAM, section 3.3), but what disagrees with the stored
    point counts against it instead of dragging it along: a point that is contradicted often enough
    is replaced, one that is contradicted once stays.

    Args:
        X_f: [H, W, 3] float32, the keyframe's pixels in the frame's camera (X_fk).
        confidence: [H, W] of those.
        T_kf: [8] float64 Sim(3), takes points of the frame to the keyframe.
    Raises ValueError where the shapes do not fit.
    """
    _check(X_f, confidence, fused.confidence)
    X, weight = _usable(sim3_act(T_kf, X_f.double()).float(), confidence)
    distance = torch.linalg.vector_norm(fused.X_C, dim=-1).clamp(min=1e-12)
    apart = torch.linalg.vector_norm(X - fused.X_C, dim=-1) / distance
    agrees = torch.where(fused.confidence > 0, 1 / (1 + (apart / settings.gate) ** 2), 1.0)
    kept = (fused.confidence - (1 - agrees) * weight).clamp(min=0)
    weight = torch.where(kept > 0, agrees * weight, weight)
    total = kept + weight
    share = torch.where(total > 0, weight / total.clamp(min=1e-30), 0.0)
    return FusedPointmap(torch.lerp(fused.X_C, X, share[..., None]), total, fused.count + 1)


def known_points(fused: FusedPointmap) -> Tensor:
    """The points [H, W, 3]; 0 where nothing is known."""
    return torch.where(fused.confidence[..., None] > 0, fused.X_C, 0.0)


def grid_depth(grid: Grid, fused: FusedPointmap, sigma: float) -> InverseDepth:
    """What a pointmap says of the depths of the grid's pixels; the median where it says nothing.

    Args: sigma: relative standard deviation of a depth whose confidence is 1.
    """
    z, confidence = grid.sample(fused.X_C[..., 2]), grid.sample(fused.mean.confidence)
    known = (confidence > 0) & (z > NEAREST)
    median = float(z[known].median()) if known.any() else 1.0
    value = 1 / torch.where(known, z, median)
    information = torch.where(known, confidence / (sigma * value) ** 2, 0.0)
    return InverseDepth(value.contiguous(), information.contiguous())


def _usable(X: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
    """Both, with confidence 0 and a finite point where one of them is no number."""
    good = X.isfinite().all(-1) & confidence.isfinite() & (confidence > 0)
    return torch.where(X.isfinite().all(-1, keepdim=True), X, 0.0), torch.where(
        good, confidence, 0.0
    )


def _check(X: Tensor, confidence: Tensor, like: Tensor) -> None:
    if confidence.shape != like.shape or X.shape != (*like.shape, 3) or like.dim() != 2:
        raise ValueError(
            f"pointmap: wanted points {[*like.shape, 3]} and confidence {list(like.shape)}, "
            f"got {list(X.shape)} and {list(confidence.shape)}"
        )
