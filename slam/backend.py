"""The backend: edges for a new keyframe, windowed dense BA, the global adjustment at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from slam.adjuster import Adjuster
from slam.config import Config
from slam.edges import Edges
from slam.frame import Keyframe
from slam.graph import Edge, Graph
from slam.lie import se3_to_sim3, sim3_mul
from slam.loops import Loop, LoopSearch, regrown, relative_edges, similarity
from slam.optimization import optimise_relative_poses
from slam.places import Places
from slam.predictors import Predictor
from slam.relocalization import Relocaliser
from slam.standing import BackendStanding
from slam.submap_search import Join, SubmapSearch
from slam.submaps import Submaps
from slam.timing import Timings

log = logging.getLogger(__name__)

BELIEVED = 0.25  # of a loop, in the end, for it to become an edge
HURRIED = 2  # neighbours that keyframes are linked to while there are more to link


class Backend(Adjuster):
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
        super().__init__(predictor, graph, config, refine_focal)
        self.edges = edges or Edges(predictor, graph, config)
        self.places = places
        self.timings = timings
        self.edges.hurry = self.hurry
        self._relocaliser = Relocaliser(predictor, config, places, one_thread=True)
        self._loops = LoopSearch(places, config, self.verify)
        self._joins = SubmapSearch(places, config, self.verify)

    def close(self) -> None:
        """Ends the helper threads."""
        self.edges.close()

    def reset(self, first: int = 0) -> None:
        """Forgets what belonged to a discarded start. Args: first: its first keyframe."""
        self._adjusted = []
        self.edges.forget(first)
        if len(self.places) > first:
            self.places.clear()
            self.places.take(self.graph.keyframes()[:first])
        self._loops.forget(first)
        self._joins.forget(first)
        if first == 0:  # else the camera is known from the other submaps
            self._forget_camera()

    def take_up(self, standing: BackendStanding) -> None:
        """Goes on with the map that is there; its pairs are measured again in the end."""
        self._free_focal_at = standing.free_focal_at
        self._readout_at, self._readout_cost = standing.readout_at, standing.readout_cost
        self.focal_sigma, self.last_cost = standing.focal_sigma, standing.last_cost
        self._readout = self.graph.readout
        self._begin(None)
        self.standing = standing

    def _know(self, submaps: Submaps) -> None:
        super()._know(submaps)
        self.edges.submaps = submaps

    def step(self, keyframes: Sequence[Keyframe], first: int) -> None:
        """Links new keyframes to their neighbours; adjusts the window that the last one ends.

        Poses, depths, focal length and readout are the graph's once they are published.

        Args:
            keyframes: as they were when the last one was made.
            first: number of the first one that is new.
        """
        number = len(keyframes) - 1
        self._begin(max(k.frame.index for k in keyframes))
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

    def finish(self) -> None:
        """Global rounds; once more where they let submaps be joined."""
        self._begin(None)
        if self.config.shutter.readout is None and np.isfinite(self._readout_at):
            with self.timings.measure("final shutter"):
                self._search_readout(self.graph.keyframes())
                self.publish()
        self._adjust_globally()
        if self._submaps.several and not self.hurry.is_set():
            with self.timings.measure("final joins"):
                joined = self._join_last()
            if joined:
                self._adjust_globally()

    def _adjust_globally(self) -> None:
        """Rounds of edges to all covisible keyframes, flow measured again; all moves."""
        settings = self.config.bundle_adjustment
        enough = len(self.graph) > max(1, self.graph.frozen)
        for _ in range(settings.global_rounds if enough else 0):
            if self.hurry.is_set():
                return
            keyframes = self.graph.keyframes()
            with self.timings.measure("final edges"):
                pairs = self._link_all(keyframes)
                if self.hurry.is_set():
                    return
                self.edges.keep(pairs)
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
        self.places.take(keyframes[: self._proved(len(keyframes))])
        for number in range(first, len(keyframes)):
            if self.hurry.is_set():
                break
            with self.timings.measure("backend loops", number):
                linked = {k for e in self.graph.edges_at([number]) for k in e} - {number}
                found = self._loops.find(keyframes, number, linked, self._submaps)
                keyframes, believed = self._bend(keyframes, found.loops)
                pairs = sorted({(v.older, v.newer) for v in (*believed, *found.links)})
                self.edges.measure_loops(keyframes, pairs, self._intrinsics)
                if believed:
                    keyframes = self._adjust_after_loops(keyframes, believed)
                keyframes, _ = self._join(
                    keyframes, self._joins.find(keyframes, number, self._submaps)
                )
        return keyframes

    def _proved(self, count: int) -> int:
        """Keyframes, of so many, before a submap that may yet be discarded."""
        name = self._submaps.of(count - 1)
        long = len(self._submaps.members(name, count)) > self.config.start.trial_keyframes
        return count if name == 0 or long else name

    def _join(
        self, keyframes: Sequence[Keyframe], join: Join | None
    ) -> tuple[Sequence[Keyframe], bool]:
        """Moves a submap into another one's world, ties and adjusts both; whether it was done."""
        if join is None:
            return keyframes, False
        before = keyframes, self._submaps, len(self._adjusted)
        known, into = len(keyframes), {join.gone: join.into}
        poses = {
            k: sim3_mul(join.T, se3_to_sim3(keyframes[k].T_WC))
            for k in self._submaps.members(join.gone, known)
        }
        self._know(self._submaps.joined(into))
        keyframes = self._moved(keyframes, poses, joined=into)
        loops = [regrown(v, float(join.T[7])) for v in join.loops]
        keyframes, believed = self._bend(keyframes, loops)
        pairs = sorted({(min(e), max(e)) for e in ((v.older, v.newer) for v in believed)})
        self.edges.measure_loops(keyframes, pairs, self._intrinsics)
        if not {e for e in pairs if self.graph.edges_at([e[0]]).keys() & {e, e[::-1]}}:
            self._know(before[1])
            del self._adjusted[before[2] :]
            return before[0], False
        log.info("submap %d is %.3f times as large in submap %d", join.gone, join.T[7], join.into)
        return self._adjust_after_loops(keyframes, believed), True

    def _join_last(self) -> bool:
        """Joins what is still apart and sees the same, with final depths; whether anything was."""
        self.places.take(self.graph.keyframes())
        done, refused = False, set[tuple[int, int]]()
        while True:
            keyframes, stop = self.graph.keyframes(), self.hurry.is_set
            join = self._joins.find_last(keyframes, self._submaps, refused, stop)
            if join is None:
                return done
            _, joined = self._join(keyframes, join)
            if joined:
                self.publish()
                done = True
            else:
                refused.add((join.into, join.gone))

    def tie(self, loops: Sequence[Loop]) -> None:
        """Mends the map by loops that are believed, and publishes it."""
        self._begin(None)
        keyframes, believed = self._bend(self.graph.keyframes(), loops)
        pairs = sorted({(v.older, v.newer) for v in believed})
        self.edges.measure_loops(keyframes, pairs, self._intrinsics)
        self._adjust_after_loops(keyframes, believed)
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
        members = self._submaps.members(self._submaps.of(loops[0].newer), len(keyframes))
        place = {k: n for n, k in enumerate(members)}
        measured = {(place[i], place[j]) for i, j in self.graph.edges() if {i, j} <= place.keys()}
        told = [replace(v, older=place[v.older], newer=place[v.newer]) for v in loops]
        own = [keyframes[k] for k in members]
        ties = relative_edges(own, measured, told, self.config.loops.sigma)
        fixed = [k < self.graph.frozen or k == members[0] for k in members]
        T_WC = se3_to_sim3(torch.stack([k.T_WC for k in own]))
        solved = optimise_relative_poses(T_WC, ties, fixed)
        if solved.failure:
            log.warning("loop of keyframes %s: %s", [v.newer for v in loops], solved.failure)
            return keyframes, ()
        trust = solved.trust[-len(loops) :].tolist()
        believed = [v for v, share in zip(loops, trust, strict=True) if share > BELIEVED]
        for loop in believed:
            log.info("loop: keyframe %d sees what %d saw", loop.newer, loop.older)
        free = {k: solved.T_WC[n] for n, k in enumerate(members) if not fixed[n]}
        return self._moved(keyframes, free), believed

    def _adjust_after_loops(
        self, keyframes: Sequence[Keyframe], loops: Sequence[Loop]
    ) -> Sequence[Keyframe]:
        """Their submap moves, with the new edges; a large one around them."""
        if not loops:
            return keyframes
        ends = dict.fromkeys(k for v in loops for k in (v.newer, v.older))
        iterations = self.config.bundle_adjustment.global_iterations
        return self._adjust_near(keyframes, [*ends], iterations)
