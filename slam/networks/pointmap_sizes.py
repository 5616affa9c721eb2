"""The sizes of a two-view pointmap network, read from the shapes and names of its tensors."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

HEAD_WIDTH = 64  # channels of an attention head in all published networks


@dataclass(frozen=True, slots=True)
class TransformerSizes:
    """Of the encoder or of each decoder."""

    width: int  # channels of a token
    depth: int  # blocks
    heads: int  # of attention


@dataclass(frozen=True, slots=True)
class PointmapSizes:
    """Of the whole network."""

    patch: int  # px, side of the square that becomes a token
    encoder: TransformerSizes
    decoder: TransformerSizes
    head: str  # dpt or linear
    descriptors: int  # channels; 0 = the network has none (DUSt3R)

    @property
    def family(self) -> str:
        """The name of the architecture."""
        return "MASt3R" if self.descriptors else "DUSt3R"

    @property
    def hooks(self) -> tuple[int, ...]:
        """Layers that a head reads: 0 is the encoder, n the decoder's n-th block."""
        depth = self.decoder.depth
        return (0, depth // 2, depth * 3 // 4, depth) if self.head == "dpt" else (0, depth)


def read_sizes(
    tensors: Mapping[str, Tensor], heads: tuple[int, int] | None = None
) -> PointmapSizes:
    """Sizes from tensors under their published names.

    Args: heads: of attention, encoder's and decoder's; None = one for every 64 channels. They
        alone leave no trace in the shapes.
    Raises ValueError where the names or shapes are not those of such a network.
    """
    patches = _shape(tensors, "patch_embed.proj.weight", 4)
    encoder, decoder = patches[0], _shape(tensors, "decoder_embed.weight", 2)[0]
    linear = "downstream_head1.proj.weight" in tensors
    descriptors = 0
    if "downstream_head1.head_local_features.fc2.weight" in tensors:
        local = _shape(tensors, "downstream_head1.head_local_features.fc2.weight", 2)[0]
        descriptors = local // patches[-1] ** 2 - 1  # the last channel is their confidence
    first, second = heads or (_published_heads(encoder), _published_heads(decoder))
    return PointmapSizes(
        patch=patches[-1],
        encoder=_transformer(encoder, _depth(tensors, "enc_blocks."), first),
        decoder=_transformer(decoder, _depth(tensors, "dec_blocks."), second),
        head="linear" if linear else "dpt",
        descriptors=descriptors,
    )


def read_heads(call: str) -> tuple[int, int] | None:
    """Heads of attention from the constructor call that a published checkpoint spells.

    The text is parsed, never run. None where it does not say.

    Raises ValueError where it spells a network that works otherwise.
    """
    try:
        tree = ast.parse(call.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"wanted a constructor call in args.model, got {call!r:.80}") from error
    words = {k.arg: ast.unparse(k.value) for k in getattr(tree, "keywords", [])}
    positions, depth = words.get("pos_embed", "'RoPE100'"), words.get("depth_mode", "('exp'")
    if positions != "'RoPE100'" or not depth.startswith("('exp'"):
        raise ValueError(
            "wanted a pointmap network with pos_embed='RoPE100' and depth_mode=('exp', ...), "
            f"got {positions} and {depth}"
        )
    heads = [words.get(f"{part}_num_heads", "") for part in ("enc", "dec")]
    return (int(heads[0]), int(heads[1])) if all(n.isdecimal() for n in heads) else None


def _transformer(width: int, depth: int, heads: int) -> TransformerSizes:
    if heads < 1 or width % (4 * heads):
        raise ValueError(f"wanted heads that split {width} channels in fours, got {heads}")
    return TransformerSizes(width, depth, heads)


def _published_heads(width: int) -> int:
    if width % HEAD_WIDTH:
        raise ValueError(
            f"wanted a width that splits into heads of {HEAD_WIDTH} channels, got {width}; the "
            "checkpoint does not say how many heads there are"
        )
    return width // HEAD_WIDTH


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].ndim != axes:
        found = f"{len(tensors)} tensors, the first {next(iter(tensors), 'none')}"
        raise ValueError(
            f"wanted a two-view pointmap network (MASt3R or DUSt3R) with {name} of {axes} axes, "
            f"got {found}"
        )
    return tuple(tensors[name].shape)


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks are numbered under a prefix."""
    depth = len({name.split(".")[1] for name in tensors if name.startswith(prefix)})
    if not depth:
        raise ValueError(f"wanted a two-view pointmap network, got no tensors {prefix}*")
    return depth
