"""7-Scenes (Shotton et al., CVPR 2013): seq-NN folders of frame-NNNNNN.color.png and .pose.txt."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np

from slam.camera import published_calibration
from slam.sources.base import DepthMaps, Recording
from slam.sources.calibration import Calibration
from slam.sources.ground_truth import poses_from_matrices, to_trajectory
from slam.sources.images import ImageFiles
from slam.trajectory import Trajectory

logger = logging.getLogger(__name__)

FRAME_SECONDS = 1 / 30
COLOUR = re.compile(r"frame-(\d+)\.color\.(png|jpg)")


def matches(path: Path) -> bool:
    return bool(_sequences(path))


def read(path: Path) -> Recording:
    """Path: a sequence, or a scene of them, whose first is taken."""
    sequences = _sequences(path)
    if not sequences:
        raise FileNotFoundError(f"{path}: wanted 7-Scenes' frame-000000.color.png, or seq-NN")
    folder = sequences[0]
    if len(sequences) > 1:
        others = ", ".join(sequence.name for sequence in sequences[1:])
        logger.info("%s: opens %s; open the others by their path: %s", path, folder.name, others)
    files = _colour_files(folder)
    numbers = sorted(files)
    camera = published_calibration("7scenes")
    return Recording(
        format="7scenes",
        name=f"{folder.parent.name}-{folder.name}",
        path=path,
        frames=ImageFiles([files[number] for number in numbers]),
        times=np.array(numbers, np.float64) * FRAME_SECONDS,
        folder=folder,
        calibration=Calibration(camera, "7-Scenes, the published focal length of 585 px"),
        ground_truth=_ground_truth(folder, numbers),
        depth=_depth(folder, numbers),
    )


def _sequences(path: Path) -> list[Path]:
    """The path itself, or the folders in it, that hold colour frames."""
    if _colour_files(path):
        return [path]
    folders = sorted(folder for folder in path.glob("seq-*") if folder.is_dir())
    return [folder for folder in folders if _colour_files(folder)]


def _colour_files(folder: Path) -> dict[int, Path]:
    """Frame number to file."""
    found = [(COLOUR.fullmatch(file.name), file) for file in folder.glob("frame-*.color.*")]
    return {int(match[1]): file for match, file in found if match}


def _frame_file(folder: Path, number: int, kind: str) -> Path:
    return folder / f"frame-{number:06d}.{kind}"


def _ground_truth(folder: Path, numbers: list[int]) -> Trajectory | None:
    """One 4x4 matrix a file; frames without a file, or with one not finite, have no pose."""
    times, matrices = [], []
    for number in numbers:
        file = _frame_file(folder, number, "pose.txt")
        if not file.is_file():
            continue
        matrix = _read_matrix(file)
        if np.isfinite(matrix).all():
            times.append(number * FRAME_SECONDS)
            matrices.append(matrix)
    if not times:
        return None
    return to_trajectory(folder, np.array(times), poses_from_matrices(np.stack(matrices)))


def _read_matrix(file: Path) -> np.ndarray:
    try:
        return np.array(file.read_text().split(), np.float64).reshape(4, 4)
    except ValueError as error:
        raise ValueError(f"{file}: wanted a 4x4 matrix, got {error}") from error


def _depth(folder: Path, numbers: list[int]) -> DepthMaps | None:
    files = {n: _frame_file(folder, n, "depth.png") for n in numbers}
    present = [n for n in numbers if files[n].is_file()]
    times = np.array(present, np.float64) * FRAME_SECONDS
    files = tuple(files[n] for n in present)
    return DepthMaps(times, files, per_metre=1000.0, invalid=65535) if files else None
