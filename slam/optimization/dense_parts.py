"""The problem of a dense bundle adjustment in parts: memory need hold but one of them at a time.

A part has some keyframes' pixels and the edges from these. Sums go over the keyframes in order,
whatever parts they are in: results do not depend on the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from slam import kernels
from slam.frame import Correspondence, Intrinsics, InverseDepth
from slam.lie import se3_exp, se3_mul
from slam.paging import Pages

Edge = tuple[int, int]

TINY = 1e-9  # 1/m up to scale, where even the median is 0
PART = 32e6  # bytes, about, where not all is in memory


@dataclass(frozen=True, slots=True)
class Measured:
    """What stays of a part: M keyframes, and the F edges from them."""

    target: Tensor  # [F, P, 2] as DenseProblem.target
    weight: Tensor  # [F, P]
    prior: Tensor  # [M, P]
    prior_weight: Tensor  # [M, P]


@dataclass(frozen=True, slots=True)
class Depths:
    """What changes of a part."""

    inverse_depth: Tensor  # [M, P] float32, 1/m up to scale


@dataclass(frozen=True, slots=True)
class PartedProblem:
    """A kernels.DenseProblem, its pixels in parts."""

    poses: Tensor  # [N, 7] float64 SE(3) T_CW, world to camera
    edges: Tensor  # [E, 2] int32 (i, j), sorted
    fixed: Tensor  # [N] bool
    pixel: Tensor  # [P, 2] float32
    intrinsics: Intrinsics
    huber: float
    outlier: float
    refine_focal: bool
    pages: Pages  # keep the parts
    spans: tuple[tuple[int, int], ...]  # first keyframe of each part, and the one after it
    measured: tuple[Measured, ...]
    depths: tuple[Depths, ...]

    def parts(self) -> Iterator[kernels.DenseProblem]:
        """One after the other, in order."""
        for span, measured, depths in zip(self.spans, self.measured, self.depths, strict=True):
            yield kernels.DenseProblem(
                poses=self.poses,
                inverse_depth=depths.inverse_depth,
                edges=self.edges,
                target=measured.target,
                weight=measured.weight,
                prior=measured.prior,
                prior_weight=measured.prior_weight,
                pixel=self.pixel,
                intrinsics=self.intrinsics,
                fixed=self.fixed,
                huber=self.huber,
                outlier=self.outlier,
                refine_focal=self.refine_focal,
                part=span,
            )

    def cost(self) -> float:
        """Of all parts."""
        total = 0.0
        for part in self.parts():
            total = kernels.dense_ba_cost(part, total)
        return total

    def motion(self, damping: float, depth_damping: float) -> kernels.DenseMotion:
        """What a step does to poses and focal length; see `kernels.dense_ba_step`."""
        reduction = None
        for part in self.parts():
            reduction = reduction or kernels.DenseReduction(part, depth_damping=depth_damping)
            reduction.add(part)
        assert reduction is not None  # there is at least one part
        if len(self.spans) > 1:  # they come round again in the same order: none would be found
            self.pages.let_go()
        return reduction.solve(damping)

    def moved(
        self, motion: kernels.DenseMotion, depth_damping: float, low: float, high: float
    ) -> PartedProblem:
        """After a step. Args: low, high: bounds of the inverse depths."""
        bounds = {"depth_damping": depth_damping, "min_value": low, "max_value": high}
        depths = tuple(
            self.pages.keep(Depths(kernels.dense_ba_depths(part, motion, **bounds)))
            for part in self.parts()
        )
        fx, fy, cx, cy = self.intrinsics
        factor = float(torch.exp(torch.tensor(motion.log_focal, dtype=torch.float64)))
        return replace(
            self,
            poses=se3_mul(se3_exp(motion.twist), self.poses),
            depths=depths,
            intrinsics=(fx * factor, fy * factor, cx, cy),
        )


def measured_part(
    span: tuple[int, int],
    depth: Sequence[InverseDepth],
    edges: Mapping[Edge, Correspondence],
    chosen: Sequence[Edge],
    held: Sequence[bool],
    prior: Sequence[InverseDepth] | None,
    sigma: float,
    low: float,
) -> Measured:
    """Stacked measurements of a part, and priors of its depths.

    Args:
        depth, held, prior: of all keyframes, as `bundle_adjust` takes them.
        chosen: the edges from the part's keyframes, in order.
        sigma: relative, of the prior that keeps unseen depths in place.
        low: least inverse depth, which the prior of a point at infinity is relative to.
    """
    own = slice(*span)
    value = torch.stack([d.value for d in depth[own]])
    information = torch.stack([d.information for d in depth[own]])
    stays = torch.tensor(list(held[own]))[:, None]
    weak = ((sigma * value) ** -2).nan_to_num(posinf=(sigma * max(low, TINY)) ** -2)
    weight = torch.where(stays, torch.maximum(information, weak), weak)
    if prior is not None:  # known otherwise: where that says more, of what does not stay anyway
        known = torch.stack([d.value for d in prior[own]])
        sure = torch.stack([d.information for d in prior[own]])
        used = (sure > weight) & ~stays
        value, weight = torch.where(used, known, value), torch.where(used, sure, weight)
    pixels = value.shape[1]
    found = [edges[e] for e in chosen]
    return Measured(
        torch.stack([c.target for c in found]) if found else torch.empty(0, pixels, 2),
        torch.stack([c.weight for c in found]) if found else torch.empty(0, pixels),
        value,
        weight,
    )


def spans_of(
    order: Sequence[Edge], keyframes: int, pixels: int, pages: Pages
) -> Iterator[tuple[tuple[int, int], Sequence[Edge]]]:
    """Each part's first keyframe and the one after it, with its edges; one part without a limit.

    Args: order: all edges, sorted.
    """
    by_source = {i: list(group) for i, group in groupby(order, lambda e: e[0])}
    begin, size = 0, 0.0
    chosen: list[Edge] = []
    for i in range(keyframes):
        own = by_source.get(i, [])
        more = 12.0 * pixels * len(own) + 16.0 * pixels
        if i > begin and size + more > PART and not pages.unlimited:
            yield (begin, i), chosen
            begin, size, chosen = i, 0.0, []
        size += more
        chosen += own
    yield (begin, keyframes), chosen
