"""Qt's one application object, started as this viewer needs it."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pyqtgraph
from PySide6.QtWidgets import QApplication

CV2_SETS = ("QT_QPA_PLATFORM_PLUGIN_PATH", "QT_QPA_FONTDIR")


def application() -> QApplication:
    """The application, made at the first call. Ends the process where there is no display."""
    cv2_folder = str(Path(cv2.__file__).parent)
    for name in CV2_SETS:  # OpenCV points Qt to the plug-ins of its own, older copy
        if os.environ.get(name, "").startswith(cv2_folder):
            del os.environ[name]
    return pyqtgraph.mkQApp("slam")
