"""Time and memory of the pointmap network: encoding an image, decoding pairs; half precision."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slam.bench.clock import in_words, seconds, timed_device
from slam.frame import PointmapView
from slam.memory import MEGABYTE, peak_memory
from slam.networks.pointmap import PointmapNetwork, load_pointmap_network
from slam.networks.pointmap_sizes import PointmapSizes, TransformerSizes

FULL_SIZE = PointmapSizes(  # MASt3R as published: ViT-Large encoder, two ViT-Base decoders
    16, TransformerSizes(1024, 24, 16), TransformerSizes(768, 12, 12), "dpt", 24
)
FIELDS = ("X", "confidence", "descriptor", "descriptor_confidence")


@dataclass(frozen=True, slots=True)
class Trial:
    """What is measured."""

    checkpoint: Path | None = None  # None = the full size, with random weights
    width: int = 512  # px, of the images
    height: int = 384  # px
    device: str = "cpu"  # or cuda
    threads: int | None = None  # on the CPU; None = as many as torch takes
    repeats: int = 5  # calls of each, after one that is not counted
    pairs: int = 1  # decoded at once
    compiled: bool = False  # by torch.compile
    half: bool | None = None  # also in half precision; None = on a GPU


@dataclass(frozen=True, slots=True)
class Durations:
    """Of several calls."""

    least_ms: float
    median_ms: float


@dataclass(frozen=True, slots=True)
class PrecisionTimes:
    """The network in one precision."""

    precision: str  # of encoder and decoder; sums, norms and heads are float32
    encode: Durations  # of one image
    decode: Durations  # of all pairs that are decoded at once
    weights_mb: float
    peak_mb: float  # on a GPU what torch held at most, else the whole process so far
    errors: dict[str, float] | None  # of each output, in norm, relative to float32's; None = is it


@dataclass(frozen=True, slots=True)
class NetworkResult:
    """All that there is."""

    device: str
    threads: int
    weights: str  # a file, or random
    family: str  # MASt3R or DUSt3R
    parameters: int
    size: tuple[int, int]  # width, height in px
    pairs: int
    repeats: int
    compiled: bool
    precisions: tuple[PrecisionTimes, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_network(trial: Trial) -> NetworkResult:
    """Times a network on images of noise.

    Raises ValueError where there is no GPU or the size is not of whole patches, and what
    `load_pointmap_network` does.
    """
    device = timed_device(trial.device)
    network = _network(trial.checkpoint).place(device, half=False)
    if trial.compiled:
        network.compile_parts()
    half = device.type == "cuda" if trial.half is None else trial.half
    with _threads(trial.threads):
        exact, outputs = _measure(network, trial, device)
        rows = [exact]
        if half:
            rows.append(_measure(network.place(device, half=True), trial, device, outputs)[0])
        threads = torch.get_num_threads()
    return NetworkResult(
        device=in_words(device),
        threads=threads,
        weights="random" if trial.checkpoint is None else str(trial.checkpoint),
        family=network.sizes.family,
        parameters=sum(value.numel() for value in network.parameters()),
        size=(trial.width, trial.height),
        pairs=trial.pairs,
        repeats=trial.repeats,
        compiled=trial.compiled,
        precisions=tuple(rows),
    )


def random_network(sizes: PointmapSizes) -> PointmapNetwork:
    """Weights as before training, the same each time, but norms and biases that do something."""
    generator = torch.Generator().manual_seed(7)
    with torch.device("meta"):  # for the names and shapes alone
        shapes = {name: v.shape for name, v in PointmapNetwork(sizes).state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        scale = 0.1 if len(shape) == 1 else (3 / math.prod(shape[1:])) ** 0.5
        tensors[name] = torch.rand(shape, generator=generator).mul_(2).sub_(1).mul_(scale)
        if "norm" in name and name.endswith("weight"):
            tensors[name] += 1
    heads = (sizes.encoder.heads, sizes.decoder.heads)
    return PointmapNetwork.from_state_dict(tensors, heads)


def _network(checkpoint: Path | None) -> PointmapNetwork:
    return random_network(FULL_SIZE) if checkpoint is None else load_pointmap_network(checkpoint)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Torch's threads on the CPU, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- one precision -------------------------------------------------------------------------------


def _measure(
    network: PointmapNetwork,
    trial: Trial,
    device: torch.device,
    exact: dict[str, Tensor] | None = None,
) -> tuple[PrecisionTimes, dict[str, Tensor]]:
    """Times, and the outputs on the CPU. Args: exact: the outputs in float32; None = these are."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    first, second = _images(trial, device)
    size = (trial.height, trial.width)
    encode = _durations(lambda: network.encode(first), trial.repeats, device)
    tokens_1, tokens_2 = network.encode(first), network.encode(second)
    ones, twos = (tokens.expand(trial.pairs, -1, -1) for tokens in (tokens_1, tokens_2))
    decode = _durations(lambda: network.decode(ones, twos, size), trial.repeats, device)
    outputs = {"tokens": tokens_1.cpu()}
    for number, view in enumerate(network.decode(tokens_1, tokens_2, size), start=1):
        outputs |= _named(view, number)
    row = PrecisionTimes(
        precision="float32" if exact is None else "float16",
        encode=encode,
        decode=decode,
        weights_mb=sum(value.nbytes for value in network.parameters()) / MEGABYTE,
        peak_mb=_peak(device),
        errors=None if exact is None else {k: _error(v, exact[k]) for k, v in outputs.items()},
    )
    return row, outputs


def _images(trial: Trial, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two [1, 3, H, W] in -1..1: each pixel at random, which takes as long as any other image."""
    generator = torch.Generator().manual_seed(1)
    both = 2 * torch.rand(2, 3, trial.height, trial.width, generator=generator) - 1
    first, second = both.to(device).split(1)
    return first, second


def _durations(call: Callable[[], object], repeats: int, device: torch.device) -> Durations:
    """Of calls after a first one, which also compiles what is to be compiled."""
    call()
    every = [1e3 * seconds(call, device) for _ in range(repeats)]
    return Durations(min(every), statistics.median(every))


def _named(view: PointmapView, number: int) -> dict[str, Tensor]:
    values = {name: getattr(view, name) for name in FIELDS}
    return {f"{name}_{number}": v.cpu() for name, v in values.items() if v is not None}


def _error(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact.double()).norm() / exact.double().norm())


def _peak(device: torch.device) -> float:
    on_gpu = device.type == "cuda"
    return torch.cuda.max_memory_allocated(device) / MEGABYTE if on_gpu else peak_memory()


# --- for a person --------------------------------------------------------------------------------


def format_network(result: NetworkResult) -> str:
    """A line a precision."""
    width, height = result.size
    pairs = "a pair" if result.pairs == 1 else f"{result.pairs} pairs at once"
    lines = [
        f"{result.family}, {result.weights} weights: {result.parameters / 1e6:.1f} M parameters",
        f"{result.device}, {result.threads} CPU threads, {'' if result.compiled else 'not '}"
        f"compiled; images of {width} x {height} px; {result.repeats} calls of each",
        "",
        f"{'':<9}{'encode an image (ms)':>24}{'decode ' + pairs + ' (ms)':>30}"
        f"{'weights':>10}{'peak':>10}{'differs':>10}",
        f"{'':<9}{'least':>14}{'median':>10}{'least':>20}{'median':>10}{'MB':>10}{'MB':>10}",
        *map(_line, result.precisions),
        "",
        "peak: on a GPU the most that torch held, else the whole process so far. differs: from "
        "float32, the output that does most, relative, in norm.",
    ]
    return "\n".join(lines)


def _line(row: PrecisionTimes) -> str:
    line = (
        f"{row.precision:<9}{row.encode.least_ms:>14.1f}{row.encode.median_ms:>10.1f}"
        f"{row.decode.least_ms:>20.1f}{row.decode.median_ms:>10.1f}"
        f"{row.weights_mb:>10.0f}{row.peak_mb:>10.0f}"
    )
    if row.errors is None:
        return line + f"{'-':>10}"
    error, output = max((error, output) for output, error in row.errors.items())
    return f"{line}{error:>10.1e} ({output})"
