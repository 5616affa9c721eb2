"""What a file of weights is, in words: `slam doctor --checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from slam.networks.pointmap import LICENCE, PointmapNetwork, build_pointmap_network
from slam.networks.pointmap_sizes import TransformerSizes
from slam.networks.raft_small import RaftSmall
from slam.networks.weights import fill_network, read_weights

RAFT_PREFIX = "module."
RAFT_LICENCE = "the published weights are licensed BSD-3-Clause by Princeton"


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """A file whose tensors all fit a network that this package has."""

    architecture: str
    sizes: tuple[str, ...]  # one line each
    parameters: int  # numbers that the network uses
    licence: str  # of the weights as published

    def __str__(self) -> str:
        """Some lines, with words in front."""
        memory = f"{self.parameters / 1e6:.1f} M, {4 * self.parameters / 1e9:.2f} GB in float32"
        rows = [("architecture", self.architecture), *(("sizes", line) for line in self.sizes)]
        rows += [("parameters", memory), ("licence", self.licence)]
        return "\n".join(f"{word:<13} {text}" for word, text in rows)


def describe_checkpoint(path: str | Path) -> CheckpointSummary:
    """Reads a whole file of weights and fits it to its network.

    Raises FileNotFoundError where there is no such file, ValueError where it fits none.
    """
    weights = read_weights(Path(path), "a network that this package has")
    if any(name.startswith(f"{RAFT_PREFIX}fnet.") for name in weights.tensors):
        network = RaftSmall()
        fill_network(
            network, weights.tensors, source=str(path), name="RAFT-small", prefix=RAFT_PREFIX
        )
        return CheckpointSummary("RAFT-small: optical flow", (), _count(network), RAFT_LICENCE)
    return _describe_pointmap(build_pointmap_network(weights, str(path)))


def _describe_pointmap(network: PointmapNetwork) -> CheckpointSummary:
    sizes = network.sizes
    head = "DPT" if sizes.head == "dpt" else "linear"
    local = f"descriptors of {sizes.descriptors}" if sizes.descriptors else "no descriptors"
    lines = (
        f"patches of {sizes.patch} x {sizes.patch} px, {head} heads, {local}",
        f"encoder: {_transformer(sizes.encoder)}",
        f"decoders: 2 x {_transformer(sizes.decoder)}",
    )
    name = f"{sizes.family}: pointmaps of two views"
    return CheckpointSummary(name, lines, _count(network), LICENCE)


def _transformer(sizes: TransformerSizes) -> str:
    return f"{sizes.depth} blocks of {sizes.width} channels, {sizes.heads} heads of attention"


def _count(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())
