"""What a cheap camera does to light: a soft lens, drifting exposure, noise, eight bits."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from slam.rendering.texture import GAMMA


def exposure_gain(times: np.ndarray, seed: int, amount: float) -> np.ndarray:
    """A gain that wanders slowly around 1 by about the given share, [N] float64."""
    rng = np.random.default_rng(seed)
    frequency = np.array([0.05, 0.11, 0.23, 0.41])
    phase = rng.uniform(0, 2 * np.pi, 4)
    weight = np.array([0.5, 0.3, 0.2, 0.12])
    waves = np.sin(2 * np.pi * np.asarray(times)[:, None] * frequency + phase) @ weight
    return np.exp(amount * waves)


def develop(
    radiance: Tensor, gain: float, noise: float, seed: int, *, lens_blur: float = 0.0
) -> np.ndarray:
    """Turn light into an image as a camera stores it, [H, W, 3] uint8 RGB.

    Args:
        radiance: [H, W, 3] float32, linear, from render_exposure.
        gain: exposure.
        noise: deviation at mid grey, in 1/255; photon noise, so it follows the root of the light.
        seed: of the noise.
        lens_blur: deviation of the lens's point spread, px.
    """
    light = gain * radiance.cpu().numpy()
    if lens_blur > 0:
        light = cv2.GaussianBlur(light, (0, 0), lens_blur)
    light = np.clip(light, 0, 1)
    generator = torch.Generator().manual_seed(seed)
    grain = torch.randn(light.shape, generator=generator).numpy()
    spread = noise * np.minimum(0.4 + 0.6 * np.sqrt(light / 0.218), 1.4)
    display = 255 * light ** (1 / GAMMA) + spread * grain
    return np.clip(np.round(display), 0, 255).astype(np.uint8)
