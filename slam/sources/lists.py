"""Text files that list a recording: lines, time stamps with their files, and checks of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class FileList:
    """Time stamps and the files taken at them."""

    times: np.ndarray  # [N] float64, as written
    files: tuple[Path, ...]
    has_integer_stamps: bool  # all written without a point


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of the lines that are neither empty nor comments."""
    lines = enumerate(_read_text(path).splitlines(), start=1)
    stripped = [(number, line.strip()) for number, line in lines]
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def read_header(path: Path) -> str:
    """The comment lines of a file; empty where there is no file."""
    if not path.is_file():
        return ""
    return "\n".join(line for line in _read_text(path).splitlines() if line.startswith("#"))


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: wanted text, got binary data") from error


def read_numbers(path: Path, columns: int) -> np.ndarray:
    """The first `columns` numbers of every line, [N, columns] float64; spaces or commas between."""
    rows = []
    for number, line in read_lines(path):
        cells = line.replace(",", " ").split()
        rows.append([parse_number(cell, f"{path}:{number}") for cell in cells[:columns]])
        if len(cells) < columns:
            raise ValueError(f"{path}:{number}: wanted {columns} numbers, got '{line[:60]}'")
    return np.array(rows, np.float64).reshape(-1, columns)


def parse_number(text: str, where: str) -> float:
    """A finite number; raises ValueError that names the place."""
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{where}: wanted a number, got '{text[:60]}'") from error
    if not np.isfinite(value):
        raise ValueError(f"{where}: wanted a finite number, got '{text}'")
    return value


def read_file_list(path: Path, pairs_column: int = 0) -> FileList:
    """A list of 'stamp file' lines, files relative to the list.

    Args:
        pairs_column: which 'stamp file' pair of a line counts (associations have two a line).
    Raises ValueError for a broken line, for no lines, and for stamps that do not increase.
    """
    lines, stamps, files = [], [], []
    for number, line in read_lines(path):
        cells = line.split(maxsplit=1) if pairs_column == 0 else line.split()[2 * pairs_column :]
        if len(cells) < 2:
            raise ValueError(f"{path}:{number}: wanted 'time file', got '{line[:60]}'")
        lines.append(number)
        stamps.append(cells[0])
        files.append(path.parent / cells[1].strip())
    if not lines:
        raise ValueError(f"{path}: wanted 'time file' lines, got none")
    times = [parse_number(s, f"{path}:{n}") for n, s in zip(lines, stamps, strict=True)]
    check_increasing(np.array(times), path, lines, stamps)
    return FileList(np.array(times), tuple(files), all(stamp.isdigit() for stamp in stamps))


def check_increasing(
    times: np.ndarray, path: Path, lines: Sequence[int], stamps: Sequence[object]
) -> None:
    """Raises ValueError with file, line and both stamps where time stands still or goes back."""
    wrong = np.flatnonzero(np.diff(times) <= 0)
    if len(wrong):
        row = int(wrong[0]) + 1
        raise ValueError(
            f"{path}:{lines[row]}: wanted increasing time stamps, "
            f"got {stamps[row]} after {stamps[row - 1]}"
        )


def check_files(files: Sequence[Path], listed_in: Path) -> None:
    """Raises FileNotFoundError with the first file that is not there, its list, and their number.

    One directory listing per folder: thousands of stat calls are slow on network drives.
    """
    present = existing(files)
    missing = [file for file in files if file not in present]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]}: no such file, but {listed_in} names it "
            f"({len(missing)} of {len(files)} files are missing)"
        )


def existing(files: Sequence[Path]) -> set[Path]:
    """Those of the files that are there."""
    names = {}
    for folder in {file.parent for file in files}:
        names[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
    return {file for file in files if file.name in names[file.parent]}
