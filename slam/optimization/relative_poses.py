"""Sim(3) graph over relative poses: spreads what a loop closes over all keyframes between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slam.least_squares import Descent, minimise
from slam.lie import sim3_adjoint, sim3_inv, sim3_log, sim3_mul
from slam.optimization.sim3_graph import (
    Sim3System,
    Unknowns,
    falling_scales,
    loose_keyframes,
    moved,
    without_ties,
)

DESCENT = Descent(iterations=30, damping=1e-8, relative_decrease=1e-6, negligible=1e-9)
DOUBTFUL = 100.0  # squared whitened error at which an edge is half believed, in the end


@dataclass(frozen=True, slots=True)
class RelativePose:
    """One edge of the graph."""

    i: int  # place of a keyframe
    j: int  # of another
    T_ij: Tensor  # [8] float64 Sim(3), takes points of j, in its scale, to i, in its
    sigma: float  # rad; of a translation relative to `depth`, and of a log scale
    depth: float  # typical distance of what i sees, in its scale


@dataclass(frozen=True, slots=True)
class RelativePoses:
    """The poses after, and what is believed."""

    T_WC: Tensor  # [N, 8] float64 Sim(3); fixed ones as given
    trust: Tensor  # [E] float64, 0 to 1, of each edge
    cost: float  # robust, whitened
    failure: str  # why nothing was solved; empty where it was


def optimise_relative_poses(
    T_WC: Tensor, edges: Sequence[RelativePose], fixed: Sequence[bool]
) -> RelativePoses:
    """Levenberg-Marquardt on the keyframes' Sim(3) (Strasdat et al., RSS 2010).

    Edges are robust: Geman and McClure's function of an edge's squared error, its scale lowered by
    and by, so that one that contradicts all the others loses its say in the end.

    Args:
        T_WC: [N, 8] float64, start.
        fixed: [N], True = the pose stays; at least one.
    Raises ValueError where none is fixed, poses are not finite, or an edge names a keyframe that is
    not there.
    """
    if not any(fixed) or len(fixed) != len(T_WC):
        raise ValueError(f"relative poses: wanted {len(T_WC)} flags, one of them set, got {fixed}")
    if not torch.isfinite(T_WC).all():
        raise ValueError("relative poses: wanted finite poses to start from, got NaN or infinity")
    bad = [e for e in edges if e.i == e.j or not (0 <= min(e.i, e.j) <= max(e.i, e.j) < len(T_WC))]
    if bad:
        raise ValueError(
            f"relative poses: wanted edges between two of {len(T_WC)} keyframes, got one of "
            f"{bad[0].i} and {bad[0].j}"
        )
    held = np.array(fixed, bool)
    ends = np.array([(e.i, e.j) for e in edges], np.int64).reshape(-1, 2).T
    if failure := without_ties(loose_keyframes(held, ends)):
        return RelativePoses(T_WC.clone(), torch.zeros(len(edges)), float("nan"), failure)
    graph = _Graph(edges, held)
    state = T_WC
    for scale in falling_scales(float(graph.linearise(T_WC, DOUBTFUL).mean.max()), DOUBTFUL):
        found = minimise(state, lambda T, s=scale: graph.linearise(T, s), moved, DESCENT)
        state = found.state
    return RelativePoses(state, torch.from_numpy(found.system.trust), found.system.cost, "")


class _Graph:
    """What stays the same during a solve."""

    def __init__(self, edges: Sequence[RelativePose], held: np.ndarray) -> None:
        """Args: held: [N] bool, poses that stay."""
        self.unknowns = Unknowns(held)
        self.ends = np.array([(e.i, e.j) for e in edges], np.int64).reshape(-1, 2).T.copy()
        self.T_ji = sim3_inv(torch.stack([e.T_ij for e in edges]))
        sigma = np.array([e.sigma for e in edges])
        depth = np.array([e.depth for e in edges])
        self.weight = np.repeat(sigma[:, None] ** -2, 7, axis=1)  # [E, 7], of a twist's entries
        self.weight[:, :3] *= depth[:, None] ** -2

    def linearise(self, T_WC: Tensor, scale: float) -> Sim3System:
        """All edges at these poses. Args: scale: of the edges' robust cost."""
        i, j = torch.from_numpy(self.ends)
        T_iW = sim3_inv(T_WC[i])
        error = sim3_log(sim3_mul(sim3_mul(T_iW, T_WC[j]), self.T_ji)).numpy()
        squared = (self.weight * error**2).sum(1)
        return Sim3System(
            unknowns=self.unknowns,
            ends=self.ends,
            H=self.weight[:, :, None] * np.eye(7),
            g=-self.weight * error,
            count=np.ones(len(squared)),
            A=sim3_adjoint(T_iW).numpy(),
            trust=(scale / (scale + squared)) ** 2,
            cost=float((scale * squared / (scale + squared)).sum()),
            mean=squared,
        )
