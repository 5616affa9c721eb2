"""`slam calibrate`: arguments only. Imports happen when the command runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SECONDS = 40.0  # that a camera is filmed with


def add_calibrate(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `calibrate`; returns its parser."""
    command = commands.add_parser(
        "calibrate", help="calibrate a camera from images of a checkerboard or a ChArUco board"
    )
    command.set_defaults(command=_calibrate)
    add = command.add_argument
    add("source", metavar="SOURCE", nargs="?", help="folder of images or data set, or a video file")
    add("--device", metavar="CAMERA", help="in place of SOURCE: a camera, as slam live takes it")
    add(
        "--board",
        metavar="B",
        required=True,
        help="checkerboard:9x6, its INNER CORNERS (squares less one) across and down; or "
        "charuco:5x7, its SQUARES across and down",
    )
    add("--square", metavar="MM", type=float, default=30.0, help="side of a square (default: 30)")
    add("--marker", metavar="MM", type=float, help="of a ChArUco marker (default: 3/4 of a square)")
    add(
        "--dictionary",
        metavar="D",
        default="4X4_50",
        help="of ChArUco markers, as OpenCV names it (default: 4X4_50)",
    )
    add(
        "--model",
        metavar="M",
        default="radtan",
        help="radtan, kannala_brandt (fisheye) or pinhole (default: radtan)",
    )
    add(
        "-o",
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("calibration.yaml"),
        help="what --calib reads (default: calibration.yaml); a picture is written beside it",
    )
    add("--every", metavar="N", type=int, help="look at every N-th image (default: 300 in all)")
    add(
        "--seconds",
        metavar="S",
        type=float,
        default=SECONDS,
        help=f"of --device (default: {SECONDS:g})",
    )
    return command


def _calibrate(options: argparse.Namespace) -> int:
    from slam.calibration import calibrate, images_of, images_of_device, parse_board

    if (options.source is None) == (options.device is None):
        got = "neither" if options.source is None else "both"
        raise ValueError(f"calibrate: wanted SOURCE or --device CAMERA, got {got}")
    board = parse_board(options.board, options.square, options.marker, options.dictionary)
    if options.device is None:
        images = images_of(options.source, options.every)
    else:
        images = images_of_device(options.device, options.seconds, options.every)
    done = calibrate(images, board, options.model, options.out)
    print(done.summary())
    for line in done.warnings:
        print(f"slam: warning: {line}", file=sys.stderr)
    return 0
