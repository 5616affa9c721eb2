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
from slam.frame import Correspondence, FusedPointmap, InverseDepth, Keyframe
from slam.graph import Edge, Graph
from slam.lie import se3_to_sim3, sim3_to_se3
from slam.optimization import PointmapFactor, factor_of, optimise_pose_graph
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
    adjustment, the pointmaps priors of its depths. Links to older keyframes move everything.
    """

    def __init__(
        self,
        predictor: PointmapPredictor,
        graph: Graph,
        config: Config,
        timings: Timings,
        calibrated: bool,
    ) -> None:
        super().__init__(predictor, graph, config, timings, refine_focal=not calibrated)
        self.settings = config.pointmap
        self._factors: dict[Edge, PointmapFactor] = {}  # (matched in, whose pixels)
        self._calibration = SelfCalibration(graph.intrinsics, config.pointmap)
        self._pinhole = calibrated  # as known now
        self._readout_at = float("inf")  # pointmaps are taken as of one moment
        self.standing = self._stands()
        graph.set_pinhole(calibrated)

    def take_up(self, standing: BackendStanding) -> None:
        """Goes on with the map that is there: its pairs are matched again."""
        super().take_up(standing)
        self._pinhole = self.graph.pinhole
        pairs = sorted({(min(e), max(e)) for e in self.graph.edges()})
        self._measure(self.graph.keyframes(), pairs)

    def step(self, keyframes: Sequence[Keyframe], first: int) -> None:
        """Links new keyframes, and adjusts; see `Backend.step`."""
        number, counts = len(keyframes) - 1, self.config.bundle_adjustment
        self._intrinsics = self.graph.intrinsics
        with self.timings.measure("backend edges", number):
            counts = counts.neighbours, counts.covisible_at_once
            new = range(first, number + 1)
            pairs = [p for n in new for p in self._new_pairs(keyframes[: n + 1], n, *counts)]
            self._measure(keyframes, pairs)
        self._calibrate(keyframes)
        with self.timings.measure("backend pose graph", number):
            window = range(max(0, number + 1 - self.config.bundle_adjustment.window), number + 1)
            loop = any(
                min(e) < window[0] for p in pairs for e in (p, p[::-1]) if e in self._factors
            )
            few = new if self._pinhole else window
            free = range(number + 1) if loop else few
            keyframes = self._adjust_poses(keyframes, set(free) - {0})
        if self._pinhole and self.settings.dense:
            with self.timings.measure("backend window", number):
                self._adjust_window(keyframes, number)

    def publish(self) -> None:
        """Hands what was found to the graph."""
        super().publish()
        self.graph.set_pinhole(self._pinhole)

    def finish(self) -> None:
        """All edges, then everything moves: depths too where the camera is known."""
        if not (self._pinhole and self.settings.dense):
            self._finish_poses()
        if self._pinhole and self.settings.dense:
            super().finish()

    def _finish_poses(self) -> None:
        """The same for poses and scales alone."""
        if len(self.graph) < 2 or self.hurry.is_set():
            return
        self._intrinsics = self.graph.intrinsics
        keyframes = self.graph.keyframes()
        with self.timings.measure("final edges"):
            self._measure(keyframes, self._stale(keyframes, self._all_pairs(keyframes)))
        self._calibrate(keyframes)
        with self.timings.measure("final adjustment"):
            self._adjust_poses(keyframes, set(range(1, len(keyframes))))
            self.publish()

    def reset(self) -> None:
        """Pointmaps start no map twice: there is nothing to discard."""
        raise RuntimeError("wanted a map of pointmaps to go on, got a start discarded")

    def _calibrate(self, keyframes: Sequence[Keyframe]) -> None:
        """Takes the focal length from the pointmaps until keyframes agree on it."""
        if self._pinhole:
            return
        for number, keyframe in enumerate(keyframes):
            self._calibration.observe(number, pointmap_of(keyframe))
        self._intrinsics = self._calibration.intrinsics
        self.focal_sigma = self._calibration.sigma
        self._pinhole = self._calibration.is_stable
        if self._pinhole:
            log.info("the camera is known from %d keyframes: pixels, not rays", len(keyframes))
        self._adjusted.append(Adjusted({}, {}, self._intrinsics, len(keyframes) - 1))

    def _stale(self, keyframes: Sequence[Keyframe], pairs: Sequence[Edge]) -> list[Edge]:
        """New pairs: a network sees no more in the same two images when it looks again."""
        return [p for p in pairs if p not in self._measured_with]

    def _measure_pair(
        self,
        keyframes: Sequence[Keyframe],
        pair: Edge,
        ahead: Tensor,
        back: Tensor,
        near: bool,
    ) -> dict[Edge, Correspondence]:
        """Both directions of a pair; none where it is not `near` and either matches too little."""
        i, j = pair
        prediction = self._predict_pair(keyframes, pair, ahead, back)
        if prediction.ahead is None or prediction.behind is None:
            raise TypeError("wanted a predictor of pointmaps")
        edges = {(i, j): prediction.forward, (j, i): prediction.backward}
        share = [float((c.weight > 0).float().mean()) for c in edges.values()]
        if not near and min(share) < self.settings.edge_overlap:
            return {}
        most = self.settings.edge_matches
        self._factors[j, i] = factor_of(j, i, prediction.ahead, most)
        self._factors[i, j] = factor_of(i, j, prediction.behind, most)
        return edges

    def _adjust_poses(self, keyframes: Sequence[Keyframe], free: set[int]) -> Sequence[Keyframe]:
        """Pose graph of some keyframes and those linked to them; scales go into their points."""
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

    def _moved(self, keyframes: Sequence[Keyframe], T_WC: dict[int, Tensor]) -> Sequence[Keyframe]:
        """Keeps poses [8] for publishing, their scale in the points; returns the keyframes so."""
        out = list(keyframes)
        scales = {number: float(T[7]) for number, T in T_WC.items()}
        for number, scale in scales.items():
            old, points = keyframes[number], pointmap_of(keyframes[number])
            depth = InverseDepth(old.depth.value / scale, old.depth.information * scale**2)
            points = replace(points, X_C=points.X_C * scale)
            T = sim3_to_se3(T_WC[number])
            out[number] = replace(old, T_WC=T, depth=depth, pointmap=points)
        poses = {number: out[number].T_WC for number in T_WC}
        newest = len(keyframes) - 1
        self._adjusted.append(Adjusted(poses, {}, self._intrinsics, newest, scales))
        return out

    def _priors(self, keyframes: Sequence[Keyframe], part: Part) -> list[InverseDepth] | None:
        """What the pointmaps say of the depths."""
        grid, sigma = self.predictor.grid, self.settings.prior_sigma
        return [grid_depth(grid, pointmap_of(keyframes[k]), sigma) for k in part.numbers]


def pointmap_of(keyframe: Keyframe) -> FusedPointmap:
    """A keyframe's pointmap, which all of this predictor's have."""
    if keyframe.pointmap is None:
        raise TypeError(f"frame {keyframe.frame.index}: wanted a keyframe with a pointmap")
    return keyframe.pointmap
