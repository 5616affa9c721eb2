"""Boards: what was printed, and where its corners are seen in an image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.spatial import KDTree

FEWEST_CORNERS = 8  # of a ChArUco board in one image; fewer say little
FEWEST_SIDE = 3  # corners along each side of a board, so that it can be told from its surroundings
MARKER_SHARE = 0.75  # of a square, where nothing else is said
DICTIONARIES = ("4X4_1000", "5X5_1000", "6X6_1000", "7X7_1000", "ARUCO_ORIGINAL")
WINDOW = (2, 11)  # px to each side of a corner that its edges are sought in, least and most
HINTED = 3  # images that other boards are sought in
SAYS = "wanted checkerboard:9x6 (inner corners) or charuco:5x7 (squares)"


@dataclass(frozen=True, slots=True)
class View:
    """A board as one image shows it."""

    name: str  # of the image, in messages
    pixel: np.ndarray  # [n, 2] float64 px, pixel centres at integers
    X_B: np.ndarray  # [n, 3] float64, the same corners on the board, mm, z = 0
    sharpness: float  # how suddenly grey levels change at its corners, in its own contrast, 1/px


@dataclass(frozen=True)
class Board:
    """What was printed. Raises ValueError for what cannot be one."""

    kind: str  # "checkerboard" or "charuco"
    columns: int  # inner corners of a checkerboard, squares of a ChArUco board
    rows: int
    square: float = 30.0  # mm, a side of a square
    marker: float | None = None  # mm, a side of a ChArUco marker; None = MARKER_SHARE of a square
    dictionary: str = "4X4_50"  # of the markers, as OpenCV names it, without DICT_

    def __post_init__(self) -> None:
        if self.kind not in ("checkerboard", "charuco"):
            raise ValueError(f"board: {SAYS}, got '{self.kind}'")
        if min(self.columns, self.rows) < FEWEST_SIDE:
            raise ValueError(
                f"board: wanted {FEWEST_SIDE} or more each way, got {self.columns}x{self.rows}"
            )
        if not 0 < self.square < float("inf"):
            raise ValueError(f"square: wanted a length above 0 mm, got {self.square:g}")
        if self.kind == "charuco":
            self._check_markers()

    def _check_markers(self) -> None:
        if not 0 < self.marker_size < self.square:
            raise ValueError(
                f"marker: wanted a length above 0 and below a square's {self.square:g} mm, "
                f"got {self.marker_size:g}"
            )
        held = len(_dictionary(self.dictionary).bytesList)
        if held < self.columns * self.rows // 2:
            raise ValueError(
                f"dictionary {self.dictionary}: wanted {self.columns * self.rows // 2} markers for "
                f"a board of {self.columns}x{self.rows} squares, it has {held}; take a larger one"
            )

    @property
    def marker_size(self) -> float:
        """A side of a marker, mm."""
        return MARKER_SHARE * self.square if self.marker is None else self.marker

    @property
    def words(self) -> str:
        """What it is, for a person."""
        if self.kind == "checkerboard":
            return f"checkerboard with {self.columns}x{self.rows} inner corners"
        return f"ChArUco board of {self.columns}x{self.rows} squares ({self.dictionary})"

    @cached_property
    def charuco(self) -> cv2.aruco.CharucoBoard:
        """OpenCV's board; of a ChArUco board."""
        lengths = self.square, self.marker_size
        size, dictionary = (self.columns, self.rows), _dictionary(self.dictionary)
        return cv2.aruco.CharucoBoard(size, *lengths, dictionary)

    @cached_property
    def _detector(self) -> cv2.aruco.CharucoDetector:
        return cv2.aruco.CharucoDetector(self.charuco)

    def find(self, name: str, grey: np.ndarray) -> View | None:
        """The board in an image [H, W] uint8; None where it is not seen well enough."""
        find = self._find_checkerboard if self.kind == "checkerboard" else self._find_charuco
        found = find(grey)
        if found is None:
            return None
        pixel, X_B = found
        pixel = _refined(grey, pixel, self._clear)
        return View(name, pixel, X_B, _sharpness(grey, pixel))

    @property
    def _clear(self) -> float:
        """How far round a corner there is nothing but its own edges, of a square's side."""
        return 0.35 if self.kind == "checkerboard" else (1 - self.marker_size / self.square) / 2

    def _find_checkerboard(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Corners [n, 2] px and on the board [n, 3] mm, all of them."""
        size = self.columns, self.rows
        flags = cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_ACCURACY  # finds blurred ones too
        found, corners = cv2.findChessboardCornersSB(grey, size, flags=flags)
        if not found:
            return None
        column, row = np.meshgrid(np.arange(self.columns), np.arange(self.rows))
        X_B = np.stack([column, row, np.zeros_like(row)], -1).reshape(-1, 3) * self.square
        return corners.reshape(-1, 2).astype(float), X_B.astype(float)

    def _find_charuco(self, grey: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The same of those corners that are seen; a part of the board will do."""
        corners, ids, *_ = self._detector.detectBoard(grey)
        if ids is None or len(ids) < FEWEST_CORNERS:
            return None
        X_B = np.array(self.charuco.getChessboardCorners(), float)[ids.ravel().astype(int)]
        if min(len(np.unique(np.round(X_B[:, k] / self.square))) for k in (0, 1)) < 2:
            return None  # all on one line
        return corners.reshape(-1, 2).astype(float), X_B


def parse_board(
    text: str,
    square: float = Board.square,
    marker: float | None = None,
    dictionary: str = Board.dictionary,
) -> Board:
    """A board from what a user writes, as checkerboard:9x6. Raises ValueError."""
    match = re.fullmatch(r"(\w+):(\d+)x(\d+)", text.strip().lower())
    if match is None:
        raise ValueError(f"board: {SAYS}, got '{text}'")
    kind, columns, rows = match.groups()
    name = dictionary.upper().removeprefix("DICT_")
    return Board(kind, int(columns), int(rows), square, marker, name)


def hint(board: Board, images: Sequence[np.ndarray]) -> str:
    """What boards there are in images [H, W] uint8 where the one that was wanted is not."""
    sizes: Counter[str] = Counter()
    for grey in images[:HINTED]:
        if size := _checkerboard_in(grey):
            sizes[f"checkerboard:{size[0]}x{size[1]}"] += 1
        sizes.update(_markers_in(grey))
    if not sizes:
        return "no other board either; see whether it is in view as a whole, sharp and evenly lit"
    seen, count = sizes.most_common(1)[0]
    return f"{count} of {len(images[:HINTED])} look like {seen}"


def _checkerboard_in(grey: np.ndarray) -> tuple[int, int] | None:
    """Inner corners (columns, rows) of a checkerboard of any size, the more of them first."""
    smallest = (FEWEST_SIDE, FEWEST_SIDE)
    flags = cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_LARGER
    found, _, meta = cv2.findChessboardCornersSBWithMeta(grey, smallest, flags)
    if not found:
        return None
    rows, columns = meta.shape[:2]
    return max(rows, columns), min(rows, columns)


def _markers_in(grey: np.ndarray) -> list[str]:
    """Dictionaries of which several markers are seen, in words."""
    found = []
    for name in DICTIONARIES:
        detector = cv2.aruco.ArucoDetector(_dictionary(name))
        ids = detector.detectMarkers(grey)[1]
        if ids is not None and len(ids) >= 4:
            highest = int(np.max(ids)) + 1
            found.append(f"a ChArUco board with markers of {name} ({highest} of them)")
    return found


def _dictionary(name: str) -> cv2.aruco.Dictionary:
    """Raises ValueError for a name that OpenCV does not know."""
    known = [n.removeprefix("DICT_") for n in dir(cv2.aruco) if n.startswith("DICT_")]
    if name not in known:
        raise ValueError(f"dictionary: wanted one of {', '.join(known)}, got '{name}'")
    return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{name}"))


def _refined(grey: np.ndarray, pixel: np.ndarray, clear: float) -> np.ndarray:
    """Corners [n, 2] px to a third of the error that detectors leave: 0.04 px in place of 0.14.

    Args: clear: round a corner, of the distance to the next one.
    """
    nearest = KDTree(pixel).query(pixel, k=2)[0][:, 1].min()
    reach = int(np.clip(clear * nearest, *WINDOW))
    stop = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 60, 1e-4)
    corners = pixel.reshape(-1, 1, 2).astype(np.float32)
    refined = cv2.cornerSubPix(grey, corners, (reach, reach), (-1, -1), stop)
    return refined.reshape(-1, 2).astype(float)


def _sharpness(grey: np.ndarray, pixel: np.ndarray) -> float:
    """Steepest slope of the grey levels round the corners, over their range; 1/px."""
    height, width = grey.shape
    low = np.maximum(np.floor(pixel.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(pixel.max(axis=0)).astype(int) + 1, (width, height))
    part = grey[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    if part.size < 9:
        return 0.0
    dx, dy = cv2.Sobel(part, cv2.CV_32F, 1, 0) / 8, cv2.Sobel(part, cv2.CV_32F, 0, 1) / 8
    dark, bright = np.percentile(part, [5, 95])
    return float(np.percentile(np.hypot(dx, dy), 98) / max(bright - dark, 1.0))
