"""The viewer in a browser: viser, behind a guard. Only what is asked for imports it."""

from __future__ import annotations

import importlib

PACKAGES = "pip install -c constraints.txt '.[web]'"


def why_not_web() -> str:
    """Why no page can be served here and what to do, in one line; empty where one can."""
    try:
        importlib.import_module("slam.viewer.web_server")
    except ImportError as error:
        return f"wanted viser, got: {' '.join(str(error).split())}; {PACKAGES}"
    return ""
