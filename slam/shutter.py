"""Rolling shutter: the time that reading an image takes, estimated, and taken out of measurements.

Rows read one after the other see the scene from different poses. A pose is that of the middle row;
a measurement is moved to where it would be, had all rows been read with the middle one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from slam import kernels
from slam.frame import Correspondence, Intrinsics
from slam.lie import se3_inv, se3_log, se3_mul


@dataclass(frozen=True, slots=True)
class Shutter:
    """How two images of a pair were read."""

    readout: float  # s from the first row to the last
    height: int  # px, rows of the image
    twist_i: Tensor  # [6] float64 per second, of points in camera i's frame
    twist_j: Tensor  # [6] the same of camera j


def velocity(T_WC_a: Tensor, T_WC_b: Tensor, seconds: Tensor | float) -> Tensor:
    """Twists [..., 6] per second by which points move in the camera's frame between two poses."""
    return se3_log(se3_mul(se3_inv(T_WC_b), T_WC_a)) / seconds


def unroll(
    pixel: Tensor,
    inverse_depth: Tensor,
    measured: Correspondence,
    T_ji: Tensor,
    intrinsics: Intrinsics,
    shutter: Shutter,
) -> Correspondence:
    """Measurements of image i's pixels [P, 2] in image j as a global shutter would make them."""
    if shutter.readout == 0.0:
        return measured
    target = kernels.unroll_target(
        pixel,
        inverse_depth,
        measured.target,
        T_ji,
        shutter.twist_i,
        shutter.twist_j,
        intrinsics,
        readout=shutter.readout,
        height=shutter.height,
    )
    return replace(measured, target=target)


@dataclass(frozen=True, slots=True)
class ReadoutCost:
    """The map's cost over the readout time r, a r^2 + b r + c; sums of them are of one kind."""

    a: float = 0.0
    b: float = 0.0
    c: float = 0.0

    def plus(self, readouts: Sequence[float], costs: Sequence[float]) -> ReadoutCost:
        """With a parabola through three more costs."""
        a, b, c = np.polyfit(np.asarray(readouts), np.asarray(costs), 2)
        return ReadoutCost(self.a + float(a), self.b + float(b), self.c + float(c))

    def best(self, limit: float, least_gain: float) -> float:
        """Readout of least cost, s; 0 (a global shutter) where that is hardly any better.

        Args:
            limit: s, largest magnitude.
            least_gain: share of the cost at 0 that a readout must save.
        """
        if self.a <= 0 or self.c <= 0:
            return 0.0
        readout = min(max(-self.b / (2 * self.a), -limit), limit)
        gain = -(self.a * readout + self.b) * readout / self.c
        return readout if gain >= least_gain else 0.0
