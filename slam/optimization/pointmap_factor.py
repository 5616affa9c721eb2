"""What an edge of the pointmap graph keeps: its matched pixels, in a few bytes each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slam.frame import PointmapMatch
from slam.pointmap_residuals import PointMatches

STEEPEST = 0.2  # relative difference of distance of neighbours that are still one surface


@dataclass(frozen=True, slots=True)
class PointmapFactor:
    """Pixels of keyframe j matched in keyframe i, one direction of an edge. M matches."""

    i: int  # number of the keyframe that is matched in
    j: int  # number of the keyframe whose pixels are matched
    source: Tensor  # [M] int32, linear index of j's pixel
    target: Tensor  # [M] int32, linear index of i's pixel up and left of the match
    offset: Tensor  # [M, 2] float16 px, the match's place right and down of it, 0 to 1
    weight: Tensor  # [M] float16, > 0

    @property
    def memory(self) -> int:
        """Bytes."""
        tensors = (self.source, self.target, self.offset, self.weight)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def pack_factor(
    i: int,
    j: int,
    source: Tensor,
    target: Tensor,
    weight: Tensor,
    size: tuple[int, int],
    most: int,
) -> PointmapFactor:
    """A factor from a matcher's output: what has no weight is left out, the rest thinned evenly.

    Args:
        source: [P] integer, linear index of j's pixels.
        target: [P, 2] px (u, v) in i.
        weight: [P], 0 = no match.
        size: (H, W) of i's pointmap, px.
        most: matches to keep.
    """
    height, width = size
    last = target.new_tensor([width - 1, height - 1])
    valid = (weight > 0) & weight.isfinite() & ((target >= 0) & (target <= last)).all(-1)
    kept = valid.nonzero()[:, 0]
    if len(kept) > most:
        kept = kept[torch.linspace(0, len(kept) - 1, most, device=kept.device).round().long()]
    corner = torch.minimum(target[kept].floor(), (last - 1).clamp(min=0))
    column, row = corner.long().unbind(-1)
    return PointmapFactor(
        i=i,
        j=j,
        source=source[kept].to(torch.int32).contiguous(),
        target=(row * width + column).to(torch.int32),
        offset=(target[kept] - corner).to(torch.float16),
        weight=weight[kept].clamp(max=6e4).to(torch.float16),
    )


def factor_of(i: int, j: int, found: PointmapMatch, most: int) -> PointmapFactor:
    """What is kept of j's pixels sought in i. Args: most: matches to keep."""
    target, weight = found.match.target, found.match.weight
    size = (found.searched.confidence.shape[0], found.searched.confidence.shape[1])
    return pack_factor(i, j, torch.arange(len(weight)), target, weight, size, most)


def factor_matches(factor: PointmapFactor, X_i: Tensor, X_j: Tensor) -> PointMatches:
    """The points behind a factor's matches: frame j in keyframe i, sub-pixel.

    A match between two surfaces of i (an edge in depth) has no point: its weight is 0.

    Args: X_i, X_j: [H, W, 3] float32 pointmaps of the two keyframes.
    """
    width = X_i.shape[1]
    target, offset = factor.target.long(), factor.offset.float()
    column, row = target % width, target // width
    across, down = offset.unbind(-1)
    steps = torch.tensor([0, 1, width, width + 1], device=target.device)
    corner = X_i.reshape(-1, 3)[target[:, None] + steps]
    share = torch.stack(
        [(1 - across) * (1 - down), across * (1 - down), (1 - across) * down, across * down], -1
    )
    X_k = (share[..., None] * corner).sum(1)
    nearest, farthest = torch.linalg.vector_norm(corner, dim=-1).aminmax(dim=1)
    smooth = (nearest > 0) & (farthest < (1 + STEEPEST) * nearest)
    return PointMatches(
        pixel_k=torch.stack([column + across, row + down], -1),
        X_k=X_k,
        X_f=X_j.reshape(-1, 3)[factor.source.long()],
        weight=torch.where(smooth, factor.weight.float(), 0.0),
    )
