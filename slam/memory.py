"""How much memory the process has."""

from __future__ import annotations

import resource
import sys
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
