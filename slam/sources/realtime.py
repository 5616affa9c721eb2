"""A source played back at its own pace: the newest frame wins, the rest are counted as dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing

from slam.frame import Image


class RealTime:
    """Plays images at the pace of their time stamps, as a camera would.

    A feeder thread puts each image into a one-place mailbox when it is due; an image that was not
    taken in time is replaced by the next one.
    """

    def __init__(self, images: Generator[Image, None, None]) -> None:
        self._images = images
        self._mail = threading.Condition()
        self._newest: Image | None = None
        self._ended = False
        self._closed = threading.Event()
        self._error: BaseException | None = None
        self.dropped = 0  # images never handed out
        self.captured: dict[int, float] = {}  # index → time.monotonic() at which it was due

    def __iter__(self) -> Generator[Image, None, None]:
        """Hands out the newest image, waiting for one where there is none."""
        feeder = threading.Thread(target=self._feed, name="camera", daemon=True)
        feeder.start()
        try:
            while (image := self._take()) is not None:
                yield image
        finally:
            self._closed.set()
            feeder.join()
        if self._error is not None:
            raise self._error

    def _take(self) -> Image | None:
        with self._mail:
            self._mail.wait_for(lambda: self._newest is not None or self._ended)
            image, self._newest = self._newest, None
            return image

    def _feed(self) -> None:
        try:
            start: float | None = None
            with closing(self._images) as images:
                for image in images:
                    now = time.monotonic()
                    start = now - image.seconds if start is None else start
                    if self._closed.wait(max(0.0, start + image.seconds - now)):
                        break
                    self._put(image)
        except Exception as error:  # raised again where the images are taken
            self._error = error
        finally:
            with self._mail:
                self._ended = True
                self._mail.notify()

    def _put(self, image: Image) -> None:
        with self._mail:
            self.captured[image.index] = time.monotonic()
            self.dropped += self._newest is not None
            self._newest = image
            self._mail.notify()
