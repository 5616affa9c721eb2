"""KITTI odometry (Geiger et al., CVPR 2012): sequences/NN with times.txt; poses/NN.txt above."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slam.camera import Camera
from slam.sources.base import Recording
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.ground_truth import moved_to_camera, poses_from_matrices, to_trajectory
from slam.sources.images import ImageFiles, first_size, list_images
from slam.sources.lists import check_increasing, read_lines, read_numbers
from slam.trajectory import Trajectory

CAMERAS = (2, 0)  # colour before grey, both left


def matches(path: Path) -> bool:
    return (path / "times.txt").is_file() and _camera_number(path) is not None


def read(path: Path) -> Recording:
    number = _camera_number(path)
    if number is None:
        raise FileNotFoundError(f"{path}: wanted a KITTI sequence with image_2 or image_0")
    files = list_images(path / f"image_{number}")
    times = _times(path / "times.txt", len(files))
    frames = ImageFiles(files)
    projection = _projection(path / "calib.txt", number)
    calibration = UNCALIBRATED
    if projection is not None:
        fx, fy, cx, cy = (float(projection[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        camera = Camera("pinhole", *first_size(frames, range(len(files))), (fx, fy, cx, cy))
        calibration = Calibration(camera, f"KITTI, P{number} of calib.txt")
    return Recording(
        format="kitti",
        name=f"kitti-{path.name}",
        path=path,
        frames=frames,
        times=times,
        folder=path,
        calibration=calibration,
        ground_truth=_ground_truth(path, times, projection),
    )


def _camera_number(path: Path) -> int | None:
    return next((n for n in CAMERAS if (path / f"image_{n}").is_dir()), None)


def _times(path: Path, count: int) -> np.ndarray:
    times = read_numbers(path, 1)[:, 0]
    if len(times) != count or count == 0:
        raise ValueError(f"{path}: wanted a time for each image, got {len(times)} for {count}")
    check_increasing(times, path, [number for number, _ in read_lines(path)], times.tolist())
    return times


def _projection(path: Path, number: int) -> np.ndarray | None:
    """P_number [3, 4] of calib.txt: K [I | t], t from the grey left camera to this one."""
    if not path.is_file():
        return None
    for line_number, line in read_lines(path):
        label, _, values = line.partition(":")
        if label.strip() == f"P{number}":
            try:
                return np.array(values.split(), np.float64).reshape(3, 4)
            except ValueError as error:
                raise ValueError(f"{path}:{line_number}: wanted 12 numbers, got {error}") from error
    raise ValueError(f"{path}: wanted a line 'P{number}: ...' with 12 numbers, got none")


def _ground_truth(
    path: Path, times: np.ndarray, projection: np.ndarray | None
) -> Trajectory | None:
    """The poses, published for the grey left camera, moved to the camera in use."""
    file = path.parent.parent / "poses" / f"{path.name}.txt"
    if not file.is_file():
        return None
    matrices = read_numbers(file, 12).reshape(-1, 3, 4)
    if len(matrices) != len(times):
        raise ValueError(f"{file}: wanted {len(times)} poses like times.txt, got {len(matrices)}")
    grey = to_trajectory(file, times, poses_from_matrices(matrices))
    if projection is None:
        return grey
    T_0C = np.eye(4)
    T_0C[:3, 3] = -np.linalg.solve(projection[:, :3], projection[:, 3])
    return moved_to_camera(grey, T_0C)
