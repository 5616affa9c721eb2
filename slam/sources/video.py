"""Video files: whatever OpenCV reads, with the time stamps of the container."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from slam.sources.base import Recording
from slam.sources.images import DamagedImage

logger = logging.getLogger(__name__)

MOTION_JPEG = (".mjpeg", ".mjpg")  # begin as an image does
DEFAULT_RATE = 30.0  # images/s, for files that name none


class VideoFrames:
    """Frames of a video file. A reader goes through it once, forwards."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def label(self, index: int) -> str:
        return f"{self.path} frame {index}"

    def reader(self) -> Callable[[int], np.ndarray]:
        capture = cv2.VideoCapture(str(self.path))
        position = -1  # of the frame grabbed last

        def read(index: int) -> np.ndarray:
            nonlocal position
            grabbed = position == index
            while position < index:
                grabbed = capture.grab()
                position += 1
            decoded, bgr = capture.retrieve() if grabbed else (False, None)
            if not decoded or bgr is None:
                raise DamagedImage(self.label(index))
            return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

        return read


def read(path: Path, end: int | None = None) -> Recording:
    """Goes through the file once (to frame `end`) for its time stamps: headers give wrong counts.

    Raises ValueError for a file that is no video.
    """
    if cv2.haveImageReader(str(path)) and path.suffix.lower() not in MOTION_JPEG:
        raise ValueError(f"{path}: wanted a video or a folder of images, got one image")
    if _is_text(path):
        raise ValueError(f"{path}: wanted a video or the folder of a recording, got a text file")
    capture = cv2.VideoCapture(str(path))
    stamps = []
    while (end is None or len(stamps) < end) and capture.grab():
        stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    rate = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    if not stamps:
        raise ValueError(f"{path}: wanted a video, got a file in which OpenCV finds no frame")
    return Recording(
        format="video",
        name=path.stem,
        path=path,
        frames=VideoFrames(path),
        times=_times(path, np.array(stamps), rate),
    )


def _times(path: Path, stamps: np.ndarray, rate: float) -> np.ndarray:
    """The stamps, s; where they do not increase, frame number / rate."""
    if np.isfinite(stamps).all() and (np.diff(stamps) > 0).all():
        return stamps
    rate = rate if 0 < rate < 1000 else DEFAULT_RATE
    logger.warning("%s: time stamps do not increase, %g images/s assumed", path, rate)
    return np.arange(len(stamps)) / rate


def _is_text(path: Path) -> bool:
    """Whether a file begins as no video does; OpenCV would show its letters."""
    with path.open("rb") as file:
        begin = file.read(1024)
    return all(byte >= 32 or byte in b"\t\n\r" for byte in begin) and begin.isascii()
