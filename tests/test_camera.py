"""Camera models against OpenCV, numerical derivatives and each other; undistortion; files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from slam.camera import (
    Camera,
    load_calibration,
    published_calibration,
    save_calibration,
    undistorter,
)

NAMES = ["tum-fr1", "tum-fr2", "tum-fr3", "icl", "euroc-cam0", "euroc-cam1", "tum-vi-cam0"]
DISTORTED = ["tum-fr1", "tum-fr2", "euroc-cam0", "tum-vi-cam0"]


@pytest.fixture(params=NAMES)
def camera(request: pytest.FixtureRequest) -> Camera:
    return published_calibration(request.param)


def points_in_view(count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    X = torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5
    X[:, 2] = 0.7 + X[:, 2]
    X[0] = torch.tensor([0.0, 0.0, 2.0])  # on the axis
    X[1] = torch.tensor([1e-9, -1e-9, 2.0])
    return X


def pixel_grid(camera: Camera) -> torch.Tensor:
    v, u = torch.meshgrid(
        torch.arange(camera.height).double(), torch.arange(camera.width).double(), indexing="ij"
    )
    return torch.stack([u, v], dim=-1)


def project_with_opencv(camera: Camera, X: torch.Tensor) -> np.ndarray:
    fx, fy, cx, cy = camera.intrinsics
    K, zero = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), np.zeros(3)
    distortion = np.array(camera.distortion or np.zeros(5))
    if camera.model == "kannala_brandt":
        return cv2.fisheye.projectPoints(X.numpy()[:, None], zero, zero, K, distortion)[0][:, 0]
    return cv2.projectPoints(X.numpy(), zero, zero, K, distortion)[0][:, 0]


def test_project_agrees_with_opencv(camera: Camera) -> None:
    X = points_in_view()
    np.testing.assert_allclose(camera.project(X), project_with_opencv(camera, X), atol=1e-9)


def test_jacobian_agrees_with_central_differences(camera: Camera) -> None:
    X, step = points_in_view(), 1e-6
    pixel, jacobian = camera.project_with_jacobian(X)
    torch.testing.assert_close(pixel, camera.project(X), rtol=0, atol=1e-9)
    for axis in range(3):
        offset = torch.zeros(3, dtype=torch.float64)
        offset[axis] = step
        numeric = (camera.project(X + offset) - camera.project(X - offset)) / (2 * step)
        torch.testing.assert_close(jacobian[..., axis], numeric, rtol=1e-6, atol=1e-5)


def test_project_undoes_unproject_on_every_pixel(camera: Camera) -> None:
    pixel = pixel_grid(camera)[::7, ::7]
    corners = pixel.new_tensor(
        [[u, v] for u in (-0.5, camera.width - 0.5) for v in (-0.5, camera.height - 0.5)]
    )
    if camera.model == "kannala_brandt":  # its corners are more than 90 degrees off the axis
        assert camera.unproject(corners)[:, :2].isnan().all()
        pixel = pixel[((pixel - 256).norm(dim=-1) < 255)]
    else:
        pixel = torch.cat([pixel.reshape(-1, 2), corners])
    ray = camera.unproject(pixel)
    assert torch.equal(ray[..., 2], torch.ones_like(ray[..., 2]))
    torch.testing.assert_close(camera.project(ray), pixel, rtol=0, atol=1e-9)


def test_unproject_undoes_project_and_keeps_float32(camera: Camera) -> None:
    X = points_in_view().float()
    ray = camera.unproject(camera.project(X))
    assert ray.dtype == torch.float32
    torch.testing.assert_close(ray, X / X[:, 2:], rtol=1e-5, atol=1e-5)


def test_unproject_gives_nan_beyond_the_turning_point_of_the_polynomial() -> None:
    folding = Camera("radtan", 640, 480, (400, 400, 320, 240), (-0.4, 0, 0, 0))
    ray = folding.unproject(torch.tensor([[320.0, 240.0], [639.0, 479.0]], dtype=torch.float64))
    assert ray[0].isfinite().all() and ray[1, :2].isnan().all()
    view = undistorter(folding).camera
    corner = folding.project(view.unproject(pixel_grid(view)[:1, :1]))
    assert (corner > 0).all() and (corner < 200).all()


@pytest.mark.parametrize("name", DISTORTED)
def test_undistorted_view_is_the_largest_that_lies_in_the_raw_image(name: str) -> None:
    raw = published_calibration(name)
    view = undistorter(raw).camera
    assert (view.model, view.width, view.height) == ("pinhole", raw.width, raw.height)
    fx, fy, cx, cy = view.intrinsics
    last = torch.tensor([raw.width - 1.0, raw.height - 1], dtype=torch.float64)
    assert fx / fy == pytest.approx(raw.intrinsics[0] / raw.intrinsics[1], rel=1e-12)
    border = pixel_grid(view)[(pixel_grid(view) == 0).any(-1) | (pixel_grid(view) == last).any(-1)]
    seen = raw.project(
        view.unproject(torch.cat([border, pixel_grid(view)[::9, ::9].flatten(0, 1)]))
    )
    assert (seen >= 0).all() and (seen <= last).all()
    wider = replace(view, intrinsics=(0.99 * fx, 0.99 * fy, cx, cy))
    seen = raw.project(wider.unproject(border))
    too_far_out = wider.unproject(border)[..., :2].norm(dim=-1).max() > math.tan(math.radians(65))
    assert (seen < 0).any() or (seen > last).any() or too_far_out


@pytest.mark.parametrize("name", DISTORTED)
def test_undistorted_image_shows_what_the_pinhole_camera_sees(name: str) -> None:
    """A smooth function of the ray, drawn through the raw camera, read through the pinhole one."""
    raw = published_calibration(name)
    raw = raw.resized(raw.width // 2, raw.height // 2)
    undistort = undistorter(raw)

    def draw(camera: Camera) -> np.ndarray:
        ray = torch.nan_to_num(camera.unproject(pixel_grid(camera)))
        value = torch.stack([(6 * ray[..., 0]).sin(), (7 * ray[..., 1]).cos()], dim=-1)
        value = torch.cat([value, (5 * (ray[..., :1] + ray[..., 1:2])).sin()], dim=-1)
        return (128 + 100 * value).round().byte().numpy()

    wanted, got = draw(undistort.camera), undistort.apply(draw(raw))
    assert got.dtype == np.uint8
    assert np.abs(wanted.astype(int) - got).max() <= 3
    with pytest.raises(ValueError, match=rf"wanted a {raw.width}x{raw.height} image, got 30x20"):
        undistort.apply(np.zeros((20, 30, 3), np.uint8))


def test_undistortion_without_distortion_is_the_identity() -> None:
    camera = Camera("radtan", 64, 48, (60, 61, 30, 25), (0, 0, 0, 0, 0))
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    undistort = undistorter(camera)
    assert undistort.camera == camera.pinhole()
    assert undistort.apply(image) is image


def test_resizing_keeps_the_edges_of_the_image_on_the_same_rays(camera: Camera) -> None:
    small = camera.resized(camera.width // 2, camera.height // 4)
    X = points_in_view()
    edges = camera.project(X) + 0.5  # from the image's corner
    torch.testing.assert_close(
        small.project(X) + 0.5, edges * edges.new_tensor([0.5, 0.25]), rtol=0, atol=1e-9
    )


def test_field_of_view_spans_the_whole_width() -> None:
    camera = Camera.from_fov(640, 480, 90)
    assert camera.intrinsics == pytest.approx((320, 320, 319.5, 239.5))
    assert camera.horizontal_fov == pytest.approx(90)
    assert camera.resized(320, 240).horizontal_fov == pytest.approx(90)
    equidistant = Camera("kannala_brandt", 400, 400, (100, 100, 199.5, 199.5), (0, 0, 0, 0))
    assert equidistant.horizontal_fov == pytest.approx(math.degrees(4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "fisheye"}, "wanted pinhole, radtan, kannala_brandt, got 'fisheye'"),
        ({"width": 0}, "wanted px >= 1, got 0x480"),
        ({"intrinsics": (500, 500, 320)}, "wanted 4"),
        ({"intrinsics": (float("nan"), 500, 320, 240)}, "finite"),
        ({"intrinsics": (500, -480, 320, 240)}, "fy -480"),
        ({"intrinsics": (0, 500, 320, 240)}, "fx 0"),
        ({"intrinsics": (5e7, 500, 320, 240)}, "focal length"),
        ({"intrinsics": (500, 500, 32000, 240)}, "principal point"),
        ({"distortion": (0.1,)}, "pinhole camera: wanted 0 coefficients, got 1"),
        ({"model": "radtan", "distortion": (0.1, 0, 0)}, "wanted 4 or 5 coefficients, got 3"),
        ({"model": "radtan", "distortion": (float("inf"), 0, 0, 0)}, "finite"),
        ({"model": "kannala_brandt", "distortion": (0.1,) * 5}, "wanted 4 coefficients, got 5"),
    ],
)
def test_impossible_parameters_are_refused_in_one_line(changes: dict, message: str) -> None:
    good: dict = {
        "model": "pinhole",
        "width": 640,
        "height": 480,
        "intrinsics": (500, 500, 320, 240),
    }
    with pytest.raises(ValueError, match=message) as error:
        Camera(**{**good, **changes})
    assert "\n" not in str(error.value)


def test_a_distortion_that_folds_everywhere_is_refused() -> None:
    folded = Camera("radtan", 640, 480, (500, 500, 320, 240), (0, 0, 0, 20, 0))
    with pytest.raises(ValueError, match="check the calibration"):
        undistorter(replace(folded, distortion=(-1e6, 0, 0, 0)))


@pytest.mark.parametrize("degrees", [0, 180, -5, float("nan")])
def test_impossible_field_of_view_is_refused(degrees: float) -> None:
    with pytest.raises(ValueError, match="field of view"):
        Camera.from_fov(640, 480, degrees)


def test_calibration_file_round_trip(tmp_path: Path, camera: Camera) -> None:
    save_calibration(tmp_path / "c.yaml", camera)
    assert load_calibration(tmp_path / "c.yaml") == camera


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "calibration .*bad.yaml"),
        ("just words", "wanted the keys model"),
        ("model: pinhole\nwidth: 640", "wanted the keys"),
        (
            "{model: pinhole, width: 64, height: 48, intrinsics: [60, 60, 32, 24], k: 1}",
            "got model, width, height, intrinsics, k",
        ),
        ("{model: pinhole, width: 64.5, height: 48, intrinsics: [60, 60, 32, 24]}", "whole"),
        ("{model: pinhole, width: 64, height: 48, intrinsics: [a, 60, 32, 24]}", "'a'"),
        ("{model: pinhole, width: 64, height: 48, intrinsics: 60}", "calibration"),
        ("{model: pinhole, width: 64, height: 48, intrinsics: [60, 60, 32]}", "wanted 4"),
    ],
)
def test_bad_calibration_file_names_the_file_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_calibration(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_calibrations_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        load_calibration(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"'tum-fr9'.*7scenes, .*icl, .*tum-fr1"):
        published_calibration("tum-fr9")
