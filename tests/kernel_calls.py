"""Every kernel as a call with named arguments that fit, any of which a test may replace."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from slam import kernels
from slam.kernels import DenseProblem, Intrinsics
from slam.lie import se3_exp, sim3_exp

K: Intrinsics = (250.0, 260.0, 157.0, 121.0)
P = 9001  # more than one block, and no multiple of the lanes


def inputs(count: int = P) -> dict[str, Tensor]:
    """Arguments of all kernels by name."""
    g = torch.Generator().manual_seed(0)
    pixel = torch.rand(count, 2, generator=g) * 300
    rows = min(count, 97)
    size = rows, count // max(rows, 1)
    return {
        "first": torch.randint(0, 256, size, generator=g, dtype=torch.uint8),
        "second": torch.randint(0, 256, size, generator=g, dtype=torch.uint8),
        "flow": 5 * torch.randn(*size, 2, generator=g),
        "twist_i": 0.5 * torch.randn(6, generator=g).double(),
        "twist_j": 0.5 * torch.randn(6, generator=g).double(),
        "pixel": pixel,
        "inverse_depth": 0.3 + torch.rand(count, generator=g),
        "information": 1e3 * torch.rand(count, generator=g),
        "target": pixel + 5 * torch.randn(count, 2, generator=g),
        "weight": torch.rand(count, generator=g),
        "X_k": 1 + torch.rand(count, 3, generator=g),
        "X_f": 1 + torch.rand(count, 3, generator=g),
        "rays": torch.randn(*size, 4, generator=g),
        "starts": 0.3 * torch.rand(2, count, 2, generator=g) * rows,
        "descriptors": torch.randn(*size, 20, generator=g),
        "sought": torch.randn(count, 20, generator=g),
        "active": torch.rand(count, generator=g) > 0.1,
        "T_ji": se3_exp(0.05 * torch.randn(6, generator=g).double()),
        "T_kf": sim3_exp(0.05 * torch.randn(7, generator=g).double()),
    }


def dense() -> DenseProblem:
    """A dense problem of a few blocks."""
    g = torch.Generator().manual_seed(1)
    pixel = torch.rand(1301, 2, generator=g) * 300
    edges = torch.tensor([(i, j) for i in range(5) for j in range(5) if i != j], dtype=torch.int32)
    return DenseProblem(
        poses=se3_exp(0.05 * torch.randn(5, 6, generator=g).double()),
        inverse_depth=0.3 + torch.rand(5, 1301, generator=g),
        edges=edges,
        target=pixel + 5 * torch.randn(20, 1301, 2, generator=g),
        weight=torch.rand(20, 1301, generator=g),
        prior=torch.ones(5, 1301),
        prior_weight=torch.ones(5, 1301),
        pixel=pixel,
        intrinsics=K,
        fixed=torch.tensor([True, False, False, False, False]),
        huber=2.0,
        outlier=20.0,
        refine_focal=True,
    )


def pose(**a: Any) -> Any:
    names = ("pixel", "inverse_depth", "information", "target", "weight", "T_ji")
    camera = a.get("intrinsics", K)
    return kernels.pose_normal_equations(
        *(a[n] for n in names), camera, huber=a.get("huber", 2.0), outlier=a.get("outlier", 9.0)
    )


def solve(**a: Any) -> Any:
    names = ("pixel", "inverse_depth", "information", "target", "weight", "T_ji")
    iterations = a.get("iterations", 8)
    return kernels.solve_pose(
        *(a[n] for n in names), K, huber=2.0, outlier=9.0, iterations=iterations
    )


def ray(**a: Any) -> Any:
    return kernels.ray_normal_equations(
        *(a[n] for n in ("X_k", "X_f", "weight", "T_kf")),
        sigma_ray=a.get("sigma_ray", 0.01),
        sigma_distance=0.1,
        huber=1.345,
    )


def pixel_depth(**a: Any) -> Any:
    return kernels.pixel_depth_normal_equations(
        *(a[n] for n in ("pixel", "X_k", "X_f", "weight", "T_kf")),
        K,
        sigma_pixel=1.0,
        sigma_depth=0.1,
        huber=1.345,
    )


def triangulate(**a: Any) -> Any:
    return kernels.triangulate_inverse_depth(
        *(a[n] for n in ("pixel", "target", "weight", "T_ji")), K, gate=a.get("gate", 5.0)
    )


def fuse(**a: Any) -> Any:
    value, information = a["inverse_depth"], a["information"]
    new = a.get("new_value", value + 0.1), a["weight"]
    kernels.fuse_inverse_depth(
        value,
        information,
        *new,
        gate=3.0,
        relative_floor=0.01,
        initial=0.5,
        decay=a.get("decay", 0.9),
    )
    return value, information


def warp(**a: Any) -> Any:
    grid = a.get("grid", (1, len(a["inverse_depth"]), 1.0, 0.0))
    return kernels.warp_inverse_depth(
        *(a[n] for n in ("inverse_depth", "information", "T_ji")), K, grid, inflation=0.1
    )


def unroll(**a: Any) -> Any:
    names = ("pixel", "inverse_depth", "target", "T_ji", "twist_i", "twist_j")
    readout, height = a.get("readout", 0.02), a.get("height", 240)
    return [kernels.unroll_target(*(a[n] for n in names), K, readout=readout, height=height)]


def refine(**a: Any) -> Any:
    options = {"radius": 2, "iterations": 2} | {n: a[n] for n in OPTIONS if n in a}
    kernels.refine_flow(a["first"], a["second"], a["flow"], **options)
    return [a["flow"]]


def match(**a: Any) -> Any:
    options = {"iterations": 5, "damping": 1e-3} | {n: a[n] for n in OPTIONS if n in a}
    return kernels.match_rays(a["rays"], a["X_f"], a["starts"], **options)


def refine_match(**a: Any) -> Any:
    names = ("descriptors", "sought", "rays", "X_f", "pixel", "active")
    options = {"radius": 2, "dilation": 2} | {n: a[n] for n in OPTIONS if n in a}
    return kernels.refine_matches(*(a[n] for n in names), **options)


def dense_step(problem: DenseProblem, **a: float) -> Any:
    options = {"damping": 1e-3, "depth_damping": 0.0, "min_value": 0.01, "max_value": 10.0} | a
    return kernels.dense_ba_step(problem, **options)


CALLS = [
    pose, solve, ray, pixel_depth, triangulate, fuse, warp, unroll, refine, match, refine_match
]  # fmt: skip
IN_PLACE = (fuse, refine)
OPTIONS = ("radius", "iterations", "regularisation", "longest_step", "damping", "dilation")
