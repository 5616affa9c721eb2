"""The desktop viewer: pyqtgraph, PyOpenGL and Qt. Only what is asked for imports them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("PYQTGRAPH_QT_LIB", "PySide6")  # both are read when the packages are
os.environ.setdefault("PYOPENGL_ERROR_CHECKING", "0")  # imported; a check costs as much as a call

PACKAGES = "pip install -c constraints.txt '.[viewer]', and the README's apt packages"
PATIENCE = 60.0  # s, for a window system to answer


def why_not() -> str:
    """Why no window can be opened here and what to do, in one line; empty where one can.

    It is tried in a process of its own: Qt ends the process where it finds no display.
    """
    if sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        return "wanted a display, got neither DISPLAY nor WAYLAND_DISPLAY; log in to a desktop"
    probe = [sys.executable, "-m", "slam.viewer.probe"]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            probe,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"wanted a window, the display did not answer within {PATIENCE:.0f} s"
    if done.returncode == 0:
        return ""
    return _reason(done.stderr)


def _reason(errors: str) -> str:
    """What the probe's standard error comes to."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    missing = [line for line in lines if line.startswith(("ModuleNotFoundError", "ImportError"))]
    if missing:
        return f"wanted pyqtgraph, PyOpenGL and PySide6, got {missing[-1]}; {PACKAGES}"
    said = [line for line in lines if line.startswith(("qt.qpa", "RuntimeError"))]
    last = (said or lines or ["no reason given"])[0].removeprefix("RuntimeError: ")
    return f"wanted a window with OpenGL, got: {last}; see `slam doctor` and the README's apt line"
