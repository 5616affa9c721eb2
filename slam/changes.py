"""Every change that a map goes through, as a value: what an observer of the graph is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from slam.frame import (
    Correspondence,
    FrameRecord,
    FusedPointmap,
    Intrinsics,
    InverseDepth,
    Keyframe,
)

Edge = tuple[int, int]


@dataclass(frozen=True, slots=True)
class KeyframeAdded:
    """Graph.add_keyframe."""

    keyframe: Keyframe
    submap: int = 0  # that it is of


@dataclass(frozen=True, slots=True)
class DepthChanged:
    """Graph.fused, where it took the depths over, and Graph.set_depth."""

    number: int  # of the keyframe
    depth: InverseDepth
    pointmap: FusedPointmap | None  # None = it stays as it is


@dataclass(frozen=True, slots=True)
class EdgesSet:
    """Graph.set_edges."""

    pairs: tuple[Edge, ...]
    edges: dict[Edge, Correspondence]


@dataclass(frozen=True, slots=True)
class EdgesKept:
    """Graph.keep_edges."""

    edges: tuple[Edge, ...]


@dataclass(frozen=True, slots=True)
class Adopted:
    """Graph.adopt."""

    poses: dict[int, Tensor]  # keyframe number to T_WC [7]
    depths: dict[int, InverseDepth]
    intrinsics: Intrinsics | None
    newest: int | None
    scales: dict[int, float]
    joined: dict[int, int] = field(default_factory=dict)  # submap to the one it became part of


@dataclass(frozen=True, slots=True)
class RecordSet:
    """Graph.set_record."""

    record: FrameRecord


@dataclass(frozen=True, slots=True)
class Cleared:
    """Graph.clear."""

    intrinsics: Intrinsics
    first: int = 0  # keyframe from which on all are forgotten


@dataclass(frozen=True, slots=True)
class PinholeSet:
    """Graph.set_pinhole."""

    known: bool


@dataclass(frozen=True, slots=True)
class ReadoutSet:
    """Graph.set_readout."""

    seconds: float


Change = (
    KeyframeAdded
    | DepthChanged
    | EdgesSet
    | EdgesKept
    | Adopted
    | RecordSet
    | Cleared
    | PinholeSet
    | ReadoutSet
)
