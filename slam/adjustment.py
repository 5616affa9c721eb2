"""What goes into an adjustment of the map, and what comes out of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from slam.frame import Correspondence, Intrinsics, InverseDepth
from slam.graph import Edge
from slam.optimization import BundleAdjustment
from slam.paging import Pages


@dataclass(frozen=True, slots=True)
class Adjusted:
    """What the graph is to take over."""

    poses: dict[int, Tensor]  # keyframe number to T_WC [7]
    depths: dict[int, InverseDepth]
    intrinsics: Intrinsics
    newest: int  # the last keyframe known when this was solved
    scales: dict[int, float] = field(default_factory=dict)  # by which distances grow, before that


@dataclass(frozen=True, slots=True)
class Part:
    """What a bundle adjustment works on."""

    numbers: list[int]  # keyframes that take part
    edges: dict[Edge, Correspondence]  # between them, by keyframe numbers
    fixed: list[bool]  # of each keyframe: its pose stays
    held: list[bool]  # of each keyframe: its depth stays


def in_scale_of(
    before: Sequence[Tensor], result: BundleAdjustment, pages: Pages
) -> BundleAdjustment:
    """The result, which has no scale of its own, in the scale of the N poses [7] before it.

    Poses published earlier and later are then of one size. The first pose stays.

    Args: pages: keep the depths.
    """
    T_WC = torch.stack([*before])
    old, after = T_WC[:, :3] - T_WC[0, :3], result.T_WC[:, :3] - result.T_WC[0, :3]
    factor = float((old * after).sum() / (after * after).sum().clamp(min=1e-30))
    if not factor > 0:
        return result
    poses = result.T_WC.clone()
    poses[:, :3] = result.T_WC[0, :3] + factor * after
    depth = tuple(
        pages.keep(InverseDepth(d.value / factor, d.information * factor**2)) for d in result.depth
    )
    return replace(result, T_WC=poses, depth=depth)
