"""Arguments that several commands share: a source, its settings, and the overrides they become."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any

VIEWERS = ("desktop", "web")


def add_source_arguments(command: argparse.ArgumentParser) -> None:
    """SOURCE, how it is read, and which part of it."""
    add = command.add_argument
    add("source", metavar="SOURCE", help="folder of a data set or of images, or a video file")
    add(
        "--format",
        metavar="F",
        help="tum, euroc, 7scenes, icl, eth3d, kitti, folder or video (default: recognised)",
    )
    add(
        "--calib", metavar="C", help="auto, none, a published one's name, or a file (default: auto)"
    )
    add(
        "--fov",
        metavar="DEG",
        type=float,
        help="horizontal, to start from without calibration (default: 60)",
    )
    add("--start", metavar="I", type=int, help="index of the first image used")
    add("--end", metavar="I", type=int, help="stop before this image")
    add("--stride", metavar="N", type=int, help="use every N-th image")
    add("--realtime", action="store_true", help="at the camera's pace: the newest image wins")


def add_setting_arguments(command: argparse.ArgumentParser) -> None:
    """Settings from a file and single ones."""
    add = command.add_argument
    add("--predictor", metavar="P", help="flow, mast3r or simulated, for tests (default: flow)")
    add("--checkpoint", metavar="FILE", help="weights of MASt3R or DUSt3R, which you bring")
    add("--flow", metavar="F", help="dis, mixed or raft; the last two want weights (default: dis)")
    add("--flow-weights", metavar="FILE", help="weights of RAFT-small, which you bring yourself")
    add("--config", metavar="C", help="a YAML file or the name of a preset")
    add(
        "--set",
        metavar="section.key=value",
        action="append",
        default=[],
        help="one setting, e.g. tracking.huber=2; may be repeated",
    )
    add("--threads", metavar="N", type=int, help="threads of the kernels (default: 2)")
    add(
        "--memory-budget",
        metavar="SIZE",
        type=megabytes,
        help="for the whole process, e.g. 2GB; what the map has beyond it goes to the "
        "disk (default: no limit)",
    )


def add_output_argument(command: argparse.ArgumentParser) -> None:
    """The folder of what a command that reads a source writes."""
    command.add_argument(
        "--out", metavar="DIR", help="folder of the results (default: runs/SOURCE-TIME)"
    )


def add_viewer_arguments(command: argparse.ArgumentParser, help_: str) -> None:
    """Which viewer, and where the one for browsers is served; see `viewer_spelled`."""
    add = command.add_argument
    add(
        "--viewer",
        choices=VIEWERS,
        nargs="?",
        const="desktop",
        help=f"{help_}: in a window (desktop, the default) or in a browser (web)",
    )
    add(
        "--web-port",
        metavar="N",
        type=int,
        help="of the page (default: the first free one from 8080 on)",
    )
    add(
        "--web-host",
        metavar="HOST",
        default="127.0.0.1",
        help="interface of the page (default: 127.0.0.1); others can be reached from elsewhere "
        "and want a token: $SLAM_WEB_TOKEN, or a random one",
    )


def add_run_viewer_arguments(command: argparse.ArgumentParser) -> None:
    """The same of what runs."""
    add_viewer_arguments(command, "watch it")
    command.add_argument(
        "--viewer-stay", action="store_true", help="with --viewer web: show the result until Ctrl-C"
    )


def viewer_spelled(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--viewer` alone spelled out: argparse would take SOURCE for its value.

    A SOURCE that is called desktop or web is to be given as ./web.
    """
    spelled = list(arguments)
    for place, argument in enumerate(spelled):
        alone = place + 1 == len(spelled) or spelled[place + 1] not in VIEWERS
        if argument == "--viewer" and alone:
            spelled[place] = "--viewer=desktop"
    return spelled


def run_overrides(options: argparse.Namespace) -> list[str]:
    """Source and settings as `section.key=value`; --set comes last and wins."""
    source = {
        "live.device": "",  # whatever a file of settings says: here it is a recording
        "source.path": options.source,
        "source.format": options.format,
        "source.calibration": options.calib,
        "source.fov": options.fov,
        "source.start": options.start,
        "source.end": options.end,
        "source.stride": options.stride,
        "run.out": getattr(options, "out", None),
        "run.realtime": "true" if options.realtime else None,
    }
    return given(source) + setting_overrides(options)


def setting_overrides(options: argparse.Namespace) -> list[str]:
    """The same of the settings alone."""
    settings = {
        "predictor": options.predictor,
        "pointmap.checkpoint": options.checkpoint,
        "flow.method": options.flow,
        "flow.weights": options.flow_weights,
        "run.threads": options.threads,
        "run.memory_budget": options.memory_budget,
    }
    return given(settings) + options.set


def megabytes(text: str) -> float:
    """MB of a size with its unit, such as 2GB, 1.5 GB or 800MB."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([MG])B\s*", text, re.IGNORECASE)
    if found is None or not float(found[1]) > 0:
        raise argparse.ArgumentTypeError(f"wanted a size such as 2GB or 800MB, got '{text}'")
    return float(found[1]) * (1000.0 if found[2] in "gG" else 1.0)


def given(settings: dict[str, Any]) -> list[str]:
    """Those that are not None as `section.key=value`."""
    return [f"{name}={value}" for name, value in settings.items() if value is not None]
