"""Ray casting: a scene seen by a pinhole camera, as colour and exact depth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slam.rendering.scene import Scene
from slam.rendering.shapes import Shape, Surface, inverse
from slam.rendering.texture import GAMMA

NEAR = 0.02  # m; nothing nearer is seen
# Where the rays of one pixel pass (px). Their mean is the pixel's centre, and of the four no two
# that follow one another in an exposure share both signs.
SUBPIXELS = ((0.25, 0.25), (-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25))

Window = tuple[slice, slice]  # rows, columns
Intrinsics = tuple[float, float, float, float]  # fx, fy, cx, cy in px; pixel centres at integers


@dataclass(frozen=True, slots=True)
class Rendering:
    """One image of a scene."""

    rgb: Tensor  # [H, W, 3] float32, display values 0..1
    depth: Tensor  # [H, W] float32, along the optical axis at pixel centres, m; 0 = nothing


@dataclass(frozen=True, slots=True)
class _Rays:
    """The rays of some rows of an image; a ray's direction is (x, y, 1) in the camera frame."""

    x: Tensor  # [W] float32
    y: Tensor  # [H] float32
    T_WC: Tensor  # [4, 4] float64


@dataclass(frozen=True, slots=True)
class _Hits:
    """What the rays met first."""

    depth: Tensor  # [H, W] float32, m; inf = nothing
    surface: Tensor  # [H, W] int64, -1 = nothing
    s: Tensor  # [H, W] float32, along the texture's width, m
    t: Tensor  # [H, W] float32, along the texture's height, m
    facing: Tensor  # [H, W] float32, minus the normal times the ray's (x, y, 1)


def render(
    scene: Scene,
    intrinsics: Intrinsics,
    width: int,
    height: int,
    T_WC: Tensor,
    *,
    rows_per_chunk: int | None = None,
) -> Rendering:
    """Render one sharp image with four rays a pixel, and its depth with one through the centre.

    Args:
        T_WC: [4, 4], takes camera points to the world.
        rows_per_chunk: rows in work at a time (memory); None = all. The result does not change.
    Raises ValueError where the camera or the pose is not one.
    """
    _check(intrinsics, width, height, T_WC)
    still = T_WC[None].expand(len(SUBPIXELS), 4, 4)
    radiance = render_exposure(
        scene, intrinsics, width, height, still, rows_per_chunk=rows_per_chunk
    )
    depth = render_depth(
        scene.surfaces,
        intrinsics,
        width,
        height,
        T_WC,
        device=scene.atlas.texels.device,
        rows_per_chunk=rows_per_chunk,
    )
    return Rendering(radiance.clamp(0, 1) ** (1 / GAMMA), depth)


def render_depth(
    surfaces: tuple[Surface, ...],
    intrinsics: Intrinsics,
    width: int,
    height: int,
    T_WC: Tensor,
    *,
    device: torch.device | str = "cpu",
    rows_per_chunk: int | None = None,
) -> Tensor:
    """Depth along the optical axis at pixel centres, [H, W] float32, m; 0 where nothing is."""
    _check(intrinsics, width, height, T_WC)
    chunks = []
    for first, last in _chunks(height, rows_per_chunk):
        rays = _rays(intrinsics, width, (first, last), (0.0, 0.0), T_WC, device)
        chunks.append(_cast(surfaces, rays).depth)
    depth = torch.cat(chunks)
    return torch.where(depth.isinf(), 0.0, depth)


def render_exposure(
    scene: Scene,
    intrinsics: Intrinsics,
    width: int,
    height: int,
    T_WC: Tensor,
    *,
    rows_per_chunk: int | None = None,
) -> Tensor:
    """The light that reaches each pixel, averaged over an exposure, [H, W, 3] float32, linear.

    One ray a pixel is cast from each of the poses, through changing places of the pixel, so that
    one average removes both jagged edges and strobing.

    Args:
        T_WC: [S, 4, 4], the camera at S moments spread evenly over the exposure.
    """
    device = scene.atlas.texels.device
    for moment in T_WC:
        _check(intrinsics, width, height, moment)
    chunks = []
    for first, last in _chunks(height, rows_per_chunk):
        total = torch.zeros(last - first, width, 3, device=device)
        for index, moment in enumerate(T_WC):
            place = SUBPIXELS[index % len(SUBPIXELS)]
            rays = _rays(intrinsics, width, (first, last), place, moment, device)
            hits = _cast(scene.surfaces, rays)
            # Levels dithered by quarters over the rays blend neighbouring levels of the atlas.
            dither = (index % 4 - 1.5) / 4
            total += _shade(scene, rays, hits, 1 / intrinsics[0], dither)
        chunks.append(total / len(T_WC))
    return torch.cat(chunks)


def _check(intrinsics: Intrinsics, width: int, height: int, T_WC: Tensor) -> None:
    if width < 1 or height < 1 or len(intrinsics) != 4 or min(intrinsics[:2]) <= 0:
        raise ValueError(
            f"a camera wants (fx, fy, cx, cy) with fx, fy > 0 and a size of at least 1 x 1 px, "
            f"got {tuple(intrinsics)} and {width} x {height}"
        )
    R = T_WC[..., :3, :3].double()
    identity = torch.eye(3, dtype=torch.float64, device=R.device)
    if T_WC.shape != (4, 4) or not torch.allclose(R @ R.mT, identity, atol=1e-5):
        raise ValueError(f"T_WC wants a rigid [4, 4] matrix, got {T_WC.tolist()}")


def _chunks(height: int, rows_per_chunk: int | None) -> list[tuple[int, int]]:
    step = height if rows_per_chunk is None else rows_per_chunk
    if step < 1:
        raise ValueError(f"rows_per_chunk wants at least 1 row, got {rows_per_chunk}")
    return [(first, min(first + step, height)) for first in range(0, height, step)]


def _rays(
    intrinsics: Intrinsics,
    width: int,
    rows: tuple[int, int],
    place: tuple[float, float],
    T_WC: Tensor,
    device: torch.device | str,
) -> _Rays:
    fx, fy, cx, cy = intrinsics
    u = torch.arange(width, device=device, dtype=torch.float64) + place[0]
    v = torch.arange(*rows, device=device, dtype=torch.float64) + place[1]
    return _Rays(((u - cx) / fx).float(), ((v - cy) / fy).float(), T_WC.double().cpu())


def _cast(surfaces: tuple[Surface, ...], rays: _Rays) -> _Hits:
    """The nearest surface of every ray; each surface is tried only where it can be in the image."""
    shape, device = (len(rays.y), len(rays.x)), rays.x.device
    hits = _Hits(
        depth=torch.full(shape, math.inf, device=device),
        surface=torch.full(shape, -1, device=device),
        s=torch.zeros(shape, device=device),
        t=torch.zeros(shape, device=device),
        facing=torch.ones(shape, device=device),
    )
    T_CO = inverse(rays.T_WC) @ torch.stack([surface.T_WO for surface in surfaces])
    T_OC = inverse(T_CO)
    for index, window in _windows(surfaces, T_CO, rays):
        surface = surfaces[index]
        if not surface.flat:
            _cast_curved(surface, index, T_OC[index], rays, window, hits)
        elif T_OC[index, 2, 3] > 0:
            _cast_flat(surface, index, T_OC[index], rays, window, hits)
    return hits


def _windows(
    surfaces: tuple[Surface, ...], T_CO: Tensor, rays: _Rays
) -> Iterator[tuple[int, Window]]:
    """The surfaces that can be in the image, each with the rows and columns that can see it."""
    signs = torch.cartesian_prod(*(torch.tensor([-1.0, 1.0], dtype=torch.float64),) * 3)
    extent = torch.tensor([surface.extent for surface in surfaces], dtype=torch.float64)
    X_C = (signs * extent[:, None]) @ T_CO[:, :3, :3].mT + T_CO[:, None, :3, 3]
    nearest, farthest = X_C[..., 2].aminmax(dim=1)
    seen = X_C[..., :2] / X_C[..., 2:]
    # Where a box reaches behind the camera its corners say nothing: it may be anywhere.
    low, high = (
        torch.where(nearest[:, None] > NEAR, bound, beyond)
        for bound, beyond in ((seen.amin(1), -math.inf), (seen.amax(1), math.inf))
    )
    margin = 1e-5  # float32 rounding of the rays
    spans = []
    for axis, grid in ((1, rays.y), (0, rays.x)):
        bounds = torch.stack([low[:, axis] - margin, high[:, axis] + margin], 1)
        spans.append(np.searchsorted(grid.cpu().numpy(), bounds.numpy()).tolist())
    for index, (rows, columns) in enumerate(zip(*spans, strict=True)):
        if farthest[index] > NEAR and rows[0] < rows[1] and columns[0] < columns[1]:
            yield index, (slice(*rows), slice(*columns))


def _linear(row: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """row . (x, y, 1) for a grid of rays, [H, W] float32."""
    a, b, c = row.tolist()
    return (a * x)[None] + (b * y + c)[:, None]


def _cast_flat(
    surface: Surface,
    index: int,
    T_OC: Tensor,
    rays: _Rays,
    window: Window,
    hits: _Hits,
) -> None:
    """Update the hits inside the window with a rectangle or a disc.

    On a plane the inverse depth and (position times inverse depth) are linear in the ray.
    """
    x, y = rays.x[window[1]], rays.y[window[0]]
    origin = T_OC[:3, 3]
    inverse_row = -T_OC[2, :3] / origin[2]
    depth = 1 / _linear(inverse_row, x, y)
    X = _linear(T_OC[0, :3] + origin[0] * inverse_row, x, y) * depth
    Y = _linear(T_OC[1, :3] + origin[1] * inverse_row, x, y) * depth
    if surface.shape is Shape.RECTANGLE:
        inside = (X.abs() <= surface.a) & (Y.abs() <= surface.b)
    else:
        inside = torch.hypot(X, Y) <= surface.a
    inside &= (depth > NEAR) & (depth < hits.depth[window])
    facing = float(origin[2]) / depth
    _keep(hits, window, inside, index, (depth, X + surface.a, surface.b - Y, facing))


def _cast_curved(
    surface: Surface,
    index: int,
    T_OC: Tensor,
    rays: _Rays,
    window: Window,
    hits: _Hits,
) -> None:
    """Update the hits inside the window with the near side of a sphere or a cylinder."""
    x, y = rays.x[window[1]], rays.y[window[0]]
    dX, dY, dZ = (_linear(T_OC[axis, :3], x, y) for axis in range(3))
    oX, oY, oZ = T_OC[:3, 3].tolist()
    # |o + depth d|^2 = a^2, across the axis for a cylinder: a quadratic whose discriminant is
    # dd a^2 - |o x d|^2, which unlike the schoolbook form keeps its digits for thin, far things.
    dd, od, oo = dX * dX + dY * dY, oX * dX + oY * dY, oX**2 + oY**2
    cross = (oX * dY - oY * dX).square()
    if surface.shape is Shape.SPHERE:
        dd, od, oo = dd + dZ * dZ, od + oZ * dZ, oo + oZ**2
        cross = cross + (oY * dZ - oZ * dY).square() + (oZ * dX - oX * dZ).square()
    discriminant = dd * surface.a**2 - cross
    root = discriminant.clamp_min(0).sqrt()
    # The nearer root, in the form that does not cancel; outside, od < 0 wherever it is in front.
    depth = (oo - surface.a**2) / (root - od)
    X, Y, Z = oX + depth * dX, oY + depth * dY, oZ + depth * dZ
    around = surface.a * (torch.atan2(Y, X) + math.pi)
    if surface.shape is Shape.SPHERE:
        down = surface.a * torch.acos((Z / surface.a).clamp(-1, 1))
    else:
        down = surface.b - Z
    inside = (discriminant > 0) & (depth > NEAR) & (depth < hits.depth[window])
    if surface.shape is Shape.CYLINDER:
        inside &= Z.abs() <= surface.b
    _keep(hits, window, inside, index, (depth, around, down, root / surface.a))


def _keep(
    hits: _Hits, window: Window, closer: Tensor, index: int, found: tuple[Tensor, ...]
) -> None:
    """Write what a surface gives (depth, s, t, facing) where it is the closest so far."""
    for old, new in zip((hits.depth, hits.s, hits.t, hits.facing), found, strict=True):
        view = old[window]
        torch.where(closer, new, view, out=view)
    hits.surface[window].masked_fill_(closer, index)


def _shade(scene: Scene, rays: _Rays, hits: _Hits, pixel: float, dither: float) -> Tensor:
    """Light [H, W, 3] that comes back along the rays: texture times irradiance."""
    found = hits.surface >= 0
    surface = hits.surface.clamp_min(0).flatten()
    texture = torch.tensor([s.texture for s in scene.surfaces], device=rays.x.device)[surface]
    depth = torch.where(found, hits.depth, 1.0)
    length = ((rays.x * rays.x)[None] + (rays.y * rays.y + 1)[:, None]).sqrt()
    # A pixel covers depth / focal length, more where the surface is seen at a slant. Half a
    # pixel is what one of four rays stands for.
    footprint = 0.5 * pixel * depth * (length / hits.facing.clamp_min(0.05)).sqrt()
    texel = (scene.atlas.size[:, 0] / scene.atlas.columns[:, 0])[texture]
    level = torch.log2(footprint.flatten() / texel) + dither
    s, t = hits.s.flatten(), hits.t.flatten()
    light = scene.atlas.sample(texture, s, t, level) * scene.light.sample(surface, s, t)[:, None]
    return torch.where(found[..., None], light.view(*depth.shape, 3), 0.0)
