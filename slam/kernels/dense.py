"""Dense bundle adjustment: poses, inverse depths and optionally the focal length, one step."""

from __future__ import annotations

from dataclasses import dataclass

import _slam_native as _native
import torch
from torch import Tensor

from slam.kernels.checks import (
    Intrinsics,
    check,
    check_not_negative,
    check_positive,
    checked_camera,
    where,
)


@dataclass(frozen=True, slots=True)
class DenseProblem:
    """Keyframes whose pixels are measured in one another.

    The cost sums, over edges (i, j) and pixels p, Huber's function of the whitened norm of
    target - project(T_j T_i^-1, ray(p), rho_i(p)), and 0.5 prior_weight (prior - rho)^2. A norm
    beyond `outlier` has no influence and a constant cost; so has a point behind the camera (charged
    at most 1000 sigma). Floats may lie on a GPU; poses, edges and fixed on any device.

    Where memory does not hold all pixels, a problem is given in parts: all poses and edges, and
    the floats of some keyframes, M of them, and of the F edges from these. Of a whole one they are
    N and E.
    """

    poses: Tensor  # [N, 7] float64 SE(3) T_CW, world to camera
    inverse_depth: Tensor  # [M, P] float32, 1/m up to scale
    edges: Tensor  # [E, 2] int32 (i, j), i != j, sorted by (i, j): pixels of i measured in j
    target: Tensor  # [F, P, 2] float32, px in image j
    weight: Tensor  # [F, P] float32, 1 / variance in 1/px^2; 0 = not measured
    prior: Tensor  # [M, P] float32, inverse depth that is known beforehand
    prior_weight: Tensor  # [M, P] float32, 1 / its variance; 0 = none
    pixel: Tensor  # [P, 2] float32, px, of every keyframe's grid
    intrinsics: Intrinsics  # fx, fy, cx, cy in px, of all images
    fixed: Tensor  # [N] bool, poses that do not move
    huber: float  # whitened error where the cost turns linear
    outlier: float  # whitened error beyond which a measurement has no influence; may be inf
    refine_focal: bool  # also solve for one factor on fx and fy
    part: tuple[int, int] | None = None  # its first keyframe, and the one after it; None = all


@dataclass(frozen=True, slots=True)
class DenseStep:
    """One damped Gauss-Newton step; the caller keeps it where it lowers the cost."""

    twist: Tensor  # [N, 6] float64 on the CPU, T_CW <- exp(twist) T_CW; 0 for fixed poses
    log_focal: float  # fx and fy are to be multiplied by exp(log_focal); 0 unless refined
    inverse_depth: Tensor  # [N, P] float32, stepped and clamped; unchanged where nothing measures
    focal_information: float  # 1 / variance of log focal, all else marginalised; 0 unless refined
    cost: float  # before the step
    ok: bool  # False: the system was singular, nothing moved; damp more


@dataclass(frozen=True, slots=True)
class DenseMotion:
    """What a step does to the poses and the focal length."""

    twist: Tensor  # [N, 6] as in DenseStep
    log_focal: float  # likewise
    focal_information: float  # likewise
    cost: float  # before the step
    ok: bool  # as in DenseStep


def dense_ba_cost(problem: DenseProblem, before: float = 0.0) -> float:
    """Cost of a dense problem, or of a part of one and, `before`, of those before it.

    Raises ValueError where its tensors do not fit together.
    """
    return _native.dense_ba_cost(_inputs(problem), before, *where(problem.weight))


class DenseReduction:
    """The system of one step, reduced to the poses: add every part in order, then solve it."""

    def __init__(self, problem: DenseProblem, *, depth_damping: float) -> None:
        """Args:
        problem: any part: all have the poses and edges.
        depth_damping: each inverse depth's own curvature is multiplied by 1 + depth_damping.
        """
        check_not_negative(depth_damping=depth_damping)
        self._native = _native.DenseReduction(_inputs(problem))
        self._depth_damping = depth_damping
        self._poses = len(problem.poses)

    def add(self, part: DenseProblem) -> None:
        """Adds what a part's pixels say."""
        self._native.add(_inputs(part), self._depth_damping, *where(part.weight))

    def solve(self, damping: float) -> DenseMotion:
        """Of all that was added, once. Args: damping: see `dense_ba_step`."""
        check_not_negative(damping=damping)
        twist = torch.zeros(self._poses, 6, dtype=torch.float64)
        return DenseMotion(twist, *self._native.solve(damping, twist))


def dense_ba_depths(
    part: DenseProblem,
    motion: DenseMotion,
    *,
    depth_damping: float,
    min_value: float,
    max_value: float,
) -> Tensor:
    """Inverse depths [M, P] of a part after a step: substituted back, and clamped."""
    if not min_value <= max_value:
        raise ValueError(
            f"min_value: want at most max_value {max_value}, got {min_value}; swap them"
        )
    inverse_depth = part.inverse_depth.detach().clone()
    if motion.ok:
        bounds, moved = (depth_damping, min_value, max_value), (motion.twist, motion.log_focal)
        _native.dense_ba_update(_inputs(part), *bounds, *moved, inverse_depth, *where(part.weight))
    return inverse_depth


def dense_ba_step(
    problem: DenseProblem,
    *,
    damping: float,
    depth_damping: float,
    min_value: float,
    max_value: float,
) -> DenseStep:
    """One step on poses, inverse depths and focal: Schur complement onto the poses, sparse solve.

    Formulation of DROID-SLAM (Teed & Deng 2021). The focal's information is read off before its own
    damping, but that of the poses is in it: use a small `damping` where it matters.

    Args:
        damping: the reduced system's diagonal is multiplied by 1 + damping.
        depth_damping: likewise each inverse depth's own curvature.
        min_value, max_value: bounds of the stepped inverse depths.
    """
    reduction = DenseReduction(problem, depth_damping=depth_damping)
    reduction.add(problem)
    motion = reduction.solve(damping)
    inverse_depth = dense_ba_depths(
        problem,
        motion,
        depth_damping=depth_damping,
        min_value=min_value,
        max_value=max_value,
    )
    return DenseStep(
        motion.twist,
        motion.log_focal,
        inverse_depth,
        motion.focal_information,
        motion.cost,
        motion.ok,
    )


def _inputs(problem: DenseProblem) -> _native.DenseInputs:
    """The native problem, checked."""
    beside = problem.weight
    keyframes, pixels = len(problem.poses), len(problem.pixel)
    count = len(problem.edges)
    begin, end, given = _given(problem)
    check("weight", beside, (given, pixels), beside)
    check("pixel", problem.pixel, (pixels, 2), beside)
    check("target", problem.target, (given, pixels, 2), beside)
    for name in ("inverse_depth", "prior", "prior_weight"):
        check(name, getattr(problem, name), (end - begin, pixels), beside)
    host = [tensor.detach().cpu().contiguous() for tensor in (problem.poses, problem.edges)]
    poses, edges, fixed = *host, problem.fixed.cpu().contiguous()
    check("poses", poses, (keyframes, 7), poses, torch.float64)
    check("edges", edges, (count, 2), poses, torch.int32)
    check("fixed", fixed, (keyframes,), poses, torch.bool)
    if not torch.isfinite(poses).all() or not poses[:, 3:].any(dim=1).all():
        raise ValueError("poses: want finite poses with a quaternion, got others; check the solver")
    _check_edges(edges, keyframes)
    check_positive(huber=problem.huber, outlier=problem.outlier)
    floats = (problem.inverse_depth, problem.prior, problem.prior_weight, problem.target, beside)
    return _native.DenseInputs(
        *(begin, poses, edges, fixed, *floats, problem.pixel, checked_camera(problem.intrinsics)),
        *(problem.huber, problem.outlier, problem.refine_focal),
    )


def _given(problem: DenseProblem) -> tuple[int, int, int]:
    """A part's first keyframe, the one after it, and how many edges are from those."""
    keyframes, edges = len(problem.poses), problem.edges
    if problem.part is None:
        return 0, keyframes, len(edges)
    begin, end = problem.part
    if not 0 <= begin < end <= keyframes:
        raise ValueError(
            f"part: want keyframes of 0 to {keyframes}, at least one, got {begin} to {end}"
        )
    return begin, end, int(((edges[:, 0] >= begin) & (edges[:, 0] < end)).sum())


def _check_edges(edges: Tensor, keyframes: int) -> None:
    """Raise ValueError unless edges name keyframes, join different ones, and are sorted."""
    if len(edges) == 0:
        return
    if int(edges.min()) < 0 or int(edges.max()) >= keyframes:
        raise ValueError(
            f"edges: want indices from 0 to {keyframes - 1}, got {int(edges.min())} to "
            f"{int(edges.max())}; renumber them"
        )
    if bool((edges[:, 0] == edges[:, 1]).any()):
        raise ValueError("edges: want i != j, got an edge from a keyframe to itself; drop it")
    key = edges[:, 0].long() * keyframes + edges[:, 1]
    if bool((key.diff() < 0).any()):
        raise ValueError("edges: want them sorted by (i, j), got another order; sort them")
