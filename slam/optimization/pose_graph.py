"""Sim(3) pose graph over pointmap factors: keyframe poses from all their matched points at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_matrix, csc_matrix, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from slam.frame import Intrinsics
from slam.least_squares import Minimum, Step, minimise
from slam.lie import sim3_adjoint, sim3_exp, sim3_inv, sim3_mul
from slam.optimization.pointmap_factor import PointmapFactor, factor_matches
from slam.pointmap_residuals import (
    PointMatches,
    descent_of,
    is_determined,
    normal_equations,
    without_outliers,
)
from slam.pointmap_settings import DescentSettings, PoseGraphSettings, ResidualSettings

GRADUATION = 4.0  # factor between the scales of the factors' robust cost
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
    loose = _loose_keyframes(held, start.ends[:, start.determined(residuals.minimum_matches)])
    if len(loose) or held.all():
        failure = _without_ties(loose)
        return PoseGraphSolution(
            T_WC.clone(), start.cost, start.cost, trust, 0, not failure, failure
        )
    found, before = _solve(graph, start, T_WC, settings)
    trust[used] = torch.from_numpy(found.system.trust)
    return PoseGraphSolution(
        found.state, before, found.system.cost, trust, found.iterations, found.converged, ""
    )


def _loose_keyframes(held: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Keyframes that no chain of factors between `ends` [2, F] ties to one that is held [N]."""
    anchors = np.flatnonzero(held)
    ends = np.concatenate([ends, [anchors, np.full_like(anchors, anchors[0])]], 1)
    links = coo_matrix((np.ones(ends.shape[1]), ends), (len(held), len(held)))
    label = connected_components(links, directed=False)[1]
    return np.flatnonzero(label != label[anchors[0]])


def _without_ties(loose: np.ndarray) -> str:
    """The failure in words; empty where none is loose."""
    if len(loose) == 0:
        return ""
    names = ", ".join(map(str, loose[:8])) + (", ..." if len(loose) > 8 else "")
    return f"no factors tie keyframes {names} to a fixed one"


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


class _Unknowns:
    """Which keyframes move, and where their 7 numbers are."""

    def __init__(self, held: np.ndarray) -> None:
        """Args: held: [N] bool, those that stay."""
        self.held = held
        self.free = np.flatnonzero(~held)  # numbers of the keyframes that move
        self.place = np.where(held, -1, np.cumsum(~held) - 1)  # [N], among those; -1 = stays


@dataclass(frozen=True, slots=True)
class _Graph:
    """Everything that stays the same during a solve: F factors, unpacked (36 bytes a match)."""

    ends: np.ndarray  # [2, F] keyframes i and j of the factors
    matches: Sequence[PointMatches]  # F
    unknowns: _Unknowns
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

    def linearise(self, T_WC: Tensor, scale: float) -> _System:
        """All factors at these poses. Args: scale: of the factors' robust cost."""
        found = [
            normal_equations(matches, T_ij, self.residuals, self.intrinsics)
            for matches, T_ij in zip(self.matches, self.relative(T_WC), strict=True)
        ]
        count = np.array([e.count for e in found])
        mean = np.array([e.cost for e in found]) / np.maximum(count, 1)
        return _System(
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
    return _Graph(ends, matches, _Unknowns(held), residuals, intrinsics)


@dataclass(frozen=True, slots=True)
class _System:
    """The linearised graph. F factors; a relative twist of T_ij is A (xi_j - xi_i)."""

    unknowns: _Unknowns
    ends: np.ndarray  # [2, F] keyframes i and j
    H: np.ndarray  # [F, 7, 7], of left perturbations of T_ij
    g: np.ndarray  # [F, 7]
    count: np.ndarray  # [F], matches with a weight
    A: np.ndarray  # [F, 7, 7], adjoint of T_WC_i's inverse
    trust: np.ndarray  # [F], derivative of the robust cost by the factor's own
    cost: float
    mean: np.ndarray  # [F], mean robust cost of a match

    def step(self, damping: float) -> Step | None:
        """The damped Gauss-Newton step [N, 7] of all keyframes, 0 where they are fixed."""
        H, g = self.assembled()
        diagonal = H.diagonal()
        if not (diagonal > 0).all():
            return None
        factor = _factorised(csc_matrix(H + diags_array(damping * diagonal)))
        if factor is None:
            return None
        x = factor.solve(g)
        twist = np.zeros((len(self.unknowns.held), 7))
        twist[self.unknowns.free] = x.reshape(-1, 7)
        return Step(torch.from_numpy(twist), float(g @ x - 0.5 * x @ (H @ x)))

    def assembled(self) -> tuple[csc_matrix, np.ndarray]:
        """H [7 n, 7 n] and g [7 n] of the n keyframes that move."""
        weighted = self.A.transpose(0, 2, 1) * self.trust[:, None, None]
        block = weighted @ self.H @ self.A
        slope = (weighted @ self.g[..., None])[..., 0]
        i, j = self.unknowns.place[self.ends]
        rows = np.concatenate([i, j, i, j])
        columns = np.concatenate([i, j, j, i])
        blocks = np.concatenate([block, block, -block, -block])
        size = 7 * len(self.unknowns.free)
        g = np.zeros((len(self.unknowns.free) + 1, 7))  # the last row: fixed ones
        np.add.at(g, j, slope)
        np.add.at(g, i, -slope)
        free = (rows >= 0) & (columns >= 0)
        down = np.repeat(7 * rows[free, None] + np.arange(7), 7, axis=1)
        across = np.tile(7 * columns[free, None] + np.arange(7), 7)
        entries = (blocks[free].ravel(), (down.ravel(), across.ravel()))
        return csc_matrix(coo_matrix(entries, (size, size))), g[:-1].ravel()

    def determined(self, minimum: int) -> np.ndarray:
        """Which factors [F] tell all of the Sim(3) between their ends."""
        return np.array(
            [
                count >= minimum and is_determined(torch.from_numpy(H))
                for count, H in zip(self.count, self.H, strict=True)
            ],
            bool,
        )


def _factorised(H: csc_matrix) -> SuperLU | None:
    """A sparse factorisation of a symmetric positive matrix; None where there is none."""
    if not np.isfinite(H.data).all():
        return None
    try:
        return splu(
            H,
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
    except RuntimeError:  # exactly singular
        return None


def _moved(T_WC: Tensor, twist: Tensor) -> Tensor:
    """Poses after a step; a zero twist is the exact identity."""
    return sim3_mul(sim3_exp(twist), T_WC)


def _solve(
    graph: _Graph, start: _System, T_WC: Tensor, settings: PoseGraphSettings
) -> tuple[Minimum[Tensor, _System], float]:
    """The minimum, outliers left out, and what the same cost was at the start.

    Should the way over other scales end higher than it began, the last scale alone is descended.
    """
    last, descent = settings.factor_outlier, settings.descent
    rough = replace(descent, relative_decrease=ROUGH)
    *scales, _ = _scales(float(start.mean.max(initial=0.0)), last)
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
) -> Minimum[Tensor, _System]:
    """The minimum from T_WC for one scale of the factors' robust cost."""
    count = sum(len(matches.weight) for matches in graph.matches)
    descent = descent_of(settings, count)
    return minimise(T_WC, lambda state: graph.linearise(state, scale), _moved, descent)


def _scales(worst: float, last: float) -> list[float]:
    """Falling scales of the factors' robust cost, from where none is doubted much to the last."""
    scales = [last]
    while scales[0] < worst:
        scales.insert(0, GRADUATION * scales[0])
    return scales
