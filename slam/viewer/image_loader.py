"""Reads frames' images beside the window's thread; where it is asked faster, the newest wins."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from PySide6.QtCore import QObject, Qt, Signal

from slam.viewer.frame_images import FrameImages, MissingImage


class ImageLoader(QObject):
    """Tells `loaded` (place, [h, w, 3] uint8) or `missing` (place, why) of what was asked last."""

    loaded = Signal(int, object)
    missing = Signal(int, str)
    _done = Signal(int, object)

    def __init__(self, images: FrameImages) -> None:
        super().__init__()
        self._images = images
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="slam-images")
        self._wanted, self._reading = -1, False
        self._done.connect(self._deliver, Qt.ConnectionType.QueuedConnection)

    def ask(self, place: int) -> None:
        """Wants the image of a frame; what was wanted before and is not begun is forgotten."""
        self._wanted = place
        if not self._reading:
            self._read()

    def close(self) -> None:
        """Waits for what is being read, and ends."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._images.close()

    def _read(self) -> None:
        self._reading, place = True, self._wanted
        future: Future[np.ndarray] = self._pool.submit(self._images.read, place)
        future.add_done_callback(lambda done: self._done.emit(place, done))

    def _deliver(self, place: int, done: Future[np.ndarray]) -> None:
        """In the window's thread. Raises whatever else than a missing image reading raised."""
        self._reading = False
        if place != self._wanted:
            self._read()
        try:
            self.loaded.emit(place, done.result())
        except MissingImage as missing:
            self.missing.emit(place, str(missing))
