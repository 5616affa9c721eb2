"""The kernels that work on images in plain float32 torch: what their speed is compared to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from slam.bench.twins import rotation_translation
from slam.camera import pixel_grid
from slam.kernels import Intrinsics
from slam.lie import se3_matrix

CELL = 2  # px; the pixels of a cell move together
NEAREST = 0.1  # depth of a moved point, in units of its own depth


def refine_flow(
    first: Tensor,
    second: Tensor,
    flow: Tensor,
    radius: int,
    iterations: int,
    regularisation: float,
    longest_step: float,
) -> Tensor:
    """As slam.kernels.refine_flow, but returns what that changes in place."""
    height, width = first.shape
    for _ in range(iterations):
        sums = _window_sums(_terms(first.float(), second.float(), flow), radius)
        step = _step(sums, regularisation, longest_step)
        step = step.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
        flow = flow + step[:height, :width]
    return flow


def _terms(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """What every pixel adds to its window [9, h, w]; 0 where the flow leaves the second image."""
    height, width = first.shape
    size = torch.tensor([width - 1, height - 1], device=flow.device)
    target = pixel_grid(height, width, flow.device, flow.dtype) + flow
    inside = ((target >= 0) & (target <= size)).all(-1)
    sampled = functional.grid_sample(
        second[None, None], (2 * target / size - 1)[None], padding_mode="border", align_corners=True
    )[0, 0]
    warped = torch.where(inside, sampled, first)
    mean = functional.pad(((first + warped) / 2)[None, None], (1, 1, 1, 1), "replicate")[0, 0]
    gx = (mean[1:-1, 2:] - mean[1:-1, :-2]) / 2
    gy = (mean[2:, 1:-1] - mean[:-2, 1:-1]) / 2
    d, one = warped - first, torch.ones_like(gx)
    return torch.stack([one, gx, gy, d, gx * gx, gx * gy, gy * gy, gx * d, gy * d]) * inside


def _window_sums(terms: Tensor, radius: int) -> Tensor:
    """Over windows of cells [9, rows, columns]."""
    cells = functional.avg_pool2d(
        terms[None], CELL, ceil_mode=True, count_include_pad=False, divisor_override=1
    )
    side = 2 * radius + 1
    return functional.avg_pool2d(cells, side, 1, radius, divisor_override=1)[0]


def _step(sums: Tensor, regularisation: float, longest_step: float) -> Tensor:
    """The windows' translations [rows, columns, 2], brightness apart."""
    n, gx, gy, d, gxx, gxy, gyy, gxd, gyd = torch.cat([sums[:1].clamp(min=1), sums[1:]])
    gx, gy, d = gx / n, gy / n, d / n
    xx, yy = gxx / n - gx * gx + regularisation, gyy / n - gy * gy + regularisation
    xy, xd, yd = gxy / n - gx * gy, gxd / n - gx * d, gyd / n - gy * d
    step = torch.stack([xy * yd - yy * xd, xy * xd - xx * yd], -1) / (xx * yy - xy * xy)[..., None]
    length = step.norm(dim=-1, keepdim=True) + 1e-9
    return step * (longest_step / length).clamp(max=1.0)


def unroll_target(
    pixel: Tensor,
    inverse_depth: Tensor,
    target: Tensor,
    T_ji: Tensor,
    twist_i: Tensor,
    twist_j: Tensor,
    K: Intrinsics,
    readout: float,
    height: int,
) -> Tensor:
    """As slam.kernels.unroll_target."""
    R, t = rotation_translation(se3_matrix(T_ji), pixel)
    z = (_rays(pixel, K) @ R.T + inverse_depth[:, None] * t)[:, 2]
    there = inverse_depth / z.clamp(min=NEAREST)

    def rolled(place: Tensor, rho: Tensor, twist: Tensor) -> Tensor:
        v, w = twist.to(place).chunk(2)
        ray = _rays(place, K)
        motion = rho[:, None] * v + torch.linalg.cross(w.expand_as(ray), ray)
        image = motion[:, :2] - ray[:, :2] * motion[:, 2:]
        seconds = (place[:, 1] - (height - 1) / 2) * (readout / height)
        return image * torch.tensor(K[:2], device=place.device) * seconds[:, None]

    return target + rolled(pixel, inverse_depth, twist_i) - rolled(target, there, twist_j)


def _rays(pixel: Tensor, K: Intrinsics) -> Tensor:
    fx, fy, cx, cy = K
    u, v = pixel.unbind(-1)
    return torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
