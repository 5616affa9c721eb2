"""Keyframes' images, depths, pointmaps and matches in few bytes, as saved maps hold them.

Numbers that only make sense up to scale are kept in half precision relative to a scale of their
own, a power of two near their median: 11 bits of mantissa are 0.05 % at most, a tenth of what the
best depths are sure of, and no map is too large or too small for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from slam.frame import Correspondence, FusedPointmap, InverseDepth

JPEG_QUALITY = 95
LARGEST = 65504.0  # in half precision
SMALLEST = 6e-8  # above 0 in half precision
STEPS = 32767  # of int16
FINEST_FLOW = 1 / 128  # px, as in measurement.py: int16 then covers +-256 px


@dataclass(frozen=True, slots=True)
class PackedDepth:
    """An InverseDepth."""

    scale: float  # 1/m up to scale, a power of two
    value: np.ndarray  # [P] float16, over scale
    information: np.ndarray  # [P] float16, its square root times scale; 0 = never measured

    @classmethod
    def of(cls, depth: InverseDepth) -> PackedDepth:
        """Packs; what was measured stays measured, however vaguely."""
        value = depth.value.double().numpy()
        known = depth.information.numpy() > 0
        scale = _typical(value[known] if known.any() else value)
        trust = np.sqrt(depth.information.double().numpy()) * scale
        return cls(scale, _half(value / scale), _half(trust, keep_positive=True))

    def unpack(self) -> InverseDepth:
        """In single precision."""
        value = self.value.astype(np.float32) * np.float32(self.scale)
        trust = self.information.astype(np.float32) / np.float32(self.scale)
        return InverseDepth(torch.from_numpy(value), torch.from_numpy(trust * trust))


@dataclass(frozen=True, slots=True)
class PackedPointmap:
    """A FusedPointmap: each point's direction and its distance along it.

    The direction is the point on the octahedron |x| + |y| + |z| = 1, its lower half folded over
    (Cigolle et al., "A Survey of Efficient Representations for Independent Unit Vectors", JCGT
    2014): 1e-4 rad or better in any direction, also behind the camera, whatever its intrinsics.
    """

    scale: float  # m up to scale, a power of two
    count: int  # observations fused
    ray: np.ndarray  # [H, W, 2] int16, on the octahedron seen from +z, times STEPS
    distance: np.ndarray  # [H, W] float16, over scale
    confidence: np.ndarray  # [H, W] float16, of one observation (over count); 0 = nothing known

    @classmethod
    def of(cls, fused: FusedPointmap) -> PackedPointmap:
        """Packs."""
        X = fused.X_C.double().numpy()
        distance = np.linalg.norm(X, axis=-1)
        scale = _typical(distance[fused.confidence.numpy() > 0])
        mean = fused.mean.confidence.double().numpy()
        ray = np.rint(_to_octahedron(X) * STEPS).astype(np.int16)
        return cls(
            scale, fused.count, ray, _half(distance / scale), _half(mean, keep_positive=True)
        )

    def unpack(self) -> FusedPointmap:
        """In single precision."""
        direction = _from_octahedron(self.ray.astype(np.float64) / STEPS)
        X = direction * (self.distance.astype(np.float64) * self.scale)[..., None]
        confidence = self.confidence.astype(np.float32) * max(self.count, 1)
        return FusedPointmap(
            torch.from_numpy(X.astype(np.float32)), torch.from_numpy(confidence), self.count
        )


@dataclass(frozen=True, slots=True)
class PackedMatches:
    """A Correspondence of P grid pixels, of which M were found in the other image."""

    step: float  # px, a power of two
    found: np.ndarray  # [(P + 7) // 8] uint8, a bit for each grid pixel, the highest first
    flow: np.ndarray  # [M, 2] int16, from the grid pixel to its target, over step
    weight: np.ndarray  # [M] float16, 1/px^2

    @classmethod
    def of(cls, pixel: Tensor, matches: Correspondence) -> PackedMatches:
        """Packs. Args: pixel: [P, 2] of the grid. Where the weight is 0 the target is not kept."""
        found = (matches.weight > 0).numpy()
        flow = (matches.target - pixel).double().numpy()[found]
        step = max(FINEST_FLOW, _above(float(np.abs(flow).max(initial=0.0)) / STEPS))
        weight = _half(matches.weight.double().numpy()[found], keep_positive=True)
        return cls(step, np.packbits(found), np.rint(flow / step).astype(np.int16), weight)

    def unpack(self, pixel: Tensor) -> Correspondence:
        """In single precision; what was not found is where it was, with weight 0."""
        found = np.unpackbits(self.found, count=len(pixel)).astype(bool)
        target, weight = pixel.numpy().copy(), np.zeros(len(pixel), np.float32)
        target[found] += self.flow.astype(np.float32) * np.float32(self.step)
        weight[found] = self.weight
        return Correspondence(torch.from_numpy(target), torch.from_numpy(weight))


def pack_image(rgb: Tensor) -> np.ndarray:
    """A JPEG [B] uint8 of an image [h, w, 3] uint8."""
    bgr = cv2.cvtColor(rgb.numpy(), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].reshape(-1)


def unpack_image(jpeg: np.ndarray) -> Tensor:
    """The image [h, w, 3] uint8 RGB of a JPEG. Raises ValueError where it is none."""
    bgr = cv2.imdecode(np.asarray(jpeg), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"wanted a JPEG, got {len(jpeg)} bytes that are none")
    return torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _half(values: np.ndarray, *, keep_positive: bool = False) -> np.ndarray:
    """In half precision, within its range. keep_positive: what is above 0 stays above it."""
    if keep_positive:
        values = np.where(values > 0, np.maximum(values, SMALLEST), values)
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16)


def _typical(values: np.ndarray) -> float:
    """A power of two near the median of magnitudes; 1 where there are none."""
    magnitudes = np.abs(values[values != 0])
    return _above(float(np.median(magnitudes))) if len(magnitudes) else 1.0


def _above(value: float) -> float:
    """The least power of two that is greater, a number of its own kind; of 0, the least of all."""
    return math.ldexp(1.0, math.frexp(value)[1]) if value > 0 else math.ldexp(1.0, -1000)


def _to_octahedron(X: np.ndarray) -> np.ndarray:
    """Points [..., 3] to places [..., 2] in -1..1; the origin goes to (0, 0)."""
    reach = np.abs(X).sum(-1, keepdims=True)
    p = X[..., :2] / np.where(reach > 0, reach, 1.0)
    return np.where(X[..., 2:] < 0, _folded(p), p)


def _from_octahedron(p: np.ndarray) -> np.ndarray:
    """Places [..., 2] to unit vectors [..., 3]."""
    z = 1 - np.abs(p).sum(-1, keepdims=True)
    X = np.concatenate([np.where(z < 0, _folded(p), p), z], -1)
    return X / np.linalg.norm(X, axis=-1, keepdims=True)


def _folded(p: np.ndarray) -> np.ndarray:
    """The lower half's places turned over the edges of the square, and back."""
    return (1 - np.abs(p[..., ::-1])) * np.where(p < 0, -1.0, 1.0)
