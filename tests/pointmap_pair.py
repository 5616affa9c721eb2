"""Two views of a furnished room as a network would give them, exact, with the true matches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from slam.config import MatchingSettings
from slam.frame import Correspondence, PointmapView
from slam.rendering import render_depth, sample_times, sample_trajectory
from slam.rendering.rooms import sample_room_builder

WIDTH, HEIGHT = 128, 96
FX, FY, CX, CY = 105.0, 107.0, 63.0, 49.0
LAST = torch.tensor([WIDTH - 1, HEIGHT - 1])
SETTINGS = MatchingSettings()
RECIPROCAL = replace(SETTINGS, method="reciprocal")


@dataclass(frozen=True)
class Pair:
    """Two views of the room, both in camera f, and where the second's pixels truly lie."""

    searched: PointmapView
    sought: PointmapView
    truth: Tensor  # [P, 2] px
    visible: Tensor  # [P] bool: in the image, and not behind anything

    def error(self, found: Correspondence) -> Tensor:
        """Distances from the truth [P], px."""
        return (found.target - self.truth).norm(dim=-1)

    def recall(self, found: Correspondence) -> float:
        """Share of the visible pixels that were found within half a pixel."""
        return float((self.good(found) & self.visible).sum() / self.visible.sum())

    def good(self, found: Correspondence) -> Tensor:
        return (found.weight > 0) & (self.error(found) < 0.5)

    def smooth(self) -> Tensor:
        """Pixels [P] around whose place the distance changes by less than 3 %."""
        distance = self.searched.X.norm(dim=-1)[None]
        most = functional.max_pool2d(distance, 3, 1, 1)
        least = -functional.max_pool2d(-distance, 3, 1, 1)
        u, v = torch.minimum(self.truth.clamp(min=0), LAST).round().long().unbind(-1)
        return ((most - least) < 0.03 * distance)[0, v, u]


def points_of(index: int) -> tuple[Tensor, Tensor]:
    """Points [H, W, 3] in the camera of an image of the sample, and its pose [4, 4]."""
    pose = sample_trajectory().poses(sample_times())[index]
    surfaces = tuple(sample_room_builder().surfaces)
    depth = render_depth(surfaces, (FX, FY, CX, CY), WIDTH, HEIGHT, pose)
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    rays = torch.stack([(u - CX) / FX, (v - CY) / FY, torch.ones_like(depth)], -1)
    return rays * depth[..., None], pose


def described(X_C: Tensor, pose: Tensor) -> Tensor:
    """Unit descriptors [H, W, 24] of world points: they change over some 0.3 m."""
    random = torch.Generator().manual_seed(4)
    waves = torch.randn(3, 24, generator=random) / 0.3
    X_W = X_C.double() @ pose[:3, :3].T + pose[:3, 3]
    phase = 6.3 * torch.rand(24, generator=random)
    return functional.normalize(torch.cos(X_W.float() @ waves + phase), dim=-1)


@cache
def room(described_too: bool = False, first: int = 100, second: int = 150) -> Pair:
    """Images 50 frames apart: 0.5 m, with things in front of others."""
    (X_ff, T_Wf), (X_kk, T_Wk) = points_of(first), points_of(second)
    T_fk = torch.linalg.inv(T_Wf) @ T_Wk
    X_fk = (X_kk.double() @ T_fk[:3, :3].T + T_fk[:3, 3]).float()
    x, y, z = X_fk.reshape(-1, 3).unbind(-1)
    truth = torch.stack([FX * x / z + CX, FY * y / z + CY], -1)
    inside = (z > 0) & (truth >= 0).all(-1) & (truth <= LAST).all(-1)
    u, v = torch.minimum(truth.clamp(min=0), LAST).round().long().unbind(-1)
    surface = X_ff[v, u].norm(dim=-1) / X_fk.reshape(-1, 3).norm(dim=-1)
    one = torch.ones(HEIGHT, WIDTH)
    descriptors = (described(X_ff, T_Wf), described(X_fk, T_Wf)) if described_too else (None, None)
    views = [
        PointmapView(X, one, D, one * 4 if D is not None else None)
        for X, D in zip((X_ff, X_fk), descriptors, strict=True)
    ]
    return Pair(*views, truth, inside & ((surface - 1).abs() < 0.05))


def with_points(view: PointmapView, X: Tensor) -> PointmapView:
    return replace(view, X=X)


def with_confidence(view: PointmapView, confidence: Tensor) -> PointmapView:
    return replace(view, confidence=confidence)


def bent(pair: Pair) -> PointmapView:
    """The sought view with points off by 2 px of angle and 2 % of distance, changing smoothly."""
    v, u = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    along = torch.stack([torch.sin(v / 15), torch.cos(u / 18), torch.sin((u + v) / 20)], -1)
    X = pair.sought.X
    return with_points(pair.sought, X + 0.02 * along * X.norm(dim=-1, keepdim=True))
