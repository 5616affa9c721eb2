"""The command `slam bench`: arguments only. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from slam.arguments import (
    add_setting_arguments,
    add_source_arguments,
    run_overrides,
    setting_overrides,
)

FAILED = 1  # exit status of a suite in which a run failed
MODES = ("calibrated", "uncalibrated", "realtime")


def add_bench(commands: argparse._SubParsersAction) -> list[argparse.ArgumentParser]:
    """Adds `bench` and the commands below it; returns their parsers."""
    command = commands.add_parser("bench", help="speed, accuracy on data sets, kernel times")
    below = command.add_subparsers(title="benchmarks", metavar="BENCHMARK", required=True)
    return [add(below) for add in (_add_speed, _add_suite, _add_kernels, _add_network)]


# --- commands ------------------------------------------------------------------------------------


def _speed(options: argparse.Namespace) -> int:
    from slam.config import load_config

    config = load_config(options.config, run_overrides(options))
    from slam.bench.speed import measure_speed, solving_everything
    from slam.bench.speed_table import format_speed
    from slam.run import INTERRUPTED

    result = measure_speed(config, passes=options.loops, marks=options.keyframes)
    full = None
    if options.against_full and not result.interrupted:
        full = measure_speed(
            solving_everything(config), passes=options.loops, marks=options.keyframes
        )
    print(format_speed(result, full, options.keyframes))
    beside = {"against_full": None if full is None else full.to_dict()}
    _write_json(options.json, result.to_dict() | beside)
    return INTERRUPTED if result.interrupted or (full and full.interrupted) else 0


def _suite(options: argparse.Namespace) -> int:
    from slam.bench.suite import Suite, run_suite

    suite = Suite(
        folders=tuple(options.folders),
        out=options.out,
        modes=options.mode,
        runs=options.runs,
        workers=options.workers,
        config=options.config,
        overrides=tuple(setting_overrides(options)),
    )
    outcome = run_suite(suite, say=lambda line: print(line, flush=True))
    print(f"written to {options.out / 'suite.md'} and {options.out / 'suite.json'}")
    return FAILED if outcome.failures else 0


def _kernels(options: argparse.Namespace) -> int:
    from slam.bench.kernels import format_kernels, measure_kernels

    result = measure_kernels(options.device, options.threads)
    print(format_kernels(result))
    _write_json(options.json, result.to_dict())
    return 0


def _network(options: argparse.Namespace) -> int:
    from slam.bench.network import Trial, format_network, measure_network

    width, height = options.size
    result = measure_network(
        Trial(
            checkpoint=options.checkpoint,
            width=width,
            height=height,
            device=options.device,
            threads=options.threads,
            repeats=options.repeats,
            pairs=options.pairs,
            compiled=options.compile,
        )
    )
    print(format_network(result))
    _write_json(options.json, result.to_dict())
    return 0


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is None:
        return
    from slam.trajectory import write_atomically

    write_atomically(path, json.dumps(content, indent=1).encode())


# --- arguments -----------------------------------------------------------------------------------


def _add_speed(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "speed",
        help="stage times, latency and memory of one run",
        description="Runs the whole system on a source, writes no map, and prints what it took: "
        "each stage's milliseconds, frames/s, latency, memory of the process and of a keyframe, "
        "the backend's time a keyframe as their number grows, and the keyframes' error.",
    )
    command.set_defaults(command=_speed)
    add_source_arguments(command)
    add_setting_arguments(command)
    add = command.add_argument
    add(
        "--loops",
        metavar="N",
        type=_positive,
        default=1,
        help="passes through the source, every second one backwards, as one long recording",
    )
    add(
        "--keyframes",
        metavar="N,N,...",
        type=_numbers,
        default=(50, 100, 200, 400),
        help="print the backend's time before these numbers of them (default: 50,100,200,400)",
    )
    add(
        "--against-full",
        action="store_true",
        help="run again with every keyframe in the window, and print both errors",
    )
    _add_json(command)
    return command


def _add_suite(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "suite",
        help="runs on whole data sets, beside published numbers",
        description="Runs every sequence found below the folders, each run in its own process, and "
        "writes DIR/suite.md and DIR/suite.json after each. Runs that are finished are kept and "
        "not repeated unless their settings change. Exit status 0; 1 if a run failed.",
    )
    command.set_defaults(command=_suite)
    add = command.add_argument
    add("folders", metavar="DIR", type=Path, nargs="+", help="data sets as downloaded")
    add("--out", metavar="DIR", type=Path, default=Path("runs/suite"), help="(default: runs/suite)")
    add("--runs", metavar="N", type=_positive, default=1, help="of each; medians count (default 1)")
    add("--workers", metavar="N", type=_positive, default=1, help="runs at once (default: 1)")
    add(
        "--mode",
        metavar="M,M,...",
        type=_modes,
        default=MODES[:1],
        help=f"{', '.join(MODES)} (default: {MODES[0]})",
    )
    add_setting_arguments(command)
    return command


def _add_kernels(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "kernels",
        help="native kernels against plain torch",
        description="Times each native kernel at a run's sizes, the same computation in plain "
        "float32 torch, and how far the two agree.",
    )
    command.set_defaults(command=_kernels)
    add = command.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    add("--threads", metavar="N", type=_positive, default=1, help="CPU threads (default: 1)")
    _add_json(command)
    return command


def _add_network(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = commands.add_parser(
        "network",
        help="the pointmap network's time and memory",
        description="Times encoding an image and decoding pairs with the two-view pointmap "
        "network; on a GPU in half precision too, with how far that is from float32.",
    )
    command.set_defaults(command=_network)
    add = command.add_argument
    add(
        "--checkpoint",
        metavar="FILE",
        type=Path,
        help="weights of MASt3R or DUSt3R (default: random ones of MASt3R's size)",
    )
    add(
        "--size",
        metavar="WxH",
        type=_size,
        default=(512, 384),
        help="px, of whole patches (default: 512x384)",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    add("--threads", metavar="N", type=_positive, help="CPU threads (default: torch's)")
    add("--repeats", metavar="N", type=_positive, default=5, help="calls of each (default: 5)")
    add("--pairs", metavar="N", type=_positive, default=1, help="decoded at once (default: 1)")
    add("--compile", action="store_true", help="by torch.compile, which takes a while")
    _add_json(command)
    return command


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", metavar="FILE", type=Path, help="write everything as JSON too")


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"wanted a whole number of at least 1, got '{text}'")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"wanted WIDTHxHEIGHT in px, got '{text}'")
    return int(width), int(height)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part.strip()) for part in text.split(","))


def _modes(text: str) -> tuple[str, ...]:
    modes = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for mode in modes:
        if mode not in MODES:
            raise argparse.ArgumentTypeError(f"wanted {', '.join(MODES)}, got '{mode}'")
    return modes
