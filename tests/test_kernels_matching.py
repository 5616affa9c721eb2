"""The matching kernels against float64 twins, numerical derivatives and brute force."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from slam import kernels
from slam.bench import twins_matching as twins
from slam.kernels import RayMatches, RefinedMatches


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(height: int, width: int) -> Tensor:
    """(u, v) of all pixels [H * W, 2]."""
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([u, v], -1).reshape(-1, 2).float()


def ray_at(place: Tensor, height: int, width: int, degrees: float = 60.0) -> Tensor:
    """Unit rays [P, 3] of a pinhole camera so many degrees wide, in float64."""
    focal = 0.5 * width / math.tan(math.radians(degrees) / 2)
    x, y = ((place - torch.tensor([0.48 * width, 0.53 * height])) / focal).double().unbind(-1)
    return functional.normalize(torch.stack([x, 1.1 * y, torch.ones_like(x)], -1), dim=-1)


def image_of_rays(height: int, width: int, *, noise: float = 0.0, degrees: float = 60.0) -> Tensor:
    """[H, W, 4] float32: rays, off by so many px, and the distances of a wavy surface."""
    off = noise * torch.randn(height * width, 2, generator=generator(7))
    place = pixels(height, width)
    rays = ray_at(place + off, height, width, degrees)
    seen = torch.cat([rays, distance_at(place)[:, None].double()], -1)
    return seen.float().reshape(height, width, 4)


def distance_at(place: Tensor) -> Tensor:
    """Of a wavy surface [P]."""
    return 3 + torch.sin(place[:, 0] / 9) + torch.cos(place[:, 1] / 7)


def points_at(place: Tensor, height: int, width: int) -> Tensor:
    """What a noise-free image_of_rays sees between its pixels [P, 3] float32."""
    return (ray_at(place, height, width) * distance_at(place)[:, None]).float()


def places(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Anywhere in an image [P, 2]."""
    size = torch.tensor([width - 1.0, height - 1.0])
    return torch.rand(count, 2, generator=generator(seed)) * size


def matched(
    rays: Tensor, points: Tensor, *starts: Tensor, device: torch.device | None = None, **options
) -> RayMatches:
    settings = {"iterations": 10, "damping": 1e-3} | options
    places = torch.stack(starts).to(device)
    found = kernels.match_rays(rays.to(device), points.to(device), places, **settings)
    return RayMatches(*(value.cpu() for value in found))


SIZES = [(33, 41), (17, 80), (2, 2), (1, 1), (1, 9), (8, 1), (3, 2)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("noise", "iterations"), [(0.0, 1), (0.0, 3), (0.1, 12)])
def test_matching_equals_its_twin(
    device: torch.device, size: tuple[int, int], noise: float, iterations: int
) -> None:
    rays, start = image_of_rays(*size, noise=noise), places(500, *size, seed=3)
    points = points_at(start + 2.5 * torch.randn(500, 2, generator=generator(4)), *size)
    rays[size[0] // 2, size[1] // 3, 3] = 0.0
    other = places(500, *size, seed=5)
    got = matched(rays, points, start, other, device=device, iterations=iterations)
    starts = torch.stack([start, other]).double()
    want = twins.match_rays(rays.double(), points.double(), starts, iterations, 1e-3)
    fits = want[1] < 0.4
    assert fits.float().mean() > (0.6 if noise or iterations == 3 else 0.2) or min(size) < 3
    near = (got.target - want[0]).norm(dim=-1)
    assert near[fits].quantile(0.99) < 5e-3 if fits.any() else True
    assert ((got.error < 0.4) == fits).float().mean() > 0.99
    both = fits & want[2].isfinite() & (near < 0.01) & ((want[0] % 1 - 0.5).abs() > 0.02).all(-1)
    torch.testing.assert_close(got.gap[both].double(), want[2][both], rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(got.error[both].double(), want[1][both], rtol=2e-3, atol=2e-3)


def between_pixels(rays: Tensor, u: float, v: float) -> Tensor:
    """The unit ray there, in float64, written as one would on paper."""
    x, y = int(u), int(v)
    corner = rays[y : y + 2, x : x + 2, :3].double()
    along_u = torch.tensor([1 - (u - x), u - x], dtype=torch.float64)
    along_v = torch.tensor([1 - (v - y), v - y], dtype=torch.float64)
    mixed = torch.einsum("vuc,u,v->c", corner, along_u, along_v)
    return mixed / mixed.norm()


def test_a_step_is_that_of_the_numerical_derivative(device: torch.device) -> None:
    """Of a camera so coarse that derivatives off the tangent plane give another step."""
    rays = image_of_rays(5, 6, noise=0.2, degrees=110.0)
    start = places(200, 5, 6, seed=8) * 0.8 + 0.35
    start = start.floor() + 0.2 + 0.6 * (start % 1)  # a derivative's both sides in one cell
    goal = start + 0.1 * torch.randn(200, 2, generator=generator(9))
    size = torch.tensor([5.0, 4.0])
    goal = goal.clamp(min=0).minimum(size)
    points = torch.stack([between_pixels(rays, *uv) for uv in (goal * 0.999).tolist()])
    got = matched(rays, 2 * points.float(), start, device=device, iterations=1, damping=1e-6)
    h, count, apart = 1e-5, 0, 0
    for place, p, end in zip(start.tolist(), points, got.target.double(), strict=True):
        u, v = place
        if end.equal(torch.tensor(place).double()):
            continue  # a step that did not fit better
        e = p - between_pixels(rays, u, v)
        J = torch.stack(
            [
                (between_pixels(rays, u + h, v) - between_pixels(rays, u - h, v)) / (2 * h),
                (between_pixels(rays, u, v + h) - between_pixels(rays, u, v - h)) / (2 * h),
            ],
            -1,
        )
        want = torch.tensor(place).double() + torch.linalg.lstsq(J, e[:, None]).solution[:, 0]
        if bool((want > 0).all() and (want < size).all()):
            assert (end - want).norm() < 2e-4, (place, end, want)
            count += 1
            apart += int(
                (unprojected_step(rays, u, v, e) + torch.tensor(place) - end).norm() > 1e-3
            )
    assert count > 100 and apart > 0.8 * count


def unprojected_step(rays: Tensor, u: float, v: float, e: Tensor) -> Tensor:
    """The step with derivatives that are not in the tangent plane."""
    x, y = int(u), int(v)
    (a, b), (c, d) = rays[y : y + 2, x : x + 2, :3].double()
    s, t = u - x, v - y
    J = torch.stack([(1 - t) * (b - a) + t * (d - c), (1 - s) * (c - a) + s * (d - b)], -1)
    return torch.linalg.lstsq(J, e[:, None]).solution[:, 0]


@pytest.mark.parametrize("distance", [2.0, 20.0])
def test_true_places_are_found(device: torch.device, distance: float) -> None:
    size = 60, 80
    truth = places(3000, *size)
    start = truth + distance * torch.randn(3000, 2, generator=generator(1))
    got = matched(image_of_rays(*size), points_at(truth, *size), start, device=device)
    assert (got.target - truth).norm(dim=-1).max() < 0.01
    assert got.error.max() < 1e-3 and got.gap.max() < 0.1


def test_no_pixel_fits_better_than_the_match(device: torch.device) -> None:
    """Against the brute force over all pixels, in rays that are off by a third of a pixel."""
    size = 40, 50
    rays, points = image_of_rays(*size, noise=0.3), points_at(places(1000, *size), *size)
    got = matched(rays, points, places(1000, *size, seed=2), device=device, iterations=30)
    every = rays[..., :3].reshape(-1, 3).double()
    goal = functional.normalize(points.double(), dim=-1)
    nearest = torch.cdist(goal, every).argmin(1)
    step = rays[:, 1:, :3].sub(rays[:, :-1, :3]).norm(dim=-1).mean()
    best = (goal - every[nearest]).norm(dim=-1) / step
    assert (got.error <= best + 1e-3).float().mean() > 0.99
    assert got.error.quantile(0.95) < 1e-3


def test_the_start_that_fits_best_is_taken(device: torch.device) -> None:
    size = 40, 50
    truth = places(400, *size)
    near, far = truth + 0.3, places(400, *size, seed=6)
    rays, points = image_of_rays(*size), points_at(truth, *size)
    for starts in ((near, far), (far, near), (torch.full_like(far, torch.nan), near)):
        got = matched(rays, points, *starts, device=device, iterations=1)
        assert (got.target - truth).norm(dim=-1)[
            (near < truth.new_tensor([49, 39])).all(-1)
        ].max() < 0.05


def test_points_without_a_direction_have_no_match(device: torch.device) -> None:
    size = 20, 30
    start, rays = places(6, *size), image_of_rays(*size)
    points = points_at(start, *size)
    points[0], points[1, 2], points[2, 0], points[3] = 0.0, torch.nan, torch.inf, -points[3]
    got = matched(rays, points, start, device=device)
    assert got.error[:3].isinf().all() and got.gap[:3].isinf().all()
    torch.testing.assert_close(got.target[:3], start[:3])
    assert (got.error[3] > 1).all() and (got.error[4:] < 1e-3).all()
    lost = matched(rays, points, torch.full_like(start, torch.nan), device=device, iterations=30)
    assert lost.target.isfinite().all() and (lost.error[4:] < 1e-3).all()


def test_a_point_beyond_the_image_keeps_the_rest_as_its_error(device: torch.device) -> None:
    size, beyond = (40, 50), torch.tensor([[-2.0, 20.0], [51.0, 10.0], [20.0, -1.0], [9.0, 42.0]])
    got = matched(image_of_rays(*size), points_at(beyond, *size), beyond, device=device)
    border = torch.tensor([[0.0, 20.0], [49.0, 10.0], [20.0, 0.0], [9.0, 39.0]])
    torch.testing.assert_close(got.target, border, rtol=0, atol=0.2)
    torch.testing.assert_close(got.error, torch.tensor([2.0, 2.0, 1.0, 3.0]), rtol=0.15, atol=0)


def test_the_gap_is_relative_and_the_same_both_ways(device: torch.device) -> None:
    rays = image_of_rays(30, 30)
    place = torch.tensor([[10.0, 12.0], [5.0, 6.0], [20.0, 21.0]])
    seen = distance_at(place)
    points = points_at(place, 30, 30) * torch.tensor([[1.25], [0.8], [1.0]])
    rays[21, 20, 3] = 0.0
    got = matched(rays, points, place, device=device)
    torch.testing.assert_close(got.gap[:2], torch.tensor([0.25, 0.25]), rtol=1e-4, atol=0)
    assert got.gap[2] == torch.inf and got.error[2] < 1e-3
    for scale in (2.0**-20, 2.0**20):
        rays[..., 3] *= scale
        other = matched(rays, scale * points, place, device=device)
        assert all(torch.equal(*pair) for pair in zip(got, other, strict=True))
        rays[..., 3] /= scale
    assert (seen > 0).all()


# --- descriptors ---------------------------------------------------------------------------------


def features(place: Tensor, channels: int = 24, seed: int = 0, width: float = 4.0) -> Tensor:
    """Unit descriptors [P, D] that change smoothly with the place, over about `width` px."""
    waves = torch.randn(2, channels, generator=generator(seed)) / width
    phase = 6.3 * torch.rand(channels, generator=generator(seed + 1))
    return functional.normalize(torch.cos(place @ waves + phase), dim=-1)


def refined(
    descriptors: Tensor,
    sought: Tensor,
    start: Tensor,
    *,
    device: torch.device | None = None,
    active: Tensor | None = None,
    points: Tensor | None = None,
    radius: int = 3,
    dilation: int = 5,
) -> RefinedMatches:
    size = descriptors.shape[0], descriptors.shape[1]
    points = points_at(start, *size) if points is None else points
    active = torch.ones(len(start), dtype=torch.bool) if active is None else active
    arguments = (descriptors, sought, image_of_rays(*size), points, start, active)
    moved = (value.to(device) for value in arguments)
    found = kernels.refine_matches(*moved, radius=radius, dilation=dilation)
    return RefinedMatches(*(value.cpu() for value in found))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("radius", "dilation", "channels"),
    [(3, 5, 24), (1, 2, 1), (2, 1, 29), (0, 5, 16), (3, 0, 8), (4, 2, 3)],
)
def test_refinement_equals_its_twin(
    device: torch.device, size: tuple[int, int], radius: int, dilation: int, channels: int
) -> None:
    random = generator(sum(size) + channels)
    descriptors = torch.randn(*size, channels, generator=random)
    sought, start = torch.randn(300, channels, generator=random), places(300, *size)
    points = points_at(places(300, *size, seed=1), *size)
    active = torch.rand(300, generator=random) > 0.2
    options = {"radius": radius, "dilation": dilation}
    got = refined(
        descriptors, sought, start, device=device, active=active, points=points, **options
    )
    arguments = (descriptors, sought, image_of_rays(*size), points, start)
    target, gap = twins.refine_matches(*(a.double() for a in arguments), active, **options)
    torch.testing.assert_close(got.target.double(), target, rtol=0, atol=1e-4)
    torch.testing.assert_close(got.gap.double(), gap, rtol=1e-4, atol=1e-5)
    assert torch.equal(got.target[~active], start[~active]) and got.gap[~active].isinf().all()


def test_a_window_over_the_whole_image_finds_the_best_of_all_pixels(device: torch.device) -> None:
    descriptors = features(pixels(18, 24), width=3.0).reshape(18, 24, -1)
    sought, start = features(places(200, 18, 24), width=3.0), places(200, 18, 24, seed=1)
    got = refined(descriptors, sought, start, device=device, radius=24, dilation=1)
    best = (sought @ descriptors.flatten(0, 1).T).argmax(1)
    want = torch.stack([best % 24, best // 24], -1)
    assert (got.target - want).abs().max() <= 0.5 + 1e-6


def test_windows_reach_as_far_as_their_dilations_add_up_to(device: torch.device) -> None:
    """15 + 12 + 9 + 6 + 3 px, one after the other, and no further."""
    descriptors = torch.linspace(0, 1, 101)[None, :, None].expand(3, 101, 8).contiguous()
    start = torch.tensor([[10.0, 1.0]])
    got = refined(descriptors, torch.ones(1, 8), start, device=device)
    assert got.target[0, 0].round() == 55


@pytest.mark.parametrize("offset", [-10.0, 0.0, 10.0])
def test_scores_below_zero_are_compared_like_others(device: torch.device, offset: float) -> None:
    """The reference starts from the smallest positive score, so that negative ones stay as they
    are: a constant added to all scores must change nothing."""
    place = pixels(30, 40)
    bump = -(place - torch.tensor([21.0, 13.0])).square().sum(-1) / 1000
    descriptors = torch.stack([bump, torch.ones_like(bump)], -1).reshape(30, 40, 2)
    start = torch.tensor([[9.0, 9.0], [30.0, 20.0]])
    got = refined(descriptors, torch.tensor([1.0, offset]).repeat(2, 1), start, device=device)
    torch.testing.assert_close(got.target, torch.tensor([[21.0, 13.0]] * 2), rtol=0, atol=0.01)


def test_matches_come_to_lie_between_pixels(device: torch.device) -> None:
    size = 40, 50
    truth = places(500, *size) * 0.9 + 2
    start = truth + 3 * torch.randn(500, 2, generator=generator(3))
    descriptors = features(pixels(*size), width=8.0).reshape(*size, -1)
    got = refined(descriptors, features(truth, width=8.0), start.clamp(min=0), device=device)
    error = (got.target - truth).norm(dim=-1)
    rounded = (truth.round() - truth).norm(dim=-1)
    assert error.quantile(0.9) < 0.1 < 0.3 < rounded.median()


def test_descriptors_that_are_not_finite_are_never_chosen(device: torch.device) -> None:
    size = 20, 30
    truth = torch.tensor([[12.0, 9.0], [15.0, 10.0], [20.0, 5.0]])
    descriptors = features(pixels(*size)).reshape(*size, -1)
    sought = features(truth)
    for v, u in ((9, 10), (8, 12), (10, 15)):
        descriptors[v, u] = torch.nan
    sought[2] = torch.nan
    start = torch.tensor([[10.0, 9.0], [15.0, 10.0], [20.3, 5.2]])
    got = refined(descriptors, sought, start, device=device)
    assert (got.target[0] - truth[0]).norm() < 0.6 and got.gap[0].isfinite()
    assert 0.5 <= (got.target[1] - truth[1]).norm() < 2
    assert torch.equal(got.target[2], start[2]) and got.gap[2] == torch.inf


def test_the_gap_is_that_of_the_pixel_moved_to(device: torch.device) -> None:
    size = 20, 30
    truth = torch.tensor([[12.0, 9.0]])
    descriptors = features(pixels(*size)).reshape(*size, -1)
    points = 1.5 * points_at(truth, *size)
    got = refined(descriptors, features(truth), truth - 4, device=device, points=points)
    assert float(got.gap) == pytest.approx(0.5, rel=1e-3)
