"""Keyframe depth: triangulate a frame's measurements, fuse them, hand them on."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from slam import kernels
from slam.config import MappingSettings
from slam.frame import Correspondence, Intrinsics, InverseDepth
from slam.lie import se3_inv, se3_matrix, se3_mul
from slam.predictors.grid import Grid

SURROUNDINGS = (1.5, 4.5, 13.5, 40.0)  # grid steps, deviations of the windows of `extrapolated`
SUPPORT = 0.02  # share of a window that must be known
FLATTER = np.diag([0.0, 0.01, 0.01])  # prior on the slopes of its planes, against what is seen
SINGULAR = 1e-12 * np.eye(3)  # keeps them solvable
RANGE = 100.0  # its depths are at most so many times nearer or farther than the median
TINY = 1e-6
FAR = 0.01  # of the median inverse depth: what is nearer to 0 is as vague as that
RIM = 2.0  # px round an image that a quick look takes for a part of it
SPARSE = 6  # grid rows and columns between the pixels that tell covisibility


def observe(
    grid: Grid,
    measured: Correspondence,
    T_ji: Tensor,
    intrinsics: Intrinsics,
    settings: MappingSettings,
) -> InverseDepth:
    """Inverse depth of image i's grid pixels from where they land in image j.

    Args: T_ji: [7] float64 SE(3), takes points of camera i to camera j.
    """
    value, information = kernels.triangulate_inverse_depth(
        grid.pixel, measured.target, measured.weight, T_ji, intrinsics, gate=settings.gate
    )
    return InverseDepth(value, information)


def fuse(depth: InverseDepth, observed: InverseDepth, settings: MappingSettings) -> InverseDepth:
    """Inverse-variance fusion with a chi-square gate; neither argument changes."""
    value, information = depth.value.clone(), depth.information.clone()
    kernels.fuse_inverse_depth(
        value,
        information,
        observed.value,
        observed.information,
        gate=settings.gate,
        relative_floor=settings.relative_floor,
        initial=settings.initial,
        decay=settings.decay,
    )
    return InverseDepth(value, information)


def hand_on(
    grid: Grid,
    depth: InverseDepth,
    T_ji: Tensor,
    intrinsics: Intrinsics,
    settings: MappingSettings,
) -> InverseDepth:
    """Depth of keyframe i seen from a new keyframe j: warped forward, holes filled with a guess."""
    value, information = kernels.warp_inverse_depth(
        depth.value,
        depth.information,
        T_ji,
        intrinsics,
        grid.shape,
        inflation=settings.warp_inflation,
    )
    return fill_holes(grid, InverseDepth(value, information), settings)


def fill_holes(grid: Grid, depth: InverseDepth, settings: MappingSettings) -> InverseDepth:
    """Small holes get their neighbours' mean and a large variance, big ones the median and none."""
    value = depth.value.reshape(grid.rows, grid.columns).numpy().copy()
    information = depth.information.reshape(grid.rows, grid.columns).numpy().copy()
    known = information > 0
    median = np.median(value[known]) if known.any() else 1.0
    for size in (3, 5):
        total = cv2.boxFilter(information, -1, (size, size), normalize=False)
        mean = cv2.boxFilter(value * information, -1, (size, size), normalize=False)
        hole = (information <= 0) & (total > 0)
        value[hole] = mean[hole] / total[hole]
        scale = np.maximum(value[hole], max(FAR * median, TINY))
        information[hole] = (settings.hole_sigma * scale) ** -2
    value[information <= 0] = median
    return InverseDepth(
        torch.from_numpy(value.reshape(-1)), torch.from_numpy(information.reshape(-1))
    )


def extrapolated(grid: Grid, depth: InverseDepth, known: Tensor) -> InverseDepth:
    """The depth where it is known [P], and planes through the known ones around it elsewhere.

    Inverse depth is linear over the image of a plane. Lines are fitted to ever larger surroundings
    until one holds enough (normalised convolution; Knutsson & Westin, CVPR 1993). Information 1
    everywhere: it is a guess of where to look.

    Args: known: [P] bool.
    """
    shape = (grid.rows, grid.columns)
    weight = known.reshape(shape).numpy().astype(np.float64)
    value = depth.value.reshape(shape).numpy().astype(np.float64)
    v, u = np.mgrid[: grid.rows, : grid.columns] / grid.columns
    out = np.where(weight > 0, value, np.nan)
    for radius in SURROUNDINGS:
        basis = (np.ones(shape), u, v)
        mean = partial(cv2.GaussianBlur, ksize=(0, 0), sigmaX=radius)
        A = np.stack([np.stack([mean(weight * a * b) for a in basis], -1) for b in basis], -1)
        right = np.stack([mean(weight * a * value) for a in basis], -1)
        enough = np.isnan(out) & (A[..., 0, 0] > SUPPORT)
        ridge = (radius / grid.columns) ** 2 * A[..., :1, :1] * FLATTER + SINGULAR
        coefficients = np.linalg.solve((A + ridge)[enough], right[enough][..., None])
        out[enough] = (np.stack(basis, -1)[enough] * coefficients[..., 0]).sum(-1)
    middle = np.median(value[weight > 0]) if weight.any() else 1.0
    filled = np.clip(np.nan_to_num(out, nan=middle), middle / RANGE, middle * RANGE)
    return InverseDepth(
        torch.from_numpy(filled.reshape(-1)).float(), torch.ones_like(depth.information)
    )


def covisibility(
    grid: Grid, depth: InverseDepth, T_ji: Tensor, intrinsics: Intrinsics
) -> tuple[Tensor, Tensor]:
    """Share of image i's known grid pixels that other images see, and the median px they move.

    Args: T_ji: [N, 7] SE(3), take points of camera i to each of N others.
    Returns two [N] float32, from a few hundred of the pixels; share 0 goes with inf px.
    """
    fx, fy, cx, cy = intrinsics
    places = grid.places(SPARSE, SPARSE // 2)
    pixel, value = grid.pixel[places], depth.value[places]
    u, v = pixel.unbind(-1)
    points = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
    M = se3_matrix(T_ji).float()
    Y = points @ M[:, :3, :3].transpose(1, 2) + value[:, None] * M[:, None, :3, 3]
    z = Y[..., 2].clamp(min=1e-6)
    target = torch.stack([fx * Y[..., 0] / z + cx, fy * Y[..., 1] / z + cy], -1)
    inside = (target >= 0).all(-1) & (target[..., 0] < grid.width) & (target[..., 1] < grid.height)
    seen = inside & (Y[..., 2] > 1e-3) & (depth.information[places] > 0)
    length = torch.linalg.vector_norm(target - pixel, dim=-1)
    median = torch.where(seen, length, torch.nan).nanmedian(-1).values
    return seen.float().mean(-1), median.nan_to_num(torch.inf)


def may_share(
    grid: Grid, depth: InverseDepth, T_ji: Tensor, intrinsics: Intrinsics, share: float
) -> Tensor:
    """Which [N] of other images may see more than a share of image i's known grid pixels.

    Quick, for thousands of them: a point is in an image where it is on the inner side of each of
    the planes through its rim. Images that `covisibility` finds to see more are all among them.

    Args: T_ji: [N, 7] SE(3), take points of camera i to each of N others.
    """
    fx, fy, cx, cy = intrinsics
    places = grid.places(SPARSE, SPARSE // 2)
    (u, v), value = grid.pixel[places].unbind(-1), depth.value[places]
    points = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u), value])
    points = points[:, depth.information[places] > 0]
    right, below = grid.width + RIM - cx, grid.height + RIM - cy
    planes = [[fx, 0, cx + RIM], [-fx, 0, right], [0, fy, cy + RIM], [0, -fy, below], [0, 0, 1]]
    M = se3_matrix(T_ji).float()[:, :3].transpose(0, 1).reshape(3, -1)
    inside = torch.ones(len(T_ji), points.shape[1], dtype=torch.bool)
    for plane in torch.tensor(planes) @ M:  # [5, 4 N]
        inside &= plane.reshape(-1, 4) @ points >= 0
    return inside.sum(-1) > share * len(places)


def project_grid(
    grid: Grid, depth: InverseDepth, T_ji: Tensor, intrinsics: Intrinsics
) -> tuple[Tensor, Tensor]:
    """Where image i's grid pixels land in image j [..., P, 2] px, and which are seen there.

    Args: depth: [..., P] of image i. T_ji: [..., 7], takes points of camera i to camera j.
    """
    fx, fy, cx, cy = intrinsics
    u, v = grid.pixel.unbind(-1)
    points = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
    M = se3_matrix(T_ji).float()
    Y = points @ M[..., :3, :3].mT + depth.value[..., None] * M[..., None, :3, 3]
    z = Y[..., 2:]
    target = Y[..., :2] / z.clamp(min=1e-6) * torch.tensor([fx, fy]) + torch.tensor([cx, cy])
    size = torch.tensor([grid.width, grid.height])
    inside = ((target >= 0) & (target < size)).all(-1)
    return target, inside & (z[..., 0] > 1e-3) & (depth.information > 0)


def rotation_translation(T: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation [3, 3] and translation [3], float32, of a pose [7]."""
    M = se3_matrix(T).float()
    return M[:3, :3].contiguous(), M[:3, 3].contiguous()


def relative(T_WC_i: Tensor, T_WC_j: Tensor) -> Tensor:
    """T_ji [7]: takes points of camera i to camera j."""
    return se3_mul(se3_inv(T_WC_j), T_WC_i)


def dense_flow(grid: Grid, target: Tensor) -> Tensor:
    """Flow [h, w, 2] px from where grid pixels land [P, 2], outliers and holes smoothed away."""
    limit = grid.width / 2
    flow = (target - grid.pixel).nan_to_num(0.0, 0.0, 0.0).clamp(-limit, limit)
    coarse = flow.reshape(grid.rows, grid.columns, 2).numpy()
    planes = [cv2.medianBlur(np.ascontiguousarray(coarse[..., k]), 5) for k in (0, 1)]
    size = (grid.width, grid.height)
    return torch.from_numpy(cv2.resize(np.dstack(planes), size, interpolation=cv2.INTER_LINEAR))
