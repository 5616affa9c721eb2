"""One run: from a source to the output folder, whatever happens in between."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from types import FrameType
from typing import Any

from tqdm import tqdm

from slam.config import Config
from slam.frame import Image
from slam.observer import Observer, Running
from slam.outputs import Files, Journal, RunResult, output_folder, save
from slam.sources import Source, open_source
from slam.sources.looped import LoopedSource
from slam.sources.realtime import RealTime
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

    Args: observer: watches and steers it; None = nobody does.
    Raises ValueError, FileNotFoundError or OSError for bad input.
    """
    watch = Observer() if observer is None else observer
    source = open_configured(config)
    journal = Journal()
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        files = Files(output_folder(config, source.name))
        log.info("%s: %d frames, %s", source.name, len(source.times), source.calibration_source)
        interrupt = Interrupt(slam)
        with interrupt.watching():
            watch.began(Running(slam, source, interrupt.press, interrupt.stop))

            def write_now() -> str:
                now = Files(files.folder)
                journal.loop_seconds = journal.total_seconds = journal.seconds()
                save(now, slam, source, config, journal, {})
                return now.complaint()

            broken, extra = _loop(slam, source, config, journal, interrupt, watch, write_now)
            watch.adjusting()
            broken = broken or _finish(slam, journal, interrupt)
            report = save(files, slam, source, config, journal, extra)
    if broken is not None:
        log.warning("what was computed is in %s", files.folder)
        if files.unwritten:
            log.warning("%s", files.complaint())
        raise broken
    if files.unwritten:
        raise OSError(files.complaint())
    if report["posed"] < FEWEST and not interrupt.ends_loop:
        raise ValueError(f"{source.path}: no map: {_without_map(config, report['processed'])}")
    return RunResult(files.folder, report, INTERRUPTED if interrupt.count else 0)


def _without_map(config: Config, frames: int) -> str:
    """What was wanted for one, what came, and what to do."""
    if config.predictor == "flow":
        return (
            "a start wants two views of one scene from different places, "
            f"got none in {frames} frames; move the camera sideways, or see --fov"
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


def _loop(
    slam: Slam,
    source: Source,
    config: Config,
    journal: Journal,
    interrupt: Interrupt,
    watch: Observer,
    write_now: Callable[[], str],
) -> tuple[Exception | None, dict[str, Any]]:
    """Feeds every image; returns what broke the loop, and figures of real-time mode."""
    live = RealTime(source.images()) if config.run.realtime else None
    broken: Exception | None = None
    journal.started = time.perf_counter()
    try:
        with playing(source, live) as (images, bar):
            for image in images:
                watch.before_image()
                if interrupt.ends_loop:
                    break
                taken = time.monotonic() if live is None else live.captured[image.index]
                step = slam.feed(image)
                journal.note(step)
                dropped = 0 if live is None else live.dropped
                bar.update(len(journal.posed_at) + dropped - bar.n)
                bar.set_postfix_str(f"{len(slam.graph)} keyframes, {step.record.state.value}")
                watch.posed(image, step, time.monotonic() - taken, dropped)
                if watch.wants_save():
                    watch.saved(write_now())
                if interrupt.ends_loop:
                    break
        if interrupt.count:
            log.warning("interrupted: adjusting and saving what there is")
    except Exception as error:  # raised by `run` after saving
        broken = error
    interrupt.finishing = True
    journal.loop_seconds = journal.seconds()
    return broken, {} if live is None else _real_time(live, journal)


def _finish(slam: Slam, journal: Journal, interrupt: Interrupt) -> Exception | None:
    """The final adjustment; returns what broke it."""
    if slam.failed:
        return None
    if interrupt.count > 1:
        slam.hurry()
    try:
        slam.finish()
    except Exception as error:  # raised by `run` after saving
        return error
    finally:
        journal.total_seconds = journal.seconds()
    return None


def _real_time(live: RealTime, journal: Journal) -> dict[str, Any]:
    """Drops, and when each frame was captured and posed (s since the first capture)."""
    start = min(live.captured.values(), default=0.0)
    return {
        "dropped": live.dropped,
        "latency": [
            {"index": n, "captured": live.captured[n] - start, "posed": posed - start}
            for n, posed in journal.posed_at.items()
        ],
    }


@contextmanager
def playing(source: Playable, live: RealTime | None) -> Iterator[tuple[Iterator[Image], tqdm]]:
    """The images of a source, in real time or one after the other, and a bar of them."""
    gc.freeze()  # what is loaded by now is no garbage: a collection need not walk through it
    images: Generator[Image, None, None] = source.images() if live is None else iter(live)
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
