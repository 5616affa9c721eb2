"""EuRoC MAV (Burri et al., IJRR 2016): mav0/camN with sensor.yaml, ground truth of the body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from slam.camera import Camera
from slam.sources.base import Recording
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.ground_truth import moved_to_camera, read_euroc_poses
from slam.sources.images import ImageFiles
from slam.sources.lists import check_files, check_increasing, read_lines
from slam.trajectory import Trajectory

MODELS = {
    "none": "pinhole",
    "radial-tangential": "radtan",
    "radtan": "radtan",
    "equidistant": "kannala_brandt",
}


def matches(path: Path) -> bool:
    return _camera_folder(path) is not None


def read(path: Path) -> Recording:
    """Path: a sequence, its mav0, or one camera's folder (mav0/cam1); cam0 where none is named."""
    folder = _camera_folder(path)
    if folder is None:
        raise FileNotFoundError(f"{path}: wanted an EuRoC sequence with mav0/cam0/data.csv")
    times, files = _read_data(folder / "data.csv")
    check_files(files, folder / "data.csv")
    sensor = _read_sensor(folder / "sensor.yaml")
    return Recording(
        format="euroc",
        name=_name(folder),
        path=path,
        frames=ImageFiles(files),
        times=times,
        folder=folder,
        calibration=_calibration(sensor, folder),
        ground_truth=_ground_truth(sensor, folder),
    )


def _camera_folder(path: Path) -> Path | None:
    for folder in (path, path / "cam0", path / "mav0" / "cam0"):
        if (folder / "data.csv").is_file() and (folder / "data").is_dir():
            return folder
    return None


def _name(folder: Path) -> str:
    mav = folder.parent
    sequence = mav.parent.name if mav.name == "mav0" else mav.name
    return sequence if folder.name == "cam0" else f"{sequence}-{folder.name}"


def _read_data(path: Path) -> tuple[np.ndarray, list[Path]]:
    """Times, s, and files of 'stamp[ns],file' lines."""
    lines, stamps, files = [], [], []
    for number, line in read_lines(path):
        stamp, _, name = (cell.strip() for cell in line.partition(","))
        if not stamp.isdigit() or not name:
            raise ValueError(f"{path}:{number}: wanted 'nanoseconds,file', got '{line[:60]}'")
        lines.append(number)
        stamps.append(int(stamp))
        files.append(path.parent / "data" / name)
    if not files:
        raise ValueError(f"{path}: wanted 'nanoseconds,file' lines, got none")
    check_increasing(np.array(stamps), path, lines, stamps)
    return np.array([stamp / 1e9 for stamp in stamps]), files


def _read_sensor(path: Path) -> dict:
    """sensor.yaml as a dict, empty without the file. Its '%YAML:1.0' line is OpenCV's, not YAML."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("%YAML"))
    try:
        sensor = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: wanted YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(sensor, dict):
        raise ValueError(f"{path}: wanted keys like intrinsics and T_BS, got none")
    return sensor


def _calibration(sensor: dict, folder: Path) -> Calibration:
    if not sensor:
        return UNCALIBRATED
    try:
        width, height = sensor["resolution"]
        model = MODELS[sensor["distortion_model"]]
        distortion = () if model == "pinhole" else sensor["distortion_coefficients"]
        camera = Camera(model, width, height, sensor["intrinsics"], distortion)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'sensor.yaml'}: no calibration this program knows ({error}); "
            "write a calibration.yaml beside it, or give --calib"
        ) from error
    return Calibration(camera, f"EuRoC, from {folder.name}/sensor.yaml")


def _ground_truth(sensor: dict, folder: Path) -> Trajectory | None:
    file = folder.parent / "state_groundtruth_estimate0" / "data.csv"
    if not file.is_file():
        return None
    try:
        T_BC = np.array(sensor["T_BS"]["data"], np.float64).reshape(4, 4)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / 'sensor.yaml'}: wanted T_BS with 16 numbers, to move the ground truth "
            f"from the body to the camera ({error})"
        ) from error
    return moved_to_camera(read_euroc_poses(file), T_BC)
