"""Plain float64 twins of the native kernels: dense matrices, autograd, explicit inverses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.kernels import DenseProblem, Grid, Intrinsics

BEHIND = 1e3  # whitened error charged where nothing is predicted


def hat4(xi: Tensor) -> Tensor:
    """Matrix [4, 4] of a twist [6] or [7], whose matrix exponential is its group element."""
    a, b, c = xi[3:6]
    zero = torch.zeros_like(a)
    s = xi[6] if len(xi) == 7 else zero
    rows = [(s, -c, b, xi[0]), (c, s, -a, xi[1]), (-b, a, s, xi[2]), (zero, zero, zero, zero)]
    return torch.stack([torch.stack(row) for row in rows])


def pose_matrix(T: Tensor) -> Tensor:
    """Matrix [4, 4] of [tx ty tz qx qy qz qw] or [.. s]."""
    x, y, z, w = (T[3:7] / T[3:7].norm()).tolist()
    R = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    M = torch.eye(4, dtype=torch.float64)
    M[:3, :3] = R * (T[7] if len(T) == 8 else 1)
    M[:3, 3] = T[:3]
    return M


def rays(pixel: Tensor, K: Intrinsics | Tensor) -> Tensor:
    """Viewing rays [P, 3] with z = 1."""
    fx, fy, cx, cy = K
    one = torch.ones(len(pixel), dtype=torch.float64)
    return torch.stack([(pixel[:, 0] - cx) / fx, (pixel[:, 1] - cy) / fy, one], -1)


def project(Y: Tensor, K: Intrinsics | Tensor) -> Tensor:
    """Pixels [P, 2] of points [P, 3]."""
    fx, fy, cx, cy = K
    return torch.stack([fx * Y[:, 0] / Y[:, 2] + cx, fy * Y[:, 1] / Y[:, 2] + cy], -1)


def moved(M: Tensor, pixel: Tensor, rho: Tensor, K: Intrinsics | Tensor) -> Tensor:
    """Points of pixels with inverse depth, moved and scaled by it [P, 3]."""
    return rays(pixel, K) @ M[:3, :3].T + rho[:, None] * M[:3, 3]


def huber_cost(error: Tensor, huber: float) -> Tensor:
    """Huber's function of a whitened error."""
    return torch.where(error < huber, 0.5 * error**2, huber * (error - 0.5 * huber))


def jacobian(function: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """Derivative at 0 of a function of a twist."""
    zero = torch.zeros(size, dtype=torch.float64)
    return torch.autograd.functional.jacobian(function, zero, vectorize=True)  # type: ignore


@dataclass(frozen=True, slots=True)
class Equations:
    """Normal equations of a twin."""

    H: Tensor
    g: Tensor
    cost: float
    inliers: int
    count: int


def pose_equations(
    points: tuple[Tensor, ...], T: Tensor, K: Intrinsics, huber: float, outlier: float
) -> Equations:
    """Twin of pose_normal_equations: 2x2 covariances inverted one by one."""
    pixel, rho, information, target, weight = (a.double() for a in points)
    M = pose_matrix(T)
    used = (weight > 0) & (information > 0)
    front = moved(M, pixel, rho, K)[:, 2] > 1e-3
    H, g = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    bound = torch.tensor(min(outlier, BEHIND), dtype=torch.float64)
    cost = float((used & ~front).sum() * huber_cost(bound, huber))
    inliers = 0
    for p in (used & front).nonzero()[:, 0].tolist():
        one = slice(p, p + 1)

        def predicted(xi: Tensor, one: slice = one) -> Tensor:
            turned = torch.linalg.matrix_exp(hat4(xi)) @ M
            return project(moved(turned, pixel[one], rho[one], K), K)[0]

        def of_depth(d: Tensor, one: slice = one) -> Tensor:
            return project(moved(M, pixel[one], rho[one] + d, K), K)[0]

        J, du = jacobian(predicted, 6), jacobian(of_depth, 1)[:, 0]
        r = target[p] - predicted(torch.zeros(6, dtype=torch.float64))
        covariance = torch.eye(2) / weight[p] + torch.outer(du, du) / information[p]
        W = torch.linalg.inv(covariance)
        e = (r @ W @ r).sqrt()
        factor = float(min(1.0, huber / max(float(e), 1e-300))) if e <= outlier else 0.0
        H += factor * J.T @ W @ J
        g += factor * J.T @ W @ r
        cost += float(huber_cost(e.clamp(max=outlier), huber))
        inliers += int(e < 3)
    return Equations(H, g, cost, inliers, int(used.sum()))


def similarity_equations(
    residual: Callable[[Tensor], Tensor], used: Tensor, weight: Tensor, T: Tensor, huber: float
) -> Equations:
    """Twin of the Sim(3) kernels; `residual` gives whitened rows [used, R] for a matrix [4, 4]."""
    M = pose_matrix(T)
    r = residual(M)
    J = -jacobian(lambda xi: residual(torch.linalg.matrix_exp(hat4(xi)) @ M), 7)
    factor = (huber / r.abs().clamp(min=1e-300)).clamp(max=1.0)
    H = torch.einsum("pra,pr,prb->ab", J, factor, J)
    g = torch.einsum("pra,pr,pr->a", J, factor, r)
    charged = ((weight > 0) & ~used).sum() * huber_cost(torch.tensor(BEHIND), huber)
    cost = float(huber_cost(r.abs(), huber).sum() + charged)
    return Equations(H, g, cost, int((r.abs() < 3).all(1).sum()), int((weight > 0).sum()))


def triangulated(
    pixel: Tensor, target: Tensor, weight: Tensor, T: Tensor, K: Intrinsics, gate: float
) -> tuple[Tensor, Tensor]:
    """Twin of triangulate_inverse_depth: least squares on each pixel's two equations."""
    pixel, target, weight = pixel.double(), target.double(), weight.double()
    M, f = pose_matrix(T), torch.tensor(K[:2], dtype=torch.float64)
    m, a, t = rays(target, K)[:, :2], rays(pixel, K) @ M[:3, :3].T, M[:3, 3]
    A = (t[:2] - m * t[2]) * f
    B = (m * a[:, 2:] - a[:, :2]) * f
    rho = (A * B).sum(1) / (A * A).sum(1)
    z = a[:, 2] + rho * t[2]
    perp = (B - rho[:, None] * A).norm(dim=1)
    valid = (weight > 0) & (perp * weight.sqrt() < gate) & (z > 1e-3) & (rho > 0)
    information = weight * (A * A).sum(1) / z**2
    zero = torch.zeros_like(rho)
    return torch.where(valid, rho, zero), torch.where(valid, information, zero)


def warped(
    value: Tensor, information: Tensor, T: Tensor, K: Intrinsics, grid: Grid, inflation: float
) -> tuple[Tensor, Tensor]:
    """Twin of warp_inverse_depth: one cell after the other, the derivative by differences."""
    M = pose_matrix(T)
    out, out_information = torch.zeros(len(value)).double(), torch.zeros(len(value)).double()
    for k, (rho, info) in enumerate(zip(value.double(), information.double(), strict=True)):
        if not (info > 0 and rho > 0):
            continue
        cell = torch.tensor([[k % grid.width, k // grid.width]], dtype=torch.float64)
        pixel = grid.offset + grid.stride * cell
        Y = moved(M, pixel, rho[None], K)
        if Y[0, 2] <= 1e-3:
            continue
        c, r = (((project(Y, K)[0] - grid.offset) / grid.stride) + 0.5).floor().int().tolist()
        if not (0 <= c < grid.width and 0 <= r < grid.height):
            continue
        step = 1e-6 * rho
        ahead, behind = (
            (rho + d) / moved(M, pixel, (rho + d)[None], K)[0, 2] for d in (step, -step)
        )
        rho_j, slope = rho / Y[0, 2], (ahead - behind) / (2 * step)
        n = r * grid.width + c
        if rho_j > out[n]:
            out[n] = rho_j
            out_information[n] = 1 / (slope**2 / info + (inflation * rho_j) ** 2)
    return out, out_information


@dataclass(frozen=True, slots=True)
class FullStep:
    """A step of the dense problem's twin."""

    twist: Tensor
    log_focal: float
    inverse_depth: Tensor
    focal_information: float
    cost: float


def dense_residuals(problem: DenseProblem, x: Tensor) -> Tensor:
    """Residuals [E, P, 2] in px after a step x = (twists, log focal, inverse depths)."""
    N, P = problem.inverse_depth.shape
    twist, scale = x[: 6 * N].reshape(N, 6), x[6 * N].exp()
    rho = problem.inverse_depth.double() + x[6 * N + 1 :].reshape(N, P)
    fx, fy, cx, cy = problem.intrinsics
    K = torch.stack([fx * scale, fy * scale, torch.tensor(cx).double(), torch.tensor(cy).double()])
    poses = [
        torch.linalg.matrix_exp(hat4(xi)) @ pose_matrix(T)
        for xi, T in zip(twist, problem.poses, strict=True)
    ]
    rows = []
    for (i, j), target in zip(problem.edges.tolist(), problem.target.double(), strict=True):
        M = poses[j] @ torch.linalg.inv(poses[i])
        rows.append(target - project(moved(M, problem.pixel.double(), rho[i], K), K))
    return torch.stack(rows)


def dense_cost(problem: DenseProblem) -> float:
    """Twin of dense_ba_cost."""
    return _dense_weights(problem)[2]


def _dense_weights(problem: DenseProblem) -> tuple[Tensor, Tensor, float]:
    """Residuals at the current point, their weights [E, P] with robust factors, and the cost."""
    N, P = problem.inverse_depth.shape
    r = dense_residuals(problem, torch.zeros(6 * N + 1 + N * P, dtype=torch.float64))
    weight = problem.weight.double()
    depth = []
    for i, j in problem.edges.tolist():
        M = pose_matrix(problem.poses[j]) @ torch.linalg.inv(pose_matrix(problem.poses[i]))
        rho = problem.inverse_depth[i].double()
        depth.append(moved(M, problem.pixel.double(), rho, problem.intrinsics)[:, 2])
    front = torch.stack(depth) > 1e-3
    e = weight.sqrt() * r.norm(dim=2)
    factor = (problem.huber / e.clamp(min=1e-300)).clamp(max=1.0)
    factor = torch.where((e <= problem.outlier) & front & (weight > 0), factor, 0.0)
    charged = torch.where(front, e, torch.tensor(BEHIND)).clamp(max=problem.outlier)
    cost = (huber_cost(charged, problem.huber) * (weight > 0)).sum()
    d = (problem.prior - problem.inverse_depth).double()
    return r, weight * factor, float(cost + 0.5 * (problem.prior_weight * d**2).sum())


def dense_step(problem: DenseProblem, damping: float, depth_damping: float) -> FullStep:
    """Twin of dense_ba_step (no clamping): one big Hessian by autograd, eliminated explicitly."""
    N, P = problem.inverse_depth.shape
    zero = torch.zeros(6 * N + 1 + N * P, dtype=torch.float64)
    r, w, cost = _dense_weights(problem)
    J = -torch.autograd.functional.jacobian(  # type: ignore
        lambda x: dense_residuals(problem, x), zero, vectorize=True, strategy="forward-mode"
    )
    J = torch.where((w > 0)[..., None, None], J, 0.0)
    H = torch.einsum("epka,ep,epkb->ab", J, w, J)
    g = torch.einsum("epka,ep,epk->a", J, w, r)
    depths = slice(6 * N + 1, None)
    d = (problem.prior - problem.inverse_depth).double().reshape(-1)
    C = (H.diagonal()[depths] + problem.prior_weight.double().reshape(-1)) * (1 + depth_damping)
    b = g[depths] + problem.prior_weight.double().reshape(-1) * d
    keep = [6 * n + k for n in range(N) if not problem.fixed[n] for k in range(6)]
    focal = 6 * N
    every = [*keep, focal] if problem.refine_focal else keep
    E = H[every][:, depths]
    inverse = torch.where(C > 1e-12, 1 / C, 0.0)
    S = H[every][:, every] - (E * inverse) @ E.T
    rhs = g[every] - E @ (inverse * b)
    n = len(keep)
    damped = S + torch.diag(S.diagonal() * damping + 1e-9)
    solution = torch.linalg.solve(damped, rhs)
    twist = torch.zeros(6 * N, dtype=torch.float64)
    twist[keep] = solution[:n]
    information = 0.0
    if problem.refine_focal:
        information = float(S[n, n] - S[n, :n] @ torch.linalg.solve(damped[:n, :n], S[:n, n]))
    rho = problem.inverse_depth.double().reshape(-1) + inverse * (b - E.T @ solution)
    return FullStep(
        twist.reshape(N, 6),
        float(solution[n]) if problem.refine_focal else 0.0,
        rho.reshape(N, P),
        information,
        cost,
    )
