"""Lucas-Kanade on top of a dense flow."""

from __future__ import annotations

import _slam_native as _native
import torch
from torch import Tensor

from slam.kernels.checks import check, check_not_negative, check_positive, where


def refine_flow(
    first: Tensor,
    second: Tensor,
    flow: Tensor,
    *,
    radius: int,
    iterations: int,
    regularisation: float = 0.5,
    longest_step: float = 1.0,
) -> None:
    """Move the flow to where windows fit best, in place (Lucas & Kanade 1981).

    The pixels of a cell of 2x2 move together, with the window around it. A window is warped by the
    flow of its own pixels, compared with the mean gradient of both images, and with its mean
    difference (brightness) removed. Pixels that leave the second image do not count in the windows
    around them.

    Args:
        first, second: [h, w] uint8, grey.
        flow: [h, w, 2] float32 px, first to second.
        radius: a window has 2 radius + 1 cells a side, that is 4 radius + 2 px.
        regularisation: grey^2/px^2, on the diagonal of a window's structure tensor.
        longest_step: px, of one iteration.
    """
    check("first", first, (-1, -1), flow, torch.uint8)
    check("second", second, tuple(first.shape), flow, torch.uint8)
    check("flow", flow, (*first.shape, 2), flow)
    check_not_negative(radius=radius, iterations=iterations)
    check_positive(regularisation=regularisation, longest_step=longest_step)
    stream = where(flow)[1]
    _native.refine_flow(
        first, second, flow, radius, iterations, regularisation, longest_step, stream
    )
