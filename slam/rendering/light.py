"""Light with soft shadows: worked out once on a coarse grid over every surface, then looked up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.rendering.shapes import Lamp, Shape, Surface, inverse

SPACING = 0.09  # m between the points where light is worked out
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
    """Grid size (rows, columns), points [M, 3] above the surface, normals [M, 3]; world, float32."""
    width, height = _extent(surface)
    finest = 2 if surface.shape in (Shape.RECTANGLE, Shape.DISC) else 9
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
    if surface.shape in (Shape.RECTANGLE, Shape.DISC):
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
    seen = sum((~_blocked(surfaces, X, end - X)).float() for end in ends) / LAMP_RAYS
    way = torch.tensor(lamp.position) - X
    squared = way.square().sum(1) + 1e-6
    cosine = ((way * normal).sum(1) * squared.rsqrt()).clamp_min(0)
    # Half an inverse-square law: lamps in a real room are broad, and walls pass light on.
    return lamp.strength * seen * cosine / (0.5 + 0.5 * squared)


def _open_sky(surfaces: Sequence[Surface], X: Tensor, normal: Tensor) -> Tensor:
    """Share of directions in which nothing is near, by the cosine, [M]."""
    # A unit vector added to the normal: Lambert's distribution of directions.
    ways = [torch.nn.functional.normalize(normal + 0.95 * way, dim=1) for way in _spiral(SKY_RAYS)]
    return sum((~_blocked(surfaces, X, SKY_REACH * way)).float() for way in ways) / SKY_RAYS


def _blocked(surfaces: Sequence[Surface], X: Tensor, way: Tensor) -> Tensor:
    """Whether a surface, seen from either side, lies between X and X + way; [M] bool."""
    blocked = torch.zeros(len(X), dtype=torch.bool)
    for surface in surfaces:
        T_OW = inverse(surface.T_WO).float()
        origin = X @ T_OW[:3, :3].T + T_OW[:3, 3]
        step = way @ T_OW[:3, :3].T
        blocked |= _crosses(surface, origin, step)
    return blocked


def _crosses(surface: Surface, origin: Tensor, step: Tensor) -> Tensor:
    """Whether the segments origin + [0, 1] step [M, 3] meet the surface, object frame; [M] bool."""
    a = surface.a
    if surface.shape in (Shape.RECTANGLE, Shape.DISC):
        share = -origin[:, 2] / step[:, 2]
        x, y = origin[:, 0] + share * step[:, 0], origin[:, 1] + share * step[:, 1]
        if surface.shape is Shape.RECTANGLE:
            within = (x.abs() <= a) & (y.abs() <= surface.b)
        else:
            within = x * x + y * y <= a * a
        return within & (share > 0) & (share < 1)
    axes = 3 if surface.shape is Shape.SPHERE else 2
    o, d = origin[:, :axes], step[:, :axes]
    dd, od, oo = d.square().sum(1), (o * d).sum(1), o.square().sum(1)
    discriminant = od * od - dd * (oo - a * a)
    share = (-od - discriminant.clamp_min(0).sqrt()) / dd
    height = origin[:, 2] + share * step[:, 2]
    within = (discriminant > 0) & (share > 0) & (share < 1)
    return within & (height.abs() <= surface.b)
