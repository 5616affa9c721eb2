"""Which camera a name stands for, and which cameras there are."""

from __future__ import annotations

import re
from pathlib import Path

from slam.live_settings import LiveSettings
from slam.sources.capture import CameraDevice, Device, FileDevice, UrlDevice, camera_numbers
from slam.sources.realsense import NAME, RealSenseDevice, serial_numbers
from slam.sources.registry import read_recording

NUMBER = re.compile(r"(?:/dev/video)?(\d+)")


def find_device(settings: LiveSettings) -> Device:
    """The camera that the settings name; it is not opened yet.

    Raises ValueError or FileNotFoundError, in one line, where they name none.
    """
    name = settings.device
    if (number := NUMBER.fullmatch(name)) is not None:
        device: Device = CameraDevice(int(number[1]), settings)
    elif name.partition(":")[0] == NAME:
        device = RealSenseDevice(name, settings)
    elif "://" in name:
        device = UrlDevice(name)
    elif Path(name).expanduser().exists():
        device = FileDevice(name, read_recording(name), settings.loop)
    else:
        raise FileNotFoundError(
            f"{name}: no such file; wanted a camera's number (slam live --list), the URL of a "
            f"stream, a video or folder to play as a camera, or {NAME}[:SERIAL]"
        )
    asked = (settings.width, settings.height, settings.fps, settings.exposure)
    if isinstance(device, FileDevice | UrlDevice) and any(value is not None for value in asked):
        raise ValueError(
            f"--size, --fps, --exposure: wanted a camera of this machine to ask, got {device.name}"
        )
    if settings.loop and not isinstance(device, FileDevice):
        raise ValueError(f"--loop: wanted a file to play over and over, got the camera {name}")
    return device


def describe_devices() -> str:
    """The cameras of this machine, a line each."""
    lines = [f"{number}  {_name(number)}" for number in camera_numbers()]
    lines += [f"{NAME}:{serial}  {name}" for serial, name in serial_numbers()]
    return "\n".join(lines) or "no camera found"


def _name(number: int) -> str:
    path = Path(f"/sys/class/video4linux/video{number}/name")
    return path.read_text().strip() if path.is_file() else f"/dev/video{number}"
