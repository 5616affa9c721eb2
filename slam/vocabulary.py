"""Visual words: cells of the descriptor space, learnt from descriptors or read from a file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slam.descriptor_space import Real, Space

ROUNDS = 5  # of k-means: enough for cells, which need not be optimal
PROBES = 4  # coarse cells whose words are compared with a descriptor
BLOCK = 1 << 20  # distances that are held at once


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Centres of the words, grouped in coarse cells so that few have to be compared.

    A descriptor is compared with the words of the PROBES nearest cells alone. With one cell the
    search is exhaustive. Points and centres are as the space has them.
    """

    space: Space
    cells: np.ndarray  # [C, ...] centres
    words: np.ndarray  # [K, ...] centres, those of a cell one after the other
    first: np.ndarray  # [C + 1] int64: cell c has the words first[c] to first[c + 1]

    @classmethod
    def learn(cls, space: Space, points: np.ndarray, words: int) -> Vocabulary:
        """Two levels of k-means, started from evenly spaced points: no chance is involved.

        Args:
            points: [N, ...], N >= 1.
            words: wanted; there are fewer where points coincide.
        """
        cells = k_means(space, points, max(1, round(words**0.5)))
        cell = _nearest(space, points, cells, 1)[0][:, 0]
        used, cell = np.unique(cell, return_inverse=True)
        members = [points[cell == c] for c in range(len(used))]
        shares = [max(1, round(words * len(member) / len(points))) for member in members]
        parts = [k_means(space, *both) for both in zip(members, shares, strict=True)]
        first = np.cumsum([0, *(len(part) for part in parts)])
        return cls(space, cells[used], np.concatenate(parts), first)

    @classmethod
    def exhaustive(cls, centres: np.ndarray) -> Vocabulary:
        """Words [K, D], real numbers, that are all compared."""
        words = np.ascontiguousarray(centres, np.float32)
        space = Real(words.shape[1])
        return cls(space, words.mean(0, keepdims=True), words, np.array([0, len(words)]))

    def __len__(self) -> int:
        return len(self.words)

    def assign(self, points: np.ndarray, count: int) -> np.ndarray:
        """The nearest words of each point, nearest first; of equals the one of smaller number.

        Returns [N, count] int64; -1 where there are no more words.
        """
        probes = min(PROBES, len(self.cells))
        probed, _ = _nearest(self.space, points, self.cells, probes)
        word = np.full((len(points), probes, count), -1)
        distance = np.full(word.shape, np.inf)
        for cell, places in _groups(probed.ravel()):
            row, probe = np.divmod(places, probes)
            start, stop = self.first[cell], self.first[cell + 1]
            nearest, far = _nearest(self.space, points[row], self.words[start:stop], count)
            word[row, probe, : nearest.shape[1]] = nearest + start
            distance[row, probe, : nearest.shape[1]] = far
        word, distance = (a.reshape(len(a), probes * count) for a in (word, distance))
        order = np.lexsort((word, distance), axis=1)[:, :count]
        return np.take_along_axis(word, order, axis=1)

    def describe(self, points: np.ndarray, assignments: int) -> tuple[np.ndarray, np.ndarray]:
        """An image's words [W] int64, ascending, and its signatures [W, S] uint64 in them."""
        assigned = self.assign(points, assignments)
        row, place = np.nonzero(assigned >= 0)
        word = assigned[row, place]
        words, group = np.unique(word, return_inverse=True)
        return words, self.space.signatures(points[row], self.words[word], group, len(words))


def k_means(space: Space, points: np.ndarray, count: int) -> np.ndarray:
    """Centres [K, ...] of points [N, ...], N >= 1; K <= count: empty clusters are dropped."""
    places = np.linspace(0, len(points) - 1, min(count, len(points))).round().astype(int)
    centres = points[np.unique(places)]
    for _ in range(ROUNDS):
        nearest = _nearest(space, points, centres, 1)[0][:, 0]
        used, cluster = np.unique(nearest, return_inverse=True)
        centres = space.means(points, cluster, len(used))
    return centres


def _nearest(
    space: Space, points: np.ndarray, centres: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices [N, min(count, K)] of the nearest centres, nearest first, and their distances."""
    rows = max(1, BLOCK // len(centres))
    width = min(count, len(centres))
    index, value = np.empty((len(points), width), np.int64), np.empty((len(points), width))
    for start in range(0, len(points), rows):
        block = slice(start, start + rows)
        distance = space.distances(points[block], centres)
        index[block] = _smallest(distance, width)
        value[block] = np.take_along_axis(distance, index[block], axis=1)
    return index, value


def _smallest(distance: np.ndarray, count: int) -> np.ndarray:
    """Columns [N, count] of the smallest in each row, ascending; of equals the first column."""
    if count == 1:
        return distance.argmin(1)[:, None]
    limit = np.partition(distance, count - 1, axis=1)[:, count - 1 : count]
    rank = np.where(distance <= limit, distance, np.inf)
    return np.argsort(rank, axis=1, kind="stable")[:, :count]


def _groups(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Every value that occurs in [N] integers, and the places where it does."""
    order = np.argsort(values, kind="stable")
    found, start = np.unique(values[order], return_index=True)
    stops = np.append(start, len(order))[1:]
    for value, first, stop in zip(found.tolist(), start, stops, strict=True):
        yield value, order[first:stop]


# --- files ---------------------------------------------------------------------------------------


def load_codebook(path: str | Path) -> Vocabulary:
    """A codebook of [K, D] centres: an array in .npy, or a pickle as the package asmk writes it.

    The pickle is a dictionary with state.centroids; nothing in it is run.

    Raises FileNotFoundError where there is no such file, ValueError where it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; wanted a codebook, .npy or .pkl")
    try:
        content = _read_array(path) if path.suffix == ".npy" else _read_pickle(path)
    except Exception as error:  # damaged bytes raise anything: EOFError, KeyError, ...
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ValueError(f"{path}: wanted a codebook as .npy or .pkl, got {reason}") from error
    if not isinstance(content, np.ndarray) or content.ndim != 2 or 0 in content.shape:
        got = f"an array {content.shape}" if isinstance(content, np.ndarray) else "no array"
        raise ValueError(f"{path}: wanted a codebook [words, channels], got {got}")
    if content.dtype.kind != "f" or not np.isfinite(content).all():
        raise ValueError(f"{path}: wanted a codebook of finite real numbers, got {content.dtype}")
    return Vocabulary.exhaustive(content)


def _read_array(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def _read_pickle(path: Path) -> Any:
    content = _ArraysOnly(io.BytesIO(path.read_bytes())).load()
    state = content.get("state") if isinstance(content, dict) else None
    return state.get("centroids") if isinstance(state, dict) else None


class _ArraysOnly(pickle.Unpickler):
    """Containers, numbers, texts and numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle may call, by whichever numpy it was written."""
        home = module.replace("numpy.core", "numpy._core")
        allowed = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("numpy._core.multiarray", "_reconstruct"): np.ndarray.__reduce__(np.empty(0))[0],
            ("numpy._core.numeric", "_frombuffer"): _array_of_bytes,
            ("_codecs", "encode"): _latin_bytes,
        }
        if (home, name) not in allowed:
            raise pickle.UnpicklingError(
                f"a pickle that would run {module}.{name}; nothing was run"
            )
        return allowed[home, name]


def _array_of_bytes(values: Any, dtype: np.dtype, shape: tuple, order: Any) -> np.ndarray:
    """What protocol 5 makes arrays with."""
    return np.frombuffer(values, dtype).reshape(shape, order=order)


def _latin_bytes(text: str, encoding: str) -> bytes:
    """What protocol 2 makes bytes with."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding:.20}")
    return text.encode("latin1")
