"""Who may watch a run, and steer it: the run calls an Observer, from its own thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from slam.frame import Image, Step
from slam.sources import ImageSource
from slam.system import Slam


@dataclass(frozen=True, slots=True)
class Running:
    """A run, as its observer gets to know it."""

    slam: Slam  # whose graph gives snapshots, from any thread
    source: ImageSource  # what it is fed from
    interrupt: Callable[[], None]  # what Ctrl-C does; from any thread
    stop: Callable[[], None]  # ends the loop after its frame, all is adjusted and saved; the same


class Observer:
    """Watches a run. These do nothing; the run waits for whatever others do, so they are quick."""

    def began(self, running: Running) -> None:
        """Called once, before the first image."""

    def before_image(self) -> None:
        """Called before each image is taken up; may wait, where somebody paused the run."""

    def posed(self, image: Image, step: Step, latency: float, dropped: int) -> None:
        """What became of an image.

        Args:
            latency: s, from its capture in real time, else from when it was taken up.
            dropped: images so far that were not taken up in time.
        """

    def wants_save(self) -> bool:
        """Whether what there is should be written now; asked after each image."""
        return False

    def saved(self, complaint: str) -> None:
        """It was written. Args: complaint: what could not be, in one line; empty = all was."""

    def adjusting(self) -> None:
        """The loop is over; the final adjustment begins."""
