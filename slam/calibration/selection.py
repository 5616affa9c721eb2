"""Which views calibrate a camera: sharp ones that differ, and that together fill the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slam.calibration.boards import View

MOST = 40  # views
CELLS = (12, 9)  # columns and rows that the image is divided in, three by three a third of it
NOVEL = 0.5  # what filling a cell that is empty counts, in differences of views, for all cells
SAME = 0.03  # difference below which a view says nothing new
SIZE, SLANT = 0.5, 2.0  # weight of a board's size (logarithm), and of its foreshortening


def choose_views(views: Sequence[View], size: tuple[int, int], most: int = MOST) -> list[int]:
    """Places of the views to take, at most so many, best first.

    From the sharpest on, each is the one that differs most from those that were taken and fills
    most of what is empty; blurred ones count less.

    Args: size: (width, height) px of the images.
    """
    if not views:
        return []
    features = np.array([_features(view, size) for view in views])
    cells = np.array([filled_cells(view.pixel, size).ravel() for view in views])
    sharpness = np.array([view.sharpness for view in views])
    weight = np.minimum(sharpness / max(float(np.median(sharpness)), 1e-12), 1.0)
    chosen = [int(np.argmax(sharpness))]
    apart = np.linalg.norm(features - features[chosen[0]], axis=1)
    while len(chosen) < min(most, len(views)):
        empty = ~cells[chosen].any(axis=0)
        gain = apart + NOVEL * (cells & empty).mean(axis=1)
        gain[chosen] = -1.0
        best = int(np.argmax(weight * gain))
        if gain[best] < SAME:
            break
        chosen.append(best)
        apart = np.minimum(apart, np.linalg.norm(features - features[best], axis=1))
    return chosen


def filled_cells(pixel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[rows, columns] bool of CELLS: in which of them there is a corner. Args: pixel: [n, 2]."""
    columns, rows = CELLS
    cell = np.floor((pixel + 0.5) / size * CELLS).astype(int)
    cell = np.clip(cell, 0, (columns - 1, rows - 1))
    filled = np.zeros((rows, columns), bool)
    filled[cell[:, 1], cell[:, 0]] = True
    return filled


def _features(view: View, size: tuple[int, int]) -> np.ndarray:
    """[6] of a view: place, size, foreshortening both ways, turn; all of the order of 1."""
    A, p = _homography(view)
    scale = float(np.sqrt(abs(np.linalg.det(A))))
    stretch = A / max(scale, 1e-12)
    slant = stretch.T @ stretch  # of the board's own axes: 1 seen from the front
    return np.array(
        [
            *(view.pixel.mean(axis=0) / size),
            SIZE * np.log(max(scale * np.ptp(view.X_B[:, :2], axis=0).max() / max(size), 1e-6)),
            SLANT * 0.5 * (slant[0, 0] - slant[1, 1]),
            SLANT * slant[0, 1],
            *(0.1 * p),
        ]
    )


def _homography(view: View) -> tuple[np.ndarray, np.ndarray]:
    """The affine part [2, 2] px/mm of board to image, and which way it converges [2]."""
    X, pixel = view.X_B[:, :2], view.pixel
    X, x = X - X.mean(axis=0), pixel - pixel.mean(axis=0)
    reach = max(float(np.abs(X).max()), 1e-12)
    zero, one = np.zeros(len(X)), np.ones(len(X))
    u, v = x[:, :1], x[:, 1:]
    rows = [
        np.column_stack([X, one, zero, zero, zero, -u * X / reach]),
        np.column_stack([zero, zero, zero, X, one, -v * X / reach]),
    ]
    h = np.linalg.lstsq(np.concatenate(rows), np.concatenate([x[:, 0], x[:, 1]]), rcond=None)[0]
    return np.array([h[0:2], h[3:5]]), h[6:8]
