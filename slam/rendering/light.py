"""Light with soft shadows: worked out once on a coarse grid over every surface, then looked up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.rendering.shapes import Lamp, Shape, Surface, inverse

SPACING = 0.10  # m between the points where light is worked out
CLEARANCE = 0.035  # m; the points float above their surface, clear of picture frames
LAMP_RADIUS = 0.25  # m; wide enough for soft shadows
LAMP_RAYS = 8
SKY_RAYS = 10
SKY_REACH = 0.7  # m; how near a thing must be to keep ambient light away


@dataclass(frozen=True, slots=True)
class LightMap:
    """Irradiance on the grids of all surfaces, one after the other."""

    irradiance: Tensor  # [T] float32
    offset: Tensor  # [N] int64, first grid point of a surface, row-major
    rows: Tensor  # [N] int64, >= 2
    columns: Tensor  # [N] int64, >= 2
    extent: Tensor  # [N, 2] float32, range of the surface coordinates (s, t), m

    def sample(self, surface: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """Irradiance [P] at coordinates (s, t) m of surface [P], bilinear."""
        extent, columns, rows = self.extent[surface], self.columns[surface], self.rows[surface]
        u = (s / extent[:, 0]).clamp(0, 1) * (columns - 1)
        v = (t / extent[:, 1]).clamp(0, 1) * (rows - 1)
        left = torch.minimum(u.long(), columns - 2)
        top = torch.minimum(v.long(), rows - 2)
        at = self.offset[surface] + top * columns + left
        du, dv = u - left, v - top
        above = torch.lerp(self.irradiance[at], self.irradiance[at + 1], du)
        at = at + columns
        below = torch.lerp(self.irradiance[at], self.irradiance[at + 1], du)
        return torch.lerp(above, below, dv)


def light_surfaces(surfaces: Sequence[Surface], lamps: Sequence[Lamp], ambient: float) -> LightMap:
    """Work out the light on every surface, on the CPU.

    A lamp gives Lambert's cosine times the share of it that is seen; ambient light falls by the
    share of directions in which something is near.
    """
    grids = [_grid(surface) for surface in surfaces]
    sizes = torch.tensor([grid[0] for grid in grids], dtype=torch.int64)
    X = torch.cat([grid[1] for grid in grids])
    normal = torch.cat([grid[2] for grid in grids])
    counts = sizes.prod(1)
    total = torch.full((len(X),), float(ambient))
    if lamps:
        total *= 0.35 + 0.65 * _open_sky(surfaces, X, normal)
        for lamp in lamps:
            total += _lamp_light(surfaces, lamp, X, normal)
    extent = [_extent(surface) for surface in surfaces]
    return LightMap(
        total, counts.cumsum(0) - counts, sizes[:, 0], sizes[:, 1], torch.tensor(extent)
    )


def _extent(surface: Surface) -> tuple[float, float]:
    """How far the surface coordinates (s, t) reach, m; see Shape."""
    a, b = surface.a, surface.b
    if surface.shape is Shape.SPHERE:
        return 2 * math.pi * a, math.pi * a
    return (2 * math.pi * a if surface.shape is Shape.CYLINDER else 2 * a), 2 * b


def _grid(surface: Surface) -> tuple[tuple[int, int], Tensor, Tensor]:
    """Grid size (rows, columns), points [M, 3] above the surface, normals [M, 3]; world."""
    width, height = _extent(surface)
    finest = 2 if surface.flat else 9
    columns = max(finest, math.ceil(width / SPACING) + 1)
    rows = max(finest, math.ceil(height / SPACING) + 1)
    t, s = torch.meshgrid(
        torch.linspace(0, height, rows, dtype=torch.float64),
        torch.linspace(0, width, columns, dtype=torch.float64),
        indexing="ij",
    )
    X, normal = _place(surface, s.flatten(), t.flatten())
    R, centre = surface.T_WO[:3, :3], surface.T_WO[:3, 3]
    X = (X + CLEARANCE * normal) @ R.T + centre
    return (rows, columns), X.float(), (normal @ R.T).float()


def _place(surface: Surface, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Points and normals [M, 3] of surface coordinates, object frame; flat ones inset by 2 %."""
    a, b, zero = surface.a, surface.b, torch.zeros_like(s)
    if surface.flat:
        X = torch.stack([0.98 * (s - a), 0.98 * (b - t), zero], 1)
        return X, torch.stack([zero, zero, zero + 1], 1)
    around = s / a - math.pi
    if surface.shape is Shape.SPHERE:
        down = t / a
        normal = torch.stack([around.cos() * down.sin(), around.sin() * down.sin(), down.cos()], 1)
        return a * normal, normal
    normal = torch.stack([around.cos(), around.sin(), zero], 1)
    return torch.stack([a * around.cos(), a * around.sin(), b - t], 1), normal


def _spiral(count: int) -> Tensor:
    """Directions spread evenly over the sphere (golden angle), [count, 3] float32."""
    index = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * index + 1) / count
    angle = math.pi * (3 - math.sqrt(5)) * index
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], 1).float()


def _lamp_light(surfaces: Sequence[Surface], lamp: Lamp, X: Tensor, normal: Tensor) -> Tensor:
    """Irradiance [M] from one lamp."""
    ends = torch.tensor(lamp.position) + LAMP_RADIUS * _spiral(LAMP_RAYS)
    way = torch.tensor(lamp.position) - X
    squared = way.square().sum(1) + 1e-6
    cosine = ((way * normal).sum(1) * squared.rsqrt()).clamp_min(0)
    facing = (cosine > 0).nonzero()[:, 0]
    seen = torch.zeros(len(X))
    seen[facing] = _unblocked(surfaces, X[facing], ends[:, None] - X[facing])
    # Half an inverse-square law: lamps in a real room are broad, and walls pass light on.
    return lamp.strength * seen * cosine / (0.5 + 0.5 * squared)


def _open_sky(surfaces: Sequence[Surface], X: Tensor, normal: Tensor) -> Tensor:
    """Share of directions in which nothing is near, by the cosine, [M]."""
    # A unit vector added to the normal: Lambert's distribution of directions.
    way = torch.nn.functional.normalize(normal + 0.95 * _spiral(SKY_RAYS)[:, None], dim=2)
    return _unblocked(surfaces, X, SKY_REACH * way, reach=SKY_REACH)


def _unblocked(
    surfaces: Sequence[Surface], X: Tensor, ways: Tensor, *, reach: float = math.inf
) -> Tensor:
    """Share of the segments X [M, 3] to X + ways [K, M, 3] that meet no surface's side, [M].

    Args:
        reach: no way is longer, m; surfaces farther off are left out.
    """
    blocked = torch.zeros(ways.shape[:2], dtype=torch.bool)
    for surface in surfaces:
        T_OW = inverse(surface.T_WO).float()
        origin = X @ T_OW[:3, :3].T + T_OW[:3, 3]
        near = slice(None)
        if reach < math.inf:
            limit = torch.tensor(surface.extent) + reach
            near = (origin.abs() < limit).all(1).nonzero()[:, 0]
        blocked[:, near] |= _crosses(surface, T_OW[:3, :3], origin[near], ways[:, near])
    return 1 - blocked.float().mean(0)


def _crosses(surface: Surface, R_OW: Tensor, origin: Tensor, ways: Tensor) -> Tensor:
    """Whether the segments from origin [M, 3] (object frame) along ways [K, M, 3] (world frame)
    meet the surface from either side; [K, M] bool."""
    if surface.flat:
        share = -origin[:, 2] / (ways @ R_OW[2])
        met = (share > 0) & (share < 1)
        k, m = met.nonzero(as_tuple=True)
        X = origin[m, :2] + share[k, m, None] * (ways[k, m] @ R_OW[:2].T)
        if surface.shape is Shape.RECTANGLE:
            met[k, m] = (X[:, 0].abs() <= surface.a) & (X[:, 1].abs() <= surface.b)
        else:
            met[k, m] = X.square().sum(1) <= surface.a**2
        return met
    step = ways @ R_OW.T
    axes = 3 if surface.shape is Shape.SPHERE else 2
    o, d = origin[:, :axes], step[..., :axes]
    dd, od = d.square().sum(-1), (o * d).sum(-1)
    discriminant = od * od - dd * (o.square().sum(-1) - surface.a**2)
    share = (-od - discriminant.clamp_min(0).sqrt()) / dd
    height = origin[:, 2] + share * step[..., 2]
    return (discriminant > 0) & (share > 0) & (share < 1) & (height.abs() <= surface.b)
