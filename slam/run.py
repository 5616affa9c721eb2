"""One run: from a source to the output folder, whatever happens in between."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from slam.config import Config
from slam.frame import Image, TrackState, source_of
from slam.inputs import (
    as_it_goes,
    from_recording,
    open_source_or_camera,
    to_repeat,
)
from slam.observer import Observer, Running
from slam.output_files import Files, output_folder
from slam.outputs import RunNotes, RunResult, save
from slam.playing import playing, real_time_facts
from slam.saved_map import SavedMap, expect_fitting, expect_layout, load_map
from slam.session import Found, Session, begin, find, replay, resumed
from slam.sources import ImageSource, Source
from slam.sources.camera import CameraSource
from slam.sources.configured import open_configured
from slam.sources.stream import Stream
from slam.standing import Standing
from slam.system import Slam

log = logging.getLogger(__name__)

FEWEST = 3  # posed frames, for a run to have found anything
INTERRUPTED = 130  # exit code after Ctrl-C, as a shell reports it


class Interrupt:
    """Ctrl-C as a flag: the first one ends the loop after its frame, the next the adjustment.

    A third one is a KeyboardInterrupt.
    """

    def __init__(self, slam: Slam) -> None:
        self.slam = slam
        self.count = 0
        self.wake: Callable[[], None] = _nobody  # ends a wait for the next image
        self.stopped = False  # somebody wants the loop to end, and all to be adjusted and saved
        self.finishing = False  # set when the loop is over: a Ctrl-C then ends the adjustment

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handles the signal inside a `with` block; nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def ends_loop(self) -> bool:
        """Whether no more images are to be taken up."""
        return self.stopped or self.count > 0

    def stop(self) -> None:
        """Ends the loop after its frame; no interruption: all is adjusted as at its end."""
        self.stopped = True
        self.wake()

    def _handle(self, _: int, frame: FrameType | None) -> None:
        self.press()

    def press(self) -> None:
        """One Ctrl-C."""
        self.count += 1
        self.wake()
        if self.count > 2:
            raise KeyboardInterrupt
        if self.finishing or self.count > 1:
            self.slam.hurry()


def _nobody() -> None:
    """Nothing waits for an image."""


def run(config: Config, observer: Observer | None = None) -> RunResult:
    """Runs the whole system on a source and writes the output folder.

    Ctrl-C ends the loop early; everything is still adjusted and saved, and a second one cuts the
    adjustment short. Where the source or the system breaks in the middle, what there is is saved
    before the error is raised; a file that cannot be written keeps no other from being written.

    While it goes, the folder holds what `resume` needs; see `session`.

    Where `config.run.map` names a map, the run goes on with that one. Where `config.live.device`
    names a camera, it is a live run: in real time, recorded, and a first Ctrl-C is its end.

    Args: observer: watches and steers it; None = nobody does.
    Raises ValueError, FileNotFoundError or OSError for bad input.
    """
    watch = Observer() if observer is None else observer
    config = as_it_goes(config)
    source = open_source_or_camera(config)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        rest = Rest(entered=_map_to_enter(slam, source))
        files = Files(output_folder(config, source.name))
        told = to_repeat(config, source, files.folder)
        session = begin(files.folder, told)
        log.info("%s: %s frames, %s", source.name, source.total, source.calibration_source)
        parts = told, files, session, RunNotes(), rest, watch
        return _Run(slam, source, *parts, Interrupt(slam)).complete()


def resume(folder: Path) -> RunResult:
    """Goes on with a run that was killed, or that broke, and ends as `run` does.

    What it was told comes from its journal; the source has to be where it was. A live run goes on
    with the images that it recorded, one after the other.

    Raises FileNotFoundError or ValueError where the folder holds no such run, and as `run`.
    """
    found = find(folder)
    config = from_recording(found)
    source = open_configured(config)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        session, notes = resumed(found), RunNotes()
        rest = _restore(slam, source, found, notes)
        log.info("%s: going on with %d keyframes at frame %d", folder, len(slam.graph), rest.first)
        parts = config, Files(folder), session, notes, rest, Observer()
        return _Run(slam, source, *parts, Interrupt(slam)).complete()


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of a source to a run that goes on with it."""

    first: int = 0  # place of the first image in the source's selection
    dropped: int = 0  # images before it that real time left out
    standing: Standing | None = None  # where the run stood; None = at the beginning
    entered: SavedMap | None = None  # map that it begins in; None = it makes one


def _map_to_enter(slam: Slam, source: ImageSource) -> SavedMap | None:
    """The map that the settings name. Raises ValueError where it does not suit the source."""
    if not slam.config.run.map:
        return None
    saved = load_map(slam.config.run.map)
    expect_fitting(saved, source)
    expect_layout(saved, slam.predictor)
    return saved


def _restore(slam: Slam, source: Source, found: Found, notes: RunNotes) -> Rest:
    """Brings a new system to where the journal ends; returns what is left to do."""
    if found.commit is None:
        return Rest(entered=_map_to_enter(slam, source))
    replay(found, slam.graph, slam.predictor.encode, notes.publish)
    commit = found.commit
    source.skipped.extend(commit.damaged)
    first = int(np.searchsorted(source.indices, commit.standing.frame, side="right"))
    own = sum(source_of(r.index) == 0 for r in slam.graph.records())
    dropped = first - own - len(commit.damaged)  # some may be ahead
    return Rest(first, max(0, dropped), commit.standing)


def _take_up(slam: Slam, source: Source, standing: Standing) -> None:
    """Lets the system go on; images that are still to be posed are read again."""
    records = [r for r in slam.graph.records() if source_of(r.index) == 0]
    home = slam.graph.submaps.of(standing.frontend.keyframe)
    on_trial = standing.frontend.on_trial
    early = [r for r in records if r.state is TrackState.PENDING or (on_trial and home == 0)]
    tried = [on_trial and r.keyframe >= home > 0 for r in records]
    lost = [r for r, t in zip(records, tried, strict=True) if t or r.state is TrackState.LOST]
    settings = slam.config.start.remember, slam.config.relocalization.retried
    kept = (some[max(0, len(some) - n) :] for some, n in zip((early, lost), settings, strict=True))
    indices = (np.intersect1d([r.index for r in some], source.indices) for some in kept)
    places = (np.searchsorted(source.indices, some).tolist() for some in indices)
    slam.take_up(standing, *(source.images(some) for some in places))


@dataclass(frozen=True, slots=True)
class _Run:
    """One run on its way."""

    slam: Slam
    source: Source | CameraSource
    told: Config  # as it is kept beside the results
    files: Files
    session: Session
    notes: RunNotes
    rest: Rest
    watch: Observer
    interrupt: Interrupt

    def complete(self) -> RunResult:
        """The images that are left, the final adjustment, the outputs."""
        slam, interrupt = self.slam, self.interrupt
        self.session.damaged = self.source.skipped
        slam.keep(self.session)
        with interrupt.watching():
            self.watch.began(Running(slam, self.source, interrupt.press, interrupt.stop))
            if self.rest.standing is not None:
                assert isinstance(self.source, Source)  # of a camera, what it recorded
                _take_up(slam, self.source, self.rest.standing)
            elif self.rest.entered is not None:
                slam.enter(self.rest.entered)
            self.notes.started = time.perf_counter() - self.session.seconds
            broken, extra = self._loop()
            self.watch.adjusting()
            broken = broken or self._finish()
            report = self._save(self.files, extra)
        if broken is None and not self.files.unwritten:
            self.session.finished(slam.config.run.keep_journal)
        if broken is not None:
            if self.files.written:
                log.warning("what was computed is in %s", self.files.folder)
            if self.files.unwritten:
                log.warning("%s", self.files.complaint())
            raise broken
        return self._result(report)

    def _result(self, report: dict[str, Any]) -> RunResult:
        if self.files.unwritten:
            raise OSError(self.files.complaint())
        posed = sum(submap["frames"] for submap in report["submaps"])
        if posed < FEWEST and not self.interrupt.ends_loop:
            why = _without_map(self.slam.config, report["processed"])
            raise ValueError(f"{self.source.path}: no map: {why}")
        ways_out = 1 if self.source.total is None else 0  # what has no end is ended by Ctrl-C
        code = INTERRUPTED if self.interrupt.count > ways_out else 0
        return RunResult(self.files.folder, report, code)

    def _loop(self) -> tuple[Exception | None, dict[str, Any]]:
        """Feeds what is left; returns what broke the loop, and what the report has besides."""
        images = self._images()
        live = images if isinstance(images, Stream) else None
        if live is not None:
            self.interrupt.wake = live.stop
        broken: Exception | None = None
        try:
            with playing(images, self.source.total) as (each, bar):
                while not self.interrupt.ends_loop and (image := next(each, None)) is not None:
                    self.watch.before_image()
                    if not self.interrupt.ends_loop:
                        self._take(image, live, bar)
            if self.interrupt.count:
                log.warning("interrupted: adjusting and saving what there is")
        except Exception as error:  # raised by `complete` after saving
            broken = error
        self.slam.end_session()
        self.interrupt.finishing = True
        self.notes.loop_seconds = self.notes.seconds()
        extra = {} if self.rest.standing is None else {"resumed_at": self.rest.first}
        if live is not None:
            extra |= real_time_facts(live, self.notes, self.rest.dropped)
        return broken, extra

    def _images(self) -> Stream | Generator[Image, None, None]:
        """What is left of them: in real time, or one after the other."""
        if isinstance(self.source, CameraSource):
            return self.source.in_real_time(self.files.folder)
        if self.slam.config.run.realtime:
            return self.source.in_real_time(self.rest.first)
        return self.source.images(range(self.rest.first, len(self.source)))

    def _take(self, image: Image, live: Stream | None, bar: tqdm) -> None:
        """One image through the system; who watches is told, and may want all written."""
        taken = time.monotonic() if live is None else live.captured[image.index]
        step = self.slam.feed(image)
        self.notes.note(step)
        dropped = 0 if live is None else live.dropped
        bar.update(self.rest.first + len(self.notes.posed_at) + dropped - bar.n)
        bar.set_postfix_str(f"{len(self.slam.graph)} keyframes, {step.record.state.value}")
        self.watch.posed(image, step, time.monotonic() - taken, self.rest.dropped + dropped)
        if self.watch.wants_save():
            now = Files(self.files.folder)
            self.notes.loop_seconds = self.notes.total_seconds = self.notes.seconds()
            self._save(now, {})
            self.watch.saved(now.complaint())

    def _finish(self) -> Exception | None:
        """The final adjustment; returns what broke it."""
        if self.slam.failed:
            return None
        if self.interrupt.count > 1:
            self.slam.hurry()
        try:
            self.slam.finish()
        except Exception as error:  # raised by `complete` after saving
            return error
        finally:
            self.notes.total_seconds = self.notes.seconds()
        return None

    def _save(self, files: Files, extra: dict[str, Any]) -> dict[str, Any]:
        return save(files, self.slam, self.source, self.told, self.notes, extra)


def _without_map(config: Config, frames: int) -> str:
    """What was wanted for one, what came, and what to do."""
    if config.predictor == "flow":
        return (
            "a start wants two views of one scene from different places, "
            f"got none in {frames} frames; move the camera sideways, or see --fov"
        )
    if config.predictor == "simulated":
        return (
            f"wanted frames with true depth and pose, which the simulation needs, got {frames} "
            "hardly any of which have both; for the bundled sample, or a part of it, give "
            "--set simulated.world=sample"
        )
    return (
        f"wanted frames whose points match those of a keyframe, got {frames} that do not; see "
        "whether the weights are a network's that was trained, or take --predictor flow"
    )
