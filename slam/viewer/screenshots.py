"""Pictures for the README: `python -m slam.viewer.screenshots SOURCE FOLDER`, under a display."""

from __future__ import annotations

import sys
from pathlib import Path

from PySide6.QtCore import QTimer

from slam.config import load_config
from slam.viewer.live import Live, run_with_viewer

WHEN = 0.6  # of the run, at which it is taken as it goes
BUDGET = 2_000_000  # points: a picture may take its time
EVERY = 50  # ms between two looks at how far the run is


class Photographer:
    """Takes one picture while a run goes and one of its end, then closes the window."""

    def __init__(self, live: Live, folder: Path) -> None:
        self.live, self.folder = live, folder
        self._taken = False
        self._looks_at_end = 0
        self._timer = QTimer(live.window)
        self._timer.timeout.connect(self._look)
        self._timer.start(EVERY)

    def _look(self) -> None:
        live, state, running = self.live, self.live.watcher.latest, self.live.watcher.running
        if state is None or running is None:
            return
        if not self._taken and state.frames >= WHEN * len(running.source):
            self._taken = True
            self._take("sample_viewer_live.jpg")
        self._looks_at_end += live.finished
        if self._looks_at_end > 1:  # what has changed has its place by then
            self._timer.stop()
            self._take("sample_viewer.jpg")
            live.window.close()

    def _take(self, name: str) -> None:
        view = self.live.window.view
        budget, view.budget = view.budget, BUDGET
        self.live.window.do_screenshot(self.folder / name)
        view.budget = budget


def main(source: str, folder: Path) -> None:
    """Runs a source with its window, and writes the pictures into a folder."""
    made: list[Photographer] = []
    run_with_viewer(
        load_config(None, [f"source.path={source}"]),
        lambda result: print(result.summary()),
        lambda live: made.append(Photographer(live, folder)),
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
