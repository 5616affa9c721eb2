"""One SE(3) pose [7] at a time, in plain numbers: for `slam.lie`, which says what they mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def is_one(T: Tensor) -> bool:
    """Whether it is one pose [7] as the tracker handles them: numbers are 10 times as fast then."""
    return T.ndim == 1 and T.dtype == torch.float64 and T.is_cpu and not T.requires_grad


def mul(a: Tensor, b: Tensor) -> Tensor:
    """The motion b followed by a."""
    tx, ty, tz, ax, ay, az, aw = a.tolist()
    x, y, z, bx, by, bz, bw = b.tolist()
    cx, cy, cz = 2 * (ay * z - az * y), 2 * (az * x - ax * z), 2 * (ax * y - ay * x)
    product = [
        tx + x + aw * cx + (ay * cz - az * cy),
        ty + y + aw * cy + (az * cx - ax * cz),
        tz + z + aw * cz + (ax * cy - ay * cx),
        aw * bx + bw * ax + (ay * bz - az * by),
        aw * by + bw * ay + (az * bx - ax * bz),
        aw * bz + bw * az + (ax * by - ay * bx),
        aw * bw - ax * bx - ay * by - az * bz,
    ]
    return torch.tensor(product, dtype=torch.float64)


def inv(T: Tensor) -> Tensor:
    """The inverse motion."""
    tx, ty, tz, qx, qy, qz, qw = T.tolist()
    inverse = torch.tensor([0.0, 0.0, 0.0, -qx, -qy, -qz, qw], dtype=torch.float64)
    point = torch.tensor([-tx, -ty, -tz, 0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    inverse[:3] = mul(inverse, point)[:3]
    return inverse


def log(T: Tensor) -> Tensor:
    """Twist [6], angle in [0, pi]."""
    tx, ty, tz, qx, qy, qz, qw = T.tolist()
    sign = -1.0 if qw < 0 else 1.0
    length = math.sqrt(qx * qx + qy * qy + qz * qz)
    angle = 2 * math.atan2(length, sign * qw)
    if angle < 1e-3:
        factor, k = 2 * sign / (1 - length * length / 6), 1 / 12 + angle * angle / 720
    else:
        factor = sign * angle / length
        k = (1 - 0.5 * angle / math.tan(0.5 * angle)) / angle**2
    x, y, z = factor * qx, factor * qy, factor * qz
    cx, cy, cz = y * tz - z * ty, z * tx - x * tz, x * ty - y * tx
    tau = [
        tx - 0.5 * cx + k * (y * cz - z * cy),
        ty - 0.5 * cy + k * (z * cx - x * cz),
        tz - 0.5 * cz + k * (x * cy - y * cx),
    ]
    return torch.tensor([*tau, x, y, z], dtype=torch.float64)
