"""One checked Python function for each native kernel; the same call on CPU and CUDA tensors.

Notation: pixel p = (u, v) of keyframe i, its viewing ray ((u - cx) / fx, (v - cy) / fy, 1), its
inverse depth rho; T_ji takes points of camera i to camera j. The moved point, scaled by rho, is
Y = R ray + rho t; it is usable where Y.z > 0.001. Residuals are measured minus predicted, twists
are (translation, rotation[, log scale]), and every step is T <- exp(H^-1 g) T.

Per-pixel work is float32; sums and poses are float64. On the CPU, results do not depend on
torch.get_num_threads(). Inputs must be finite where their weight is not 0. Nothing is recorded for
autograd. Every function raises ValueError for a wrong shape, type, device or layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import _slam_native as _native
import torch
from torch import Tensor

Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy in px


@dataclass(frozen=True, slots=True)
class NativeInfo:
    """How the native module was built."""

    with_cuda: bool  # has CUDA kernels; using them still needs a GPU
    architectures: tuple[str, ...]  # CUDA architectures, as CMake names them


@dataclass(frozen=True, slots=True)
class NormalEquations:
    """A linearised least-squares problem: the step is solve(H, g), a left perturbation."""

    H: Tensor  # [N, N] float64, on the CPU
    g: Tensor  # [N] float64, on the CPU
    cost: float  # sum of Huber costs of whitened errors, comparable between poses
    inliers: int  # points with a whitened error below 3
    count: int  # points that carry a measurement


@dataclass(frozen=True, slots=True)
class PoseSolution:
    """The end of a pose solve."""

    T: Tensor  # [7] float64 SE(3) T_ji, on the CPU
    H: Tensor  # [6, 6] float64, information of the pose (left perturbation) at T
    cost: float  # sum of Huber costs at T
    inliers: int  # points with a whitened error below 3
    count: int  # points that carry a measurement
    iterations: int  # steps tried
    converged: bool  # the step or the change of the cost became negligible


class Grid(NamedTuple):
    """A regular grid of pixels: cell (row r, column c) is pixel offset + stride * (c, r)."""

    height: int  # cells
    width: int  # cells
    stride: float  # px
    offset: float  # px


def native_info() -> NativeInfo:
    """How the native module was built."""
    return NativeInfo(_native.with_cuda, tuple(_native.architectures.split()))


def pose_normal_equations(
    pixel: Tensor,
    inverse_depth: Tensor,
    information: Tensor,
    target: Tensor,
    weight: Tensor,
    T_ji: Tensor,
    intrinsics: Intrinsics,
    *,
    huber: float,
    outlier: float,
) -> NormalEquations:
    """Normal equations of T_ji from where a keyframe's pixels are measured in image j.

    A pixel's 2x2 covariance is I / weight plus its inverse depth's variance seen in the image.

    Args:
        pixel: [P, 2] float32, px.
        inverse_depth, information: [P] float32 and 1 / its variance; information 0 = unknown.
        target, weight: [P, 2] float32 px and [P] float32 1/px^2; weight 0 = not measured.
        T_ji: [7] float64 SE(3).
        huber: whitened error where the cost turns linear.
        outlier: whitened error beyond which a point has no influence, and its cost is constant;
            may be inf. Points behind the camera are charged like outliers (at most 1000 sigma).
    """
    points = _measured_pixels(pixel, inverse_depth, information, target, weight)
    T_ji = _pose("T_ji", T_ji, 7)
    camera = _camera(intrinsics)
    _positive(huber=huber, outlier=outlier)
    H, g = _double(6, 6), _double(6)
    sums = _native.pose_normal_equations(
        *points, T_ji, camera, huber, outlier, H, g, *_where(weight)
    )
    return NormalEquations(H, g, *sums)


def solve_pose(
    pixel: Tensor,
    inverse_depth: Tensor,
    information: Tensor,
    target: Tensor,
    weight: Tensor,
    T_init: Tensor,
    intrinsics: Intrinsics,
    *,
    huber: float,
    outlier: float,
    iterations: int,
) -> PoseSolution:
    """Minimise the cost of pose_normal_equations over T_ji by Levenberg-Marquardt.

    The first 3 iterations let every point pull (outlier = inf). Arguments as there; T_init: [7]
    float64; iterations >= 1 in all. A singular system is no error: `converged` is then False.
    """
    points = _measured_pixels(pixel, inverse_depth, information, target, weight)
    T_init = _pose("T_init", T_init, 7)
    camera = _camera(intrinsics)
    _positive(huber=huber, outlier=outlier, iterations=iterations)
    T, H = _double(7), _double(6, 6)
    sums = _native.solve_pose(
        *points, T_init, camera, huber, outlier, iterations, T, H, *_where(weight)
    )
    return PoseSolution(T, H, *sums)


def ray_normal_equations(
    X_k: Tensor,
    X_f: Tensor,
    weight: Tensor,
    T_kf: Tensor,
    *,
    sigma_ray: float,
    sigma_distance: float,
    huber: float,
) -> NormalEquations:
    """Normal equations of the Sim(3) T_kf from matched points, by viewing ray and distance.

    Residual with Y = T_kf X_f: [X_k/|X_k| - Y/|Y| ; log|X_k| - log|Y|], each element divided by its
    sigma, times the root of the weight, and robust on its own (MASt3R-SLAM, Murai et al. 2025).

    Args:
        X_k, X_f: [P, 3] float32, matched points in the keyframe's and the frame's camera.
        weight: [P] float32, confidence of the match; 0 = none.
        T_kf: [8] float64 Sim(3), takes points of the frame to the keyframe.
    """
    _check("weight", weight, (-1,), weight)
    _check("X_k", X_k, (len(weight), 3), weight)
    _check("X_f", X_f, (len(weight), 3), weight)
    T_kf = _pose("T_kf", T_kf, 8)
    _positive(sigma_ray=sigma_ray, sigma_distance=sigma_distance, huber=huber)
    H, g = _double(7, 7), _double(7)
    sums = _native.ray_normal_equations(
        X_k, X_f, weight, T_kf, sigma_ray, sigma_distance, huber, H, g, *_where(weight)
    )
    return NormalEquations(H, g, *sums)


def pixel_depth_normal_equations(
    pixel_k: Tensor,
    X_k: Tensor,
    X_f: Tensor,
    weight: Tensor,
    T_kf: Tensor,
    intrinsics: Intrinsics,
    *,
    sigma_pixel: float,
    sigma_depth: float,
    huber: float,
) -> NormalEquations:
    """Normal equations of the Sim(3) T_kf from matched points, by pixel and log depth.

    Residual with Y = T_kf X_f: [pixel_k - project(Y) ; log X_k.z - log Y.z], weighed and robust as
    in ray_normal_equations; pixel_k: [P, 2] float32, the keyframe's pixels; the rest as there.
    """
    _check("weight", weight, (-1,), weight)
    _check("pixel_k", pixel_k, (len(weight), 2), weight)
    _check("X_k", X_k, (len(weight), 3), weight)
    _check("X_f", X_f, (len(weight), 3), weight)
    T_kf = _pose("T_kf", T_kf, 8)
    camera = _camera(intrinsics)
    _positive(sigma_pixel=sigma_pixel, sigma_depth=sigma_depth, huber=huber)
    H, g = _double(7, 7), _double(7)
    sums = _native.pixel_depth_normal_equations(
        *(pixel_k, X_k, X_f, weight, T_kf, camera, sigma_pixel, sigma_depth, huber, H, g),
        *_where(weight),
    )
    return NormalEquations(H, g, *sums)


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
    _check("weight", weight, (-1,), weight)
    _check("pixel", pixel, (len(weight), 2), weight)
    _check("target", target, (len(weight), 2), weight)
    T_ji = _pose("T_ji", T_ji, 7)
    camera = _camera(intrinsics)
    _positive(gate=gate)
    value, information = torch.empty_like(weight), torch.empty_like(weight)
    _native.triangulate_inverse_depth(
        pixel, target, weight, T_ji, camera, gate, value, information, *_where(weight)
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
    _check("value", value, (-1,), value)
    for name, tensor in (
        ("information", information),
        ("new_value", new_value),
        ("new_information", new_information),
    ):
        _check(name, tensor, (len(value),), value)
    _positive(gate=gate, initial=initial)
    _not_negative(relative_floor=relative_floor, decay=decay)
    options = (gate, relative_floor, initial, decay)
    _native.fuse_inverse_depth(
        value, information, new_value, new_information, *options, *_where(value)
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
    _check("value", value, (grid.height * grid.width,), value)
    _check("information", information, (cells,), value)
    T_ji = _pose("T_ji", T_ji, 7)
    camera = _camera(intrinsics)
    _not_negative(inflation=inflation)
    out = torch.empty_like(value), torch.empty_like(value)
    _native.warp_inverse_depth(
        value, information, T_ji, camera, *grid, inflation, *out, _where(value)[1]
    )
    return out


def _measured_pixels(
    pixel: Tensor, inverse_depth: Tensor, information: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    """The arguments of a pose residual, checked."""
    _check("weight", weight, (-1,), weight)
    _check("pixel", pixel, (len(weight), 2), weight)
    _check("inverse_depth", inverse_depth, (len(weight),), weight)
    _check("information", information, (len(weight),), weight)
    _check("target", target, (len(weight), 2), weight)
    return pixel, inverse_depth, information, target, weight


def _check(
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
        raise ValueError(f"{name}: want a contiguous tensor, got strides {tensor.stride()}; copy it")
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name}: want a CPU or CUDA tensor, got {tensor.device}; move it")
    if tensor.is_cuda and not _native.with_cuda:
        raise ValueError(
            f"{name}: want a CPU tensor, as the native module was built without CUDA, got "
            f"{tensor.device}; move it, or build again where nvcc is found"
        )


def _pose(name: str, pose: Tensor, size: int) -> Tensor:
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


def _camera(intrinsics: Intrinsics) -> _native.Pinhole:
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


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: want a number > 0, got {value}; raise it")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name}: want a number >= 0, got {value}; raise it")


def _double(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float64)


def _where(tensor: Tensor) -> tuple[int, int]:
    """Number of CPU threads, and the CUDA stream (0 on the CPU)."""
    stream = torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
    return torch.get_num_threads(), stream
