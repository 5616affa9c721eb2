"""ICL-NUIM (Handa et al., ICRA 2014): frame numbers as time stamps, poses of a y-up camera.

Its published fy is -480: the pose frame has y up, the images are upright. Here fy is +480 and the
ground truth is conjugated by diag(1, -1, 1, 1) instead.
"""

from __future__ import annotations

from pathlib import Path

from slam.camera import published_calibration
from slam.sources.base import Recording
from slam.sources.calibration import Calibration
from slam.sources.ground_truth import mirrored, read_tum_poses
from slam.sources.images import ImageFiles
from slam.sources.lists import FileList, check_files, read_file_list, read_lines
from slam.sources.tum import read_depth_list
from slam.trajectory import Trajectory

FRAME_SECONDS = 1 / 30
LAST_FRAME_NUMBER = 10**7  # larger integers are nanoseconds or seconds


def matches(path: Path) -> bool:
    """TUM's layout with frame numbers, or associations.txt or rgb.txt with a *.gt.freiburg."""
    lists = [path / name for name in ("rgb.txt", "associations.txt") if (path / name).is_file()]
    if not lists:
        return False
    return any(path.glob("*.gt.freiburg")) or all(_has_frame_numbers(file) for file in lists)


def read(path: Path) -> Recording:
    images, listed_in = _images(path)
    check_files(images.files, listed_in)
    ground_truth = _ground_truth(path)
    associations = path / "associations.txt"
    if (path / "depth.txt").is_file() or not associations.is_file():
        depth = read_depth_list(path / "depth.txt")
    else:
        depth = read_depth_list(associations, 1 - _colour_column(associations))
    return Recording(
        format="icl",
        name=path.name,
        path=path,
        frames=ImageFiles(images.files),
        times=images.times,
        folder=path,
        seconds_per_stamp=FRAME_SECONDS,
        calibration=Calibration(published_calibration("icl"), "ICL-NUIM, published"),
        ground_truth=None if ground_truth is None else mirrored(ground_truth),
        mirrored=True,
        depth=depth,
    )


def _images(path: Path) -> tuple[FileList, Path]:
    """The colour images and the file that lists them."""
    associations = path / "associations.txt"
    if (path / "rgb.txt").is_file() or not associations.is_file():
        return read_file_list(path / "rgb.txt"), path / "rgb.txt"
    return read_file_list(associations, _colour_column(associations)), associations


def _colour_column(associations: Path) -> int:
    """Which 'stamp file' pair of an association is the colour image: most have depth first."""
    lines = read_lines(associations)
    first = lines[0][1].split() if lines else []
    return 0 if len(first) > 1 and first[1].startswith("rgb") else 1


def _has_frame_numbers(file: Path) -> bool:
    stamps = [line.split()[0] for _, line in read_lines(file)]
    return bool(stamps) and all(s.isdigit() and int(s) < LAST_FRAME_NUMBER for s in stamps)


def _ground_truth(path: Path) -> Trajectory | None:
    """As the data set writes it: y up."""
    if (path / "groundtruth.txt").is_file():
        return read_tum_poses(path / "groundtruth.txt")
    files = sorted(path.glob("*.gt.freiburg"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{path}: wanted one *.gt.freiburg, got {names}; keep this sequence's")
    return read_tum_poses(files[0]) if files else None
