"""From images of a board to a calibration file: find it, choose views, solve, write."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from slam.calibration.boards import HINTED, Board, View, hint
from slam.calibration.report import calibration_file, draw_report, summary, warnings_of
from slam.calibration.selection import MOST, choose_views
from slam.calibration.solve import FEWEST, Solution, expect_model, solve
from slam.live_settings import LiveSettings
from slam.sources import open_source
from slam.sources.capture import Device
from slam.sources.devices import find_device
from slam.trajectory import write_atomically

LOOKED_AT = 300  # images at most, where nobody says how many
DEVICE_PAUSE = 0.25  # s between two images of a camera that are looked at
FAILURES = 5  # images that a camera may fail to give, one after the other


@dataclass(frozen=True, slots=True)
class Images:
    """Images to look for a board in."""

    name: str  # where they come from
    rgb: Iterator[tuple[str, np.ndarray]]  # name, [H, W, 3] uint8; all of one size


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A calibration and what is to be said of it."""

    path: Path  # of the calibration file
    picture: Path  # of its quality
    solution: Solution
    seen: int  # images
    found: int  # of them with the board
    warnings: tuple[str, ...]  # a line each

    def summary(self) -> str:
        """A few lines for a person."""
        lines = summary(self.solution, self.seen, self.found)
        return f"{lines}\nwritten to {self.path} and {self.picture}"


def images_of(path: str | Path, every: int | None = None) -> Images:
    """Every n-th image of a recording, as its files are; None = so that there are LOOKED_AT.

    Raises FileNotFoundError or ValueError for a path that is no recording; while the images are
    gone through, ValueError for one of another size.
    """
    source = open_source(path, calibration="none")
    step = _expect_step(every) or max(1, -(-len(source) // LOOKED_AT))
    places = range(0, len(source), step)
    named = ((f"image {i.index}", i.rgb.numpy()) for i in source.images(places))
    return Images(str(path), named)


def images_of_device(name: str, seconds: float, every: int | None = None) -> Images:
    """Images of a camera for some time; None = one each DEVICE_PAUSE, else every n-th.

    Args: name: as `slam live` takes it: a number, a URL, a file, or realsense[:SERIAL].
    Raises ValueError or FileNotFoundError for a name of none; while the images are gone through,
    ValueError or OSError where the camera is not there or gives none.
    """
    if not 0 < seconds < float("inf"):
        raise ValueError(f"seconds: wanted a time above 0, got {seconds:g}")
    step = _expect_step(every)
    device = find_device(LiveSettings(device=name))
    return Images(f"camera {device.name}", _captured(device, seconds, step))


def _captured(device: Device, seconds: float, step: int | None) -> Iterator[tuple[str, np.ndarray]]:
    capture = device.open()
    never = threading.Event()
    start = due = time.monotonic()
    taken = failed = 0
    try:
        while (now := time.monotonic()) - start < seconds:
            shot = capture.read(never)
            if shot is None:
                failed += 1
                if device.ends:
                    return
                if failed == FAILURES:
                    raise ValueError(f"camera {device.name}: wanted more images, it gives none")
                continue
            taken, failed = taken + 1, 0
            if taken % step if step else now < due:
                continue
            due = now + DEVICE_PAUSE
            yield f"image {taken - 1}", shot.raw
    finally:
        capture.close()


def _expect_step(every: int | None) -> int | None:
    if every is not None and every < 1:
        raise ValueError(f"every: wanted 1 or more, got {every}")
    return every


def calibrate(images: Images, board: Board, model: str, out: Path) -> Calibrated:
    """Looks for the board in the images, solves, and writes `out` and a picture beside it.

    Args: model: as Camera.model.
    Raises ValueError for an unknown model, and where the board is in too few of them or nothing can
    be solved, OSError where the output cannot be written, all before anything is.
    """
    expect_model(model)
    _expect_writable(out)
    found = _look(images, board)
    chosen = [found.views[n] for n in choose_views(found.views, found.size, MOST)]
    if len(chosen) < FEWEST:
        raise ValueError(
            f"{images.name}: wanted {FEWEST} or more views of the board that differ, got "
            f"{len(chosen)} from {len(found.views)} of {found.seen} images; film it from more "
            "sides, near and tilted, and see --every"
        )
    solution = solve(chosen, model, found.size)
    picture = out.with_suffix(".png")
    warnings = warnings_of(solution)
    write_atomically(out, calibration_file(solution, board, images.name).encode())
    draw_report(picture, solution, found.example, f"{images.name}: {board.words}")
    counts = found.seen, len(found.views)
    return Calibrated(out, picture, solution, *counts, tuple(warnings))


@dataclass(frozen=True, slots=True)
class _Found:
    """What looking through the images gave."""

    views: list[View]
    size: tuple[int, int]  # (width, height) px
    seen: int  # images
    example: np.ndarray  # [H, W, 3] uint8, the first that shows the board


def _look(images: Images, board: Board) -> _Found:
    views: list[View] = []
    without: list[np.ndarray] = []
    size, seen, example = (0, 0), 0, np.empty(0)
    quiet = logging.getLogger("slam").getEffectiveLevel() >= logging.ERROR
    bar = tqdm(images.rgb, unit="image", disable=True if quiet else None, file=sys.stderr)
    for name, rgb in bar:
        seen += 1
        shape = rgb.shape[1], rgb.shape[0]
        if seen > 1 and shape != size:
            raise ValueError(
                f"{images.name}, {name}: wanted {size[0]}x{size[1]} px like the first image, "
                f"got {shape[0]}x{shape[1]}; calibrate one size at a time"
            )
        size = shape
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        view = board.find(name, grey)
        if view is not None:
            example = rgb if not views else example
            views.append(view)
        elif len(without) < HINTED:
            without.append(grey)
        bar.set_postfix_str(f"{len(views)} with the board")
    if not views:
        raise ValueError(
            f"{images.name}: wanted a {board.words}, found none in {seen} images; "
            f"{hint(board, without)}"
        )
    return _Found(views, size, seen, example)


def _expect_writable(out: Path) -> None:
    """Raises ValueError for a name of another kind of file, OSError for a place that takes none."""
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"-o: wanted a file name that ends in .yaml, got {out}")
    if out.is_dir():
        raise ValueError(f"-o: wanted a file, got the folder {out}")
    out.parent.mkdir(parents=True, exist_ok=True)
    probe = out.with_name(f".{out.name}.writable")
    probe.touch()
    probe.unlink()
