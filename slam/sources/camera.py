"""A camera as a source: its newest image, whatever becomes of its cable, and a recording of all."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slam.frame import Image
from slam.live_settings import LiveSettings
from slam.sources.base import ImageSource
from slam.sources.calibration import choose_calibration
from slam.sources.capture import Capture, Device, FileDevice, Shot
from slam.sources.devices import find_device
from slam.sources.recorded import NAME, Recorder
from slam.sources.stream import Stream

logger = logging.getLogger(__name__)

FIRST_TRIES = 5  # images that a camera may fail to give before it is believed to give none
SHORTEST, LONGEST = 0.25, 2.0  # s between two tries to open a camera that is gone
SAME_RATE = 0.1  # relative difference of rates that is no news


class CameraSource(ImageSource):
    """The images of a camera from now on; how many there will be shows when it ends.

    Args:
        settings: the camera, how it is asked, and what is recorded.
        calibration: "auto" (what the device itself holds), "none", a published calibration's name,
            or a calibration file.
        fov: horizontal field of view assumed without calibration, degrees.
    Raises ValueError, FileNotFoundError or OSError, in one line, where there is no such camera, it
    gives no image, or the calibration is for another size.
    """

    def __init__(
        self, settings: LiveSettings, calibration: str = "auto", fov: float = 60.0
    ) -> None:
        self.device = find_device(settings)
        self.settings = settings
        seen = _look(self.device)
        _compare(self.device.name, settings, seen)
        carried, folder = self.device.calibration, self.device.folder
        chosen = choose_calibration(carried, folder, calibration, seen.size, fov)
        super().__init__(f"live-{_short(self.device)}", seen.size, chosen, fov)
        self.path = self.device.name
        self.format = "camera"
        self._times: list[float] = []  # of the images captured so far
        played = self.device.recording if isinstance(self.device, FileDevice) else None
        if played is not None and played.seconds_per_stamp == 1 and not settings.loop:
            self.ground_truth, self.mirrored = played.ground_truth, played.mirrored

    @property
    def times(self) -> np.ndarray:
        """[N] float64, s, of the images captured so far."""
        return np.array(self._times, np.float64)

    @property
    def seconds(self) -> np.ndarray:
        """The same: a camera's times are in seconds."""
        return self.times

    @property
    def recorded(self) -> np.ndarray:
        """The same: it gave no others."""
        return self.times

    @property
    def indices(self) -> np.ndarray:
        """[N] int64, of the images captured so far."""
        return np.arange(len(self._times))

    @property
    def total(self) -> int | None:
        return self.device.total

    def in_real_time(self, folder: Path) -> CameraStream:
        """The images from now on, recorded in a folder if the settings say so; once."""
        return CameraStream(self.device, self._take_in, lambda: self._recorder(folder))

    def _recorder(self, folder: Path) -> Recorder | None:
        if not self.settings.record:
            return None
        try:
            return Recorder(folder / NAME, self.settings.quality, self.raw_camera)
        except OSError as error:  # the run is worth more than its recording
            reason = error.strerror or str(error)
            logger.warning("%s: %s; nothing is recorded", folder / NAME, reason)
            return None

    def _take_in(self, raw: np.ndarray, time: float) -> Image:
        """The next image; called by the stream's thread alone."""
        index = len(self._times)
        image = self._image(raw, index, time, time, f"{self.device.name} image {index}")
        self._times.append(time)
        return image


@dataclass(frozen=True, slots=True)
class Wait:
    """A time without images."""

    begin: float  # s, on the camera's clock
    end: float


@dataclass
class _Clock:
    """Times of images: the camera's own stamps, or seconds since the stream began."""

    start: float = field(default_factory=time.monotonic)
    last: float = 0.0  # s

    def now(self) -> float:
        """s since the stream began."""
        return time.monotonic() - self.start

    def of(self, shot: Shot) -> float:
        """When an image was taken, s."""
        self.last = shot.captured - self.start if shot.stamp is None else shot.stamp
        return self.last


class CameraStream(Stream):
    """Opens the camera, hands out its newest image, and opens it again when it comes back."""

    def __init__(
        self,
        device: Device,
        take_in: Callable[[np.ndarray, float], Image],
        open_recorder: Callable[[], Recorder | None] = lambda: None,
    ) -> None:
        """Nothing is opened before the first image is wanted.

        Args:
            take_in: makes an image of a raw one [H, W, 3] uint8 RGB and its time, s.
            open_recorder: called once, in the stream's thread, which closes what it gives.
        """
        super().__init__()
        self.waits: list[Wait] = []
        self._device = device
        self._take_in = take_in
        self._open_recorder = open_recorder
        self._recorder: Recorder | None = None

    def facts(self) -> dict[str, Any]:
        recorder = self._recorder
        return {
            "device": self._device.name,
            "captured": len(self.captured),
            "waited": [{"from": wait.begin, "to": wait.end} for wait in self.waits],
            "recording": None if recorder is None else recorder.facts(),
        }

    def _feed(self) -> None:
        clock = _Clock()
        self._recorder = self._open_recorder()
        try:
            with closing(self._shots(clock)) as shots:
                for shot in shots:
                    self._show(shot, clock)
        finally:
            if self._recorder is not None:
                self._recorder.close()

    def _show(self, shot: Shot, clock: _Clock) -> None:
        image = self._take_in(shot.raw, clock.of(shot))
        self._put(image, shot.captured)
        if self._recorder is not None:
            self._recorder.put(image.index, image.time, shot.raw)

    def _shots(self, clock: _Clock) -> Generator[Shot, None, None]:
        """What the camera gives until it ends, or nobody wants more; waits while it is gone."""
        capture, gone, pause = None, None, SHORTEST
        try:
            while not self._stopped.is_set():
                capture = capture or self._opened()
                shot = None if capture is None else capture.read(self._stopped)
                if shot is not None:
                    if gone is not None:
                        self._is_back(gone, clock)
                    gone, pause = None, SHORTEST
                    yield shot
                elif self._device.ends or self._stopped.is_set():
                    return
                else:
                    gone = self._is_gone(clock) if gone is None else gone
                    if capture is not None:
                        capture.close()
                        capture = None
                    self._stopped.wait(pause)
                    pause = min(2 * pause, LONGEST)
        finally:
            if capture is not None:
                capture.close()
            if gone is not None:
                self.waits.append(Wait(gone, clock.now()))

    def _opened(self) -> Capture | None:
        try:
            return self._device.open()
        except (ValueError, OSError) as error:  # unplugged: what is waited for
            logger.debug("%s", error)
            return None

    def _is_gone(self, clock: _Clock) -> float:
        logger.warning("%s: no image comes; waiting for the camera", self._device.name)
        return clock.last

    def _is_back(self, gone: float, clock: _Clock) -> None:
        self.waits.append(Wait(gone, clock.now()))
        logger.warning("%s: back after %.1f s", self._device.name, clock.now() - gone)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a camera gives, as its first image says."""

    size: tuple[int, int]  # (width, height), px
    rate: float  # images/s; 0 = it does not say
    exposes: bool  # it chooses the exposure itself


def _look(device: Device) -> _Seen:
    """Opens a camera for one image. Raises as `Device.open`, and ValueError where none comes."""
    capture, never = device.open(), threading.Event()
    try:
        shots = (capture.read(never) for _ in range(FIRST_TRIES))
        shot = next((shot for shot in shots if shot is not None), None)
    finally:
        capture.close()
    if shot is None:
        raise ValueError(f"{device.name}: wanted images, got none from what could be opened")
    height, width = shot.raw.shape[:2]
    return _Seen((width, height), capture.rate, capture.exposes)


def _compare(name: str, settings: LiveSettings, seen: _Seen) -> None:
    """Says what the camera gives, and warns where that is not what was asked for."""
    rate = f"{seen.rate:g} images/s" if seen.rate else "an unknown rate"
    logger.info("%s: %dx%d px at %s", name, *seen.size, rate)
    asked = settings.width, settings.height
    if None not in asked and asked != seen.size:
        logger.warning("%s: asked for %dx%d px, it gives %dx%d", name, *asked, *seen.size)
    if settings.fps and seen.rate and abs(seen.rate / settings.fps - 1) > SAME_RATE:
        logger.warning("%s: asked for %g images/s, it gives %g", name, settings.fps, seen.rate)
    if seen.exposes:
        logger.warning(
            "%s: the camera chooses its exposure image by image, which makes images of one place "
            "differ and blurs them in the dark; fix it with --exposure VALUE (v4l2-ctl "
            "--list-ctrls shows the range)",
            name,
        )


def _short(device: Device) -> str:
    """A camera's name, fit for a folder's."""
    if isinstance(device, FileDevice):
        return device.recording.name
    return device.name.partition("?")[0].rpartition("@")[2]  # a URL without its password
