"""The pose of a frame from its flow: from a guess or from scratch, without the rolling shutter."""

from __future__ import annotations

from torch import Tensor

from slam.config import Config
from slam.frame import (
    Correspondence,
    Frame,
    FrameRecord,
    Keyframe,
    PairPrediction,
    TrackResult,
)
from slam.graph import Graph
from slam.lie import se3_inv, se3_mul
from slam.predictors.grid import Grid
from slam.shutter import Shutter, unroll, velocity
from slam.tracking import better, track, track_from_scratch


class PoseSolver:
    """Poses against keyframes of one graph, which knows camera and shutter."""

    def __init__(self, grid: Grid, graph: Graph, config: Config) -> None:
        self.grid = grid
        self.graph = graph
        self.config = config

    def solve(
        self,
        keyframe: Keyframe,
        frame: Frame,
        pair: PairPrediction,
        T_guess: Tensor,
        last: FrameRecord | None,
    ) -> tuple[TrackResult, Correspondence]:
        """Pose from the guess; where that is poor, also from scratch; the better one.

        And the measurements that it explains.

        With a rolling shutter it is solved once more, with the velocity that came out.

        Args:
            T_guess: [7] SE(3), takes points of the keyframe to the frame.
            last: the frame before, which tells the velocity.
        """
        settings, intrinsics = self.config.tracking, self.graph.intrinsics
        rolling = self.graph.readout != 0.0
        twist = self.graph.twist(keyframe.frame.index) if rolling else None
        measured = self._unrolled(keyframe, twist, frame, pair.forward, T_guess, last)
        arguments = (self.grid.pixel, keyframe.depth)
        result = track(*arguments, measured, T_guess, intrinsics, settings)
        if result.inlier_fraction < settings.good_inliers:
            scratch = track_from_scratch(*arguments, measured, intrinsics, settings)
            result = better(result, scratch)
        if rolling and result.inlier_fraction >= settings.good_inliers:
            measured = self._unrolled(keyframe, twist, frame, pair.forward, result.T_fk, last)
            result = track(*arguments, measured, result.T_fk, intrinsics, settings)
        return result, measured

    def _unrolled(
        self,
        keyframe: Keyframe,
        twist: Tensor | None,
        frame: Frame,
        measured: Correspondence,
        T_fk: Tensor,
        last: FrameRecord | None,
    ) -> Correspondence:
        """Measurements as a global shutter would have made them, by the motion since last.

        Args: twist: [6] of the keyframe; None = the shutter is global.
        """
        if twist is None or last is None or last.seconds == frame.seconds:
            return measured
        T_WC = se3_mul(keyframe.T_WC, se3_inv(T_fk))
        before = self.graph.T_WC(self.graph.record(last.index))
        shutter = Shutter(
            self.graph.readout,
            self.grid.height,
            twist,
            velocity(before, T_WC, frame.seconds - last.seconds),
        )
        pixel, intrinsics = self.grid.pixel, self.graph.intrinsics
        return unroll(pixel, keyframe.depth.value, measured, T_fk, intrinsics, shutter)
