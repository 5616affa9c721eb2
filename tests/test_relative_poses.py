"""The graph of relative poses: a loop is closed, its error spread, a false edge disbelieved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from slam.lie import sim3_exp, sim3_inv, sim3_log, sim3_mul
from slam.optimization import RelativePose, optimise_relative_poses

COUNT = 60


def ring() -> Tensor:
    """[COUNT, 8] true poses once round a circle of 5 m, each of its own scale 1."""
    angle = torch.arange(COUNT, dtype=torch.float64) * 2 * np.pi / COUNT
    twist = torch.zeros(COUNT, 7, dtype=torch.float64)
    twist[:, 4] = angle
    T_WC = sim3_exp(twist)
    T_WC[:, 0], T_WC[:, 2] = 5 * angle.cos(), 5 * angle.sin()
    return T_WC


def edge(T_WC: Tensor, i: int, j: int, error: Tensor | None = None) -> RelativePose:
    T_ij = sim3_mul(sim3_inv(T_WC[i]), T_WC[j])
    T_ij = T_ij if error is None else sim3_mul(sim3_exp(error), T_ij)
    return RelativePose(i, j, T_ij, sigma=0.01, depth=2.0)


def drifted(T_WC: Tensor) -> tuple[Tensor, list[RelativePose]]:
    """Poses as odometry has them, 1 % of scale and 0.3 degrees off at every step, and its edges."""
    step = torch.tensor([0.002, 0.001, 0.0, 0.001, 0.005, 0.0, 0.01], dtype=torch.float64)
    edges = [edge(T_WC, n, n + 1, step) for n in range(COUNT - 1)]
    poses = [T_WC[0]]
    for e in edges:
        poses.append(sim3_mul(poses[-1], e.T_ij))
    return torch.stack(poses), edges


def first_fixed() -> list[bool]:
    return [n == 0 for n in range(COUNT)]


def error(T: Tensor, truth: Tensor) -> float:
    return float((T[:, :3] - truth[:, :3]).norm(dim=1).square().mean().sqrt())


def test_a_loop_takes_most_of_the_drift_out() -> None:
    truth = ring()
    start, edges = drifted(truth)
    loops = [edge(truth, 0, COUNT - 1), edge(truth, 1, COUNT - 2)]
    found = optimise_relative_poses(start, [*edges, *loops], first_fixed())
    assert error(start, truth) > 2.0
    assert error(found.T_WC, truth) < 0.1 * error(start, truth)
    closed = sim3_log(sim3_mul(sim3_inv(found.T_WC[0]), found.T_WC[-1]))
    wanted = sim3_log(sim3_mul(sim3_inv(truth[0]), truth[-1]))
    assert (closed - wanted).abs().max() < 0.05
    assert found.trust.min() > 0.5
    assert torch.equal(found.T_WC[0], start[0])


def test_an_edge_that_contradicts_the_others_is_not_believed() -> None:
    truth = ring()
    far = torch.tensor([3.0, 0.0, 2.0, 0.0, 1.0, 0.0, 0.4], dtype=torch.float64)
    edges = [edge(truth, n, n + k) for n in range(COUNT - 3) for k in (1, 2, 3)]
    false = edge(truth, 5, 40, far)
    found = optimise_relative_poses(truth, [*edges, false], first_fixed())
    assert found.trust[-1] < 0.01
    assert error(found.T_WC[: COUNT - 1], truth[: COUNT - 1]) < 0.01


def test_the_minimum_is_one() -> None:
    """No small twist of any keyframe lowers the cost: the Jacobian's sign and frames are right."""
    truth = ring()[:6]
    gen = torch.Generator().manual_seed(3)
    noise = [0.03 * torch.randn(7, generator=gen, dtype=torch.float64) for _ in range(7)]
    pairs = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5), (1, 4)]
    edges = [edge(truth, *p, n) for p, n in zip(pairs, noise, strict=True)]
    found = optimise_relative_poses(truth, edges, [True, *[False] * 5])

    def cost(T_WC: Tensor) -> float:
        total = 0.0
        for e in edges:
            T = sim3_mul(sim3_mul(sim3_inv(T_WC[e.i]), T_WC[e.j]), sim3_inv(e.T_ij))
            r = sim3_log(T) / e.sigma
            r[:3] /= e.depth
            squared = float((r**2).sum())
            total += 100 * squared / (100 + squared)
        return total

    best = cost(found.T_WC)
    assert found.cost == pytest.approx(best)
    for n in range(1, 6):
        for k in range(7):
            for sign in (-1, 1):
                twist = torch.zeros(7, dtype=torch.float64)
                twist[k] = sign * 1e-3
                other = found.T_WC.clone()
                other[n] = sim3_mul(sim3_exp(twist), other[n])
                assert cost(other) > best - 1e-4 * best


def test_bad_arguments_are_named() -> None:
    truth = ring()[:3]
    with pytest.raises(ValueError, match="one of them set"):
        optimise_relative_poses(truth, [edge(truth, 0, 1)], [False] * 3)
    with pytest.raises(ValueError, match="one of 0 and 7"):
        wrong = RelativePose(0, 7, truth[0], 0.01, 1.0)
        optimise_relative_poses(truth, [wrong], [True, False, False])


def test_keyframes_that_nothing_ties_are_named_and_none_moves() -> None:
    truth = ring()[:4]
    edges = [edge(truth, 0, 1, torch.full((7,), 0.1, dtype=torch.float64))]
    found = optimise_relative_poses(truth, edges, [True, False, False, False])
    assert "keyframes 2, 3" in found.failure
    assert torch.equal(found.T_WC, truth)
    assert optimise_relative_poses(truth, [], [True, *[False] * 3]).failure


def test_poses_that_are_no_numbers_are_refused() -> None:
    truth = ring()[:2]
    truth[1, 0] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        optimise_relative_poses(truth, [edge(ring(), 0, 1)], [True, False])
