"""Small sequences for the system's tests, cut from the bundled sample, and what a run makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

SAMPLE = Path(__file__).parents[1] / "datasets" / "sample"
OUTPUTS = {  # of `slam run`
    "trajectory.txt",
    "trajectory_causal.txt",
    "keyframes.txt",
    "keyframes.npz",
    "map.slam",
    "map.ply",
    "map.jpg",
    "config.yaml",
    "report.json",
    "report.png",
}


def cut_sample(
    folder: Path,
    frames: Sequence[int],
    *,
    change: Callable[[int, np.ndarray], np.ndarray] | None = None,
    times: Sequence[float] | None = None,
) -> Path:
    """A TUM-layout sequence of the given sample frames, with ground truth and calibration.

    Args:
        frames: indices into the sample; an index may occur more than once.
        change: (place, BGR image) to the image written; None links the JPEG as it is.
        times: time stamps; None = 30 Hz.
    """
    names = [line.split() for line in _rows("rgb.txt")]
    truth = [line.split()[1:] for line in _rows("groundtruth.txt")]
    (folder / "rgb").mkdir(parents=True)
    listing, poses = [], []
    for place, frame in enumerate(frames):
        stamp = f"{(100 + place / 30) if times is None else times[place]:.6f}"
        target = folder / "rgb" / f"{place:04d}.jpg"
        if change is None:
            target.symlink_to(SAMPLE / names[frame][1])
        else:
            cv2.imwrite(str(target), change(place, cv2.imread(str(SAMPLE / names[frame][1]))))
        listing.append(f"{stamp} rgb/{target.name}")
        poses.append(" ".join([stamp, *truth[frame]]))
    (folder / "rgb.txt").write_text("\n".join(["# colour images", *listing]) + "\n")
    (folder / "groundtruth.txt").write_text("\n".join(poses) + "\n")
    (folder / "calibration.yaml").write_bytes((SAMPLE / "calibration.yaml").read_bytes())
    return folder


def _rows(name: str) -> list[str]:
    lines = (SAMPLE / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
