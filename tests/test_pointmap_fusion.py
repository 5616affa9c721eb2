"""Fusion of pointmaps: a mean by confidence that learns from agreement and forgets mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slam.lie import sim3_act, sim3_exp, sim3_inv
from slam.pointmap_fusion import (
    FusedPointmap,
    PointmapFusionSettings,
    fuse_pointmap,
    start_pointmap,
)

SIZE = (12, 16)
SETTINGS = PointmapFusionSettings()
PLAIN = PointmapFusionSettings(gate=1e9)
T_KF = sim3_exp(torch.tensor([0.2, -0.1, 0.3, 0.1, -0.2, 0.05, 0.4], dtype=torch.float64))


def truth(seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(*SIZE, 3, generator=g) + torch.tensor([-0.5, -0.5, 1.5])


def seen(X_k: Tensor) -> Tensor:
    """Points of the keyframe in the frame's camera."""
    return sim3_act(sim3_inv(T_KF), X_k.double()).float()


def ones(value: float = 1.0) -> Tensor:
    return torch.full(SIZE, value)


def fuse(fused: FusedPointmap, X_k: Tensor, confidence: Tensor) -> FusedPointmap:
    return fuse_pointmap(fused, seen(X_k), confidence, T_KF, SETTINGS)


def test_observations_are_moved_into_the_keyframe_and_agreeing_ones_change_nothing() -> None:
    fused = start_pointmap(truth(), ones(2.0))
    fused = fuse(fused, truth(), ones(3.0))
    torch.testing.assert_close(fused.X_C, truth(), rtol=0, atol=1e-6)
    torch.testing.assert_close(fused.confidence, ones(5.0), rtol=1e-6, atol=0)
    assert fused.count == 2
    torch.testing.assert_close(fused.mean.confidence, ones(2.5), rtol=1e-6, atol=0)


def test_without_a_gate_it_is_the_mean_by_confidence() -> None:
    points = [truth(seed) for seed in range(4)]
    weights = [1.0, 4.0, 2.0, 0.5]
    fused = start_pointmap(points[0], ones(weights[0]))
    for X, weight in zip(points[1:], weights[1:], strict=True):
        fused = fuse_pointmap(fused, seen(X), ones(weight), T_KF, PLAIN)
    mean = sum(w * X for w, X in zip(weights, points, strict=True)) / sum(weights)
    torch.testing.assert_close(fused.X_C, mean, rtol=0, atol=2e-6)
    assert float(fused.confidence[0, 0]) == pytest.approx(7.5)


def test_noise_is_averaged_away() -> None:
    fused, errors = None, []
    for seed in range(16):
        g = torch.Generator().manual_seed(100 + seed)
        noisy = truth() * (1 + 0.02 * torch.randn(*SIZE, 1, generator=g))
        fused = start_pointmap(noisy, ones()) if fused is None else fuse(fused, noisy, ones())
        errors.append(float((fused.X_C / truth() - 1).square().mean().sqrt()))
    assert errors[-1] < 0.35 * errors[0]  # 0.25 for plain averages of independent noise


def test_one_gross_error_hardly_moves_an_established_point() -> None:
    fused = start_pointmap(truth(), ones())
    for _ in range(9):
        fused = fuse(fused, truth(), ones())
    spoiled = fuse(fused, 1.5 * truth(), ones())
    assert float((spoiled.X_C / truth() - 1).abs().max()) < 0.005  # 0.05 for the plain mean
    assert bool((spoiled.confidence < fused.confidence).all())


def test_a_wrong_first_observation_is_forgotten() -> None:
    fused = start_pointmap(1.5 * truth(), ones())
    for _ in range(4):
        fused = fuse(fused, truth(), ones())
    assert float((fused.X_C / truth() - 1).abs().max()) < 0.01  # 0.1 for the plain mean


def test_a_point_contradicted_by_more_than_it_has_is_replaced() -> None:
    fused = fuse(start_pointmap(1.5 * truth(), ones()), truth(), ones(4.0))
    torch.testing.assert_close(fused.X_C, truth(), rtol=0, atol=1e-6)
    assert bool((fused.confidence == 4).all())


def test_unknown_pixels_take_what_comes_and_teach_nothing() -> None:
    confidence, broken = ones(), truth()
    confidence[0] = 0
    broken[1] = torch.nan
    fused = start_pointmap(broken, confidence)
    assert not fused.confidence[:2].any() and bool(fused.X_C.isfinite().all())
    filled = fuse(fused, truth(), ones(4.0))
    torch.testing.assert_close(filled.X_C, truth(), rtol=0, atol=1e-6)
    assert bool((filled.confidence[:2] == 4).all())
    same = fuse_pointmap(filled, torch.full((*SIZE, 3), torch.nan), ones(9.0), T_KF, SETTINGS)
    assert torch.equal(same.X_C, filled.X_C) and torch.equal(same.confidence, filled.confidence)


def test_the_scale_of_the_map_does_not_matter() -> None:
    small, large = (start_pointmap(s * truth(), ones()) for s in (1.0, 1000.0))
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        noisy = truth() * (1 + 0.1 * torch.randn(*SIZE, 1, generator=g))
        identity = sim3_exp(torch.zeros(7, dtype=torch.float64))
        small = fuse_pointmap(small, noisy, ones(), identity, SETTINGS)
        large = fuse_pointmap(large, 1000 * noisy, ones(), identity, SETTINGS)
    torch.testing.assert_close(large.X_C / 1000, small.X_C, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(large.confidence, small.confidence, rtol=1e-4, atol=1e-6)


def test_neither_argument_changes() -> None:
    X, confidence = truth(), ones()
    fused = start_pointmap(X, confidence)
    before = fused.X_C.clone(), fused.confidence.clone()
    fuse(fused, 1.1 * truth(), ones())
    assert torch.equal(fused.X_C, before[0]) and torch.equal(fused.confidence, before[1])


def test_wrong_shapes_say_so() -> None:
    with pytest.raises(ValueError, match=r"wanted points \[12, 16, 3\]"):
        start_pointmap(torch.zeros(12, 15, 3), ones())
    fused = start_pointmap(truth(), ones())
    with pytest.raises(ValueError, match=r"got \[16, 12, 3\] and \[16, 12\]"):
        fuse_pointmap(fused, torch.zeros(16, 12, 3), torch.zeros(16, 12), T_KF, SETTINGS)
