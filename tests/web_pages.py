"""Pages of the web viewer, for its tests; wants viser."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

import pytest
from chromium import Chromium, Page
from viewer_scenes import small_config

from slam.outputs import RunResult
from slam.viewer.web_live import WebLive, run_in_browser
from slam.viewer.web_page import Event, WebPage
from slam.viewer.web_server import Address, Server

PATIENCE = 60.0  # s


class Shown:
    """A page, and the thread that shows things: this one."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.events = SimpleQueue[Event]()
        self.page = WebPage(server, self.events.put, 0.0, live=False)

    def heed_until(self, wanted: Callable[[], bool]) -> None:
        """Deals with events until something holds."""
        end = time.monotonic() + PATIENCE
        while not wanted():
            try:
                self.page.heed(self.events.get(timeout=end - time.monotonic()))
            except Empty:
                pytest.fail("nothing happened")


class Watched:
    """A run with a page that one browser has open; a script is played in the browser's thread."""

    def __init__(self, browser: Chromium, script: Callable[[Page, WebLive], None]) -> None:
        self._browser, self._script = browser, script
        self._addresses = SimpleQueue[str]()
        self._failure: BaseException | None = None
        self.live: WebLive | None = None

    def run(self, source: Path, out: Path) -> RunResult:
        """The run; it waits until the page is open, the page stays until the script is over."""
        thread = threading.Thread(target=self._browse)
        thread.start()
        config, address = small_config(source, out), Address(port=0)
        result = run_in_browser(
            config, lambda _: None, address, self._addresses.put, stay=True, opened=self._hold
        )
        thread.join()
        if self._failure is not None:
            raise self._failure
        return result

    def _hold(self, live: WebLive) -> None:
        self.live = live
        live.watcher.pause(True)

    def _browse(self) -> None:
        url = self._addresses.get(timeout=PATIENCE)
        assert self.live is not None
        try:
            with self._browser.page() as tab:
                tab.open(url)
                tab.text_where(lambda text: "Connected" in text)
                self.live.watcher.pause(False)
                self._script(tab, self.live)
        except BaseException as error:  # raised by `run`
            self._failure = error
        finally:
            self.live.watcher.stop()
            self.live.watcher.interrupt()
