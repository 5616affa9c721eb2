"""A camera's calibration from images of a checkerboard or a ChArUco board: `slam calibrate`."""

from slam.calibration.boards import Board, View, parse_board
from slam.calibration.pipeline import Calibrated, Images, calibrate, images_of, images_of_device
from slam.calibration.selection import choose_views
from slam.calibration.solve import Solution, solve

__all__ = [
    "Board",
    "Calibrated",
    "Images",
    "Solution",
    "View",
    "calibrate",
    "choose_views",
    "images_of",
    "images_of_device",
    "parse_board",
    "solve",
]
