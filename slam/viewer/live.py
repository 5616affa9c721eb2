"""A run with its window: the run in a thread of its own, Qt in the main one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from slam.config import Config
from slam.edges import step_aside
from slam.outputs import RunResult
from slam.viewer.application import application, failures_end
from slam.viewer.load import load
from slam.viewer.pictures import flow_picture
from slam.viewer.run_thread import RunThread, interrupts_to
from slam.viewer.scene import SceneBuilder
from slam.viewer.watcher import LiveState, Watcher
from slam.viewer.window import Window
from slam.viewer.words import Pace, focal_words, map_words, state_words

log = logging.getLogger(__name__)

SHORTEST = 0.033  # s between two looks at the run
LOAD = 4.0  # times what a look costs that it then waits
SNAPSHOT = 0.25  # s between two snapshots of the map, at least
ASIDE = 5  # niceness: a run that uses all cores leaves the window a quarter of one


class Live:
    """Looks at a run at its own rate, and shows what it sees."""

    def __init__(self, window: Window, watcher: Watcher, thread: RunThread) -> None:
        self.window, self.watcher, self.thread = window, watcher, thread
        self._builder: SceneBuilder | None = None
        self._shown: LiveState | None = None
        self._pace = Pace()
        self._next_snapshot = 0.0
        self.finished = False  # the run's result is shown
        self.timer = QTimer(window)
        self.timer.setSingleShot(True)
        self.timer.timeout.connect(self.look)
        self.timer.start(0)

    def look(self) -> None:
        """Shows what is new. What it cost, and the picture it led to, decide when it looks next."""
        start = time.monotonic()
        interrupted = self.watcher.interrupted
        if self.thread.error is not None or (self.thread.ended and interrupted):
            QApplication.exit(0)
            return
        if self.thread.result is not None and not self.finished:
            self._finish(self.thread.result)
        elif not self.finished:
            self._follow_run(start)
        cost = time.monotonic() - start + self.window.view.paint_seconds
        self.timer.start(round(1000 * max(SHORTEST, LOAD * cost)))

    def _follow_run(self, now: float) -> None:
        if self.watcher.interrupted:
            self.watcher.release()
        if complaints := self.watcher.take_complaints():
            self.window.notice("; ".join(filter(None, complaints)) or "saved")
        state, running = self.watcher.latest, self.watcher.running
        if state is None or running is None:
            self.window.status.setText("starting")
            return
        if now >= self._next_snapshot:
            self._show_map(now)
        if state is not self._shown:
            self._show_state(state, now)
        elif self.watcher.is_adjusting:
            self.window.status.setText("final adjustment · " + map_words(self.window.scene))
        self.window.chase()

    def _show_map(self, now: float) -> None:
        running = self.watcher.running
        assert running is not None
        if self._builder is None:
            self._builder = SceneBuilder(running.slam.predictor.grid)
        self.window.show_scene(self._builder.build(running.slam.graph.snapshot()))
        self._next_snapshot = now + max(SNAPSHOT, LOAD * (time.monotonic() - now))

    def _show_state(self, state: LiveState, now: float) -> None:
        self._shown = state
        self._pace.note(now, state.frames)
        window, record = self.window, state.step.record
        keyframes = () if window.scene is None else window.scene.keyframes
        known = 0 <= record.keyframe < len(keyframes)
        keyframe = keyframes[record.keyframe] if known else None
        window.show_pictures(keyframe, state.image.rgb.numpy())
        if state.measurement is not None and self._builder is not None:
            picture = flow_picture(self._builder.grid, state.measurement)
            window.panes.pictures["flow"].show_rgb(picture)
        if state.step.T_WC is not None:
            window.show_camera(state.step.T_WC.numpy())
        window.status.setText(self._words(state))

    def _words(self, state: LiveState) -> str:
        running = self.watcher.running
        total = None if running is None else running.source.total
        paused = self.window.actions_of["pause"].isChecked()
        words = state_words(state, total, self._pace.rate, paused=paused)
        return " · ".join([*words, map_words(self.window.scene), focal_words(state)])

    def _finish(self, result: RunResult) -> None:
        """Shows the final, dense map, which can be replayed."""
        self.finished = True
        self.window.end_run()
        loaded = load(result.folder)
        self.window.show_scene(loaded.scene)
        if loaded.recording is not None:
            self.window.show_recording(loaded.recording, loaded.images)
        self.window.status.setText(
            f"done, written to {result.folder} · {map_words(self.window.scene)}"
        )


def run_with_viewer(
    config: Config,
    done: Callable[[RunResult], None],
    opened: Callable[[Live], None] | None = None,
    *,
    aside: bool = True,
) -> RunResult:
    """Runs as `slam.run.run` does, with a window that shows it; returns when both are closed.

    Closing the window ends the loop: all is adjusted and saved. Where the viewer fails, one line
    says so and the run goes on without it. Ctrl-C acts as it does without a viewer.

    Args:
        done: called with the result when there is one, in the run's thread.
        opened: called with what runs the window when it is open.
        aside: other threads of the process go first.
    Raises what the run raises.
    """
    watcher = Watcher()
    thread = RunThread(config, watcher, done)
    thread.start()
    if aside:
        step_aside(ASIDE)
    with interrupts_to(watcher):
        failure = _show(config, watcher, thread, opened)
        if failure is not None:
            log.warning(
                "the viewer failed (%s: %s); the run goes on without it",
                type(failure).__name__,
                " ".join(str(failure).split()),
            )
            log.debug("where it failed", exc_info=failure)
            watcher.release()
        return thread.join()


def _show(
    config: Config,
    watcher: Watcher,
    thread: RunThread,
    opened: Callable[[Live], None] | None,
) -> Exception | None:
    """The window until it is closed; returns what made the viewer fail."""
    try:
        app = application()
        with failures_end(app) as failures:
            window = Window("slam", watcher, config.map.confidence)
            window.closed.connect(watcher.stop)
            live = Live(window, watcher, thread)
            window.show()
            if opened is not None:
                opened(live)
            app.exec()
            window.closed.disconnect()
            window.close()
    except Exception as error:  # the run does not depend on it
        return error
    for error in failures:
        if not isinstance(error, Exception):
            raise error
    return failures[0] if failures else None  # pyright: ignore[reportReturnType]
