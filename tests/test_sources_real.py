"""Real recordings: images, cameras and ground truth agree with each other, by epipolar geometry."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from slam.camera import Camera
from slam.sources import Source, open_source
from slam.sources.ground_truth import matrices_from_poses, mirrored
from slam.trajectory import Trajectory

DATA = os.environ.get("SLAM_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="SLAM_DATA names no folder of recordings")

PAIRS = {  # full-list indices of two images with parallax
    "rgbd_dataset_freiburg1_xyz": (200, 215),
    "icl_living_room_kt3": (60, 75),
    "icl_office_kt0": (40, 60),
    "euroc_V101_stereo_keyframes": (1, 2),
    "euroc_V101_stereo_keyframes/mav0/cam1": (1, 2),
}


def open_pair(name: str) -> Source:
    first, second = PAIRS[name]
    return open_source(Path(DATA or "") / name, start=first, end=second + 1, stride=second - first)


def median_epipolar_error(source: Source, ground_truth: Trajectory, camera: Camera) -> float:
    """Of tracked corners between the source's two images, px, with the true relative pose."""
    first, second = (cv2.cvtColor(i.rgb.numpy(), cv2.COLOR_RGB2GRAY) for i in source.images())
    corners = cv2.goodFeaturesToTrack(first, 500, 0.01, 8).astype(np.float32).reshape(-1, 1, 2)
    tracked, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None, maxLevel=5)
    p, q = (x[found[:, 0] == 1, 0] for x in (corners, tracked))
    rows = [np.abs(ground_truth.times - t).argmin() for t in source.times]
    T_W1, T_W2 = matrices_from_poses(ground_truth.poses[rows])
    T_21 = np.linalg.inv(T_W2) @ T_W1
    x, y, z = T_21[:3, 3]
    fx, fy, cx, cy = camera.intrinsics
    K_inverse = np.linalg.inv([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    F = K_inverse.T @ np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T_21[:3, :3] @ K_inverse
    lines = np.column_stack([p, np.ones(len(p))]) @ F.T
    distance = (lines[:, :2] * q).sum(axis=1) + lines[:, 2]
    return float(np.median(np.abs(distance) / np.linalg.norm(lines[:, :2], axis=1)))


@pytest.mark.parametrize("name", PAIRS)
def test_tracked_corners_lie_on_the_epipolar_lines_of_the_ground_truth(name: str) -> None:
    source = open_pair(name)
    assert source.ground_truth is not None and source.calibrated
    good = median_epipolar_error(source, source.ground_truth, source.camera)
    wrong = median_epipolar_error(source, mirrored(source.ground_truth), source.camera)
    # freiburg1: rolling shutter, and motion capture some milliseconds off the camera's clock
    assert good < (4.0 if "freiburg1" in name else 0.5)
    assert wrong > 10 * good


@pytest.mark.parametrize("name", PAIRS)
def test_every_image_comes_in_the_size_of_the_camera(name: str) -> None:
    source = open_source(Path(DATA or "") / name, stride=20)
    images = list(source.images())
    assert len(images) == len(source) and not source.skipped
    assert all(i.rgb.shape == (source.camera.height, source.camera.width, 3) for i in images)
    assert min(int(image.rgb[::479].max()) for image in images) > 20  # no black border


def test_freiburg1_counts() -> None:
    source = open_source(Path(DATA or "") / "rgbd_dataset_freiburg1_xyz")
    assert (source.format, source.name, len(source)) == ("tum", source.path.name, 798)
    assert source.calibration_source == "TUM fr1, from the header of groundtruth.txt"
    assert source.ground_truth is not None and len(source.ground_truth.times) == 3000
    assert len(source.depth_files) >= 70
    depth = source.read_depth(min(source.depth_files))
    assert depth is not None and depth.shape == (480, 640)
    assert 0.4 < np.median(depth[depth > 0]) < 3
    uncalibrated = open_source(source.path, calibration="none")
    assert uncalibrated.camera == Camera.from_fov(640, 480, 60)


def test_icl_depth_warps_one_image_onto_another() -> None:
    """Depth, poses and fy = +480 together: the grey difference falls to a third of the unmoved."""
    source = open_source(Path(DATA or "") / "icl_office_kt0")
    assert source.ground_truth is not None and source.mirrored
    first = 40
    depth = source.read_depth(first)
    assert depth is not None
    images = open_source(source.path, start=first, end=first + 16, stride=15)
    grey = [cv2.cvtColor(i.rgb.numpy(), cv2.COLOR_RGB2GRAY) for i in images.images()]
    rows = [np.abs(source.ground_truth.times - t).argmin() for t in images.times]
    T_W1, T_W2 = matrices_from_poses(source.ground_truth.poses[rows])
    fx, fy, cx, cy = source.camera.intrinsics
    v, u = np.mgrid[:480, :640]
    X = np.stack(
        [(u - cx) / fx * depth, (v - cy) / fy * depth, depth, np.ones_like(depth)], axis=-1
    )
    X = X @ (np.linalg.inv(T_W2) @ T_W1).T
    target_x, target_y = (X[..., i] / X[..., 2] * f + c for i, f, c in ((0, fx, cx), (1, fy, cy)))
    warped = cv2.remap(
        grey[1], target_x.astype(np.float32), target_y.astype(np.float32), cv2.INTER_LINEAR
    )
    seen = (depth > 0) & (target_x > 0) & (target_x < 639) & (target_y > 0) & (target_y < 479)
    moved = np.abs(warped.astype(float) - grey[0])[seen].mean()
    unmoved = np.abs(grey[1].astype(float) - grey[0])[seen].mean()
    assert moved < unmoved / 3
