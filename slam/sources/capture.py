"""Cameras that can be opened: what OpenCV reads as one, and files played as if they were one."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from slam.live_settings import LiveSettings
from slam.sources.base import Recording
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.images import DamagedImage

logger = logging.getLogger(__name__)

DEFAULT_STEP = 1 / 30  # s, of a file with one image
PASSWORD = re.compile(r"://[^/@]*@")  # and the name before it, in a URL
SILENT = "-8"  # FFmpeg's own level
PATIENCE = 5000  # ms, for a URL to answer, or to send the next image
MANUAL = 1.0 if sys.platform == "linux" else 0.25  # of CAP_PROP_AUTO_EXPOSURE: V4L2's own number
AUTOMATIC = (3.0, 0.75)  # of the same: V4L2's, other systems'


@dataclass(frozen=True, slots=True)
class Shot:
    """One image of a camera."""

    raw: np.ndarray  # [H, W, 3] uint8 RGB
    captured: float  # s, time.monotonic()
    stamp: float | None = None  # s, of the camera's own clock; None = it has none


class Capture(Protocol):
    """An open camera."""

    rate: float  # images/s that it says it gives; 0 = it does not say
    exposes: bool  # it says that it chooses the exposure itself, image by image

    def read(self, stopped: threading.Event) -> Shot | None:
        """Waits for the next image; None where none came, or when `stopped` is set."""
        ...

    def close(self) -> None:
        """Gives the camera back."""
        ...


class Device(Protocol):
    """What can be opened as a camera, again and again."""

    name: str  # as the user gave it, without passwords
    ends: bool  # it has a last image: where none comes, nothing more will
    total: int | None  # images until then, where that is known
    calibration: Calibration  # that comes with it
    folder: Path | None  # where a calibration.yaml would be; None: nowhere

    def open(self) -> Capture:
        """The camera, ready. Raises ValueError or OSError, in one line, where it is not there."""
        ...


# --- what OpenCV reads ---------------------------------------------------------------------------


class OpenCvCapture:
    """A camera of this machine, or a stream of the network."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self._capture = capture
        self.rate = max(0.0, capture.get(cv2.CAP_PROP_FPS))
        self.exposes = _chooses_exposure(capture)

    def read(self, stopped: threading.Event) -> Shot | None:
        grabbed = self._capture.grab()
        now = time.monotonic()
        decoded, bgr = self._capture.retrieve() if grabbed else (False, None)
        if not decoded or bgr is None or stopped.is_set():
            return None
        return Shot(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), now)

    def close(self) -> None:
        self._capture.release()


class CameraDevice:
    """A camera of this machine by its number."""

    ends: bool = False
    total: int | None = None
    calibration: Calibration = UNCALIBRATED
    folder: Path | None = None

    def __init__(self, number: int, settings: LiveSettings) -> None:
        self.number = number
        self.name = str(number)
        self._settings = settings

    def open(self) -> Capture:
        linux = sys.platform == "linux"
        if linux and self.number not in (there := camera_numbers()):
            got = ", ".join(map(str, there)) or "none (no /dev/video*)"
            raise ValueError(f"camera {self.number}: no such camera; there are: {got}")
        with _errors_only():
            capture = cv2.VideoCapture(self.number, cv2.CAP_V4L2 if linux else cv2.CAP_ANY)
        if not capture.isOpened():
            capture.release()
            raise ValueError(
                f"camera {self.number}: it is there, but cannot be opened; is another program "
                "using it, and may you read it (group video)?"
            )
        _ask(capture, self._settings)
        return OpenCvCapture(capture)


class UrlDevice:
    """A stream of the network: RTSP, HTTP and whatever else FFmpeg reads."""

    total: int | None = None
    calibration: Calibration = UNCALIBRATED
    folder: Path | None = None

    def __init__(self, url: str) -> None:
        self.name = PASSWORD.sub("://", url)
        self._url = url
        self.ends = False  # known once it is open: a file that is served has a length

    def open(self) -> Capture:
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", SILENT)  # tries are many, reasons one
        waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, PATIENCE]
        with _errors_only():
            capture = cv2.VideoCapture(self._url, cv2.CAP_FFMPEG, waits)
        if not capture.isOpened():
            capture.release()
            raise ValueError(
                f"{self.name}: wanted a video stream, got no answer that is one; "
                "see whether a player shows it"
            )
        self.ends = capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        return PacedCapture(capture) if self.ends else OpenCvCapture(capture)


class PacedCapture(OpenCvCapture):
    """A file that is served over the network, at the pace of its time stamps."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        super().__init__(capture)
        self._start: float | None = None  # time.monotonic() at stamp 0
        self._last = -1.0  # stamp, s

    def read(self, stopped: threading.Event) -> Shot | None:
        shot = super().read(stopped)
        if shot is None:
            return None
        stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if stamp <= self._last:  # some files have none
            stamp = self._last + (1 / self.rate if self.rate else DEFAULT_STEP)
        self._last = stamp
        self._start = shot.captured - stamp if self._start is None else self._start
        due = max(shot.captured, self._start + stamp)
        return None if _wait_until(due, stopped) else Shot(shot.raw, due, stamp)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Keeps OpenCV from warning of a camera that is not there: who opens it says so."""
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)


def camera_numbers() -> list[int]:
    """Numbers of the cameras that Linux lists, also those that only give metadata."""
    names = [path.name.removeprefix("video") for path in Path("/dev").glob("video*")]
    return sorted(int(name) for name in names if name.isdigit())


def _ask(capture: cv2.VideoCapture, settings: LiveSettings) -> None:
    """Size, rate and exposure as wanted; what the camera gives is looked at later."""
    if settings.width is not None and settings.height is not None:
        # uncompressed images of this size may not fit the bus at any useful rate
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, settings.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, settings.height)
    if settings.fps is not None:
        capture.set(cv2.CAP_PROP_FPS, settings.fps)
    if settings.exposure is not None:
        manual = capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL)
        if not manual or not capture.set(cv2.CAP_PROP_EXPOSURE, settings.exposure):
            logger.warning("the camera does not take an exposure of %g", settings.exposure)


def _chooses_exposure(capture: cv2.VideoCapture) -> bool:
    return capture.get(cv2.CAP_PROP_AUTO_EXPOSURE) in AUTOMATIC


# --- files ---------------------------------------------------------------------------------------


class FileDevice:
    """A recording played as a camera: whatever `slam run` reads, or what a live run left behind."""

    def __init__(self, name: str, recording: Recording, loop: bool) -> None:
        self.name = name
        self.recording = recording
        self.ends = True
        self.total = None if loop else len(recording.times) - len(recording.missing)
        self.calibration, self.folder = recording.calibration, recording.folder
        self._loop = loop

    def open(self) -> Capture:
        return FileCapture(self.recording, self._loop)


class FileCapture:
    """Images at the pace of their time stamps, which are their own clock."""

    exposes = False

    def __init__(self, recording: Recording, loop: bool) -> None:
        self.rate = 1 / _median_step(recording)
        self._places = _places(recording, loop)
        self._start: float | None = None  # time.monotonic() at stamp 0

    def read(self, stopped: threading.Event) -> Shot | None:
        for read, place, stamp in self._places:
            try:
                raw = read(place)
            except DamagedImage as damaged:
                logger.warning("%s: damaged or truncated image, skipped", damaged)
                continue
            now = time.monotonic()
            self._start = now - stamp if self._start is None else self._start
            due = self._start + stamp
            return None if _wait_until(due, stopped) else Shot(raw, due, stamp)
        return None

    def close(self) -> None:
        self._places.close()


def _places(
    recording: Recording, loop: bool
) -> Generator[tuple[Callable[[int], np.ndarray], int, float], None, None]:
    """What reads an image, its place, and when it is due on the recording's clock, s."""
    own = recording.times * recording.seconds_per_stamp
    present = np.setdiff1d(np.arange(len(own)), recording.missing)
    step = _median_step(recording)
    for order, sign, offset in _passes(own, present, step if loop else None, recording.format):
        read = recording.frames.reader()
        for place in order.tolist():
            yield read, place, float(sign * own[place] + offset)


def _passes(
    own: np.ndarray, present: np.ndarray, step: float | None, format: str
) -> Iterator[tuple[np.ndarray, int, float]]:
    """Places in the order they are shown, and times = sign * own + offset that go on and on.

    Every second pass goes backwards, but for a video, which begins anew.

    Args: step: s, from a video's last image to its first; None = one pass and no more.
    """
    order, sign, offset = present, 1, 0.0
    yield order, sign, offset
    while step is not None:
        last = sign * float(own[order[-1]]) + offset
        if format == "video" or len(present) == 1:
            offset = last + step - float(own[order[0]])
            yield order, sign, offset
        else:
            order, sign = order[::-1], -sign
            offset = last - sign * float(own[order[0]])
            yield order[1:], sign, offset  # the image where it turns round comes once


def _median_step(recording: Recording) -> float:
    """s between two images."""
    if len(recording.times) < 2:
        return DEFAULT_STEP
    return float(np.median(np.diff(recording.times))) * recording.seconds_per_stamp


def _wait_until(due: float, stopped: threading.Event) -> bool:
    """Waits for a moment of time.monotonic(); whether it was stopped before."""
    return stopped.wait(max(0.0, due - time.monotonic()))
