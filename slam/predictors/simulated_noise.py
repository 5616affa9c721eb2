"""Noise of a simulated network: each kind a function of (seed, frame or pair), never of calls."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

WAVES = 12  # cosines in a smooth field
FASTEST = 1.5  # periods of the fastest of them along a side of the image
SPHERE_WAVES = 16
SPHERE_FASTEST = 4.0  # rad of phase per unit of direction: features of some 60 degrees
SPHERE_POINTS = 2000  # that tell its mean and rms


class Draw(IntEnum):
    """What a random number is for; each has its own stream."""

    SCALE = 0
    WARP = 1
    NOISE = 2
    SPREAD = 3
    HOLES = 4
    WRONG = 5
    BIAS = 6
    DESCRIPTOR = 7
    FOCAL = 8


def generator(seed: int, draw: Draw, *key: int) -> np.random.Generator:
    """The stream of one kind of noise of one key (frames, view): the same whenever it is asked."""
    return np.random.default_rng([seed, int(draw), *key])


def smooth_field(stream: np.random.Generator, height: int, width: int) -> Tensor:
    """A random field [H, W] float64 of low frequencies; mean 0 and rms 1 over the image."""
    fastest = 2 * np.pi * FASTEST
    along_v, along_u = stream.uniform(-fastest, fastest, (2, WAVES, 1))
    phase = stream.uniform(0, 2 * np.pi, (WAVES, 1))
    v = along_v * np.linspace(0, 1, height) + phase
    u = along_u * np.linspace(0, 1, width)
    field = np.cos(v).T @ np.cos(u) - np.sin(v).T @ np.sin(u)
    field -= field.mean()
    return torch.from_numpy(field / max(field.std(), 1e-12))


def direction_field(stream: np.random.Generator, direction: Tensor) -> Tensor:
    """A smooth random function [...] of unit vectors [..., 3]; mean 0 and rms 1 over the sphere."""
    wave = stream.standard_normal((SPHERE_WAVES, 3))
    wave *= SPHERE_FASTEST / np.linalg.norm(wave, axis=1, keepdims=True)
    phase = stream.uniform(0, 2 * np.pi, SPHERE_WAVES)
    everywhere = np.cos(sphere_points(SPHERE_POINTS) @ wave.T + phase).sum(1)
    angle = direction @ torch.from_numpy(wave).T + torch.from_numpy(phase)
    return (angle.cos().sum(-1) - everywhere.mean()) / everywhere.std()


def sphere_points(count: int) -> np.ndarray:
    """Unit vectors [count, 3] spread evenly over the sphere (a golden spiral), from the top."""
    step = np.arange(count)
    height = 1 - (2 * step + 1) / count
    radius, turn = np.sqrt(1 - height**2), np.pi * (3 - 5**0.5) * step
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], 1)


def blobs(stream: np.random.Generator, height: int, width: int, share: float) -> Tensor:
    """Smooth regions [H, W] bool that cover `share` of the image."""
    if share <= 0:
        return torch.zeros(height, width, dtype=torch.bool)
    field = smooth_field(stream, height, width)
    return field >= field.flatten().quantile(1 - share)


def normal(stream: np.random.Generator, *shape: int) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.from_numpy(stream.standard_normal(shape))
