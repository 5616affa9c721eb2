"""Milliseconds of each stage, from any thread."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class Timings:
    """Collects durations by stage name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._durations: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Times a `with` block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self._durations[stage].append(1e3 * (time.perf_counter() - start))

    def summary(self) -> dict[str, dict[str, float]]:
        """Stage → count, p50 and p95 in ms, total in s."""
        with self._lock:
            stages = {name: np.array(values) for name, values in self._durations.items()}
        return {
            name: {
                "count": len(values),
                "p50_ms": round(float(np.percentile(values, 50)), 3),
                "p95_ms": round(float(np.percentile(values, 95)), 3),
                "total_s": round(float(values.sum()) / 1e3, 3),
            }
            for name, values in stages.items()
        }
