"""A recording as a format finds it, and the Source that yields its images, decoded ahead."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from slam.camera import Camera, Undistorter, undistorter
from slam.frame import Image
from slam.sources.calibration import UNCALIBRATED, Calibration, choose_calibration
from slam.sources.ground_truth import mirrored
from slam.sources.images import DamagedImage, Frames, first_size, read_raw
from slam.sources.realtime import RealTime
from slam.sources.stream import Stream
from slam.trajectory import Trajectory

logger = logging.getLogger(__name__)

DEPTH_MAX_GAP = 0.02  # s, between an image and its depth map
IMAGES_AHEAD = 4
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DepthMaps:
    """Depth maps of a recording: 16-bit images in the geometry of the raw images."""

    times: np.ndarray  # [D] float64, same clock as the images
    files: tuple[Path, ...]
    per_metre: float  # value of one metre
    invalid: int = 0  # value that means none, besides 0


@dataclass(frozen=True, slots=True)
class Recording:
    """What a format finds at a path: the full list of images and all that comes with it."""

    format: str
    name: str
    path: Path
    frames: Frames
    times: np.ndarray  # [N] float64, increasing, as the source writes them
    folder: Path | None = None  # where a calibration.yaml would be; None: nowhere
    seconds_per_stamp: float = 1.0
    calibration: Calibration = UNCALIBRATED  # what the recording itself carries
    ground_truth: Trajectory | None = None  # T_WC of this camera, right-handed
    mirrored: bool = False  # poses as the source writes them are S T S of ours
    depth: DepthMaps | None = None
    missing: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # not at hand


class ImageSource:
    """What a recording and a camera have in common: images of one size, and who took them.

    Args:
        name: of the source, in words; it is made fit for the name of a file.
        size: (width, height) of the raw images, px.
        chosen: the calibration, as `choose_calibration` makes it.
        fov: horizontal field of view assumed without one, degrees.
    Raises ValueError for a distortion that cannot be taken out.
    """

    path: Path | str  # where the images come from, as its messages name it
    format: str
    indices: np.ndarray  # [N] int64, into the full list, of the images that there are
    times: np.ndarray  # [N] float64, as the source writes them
    seconds: np.ndarray  # [N] float64, s
    recorded: np.ndarray  # [R] float64, as the source writes them, of the full list

    def __init__(self, name: str, size: tuple[int, int], chosen: Calibration, fov: float) -> None:
        self.name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "recording"
        self.ground_truth: Trajectory | None = None  # T_WC of the camera, right-handed
        self.mirrored = False
        self.skipped: list[str] = []  # damaged images met so far
        self.calibrated = chosen.camera is not None
        self.calibration_source = chosen.origin
        self.raw_camera = chosen.camera  # of the images as the files are; None: not known
        self._undistorter = _undistorter_for(chosen.camera, size, fov)
        self.camera = self._undistorter.camera  # pinhole, of the images this source yields

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def total(self) -> int | None:
        """How many images there will be; None = it ends when somebody ends it."""
        return len(self)

    def _image(self, raw: np.ndarray, index: int, time: float, seconds: float, label: str) -> Image:
        """One raw image as it is handed out. Raises ValueError for one of another size."""
        wanted = (self.camera.width, self.camera.height)
        if (raw.shape[1], raw.shape[0]) != wanted:
            raise ValueError(
                f"{label}: wanted an image of {wanted[0]}x{wanted[1]} px like "
                f"the first, got {raw.shape[1]}x{raw.shape[0]}"
            )
        return Image(index, time, seconds, torch.from_numpy(self._undistorter.apply(raw)))

    def _skip(self, damaged: DamagedImage) -> None:
        if str(damaged) not in self.skipped:
            logger.warning("%s: damaged or truncated image, skipped", damaged)
            self.skipped.append(str(damaged))

    def to_source_convention(self, trajectory: Trajectory) -> Trajectory:
        """A right-handed trajectory as the data set would write it."""
        return mirrored(trajectory) if self.mirrored else trajectory

    def from_source_convention(self, trajectory: Trajectory) -> Trajectory:
        """A trajectory as the data set writes it, made right-handed."""
        return mirrored(trajectory) if self.mirrored else trajectory


class Source(ImageSource):
    """The selected images of a recording, undistorted where the camera is known.

    Args:
        recording: what to read.
        calibration: "auto", "none", a published calibration's name, or a calibration file.
        fov: horizontal field of view assumed without calibration, degrees.
        start, end, stride: selection from the full list, as in a slice.
    Raises ValueError for an empty selection, a calibration of another size, or no whole image.
    """

    def __init__(
        self,
        recording: Recording,
        calibration: str = "auto",
        fov: float = 60.0,
        start: int = 0,
        end: int | None = None,
        stride: int = 1,
    ) -> None:
        self.indices = _select(recording, start, end, stride)
        size = first_size(recording.frames, self.indices)
        chosen = choose_calibration(recording.calibration, recording.folder, calibration, size, fov)
        super().__init__(recording.name, size, chosen, fov)
        self.recorded = recording.times
        self.format = recording.format
        self.path: Path = recording.path
        self.times = recording.times[self.indices]
        self.seconds = self.times * recording.seconds_per_stamp
        self.ground_truth = recording.ground_truth
        self.mirrored = recording.mirrored
        self._frames = recording.frames
        self._depth = recording.depth
        self.depth_files = _nearest_depth(recording)  # index in the full list -> file

    def in_real_time(self, first: int = 0) -> Stream:
        """The images from place `first` on, at their own pace: the newest wins."""
        return RealTime(self.images(range(first, len(self))))

    def images(self, places: Iterable[int] | None = None) -> Generator[Image, None, None]:
        """The images, decoded and undistorted ahead in one thread.

        Args: places: which, as places in this selection, in the order wanted; None = all of them.

        A damaged image is left out, with a warning, and its name added to `skipped`. Closing the
        iterator early ends the thread. Raises ValueError for an image of another size.
        """
        read = self._frames.reader()
        chosen = range(len(self)) if places is None else places
        for image in prefetch(lambda place: self._load(read, place), chosen):
            if isinstance(image, Image):
                yield image
            else:
                self._skip(image)

    def _load(self, read: Callable[[int], np.ndarray], place: int) -> Image | DamagedImage:
        index = int(self.indices[place])
        try:
            raw = read(index)
        except DamagedImage as damaged:
            return damaged
        time, seconds = float(self.times[place]), float(self.seconds[place])
        return self._image(raw, index, time, seconds, self._frames.label(index))

    def depth_time(self, index: int) -> float | None:
        """When the depth map nearest to image `index` was taken, as the source writes it."""
        file = self.depth_files.get(index)
        if file is None or self._depth is None:
            return None
        return float(self._depth.times[self._depth.files.index(file)])

    def read_depth(self, index: int) -> np.ndarray | None:
        """Depth nearest in time to image `index` of the full list, None if none within 20 ms.

        [H, W] float32, metres, 0 = no measurement, in the geometry of the raw images. A damaged
        file is skipped like an image. Raises ValueError for one that is no 16-bit depth map.
        """
        file = self.depth_files.get(index)
        if file is None or self._depth is None:
            return None
        try:
            raw = read_raw(file)
        except DamagedImage as damaged:
            self._skip(damaged)
            return None
        if raw.dtype != np.uint16 or raw.ndim != 2:
            raise ValueError(f"{file}: wanted a 16-bit depth map, got {raw.dtype} {raw.shape}")
        depth = raw.astype(np.float32) / np.float32(self._depth.per_metre)
        depth[raw == self._depth.invalid] = 0
        return depth

    def raw_pixels(self, pixel: Tensor, width: int, height: int) -> Tensor:
        """Where pixels [..., 2] of the yielded images, resized, lie in the raw ones, px float64.

        Args: width, height: px of the images that `pixel` is in.
        """
        rays = self.camera.resized(width, height).unproject(pixel.double())
        return (self.raw_camera or self.camera).project(rays)

    def depth_at(self, index: int, raw: Tensor) -> np.ndarray | None:
        """What `read_depth` holds nearest to pixels [P, 2] of the raw images: [P], m; 0 = none."""
        measured = self.read_depth(index)
        if measured is None:
            return None
        height, width = measured.shape
        factor = np.array([width / self.camera.width, height / self.camera.height])
        column, row = np.rint((raw.numpy() + 0.5) * factor - 0.5).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        depth = np.zeros(len(column), np.float32)
        depth[inside] = measured[row[inside], column[inside]]
        return depth


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = IMAGES_AHEAD
) -> Iterator[Result]:
    """Results of `function` in order, computed up to `ahead` items ahead in one thread.

    The thread ends with the iterator, whichever way that ends; its exceptions are raised here.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="slam-prefetch")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _select(recording: Recording, start: int, end: int | None, stride: int) -> np.ndarray:
    count = len(recording.times)
    if start < 0 or stride < 1 or (end is not None and end < 0):
        raise ValueError(
            f"selection: wanted start >= 0, end >= 0 and stride >= 1, "
            f"got start {start}, end {end}, stride {stride}"
        )
    indices = np.setdiff1d(np.arange(count)[start:end:stride], recording.missing)
    if len(indices) == 0:
        raise ValueError(
            f"selection: wanted at least one of the {count} images of {recording.path}, "
            f"got none from start {start}, end {end}"
        )
    return indices


def _undistorter_for(camera: Camera | None, size: tuple[int, int], fov: float) -> Undistorter:
    return Undistorter(Camera.from_fov(*size, fov), None) if camera is None else undistorter(camera)


def _nearest_depth(recording: Recording) -> dict[int, Path]:
    """Image index to the depth map nearest in time, where one is near enough."""
    depth = recording.depth
    if depth is None or len(depth.times) == 0:
        return {}
    after = np.clip(np.searchsorted(depth.times, recording.times), 1, len(depth.times) - 1)
    candidates = (
        np.stack([after - 1, after]) if len(depth.times) > 1 else np.zeros((1, len(after)), int)
    )
    gaps = np.abs(depth.times[candidates] - recording.times) * recording.seconds_per_stamp
    best = gaps.argmin(axis=0)
    near = np.flatnonzero(gaps.min(axis=0) <= DEPTH_MAX_GAP)
    return {int(i): depth.files[candidates[best[i], i]] for i in near}
