"""Keyframes and points as a COLMAP model, text or binary, with the images.

Points are grid pixels of the keyframes whose depth is sure enough, every second row and column.
A point's track is the pixel itself and wherever the map found it in other keyframes. COLMAP's pixel
corners are at integers: half a pixel is added to (u, v) and the principal point.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slam.exports.views import Choices, View, least_confidence, views, write_image
from slam.frame import Correspondence
from slam.lie import se3_act, se3_inv
from slam.mapcloud import confidence
from slam.saved_map import SavedMap
from slam.tracking import unproject
from slam.trajectory import write_atomically

CENTRE = 0.5  # px, of a pixel whose corner is at an integer
THINNED = 2  # rows and columns of the grid from one point to the next
AGREES = 2.0  # px, that a match may be away from its point and still be of its track
PINHOLE = 1  # COLMAP's number of the camera model
CAMERA = 1  # the number of the one camera

OBSERVATION = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
TRACK = np.dtype([("image", "<i4"), ("place", "<i4")])


@dataclass(frozen=True, slots=True)
class Model:
    """What the files hold. Images and points are numbered from 1, in order."""

    width: int  # px
    height: int  # px
    camera: tuple[float, float, float, float]  # fx, fy, cx, cy, pixel corners at integers
    names: list[str]  # K, of the images
    T_CW: np.ndarray  # [K, 7] tx ty tz qx qy qz qw: takes world points to the camera
    observations: list[np.ndarray]  # K arrays of OBSERVATION
    points: np.ndarray  # [N, 3] float64, world
    colors: np.ndarray  # [N, 3] uint8
    errors: np.ndarray  # [N] px, mean over the track
    tracks: list[np.ndarray]  # N arrays of TRACK


def write_colmap_text(saved: SavedMap, out: Path, choices: Choices) -> str:
    """Writes cameras.txt, images.txt, points3D.txt and images/ into a folder."""
    model = colmap_model(saved, choices, out)
    size = f"{model.width} {model.height}"
    camera = f"{CAMERA} PINHOLE {size} {_numbers(model.camera)}"
    _write_lines(out / "cameras.txt", ["# id, model, width, height, fx, fy, cx, cy", camera])
    _write_lines(out / "images.txt", _image_lines(model))
    _write_lines(out / "points3D.txt", _point_lines(model))
    return _words(model)


def write_colmap_binary(saved: SavedMap, out: Path, choices: Choices) -> str:
    """Writes cameras.bin, images.bin, points3D.bin and images/ into a folder."""
    model = colmap_model(saved, choices, out)
    head = struct.pack("<QiiQQ", 1, CAMERA, PINHOLE, model.width, model.height)
    write_atomically(out / "cameras.bin", head + struct.pack("<4d", *model.camera))
    write_atomically(out / "images.bin", b"".join(_image_blocks(model)))
    write_atomically(out / "points3D.bin", b"".join(_point_blocks(model)))
    return _words(model)


# --- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Seen:
    """Where points were seen, one row for each point and image."""

    point: np.ndarray  # [M] int64, from 1
    image: np.ndarray  # [M] int64, from 0
    pixel: np.ndarray  # [M, 2] float64
    error: np.ndarray  # [M] px


def colmap_model(saved: SavedMap, choices: Choices, out: Path) -> Model:
    """The model of a map; its images are written into out/images on the way.

    Raises ValueError for a map without keyframes, or without depths that are sure enough.
    """
    places = saved.grid.places(THINNED)
    T_CW = torch.stack([se3_inv(k.T_WC) for k in saved.keyframes]) if saved.keyframes else None
    names, points, colors, seen, first = [], [], [], [], 1
    for number, view in enumerate(views(saved, choices)):
        names.append(write_image(out / "images", view))
        chosen = places[_sure(view, least_confidence(saved, choices))[places]]
        depth = view.keyframe.depth.unpack()
        X_C = unproject(saved.grid.pixel[chosen], depth.value[chosen], saved.intrinsics).double()
        X = se3_act(view.keyframe.T_WC.expand(len(X_C), 7), X_C)
        points.append(X.numpy())
        colors.append(saved.grid.sample(view.rgb)[chosen].numpy())
        numbers = torch.arange(first, first + len(X))
        here = saved.grid.pixel[chosen].double()
        seen.append(_seen(numbers, number, here, torch.zeros(len(X))))
        for (i, j), matches in saved.edges.items():
            if i == number and T_CW is not None:
                found = matches.unpack(saved.grid.pixel)
                seen.append(_found(saved, X, numbers, chosen, found, j, T_CW[j]))
        first += len(X)
    if first == 1 or T_CW is None:
        raise ValueError(
            f"map of {saved.origin.name}: wanted depths that are sure enough, got none; take a "
            "smaller --confidence"
        )
    return _assembled(saved, names, T_CW, np.concatenate(points), np.concatenate(colors), seen)


def _sure(view: View, least: float) -> Tensor:
    """[P] bool: which depths of tracking's grid are sure enough."""
    depth = view.keyframe.depth.unpack()
    return (confidence(depth) >= least) & (depth.information > 0) & (depth.value > 0)


def _seen(point: Tensor, image: int, pixel: Tensor, error: Tensor) -> _Seen:
    images = np.full(len(point), image, np.int64)
    return _Seen(point.numpy(), images, pixel.double().numpy(), error.double().numpy())


def _found(
    saved: SavedMap,
    X: Tensor,
    numbers: Tensor,
    chosen: Tensor,
    matches: Correspondence,
    image: int,
    T_CW: Tensor,
) -> _Seen:
    """Where points [N, 3] of grid places [N] were found in another image, as far as both agree."""
    fx, fy, cx, cy = saved.intrinsics
    X_C = se3_act(T_CW.expand(len(X), 7), X)
    z = X_C[:, 2:].clamp(min=1e-9)
    projected = X_C[:, :2] / z * X.new_tensor([fx, fy]) + X.new_tensor([cx, cy])
    target = matches.target[chosen].double()
    error = torch.linalg.vector_norm(projected - target, dim=-1)
    last = X.new_tensor([saved.grid.width - 1, saved.grid.height - 1])
    keep = (matches.weight[chosen] > 0) & (X_C[:, 2] > 0) & (error < AGREES)
    keep &= ((target >= 0) & (target <= last)).all(-1)
    return _seen(numbers[keep], image, target[keep], error[keep])


def _assembled(
    saved: SavedMap,
    names: list[str],
    T_CW: Tensor,
    points: np.ndarray,
    colors: np.ndarray,
    seen: Sequence[_Seen],
) -> Model:
    """Observations by image, and tracks by point, each pointing at the other."""
    point, image, pixel, error = (
        np.concatenate([getattr(s, name) for s in seen])
        for name in ("point", "image", "pixel", "error")
    )
    by_image = np.argsort(image, kind="stable")
    counts = np.bincount(image, minlength=len(names))
    starts = np.cumsum(counts) - counts
    observations = np.empty(len(point), OBSERVATION)
    observations["x"], observations["y"] = pixel[by_image].T + CENTRE
    observations["point"] = point[by_image]
    track = np.empty(len(point), TRACK)
    track["image"][by_image] = image[by_image] + 1
    track["place"][by_image] = np.arange(len(point)) - np.repeat(starts, counts)
    by_point = np.argsort(point, kind="stable")
    lengths = np.bincount(point, minlength=len(points) + 1)[1:]
    sums = np.bincount(point, error, minlength=len(points) + 1)[1:]
    fx, fy, cx, cy = saved.intrinsics
    return Model(
        saved.grid.width,
        saved.grid.height,
        (fx, fy, cx + CENTRE, cy + CENTRE),
        names,
        T_CW.numpy(),
        np.split(observations, np.cumsum(counts)[:-1]),
        points,
        colors,
        sums / lengths,
        np.split(track[by_point], np.cumsum(lengths)[:-1]),
    )


# --- files ---------------------------------------------------------------------------------------


def _image_lines(model: Model) -> Iterator[str]:
    yield "# id, qw, qx, qy, qz, tx, ty, tz, camera, name; then x, y, point of all it sees"
    rows = zip(model.names, model.T_CW, model.observations, strict=True)
    for number, (name, pose, observations) in enumerate(rows, 1):
        yield f"{number} {_numbers(_in_order(pose))} {CAMERA} {name}"
        yield " ".join(f"{x:.3f} {y:.3f} {point}" for x, y, point in observations.tolist())


def _point_lines(model: Model) -> Iterator[str]:
    yield "# id, x, y, z, r, g, b, error (px); then image, place in its list, for each of the track"
    rows = zip(model.points, model.colors, model.errors, model.tracks, strict=True)
    for number, (X, color, error, track) in enumerate(rows, 1):
        pairs = " ".join(f"{image} {place}" for image, place in track.tolist())
        yield f"{number} {_numbers(X)} {' '.join(map(str, color))} {error:.4f} {pairs}"


def _image_blocks(model: Model) -> Iterator[bytes]:
    yield struct.pack("<Q", len(model.names))
    rows = zip(model.names, model.T_CW, model.observations, strict=True)
    for number, (name, pose, observations) in enumerate(rows, 1):
        yield struct.pack("<i7di", number, *_in_order(pose), CAMERA) + name.encode() + b"\0"
        yield struct.pack("<Q", len(observations)) + observations.tobytes()


def _point_blocks(model: Model) -> Iterator[bytes]:
    yield struct.pack("<Q", len(model.points))
    rows = zip(model.points, model.colors, model.errors, model.tracks, strict=True)
    for number, (X, color, error, track) in enumerate(rows, 1):
        yield struct.pack("<Q3d3BdQ", number, *X, *color, error, len(track)) + track.tobytes()


def _in_order(pose: np.ndarray) -> list[float]:
    """qw qx qy qz tx ty tz."""
    tx, ty, tz, qx, qy, qz, qw = pose.tolist()
    return [qw, qx, qy, qz, tx, ty, tz]


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in values)


def _write_lines(path: Path, lines: Sequence[str] | Iterator[str]) -> None:
    write_atomically(path, "\n".join([*lines, ""]).encode())


def _words(model: Model) -> str:
    seen = sum(map(len, model.tracks)) / len(model.points)
    return f"{len(model.names)} images, {len(model.points)} points, each seen in {seen:.1f} of them"
