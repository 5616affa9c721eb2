"""The device that is timed: taken by name, told in words, and the seconds of a call on it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable

import torch


def timed_device(name: str) -> torch.device:
    """`cpu` or `cuda`. Raises ValueError where there is no GPU."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: wanted a CUDA GPU, got none that torch can use; take cpu")
    return torch.device(name)


def in_words(device: torch.device) -> str:
    """Its kind, and which one it is where the system tells."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor()
    return f"{device.type} ({name})" if name else device.type


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Of one call, and of what it left the GPU to do."""
    _finish(device)
    start = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - start


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
