"""Dense bundle adjustment: poses, inverse depths and the focal length from flow on many edges."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.config import BundleAdjustmentSettings, MappingSettings
from slam.frame import Correspondence, Intrinsics, InverseDepth
from slam.lie import se3_inv, se3_mul
from slam.mapping import observe
from slam.optimization.dense_parts import Depths, PartedProblem, measured_part, spans_of
from slam.paging import Pages
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
    pages: Pages | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> BundleAdjustment:
    """Levenberg-Marquardt on poses and inverse depths (Teed & Deng 2021, Schur complement).

    Args:
        edges: (i, j), places in `state`, to where i's grid pixels land in j.
        fixed: [N], True = the pose stays.
        held: [N], True = the depth takes part with its information as a prior, and stays.
        refine_focal: also solve for one factor on fx and fy.
        relative_decrease: of the cost, at which it stops; None = as set.
        prior: N depths known beforehand, other than by these edges; None = none are.
        pages: keep what is large of the problem and the result; None = memory does.
        stop: asked before each iteration; True = the last one is good enough.
    """
    pages = pages or Pages()
    low, high = _limits(state.depth)
    beside = settings, refine_focal, prior, low, pages
    problem = _problem(grid, state, edges, fixed, held, *beside)
    damping, focal_information = settings.damping, 0.0
    enough = settings.relative_decrease if relative_decrease is None else relative_decrease
    cost = problem.cost()
    taken, solvable = 0, iterations == 0
    for _ in range(TRIES * iterations):
        if taken == iterations or stop():
            solvable = solvable or stop()
            break
        step = problem.motion(damping, settings.depth_damping)
        solvable = solvable or step.ok
        candidate = problem.moved(step, settings.depth_damping, low, high) if step.ok else problem
        new_cost = candidate.cost()
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
    return _result(grid, state, problem, held, mapping, cost, focal_information, taken > 0)


def _problem(
    grid: Grid,
    state: BundleAdjustment,
    edges: Mapping[Edge, Correspondence],
    fixed: Sequence[bool],
    held: Sequence[bool],
    settings: BundleAdjustmentSettings,
    refine_focal: bool,
    prior: Sequence[InverseDepth] | None,
    low: float,
    pages: Pages,
) -> PartedProblem:
    """The kernel's view: world-to-camera poses, stacked edges in order, depth priors.

    Args: low: least inverse depth.
    """
    order, pixels = sorted(edges), len(grid.pixel)
    spans, measured, depths = [], [], []
    for span, chosen in spans_of(order, len(state.depth), pixels, pages):
        given = state.depth, edges, chosen, held, prior, settings.depth_prior_sigma, low
        value = torch.stack([d.value for d in state.depth[slice(*span)]])
        spans.append(span)
        measured.append(pages.keep(measured_part(span, *given)))
        depths.append(pages.keep(Depths(value)))
    return PartedProblem(
        poses=se3_inv(state.T_WC),
        edges=torch.tensor(order, dtype=torch.int32).reshape(-1, 2),
        fixed=torch.tensor(list(fixed)),
        pixel=grid.pixel,
        intrinsics=state.intrinsics,
        huber=settings.huber,
        outlier=settings.outlier,
        refine_focal=refine_focal,
        pages=pages,
        spans=tuple(spans),
        measured=tuple(measured),
        depths=tuple(depths),
    )


def _limits(depth: Sequence[InverseDepth]) -> tuple[float, float]:
    """Inverse depths stay between far and near, both relative to the scene."""
    values = torch.cat([d.value for d in depth]).numpy()
    middle = (len(values) - 1) // 2
    values.partition(middle)  # in place
    median = float(values[middle])
    return 1e-3 * median, 30 * median


def _result(
    grid: Grid,
    state: BundleAdjustment,
    problem: PartedProblem,
    held: Sequence[bool],
    mapping: MappingSettings,
    cost: float,
    focal_information: float,
    moved: bool,
) -> BundleAdjustment:
    T_WC = se3_inv(problem.poses)
    T_WC[problem.fixed] = state.T_WC[problem.fixed]
    depth, count, order = [], 0, [(i, j) for i, j in problem.edges.tolist()]
    for part, (begin, end) in zip(problem.parts(), problem.spans, strict=True):
        count += int((part.weight > 0).sum())
        own = [(i, j) for i, j in order if begin <= i < end]
        found = map(Correspondence, part.target, part.weight)
        edges, values = dict(zip(own, found, strict=True)), part.inverse_depth
        information = observed_information(
            grid, T_WC, values, edges, problem.intrinsics, mapping, first=begin
        )
        depth += [
            old if stays else problem.pages.keep(InverseDepth(value.clone(), trust.clone()))
            for old, stays, value, trust in zip(
                state.depth[begin:end], held[begin:end], values, information, strict=True
            )
        ]
    mean_cost = cost / max(count, 1)
    sigma = focal_deviation(focal_information, mean_cost)
    return BundleAdjustment(
        T_WC, tuple(depth), problem.intrinsics, sigma, mean_cost, converged=moved
    )


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
    *,
    first: int = 0,
) -> Tensor:
    """Information [M, P] that the edges really give on each inverse depth, by their geometry.

    An observation counts where it agrees with the depth within 3 sigma (plus 2 % of the depth).

    Args:
        T_WC: [N, 7] of all keyframes.
        value: [M, P] of the keyframes from `first` on that the edges are from.
    """
    T_CW = se3_inv(T_WC)
    total = torch.zeros_like(value)
    for i, j in sorted(edges):
        seen = observe(grid, edges[i, j], se3_mul(T_CW[j], T_WC[i]), intrinsics, mapping)
        sigma, own = seen.information.clamp(min=1e-12).rsqrt(), value[i - first]
        agrees = (seen.value - own).abs() < 3 * sigma + 0.02 * own
        total[i - first] += torch.where(agrees, seen.information, 0.0)
    return torch.minimum(total, (mapping.relative_floor * value) ** -2)
