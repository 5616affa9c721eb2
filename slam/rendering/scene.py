"""A rendered scene: posed, textured surfaces, the light on them, and their textures' atlas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from slam.rendering.light import LightMap, light_surfaces
from slam.rendering.shapes import Lamp, Shape, Surface, pose
from slam.rendering.texture import Texture

LEVELS = 5  # of the atlas: each halves the resolution of the one before


@dataclass(frozen=True, slots=True)
class Atlas:
    """All textures in all resolutions, one texel after the other."""

    texels: Tensor  # [T, 3] float32, linear reflectance
    offset: Tensor  # [N, LEVELS] int64, first texel of a level, row-major
    rows: Tensor  # [N, LEVELS] int64
    columns: Tensor  # [N, LEVELS] int64
    size: Tensor  # [N, 2] float32, (width, height) of a tile, m

    def sample(self, texture: Tensor, s: Tensor, t: Tensor, level: Tensor) -> Tensor:
        """Reflectance [P, 3] at (s, t) m on texture [P], bilinear on the nearest whole level."""
        nearest = level.round().clamp_(0, LEVELS - 1).long()
        which = texture * LEVELS + nearest
        offset, rows, columns = (
            table.flatten()[which] for table in (self.offset, self.rows, self.columns)
        )
        size = self.size[texture]
        u = (s / size[:, 0]).frac_() * columns - 0.5
        v = (t / size[:, 1]).frac_() * rows - 0.5
        left, top = u.floor(), v.floor()
        du, dv = (u - left)[:, None], (v - top)[:, None]
        left, top = left.long(), top.long()
        left, right = left.remainder(columns), (left + 1).remainder(columns)
        upper = offset + top.remainder(rows) * columns
        lower = offset + (top + 1).remainder(rows) * columns
        above = torch.lerp(self.texels[upper + left], self.texels[upper + right], du)
        below = torch.lerp(self.texels[lower + left], self.texels[lower + right], du)
        return torch.lerp(above, below, dv)


@dataclass(frozen=True, slots=True)
class Scene:
    """Surfaces, their paint, and the light on them."""

    surfaces: tuple[Surface, ...]
    atlas: Atlas
    light: LightMap

    def to(self, device: torch.device | str) -> Scene:
        """The same scene, rendered on another device."""
        return replace(self, atlas=_move(self.atlas, device), light=_move(self.light, device))


Tables = TypeVar("Tables", Atlas, LightMap)


def _move(tables: Tables, device: torch.device | str) -> Tables:
    moved = {field.name: getattr(tables, field.name).to(device) for field in fields(tables)}
    return replace(tables, **moved)


def bake(textures: Sequence[Texture]) -> Atlas:
    """Put textures into an atlas on the CPU; each coarser level averages 2 x 2 texels."""
    pieces, shapes = [], []
    for texture in textures:
        level = texture.albedo
        for _ in range(LEVELS):
            pieces.append(level.reshape(-1, 3))
            shapes.append(level.shape[:2])
            rows, columns = level.shape[0] // 2, level.shape[1] // 2
            level = level[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, 3).mean((1, 3))
    counts = np.array([len(piece) for piece in pieces])
    table = torch.tensor(np.array(shapes), dtype=torch.int64).reshape(-1, LEVELS, 2)
    return Atlas(
        texels=torch.from_numpy(np.concatenate(pieces).astype(np.float32)),
        offset=torch.from_numpy(np.cumsum(counts) - counts).reshape(-1, LEVELS),
        rows=table[..., 0].contiguous(),
        columns=table[..., 1].contiguous(),
        size=torch.tensor([texture.size for texture in textures], dtype=torch.float32),
    )


class SceneBuilder:
    """Collects surfaces and the recipes of their textures; a recipe runs when the scene is made."""

    def __init__(self) -> None:
        self.surfaces: list[Surface] = []
        self._recipes: list[Callable[[], Texture]] = []

    def paint(self, recipe: Callable[[], Texture]) -> int:
        """Register a texture; the returned number goes into surfaces."""
        self._recipes.append(recipe)
        return len(self._recipes) - 1

    def add(self, shape: Shape, T_WO: Tensor, a: float, b: float, texture: int) -> None:
        """Add one surface; lengths in m."""
        if a <= 0 or b <= 0:
            raise ValueError(f"a {shape.value} wants positive lengths, got {a} and {b} m")
        self.surfaces.append(Surface(shape, T_WO.double(), float(a), float(b), texture))

    def rectangle(self, T_WO: Tensor, width: float, height: float, texture: int) -> None:
        """A picture or a wall: width along the object's x, height along its y, seen from +z."""
        self.add(Shape.RECTANGLE, T_WO, width / 2, height / 2, texture)

    def box(
        self,
        T_WO: Tensor,
        size: tuple[float, float, float],
        textures: Sequence[int],
        *,
        inside: bool = False,
    ) -> None:
        """A box around the object's origin: `size` along x, y, z, m.

        Args:
            textures: one for all, or six for the faces +x, -x, +y, -y, +z, -z.
            inside: seen from inside (a room) instead of from outside.
        """
        chosen = list(textures) * (6 // len(textures))
        for face, (out, right) in enumerate(_FACES):
            sign = -1.0 if inside else 1.0
            x, z = sign * np.array(right, float), sign * np.array(out, float)
            y = np.cross(z, x)
            width, height = float(abs(x @ size)), float(abs(y @ size))
            T_OF = pose(np.stack([x, y, z], 1), 0.5 * np.array(out, float) * np.array(size))
            self.rectangle(T_WO @ T_OF, width, height, chosen[face])

    def cylinder(self, T_WO: Tensor, radius: float, height: float, texture: int) -> None:
        """An upright cylinder around the object's z with both lids."""
        self.add(Shape.CYLINDER, T_WO, radius, height / 2, texture)
        for turn, end in ((np.eye(3), 0.5), (np.diag([1.0, -1.0, -1.0]), -0.5)):
            lid = pose(turn, np.array([0.0, 0.0, end * height]))
            self.add(Shape.DISC, T_WO @ lid, radius, radius, texture)

    def sphere(self, centre: Sequence[float], radius: float, texture: int) -> None:
        """A ball, world frame, m."""
        self.add(Shape.SPHERE, pose(np.eye(3), np.array(centre, float)), radius, radius, texture)

    def scene(self, lamps: Sequence[Lamp] = (), ambient: float = 1.0) -> Scene:
        """Run the recipes and return the finished scene, on the CPU."""
        atlas = bake([recipe() for recipe in self._recipes])
        light = light_surfaces(self.surfaces, lamps, ambient)
        return Scene(tuple(self.surfaces), atlas, light)


# Outward normal and the direction of the texture's width, for +x, -x, +y, -y, +z, -z.
_FACES = (
    ((1, 0, 0), (0, 1, 0)),
    ((-1, 0, 0), (0, -1, 0)),
    ((0, 1, 0), (-1, 0, 0)),
    ((0, -1, 0), (1, 0, 0)),
    ((0, 0, 1), (1, 0, 0)),
    ((0, 0, -1), (-1, 0, 0)),
)
