"""Matching of pointmaps on exact geometry of a furnished room."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pointmap_pair import (
    HEIGHT,
    LAST,
    RECIPROCAL,
    SETTINGS,
    WIDTH,
    bent,
    room,
    with_confidence,
    with_points,
)
from torch.nn import functional

from slam.config import MatchingSettings
from slam.frame import Pointmap, PointmapView
from slam.matching import match, ray_image

# --- by projection -------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [(0, 60), (100, 150)])
def test_what_is_visible_is_found_and_nothing_else(first: int, second: int) -> None:
    pair = room(first=first, second=second)
    found = match(pair.searched, pair.sought, SETTINGS)
    used = found.weight > 0
    assert pair.recall(found) > 0.999
    assert pair.error(found)[used & pair.visible].quantile(0.99) < 0.005
    assert (used & ~pair.visible).sum() < 0.02 * used.sum()
    assert 0.2 < pair.visible.float().mean() < 0.95  # else the scene shows nothing


def test_a_hidden_surface_has_no_match() -> None:
    """A wall with a board before it, seen from the side."""
    v, u = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    rays = torch.stack([(u - 40) / 60, (v - 30) / 60, torch.ones(60, 80)], -1)
    board = (u > 30) & (u < 50)
    X_ff = rays * torch.where(board, 2.0, 4.0)[..., None]
    X_fk = rays * 4.0
    one = torch.ones(60, 80)
    found = match(PointmapView(X_ff, one), PointmapView(X_fk, one), SETTINGS)
    assert torch.equal(found.weight.reshape(60, 80) == 0, board)
    found = match(PointmapView(X_fk, one), PointmapView(X_ff, one), SETTINGS)
    assert torch.equal(found.weight.reshape(60, 80) == 0, board)  # before what is seen: wrong


@pytest.mark.parametrize("scale", [1e-3, 30.0, 2.0**14])
def test_matching_never_asks_for_absolute_distances(scale: float) -> None:
    """The reference drops matches whose points are 0.1 units apart, in rooms and in streets."""
    pair = room(True)
    warped = with_points(pair.sought, 1.02 * pair.sought.X)
    here = match(pair.searched, warped, SETTINGS)
    searched, sought = (with_points(view, scale * view.X) for view in (pair.searched, warped))
    there = match(searched, sought, SETTINGS)
    assert (here.weight > 0).float().mean() > 0.7
    assert ((here.weight > 0) == (there.weight > 0)).float().mean() > 0.999
    both = (here.weight > 0) & (there.weight > 0)
    assert (here.target - there.target)[both].abs().quantile(0.999) < 0.01


def test_a_wrong_scale_of_one_pointmap_loses_all_matches_beyond_the_gap() -> None:
    pair = room()
    for factor, least, most in ((1.05, 0.8, 1.0), (1.15, 0.0, 0.1), (0.85, 0.0, 0.1)):
        sought = with_points(pair.sought, factor * pair.sought.X)
        used = (match(pair.searched, sought, SETTINGS).weight > 0).float().mean()
        assert least <= used <= most, factor


def test_a_guess_saves_iterations() -> None:
    pair, few = room(), replace(SETTINGS, iterations=1)
    cold = match(pair.searched, pair.sought, few)
    guess = pair.truth + 0.5 * torch.randn(pair.truth.shape, generator=torch.Generator())
    warm = match(pair.searched, pair.sought, few, guess)
    assert pair.error(warm)[pair.visible].quantile(0.9) < 0.05
    assert pair.error(cold)[pair.visible].median() > 3 * pair.error(warm)[pair.visible].median()


def test_a_guess_left_over_from_another_keyframe_does_no_harm() -> None:
    """The reference starts from the former keyframe's matches after it was found again."""
    pair, few = room(), replace(SETTINGS, iterations=2)
    fresh = match(pair.searched, pair.sought, few)
    other = room(first=0, second=60).truth.flip(0)
    for stale in (other, torch.full_like(other, torch.nan), torch.full_like(other, 1e9)):
        found = match(pair.searched, pair.sought, few, stale)
        assert pair.recall(found) > 0.999
        used = (found.weight > 0) & (fresh.weight > 0)
        assert (found.target - fresh.target)[used].abs().quantile(0.999) < 0.01


# --- what was not measured -----------------------------------------------------------------------


def test_pixels_of_confidence_0_have_no_match() -> None:
    pair, half = room(), torch.ones(HEIGHT, WIDTH)
    half[:, : WIDTH // 2] = 0.0
    found = match(pair.searched, with_confidence(pair.sought, half), SETTINGS)
    assert not found.weight.reshape(HEIGHT, WIDTH)[:, : WIDTH // 2].any()
    assert found.weight.reshape(HEIGHT, WIDTH)[:, WIDTH // 2 :].any()
    found = match(with_confidence(pair.searched, half), pair.sought, SETTINGS)
    used = found.weight > 0
    assert used.any() and (found.target[used, 0].round() >= WIDTH // 2).all()


@pytest.mark.parametrize("hole", [torch.nan, 0.0, torch.inf])
def test_holes_lose_their_own_matches_only(hole: float) -> None:
    """A search starts in holes and passes through them, even through large ones."""
    pair = room(True)
    missing = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    missing[20:60, 30:75] = True
    missing |= torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) < 0.05
    cut = pair.searched.X.masked_fill(missing[..., None], hole)
    for descriptors in (True, False):
        one = pair if descriptors else room()
        found = match(with_points(one.searched, cut), one.sought, SETTINGS)
        whole = match(one.searched, one.sought, SETTINGS)
        u, v = torch.minimum(whole.target.clamp(min=0), LAST).round().long().unbind(-1)
        kept = (whole.weight > 0) & ~missing[v, u]
        assert found.target.isfinite().all()
        assert (found.weight > 0)[kept].float().mean() > 0.98
        u, v = found.target[found.weight > 0].round().long().unbind(-1)
        assert (missing[v, u]).float().mean() < (0.05 if descriptors else 1e-6)


def test_points_that_are_not_finite_have_no_match_and_disturb_no_other() -> None:
    pair = room(True)
    X_C = pair.sought.X.clone()
    X_C[10], X_C[11, :, 1], X_C[12] = torch.nan, torch.inf, 0.0
    found = match(pair.searched, with_points(pair.sought, X_C), SETTINGS)
    whole = match(pair.searched, pair.sought, SETTINGS)
    rows = torch.arange(HEIGHT * WIDTH) // WIDTH
    lost = (rows >= 10) & (rows <= 12)
    assert found.target.isfinite().all() and not found.weight[lost].any()
    assert torch.equal(found.target[~lost], whole.target[~lost])


def test_a_pointmap_without_any_point_has_no_match() -> None:
    pair, nothing = room(), torch.full((HEIGHT, WIDTH, 3), torch.nan)
    found = match(with_points(pair.searched, nothing), pair.sought, SETTINGS)
    assert not found.weight.any() and found.target.isfinite().all()
    found = match(pair.searched, with_points(pair.sought, nothing), SETTINGS)
    assert not found.weight.any() and found.target.isfinite().all()


def test_views_without_pixels() -> None:
    empty = PointmapView(torch.zeros(0, 5, 3), torch.zeros(0, 5))
    found = match(room().searched, empty, SETTINGS)
    assert found.target.shape == (0, 2) and found.weight.shape == (0,)
    with pytest.raises(ValueError, match="rays: want at least one pixel to search"):
        match(empty, room().sought, SETTINGS)


def test_rays_in_holes_are_those_of_the_camera() -> None:
    view = room().searched
    pointmap = Pointmap(view.X, view.confidence)
    whole = ray_image(pointmap)
    X_C = pointmap.X_C.clone()
    X_C[30:70, :90] = torch.nan
    cut = ray_image(Pointmap(X_C, pointmap.confidence))
    torch.testing.assert_close(cut[..., :3], whole[..., :3], rtol=0, atol=1e-4)
    assert not cut[30:70, :90, 3].any() and torch.equal(cut[:30], whole[:30])


# --- descriptors ---------------------------------------------------------------------------------


def test_descriptors_take_a_bent_pointmaps_matches_to_their_places() -> None:
    pair = room(True)
    rough = match(pair.searched, bent(pair), replace(SETTINGS, radius=0))
    fine = match(pair.searched, bent(pair), SETTINGS)
    assert pair.error(rough)[pair.visible & (rough.weight > 0)].median() > 1.5
    assert pair.error(fine)[pair.visible & (fine.weight > 0)].median() < 0.1
    assert pair.recall(fine) > 0.9 > 0.3 > pair.recall(rough)


def test_a_match_that_descriptors_move_to_another_surface_is_dropped() -> None:
    """The reference does not look again after it moved a match by up to 45 px."""
    v, u = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    rays = torch.stack([(u - 40) / 60, (v - 30) / 60, torch.ones(60, 80)], -1)
    near, one = u >= 40, torch.ones(60, 80)
    X_ff, X_fk = rays * torch.where(near, 2.0, 4.0)[..., None], rays * 4.0
    alike = torch.stack([torch.sigmoid(u - 40), 1 - torch.sigmoid(u - 40)], -1)
    sought = torch.tensor([1.0, 0.0]).expand(60, 80, 2)  # all look like what is on the near side
    searched = PointmapView(X_ff, one, alike)
    wall = ~near.reshape(-1)
    led = match(searched, PointmapView(X_fk, one, sought), SETTINGS)
    moved = wall & (led.target[:, 0] >= 40)
    assert moved.sum() > 0.5 * wall.sum() and not led.weight[moved].any()
    kept = match(PointmapView(X_ff, one), PointmapView(X_fk, one), SETTINGS)
    assert (kept.weight[wall] > 0).all()


def test_descriptors_may_take_a_match_to_the_surface_it_belongs_to() -> None:
    """A match that starts on the wrong surface is not given up before they were asked."""
    v, u = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    rays = torch.stack([(u - 40) / 60, (v - 30) / 60, torch.ones(60, 80)], -1)
    one, descriptor = (
        torch.ones(60, 80),
        functional.normalize(torch.stack([u, v, 0 * u + 30], -1), dim=-1),
    )
    X_ff = rays * torch.where(u > 40, 2.0, 4.0)[..., None]
    X_fk = X_ff + torch.tensor([-0.1, 0.0, 0.0])  # the edge lands 3 px beside itself
    found = match(
        PointmapView(X_ff, one, descriptor), PointmapView(X_fk, one, descriptor), SETTINGS
    )
    edge = ((u > 40) & (u < 44) & (v > 5) & (v < 55)).reshape(-1)
    truth = torch.stack([u, v], -1).reshape(-1, 2)
    assert (found.weight[edge] > 0).all() and (found.target - truth)[edge].abs().max() < 0.3


def test_the_weight_is_the_descriptors_confidence_over_the_variance() -> None:
    pair, settings = room(True), replace(SETTINGS, sigma=2.0)
    u = torch.arange(WIDTH).expand(HEIGHT, WIDTH)
    there, here = 0.5 + u / WIDTH, torch.full((HEIGHT, WIDTH), 2.0)
    searched = replace(pair.searched, descriptor_confidence=there)
    sought = replace(pair.sought, descriptor_confidence=here)
    found = match(searched, sought, settings)
    at = found.target.round().long()
    want = (2.0 * there[at[:, 1], at[:, 0]]).sqrt()
    used = found.weight > 0
    torch.testing.assert_close(found.weight[used], want[used] / 4)
    assert want[used].min() >= 1.5 and used.any()
    trusted = match(pair.searched, pair.sought, SETTINGS).weight > 0
    assert not used[trusted & (want < 1.49)].any() and (trusted & (want < 1.49)).any()


def test_networks_without_descriptors_match_by_projection() -> None:
    found = match(room().searched, room().sought, replace(SETTINGS, sigma=0.5))
    assert set(found.weight.unique().tolist()) == {0.0, 4.0}


def test_the_same_bits_for_one_and_more_threads() -> None:
    former, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(match(room(True).searched, bent(room(True)), SETTINGS))
    finally:
        torch.set_num_threads(former)
    for other in results[1:]:
        assert torch.equal(results[0].target, other.target)
        assert torch.equal(results[0].weight, other.weight)


def on(device: torch.device, view: PointmapView) -> PointmapView:
    assert view.descriptor is not None and view.descriptor_confidence is not None
    return PointmapView(
        view.X.to(device),
        view.confidence.to(device),
        view.descriptor.to(device),
        view.descriptor_confidence.to(device),
    )


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, radius=0), RECIPROCAL])
def test_every_device_gives_the_same_matches(
    device: torch.device, settings: MatchingSettings
) -> None:
    pair = room(True)
    X_C = pair.searched.X.clone()
    X_C[20:40, 30:60] = torch.nan
    searched, sought = with_points(pair.searched, X_C), bent(pair)
    here = match(searched, sought, settings, pair.truth)
    there = match(on(device, searched), on(device, sought), settings, pair.truth.to(device))
    assert there.target.device.type == device.type
    weight, target = there.weight.cpu(), there.target.cpu()
    assert ((weight > 0) == (here.weight > 0)).float().mean() > 0.998
    both = (weight > 0) & (here.weight > 0)
    assert both.any() and (target - here.target)[both].abs().quantile(0.998) < 0.01


# --- bad input -----------------------------------------------------------------------------------


def test_wrong_shapes_are_told_in_one_line() -> None:
    pair, one = room(True), torch.ones(HEIGHT, WIDTH)
    cases = {
        "guess: want shape [12288, 2]": (pair.searched, pair.sought, torch.zeros(5, 2)),
        "sought.confidence: want shape [96, 128]": (
            pair.searched,
            with_confidence(pair.sought, one[1:]),
            None,
        ),
        "searched.X: want shape [96, 128, 3]": (
            with_points(pair.searched, torch.zeros(HEIGHT, WIDTH, 4)),
            pair.sought,
            None,
        ),
        "sought.descriptor_confidence: want shape [96, 128]": (
            pair.searched,
            replace(pair.sought, descriptor_confidence=one[:3]),
            None,
        ),
        "descriptor: want one for both views or for none": (pair.searched, room().sought, None),
        "sought: want shape [12288, 24]": (
            pair.searched,
            replace(pair.sought, descriptor=torch.zeros(HEIGHT, WIDTH, 8)),
            None,
        ),
    }
    for message, (searched, sought, guess) in cases.items():
        with pytest.raises(ValueError) as error:
            match(searched, sought, SETTINGS, guess)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="reciprocal wants descriptors"):
        match(room().searched, room().sought, RECIPROCAL)
