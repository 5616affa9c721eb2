"""An append-only file of checked records: what was written whole before a crash is read back.

A file is START, then records. A record is a head (mark, kind, length, checksum of these), the
payload (an index in JSON and raw arrays, which cost next to nothing to write) and its checksum.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

if sys.platform != "win32":
    import fcntl

START = b"slam records 1\n\0"
MARK = b"\xf5\x9dRC"
HEAD = struct.Struct("<4s12sQ")  # MARK, kind, bytes of the payload
CHECKSUM = struct.Struct("<I")  # CRC-32
INDEX = struct.Struct("<I")  # bytes of the JSON that begins a payload
SMALLEST = HEAD.size + 2 * CHECKSUM.size + INDEX.size


@dataclass(frozen=True, slots=True)
class Record:
    """One record as read back."""

    kind: str  # at most 12 ASCII letters
    payload: bytes
    end: int  # byte of the file after it

    @property
    def values(self) -> dict[str, np.ndarray]:
        """Arrays by name, each time anew: owned and writable."""
        return _values(self.payload)


class RecordReader:
    """The whole records of a file, in order; a damaged end is left out, and counted.

    Iterate it once; `end` and `dropped` are known then.
    """

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError, and ValueError for a file of another kind or version."""
        self.path = path
        self.end = 0  # bytes up to the end of the last whole record
        self.dropped = 0  # bytes after it
        with path.open("rb") as file:
            start = file.read(len(START))
        if not START.startswith(start):
            raise ValueError(
                f"{path}: wanted a file that begins with {START[:14].decode()!r}, got {start!r}; "
                "it is none of ours, or of another version"
            )

    def __iter__(self) -> Iterator[Record]:
        """Raises ValueError for a damaged record that whole ones follow."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            count, self.end = 0, min(len(START), size)
            file.seek(self.end)
            while (record := _read(file, size)) is not None:
                count, self.end = count + 1, record.end
                yield record
            self.dropped = size - self.end
            if self.dropped and (after := _whole_after(file, self.end + 1, size)) is not None:
                raise ValueError(
                    f"{self.path}: wanted whole records, got a damaged one, number {count + 1}, "
                    f"at byte {self.end} of {size}, and a whole one again at {after}; to go on "
                    f"from before it: truncate -s {self.end} {self.path}"
                )


class RecordWriter:
    """Appends to a file, which it alone may write as long as it is open."""

    def __init__(self, path: Path, end: int = 0) -> None:
        """Args: end: bytes to keep of a file that exists; the rest is cut off. 0 = a new one.

        Raises OSError, and ValueError where another process writes the file.
        """
        self.path = path
        self._file: BinaryIO = path.open("r+b" if end else "ab")
        try:
            _lock(self._file, path)
            self._file.truncate(end)
            self._file.seek(end)
            if end < len(START):
                self._file.truncate(0)
                self._file.seek(0)
                self._file.write(START)
            self.sync()
            _sync_folder(path.parent)
        except BaseException:
            self._file.close()
            raise

    def write(self, kind: str, values: Mapping[str, np.ndarray]) -> int:
        """Appends one record, on the disk only after `sync`; returns its bytes."""
        parts = _payload(values)
        head = HEAD.pack(MARK, kind.encode(), sum(len(p) for p in parts))
        checksum = 0
        for part in parts:
            checksum = zlib.crc32(part, checksum)
        pieces = [head, CHECKSUM.pack(zlib.crc32(head)), *parts, CHECKSUM.pack(checksum)]
        for piece in pieces:
            self._file.write(piece)
        return sum(len(p) for p in pieces)

    def sync(self) -> None:
        """Returns when all that was written is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def _lock(file: BinaryIO, path: Path) -> None:
    """Held until the file is closed or the process ends, however that does."""
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"{path}: wanted to write it, but another process does; wait until it has ended"
        ) from error


def _sync_folder(folder: Path) -> None:
    """A new file's name, too, has to be on the disk."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _payload(values: Mapping[str, np.ndarray]) -> list[bytes | memoryview]:
    arrays = {name: np.asarray(array, order="C") for name, array in values.items()}
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise TypeError(f"wanted arrays of plain numbers, got objects in {', '.join(objects)}")
    index = json.dumps([[n, a.dtype.str, a.shape] for n, a in arrays.items()]).encode()
    data = [a.reshape(-1).view(np.uint8).data for a in arrays.values() if a.size]
    return [INDEX.pack(len(index)) + index, *data]


def _read(file: BinaryIO, size: int) -> Record | None:
    """The record at the file's position; None where there is no whole one."""
    head = file.read(HEAD.size + CHECKSUM.size)
    if len(head) < HEAD.size + CHECKSUM.size:
        return None
    mark, kind, length = HEAD.unpack_from(head)
    if mark != MARK or CHECKSUM.unpack_from(head, HEAD.size)[0] != zlib.crc32(head[: HEAD.size]):
        return None
    if file.tell() + length + CHECKSUM.size > size:
        return None
    payload, checksum = file.read(length), file.read(CHECKSUM.size)
    if CHECKSUM.unpack(checksum)[0] != zlib.crc32(payload):
        return None
    return Record(kind.rstrip(b"\0").decode(), payload, file.tell())


def _values(payload: bytes) -> dict[str, np.ndarray]:
    place = INDEX.size + INDEX.unpack_from(payload)[0]
    values = {}
    for name, kind, shape in json.loads(payload[INDEX.size : place]):
        dtype, count = np.dtype(kind), math.prod(shape)
        values[name] = np.frombuffer(payload, dtype, count, place).reshape(shape).copy()
        place += count * dtype.itemsize
    return values


def _whole_after(file: BinaryIO, start: int, size: int) -> int | None:
    """Byte of the first whole record from `start` on; None = there is none."""
    if size - start < SMALLEST:
        return None
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        place = data.find(MARK, start)
        while place >= 0:
            file.seek(place)
            if _read(file, size) is not None:
                return place
            place = data.find(MARK, place + 1)
    return None
