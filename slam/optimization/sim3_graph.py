"""Linearised graphs of Sim(3) poses: what all of them share, whatever their edges compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_matrix, csc_matrix, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import SuperLU, splu
from torch import Tensor

from slam.least_squares import Step
from slam.lie import sim3_exp, sim3_mul
from slam.pointmap_residuals import is_determined

GRADUATION = 4.0  # factor between the scales of the edges' robust cost


class Unknowns:
    """Which keyframes move, and where their 7 numbers are."""

    def __init__(self, held: np.ndarray) -> None:
        """Args: held: [N] bool, those that stay."""
        self.held = held
        self.free = np.flatnonzero(~held)  # numbers of the keyframes that move
        self.place = np.where(held, -1, np.cumsum(~held) - 1)  # [N], among those; -1 = stays


@dataclass(frozen=True, slots=True)
class Sim3System:
    """The linearised graph. F factors; a relative twist of T_ij is A (xi_j - xi_i)."""

    unknowns: Unknowns
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
        factor = factorised(csc_matrix(H + diags_array(damping * diagonal)))
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


def factorised(H: csc_matrix) -> SuperLU | None:
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


def moved(T_WC: Tensor, twist: Tensor) -> Tensor:
    """Poses after a step; a zero twist is the exact identity."""
    return sim3_mul(sim3_exp(twist), T_WC)


def falling_scales(worst: float, last: float) -> list[float]:
    """Falling scales of the edges' robust cost, from where none is doubted much to the last."""
    scales = [last]
    while scales[0] < worst:
        scales.insert(0, GRADUATION * scales[0])
    return scales


def loose_keyframes(held: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Keyframes that no chain of factors between `ends` [2, F] ties to one that is held [N]."""
    anchors = np.flatnonzero(held)
    ends = np.concatenate([ends, [anchors, np.full_like(anchors, anchors[0])]], 1)
    links = coo_matrix((np.ones(ends.shape[1]), ends), (len(held), len(held)))
    label = connected_components(links, directed=False)[1]
    return np.flatnonzero(label != label[anchors[0]])


def without_ties(loose: np.ndarray) -> str:
    """The failure in words; empty where none is loose."""
    if len(loose) == 0:
        return ""
    names = ", ".join(map(str, loose[:8])) + (", ..." if len(loose) > 8 else "")
    return f"no factors tie keyframes {names} to a fixed one"
