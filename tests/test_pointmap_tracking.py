"""Sim(3) of a frame from matched pointmaps: exact, robust, monotone, and failure as a value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import reference
import torch
from torch import Tensor

from slam.kernels import Intrinsics
from slam.least_squares import Descent, Step, minimise
from slam.lie import sim3_act, sim3_exp, sim3_inv, sim3_log, sim3_mul
from slam.pointmap_residuals import (
    PointMatches,
    ResidualSettings,
    normal_equations,
    on_rays,
    whitened_errors,
    without_outliers,
)
from slam.pointmap_settings import DescentSettings
from slam.pointmap_tracking import track_pointmap

pytestmark = pytest.mark.usefixtures("one_thread")
K: Intrinsics = (250.0, 260.0, 157.0, 121.0)
RESIDUALS, SETTINGS = ResidualSettings(), DescentSettings()
BOTH = pytest.mark.parametrize("intrinsics", [None, K], ids=["rays", "pixels"])
IDENTITY = sim3_exp(torch.zeros(7, dtype=torch.float64))


def similarity(*twist: float) -> Tensor:
    return sim3_exp(torch.tensor(twist, dtype=torch.float64))


TRUTH = similarity(0.2, -0.1, 0.15, 0.05, -0.08, 0.06, 0.1)


def scene(count: int, T_kf: Tensor = TRUTH, seed: int = 0) -> PointMatches:
    """Exact matches of random points before the keyframe."""
    g = torch.Generator().manual_seed(seed)
    pixel = torch.rand(count, 2, generator=g) * torch.tensor([320.0, 240.0])
    depth = 1 + 3 * torch.rand(count, 1, generator=g)
    X_k = reference.rays(pixel.double(), K) * depth.double()
    X_f = sim3_act(sim3_inv(T_kf), X_k)
    weight = 2 + torch.rand(count, generator=g)
    return PointMatches(pixel, X_k.float(), X_f.float(), weight)


def error(T: Tensor, truth: Tensor = TRUTH) -> float:
    """Largest element of the twist between two Sim(3)."""
    return float(sim3_log(sim3_mul(T, sim3_inv(truth))).abs().max())


@BOTH
def test_exact_matches_give_the_exact_similarity(intrinsics: Intrinsics | None) -> None:
    found = track_pointmap(scene(800), IDENTITY, RESIDUALS, SETTINGS, intrinsics)
    assert found.failure == "" and error(found.T_kf) < 2e-5
    assert found.inlier_fraction == 1 and found.count == 800
    assert found.iterations < 15


@BOTH
def test_a_third_of_outliers_is_withstood(intrinsics: Intrinsics | None) -> None:
    matches = scene(1500)
    g = torch.Generator().manual_seed(5)
    matches.X_f[::3] = matches.X_f[::3][torch.randperm(500, generator=g)]
    found = track_pointmap(matches, IDENTITY, RESIDUALS, SETTINGS, intrinsics)
    assert found.failure == "" and error(found.T_kf) < 1e-4
    assert 0.6 < found.inlier_fraction < 0.72


@BOTH
def test_nothing_depends_on_the_scale_of_the_map(intrinsics: Intrinsics | None) -> None:
    matches = scene(600)
    matches.X_f[::4] *= 1.1
    small = track_pointmap(matches, IDENTITY, RESIDUALS, SETTINGS, intrinsics)
    scaled = replace(matches, X_k=500 * matches.X_k, X_f=500 * matches.X_f)
    large = track_pointmap(scaled, IDENTITY, RESIDUALS, SETTINGS, intrinsics)
    assert large.cost == pytest.approx(small.cost, rel=1e-3)
    assert large.T_kf[:3] / 500 == pytest.approx(small.T_kf[:3], abs=1e-3)
    assert large.T_kf[3:] == pytest.approx(small.T_kf[3:], abs=1e-3)


def test_weights_decide_between_contradicting_matches() -> None:
    half, other = scene(400), scene(400, similarity(0.2, -0.1, 0.15, 0.05, -0.08, 0.02, 0.1))
    joint = PointMatches(
        *(torch.cat([getattr(half, n), getattr(other, n)]) for n in ("pixel_k", "X_k", "X_f")),
        torch.cat([10 * half.weight, half.weight]),
    )
    found = track_pointmap(joint, IDENTITY, RESIDUALS, SETTINGS)
    assert error(found.T_kf) < 0.01


@BOTH
def test_matches_without_weight_have_no_say(intrinsics: Intrinsics | None) -> None:
    matches = scene(600)
    clean = track_pointmap(matches, IDENTITY, RESIDUALS, SETTINGS, intrinsics)
    junk = PointMatches(
        torch.cat([matches.pixel_k, torch.full((50, 2), torch.nan)]),
        torch.cat([matches.X_k, torch.full((50, 3), torch.nan)]),
        torch.cat([matches.X_f, torch.full((50, 3), torch.nan)]),
        torch.cat([matches.weight, torch.zeros(50)]),
    )
    again = track_pointmap(junk, IDENTITY, RESIDUALS, SETTINGS, intrinsics)
    assert again.count == 600 and error(again.T_kf, clean.T_kf) < 1e-6


@BOTH
def test_the_information_is_that_of_repeated_solves(intrinsics: Intrinsics | None) -> None:
    # With noise of the sizes the sigmas say, errors are as large as the information says.
    exact, found = scene(400), []
    exact = replace(exact, weight=torch.ones(400))
    gaussian = replace(RESIDUALS, huber=10.0)
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        noisy = replace(
            exact,
            X_k=exact.X_k * (0.3 * torch.randn(400, 1, generator=g)).exp(),
            pixel_k=exact.pixel_k + torch.randn(400, 2, generator=g),
        )
        if intrinsics is None:
            across = torch.randn(400, 3, generator=g)
            unit = torch.nn.functional.normalize(noisy.X_k, dim=-1)
            across = across - (across * unit).sum(-1, keepdim=True) * unit
            noisy = replace(
                noisy, X_k=noisy.X_k + 0.003 * noisy.X_k.norm(dim=-1, keepdim=True) * across
            )
        track = track_pointmap(noisy, TRUTH, gaussian, SETTINGS, intrinsics)
        twist = sim3_log(sim3_mul(track.T_kf, sim3_inv(TRUTH)))
        found.append(float(twist @ track.information @ twist))
    assert sum(found) / len(found) == pytest.approx(7.0, rel=0.3)


@pytest.mark.parametrize("count", [0, 1, 23])
def test_too_few_matches_are_a_value(count: int) -> None:
    found = track_pointmap(scene(count), IDENTITY, RESIDUALS, SETTINGS)
    assert found.failure == f"wanted 24 matches, got {count}"
    assert torch.equal(found.T_kf, IDENTITY)


@BOTH
def test_matches_that_leave_something_open_are_a_value(intrinsics: Intrinsics | None) -> None:
    one = scene(1)
    copies = PointMatches(
        *(getattr(one, n).repeat(100, 1) for n in ("pixel_k", "X_k", "X_f")), one.weight.repeat(100)
    )
    found = track_pointmap(copies, IDENTITY, RESIDUALS, SETTINGS, intrinsics)
    assert "do not determine" in found.failure and torch.equal(found.T_kf, IDENTITY)


@BOTH
def test_no_solve_ends_higher_than_it_started(intrinsics: Intrinsics | None) -> None:
    g = torch.Generator().manual_seed(2)
    settings = replace(SETTINGS, outlier=1e9)  # every match stays
    for seed in range(5):
        matches = scene(200, seed=seed)
        matches.X_f[:] = matches.X_f[torch.randperm(200, generator=g)]  # nothing fits
        start = sim3_exp(torch.randn(7, generator=g).double() * 0.3)
        before = normal_equations(matches, start, RESIDUALS, intrinsics).cost / 200
        found = track_pointmap(matches, start, RESIDUALS, settings, intrinsics)
        assert found.failure != "" or found.cost <= before


@BOTH
def test_outliers_are_told_by_the_kernels_residuals(intrinsics: Intrinsics | None) -> None:
    matches = scene(300)
    matches.X_f[::5] *= torch.tensor([1.3, 1.0, 0.8])
    errors = whitened_errors(matches, TRUTH, RESIDUALS, intrinsics)
    for p in (0, 5, 1):
        one = PointMatches(
            *(getattr(matches, n)[p : p + 1] for n in ("pixel_k", "X_k", "X_f", "weight"))
        )
        alone = normal_equations(one, TRUTH, replace(RESIDUALS, huber=1e9), intrinsics)
        assert float(errors[p]) <= (2 * alone.cost) ** 0.5 + 1e-3
        assert float(errors[p]) >= (2 * alone.cost / 4) ** 0.5 - 1e-3
    small = scene(300)
    small.X_f[::5, 0] += 1e-3  # below a sigma, but far beyond the rounding of the others
    kept = without_outliers(small, TRUTH, 6.0, RESIDUALS, intrinsics)
    assert torch.equal(kept.weight, small.weight)
    kept = without_outliers(matches, TRUTH, 6.0, RESIDUALS, intrinsics).weight > 0
    assert bool(kept[matches.X_f[:, 0] == scene(300).X_f[:, 0]].all()) and not kept[::5].any()


def test_minimise_takes_no_step_that_raises_the_cost() -> None:
    seen: list[float] = []

    class Steep:
        """Newton's step on sqrt(1 + x^2) overshoots and diverges from |x| > 1."""

        def __init__(self, x: Tensor) -> None:
            self.x = float(x)
            self.cost = (1 + self.x**2) ** 0.5
            seen.append(self.x)

        def step(self, damping: float) -> Step:
            slope, curvature = self.x / self.cost, self.cost**-3
            twist = -slope / (curvature * (1 + damping))
            return Step(torch.tensor([twist]), -0.5 * slope * twist)

    end = minimise(
        torch.tensor([3.0]), Steep, lambda x, step: x + step, Descent(60, 0.0, 0.0, 1e-9)
    )
    assert end.converged and abs(float(end.state)) < 1e-3
    assert max(abs(x) for x in seen) > 3.0  # it was tempted


def test_minimise_gives_up_where_there_is_no_step() -> None:
    class Flat:
        cost = 1.0

        def step(self, damping: float) -> None:
            return None

    end = minimise(0, lambda _: Flat(), lambda x, _: x, Descent(100, 1e-4, 0.0, 0.0))
    assert not end.converged and end.state == 0 and end.iterations < 20


def test_points_on_rays_keep_their_depth_and_project_onto_their_pixels() -> None:
    g = torch.Generator().manual_seed(0)
    X = torch.rand(24, 32, 3, generator=g) + torch.tensor([0.0, 0.0, 1.0])
    snapped = on_rays(X, (30.0, 31.0, 15.0, 12.0))
    assert torch.equal(snapped[..., 2], X[..., 2])
    pixel = reference.project(snapped.reshape(-1, 3).double(), (30.0, 31.0, 15.0, 12.0))
    v, u = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    assert (pixel - torch.stack([u, v], -1).reshape(-1, 2)).abs().max() < 1e-5
