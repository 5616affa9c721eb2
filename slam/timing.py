"""Milliseconds of each stage, from any thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

KEPT = 16384  # calls of one stage whose durations are kept: the latest


class Call(NamedTuple):
    """One timed call of a stage."""

    key: int  # what it was about, such as a keyframe's number; -1 = nothing in particular
    milliseconds: float


@dataclass(frozen=True, slots=True)
class StageTimes:
    """How long a stage took, over all of its calls."""

    thread: str  # the one it was called in first
    count: int
    total_s: float
    mean_ms: float
    p50_ms: float  # of the latest KEPT calls, like p95
    p95_ms: float

    def to_dict(self) -> dict[str, float | str]:
        return {
            "thread": self.thread,
            "count": self.count,
            "mean_ms": round(self.mean_ms, 3),
            "p50_ms": round(self.p50_ms, 3),
            "p95_ms": round(self.p95_ms, 3),
            "total_s": round(self.total_s, 3),
        }


@dataclass(slots=True)
class _Stage:
    """What is collected of one stage."""

    thread: str
    count: int = 0
    total_s: float = 0.0
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=KEPT))


class Timings:
    """Collects durations by stage name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, _Stage] = {}

    @contextmanager
    def measure(self, stage: str, key: int = -1) -> Iterator[None]:
        """Times a `with` block; `key` says what it was about, for `calls`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.note(stage, time.perf_counter() - start, key)

    def note(self, stage: str, seconds: float, key: int = -1) -> None:
        """Counts one call of a stage that took so long."""
        with self._lock:
            if stage not in self._stages:
                self._stages[stage] = _Stage(threading.current_thread().name)
            kept = self._stages[stage]
            kept.count += 1
            kept.total_s += seconds
            kept.calls.append(Call(key, 1e3 * seconds))

    def calls(self, stage: str) -> list[Call]:
        """The latest calls of a stage, at most KEPT of them, in the order they ended."""
        with self._lock:
            return list(self._stages[stage].calls) if stage in self._stages else []

    def total_seconds(self, stage: str) -> float:
        """Over all calls of a stage so far; 0 for one that was never called."""
        with self._lock:
            return self._stages[stage].total_s if stage in self._stages else 0.0

    def stages(self) -> dict[str, StageTimes]:
        """Stage → its times, in the order of their first calls' ends."""
        with self._lock:
            kept = [
                (name, stage.thread, stage.count, stage.total_s, list(stage.calls))
                for name, stage in self._stages.items()
            ]
        return {
            name: StageTimes(thread, count, total, 1e3 * total / count, *_percentiles(calls))
            for name, thread, count, total, calls in kept
        }

    def summary(self) -> dict[str, dict[str, float | str]]:
        """The same as plain values, for JSON."""
        return {name: times.to_dict() for name, times in self.stages().items()}


def _percentiles(calls: list[Call]) -> tuple[float, float]:
    durations = np.array([call.milliseconds for call in calls])
    return float(np.percentile(durations, 50)), float(np.percentile(durations, 95))
