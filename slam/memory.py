"""How much memory the process has."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

MEGABYTE = 1e6  # bytes
STATM = Path("/proc/self/statm")


def resident_memory() -> float:
    """MB of the process in memory now; where the system does not tell, the most it ever was."""
    if not STATM.is_file():
        return peak_memory()
    pages = int(STATM.read_text().split()[1])
    return pages * resource.getpagesize() / MEGABYTE


def peak_memory() -> float:
    """The most MB of memory that the process has ever had."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


def trim() -> None:
    """Hands freed memory back to the system, where the C library can be told to (glibc)."""
    if (tell := _trimmer()) is not None:
        tell(0)


@cache
def _trimmer() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
