"""A source played forwards and backwards in turn, as one long recording with its ground truth."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from slam.frame import Image
from slam.sources.base import Source
from slam.trajectory import Trajectory


class LoopedSource:
    """`passes` times through a source, every second time backwards.

    The image where it turns round comes once. Times go on at the source's own pace; indices count
    the images of the whole. All else is the source's. Raises ValueError for what cannot be read
    backwards, and for less than two images or one pass.
    """

    def __init__(self, source: Source, passes: int) -> None:
        if source.format == "video":
            raise ValueError(
                f"{source.path}: wanted a folder of images to play backwards, got a video; "
                "extract its frames"
            )
        if passes < 1 or len(source) < 2:
            raise ValueError(
                f"{source.path}: wanted at least 1 pass through 2 images to play in turn, "
                f"got {passes} through {len(source)}"
            )
        self.source = source
        self.passes = passes
        self.places = _places(len(source), passes)  # [M] into the source's selection
        self.indices = np.arange(len(self.places))
        self.times = _onwards(source.times, self.places)  # [M] float64, in the source's unit
        self.seconds = _onwards(source.seconds, self.places)  # [M] float64, s
        truth = source.ground_truth
        self.ground_truth = None if truth is None else _looped(truth, source.times, passes)
        self.name = f"{source.name}-{passes}-passes"
        self.path, self.format, self.camera = source.path, source.format, source.camera
        self.calibrated = source.calibrated
        self.calibration_source = source.calibration_source

    def __len__(self) -> int:
        return len(self.places)

    @property
    def total(self) -> int:
        """How many images there will be."""
        return len(self)

    @property
    def skipped(self) -> list[str]:
        """Damaged images met so far, each once."""
        return self.source.skipped

    def images(self) -> Generator[Image, None, None]:
        """The images in order; a damaged one is left out each time it comes."""
        turn = 0
        for image in self.source.images(self.places.tolist()):
            while self.source.indices[self.places[turn]] != image.index:
                turn += 1
            time, seconds = float(self.times[turn]), float(self.seconds[turn])
            yield replace(image, index=turn, time=time, seconds=seconds)
            turn += 1


def _places(count: int, passes: int) -> np.ndarray:
    """0 .. count-1, count-2 .. 0, 1 .. count-1 and so on."""
    steps = np.arange(passes * (count - 1) + 1) % (2 * (count - 1))
    return np.minimum(steps, 2 * (count - 1) - steps)


def _onwards(stamps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Stamps that go on at the pace of the originals, whichever way those are passed."""
    steps = np.abs(np.diff(stamps[places]))
    return stamps[places[0]] + np.concatenate([[0.0], np.cumsum(steps)])


def _looped(truth: Trajectory, stamps: np.ndarray, passes: int) -> Trajectory | None:
    """The true path between the first and the last image, passed as often as they are."""
    first, last = stamps[0], stamps[-1]
    inside = truth.select((truth.times >= first) & (truth.times <= last))
    if len(inside) == 0:
        return None
    times, poses = [], []
    for turn in range(passes):
        ahead = turn % 2 == 0
        since = inside.times - first if ahead else (last - inside.times)[::-1]
        times.append(first + turn * (last - first) + since)
        poses.append(inside.poses if ahead else inside.poses[::-1])
    joined, rows = np.unique(np.concatenate(times), return_index=True)
    return Trajectory(joined, np.concatenate(poses)[rows])
