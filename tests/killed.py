"""Runs that are killed: in a process of their own, which says each keyframe that it makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CHILD = """
import os, sys
from slam.cli import main
from slam.graph import Graph

def adding(graph, keyframe, submap=0, add=Graph.add_keyframe):
    number = add(graph, keyframe, submap)
    os.write(1, b"%d\\n" % number)  # in the pipe, whatever happens to this process
    return number

Graph.add_keyframe = adding
sys.exit(main(sys.argv[1:]))
"""


def run_killed(
    arguments: Sequence[str | Path], keyframes: int, after: float, command: str = "run"
) -> int:
    """Runs a command until it has made so many keyframes, and kills it `after` s later.

    Returns how many it made. It must not have ended by itself.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stdout is not None
    made = 0
    while made < keyframes and process.stdout.readline():
        made += 1
    time.sleep(after)  # any moment will do: that is what is tested
    process.send_signal(signal.SIGKILL)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors.decode()
    return made + len(rest.splitlines())
