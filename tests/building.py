"""A rendered building of two rooms with two doors between them, walked round and round.

`python -m tests.building {two|alike} FOLDER [--laps N]` writes it in TUM's layout, with depth
maps. A lap is 800 images and 27 m. In `alike` the second room is the first one, turned by half a
turn: nothing that is seen there tells which of the two it is.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from slam.rendering import (
    Lamp,
    Scene,
    SceneBuilder,
    SplineTrajectory,
    hand_tremor,
    spline_trajectory,
    standing,
)
from slam.rendering import texture as paint
from tests.stress import Stress, every, steady, write

LAP = 800  # images
HEIGHT, WALL = 2.8, 0.1  # m
CORNERS = ((1.1, 2.0), (1.6, 1.1), (3.0, 0.95), (6.0, 1.05), (9.0, 0.95), (10.4, 1.1))  # half a lap
MIDDLE = (6.0, 3.0)  # of the building, in which it is symmetric


def building(second_seed: int) -> Scene:
    """Two rooms of 6 x 6 m side by side. Args: second_seed: of the second; 0 = as the first."""
    build = SceneBuilder()
    _room(build, standing(0, 0, 0), 0)
    _room(build, standing(2 * MIDDLE[0], 2 * MIDDLE[1], 0, 180), second_seed)
    lamps = [Lamp((3.0, y, 2.6), 0.8) for y in (1.0, 5.0)]
    lamps += [Lamp((9.0, y, 2.6), 0.8) for y in (1.0, 5.0)]
    return build.scene(lamps, 0.45)


def _room(build: SceneBuilder, T_WR: Tensor, seed: int) -> None:
    """One room: x and y from 0 to 6 m, its two doors at x = 6, a block in its middle."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(0.4, 0.75, (6, 3)).tolist()

    def plaster(width: float, height: float, colour: int) -> int:
        size, tone = (width, height), tuple(colours[colour])
        recipe = partial(paint.mottled, rng, size, tone, contrast=0.12, finest=0.02, texel=0.008)
        return build.paint(recipe)

    def wall(x: float, y: float, size: tuple[float, float, float], colour: int) -> None:
        front = plaster(max(size[:2]), size[2], colour)
        build.box(T_WR @ standing(x, y, size[2] / 2), size, [front])

    wall(-WALL / 2, 3.0, (WALL, 6.0, HEIGHT), 0)
    wall(3.0, -WALL / 2, (6.0, WALL, HEIGHT), 1)
    wall(3.0, 6.0 + WALL / 2, (6.0, WALL, HEIGHT), 2)
    for y, length in ((0.2, 0.4), (3.0, 2.6), (5.8, 0.4)):  # between and beside the doors
        wall(6.0 - WALL / 4, y, (WALL / 2, length, HEIGHT), 3)
    wall(3.0, 3.0, (1.8, 1.8, HEIGHT), 4)
    for z, thickness in ((-0.05, 0.1), (HEIGHT + 0.05, 0.1)):
        ground = plaster(6.0, 6.0, 5)
        build.box(T_WR @ standing(3.0, 3.0, z), (6.0, 6.0, thickness), [ground])
    _furnish(build, T_WR, rng)


def _furnish(build: SceneBuilder, T_WR: Tensor, rng: np.random.Generator) -> None:
    """Pictures on the walls and on the block, parcels along the walls."""
    side = build.paint(partial(paint.flat, (0.15, 0.12, 0.1)))
    places = [(x, 0.02, 180.0) for x in (0.8, 2.2, 3.9, 5.2)]
    places += [(x, 5.98, 0.0) for x in (0.9, 2.6, 4.4)]
    places += [(0.02, y, 90.0) for y in (1.0, 2.7, 4.6)]
    places += [(3.0, 2.08, 0.0), (3.0, 3.92, 180.0), (2.08, 3.0, -90.0)]
    for x, y, yaw in places:
        size = (rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.9))
        front = build.paint(partial(paint.poster, rng, size, (0.88, 0.86, 0.8)))
        where = T_WR @ standing(x, y, rng.uniform(1.3, 1.7), yaw)
        build.box(where, (size[0], 0.03, size[1]), [side, side, side, front, side, side])
    for x, y in ((0.35, 0.4), (4.6, 0.3), (0.3, 3.7), (1.7, 5.7), (5.3, 5.7), (5.7, 3.0)):
        parcel = build.paint(partial(paint.cardboard, rng, (0.5, 0.5)))
        size = rng.uniform(0.3, 0.5)
        build.box(T_WR @ standing(x, y, size / 2, rng.uniform(0, 90)), (size,) * 3, [parcel])


def walk(laps: float) -> SplineTrajectory:
    """Anticlockwise, looking ahead and a little to the outer walls, a little differently a lap."""
    half = np.array(CORNERS)
    ring = np.concatenate([half, 2 * np.array(MIDDLE) - half])
    count = int(np.ceil(laps + 1)) * len(ring)
    place = np.tile(ring, (count // len(ring) + 1, 1))
    sway = np.random.default_rng(1).uniform(-0.12, 0.12, place.shape)
    step = np.linalg.norm(np.diff(ring, axis=0, append=ring[:1]), axis=1)
    times = np.concatenate([[0.0], np.cumsum(np.tile(step, count // len(ring) + 1))])[:-1]
    times *= LAP / 30 / step.sum()
    centres = np.column_stack([place + sway, 1.35 + 0.05 * np.sin(times)])
    ahead = np.roll(place, -1, axis=0) - place
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    outwards = np.stack([ahead[:, 1], -ahead[:, 0]], 1)
    targets = np.column_stack([place + 2.0 * ahead + 0.9 * outwards, np.full(len(place), 1.25)])
    return spline_trajectory(
        times[:count],
        centres[:count],
        targets[:count],
        tremor=hand_tremor(3, translation=0.004, rotation=0.006),
    )


def sequence(kind: str, laps: float) -> Stress:
    """Two rooms that differ (`two`), or that are one and the same (`alike`)."""
    seeds = {"two": 1, "alike": 0}
    count = round(LAP * laps)
    scene = partial(building, seeds[kind])
    return Stress(scene, walk(laps).poses, every(count), steady(count, 1.0), steady(count, 3e-3))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("two", "alike"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--laps", type=float, default=2.0)
    given = parser.parse_args()
    write(sequence(given.kind, given.laps), given.folder, depth=True)
