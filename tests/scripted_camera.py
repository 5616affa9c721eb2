"""A camera that does what it is told, and what it films."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from sequences import SAMPLE

from slam.frame import Image
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.camera import CameraStream
from slam.sources.capture import Shot

CALIBRATION = SAMPLE / "calibration.yaml"


class Scripted:
    """A camera at the seam: gives an image for each number, fails at "out", is gone at "gone".

    At "more" it waits for `more`, and where the script is through until it is stopped, unless it
    `ends`; `idle` says that it waits.
    """

    total: int | None = None
    calibration: Calibration = UNCALIBRATED
    folder: Path | None = None
    rate, exposes = 0.0, False
    name = "scripted"

    def __init__(self, script: list[int | str], ends: bool = False) -> None:
        self.script = script
        self.ends = ends
        self.idle = threading.Event()
        self.more = threading.Event()
        self.opened = 0

    def open(self) -> Scripted:
        if self.script and self.script[0] == "gone":
            self.script.pop(0)
            raise ValueError("no such camera")
        self.opened += 1
        return self

    def read(self, stopped: threading.Event) -> Shot | None:
        if not self.script and not self.ends:
            self.idle.set()
            stopped.wait()
        if self.script and self.script[0] == "more":
            self.script.pop(0)
            self.idle.set()
            self.more.wait()
        if not self.script or not isinstance(value := self.script.pop(0), int):
            return None
        return Shot(np.full((4, 6, 3), value, np.uint8), time.monotonic())

    def close(self) -> None:
        """Nothing is held."""


def stream_of(device: Scripted) -> CameraStream:
    """Images that count up; their colour is what the script says."""
    count = iter(range(10_000))

    def take_in(raw: np.ndarray, time: float) -> Image:
        return Image(next(count), time, time, torch.from_numpy(raw))

    return CameraStream(device, take_in)


def photographs(count: int) -> list[np.ndarray]:
    """Images of the sample, [480, 640, 3] uint8 RGB."""
    files = sorted((SAMPLE / "rgb").iterdir())[:count]
    return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
