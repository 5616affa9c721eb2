"""The frontend: every frame gets a pose against the current keyframe, and feeds its depths."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import Tensor

from slam.config import Config
from slam.frame import (
    SOLVED,
    Correspondence,
    Frame,
    FrameRecord,
    Image,
    Keyframe,
    PairGuess,
    PairPrediction,
    Step,
    TrackState,
    source_of,
)
from slam.frame_pose import PoseSolver
from slam.fresh_start import FreshStart
from slam.graph import Graph
from slam.initialization import identity
from slam.lie import se3_inv, se3_mul
from slam.mapping import fuse, hand_on, observe
from slam.motion_filter import MotionFilter
from slam.places import Places
from slam.predictors import Predictor
from slam.recovery import Attempt, nearest_in_time, other_starts
from slam.relocalization import Relocaliser
from slam.rescaling import rescaled
from slam.standing import FrontendStanding
from slam.startup import FirstMap, Startup
from slam.timing import Timings
from slam.whereabouts import Whereabouts

log = logging.getLogger(__name__)

NO_GUESS = PairGuess()


class Frontend(Whereabouts):
    """Motion filter, pose, depth fusion, new keyframes; start-up and relocalisation around them."""

    def __init__(
        self,
        predictor: Predictor,
        graph: Graph,
        config: Config,
        timings: Timings,
        places: Places,
        bring_up_to_date: Callable[[], None],
        on_keyframe: Callable[[int], None],
        good_start: Callable[[int], bool | None],
        on_restart: Callable[[int], None],
        focal_factors: Sequence[float] = (1.0,),
    ) -> None:
        """Args:
        places: knows the keyframes by what they look like.
        bring_up_to_date: called before a keyframe or a search for a place: lets the graph be so.
        on_keyframe: called with the number of each new keyframe.
        good_start: asked after a submap's first keyframes, by its name, whether it is worth
            keeping; None = not known yet, ask again.
        on_restart: called with its name when a start is discarded.
        focal_factors: focal lengths that a start tries, relative to the one given.
        """
        super().__init__(predictor, graph)
        self.config = config
        self.timings = timings
        self.bring_up_to_date = bring_up_to_date
        self.on_keyframe = on_keyframe
        self.good_start = good_start
        self.on_restart = on_restart
        self._early: deque[Frame] = deque(maxlen=config.start.remember)
        self._lost: deque[Frame] = deque(maxlen=config.relocalization.retried)
        self._given = graph.intrinsics  # as they were before any map
        self._on_trial, self._trials = True, 1
        self._home = 0  # name of the submap that is, or was, on trial
        self._ending = False  # the images are through: no submap is begun any more
        self._seeking = False  # no image has been found in the map that was entered
        self._startup = Startup(predictor, config, timings, focal_factors)
        self._fresh = FreshStart(predictor, config, timings)
        self._relocaliser = Relocaliser(predictor, config, places)
        self._poses = PoseSolver(predictor.grid, graph, config)
        self._motion = MotionFilter(config.keyframes.still)
        self._guess = NO_GUESS

    def step(self, image: Image) -> Step:
        """Takes one image through tracking and mapping."""
        with self.timings.measure("encode"):
            frame = Frame(image.index, image.time, image.seconds, self.predictor.encode(image))
        if self._on_trial:
            (self._early if self._home == 0 else self._fresh.tried).append(frame)
        if len(self.graph) == 0:
            return replace(self._start(frame), T_WC=None)
        step = self._recover(frame, -1) if self._seeking else self._track(frame)
        lost = step.record.state is TrackState.LOST  # a map that so soon leads nowhere is none
        self._seeking = self._seeking and lost
        if not lost:
            self._fresh.found()
        if self._on_trial and self.graph.submaps.of(self._current) != self._home:
            self._on_trial = False  # it was joined
        made = len(self.graph) - self._home
        if self._on_trial and (lost or made >= self.config.start.trial_keyframes):
            good = self.good_start(self._home)
            self._on_trial = good is None
            if good is not None and (lost or not good) and self._may_restart():
                return self._restart(frame)
        return replace(step, T_WC=None) if self._on_trial else step

    def _may_restart(self) -> bool:
        """A poor map is better than none; beside others none is better."""
        return self._home > 0 or self._trials < self.config.start.trials

    def pose_early(self) -> None:
        """Poses those within the start, those before it, last first, and lost ones once more."""
        self._ending = True
        self._fresh.found()
        if len(self.graph) == 0 and self._trials > 1:
            self._replay()
        if len(self.graph) == 0:
            return
        reference = self.graph.keyframe(0).frame.index
        pending = [f for f in self._early if self._unposed(f)]
        before = [f for f in reversed(pending) if f.index < reference]
        within = [f for f in pending if f.index > reference]
        self._track_from(0, within)
        self._track_from(0, before)
        for frame in list(self._lost):
            for number in nearest_in_time(self.graph.keyframes(), frame):
                self._track_from(number, [frame] if self._unposed(frame) else [], doubtful=True)
        self._early.clear()
        self._lost.clear()

    def standing(self) -> FrontendStanding:
        """What is needed, besides the map, to go on with the next image."""
        trial = self._on_trial, self._trials
        return FrontendStanding(self._current, self._speed(), *trial, self._guess)

    def take_up(
        self, standing: FrontendStanding, early: Iterable[Frame], lost: Iterable[Frame]
    ) -> None:
        """Goes on with the map that is there.

        Args: frames that wait for `pose_early`; those of a submap on trial are among the lost.
        """
        self._current, self._velocity = standing.keyframe, standing.velocity
        self._on_trial, self._trials = standing.on_trial, standing.trials
        self._guess = standing.guess
        self._early.extend(early)
        self._home = self._world = self.graph.submaps.of(standing.keyframe)
        for frame in lost:
            (self._fresh.tried if not self._unposed(frame) else self._lost).append(frame)
        last = self.graph.records()[-1]
        self._last = last if last.keyframe >= 0 else None

    def enter(self) -> None:
        """Seeks the next images in the map that the graph holds; nothing is on trial."""
        self._current, self._on_trial, self._seeking = len(self.graph) - 1, False, True

    def _replay(self) -> None:
        """Starts were discarded and none came after: the first is better than none at all."""
        self._on_trial = False
        self._startup.begin(None)
        for frame in self._early:
            (self._track if len(self.graph) > 0 else self._start)(frame)

    def _track_from(self, number: int, frames: Iterable[Frame], *, doubtful: bool = False) -> None:
        """Tracks frames one after the other, the first against a keyframe from its pose."""
        self._current, self._guess, self._velocity = number, NO_GUESS, identity()
        self._last = self.graph.record(self.graph.keyframe(number).frame.index)
        for frame in frames:
            self._track(frame, doubtful=doubtful)

    def _unposed(self, frame: Frame) -> bool:
        return self.graph.record(frame.index).state not in SOLVED

    # --- start-up -----------------------------------------------------------------------------

    def _start(self, frame: Frame) -> Step:
        """Waits for parallax against a reference image; renews it when the view moves on."""
        record = FrameRecord(
            frame.index, frame.time, frame.seconds, TrackState.PENDING, -1, identity(), None
        )
        self.graph.set_record(record)
        found = self._startup.take(frame, self.graph.intrinsics)
        if found is None:
            return Step(record, None)
        self.graph.adopt({}, {}, found.map.intrinsics)
        return self._open(frame, found, identity())

    def _open(self, frame: Frame, found: FirstMap, T_WC: Tensor) -> Step:
        """The first keyframe of a submap, at a pose, and the frame that it was made with."""
        reference, made = found.reference, found.map
        log.info("map started at frame %d (reference %d)", frame.index, reference.index)
        keyframe, self._home = Keyframe(reference, T_WC, made.depth), len(self.graph)
        number = self._current = self.graph.add_keyframe(keyframe, self._home)
        first = replace(self.graph.record(reference.index), keyframe=number, T_kf=identity())
        self.graph.set_record(replace(first, state=TrackState.TRACKED))
        self._velocity, self._guess = identity(), found.pair.flow
        return self._publish(frame, number, made.T_ji, found.pair, TrackState.TRACKED)

    def _restart(self, frame: Frame) -> Step:
        """Discards a bad start: its frames are posed afterwards, like those before it."""
        log.warning("frame %d: the start was poor; starting again", frame.index)
        if self._home > 0:
            self._discard()
            self._fresh.again(frame)
            return self._said(self.graph.record(frame.index))
        self._trials += 1
        self.on_restart(0)
        self.graph.clear(self._given)
        for record in self.graph.records():
            self.graph.set_record(replace(record, state=TrackState.PENDING, measurement=None))
        self._startup.begin(frame)
        self._guess, self._last, self._on_trial = NO_GUESS, None, True
        self._motion.reset()
        self._last_frame = None
        return Step(self.graph.record(frame.index), None)

    # --- tracking -----------------------------------------------------------------------------

    def _track(self, frame: Frame, *, doubtful: bool = False) -> Step:
        number = self._current
        keyframe = self.graph.keyframe(number)
        T_guess = self._predict(number)
        attempt = self._attempt(keyframe, frame, T_guess)
        sparse = attempt.pair.match_fraction < self.config.keyframes.match_fraction
        if sparse or not attempt.good(self.config):
            attempt = self._again(keyframe, frame, T_guess, attempt)
        if not attempt.good(self.config) and self._last_becomes_keyframe():
            return self._track(frame, doubtful=doubtful)
        doubtful = doubtful or self._fresh.is_lost  # nothing says that it is near the keyframe
        if attempt.lost(self.config) or (doubtful and not attempt.verified(self.config)):
            return self._recover(frame, number)
        pair, result = attempt.pair, attempt.result
        if self._motion.is_still(number, pair.forward):
            T_fk = rescaled(result.T_fk, keyframe.depth, self.graph.keyframe(number).depth)
            return self._publish(frame, number, T_fk, pair, TrackState.TRACKED)
        with self.timings.measure("map"):
            keyframe, T_fk = self._fuse(number, keyframe, attempt.measured, result.T_fk)
        if self._needs_keyframe(pair):
            return self._new_keyframe(frame, number, keyframe, T_fk)
        return self._publish(frame, number, T_fk, pair, TrackState.TRACKED)

    def _attempt(
        self, keyframe: Keyframe, frame: Frame, T_guess: Tensor, *, fine: bool = False
    ) -> Attempt:
        pair = self._pair(keyframe.frame, frame, fine)
        with self.timings.measure("pose"):
            return Attempt(pair, *self._poses.solve(keyframe, frame, pair, T_guess, self._last))

    def _again(
        self, keyframe: Keyframe, frame: Frame, T_guess: Tensor, attempt: Attempt
    ) -> Attempt:
        """Measures from other starts than the last flow, until one is good; keeps the best."""
        starts = other_starts(
            *(self.predictor.grid, keyframe, frame, T_guess),
            *(self.graph.intrinsics, self._relocaliser, self.config),
        )
        for self._guess in starts:
            other = self._attempt(keyframe, frame, T_guess, fine=True)
            if other.verified(self.config) and other.better_than(attempt):
                attempt = other
            if attempt.good(self.config):
                break
        self._guess = attempt.pair.flow
        return attempt

    def _last_becomes_keyframe(self) -> bool:
        """The last frame becomes a keyframe, where it was tracked and is not one yet."""
        frame, record = self._last_frame, self._last
        self._last_frame = None
        if frame is None or record is None or record.index != frame.index:
            return False
        T_fk = se3_inv(self.graph.record(frame.index).T_kf)
        number = record.keyframe
        self._add_keyframe(frame, number, self.graph.keyframe(number), T_fk, record.state)
        return True

    def _fuse(
        self, number: int, keyframe: Keyframe, measured: Correspondence, T_fk: Tensor
    ) -> tuple[Keyframe, Tensor]:
        """Feeds the keyframe's depths; returns it as it is now, and the pose in its scale.

        In real time the backend may have adopted other depths since the pose was solved: those
        stay, and the pose follows their scale.
        """
        seen = observe(
            self.predictor.grid, measured, T_fk, self.graph.intrinsics, self.config.mapping
        )
        after = fuse(keyframe.depth, seen, self.config.mapping)
        keyframe, scale = self.graph.fused(number, keyframe.depth, after)
        T_fk = T_fk.clone()
        T_fk[:3] *= scale
        return keyframe, T_fk

    def _pair(self, reference: Frame, frame: Frame, fine: bool) -> PairPrediction:
        with self.timings.measure("flow"):
            pair = self.predictor.pair(reference.features, frame.features, self._guess, fine=fine)
        self._guess = pair.flow
        return pair

    def _needs_keyframe(self, pair: PairPrediction) -> bool:
        settings = self.config.keyframes
        limit = settings.trial_flow if self._on_trial else settings.flow
        far = pair.median_flow > limit * self.predictor.grid.width
        blurred = pair.sharpness < settings.sharpness
        can_wait = blurred and pair.match_fraction > settings.match_fraction / 2
        return (far or pair.match_fraction < settings.match_fraction) and not can_wait

    def _new_keyframe(self, frame: Frame, number: int, old: Keyframe, T_fk: Tensor) -> Step:
        """The frame becomes a keyframe; its depth starts from the old one's."""
        self._remember_velocity(number, T_fk)
        return self._add_keyframe(frame, number, old, T_fk, TrackState.TRACKED)

    def _add_keyframe(
        self, frame: Frame, number: int, old: Keyframe, T_fk: Tensor, state: TrackState
    ) -> Step:
        """Args: old: keyframe `number` as it was when T_fk was solved."""
        self.bring_up_to_date()
        now, intrinsics = self.graph.keyframe(number), self.graph.intrinsics
        T_fk = rescaled(T_fk, old.depth, now.depth)
        depth = hand_on(self.predictor.grid, now.depth, T_fk, intrinsics, self.config.mapping)
        T_WC = se3_mul(now.T_WC, se3_inv(T_fk))
        submap = self.graph.submaps.of(number)
        number = self._current = self.graph.add_keyframe(Keyframe(frame, T_WC, depth), submap)
        self._guess = NO_GUESS
        step = self._store(frame, number, identity(), None, state)
        self.on_keyframe(number)
        return step

    # --- lost ---------------------------------------------------------------------------------

    def _recover(self, frame: Frame, number: int) -> Step:
        """Relocalises against the map; failing that, the frame is lost.

        Args: number: of the keyframe that it then hangs on; -1 = none.
        """
        self.bring_up_to_date()
        self._guess = NO_GUESS
        self._velocity = identity()
        keyframes = self.graph.keyframes()
        with self.timings.measure("relocalise"):
            found = self._relocaliser.find(keyframes, frame, self.graph.intrinsics)
        if found is None:
            lost = self._lose(frame, number)
            may_begin = not (self._ending or self._on_trial or self.graph.frozen)
            return self._begin_submap(frame, lost) if may_begin else lost
        log.info("relocalised at frame %d against keyframe %d", frame.index, found.keyframe)
        number, state = found.keyframe, TrackState.RELOCALISED
        if self._on_trial and self.graph.submaps.of(number) != self.graph.submaps.of(self._current):
            self._discard()  # so soon it led nowhere
        return self._add_keyframe(frame, number, keyframes[number], found.T_fk, state)

    def _lose(self, frame: Frame, number: int) -> Step:
        """The frame stays where the last one was. Args: number: see `_recover`."""
        self._lost.append(frame)
        last = self._last
        T_kf = identity() if last is None else self.graph.record(last.index).T_kf
        number = number if last is None else last.keyframe
        return self._store(frame, number, T_kf, None, TrackState.LOST)

    def _begin_submap(self, frame: Frame, lost: Step) -> Step:
        """A new submap where the camera was seen last, once frames that are lost make one."""
        found = self._fresh.take(frame, self.graph.intrinsics)
        if found is None:
            return lost
        self._on_trial = True
        step = self._open(frame, found, identity() if lost.T_WC is None else lost.T_WC)
        self._fresh.tried.append(frame)
        self.on_keyframe(self._current)
        return step

    def _discard(self) -> None:
        """Drops the submap on trial: its frames are lost, where the camera was before it."""
        self.on_restart(self._home)
        self.graph.clear(self.graph.intrinsics, self._home)
        records = self.graph.records()
        own = (r for r in reversed(records) if r.keyframe >= 0 and source_of(r.index) == 0)
        last = next(own, None)
        number, T_kf = (-1, identity()) if last is None else (last.keyframe, last.T_kf)
        for record in records:
            if record.keyframe < 0 and record.state is not TrackState.PENDING:
                record = replace(record, keyframe=number, T_kf=T_kf, measurement=None)
                self.graph.set_record(replace(record, state=TrackState.LOST))
        waiting = {f.index for f in self._lost}
        self._lost.extend(f for f in self._fresh.tried if f.index not in waiting)
        self._fresh.tried.clear()
        self._on_trial, self._seeking, self._last = False, last is None, last
        self._current = len(self.graph) - 1 if last is None else last.keyframe
        self._guess, self._last_frame, self._velocity = NO_GUESS, None, identity()
        self._motion.reset()
