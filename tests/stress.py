"""Rendered sequences that are hard in one way each: fast turns, blur, exposure, darkness, ...

`python tests/stress.py NAME FOLDER` writes one in TUM's layout, for a look or a run by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from slam.rendering import (
    Lamp,
    Scene,
    SceneBuilder,
    develop,
    hand_tremor,
    looking_along,
    render_depth,
    render_exposure,
    spline_trajectory,
    standing,
    textured_room,
    tum_poses,
)
from slam.rendering import texture as paint

MOMENTS = 4  # poses averaged over an exposure; the renderer casts one ray a pixel for each
Poses = Callable[[np.ndarray], torch.Tensor]  # times [N] s -> T_WC [N, 4, 4]


@dataclass(frozen=True, slots=True)
class Stress:
    """One sequence to render."""

    scene: Callable[[], Scene]
    poses: Poses
    times: np.ndarray  # [N] s
    gain: np.ndarray  # [N] exposure
    exposure: np.ndarray  # [N] s, time the shutter is open
    noise: float = 1.0  # deviation at mid grey, 1/255
    size: tuple[int, int] = (320, 240)  # px
    focal: float = 262.5  # px
    read_noise: float = 0.0  # deviation whatever the light, 1/255
    jpeg: int | None = None  # quality; None = lossless


def write(stress: Stress, folder: Path, *, depth: bool = False) -> Path:
    """Renders a sequence into a folder in TUM's layout, depth too if wanted; returns the folder."""
    (folder / "rgb").mkdir(parents=True)
    scene, (width, height) = stress.scene(), stress.size
    intrinsics = (stress.focal, stress.focal, (width - 1) / 2, (height - 1) / 2)
    suffix = "png" if stress.jpeg is None else "jpg"
    options = [] if stress.jpeg is None else [cv2.IMWRITE_JPEG_QUALITY, stress.jpeg]
    listing, truth = [], []
    for index, time in enumerate(stress.times):
        moments = time + stress.exposure[index] * moments_of(stress.exposure[index])
        light = render_exposure(scene, intrinsics, width, height, stress.poses(moments))
        gain = float(stress.gain[index])
        image = develop(light, gain, stress.noise, seed=index, lens_blur=0.5)
        grain = np.random.default_rng(index).normal(0, stress.read_noise, image.shape)
        image = np.clip(np.round(image + grain), 0, 255).astype(np.uint8)
        name = f"rgb/{index:04d}.{suffix}"
        cv2.imwrite(str(folder / name), image[..., ::-1], options)
        listing.append(f"{100 + time:.6f} {name}")
        pose = tum_poses(stress.poses(np.array([time])))[0]
        truth.append(f"{100 + time:.6f} " + " ".join(f"{value:.9f}" for value in pose))
    (folder / "rgb.txt").write_text("\n".join(listing) + "\n")
    (folder / "groundtruth.txt").write_text("\n".join(truth) + "\n")
    calibration = {
        "model": "pinhole",
        "width": width,
        "height": height,
        "intrinsics": list(intrinsics),
        "distortion": [],
    }
    (folder / "calibration.yaml").write_text(yaml.safe_dump(calibration))
    if depth:
        _write_depth(stress, scene, intrinsics, folder)
    return folder


def _write_depth(
    stress: Stress, scene: Scene, intrinsics: tuple[float, float, float, float], folder: Path
) -> None:
    """Exact depth of the middle of each exposure, 16 bits, 5000 to the metre."""
    (folder / "depth").mkdir()
    listing = []
    for index, time in enumerate(stress.times):
        T_WC = stress.poses(np.array([time]))[0]
        metres = render_depth(scene.surfaces, intrinsics, *stress.size, T_WC).numpy()
        name = f"depth/{index:04d}.png"
        cv2.imwrite(str(folder / name), np.round(5000 * metres).astype(np.uint16))
        listing.append(f"{100 + time:.6f} {name}")
    (folder / "depth.txt").write_text("\n".join(listing) + "\n")


def moments_of(exposure: float) -> np.ndarray:
    """Where in an exposure the poses lie, in shares of it: more of them where it is long."""
    count = MOMENTS if exposure < 0.012 else 3 * MOMENTS
    return (np.arange(count) + 0.5) / count - 0.5


# --- scenes --------------------------------------------------------------------------------------


def faint_room(contrast: float, plain: bool = False) -> Scene:
    """Folded panels and boxes of one colour: what is seen is shading, and a very faint grain."""
    build, rng = SceneBuilder(), np.random.default_rng(5)
    grain = build.paint(
        partial(
            *(paint.mottled, rng, (3.0, 3.0), (0.62, 0.62, 0.6)),
            contrast=contrast,
            finest=0.03,
            texel=0.01,
        )
    )
    bare = build.paint(partial(paint.flat, (0.62, 0.62, 0.6)))
    build.box(standing(2.5, 2.0, 1.5), (5.0, 4.0, 3.0), [bare if plain else grain], inside=True)
    for k in range(6):  # a zigzag screen
        turn = 35 if k % 2 else -35
        build.box(standing(0.9 + 0.6 * k, 3.2, 0.9, turn), (0.75, 0.04, 1.8), [grain])
    for x, y, size in ((1.2, 2.6, 0.5), (2.9, 2.5, 0.7), (3.9, 2.7, 0.4)):
        build.box(standing(x, y, size / 2, 40 * x), (size, size, size), [grain])
    build.sphere((2.1, 2.5, 0.3), 0.3, grain)
    return build.scene([Lamp((1.0, 0.8, 2.6), 0.9)], 0.25)


def corridor() -> Scene:
    """A long room with doors and boxes along its walls."""
    build, rng = SceneBuilder(), np.random.default_rng(7)
    walls = [
        build.paint(
            partial(paint.mottled, rng, (4.0, 3.0), tuple(colour), contrast=0.15, finest=0.02)
        )
        for colour in rng.uniform(0.4, 0.7, (6, 3))
    ]
    build.box(standing(0, 7.0, 1.3), (2.4, 16.0, 2.6), walls, inside=True)
    door = build.paint(partial(paint.wood, rng, (0.9, 2.0), (0.5, 0.3, 0.2)))
    parcel = build.paint(partial(paint.cardboard, rng, (0.5, 0.5)))
    for k in range(6):
        side = 1 if k % 2 else -1
        build.box(standing(side * 1.19, 1.5 + 2 * k, 1.0), (0.06, 0.9, 2.0), [door])
        build.box(standing(-side * 0.95, 2.3 + 2 * k, 0.3, 15 * k), (0.4, 0.4, 0.6), [parcel])
    return build.scene([], 1.0)


def street() -> Scene:
    """A road between houses, 120 m long."""
    build, rng = SceneBuilder(), np.random.default_rng(3)
    road = build.paint(
        partial(
            *(paint.mottled, rng, (10.0, 10.0), (0.4, 0.4, 0.42)),
            contrast=0.12,
            finest=0.05,
            texel=0.03,
        )
    )
    for k in range(13):
        build.box(standing(0, 10 * k, -0.5), (30, 10, 1.0), [road])
    fronts = [
        build.paint(partial(paint.bricks, rng, (6.0, 6.0), (0.55, 0.3, 0.25))),
        build.paint(
            partial(paint.mottled, rng, (6.0, 6.0), (0.5, 0.5, 0.4), contrast=0.3, texel=0.02)
        ),
    ]
    for k in range(25):
        for side in (-1, 1):
            high, x = rng.uniform(2, 9), side * rng.uniform(7, 11)
            size = (rng.uniform(2, 5), rng.uniform(2, 5), high)
            where = standing(x, 5 * k + rng.uniform(-1, 1), high / 2, rng.uniform(-15, 15))
            build.box(where, size, [fronts[rng.integers(2)]])
    return build.scene([], 1.0)


# --- ways ----------------------------------------------------------------------------------------


def stroll(seconds: float, speed: float = 0.4, shake: float = 1.0) -> Poses:
    """Sideways through the 5 x 4 m room and back, looking at its far side."""
    times = np.arange(0.0, seconds + 1.0, 0.8)
    x = 2.4 + 0.8 * np.sin(speed * times / 0.8)
    y = 0.9 + 0.25 * np.sin(0.7 * speed * times / 0.8 + 0.5)
    centres = np.stack([x, y, 1.3 + 0.1 * np.sin(1.1 * times)], 1)
    targets = np.stack([2.5 + 0.5 * np.cos(0.9 * times), 3.6 + 0 * x, 1.0 + 0 * x], 1)
    tremor = hand_tremor(4, translation=0.006 * shake, rotation=0.008 * shake)
    return spline_trajectory(times, centres, targets, tremor=tremor).poses


def swinging(seconds: float, degrees: float, period: float, first: float = 1.0) -> Poses:
    """The stroll with yaw swings of +-degrees on top, from `first` s on."""
    base = stroll(seconds)

    def poses(times: np.ndarray) -> torch.Tensor:
        T = base(times)
        phase = 2 * np.pi * np.maximum(np.asarray(times) - first, 0) / period
        yaw = np.deg2rad(degrees) * np.sin(phase)
        turn = torch.eye(4, dtype=torch.float64).repeat(len(T), 1, 1)
        turn[:, 0, 0] = turn[:, 2, 2] = torch.from_numpy(np.cos(yaw))
        turn[:, 0, 2] = torch.from_numpy(np.sin(yaw))
        turn[:, 2, 0] = -turn[:, 0, 2]
        return T @ turn

    return poses


def along(speed: float, height: float, sway: float, wave: float) -> Poses:
    """Forward along y at `speed` m/s, with a slow lateral wave, looking where it goes."""

    def poses(times: np.ndarray) -> torch.Tensor:
        y = speed * np.asarray(times, float)
        x = sway * np.sin(y / wave)
        ahead = np.stack([sway / wave * np.cos(y / wave), 1 + 0 * y, 0.003 * np.sin(9 * y)], 1)
        T = torch.eye(4, dtype=torch.float64).repeat(len(y), 1, 1)
        T[:, :3, :3] = torch.from_numpy(looking_along(ahead))
        T[:, :3, 3] = torch.from_numpy(np.stack([x, y, height + 0 * y], 1))
        return T

    return poses


# --- sequences -----------------------------------------------------------------------------------


def every(count: int, rate: float = 30.0) -> np.ndarray:
    """[count] s."""
    return np.arange(count) / rate


def steady(count: int, value: float) -> np.ndarray:
    """[count] times the value."""
    return np.full(count, value)


def fast_rotation(degrees: float = 20.0, period: float = 1.5) -> Stress:
    """Yaw swings that peak at 84 degrees a second."""
    return Stress(
        textured_room, swinging(4, degrees, period), every(110), steady(110, 1.0), steady(110, 4e-3)
    )


def blur() -> Stress:
    """Bursts of four frames with long exposures while the hand shakes hard."""
    exposure = steady(100, 4e-3)
    for first in range(30, 100, 14):
        exposure[first : first + 4] = 0.033
    way = swinging(4, 9.0, 0.9, first=0.8)
    return Stress(textured_room, way, every(100), steady(100, 1.0), exposure)


def exposure_jumps() -> Stress:
    """Steps of a factor of two and ramps, with saturation."""
    gain = steady(90, 1.0)
    gain[25:40], gain[40:50] = 2.0, 0.5
    gain[50:65] = np.geomspace(0.5, 1.8, 15)
    gain[65:] = np.where(np.arange(25) % 8 < 4, 0.7, 1.4)
    return Stress(textured_room, stroll(4), every(90), gain, steady(90, 4e-3))


def dark() -> Stress:
    """A dark, noisy, lossy image of a quick way, with an exposure that jumps."""
    gain = steady(100, 0.03)
    gain[40:55], gain[55:] = 0.05, 0.025
    way = stroll(4, speed=0.7, shake=2.0)
    return Stress(
        *(textured_room, way, every(100), gain, steady(100, 8e-3)),
        noise=2.0,
        read_noise=2.5,
        jpeg=80,
    )


def low_texture(contrast: float = 0.012) -> Stress:
    """Faint grain on everything, and shading."""
    way = stroll(4, speed=0.5)
    return Stress(
        partial(faint_room, contrast), way, every(100), steady(100, 1.0), steady(100, 4e-3), 1.2
    )


def bare_walls() -> Stress:
    """The same with walls that have nothing on them at all, and half the grain."""
    way = stroll(4, speed=0.5)
    scene = partial(faint_room, 0.006, plain=True)
    return Stress(scene, way, every(100), steady(100, 1.0), steady(100, 4e-3), 1.2)


def forward() -> Stress:
    """Along the axis of a corridor."""
    return Stress(
        corridor, along(1.2, 1.3, 0.06, 0.7), every(100, 15), steady(100, 0.9), steady(100, 4e-3)
    )


def driving() -> Stress:
    """12 m/s at 10 Hz."""
    return Stress(
        *(street, along(12.0, 1.65, 1.5, 25.0), every(51, 10), steady(51, 0.9), steady(51, 2e-3)),
        noise=2.0,
        size=(416, 128),
        focal=240.0,
    )


def combined() -> Stress:
    """Dim, quick turns, blurred by them, exposure jumps."""
    gain = steady(110, 0.12)
    gain[40:60], gain[60:75] = 0.25, 0.07
    gain[75:] = np.geomspace(0.07, 0.2, 35)
    way = swinging(4, 14.0, 1.3)
    return Stress(
        *(textured_room, way, every(110), gain, steady(110, 0.014)),
        noise=2.0,
        read_noise=1.5,
        jpeg=85,
    )


SEQUENCES: dict[str, Callable[[], Stress]] = {
    "fast_rotation": fast_rotation,
    "blur": blur,
    "exposure_jumps": exposure_jumps,
    "dark": dark,
    "low_texture": low_texture,
    "bare_walls": bare_walls,
    "forward": forward,
    "driving": driving,
    "combined": combined,
}


if __name__ == "__main__":
    write(SEQUENCES[sys.argv[1]](), Path(sys.argv[2]))
