"""The native kernels' computations in plain float32 torch: what their speed is compared to.

Vectorised over pixels and edges, as one would write them without a compiler. Same arguments and
conventions as slam.kernels; tensors on one device, poses float64 on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.kernels import Grid, Intrinsics
from slam.lie import se3_exp, se3_matrix, se3_mul, sim3_matrix

NEAREST = 1e-3  # depth of a moved point, in units of its own depth
BEHIND = 1e3  # whitened error charged where nothing is predicted
INLIER = 3.0  # whitened
FREE_ITERATIONS = 3  # of a pose in which every point pulls
STEP_TOLERANCE, COST_TOLERANCE = 1e-7, 1e-6
MOST_DAMPING = 1e10

# --- what several of them share ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moved:
    """Pixels with inverse depth, seen from another camera. Leading shapes [...] alike."""

    a: Tensor  # [..., 3] rotated rays, z of the ray was 1
    x: Tensor  # [...] normalised image coordinates
    y: Tensor
    inverse_z: Tensor  # [...] of the moved point, scaled by its inverse depth
    front: Tensor  # [...] bool


def move(pixel: Tensor, rho: Tensor, R: Tensor, t: Tensor, K: Intrinsics) -> Moved:
    """Pixels [P, 2] with inverse depths [..., P] by rotations R [..., 3, 3], translations t."""
    fx, fy, cx, cy = K
    u, v = pixel.unbind(-1)
    rays = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
    a = rays @ R.transpose(-1, -2)
    Y = a + rho[..., None] * t[..., None, :]
    front = Y[..., 2] > NEAREST
    inverse_z = 1 / torch.where(front, Y[..., 2], 1.0)
    return Moved(a, Y[..., 0] * inverse_z, Y[..., 1] * inverse_z, inverse_z, front)


def projection_rows(x: Tensor, y: Tensor, d: Tensor, K: Intrinsics) -> Tensor:
    """d(u, v)/d(twist) [..., 2, 6] of points at (x, y) with depth 1 / d, for a left step."""
    fx, fy = K[:2]
    zero = torch.zeros_like(x)
    u = torch.stack([fx * d, zero, -fx * d * x, -fx * x * y, fx * (1 + x * x), -fx * y], -1)
    v = torch.stack([zero, fy * d, -fy * d * y, -fy * (1 + y * y), fy * x * y, fy * x], -1)
    return torch.stack([u, v], -2)


def pixels(moved: Moved, K: Intrinsics) -> Tensor:
    """Where they land [..., 2] px."""
    fx, fy, cx, cy = K
    return torch.stack([fx * moved.x + cx, fy * moved.y + cy], -1)


def depth_derivative(moved: Moved, t: Tensor, K: Intrinsics) -> Tensor:
    """d(u, v)/d(inverse depth) [..., 2]; t: [..., 3] without the pixels' dimension."""
    fx, fy = K[:2]
    t = t[..., None, :]
    du = fx * (t[..., 0] - moved.x * t[..., 2]) * moved.inverse_z
    dv = fy * (t[..., 1] - moved.y * t[..., 2]) * moved.inverse_z
    return torch.stack([du, dv], -1)


def huber_cost(error: Tensor, huber: float) -> Tensor:
    """Huber's function of whitened errors."""
    return torch.where(error < huber, 0.5 * error**2, huber * (error - 0.5 * huber))


def huber_factor(error: Tensor, huber: float) -> Tensor:
    """Its factor on the squared residual."""
    return (huber / error.clamp(min=1e-30)).clamp(max=1.0)


def rotation_translation(M: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Both of matrices [..., 4, 4], float32 on the device of another tensor."""
    M = M.to(like.device, torch.float32)
    return M[..., :3, :3], M[..., :3, 3]


# --- poses ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Equations:
    """Normal equations of a pose."""

    H: Tensor  # [N, N] float64, on the CPU
    g: Tensor  # [N] float64, on the CPU
    cost: float
    inliers: int
    count: int


def pose_normal_equations(
    points: tuple[Tensor, ...], T_ji: Tensor, K: Intrinsics, huber: float, outlier: float
) -> Equations:
    """Points: pixel, inverse_depth, information, target, weight, as slam.kernels takes them."""
    pixel, rho, information, target, weight = points
    R, t = rotation_translation(se3_matrix(T_ji), pixel)
    counted = (weight > 0) & (information > 0)
    moved = move(pixel, rho, R, t, K)
    valid = counted & moved.front
    J = projection_rows(moved.x, moved.y, rho * moved.inverse_z, K)
    r = target - pixels(moved, K)
    du = depth_derivative(moved, t, K)
    # Rows times the root of W = (I / weight + du du^T / information)^-1
    ratio = weight / information.clamp(min=1e-12)
    root = (1 + ratio * (du * du).sum(-1)).sqrt()
    gain = ratio / (root * (1 + root))
    A = torch.cat([J, r[..., None]], -1)
    along = gain[:, None] * (du[..., None] * A).sum(1)
    A = weight.sqrt()[:, None, None] * (A - du[..., None] * along[:, None])
    error = A[..., 6].norm(dim=-1)
    used = valid & (error <= outlier)
    A = torch.where(used[:, None, None], A * huber_factor(error, huber).sqrt()[:, None, None], 0.0)
    H, g = _sums(A)
    charged = torch.where(valid, error, BEHIND).clamp(max=outlier)
    cost = torch.where(counted, huber_cost(charged, huber), 0.0).sum()
    inliers = (valid & (error < INLIER)).sum()
    return Equations(H, g, float(cost), int(inliers), int(counted.sum()))


def _sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """J^T J and J^T r, float64 on the CPU, of rows [P, R, N + 1] of [J, r]: one matrix product."""
    flat = rows.flatten(0, 1)
    total = (flat.T @ flat).double().cpu()
    return total[:-1, :-1], total[:-1, -1]


def solve_pose(
    points: tuple[Tensor, ...],
    T_init: Tensor,
    K: Intrinsics,
    huber: float,
    outlier: float,
    iterations: int,
) -> Tensor:
    """T_ji [7] float64, by Levenberg-Marquardt; the first 3 iterations without outlier bound."""
    T, taken = _descend(points, T_init, K, huber, math.inf, min(iterations, FREE_ITERATIONS))
    return _descend(points, T, K, huber, outlier, iterations - taken)[0]


def _descend(
    points: tuple[Tensor, ...], T: Tensor, K: Intrinsics, huber: float, outlier: float, most: int
) -> tuple[Tensor, int]:
    """The pose and the number of iterations it took."""
    now = pose_normal_equations(points, T, K, huber, outlier)
    damping, taken, converged = 1e-4, 0, False
    while taken < most and not converged and damping < MOST_DAMPING:
        taken += 1
        step = torch.linalg.solve(now.H + damping * torch.diag(now.H.diagonal()), now.g)
        moved = se3_mul(se3_exp(step), T)
        after = pose_normal_equations(points, moved, K, huber, outlier)
        change = now.cost - after.cost
        small = damping < 1 and abs(change) <= COST_TOLERANCE * now.cost
        converged = float(step.norm()) < STEP_TOLERANCE or small
        damping = max(damping / 10, 1e-10) if change >= 0 else damping * 10
        if change >= 0:
            T, now = moved, after
    return T, taken


def ray_normal_equations(
    X_k: Tensor,
    X_f: Tensor,
    weight: Tensor,
    T_kf: Tensor,
    sigma_ray: float,
    sigma_distance: float,
    huber: float,
) -> Equations:
    """As slam.kernels.ray_normal_equations."""
    A, t = rotation_translation(sim3_matrix(T_kf), X_k)
    Y = X_f @ A.T + t
    n, m = Y.norm(dim=-1), X_k.norm(dim=-1)
    unit, measured = Y / n[:, None], X_k / m[:, None]
    eye = torch.eye(3, device=Y.device)
    turn = torch.linalg.cross(unit[:, None, :].expand(-1, 3, -1), eye.expand(len(Y), 3, 3))
    slide = (eye - unit[:, :, None] * unit[:, None, :]) / n[:, None, None]
    zero = torch.zeros(len(Y), 3, 1, device=Y.device)
    far = torch.cat([unit / n[:, None], torch.zeros_like(unit), torch.ones_like(n)[:, None]], -1)
    J = torch.cat(
        [torch.cat([slide, turn, zero], -1) / sigma_ray, far[:, None] / sigma_distance], 1
    )
    r = torch.cat([(measured - unit) / sigma_ray, ((m / n).log() / sigma_distance)[:, None]], -1)
    return _by_rows(J, r, weight, (n > 1e-6) & (m > 1e-6), huber)


def pixel_depth_normal_equations(
    pixel_k: Tensor,
    X_k: Tensor,
    X_f: Tensor,
    weight: Tensor,
    T_kf: Tensor,
    K: Intrinsics,
    sigma_pixel: float,
    sigma_depth: float,
    huber: float,
) -> Equations:
    """As slam.kernels.pixel_depth_normal_equations."""
    A, t = rotation_translation(sim3_matrix(T_kf), X_k)
    fx, fy, cx, cy = K
    Y = X_f @ A.T + t
    valid = (X_k[:, 2] > 0) & (Y[:, 2] > NEAREST * X_k[:, 2])
    i = 1 / torch.where(valid, Y[:, 2], 1.0)
    x, y, zero, one = Y[:, 0] * i, Y[:, 1] * i, torch.zeros_like(i), torch.ones_like(i)
    rows = torch.cat([projection_rows(x, y, i, K), torch.zeros(len(Y), 2, 1, device=Y.device)], -1)
    depth = torch.stack([zero, zero, i, y, -x, zero, one], -1)
    J = torch.cat([rows / sigma_pixel, depth[:, None] / sigma_depth], 1)
    r = (pixel_k - torch.stack([fx * x + cx, fy * y + cy], -1)) / sigma_pixel
    log_ratio = (torch.where(valid, X_k[:, 2], 1.0) * i).log() / sigma_depth
    return _by_rows(J, torch.cat([r, log_ratio[:, None]], -1), weight, valid, huber)


def _by_rows(J: Tensor, r: Tensor, weight: Tensor, valid: Tensor, huber: float) -> Equations:
    """Sums of rows J [P, R, 7], r [P, R], each row robust on its own."""
    counted = weight > 0
    valid = valid & counted
    root = torch.where(valid, weight, 1.0).sqrt()
    error = (r * root[:, None]).abs()
    scale = root[:, None] * huber_factor(error, huber).sqrt()
    A = torch.cat([J, r[..., None]], -1) * scale[..., None]
    H, g = _sums(torch.where(valid[:, None, None], A, 0.0))
    behind = float(huber_cost(torch.tensor(BEHIND), huber))
    cost = torch.where(valid, huber_cost(error, huber).sum(-1), behind)
    inliers = (valid & (error < INLIER).all(-1)).sum()
    total = float(torch.where(counted, cost, 0.0).sum())
    return Equations(H, g, total, int(inliers), int(counted.sum()))


# --- the inverse-depth filter --------------------------------------------------------------------


def triangulate_inverse_depth(
    pixel: Tensor, target: Tensor, weight: Tensor, T_ji: Tensor, K: Intrinsics, gate: float
) -> tuple[Tensor, Tensor]:
    """As slam.kernels.triangulate_inverse_depth."""
    fx, fy, cx, cy = K
    R, t = rotation_translation(se3_matrix(T_ji), pixel)
    focal = torch.tensor([fx, fy], device=pixel.device)
    centre = torch.tensor([cx, cy], device=pixel.device)
    rays = torch.cat([(pixel - centre) / focal, torch.ones_like(weight)[:, None]], -1)
    m, a = (target - centre) / focal, rays @ R.T
    A, B = (t[:2] - m * t[2]) * focal, (m * a[:, 2:] - a[:, :2]) * focal
    square = (A * A).sum(-1)
    rho = (A * B).sum(-1) / square
    z = a[:, 2] + rho * t[2]
    cross = A[:, 0] * B[:, 1] - A[:, 1] * B[:, 0]
    near = cross**2 / square * weight < gate**2
    valid = (weight > 0) & near & (z > NEAREST) & (rho > 0)
    return torch.where(valid, rho, 0.0), torch.where(valid, weight * square / z**2, 0.0)


def fuse_inverse_depth(
    value: Tensor,
    information: Tensor,
    new_value: Tensor,
    new_information: Tensor,
    gate: float,
    relative_floor: float,
    initial: float,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """As slam.kernels.fuse_inverse_depth, but returns what that changes in place."""
    known, given = information > 0, new_information > 0
    both = known & given
    total = information + new_information
    innovation = new_value - value
    agrees = innovation**2 * information * new_information / total < gate**2
    fused = value + innovation * new_information / total
    limit = (relative_floor * fused) ** -2
    after = torch.where(agrees, torch.minimum(total, limit), decay * information)
    first = given & ~known
    out = torch.where(both & agrees, fused, torch.where(first, new_value, value))
    kept = torch.where(first, initial * new_information, information)
    return out, torch.where(both, after, kept)


def warp_inverse_depth(
    value: Tensor, information: Tensor, T_ji: Tensor, K: Intrinsics, grid: Grid, inflation: float
) -> tuple[Tensor, Tensor]:
    """As slam.kernels.warp_inverse_depth; where two land at one distance, either may win."""
    fx, fy, cx, cy = K
    R, t = rotation_translation(se3_matrix(T_ji), value)
    cell = torch.arange(len(value), device=value.device)
    place = torch.stack([cell % grid.width, cell // grid.width], -1)
    moved = move(grid.offset + grid.stride * place, value, R, t, K)
    column = ((fx * moved.x + cx - grid.offset) / grid.stride + 0.5).floor().long()
    row = ((fy * moved.y + cy - grid.offset) / grid.stride + 0.5).floor().long()
    inside = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    lands = inside & moved.front & (information > 0) & (value > 0)
    target = (row * grid.width + column)[lands]
    rho = (value * moved.inverse_z)[lands]
    slope = (moved.a[:, 2] * moved.inverse_z**2)[lands]
    certain = 1 / (slope**2 / information[lands] + (inflation * rho) ** 2)
    out = torch.zeros_like(value).scatter_reduce(0, target, rho, "amax", include_self=True)
    wins = out[target] == rho
    spread = torch.zeros_like(value)
    spread[target[wins]] = certain[wins]
    return out, spread
