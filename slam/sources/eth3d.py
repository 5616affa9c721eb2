"""ETH3D SLAM (Schoeps et al., CVPR 2019): TUM's layout and calibration.txt with 'fx fy cx cy'."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slam.camera import Camera
from slam.sources import tum
from slam.sources.base import Recording
from slam.sources.calibration import Calibration
from slam.sources.images import first_size
from slam.sources.lists import read_numbers


def matches(path: Path) -> bool:
    return (path / "rgb.txt").is_file() and (path / "calibration.txt").is_file()


def read(path: Path) -> Recording:
    recording = tum.read(path)
    table = read_numbers(path / "calibration.txt", 4)
    if len(table) != 1:
        raise ValueError(
            f"{path / 'calibration.txt'}: wanted one line 'fx fy cx cy', got {len(table)}"
        )
    fx, fy, cx, cy = (float(value) for value in table[0])
    size = first_size(recording.frames, range(len(recording.times)))
    camera = Camera("pinhole", *size, (fx, fy, cx, cy))
    return replace(
        recording, format="eth3d", calibration=Calibration(camera, "ETH3D, from calibration.txt")
    )
