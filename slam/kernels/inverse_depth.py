"""The inverse-depth filter: triangulate, fuse, move to another camera."""

from __future__ import annotations

from typing import NamedTuple

import _slam_native as _native
import torch
from torch import Tensor

from slam.kernels.checks import (
    Intrinsics,
    check,
    check_not_negative,
    check_positive,
    checked_camera,
    checked_pose,
    where,
)


class Grid(NamedTuple):
    """A regular grid of pixels: cell (row r, column c) is pixel offset + stride * (c, r)."""

    height: int  # cells
    width: int  # cells
    stride: float  # px
    offset: float  # px


def triangulate_inverse_depth(
    pixel: Tensor,
    target: Tensor,
    weight: Tensor,
    T_ji: Tensor,
    intrinsics: Intrinsics,
    *,
    gate: float,
) -> tuple[Tensor, Tensor]:
    """Inverse depth of pixels of image i from where they land in image j.

    Linear least squares on both image axes in px: with m the target's normalised coordinates and
    a = R ray, A = (t.x - m.x t.z, t.y - m.y t.z) and B = (m.x a.z - a.x, m.y a.z - a.y), both times
    (fx, fy), rho = A.B / A.A.

    Args:
        pixel, target: [P, 2] float32, px; weight: [P] float32, 1/px^2, 0 = not measured.
        T_ji: [7] float64 SE(3).
        gate: bound on the whitened epipolar distance |A x B| / |A| * sqrt(weight), which is in px
            for points with z near 1 (it is not divided by the moved ray's z).
    Returns value [P] float32 and information [P] float32 = weight |A|^2 / z^2, z = a.z + rho t.z;
    both 0 where there is no weight, beyond the gate, behind the camera and where rho <= 0.
    """
    check("weight", weight, (-1,), weight)
    check("pixel", pixel, (len(weight), 2), weight)
    check("target", target, (len(weight), 2), weight)
    T_ji = checked_pose("T_ji", T_ji, 7)
    camera = checked_camera(intrinsics)
    check_positive(gate=gate)
    value, information = torch.empty_like(weight), torch.empty_like(weight)
    _native.triangulate_inverse_depth(
        pixel, target, weight, T_ji, camera, gate, value, information, *where(weight)
    )
    return value, information


def fuse_inverse_depth(
    value: Tensor,
    information: Tensor,
    new_value: Tensor,
    new_information: Tensor,
    *,
    gate: float,
    relative_floor: float,
    initial: float,
    decay: float,
) -> None:
    """Fuse a new measurement into inverse depths, in place (inverse-variance rule).

    Args:
        value, information: [P] float32, changed in place; information 0 = never measured.
        new_value, new_information: [P] float32; information 0 = not measured now.
        gate: whitened innovation beyond which the measurement only multiplies the information by
            `decay`.
        relative_floor: no standard deviation falls below this part of the value.
        initial: part of its information that a first measurement is given.
    """
    check("value", value, (-1,), value)
    for name, tensor in (
        ("information", information),
        ("new_value", new_value),
        ("new_information", new_information),
    ):
        check(name, tensor, (len(value),), value)
    check_positive(gate=gate, initial=initial)
    check_not_negative(relative_floor=relative_floor, decay=decay)
    options = (gate, relative_floor, initial, decay)
    _native.fuse_inverse_depth(
        value, information, new_value, new_information, *options, *where(value)
    )


def warp_inverse_depth(
    value: Tensor,
    information: Tensor,
    T_ji: Tensor,
    intrinsics: Intrinsics,
    grid: Grid | tuple[int, int, float, float],
    *,
    inflation: float,
) -> tuple[Tensor, Tensor]:
    """Inverse depths of keyframe i moved to the same grid of camera j.

    Each cell lands in the nearest cell; the nearest surface wins. The variance grows by
    (inflation * value)^2.

    Args:
        value, information: [height * width] float32; information 0 = unknown, not moved.
        T_ji: [7] float64 SE(3).
    Returns value and information of the same shape; both 0 where nothing lands.
    """
    grid = Grid(*grid)
    if grid.height < 0 or grid.width < 0 or not grid.stride > 0:
        raise ValueError(f"grid: want sizes >= 0 and a stride > 0, got {grid}; build it anew")
    check("value", value, (grid.height * grid.width,), value)
    check("information", information, (len(value),), value)
    T_ji = checked_pose("T_ji", T_ji, 7)
    camera = checked_camera(intrinsics)
    check_not_negative(inflation=inflation)
    out = torch.empty_like(value), torch.empty_like(value)
    _native.warp_inverse_depth(
        value, information, T_ji, camera, *grid, inflation, *out, where(value)[1]
    )
    return out
