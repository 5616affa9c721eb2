"""Visual words: cells of the descriptor space, learnt from descriptors or read from a file."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

ROUNDS = 5  # of k-means: enough for cells, which need not be optimal
PROBES = 4  # coarse cells whose words are compared with a descriptor
BLOCK = 8192  # descriptors whose distances are held at once


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Centres of the words, grouped in coarse cells so that few have to be compared.

    A descriptor is compared with the words of the PROBES nearest cells alone. With one cell the
    search is exhaustive. A binary descriptor is a vector of -1 and 1.
    """

    cells: np.ndarray  # [C, D] float32, centres
    words: np.ndarray  # [K, D] float32, centres, those of a cell one after the other
    first: np.ndarray  # [C + 1] int64: cell c has the words first[c] to first[c + 1]

    @classmethod
    def learn(cls, descriptors: np.ndarray, words: int) -> Vocabulary:
        """Two levels of k-means, started from evenly spaced descriptors: no chance is involved.

        Args:
            descriptors: [N, D] float32, N >= 1.
            words: wanted; there are fewer where descriptors coincide.
        """
        cells = k_means(descriptors, max(1, round(words**0.5)))
        cell = _nearest(descriptors, cells, 1)[0][:, 0]
        members = [descriptors[cell == c] for c in range(len(cells))]
        shares = [max(1, round(words * len(m) / len(descriptors))) for m in members]
        parts = [
            k_means(m, share) if len(m) else cells[c : c + 1]
            for c, (m, share) in enumerate(zip(members, shares, strict=True))
        ]
        first = np.cumsum([0, *(len(part) for part in parts)])
        return cls(cells, np.concatenate(parts), first)

    @classmethod
    def exhaustive(cls, centres: np.ndarray) -> Vocabulary:
        """Words [K, D] that are all compared."""
        words = np.ascontiguousarray(centres, np.float32)
        return cls(words.mean(0, keepdims=True), words, np.array([0, len(words)]))

    def __len__(self) -> int:
        return len(self.words)

    @property
    def dimensions(self) -> int:
        """Of a descriptor."""
        return self.words.shape[1]

    def assign(self, descriptors: np.ndarray, count: int) -> np.ndarray:
        """The nearest words of each descriptor.

        Args: descriptors: [N, D] float32; count: words wanted of each.
        Returns [N, count] int64, nearest first; -1 where there are fewer words.
        """
        blocks = [descriptors[n : n + BLOCK] for n in range(0, len(descriptors), BLOCK)]
        found = [self._assign(block, count) for block in blocks]
        return np.concatenate([np.empty((0, count), np.int64), *found])

    def _assign(self, descriptors: np.ndarray, count: int) -> np.ndarray:
        probes = min(PROBES, len(self.cells))
        probed, _ = _nearest(descriptors, self.cells, probes)
        word = np.full((len(descriptors), probes, count), -1)
        distance = np.full(word.shape, np.inf, np.float32)
        for cell, places in _groups(probed.ravel()):
            row, probe = np.divmod(places, probes)
            start, stop = self.first[cell], self.first[cell + 1]
            nearest, far = _nearest(descriptors[row], self.words[start:stop], count)
            word[row, probe, : nearest.shape[1]] = nearest + start
            distance[row, probe, : nearest.shape[1]] = far
        order = np.argsort(distance.reshape(len(word), -1), axis=1, kind="stable")[:, :count]
        return np.take_along_axis(word.reshape(len(word), -1), order, axis=1)


def k_means(points: np.ndarray, count: int) -> np.ndarray:
    """Centres [K, D] float32 of points [N, D], N >= 1; K <= count: empty clusters are dropped."""
    places = np.linspace(0, len(points) - 1, min(count, len(points))).round().astype(int)
    centres = points[np.unique(places)]
    for _ in range(ROUNDS):
        nearest = [
            _nearest(points[n : n + BLOCK], centres, 1)[0][:, 0]
            for n in range(0, len(points), BLOCK)
        ]
        used, cluster = np.unique(np.concatenate(nearest), return_inverse=True)
        centres = sums(points, cluster, len(used)) / np.bincount(cluster)[:, None]
        centres = centres.astype(np.float32)
    return centres


def sums(rows: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Sums [groups, D] of the rows [N, D] that belong to each group."""
    one = np.ones(len(rows), rows.dtype)
    return csr_array((one, (group, np.arange(len(rows)))), shape=(groups, len(rows))) @ rows


def _nearest(points: np.ndarray, centres: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices [N, count] of the nearest centres, nearest first, and by what they were ranked.

    That is the squared distance less |point|^2, which ranks the centres of one point all the same.
    """
    distance = (centres**2).sum(1) - 2 * (points @ centres.T)
    if count == 1:
        index = distance.argmin(1)[:, None]
        return index, np.take_along_axis(distance, index, axis=1)
    if count < len(centres):
        index = np.sort(np.argpartition(distance, count - 1, axis=1)[:, :count], axis=1)
    else:
        index = np.broadcast_to(np.arange(len(centres)), distance.shape)
    value = np.take_along_axis(distance, index, axis=1)
    order = np.argsort(value, axis=1, kind="stable")
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(value, order, axis=1)


def _groups(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Every value that occurs in [N] integers, and the places where it does."""
    order = np.argsort(values, kind="stable")
    found, start = np.unique(values[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, start[1:]), strict=True)


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
        """What the pickle may call."""
        home = module.replace("numpy.core", "numpy._core")
        if (home, name) == ("numpy._core.multiarray", "_reconstruct"):
            return np.ndarray.__reduce__(np.empty(0))[0]
        if (home, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"a pickle that would run {module}.{name}; nothing was run")
