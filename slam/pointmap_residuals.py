"""Matched points of two pointmaps as a least-squares problem on their Sim(3): rays or pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slam import kernels
from slam.camera import pixel_grid
from slam.frame import Intrinsics
from slam.least_squares import Descent
from slam.lie import sim3_act
from slam.pointmap_settings import DescentSettings, ResidualSettings

NEGLIGIBLE = 1e-6  # of the robust cost of one match: no reason for another step
SINGULAR = 1e-5  # smallest eigenvalue of a Hessian with unit diagonal: float32 residuals reach 4e-7


@dataclass(frozen=True, slots=True)
class PointMatches:
    """Points of two pointmaps that are the same surface. P matches of frame f in keyframe k."""

    pixel_k: Tensor  # [P, 2] float32 px, where the keyframe sees them
    X_k: Tensor  # [P, 3] float32, in the keyframe's camera
    X_f: Tensor  # [P, 3] float32, in the frame's camera
    weight: Tensor  # [P] float32, confidence of the match; 0 = none

    @property
    def count(self) -> int:
        """Matches with a weight."""
        return int((self.weight > 0).sum())


def descent_of(settings: DescentSettings, matches: int) -> Descent:
    """How to minimise the robust cost of a number of matches."""
    return Descent(
        settings.iterations, settings.damping, settings.relative_decrease, NEGLIGIBLE * matches
    )


def normal_equations(
    matches: PointMatches,
    T_kf: Tensor,
    settings: ResidualSettings,
    intrinsics: Intrinsics | None = None,
) -> kernels.NormalEquations:
    """The problem at T_kf [8], which takes points of the frame to the keyframe.

    Args: intrinsics: of the keyframe, px; None: compare viewing rays, which needs no calibration.
    """
    if intrinsics is None:
        return kernels.ray_normal_equations(
            matches.X_k,
            matches.X_f,
            matches.weight,
            T_kf,
            sigma_ray=settings.sigma_ray,
            sigma_distance=settings.sigma_distance,
            huber=settings.huber,
        )
    return kernels.pixel_depth_normal_equations(
        matches.pixel_k,
        matches.X_k,
        matches.X_f,
        matches.weight,
        T_kf,
        intrinsics,
        sigma_pixel=settings.sigma_pixel,
        sigma_depth=settings.sigma_depth,
        huber=settings.huber,
    )


def without_outliers(
    matches: PointMatches,
    T_kf: Tensor,
    limit: float,
    settings: ResidualSettings,
    intrinsics: Intrinsics | None = None,
) -> PointMatches:
    """The matches less those that T_kf leaves beyond `limit` times the errors of the middle one.

    The middle one counts as 1 sigma at least, so that exact matches are not thinned out.
    """
    error = whitened_errors(matches, T_kf, settings, intrinsics)
    counted = matches.weight > 0
    if not counted.any():
        return matches
    bound = limit * error[counted].median().clamp(min=1.0)
    return replace(matches, weight=torch.where(error <= bound, matches.weight, 0.0))


def whitened_errors(
    matches: PointMatches,
    T_kf: Tensor,
    settings: ResidualSettings,
    intrinsics: Intrinsics | None = None,
) -> Tensor:
    """Largest whitened element [P] of each match's residual; inf where nothing is predicted."""
    X_k, Y = matches.X_k.double(), sim3_act(T_kf.to(matches.X_f.device), matches.X_f.double())
    if intrinsics is None:
        n, m = (torch.linalg.vector_norm(X, dim=-1, keepdim=True) for X in (Y, X_k))
        rows = [(X_k / m - Y / n) / settings.sigma_ray, (m / n).log() / settings.sigma_distance]
        valid = (n > 0) & (m > 0)
    else:
        focal, centre = Y.new_tensor(intrinsics).view(2, 2)
        n, m = Y[:, 2:], X_k[:, 2:]
        error = matches.pixel_k - (focal * Y[:, :2] / n + centre)
        rows = [error / settings.sigma_pixel, (m / n).log() / settings.sigma_depth]
        valid = (n > 0) & (m > 0)
    largest = torch.cat(rows, -1).abs().amax(-1) * matches.weight.double().sqrt()
    return torch.where(valid[:, 0], largest, torch.inf).nan_to_num(torch.inf)


def is_determined(H: Tensor) -> bool:
    """Whether matches with the Hessian H [7, 7] tell all of a Sim(3)."""
    diagonal = H.diagonal()
    if not (torch.isfinite(H).all() and (diagonal > 0).all()):
        return False
    root = diagonal.sqrt()
    return bool(torch.linalg.eigvalsh(H / torch.outer(root, root))[0] > SINGULAR)


def on_rays(X_C: Tensor, intrinsics: Intrinsics) -> Tensor:
    """Points [..., H, W, 3] of a pointmap moved onto their pixels' rays, their depths kept."""
    fx, fy, cx, cy = intrinsics
    height, width = X_C.shape[-3:-1]
    u, v = pixel_grid(height, width, X_C.device, X_C.dtype).unbind(-1)
    ray = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
    return ray * X_C[..., 2:]
