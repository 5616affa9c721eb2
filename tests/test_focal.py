"""Focal length from pointmaps: found despite outliers, with an honest variance, and fused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slam.camera import Camera
from slam.focal import FocalEstimate, focal_from_pointmap, fuse_focals

pytestmark = pytest.mark.usefixtures("one_thread")


def pixel_grid(camera: Camera) -> Tensor:
    """Pixels [H, W, 2] float64."""
    v, u = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    return torch.stack([u, v], -1).double()


@pytest.mark.parametrize("outliers", [0.0, 0.2])
def test_focal_from_pointmap_recovers_the_focal_despite_outliers(outliers: float) -> None:
    camera = Camera("pinhole", 80, 60, (93, 93, 41, 28))
    generator = torch.Generator().manual_seed(3)
    depth = 1 + torch.rand(60, 80, 1, generator=generator)
    X_C = camera.unproject(pixel_grid(camera).float()) * depth
    wrong = torch.rand(60, 80, generator=generator) < outliers
    X_C[wrong] = X_C[wrong] * torch.tensor([3.0, 3.0, 1.0])
    X_C[0, :5] = torch.nan
    X_C[1, :5, 2] = -1
    confidence = torch.ones(60, 80)
    focal = focal_from_pointmap(X_C, confidence, (41, 28)).focal
    assert focal == pytest.approx(93, rel=1e-4)
    confidence[wrong] = 0
    assert focal_from_pointmap(X_C, confidence, (41, 28)).focal == pytest.approx(93, rel=1e-5)


def test_focal_from_pointmap_weighs_by_confidence() -> None:
    near, far = (Camera("pinhole", 80, 60, (f, f, 40, 30)) for f in (60, 120))
    X_C = near.unproject(pixel_grid(near))
    X_C[30:] = far.unproject(pixel_grid(far))[30:]
    confidence = torch.ones(60, 80)
    confidence[30:] = 5
    assert focal_from_pointmap(X_C, confidence, (40, 30)).focal == pytest.approx(120, rel=1e-3)


def test_focal_from_pointmap_refuses_points_behind_the_camera() -> None:
    with pytest.raises(ValueError, match="in front of the camera"):
        focal_from_pointmap(-torch.ones(4, 4, 3), torch.ones(4, 4), (2, 2))


def noisy_pointmap(seed: int, smooth: bool) -> Tensor:
    """Points [60, 80, 3] of a camera of focal 93 px with errors of some px, alone or in patches."""
    camera = Camera("pinhole", 80, 60, (93, 93, 41, 28))
    generator = torch.Generator().manual_seed(seed)
    error = torch.randn(1, 2, *((4, 4) if smooth else (60, 80)), generator=generator)
    error = torch.nn.functional.interpolate(error, (60, 80), mode="nearest")[0].movedim(0, -1)
    depth = 1 + torch.rand(60, 80, 1, generator=generator)
    return camera.unproject(pixel_grid(camera) + 2 * error) * depth


@pytest.mark.parametrize(("smooth", "most"), [(False, 5.0), (True, 2.0)])
def test_the_variance_is_that_of_repeated_estimates(smooth: bool, most: float) -> None:
    # Where no errors are shared the parts' systematic pulls (noise in the points themselves)
    # outweigh the chance ones: cautious there.
    found = [
        focal_from_pointmap(noisy_pointmap(seed, smooth), torch.ones(60, 80), (41, 28))
        for seed in range(60)
    ]
    spread = torch.tensor([e.focal for e in found], dtype=torch.float64).var()
    told = torch.tensor([e.variance for e in found], dtype=torch.float64).mean()
    assert 0.5 < float(told / spread) < most


def test_a_focal_seen_in_one_corner_alone_has_no_variance() -> None:
    confidence = torch.zeros(60, 80)
    confidence[:10, :10] = 1
    assert math.isinf(focal_from_pointmap(noisy_pointmap(0, True), confidence, (41, 28)).variance)


def test_agreeing_focals_are_averaged_by_their_variances() -> None:
    fused = fuse_focals([FocalEstimate(100.0, 1.0), FocalEstimate(101.0, 4.0)])
    assert fused.focal == pytest.approx(100.2, abs=0.02)
    assert fused.variance == pytest.approx(0.8, rel=0.02)


def test_disagreeing_focals_are_known_no_better_than_they_scatter() -> None:
    stream = torch.Generator().manual_seed(0)
    focals = (100 * (0.05 * torch.randn(40, generator=stream)).exp()).tolist()
    fused = fuse_focals([FocalEstimate(focal, 0.01) for focal in focals])
    assert fused.variance**0.5 == pytest.approx(5.0 / 40**0.5, rel=0.3)
    assert abs(fused.focal - 100) < 3 * fused.variance**0.5


def test_useless_focals_are_left_out() -> None:
    useless = [FocalEstimate(90.0, math.inf), FocalEstimate(math.nan, 1.0), FocalEstimate(-5, 1.0)]
    assert fuse_focals([*useless, FocalEstimate(100.0, 1.0)]).focal == pytest.approx(100)
    nothing = fuse_focals(useless)
    assert math.isnan(nothing.focal) and math.isinf(nothing.variance)
    single = fuse_focals([FocalEstimate(100.0, 1.0)])
    assert single.variance == pytest.approx(1.0)
