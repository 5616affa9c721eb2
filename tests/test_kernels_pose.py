"""Pose kernels against their float64 twins, and the pose solver on exact measurements."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import reference
import torch
from torch import Tensor

from slam import kernels
from slam.kernels import Intrinsics, NormalEquations
from slam.lie import se3_exp, se3_mul, sim3_exp

K: Intrinsics = (250.0, 260.0, 157.0, 121.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """A keyframe's pixels and where they land, some with noise, gross errors or no measurement."""

    points: tuple[Tensor, ...]  # pixel, inverse depth, information, target, weight
    T_ji: Tensor


def scene(count: int, seed: int = 0, noise: float = 1.5) -> Scene:
    """Random pixels moved by a random pose."""
    g = torch.Generator().manual_seed(seed)
    pixel = torch.rand(count, 2, generator=g) * torch.tensor([320.0, 240.0])
    rho = 0.3 + torch.rand(count, generator=g)
    T_ji = se3_exp(0.1 * torch.randn(6, generator=g).double())
    T_ji[2] = -0.3
    M = reference.pose_matrix(T_ji)
    Y = reference.moved(M, pixel.double(), rho.double(), K)
    target = reference.project(Y, K).float() + noise * torch.randn(count, 2, generator=g)
    information = 50 + 1e3 * torch.rand(count, generator=g)
    weight = 0.2 + torch.rand(count, generator=g)
    return Scene((pixel, rho, information, target, weight), T_ji)


def spoiled(count: int) -> Scene:
    """A scene with outliers, unmeasured pixels (NaN inside), and points behind the camera."""
    clean = scene(count)
    pixel, rho, information, target, weight = (a.clone() for a in clean.points)
    target[::7] += 40.0
    target[1::9], weight[1::9] = torch.nan, 0.0
    rho[2::11], information[2::11] = torch.nan, 0.0
    rho[3::13] = 5.0
    return Scene((pixel, rho, information, target, weight), clean.T_ji)


def assert_same(got: NormalEquations, want: reference.Equations, tolerance: float = 2e-5) -> None:
    """Equal relative to the size of each quantity."""
    root = want.H.diagonal().sqrt().clamp(min=1e-9)
    scale = torch.outer(root, root)
    assert ((got.H - want.H) / scale).abs().max() < tolerance
    assert ((got.g - want.g) / root).abs().max() < tolerance * (1 + (want.g / root).abs().max())
    assert got.cost == pytest.approx(want.cost, rel=tolerance)
    assert (got.inliers, got.count) == (want.inliers, want.count)


def on(device: torch.device, points: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.to(device) for a in points)


@pytest.mark.parametrize("outlier", [6.0, float("inf")])
@pytest.mark.parametrize("count", [1, 8, 203, 515])
def test_pose_equations_equal_their_twin(device: torch.device, count: int, outlier: float) -> None:
    for s in (scene(count), spoiled(count)):
        want = reference.pose_equations(s.points, s.T_ji, K, 1.5, outlier)
        points = on(device, s.points)
        got = kernels.pose_normal_equations(*points, s.T_ji, K, huber=1.5, outlier=outlier)
        assert_same(got, want)


def test_the_spoiled_scene_has_every_case() -> None:
    s = spoiled(203)
    pixel, rho = (a.double() for a in s.points[:2])
    Y = reference.moved(reference.pose_matrix(s.T_ji), pixel, rho, K)
    assert int((Y[:, 2] < 0).sum()) > 5 and int((Y[:, 2] > 0.1).sum()) > 100


def test_no_pixels_give_zeros(device: torch.device) -> None:
    s = scene(0)
    got = kernels.pose_normal_equations(*on(device, s.points), s.T_ji, K, huber=1.5, outlier=6.0)
    assert not got.H.any() and not got.g.any()
    assert (got.cost, got.inliers, got.count) == (0.0, 0, 0)


def test_the_gradient_is_that_of_the_cost() -> None:
    s = scene(500)
    certain = (*s.points[:2], torch.full((500,), 1e12), *s.points[3:])
    options = {"huber": 1.5, "outlier": float("inf")}
    at = kernels.pose_normal_equations(*certain, s.T_ji, K, **options)
    for k in range(6):
        xi = torch.zeros(6, dtype=torch.float64)
        xi[k] = 1e-3
        ahead, behind = (
            kernels.pose_normal_equations(*certain, se3_mul(se3_exp(d * xi), s.T_ji), K, **options)
            for d in (1, -1)
        )
        slope = (ahead.cost - behind.cost) / 2e-3
        assert -float(at.g[k]) == pytest.approx(
            slope, rel=2e-2, abs=2e-2 * float(at.H[k, k]) ** 0.5
        )


def test_solve_pose_finds_the_exact_pose(device: torch.device) -> None:
    s = scene(1500, noise=0.0)
    guess = se3_mul(se3_exp(torch.tensor([0.1, -0.08, 0.05, 0.05, -0.04, 0.06]).double()), s.T_ji)
    got = kernels.solve_pose(*on(device, s.points), guess, K, huber=1.5, outlier=6.0, iterations=30)
    assert got.converged and got.iterations < 15
    assert (got.T - s.T_ji).abs().max() < 1e-5
    assert got.inliers == got.count == 1500


def test_solve_pose_withstands_a_third_of_outliers(device: torch.device) -> None:
    s = scene(1500, noise=0.3)
    s.points[3][::3] += torch.tensor([25.0, -15.0])
    guess = se3_mul(se3_exp(torch.full((6,), 0.02).double()), s.T_ji)
    got = kernels.solve_pose(*on(device, s.points), guess, K, huber=1.5, outlier=4.0, iterations=30)
    assert got.converged
    assert (got.T - s.T_ji).abs().max() < 3e-3
    assert 950 < got.inliers < 1010


def test_solve_pose_ends_where_its_equations_vanish(device: torch.device) -> None:
    s = scene(800)
    points = on(device, s.points)
    got = kernels.solve_pose(*points, s.T_ji, K, huber=1.5, outlier=8.0, iterations=50)
    end = kernels.pose_normal_equations(*points, got.T, K, huber=1.5, outlier=8.0)
    torch.testing.assert_close(end.H, got.H, rtol=1e-4, atol=1e-3 * float(got.H.abs().max()))
    assert end.cost == pytest.approx(got.cost, rel=1e-5)
    assert torch.linalg.solve(end.H, end.g).norm() < 2e-4
    start = kernels.pose_normal_equations(*points, s.T_ji, K, huber=1.5, outlier=8.0)
    assert got.cost < start.cost


@pytest.mark.parametrize("iterations", [1, 2, 3, 4, 7])
def test_solve_pose_takes_as_many_steps_as_it_is_given(
    device: torch.device, iterations: int
) -> None:
    """And what it returns belongs to its pose, under the bound on outliers."""
    s = spoiled(900)
    points, robust = on(device, s.points), {"huber": 1.5, "outlier": 6.0}
    guess = se3_mul(se3_exp(torch.full((6,), 0.03).double()), s.T_ji)
    got = kernels.solve_pose(*points, guess, K, **robust, iterations=iterations)
    assert got.iterations <= iterations and (iterations > 4 or not got.converged)
    want = reference.pose_equations(s.points, got.T, K, 1.5, 6.0)
    assert got.cost == pytest.approx(want.cost, rel=1e-4)
    assert (got.inliers, got.count) == (want.inliers, want.count)


def test_an_unsolvable_pose_is_a_value(device: torch.device) -> None:
    s = scene(0)
    got = kernels.solve_pose(*on(device, s.points), s.T_ji, K, huber=1.5, outlier=6.0, iterations=5)
    assert not got.converged and got.count == 0
    assert torch.equal(got.T, s.T_ji)


def matched(count: int, seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Matched points X_k, X_f with noise, their weights, and T_kf near the truth."""
    g = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([1.0, 1.0, 4.0])
    X_f = low + (high - low) * torch.rand(count, 3, generator=g)
    T_kf = sim3_exp(0.1 * torch.randn(7, generator=g).double())
    M = reference.pose_matrix(T_kf)
    X_k = (X_f.double() @ M[:3, :3].T + M[:3, 3]).float()
    X_k = X_k + 0.02 * torch.randn(count, 3, generator=g)
    weight = torch.rand(count, generator=g)
    weight[::5] = 0.0
    X_k[::5] = torch.nan
    X_k[1::31] = 0.0
    return X_k, X_f, weight, T_kf


@pytest.mark.parametrize("count", [9, 700])
def test_ray_equations_equal_their_twin(device: torch.device, count: int) -> None:
    X_k, X_f, weight, T_kf = matched(count)

    def residual(M: Tensor) -> Tensor:
        Y, X = X_f[used].double() @ M[:3, :3].T + M[:3, 3], X_k[used].double()
        n, m = Y.norm(dim=1, keepdim=True), X.norm(dim=1, keepdim=True)
        rows = [(X / m - Y / n) / 0.01, (m.log() - n.log()) / 0.05]
        return weight[used].double().sqrt()[:, None] * torch.cat(rows, 1)

    used = (weight > 0) & (X_k.norm(dim=1) > 1e-6)
    want = reference.similarity_equations(residual, used, weight, T_kf, 1.345)
    got = kernels.ray_normal_equations(
        *on(device, (X_k, X_f, weight)), T_kf, sigma_ray=0.01, sigma_distance=0.05, huber=1.345
    )
    assert_same(got, want, 1e-4)


@pytest.mark.parametrize("count", [9, 700])
def test_pixel_depth_equations_equal_their_twin(device: torch.device, count: int) -> None:
    X_k, X_f, weight, T_kf = matched(count)
    X_f[4::17, 2] *= -1
    pixel_k = reference.project(X_k.double(), K).float()
    pixel_k[1::31] = 10.0

    def residual(M: Tensor) -> Tensor:
        Y = X_f[used].double() @ M[:3, :3].T + M[:3, 3]
        depth = (X_k[used, 2:].double() / Y[:, 2:]).log()
        rows = [(pixel_k[used] - reference.project(Y, K)) / 2.0, depth / 0.1]
        return weight[used].double().sqrt()[:, None] * torch.cat(rows, 1)

    M = reference.pose_matrix(T_kf)
    front = (X_f.double() @ M[:3, :3].T + M[:3, 3])[:, 2] > 1e-3
    used = (weight > 0) & (X_k[:, 2] > 1e-3) & front
    want = reference.similarity_equations(residual, used, weight, T_kf, 1.345)
    got = kernels.pixel_depth_normal_equations(
        *on(device, (pixel_k, X_k, X_f, weight)),
        *(T_kf, K),
        sigma_pixel=2.0,
        sigma_depth=0.1,
        huber=1.345,
    )
    assert_same(got, want, 1e-4)
