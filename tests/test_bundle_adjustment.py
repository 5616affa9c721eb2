"""Bundle adjustment of keyframes: converges, keeps what is to stay, and never gets worse."""

from __future__ import annotations

import math

import pytest
import torch
from four_keyframes import (
    COUNT,
    FIRST,
    MAPPING,
    NOISE,
    NONE,
    SETTINGS,
    T_WC,
    Edges,
    depths,
    measurements,
    start,
)
from synthetic import CAMERA, GRID

from slam.frame import Correspondence
from slam.lie import se3_inv, se3_log, se3_mul
from slam.optimization import BundleAdjustment, bundle_adjust, observed_information


def adjusted(
    state: BundleAdjustment,
    edges: Edges,
    fixed: list[bool],
    held: list[bool] = NONE,
    *,
    iterations: int = 15,
    refine_focal: bool = False,
    relative_decrease: float | None = 1e-7,
) -> BundleAdjustment:
    return bundle_adjust(
        GRID,
        state,
        edges,
        fixed,
        held,
        SETTINGS,
        MAPPING,
        iterations=iterations,
        refine_focal=refine_focal,
        relative_decrease=relative_decrease,
    )


def pose_error(result: BundleAdjustment) -> float:
    return float(se3_log(se3_mul(se3_inv(T_WC), result.T_WC)).abs().max())


def test_disturbed_poses_and_depths_come_back() -> None:
    result = adjusted(start(), measurements(), [True, True, False, False])
    assert result.converged and pose_error(result) < 2e-3
    got = torch.stack([d.value for d in result.depth])
    assert (got / depths() - 1).abs().median() < 0.01
    assert (got / depths() - 1).abs().quantile(0.99) < 0.05
    assert 0.2 < result.cost < 1.2  # per measurement, whitened: 2 residuals, some spent on depths
    assert result.focal_sigma == math.inf and result.intrinsics == CAMERA


def test_information_of_the_result_predicts_the_errors_of_its_depths() -> None:
    result = adjusted(start(), measurements(), [True, True, False, False])
    whitened = torch.cat(
        [(d.value - v) * d.information.sqrt() for d, v in zip(result.depth, depths(), strict=True)]
    )
    spread = float(whitened.square().median().sqrt()) / 0.6745
    assert 0.3 < spread < 2.0


def test_fixed_poses_and_held_depths_stay_to_the_bit() -> None:
    state, fixed, held = start(), [True, False, True, False], [False, True, False, True]
    result = adjusted(state, measurements(), fixed, held)
    assert result.converged
    for n in range(4):
        assert torch.equal(result.T_WC[n], state.T_WC[n]) == fixed[n]
        assert torch.equal(result.depth[n].value, state.depth[n].value) == held[n]
        assert torch.equal(result.depth[n].information, state.depth[n].information) == held[n]


def test_the_state_given_does_not_change() -> None:
    state = start()
    before = (state.T_WC.clone(), torch.stack([d.value.clone() for d in state.depth]))
    adjusted(state, measurements(), FIRST)
    assert torch.equal(state.T_WC, before[0])
    assert torch.equal(torch.stack([d.value for d in state.depth]), before[1])


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_focal_length_ten_percent_off_is_found(factor: float) -> None:
    result = adjusted(
        start(0.02, 0.1, factor), measurements(), FIRST, iterations=40, refine_focal=True
    )
    assert result.intrinsics[0] == pytest.approx(CAMERA[0], rel=0.01)
    assert result.intrinsics[1] / result.intrinsics[0] == pytest.approx(CAMERA[1] / CAMERA[0])
    assert result.intrinsics[2:] == CAMERA[2:]
    assert 0 < result.focal_sigma < 0.01
    assert abs(math.log(result.intrinsics[0] / CAMERA[0])) < 5 * result.focal_sigma


@pytest.mark.parametrize("size", [0.0, 0.05, 0.6])
def test_the_cost_never_rises(size: float) -> None:
    """Also where the start is so bad that full steps would raise it, and where it is the best."""
    edges = measurements(0.0 if size == 0 else NOISE)
    state = start(size, 2 * size)
    costs = [adjusted(state, edges, FIRST, iterations=n).cost for n in (0, 1, 2, 4, 8)]
    assert costs == sorted(costs, reverse=True)
    if size > 0:
        assert costs[-1] < costs[0]


def test_a_point_at_infinity_keeps_no_other_from_moving() -> None:
    state = start()
    state.depth[1].value[7] = 0.0
    result = adjusted(state, measurements(), [True, True, False, False])
    assert result.converged and pose_error(result) < 2e-3
    assert all((d.value > 0).all() and d.value.isfinite().all() for d in result.depth)


def test_no_iterations_return_the_start() -> None:
    state = start()
    result = adjusted(state, measurements(), FIRST, iterations=0)
    assert not result.converged
    assert torch.equal(result.T_WC[0], state.T_WC[0]) and pose_error(result) > 0.01
    torch.testing.assert_close(result.T_WC, state.T_WC)
    assert all(
        torch.equal(a.value, b.value) for a, b in zip(result.depth, state.depth, strict=True)
    )


def test_gross_outliers_do_not_spoil_the_poses() -> None:
    generator, edges = torch.Generator().manual_seed(5), measurements()
    for edge, measured in edges.items():
        wrong = torch.rand(COUNT, generator=generator) < 0.15
        anywhere = 120 * torch.rand(COUNT, 2, generator=generator)
        target = torch.where(wrong[:, None], anywhere, measured.target)
        edges[edge] = Correspondence(target, measured.weight)
    result = adjusted(start(0.01, 0.05), edges, [True, True, False, False], iterations=25)
    assert pose_error(result) < 0.01


def test_pixels_without_a_measurement_get_no_information_and_stay() -> None:
    edges, blind = measurements(), torch.arange(COUNT) % 5 == 0
    edges = {
        (i, j): Correspondence(m.target, torch.where(blind, 0.0, m.weight) if i == 2 else m.weight)
        for (i, j), m in edges.items()
    }
    state = start()
    result = adjusted(state, edges, [True, True, False, False])
    assert not result.depth[2].information[blind].any()
    assert (result.depth[2].information[~blind] > 0).float().mean() > 0.95
    torch.testing.assert_close(result.depth[2].value[blind], state.depth[2].value[blind])


def test_observed_information_counts_agreeing_edges_only() -> None:
    value, edges = depths(), measurements(0.0)
    every = observed_information(GRID, T_WC, value, edges, CAMERA, MAPPING)
    one = {(0, 1): edges[0, 1]}
    some = observed_information(GRID, T_WC, value, one, CAMERA, MAPPING)
    assert (every[0] >= some[0]).all() and (every[0] > some[0]).any()
    assert (some[0] > 0).all() and not some[1:].any()
    floor = (MAPPING.relative_floor * value) ** -2
    assert (every <= floor).all()
    wrong = value.clone()
    wrong[0] *= 1.5
    denied = observed_information(GRID, T_WC, wrong, one, CAMERA, MAPPING)
    assert not denied[0].any()


def test_a_keyframe_without_edges_does_not_move() -> None:
    state = start()
    edges = {e: m for e, m in measurements().items() if 3 not in e}
    result = adjusted(state, edges, FIRST)
    torch.testing.assert_close(result.T_WC[3], state.T_WC[3])
    assert not result.depth[3].information.any()


def test_an_adjustment_that_is_stopped_is_as_good_as_it_had_got(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state, answers = start(), iter([False, False, True, True])
    few = adjusted(state, measurements(), FIRST, iterations=2, relative_decrease=0.0)
    stopped = bundle_adjust(
        *(GRID, state, measurements(), FIRST, NONE, SETTINGS, MAPPING),
        iterations=15,
        relative_decrease=0.0,
        stop=lambda: next(answers),
    )
    torch.testing.assert_close(stopped.T_WC, few.T_WC, rtol=0, atol=0)
    at_once = bundle_adjust(
        *(GRID, state, measurements(), FIRST, NONE, SETTINGS, MAPPING),
        iterations=15,
        stop=lambda: True,
    )
    torch.testing.assert_close(at_once.T_WC, state.T_WC)
    assert not caplog.records
