"""The images of a source on their way into the system: at their pace, and how far they are."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import Any

import numpy as np
from tqdm import tqdm

from slam.frame import Image
from slam.outputs import RunNotes
from slam.sources.stream import Stream

TURN = 5e-4  # s, that a thread may keep the interpreter in real time while another wants it


def real_time_facts(live: Stream, notes: RunNotes, dropped: int) -> dict[str, Any]:
    """Drops, and when each frame was captured and posed (s since the first capture).

    Args: dropped: images before a run was resumed.
    """
    start = min(live.captured.values(), default=0.0)
    latency = [
        {"index": n, "captured": live.captured[n] - start, "posed": posed - start}
        for n, posed in notes.posed_at.items()
    ]
    facts: dict[str, Any] = {
        "dropped": dropped + live.dropped,
        "latency": latency,
        "latency_ms": _percentiles(latency),
    }
    camera = live.facts()
    return facts | ({"live": camera | {"taken": len(latency)}} if camera else {})


def _percentiles(latency: list[dict[str, float]]) -> dict[str, float] | None:
    """p50 and p95 from capture to pose, ms; None where nothing was posed."""
    if not latency:
        return None
    waits = [1e3 * (frame["posed"] - frame["captured"]) for frame in latency]
    return {name: float(np.percentile(waits, int(name[1:]))) for name in ("p50", "p95")}


@contextmanager
def playing(
    images: Stream | Generator[Image, None, None], total: int | None
) -> Iterator[tuple[Iterator[Image], tqdm]]:
    """Images, a stream's in real time, and a bar of them; the iterator is closed in the end.

    Args: total: how many there will be; None = nobody knows.
    """
    gc.freeze()  # what is loaded by now is no garbage: a collection need not walk through it
    in_real_time = isinstance(images, Stream)
    each = iter(images) if in_real_time else images
    turns = _shorter_turns() if in_real_time else nullcontext()
    with turns, _progress(total) as bar, closing(each):
        yield each, bar


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
def _progress(total: int | None) -> Iterator[tqdm]:
    """A bar of frames on a terminal's standard error; none elsewhere, nor with -q."""
    quiet = logging.getLogger("slam").getEffectiveLevel() >= logging.ERROR
    with tqdm(total=total, unit="frame", disable=True if quiet else None, file=sys.stderr) as bar:
        yield bar
