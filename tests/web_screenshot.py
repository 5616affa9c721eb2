"""The web viewer's picture in the README: `python -m tests.web_screenshot RUN FILE.jpg`."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import cv2
import numpy as np

from slam.viewer.web_live import view_in_browser
from slam.viewer.web_server import Address
from tests.chromium import chromium

SIZE = (1200, 750)  # px
QUALITY = 85  # of the JPEG
COLORS = 20_000  # different ones, from which on the map is there


def take(url: str) -> np.ndarray:
    """[H, W, 3] RGB of the page, without the notice that there is no graphics card."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        chromium(Path(folder)) as browser,
        browser.page() as tab,
    ):
        tab.resize(*SIZE)
        tab.open(url)
        tab.text_where(lambda text: "keyframes" in text and "Software WebGL" in text)
        tab.evaluate("document.querySelector('.mantine-Notification-closeButton').click()")
        return tab.picture_where(
            settled(lambda picture: len(np.unique(picture.reshape(-1, 3), axis=0)) > COLORS)
        )


def settled(wanted: Callable[[np.ndarray], bool]) -> Callable[[np.ndarray], bool]:
    """What says whether a picture is the one before it, and as it is wanted: viser fades in."""
    before: list[np.ndarray] = []

    def same(picture: np.ndarray) -> bool:
        still = bool(before) and np.array_equal(before.pop(), picture)
        before.append(picture)
        return still and wanted(picture)

    return same


def main(run: Path, file: Path) -> None:
    """Writes the picture of what a run left behind."""
    urls = SimpleQueue[str]()
    page = threading.Thread(
        target=view_in_browser, args=(run, Address(port=0), urls.put), daemon=True
    )
    page.start()
    picture = take(urls.get())
    cv2.imwrite(str(file), picture[..., ::-1].astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
