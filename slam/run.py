"""One run: from a source to the output folder, whatever happens in between."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

from tqdm import tqdm

from slam.config import Config
from slam.frame import Image
from slam.outputs import Journal, RunResult, output_folder, save
from slam.sources import Source, open_source
from slam.sources.realtime import RealTime
from slam.system import Slam

log = logging.getLogger(__name__)

INTERRUPTED = 130  # exit code after Ctrl-C, as a shell reports it


def run(config: Config) -> RunResult:
    """Runs the whole system on a source and writes the output folder.

    Ctrl-C ends the loop early; everything is still adjusted and saved. So it is when the source
    breaks in the middle: the error is raised after saving.

    Raises ValueError, FileNotFoundError or OSError for bad input.
    """
    chosen = config.source
    source = open_source(
        chosen.path,
        format=chosen.format,
        calibration=chosen.calibration,
        fov=chosen.fov,
        start=chosen.start,
        end=chosen.end,
        stride=chosen.stride,
    )
    folder = output_folder(config, source.name)
    log.info("%s: %d frames, %s", source.name, len(source.times), source.calibration_source)
    journal = Journal()
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        stopped, extra = _loop(slam, source, config, journal)
        slam.finish()
        journal.total_seconds = time.perf_counter() - journal.started
        report = save(folder, slam, source, config, journal, extra)
    if isinstance(stopped, Exception):
        log.warning("what was computed is in %s", folder)
        raise stopped
    if report["keyframes"] == 0 and stopped is None:
        raise ValueError(
            f"{source.path}: no map: a start wants two views of one scene from different places, "
            f"got none in {report['processed']} frames; move the camera sideways, or see --fov"
        )
    return RunResult(folder, report, INTERRUPTED if stopped else 0)


def _loop(
    slam: Slam, source: Source, config: Config, journal: Journal
) -> tuple[BaseException | None, dict[str, Any]]:
    """Feeds every image; returns what ended the loop early, and figures of real-time mode."""
    live = RealTime(source.images()) if config.run.realtime else None
    images: Generator[Image, None, None] = iter(live) if live is not None else source.images()
    stopped: BaseException | None = None
    journal.started = time.perf_counter()
    try:
        with _progress(len(source.times)) as bar, closing(images) as stream:
            for image in stream:
                step = slam.feed(image)
                journal.note(step)
                bar.update()
                bar.set_postfix_str(f"{len(slam.graph)} keyframes, {step.record.state.value}")
    except KeyboardInterrupt as interrupt:
        log.warning("interrupted: saving what there is")
        stopped = interrupt
    except (ValueError, OSError) as error:
        stopped = error
    journal.loop_seconds = time.perf_counter() - journal.started
    return stopped, {} if live is None else _real_time(live, journal)


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
def _progress(total: int) -> Iterator[tqdm]:
    with tqdm(total=total, unit="frame", disable=None, file=sys.stderr) as bar:
        yield bar
