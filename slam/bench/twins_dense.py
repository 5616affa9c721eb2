"""Dense bundle adjustment in plain float32 torch: what the native kernel's speed is compared to.

Vectorised over edges and pixels; the Schur complement by matrix products, the solve dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slam.bench.twins import (
    BEHIND,
    Moved,
    depth_derivative,
    huber_cost,
    huber_factor,
    move,
    pixels,
    projection_rows,
    rotation_translation,
)
from slam.kernels import DenseProblem
from slam.lie import se3_adjoint, se3_inv, se3_matrix, se3_mul


@dataclass(frozen=True, slots=True)
class Rows:
    """Whitened, robust rows of every pixel of every edge."""

    pose: Tensor  # [E, P, 2, 6] d(u, v)/d(twist of T_ji)
    depth: Tensor  # [E, P, 2] d(u, v)/d(inverse depth of i)
    focal: Tensor  # [E, P, 2] d(u, v)/d(log focal)
    r: Tensor  # [E, P, 2]


def dense_ba_cost(problem: DenseProblem) -> float:
    """As slam.kernels.dense_ba_cost."""
    moved, _ = _move_edges(problem)
    valid = moved.front & (problem.weight > 0)
    r = problem.target - pixels(moved, problem.intrinsics)
    error = problem.weight.sqrt() * r.norm(dim=-1)
    return float(_dense_cost(problem, torch.where(valid, error, BEHIND)))


def dense_ba_step(
    problem: DenseProblem,
    damping: float,
    depth_damping: float,
    min_value: float,
    max_value: float,
) -> tuple[Tensor, Tensor]:
    """Twists [N, 6] float64 on the CPU and inverse depths [N, P], as slam.kernels.dense_ba_step."""
    rows = _dense_rows(problem)
    keyframes, count = problem.inverse_depth.shape
    i, j = problem.edges.to(rows.r.device, torch.long).unbind(-1)
    A = _camera_rows(problem, rows)
    index = torch.cat([_six(i), _six(j), torch.full_like(i, 6 * keyframes)[:, None]], -1)
    size = 6 * keyframes + 1
    flat_A = A.flatten(1, 2)  # [E, 2 P, 13]
    H = torch.zeros(size, size, device=A.device)
    H.index_put_((index[:, :, None], index[:, None, :]), flat_A.transpose(1, 2) @ flat_A, True)
    g = torch.zeros(size, device=A.device)
    g.index_put_((index,), (rows.r.flatten(1)[:, None] @ flat_A)[:, 0], True)
    E = torch.zeros(size, keyframes, count, device=A.device)
    by_depth = (A * rows.depth[..., None]).sum(2).transpose(1, 2)
    E.index_put_((index, i[:, None].expand_as(index)), by_depth, True)
    zero = torch.zeros_like(problem.inverse_depth)
    C = zero.index_add(0, i, (rows.depth**2).sum(-1)) + problem.prior_weight
    b = zero.index_add(0, i, (rows.depth * rows.r).sum(-1))
    b = b + problem.prior_weight * (problem.prior - problem.inverse_depth)
    C = C * (1 + depth_damping)
    inverse = torch.where(C > 1e-12, 1 / C, 0.0)
    flat = E.reshape(size, -1)
    scaled = flat * inverse.reshape(-1)
    S, rhs = H - scaled @ flat.T, g - scaled @ b.reshape(-1)
    step = _solve(problem, S, rhs, damping)
    rho = problem.inverse_depth + inverse * (b - (flat.T @ step).reshape_as(b))
    rho = torch.where(C > 1e-12, rho.clamp(min_value, max_value), problem.inverse_depth)
    return step[:-1].reshape(keyframes, 6).double().cpu(), rho


def _solve(problem: DenseProblem, S: Tensor, rhs: Tensor, damping: float) -> Tensor:
    """The step of all poses and of log focal [6 N + 1]; 0 where one does not move."""
    moves = torch.cat(
        [(~problem.fixed).cpu().repeat_interleave(6), torch.tensor([problem.refine_focal])]
    )
    free = moves.nonzero()[:, 0].to(S.device)
    reduced = S[free][:, free].double()
    reduced = reduced + torch.diag(damping * reduced.diagonal() + 1e-9)
    step = torch.zeros_like(rhs)
    step[free] = torch.linalg.solve(reduced, rhs[free].double()).float()
    return step


def _six(place: Tensor) -> Tensor:
    """Columns [E, 6] of the poses at these places."""
    return 6 * place[:, None] + torch.arange(6, device=place.device)


def _camera_rows(problem: DenseProblem, rows: Rows) -> Tensor:
    """[E, P, 2, 13]: by the twists of i and j, and log focal. T_ji moves by xi_j - Ad xi_i."""
    adjoint = se3_adjoint(_edge_poses(problem)).to(rows.pose.device, torch.float32)
    by_i = -(rows.pose @ adjoint[:, None])
    return torch.cat([by_i, rows.pose, rows.focal[..., None]], -1)


def _dense_rows(problem: DenseProblem) -> Rows:
    K = problem.intrinsics
    moved, t = _move_edges(problem)
    rho = problem.inverse_depth[problem.edges[:, 0].to(moved.x.device, torch.long)]
    pose = projection_rows(moved.x, moved.y, rho * moved.inverse_z, K)
    r = problem.target - pixels(moved, K)
    valid = moved.front & (problem.weight > 0)
    error = problem.weight.sqrt() * r.norm(dim=-1)
    used = valid & (error <= problem.outlier)
    root = torch.where(used, (problem.weight * huber_factor(error, problem.huber)).sqrt(), 0.0)
    return Rows(
        pose * root[..., None, None],
        depth_derivative(moved, t, K) * root[..., None],
        _focal_rows(problem, moved) * root[..., None],
        torch.where(used[..., None], r, 0.0) * root[..., None],
    )


def _focal_rows(problem: DenseProblem, moved: Moved) -> Tensor:
    """d(u, v)/d(log focal) [E, P, 2]: the ray of i shrinks as the focal length grows."""
    fx, fy = problem.intrinsics[:2]
    R, _ = rotation_translation(se3_matrix(_edge_poses(problem)), moved.x)
    turned = moved.a - R[:, None, :, 2]  # by the ray without its z
    du = fx * (moved.x - (turned[..., 0] - moved.x * turned[..., 2]) * moved.inverse_z)
    dv = fy * (moved.y - (turned[..., 1] - moved.y * turned[..., 2]) * moved.inverse_z)
    return torch.stack([du, dv], -1)


def _edge_poses(problem: DenseProblem) -> Tensor:
    """T_ji [E, 7] of the edges."""
    i, j = problem.edges.cpu().long().unbind(-1)
    poses = problem.poses.cpu()
    return se3_mul(poses[j], se3_inv(poses[i]))


def _move_edges(problem: DenseProblem) -> tuple[Moved, Tensor]:
    """Every edge's pixels in its other camera, and the edges' translations [E, 3]."""
    R, t = rotation_translation(se3_matrix(_edge_poses(problem)), problem.weight)
    rho = problem.inverse_depth[problem.edges[:, 0].to(problem.weight.device, torch.long)]
    return move(problem.pixel, rho, R, t, problem.intrinsics), t


def _dense_cost(problem: DenseProblem, error: Tensor) -> Tensor:
    charged = huber_cost(error.clamp(max=problem.outlier), problem.huber)
    data = torch.where(problem.weight > 0, charged, 0.0).sum()
    d = problem.prior - problem.inverse_depth
    return data + 0.5 * (problem.prior_weight * d**2).sum()
