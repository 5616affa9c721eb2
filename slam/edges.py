"""Edges of the map: which keyframes are compared, and where the pixels of one are in the other."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from slam.config import Config
from slam.frame import (
    Correspondence,
    Intrinsics,
    InverseDepth,
    Keyframe,
    PairGuess,
    PairPrediction,
    source_of,
)
from slam.graph import Edge, Graph
from slam.mapping import covisibility, dense_flow, may_share, project_grid, relative
from slam.predictors import Predictor
from slam.submaps import ONE, Submaps

TOGETHER = 16  # pairs that are projected at once
BEHIND = 15  # niceness of threads that must not keep the frontend waiting


def step_aside(niceness: int = BEHIND) -> None:
    """Lets other threads go first: this one is not waited for (Linux has a priority a thread)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


@dataclass(frozen=True, slots=True)
class Induced:
    """Where the map said that a pair's pixels are when it was measured."""

    target: Tensor  # [P, 2] float32 px, of the first one's grid pixels in the second


class Edges:
    """Chooses and measures pairs of keyframes, and puts what is found into the graph."""

    def __init__(self, predictor: Predictor, graph: Graph, config: Config) -> None:
        self.predictor = predictor
        self.graph = graph
        self.config = config
        self._measured_with: dict[Edge, Induced] = {}
        self._loops: set[Edge] = set()  # pairs that were verified, whatever the map says of them
        self.submaps = ONE  # of the keyframes given: only within one are they compared
        self.hurry = threading.Event()  # set: pairs that are not measured yet are left out
        behind = step_aside if config.run.realtime else None
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="edges", initializer=behind)

    @property
    def held(self) -> object:
        """All that is kept of the edges besides what the graph has."""
        return self._measured_with

    def close(self) -> None:
        """Ends the helper threads."""
        self._pool.shutdown()

    def forget(self, first: int) -> None:
        """Drops all pairs with keyframes from `first` on, as the graph has."""
        self._measured_with = {p: t for p, t in self._measured_with.items() if max(p) < first}
        self._loops = {p for p in self._loops if max(p) < first}

    def measure_loops(
        self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge], intrinsics: Intrinsics
    ) -> None:
        """Measures pairs that are known to see the same; `all_pairs` has them from now on."""
        self._loops |= set(pairs)
        self.measure(keyframes, pairs, intrinsics)

    def keep(self, pairs: Sequence[Edge]) -> None:
        """Drops every edge but those between the given pairs, which are all measured.

        And those of the frozen part of the map, which nobody measures.
        """
        frozen = [e for e in self.graph.edges() if max(e) < self.graph.frozen]
        self.graph.keep_edges(frozen + [e for i, j in pairs for e in ((i, j), (j, i))])
        self._measured_with = {p: self._measured_with[p] for p in pairs}

    def new_pairs(
        self,
        keyframes: Sequence[Keyframe],
        number: int,
        neighbours: int,
        covisible: int,
        intrinsics: Intrinsics,
    ) -> list[Edge]:
        """Undirected (i, j), i < j, that link a new keyframe."""
        near = InTime(keyframes, self.submaps).near(number, neighbours)
        T_WC = torch.stack([k.T_WC for k in keyframes])
        without = {number, *near, *self._apart(number, len(keyframes))}
        seen = self._covisible(keyframes[number], T_WC, without, covisible, intrinsics)
        return [(i, number) for i in sorted({*near, *seen})]

    def all_pairs(self, keyframes: Sequence[Keyframe], intrinsics: Intrinsics) -> list[Edge]:
        """Undirected (i, j), i < j, between all keyframes that see the same; one is not frozen."""
        of = self.submaps.of
        pairs = {(i, j) for i, j in self._loops if j < len(keyframes) and of(i) == of(j)}
        settings, in_time = self.config.bundle_adjustment, InTime(keyframes, self.submaps)
        T_WC = torch.stack([k.T_WC for k in keyframes])
        for i, keyframe in list(enumerate(keyframes))[self.graph.frozen :]:
            linked = set(in_time.near(i, settings.neighbours))
            without = {i, *linked, *self._apart(i, len(keyframes))}
            more = without, settings.covisible, intrinsics
            linked |= set(self._covisible(keyframe, T_WC, *more))
            pairs |= {(min(i, j), max(i, j)) for j in linked}
        return sorted(pairs)

    def stale(
        self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge], intrinsics: Intrinsics
    ) -> list[Edge]:
        """New pairs, and those whose flow, by the map, has moved since it was measured."""
        known = [p for p in pairs if p in self._measured_with]
        moved = set(pairs) - set(known)
        for some in chunks(known, TOGETHER):
            target, seen = self._induced(keyframes, some, intrinsics)
            old = torch.stack([self._measured_with[p].target for p in some])
            step = torch.linalg.vector_norm(target - old, dim=-1)
            median = torch.where(seen, step, torch.nan).nanmedian(-1).values
            far = median > self.config.bundle_adjustment.remeasure
            moved |= {p for p, stale in zip(some, far.tolist(), strict=True) if stale}
        return [p for p in pairs if p in moved]

    def measure(
        self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge], intrinsics: Intrinsics
    ) -> None:
        """Measures undirected pairs, both ways, from the flow that the map induces."""
        measured: dict[Edge, Correspondence] = {}
        done: list[Edge] = []
        in_time = InTime(keyframes if pairs else (), self.submaps)
        count = self.config.bundle_adjustment.neighbours
        for some in chunks(pairs, TOGETHER):
            if self.hurry.is_set():
                break
            done += some
            ahead, _ = self._induced(keyframes, some, intrinsics)
            back, _ = self._induced(keyframes, [(j, i) for i, j in some], intrinsics)
            near = [j in in_time.near(i, count) for i, j in some]
            one = partial(self._measure_pair, keyframes)
            for edges in self._pool.map(one, some, ahead, back, near):
                measured |= edges
            for pair, target in zip(some, ahead, strict=True):
                self._measured_with[pair] = self.graph.pages.keep(Induced(target.clone()))
        self.graph.set_edges(done, measured)

    def _apart(self, number: int, count: int) -> list[int]:
        """Of the first keyframes those that are not of the same submap."""
        of = self.submaps.of
        return [k for k in range(count) if of(k) != of(number)] if self.submaps.several else []

    def _covisible(
        self,
        this: Keyframe,
        T_WC: Tensor,
        without: set[int],
        count: int,
        intrinsics: Intrinsics,
    ) -> list[int]:
        """Keyframes that see what this one sees, those that moved least first, thinned in time.

        Args: T_WC: [N, 7] of all keyframes. without: numbers that are not wanted.
        """
        settings, grid = self.config.bundle_adjustment, self.predictor.grid
        T_ji = relative(this.T_WC, T_WC)
        near = may_share(grid, this.depth, T_ji, intrinsics, settings.overlap).nonzero()[:, 0]
        share, flow = covisibility(grid, this.depth, T_ji[near], intrinsics)
        fits = (share > settings.overlap) & (flow < settings.covisible_flow * grid.width)
        picked: list[int] = []
        for j in near[fits][flow[fits].argsort(stable=True)].tolist():
            if len(picked) == count:
                break
            if j not in without and all(abs(j - k) > 1 for k in picked):
                picked.append(j)
        return picked

    def _induced(
        self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge], intrinsics: Intrinsics
    ) -> tuple[Tensor, Tensor]:
        """Where the map says that i's grid pixels land in j [N, P, 2] px, and which are seen."""
        depth = InverseDepth(
            torch.stack([keyframes[i].depth.value for i, _ in pairs]),
            torch.stack([keyframes[i].depth.information for i, _ in pairs]),
        )
        T_WC = [torch.stack([keyframes[k].T_WC for k in ends]) for ends in zip(*pairs, strict=True)]
        return project_grid(self.predictor.grid, depth, relative(*T_WC), intrinsics)

    def _predict_pair(
        self, keyframes: Sequence[Keyframe], pair: Edge, ahead: Tensor, back: Tensor
    ) -> PairPrediction:
        """A pair measured from the flow that the map induces: ahead and back, targets [P, 2] px."""
        guess = PairGuess(*(dense_flow(self.predictor.grid, t) for t in (ahead, back)))
        first, second = (keyframes[k].frame.features for k in pair)
        return self.predictor.pair(first, second, guess, fine=True, one_thread=True)

    def _measure_pair(
        self,
        keyframes: Sequence[Keyframe],
        pair: Edge,
        ahead: Tensor,
        back: Tensor,
        near: bool,
    ) -> dict[Edge, Correspondence]:
        """Both directions of a pair; those that match too little only where it is `near`."""
        i, j = pair
        prediction = self._predict_pair(keyframes, pair, ahead, back)
        minimum = self.config.bundle_adjustment.minimum_match
        edges = {(i, j): prediction.forward, (j, i): prediction.backward}
        share = {e: float((c.weight > 0).float().mean()) for e, c in edges.items()}
        keep = self.graph.pages.keep
        return {e: keep(c) for e, c in edges.items() if near or share[e] > minimum}


class InTime:
    """Keyframes of each source and submap in the order of time: others' times tell nothing."""

    def __init__(self, keyframes: Sequence[Keyframe], submaps: Submaps) -> None:
        index = [k.frame.index for k in keyframes]
        order = sorted(range(len(index)), key=index.__getitem__)
        self._order: dict[tuple[int, int], list[int]] = {}  # of a source and submap: numbers
        self._place: list[tuple[list[int], int]] = [([], 0)] * len(index)  # of a number: in which
        for number in order:
            world = source_of(index[number]), submaps.of(number)
            same = self._order.setdefault(world, [])
            self._place[number] = same, len(same)
            same.append(number)

    def near(self, number: int, count: int) -> list[int]:
        """The keyframes nearest to one, `count` before and after."""
        same, place = self._place[number]
        return [k for k in same[max(0, place - count) : place + count + 1] if k != number]


def chunks(pairs: Sequence[Edge], size: int) -> Iterator[Sequence[Edge]]:
    """The pairs in order, `size` at a time."""
    return (pairs[n : n + size] for n in range(0, len(pairs), size))
