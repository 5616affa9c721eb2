"""Times of the native kernels: beside plain torch, and beside what copying their data takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from slam.bench.clock import in_words, seconds, timed_device
from slam.bench.kernel_cases import Case, kernel_cases
from slam.kernels import native_info

SECONDS = 0.4  # that each side of a case is timed for, after a first call
FEWEST, MOST = 3, 300  # calls
COPY = 64 << 20  # bytes of the memory copy: larger than caches
COPIES = 7


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """One kernel beside its twin."""

    kernel: str
    size: str
    native_ms: float  # the fastest call, checks of its arguments included
    torch_ms: float  # of the float32 torch twin, in the same process
    megabytes: float  # inputs read once, outputs written once
    gigabytes_per_s: float  # of those
    copy_share: float  # of the bandwidth of a memory copy; small inputs stay in cache: may pass 1
    matches_per_s: float  # pixels looked for; 0 = it matches none
    difference: float  # largest relative difference of an output to the twin's, in norm

    @property
    def ratio(self) -> float:
        """How many times faster than plain torch."""
        return self.torch_ms / self.native_ms


@dataclass(frozen=True, slots=True)
class KernelResult:
    """All of them."""

    device: str
    threads: int
    copy_gigabytes_per_s: float  # read and written, of a large copy
    kernels: tuple[KernelTimes, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [asdict(one) | {"times_faster": one.ratio} for one in self.kernels]
        return asdict(self) | {"kernels": rows}


def measure_kernels(device: str = "cpu", threads: int = 1, scale: float = 1.0) -> KernelResult:
    """Times every kernel and its twin.

    Args:
        threads: of torch and of the kernels, on the CPU.
        scale: on the images' sides; 1 = a run's.
    Raises ValueError where the device, or kernels for it, are not there.
    """
    chosen = _device(device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        bandwidth = copy_bandwidth(chosen)
        times = [_measure(case, chosen, bandwidth) for case in kernel_cases(chosen, scale)]
    finally:
        torch.set_num_threads(before)
    return KernelResult(in_words(chosen), threads, bandwidth, tuple(times))


def _device(name: str) -> torch.device:
    device = timed_device(name)
    if device.type == "cuda" and not native_info().with_cuda:
        raise ValueError(
            "--device: wanted kernels for CUDA, got a native module built without them; "
            "build again where nvcc is found"
        )
    return device


def copy_bandwidth(device: torch.device) -> float:
    """GB/s read and written by a copy that no cache holds: the best of several."""
    source = torch.ones(COPY // 4, device=device)
    target = torch.empty_like(source)
    best = min(seconds(lambda: target.copy_(source), device) for _ in range(COPIES))
    return 2 * COPY / best / 1e9


def difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Largest |a - b| / |b| in norm over pairs of tensors."""
    pairs = [(a.double().cpu(), b.double().cpu()) for a, b in zip(first, second, strict=True)]
    return max(float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in pairs)


def _measure(case: Case, device: torch.device, bandwidth: float) -> KernelTimes:
    apart = difference(case.native(), case.twin())
    native, twin = (_fastest(call, device) for call in (case.native, case.twin))
    rate = case.bytes / native / 1e9
    return KernelTimes(
        kernel=case.kernel,
        size=case.size,
        native_ms=1e3 * native,
        torch_ms=1e3 * twin,
        megabytes=case.bytes / 1e6,
        gigabytes_per_s=rate,
        copy_share=rate / bandwidth,
        matches_per_s=case.matches / native,
        difference=apart,
    )


def _fastest(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest call: what else runs on the machine makes the others slower."""
    durations: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(durations) < FEWEST or (len(durations) < MOST and time.perf_counter() < end):
        durations.append(seconds(call, device))
    return min(durations)


def _millions(rate: float) -> str:
    return f"{rate / 1e6:.2f} M" if rate else "-"


def format_kernels(result: KernelResult) -> str:
    """A line a kernel."""
    wide = max(len(one.kernel) for one in result.kernels)
    sizes = max(len(one.size) for one in result.kernels)
    head = (
        f"{'kernel':<{wide}}  {'size':<{sizes}}{'ms':>10}{'torch ms':>10}{'faster':>9}"
        f"{'MB':>9}{'GB/s':>8}{'of copy':>9}{'matches/s':>11}{'differs':>10}"
    )
    lines = [
        f"{one.kernel:<{wide}}  {one.size:<{sizes}}{one.native_ms:>10.3f}{one.torch_ms:>10.3f}"
        f"{one.ratio:>8.1f}x{one.megabytes:>9.2f}{one.gigabytes_per_s:>8.2f}"
        f"{100 * one.copy_share:>7.1f} %{_millions(one.matches_per_s):>11}{one.difference:>10.1e}"
        for one in result.kernels
    ]
    return "\n".join(
        [
            f"{result.device}, {result.threads} CPU threads; a memory copy moves "
            f"{result.copy_gigabytes_per_s:.1f} GB/s (read and written)",
            "",
            head,
            *lines,
            "",
            "ms: the fastest call. MB: inputs read once, outputs written once; of copy: that rate "
            "beside the copy's. differs: from the torch twin, relative, in norm.",
        ]
    )
