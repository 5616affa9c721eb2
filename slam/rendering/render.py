"""Ray casting: a scene seen by a pinhole camera, as colour and exact depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from slam.rendering.scene import Scene
from slam.rendering.shapes import Shape, Surface, inverse
from slam.rendering.texture import GAMMA

NEAR = 0.02  # m; nothing nearer is seen
# Where the rays of one pixel pass (px). Their mean is the pixel's centre, and of the four no two
# that follow one another in an exposure share both signs.
SUBPIXELS = ((0.25, 0.25), (-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25))

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
    )
    for index, surface in enumerate(surfaces):
        T_CO = inverse(rays.T_WC) @ surface.T_WO
        T_OC = inverse(T_CO)
        window = _window(surface.corners() @ T_CO[:3, :3].T + T_CO[:3, 3], rays)
        if window is None:
            continue
        if surface.shape in (Shape.RECTANGLE, Shape.DISC):
            if T_OC[2, 3] <= 0:
                continue
            _cast_flat(surface, index, T_OC, rays, window, hits)
        else:
            _cast_curved(surface, index, T_OC, rays, window, hits)
    return hits


def _window(X_C: Tensor, rays: _Rays) -> tuple[slice, slice] | None:
    """Rows and columns that can see the convex hull of the points [N, 3]; None = none can."""
    if bool((X_C[:, 2] <= NEAR).all()):
        return None
    everything = (slice(0, len(rays.y)), slice(0, len(rays.x)))
    if bool((X_C[:, 2] <= NEAR).any()):
        return everything
    spans = []
    for axis, grid in ((1, rays.y), (0, rays.x)):
        seen = X_C[:, axis] / X_C[:, 2]
        margin = 1e-5  # float32 rounding of the grid
        bounds = torch.stack([seen.min() - margin, seen.max() + margin]).to(grid)
        first, last = torch.searchsorted(grid, bounds).tolist()
        if first >= last:
            return None
        spans.append(slice(first, last))
    return spans[0], spans[1]


def _linear(row: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """row . (x, y, 1) for a grid of rays, [H, W] float32."""
    a, b, c = row.tolist()
    return (a * x)[None] + (b * y + c)[:, None]


def _cast_flat(
    surface: Surface,
    index: int,
    T_OC: Tensor,
    rays: _Rays,
    window: tuple[slice, slice],
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
        inside = X * X + Y * Y <= surface.a**2
    inside &= (depth > NEAR) & (depth < hits.depth[window])
    _keep(hits, window, inside, index, depth, X + surface.a, surface.b - Y)


def _cast_curved(
    surface: Surface,
    index: int,
    T_OC: Tensor,
    rays: _Rays,
    window: tuple[slice, slice],
    hits: _Hits,
) -> None:
    """Update the hits inside the window with the near side of a sphere or a cylinder."""
    x, y = rays.x[window[1]], rays.y[window[0]]
    dX, dY, dZ = (_linear(T_OC[axis, :3], x, y) for axis in range(3))
    oX, oY, oZ = T_OC[:3, 3].tolist()
    # |o + depth d|^2 = a^2 with depth = q / aa: half the discriminant form, b = o . d.
    if surface.shape is Shape.SPHERE:
        aa, b, c = dX * dX + dY * dY + dZ * dZ, oX * dX + oY * dY + oZ * dZ, oX**2 + oY**2 + oZ**2
    else:
        aa, b, c = dX * dX + dY * dY, oX * dX + oY * dY, oX**2 + oY**2
    discriminant = b * b - aa * (c - surface.a**2)
    # The nearer root, in the form that does not cancel.
    depth = (c - surface.a**2) / (discriminant.clamp_min(0).sqrt() - b)
    X, Y, Z = oX + depth * dX, oY + depth * dY, oZ + depth * dZ
    around = surface.a * torch.atan2(Y, X)
    if surface.shape is Shape.SPHERE:
        down = surface.a * torch.acos((Z / surface.a).clamp(-1, 1))
    else:
        down = surface.b - Z
    inside = (discriminant > 0) & (depth > NEAR) & (depth < hits.depth[window])
    if surface.shape is Shape.CYLINDER:
        inside &= Z.abs() <= surface.b
    _keep(hits, window, inside, index, depth, around + math.pi * surface.a, down)


def _keep(
    hits: _Hits,
    window: tuple[slice, slice],
    closer: Tensor,
    index: int,
    depth: Tensor,
    s: Tensor,
    t: Tensor,
) -> None:
    for old, new in ((hits.depth, depth), (hits.s, s), (hits.t, t)):
        view = old[window]
        torch.where(closer, new, view, out=view)
    hits.surface[window].masked_fill_(closer, index)


def _shade(scene: Scene, rays: _Rays, hits: _Hits, pixel: float, dither: float) -> Tensor:
    """Light [H, W, 3] that comes back along the rays: texture times irradiance."""
    device = rays.x.device
    found = hits.surface >= 0
    surface = hits.surface.clamp_min(0).flatten()
    depth = torch.where(found, hits.depth, 1.0)
    texture = torch.tensor([s.texture for s in scene.surfaces], device=device)
    normal = _normals(scene.surfaces, rays, hits, depth)
    direction = _world_directions(rays)
    facing = -(normal * direction).sum(0)
    # A pixel covers depth / focal length, more where the surface is seen at a slant. Half a
    # pixel is what one of four rays stands for.
    footprint = 0.5 * pixel * depth * (direction.norm(dim=0) / facing.clamp_min(0.05)).sqrt()
    texel = (scene.atlas.size[:, 0] / scene.atlas.columns[:, 0])[texture[surface]]
    level = torch.log2(footprint.flatten() / texel) + dither
    albedo = scene.atlas.sample(texture[surface], hits.s.flatten(), hits.t.flatten(), level)
    irradiance = scene.light.sample(surface, hits.s.flatten(), hits.t.flatten())
    light = (albedo * irradiance[:, None]).view(*depth.shape, 3)
    return torch.where(found[..., None], light, 0.0)


def _world_directions(rays: _Rays) -> Tensor:
    """Directions (x, y, 1) turned into the world, [3, H, W] float32."""
    return torch.stack([_linear(rays.T_WC[axis, :3], rays.x, rays.y) for axis in range(3)])


def _normals(surfaces: tuple[Surface, ...], rays: _Rays, hits: _Hits, depth: Tensor) -> Tensor:
    """Unit normals [3, H, W] float32, world, towards the viewer's side."""
    device = rays.x.device
    flat = torch.stack([surface.T_WO[:3, 2] for surface in surfaces]).float().to(device)
    normal = flat[hits.surface.clamp_min(0)].permute(2, 0, 1).contiguous()
    present = set(hits.surface.unique().tolist())
    for index, surface in enumerate(surfaces):
        if index not in present or surface.shape in (Shape.RECTANGLE, Shape.DISC):
            continue
        v, u = (hits.surface == index).nonzero(as_tuple=True)
        direction = torch.stack([rays.x[u], rays.y[v], torch.ones_like(rays.x[u])])
        T_OC = (inverse(surface.T_WO) @ rays.T_WC).float().to(device)
        X_O = T_OC[:3, :3] @ direction * depth[v, u] + T_OC[:3, 3:]
        if surface.shape is Shape.CYLINDER:
            X_O[2] = 0.0
        R_WO = surface.T_WO[:3, :3].float().to(device)
        normal[:, v, u] = R_WO @ (X_O / surface.a)
    return normal
