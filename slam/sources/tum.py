"""TUM RGB-D (Sturm et al., IROS 2012) and recordings in its layout: rgb.txt, groundtruth.txt."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from slam.camera import published_calibration
from slam.sources.base import DepthMaps, Recording
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.ground_truth import read_tum_poses
from slam.sources.images import ImageFiles
from slam.sources.lists import check_files, existing, read_file_list, read_header
from slam.trajectory import Trajectory

logger = logging.getLogger(__name__)

DEPTH_PER_METRE = 5000.0


def matches(path: Path) -> bool:
    return (path / "rgb.txt").is_file()


def read(path: Path) -> Recording:
    """Takes the calibration from the bag's name in the header of rgb.txt or groundtruth.txt."""
    images = read_file_list(path / "rgb.txt")
    check_files(images.files, path / "rgb.txt")
    return Recording(
        format="tum",
        name=path.name,
        path=path,
        frames=ImageFiles(images.files),
        times=images.times,
        folder=path,
        calibration=_calibration_by_bag_name(path),
        ground_truth=read_ground_truth(path),
        depth=read_depth_list(path / "depth.txt"),
    )


def read_ground_truth(path: Path) -> Trajectory | None:
    """The poses of groundtruth.txt, if there is one."""
    file = path / "groundtruth.txt"
    return read_tum_poses(file) if file.is_file() else None


def read_depth_list(path: Path, pairs_column: int = 0) -> DepthMaps | None:
    """The listed depth maps that are there; without the list, None."""
    if not path.is_file():
        return None
    listed = read_file_list(path, pairs_column)
    present = existing(listed.files)
    kept = np.array([file in present for file in listed.files])
    if not kept.all():
        logger.warning("%s: %d of %d depth maps are missing", path, (~kept).sum(), len(kept))
    files = tuple(file for file in listed.files if file in present)
    return DepthMaps(listed.times[kept], files, DEPTH_PER_METRE)


def _calibration_by_bag_name(path: Path) -> Calibration:
    for list_name in ("rgb.txt", "groundtruth.txt"):
        found = re.search(r"freiburg([123])", read_header(path / list_name))
        if found:
            camera = published_calibration(f"tum-fr{found[1]}")
            return Calibration(camera, f"TUM fr{found[1]}, from the header of {list_name}")
    return UNCALIBRATED
