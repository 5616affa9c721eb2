"""What a keyframe costs in memory: the bytes its tensors hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from slam.graph import Graph
from slam.memory import MEGABYTE


@dataclass(frozen=True, slots=True)
class KeyframeMemory:
    """Bytes that the map holds for a keyframe, on average, in MB (1e6 bytes)."""

    images: float  # working images and texture; a network's tokens, too
    depth: float  # inverse depths and their information
    points: float  # fused pointmaps; the flow has none
    edges: float  # its share of the measurements between keyframes
    frames: float  # packed measurements of the frames that hang on keyframes

    @property
    def total(self) -> float:
        return self.images + self.depth + self.points + self.edges + self.frames

    def to_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self) | {"total": self.total}


def keyframe_memory(graph: Graph, factors: object = ()) -> KeyframeMemory | None:
    """Of the map as it is; None where it has no keyframe.

    Args: factors: what the edges hold besides the graph's measurements.

    A storage that several tensors share counts once, and whole: a view of a larger tensor holds all
    of it.
    """
    keyframes = graph.keyframes()
    if not keyframes:
        return None
    seen: set[int] = set()
    parts = (
        [k.frame.features for k in keyframes],
        [k.depth for k in keyframes],
        [k.pointmap for k in keyframes],
        [graph.edges(), factors],
        [r.measurement for r in graph.records()],
    )
    return KeyframeMemory(*(_held(part, seen) / MEGABYTE / len(keyframes) for part in parts))


def _held(value: object, seen: set[int]) -> int:
    """Bytes of the storages behind a value that are not in `seen`; they are added to it."""
    total = 0
    for address, size in _storages(value):
        if address not in seen:
            seen.add(address)
            total += size
    return total


def _storages(value: object) -> Iterator[tuple[int, int]]:
    """(address, bytes) of all that a value of tensors, arrays, bytes and dataclasses holds."""
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()
    elif isinstance(value, np.ndarray):
        whole = (
            value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
        )
        yield whole.ctypes.data, whole.nbytes
    elif isinstance(value, bytes):
        yield id(value), len(value)
    else:
        for part in _parts(value):
            yield from _storages(part)


def _parts(value: object) -> Iterable[object]:
    if dataclasses.is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()
