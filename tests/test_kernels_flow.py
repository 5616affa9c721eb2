"""Lucas-Kanade over a dense flow against a float64 twin and by its own properties."""

from __future__ import annotations

import pytest
import reference_images as reference
import torch
from torch import Tensor

from slam import kernels

WAVES = ((0.31, 0.12, 0.4), (-0.17, 0.36, 1.1), (0.22, -0.27, 2.0), (0.08, 0.19, 0.7))
SHIFT = (0.37, -0.21)  # px


def texture(height: int, width: int, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """A smooth pattern [h, w] uint8, moved by a shift (u, v) px."""
    v, u = torch.meshgrid(
        torch.arange(height).double() - shift[1],
        torch.arange(width).double() - shift[0],
        indexing="ij",
    )
    grey = sum(torch.sin(a * u + b * v + c) for a, b, c in WAVES)
    return (120 + 30 * torch.as_tensor(grey)).round().clamp(0, 255).to(torch.uint8)


def refined(
    first: Tensor,
    second: Tensor,
    flow: Tensor,
    device: torch.device | None = None,
    **options: float,
) -> Tensor:
    """The flow after refinement, on the CPU; the argument stays."""
    settings = {"radius": 2, "iterations": 3, "regularisation": 0.5, "longest_step": 1.0} | options
    out = flow.to(device, copy=True)
    kernels.refine_flow(first.to(device), second.to(device), out, **settings)
    return out.cpu()


def uneven(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two images of different content, and a flow that leaves the second on all sides."""
    g = torch.Generator().manual_seed(height * 100 + width)
    noise = torch.randint(-25, 25, (2, height, width), generator=g)
    images = torch.stack([texture(height, width), texture(height, width, (1.3, -0.9))]) + noise
    first, second = images.clamp(0, 255).to(torch.uint8)
    spread = torch.tensor([min(3.0, 0.3 * width), min(3.0, 0.3 * height)])
    return first, second, spread * torch.randn(height, width, 2, generator=g)


@pytest.mark.parametrize("size", [(21, 27), (16, 24), (17, 8), (1, 9), (6, 1), (1, 1), (2, 3)])
@pytest.mark.parametrize(("radius", "iterations"), [(0, 1), (1, 2), (2, 3), (5, 1)])
def test_refinement_equals_its_twin(
    device: torch.device, size: tuple[int, int], radius: int, iterations: int
) -> None:
    first, second, flow = uneven(*size)
    options = {"regularisation": 0.7, "longest_step": 0.6}
    got = refined(first, second, flow, device, radius=radius, iterations=iterations, **options)
    want = reference.refined_flow(first, second, flow, radius, iterations, **options)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-3)
    assert min(size) < 3 or (got - flow).abs().max() > 0.01


@pytest.mark.parametrize(("radius", "most"), [(2, 0.1), (4, 0.04)])
def test_a_sub_pixel_shift_is_recovered(device: torch.device, radius: int, most: float) -> None:
    first, second = texture(61, 83), texture(61, 83, SHIFT)
    flow = refined(first, second, torch.zeros(61, 83, 2), device, radius=radius, iterations=1)
    error = (flow - torch.tensor(SHIFT)).norm(dim=-1)[4:-4, 4:-4]
    assert error.median() < 0.01 and error.max() < most


def test_a_shift_is_found_from_a_start_that_is_off(device: torch.device) -> None:
    first, second = texture(50, 64), texture(50, 64, (5.3, -4.2))
    start = torch.zeros(50, 64, 2) + torch.tensor([4.5, -3.6])
    flow = refined(first, second, start, device, radius=4, iterations=3)
    error = (flow - torch.tensor([5.3, -4.2])).norm(dim=-1)[8:-8, 8:-8]
    assert error.median() < 0.05 and error.max() < 0.2


def test_no_iterations_leave_the_flow_alone(device: torch.device) -> None:
    first, second, flow = uneven(20, 31)
    assert torch.equal(refined(first, second, flow, device, iterations=0), flow)


def test_a_brighter_second_image_has_the_same_flow(device: torch.device) -> None:
    first, second = texture(40, 52), texture(40, 52, SHIFT)
    still = torch.zeros(40, 52, 2)
    brighter = (second.int() + 15).to(torch.uint8)
    same, other = (
        refined(first, image, still, device, iterations=1) for image in (second, brighter)
    )
    torch.testing.assert_close(other, same, rtol=0, atol=1e-3)
    same, other = (refined(first, image, still, device) for image in (second, brighter))
    assert (other - same)[16:-16, 16:-16].abs().max() < 0.01  # pixels that left show at the rim


def test_what_leaves_the_second_image_stays_as_it_is(device: torch.device) -> None:
    first, second = texture(30, 40), texture(30, 40, SHIFT)
    for away in ([50.0, 0.0], [-50.0, 0.0], [0.0, 50.0], [0.0, -50.0], [torch.nan, 0.0]):
        flow = torch.zeros(30, 40, 2) + torch.tensor(away)
        got = refined(first, second, flow, device)
        torch.testing.assert_close(got, flow, rtol=0, atol=0, equal_nan=True)


def test_one_lost_pixel_does_not_spoil_its_neighbours(device: torch.device) -> None:
    first, second = texture(41, 47), texture(41, 47, SHIFT)
    start = torch.zeros(41, 47, 2)
    start[20, 20], start[21, 31] = torch.nan, 1e9
    flow = refined(first, second, start, device, iterations=1)
    flow[20, 20], flow[21, 31] = torch.tensor(SHIFT), torch.tensor(SHIFT)
    assert (flow - torch.tensor(SHIFT)).norm(dim=-1)[6:-6, 6:-6].max() < 0.1


def test_one_iteration_goes_no_further_than_the_longest_step(device: torch.device) -> None:
    first, second = texture(40, 52), texture(40, 52, (2.0, 1.0))
    still = torch.zeros(40, 52, 2)
    for longest in (0.05, 0.3):
        length = refined(first, second, still, device, iterations=1, longest_step=longest).norm(
            dim=-1
        )
        assert length.max() == pytest.approx(longest, rel=1e-3)
        assert (length > 0.99 * longest).float().mean() > 0.5


def test_where_nothing_shows_motion_regularisation_keeps_the_flow(device: torch.device) -> None:
    """Stripes tell the motion across them only; a blank image tells none."""
    u = torch.arange(60).double()
    rows = [120 + 60 * torch.sin(0.3 * (u - shift)) for shift in (0.0, 0.6)]
    first, second = (row.round().to(torch.uint8).expand(40, 60).contiguous() for row in rows)
    flow = refined(first, second, torch.zeros(40, 60, 2), device, iterations=1)
    assert (flow[:, 10:-10, 0] - 0.6).abs().max() < 0.05 and flow[..., 1].abs().max() < 1e-3
    blank = torch.full((40, 60), 7, dtype=torch.uint8)
    assert not refined(blank, blank, torch.zeros(40, 60, 2), device).any()


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_images_without_pixels_are_no_work(device: torch.device, size: tuple[int, int]) -> None:
    empty = torch.zeros(*size, dtype=torch.uint8)
    assert refined(empty, empty, torch.zeros(*size, 2), device).shape == (*size, 2)


def test_the_images_stay_as_they_were() -> None:
    first, second, flow = uneven(12, 20)
    copies = first.clone(), second.clone()
    kernels.refine_flow(first, second, flow, radius=1, iterations=1)
    assert torch.equal(first, copies[0]) and torch.equal(second, copies[1])
