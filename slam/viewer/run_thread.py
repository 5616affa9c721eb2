"""A run in a thread of its own, beside a viewer in the main one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from slam.config import Config
from slam.outputs import RunResult
from slam.run import run
from slam.viewer.watcher import Watcher


class RunThread:
    """The run, in a thread; what it returned or raised is handed out after `join`."""

    def __init__(
        self,
        config: Config,
        watcher: Watcher,
        done: Callable[[RunResult], None],
        over: Callable[[], None] = lambda: None,
    ) -> None:
        """Args: done: called with the result, in the thread. over: called last, come what may."""
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        self._work = lambda: run(config, watcher)
        self._done, self._over = done, over
        self._thread = threading.Thread(target=self._run, name="run", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def join(self) -> RunResult:
        """Waits for the end; raises what the run raised."""
        self._thread.join()
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result

    @property
    def ended(self) -> bool:
        """Whether it has returned or raised."""
        return self.result is not None or self.error is not None

    def _run(self) -> None:
        try:
            result = self._work()
            self._done(result)
            self.result = result
        except BaseException as error:  # raised in the main thread by `join`
            self.error = error
        finally:
            self._over()


@contextmanager
def interrupts_to(watcher: Watcher) -> Iterator[None]:
    """Ctrl-C, which only the main thread hears, is passed on to the run."""

    before = signal.signal(signal.SIGINT, lambda *_: watcher.interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt, also where a shell has it ignored, as in the background."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
