"""One run: from a source to the output folder, whatever happens in between."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from slam.config import Config
from slam.frame import Image, TrackState, source_of
from slam.observer import Observer, Running
from slam.output_files import Files, output_folder
from slam.outputs import RunNotes, RunResult, save
from slam.saved_map import SavedMap, expect_layout, expect_same_camera, load_map
from slam.session import Found, Session, begin, find, replay, resumed
from slam.sources import Source, open_source
from slam.sources.looped import LoopedSource
from slam.sources.realtime import RealTime
from slam.standing import Standing
from slam.system import Slam

log = logging.getLogger(__name__)

FEWEST = 3  # posed frames, for a run to have found anything
INTERRUPTED = 130  # exit code after Ctrl-C, as a shell reports it
TURN = 5e-4  # s, that a thread may keep the interpreter in real time while another wants it
Playable = Source | LoopedSource


class Interrupt:
    """Ctrl-C as a flag: the first one ends the loop after its frame, the next the adjustment.

    A third one is a KeyboardInterrupt.
    """

    def __init__(self, slam: Slam) -> None:
        self.slam = slam
        self.count = 0
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

    def _handle(self, _: int, frame: FrameType | None) -> None:
        self.press()

    def press(self) -> None:
        """One Ctrl-C."""
        self.count += 1
        if self.count > 2:
            raise KeyboardInterrupt
        if self.finishing or self.count > 1:
            self.slam.hurry()


def run(config: Config, observer: Observer | None = None) -> RunResult:
    """Runs the whole system on a source and writes the output folder.

    Ctrl-C ends the loop early; everything is still adjusted and saved, and a second one cuts the
    adjustment short. Where the source or the system breaks in the middle, what there is is saved
    before the error is raised; a file that cannot be written keeps no other from being written.

    While it goes, the folder holds what `resume` needs; see `session`.

    Where `config.run.map` names a map, the run goes on with that one.

    Args: observer: watches and steers it; None = nobody does.
    Raises ValueError, FileNotFoundError or OSError for bad input.
    """
    watch = Observer() if observer is None else observer
    source = open_configured(config)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        rest = Rest(entered=_map_to_enter(slam, source))
        files = Files(output_folder(config, source.name))
        session = begin(files.folder, config)
        log.info("%s: %d frames, %s", source.name, len(source.times), source.calibration_source)
        parts = files, session, RunNotes(), rest, watch
        return _Run(slam, source, *parts, Interrupt(slam)).complete()


def resume(folder: Path) -> RunResult:
    """Goes on with a run that was killed, or that broke, and ends as `run` does.

    What it was told comes from its journal; the source has to be where it was.

    Raises FileNotFoundError or ValueError where the folder holds no such run, and as `run`.
    """
    found = find(folder)
    config = replace(found.config, run=replace(found.config.run, out=str(folder)))
    source = open_configured(config)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        session, notes = resumed(found), RunNotes()
        rest = _restore(slam, source, found, notes)
        log.info("%s: going on with %d keyframes at frame %d", folder, len(slam.graph), rest.first)
        parts = Files(folder), session, notes, rest, Observer()
        return _Run(slam, source, *parts, Interrupt(slam)).complete()


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of a source to a run that goes on with it."""

    first: int = 0  # place of the first image in the source's selection
    dropped: int = 0  # images before it that real time left out
    standing: Standing | None = None  # where the run stood; None = at the beginning
    entered: SavedMap | None = None  # map that it begins in; None = it makes one


def _map_to_enter(slam: Slam, source: Source) -> SavedMap | None:
    """The map that the settings name. Raises ValueError where it does not suit the source."""
    if not slam.config.run.map:
        return None
    saved = load_map(slam.config.run.map)
    expect_same_camera(saved, source)
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
    places = (np.searchsorted(source.indices, [r.index for r in some]).tolist() for some in kept)
    slam.take_up(standing, *(source.images(some) for some in places))


@dataclass(frozen=True, slots=True)
class _Run:
    """One run on its way."""

    slam: Slam
    source: Source
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
        code = INTERRUPTED if self.interrupt.count else 0
        return RunResult(self.files.folder, report, code)

    def _loop(self) -> tuple[Exception | None, dict[str, Any]]:
        """Feeds what is left; returns what broke the loop, and what the report has besides."""
        left = self.source.images(range(self.rest.first, len(self.source)))
        live = RealTime(left) if self.slam.config.run.realtime else None
        broken: Exception | None = None
        try:
            with playing(self.source, live, left) as (images, bar):
                for image in images:
                    self.watch.before_image()
                    if self.interrupt.ends_loop:
                        break
                    self._take(image, live, bar)
                    if self.interrupt.ends_loop:
                        break
            if self.interrupt.count:
                log.warning("interrupted: adjusting and saving what there is")
        except Exception as error:  # raised by `complete` after saving
            broken = error
        self.slam.end_session()
        self.interrupt.finishing = True
        self.notes.loop_seconds = self.notes.seconds()
        extra = {} if self.rest.standing is None else {"resumed_at": self.rest.first}
        if live is not None:
            extra |= _real_time(live, self.notes, self.rest.dropped)
        return broken, extra

    def _take(self, image: Image, live: RealTime | None, bar: tqdm) -> None:
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
        return save(files, self.slam, self.source, self.slam.config, self.notes, extra)


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


def open_configured(config: Config) -> Source:
    """The source that a configuration names. Raises as open_source does."""
    chosen = config.source
    return open_source(
        chosen.path,
        format=chosen.format,
        calibration=chosen.calibration,
        fov=chosen.fov,
        start=chosen.start,
        end=chosen.end,
        stride=chosen.stride,
    )


def _real_time(live: RealTime, notes: RunNotes, dropped: int) -> dict[str, Any]:
    """Drops, and when each frame was captured and posed (s since the first capture).

    Args: dropped: images before a run was resumed.
    """
    start = min(live.captured.values(), default=0.0)
    return {
        "dropped": dropped + live.dropped,
        "latency": [
            {"index": n, "captured": live.captured[n] - start, "posed": posed - start}
            for n, posed in notes.posed_at.items()
        ],
    }


@contextmanager
def playing(
    source: Playable, live: RealTime | None, chosen: Generator[Image, None, None] | None = None
) -> Iterator[tuple[Iterator[Image], tqdm]]:
    """The images of a source, in real time or one after the other, and a bar of them.

    Args: chosen: some of its images, in place of all, where it is not played in real time.
    """
    gc.freeze()  # what is loaded by now is no garbage: a collection need not walk through it
    images: Generator[Image, None, None] = chosen or source.images() if live is None else iter(live)
    turns = nullcontext() if live is None else _shorter_turns()
    with turns, _progress(len(source)) as bar, closing(images):
        yield images, bar


@contextmanager
def _shorter_turns() -> Iterator[None]:
    """Lets the frontend take over from the backend within half a millisecond, not Python's five."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def _progress(total: int) -> Iterator[tqdm]:
    """A bar of frames on a terminal's standard error; none elsewhere, nor with -q."""
    quiet = logging.getLogger("slam").getEffectiveLevel() >= logging.ERROR
    with tqdm(total=total, unit="frame", disable=True if quiet else None, file=sys.stderr) as bar:
        yield bar
