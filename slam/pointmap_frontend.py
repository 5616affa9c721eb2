"""The frontend on pointmaps: a frame gets a Sim(3) against the current keyframe, and feeds it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.config import Config
from slam.frame import (
    SOLVED,
    Frame,
    FrameRecord,
    FusedPointmap,
    Image,
    Intrinsics,
    Keyframe,
    PairGuess,
    PairPrediction,
    PointmapMatch,
    Step,
    TrackState,
)
from slam.graph import Graph, scale_change
from slam.initialization import identity
from slam.lie import se3_inv, se3_mul, se3_to_sim3, sim3_inv, sim3_to_se3
from slam.mapping import fuse, observe
from slam.measurement import pack
from slam.motion_filter import MotionFilter
from slam.optimization import factor_matches, factor_of
from slam.pointmap_fusion import fuse_pointmap, grid_depth, known_points, start_pointmap
from slam.pointmap_residuals import PointMatches, on_rays
from slam.pointmap_tracking import PointmapTrack, track_pointmap
from slam.predictors import PointmapPredictor
from slam.recovery import nearest_in_time
from slam.relocalization import Relocaliser
from slam.standing import FrontendStanding
from slam.timing import Timings

log = logging.getLogger(__name__)

NO_GUESS = PairGuess()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a frame's pose against a keyframe."""

    keyframe: Keyframe  # as it was then
    pair: PairPrediction  # what was measured
    found: PointmapMatch  # the keyframe's pixels in the frame
    track: PointmapTrack  # of the keyframe's points in the frame: its T_kf is our T_fk
    T_kf: Tensor  # [8] float64 Sim(3), takes points of the frame, in its own scale, to the keyframe


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
        before_keyframe: Callable[[], None],
        on_keyframe: Callable[[int], None],
    ) -> None:
        """Args:
        before_keyframe: called before each, to let the graph be brought up to date.
        on_keyframe: called with the number of each new keyframe but the first.
        """
        self.predictor = predictor
        self.graph = graph
        self.config = config
        self.settings = config.pointmap
        self.timings = timings
        self.before_keyframe = before_keyframe
        self.on_keyframe = on_keyframe
        self._lost: deque[Frame] = deque(maxlen=config.relocalization.retried)
        self._current = 0  # number of the keyframe tracked against
        self._guess = NO_GUESS
        self._last: FrameRecord | None = None  # the last one with a pose
        self._motion = MotionFilter(config.keyframes.still)
        self._relocaliser = Relocaliser(predictor, config)

    def step(self, image: Image) -> Step:
        """Takes one image through tracking and mapping."""
        with self.timings.measure("encode"):
            frame = Frame(image.index, image.time, image.seconds, self.predictor.encode(image))
        if len(self.graph) == 0:
            return self._start(frame)
        attempt = self._attempt(self._current, frame)
        if self._is_lost(attempt):
            return self._recover(frame)
        return self._follow(frame, self._current, attempt, TrackState.TRACKED)

    def pose_early(self) -> None:
        """Tries the frames lost last once more, against the keyframes around them."""
        for frame in self._lost:
            for number in nearest_in_time(self.graph.keyframes(), frame):
                self._guess, self._last = NO_GUESS, None
                attempt = self._attempt(number, frame)
                if self._is_found(attempt):
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
        """Matches the keyframe's pixels in the frame, and solves for the Sim(3) between them."""
        keyframe, settings = self.graph.keyframe(number), self.settings
        with self.timings.measure("predict"):
            pair = self.predictor.pair(keyframe.frame.features, frame.features, self._guess)
        if keyframe.pointmap is None or pair.ahead is None:
            raise TypeError("wanted a predictor of pointmaps")
        with self.timings.measure("pose"):
            intrinsics = self.graph.intrinsics if self.graph.pinhole else None
            matches = frame_matches(
                pair.ahead, keyframe.pointmap, intrinsics, settings.tracked_matches
            )
            track = track_pointmap(
                matches,
                self._predict(number, matches),
                settings.residuals,
                settings.tracking,
                intrinsics,
            )
        return Attempt(keyframe, pair, pair.ahead, track, sim3_inv(track.T_kf))

    def _predict(self, number: int, matches: PointMatches) -> Tensor:
        """T_fk [8]: where the last frame was, in the scale that the matched points tell."""
        T_kf = identity()
        if self._last is not None and self._last.keyframe == number:
            T_kf = self.graph.record(self._last.index).T_kf
        T_fk = se3_to_sim3(se3_inv(T_kf))
        used = matches.weight > 0
        if used.any():
            own, other = (torch.linalg.vector_norm(X[used], dim=-1) for X in _points(matches))
            scale = (own / other.clamp(min=1e-12)).median().double()
            T_fk[:3] *= scale
            T_fk[7] = scale
        return T_fk

    def _is_lost(self, attempt: Attempt) -> bool:
        track = attempt.track
        few = attempt.pair.match_fraction < self.settings.lost_overlap
        return few or track.failure != "" or track.inlier_fraction < self.settings.lost_inliers

    def _is_found(self, attempt: Attempt) -> bool:
        """Whether the pose may be believed where nothing else speaks for it."""
        enough = attempt.pair.match_fraction >= self.settings.found_overlap
        return enough and not self._is_lost(attempt)

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
        self.before_keyframe()
        now = self.graph.keyframe(number)
        T_kf = _scaled(T_kf, scale_change(old.depth, now.depth))
        own = attempt.found.searched
        pointmap = start_pointmap(own.X_C * float(T_kf[7]), own.confidence)
        T_WC = se3_mul(now.T_WC, sim3_to_se3(T_kf))
        number = self._current = self.graph.add_keyframe(self._keyframe(frame, T_WC, pointmap))
        self._guess = NO_GUESS
        step = self._store(_record(frame, state, number, identity(), None))
        self.on_keyframe(number)
        return step

    def _recover(self, frame: Frame) -> Step:
        """Relocalises against the keyframes that look alike; failing that, the frame is lost."""
        self._guess, last = NO_GUESS, self._last
        keyframes = self.graph.keyframes()
        with self.timings.measure("relocalise"):
            candidates = [number for number, _ in self._relocaliser.similar(keyframes, frame)]
        for number in candidates:
            attempt = self._attempt(number, frame)
            if self._is_found(attempt):
                log.info("relocalised at frame %d against keyframe %d", frame.index, number)
                self._current = number
                return self._follow(frame, number, attempt, TrackState.RELOCALISED)
        self._lost.append(frame)
        number, T_kf = self._current, identity()
        if last is not None:
            number, T_kf = last.keyframe, self.graph.record(last.index).T_kf
        log.info("frame %d: lost", frame.index)
        record = _record(frame, TrackState.LOST, number, T_kf, None)
        self.graph.set_record(record)
        return Step(record, self.graph.T_WC(record))

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
        return Step(record, self.graph.T_WC(record))


def frame_matches(
    found: PointmapMatch, fused: FusedPointmap, intrinsics: Intrinsics | None, most: int
) -> PointMatches:
    """A keyframe's points and the frame's where they match: the frame takes the keyframe's role.

    The keyframe's points, fused from many frames, are projected; the frame's own say the scale.

    Args: intrinsics: px, of both; None: points stay where the network put them.
    """
    own = torch.where(found.searched.confidence[..., None] > 0, found.searched.X_C, 0.0)
    other = known_points(fused)
    if intrinsics is not None:
        own, other = on_rays(own, intrinsics), on_rays(other, intrinsics)
    matches = factor_matches(factor_of(0, 1, found, most), own, other)
    known = torch.linalg.vector_norm(matches.X_f, dim=-1) > 0
    return PointMatches(
        matches.pixel_k, matches.X_k, matches.X_f, torch.where(known, matches.weight, 0.0)
    )


def _points(matches: PointMatches) -> Sequence[Tensor]:
    return matches.X_k, matches.X_f


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
