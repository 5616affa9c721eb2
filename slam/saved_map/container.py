"""The container of saved maps: named arrays and a directory of them in one checksummed file.

One file, not a folder: it appears complete or not at all, it cannot lose a part on the way to
another machine, and its parts can be mapped into memory just as well. All numbers little-endian:

| byte | type | holds |
| --- | --- | --- |
| 0 | 8 bytes | `SLAM_MAP` |
| 8 | uint32 | version of the contents (`slam/saved_map/format.py` says what each holds) |
| 12 | uint32 | CRC-32 of the directory |
| 16 | uint64 | bytes of the directory |
| 24 | uint64 | bytes of the whole file |
| 32 | uint32 | CRC-32 of bytes 0 to 31 |
| 36 | JSON, UTF-8 | the directory: `about`, an object of single values, and `parts`, a list |

Each of `parts` has `name`, `type` (numpy's, such as `<f2`), `shape`, `offset` (from the file's
start, a multiple of 64), `bytes`, and `crc32` of the part with the zeros that follow it: up to the
next part, or to the file's end. So every byte of the file is covered by one of the checksums.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

from slam.saved_map.rows import Rows
from slam.trajectory import write_pieces_atomically

MAGIC = b"SLAM_MAP"
ALIGNMENT = 64  # bytes: a cache line, and what any array type needs
FRONT = struct.Struct("<8sIIQQ")  # all of the front but its own checksum
FRONT_BYTES = FRONT.size + 4
HELP = "copy it again from where it came, or run `slam run` anew"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds, whatever it means."""

    version: int  # of the contents
    about: Mapping[str, Any]  # single values: anything that JSON can say
    parts: Mapping[str, Any]  # arrays by name, not to be written to; to write also Rows


def write_contents(path: Path | str, contents: Contents) -> None:
    """Writes a file that read_contents reads back exactly; it appears complete or not at all.

    Parts that are `Rows` are made twice: for the checksum, and to be written.
    """
    entries = [
        {
            "name": name,
            "type": part.dtype.newbyteorder("<").str,
            "shape": list(part.shape),
            "bytes": part.nbytes,
            "crc32": _checksum(part),
        }
        for name, part in contents.parts.items()
    ]
    sizes = [p.nbytes + len(_padding(p.nbytes)) for p in contents.parts.values()]
    directory = _directory(contents.about, entries, sizes)
    size = FRONT_BYTES + len(directory) + sum(sizes)
    front = FRONT.pack(MAGIC, contents.version, zlib.crc32(directory), len(directory), size)
    checked = front + struct.pack("<I", zlib.crc32(front))
    blocks = chain.from_iterable(map(_blocks, contents.parts.values()))
    write_pieces_atomically(Path(path), chain((checked, directory), blocks))


def read_contents(path: Path | str) -> Contents:
    """The contents of a file, every checksum verified; arrays are mapped from it, not copied.

    Raises FileNotFoundError, and ValueError that names what is damaged and says what to do.
    """
    contents, damaged = inspect(path)
    if damaged:
        raise ValueError(f"{path}: damaged: part {', '.join(damaged)}; {HELP}")
    return contents


def inspect(path: Path | str) -> tuple[Contents, list[str]]:
    """The contents of a file, and the names of the parts whose checksums are wrong.

    Damaged parts are left out of the contents. Raises FileNotFoundError, and ValueError for a file
    of another kind, one that is cut off, and one whose front or directory is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such map; wanted a map.slam as `slam run` writes it")
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    version, directory_end = _read_front(path, content)
    directory = json.loads(bytes(content[FRONT_BYTES:directory_end]))
    entries, parts, damaged = directory["parts"], {}, []
    ends = [*(entry["offset"] for entry in entries), len(content)][1:]
    for entry, end in zip(entries, ends, strict=True):
        name, start = entry["name"], entry["offset"]
        if zlib.crc32(content[start:end].data) != entry["crc32"]:
            damaged.append(name)
        else:
            block = content[start : start + entry["bytes"]]
            parts[name] = np.asarray(block).view(entry["type"]).reshape(entry["shape"])
    return Contents(version, directory["about"], parts), damaged


def _read_front(path: Path, content: np.ndarray) -> tuple[int, int]:
    """Version of the contents and the byte where the directory ends, both of them verified."""
    front = bytes(content[:FRONT_BYTES])
    if front[: len(MAGIC)] != MAGIC:
        raise ValueError(
            f"{path}: wanted a saved map (it begins with {MAGIC.decode()}), got another kind of "
            "file; name the map.slam of a run"
        )
    checked = front[: FRONT.size]
    if len(front) < FRONT_BYTES or zlib.crc32(checked) != int.from_bytes(front[-4:], "little"):
        raise ValueError(f"{path}: damaged: the front (its first {FRONT_BYTES} bytes); {HELP}")
    _, version, crc32, directory_bytes, size = FRONT.unpack(checked)
    if len(content) != size:
        raise ValueError(f"{path}: wanted {size} bytes, got {len(content)}: cut off; {HELP}")
    end = FRONT_BYTES + directory_bytes
    if zlib.crc32(content[FRONT_BYTES:end].data) != crc32:
        raise ValueError(f"{path}: damaged: the directory of its parts; {HELP}")
    return version, end


def _directory(about: Mapping[str, Any], entries: list[dict[str, Any]], sizes: list[int]) -> bytes:
    """JSON of a length that its own offsets take into account: parts start where it ends."""
    start = 0
    while True:
        offsets = accumulate(sizes, initial=start)
        placed = [{**entry, "offset": at} for entry, at in zip(entries, offsets, strict=False)]
        text = json.dumps({"about": dict(about), "parts": placed}, allow_nan=False).encode()
        end = FRONT_BYTES + len(text)
        if end <= start:
            return text + b" " * (start - end)
        start = end + len(_padding(end))


def _blocks(part: np.ndarray | Rows) -> Iterator[bytes | memoryview]:
    """A part's bytes, little-endian, and the zeros after them."""
    for piece in part.pieces() if isinstance(part, Rows) else (part,):
        yield _little_endian(np.asarray(piece, part.dtype)).reshape(-1).view(np.uint8).data
    yield _padding(part.nbytes)


def _checksum(part: np.ndarray | Rows) -> int:
    return reduce(lambda sum, block: zlib.crc32(block, sum), _blocks(part), 0)


def _padding(count: int) -> bytes:
    """Zeros after so many bytes."""
    return bytes(-count % ALIGNMENT)


def _little_endian(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
