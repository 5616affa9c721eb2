"""A source played back at its own pace: the newest frame wins, the rest are counted as dropped."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing

from slam.frame import Image
from slam.sources.stream import Stream


class RealTime(Stream):
    """Plays images at the pace of their time stamps, as a camera would."""

    def __init__(self, images: Generator[Image, None, None]) -> None:
        super().__init__()
        self._images = images

    def _feed(self) -> None:
        start: float | None = None
        with closing(self._images) as images:
            for image in images:
                now = time.monotonic()
                start = now - image.seconds if start is None else start
                if self._stopped.wait(max(0.0, start + image.seconds - now)):
                    break
                self._put(image)
