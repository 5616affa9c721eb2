"""Head that makes an encoder's tokens comparable between images (MASt3R's retrieval checkpoint).

Whitening, a projection, whitening again; the tokens that the projection makes longest are kept.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from slam.networks.weights import Weights, fill_network, read_weights

NAME = "a retrieval head on the encoder of MASt3R"
KEPT = 300  # tokens of an image
LICENCE = (
    "published weights and codebook of MASt3R's retrieval are licensed CC BY-NC-SA 4.0 by Naver: "
    "no commercial use"
)
# The file may hold the encoder too. A list of one layer counts as that layer.
PART = re.compile(r"(prewhiten|postwhiten)\.([mp])|projector(?:\.0)?\.(weight|bias)")

logger = logging.getLogger(__name__)


class Whitening(nn.Module):
    """x <- (x - m) p, in float64."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(1, channels, dtype=torch.float64), requires_grad=False)
        self.p = nn.Parameter(torch.eye(channels, out, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., channels] -> [..., out] of the same type."""
        return ((x.double() - self.m) @ self.p).to(x.dtype)


class RetrievalHead(nn.Module):
    """Tokens of an image to the descriptors that retrieval takes."""

    def __init__(self, tensors: Mapping[str, Tensor], *, residual: bool, source: str) -> None:
        """Args: tensors: under their published names; residual: the projection is added.

        Any of the three steps may be missing. Raises ValueError where they do not fit together.
        """
        super().__init__()
        found = {_own_name(name): t for name, t in tensors.items() if PART.fullmatch(name)}
        if not found:
            first = next(iter(tensors), "none")
            raise ValueError(
                f"{source}: wanted the tensors of {NAME} (prewhiten, projector, postwhiten), got "
                f"{len(tensors)} others, the first {first}"
            )
        self.prewhiten = _whitening(found, "prewhiten", source)
        self.projector = _projector(found, source)
        self.postwhiten = _whitening(found, "postwhiten", source)
        self.residual = residual
        fill_network(self, found, source=source, name=NAME)
        self._check_widths(source)
        self.eval().requires_grad_(False)

    @property
    def channels(self) -> int:
        """Of a token that it takes."""
        return self._widths()[0][0]

    @property
    def out_channels(self) -> int:
        """Of a descriptor that it gives."""
        return self._widths()[-1][1]

    @torch.inference_mode()
    def forward(self, tokens: Tensor, keep: int = KEPT) -> Tensor:
        """Descriptors [min(S, keep), out] float32 of tokens [S, channels], strongest first.

        A token's strength (attention) is its length after the projection.
        Raises ValueError for another shape.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.channels:
            got = list(tokens.shape)
            raise ValueError(f"tokens: wanted [S, {self.channels}] of one image, got {got}")
        x = self.prewhiten(tokens.float())
        x = self.projector(x) + x if self.residual else self.projector(x)
        strongest = x.norm(dim=-1).argsort(descending=True, stable=True)[:keep]
        return self.postwhiten(x[strongest])

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps there are, with their (in, out) channels, in words."""
        return tuple(f"{name} {a} -> {b}" for name, (a, b) in self._named_widths().items())

    def _named_widths(self) -> dict[str, tuple[int, int]]:
        """(in, out) channels of the steps there are, in their order."""
        widths: dict[str, tuple[int, int]] = {}
        for name in ("prewhiten", "projector", "postwhiten"):
            step = getattr(self, name)
            if isinstance(step, Whitening):
                widths[name] = (step.m.numel(), step.p.shape[1])
            elif isinstance(step, nn.Linear):
                widths[name] = (step.in_features, step.out_features)
        return widths

    def _widths(self) -> list[tuple[int, int]]:
        return list(self._named_widths().values())

    def _check_widths(self, source: str) -> None:
        widths = self._widths()
        chained = all(a[1] == b[0] for a, b in pairwise(widths))
        linear = self.projector
        square = not isinstance(linear, nn.Linear) or linear.in_features == linear.out_features
        if not chained or (self.residual and not square):
            words = ", ".join(f"{a} -> {b}" for a, b in widths)
            kind = " with a residual" if self.residual else ""
            raise ValueError(f"{source}: wanted steps of {NAME} that fit{kind}, got {words}")


def load_retrieval_head(path: str | Path) -> RetrievalHead:
    """The head of a retrieval checkpoint, on the CPU; whatever else the file holds is left.

    Raises FileNotFoundError where there is no such file, ValueError where it does not fit.
    """
    head = build_retrieval_head(read_weights(Path(path), NAME), str(path))
    logger.warning("%s: %s", path, LICENCE)
    return head


def build_retrieval_head(weights: Weights, source: str) -> RetrievalHead:
    """The head of weights that were read; errors as `load_retrieval_head`'s."""
    residual = weights.arguments.get("residual", False)
    if not isinstance(residual, bool):
        raise ValueError(f"{source}: wanted args.residual true or false, got {residual!r:.40}")
    return RetrievalHead(weights.tensors, residual=residual, source=source)


def holds_retrieval_head(weights: Weights) -> bool:
    """Whether any tensor is one of a head's."""
    return any(PART.fullmatch(name) for name in weights.tensors)


def _own_name(name: str) -> str:
    return name.replace("projector.0.", "projector.")


def _whitening(tensors: dict[str, Tensor], part: str, source: str) -> nn.Module:
    """An empty step of the right size; an offset [C] becomes [1, C] in `tensors`."""
    m, p = tensors.get(f"{part}.m"), tensors.get(f"{part}.p")
    if m is None and p is None:
        return nn.Identity()
    if m is None or p is None or p.ndim != 2 or m.numel() != len(p):
        got = [None if t is None else list(t.shape) for t in (m, p)]
        raise ValueError(f"{source}: wanted {part}.m [1, C] and {part}.p [C, D], got {got}")
    tensors[f"{part}.m"], tensors[f"{part}.p"] = m.reshape(1, -1).double(), p.double()
    return Whitening(len(p), p.shape[1])


def _projector(tensors: dict[str, Tensor], source: str) -> nn.Module:
    weight, bias = tensors.get("projector.weight"), tensors.get("projector.bias")
    if weight is None and bias is None:
        return nn.Identity()
    if weight is None or weight.ndim != 2:
        got = None if weight is None else list(weight.shape)
        raise ValueError(f"{source}: wanted projector.weight [D, C], got {got}")
    tensors.update({n: t.float() for n, t in tensors.items() if n.startswith("projector.")})
    return nn.Linear(weight.shape[1], len(weight), bias=bias is not None)
