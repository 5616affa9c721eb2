"""Keyframe depth on a slanted plane seen with exact poses: right, and never out of nothing."""

from __future__ import annotations

import pytest
import torch
from synthetic import CAMERA, GRID, known, landed, plane_depth, pose, seen
from torch import Tensor

from slam.config import MappingSettings
from slam.frame import Correspondence, InverseDepth
from slam.lie import se3_inv, se3_mul
from slam.mapping import (
    covisibility,
    dense_flow,
    fill_holes,
    fuse,
    hand_on,
    observe,
    project_grid,
    relative,
)

SETTINGS = MappingSettings()
COUNT = len(GRID.pixel)
HERE = pose(0.2, -0.1, 0.1, 0.05, 0.1, -0.05)
THERE = pose(0.5, 0.0, 0.3, 0.02, 0.0, 0.04)
ASIDE = pose(0.25, 0, 0, 0, 0, 0)


def nothing() -> InverseDepth:
    """Never measured, and with a value that must not show up."""
    return InverseDepth(torch.full((COUNT,), 7.0), torch.zeros(COUNT))


def block(rows: slice, columns: slice) -> Tensor:
    """Mask [P] of a rectangle of grid pixels."""
    mask = torch.zeros(GRID.rows, GRID.columns, dtype=torch.bool)
    mask[rows, columns] = True
    return mask.reshape(-1)


def test_relative_takes_points_of_the_first_camera_to_the_second() -> None:
    """Checked on the plane: its pixels seen from here and from there are the same points."""
    value, T_ji = plane_depth(HERE), relative(HERE, THERE)
    target = landed(value, T_ji)
    step = torch.zeros(COUNT, dtype=torch.long)
    nearest = ((target - GRID.offset) / GRID.stride).round().long()
    inside = (nearest >= 0).all(-1) & (nearest < torch.tensor([GRID.columns, GRID.rows])).all(-1)
    step[inside] = nearest[inside, 1] * GRID.columns + nearest[inside, 0]
    back = landed(plane_depth(THERE), se3_inv(T_ji))[step]
    assert inside.float().mean() > 0.5
    assert (back - GRID.pixel)[inside].abs().max() < 4.0  # half a grid cell and a bit
    assert (back - GRID.pixel)[inside].mean(0).abs().max() < 0.3


def test_observed_depth_is_exact_and_nothing_is_invented() -> None:
    value, T_ji = plane_depth(HERE), relative(HERE, THERE)
    exact = seen(value, T_ji)
    weight = torch.where(torch.arange(COUNT) % 3 == 0, 0.0, exact.weight)
    got = observe(GRID, Correspondence(exact.target, weight), T_ji, CAMERA, SETTINGS)
    measured = weight > 0
    assert (got.information[measured] > 0).float().mean() > 0.98
    there = got.information > 0
    assert (got.value / value - 1)[there].abs().max() < 0.01
    assert not got.information[~measured].any()


def test_matches_off_the_epipolar_line_are_not_observed() -> None:
    value, exact = plane_depth(HERE), seen(plane_depth(HERE), ASIDE)
    off = exact.target + torch.tensor([0.0, 1.0])  # 5 sigma, across a horizontal motion
    along = exact.target + torch.tensor([1.0, 0.0])
    rejected = observe(GRID, Correspondence(off, exact.weight), ASIDE, CAMERA, SETTINGS)
    accepted = observe(GRID, Correspondence(along, exact.weight), ASIDE, CAMERA, SETTINGS)
    assert not rejected.information.any()
    assert (accepted.value > value).all() and (accepted.information > 0).all()


def test_fusing_noisy_views_converges_to_the_plane_and_leaves_its_arguments() -> None:
    value, generator = plane_depth(HERE), torch.Generator().manual_seed(0)
    depth, errors = nothing(), []
    for n in range(12):
        T_ji = pose(0.2 + 0.02 * n, 0.1, 0.0, 0.0, 0.01 * n, 0.0)
        noise = 0.2 * torch.randn(COUNT, 2, generator=generator)
        measured = Correspondence(landed(value, T_ji) + noise, torch.full((COUNT,), 25.0))
        old, kept = depth, depth.value.clone()
        depth = fuse(old, observe(GRID, measured, T_ji, CAMERA, SETTINGS), SETTINGS)
        assert torch.equal(old.value, kept)
        errors.append(float((depth.value / value - 1).abs().median()))
    assert errors[-1] < 0.01 and errors[-1] < 0.6 * errors[0]
    share = (depth.value - value).abs() * depth.information.sqrt() < 3
    assert share.float().mean() > 0.95  # its sigma is honest


def test_fusing_with_nothing_changes_nothing() -> None:
    value = plane_depth(HERE)
    first = fuse(known(value), nothing(), SETTINGS)
    assert torch.equal(first.value, value)
    assert torch.equal(first.information, known(value).information)
    assert not fuse(nothing(), nothing(), SETTINGS).information.any()


def test_a_contradiction_weakens_the_depth_and_does_not_move_it() -> None:
    value = plane_depth(HERE)
    after = fuse(known(value), known(1.5 * value), SETTINGS)
    assert torch.equal(after.value, value)
    torch.testing.assert_close(after.information, SETTINGS.decay * known(value).information)


def test_handed_on_depth_is_the_planes_where_it_was_known() -> None:
    T_ji = relative(HERE, THERE)
    got = hand_on(GRID, known(plane_depth(HERE)), T_ji, CAMERA, SETTINGS)
    certain = got.information > (0.1 * got.value) ** -2
    assert certain.float().mean() > 0.5
    assert (got.value / plane_depth(THERE) - 1)[certain].abs().median() < 0.01
    assert (got.value / plane_depth(THERE) - 1)[certain].abs().max() < 0.05  # half a cell off
    floor = (SETTINGS.warp_inflation * got.value) ** -2
    assert (got.information[certain] <= 1.001 * floor[certain]).all()  # never surer than that


def test_what_comes_into_view_is_handed_on_as_unknown() -> None:
    """The camera moves a third of an image to the left: its left third was not seen before."""
    wall = known(torch.full((COUNT,), 0.5))
    shift = pose(2 * 13 * GRID.stride / CAMERA[0], 0, 0, 0, 0, 0)
    got = hand_on(GRID, wall, shift, CAMERA, SETTINGS)
    new = block(slice(None), slice(0, 10))
    assert not got.information[new].any()
    assert (got.value - 0.5).abs().max() < 1e-6  # the median as a guess, no information


@pytest.mark.parametrize("flipped", [False, True])
def test_the_nearer_surface_hides_the_farther(flipped: bool) -> None:
    """A near block moves over the wall behind it, whichever of the two comes first in memory."""
    near = block(slice(10, 20), slice(15, 25))
    value = torch.where(near, 1.0, 0.25)
    pixels = 8 * GRID.stride  # the near block moves by 8 cells, the wall by 2
    shift = (-pixels if flipped else pixels) / CAMERA[0]
    got = hand_on(GRID, known(value), pose(shift, 0, 0, 0, 0, 0), CAMERA, SETTINGS)
    left = 15 - 8 if flipped else 15 + 8
    covered = block(slice(10, 20), slice(left, left + 10))
    assert (got.value[covered] == 1.0).all()
    around = block(slice(8, 22), slice(left - 2, left + 12)) & ~covered
    measured = around & (got.information > (0.1 * got.value) ** -2)  # the others are filled holes
    assert measured.sum() > 50 and (got.value[measured] < 0.3).all()


def test_a_hole_in_the_sky_is_vague_too() -> None:
    value, information = torch.zeros(COUNT), torch.full((COUNT,), 100.0)  # at infinity
    value[: COUNT // 2] = 0.5
    information[-COUNT // 4] = 0.0
    got = fill_holes(GRID, InverseDepth(value, information), SETTINGS)
    assert 0 < got.information[-COUNT // 4] < 1e6


def test_small_holes_are_filled_vaguely_and_big_ones_not_at_all() -> None:
    value = plane_depth(HERE)
    small, big = block(slice(5, 7), slice(5, 7)), block(slice(12, 26), slice(12, 30))
    information = torch.where(small | big, 0.0, known(value).information)
    depth = InverseDepth(torch.where(small | big, 99.0, value), information)
    got = fill_holes(GRID, depth, SETTINGS)
    assert (got.value / value - 1)[small].abs().max() < 0.1
    sigma = got.information[small].rsqrt() / got.value[small]
    torch.testing.assert_close(sigma, torch.full_like(sigma, SETTINGS.hole_sigma))
    inner = block(slice(16, 22), slice(16, 26))
    assert not got.information[inner].any()
    assert (got.value[inner] < value.max()).all() and (got.value[inner] > value.min()).all()
    rest = ~(small | big)
    assert torch.equal(got.value[rest], value[rest])
    assert torch.equal(got.information[rest], information[rest])


def test_an_empty_map_is_filled_with_no_information() -> None:
    got = fill_holes(GRID, nothing(), SETTINGS)
    assert not got.information.any() and (got.value == 1.0).all()


def test_project_grid_equals_exact_projection() -> None:
    value, T_ji = plane_depth(HERE), relative(HERE, THERE)
    target, visible = project_grid(GRID, known(value), T_ji, CAMERA)
    expected = landed(value, T_ji)
    size = torch.tensor([GRID.width, GRID.height])
    assert (target - expected).abs().max() < 2e-3
    assert torch.equal(visible, ((expected >= 0) & (expected < size)).all(-1))


def test_neither_the_unknown_nor_what_is_behind_counts_as_seen() -> None:
    value = plane_depth(HERE)
    half = torch.arange(COUNT) % 2 == 0
    depth = InverseDepth(value, torch.where(half, known(value).information, 0.0))
    _, visible = project_grid(GRID, depth, pose(0, 0, 0, 0, 0, 0), CAMERA)
    assert torch.equal(visible, half)
    _, behind = project_grid(GRID, known(value), pose(0, 0, -20.0, 0, 0, 0), CAMERA)
    assert not behind.any()


def test_covisibility_is_the_share_seen_and_the_median_flow() -> None:
    near = block(slice(0, 5), slice(0, None))
    wall = known(torch.where(near, 0.7, 0.5))
    shift = pose(2 * 0.25 * GRID.width / CAMERA[0], 0, 0, 0, 0, 0)  # a quarter of the image
    away = se3_mul(pose(0, 0, 0, 0, 3.1, 0), shift)
    share, flow = covisibility(GRID, wall, torch.stack([shift, away]), CAMERA)
    assert share[0] == pytest.approx(0.75, abs=0.07)  # every sixth column is sampled
    assert flow[0] == pytest.approx(0.25 * GRID.width, rel=1e-3)
    assert (share[1], flow[1]) == (0.0, float("inf"))


def test_dense_flow_of_the_plane_is_right_at_every_grid_pixel() -> None:
    value, T_ji = plane_depth(HERE), relative(HERE, THERE)
    target = landed(value, T_ji)
    wrong = torch.rand(COUNT, generator=torch.Generator().manual_seed(2)) < 0.05
    spoiled = torch.where(wrong[:, None], torch.nan, target)
    flow = dense_flow(GRID, spoiled)
    assert flow.shape == (GRID.height, GRID.width, 2) and flow.isfinite().all()
    inner = block(slice(3, -3), slice(3, -3))
    error = torch.linalg.vector_norm(GRID.sample(flow) - (target - GRID.pixel), dim=-1)[inner]
    assert error.median() < 0.5 and error.quantile(0.99) < 3.0
