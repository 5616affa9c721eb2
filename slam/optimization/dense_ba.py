"""Dense bundle adjustment: poses, inverse depths and the focal length from flow on many edges."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slam import kernels
from slam.config import BundleAdjustmentSettings, MappingSettings
from slam.frame import Correspondence, Intrinsics, InverseDepth
from slam.lie import se3_exp, se3_inv, se3_mul
from slam.mapping import observe
from slam.predictors.grid import Grid

GIVE_UP = 1e3  # damping at which no step of any use is left
CORRELATED = 8  # measurements that share one error: 2 x 2 in a flow patch, in both directions
TRIES = 3  # steps tried for each one that may be taken

Edge = tuple[int, int]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BundleAdjustment:
    """The state of a bundle adjustment, before and after. N keyframes, P grid pixels."""

    T_WC: Tensor  # [N, 7] float64 SE(3)
    depth: tuple[InverseDepth, ...]  # N of [P]
    intrinsics: Intrinsics  # fx, fy, cx, cy px
    focal_sigma: float = float("inf")  # standard deviation of log focal; inf = not refined
    cost: float = float("nan")  # robust cost per measurement, whitened
    converged: bool = False  # False: no step lowered the cost


def bundle_adjust(
    grid: Grid,
    state: BundleAdjustment,
    edges: Mapping[Edge, Correspondence],
    fixed: Sequence[bool],
    held: Sequence[bool],
    settings: BundleAdjustmentSettings,
    mapping: MappingSettings,
    *,
    iterations: int,
    refine_focal: bool = False,
    relative_decrease: float | None = None,
    prior: Sequence[InverseDepth] | None = None,
) -> BundleAdjustment:
    """Levenberg-Marquardt on poses and inverse depths (Teed & Deng 2021, Schur complement).

    Args:
        edges: (i, j), places in `state`, to where i's grid pixels land in j.
        fixed: [N], True = the pose stays.
        held: [N], True = the depth takes part with its information as a prior, and stays.
        refine_focal: also solve for one factor on fx and fy.
        relative_decrease: of the cost, at which it stops; None = as set.
        prior: N depths known beforehand, other than by these edges; None = none are.
    """
    problem = _problem(grid, state, edges, fixed, held, settings, refine_focal)
    if prior is not None:
        problem = _with_prior(problem, prior, held)
    damping, focal_information = settings.damping, 0.0
    low, high = _limits(problem.inverse_depth)
    enough = settings.relative_decrease if relative_decrease is None else relative_decrease
    cost = kernels.dense_ba_cost(problem)
    taken, solvable = 0, iterations == 0
    for _ in range(TRIES * iterations):
        if taken == iterations:
            break
        step = kernels.dense_ba_step(
            problem,
            damping=damping,
            depth_damping=settings.depth_damping,
            min_value=low,
            max_value=high,
        )
        solvable = solvable or step.ok
        candidate = _moved(problem, step) if step.ok else problem
        new_cost = kernels.dense_ba_cost(candidate)
        if not new_cost < cost:
            damping = max(damping, 1e-6) * 10
            if damping > GIVE_UP:
                break
            continue
        gain = (cost - new_cost) / cost
        problem, cost, taken = candidate, new_cost, taken + 1
        focal_information = step.focal_information
        damping = max(damping / 5, 1e-8)
        if gain < enough:
            break
    if not solvable:
        log.warning(
            "bundle adjustment of %d keyframes: cannot be solved, nothing moves", len(state.depth)
        )
    return _result(grid, state, problem, edges, held, mapping, cost, focal_information, taken > 0)


def _problem(
    grid: Grid,
    state: BundleAdjustment,
    edges: Mapping[Edge, Correspondence],
    fixed: Sequence[bool],
    held: Sequence[bool],
    settings: BundleAdjustmentSettings,
    refine_focal: bool,
) -> kernels.DenseProblem:
    """The kernel's view: world-to-camera poses, stacked edges in order, depth priors."""
    order = sorted(edges)
    value = torch.stack([d.value for d in state.depth])
    information = torch.stack([d.information for d in state.depth])
    known = torch.tensor(list(held))[:, None]
    weak = (settings.depth_prior_sigma * value) ** -2
    return kernels.DenseProblem(
        poses=se3_inv(state.T_WC),
        inverse_depth=value,
        edges=torch.tensor(order, dtype=torch.int32).reshape(-1, 2),
        target=torch.stack([edges[e].target for e in order]),
        weight=torch.stack([edges[e].weight for e in order]),
        prior=value.clone(),
        prior_weight=torch.where(known, torch.maximum(information, weak), weak),
        pixel=grid.pixel,
        intrinsics=state.intrinsics,
        fixed=torch.tensor(list(fixed)),
        huber=settings.huber,
        outlier=settings.outlier,
        refine_focal=refine_focal,
    )


def _with_prior(
    problem: kernels.DenseProblem, prior: Sequence[InverseDepth], held: Sequence[bool]
) -> kernels.DenseProblem:
    """With depths known beforehand, where they are and do not stay anyway."""
    value = torch.stack([depth.value for depth in prior])
    information = torch.stack([depth.information for depth in prior])
    used = (information > problem.prior_weight) & ~torch.tensor(list(held))[:, None]
    return replace(
        problem,
        prior=torch.where(used, value, problem.prior),
        prior_weight=torch.where(used, information, problem.prior_weight),
    )


def _limits(inverse_depth: Tensor) -> tuple[float, float]:
    """Inverse depths stay between far and near, both relative to the scene."""
    median = float(inverse_depth.median())
    return 1e-3 * median, 30 * median


def _moved(problem: kernels.DenseProblem, step: kernels.DenseStep) -> kernels.DenseProblem:
    fx, fy, cx, cy = problem.intrinsics
    factor = float(torch.exp(torch.tensor(step.log_focal, dtype=torch.float64)))
    return replace(
        problem,
        poses=se3_mul(se3_exp(step.twist), problem.poses),
        inverse_depth=step.inverse_depth,
        intrinsics=(fx * factor, fy * factor, cx, cy),
    )


def _result(
    grid: Grid,
    state: BundleAdjustment,
    problem: kernels.DenseProblem,
    edges: Mapping[Edge, Correspondence],
    held: Sequence[bool],
    mapping: MappingSettings,
    cost: float,
    focal_information: float,
    moved: bool,
) -> BundleAdjustment:
    T_WC = se3_inv(problem.poses)
    T_WC[problem.fixed] = state.T_WC[problem.fixed]
    values = problem.inverse_depth
    information = observed_information(grid, T_WC, values, edges, problem.intrinsics, mapping)
    depth = tuple(
        old if stays else InverseDepth(values[i].clone(), information[i].clone())
        for i, (old, stays) in enumerate(zip(state.depth, held, strict=True))
    )
    mean_cost = cost / max(int((problem.weight > 0).sum()), 1)
    sigma = focal_deviation(focal_information, mean_cost)
    return BundleAdjustment(T_WC, depth, problem.intrinsics, sigma, mean_cost, converged=moved)


def focal_deviation(information: float, mean_cost: float) -> float:
    """Standard deviation of log focal; inf where it was not solved for.

    The formal one, widened by the misfit (a measurement of two coordinates is expected to cost 1)
    and because flow errors of neighbours and of both directions are not independent. Errors of the
    camera model (distortion, rolling shutter) are not in it.
    """
    if information <= 0:
        return float("inf")
    return float((CORRELATED * max(mean_cost, 1.0) / information) ** 0.5)


def observed_information(
    grid: Grid,
    T_WC: Tensor,
    value: Tensor,
    edges: Mapping[Edge, Correspondence],
    intrinsics: Intrinsics,
    mapping: MappingSettings,
) -> Tensor:
    """Information [N, P] that the edges really give on each inverse depth, by their geometry.

    An observation counts where it agrees with the depth within 3 sigma (plus 2 % of the depth).
    """
    T_CW = se3_inv(T_WC)
    total = torch.zeros_like(value)
    for i, j in sorted(edges):
        seen = observe(grid, edges[i, j], se3_mul(T_CW[j], T_WC[i]), intrinsics, mapping)
        sigma = seen.information.clamp(min=1e-12).rsqrt()
        agrees = (seen.value - value[i]).abs() < 3 * sigma + 0.02 * value[i]
        total[i] += torch.where(agrees, seen.information, 0.0)
    return torch.minimum(total, (mapping.relative_floor * value) ** -2)
