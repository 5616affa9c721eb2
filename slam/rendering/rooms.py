"""Ready-made scenes: the sample's furnished room, and small ones for tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from torch import Tensor

from slam.rendering import texture as paint
from slam.rendering.scene import Scene, SceneBuilder
from slam.rendering.shapes import Lamp, pose, standing

ROOM_SIZE = (6.0, 5.0, 3.0)  # m, the sample's; one floor corner is the world's origin, z is up
_LAMPS = (Lamp((2.2, 2.1, 2.75), 1.25), Lamp((4.3, 2.9, 2.75), 1.1))
_AMBIENT = 0.38


def textured_plane(seed: int = 0) -> Scene:
    """A wall 8 x 6 m in the plane z = 0 of the world, seen from z < 0 by a camera at T_WC = 1."""
    build = SceneBuilder()
    rng = np.random.default_rng(seed)
    wall = build.paint(partial(paint.mottled, rng, (8.0, 6.0), (0.55, 0.5, 0.45), contrast=0.2))
    facing = pose(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
    build.rectangle(facing, 8.0, 6.0, wall)
    return build.scene()


def textured_room(seed: int = 0) -> Scene:
    """A room of 5 x 4 x 3 m, corner at the origin, with a few textured boxes, balls and poles."""
    build = SceneBuilder()
    rng = np.random.default_rng(seed)
    walls = [
        build.paint(
            partial(paint.mottled, rng, (4.0, 3.0), colour, contrast=0.18, finest=0.02, texel=0.008)
        )
        for colour in rng.uniform(0.35, 0.75, (6, 3)).tolist()
    ]
    build.box(standing(2.5, 2.0, 1.5), (5.0, 4.0, 3.0), walls, inside=True)
    parcel = build.paint(partial(paint.cardboard, rng, (0.5, 0.5)))
    stone = build.paint(partial(paint.mottled, rng, (1.0, 1.0), (0.4, 0.45, 0.4), contrast=0.25))
    for _ in range(3):
        x, y = rng.uniform(0.8, 4.2), rng.uniform(2.4, 3.4)
        build.box(standing(x, y, 0.25, rng.uniform(0, 90)), (0.5, 0.5, 0.5), [parcel])
    build.cylinder(standing(rng.uniform(1, 4), 3.2, 1.5), 0.1, 3.0, stone)
    build.sphere((rng.uniform(1, 4), 2.8, 0.9), 0.3, stone)
    return build.scene([Lamp((2.0, 1.0, 2.6), 0.7)], 0.5)


def untextured_room() -> Scene:
    """A room of 5 x 4 x 3 m, corner at the origin, with plain white walls and nothing in it."""
    build = SceneBuilder()
    white = build.paint(partial(paint.flat, (0.8, 0.8, 0.78)))
    build.box(standing(2.5, 2.0, 1.5), (5.0, 4.0, 3.0), [white], inside=True)
    return build.scene([Lamp((2.0, 1.0, 2.6), 0.7)], 0.5)


def sample_room() -> Scene:
    """The room of the bundled sample: furnished, partly plain, with thin things in it."""
    return sample_room_builder().scene(_LAMPS, _AMBIENT)


def sample_room_builder() -> SceneBuilder:
    """The sample's room before its textures are painted; its surfaces suffice for depth."""
    build = SceneBuilder()
    rng = np.random.default_rng(20240)
    _shell(build, rng)
    _north_side(build, rng)
    _east_side(build, rng)
    _west_side(build, rng)
    _table(build, rng)
    _middle(build, rng)
    return build


def _shell(build: SceneBuilder, rng: np.random.Generator) -> None:
    width, depth, height = ROOM_SIZE
    oak = (0.58, 0.43, 0.29)
    colours = ((0.80, 0.75, 0.62), (0.71, 0.64, 0.50))
    faces = [
        build.paint(partial(paint.bricks, rng, (depth, height), (0.57, 0.36, 0.28))),
        build.paint(
            partial(paint.mottled, rng, (depth, height), (0.66, 0.71, 0.70), contrast=0.025)
        ),
        build.paint(partial(paint.stripes, rng, (width, height), 0.25, colours)),
        build.paint(partial(paint.flat, (0.82, 0.81, 0.78))),
        build.paint(partial(paint.flat, (0.90, 0.90, 0.88))),
        build.paint(partial(paint.wood, rng, (width, depth), oak)),
    ]
    middle = standing(width / 2, depth / 2, height / 2)
    build.box(middle, ROOM_SIZE, faces, inside=True)
    skirting = build.paint(partial(paint.flat, (0.86, 0.85, 0.82)))
    build.box(standing(width / 2, depth - 0.01, 0.05), (width, 0.02, 0.1), [skirting])
    build.box(standing(0.01, depth / 2, 0.05), (0.02, depth, 0.1), [skirting])
    build.box(standing(width - 0.01, depth / 2, 0.05), (0.02, depth, 0.1), [skirting])
    red = ((0.45, 0.13, 0.12), (0.72, 0.62, 0.45), (0.16, 0.20, 0.32), (0.55, 0.24, 0.16))
    rug = build.paint(partial(paint.rug, rng, (2.4, 1.6), red))
    build.box(standing(3.3, 3.2, 0.006, 8), (2.4, 1.6, 0.012), [skirting] * 4 + [rug, skirting])


def _hang(
    build: SceneBuilder,
    rng: np.random.Generator,
    T_WO: Tensor,
    size: tuple[float, float],
    paper: paint.Colour,
) -> None:
    """A framed print, 3 cm thick; its face looks along the object's -y."""
    front = build.paint(partial(paint.poster, rng, size, paper))
    side = build.paint(partial(paint.flat, (0.14, 0.11, 0.09)))
    build.box(T_WO, (size[0], 0.03, size[1]), [side, side, side, front, side, side])


def _north_side(build: SceneBuilder, rng: np.random.Generator) -> None:
    depth = ROOM_SIZE[1]
    _hang(build, rng, standing(2.45, depth - 0.015, 1.75), (0.6, 0.85), (0.91, 0.89, 0.82))
    _hang(build, rng, standing(3.35, depth - 0.015, 1.85), (0.75, 0.55), (0.86, 0.88, 0.90))
    _hang(build, rng, standing(4.15, depth - 0.015, 1.60), (0.4, 0.55), (0.93, 0.90, 0.85))
    _bookcase(build, rng, standing(1.1, depth - 0.16, 0))


def _bookcase(build: SceneBuilder, rng: np.random.Generator, T_WO: Tensor) -> None:
    """1.3 m wide, 2 m high, 0.3 m deep; open towards the object's -y."""
    board = build.paint(partial(paint.wood, rng, (1.3, 0.32), (0.42, 0.29, 0.19), plank=0.32))
    plain = build.paint(partial(paint.flat, (0.30, 0.21, 0.15)))
    build.box(T_WO @ standing(0, 0.14, 1.0), (1.3, 0.02, 2.0), [plain])
    for x in (-0.64, 0.64):
        build.box(T_WO @ standing(x, 0, 1.0), (0.025, 0.3, 2.0), [board])
    for z in np.linspace(0.02, 1.98, 6):
        build.box(T_WO @ standing(0, 0, float(z)), (1.26, 0.3, 0.025), [board])
    for row, z in enumerate(np.linspace(0.02, 1.98, 6)[:-1]):
        length = float(rng.uniform(0.75, 1.2))
        spines = build.paint(partial(paint.books, rng, (length, 0.33)))
        x = (-1.0 if row % 2 else 1.0) * (1.25 - length) / 2
        place = T_WO @ standing(x, 0.02, float(z) + 0.18)
        build.box(place, (length, 0.2, 0.33), [plain, plain, plain, spines, plain, plain])


def _east_side(build: SceneBuilder, rng: np.random.Generator) -> None:
    width = ROOM_SIZE[0]
    white = build.paint(partial(paint.flat, (0.88, 0.88, 0.86)))
    sky = build.paint(
        partial(paint.mottled, rng, (1.3, 1.2), (0.90, 0.95, 1.0), contrast=0.02, coarsest=1.0)
    )
    window = standing(width, 2.2, 1.65, -90)  # its x along the world's -y, its -y into the room
    build.box(window @ standing(0, -0.01, 0), (1.3, 0.02, 1.2), [white] * 3 + [sky] + [white] * 2)
    for x in (-0.66, 0.0, 0.66):
        build.box(window @ standing(x, -0.03, 0), (0.05, 0.06, 1.3), [white])
    for z in (-0.62, 0.1, 0.62):
        build.box(window @ standing(0, -0.03, z), (1.37, 0.05, 0.045), [white])
    _hang(build, rng, standing(width - 0.015, 3.7, 1.7, -90), (0.7, 0.9), (0.90, 0.86, 0.74))
    _hang(build, rng, standing(width - 0.015, 0.8, 1.6, -90), (0.5, 0.7), (0.84, 0.87, 0.84))
    build.box(standing(5.72, 2.2, 0.42), (0.5, 1.5, 0.84), [white])
    walnut = build.paint(partial(paint.wood, rng, (1.5, 0.5), (0.40, 0.27, 0.18), plank=0.25))
    build.box(standing(5.72, 2.2, 0.855), (0.54, 1.56, 0.03), [walnut])
    clay = build.paint(partial(paint.mottled, rng, (0.5, 0.5), (0.62, 0.36, 0.25), contrast=0.12))
    build.cylinder(standing(5.65, 2.7, 0.97), 0.11, 0.2, clay)
    leaf = build.paint(
        partial(paint.mottled, rng, (0.6, 0.6), (0.24, 0.38, 0.18), contrast=0.4, coarsest=0.12)
    )
    build.sphere((5.65, 2.7, 1.25), 0.22, leaf)
    _parcel(build, rng, standing(5.66, 1.75, 0.97, 20), (0.3, 0.36, 0.2))


def _parcel(
    build: SceneBuilder, rng: np.random.Generator, T_WO: Tensor, size: tuple[float, float, float]
) -> None:
    x, y, z = size
    sides = [
        build.paint(partial(paint.cardboard, rng, shape)) for shape in ((y, z), (x, z), (x, y))
    ]
    build.box(T_WO, size, [sides[0], sides[0], sides[1], sides[1], sides[2], sides[2]])


def _west_side(build: SceneBuilder, rng: np.random.Generator) -> None:
    white = build.paint(partial(paint.flat, (0.88, 0.87, 0.84)))
    door = standing(0.0, 2.0, 1.0, 90)  # its -y into the room
    build.box(door @ standing(0, -0.02, 0.02), (0.9, 0.04, 2.04), [white])
    for x in (-0.48, 0.48):
        build.box(door @ standing(x, -0.03, 0.03), (0.07, 0.06, 2.1), [white])
    build.sphere((0.1, 1.65, 1.0), 0.03, build.paint(partial(paint.flat, (0.5, 0.42, 0.25))))
    _hang(build, rng, standing(0.015, 3.4, 1.65, 90), (0.8, 0.6), (0.88, 0.85, 0.78))


def _table(build: SceneBuilder, rng: np.random.Generator) -> None:
    place = standing(2.75, 4.1, 0, -4)
    top = build.paint(partial(paint.wood, rng, (1.5, 0.75), (0.55, 0.37, 0.22), plank=0.25))
    plain = build.paint(partial(paint.flat, (0.33, 0.23, 0.15)))
    build.box(place @ standing(0, 0, 0.735), (1.5, 0.75, 0.03), [top])
    for x in (-0.7, 0.7):
        for y in (-0.33, 0.33):
            build.box(place @ standing(x, y, 0.36), (0.05, 0.05, 0.72), [plain])
    _parcel(build, rng, place @ standing(-0.42, 0.05, 0.86, 25), (0.38, 0.26, 0.22))
    glaze = build.paint(
        partial(paint.stripes, rng, (0.5, 0.3), 0.05, ((0.85, 0.85, 0.88), (0.20, 0.28, 0.52)))
    )
    build.cylinder(place @ standing(0.05, 0.12, 0.89), 0.07, 0.28, glaze)
    for level, turn in enumerate((0, 14, -8, 5)):
        cover = build.paint(partial(paint.poster, rng, (0.3, 0.22), (0.8, 0.75, 0.65)))
        spine = build.paint(partial(paint.books, rng, (0.3, 0.045)))
        book = place @ standing(0.45, -0.08, 0.775 + 0.046 * level, turn)
        build.box(book, (0.3, 0.22, 0.045), [spine] * 4 + [cover, cover])
    metal = build.paint(partial(paint.flat, (0.30, 0.31, 0.33)))
    shade = build.paint(partial(paint.mottled, rng, (0.7, 0.3), (0.82, 0.72, 0.50), contrast=0.06))
    build.cylinder(place @ standing(0.66, 0.22, 0.76), 0.07, 0.02, metal)
    build.cylinder(place @ standing(0.66, 0.22, 0.96), 0.008, 0.40, metal)
    build.cylinder(place @ standing(0.66, 0.22, 1.24), 0.11, 0.18, shade)
    _chair(build, rng, standing(2.1, 3.45, 0, 205))


def _chair(build: SceneBuilder, rng: np.random.Generator, T_WO: Tensor) -> None:
    """A chair with thin slats; its back stands at the object's +y."""
    beech = build.paint(partial(paint.wood, rng, (0.45, 0.45), (0.66, 0.50, 0.32), plank=0.45))
    build.box(T_WO @ standing(0, 0, 0.45), (0.42, 0.42, 0.03), [beech])
    for x in (-0.19, 0.19):
        build.box(T_WO @ standing(x, -0.19, 0.22), (0.03, 0.03, 0.44), [beech])
        build.box(T_WO @ standing(x, 0.2, 0.46), (0.03, 0.03, 0.92), [beech])
    for z in (0.62, 0.76, 0.90):
        build.box(T_WO @ standing(0, 0.2, z), (0.38, 0.012, 0.05), [beech])


def _middle(build: SceneBuilder, rng: np.random.Generator) -> None:
    """What stands free: parcels, a pillar, a floor lamp, a pendant on a wire, a ball."""
    _parcel(build, rng, standing(4.75, 4.35, 0.25, 15), (0.7, 0.6, 0.5))
    _parcel(build, rng, standing(4.70, 4.38, 0.66, 40), (0.45, 0.4, 0.32))
    _parcel(build, rng, standing(4.95, 0.75, 0.2, -20), (0.5, 0.4, 0.4))
    stone = build.paint(
        partial(paint.mottled, rng, (1.0, 3.0), (0.62, 0.60, 0.56), contrast=0.13, coarsest=0.3)
    )
    build.cylinder(standing(3.95, 4.55, 1.5), 0.13, 3.0, stone)
    metal = build.paint(partial(paint.flat, (0.22, 0.22, 0.24)))
    glass = build.paint(partial(paint.flat, (0.93, 0.91, 0.86)))
    build.cylinder(standing(5.35, 3.45, 0.015), 0.14, 0.03, metal)
    build.cylinder(standing(5.35, 3.45, 0.85), 0.012, 1.7, metal)
    build.sphere((5.35, 3.45, 1.78), 0.14, glass)
    build.cylinder(standing(1.9, 4.0, 2.6), 0.004, 0.8, metal)
    build.sphere((1.9, 4.0, 2.12), 0.13, glass)
    _ball(build, rng, (4.25, 3.75, 0.13))


def _ball(build: SceneBuilder, rng: np.random.Generator, centre: Sequence[float]) -> None:
    leather = ((0.80, 0.78, 0.72), (0.55, 0.16, 0.14))
    skin = build.paint(partial(paint.checker, rng, (0.8, 0.4), 0.1, leather))
    build.sphere(centre, 0.13, skin)
