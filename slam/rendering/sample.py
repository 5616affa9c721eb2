"""The bundled sample sequence: a hand-held walk round a furnished room, in TUM's layout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor

from slam.rendering.motion import SplineTrajectory, hand_tremor, spline_trajectory, tum_poses
from slam.rendering.render import Intrinsics, render_depth, render_exposure
from slam.rendering.rooms import sample_room, sample_room_builder
from slam.rendering.scene import Scene
from slam.rendering.sensor import develop, exposure_gain
from slam.rendering.shapes import Surface

logger = logging.getLogger(__name__)

FRAMES = 300
RATE = 30.0  # Hz
FIRST_STAMP = 1000.0  # s
WIDTH, HEIGHT = 640, 480
INTRINSICS: Intrinsics = (525.0, 525.0, 319.5, 239.5)
DEPTH_WIDTH, DEPTH_HEIGHT = 320, 240
DEPTH_INTRINSICS: Intrinsics = (262.5, 262.5, 159.5, 119.5)  # pixels twice as large
DEPTH_FRAMES = (*range(0, 271, 27), FRAMES - 1)
DEPTH_UNITS = 5000.0  # per m, as in TUM's PNG files
EXPOSURE = 0.008  # s
MOMENTS = 4  # poses averaged over one exposure
NOISE = 1.0  # 1/255
LENS_BLUR = 0.6  # px
JPEG_QUALITY = 72

_JPEG = [
    *(cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY),
    *(cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    *(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
]

# Time (s), camera centre and the point looked at (m, room frame).
_WAY = np.array(
    [
        [0.0, 1.50, 1.20, 1.35, 1.95, 4.60, 1.05],
        [1.2, 2.25, 1.15, 1.40, 2.70, 4.60, 1.00],
        [2.4, 3.05, 1.20, 1.45, 4.70, 4.00, 1.00],
        [3.6, 3.65, 1.65, 1.35, 6.00, 2.70, 1.05],
        [4.8, 3.75, 2.35, 1.30, 6.00, 2.60, 1.10],
        [6.0, 3.20, 2.70, 1.45, 5.00, 4.60, 1.05],
        [7.2, 2.35, 2.50, 1.50, 2.40, 4.90, 1.05],
        [8.6, 1.60, 1.75, 1.42, 1.20, 4.90, 1.10],
        [10.0, 1.50, 1.22, 1.36, 1.95, 4.60, 1.05],
    ]
)


def sample_trajectory() -> SplineTrajectory:
    """The camera's path, time from 0 s at the first frame."""
    tremor = hand_tremor(7, translation=0.007, rotation=0.009)
    return spline_trajectory(_WAY[:, 0], _WAY[:, 1:4], _WAY[:, 4:], tremor=tremor)


def sample_times() -> np.ndarray:
    """The middle of every frame's exposure, s from the first, [FRAMES] float64."""
    return np.arange(FRAMES) / RATE


def render_sample_image(scene: Scene, index: int) -> np.ndarray:
    """Frame `index` as the camera would store it, before JPEG, [480, 640, 3] uint8 RGB.

    Args:
        scene: sample_room(), on the device to render on.
    """
    _check_index(index)
    moments = index / RATE + EXPOSURE * ((np.arange(MOMENTS) + 0.5) / MOMENTS - 0.5)
    T_WC = sample_trajectory().poses(moments)
    radiance = render_exposure(scene, INTRINSICS, WIDTH, HEIGHT, T_WC)
    gain = exposure_gain(sample_times()[index : index + 1], seed=3, amount=0.22)
    return develop(radiance, float(gain[0]), NOISE, seed=index, lens_blur=LENS_BLUR)


def render_sample_depth(index: int) -> Tensor:
    """Exact depth of frame `index` at its pixel centres, [480, 640] float32, m along the axis."""
    return _depth(index, INTRINSICS, WIDTH, HEIGHT)


def _depth(index: int, intrinsics: Intrinsics, width: int, height: int) -> Tensor:
    _check_index(index)
    T_WC = sample_trajectory().poses(sample_times()[index : index + 1])[0]
    return render_depth(_surfaces(), intrinsics, width, height, T_WC)


@lru_cache(maxsize=1)
def _surfaces() -> tuple[Surface, ...]:
    return tuple(sample_room_builder().surfaces)


def _check_index(index: int) -> None:
    if not 0 <= index < FRAMES:
        raise ValueError(f"the sample has frames 0 to {FRAMES - 1}, got {index}")


def render_sample(out: Path, *, device: torch.device | str = "cpu") -> None:
    """Write the sample sequence to the folder `out` (made where missing).

    rgb/*.jpg with rgb.txt, depth/*.png (16 bit, 1/5000 m, half size) of a few frames with
    depth.txt, groundtruth.txt (T_WC of every frame, exact), calibration.yaml, SOURCE.md.
    """
    with _one_thread():
        _render_sample(out, device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch work with one thread: the tensors are small, and handing them round costs more
    than it brings (twice the time on a busy machine)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _render_sample(out: Path, device: torch.device | str) -> None:
    (out / "rgb").mkdir(parents=True, exist_ok=True)
    (out / "depth").mkdir(exist_ok=True)
    stamps = [f"{FIRST_STAMP + time:.6f}" for time in sample_times()]
    scene = sample_room().to(device)
    for index, stamp in enumerate(stamps):
        bgr = cv2.cvtColor(render_sample_image(scene, index), cv2.COLOR_RGB2BGR)
        _write(out / "rgb" / f"{stamp}.jpg", bgr, _JPEG)
        if (index + 1) % 50 == 0:
            logger.info("rendered %d of %d frames", index + 1, FRAMES)
    for index in DEPTH_FRAMES:
        depth = _depth(index, DEPTH_INTRINSICS, DEPTH_WIDTH, DEPTH_HEIGHT)
        units = (depth.numpy() * DEPTH_UNITS).round().astype(np.uint16)
        _write(out / "depth" / f"{stamps[index]}.png", units, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    _write_lists(out, stamps)
    (out / "SOURCE.md").write_text(_SOURCE, encoding="utf-8")


def _write(path: Path, image: np.ndarray, options: list[int]) -> None:
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f"could not write {path}: is the disk full or the folder read-only?")


def _write_lists(out: Path, stamps: list[str]) -> None:
    """The text files: which image at which time, the poses, and the calibration."""
    rgb = [f"{stamp} rgb/{stamp}.jpg" for stamp in stamps]
    depth = [f"{stamps[index]} depth/{stamps[index]}.png" for index in DEPTH_FRAMES]
    poses = tum_poses(sample_trajectory().poses(sample_times()))
    truth = [
        f"{stamp} " + " ".join(f"{value:.9f}" for value in row)
        for stamp, row in zip(stamps, poses, strict=True)
    ]
    for name, title, lines in (
        ("rgb.txt", "timestamp filename", rgb),
        ("depth.txt", "timestamp filename (320x240, 16 bit, 5000 per metre)", depth),
        ("groundtruth.txt", "timestamp tx ty tz qx qy qz qw (camera to world, exact)", truth),
    ):
        text = "\n".join([f"# rendered sample: {title}", *lines]) + "\n"
        (out / name).write_text(text, encoding="utf-8")
    calibration = {
        "model": "pinhole",
        "width": WIDTH,
        "height": HEIGHT,
        "intrinsics": list(INTRINSICS),
        "distortion": [],
    }
    text = yaml.safe_dump(calibration, sort_keys=False, default_flow_style=None)
    (out / "calibration.yaml").write_text(text, encoding="utf-8")


_SOURCE = f"""# The sample sequence

Rendered, not filmed: {FRAMES} frames at {RATE:.0f} Hz, {WIDTH} x {HEIGHT} px, of a hand-held walk
round a furnished room of 6 x 5 x 3 m that ends where it began. Made by

    slam sample --render --out datasets/sample

from `slam/rendering/` (`slam.rendering.render_sample`), which also gives the exact depth of every
frame (`slam.rendering.render_sample_depth`). Poses are those of the middle of each exposure. With
{1000 * EXPOSURE:.0f} ms of motion blur, a soft lens, drifting exposure, photon noise, JPEG. Depth
of {len(DEPTH_FRAMES)} frames is stored at half size: fx = fy = {DEPTH_INTRINSICS[0]},
cx = {DEPTH_INTRINSICS[2]}, cy = {DEPTH_INTRINSICS[3]}. Licence: that of the repository.
"""
