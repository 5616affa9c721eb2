"""Rolling shutter: velocities, measurements taken as a global shutter's, and the readout time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import CAMERA, GRID, landed, plane_depth, pose, seen

from slam.lie import se3_act, se3_exp, se3_inv, se3_mul
from slam.mapping import relative
from slam.shutter import ReadoutCost, Shutter, unroll, velocity

BEFORE = pose(0.3, -0.1, 0.2, 0.1, -0.2, 0.15)
AFTER = pose(0.36, -0.14, 0.17, 0.16, -0.11, 0.19)
STEP = 0.01  # s


def parabola(readout: float, least: float, curvature: float = 1e3, at_least: float = 1.0) -> float:
    """A cost with its minimum `at_least` at `least`."""
    return at_least + curvature * (readout - least) ** 2


def fitted(least: float, around: float = 0.0, **shape: float) -> ReadoutCost:
    """From three costs around a readout."""
    tried = [around - STEP, around, around + STEP]
    return ReadoutCost().plus(tried, [parabola(r, least, **shape) for r in tried])


def test_velocity_moves_points_in_the_cameras_frame() -> None:
    """exp(twist dt) takes a fixed point as the camera saw it to how it sees it dt later."""
    X_W, seconds = torch.tensor([0.4, -0.7, 3.0], dtype=torch.float64), 0.05
    was, now = (se3_act(se3_inv(T), X_W) for T in (BEFORE, AFTER))
    twist = velocity(BEFORE, AFTER, seconds)
    torch.testing.assert_close(se3_act(se3_exp(twist * seconds), was), now)
    torch.testing.assert_close(velocity(AFTER, BEFORE, seconds), -twist)
    forward = velocity(pose(0, 0, 0, 0, 0, 0), pose(0, 0, 0.1, 0, 0, 0), seconds)
    torch.testing.assert_close(forward, torch.tensor([0, 0, -2.0, 0, 0, 0]).double())


def test_unrolling_moves_each_end_by_its_own_cameras_motion() -> None:
    """To where the plane's point would be with both motions undone; weights are kept."""
    value, T_ji = plane_depth(BEFORE), relative(BEFORE, AFTER)
    twist_i, twist_j = velocity(BEFORE, AFTER, 0.03), pose(0.2, 0.5, 0.1, -0.6, 0.2, 0.4)[:6]
    measured = seen(value, T_ji)
    shutter = Shutter(0.02, GRID.height, twist_i, twist_j)
    corrected = unroll(GRID.pixel, value, measured, T_ji, CAMERA, shutter)
    for p in (0, 7, len(value) // 2, len(value) - 1):
        rows = float(GRID.pixel[p, 1]), float(measured.target[p, 1])
        times = [(v - (GRID.height - 1) / 2) * 0.02 / GRID.height for v in rows]
        at_i, at_j = (se3_exp(w * t) for w, t in zip((twist_i, twist_j), times, strict=True))
        ahead = landed(value, at_i)[p] - GRID.pixel[p]
        beyond = landed(value, se3_mul(at_j, T_ji))[p] - measured.target[p]
        change = corrected.target[p] - measured.target[p]
        torch.testing.assert_close(change, ahead - beyond, rtol=0.03, atol=0.01)
    assert torch.equal(corrected.weight, measured.weight)
    global_shutter = Shutter(0.0, GRID.height, twist_i, twist_j)
    assert unroll(GRID.pixel, value, measured, T_ji, CAMERA, global_shutter) is measured


@pytest.mark.parametrize("least", [0.017, -0.024, 0.031])
@pytest.mark.parametrize("around", [0.0, 0.02])
def test_the_best_readout_is_where_the_cost_is_least(least: float, around: float) -> None:
    assert fitted(least, around).best(0.05, 0.02) == pytest.approx(least, rel=1e-6)


def test_the_best_readout_stays_within_its_limit() -> None:
    assert fitted(0.04).best(0.03, 0.0) == pytest.approx(0.03)
    assert fitted(-0.04).best(0.03, 0.0) == pytest.approx(-0.03)


def test_a_readout_that_hardly_helps_is_none() -> None:
    """The gain is the share of the cost of a global shutter: here 0.1 / 1.1."""
    cost = fitted(0.01)
    assert cost.best(0.05, 0.0905) == pytest.approx(0.01)
    assert cost.best(0.05, 0.0915) == 0.0
    clamped = fitted(0.04)  # 2.6 at 0, 1.4 at the limit 0.02
    assert clamped.best(0.02, 0.46) == pytest.approx(0.02)
    assert clamped.best(0.02, 0.47) == 0.0


def test_a_cost_without_a_minimum_tells_no_readout() -> None:
    assert fitted(0.02, curvature=-500.0).best(0.05, 0.0) == 0.0
    assert ReadoutCost().best(0.05, 0.0) == 0.0
    assert ReadoutCost(a=1.0, b=-1.0, c=0.0).best(0.05, 0.0) == 0.0


def test_estimates_add_up_with_their_weights() -> None:
    """A sharp parabola at 0.02 and a flat one at -0.01: their sum's minimum."""
    tried, first = [-STEP, 0.0, STEP], fitted(0.02, curvature=3e3)
    both = first.plus(tried, [parabola(r, -0.01, 1e3) for r in tried])
    assert both.best(0.05, 0.0) == pytest.approx((3 * 0.02 - 0.01) / 4)
    assert both.c == pytest.approx(first.c + parabola(0.0, -0.01, 1e3))
    assert np.isclose(both.a, 4e3)
