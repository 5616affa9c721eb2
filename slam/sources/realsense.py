"""Intel RealSense cameras: the colour stream, with the calibration that the device holds."""

from __future__ import annotations

import importlib
import logging
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from slam.camera import Camera
from slam.live_settings import LiveSettings
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.capture import PATIENCE, Capture, Shot

logger = logging.getLogger(__name__)

NAME = "realsense"  # of a device; with a serial number: realsense:0123456789
SIZE, RATE = (640, 480), 30  # where none is asked for


class RealSenseDevice:
    """One camera by its serial number, or the first that is found."""

    ends: bool = False
    total: int | None = None
    folder: Path | None = None

    def __init__(self, name: str, settings: LiveSettings) -> None:
        """Raises ValueError where pyrealsense2 is not installed."""
        self.name = name
        self.calibration: Calibration = UNCALIBRATED  # known once it is open
        self._serial = name.partition(":")[2]
        self._settings = settings
        self._library = _library()

    def open(self) -> Capture:
        library, settings = self._library, self._settings
        width, height = settings.width or SIZE[0], settings.height or SIZE[1]
        rate = round(settings.fps or RATE)
        pipeline, wanted = library.pipeline(), library.config()
        if self._serial:
            wanted.enable_device(self._serial)
        wanted.enable_stream(library.stream.color, width, height, library.format.rgb8, rate)
        try:
            profile = pipeline.start(wanted)
        except RuntimeError as error:  # all that the library raises
            raise ValueError(
                f"{self.name}: wanted a RealSense camera with a colour stream of {width}x{height} "
                f"at {rate} images/s, got: {' '.join(str(error).split())}; see slam live --list"
            ) from error
        stream = profile.get_stream(library.stream.color).as_video_stream_profile()
        self.calibration = _calibration(library, stream.get_intrinsics())
        exposes = _set_exposure(library, profile.get_device(), settings.exposure)
        return RealSenseCapture(pipeline, float(rate), exposes)


class RealSenseCapture:
    """The running colour stream."""

    def __init__(self, pipeline: Any, rate: float, exposes: bool) -> None:
        self.rate, self.exposes = rate, exposes
        self._pipeline = pipeline

    def read(self, stopped: threading.Event) -> Shot | None:
        try:
            frames = self._pipeline.wait_for_frames(PATIENCE)
        except RuntimeError as error:  # no image within that time, or the camera is gone
            logger.debug("RealSense: %s", error)
            return None
        now, frame = time.monotonic(), frames.get_color_frame()
        if not frame or stopped.is_set():
            return None
        return Shot(np.array(frame.get_data(), np.uint8), now)  # a copy: the buffer is the driver's

    def close(self) -> None:
        try:
            self._pipeline.stop()
        except RuntimeError as error:  # of a camera that was unplugged
            logger.debug("RealSense: %s", error)


def serial_numbers() -> list[tuple[str, str]]:
    """Serial number and name of each camera; empty where pyrealsense2 is not installed."""
    try:
        library = _library()
    except ValueError:
        return []
    info = library.camera_info
    return [
        (device.get_info(info.serial_number), device.get_info(info.name))
        for device in library.context().query_devices()
    ]


def _library() -> ModuleType:
    try:
        return importlib.import_module("pyrealsense2")
    except ImportError as error:
        raise ValueError(
            "a RealSense camera wants pyrealsense2, which is not installed; "
            "pip install -c constraints.txt '.[realsense]'"
        ) from error


def _calibration(library: ModuleType, found: Any) -> Calibration:
    """The device's intrinsics as a calibration. Distortions of other models are left out.

    Brown's model goes by three names there; like Intel's ROS driver, all are taken for OpenCV's.
    """
    coefficients = tuple(float(value) for value in found.coeffs)
    names = library.distortion
    known = found.model in (
        names.brown_conrady,
        names.inverse_brown_conrady,
        names.modified_brown_conrady,
    )
    if any(coefficients) and not known:
        logger.warning("RealSense: distortion of model %s is left out", found.model)
    distorted = known and any(coefficients)
    camera = Camera(
        "radtan" if distorted else "pinhole",
        found.width,
        found.height,
        (found.fx, found.fy, found.ppx, found.ppy),
        coefficients if distorted else (),
    )
    return Calibration(camera, "the camera's own")


def _set_exposure(library: ModuleType, device: Any, exposure: float | None) -> bool:
    """Fixes the exposure where one is given; whether the camera chooses it itself."""
    automatic = library.option.enable_auto_exposure
    sensors = [s for s in device.query_sensors() if s.supports(automatic)]
    if exposure is not None:
        for sensor in sensors:
            sensor.set_option(library.option.exposure, exposure)  # turns the automatic off
    return any(sensor.get_option(automatic) > 0 for sensor in sensors)
