"""Image files: complete or damaged, decoded to RGB; a list of them as the frames of a source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg")
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB\x60\x82"
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


class DamagedImage(ValueError):
    """An image that cannot be decoded whole; its text is the image's name."""


class Frames(Protocol):
    """The images of a source, by their index in its full list."""

    def reader(self) -> Callable[[int], np.ndarray]:
        """A function from increasing indices to [H, W, 3] uint8 RGB; raises DamagedImage."""
        ...

    def label(self, index: int) -> str:
        """The image's name in messages."""
        ...


class ImageFiles:
    """Frames that are one file each."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)

    def reader(self) -> Callable[[int], np.ndarray]:
        return lambda index: read_rgb(self.files[index])

    def label(self, index: int) -> str:
        return str(self.files[index])


def read_rgb(path: Path) -> np.ndarray:
    """[H, W, 3] uint8 RGB (grey images in three channels); raises DamagedImage."""
    return cv2.cvtColor(_decode(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def decode_rgb(data: bytes, label: str) -> np.ndarray:
    """The same of what a file holds; raises DamagedImage(label)."""
    return cv2.cvtColor(_decode_bytes(data, label, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_raw(path: Path) -> np.ndarray:
    """The image as stored, [H, W] or [H, W, channels], any type; raises DamagedImage."""
    return _decode(path, cv2.IMREAD_UNCHANGED)


def _decode(path: Path, flags: int) -> np.ndarray:
    return _decode_bytes(path.read_bytes(), str(path), flags)


def _decode_bytes(data: bytes, label: str, flags: int) -> np.ndarray:
    # Decoders fill in what a truncated file lacks; OpenCV 5 also writes a warning of its own.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if _is_complete(data) else None
    if image is None:
        raise DamagedImage(label)
    return image


def _is_complete(data: bytes) -> bool:
    """Whether a PNG has its end chunk and a JPEG an end after its last scan (not a thumbnail's)."""
    if data.startswith(PNG_START):
        return PNG_END in data
    if data.startswith(JPEG_START):
        return data.rfind(JPEG_END) > data.rfind(JPEG_SCAN) > 0
    return len(data) > 0


def first_size(frames: Frames, indices: Iterable[int]) -> tuple[int, int]:
    """(width, height), px, of the first image that can be decoded. Raises ValueError for none."""
    read = frames.reader()
    label = ""
    for index in indices:
        try:
            height, width = read(index).shape[:2]
            return width, height
        except DamagedImage:
            label = label or frames.label(index)
    raise ValueError(f"{label}: damaged, and so is every image after it; nothing to read")


def list_images(folder: Path) -> list[Path]:
    """The png and jpg files of a folder in natural order (2 before 10)."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES)]
    return [folder / name for name in sorted(names, key=natural_key) if not name.startswith(".")]


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorting key by which runs of digits compare as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
