"""A folder of png or jpg images, in natural order, at 30 images a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slam.sources.base import Recording
from slam.sources.images import ImageFiles, list_images

FRAME_SECONDS = 1 / 30


def matches(path: Path) -> bool:
    return bool(list_images(path))


def read(path: Path) -> Recording:
    files = list_images(path)
    if not files:
        raise FileNotFoundError(f"{path}: wanted png or jpg images, got none")
    return Recording(
        format="folder",
        name=path.name,
        path=path,
        frames=ImageFiles(files),
        times=np.arange(len(files)) * FRAME_SECONDS,
        folder=path,
    )
