"""What every kernel asks of its arguments: shapes, types, devices, layout, ranges."""

from __future__ import annotations

import math

import _slam_native as _native
import torch
from torch import Tensor

Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy in px


def check(
    name: str,
    tensor: Tensor,
    shape: tuple[int, ...],
    beside: Tensor,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Raise ValueError unless tensor has the shape (-1 = any), dtype, and device of `beside`."""
    fits = tensor.dim() == len(shape) and all(
        want in (-1, got) for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        raise ValueError(
            f"{name}: want shape {list(shape)} {dtype} (-1 = any), got {list(tensor.shape)} "
            f"{tensor.dtype}; reshape or convert it"
        )
    if tensor.device != beside.device:
        raise ValueError(
            f"{name}: want it on {beside.device} like the others, got {tensor.device}; move it"
        )
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name}: want a contiguous tensor, got strides {tensor.stride()}; copy it"
        )
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name}: want a CPU or CUDA tensor, got {tensor.device}; move it")
    if tensor.is_cuda and not _native.with_cuda:
        raise ValueError(
            f"{name}: want a CPU tensor, as the native module was built without CUDA, got "
            f"{tensor.device}; move it, or build again where nvcc is found"
        )


def checked_pose(name: str, pose: Tensor, size: int) -> Tensor:
    """A pose on the CPU, checked: finite, with a rotation and, for Sim(3), a scale > 0."""
    if pose.shape != (size,) or pose.dtype != torch.float64:
        raise ValueError(
            f"{name}: want shape [{size}] torch.float64, got {list(pose.shape)} {pose.dtype}; "
            "convert it"
        )
    pose = pose.detach().cpu().contiguous()
    if not torch.isfinite(pose).all() or not pose[3:7].any() or (size == 8 and not pose[7] > 0):
        raise ValueError(
            f"{name}: want a finite pose with a quaternion (and a scale > 0), got {pose.tolist()}; "
            "check where it was computed"
        )
    return pose


def checked_camera(intrinsics: Intrinsics) -> _native.Pinhole:
    """The native camera, checked."""
    if (
        len(intrinsics) != 4
        or not all(math.isfinite(value) for value in intrinsics)
        or min(intrinsics[:2]) <= 0
    ):
        raise ValueError(
            f"intrinsics: want (fx, fy, cx, cy) in px, fx and fy > 0, got {tuple(intrinsics)}; "
            "check the calibration"
        )
    return _native.Pinhole(*intrinsics)


def check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: want a number > 0, got {value}; raise it")


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: want a number >= 0, got {value}; raise it")


def where(tensor: Tensor) -> tuple[int, int]:
    """Number of CPU threads, and the CUDA stream (0 on the CPU)."""
    stream = torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
    return torch.get_num_threads(), stream
