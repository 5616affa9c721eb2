"""Child processes that end when their parent is told to."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

END_SECONDS = 10  # for a process to end when it is told to


class Processes:
    """The processes under way. Leaving the `with` block, however, leaves none of them running."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_all()

    def run(self, command: Sequence[str], environment: Mapping[str, str], output: Path) -> int:
        """Exit status; negative: the signal that ended it.

        In a session of its own, so that a terminal's Ctrl-C reaches this process alone.
        """
        with output.open("wb") as sink:
            with self._lock:
                if self._ended:
                    return -1
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
            try:
                return process.wait()
            finally:
                with self._lock:
                    self._running.discard(process)

    def end_all(self) -> None:
        """Ends what runs, and lets nothing new start."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
                continue
            process.kill()
