"""The formats, and `open_source`, which tells by a path's content which one it is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slam.sources import (
    eth3d,
    euroc,
    folder,
    icl,
    kitti,
    recorded,
    seven_scenes,
    tum,
    video,
)
from slam.sources.base import Recording, Source

logger = logging.getLogger(__name__)

VIDEO = "video"


@dataclass(frozen=True, slots=True)
class Format:
    """One way to lay out a recording in a folder."""

    name: str
    wants: str  # what it is recognised by, in words
    matches: Callable[[Path], bool]
    read: Callable[[Path], Recording]


FORMATS = (  # in the order they are tried: special cases of a layout before the layout
    Format("euroc", "mav0/cam0/data.csv", euroc.matches, euroc.read),
    Format("7scenes", "frame-NNNNNN.color.png", seven_scenes.matches, seven_scenes.read),
    Format("kitti", "times.txt and image_2", kitti.matches, kitti.read),
    Format("icl", "rgb.txt with frame numbers, *.gt.freiburg", icl.matches, icl.read),
    Format("eth3d", "rgb.txt and calibration.txt", eth3d.matches, eth3d.read),
    Format("tum", "rgb.txt", tum.matches, tum.read),
    Format("folder", "png or jpg images", folder.matches, folder.read),
)


def open_source(
    path: str | Path,
    *,
    format: str = "auto",
    calibration: str = "auto",
    fov: float = 60.0,
    start: int = 0,
    end: int | None = None,
    stride: int = 1,
) -> Source:
    """Opens a recording: a folder in a known layout, a folder of images, or a video file.

    Args:
        format: "auto" or the name of one of FORMATS or "video".
        calibration: "auto" (calibration.yaml beside the images, else what the recording carries,
            else none), "none", a published calibration's name, or a calibration file.
        fov: horizontal field of view assumed without calibration, degrees.
        start, end, stride: which images of the full list, as in a slice.
    Raises FileNotFoundError or ValueError, in one line, for everything that is wrong at this point.
    """
    recording = read_recording(path, format, end)
    source = Source(recording, calibration, fov, start, end, stride)
    logger.info(
        "%s: %s, %d of %d images, %s",
        *(path, source.format, len(source), len(recording.times), source.calibration_source),
    )
    return source


def read_recording(path: str | Path, format: str = "auto", end: int | None = None) -> Recording:
    """What there is at a path, before anything of it is selected; arguments as `open_source`."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; wanted a recording or a video")
    return _read(path.resolve(), format, end)


def _read(path: Path, format: str, end: int | None) -> Recording:
    names = [known.name for known in FORMATS]
    if format not in ("auto", VIDEO, *names):
        raise ValueError(f"format: wanted auto, {', '.join(names)} or {VIDEO}, got '{format}'")
    if path.is_file():
        if format not in ("auto", VIDEO):
            raise ValueError(f"{path}: wanted a folder for format {format}, got a file")
        return recorded.read(path) if recorded.matches(path) else video.read(path, end)
    if format == VIDEO:
        raise ValueError(f"{path}: wanted a video file, got a folder")
    chosen = _detect(path) if format == "auto" else FORMATS[names.index(format)]
    return chosen.read(path)


def _detect(path: Path) -> Format:
    found = next((known for known in FORMATS if known.matches(path)), None)
    if found is not None:
        return found
    wanted = "; ".join(f"{known.wants} ({known.name})" for known in FORMATS)
    inside = [
        child.name
        for child in sorted(path.iterdir())
        if child.is_dir() and any(known.matches(child) for known in FORMATS)
    ]
    hint = f"; give the path of a recording in it: {', '.join(inside[:10])}" if inside else ""
    raise ValueError(f"{path}: no recording in this folder; wanted {wanted}, or a video file{hint}")
