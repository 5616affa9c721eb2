"""Two maps compared to the bit: keyframes, edges, records, camera."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from slam.graph import Graph


@dataclass(frozen=True, slots=True)
class State:
    """All that a graph holds; values, which do not change afterwards."""

    keyframes: list[Any]
    edges: dict[tuple[int, int], Any]
    records: list[Any]
    frames_of: dict[int, list[int]]
    camera: tuple[Any, ...]  # intrinsics, readout, pinhole


def state_of(graph: Graph) -> State:
    """What a graph holds now."""
    frames = {k: list(v) for k, v in graph._frames_of.items()}
    camera = graph.intrinsics, graph.readout, graph.pinhole
    return State(graph.keyframes(), graph.edges(), graph.records(), frames, camera)


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Names of what is not the same to the bit, types and shapes too."""
    if type(first) is not type(second):
        return [f"{name}: {type(first).__name__}, {type(second).__name__}"]
    if isinstance(first, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        same = same and bytes_of(first) == bytes_of(second)
        return [] if same else [name]
    if is_dataclass(first):
        names = [f.name for f in fields(first)]
        pairs = [(getattr(first, n), getattr(second, n), n) for n in names]
    elif isinstance(first, dict):
        if list(first) != list(second):  # also their order
            return [f"{name}: {len(first)} and {len(second)} or in another order"]
        pairs = [(first[key], second[key], str(key)) for key in first]
    elif isinstance(first, list | tuple):
        if len(first) != len(second):
            return [f"{name}: {len(first)} and {len(second)}"]
        pairs = [(a, b, str(n)) for n, (a, b) in enumerate(zip(first, second, strict=True))]
    elif isinstance(first, float):
        return [] if first.hex() == second.hex() else [name]  # nan is nan
    else:
        assert first is None or isinstance(first, bool | int | str | Enum), type(first)
        return [] if first == second else [name]
    return [found for a, b, n in pairs for found in differences(a, b, f"{name}.{n}")]


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()
