"""A graph of pointmaps with everything known: cameras inside a sphere, which hides nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import reference
import torch
from torch import Tensor

from slam.kernels import Intrinsics
from slam.lie import sim3_act, sim3_exp, sim3_inv, sim3_log, sim3_mul
from slam.optimization import PointmapFactor, pack_factor

K: Intrinsics = (60.0, 62.0, 47.5, 36.5)
SIZE = (72, 96)
RADIUS = 3.0


@dataclass(frozen=True, slots=True)
class Graph:
    """Keyframes on a loop, looking outward and ahead."""

    T_WC: Tensor  # [N, 8] float64, true
    pointmaps: list[Tensor]  # N of [H, W, 3] float32
    factors: list[PointmapFactor]


def pixels() -> Tensor:
    """[P, 2] float64."""
    v, u = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    return torch.stack([u, v], -1).reshape(-1, 2).double()


def loop(count: int, neighbours: Sequence[int] = (1, 2), most: int = 400) -> Graph:
    """Factors both ways between keyframes that many places apart, where they overlap."""
    turn = torch.arange(count).double() * (2 * torch.pi / count)
    zero = torch.zeros_like(turn)
    heading = torch.stack([zero, zero, zero, zero, turn, zero, 0.3 * turn.sin()], -1)
    forward = torch.tensor([0.4, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]).double().expand(count, 7)
    T_WC = sim3_mul(sim3_exp(heading), sim3_exp(forward))
    pointmaps = [pointmap(T) for T in T_WC]
    pairs = {(k, (k + n) % count) for k in range(count) for n in neighbours}
    both = sorted({(i, j) for i, j in pairs if i != j} | {(j, i) for i, j in pairs if i != j})
    factors = [factor(i, j, T_WC, pointmaps[j], most) for i, j in both]
    return Graph(T_WC, pointmaps, [f for f in factors if len(f.source) > 100])


def pointmap(T_WC: Tensor) -> Tensor:
    """Where the rays of a camera with this scale meet the sphere, in its own units."""
    ray = reference.rays(pixels(), K)
    centre, T_CW = T_WC[:3], sim3_inv(T_WC)
    direction = sim3_act(T_WC, ray) - centre
    a = (direction * direction).sum(-1)
    b = direction @ centre
    c = centre @ centre - RADIUS**2
    depth = (-b + (b * b - a * c).sqrt()) / a
    return sim3_act(T_CW, centre + depth[:, None] * direction).float().reshape(*SIZE, 3)


def factor(i: int, j: int, T_WC: Tensor, X_j: Tensor, most: int = 400) -> PointmapFactor:
    """Exact matches of j's pixels in i."""
    T_ij = sim3_mul(sim3_inv(T_WC[i]), T_WC[j])
    Y = sim3_act(T_ij, X_j.reshape(-1, 3).double())
    target = reference.project(Y, K)
    return pack_factor(
        i,
        j,
        torch.arange(len(target)),
        torch.where(Y[:, 2:] > 0, target, -1.0),
        torch.full((len(target),), 3.0),
        SIZE,
        most,
    )


def drifted(T_WC: Tensor, *twist: float) -> Tensor:
    """The same loop from relative poses that are all wrong by one twist: open, and of no scale."""
    step = sim3_exp(torch.tensor(twist, dtype=torch.float64))

    def chain() -> Iterator[Tensor]:
        T = T_WC[0]
        yield T
        for before, after in pairwise(T_WC):
            T = sim3_mul(T, sim3_mul(sim3_mul(sim3_inv(before), after), step))
            yield T

    return torch.stack(list(chain()))


def error(T: Tensor, truth: Tensor) -> float:
    """Largest element of the twists between Sim(3)s."""
    return float(sim3_log(sim3_mul(T, sim3_inv(truth))).abs().max())
