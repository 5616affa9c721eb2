"""One run measured: stage times, latency, memory, cost of a keyframe as the map grows, accuracy."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from slam.bench.growth import Growth, backend_growth, slope
from slam.bench.memory import KeyframeMemory, keyframe_memory
from slam.config import Config
from slam.evaluation import evaluate
from slam.frame import Image
from slam.memory import peak_memory, resident_memory
from slam.playing import playing
from slam.run import Interrupt
from slam.sources import Source
from slam.sources.configured import open_configured
from slam.sources.looped import LoopedSource
from slam.sources.realtime import RealTime
from slam.system import WAIT, Slam
from slam.timing import StageTimes
from slam.trajectory import Trajectory

log = logging.getLogger(__name__)

EVERYTHING = 1_000_000  # keyframes: a window that holds any map
EVERY = 10.0  # s of the source between two looks at the memory
WAIT_FOR_IMAGE = "wait for image"
FRONTEND, BACKEND = "frontend", "backend"


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of the stage table."""

    stage: str
    thread: str  # frontend (the caller's) or backend
    times: StageTimes
    share: float | None  # of the loop's wall time; None = after the loop

    def to_dict(self) -> dict[str, Any]:
        times = self.times.to_dict() | {"thread": self.thread}
        return {"stage": self.stage, **times, "share_of_loop": self.share}


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from one moment of a frame to its pose."""

    p50_ms: float
    p95_ms: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Latency | None:
        """None for no frames."""
        if not seconds:
            return None
        p50, p95 = np.percentile(1e3 * np.array(seconds), [50, 95])
        return Latency(float(p50), float(p95))


@dataclass(frozen=True, slots=True)
class KeyframeErrors:
    """Position error of the keyframes, RMSE in m after Sim(3) alignment; None = not known."""

    loop: float | None  # as the windows left them, when the last image was through
    final: float | None  # after the final adjustment
    path_length: float | None  # m, of the ground truth


@dataclass(frozen=True, slots=True)
class Resident:
    """What the process had in memory at a moment of the input."""

    seconds: float  # of the source
    keyframes: int
    megabytes: float


@dataclass(frozen=True, slots=True)
class SpeedResult:
    """What one measured run showed."""

    source: str
    frames: int  # images of the source, over all passes
    processed: int  # of them, not dropped
    passes: int
    keyframes: int
    edges: int  # at the end of the loop, directed
    realtime: bool
    threads: int
    interrupted: bool
    loop_seconds: float
    total_seconds: float  # with the final adjustment
    cpu_seconds: float  # of the whole process, in the loop
    feed: Latency | None  # from when the frontend takes an image to its pose
    frontend: Latency | None  # the same without waiting for the backend
    capture: Latency | None  # from when an image is due to its pose, in real time
    dropped: int | None  # images, in real time
    stages: tuple[StageRow, ...]
    peak_mb: float
    resident_slope_mb: float | None  # growth of the process for each keyframe
    memory: KeyframeMemory | None  # at the end of the loop; None where a budget moves it about
    resident: tuple[Resident, ...]  # as the loop went on
    budget_mb: float | None  # of memory; None = no limit
    disk_mb: float  # of what had no room under it
    backend: tuple[Growth, ...]
    errors: KeyframeErrors

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {"stages", "memory", "backend", "resident"}
        names = [name for name in self.__dataclass_fields__ if name not in own]
        plain = {name: getattr(self, name) for name in names}
        for name in ("feed", "frontend", "capture", "errors"):
            plain[name] = None if plain[name] is None else asdict(plain[name])
        return plain | {
            "frames_per_second": {
                "loop": rate(self.processed, self.loop_seconds),
                "with_final_adjustment": rate(self.processed, self.total_seconds),
            },
            "stages": [row.to_dict() for row in self.stages],
            "keyframe_memory_mb": None if self.memory is None else self.memory.to_dict(),
            "resident": [asdict(moment) for moment in self.resident],
            "backend_per_keyframe": [growth.to_dict() for growth in self.backend],
        }


@dataclass
class _Notes:
    """What is noted while images go through."""

    feed: list[float] = field(default_factory=list)  # s, of each image
    waited: list[float] = field(default_factory=list)  # s of it, for the backend
    posed_at: dict[int, float] = field(default_factory=dict)  # index → time.monotonic()
    resident: list[Resident] = field(default_factory=list)  # at each keyframe
    over_time: list[Resident] = field(default_factory=list)  # every EVERY s of the source
    first: float | None = None  # s, of the source's first image
    loop_seconds: float = 0.0
    cpu_seconds: float = 0.0


def measure_speed(config: Config, *, passes: int = 1, marks: Sequence[int] = ()) -> SpeedResult:
    """Runs the whole system on a source, writes nothing, and says what it took.

    Ctrl-C ends the loop early, a second one the adjustment.

    Args:
        passes: 1 = through the source once; more = forwards and backwards in turn.
        marks: numbers of keyframes before which the backend's time is averaged.
    Raises ValueError, FileNotFoundError or OSError for bad input, and what breaks the run.
    """
    recording = open_configured(config)
    source = recording if passes == 1 else LoopedSource(recording, passes)
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        interrupt, notes, started = Interrupt(slam), _Notes(), time.perf_counter()
        live = RealTime(source.images()) if config.run.realtime else None
        with interrupt.watching():
            _play(slam, source, live, interrupt, notes)
            stages = slam.timings.stages()
            pages, edges = slam.graph.pages, len(slam.graph.edges())
            held = slam.backend.edges.held
            memory = keyframe_memory(slam.graph, held) if pages.unlimited else None
            loop_error, length = _keyframe_error(slam, source)
            if interrupt.count > 1:
                slam.hurry()
            slam.finish()
        total = time.perf_counter() - started
        return SpeedResult(
            source=source.name,
            frames=len(source),
            processed=len(notes.feed),
            passes=passes,
            keyframes=len(slam.graph),
            edges=edges,
            realtime=live is not None,
            threads=config.run.threads,
            interrupted=interrupt.count > 0,
            loop_seconds=notes.loop_seconds,
            total_seconds=total,
            cpu_seconds=notes.cpu_seconds,
            feed=Latency.of(notes.feed),
            frontend=Latency.of([f - w for f, w in zip(notes.feed, notes.waited, strict=True)]),
            capture=None if live is None else _since_capture(live, notes),
            dropped=None if live is None else live.dropped,
            stages=_rows(stages, slam.timings.stages(), notes.loop_seconds),
            peak_mb=peak_memory(),
            resident_slope_mb=slope(
                [(r.keyframes, r.megabytes) for r in notes.resident[len(notes.resident) // 4 :]]
            ),
            memory=memory,
            resident=tuple(notes.over_time),
            budget_mb=pages.budget,
            disk_mb=pages.written,
            backend=tuple(backend_growth(slam.timings, marks)),
            errors=KeyframeErrors(loop_error, _keyframe_error(slam, source)[0], length),
        )


def solving_everything(config: Config) -> Config:
    """The same with a window that holds all keyframes: what a windowed backend is compared to."""
    adjustment = replace(config.bundle_adjustment, window=EVERYTHING)
    return replace(config, bundle_adjustment=adjustment)


def rate(count: int, seconds: float) -> float:
    """Frames per second."""
    return count / max(seconds, 1e-9)


def _play(
    slam: Slam,
    source: Source | LoopedSource,
    live: RealTime | None,
    interrupt: Interrupt,
    notes: _Notes,
) -> None:
    """Feeds every image and notes what it took."""
    started, cpu = time.perf_counter(), time.process_time()
    with playing(live or source.images(), source.total) as (images, bar):
        for image in _timed(slam, images):
            _feed(slam, image, notes)
            bar.update(len(notes.feed) + (live.dropped if live else 0) - bar.n)
            bar.set_postfix_str(f"{len(slam.graph)} keyframes")
            if interrupt.count:
                log.warning("interrupted: measuring what there is")
                break
    interrupt.finishing = True
    notes.loop_seconds = time.perf_counter() - started
    notes.cpu_seconds = time.process_time() - cpu


def _timed(slam: Slam, images: Iterator[Image]) -> Iterator[Image]:
    """The images; how long each kept the frontend waiting becomes a stage."""
    while True:
        with slam.timings.measure(WAIT_FOR_IMAGE):
            image = next(images, None)
        if image is None:
            return
        yield image


def _feed(slam: Slam, image: Image, notes: _Notes) -> None:
    keyframes, waited = len(slam.graph), slam.timings.total_seconds(WAIT)
    start = time.perf_counter()
    step = slam.feed(image)
    notes.feed.append(time.perf_counter() - start)
    notes.waited.append(slam.timings.total_seconds(WAIT) - waited)
    notes.posed_at[step.record.index] = time.monotonic()
    notes.first = image.seconds if notes.first is None else notes.first
    since = image.seconds - notes.first
    if len(slam.graph) > keyframes:
        notes.resident.append(Resident(since, len(slam.graph), resident_memory()))
    if since >= EVERY * len(notes.over_time):
        notes.over_time.append(Resident(since, len(slam.graph), resident_memory()))


def _since_capture(live: RealTime, notes: _Notes) -> Latency | None:
    return Latency.of([posed - live.captured[n] for n, posed in notes.posed_at.items()])


def _rows(
    in_loop: dict[str, StageTimes], after: dict[str, StageTimes], seconds: float
) -> tuple[StageRow, ...]:
    """The loop's stages as they were at its end, then those that came after it."""
    caller = threading.current_thread().name
    late = {name: times for name, times in after.items() if name not in in_loop}
    rows = [
        StageRow(
            name,
            FRONTEND if times.thread == caller else times.thread,
            times,
            times.total_s / max(seconds, 1e-9) if name in in_loop else None,
        )
        for name, times in (in_loop | late).items()
    ]
    return tuple(sorted(rows, key=lambda r: (r.share is None, r.thread == BACKEND)))


def _keyframe_error(slam: Slam, source: Source | LoopedSource) -> tuple[float | None, float | None]:
    """ATE RMSE of the keyframes, and the true path's length, m; None without ground truth."""
    keyframes = sorted((k.frame.time, k.T_WC.numpy()) for k in slam.graph.keyframes())
    if source.ground_truth is None or len(keyframes) < 3:
        return None, None
    path = Trajectory(np.array([t for t, _ in keyframes]), np.stack([p for _, p in keyframes]))
    try:
        result = evaluate(path, source.ground_truth)
    except ValueError as reason:
        log.warning("no comparison with the ground truth: %s", reason)
        return None, None
    return result.ate_sim3.rmse, result.path_length
