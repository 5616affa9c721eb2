"""Plain float64 twins of the kernels on images: flow refinement, rolling shutter."""

from __future__ import annotations

import torch
from reference import hat4, jacobian, moved, pose_matrix, project
from torch import Tensor

from slam.kernels import Intrinsics


def refined_flow(
    first: Tensor,
    second: Tensor,
    flow: Tensor,
    radius: int,
    iterations: int,
    regularisation: float,
    longest_step: float,
) -> Tensor:
    """Twin of refine_flow: each window's regularised least squares, one after the other."""
    height, width = first.shape
    out = flow.double().clone()
    for _ in range(iterations):
        gradient, d, inside = _warp_terms(first.double(), second.double(), out)
        before = out.clone()
        for y in range(0, height, 2):
            for x in range(0, width, 2):
                rows = slice(max(y - 2 * radius, 0), y + 2 * radius + 2)
                columns = slice(max(x - 2 * radius, 0), x + 2 * radius + 2)
                used = inside[rows, columns]
                if not used.any():
                    continue
                A, b = gradient[rows, columns][used], d[rows, columns][used]
                A, b = A - A.mean(0), b - b.mean()
                H = A.T @ A + regularisation * len(A) * torch.eye(2, dtype=torch.float64)
                step = -torch.linalg.solve(H, A.T @ b)
                step *= min(1.0, longest_step / max(float(step.norm()), 1e-9))
                cell = before[y : y + 2, x : x + 2]
                out[y : y + 2, x : x + 2] = cell + step
    return out


def _warp_terms(first: Tensor, second: Tensor, flow: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean gradient [h, w, 2] of both images, second warped minus first, and where that counts."""
    height, width = first.shape
    warped, inside = first.clone(), torch.zeros(height, width, dtype=torch.bool)
    grey, steps = second.tolist(), flow.tolist()
    for y in range(height):
        for x in range(width):
            u, v = x + steps[y][x][0], y + steps[y][x][1]
            if 0 <= u <= width - 1 and 0 <= v <= height - 1:
                inside[y, x], warped[y, x] = True, bilinear(grey, u, v)
    mean = (first + warped) / 2
    wide = torch.cat([mean[:, :1], mean, mean[:, -1:]], 1)
    high = torch.cat([mean[:1], mean, mean[-1:]], 0)
    gx, gy = (wide[:, 2:] - wide[:, :-2]) / 2, (high[2:] - high[:-2]) / 2
    return torch.stack([gx, gy], -1), warped - first, inside


def bilinear(image: list[list[float]], u: float, v: float) -> float:
    """Value of an image between its pixels."""
    x, y = int(u), int(v)
    s, t = u - x, v - y
    right, below = min(x + 1, len(image[0]) - 1), min(y + 1, len(image) - 1)
    upper = (1 - s) * image[y][x] + s * image[y][right]
    return (1 - t) * upper + t * ((1 - s) * image[below][x] + s * image[below][right])


def unrolled(
    pixel: Tensor,
    rho: Tensor,
    target: Tensor,
    T_ji: Tensor,
    twists: tuple[Tensor, Tensor],
    K: Intrinsics,
    readout: float,
    height: int,
) -> Tensor:
    """Twin of unroll_target: image velocities by autograd, one pixel after the other."""
    M = pose_matrix(T_ji)

    def shift(place: Tensor, depth: Tensor, twist: Tensor) -> Tensor:
        def at(seconds: Tensor) -> Tensor:
            moving = torch.linalg.matrix_exp(hat4(twist * seconds[0]))
            return project(moved(moving, place[None], depth[None], K), K)[0]

        return jacobian(at, 1)[:, 0] * (place[1] - (height - 1) / 2) * readout / height

    out = target.double().clone()
    for p, (here, depth, there) in enumerate(
        zip(pixel.double(), rho.double(), target.double(), strict=True)
    ):
        z = moved(M, here[None], depth[None], K)[0, 2].clamp(min=0.1)
        out[p] += shift(here, depth, twists[0]) - shift(there, depth / z, twists[1])
    return out
