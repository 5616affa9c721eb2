"""Where the camera was last and how it moves on, and the records of its frames."""

from __future__ import annotations

from torch import Tensor

from slam.frame import Correspondence, Frame, FrameRecord, PairPrediction, Step, TrackState
from slam.graph import Graph
from slam.initialization import identity
from slam.lie import se3_inv, se3_mul
from slam.measurement import pack
from slam.predictors import Predictor


class Whereabouts:
    """Frames hang on the keyframe that they were tracked against, and follow it."""

    def __init__(self, predictor: Predictor, graph: Graph) -> None:
        self.predictor = predictor
        self.graph = graph
        self._current = 0  # number of the keyframe tracked against
        self._last: FrameRecord | None = None
        self._last_frame: Frame | None = None  # the last one tracked, with its image
        self._velocity, self._world = identity(), 0  # and the submap in whose scale it is

    def _predict(self, number: int) -> Tensor:
        """T_fk by constant velocity."""
        if self._last is None or self._last.keyframe != number:
            return self._speed().clone()
        last = self.graph.record(self._last.index)
        return se3_mul(self._speed(), se3_inv(last.T_kf))

    def _speed(self) -> Tensor:
        """The velocity, unless its submap has since been joined to another, of another scale."""
        known = self._world == self.graph.submaps.of(self._current)
        return self._velocity if known else identity()

    def _remember_velocity(self, number: int, T_fk: Tensor) -> None:
        if self._last is not None and self._last.keyframe == number:
            last = self.graph.record(self._last.index)
            self._velocity = se3_mul(T_fk, last.T_kf)
            self._world = self.graph.submaps.of(number)

    def _publish(
        self, frame: Frame, number: int, T_fk: Tensor, pair: PairPrediction, state: TrackState
    ) -> Step:
        self._remember_velocity(number, T_fk)
        self._last_frame = frame
        return self._store(frame, number, se3_inv(T_fk), pair.forward, state)

    def _store(
        self,
        frame: Frame,
        number: int,
        T_kf: Tensor,
        measured: Correspondence | None,
        state: TrackState,
    ) -> Step:
        packed = None if measured is None else pack(self.predictor.grid, measured)
        record = FrameRecord(frame.index, frame.time, frame.seconds, state, number, T_kf, packed)
        self.graph.set_record(record)
        self._last = record if number >= 0 else self._last
        return self._said(record)

    def _said(self, record: FrameRecord) -> Step:
        if record.keyframe < 0:
            return Step(record, None)
        submap = self.graph.submaps.of(record.keyframe)
        return Step(record, self.graph.T_WC(record), submap)
