"""Which camera a source has: what the user says, a file beside the images, or what came along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slam.camera import Camera, load_calibration, published_calibration

FILE_NAME = "calibration.yaml"


@dataclass(frozen=True, slots=True)
class Calibration:
    """A camera and where it comes from."""

    camera: Camera | None  # of the raw images; None: uncalibrated
    origin: str  # in words


UNCALIBRATED = Calibration(None, "")


def choose_calibration(
    carried: Calibration, folder: Path | None, option: str, size: tuple[int, int], fov: float
) -> Calibration:
    """The calibration an option stands for.

    Args:
        carried: what the recording itself carries.
        folder: where a calibration.yaml overrides it.
        option: "auto", "none", a published calibration's name or a .yaml file.
        size: (width, height) of the images, px.
        fov: assumed without calibration, degrees.
    Raises FileNotFoundError, and ValueError for an unknown name or a camera of another size.
    """
    chosen = _find(carried, folder, option)
    camera = chosen.camera
    if camera is None:
        return Calibration(None, f"uncalibrated: {fov:g} degree field of view assumed")
    if (camera.width, camera.height) != size:
        raise ValueError(
            f"calibration ({chosen.origin}): it is for {camera.width}x{camera.height} images, "
            f"these are {size[0]}x{size[1]}; give one of their size or --calib none"
        )
    return chosen


def _find(carried: Calibration, folder: Path | None, option: str) -> Calibration:
    if option == "none":
        return UNCALIBRATED
    if option != "auto":
        return _named(option)
    if folder is not None and (folder / FILE_NAME).is_file():
        return Calibration(load_calibration(folder / FILE_NAME), f"{FILE_NAME} in {folder.name}")
    return carried


def _named(option: str) -> Calibration:
    if option.lower().endswith((".yaml", ".yml")) or Path(option).is_file():
        return Calibration(load_calibration(option), str(option))
    return Calibration(published_calibration(option), f"published calibration {option}")
