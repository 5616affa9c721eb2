"""What a live run keeps of its camera: JPEG images one after the other, and a table of them.

`recording.mjpeg` is motion JPEG without a container: every player reads it, it has no index that
a killed process leaves behind half written, no largest size, and a disk that is full shows at once
(OpenCV's writer of AVI files says nothing of it, and keeps up to a megabyte back). The table,
`recording.csv`, has a row for each image that was captured: `index,seconds,offset,bytes`, written
after the image is; bytes are 0 where the disk could not keep up. `recording.yaml` is the
calibration that the run had, if any.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, TextIO

import cv2
import numpy as np

from slam.camera import Camera, load_calibration, save_calibration
from slam.sources.base import Recording
from slam.sources.calibration import UNCALIBRATED, Calibration
from slam.sources.images import DamagedImage, decode_rgb

logger = logging.getLogger(__name__)

NAME = "recording.mjpeg"  # in the output folder of a live run
TABLE, CALIBRATION = ".csv", ".yaml"  # suffixes of what lies beside it
HEADER = "# index,seconds,offset,bytes\n"
LONGEST_SIDE = 65_500  # px that libjpeg writes (JPEG_MAX_DIMENSION)
WAITING = 32  # images that may wait to be written


@dataclass(frozen=True, slots=True)
class Captured:
    """One image as the camera gave it."""

    index: int  # counts captured images
    time: float  # s, as Image.time
    raw: np.ndarray | None  # [H, W, 3] uint8 RGB; None: left out of the recording


# --- writing -------------------------------------------------------------------------------------


class Recorder:
    """Writes a recording in a thread of its own, which nobody waits for until the end."""

    def __init__(self, path: Path, quality: int, camera: Camera | None) -> None:
        """Begins a recording in place of what was there. Raises OSError where it cannot.

        Args: quality: of the JPEG images, 1 to 100; camera: of the images; None = not known.
        """
        self.path = path
        self.written = 0  # images
        self.left_out = 0  # images that came while too many waited
        self.failed = ""  # why nothing more is written; empty = all is well
        self._quality = quality
        self._images: BinaryIO = path.open("wb")
        self._table: TextIO = path.with_suffix(TABLE).open("w", encoding="ascii")
        self._table.write(HEADER)
        self._table.flush()
        path.with_suffix(CALIBRATION).unlink(missing_ok=True)
        if camera is not None:
            save_calibration(path.with_suffix(CALIBRATION), camera)
        self._queue: SimpleQueue[Captured | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def put(self, index: int, time: float, raw: np.ndarray) -> None:
        """Takes an image [H, W, 3] uint8 RGB over; never waits. Indices come without gaps."""
        with self._lock:
            full = self._waiting >= WAITING
            self._waiting += not full
            self.left_out += full
        self._queue.put(Captured(index, time, None if full else raw))

    def close(self) -> None:
        """Writes what waits, and ends the thread."""
        self._queue.put(None)
        self._thread.join()
        if self.left_out:
            logger.warning("%s: %d images left out: too slow a disk", self.path, self.left_out)

    def facts(self) -> dict[str, Any]:
        """What a report has of it."""
        return {
            "file": self.path.name,
            "images": self.written,
            "left_out": self.left_out,
            "failed": self.failed,
        }

    def _run(self) -> None:
        try:
            while (captured := self._queue.get()) is not None:
                self._write(captured)
        finally:
            self._close_files()

    def _write(self, captured: Captured) -> None:
        if captured.raw is not None:
            with self._lock:
                self._waiting -= 1
        if self.failed:
            return
        try:
            self._append(captured)
        except Exception as error:  # the run is worth more than its recording
            self.failed = _reason(error)
            logger.warning("%s: %s; the run goes on, recorded up to here", self.path, self.failed)

    def _append(self, captured: Captured) -> None:
        data = b"" if captured.raw is None else _encode(captured.raw, self._quality)
        offset = self._images.tell()
        self._images.write(data)
        self._images.flush()
        self._table.write(f"{captured.index},{captured.time!r},{offset},{len(data)}\n")
        self._table.flush()
        self.written += len(data) > 0

    def _close_files(self) -> None:
        for file in (self._images, self._table):
            try:
                file.close()
            except OSError as error:  # what a full disk did not take is in the buffer still
                self.failed = self.failed or _reason(error)


def _encode(rgb: np.ndarray, quality: int) -> bytes:
    """JPEG of an image [H, W, 3] uint8. Raises ValueError where it cannot be one."""
    height, width = rgb.shape[:2]
    if max(height, width) > LONGEST_SIDE:
        raise ValueError(
            f"wanted images that fit into JPEG, at most {LONGEST_SIDE} px a side, got "
            f"{width}x{height}; ask the camera for smaller ones (--size)"
        )
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ValueError(f"OpenCV could not write an image of {width}x{height} px as JPEG")
    return data.tobytes()


def _reason(error: Exception) -> str:
    """In one line."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or " ".join(str(error).split()) or type(error).__name__


# --- reading -------------------------------------------------------------------------------------


class RecordedFrames:
    """Frames that lie one after the other in a file; any can be read at any time."""

    def __init__(self, path: Path, offsets: np.ndarray, sizes: np.ndarray) -> None:
        self.path = path
        self.offsets = offsets  # [N] int64, bytes
        self.sizes = sizes  # [N] int64, bytes; 0 = not in the file

    def label(self, index: int) -> str:
        return f"{self.path} frame {index}"

    def reader(self) -> Callable[[int], np.ndarray]:
        def read(index: int) -> np.ndarray:
            if self.sizes[index] == 0:
                raise DamagedImage(self.label(index))
            data = np.fromfile(
                self.path, np.uint8, int(self.sizes[index]), offset=int(self.offsets[index])
            )
            return decode_rgb(data.tobytes(), self.label(index))

        return read


def matches(path: Path) -> bool:
    """Whether a file is a recording with its table; without that it is a video like others."""
    return path.suffix == Path(NAME).suffix and path.with_suffix(TABLE).is_file()


def read(path: Path) -> Recording:
    """The recording of a live run, also of one that was killed. Raises ValueError for a bad table.

    Its list of images is that of the camera: those that are not in the file are `missing`.
    """
    rows = _rows(path.with_suffix(TABLE))
    offsets, sizes = rows[:, 2].astype(np.int64), rows[:, 3].astype(np.int64)
    sizes = np.where(offsets + sizes <= path.stat().st_size, sizes, 0)
    return Recording(
        format="recording",
        name=f"{path.resolve().parent.name}-{path.stem}",
        path=path,
        frames=RecordedFrames(path, offsets, sizes),
        times=rows[:, 1],
        missing=np.flatnonzero(sizes == 0),
        calibration=_calibration(path.with_suffix(CALIBRATION)),
    )


def _calibration(path: Path) -> Calibration:
    if not path.is_file():
        return UNCALIBRATED
    return Calibration(load_calibration(path), f"{path.name} beside the recording")


def _rows(path: Path) -> np.ndarray:
    """[N, 4] index, s, offset, bytes; a last line that was not written whole is left out."""
    text = path.read_text(encoding="ascii", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    lines = [line for line in whole.splitlines() if not line.startswith("#")]
    if not lines:
        raise ValueError(f"{path}: wanted rows of a recording, got none: no image was captured")
    try:
        rows = np.loadtxt(io.StringIO("\n".join(lines)), np.float64, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    whole_list = rows.shape[1] == 4 and (rows[:, 0] == np.arange(len(rows))).all()
    if not whole_list or (rows[:, 2:] < 0).any() or not (np.diff(rows[:, 1]) > 0).all():
        raise ValueError(
            f"{path}: wanted index, seconds, offset and bytes of every image in order, got others"
        )
    return rows
