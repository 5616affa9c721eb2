"""Settings of a live run: which camera, how it is asked, and what is kept of its images."""

from __future__ import annotations

from dataclasses import dataclass

from slam.settings import Section, setting


@dataclass(frozen=True, slots=True)
class LiveSettings(Section):
    """A camera in place of a recording."""

    device: str = setting(
        "", help="a camera's number, a URL, a file, or realsense[:SERIAL]; empty = no live run"
    )
    width: int | None = setting(None, unit="px", help="that is asked of the camera", minimum=16)
    height: int | None = setting(None, unit="px", help="the same", minimum=16)
    fps: float | None = setting(
        None, unit="images/s", help="that are asked of the camera", minimum=0.1, maximum=1000.0
    )
    exposure: float | None = setting(
        None, help="fixed, in the driver's own unit; none leaves the camera as it is"
    )
    loop: bool = setting(False, help="play a file over and over")
    record: bool = setting(True, help="keep the images beside the results, to be run again")
    quality: int = setting(90, help="of the recorded JPEG images", minimum=1, maximum=100)
