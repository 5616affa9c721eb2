"""Qt's one application object, started as this viewer needs it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import cv2
import pyqtgraph
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

CV2_SETS = ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR")

HEARING = 100  # ms between two moments at which Ctrl-C is heard


def application() -> QApplication:
    """The application, made at the first call. Ends the process where there is no display."""
    cv2_folder = str(Path(cv2.__file__).parent)
    for name in CV2_SETS:  # OpenCV points Qt to the plug-ins of its own, older copy
        if os.environ.get(name, "").startswith(cv2_folder):
            del os.environ[name]
    return pyqtgraph.mkQApp("slam")


@contextmanager
def failures_end(app: QApplication) -> Iterator[list[BaseException]]:
    """Collects what is raised in Qt's calls into Python, where Qt would print it; the loop ends."""
    failures: list[BaseException] = []

    def hook(_: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        failures.append(error.with_traceback(where))
        app.exit(1)

    before, sys.excepthook = sys.excepthook, hook
    try:
        yield failures
    finally:
        sys.excepthook = before


@contextmanager
def ctrl_c_closes() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt out of the loop: Python hears it when a timer calls it."""
    timer = QTimer()
    timer.timeout.connect(lambda: None)
    timer.start(HEARING)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        timer.stop()
        signal.signal(signal.SIGINT, before)
