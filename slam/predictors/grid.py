"""The coarse grid of pixels on which keyframes keep inverse depth, at working resolution."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from slam.camera import pixel_grid

SMALLEST = 48  # px, of an image


@dataclass(frozen=True, slots=True)
class Grid:
    """Every `stride`-th pixel of a working image, row by row."""

    width: int  # px, of the working image
    height: int  # px
    stride: int  # px between grid pixels
    pixel: Tensor = field(init=False)  # [P, 2] float32 (u, v)

    def __post_init__(self) -> None:
        pixel = self.sample(pixel_grid(self.height, self.width, dtype=torch.float32))
        object.__setattr__(self, "pixel", pixel.contiguous())

    @property
    def offset(self) -> int:
        """Pixel of the first grid column and row."""
        return self.stride // 2

    @property
    def rows(self) -> int:
        """Grid rows."""
        return len(range(self.offset, self.height, self.stride))

    @property
    def columns(self) -> int:
        """Grid columns."""
        return len(range(self.offset, self.width, self.stride))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(rows, columns, stride, offset), as the kernels take it."""
        return self.rows, self.columns, self.stride, self.offset

    def sample(self, image: Tensor) -> Tensor:
        """Values [P, ...] of an image [h, w, ...] at the grid pixels."""
        picked = image[self.offset :: self.stride, self.offset :: self.stride]
        return picked.reshape(-1, *image.shape[2:])

    def contains(self, pixel: Tensor) -> Tensor:
        """Which pixels [..., 2] are in the image."""
        return ((pixel >= 0) & (pixel < pixel.new_tensor([self.width, self.height]))).all(-1)

    def nearest(self, pixel: Tensor) -> Tensor:
        """Place [...] int64 among the grid pixels of the cell that a pixel [..., 2] is in."""
        last = torch.tensor([self.columns - 1, self.rows - 1])
        column, row = (
            torch.minimum((pixel / self.stride).floor().long(), last).clamp(min=0).unbind(-1)
        )
        return row * self.columns + column

    def places(self, step: int, first: int = 0) -> Tensor:
        """Grid pixels [Q] int64 of every `step`-th grid column and row, from `first` on."""
        places = torch.arange(self.rows * self.columns).reshape(self.rows, self.columns)
        return places[first::step, first::step].reshape(-1)


def working_size(width: int, height: int, long_side: int) -> tuple[int, int]:
    """(width, height) px of the image scaled down to `long_side`; never scaled up, even sizes.

    Images of more than 2 : 1 are scaled down to half of it on their short side instead: there
    is little else to see in the height of theirs.

    Raises ValueError for images too small to measure flow in.
    """
    if min(width, height) < SMALLEST:
        raise ValueError(
            f"images want at least {SMALLEST} px on each side, got {width} x {height}; "
            "take larger ones"
        )
    scale = min(1.0, max(long_side / max(width, height), long_side / 2 / min(width, height)))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
