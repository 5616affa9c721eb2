"""Adjustment of the map: windows, whole submaps, focal length and readout; and what it found."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from slam.adjustment import (
    Adjusted,
    Part,
    closed_part,
    in_scale_of,
    last_part,
    near_part,
    whole_part,
)
from slam.config import Config
from slam.frame import Correspondence, InverseDepth, Keyframe
from slam.graph import Edge, Graph
from slam.lie import sim3_to_se3
from slam.mapping import relative
from slam.optimization import BundleAdjustment, bundle_adjust
from slam.predictors import Predictor
from slam.rescaling import kept_keyframe, rescaled_keyframe
from slam.shutter import ReadoutCost, Shutter, unroll
from slam.standing import BackendStanding
from slam.submaps import Submaps


class Adjuster:
    """Bundle adjustment of parts of the map. What it finds is the graph's once it is published.

    Submaps are adjusted one by one: each keeps its first pose and its scale. The focal length is
    one for all; the largest submap tells it.
    """

    def __init__(
        self, predictor: Predictor, graph: Graph, config: Config, refine_focal: bool
    ) -> None:
        self.predictor = predictor
        self.graph = graph
        self.config = config
        self.refine_focal = refine_focal
        self.focal_sigma = float("inf")
        self.last_cost = float("nan")
        self.hurry = threading.Event()  # set: what is left is neither measured nor adjusted
        self._free_focal_at = config.focal.first
        self._readout_at, self._readout_cost = config.shutter.first, ReadoutCost()
        self._readout = graph.readout  # s, as estimated now
        self._intrinsics = graph.intrinsics  # likewise
        self._until: int | None = None  # index of the last image that counts; None = all
        self._adjusted: list[Adjusted] = []  # found and not yet published
        self._submaps = graph.submaps  # as known now
        self.standing = self._stands()  # as published

    def _forget_camera(self) -> None:
        """The camera is as little known as at the beginning."""
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

    def _begin(self, until: int | None) -> None:
        """Takes the camera and the submaps from the graph. Args: until: see `_until`."""
        self._intrinsics, self._until = self.graph.intrinsics, until
        self._know(self.graph.submaps)

    def _know(self, submaps: Submaps) -> None:
        self._submaps = submaps

    def publish(self) -> None:
        """Hands what was found to the graph."""
        for found in self._adjusted:
            self.graph.adopt(
                *(found.poses, found.depths, found.intrinsics, found.newest),
                *(found.scales, found.joined),
            )
        self._adjusted = []
        self.graph.set_readout(self._readout)
        self.standing = self._stands()

    def _moved(
        self,
        keyframes: Sequence[Keyframe],
        T_WC: dict[int, Tensor],
        joined: dict[int, int] | None = None,
    ) -> Sequence[Keyframe]:
        """Keeps poses [8] for publishing, their scale in the depths; returns the keyframes so.

        Args: joined: see `Adjusted`.
        """
        out = list(keyframes)
        scales = {number: float(T[7]) for number, T in T_WC.items()}
        for number, T in T_WC.items():
            moved = rescaled_keyframe(keyframes[number], sim3_to_se3(T), scales[number])
            out[number] = kept_keyframe(self.graph.pages, moved)
        poses = {number: out[number].T_WC for number in T_WC}
        newest = len(keyframes) - 1
        self._adjusted.append(
            Adjusted(poses, {}, self._intrinsics, newest, scales, dict(joined or {}))
        )
        return out

    def _adjust_window(self, keyframes: Sequence[Keyframe], number: int) -> Sequence[Keyframe]:
        """The last keyframes of a keyframe's submap move."""
        settings = self.config.bundle_adjustment
        members = self._submaps.members(self._submaps.of(number), number + 1)
        part = last_part(self.graph, members, settings.window, settings.anchors)
        if part is None:
            return keyframes
        return self._adopt(keyframes, part, self._solve(keyframes, part, settings.iterations))

    def _adjust_all(self, keyframes: Sequence[Keyframe], iterations: int) -> Sequence[Keyframe]:
        """Everything moves but each submap's first pose: the largest first, it has the camera."""
        for name in sorted(self._submaps.every, key=lambda name: name != self._submaps.largest):
            keyframes = self._adjust_submap(keyframes, name, iterations)
        return keyframes

    def _adjust_submap(
        self, keyframes: Sequence[Keyframe], name: int, iterations: int
    ) -> Sequence[Keyframe]:
        """A submap moves; the focal length too where it is unknown, by the largest one."""
        part = self._everything(keyframes, name)
        if not part.edges:
            return keyframes
        free = self.refine_focal and name == self._submaps.largest
        solved = self._solve(keyframes, part, iterations, free_focal=free)
        return self._adopt(keyframes, part, solved)

    def _adjust_near(
        self, keyframes: Sequence[Keyframe], ends: Sequence[int], iterations: int
    ) -> Sequence[Keyframe]:
        """A small submap as a whole; of a large one what is around some of its keyframes."""
        name, count = self._submaps.of(ends[0]), self.config.bundle_adjustment.after_loop
        members = self._submaps.members(name, len(keyframes))
        if len(members) <= count:
            return self._adjust_submap(keyframes, name, iterations)
        part = near_part(self.graph, members, ends, count)
        if not part.edges:
            return keyframes
        return self._adopt(keyframes, part, self._solve(keyframes, part, iterations))

    def _search_focal(self, keyframes: Sequence[Keyframe]) -> Sequence[Keyframe]:
        """The same from several focal lengths while the map is small; the one that costs least."""
        focal, newest = self.config.focal, len(keyframes) - 1
        part = self._everything(keyframes, self._submaps.largest)
        factors = focal.factors() if len(keyframes) < focal.settled else (1.0,)
        results = [
            self._solve(keyframes, part, focal.iterations, free_focal=True, factor=factor)
            for factor in factors
        ]
        keyframes = self._adopt(keyframes, part, min(results, key=lambda r: r.cost))
        return keyframes if newest in part.numbers else self._adjust_window(keyframes, newest)

    def _search_readout(self, keyframes: Sequence[Keyframe]) -> None:
        """Adjusts the last keyframes with three readout times; their costs tell the best one."""
        settings, count = self.config.shutter, len(keyframes)
        grown = max(count + 1, int(count * settings.growth))
        self._readout_at = grown if count < settings.settled else float("inf")
        members = self._submaps.members(self._submaps.of(count - 1), count)
        part = closed_part(self.graph, members[-settings.settled :])
        if len(members) < settings.first or not part.edges:
            return
        now, iterations = self._readout, self.config.bundle_adjustment.iterations
        tried = [now - settings.step, now, now + settings.step]
        costs = [
            self._solve(keyframes, part, iterations, readout=r, huber=settings.huber).cost
            for r in tried
        ]
        self._readout_cost = self._readout_cost.plus(tried, [c * len(part.edges) for c in costs])
        self._readout = self._readout_cost.best(settings.limit, settings.least_gain)
        self._adopt(keyframes, part, self._solve(keyframes, part, iterations))

    def _everything(self, keyframes: Sequence[Keyframe], name: int) -> Part:
        return whole_part(self.graph, self._submaps.members(name, len(keyframes)))

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
            stop=self.hurry.is_set,
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
        if sum(part.fixed) < 2 and not any(part.held):
            before = [keyframes[k].T_WC for k in part.numbers]
            result = in_scale_of(before, result, self.graph.pages)
        newest = len(keyframes) - 1
        if newest in part.numbers:
            self.last_cost = result.cost
        self._intrinsics = result.intrinsics
        if np.isfinite(result.focal_sigma):
            self.focal_sigma = result.focal_sigma
        ends = list(enumerate(part.numbers))
        poses = {k: result.T_WC[n] for n, k in ends if not part.fixed[n]}
        depths = {k: result.depth[n] for n, k in ends if not part.held[n]}
        self._adjusted.append(Adjusted(poses, depths, result.intrinsics, newest))
        out = list(keyframes)
        for k in poses.keys() | depths.keys():
            old = keyframes[k]
            out[k] = replace(old, T_WC=poses.get(k, old.T_WC), depth=depths.get(k, old.depth))
        return out
