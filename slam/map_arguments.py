"""`slam map`, `localize` and `merge`: arguments only. Imports happen when a command runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slam.arguments import (
    add_output_argument,
    add_setting_arguments,
    add_source_arguments,
    run_overrides,
)
from slam.exports.formats import FORMATS

if TYPE_CHECKING:
    from slam.config import Config


def add_map(commands: argparse._SubParsersAction) -> list[argparse.ArgumentParser]:
    """Adds `map` and the commands below it; returns their parsers."""
    command = commands.add_parser("map", help="what a saved map holds, its checks and exports")
    below = command.add_subparsers(title="commands", metavar="COMMAND", required=True)
    return [add(below) for add in (_add_info, _add_check, _add_export)]


def add_localize(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `localize`; returns its parser."""
    command = commands.add_parser("localize", help="poses of images in a map, which stays as it is")
    command.set_defaults(command=_localize)
    _add_path(command)
    add_source_arguments(command)
    add_output_argument(command)
    add_setting_arguments(command)
    return command


def add_merge(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Adds `merge`; returns its parser."""
    command = commands.add_parser("merge", help="make two maps that share a place one")
    command.set_defaults(command=_merge)
    add = command.add_argument
    add("first", metavar="A", type=Path, help="a map.slam, or the folder of a run; its world stays")
    add("second", metavar="B", type=Path, help="another one")
    add("-o", "--out", metavar="C", type=Path, required=True, help="the map.slam to write")
    return command


def settings_in(map: Path, chosen: str | None, overrides: Sequence[str]) -> Config:
    """Settings of what goes on in a map; see `settings_in_map`."""
    from slam.saved_map import settings_in_map

    return settings_in_map(map, chosen, overrides)


# --- commands ------------------------------------------------------------------------------------


def _localize(options: argparse.Namespace) -> int:
    config = settings_in(options.map, options.config, run_overrides(options))
    from slam.localization import localize

    result = localize(config)
    print(result.summary())
    return result.exit_code


def _merge(options: argparse.Namespace) -> int:
    from slam.merging import merge

    print(merge(options.first, options.second, options.out).summary())
    return 0


def _info(options: argparse.Namespace) -> int:
    from slam.saved_map.description import describe, format_description

    about = describe(options.map)
    print(json.dumps(about, indent=1) if options.json else format_description(about))
    return 0


def _check(options: argparse.Namespace) -> int:
    from slam.saved_map.description import check_map

    print(check_map(options.map))
    return 0


def _export(options: argparse.Namespace) -> int:
    from slam.exports.registry import export_map
    from slam.exports.views import Choices
    from slam.saved_map import load_map

    choices = Choices(options.confidence, options.voxel)
    done = export_map(load_map(options.map), options.format, options.out, choices)
    print(f"{options.out}: {done}")
    return 0


# --- arguments -----------------------------------------------------------------------------------


def _add_info(below: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = below.add_parser("info", help="what a map holds, and how many bytes of it")
    command.set_defaults(command=_info)
    _add_path(command)
    command.add_argument("--json", action="store_true", help="print JSON")
    return command


def _add_check(below: argparse._SubParsersAction) -> argparse.ArgumentParser:
    command = below.add_parser(
        "check", help="verify every checksum: exit status 0, or 2 and what is damaged"
    )
    command.set_defaults(command=_check)
    _add_path(command)
    return command


def _add_export(below: argparse._SubParsersAction) -> argparse.ArgumentParser:
    formats = [f"  {name:12}{one.help} ({one.kind})" for name, one in FORMATS.items()]
    command = below.add_parser(
        "export",
        help="write it as other programs read it",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["formats:", *formats]),
    )
    command.set_defaults(command=_export)
    _add_path(command)
    add = command.add_argument
    add("--format", metavar="F", required=True, choices=list(FORMATS), help="one of those below")
    add("-o", "--out", metavar="OUT", type=Path, required=True, help="file or folder to write")
    add("--confidence", metavar="C", type=float, help="least of a depth (default: map.ply's)")
    add("--voxel", metavar="M", type=float, help="edge of the cells of points or of a mesh")
    return command


def _add_path(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "map", metavar="FILE_OR_RUN", type=Path, help="a map.slam, or the folder of a run"
    )
