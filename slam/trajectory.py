"""Camera paths: the Trajectory value, its text formats (TUM, KITTI, EuRoC), pairing by time."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from scipy.spatial.transform import Rotation

TrajectoryFormat = Literal["tum", "kitti", "euroc"]

NORM_TOLERANCE = 0.01  # how far a written quaternion's norm may be from 1: beyond it is no rotation
EARLIEST_NANOSECONDS = 1e14  # larger integer stamps are nanoseconds, not seconds or frame numbers
DESCRIPTIONS = {
    "tum": "8 numbers 't tx ty tz qx qy qz qw'",
    "kitti": "12 numbers, the rows of a 3x4 matrix",
    "euroc": "8 or more numbers 't[ns], px, py, pz, qw, qx, qy, qz'",
}


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Poses of one camera over time. Sorted times are the readers' promise, not checked here.

    Raises ValueError for a wrong shape or type, a number not finite, or a quaternion not unit.
    """

    times: np.ndarray  # [N] float64, as the source writes them (s; frame numbers for ICL-NUIM)
    poses: np.ndarray  # [N, 7] float64, SE(3) T_WC [tx ty tz qx qy qz qw], m up to scale

    def __post_init__(self) -> None:
        if self.times.ndim != 1 or self.poses.shape != (len(self.times), 7):
            raise ValueError(
                "Trajectory wants times [N] and poses [N, 7], "
                f"got {self.times.shape} and {self.poses.shape}"
            )
        if self.times.dtype != np.float64 or self.poses.dtype != np.float64:
            raise ValueError(
                f"Trajectory wants float64, got {self.times.dtype} times, {self.poses.dtype} poses"
            )
        finite = np.isfinite(self.times) & np.isfinite(self.poses).all(axis=1)
        if not finite.all():
            raise ValueError(f"Trajectory wants finite numbers, row {np.argmin(finite)} is not")
        norms = np.linalg.norm(self.poses[:, 3:], axis=1)
        if (np.abs(norms - 1) > NORM_TOLERANCE).any():
            worst = int(np.argmax(np.abs(norms - 1)))
            raise ValueError(
                f"Trajectory wants unit quaternions, row {worst} has norm {norms[worst]:.4g}"
            )

    def __len__(self) -> int:
        return len(self.times)

    @property
    def positions(self) -> np.ndarray:
        """Camera centres in the world, [N, 3] float64."""
        return self.poses[:, :3]

    @property
    def quaternions(self) -> np.ndarray:
        """Rotations camera to world, [N, 4] float64, [qx qy qz qw]."""
        return self.poses[:, 3:]

    @property
    def rotations(self) -> Rotation:
        """Rotations camera to world, N of them (N >= 1)."""
        return Rotation.from_quat(self.quaternions)

    def select(self, rows: np.ndarray) -> Trajectory:
        """The given rows (indices or a mask), in that order."""
        return Trajectory(self.times[rows], self.poses[rows])


def read_trajectory(path: Path | str, format: str = "auto") -> Trajectory:
    """Reads a TUM, KITTI or EuRoC trajectory file.

    TUM: 't tx ty tz qx qy qz qw' (s), spaces or commas. KITTI: 12 numbers, times are row numbers.
    EuRoC: csv 't[ns], p x y z, q w x y z, ...'. Empty lines and '#' lines are skipped.
    Quaternions are normalised.

    Args:
        format: "auto" (told by the first row), "tum", "kitti" or "euroc".
    Raises FileNotFoundError, and ValueError with file and line for whatever is not a finite pose,
    quaternions far from unit, matrices that are no rotation, and times that do not increase.
    """
    path = Path(path)
    numbered = list(_numbered_rows(path))
    chosen = _format_of_row(path, *numbered[0]) if format == "auto" else format
    if chosen not in get_args(TrajectoryFormat):
        raise ValueError(f"trajectory format: wanted auto, tum, kitti or euroc, got '{format}'")
    lines = [line for line, _ in numbered]
    table = _parse_table(path, numbered, chosen)
    times = np.arange(len(table), dtype=np.float64) if chosen == "kitti" else table[:, 0]
    _check_increasing(path, lines, times)
    if chosen == "kitti":
        return Trajectory(times, _poses_from_matrices(path, lines, table.reshape(-1, 3, 4)))
    if chosen == "euroc":
        times = times * 1e-9
        table = table[:, [0, 1, 2, 3, 5, 6, 7, 4]]
    return Trajectory(times, _poses_from_quaternions(path, lines, table[:, 1:]))


def detect_format(path: Path | str) -> TrajectoryFormat:
    """Which of the formats a file has, from its first row. Raises as read_trajectory does."""
    path = Path(path)
    return _format_of_row(path, *next(_numbered_rows(path)))


def write_tum(path: Path | str, trajectory: Trajectory) -> None:
    """Writes 't tx ty tz qx qy qz qw' rows; the file appears complete or not at all.

    Times that are all integers (frame numbers) are written as integers, others with 6 decimals.
    """
    times = trajectory.times
    stamp = "%d" if (times == np.round(times)).all() else "%.6f"
    row = " ".join([stamp] + ["%.9g"] * 7)
    lines = [row % (time, *pose) for time, pose in zip(times, trajectory.poses, strict=True)]
    text = "\n".join(["# timestamp tx ty tz qx qy qz qw", *lines, ""])
    write_atomically(Path(path), text.encode())


def write_atomically(path: Path, *content: bytes | memoryview) -> None:
    """Writes a file through a temporary one beside it: a reader sees the old content or the new.

    Args: content: what is written, one piece after the other.
    """
    write_pieces_atomically(path, content)


def write_pieces_atomically(path: Path, content: Iterable[bytes | memoryview]) -> None:
    """The same of pieces that memory need not hold together."""
    with written_atomically(path) as file:
        file.writelines(content)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file for the body to write; it replaces the old one when the body is through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:  # a full disk says no name of its own
        os.unlink(temporary)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        os.unlink(temporary)
        raise


def associate(times_a: np.ndarray, times_b: np.ndarray, max_dt: float) -> np.ndarray:
    """Pairs rows: each stamp of the shorter list with its nearest in the longer.

    A stamp is used once: of two that claim the same one, the nearer keeps it.

    Args:
        times_a, times_b: [A], [B] increasing, same unit.
        max_dt: largest difference that still pairs, same unit.
    Returns [P, 2] int64 rows (a, b), increasing.
    """
    if len(times_a) > len(times_b):
        return associate(times_b, times_a, max_dt)[:, ::-1]
    if len(times_a) == 0:
        return np.zeros((0, 2), np.int64)
    after = np.clip(np.searchsorted(times_b, times_a), 1, max(len(times_b) - 1, 1))
    candidates = np.stack([after - 1, np.minimum(after, len(times_b) - 1)])
    differences = np.abs(times_b[candidates] - times_a)
    nearer = np.argmin(differences, axis=0)
    rows = np.arange(len(times_a))
    nearest, difference = candidates[nearer, rows], differences[nearer, rows]
    order = np.lexsort((difference, nearest))
    first = np.concatenate([[True], np.diff(nearest[order]) > 0])
    kept = np.sort(order[first])
    kept = kept[difference[kept] <= max_dt]
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int64)


def _numbered_rows(path: Path) -> Iterator[tuple[int, str]]:
    """Line numbers (from 1) and texts of the rows with data."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such trajectory file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted a trajectory in text, found binary data") from error
    empty = True
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            empty = False
            yield number, stripped
    if empty:
        raise ValueError(f"{path}: wanted a trajectory, found no rows")


def _cells(row: str) -> list[str]:
    return [cell for cell in re.split(r"[,\s]+", row) if cell]


def _format_of_row(path: Path, line: int, row: str) -> TrajectoryFormat:
    cells = _cells(row)
    if len(cells) == 12 and "," not in row:
        return "kitti"
    if len(cells) >= 8 and cells[0].isdigit() and int(cells[0]) > EARLIEST_NANOSECONDS:
        return "euroc"
    if len(cells) == 8:
        return "tum"
    raise ValueError(
        f"{path}:{line}: wanted a trajectory (TUM 't tx ty tz qx qy qz qw', KITTI 12 numbers, "
        f"EuRoC csv), found '{row[:60]}'"
    )


def _parse_table(path: Path, numbered: list[tuple[int, str]], format: str) -> np.ndarray:
    """The numbers of all rows, [N, 8 or 12] float64; a KITTI row has no time."""
    columns = 12 if format == "kitti" else 8
    table = np.empty((len(numbered), columns))
    for index, (line, row) in enumerate(numbered):
        cells = _cells(row)
        complete = len(cells) >= columns if format == "euroc" else len(cells) == columns
        try:
            values = [float(cell) for cell in cells[:columns]]
        except ValueError:
            complete = False
            values = []
        if not complete:
            raise ValueError(f"{path}:{line}: wanted {DESCRIPTIONS[format]}, found '{row[:60]}'")
        if not np.isfinite(values).all():
            raise ValueError(
                f"{path}:{line}: wanted finite numbers, found '{row[:60]}'; "
                "leave out frames that have no pose"
            )
        table[index] = values
    return table


def _check_increasing(path: Path, lines: list[int], times: np.ndarray) -> None:
    backwards = np.flatnonzero(np.diff(times) <= 0)
    if len(backwards):
        row = int(backwards[0]) + 1
        raise ValueError(
            f"{path}:{lines[row]}: wanted increasing times, "
            f"found {times[row]:.9f} after {times[row - 1]:.9f}"
        )


def _poses_from_quaternions(path: Path, lines: list[int], poses: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(poses[:, 3:], axis=1)
    wrong = np.flatnonzero(np.abs(norms - 1) > NORM_TOLERANCE)
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"{path}:{lines[row]}: wanted a unit quaternion, found one of norm {norms[row]:.4g}"
        )
    return np.concatenate([poses[:, :3], poses[:, 3:] / norms[:, None]], axis=1)


def _poses_from_matrices(path: Path, lines: list[int], matrices: np.ndarray) -> np.ndarray:
    R = matrices[:, :, :3]
    defect = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    wrong = np.flatnonzero((defect > NORM_TOLERANCE) | (np.linalg.det(R) < 0))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{path}:{lines[row]}: wanted a rotation matrix in columns 1-3, 5-7, 9-11")
    return np.concatenate([matrices[:, :, 3], Rotation.from_matrix(R).as_quat()], axis=1)
