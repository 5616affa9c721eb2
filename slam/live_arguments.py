"""`slam live`: arguments only. Imports happen when the command runs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from slam.arguments import (
    add_output_argument,
    add_run_viewer_arguments,
    add_setting_arguments,
    given,
    setting_overrides,
)
from slam.map_arguments import settings_in

if TYPE_CHECKING:
    from slam.config import Config

FIRST = "0"  # camera that is taken where none is named
SIZE = re.compile(r"(\d+)x(\d+)")

EPILOG = """The newest image wins; what cannot be kept up with is dropped and counted. A camera
that is unplugged is waited for. Ctrl-C, or closing the viewer, ends the run: it is adjusted and
saved like any other. DIR/recording.mjpeg holds what the camera gave: slam run DIR/recording.mjpeg
repeats the run with all images, slam resume DIR goes on with it after a crash."""


def add_live(
    commands: argparse._SubParsersAction, go: Callable[[Config, argparse.Namespace], int]
) -> argparse.ArgumentParser:
    """Adds `live`; returns its parser. Args: go: runs a configuration, returns the exit status."""
    command = commands.add_parser(
        "live", help="the same from a camera, as it happens", epilog=EPILOG
    )
    command.set_defaults(command=lambda options: _live(options, go))
    _add_camera(command)
    add = command.add_argument
    add("--calib", metavar="C", help="auto, none, a published one's name, or a file")
    add("--fov", metavar="DEG", type=float, help="horizontal, to start from without calibration")
    add("--no-record", action="store_true", help="do not keep the camera's images")
    add_output_argument(command)
    add("--map", metavar="MAP", type=Path, help="go on with this map: a map.slam or a run's folder")
    add_run_viewer_arguments(command)
    add_setting_arguments(command)
    return command


def _add_camera(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "camera",
        metavar="CAMERA",
        nargs="?",
        help="its number, the URL of a stream (RTSP, HTTP), a video or a folder to play as a "
        f"camera, or realsense[:SERIAL] (default: {FIRST})",
    )
    add("--device", metavar="CAMERA", help="the same")
    add("--list", action="store_true", help="list the cameras of this machine, and no more")
    add("--size", metavar="WxH", help="of the images, to ask the camera for, e.g. 640x480")
    add("--fps", metavar="F", type=float, help="images a second, to ask the camera for")
    add("--exposure", metavar="V", type=float, help="fix it at this value, in the driver's unit")
    add("--loop", action="store_true", help="play a file over and over")


def _live(options: argparse.Namespace, go: Callable[[Config, argparse.Namespace], int]) -> int:
    if options.list:
        from slam.sources.devices import describe_devices

        print(describe_devices())
        return 0
    overrides = _overrides(options)
    if options.map is not None:
        return go(settings_in(options.map, options.config, overrides), options)
    from slam.config import load_config

    return go(load_config(options.config, overrides), options)


def _overrides(options: argparse.Namespace) -> list[str]:
    """Camera and settings as `section.key=value`; --set comes last and wins."""
    if options.camera is not None and options.device is not None:
        raise ValueError(f"wanted one camera, got {options.camera} and --device {options.device}")
    width, height = _size(options.size)
    camera = {
        "live.device": options.camera or options.device or FIRST,
        "live.width": width,
        "live.height": height,
        "live.fps": options.fps,
        "live.exposure": options.exposure,
        "live.loop": "true" if options.loop else None,
        "live.record": "false" if options.no_record else None,
        "source.calibration": options.calib,
        "source.fov": options.fov,
        "run.out": options.out,
        "run.realtime": "true",
    }
    return given(camera) + setting_overrides(options)


def _size(text: str | None) -> tuple[int | None, int | None]:
    """(width, height), px, of WxH."""
    if text is None:
        return None, None
    found = SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"--size: wanted WIDTHxHEIGHT such as 640x480, got {text!r}")
    return int(found[1]), int(found[2])
