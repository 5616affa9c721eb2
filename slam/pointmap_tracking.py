"""Frame + keyframe, both as pointmaps -> Sim(3) between them, and whether to make a keyframe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.frame import Intrinsics
from slam.kernels import NormalEquations
from slam.least_squares import Step, minimise
from slam.lie import sim3_exp, sim3_mul
from slam.pointmap_residuals import (
    PointMatches,
    descent_of,
    is_determined,
    normal_equations,
    without_outliers,
)
from slam.pointmap_settings import DescentSettings, ResidualSettings


@dataclass(frozen=True, slots=True)
class PointmapTrack:
    """The pose of a frame against a keyframe. Where `failure` says why there is none, the guess."""

    T_kf: Tensor  # [8] float64 Sim(3), takes points of the frame to the keyframe
    information: Tensor  # [7, 7] float64, of a left perturbation of T_kf; outliers left out
    cost: float  # mean robust cost of a match, whitened; outliers too
    inlier_fraction: float  # share of the matches within 3 sigma on every element
    count: int  # matches with a weight
    iterations: int
    failure: str  # why there is no pose; empty where there is one


def track_pointmap(
    matches: PointMatches,
    T_guess: Tensor,
    residuals: ResidualSettings,
    settings: DescentSettings,
    intrinsics: Intrinsics | None = None,
) -> PointmapTrack:
    """T_kf by robust Levenberg-Marquardt (MASt3R-SLAM, Murai et al., CVPR 2025, section 3.3).

    A second round leaves out what the first one could not explain: the robust cost bounds the pull
    of a wrong match, but many that pull the same way still move the pose.

    Args:
        T_guess: [8] float64 Sim(3), start, takes points of the frame to the keyframe.
        intrinsics: of the keyframe, px: pixel and log depth; None: viewing ray and log distance.
    """

    def on(used: PointMatches) -> Callable[[Tensor], _System]:
        return lambda T_kf: _System(normal_equations(used, T_kf, residuals, intrinsics))

    descent = descent_of(settings, matches.count)
    first = minimise(T_guess, on(matches), _moved, descent)
    kept = without_outliers(matches, first.state, settings.outlier, residuals, intrinsics)
    second = minimise(first.state, on(kept), _moved, descent)
    failure = _failure(second.system.equations, residuals.minimum_matches)
    T_kf = T_guess if failure else second.state
    everything = normal_equations(matches, T_kf, residuals, intrinsics)
    count = max(everything.count, 1)
    return PointmapTrack(
        T_kf=T_kf,
        information=second.system.equations.H,
        cost=everything.cost / count,
        inlier_fraction=everything.inliers / count,
        count=everything.count,
        iterations=first.iterations + second.iterations,
        failure=failure,
    )


@dataclass(frozen=True, slots=True)
class _System:
    """Normal equations as `minimise` takes them."""

    equations: NormalEquations

    @property
    def cost(self) -> float:
        return self.equations.cost

    def step(self, damping: float) -> Step | None:
        H, g = self.equations.H, self.equations.g
        damped = H + torch.diag(damping * H.diagonal())
        factor, info = torch.linalg.cholesky_ex(damped)
        if int(info) != 0:
            return None
        twist = torch.cholesky_solve(g[:, None], factor)[:, 0]
        return Step(twist, float(g @ twist - 0.5 * twist @ H @ twist))


def _moved(T_kf: Tensor, twist: Tensor) -> Tensor:
    return sim3_mul(sim3_exp(twist), T_kf)


def _failure(equations: NormalEquations, minimum: int) -> str:
    """What is wrong with a solved problem; empty = nothing."""
    if equations.count < minimum:
        return f"wanted {minimum} matches, got {equations.count}"
    if not is_determined(equations.H):
        return "the matches do not determine a Sim(3): too few places, or all of them alike"
    return ""
