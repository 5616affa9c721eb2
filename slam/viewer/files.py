"""A window on files: a map, what a run left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slam.config import MapSettings
from slam.viewer.application import application, ctrl_c_closes, failures_end
from slam.viewer.load import load
from slam.viewer.window import Window


def view(path: Path, opened: Callable[[Window], None] | None = None) -> None:
    """Shows a map, a run's folder or a PLY file until the window is closed.

    Args: opened: called with the window when it shows the scene.
    Raises as `load` does, and what the viewer raises.
    """
    loaded = load(path)
    scene = loaded.scene
    app = application()
    with failures_end(app) as failures, ctrl_c_closes():
        window = Window(f"slam: {path}", None, MapSettings().confidence)
        window.show()
        window.show_scene(scene)
        window.status.setText(f"{scene.points} points · {len(scene.keyframes)} keyframes")
        if loaded.recording is not None:
            window.show_recording(loaded.recording, loaded.images)
        if opened is not None:
            opened(window)
        app.exec()
    for failure in failures:
        raise failure
