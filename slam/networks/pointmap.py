"""Two-view pointmap network (DUSt3R, CVPR 2024; MASt3R, ECCV 2024), for inference only.

Of two images it gives a 3D point for every pixel of both, in the frame of the first, and with
MASt3R a descriptor too. An image is encoded once and decoded with as many others as one likes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from slam.frame import PointmapView
from slam.networks.heads import Head
from slam.networks.pointmap_sizes import PointmapSizes, read_heads, read_sizes
from slam.networks.transformer import EPSILON, DecoderBlock, EncoderBlock, rotary_table
from slam.networks.weights import Weights, fill_network, read_weights

LICENCE = (
    "published weights of MASt3R and DUSt3R are licensed CC BY-NC-SA 4.0 by Naver: no commercial "
    "use; the licences of their training sets hold too"
)
NAME = "a two-view pointmap network (MASt3R or DUSt3R)"
# Left from training (a token for masked patches), or never read by the coarsest of the fusions.
UNUSED = re.compile(r"mask_token|downstream_head[12]\.dpt\.scratch\.refinenet4\.resConfUnit1\..*")
ALIAS = re.compile(r"\.scratch\.layer([1-4])_rn\.")

logger = logging.getLogger(__name__)


class PatchEmbedding(nn.Module):
    """Squares of the image to tokens."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, S, width] float32, row by row."""
        return self.proj(image.to(self.proj.weight.dtype)).flatten(2).mT.float()


class PointmapNetwork(nn.Module):
    """The whole network, on one device."""

    def __init__(self, sizes: PointmapSizes) -> None:
        super().__init__()
        self.sizes = sizes
        encoder, decoder = sizes.encoder, sizes.decoder
        self.patch_embed = PatchEmbedding(sizes.patch, encoder.width)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(encoder.width, encoder.heads) for _ in range(encoder.depth)
        )
        self.enc_norm = nn.LayerNorm(encoder.width, eps=EPSILON)
        self.decoder_embed = nn.Linear(encoder.width, decoder.width)
        self.dec_blocks = _decoder(sizes)
        self.dec_blocks2 = _decoder(sizes)
        self.dec_norm = nn.LayerNorm(decoder.width, eps=EPSILON)
        self.downstream_head1 = Head(sizes)
        self.downstream_head2 = Head(sizes)

    @classmethod
    def from_state_dict(
        cls,
        tensors: Mapping[str, Tensor],
        heads: tuple[int, int] | None = None,
        *,
        source: str = "state dict",
    ) -> PointmapNetwork:
        """The network that tensors with the published names belong to, on their device.

        Float32 tensors become its own, without a copy.

        Args:
            heads: of attention, encoder's and decoder's; None = one for every 64 channels.
            source: what the tensors come from, for errors.
        Raises ValueError where they are not those of such a network.
        """
        try:
            sizes = read_sizes(tensors, heads)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        with torch.device("meta"):  # no memory, nothing drawn at random
            network = cls(sizes)
        found = {name: tensor.float() for name, tensor in _canonical(tensors).items()}
        fill_network(network, found, source=source, name=f"{sizes.family} ({sizes.head} head)")
        return network.eval().requires_grad_(False)

    def place(self, device: str | torch.device, *, half: bool | None = None) -> PointmapNetwork:
        """Moves the network to a device.

        Args: half: float16 for the layers of encoder and decoder, which were trained so; sums,
            norms and heads stay float32. None = on a GPU.
        """
        device = torch.device(device)
        self.to(device)
        if device.type == "cuda" if half is None else half:
            for part in (self.patch_embed, self.enc_blocks, self.decoder_embed):
                _halve(part)
            for part in (self.dec_blocks, self.dec_blocks2):
                _halve(part)
        return self

    def compile_parts(self, backend: str = "inductor") -> PointmapNetwork:
        """Compiles encoder, decoder and heads when each is first used with a size and batch."""
        for part in ("_encode", "_decode"):
            whole = torch.compile(getattr(self, part), fullgraph=True, backend=backend)
            setattr(self, part, whole)
        for head in (self.downstream_head1, self.downstream_head2):
            head.compile(fullgraph=True, backend=backend)
        return self

    @torch.inference_mode()
    def encode(self, image: Tensor) -> Tensor:
        """Tokens of images, to be kept: [B, H / patch * W / patch, width] float32.

        Args: image: [B, 3, H, W] RGB in -1..1, of whole patches, on the network's device.
        Raises ValueError for another shape.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"image: wanted [B, 3, H, W], got {list(image.shape)}")
        self._check_size(image.shape[2], image.shape[3])
        return self._encode(image)

    @torch.inference_mode()
    def decode(
        self, tokens_1: Tensor, tokens_2: Tensor, size: tuple[int, int]
    ) -> tuple[PointmapView, PointmapView]:
        """Points of pairs of images, both in the frame of the pair's first camera.

        Many pairs are decoded at once as a batch; both directions of a pair are two.

        Args:
            tokens_1, tokens_2: [B, S, width] from `encode`, of images of the same size.
            size: H, W of these images, px.
        Returns a batch of views for the first and for the second images, confidence > 1.
        Raises ValueError where tokens and size do not fit.
        """
        height, width = size
        self._check_size(height, width)
        wanted = [height * width // self.sizes.patch**2, self.sizes.encoder.width]
        for name, tokens in (("tokens_1", tokens_1), ("tokens_2", tokens_2)):
            if tokens.shape[1:] != torch.Size(wanted) or len(tokens) != len(tokens_1):
                raise ValueError(
                    f"{name}: wanted [{len(tokens_1)}, {wanted[0]}, {wanted[1]}] for images of "
                    f"{height} x {width} px, got {list(tokens.shape)}"
                )
        layers_1, layers_2 = self._decode(tokens_1, tokens_2, height // self.sizes.patch)
        return self.downstream_head1(layers_1, size), self.downstream_head2(layers_2, size)

    def _encode(self, image: Tensor) -> Tensor:
        height, width = (n // self.sizes.patch for n in image.shape[2:])
        sizes = self.sizes.encoder
        table = rotary_table(height, width, sizes.width // sizes.heads, image.device)
        x = self.patch_embed(image)
        for block in self.enc_blocks:
            x = block(x, table)
        return self.enc_norm(x)

    def _decode(
        self, tokens_1: Tensor, tokens_2: Tensor, height: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The layers that the heads read, of both images."""
        sizes, hooks = self.sizes.decoder, self.sizes.hooks
        width = tokens_1.shape[1] // height
        table = rotary_table(height, width, sizes.width // sizes.heads, tokens_1.device)
        layers_1, layers_2 = [tokens_1], [tokens_2]
        dtype = self.decoder_embed.weight.dtype
        x_1, x_2 = (self.decoder_embed(x.to(dtype)).float() for x in (tokens_1, tokens_2))
        blocks = zip(self.dec_blocks, self.dec_blocks2, strict=True)
        for n, (block_1, block_2) in enumerate(blocks, start=1):
            x_1, x_2 = block_1(x_1, x_2, table), block_2(x_2, x_1, table)
            if n in hooks[:-1]:
                layers_1.append(x_1)
                layers_2.append(x_2)
        return [*layers_1, self.dec_norm(x_1)], [*layers_2, self.dec_norm(x_2)]

    def _check_size(self, height: int, width: int) -> None:
        patch = self.sizes.patch
        if height < patch or width < patch or height % patch or width % patch:
            raise ValueError(
                f"wanted images of whole patches of {patch} x {patch} px, got {height} x {width} "
                "px; crop or resize them first"
            )


def load_pointmap_network(path: str | Path) -> PointmapNetwork:
    """A network with its published weights: `.pth` as published, or `.safetensors`; on the CPU.

    Nothing in the file is executed.

    Raises FileNotFoundError where there is no such file, ValueError where it is cut off or holds
    something else.
    """
    network = build_pointmap_network(read_weights(Path(path), NAME), str(path))
    logger.warning("%s: %s", path, LICENCE)
    return network


def build_pointmap_network(weights: Weights, source: str) -> PointmapNetwork:
    """The network of weights that were read; errors as `load_pointmap_network`'s."""
    try:
        heads = read_heads(weights.model) if weights.model else None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return PointmapNetwork.from_state_dict(weights.tensors, heads, source=source)


def _canonical(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in use, each once; a second decoder that is not there is the first."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not UNUSED.fullmatch(name):
            found[ALIAS.sub(lambda m: f".scratch.layer_rn.{int(m[1]) - 1}.", name)] = tensor
    if not any(name.startswith("dec_blocks2.") for name in found):
        first = [name for name in found if name.startswith("dec_blocks.")]
        found.update({name.replace("dec_blocks.", "dec_blocks2."): found[name] for name in first})
    return found


def _decoder(sizes: PointmapSizes) -> nn.ModuleList:
    decoder = sizes.decoder
    return nn.ModuleList(DecoderBlock(decoder.width, decoder.heads) for _ in range(decoder.depth))


def _halve(part: nn.Module) -> None:
    """Layers of a part to float16; its norms stay."""
    for module in part.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.half()
