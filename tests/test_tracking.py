"""Tracking: exact correspondences give back the pose; outliers and vague depths do not hold it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import CAMERA, GRID, known, landed, plane_depth, pose, seen
from torch import Tensor

from slam.config import TrackingSettings
from slam.frame import Correspondence, InverseDepth, TrackResult
from slam.lie import se3_act, se3_inv, se3_log, se3_mul
from slam.tracking import perspective_n_point, track, track_from_scratch, unproject

SETTINGS = TrackingSettings()
IDENTITY = pose(0, 0, 0, 0, 0, 0)
MOTION = pose(0.12, -0.05, 0.08, 0.03, -0.04, 0.05)
FAR = pose(0.9, -0.3, 0.5, 0.1, -0.35, 2.5)
COUNT = len(GRID.pixel)


def bumpy() -> Tensor:
    """The plane's inverse depths with relief."""
    u, v = GRID.pixel.unbind(-1)
    return plane_depth(IDENTITY) * (1 + 0.2 * (u / 9).sin() * (v / 7).cos())


def error(T: Tensor, truth: Tensor) -> float:
    """Largest component of the twist between two poses."""
    return float(se3_log(se3_mul(T, se3_inv(truth))).abs().max())


def tracked(depth: InverseDepth, measured: Correspondence, guess: Tensor = IDENTITY) -> TrackResult:
    return track(GRID.pixel, depth, measured, guess, CAMERA, SETTINGS)


def with_outliers(measured: Correspondence, share: float) -> Correspondence:
    generator = torch.Generator().manual_seed(3)
    wrong = torch.rand(COUNT, generator=generator) < share
    size = torch.tensor([GRID.width, GRID.height])
    anywhere = torch.rand(COUNT, 2, generator=generator) * size
    return Correspondence(torch.where(wrong[:, None], anywhere, measured.target), measured.weight)


def test_converges_from_identity() -> None:
    value = bumpy()
    result = tracked(known(value), seen(value, MOTION))
    assert error(result.T_fk, MOTION) < 1e-5
    assert result.inlier_fraction == 1.0 and result.count == COUNT and result.cost < 1e-4


def test_nothing_measured_leaves_the_guess() -> None:
    value = bumpy()
    nothing = Correspondence(torch.full((COUNT, 2), torch.nan), torch.zeros(COUNT))
    result = tracked(known(value), nothing, MOTION)
    assert error(result.T_fk, MOTION) < 1e-9
    assert (result.count, result.inlier_fraction, result.cost) == (0, 0.0, 0.0)


def test_gross_outliers_are_ignored_and_counted() -> None:
    value = bumpy()
    result = tracked(known(value), with_outliers(seen(value, MOTION), 0.3))
    assert error(result.T_fk, MOTION) < 2e-3
    assert 0.65 < result.inlier_fraction < 0.75


def test_well_known_depths_count_more_than_vague_ones() -> None:
    """Half of the depths are 30 % wrong; the pose suffers less when they are known to be vague."""
    value, half = bumpy(), torch.arange(COUNT) % 2 == 0
    claimed, measured = torch.where(half, value, 1.3 * value), seen(value, MOTION)
    vague = InverseDepth(claimed, (torch.where(half, 0.002, 0.19) * claimed) ** -2)
    certain = tracked(known(claimed, 0.05), measured)
    assert 2 * error(tracked(vague, measured).T_fk, MOTION) < error(certain.T_fk, MOTION)


def test_vague_depths_do_not_hold_the_pose_at_zero_translation() -> None:
    """Near zero translation the variance of a vague depth vanishes, and its say is largest."""
    value, good = bumpy(), torch.arange(COUNT) % 2 == 0
    wrong = 0.15 * value.median() * torch.ones(COUNT)
    depth = InverseDepth(
        torch.where(good, value, wrong), torch.where(good, (0.02 * value) ** -2, wrong**-2)
    )
    result = tracked(depth, seen(value, pose(0.3, 0.0, 0.0, 0.0, 0.0, 0.0)))
    assert error(result.T_fk, pose(0.3, 0.0, 0.0, 0.0, 0.0, 0.0)) < 1e-3
    assert result.count == int(good.sum())


def test_unmeasured_depths_alone_still_give_the_rotation() -> None:
    value, turn = bumpy(), pose(0, 0, 0, 0.05, -0.08, 0.1)
    unknown = InverseDepth(torch.full((COUNT,), float(value.median())), torch.zeros(COUNT))
    result = tracked(unknown, seen(value, turn))
    assert error(result.T_fk, turn) < 1e-3
    assert result.count == COUNT


def test_a_large_motion_is_found_from_scratch() -> None:
    value = bumpy()
    measured = with_outliers(seen(value, FAR), 0.3)
    assert error(tracked(known(value), measured).T_fk, FAR) > 0.01  # the guess is too far away
    result = track_from_scratch(GRID.pixel, known(value), measured, CAMERA, SETTINGS)
    assert result is not None and error(result.T_fk, FAR) < 2e-3


def test_too_few_known_depths_give_none_from_scratch() -> None:
    value, few = bumpy(), torch.arange(COUNT) < SETTINGS.minimum_points - 1
    depth = InverseDepth(value, torch.where(few, (0.01 * value) ** -2, 0.0))
    found = track_from_scratch(GRID.pixel, depth, seen(value, MOTION), CAMERA, SETTINGS)
    assert found is None


def test_random_matches_have_no_consensus() -> None:
    points = unproject(GRID.pixel, bumpy(), CAMERA).numpy()[::6]
    noise = torch.rand(len(points), 2, generator=torch.Generator().manual_seed(1)) * 160
    noise[::25] = landed(bumpy(), MOTION)[::6][::25]  # eight that agree are too few
    assert perspective_n_point(points, noise.numpy(), CAMERA, 0.5) is None


def test_unprojected_points_land_on_their_pixels() -> None:
    value = bumpy()
    X = unproject(GRID.pixel, value, CAMERA).double()
    fx, fy, cx, cy = CAMERA
    pixel = torch.stack([fx * X[:, 0] / X[:, 2] + cx, fy * X[:, 1] / X[:, 2] + cy], -1)
    assert (pixel - landed(value, IDENTITY)).abs().max() < 1e-3
    assert (X[:, 2] * value - 1).abs().max() < 1e-5


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_perspective_n_point_works_in_any_unit(unit: float) -> None:
    """A map has no scale of its own; OpenCV refuses points that are some millimetres apart."""
    rng = np.random.default_rng(0)
    points = rng.uniform([-1, -1, 2], [1, 1, 4], (60, 3))
    truth = pose(0.1, -0.05, 0.2, 0.02, 0.1, -0.03)
    fx, fy, cx, cy = CAMERA
    Y = se3_act(truth, torch.from_numpy(points)).numpy()
    target = Y[:, :2] / Y[:, 2:] * [fx, fy] + [cx, cy]
    found = perspective_n_point(unit * points, target, CAMERA, 1.0)
    assert found is not None
    found[:3] /= unit
    assert se3_log(se3_mul(found, se3_inv(truth))).abs().max() < 1e-4


def test_points_that_are_all_one_tell_no_pose() -> None:
    target = np.random.default_rng(0).uniform(0, 50, (40, 2))
    assert perspective_n_point(np.ones((40, 3)), target, CAMERA, 1.0) is None
    assert perspective_n_point(np.empty((0, 3)), target[:0], CAMERA, 1.0) is None
