"""Rolling shutter: targets as a global shutter would have measured them."""

from __future__ import annotations

import math

import _slam_native as _native
import torch
from torch import Tensor

from slam.kernels.checks import Intrinsics, check, checked_camera, checked_pose, where


def unroll_target(
    pixel: Tensor,
    inverse_depth: Tensor,
    target: Tensor,
    T_ji: Tensor,
    twist_i: Tensor,
    twist_j: Tensor,
    intrinsics: Intrinsics,
    *,
    readout: float,
    height: int,
) -> Tensor:
    """Where pixels of image i land in image j, had all rows been read at the middle row's time.

    To first order: the image velocity at the pixel and at its target, each times the time from
    the middle row to its row, are taken out.

    Args:
        pixel, target: [P, 2] float32 px; inverse_depth: [P] float32, of image i's pixels.
        T_ji: [7] float64 SE(3), takes points of camera i to camera j.
        twist_i, twist_j: [6] float64 (translation, rotation) a second: how points move in camera
            i's and j's frame.
        readout: s from the first row to the last; negative = from the bottom.
        height: rows of the image, px.
    Returns the corrected targets [P, 2].
    """
    check("inverse_depth", inverse_depth, (-1,), inverse_depth)
    check("pixel", pixel, (len(inverse_depth), 2), inverse_depth)
    check("target", target, (len(inverse_depth), 2), inverse_depth)
    T_ji = checked_pose("T_ji", T_ji, 7)
    twists = [_checked_twist(*named) for named in (("twist_i", twist_i), ("twist_j", twist_j))]
    camera = checked_camera(intrinsics)
    if height < 1 or not math.isfinite(readout):
        raise ValueError(
            f"height, readout: want >= 1 px and a finite time, got {height}, {readout}; "
            "check the image and the camera"
        )
    out = torch.empty_like(target)
    stream = where(inverse_depth)[1]
    _native.unroll_target(
        pixel, inverse_depth, target, T_ji, *twists, camera, readout, height, out, stream
    )
    return out


def _checked_twist(name: str, twist: Tensor) -> Tensor:
    if twist.shape != (6,) or twist.dtype != torch.float64 or not twist.isfinite().all():
        raise ValueError(
            f"{name}: want a finite [6] torch.float64, got {list(twist.shape)} {twist.dtype}; "
            "check where it was computed"
        )
    return twist.detach().cpu().contiguous()
