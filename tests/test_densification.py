"""Dense depth: exact on planes, unmoved by outliers, sharp at edges, never out of nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from synthetic import CAMERA, known, pose
from torch import Tensor

from slam.config import Config, MapSettings
from slam.densification import densify, upsample
from slam.frame import Features, Frame, InverseDepth, Keyframe, Snapshot
from slam.mapcloud import confidence, point_cloud
from slam.predictors import Grid

COARSE, FINE = Grid(162, 122, 4), Grid(162, 122, 2)  # sizes that no stride divides
FLOOR = 0.004
SURE = MapSettings().confidence


def grey(level: Tensor | float = 128.0) -> Tensor:
    """An image [h, w, 3] uint8 of one level, or of a level for each column."""
    row = torch.as_tensor(level).expand(COARSE.width)
    return row.to(torch.uint8)[None, :, None].expand(COARSE.height, -1, 3).contiguous()


def keyframe(depth: InverseDepth, rgb: Tensor | None = None) -> Keyframe:
    rgb = grey() if rgb is None else rgb
    features = Features(rgb[..., 0], rgb, torch.ones(len(depth.value)))
    return Keyframe(Frame(0, 0.0, 0.0, features), pose(0, 0, 0, 0, 0, 0), depth)


def solve(depth: InverseDepth, rgb: Tensor | None = None) -> InverseDepth:
    return upsample(COARSE, FINE, keyframe(depth, rgb), MapSettings(), FLOOR)


def slanted(grid: Grid) -> Tensor:
    """Inverse depth [P] of a plane: linear in the pixel."""
    return 0.4 + grid.pixel @ torch.tensor([0.002, -0.0012])


def noise(sigma: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1 + sigma * torch.randn(len(COARSE.pixel), generator=generator)


def test_a_slanted_plane_is_exact_at_every_fine_pixel() -> None:
    got = solve(known(slanted(COARSE)))
    assert (got.value / slanted(FINE) - 1).abs().max() < 2e-3
    inner = (FINE.pixel > 16).all(-1) & (FINE.pixel < torch.tensor([146, 106])).all(-1)
    assert (got.value / slanted(FINE) - 1)[inner].abs().max() < 2e-4
    assert confidence(got).min() > SURE


def test_noise_is_averaged_and_sigma_is_no_smaller_than_the_error() -> None:
    """Neighbours share their errors, as in a patch of flow."""
    blocks = noise(0.03).reshape(COARSE.rows, COARSE.columns)
    blocks[1::2] = blocks[:-1:2]
    blocks[:, 1::2] = blocks[:, :-1:2]
    value = slanted(COARSE) * blocks.reshape(-1)
    noisy = InverseDepth(value, known(slanted(COARSE), 0.03).information)
    got = solve(noisy)
    error = got.value / slanted(FINE) - 1
    assert error.square().mean().sqrt() < 0.6 * 0.03
    whitened = error * confidence(got)
    assert 0.3 < whitened.square().mean().sqrt() < 1.0


@pytest.mark.parametrize(("share", "factor"), [(0.12, 1.8), (0.3, 3.0)])
def test_outliers_do_not_move_the_plane(share: float, factor: float) -> None:
    wrong = torch.rand(len(COARSE.pixel), generator=torch.Generator().manual_seed(1)) < share
    got = solve(known(torch.where(wrong, factor, 1.0) * slanted(COARSE), 0.02))
    error = (got.value / slanted(FINE) - 1).abs()
    assert error.quantile(0.97) < 0.01
    assert error[confidence(got) > SURE].quantile(0.99) < 0.01
    assert (got.information > 0).float().mean() > 0.99


def test_a_surface_rougher_than_its_depths_claim_loses_trust() -> None:
    """The noise is 2.4 of their sigmas: most neighbours still count as on the plane."""
    smooth = known(slanted(COARSE), 0.005)
    rough = InverseDepth(smooth.value * noise(0.012), smooth.information)
    assert confidence(solve(rough)).median() < 0.5 * confidence(solve(smooth)).median()


def test_vague_depths_follow_sure_ones() -> None:
    vague = torch.rand(len(COARSE.pixel), generator=torch.Generator().manual_seed(2)) < 0.5
    value = torch.where(vague, slanted(COARSE) * noise(0.2), slanted(COARSE))
    sigma = torch.where(vague, 0.2, 0.01) * slanted(COARSE)
    got = solve(InverseDepth(value, sigma**-2))
    assert (got.value / slanted(FINE) - 1).abs().quantile(0.95) < 0.01


@pytest.mark.parametrize("edge", [79, 81])
def test_depth_changes_where_the_colour_does_and_not_at_the_grid(edge: int) -> None:
    """The edge lies between two fine pixels of one grid cell; a vague grid depth is at it."""
    columns = torch.arange(COARSE.width)
    rgb = grey(torch.where(columns < edge, 60, 190))
    truth = torch.where(COARSE.pixel[:, 0] < edge, 0.8, 0.4)
    got = solve(known(truth, 0.02), rgb)
    side = FINE.pixel[:, 0] < edge
    expected = torch.where(side, 0.8, 0.4)
    away = (FINE.pixel[:, 0] - edge).abs() > 1  # the guide is blurred by a pixel
    assert (got.value / expected - 1)[away].abs().max() < 0.02


def test_no_points_fly_between_the_surfaces_of_an_edge() -> None:
    """No colour tells here where the edge is, and its own depths are a mixture of both sides."""
    u = COARSE.pixel[:, 0]
    value = torch.where(u < 80, 0.8, 0.4)
    value[(u >= 78) & (u < 82)] = 0.6
    depth = known(value * noise(0.005), 0.02)
    got = solve(depth)
    flying = (got.value > 0.44) & (got.value < 0.74)
    assert not (flying & (confidence(got) > SURE)).any()
    snapshot = Snapshot((keyframe(depth),), (), (), CAMERA)
    cloud = point_cloud(snapshot, FINE, [got], SURE)
    assert len(cloud.points) > 0.8 * len(FINE.pixel)
    z = cloud.points[:, 2]
    assert (np.minimum(abs(z - 1 / 0.8), abs(z - 1 / 0.4)) < 0.15).all()


def test_pixels_at_an_edge_that_no_colour_shows_are_trusted_least() -> None:
    truth = torch.where(COARSE.pixel[:, 0] < 80, 0.8, 0.4)
    trust = confidence(solve(known(truth, 0.02)))
    at, away = ((FINE.pixel[:, 0] - 80).abs() < limit for limit in (3, 20))
    assert trust[at].median() < 0.27 * trust[~away].median()  # 0.33 by their scatter alone


def test_what_is_far_from_every_measurement_stays_unknown() -> None:
    left = COARSE.pixel[:, 0] < 80
    value = torch.where(left, slanted(COARSE), 7.0)  # what must not show up
    got = solve(InverseDepth(value, torch.where(left, known(value).information, 0.0)))
    reach = MapSettings().reach * COARSE.stride
    beyond = FINE.pixel[:, 0] > 80 + reach
    assert beyond.any() and not got.information[beyond].any()
    inside, rim = FINE.pixel[:, 0] < 60, (FINE.pixel[:, 0] > 84) & ~beyond
    assert confidence(got)[rim].max() < 0.5 * confidence(got)[inside].median()
    assert (got.value < 1.1).all() and got.value.isfinite().all()


def test_a_lone_measurement_spreads_no_further_than_the_reach() -> None:
    information = torch.zeros(len(COARSE.pixel))
    centre = len(COARSE.pixel) // 2 + COARSE.columns // 2
    information[centre] = (0.02 * 0.5) ** -2
    got = solve(InverseDepth(torch.full_like(information, 0.5), information))
    far = (FINE.pixel - COARSE.pixel[centre]).abs().amax(-1) > (MapSettings().reach + 0.5) * 4
    assert not got.information[far].any()
    assert confidence(got).max() < 1 / 0.02  # less than what was measured


@pytest.mark.filterwarnings("error")
def test_nothing_measured_gives_nothing() -> None:
    count = len(COARSE.pixel)
    got = solve(InverseDepth(torch.zeros(count), torch.zeros(count)))
    assert not got.information.any() and got.value.isfinite().all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_map_s_scale_does_not_matter(scale: float) -> None:
    noisy = InverseDepth(slanted(COARSE) * noise(0.03), known(slanted(COARSE), 0.03).information)
    scaled = InverseDepth(noisy.value * scale, noisy.information / scale**2)
    one, other = solve(noisy), solve(scaled)
    torch.testing.assert_close(other.value, scale * one.value, rtol=1e-3, atol=0)
    torch.testing.assert_close(confidence(other), confidence(one), rtol=1e-2, atol=0)


def test_every_keyframe_is_solved_the_same_whatever_the_threads() -> None:
    frames = [keyframe(known(slanted(COARSE) * noise(0.03, n), 0.03)) for n in range(3)]
    snapshot = Snapshot(tuple(frames), (), (), CAMERA)
    one, many = (
        dataclasses.replace(Config(), run=dataclasses.replace(Config().run, threads=threads))
        for threads in (1, 3)
    )
    grid, depths = densify(snapshot, COARSE, one)
    assert (grid.stride, len(depths)) == (Config().map.stride, 3)
    for first, second in zip(depths, densify(snapshot, COARSE, many)[1], strict=True):
        assert torch.equal(first.value, second.value)
        assert torch.equal(first.information, second.information)
    assert not torch.equal(depths[0].value, depths[1].value)


@pytest.mark.parametrize("stride", [1, 3, 4, 7])
def test_any_stride_of_the_map_will_do(stride: int) -> None:
    fine = Grid(COARSE.width, COARSE.height, stride)
    got = upsample(COARSE, fine, keyframe(known(slanted(COARSE))), MapSettings(), FLOOR)
    assert (got.value / slanted(fine) - 1).abs().max() < 3e-3
