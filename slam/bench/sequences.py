"""The sequences below a folder of data sets, and the names that papers know them by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from slam.sources.images import natural_key
from slam.sources.registry import FORMATS

DEEPEST = 6  # folders below the one given
LAYOUTS = tuple(known for known in FORMATS if known.name != "folder")
TITLES = {
    "tum-fr1": "TUM RGB-D fr1",
    "tum-fr2": "TUM RGB-D fr2",
    "tum-fr3": "TUM RGB-D fr3",
    "tum": "TUM's layout",
    "euroc": "EuRoC",
    "7scenes": "7-Scenes",
    "icl": "ICL-NUIM",
    "eth3d": "ETH3D-SLAM",
    "kitti": "KITTI odometry",
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """One sequence on disk."""

    path: Path  # what `slam run` is given
    benchmark: str  # key of TITLES
    name: str  # folder of its results
    short: str  # as in published tables: xyz, MH01, chess, ...


def find_sequences(folders: Iterable[Path]) -> list[Recorded]:
    """All sequences in or below the folders, in natural order, each once.

    Raises FileNotFoundError for a missing folder, ValueError for one without a sequence and for two
    sequences of one name.
    """
    found: dict[Path, Recorded] = {}
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; wanted a data set as downloaded")
        here = list(_below(folder.resolve(), DEEPEST))
        if not here:
            wanted = "; ".join(f"{known.wants} ({known.name})" for known in LAYOUTS)
            raise ValueError(f"{folder}: no sequence in it or below it; wanted {wanted}")
        found |= {sequence.path: sequence for sequence in here}
    _require_distinct(list(found.values()))
    return list(found.values())


def _below(folder: Path, depth: int) -> Iterator[Recorded]:
    layout = next((known for known in LAYOUTS if known.matches(folder)), None)
    if layout is not None and layout.name == "7scenes":
        parts = [part for part in _children(folder) if layout.matches(part)] or [folder]
        yield from (_named(layout.name, part) for part in parts)
    elif layout is not None:
        yield _named(layout.name, folder)
    elif depth > 0:
        for child in _children(folder):
            yield from _below(child, depth - 1)


def _children(folder: Path) -> list[Path]:
    children = [child for child in folder.iterdir() if not child.name.startswith(".")]
    return sorted((c for c in children if c.is_dir()), key=lambda c: natural_key(c.name))


def _named(layout: str, path: Path) -> Recorded:
    if layout == "7scenes":
        scene = path.parent.name
        return Recorded(path, layout, f"{scene}-{path.name}", scene.removeprefix("red"))
    if layout == "euroc":
        place = re.search(r"(MH|V[12])_?(0[1-5])", path.name)
        return Recorded(path, layout, path.name, "".join(place.groups()) if place else path.name)
    if layout == "icl":
        return Recorded(path, layout, path.name, _icl_name(path.name))
    series = re.search(r"freiburg([123])_(.+)", path.name) if layout == "tum" else None
    if series:
        return Recorded(path, f"tum-fr{series[1]}", path.name, series[2])
    return Recorded(path, layout, path.name, path.name)


def _icl_name(name: str) -> str:
    """lr-kt3, of-kt0: living room or office, and which camera path."""
    room = "lr" if re.search(r"living|lr", name) else "of" if re.search(r"office|of", name) else ""
    path = re.search(r"(?:kt|traj)(\d)", name)
    return f"{room}-kt{path[1]}" if room and path else name


def _require_distinct(sequences: Sequence[Recorded]) -> None:
    known: dict[tuple[str, str], Path] = {}
    for sequence in sequences:
        other = known.setdefault((sequence.benchmark, sequence.name), sequence.path)
        if other != sequence.path:
            raise ValueError(
                f"{sequence.path}: wanted one sequence named {sequence.name}, got another at "
                f"{other}; rename one, or give only one"
            )
