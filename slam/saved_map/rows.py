"""Arrays that are written piece by piece, so that memory need not hold them whole."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slam.trajectory import written_atomically


@dataclass(frozen=True, slots=True)
class Rows:
    """An array to write whose pieces memory need not hold together."""

    dtype: np.dtype
    shape: tuple[int, ...]
    pieces: Callable[[], Iterable[np.ndarray]]  # one after the other, each time anew

    @property
    def nbytes(self) -> int:
        """Of the whole."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The whole, for who wants it."""
        flat = [np.asarray(piece, self.dtype).reshape(-1) for piece in self.pieces()]
        whole = np.concatenate([np.empty(0, self.dtype), *flat]).reshape(self.shape)
        return whole if dtype is None else whole.astype(dtype)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray | Rows]) -> None:
    """Writes what numpy.savez_compressed would; the file appears complete or not at all."""
    with (
        written_atomically(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(entry, header)
                for piece in array.pieces() if isinstance(array, Rows) else (array,):
                    entry.write(np.ascontiguousarray(piece, array.dtype).tobytes())
