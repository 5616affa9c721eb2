"""The command `slam`: arguments only. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slam import __version__
from slam.arguments import (
    add_output_argument,
    add_run_viewer_arguments,
    add_setting_arguments,
    add_source_arguments,
    add_viewer_arguments,
    run_overrides,
    viewer_spelled,
)
from slam.bench.arguments import add_bench
from slam.calibration_arguments import add_calibrate
from slam.live_arguments import add_live
from slam.map_arguments import add_localize, add_map, add_merge, settings_in

if TYPE_CHECKING:
    from slam.config import Config
    from slam.outputs import RunResult

BAD_INPUT = 2  # exit status, as argparse's own
INTERRUPTED = 130  # as a shell reports Ctrl-C
READER_LEFT = 141  # as a shell reports a broken pipe

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: its own, or one of those above."""
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(viewer_spelled(given))
    _start_logging(options.verbose - options.quiet)
    try:
        status = options.command(options)
        sys.stdout.flush()  # a reader that left shows here, not at exit
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_LEFT
    except KeyboardInterrupt:
        print("slam: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        logger.debug("where the error below was raised", exc_info=True)
        print(f"slam: error: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT


# --- commands ------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from slam.config import load_config

    overrides = run_overrides(options)
    if options.map is None:
        config = load_config(options.config, overrides)
    else:
        config = settings_in(options.map, options.config, overrides)
    return _go(config, options)


def _go(config: Config, options: argparse.Namespace) -> int:
    """A run, with a window where one is wanted and possible."""
    from slam.run import run  # after the settings: a mistake in them shows at once

    if options.viewer != "web" and (options.viewer_stay or options.web_port is not None):
        raise ValueError("--viewer-stay and --web-port want --viewer web; add it, or leave them")
    if options.viewer is not None and _can_show(options.viewer):
        return _run_shown(options, config)
    result = run(config)
    print(result.summary())
    return result.exit_code


def _resume(options: argparse.Namespace) -> int:
    from slam.run import resume

    result = resume(options.run)
    print(result.summary())
    return result.exit_code


def _run_shown(options: argparse.Namespace, config: Config) -> int:
    """A run with the viewer that is wanted; each is imported only where it is asked for."""

    def done(result: RunResult) -> None:
        print(result.summary(), flush=True)

    if options.viewer == "desktop":
        from slam.viewer.live import run_with_viewer

        return run_with_viewer(config, done).exit_code
    from slam.viewer.web_live import run_in_browser
    from slam.viewer.web_server import Address

    address = Address(options.web_host, options.web_port)
    return run_in_browser(config, done, address, _say_page, stay=options.viewer_stay).exit_code


def _why_not(viewer: str) -> str:
    """Why a viewer cannot be had; empty where it can."""
    if viewer == "desktop":
        from slam.viewer import why_not

        return why_not()
    from slam.viewer.web import why_not_web

    return why_not_web()


def _can_show(viewer: str) -> bool:
    """Whether there is a viewer; says why not, and that the run goes on without."""
    if reason := _why_not(viewer):
        print(f"slam: no viewer: {reason}; running without it", file=sys.stderr)
    return not reason


def _say_page(url: str) -> None:
    print(f"slam: viewer: {url}", file=sys.stderr, flush=True)


def _view(options: argparse.Namespace) -> int:
    viewer = options.viewer or "desktop"
    if not options.run.exists():
        raise FileNotFoundError(f"{options.run}: wanted a run's folder, a map or a .ply, got none")
    if reason := _why_not(viewer):
        raise ValueError(f"no viewer: {reason}")
    if viewer == "desktop":
        from slam.viewer.files import view  # Qt, only where it is asked for

        view(options.run)
        return 0
    from slam.viewer.web_live import view_in_browser
    from slam.viewer.web_server import Address

    view_in_browser(options.run, Address(options.web_host, options.web_port), _say_page)
    return 0


def _eval(options: argparse.Namespace) -> int:
    from slam.evaluation import evaluate_files, format_table

    settings = {"frames": options.frames, "max_dt": options.max_dt, "format": options.format}
    given = {name: value for name, value in settings.items() if value is not None}
    if options.plot is not None and options.plot.suffix.lower() != ".png":
        raise ValueError(f"--plot: wanted a file name that ends in .png, got {options.plot}")
    result = evaluate_files(options.trajectory, options.ground_truth, **given)
    if options.plot is not None:
        from slam.evaluation.report import plot_evaluation  # matplotlib, only where it is used

        plot_evaluation(options.plot, result, title=str(options.trajectory))
    print(json.dumps(result.to_dict(), indent=2) if options.json else format_table(result))
    return 0


def _eval_depth(options: argparse.Namespace) -> int:
    from slam.config import MapSettings
    from slam.evaluation.keyframe_depth import evaluate_keyframe_depth
    from slam.sources import open_source

    source = open_source(options.source, format=options.format, calibration=options.calib)
    threshold = MapSettings().confidence if options.confidence is None else options.confidence
    result = evaluate_keyframe_depth(options.run, source, threshold)
    if options.plot is not None:
        from slam.evaluation.report import plot_depth_errors  # matplotlib, only where it is used

        plot_depth_errors(options.plot, result, title=source.name)
    print(json.dumps(dataclasses.asdict(result), indent=2) if options.json else result.summary())
    return 0


def _sample(options: argparse.Namespace) -> int:
    from slam.rendering import render_sample

    render_sample(options.out)
    print(f"rendered the sample sequence into {options.out}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    if options.checkpoint is not None:
        from slam.checkpoints import describe_checkpoint

        print(describe_checkpoint(options.checkpoint))
        return 0
    from slam.doctor import format_checks, run_checks

    checks = run_checks()
    print(format_checks(checks))
    return 0 if all(check.ok for check in checks if check.required) else 1


def _download(options: argparse.Namespace) -> int:
    from slam.download import describe, download, find_asset

    asset = find_asset(options.name)
    print(describe(asset))
    if not options.yes and not _agreed("Download it?", "--yes"):
        print("nothing was downloaded")
        return 1
    done = download(asset, options.out)
    known = "as published" if done.verified else "none is published to compare with"
    print(f"{done.path}: {done.size} bytes, sha256 {done.sha256} ({known})")
    return 0


# --- arguments -----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slam", description="Dense monocular SLAM: images in, camera path and 3D map out."
    )
    parser.add_argument("--version", action="version", version=f"slam {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    first = [
        add(commands)
        for add in (
            _add_run,
            _add_resume,
            _add_view,
            _add_eval,
            _add_eval_depth,
        )
    ]
    maps = [add_localize(commands), add_merge(commands), *add_map(commands)]
    last = [add(commands) for add in (add_calibrate, _add_sample, _add_doctor, _add_download)]
    for command in [*first, add_live(commands, _go), *maps, *add_bench(commands), *last]:
        command.add_argument("-v", "--verbose", action="count", default=0, help="say more; -vv all")
        command.add_argument("-q", "--quiet", action="count", default=0, help="errors only")
    return parser


def _add_run(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("run", help="estimate the camera's path and a map from images")
    command.set_defaults(command=_run)
    add_source_arguments(command)
    add_output_argument(command)
    command.add_argument(
        "--map", metavar="MAP", type=Path, help="go on with this map: a map.slam, or a run's folder"
    )
    add_run_viewer_arguments(command)
    add_setting_arguments(command)
    return command


def _add_resume(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("resume", help="go on with a run that was killed")
    command.set_defaults(command=_resume)
    command.add_argument("run", metavar="DIR", type=Path, help="output folder of that `slam run`")
    return command


def _add_view(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("view", help="replay a finished run or a map")
    command.set_defaults(command=_view)
    command.add_argument(
        "run",
        metavar="RUN_OR_MAP",
        type=Path,
        help="output folder of `slam run`, a map.slam, or a .ply file",
    )
    add_viewer_arguments(command, "show it")
    return command


def _add_eval(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("eval", help="errors of a trajectory against ground truth")
    command.set_defaults(command=_eval)
    add = command.add_argument
    add("trajectory", metavar="TRAJECTORY", type=Path, help="file in TUM, EuRoC or KITTI format")
    add("ground_truth", metavar="GROUNDTRUTH", type=Path, help="file in one of these formats")
    add("--frames", metavar="FILE", type=Path, help="rgb.txt or the like: all images, posed or not")
    add("--max-dt", metavar="S", type=float, help="largest difference of paired time stamps, s")
    add("--format", metavar="F", help="tum, euroc or kitti (default: recognised from the files)")
    add("--json", action="store_true", help="print JSON")
    add("--plot", metavar="FILE.png", type=Path, help="draw both paths")
    return command


def _add_eval_depth(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("eval-depth", help="keyframe depths against a depth sensor")
    command.set_defaults(command=_eval_depth)
    add = command.add_argument
    add("run", metavar="RUN", type=Path, help="output folder of `slam run`")
    add("source", metavar="SOURCE", help="the data set that it ran on, with depth maps")
    add("--confidence", metavar="C", type=float, help="least confidence (default: map.ply's)")
    add("--format", metavar="F", default="auto", help="of the source (default: recognised)")
    add("--calib", metavar="C", default="auto", help="as the run was given")
    add("--json", action="store_true", help="print JSON")
    add("--plot", metavar="FILE.png", type=Path, help="draw coverage against error")
    return command


def _add_sample(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("sample", help="the bundled sample sequence")
    command.set_defaults(command=_sample)
    add = command.add_argument
    add("--render", action="store_true", required=True, help="render it anew")
    default = Path("datasets/sample")
    add("--out", metavar="DIR", type=Path, default=default, help=f"(default: {default})")
    return command


def _add_doctor(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("doctor", help="what works on this machine, and what is missing")
    command.set_defaults(command=_doctor)
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        type=Path,
        help="only say what these weights or this codebook are",
    )
    return command


def _add_download(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser("download", help="weights that others publish")
    command.set_defaults(command=_download)
    add = command.add_argument
    add("name", metavar="NAME", help="mast3r, dust3r or dust3r-224")
    add("--out", metavar="DIR", type=Path, default=Path("weights"), help="(default: weights)")
    add("--yes", action="store_true", help="accept the licence without being asked")
    return command


# --- messages ------------------------------------------------------------------------------------


def _start_logging(verbosity: int) -> None:
    """Log to standard error: warnings, with -v progress, with -vv everything, with -q errors."""
    levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
    level = levels.get(max(verbosity, -1), logging.DEBUG)
    logging.basicConfig(level=logging.WARNING, format="slam: %(levelname)s: %(message)s")
    logging.getLogger("slam").setLevel(level)


def _agreed(question: str, otherwise: str) -> bool:
    """Asks on the terminal. Raises ValueError where there is none."""
    if not sys.stdin.isatty():
        raise ValueError(f"wanted an answer to {question!r}, got no terminal; give {otherwise}")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _one_line(error: Exception) -> str:
    """The message of an error; the system's own errors name the file first."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
