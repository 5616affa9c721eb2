"""Sim(3) pose graph over pointmap factors: keyframe poses from all their matched points at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from slam.frame import Intrinsics
from slam.least_squares import Minimum, minimise
from slam.lie import sim3_adjoint, sim3_inv, sim3_mul
from slam.optimization.pointmap_factor import PointmapFactor, factor_matches
from slam.optimization.sim3_graph import (
    Sim3System,
    Unknowns,
    falling_scales,
    loose_keyframes,
    moved,
    without_ties,
)
from slam.pointmap_residuals import (
    PointMatches,
    descent_of,
    normal_equations,
    without_outliers,
)
from slam.pointmap_settings import DescentSettings, PoseGraphSettings, ResidualSettings

ROUGH = 0.01  # relative decrease of the cost at which all scales but the last are left


@dataclass(frozen=True, slots=True)
class PoseGraphSolution:
    """The poses after, and what became of the cost. On a failure they are those before."""

    T_WC: Tensor  # [N, 8] float64 Sim(3), keyframe to world; fixed ones bit for bit as given
    start_cost: float  # robust cost, whitened, less the matches left out in the end
    cost: float  # the same in the end: never higher
    trust: Tensor  # [F] float64, 0 to 1, what is believed of each factor; 0 = left out
    iterations: int
    converged: bool
    failure: str  # why nothing was solved; empty where it was


def optimise_pose_graph(
    T_WC: Tensor,
    pointmaps: Sequence[Tensor],
    factors: Sequence[PointmapFactor],
    fixed: Sequence[bool],
    residuals: ResidualSettings,
    settings: PoseGraphSettings,
    intrinsics: Intrinsics | None = None,
) -> PoseGraphSolution:
    """Levenberg-Marquardt on the keyframes' Sim(3) (MASt3R-SLAM, Murai et al. 2025, section 3.5).

    Unlike there, whole factors are robust too: Geman and McClure's function of a factor's mean
    cost, its scale lowered by and by (graduated non-convexity), so that an edge between two places
    that only look alike loses its say.

    Args:
        T_WC: [N, 8] float64, start.
        pointmaps: N of [H, W, 3] float32, each in its keyframe's camera.
        factors: between them; `i` and `j` are places in `T_WC`.
        fixed: [N], True = the pose stays. Without any, the first one stays: the gauge.
        intrinsics: of all keyframes, px: pixel and log depth; None: viewing ray and log distance.
    Raises ValueError where a factor names a keyframe that is not there.
    """
    _check(T_WC, pointmaps, factors, fixed)
    trust = torch.zeros(len(factors), dtype=torch.float64)
    held = np.array(fixed, bool) if any(fixed) else np.arange(len(T_WC)) == 0
    used = [n for n, f in enumerate(factors) if not (held[f.i] and held[f.j])]
    graph = _graph(pointmaps, [factors[n] for n in used], held, residuals, intrinsics)
    start = graph.linearise(T_WC, settings.factor_outlier)
    loose = loose_keyframes(held, start.ends[:, start.determined(residuals.minimum_matches)])
    if len(loose) or held.all():
        failure = without_ties(loose)
        return PoseGraphSolution(
            T_WC.clone(), start.cost, start.cost, trust, 0, not failure, failure
        )
    found, before = _solve(graph, start, T_WC, settings)
    trust[used] = torch.from_numpy(found.system.trust)
    return PoseGraphSolution(
        found.state, before, found.system.cost, trust, found.iterations, found.converged, ""
    )


def _check(
    T_WC: Tensor,
    pointmaps: Sequence[Tensor],
    factors: Sequence[PointmapFactor],
    fixed: Sequence[bool],
) -> None:
    count = len(T_WC)
    if T_WC.shape != (count, 8) or len(pointmaps) != count or len(fixed) != count:
        raise ValueError(
            f"pose graph: wanted poses [N, 8], N pointmaps and N flags, got {list(T_WC.shape)}, "
            f"{len(pointmaps)} and {len(fixed)}"
        )
    for factor in factors:
        if factor.i == factor.j or not (0 <= factor.i < count and 0 <= factor.j < count):
            raise ValueError(
                f"pose graph: wanted factors between two of {count} keyframes, "
                f"got one of {factor.i} and {factor.j}"
            )


@dataclass(frozen=True, slots=True)
class _Graph:
    """Everything that stays the same during a solve: F factors, unpacked (36 bytes a match)."""

    ends: np.ndarray  # [2, F] keyframes i and j of the factors
    matches: Sequence[PointMatches]  # F
    unknowns: Unknowns
    residuals: ResidualSettings
    intrinsics: Intrinsics | None

    def relative(self, T_WC: Tensor) -> Tensor:
        """T_ij [F, 8] of the factors."""
        i, j = torch.from_numpy(self.ends)
        return sim3_mul(sim3_inv(T_WC[i]), T_WC[j])

    def without_outliers(self, T_WC: Tensor, limit: float) -> _Graph:
        """The same less the matches that these poses leave far beyond their factor's middle."""
        kept = [
            without_outliers(matches, T_ij, limit, self.residuals, self.intrinsics)
            for matches, T_ij in zip(self.matches, self.relative(T_WC), strict=True)
        ]
        return replace(self, matches=kept)

    def linearise(self, T_WC: Tensor, scale: float) -> Sim3System:
        """All factors at these poses. Args: scale: of the factors' robust cost."""
        found = [
            normal_equations(matches, T_ij, self.residuals, self.intrinsics)
            for matches, T_ij in zip(self.matches, self.relative(T_WC), strict=True)
        ]
        count = np.array([e.count for e in found])
        mean = np.array([e.cost for e in found]) / np.maximum(count, 1)
        return Sim3System(
            unknowns=self.unknowns,
            ends=self.ends,
            H=np.array([e.H.numpy() for e in found]).reshape(-1, 7, 7),
            g=np.array([e.g.numpy() for e in found]).reshape(-1, 7),
            count=count,
            A=sim3_adjoint(sim3_inv(T_WC[torch.from_numpy(self.ends[0])])).numpy(),
            trust=(scale / (scale + mean)) ** 2,
            cost=float((count * scale * mean / (scale + mean)).sum()),
            mean=mean,
        )


def _graph(
    pointmaps: Sequence[Tensor],
    factors: Sequence[PointmapFactor],
    held: np.ndarray,
    residuals: ResidualSettings,
    intrinsics: Intrinsics | None,
) -> _Graph:
    """The factors unpacked. Args: held: [N] bool, keyframes that stay."""
    ends = np.array([(f.i, f.j) for f in factors], np.int64).reshape(-1, 2).T.copy()
    matches = [factor_matches(f, pointmaps[f.i], pointmaps[f.j]) for f in factors]
    return _Graph(ends, matches, Unknowns(held), residuals, intrinsics)


def _solve(
    graph: _Graph, start: Sim3System, T_WC: Tensor, settings: PoseGraphSettings
) -> tuple[Minimum[Tensor, Sim3System], float]:
    """The minimum, outliers left out, and what the same cost was at the start.

    Should the way over other scales end higher than it began, the last scale alone is descended.
    """
    last, descent = settings.factor_outlier, settings.descent
    rough = replace(descent, relative_decrease=ROUGH)
    *scales, _ = falling_scales(float(start.mean.max(initial=0.0)), last)
    T, taken = T_WC, 0
    for scale in scales:
        found = _descend(graph, T, scale, rough)
        T, taken = found.state, taken + found.iterations
    found = _descend(graph, T, last, descent)
    taken += found.iterations
    kept = graph.without_outliers(found.state, descent.outlier)
    found = _descend(kept, found.state, last, descent)
    taken += found.iterations
    before = kept.linearise(T_WC, last).cost
    if found.system.cost > before:
        found = _descend(kept, T_WC, last, descent)
        taken += found.iterations
    return replace(found, iterations=taken), before


def _descend(
    graph: _Graph, T_WC: Tensor, scale: float, settings: DescentSettings
) -> Minimum[Tensor, Sim3System]:
    """The minimum from T_WC for one scale of the factors' robust cost."""
    count = sum(len(matches.weight) for matches in graph.matches)
    descent = descent_of(settings, count)
    return minimise(T_WC, lambda state: graph.linearise(state, scale), moved, descent)
