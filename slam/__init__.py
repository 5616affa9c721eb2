"""Dense monocular SLAM: a camera moves; its path and a dense, coloured 3D map come out."""

__version__ = "0.1.0"
