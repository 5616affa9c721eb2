"""The map: keyframes, edges, and a record of every frame. The one shared object, under one lock."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from slam.changes import (
    Adopted,
    Change,
    Cleared,
    DepthChanged,
    Edge,
    EdgesKept,
    EdgesSet,
    KeyframeAdded,
    PinholeSet,
    ReadoutSet,
    RecordSet,
)
from slam.frame import (
    SOLVED,
    Correspondence,
    FrameRecord,
    FusedPointmap,
    Intrinsics,
    InverseDepth,
    Keyframe,
    Snapshot,
    source_of,
)
from slam.lie import se3_inv, se3_mul
from slam.paging import Pages
from slam.rescaling import kept_keyframe, rescaled_keyframe, scale_change, scaled_pointmap
from slam.shutter import velocity
from slam.submaps import Submaps

Value = TypeVar("Value")
FAR = 0.5  # s between two poses beyond which they do not tell a velocity


class Graph:
    """Keyframes and frames with their poses. Values are replaced, never changed in place.

    Frames hang on a reference keyframe: when the keyframe moves, or its depths change scale, they
    follow. World poses are derived when asked for.
    """

    def __init__(self, intrinsics: Intrinsics, pages: Pages | None = None) -> None:
        """Args:
        intrinsics: fx, fy, cx, cy px at working resolution.
        pages: keep what is large; None = memory does.
        """
        self.pages = pages or Pages()
        self._lock = threading.RLock()
        self._keyframes: list[Keyframe] = []
        self._submaps: list[int] = []  # of each
        self._edges: dict[Edge, Correspondence] = {}
        self._edges_at: dict[int, set[Edge]] = {}  # by keyframe, at either end
        self._records: dict[int, FrameRecord] = {}
        self._order: list[int] = []
        self._frames_of: dict[int, list[int]] = {}
        self._intrinsics = intrinsics
        self._readout = 0.0
        self._pinhole = True
        self._frozen = 0
        self._observer: Callable[[Change], None] | None = None

    @property
    def frozen(self) -> int:
        """Keyframes, the first ones, that never change."""
        with self._lock:
            return self._frozen

    def freeze(self) -> None:
        """The keyframes that there are stay as they are from now on, whatever is found later."""
        with self._lock:
            self._frozen = len(self._keyframes)

    @property
    def pinhole(self) -> bool:
        """Whether the intrinsics are known well enough to compare pixels; else only rays are."""
        with self._lock:
            return self._pinhole

    def set_pinhole(self, known: bool) -> None:
        """Says whether the intrinsics are known."""
        with self._lock:
            self._pinhole = known
            self._tell(PinholeSet(known))

    @property
    def readout(self) -> float:
        """Time from an image's first row to its last, s, as estimated now; 0 = global shutter."""
        with self._lock:
            return self._readout

    def set_readout(self, seconds: float) -> None:
        """Takes over an estimate of the readout time."""
        with self._lock:
            self._readout = seconds
            self._tell(ReadoutSet(seconds))

    @property
    def intrinsics(self) -> Intrinsics:
        """fx, fy, cx, cy px at working resolution, as estimated now."""
        with self._lock:
            return self._intrinsics

    def __len__(self) -> int:
        """Number of keyframes."""
        with self._lock:
            return len(self._keyframes)

    def clear(self, intrinsics: Intrinsics, first: int = 0) -> None:
        """Forgets the keyframes from `first` on, and their edges (a bad start).

        The records that hang on them stay and have no reference.
        """
        with self._lock:
            self._intrinsics = intrinsics
            for edge in [e for e in self._edges if max(e) >= first]:
                self._drop_edge(edge)
            for number in range(first, len(self._keyframes)):
                self._edges_at.pop(number, None)
                for index in self._frames_of.pop(number, ()):
                    lost = replace(self._records[index], keyframe=-1)
                    self._records[index] = self.pages.keep(lost)
            del self._keyframes[first:], self._submaps[first:]
            self._tell(Cleared(intrinsics, first))

    def _tell(self, change: Change) -> None:
        if self._observer is not None:
            self._observer(change)

    def observe(self, observer: Callable[[Change], None] | None) -> None:
        """Who is told of every change from now on, in its order, under the lock; None = nobody."""
        with self._lock:
            self._observer = observer

    def keyframe(self, number: int) -> Keyframe:
        """Keyframe by number; -1 is the last."""
        with self._lock:
            return self._keyframes[number]

    def keyframes(self) -> list[Keyframe]:
        """All keyframes as they are now."""
        with self._lock:
            return list(self._keyframes)

    @property
    def submaps(self) -> Submaps:
        """Which submap each keyframe is of."""
        with self._lock:
            return Submaps(tuple(self._submaps))

    def add_keyframe(self, keyframe: Keyframe, submap: int = 0) -> int:
        """Appends a keyframe; returns its number. Args: submap: name of the one that it is of."""
        with self._lock:
            self._keyframes.append(kept_keyframe(self.pages, keyframe))
            self._submaps.append(submap)
            self._tell(KeyframeAdded(keyframe, submap))
            return len(self._keyframes) - 1

    def set_depth(self, number: int, depth: InverseDepth) -> None:
        """New depths of one keyframe, in its old scale."""
        with self._lock:
            self._set_depth(number, depth)
            self._tell(DepthChanged(number, depth, None))

    def _set_depth(self, number: int, depth: InverseDepth) -> None:
        self._put(number, replace(self._keyframes[number], depth=depth))

    def _put(self, number: int, keyframe: Keyframe) -> None:
        self._keyframes[number] = kept_keyframe(self.pages, keyframe)

    def fused(
        self,
        number: int,
        before: InverseDepth,
        after: InverseDepth,
        pointmap: FusedPointmap | None = None,
    ) -> tuple[Keyframe, float]:
        """Takes over depths fused from `before`, unless others were adopted in the meantime.

        Args: pointmap: fused along with them, where there is one.
        Returns the keyframe as it is now, and the factor by which its distances grew.
        """
        with self._lock:
            current = self._keyframes[number].depth
            if current is before and number >= self._frozen:
                self._set_depth(number, after)
                if pointmap is not None:
                    keyframe = self._keyframes[number]
                    self._put(number, replace(keyframe, pointmap=pointmap))
                self._tell(DepthChanged(number, after, pointmap))
                return self._keyframes[number], 1.0
            return self._keyframes[number], scale_change(before, current)

    def edges(self) -> dict[Edge, Correspondence]:
        """All directed edges (i, j): where keyframe i's grid pixels land in keyframe j."""
        with self._lock:
            return dict(self._edges)

    def edges_at(self, numbers: Iterable[int]) -> dict[Edge, Correspondence]:
        """The edges that begin or end at one of the given keyframes."""
        with self._lock:
            found = {e for k in numbers for e in self._edges_at.get(k, ())}
            return {e: self._edges[e] for e in sorted(found)}

    def set_edges(self, pairs: Sequence[Edge], edges: Mapping[Edge, Correspondence]) -> None:
        """Replaces all edges between the given pairs of keyframes by the given ones."""
        with self._lock:
            for i, j in pairs:
                self._drop_edge((i, j))
                self._drop_edge((j, i))
            for edge, correspondence in edges.items():
                self._edges[edge] = self.pages.keep(correspondence)
                for number in edge:
                    self._edges_at.setdefault(number, set()).add(edge)
            self._tell(EdgesSet(tuple(pairs), dict(edges)))

    def keep_edges(self, edges: Sequence[Edge]) -> None:
        """Drops every edge but these."""
        with self._lock:
            for edge in set(self._edges) - set(edges):
                self._drop_edge(edge)
            self._tell(EdgesKept(tuple(edges)))

    def _drop_edge(self, edge: Edge) -> None:
        if self._edges.pop(edge, None) is not None:
            for number in edge:
                self._edges_at[number].discard(edge)

    def adopt(
        self,
        poses: Mapping[int, Tensor],
        depths: Mapping[int, InverseDepth],
        intrinsics: Intrinsics | None = None,
        newest: int | None = None,
        scales: Mapping[int, float] | None = None,
        joined: Mapping[int, int] | None = None,
    ) -> None:
        """Takes over optimised keyframes; their frames follow.

        Args:
            poses: number to T_WC [7].
            depths: number to depths on its grid.
            scales: number to the factor by which its distances grow, before that.
            newest: the last keyframe that the optimisation knew; those since follow the last
                one known of their submap, in its scale. None = there are none since.
            joined: submaps that then are part of others: name to the other's.
        """
        with self._lock:
            since = {} if newest is None else self.submaps.followers(newest)
            before = {number: self._keyframes[number] for number in since}
            moved, deepened, grown = self._free(poses), self._free(depths), self._free(scales or {})
            for number, scale in grown.items():
                self._grow(number, scale)
            for number, depth in deepened.items():
                self._rescale(number, scale_change(self._keyframes[number].depth, depth))
                self._set_depth(number, depth)
            for number, T_WC in moved.items():
                self._keyframes[number] = replace(self._keyframes[number], T_WC=T_WC.clone())
            self._intrinsics = intrinsics or self._intrinsics
            for number, followers in since.items():
                self._follow(before[number], self._keyframes[number], followers)
            self._submaps = [*self.submaps.joined(joined or {}).names]
            self._tell(Adopted(moved, deepened, intrinsics, newest, grown, dict(joined or {})))

    def _free(self, given: Mapping[int, Value]) -> dict[int, Value]:
        """What is given for keyframes that may change, by their numbers."""
        return {number: value for number, value in given.items() if number >= self._frozen}

    def _follow(self, before: Keyframe, after: Keyframe, numbers: Iterable[int]) -> None:
        """Moves keyframes and their depths as one of them moved."""
        scale = scale_change(before.depth, after.depth)
        for number in numbers:
            keyframe = self._keyframes[number]
            T = se3_mul(se3_inv(before.T_WC), keyframe.T_WC)
            T[:3] *= scale
            T[3:] /= T[3:].norm()  # or rounding would double from one keyframe to the next
            self._keyframes[number] = replace(keyframe, T_WC=se3_mul(after.T_WC, T))
            self._grow(number, scale)

    def _grow(self, number: int, scale: float) -> None:
        """Distances of a keyframe become `scale` times as long."""
        old = self._keyframes[number]
        self._put(number, rescaled_keyframe(old, old.T_WC, scale))
        self._rescale_frames(number, scale)

    def _rescale(self, number: int, scale: float) -> None:
        """What hangs on a keyframe whose depths grew: its pointmap, and its frames."""
        keyframe = self._keyframes[number]
        grown = scaled_pointmap(keyframe.pointmap, scale)
        self._put(number, replace(keyframe, pointmap=grown))
        self._rescale_frames(number, scale)

    def _rescale_frames(self, number: int, scale: float) -> None:
        for index in self._frames_of.get(number, ()):
            record = self._records[index]
            T_kf = record.T_kf.clone()
            T_kf[:3] *= scale
            self._records[index] = self.pages.keep(replace(record, T_kf=T_kf))

    def set_record(self, record: FrameRecord) -> None:
        """Adds a frame's record, or replaces it."""
        with self._lock:
            old = self._records.get(record.index)
            if old is None:
                insort(self._order, record.index)
            elif old.keyframe >= 0:
                self._frames_of[old.keyframe].remove(record.index)
            self._records[record.index] = self.pages.keep(record)
            if record.keyframe >= 0:
                self._frames_of.setdefault(record.keyframe, []).append(record.index)
            self._tell(RecordSet(record))

    def record(self, index: int) -> FrameRecord:
        """The record of one frame, by its index in the source."""
        with self._lock:
            return self._records[index]

    def records(self) -> list[FrameRecord]:
        """All records in the order of the source."""
        with self._lock:
            return [self._records[i] for i in self._order]

    def T_WC(self, record: FrameRecord) -> Tensor:
        """World pose [7] of a frame; ValueError where it has no reference keyframe."""
        if record.keyframe < 0:
            raise ValueError(f"frame {record.index}: wanted one with a keyframe, it has none yet")
        with self._lock:
            return se3_mul(self._keyframes[record.keyframe].T_WC, record.T_kf)

    def twists(self, indices: Sequence[int], until: int | None = None) -> Tensor:
        """`twist` of several images [N, 6]."""
        found = [self.twist(index, until) for index in indices]
        return torch.stack(found) if found else torch.zeros(0, 6, dtype=torch.float64)

    def twist(self, index: int, until: int | None = None) -> Tensor:
        """How points move in the camera's frame at an image, per second [6].

        By the images before and after; 0 where no two solved poses within FAR of each other tell.

        Args: until: index of the last image that counts; None = all of them.
        """
        with self._lock:
            end = len(self._order) if until is None else bisect_right(self._order, until)
            ends = self._around(index, end)
            if ends is None:
                return torch.zeros(6, dtype=torch.float64)
            first, last = ends
            return velocity(self.T_WC(first), self.T_WC(last), last.seconds - first.seconds)

    def _around(self, index: int, end: int) -> tuple[FrameRecord, FrameRecord] | None:
        place, of = bisect_left(self._order, index), self._submaps
        near = [self._records[i] for i in self._order[max(0, place - 1) : min(place + 2, end)]]
        near = [r for r in near if r.keyframe >= 0 and r.state in SOLVED]
        near = [r for r in near if source_of(r.index) == source_of(index)]
        own = next((r for r in near if r.index == index), near[0] if near else None)
        near = [r for r in near if own and of[r.keyframe] == of[own.keyframe]]
        if len(near) < 2 or not 0 < near[-1].seconds - near[0].seconds < FAR:
            return None
        return near[0], near[-1]

    def copy(self) -> Graph:
        """The same as it is now, to be read while this one goes on; nobody is told of it."""
        with self._lock:
            other = Graph(self._intrinsics, self.pages)
            other._keyframes, other._submaps = [*self._keyframes], [*self._submaps]
            other._edges = dict(self._edges)
            other._edges_at = {number: set(edges) for number, edges in self._edges_at.items()}
            other._records, other._order = dict(self._records), [*self._order]
            other._frames_of = {number: [*frames] for number, frames in self._frames_of.items()}
            other._readout, other._pinhole = self._readout, self._pinhole
            other._frozen = self._frozen
            return other

    def snapshot(self) -> Snapshot:
        """An immutable view of everything."""
        with self._lock:
            return Snapshot(
                tuple(self._keyframes),
                tuple(self.records()),
                tuple(sorted(self._edges)),
                self._intrinsics,
                self.submaps,
            )
