"""Camera paths of all frames in the formats of TUM, KITTI and EuRoC.

Poses take camera points to the world, up to scale, as the data set would write them: those of a
left-handed one are left-handed, as in `trajectory.txt`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slam.exports.views import Choices
from slam.saved_map import SavedMap
from slam.trajectory import Trajectory, write_atomically, write_tum

EUROC_HEADER = (
    "#timestamp [ns], p_RS_R_x [m], p_RS_R_y [m], p_RS_R_z [m], "
    "q_RS_w [], q_RS_x [], q_RS_y [], q_RS_z []"
)


def write_tum_path(saved: SavedMap, out: Path, choices: Choices) -> str:
    """'t tx ty tz qx qy qz qw', times as the source writes them."""
    path = _path(saved)
    write_tum(out, path)
    return _words(path)


def write_kitti(saved: SavedMap, out: Path, choices: Choices) -> str:
    """The rows of a 3x4 matrix, one line a pose, without time; NAME_times.txt has the times."""
    path = _path(saved)
    matrices = np.concatenate([path.rotations.as_matrix(), path.positions[:, :, None]], axis=2)
    rows = [" ".join(f"{value:.9e}" for value in matrix.ravel()) for matrix in matrices]
    write_atomically(out, _text(rows))
    times = out.with_name(f"{out.stem}_times.txt")
    write_atomically(times, _text([f"{time:.9f}" for time in path.times]))
    return f"{_words(path)}; times in {times}"


def write_euroc(saved: SavedMap, out: Path, choices: Choices) -> str:
    """csv 't[ns], p x y z, q w x y z', as EuRoC's ground truth begins its rows."""
    path = _path(saved)
    rows = [EUROC_HEADER]
    for time, (tx, ty, tz, qx, qy, qz, qw) in zip(path.times, path.poses, strict=True):
        numbers = ",".join(f"{value:.9g}" for value in (tx, ty, tz, qw, qx, qy, qz))
        rows.append(f"{round(time * 1e9)},{numbers}")
    write_atomically(out, _text(rows))
    return _words(path)


def _path(saved: SavedMap) -> Trajectory:
    path = saved.poses()
    if not len(path):
        raise ValueError(f"map of {saved.origin.name}: wanted frames with a pose, it has none")
    return saved.in_source_convention(path)


def _text(rows: list[str]) -> bytes:
    return "\n".join([*rows, ""]).encode()


def _words(path: Trajectory) -> str:
    return f"{len(path)} poses"
