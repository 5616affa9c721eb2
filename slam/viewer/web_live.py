"""A run, or what one left behind, in browsers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from slam.config import Config, MapSettings
from slam.edges import step_aside
from slam.frame import Image, Step
from slam.outputs import RunResult
from slam.viewer.load import load_scene
from slam.viewer.run_thread import RunThread, interrupts_raise, interrupts_to
from slam.viewer.scene import SceneBuilder
from slam.viewer.watcher import LiveState, Watcher
from slam.viewer.web_page import Event, WebPage
from slam.viewer.web_server import Address, Door, Server, open_door, serving
from slam.viewer.words import Pace, focal_words, map_words, state_words

log = logging.getLogger(__name__)

SHORTEST = 0.1  # s between two looks at the run: images are sent that often at most
LOAD = 4.0  # times what a look costs that it then waits
SNAPSHOT = 0.25  # s between two snapshots of the map, at least
ASIDE = 5  # niceness, as that of the desktop viewer
Events = SimpleQueue[Event]


class Messenger(Watcher):
    """A watcher that also says when something is new."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events  # whose `put` may be called in a signal handler

    def interrupt(self) -> None:
        super().interrupt()
        self._events.put(Event("interrupted"))

    def posed(self, image: Image, step: Step, latency: float, dropped: int) -> None:
        super().posed(image, step, latency, dropped)
        self._events.put(Event("news"))

    def saved(self, complaint: str) -> None:
        super().saved(complaint)
        self._events.put(Event("news"))

    def adjusting(self) -> None:
        super().adjusting()
        self._events.put(Event("news"))


class WebLive:
    """Looks at a run at its own rate, where somebody watches, and shows what it sees."""

    def __init__(
        self, server: Server, events: Events, watcher: Watcher, thread: RunThread, config: Config
    ) -> None:
        self.page = WebPage(server, events.put, config.map.confidence, live=True)
        self.watcher, self.thread, self._events = watcher, thread, events
        self._builder: SceneBuilder | None = None
        self._shown: LiveState | None = None
        self._pace = Pace()
        self._next_snapshot = 0.0
        self._paused = False
        self._stays = False

    def follow(self, *, stay: bool) -> None:
        """Until the run is over; with `stay` until Ctrl-C after it, or what made it fail."""
        due, news, self._stays = 0.0, False, stay
        while not self.thread.ended or (stay and not self._dismissed):
            try:
                wait = max(0.0, due - time.monotonic()) if news else None
                self._heed(self._events.get(timeout=wait))
                news = True
            except Empty:
                start = time.monotonic()
                self._look(start)
                news, due = False, _due(start, SHORTEST)

    @property
    def _dismissed(self) -> bool:
        """Whether nobody is to look at the result."""
        return self.thread.error is not None or self.watcher.interrupted

    def _heed(self, event: Event) -> None:
        if event.name == "interrupted":
            self.watcher.release()
        elif event.name == "pause":
            self._pause(not self._paused)
        elif event.name in ("step", "save", "stop"):
            getattr(self.watcher, event.name)()
        elif event.name == "over" and self.thread.result is not None:
            self._finish(self.thread.result)
        else:
            self.page.heed(event)

    def _pause(self, on: bool) -> None:
        self._paused = on
        self.watcher.pause(on)
        self.page.panel.show_paused(on)

    def _look(self, now: float) -> None:
        """Shows what is new; nothing where nobody watches."""
        state, running = self.watcher.latest, self.watcher.running
        if self.thread.ended or state is None or running is None or not self.page.watched:
            return
        if complaints := self.watcher.take_complaints():
            self.page.notice("; ".join(filter(None, complaints)) or "saved")
        if now >= self._next_snapshot:
            if self._builder is None:
                self._builder = SceneBuilder(running.slam.predictor.grid)
            self.page.show(self._builder.build(running.slam.graph.snapshot()))
            self._next_snapshot = _due(now, SNAPSHOT)
        if state is not self._shown:
            self._shown = state
            self._pace.note(now, state.frames)
            T_WC = state.step.T_WC
            self.page.show_camera(None if T_WC is None else T_WC.numpy(), state.image.rgb.numpy())
        self.page.panel.say(self._words(state, running.source.total))

    def _words(self, state: LiveState, total: int | None) -> str:
        known = map_words(self.page.scene)
        if self.watcher.is_adjusting:
            return f"final adjustment · {known}"
        words = state_words(state, total, self._pace.rate, paused=self._paused)
        return " · ".join([*words, known, focal_words(state)])

    def _finish(self, result: RunResult) -> None:
        """Shows the final, dense map, where there is time for it."""
        self.page.panel.end_run()
        if self._stays:
            self._show_saved(result.folder)
        self.page.panel.say(f"done, written to {result.folder} · {map_words(self.page.scene)}")

    def _show_saved(self, folder: Path) -> None:
        """The last scene stays where what was saved cannot be read, which everybody is told."""
        try:
            self.page.show(load_scene(folder))
        except (ValueError, OSError) as error:
            why = f"the final map cannot be shown: {' '.join(str(error).split())}"
            log.warning("%s", why)
            self.page.notice(why)


def run_in_browser(
    config: Config,
    done: Callable[[RunResult], None],
    address: Address,
    announce: Callable[[str], None],
    *,
    stay: bool = False,
    opened: Callable[[WebLive], None] = lambda _: None,
) -> RunResult:
    """Runs as `slam.run.run` does, with a page that shows it; browsers come and go as they like.

    Where the viewer fails, one line says so and the run goes on without it. Ctrl-C acts as it does
    without a viewer.

    Args:
        done: called with the result when there is one, in the run's thread.
        announce: called with the page's address.
        stay: the page stays after the run, until Ctrl-C.
        opened: called with what shows the run, before the address is known.
    Raises ValueError where the address cannot be used, and what the run raises.
    """
    door, events = open_door(address), SimpleQueue[Event]()
    watcher = Messenger(events)
    thread = RunThread(config, watcher, done, lambda: events.put(Event("over")))
    thread.start()
    step_aside(ASIDE)  # the server's thread, too, which begins after this
    with interrupts_to(watcher):
        failure = _show(door, (events, watcher, thread, config), announce, opened, stay=stay)
        if failure is not None:
            said = " ".join(str(failure).split())
            kind = type(failure).__name__
            log.warning("the viewer failed (%s: %s); the run goes on without it", kind, said)
            log.debug("where it failed", exc_info=failure)
            watcher.release()
        return thread.join()


def _show(
    door: Door,
    parts: tuple[Events, Watcher, RunThread, Config],
    announce: Callable[[str], None],
    opened: Callable[[WebLive], None],
    *,
    stay: bool,
) -> Exception | None:
    """The page until the run is over; returns what made it fail."""
    try:
        with serving(door) as server:
            live = WebLive(server, *parts)
            opened(live)
            announce(door.url)
            live.follow(stay=stay)
    except Exception as error:  # the run does not depend on it
        return error
    return None


def view_in_browser(
    path: Path,
    address: Address,
    announce: Callable[[str], None],
    opened: Callable[[WebPage], Any] = lambda _: None,
) -> None:
    """Shows a run's folder or a PLY file until Ctrl-C.

    Args: opened: called with the page when it shows the scene.
    Raises as load_scene does, and ValueError where the address cannot be used.
    """
    scene, events, door = load_scene(path), SimpleQueue[Event](), open_door(address)
    with serving(door) as server, interrupts_raise():
        page = WebPage(server, events.put, MapSettings().confidence, live=False)
        page.show(scene)
        page.panel.say(f"{scene.points} points · {len(scene.keyframes)} keyframes")
        opened(page)
        announce(door.url)
        while True:
            page.heed(events.get())


def _due(start: float, least: float) -> float:
    """When something that was begun at a time, s, is to be done again."""
    return time.monotonic() + max(least, LOAD * (time.monotonic() - start))
