"""The stamps of a source's frames, from the list a data set brings or from a run's report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from slam.trajectory import EARLIEST_NANOSECONDS


def read_frame_times(path: Path | str) -> np.ndarray:
    """Stamps of a source's frames, [F] float64, from a list or a run's report.

    Reads a list whose rows start with a stamp (TUM's rgb.txt, EuRoC's data.csv in nanoseconds,
    KITTI's times.txt), or a report.json with the stamps under "frame_times".
    Raises FileNotFoundError, and ValueError with file and line where a row starts otherwise.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list of frames")
    if path.suffix == ".json":
        return _times_from_report(path)
    times = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        cells = line.replace(",", " ").split()
        if not cells or cells[0].startswith("#"):
            continue
        try:
            times.append(float(cells[0]))
        except ValueError as error:
            message = f"{path}:{number}: wanted a row that starts with a stamp, found '{line[:60]}'"
            raise ValueError(message) from error
    stamps = np.array(times, dtype=np.float64)
    _require_frame_times(path, stamps)
    return stamps * 1e-9 if stamps[0] > EARLIEST_NANOSECONDS else stamps


def read_weak_times(path: Path | str) -> np.ndarray:
    """Stamps of the frames whose pose was not solved from measurements, [W] float64.

    They stand under "weak_times" in a run's report.json; a list of frames knows of none.
    """
    path = Path(path)
    if path.suffix != ".json":
        return np.empty(0)
    return np.array(json.loads(path.read_text()).get("weak_times", []), dtype=np.float64)


def _times_from_report(path: Path) -> np.ndarray:
    wanted = f'{path}: wanted a report with a list of stamps under "frame_times"'
    try:
        stamps = np.array(json.loads(path.read_text())["frame_times"], dtype=np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{wanted}, found none") from error
    _require_frame_times(path, stamps)
    return stamps


def _require_frame_times(path: Path, stamps: np.ndarray) -> None:
    if stamps.ndim != 1 or len(stamps) == 0 or not np.isfinite(stamps).all():
        raise ValueError(f"{path}: wanted the stamps of a source's frames, found none")
    if (np.diff(stamps) <= 0).any():
        raise ValueError(f"{path}: wanted increasing stamps of frames, found time going backwards")
