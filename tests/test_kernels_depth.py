"""The inverse-depth filter against float64 twins and by its own properties."""

from __future__ import annotations

import pytest
import reference
import torch
from torch import Tensor

from slam import kernels
from slam.kernels import Grid, Intrinsics
from slam.lie import se3_exp, se3_inv

K: Intrinsics = (250.0, 260.0, 157.0, 121.0)
T_JI = se3_exp(torch.tensor([0.2, -0.05, 0.1, 0.03, -0.05, 0.02]).double())


def measured(count: int, noise: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels, inverse depths, targets, weights."""
    g = torch.Generator().manual_seed(count)
    pixel = torch.rand(count, 2, generator=g) * torch.tensor([320.0, 240.0])
    rho = 0.3 + torch.rand(count, generator=g)
    Y = reference.moved(reference.pose_matrix(T_JI), pixel.double(), rho.double(), K)
    target = reference.project(Y, K).float() + noise * torch.randn(count, 2, generator=g)
    weight = 0.5 + torch.rand(count, generator=g)
    weight[::6], target[::6] = 0.0, torch.nan
    return pixel, rho, target, weight


@pytest.mark.parametrize("count", [0, 1, 9, 5000, 20000])
def test_triangulation_equals_its_twin(device: torch.device, count: int) -> None:
    pixel, _, target, weight = measured(count, noise=6.0)
    value, information = kernels.triangulate_inverse_depth(
        *(a.to(device) for a in (pixel, target, weight)), T_JI, K, gate=4.0
    )
    want, want_information = reference.triangulated(pixel, target, weight, T_JI, K, 4.0)
    assert torch.equal(information.cpu() > 0, want_information > 0)
    torch.testing.assert_close(value.cpu().double(), want, rtol=1e-3, atol=2e-5)
    torch.testing.assert_close(information.cpu().double(), want_information, rtol=1e-3, atol=1e-2)
    if count > 1000:
        assert 0.2 * count < int((information > 0).sum()) < 0.8 * count


def test_triangulation_inverts_projection(device: torch.device) -> None:
    pixel, rho, target, weight = measured(999, noise=0.0)
    value, information = kernels.triangulate_inverse_depth(
        *(a.to(device) for a in (pixel, target, weight)), T_JI, K, gate=1.0
    )
    used = weight > 0
    assert torch.equal(information.cpu() > 0, used)
    torch.testing.assert_close(value.cpu()[used], rho[used], rtol=1e-4, atol=1e-5)


def test_information_of_triangulation_predicts_its_scatter() -> None:
    pixel, rho, target, weight = measured(20000, noise=0.0)
    weight = torch.full_like(weight, 16.0)
    target = reference.project(
        reference.moved(reference.pose_matrix(T_JI), pixel.double(), rho.double(), K), K
    ).float()
    noisy = target + 0.25 * torch.randn(target.shape, generator=torch.Generator().manual_seed(3))
    value, information = kernels.triangulate_inverse_depth(pixel, noisy, weight, T_JI, K, gate=1e3)
    whitened = (value - rho) * information.sqrt()
    assert float(whitened[information > 0].std()) == pytest.approx(1.0, rel=0.1)


def test_no_motion_measures_nothing() -> None:
    pixel, _, _, weight = measured(50, noise=0.0)
    still = torch.tensor([0, 0, 0, 0, 0, 0, 1], dtype=torch.float64)
    value, information = kernels.triangulate_inverse_depth(pixel, pixel, weight, still, K, gate=4.0)
    assert not value.any() and not information.any()


def fused(
    old: tuple[float, float], new: tuple[float, float], device: torch.device, **changes: float
) -> tuple[float, float]:
    """One pixel's value and information after fusion."""
    options = {"gate": 3.0, "relative_floor": 0.01, "initial": 0.25, "decay": 0.5} | changes
    tensors = [torch.full((11,), a, device=device) for a in (*old, *new)]
    kernels.fuse_inverse_depth(*tensors, **options)
    assert all(bool((a == a[0]).all()) for a in tensors)
    return float(tensors[0][0]), float(tensors[1][0])


def test_fusion_rules(device: torch.device) -> None:
    value, information = fused((1.0, 100.0), (1.1, 300.0), device)
    assert value == pytest.approx(1.075) and information == pytest.approx(400.0)
    assert fused((1.0, 100.0), (9.0, 300.0), device) == (1.0, 50.0)  # contradicts: decays
    assert fused((7.0, 0.0), (2.0, 80.0), device) == (2.0, 20.0)  # first measurement
    assert fused((7.0, 30.0), (2.0, 0.0), device) == (7.0, 30.0)  # none now
    assert fused((7.0, 0.0), (2.0, 0.0), device) == (7.0, 0.0)  # none ever
    value, information = fused((2.0, 1e6), (2.0, 1e6), device)
    assert (value, information) == (2.0, pytest.approx(1 / (0.01 * 2.0) ** 2))  # floor
    assert fused((2.0, 1e6), (2.0, 1e6), device, relative_floor=0.0) == (2.0, 2e6)


def test_the_gate_of_fusion_counts_both_variances() -> None:
    cpu = torch.device("cpu")
    deviation = (1 / 100 + 1 / 50) ** 0.5
    assert fused((1.0, 100.0), (1.0 + 2.99 * deviation, 50.0), cpu)[1] == pytest.approx(150.0)
    assert fused((1.0, 100.0), (1.0 + 3.01 * deviation, 50.0), cpu)[1] == pytest.approx(50.0)


@pytest.mark.parametrize(
    "grid", [Grid(24, 32, 10.0, 4.5), Grid(1, 1, 10.0, 4.5), Grid(0, 5, 8.0, 0)]
)
def test_warp_equals_its_twin(device: torch.device, grid: Grid) -> None:
    g = torch.Generator().manual_seed(2)
    cells = grid.height * grid.width
    value = 0.3 + 2 * torch.rand(cells, generator=g)
    information = 1e2 + 1e3 * torch.rand(cells, generator=g)
    information[::7] = 0.0
    moved = kernels.warp_inverse_depth(
        value.to(device), information.to(device), T_JI, K, grid, inflation=0.02
    )
    want = reference.warped(value, information, T_JI, K, grid, 0.02)
    for got, twin in zip(moved, want, strict=True):
        torch.testing.assert_close(got.cpu().double(), twin, rtol=1e-4, atol=1e-6)


def test_a_wall_warps_there_and_back() -> None:
    grid = Grid(24, 32, 10.0, 4.5)
    value, information = torch.full((24 * 32,), 0.5), torch.full((24 * 32,), 1e4)
    T = torch.tensor([0.0, 0, 0.5, 0, 0, 0, 1], dtype=torch.float64)  # the wall comes 0.5 further
    away = kernels.warp_inverse_depth(value, information, T, K, grid, inflation=0.0)
    filled = away[1] > 0
    torch.testing.assert_close(away[0][filled], torch.full((int(filled.sum()),), 1 / 2.5))
    back = kernels.warp_inverse_depth(*away, se3_inv(T), K, grid, inflation=0.0)
    kept = back[1] > 0
    torch.testing.assert_close(back[0][kept], value[kept])
    torch.testing.assert_close(back[1][kept], information[kept], rtol=1e-4, atol=0)
