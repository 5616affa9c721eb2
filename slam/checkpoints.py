"""What a file of weights, or a codebook, is, in words: `slam doctor --checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from slam.networks import retrieval_head
from slam.networks.pointmap import LICENCE, PointmapNetwork, build_pointmap_network
from slam.networks.pointmap_sizes import TransformerSizes
from slam.networks.raft_small import RaftSmall
from slam.networks.retrieval_head import (
    RetrievalHead,
    build_retrieval_head,
    holds_retrieval_head,
)
from slam.networks.weights import fill_network, read_weights
from slam.vocabulary import load_codebook

RAFT_PREFIX = "module."
RAFT_LICENCE = "the published weights are licensed BSD-3-Clause by Princeton"
CODEBOOKS = (".npy", ".pkl")  # endings


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """A file all of whose parts fit something that this package has."""

    architecture: str
    sizes: tuple[str, ...]  # one line each
    parameters: int  # numbers that are used
    bytes: int  # that they take in memory
    licence: str  # of the file as published

    def __str__(self) -> str:
        """Some lines, with words in front."""
        memory = f"{self.parameters / 1e6:.1f} M, {self.bytes / 1e9:.2f} GB in memory"
        rows = [("architecture", self.architecture), *(("sizes", line) for line in self.sizes)]
        rows += [("parameters", memory), ("licence", self.licence)]
        return "\n".join(f"{word:<13} {text}" for word, text in rows)


def describe_checkpoint(path: str | Path) -> CheckpointSummary:
    """Reads a whole file and fits it to what it is for: a codebook by its ending, else a network.

    Raises FileNotFoundError where there is no such file, ValueError where it fits nothing.
    """
    if Path(path).suffix in CODEBOOKS:
        return _describe_codebook(Path(path))
    weights = read_weights(Path(path), "a network that this package has")
    if any(name.startswith(f"{RAFT_PREFIX}fnet.") for name in weights.tensors):
        network = RaftSmall()
        fill_network(
            network, weights.tensors, source=str(path), name="RAFT-small", prefix=RAFT_PREFIX
        )
        return _summary("RAFT-small: optical flow", (), network, RAFT_LICENCE)
    if holds_retrieval_head(weights):
        return _describe_head(build_retrieval_head(weights, str(path)))
    return _describe_pointmap(build_pointmap_network(weights, str(path)))


def _describe_codebook(path: Path) -> CheckpointSummary:
    words = load_codebook(path).words
    return CheckpointSummary(
        "codebook: visual words of place recognition",
        (f"{len(words)} words of {words.shape[1]} channels",),
        words.size,
        words.nbytes,
        retrieval_head.LICENCE,
    )


def _describe_head(head: RetrievalHead) -> CheckpointSummary:
    added = ["the projection is added to what it projects"] if head.residual else []
    lines = (
        f"tokens of {head.channels} channels to descriptors of {head.out_channels}, of an image "
        f"the {retrieval_head.KEPT} strongest",
        *head.steps,
        *added,
    )
    name = "retrieval head: descriptors of place recognition from MASt3R's tokens"
    return _summary(name, lines, head, retrieval_head.LICENCE)


def _describe_pointmap(network: PointmapNetwork) -> CheckpointSummary:
    sizes = network.sizes
    head = "DPT" if sizes.head == "dpt" else "linear"
    local = f"descriptors of {sizes.descriptors}" if sizes.descriptors else "no descriptors"
    lines = (
        f"patches of {sizes.patch} x {sizes.patch} px, {head} heads, {local}",
        f"encoder: {_transformer(sizes.encoder)}",
        f"decoders: 2 x {_transformer(sizes.decoder)}",
    )
    return _summary(f"{sizes.family}: pointmaps of two views", lines, network, LICENCE)


def _transformer(sizes: TransformerSizes) -> str:
    return f"{sizes.depth} blocks of {sizes.width} channels, {sizes.heads} heads of attention"


def _summary(
    architecture: str, sizes: tuple[str, ...], network: nn.Module, licence: str
) -> CheckpointSummary:
    values = list(network.parameters())
    count, size = (sum(n) for n in zip(*((v.numel(), v.nbytes) for v in values), strict=True))
    return CheckpointSummary(architecture, sizes, count, size, licence)
