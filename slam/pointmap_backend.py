"""The backend on pointmaps: Sim(3) pose graph; dense BA too, as soon as the camera is known."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from slam.adjustment import Adjusted, Part
from slam.backend import Backend
from slam.config import Config
from slam.frame import (
    FusedPointmap,
    InverseDepth,
    Keyframe,
    PairGuess,
    Pointmap,
)
from slam.graph import Edge, Graph
from slam.initialization import identity
from slam.lie import se3_to_sim3
from slam.loops import Loop
from slam.optimization import optimise_pose_graph
from slam.places import Places
from slam.pointmap_attempt import solve
from slam.pointmap_edges import PointmapEdges
from slam.pointmap_fusion import grid_depth, known_points
from slam.pointmap_residuals import on_rays
from slam.predictors import PointmapPredictor
from slam.self_calibration import SelfCalibration
from slam.standing import BackendStanding
from slam.timing import Timings

log = logging.getLogger(__name__)


class PointmapBackend(Backend):
    """Edges are pairs of pointmaps matched both ways; their matches are kept, a few bytes each.

    Comparing rays, a window of keyframes moves in Sim(3); their scale goes into their points. With
    a known camera that places the new keyframe, and the matches are the flow of dense bundle
    adjustment, the pointmaps priors of its depths. Where the camera comes back to older keyframes,
    what their links tell is spread over all by relative poses.
    """

    def __init__(
        self,
        predictor: PointmapPredictor,
        graph: Graph,
        config: Config,
        timings: Timings,
        places: Places,
        calibrated: bool,
    ) -> None:
        edges = PointmapEdges(predictor, graph, config)
        parts = graph, config, timings, places
        super().__init__(predictor, *parts, refine_focal=not calibrated, edges=edges)
        self._factors = edges.factors
        self.settings = config.pointmap
        self._calibration = SelfCalibration(graph.intrinsics, config.pointmap)
        self._pinhole = calibrated  # as known now
        self._readout_at = float("inf")  # pointmaps are taken as of one moment
        self._far_last = -1 - config.retrieval.exclude  # keyframe last linked to far older ones
        self._far_count = 0  # of them, one soon after the other
        self.standing = self._stands()
        graph.set_pinhole(calibrated)

    @property
    def _dense(self) -> bool:
        """Whether depths are adjusted, not poses and scales alone."""
        return self._pinhole and self.settings.dense

    def take_up(self, standing: BackendStanding) -> None:
        """Goes on with the map that is there: its pairs are matched again where it may change."""
        super().take_up(standing)
        self._pinhole = self.graph.pinhole
        free = [e for e in self.graph.edges() if max(e) >= self.graph.frozen]
        pairs = sorted({(min(e), max(e)) for e in free})
        self.edges.measure(self.graph.keyframes(), pairs, self._intrinsics)

    def step(self, keyframes: Sequence[Keyframe], first: int) -> None:
        """Links new keyframes, and adjusts; see `Backend.step`."""
        number, settings = len(keyframes) - 1, self.config.bundle_adjustment
        self._begin(None)
        with self.timings.measure("backend edges", number):
            counts = settings.neighbours, settings.covisible_at_once
            new = range(first, number + 1)
            pairs = self._link(keyframes, new, *counts)
        self._calibrate(keyframes)
        keyframes = self._close_loops(keyframes, first)
        window = self._submaps.members(self._submaps.of(number), number + 1)[-settings.window :]
        far = [p for p in pairs if p[0] < window[0] and p in self._factors]
        if self._is_return(number, bool(far)):
            with self.timings.measure("backend return", number):
                keyframes = self._return(keyframes, far)
        with self.timings.measure("backend pose graph", number):
            free = new if self._dense else window
            keyframes = self._adjust_poses(keyframes, set(free))
        if self._dense:
            with self.timings.measure("backend window", number):
                self._adjust_window(keyframes, number)

    def _is_return(self, number: int, far: bool) -> bool:
        """Whether what a keyframe's links to older ones tell is to be spread over the map.

        It is where the one before had none, and at the 2nd, 4th, 8th, ... of those that follow it:
        what they add to what the first have brought gets less, and the time that a keyframe takes
        does not grow with the map.
        """
        if not far:
            return False
        if number - self._far_last > self.config.retrieval.exclude:
            self._far_count = 0
        self._far_last, self._far_count = number, self._far_count + 1
        return self._far_count.bit_count() == 1

    def _return(self, keyframes: Sequence[Keyframe], far: Sequence[Edge]) -> Sequence[Keyframe]:
        """Spreads over all keyframes what links to older ones tell."""
        seen = [Loop(o, n, T) for o, n in far if (T := self.verify(keyframes, o, n)) is not None]
        seen = [loop for loop in seen if self._loops.plausible(keyframes, loop, self._submaps)]
        keyframes, believed = self._bend(keyframes, seen)
        return self._adjust_after_loops(keyframes, believed)

    def publish(self) -> None:
        """Hands what was found to the graph."""
        super().publish()
        self.graph.set_pinhole(self._pinhole)

    def finish(self) -> None:
        """All edges, then everything moves: depths too where the camera is known."""
        self._finish_poses()
        if self._dense:
            super().finish()
        elif self._submaps.several and not self.hurry.is_set() and self._join_last():
            self._finish_poses()

    def _finish_poses(self) -> None:
        """The same for poses and scales alone."""
        if len(self.graph) < 2 or self.hurry.is_set():
            return
        self._begin(None)
        keyframes = self.graph.keyframes()
        with self.timings.measure("final edges"):
            self._link_all(keyframes)
        self._calibrate(keyframes)
        with self.timings.measure("final adjustment"):
            self._adjust_poses(keyframes, set(range(len(keyframes))))
            self.publish()

    def reset(self, first: int = 0) -> None:
        """Pointmaps start no map twice: there is nothing to discard."""
        raise RuntimeError("wanted a map of pointmaps to go on, got a start discarded")

    def _calibrate(self, keyframes: Sequence[Keyframe]) -> None:
        """Takes the focal length from the pointmaps until keyframes agree on it."""
        if self._pinhole or self.graph.frozen:
            return
        for number, keyframe in enumerate(keyframes):
            self._calibration.observe(number, pointmap_of(keyframe))
        self._intrinsics = self._calibration.intrinsics
        self.focal_sigma = self._calibration.sigma
        self._pinhole = self._calibration.is_stable
        if self._pinhole:
            log.info("the camera is known from %d keyframes: pixels, not rays", len(keyframes))
        self._adjusted.append(Adjusted({}, {}, self._intrinsics, len(keyframes) - 1))

    def _adjust_poses(self, keyframes: Sequence[Keyframe], free: set[int]) -> Sequence[Keyframe]:
        """Pose graph of some keyframes and those linked to them; scales go into their points.

        Args: free: numbers of those that move, but for each submap's first and what is frozen.
        """
        free = {k for k in free if k >= self.graph.frozen} - set(self._submaps.every)
        factors = [f for e, f in sorted(self._factors.items()) if free & set(e)]
        numbers = sorted({k for f in factors for k in (f.i, f.j)} | free)
        if not factors:
            return keyframes
        place = {k: n for n, k in enumerate(numbers)}
        solution = optimise_pose_graph(
            torch.stack([se3_to_sim3(keyframes[k].T_WC) for k in numbers]),
            [self._points(keyframes[k]) for k in numbers],
            [replace(f, i=place[f.i], j=place[f.j]) for f in factors],
            [k not in free for k in numbers],
            self.settings.residuals,
            self.settings.pose_graph,
            self._intrinsics if self._pinhole else None,
        )
        if solution.failure:
            log.warning("pose graph of keyframes %s: %s", numbers, solution.failure)
            return keyframes
        return self._moved(keyframes, {k: solution.T_WC[place[k]] for k in sorted(free)})

    def _points(self, keyframe: Keyframe) -> Tensor:
        """What the pose graph compares [H, W, 3]; 0 where nothing is known."""
        X_C = known_points(pointmap_of(keyframe))
        return on_rays(X_C, self._intrinsics) if self._pinhole else X_C

    def verify(self, keyframes: Sequence[Keyframe], older: int, newer: int) -> Tensor | None:
        """T_on [8] by the points of both; see `loops.Verify`."""
        one, other = keyframes[older], keyframes[newer]
        pair = self.predictor.pair(one.frame.features, other.frame.features, PairGuess())
        intrinsics = self._intrinsics if self._pinhole else None
        found = solve(one, pair, identity(), self.settings, intrinsics)
        unit = unit_of(pointmap_of(other), found.found.searched)
        if unit is None or not found.verified(self.settings):
            return None
        T_on = found.T_kf.clone()
        T_on[7] /= unit
        return T_on

    def _adjust_after_loops(
        self, keyframes: Sequence[Keyframe], loops: Sequence[Loop]
    ) -> Sequence[Keyframe]:
        """As the flow's where the camera is known; else nothing until the end, which is long."""
        return super()._adjust_after_loops(keyframes, loops) if self._dense else keyframes

    def _priors(self, keyframes: Sequence[Keyframe], part: Part) -> list[InverseDepth] | None:
        """What the pointmaps say of the depths."""
        grid, sigma = self.predictor.grid, self.settings.prior_sigma
        return [grid_depth(grid, pointmap_of(keyframes[k]), sigma) for k in part.numbers]


def pointmap_of(keyframe: Keyframe) -> FusedPointmap:
    """A keyframe's pointmap, which all of this predictor's have."""
    if keyframe.pointmap is None:
        raise TypeError(f"frame {keyframe.frame.index}: wanted a keyframe with a pointmap")
    return keyframe.pointmap


def unit_of(fused: FusedPointmap, seen: Pointmap) -> float | None:
    """How long the unit of a pair's pointmap is in the keyframe's own; None = nothing tells."""
    used = (fused.confidence > 0) & (seen.confidence > 0)
    if not used.any():
        return None
    own, other = (torch.linalg.vector_norm(X[used], dim=-1) for X in (fused.X_C, seen.X_C))
    return float((own / other.clamp(min=1e-12)).median())
