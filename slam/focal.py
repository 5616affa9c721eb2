"""Focal length from pointmaps, with its variance, and the fusion of many such estimates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.camera import pixel_grid

ITERATIONS = 50
CELLS = 4  # by as many: parts of the image whose errors are taken to be independent
SMALLEST_ERROR = 1e-6  # px


@dataclass(frozen=True, slots=True)
class FocalEstimate:
    """A focal length and how well it is known."""

    focal: float  # px, of both axes
    variance: float  # px^2; inf = cannot be told


@dataclass(frozen=True, slots=True)
class _Rays:
    """The usable pixels of a pointmap."""

    pixel: Tensor  # [P, 2] float64 px, from the principal point
    m: Tensor  # [P, 2] float64, (x/z, y/z) of their points
    weight: Tensor  # [P] float64, confidence
    cell: Tensor  # [P] int64, which part of the image


def focal_from_pointmap(
    X_C: Tensor, confidence: Tensor, principal_point: tuple[float, float]
) -> FocalEstimate:
    """Focal length that best projects a pointmap onto its own pixel grid.

    Minimises the confidence-weighted sum of distances |pixel - f (x/z, y/z)| by Weiszfeld's
    iteration (Wang et al., DUSt3R, CVPR 2024, section 3.3). The variance is a sandwich estimate
    over parts of the image, as errors of neighbouring pixels are anything but independent. It tells
    nothing of an error that all of the pointmap shares: `fuse_focals` sees that one.

    Args:
        X_C: [H, W, 3] points of the pixels, camera frame.
        confidence: [H, W] >= 0; 0 leaves the pixel out.
        principal_point: (cx, cy), px.
    Raises ValueError when no point lies in front of the camera, off its axis.
    """
    rays = _rays(X_C, confidence, principal_point)
    focal, reweighted = math.nan, rays.weight
    for _ in range(ITERATIONS):
        previous = focal
        normal = (reweighted * (rays.m * rays.m).sum(-1)).sum()
        focal = float((reweighted * (rays.m * rays.pixel).sum(-1)).sum() / normal)
        if abs(focal - previous) < 1e-6 * abs(focal):
            break
        error = torch.linalg.vector_norm(rays.pixel - focal * rays.m, dim=-1)
        reweighted = rays.weight / error.clamp(min=SMALLEST_ERROR)
    return FocalEstimate(focal, _variance(rays, focal))


def fuse_focals(estimates: Sequence[FocalEstimate]) -> FocalEstimate:
    """One focal length from several keyframes' (log-normal random effects, DerSimonian-Laird).

    Where they scatter more than their variances say, the scatter counts: the fused variance does
    not fall below what the keyframes' disagreement allows. Those that are not finite or not
    positive are left out; without any, the focal is nan and the variance inf.
    """
    usable = [e for e in estimates if e.focal > 0 and 0 <= e.variance < math.inf]
    if not usable:
        return FocalEstimate(math.nan, math.inf)
    log_focal = torch.tensor([math.log(e.focal) for e in usable], dtype=torch.float64)
    variance = torch.tensor([e.variance / e.focal**2 for e in usable], dtype=torch.float64)
    variance = variance.clamp(min=1e-12)
    weight = 1 / variance
    mean = (weight * log_focal).sum() / weight.sum()
    scatter = (weight * (log_focal - mean) ** 2).sum() - (len(usable) - 1)
    scale = weight.sum() - weight.square().sum() / weight.sum()
    between = float(scatter / scale) if len(usable) > 1 else 0.0
    weight = 1 / (variance + max(between, 0.0))
    focal = math.exp(float((weight * log_focal).sum() / weight.sum()))
    return FocalEstimate(focal, focal**2 / float(weight.sum()))


def _rays(X_C: Tensor, confidence: Tensor, principal_point: tuple[float, float]) -> _Rays:
    height, width = confidence.shape
    place = pixel_grid(height, width, X_C.device, torch.int64)
    u, v = place.unbind(-1)
    cell = (CELLS * v // height) * CELLS + CELLS * u // width
    pixel = place - torch.tensor(principal_point, dtype=torch.float64, device=X_C.device)
    valid = (confidence > 0) & (X_C[..., 2] > 0) & X_C.isfinite().all(dim=-1)
    X = X_C[valid].double()
    m = X[:, :2] / X[:, 2:]
    if not (m.abs() > 0).any():
        raise ValueError("focal length: wanted points in front of the camera with confidence > 0")
    return _Rays(pixel[valid], m, confidence[valid].double(), cell[valid])


def _variance(rays: _Rays, focal: float) -> float:
    """Spread of the gradients of the image's parts over the squared curvature, px^2."""
    error = rays.pixel - focal * rays.m
    length = torch.linalg.vector_norm(error, dim=-1).clamp(min=SMALLEST_ERROR)
    along = (rays.m * error).sum(-1) / length
    curvature = (rays.weight * (rays.m.square().sum(-1) - along.square()) / length).sum()
    gradient = rays.m.new_zeros(CELLS * CELLS).index_add(0, rays.cell, rays.weight * along)
    count = len(rays.cell.unique())
    if count < 2 or not curvature > 0:
        return math.inf
    return float(count / (count - 1) * gradient.square().sum() / curvature**2)
