"""The backend: edges for a new keyframe, windowed dense BA, the global adjustment at the end."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from slam.adjustment import Adjusted, Part, in_scale_of
from slam.config import Config
from slam.frame import Correspondence, InverseDepth, Keyframe, PairGuess, PairPrediction
from slam.graph import Edge, Graph
from slam.mapping import covisibility, dense_flow, project_grid, relative
from slam.optimization import BundleAdjustment, bundle_adjust
from slam.predictors import Predictor
from slam.shutter import ReadoutCost, Shutter, unroll
from slam.timing import Timings

log = logging.getLogger(__name__)


TOGETHER = 16  # pairs that are projected at once
HURRIED = 2  # neighbours that keyframes are linked to while there are more to link
BEHIND = 15  # niceness of threads that must not keep the frontend waiting


def step_aside(niceness: int = BEHIND) -> None:
    """Lets other threads go first: this one is not waited for (Linux has a priority a thread)."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


class Backend:
    """Keeps the map consistent. One `step` for each new keyframe, one `finish` at the end."""

    def __init__(
        self,
        predictor: Predictor,
        graph: Graph,
        config: Config,
        timings: Timings,
        refine_focal: bool,
    ) -> None:
        self.predictor = predictor
        self.graph = graph
        self.config = config
        self.timings = timings
        self.refine_focal = refine_focal
        self.focal_sigma = float("inf")
        self.last_cost = float("nan")
        self.hurry = threading.Event()  # set: the rounds of `finish` end early
        self._free_focal_at = config.focal.first
        self._readout_at, self._readout_cost = config.shutter.first, ReadoutCost()
        self._readout = graph.readout  # s, as estimated now
        self._intrinsics = graph.intrinsics  # likewise
        self._until: int | None = None  # index of the last image that counts; None = all
        self._adjusted: list[Adjusted] = []  # found and not yet published
        self._measured_with: dict[Edge, Tensor] = {}
        behind = step_aside if config.run.realtime else None
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="edges", initializer=behind)

    def close(self) -> None:
        """Ends the helper threads."""
        self._pool.shutdown()

    def reset(self) -> None:
        """Forgets what belonged to a discarded start."""
        self._measured_with, self._adjusted = {}, []
        self._free_focal_at = self.config.focal.first
        self._readout_at, self._readout_cost = self.config.shutter.first, ReadoutCost()
        self._readout = self.config.shutter.readout or 0.0
        self.graph.set_readout(self._readout)
        self.focal_sigma, self.last_cost = float("inf"), float("nan")

    def step(self, keyframes: Sequence[Keyframe], first: int) -> None:
        """Links new keyframes to their neighbours; adjusts the window that the last one ends.

        Poses, depths, focal length and readout are the graph's once they are published.

        Args:
            keyframes: as they were when the last one was made.
            first: number of the first one that is new.
        """
        number = len(keyframes) - 1
        self._intrinsics = self.graph.intrinsics
        self._until = max(k.frame.index for k in keyframes)
        with self.timings.measure("backend edges", number):
            new, settings = range(first, number + 1), self.config.bundle_adjustment
            counts = settings.neighbours, settings.covisible_at_once
            if len(new) > 1:  # behind the camera: what is left out is measured at the end
                counts = min(HURRIED, settings.neighbours), 0
            pairs = [p for n in new for p in self._new_pairs(keyframes[: n + 1], n, *counts)]
            self._measure(keyframes, pairs)
        if self.refine_focal and number + 1 >= self._free_focal_at:
            self._free_focal_at = int(np.ceil((number + 1) * self.config.focal.growth))
            with self.timings.measure("backend focal", number):
                keyframes = self._search_focal(keyframes)
        else:
            with self.timings.measure("backend window", number):
                keyframes = self._adjust_window(keyframes, number)
        if self.config.shutter.readout is None and number + 1 >= self._readout_at:
            with self.timings.measure("backend shutter", number):
                self._search_readout(keyframes)

    def publish(self) -> None:
        """Hands what was found to the graph."""
        for found in self._adjusted:
            self.graph.adopt(
                found.poses, found.depths, found.intrinsics, found.newest, found.scales
            )
        self._adjusted = []
        self.graph.set_readout(self._readout)

    def finish(self) -> None:
        """Global rounds: edges to all covisible keyframes, flow measured again, all moves."""
        settings = self.config.bundle_adjustment
        self._intrinsics, self._until = self.graph.intrinsics, None
        if self.config.shutter.readout is None and np.isfinite(self._readout_at):
            with self.timings.measure("final shutter"):
                self._search_readout(self.graph.keyframes())
                self.publish()
        for _ in range(settings.global_rounds if len(self.graph) > 1 else 0):
            if self.hurry.is_set():
                return
            keyframes = self.graph.keyframes()
            pairs = self._all_pairs(keyframes)
            with self.timings.measure("final edges"):
                self._measure(keyframes, self._stale(keyframes, pairs))
                self.graph.keep_edges([e for i, j in pairs for e in ((i, j), (j, i))])
                self._measured_with = {p: self._measured_with[p] for p in pairs}
            with self.timings.measure("final adjustment"):
                self._adjust_all(keyframes, settings.global_iterations)
                self.publish()

    def _new_pairs(
        self, keyframes: Sequence[Keyframe], number: int, neighbours: int, covisible: int
    ) -> list[Edge]:
        """Undirected (i, j), i < j, that link a new keyframe."""
        near = self._neighbours(keyframes, number, neighbours)
        T_WC = torch.stack([k.T_WC for k in keyframes])
        far = self._covisible(keyframes[number], T_WC, {number, *near}, covisible)
        return [(i, number) for i in sorted({*near, *far})]

    def _neighbours(
        self, keyframes: Sequence[Keyframe], number: int, count: int | None = None
    ) -> list[int]:
        """The keyframes nearest in time, `count` before and after (default: as set)."""
        count = self.config.bundle_adjustment.neighbours if count is None else count
        order = sorted(range(len(keyframes)), key=lambda k: keyframes[k].frame.index)
        place = order.index(number)
        return [k for k in order[max(0, place - count) : place + count + 1] if k != number]

    def _all_pairs(self, keyframes: Sequence[Keyframe]) -> list[Edge]:
        pairs: set[Edge] = set()
        count = self.config.bundle_adjustment.covisible
        T_WC = torch.stack([k.T_WC for k in keyframes])
        for i, keyframe in enumerate(keyframes):
            linked = set(self._neighbours(keyframes, i))
            linked |= set(self._covisible(keyframe, T_WC, {i, *linked}, count))
            pairs |= {(min(i, j), max(i, j)) for j in linked}
        return sorted(pairs)

    def _covisible(self, this: Keyframe, T_WC: Tensor, without: set[int], count: int) -> list[int]:
        """Keyframes that see what this one sees, those that moved least first, thinned in time.

        Args: T_WC: [N, 7] of all keyframes. without: numbers that are not wanted.
        """
        settings, grid = self.config.bundle_adjustment, self.predictor.grid
        share, flow = covisibility(grid, this.depth, relative(this.T_WC, T_WC), self._intrinsics)
        fits = (share > settings.overlap) & (flow < settings.covisible_flow * grid.width)
        picked: list[int] = []
        for j in torch.where(fits, flow, torch.inf).argsort(stable=True).tolist():
            if len(picked) == count or not fits[j]:
                break
            if j not in without and all(abs(j - k) > 1 for k in picked):
                picked.append(j)
        return picked

    def _stale(self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge]) -> list[Edge]:
        """New pairs, and those whose flow, by the map, has moved since it was measured."""
        known = [p for p in pairs if p in self._measured_with]
        moved = set(pairs) - set(known)
        for some in chunks(known, TOGETHER):
            target, seen = self._induced(keyframes, some)
            old = torch.stack([self._measured_with[p] for p in some])
            step = torch.linalg.vector_norm(target - old, dim=-1)
            median = torch.where(seen, step, torch.nan).nanmedian(-1).values
            far = median > self.config.bundle_adjustment.remeasure
            moved |= {p for p, stale in zip(some, far.tolist(), strict=True) if stale}
        return [p for p in pairs if p in moved]

    def _induced(
        self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge]
    ) -> tuple[Tensor, Tensor]:
        """Where the map says that i's grid pixels land in j [N, P, 2] px, and which are seen."""
        depth = InverseDepth(
            torch.stack([keyframes[i].depth.value for i, _ in pairs]),
            torch.stack([keyframes[i].depth.information for i, _ in pairs]),
        )
        T_WC = [torch.stack([keyframes[k].T_WC for k in ends]) for ends in zip(*pairs, strict=True)]
        return project_grid(self.predictor.grid, depth, relative(*T_WC), self._intrinsics)

    def _measure(self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge]) -> None:
        """Measures undirected pairs, both ways, from the flow that the map induces."""
        measured: dict[Edge, Correspondence] = {}
        for some in chunks(pairs, TOGETHER):
            ahead, _ = self._induced(keyframes, some)
            back, _ = self._induced(keyframes, [(j, i) for i, j in some])
            near = [j in self._neighbours(keyframes, i) for i, j in some]
            one = partial(self._measure_pair, keyframes)
            for edges in self._pool.map(one, some, ahead, back, near):
                measured |= edges
            self._measured_with |= dict(zip(some, (t.clone() for t in ahead), strict=True))
        self.graph.set_edges(pairs, measured)

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
        return {e: c for e, c in edges.items() if near or share[e] > minimum}

    def _adjust_window(self, keyframes: Sequence[Keyframe], number: int) -> Sequence[Keyframe]:
        """The last keyframes move; those linked to them take part as they are."""
        settings = self.config.bundle_adjustment
        if number < 2:
            return keyframes
        first = max(0, number + 1 - settings.window)
        anchors = 1 if first == 0 else settings.anchors
        window = range(first, number + 1)
        edges = {e: c for e, c in self.graph.edges_at(window).items() if max(e) <= number}
        linked = sorted({k for e in edges for k in e} | set(window))
        free = range(first + anchors, number + 1)
        fixed = [k not in free for k in linked]
        part = Part(linked, edges, fixed, held=[k not in window for k in linked])
        return self._adopt(keyframes, part, self._solve(keyframes, part, settings.iterations))

    def _adjust_all(self, keyframes: Sequence[Keyframe], iterations: int) -> None:
        """Everything moves but the first pose; the focal length too where it is unknown."""
        part = self._everything(keyframes)
        solved = self._solve(keyframes, part, iterations, free_focal=self.refine_focal)
        self._adopt(keyframes, part, solved)

    def _search_focal(self, keyframes: Sequence[Keyframe]) -> Sequence[Keyframe]:
        """The same from several focal lengths while the map is small; the one that costs least."""
        focal = self.config.focal
        part = self._everything(keyframes)
        factors = focal.factors() if len(keyframes) < focal.settled else (1.0,)
        results = [
            self._solve(keyframes, part, focal.iterations, free_focal=True, factor=factor)
            for factor in factors
        ]
        return self._adopt(keyframes, part, min(results, key=lambda r: r.cost))

    def _search_readout(self, keyframes: Sequence[Keyframe]) -> None:
        """Adjusts the last keyframes with three readout times; their costs tell the best one."""
        settings, count = self.config.shutter, len(keyframes)
        grown = max(count + 1, int(count * settings.growth))
        self._readout_at = grown if count < settings.settled else float("inf")
        window = range(max(0, count - settings.settled), count)
        edges = {e: c for e, c in self.graph.edges_at(window).items() if set(e) <= set(window)}
        if count < settings.first or not edges:
            return
        part = Part([*window], edges, [k == window[0] for k in window], [False for _ in window])
        now, iterations = self._readout, self.config.bundle_adjustment.iterations
        tried = [now - settings.step, now, now + settings.step]
        costs = [
            self._solve(keyframes, part, iterations, readout=r, huber=settings.huber).cost
            for r in tried
        ]
        self._readout_cost = self._readout_cost.plus(tried, [c * len(edges) for c in costs])
        self._readout = self._readout_cost.best(settings.limit, settings.least_gain)
        self._adopt(keyframes, part, self._solve(keyframes, part, iterations))

    def _everything(self, keyframes: Sequence[Keyframe]) -> Part:
        numbers = list(range(len(keyframes)))
        edges = {e: c for e, c in self.graph.edges().items() if max(e) < len(keyframes)}
        return Part(numbers, edges, [k == 0 for k in numbers], [False for _ in numbers])

    def _solve(
        self,
        keyframes: Sequence[Keyframe],
        part: Part,
        iterations: int,
        *,
        free_focal: bool = False,
        factor: float = 1.0,
        readout: float | None = None,
        huber: float | None = None,
    ) -> BundleAdjustment:
        """Bundle adjustment of a part of the map, from `factor` times the focal length.

        Args:
            readout: s, of a rolling shutter; None = as estimated now.
            huber: sigma; None = as set.
        """
        settings = self.config.bundle_adjustment
        settings = settings if huber is None else replace(settings, huber=huber)
        fx, fy, cx, cy = self._intrinsics
        readout = self._readout if readout is None else readout
        edges = self._unrolled(keyframes, part, readout)
        place = {k: n for n, k in enumerate(part.numbers)}
        return bundle_adjust(
            self.predictor.grid,
            BundleAdjustment(
                torch.stack([keyframes[k].T_WC for k in part.numbers]),
                tuple(keyframes[k].depth for k in part.numbers),
                (factor * fx, factor * fy, cx, cy),
            ),
            {(place[i], place[j]): c for (i, j), c in edges.items()},
            part.fixed,
            part.held,
            settings,
            self.config.mapping,
            iterations=iterations,
            refine_focal=free_focal,
            relative_decrease=self.config.focal.relative_decrease if free_focal else None,
            prior=self._priors(keyframes, part),
        )

    def _priors(self, keyframes: Sequence[Keyframe], part: Part) -> list[InverseDepth] | None:
        """Depths of a part that are known besides by its edges; flow knows none."""
        return None

    def _unrolled(
        self, keyframes: Sequence[Keyframe], part: Part, readout: float
    ) -> dict[Edge, Correspondence]:
        """The edges of a part as a global shutter would have measured them."""
        if readout == 0.0 or not part.edges:
            return part.edges
        grid, intrinsics = self.predictor.grid, self._intrinsics
        indices = [keyframes[k].frame.index for k in part.numbers]
        twists = self.graph.twists(indices, self._until)
        twist = dict(zip(part.numbers, twists, strict=True))
        T_WC = torch.stack([torch.stack([keyframes[k].T_WC for k in e]) for e in part.edges])
        T_ji = relative(T_WC[:, 0], T_WC[:, 1])
        out = {}
        for (i, j), T in zip(part.edges, T_ji, strict=True):
            shutter = Shutter(readout, grid.height, twist[i], twist[j])
            value = keyframes[i].depth.value
            out[i, j] = unroll(grid.pixel, value, part.edges[i, j], T, intrinsics, shutter)
        return out

    def _adopt(
        self, keyframes: Sequence[Keyframe], part: Part, result: BundleAdjustment
    ) -> Sequence[Keyframe]:
        """Keeps the result for publishing; returns the keyframes with it."""
        if sum(part.fixed) < 2:
            result = in_scale_of(torch.stack([keyframes[k].T_WC for k in part.numbers]), result)
        self.last_cost, self._intrinsics = result.cost, result.intrinsics
        if np.isfinite(result.focal_sigma):
            self.focal_sigma = result.focal_sigma
        ends = list(enumerate(part.numbers))
        poses = {k: result.T_WC[n] for n, k in ends if not part.fixed[n]}
        depths = {k: result.depth[n] for n, k in ends if not part.held[n]}
        newest = len(keyframes) - 1
        self._adjusted.append(Adjusted(poses, depths, result.intrinsics, newest))
        out = list(keyframes)
        for k in poses.keys() | depths.keys():
            old = keyframes[k]
            out[k] = replace(old, T_WC=poses.get(k, old.T_WC), depth=depths.get(k, old.depth))
        return out


def chunks(pairs: Sequence[Edge], size: int) -> Iterator[Sequence[Edge]]:
    """The pairs in order, `size` at a time."""
    return (pairs[n : n + size] for n in range(0, len(pairs), size))
