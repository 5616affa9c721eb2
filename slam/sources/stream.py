"""Images that come at their own pace, from a thread of their own: the newest wins."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Generator
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from slam.frame import Image

Item = TypeVar("Item")


class Newest(Generic[Item]):
    """A place for one item between two threads: a newer one replaces one that was not taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._item: Item | None = None
        self._wakes: SimpleQueue[None] = SimpleQueue()  # its `put` may interrupt itself
        self._ended = False
        self._left = False
        self.replaced = 0  # items never taken

    def put(self, item: Item) -> None:
        """Makes it the newest; never waits."""
        with self._lock:
            waiting, self._item = self._item is not None, item
            self.replaced += waiting
        if not waiting:
            self._wakes.put(None)

    def end(self) -> None:
        """No more will come; the last one may still be taken."""
        self._ended = True
        self._wakes.put(None)

    def leave(self) -> None:
        """No more will be taken: `take` returns at once. Safe in a signal handler."""
        self._left = True
        self._wakes.put(None)

    def take(self) -> Item | None:
        """The newest item, once there is one; None at the end."""
        while True:
            self._wakes.get()
            if self._left:
                return None
            ended = self._ended  # before the look: nothing is put after the end
            with self._lock:
                item, self._item = self._item, None
            if item is not None or ended:
                return item


class Stream(ABC):
    """Hands out the newest image; what was not taken in time is dropped and counted."""

    def __init__(self) -> None:
        self._newest: Newest[Image] = Newest()
        self._error: BaseException | None = None
        self._stopped = threading.Event()  # nobody takes images any more
        self.captured: dict[int, float] = {}  # index → time.monotonic() at which it was taken

    @property
    def dropped(self) -> int:
        """Images never handed out."""
        return self._newest.replaced

    def __iter__(self) -> Generator[Image, None, None]:
        """The newest image each time, waiting for one where there is none; once.

        Raises what broke the thread that they come from.
        """
        feeder = threading.Thread(target=self._run, name="camera", daemon=True)
        feeder.start()
        try:
            while (image := self._newest.take()) is not None:
                yield image
        finally:
            self._stopped.set()
            feeder.join()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ends the images now, also while one is waited for. Safe in a signal handler."""
        self._newest.leave()

    def facts(self) -> dict[str, Any]:
        """What a report has of the stream besides its drops and latency."""
        return {}

    def _put(self, image: Image, captured: float | None = None) -> None:
        """Called by `_feed`. Args: captured: time.monotonic(); None = now."""
        self.captured[image.index] = time.monotonic() if captured is None else captured
        self._newest.put(image)

    def _run(self) -> None:
        try:
            self._feed()
        except Exception as error:  # raised again where the images are taken
            self._error = error
        finally:
            self._newest.end()

    @abstractmethod
    def _feed(self) -> None:
        """Puts the images, in the stream's thread, until they end or `_stopped` is set."""
