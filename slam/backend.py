"""The backend: edges for a new keyframe, windowed dense BA, the global adjustment at the end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from slam.adjustment import Adjusted, Part, in_scale_of
from slam.config import Config
from slam.edges import Edges
from slam.frame import Correspondence, InverseDepth, Keyframe
from slam.graph import Edge, Graph, kept_keyframe, rescaled_keyframe
from slam.lie import se3_to_sim3, sim3_to_se3
from slam.loops import Loop, LoopSearch, relative_edges, similarity
from slam.mapping import relative
from slam.optimization import BundleAdjustment, bundle_adjust, optimise_relative_poses
from slam.places import Places
from slam.predictors import Predictor
from slam.relocalization import Relocaliser
from slam.shutter import ReadoutCost, Shutter, unroll
from slam.standing import BackendStanding
from slam.timing import Timings

log = logging.getLogger(__name__)

BELIEVED = 0.25  # of a loop, in the end, for it to become an edge
HURRIED = 2  # neighbours that keyframes are linked to while there are more to link


class Backend:
    """Keeps the map consistent. One `step` for each new keyframe, one `finish` at the end."""

    def __init__(
        self,
        predictor: Predictor,
        graph: Graph,
        config: Config,
        timings: Timings,
        places: Places,
        refine_focal: bool,
        edges: Edges | None = None,
    ) -> None:
        """Args: edges: how pairs of keyframes are measured; None = by flow."""
        self.predictor = predictor
        self.edges = edges or Edges(predictor, graph, config)
        self.places = places
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
        self._relocaliser = Relocaliser(predictor, config, places, one_thread=True)
        self._loops = LoopSearch(places, config, self.verify)
        self.standing = self._stands()  # as published

    def close(self) -> None:
        """Ends the helper threads."""
        self.edges.close()

    def reset(self) -> None:
        """Forgets what belonged to a discarded start."""
        self._adjusted = []
        self.edges.clear()
        self.places.clear()
        self._loops.clear()
        self._free_focal_at = self.config.focal.first
        self._readout_at, self._readout_cost = self.config.shutter.first, ReadoutCost()
        self._readout = self.config.shutter.readout or 0.0
        self.graph.set_readout(self._readout)
        self.focal_sigma, self.last_cost = float("inf"), float("nan")
        self.standing = self._stands()

    def _stands(self) -> BackendStanding:
        return BackendStanding(
            self._free_focal_at,
            self._readout_at,
            self._readout_cost,
            self.focal_sigma,
            self.last_cost,
        )

    def take_up(self, standing: BackendStanding) -> None:
        """Goes on with the map that is there; its pairs are measured again in the end."""
        self._free_focal_at = standing.free_focal_at
        self._readout_at, self._readout_cost = standing.readout_at, standing.readout_cost
        self.focal_sigma, self.last_cost = standing.focal_sigma, standing.last_cost
        self._readout, self._intrinsics = self.graph.readout, self.graph.intrinsics
        self.standing = standing

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
            self._link(keyframes, new, *counts)
        keyframes = self._close_loops(keyframes, first)
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
        self.standing = self._stands()

    def finish(self) -> None:
        """Global rounds: edges to all covisible keyframes, flow measured again, all moves."""
        settings = self.config.bundle_adjustment
        self._intrinsics, self._until = self.graph.intrinsics, None
        if self.config.shutter.readout is None and np.isfinite(self._readout_at):
            with self.timings.measure("final shutter"):
                self._search_readout(self.graph.keyframes())
                self.publish()
        enough = len(self.graph) > max(1, self.graph.frozen)
        for _ in range(settings.global_rounds if enough else 0):
            if self.hurry.is_set():
                return
            keyframes = self.graph.keyframes()
            with self.timings.measure("final edges"):
                self.edges.keep(self._link_all(keyframes))
            with self.timings.measure("final adjustment"):
                self._adjust_all(keyframes, settings.global_iterations)
                self.publish()

    def _link(
        self, keyframes: Sequence[Keyframe], new: Iterable[int], neighbours: int, covisible: int
    ) -> list[Edge]:
        """Measures edges from new keyframes to their neighbours and those that see the same."""
        counts = neighbours, covisible, self._intrinsics
        pairs = [p for n in new for p in self.edges.new_pairs(keyframes[: n + 1], n, *counts)]
        self.edges.measure(keyframes, pairs, self._intrinsics)
        return pairs

    def _link_all(self, keyframes: Sequence[Keyframe]) -> list[Edge]:
        """Measures all pairs that see the same, as far as that is not done; returns them."""
        pairs = self.edges.all_pairs(keyframes, self._intrinsics)
        stale = self.edges.stale(keyframes, pairs, self._intrinsics)
        self.edges.measure(keyframes, stale, self._intrinsics)
        return pairs

    # --- loops --------------------------------------------------------------------------------

    def _close_loops(self, keyframes: Sequence[Keyframe], first: int) -> Sequence[Keyframe]:
        """Looks where new keyframes, from `first` on, have been before, and mends the map there."""
        self.places.take(keyframes)
        for number in range(first, len(keyframes)):
            with self.timings.measure("backend loops", number):
                linked = {k for e in self.graph.edges_at([number]) for k in e} - {number}
                found = self._loops.find(keyframes, number, linked)
                keyframes, believed = self._bend(keyframes, found.loops)
                pairs = sorted({(v.older, v.newer) for v in (*believed, *found.links)})
                self.edges.measure_loops(keyframes, pairs, self._intrinsics)
                if believed:
                    keyframes = self._adjust_after_loop(keyframes)
        return keyframes

    def tie(self, loops: Sequence[Loop]) -> None:
        """Mends the map by loops that are believed, and publishes it."""
        self._intrinsics, self._until = self.graph.intrinsics, None
        keyframes, believed = self._bend(self.graph.keyframes(), loops)
        pairs = sorted({(v.older, v.newer) for v in believed})
        self.edges.measure_loops(keyframes, pairs, self._intrinsics)
        self._adjust_after_loop(keyframes)
        self.publish()

    def verify(self, keyframes: Sequence[Keyframe], older: int, newer: int) -> Tensor | None:
        """T_on [8] by what is seen in both; see `loops.Verify`."""
        one, other = keyframes[older], keyframes[newer]
        found = self._relocaliser.verify(one, other.frame, self._intrinsics)
        if found is None:
            return None
        ends = one, other, found.result.T_fk, found.pair.forward
        spread = self.config.loops.scale_spread
        return similarity(*ends, self.predictor.grid, self._intrinsics, spread)

    def _bend(
        self, keyframes: Sequence[Keyframe], loops: Sequence[Loop]
    ) -> tuple[Sequence[Keyframe], Sequence[Loop]]:
        """Spreads what loops tell over all keyframes, in Sim(3); returns those it believes, too."""
        if not loops:
            return keyframes, ()
        T_WC = se3_to_sim3(torch.stack([k.T_WC for k in keyframes]))
        ties = relative_edges(keyframes, self.graph.edges(), loops, self.config.loops.sigma)
        stay = max(1, self.graph.frozen)
        fixed = [number < stay for number in range(len(keyframes))]
        solved = optimise_relative_poses(T_WC, ties, fixed)
        if solved.failure:
            log.warning("loop of keyframes %s: %s", [v.newer for v in loops], solved.failure)
            return keyframes, ()
        trust = solved.trust[-len(loops) :].tolist()
        believed = [v for v, share in zip(loops, trust, strict=True) if share > BELIEVED]
        for loop in believed:
            log.info("loop: keyframe %d sees what %d saw", loop.newer, loop.older)
        free = range(stay, len(keyframes))
        return self._moved(keyframes, {k: solved.T_WC[k] for k in free}), believed

    def _adjust_after_loop(self, keyframes: Sequence[Keyframe]) -> Sequence[Keyframe]:
        """Everything moves, with the new edges."""
        return self._adjust_all(keyframes, self.config.bundle_adjustment.global_iterations)

    def _moved(self, keyframes: Sequence[Keyframe], T_WC: dict[int, Tensor]) -> Sequence[Keyframe]:
        """Keeps poses [8] for publishing, their scale in the depths; returns the keyframes so."""
        out = list(keyframes)
        scales = {number: float(T[7]) for number, T in T_WC.items()}
        for number, T in T_WC.items():
            moved = rescaled_keyframe(keyframes[number], sim3_to_se3(T), scales[number])
            out[number] = kept_keyframe(self.graph.pages, moved)
        poses, newest = {number: out[number].T_WC for number in T_WC}, len(keyframes) - 1
        self._adjusted.append(Adjusted(poses, {}, self._intrinsics, newest, scales))
        return out

    # --- adjustment ---------------------------------------------------------------------------

    def _adjust_window(self, keyframes: Sequence[Keyframe], number: int) -> Sequence[Keyframe]:
        """The last keyframes move; those linked to them take part as they are."""
        settings = self.config.bundle_adjustment
        if number < 2:
            return keyframes
        first = max(0, number + 1 - settings.window)
        anchors = 1 if first == 0 else settings.anchors
        frozen = self.graph.frozen
        window = range(max(first, frozen), number + 1)
        free = range(max(first + anchors, frozen), number + 1)
        edges = {e: c for e, c in self.graph.edges_at(window).items() if max(e) <= number}
        if not edges:  # it sees what no other does
            return keyframes
        linked = sorted({k for e in edges for k in e} | set(window))
        fixed = [k not in free for k in linked]
        part = Part(linked, edges, fixed, held=[k not in window for k in linked])
        return self._adopt(keyframes, part, self._solve(keyframes, part, settings.iterations))

    def _adjust_all(self, keyframes: Sequence[Keyframe], iterations: int) -> Sequence[Keyframe]:
        """Everything moves but the first pose; the focal length too where it is unknown."""
        part = self._everything(keyframes)
        if not part.edges:
            return keyframes
        solved = self._solve(keyframes, part, iterations, free_focal=self.refine_focal)
        return self._adopt(keyframes, part, solved)

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
        """All that may change and what is linked to it; the first pose and what is frozen stay."""
        frozen, count = self.graph.frozen, len(keyframes)
        edges = {e: c for e, c in self.graph.edges().items() if frozen <= max(e) < count}
        numbers = sorted({k for e in edges for k in e} | set(range(frozen, count)))
        fixed = [k < frozen or k == numbers[0] for k in numbers]
        return Part(numbers, edges, fixed, [k < frozen for k in numbers])

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
            pages=self.graph.pages,
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
        grid, intrinsics, keep = self.predictor.grid, self._intrinsics, self.graph.pages.keep
        indices = [keyframes[k].frame.index for k in part.numbers]
        twists = self.graph.twists(indices, self._until)
        twist = dict(zip(part.numbers, twists, strict=True))
        T_WC = torch.stack([torch.stack([keyframes[k].T_WC for k in e]) for e in part.edges])
        T_ji = relative(T_WC[:, 0], T_WC[:, 1])
        out = {}
        for (i, j), T in zip(part.edges, T_ji, strict=True):
            shutter = Shutter(readout, grid.height, twist[i], twist[j])
            value = keyframes[i].depth.value
            out[i, j] = keep(unroll(grid.pixel, value, part.edges[i, j], T, intrinsics, shutter))
        return out

    def _adopt(
        self, keyframes: Sequence[Keyframe], part: Part, result: BundleAdjustment
    ) -> Sequence[Keyframe]:
        """Keeps the result for publishing; returns the keyframes with it."""
        if sum(part.fixed) < 2:
            before = [keyframes[k].T_WC for k in part.numbers]
            result = in_scale_of(before, result, self.graph.pages)
        self.last_cost, self._intrinsics = result.cost, result.intrinsics
        if np.isfinite(result.focal_sigma):
            self.focal_sigma = result.focal_sigma
        ends = list(enumerate(part.numbers))
        poses = {k: result.T_WC[n] for n, k in ends if not part.fixed[n]}
        depths = {k: result.depth[n] for n, k in ends if not part.held[n]}
        self._adjusted.append(Adjusted(poses, depths, result.intrinsics, len(keyframes) - 1))
        out = list(keyframes)
        for k in poses.keys() | depths.keys():
            old = keyframes[k]
            out[k] = replace(old, T_WC=poses.get(k, old.T_WC), depth=depths.get(k, old.depth))
        return out
