"""The frontend on pointmaps: a frame gets a Sim(3) against the current keyframe, and feeds it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from torch import Tensor

from slam.config import Config
from slam.frame import (
    SOLVED,
    Frame,
    FrameRecord,
    FusedPointmap,
    Image,
    Keyframe,
    PairGuess,
    PairPrediction,
    Step,
    TrackState,
)
from slam.graph import Graph
from slam.initialization import identity
from slam.lie import se3_inv, se3_mul, sim3_to_se3
from slam.mapping import fuse, observe
from slam.measurement import pack
from slam.motion_filter import MotionFilter
from slam.places import Places
from slam.pointmap_attempt import Attempt, solve
from slam.pointmap_fusion import fuse_pointmap, grid_depth, start_pointmap
from slam.predictors import PointmapPredictor
from slam.recovery import nearest_in_time
from slam.relocalization import Relocaliser
from slam.rescaling import scale_change
from slam.standing import FrontendStanding
from slam.timing import Timings

log = logging.getLogger(__name__)

NO_GUESS = PairGuess()


class PointmapFrontend:
    """Pose, fusion, new keyframes; relocalisation around them (MASt3R-SLAM, section 3.4).

    The world's scale is that of the first keyframe's pointmap. Later ones are brought to it by
    their Sim(3) and kept so: keyframes and frames are SE(3), as with any other predictor.
    """

    def __init__(
        self,
        predictor: PointmapPredictor,
        graph: Graph,
        config: Config,
        timings: Timings,
        places: Places,
        bring_up_to_date: Callable[[], None],
        on_keyframe: Callable[[int], None],
    ) -> None:
        """Args:
        places: knows the keyframes by what they look like.
        bring_up_to_date: called before a keyframe or a search for a place: lets the graph be so.
        on_keyframe: called with the number of each new keyframe but the first.
        """
        self.predictor = predictor
        self.graph = graph
        self.config = config
        self.settings = config.pointmap
        self.timings = timings
        self.bring_up_to_date = bring_up_to_date
        self.on_keyframe = on_keyframe
        self._lost: deque[Frame] = deque(maxlen=config.relocalization.retried)
        self._lost_since: float | None = None  # s; None = it is not
        self._lost_last: Frame | None = None  # the last one since then
        self._current = 0  # number of the keyframe tracked against
        self._seeking = False  # no image has been found in the map that was entered
        self._guess = NO_GUESS
        self._last: FrameRecord | None = None  # the last one with a pose
        self._motion = MotionFilter(config.keyframes.still)
        self._relocaliser = Relocaliser(predictor, config, places)

    def step(self, image: Image) -> Step:
        """Takes one image through tracking and mapping."""
        with self.timings.measure("encode"):
            frame = Frame(image.index, image.time, image.seconds, self.predictor.encode(image))
        if len(self.graph) == 0:
            return self._start(frame)
        if self._seeking:
            return self._seek(frame)
        attempt = self._attempt(self._current, frame)
        doubtful = self._lost_since is not None and not attempt.verified(self.settings)
        if doubtful or attempt.lost(self.settings):
            return self._recover(frame)
        self._found()
        return self._follow(frame, self._current, attempt, TrackState.TRACKED)

    def pose_early(self) -> None:
        """Tries the frames lost last once more, against the keyframes around them."""
        for frame in [f for f in self._lost if self.graph.record(f.index).state not in SOLVED]:
            for number in nearest_in_time(self.graph.keyframes(), frame):
                self._guess, self._last = NO_GUESS, None
                attempt = self._attempt(number, frame)
                if attempt.verified(self.settings):
                    state = TrackState.RELOCALISED
                    self._publish(frame, number, attempt.T_kf, attempt.pair, state)
                    break
        self._lost.clear()

    def standing(self) -> FrontendStanding:
        """What is needed, besides the map, to go on with the next image."""
        return FrontendStanding(self._current, identity(), False, 1, self._guess)

    def take_up(
        self, standing: FrontendStanding, early: Iterable[Frame], lost: Iterable[Frame]
    ) -> None:
        """Goes on with the map that is there. Args: frames that wait for `pose_early`."""
        self._current, self._guess = standing.keyframe, standing.guess
        self._lost.extend(lost)  # none are early: the first image makes the map
        solved = [r for r in self.graph.records() if r.state in SOLVED]
        self._last = solved[-1] if solved else None

    def enter(self) -> None:
        """Seeks the next images in the map that the graph holds."""
        self._current, self._seeking = len(self.graph) - 1, True

    def _seek(self, frame: Frame) -> Step:
        """An image before any was found in the map that was entered."""
        step = self._recover(frame)
        self._seeking = step.record.state is TrackState.LOST
        return step

    def _start(self, frame: Frame) -> Step:
        """The first image of which the network can tell something is the first keyframe."""
        first = self.predictor.single(frame.features)
        pointmap = start_pointmap(first.X_C, first.confidence)
        if not (pointmap.confidence > 0).any():
            record = _record(frame, TrackState.PENDING, -1, identity(), None)
            self.graph.set_record(record)
            return Step(record, None)
        self._current = self.graph.add_keyframe(self._keyframe(frame, identity(), pointmap))
        return self._store(_record(frame, TrackState.TRACKED, self._current, identity(), None))

    def _keyframe(self, frame: Frame, T_WC: Tensor, pointmap: FusedPointmap) -> Keyframe:
        depth = grid_depth(self.predictor.grid, pointmap, self.settings.depth_sigma)
        return Keyframe(frame, T_WC, depth, pointmap)

    # --- tracking -----------------------------------------------------------------------------

    def _attempt(self, number: int, frame: Frame) -> Attempt:
        """A try at a frame against a keyframe, from where the last frame was."""
        T_kf = identity()
        if self._last is not None and self._last.keyframe == number:
            T_kf = self.graph.record(self._last.index).T_kf
        return self._attempt_from(self.graph.keyframe(number), frame, T_kf)

    def _attempt_from(self, keyframe: Keyframe, frame: Frame, T_kf: Tensor) -> Attempt:
        """The same from a pose relative to the keyframe."""
        with self.timings.measure("predict"):
            pair = self.predictor.pair(keyframe.frame.features, frame.features, self._guess)
        with self.timings.measure("pose"):
            intrinsics = self.graph.intrinsics if self.graph.pinhole else None
            return solve(keyframe, pair, T_kf, self.settings, intrinsics)

    def _follow(self, frame: Frame, number: int, attempt: Attempt, state: TrackState) -> Step:
        """A frame that has a pose: it feeds the keyframe, or becomes one."""
        self._guess = attempt.pair.flow
        if self._motion.is_still(number, attempt.pair.forward):
            keyframe = self.graph.keyframe(number)
            T_kf = _scaled(attempt.T_kf, scale_change(attempt.keyframe.depth, keyframe.depth))
        else:
            with self.timings.measure("map"):
                keyframe, T_kf = self._fuse(number, attempt)
        if attempt.pair.match_fraction < self.settings.keyframe_overlap:
            return self._new_keyframe(frame, number, keyframe, attempt, T_kf, state)
        return self._publish(frame, number, T_kf, attempt.pair, state)

    def _fuse(self, number: int, attempt: Attempt) -> tuple[Keyframe, Tensor]:
        """Feeds the keyframe's pointmap and depths; returns it as it is now, T_kf [8] in its scale.

        In real time the backend may have given it another scale since the pose was solved.
        """
        keyframe, T_kf = attempt.keyframe, attempt.T_kf
        seen, settings = attempt.found.sought, self.settings
        if keyframe.pointmap is None:
            raise TypeError("wanted a keyframe with a pointmap")
        pointmap = fuse_pointmap(
            keyframe.pointmap, seen.X_C, seen.confidence, T_kf, settings.fusion
        )
        depth = grid_depth(self.predictor.grid, pointmap, settings.depth_sigma)
        if self.graph.pinhole and settings.dense:
            grid, mapping = self.predictor.grid, self.config.mapping
            T_fk = se3_inv(sim3_to_se3(T_kf))
            measured = observe(grid, attempt.pair.forward, T_fk, self.graph.intrinsics, mapping)
            depth = fuse(keyframe.depth, measured, mapping)
        keyframe, scale = self.graph.fused(number, keyframe.depth, depth, pointmap)
        return keyframe, _scaled(T_kf, scale)

    # --- keyframes ----------------------------------------------------------------------------

    def _new_keyframe(
        self,
        frame: Frame,
        number: int,
        old: Keyframe,
        attempt: Attempt,
        T_kf: Tensor,
        state: TrackState,
    ) -> Step:
        """The frame becomes a keyframe, with its own points in the world's scale.

        Args: old: keyframe `number` as it was when T_kf [8] was in its scale.
        """
        self.bring_up_to_date()
        now = self.graph.keyframe(number)
        T_kf = _scaled(T_kf, scale_change(old.depth, now.depth))
        own = attempt.found.searched
        pointmap = start_pointmap(own.X_C * float(T_kf[7]), own.confidence)
        T_WC = se3_mul(now.T_WC, sim3_to_se3(T_kf))
        keyframe, submap = self._keyframe(frame, T_WC, pointmap), self.graph.submaps.of(number)
        number = self._current = self.graph.add_keyframe(keyframe, submap)
        self._guess = NO_GUESS
        step = self._store(_record(frame, state, number, identity(), None))
        self.on_keyframe(number)
        return step

    # --- lost ---------------------------------------------------------------------------------

    def _recover(self, frame: Frame) -> Step:
        """Relocalises against the keyframes that look alike; failing that, the frame is lost."""
        self.bring_up_to_date()
        self._guess, last = NO_GUESS, self._last
        keyframes = self.graph.keyframes()
        with self.timings.measure("relocalise"):
            candidates = self._relocaliser.similar(keyframes, frame)
        for number in candidates:
            attempt = self._attempt(number, frame)
            if attempt.verified(self.settings):
                log.info("relocalised at frame %d against keyframe %d", frame.index, number)
                self._current = number
                self._found()
                return self._follow(frame, number, attempt, TrackState.RELOCALISED)
        before, lost = self._lost_last, self._lose(frame, last)
        since = frame.seconds if self._lost_since is None else self._lost_since
        self._lost_since, self._lost_last = since, frame
        patient = frame.seconds - since < self.config.relocalization.patience
        if before is None or patient or self._seeking or self.graph.frozen:
            return lost
        return self._begin_submap(before, frame) or lost

    def _found(self) -> None:
        self._lost_since = self._lost_last = None

    def _lose(self, frame: Frame, last: FrameRecord | None) -> Step:
        """The frame stays where the last one was that had a pose; None = on nothing."""
        log.info("frame %d: lost", frame.index)
        self._lost.append(frame)
        number, T_kf = -1, identity()
        if last is not None:
            number, T_kf = last.keyframe, self.graph.record(last.index).T_kf
        return self._store(_record(frame, TrackState.LOST, number, T_kf, None))

    def _begin_submap(self, first: Frame, frame: Frame) -> Step | None:
        """A new submap where the camera was seen last, of two lost frames that see the same."""
        seen = self.predictor.single(first.features)
        pointmap = start_pointmap(seen.X_C, seen.confidence)
        if not (pointmap.confidence > 0).any():
            return None
        lost = self.graph.record(first.index)
        T_WC = identity() if lost.keyframe < 0 else self.graph.T_WC(lost)
        keyframe = self._keyframe(first, T_WC, pointmap)
        attempt = self._attempt_from(keyframe, frame, identity())
        if not attempt.verified(self.settings):
            return None
        number = self._current = self.graph.add_keyframe(keyframe, len(self.graph))
        log.info("frame %d begins submap %d", first.index, number)
        self._store(_record(first, TrackState.TRACKED, number, identity(), None))
        self._found()
        self.on_keyframe(number)
        attempt = replace(attempt, keyframe=self.graph.keyframe(number))
        return self._follow(frame, number, attempt, TrackState.TRACKED)

    # --- records ------------------------------------------------------------------------------

    def _publish(
        self, frame: Frame, number: int, T_kf: Tensor, pair: PairPrediction, state: TrackState
    ) -> Step:
        packed = pack(self.predictor.grid, pair.forward)
        return self._store(_record(frame, state, number, sim3_to_se3(T_kf), packed))

    def _store(self, record: FrameRecord) -> Step:
        self.graph.set_record(record)
        if record.state in SOLVED:
            self._last = record
        if record.keyframe < 0:
            return Step(record, None)
        submap = self.graph.submaps.of(record.keyframe)
        return Step(record, self.graph.T_WC(record), submap)


def _scaled(T_kf: Tensor, scale: float) -> Tensor:
    """A Sim(3) [8] whose keyframe's unit became `scale` times as short."""
    T = T_kf.clone()
    T[:3] *= scale
    T[7] *= scale
    return T


def _record(
    frame: Frame, state: TrackState, number: int, T_kf: Tensor, packed: Tensor | None
) -> FrameRecord:
    return FrameRecord(frame.index, frame.time, frame.seconds, state, number, T_kf, packed)
