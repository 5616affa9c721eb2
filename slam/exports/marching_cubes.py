"""Surfaces where a sampled function is 0, as triangles (Lorensen & Cline, SIGGRAPH 1987).

The table of the 256 cases is derived here: on each face of a cell, the surface cuts off every run
of corners that are inside. That is decided by the face alone, so both cells on it agree, and the
surface has no cracks. The cuts, followed from face to face, close to polygons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

CORNERS = np.array([[n & 1, n >> 1 & 1, n >> 2 & 1] for n in range(8)])  # x, y, z of corner n
EDGES = [  # (lower corner, axis): twelve
    (corner, axis) for axis in range(3) for corner in range(8) if not CORNERS[corner][axis]
]
EDGE_CORNER = np.array([corner for corner, _ in EDGES])
EDGE_AXIS = np.array([axis for _, axis in EDGES])
HALF_RANGE = 1 << 19  # lattice steps from the middle that a key holds on an axis
FACES = (  # corners, counter-clockwise from outside the cell
    (0, 4, 6, 2),
    (1, 3, 7, 5),
    (0, 1, 5, 4),
    (2, 6, 7, 3),
    (0, 2, 3, 1),
    (4, 5, 7, 6),
)


@cache
def triangle_table() -> tuple[np.ndarray, np.ndarray]:
    """Of the 256 cases, bit n = corner n is inside: edges [256, T, 3] and counts [256].

    Triangles are counter-clockwise seen from outside, where the function is positive.
    """
    triangles = [_triangles(case) for case in range(256)]
    counts = np.array([len(one) for one in triangles])
    table = np.zeros((256, counts.max(), 3), np.int64)
    for case, one in enumerate(triangles):
        table[case, : len(one)] = np.array(one).reshape(-1, 3)
    return table, counts


def _triangles(case: int) -> list[tuple[int, int, int]]:
    """Fans over the polygons of one case."""
    following, found = _cuts(case), []
    while following:
        polygon = [next(iter(following))]
        while (after := following.pop(polygon[-1])) != polygon[0]:
            polygon.append(after)
        found += [(polygon[0], *pair) for pair in pairwise(polygon[1:])]
    return found


def _cuts(case: int) -> dict[int, int]:
    """From one crossed edge to the next round the surface: each face links those it has."""
    inside = [bool(case >> n & 1) for n in range(8)]
    following = {}
    for face in FACES:
        for k, corner in enumerate(face):
            if inside[corner] or not inside[face[(k + 1) % 4]]:
                continue
            end = k + 1  # the run of inside corners that begins here
            while inside[face[(end + 1) % 4]]:
                end += 1
            entry = _edge(corner, face[(k + 1) % 4])
            following[entry] = _edge(face[end % 4], face[(end + 1) % 4])
    return following


def _edge(a: int, b: int) -> int:
    return EDGES.index((min(a, b), (abs(a - b)).bit_length() - 1))


@dataclass(frozen=True, slots=True)
class Sampled:
    """A function and a colour at the corners of the cells of n blocks, x first."""

    origin: np.ndarray  # [n, 3] int64, lattice place of each block's first corner
    value: np.ndarray  # [n, S + 1, S + 1, S + 1]
    known: np.ndarray  # the same shape, bool
    color: np.ndarray  # [n, S + 1, S + 1, S + 1, 3], 0..255
    colored: np.ndarray  # [n, S + 1, S + 1, S + 1] bool: the colour is known


@dataclass(frozen=True, slots=True)
class Surface:
    """Triangles whose corners have names, so that those of several blocks can be joined."""

    key: np.ndarray  # [V] int64, increasing: which edge of the lattice the corner is on
    position: np.ndarray  # [V, 3] float64, in lattice steps
    color: np.ndarray  # [V, 3] float64
    triangles: np.ndarray  # [T, 3] int64, keys; counter-clockwise seen from the positive side


def lattice_key(place: np.ndarray) -> np.ndarray:
    """A number [...] for places [..., 3] of the lattice within +-HALF_RANGE, in their order."""
    x, y, z = np.moveaxis(place + HALF_RANGE, -1, 0)
    return (x * (2 * HALF_RANGE) + y) * (2 * HALF_RANGE) + z


def lattice_place(key: np.ndarray) -> np.ndarray:
    """Inverse of lattice_key, [..., 3] int64."""
    rest, z = np.divmod(key, 2 * HALF_RANGE)
    return np.stack([*np.divmod(rest, 2 * HALF_RANGE), z], -1) - HALF_RANGE


def surface_of(sampled: Sampled) -> Surface:
    """The surface where the function is 0, in cells whose corners are all known."""
    places, case = _crossed_cells(sampled.value, sampled.known)
    table, counts = triangle_table()
    edges = table[case][np.arange(table.shape[1]) < counts[case][:, None]].reshape(-1)
    block, *local = np.repeat(places, 3 * counts[case], axis=0).T
    local = np.stack(local, -1) + CORNERS[EDGE_CORNER[edges]]
    axis = EDGE_AXIS[edges]
    triangles = lattice_key(sampled.origin[block] + local) * 3 + axis
    key, first = np.unique(triangles, return_index=True)
    block, local, step = block[first], local[first], np.eye(3, dtype=np.int64)[axis[first]]
    low, high = (block, *local.T), (block, *(local + step).T)
    share = sampled.value[low] / (sampled.value[low] - sampled.value[high])
    position = sampled.origin[block] + local + share[:, None].astype(np.float64) * step
    near, far = (1 - share) * sampled.colored[low], share * sampled.colored[high]
    total = np.maximum(near + far, 1e-12)[:, None]
    color = sampled.color[low] * near[:, None] + sampled.color[high] * far[:, None]
    return Surface(key, position, color / total, triangles.reshape(-1, 3))


def joined(surfaces: Sequence[Surface]) -> Surface:
    """One surface of several; corners on the same edge of the lattice are one."""
    key = np.concatenate([s.key for s in surfaces])
    key, first = np.unique(key, return_index=True)
    return Surface(
        key,
        np.concatenate([s.position for s in surfaces])[first],
        np.concatenate([s.color for s in surfaces])[first],
        np.concatenate([s.triangles for s in surfaces]),
    )


def _crossed_cells(value: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [C, 4] (block, x, y, z) of cells that the surface passes through, and cases [C]."""
    side = value.shape[1] - 1
    case = np.zeros((len(value), side, side, side), np.uint8)
    whole = np.ones(case.shape, bool)
    for n, corner in enumerate(CORNERS):
        at = (slice(None), *(slice(k, k + side) for k in corner))
        case |= (value[at] < 0).astype(np.uint8) << n
        whole &= known[at]
    places = np.argwhere(whole & (case > 0) & (case < 255))
    return places, case[tuple(places.T)]
