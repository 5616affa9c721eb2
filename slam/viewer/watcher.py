"""The run's side of the viewer: takes what the run says, holds what the window asks for."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from torch import Tensor

from slam.frame import Image, Step
from slam.observer import Observer, Running


@dataclass(frozen=True, slots=True)
class LiveState:
    """A run at one moment, as its loop hands it over."""

    image: Image  # the newest one
    step: Step  # what became of it
    measurement: Tensor | None  # [Q, 3] int16, the newest there is, as measurement.pack makes it
    frames: int  # images processed
    latency: float  # s, of the newest image
    dropped: int  # images that were not taken up in time
    focal: float  # px, of the source's images
    focal_sigma: float  # px; inf = not estimated


class Watcher(Observer):
    """What both threads share, under one lock. The run waits here while it is paused, only then."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._paused = False
        self._allowed = 0  # images let through a pause
        self._save = False
        self._interrupts = 0  # times that Ctrl-C was pressed
        self._stopped = False
        self._running: Running | None = None
        self._latest: LiveState | None = None
        self._adjusting = False
        self._complaints: list[str] = []  # of the saves since they were last taken

    @property
    def running(self) -> Running | None:
        """The run; None before it began."""
        with self._change:
            return self._running

    @property
    def latest(self) -> LiveState | None:
        """Its newest state; None before the first image."""
        with self._change:
            return self._latest

    @property
    def is_adjusting(self) -> bool:
        """Whether the loop is over."""
        with self._change:
            return self._adjusting

    # --- called by the window -----------------------------------------------------------------

    def pause(self, on: bool) -> None:
        """Stops before the next image, or goes on."""
        with self._change:
            self._paused, self._allowed = on, 0
            self._change.notify_all()

    def step(self) -> None:
        """Lets one image through a pause."""
        with self._change:
            self._allowed += 1
            self._change.notify_all()

    def save(self) -> None:
        """Writes what there is, after the next image; a pause lets one through for it."""
        with self._change:
            self._save = True
            self._allowed += self._paused
            self._change.notify_all()

    def take_complaints(self) -> list[str]:
        """What the saves since the last call could not write, each "" where all was written."""
        with self._change:
            taken, self._complaints = self._complaints, []
            return taken

    def stop(self) -> None:
        """Ends the loop; everything is adjusted and saved."""
        with self._change:
            self._stopped = True
            if self._running is not None:
                self._running.stop()
            self._change.notify_all()

    def interrupt(self) -> None:
        """One Ctrl-C; the third raises KeyboardInterrupt.

        Called by a signal handler, maybe while its thread holds the lock, which it may take again.
        """
        with self._change:
            self._interrupts += 1
            running = self._running
        if running is not None:
            running.interrupt()

    @property
    def interrupted(self) -> bool:
        """Whether there was a Ctrl-C."""
        with self._change:
            return self._interrupts > 0

    def release(self) -> None:
        """Ends a pause after an interruption."""
        self.pause(False)

    # --- called by the run --------------------------------------------------------------------

    def began(self, running: Running) -> None:
        with self._change:
            self._running = running
            earlier = self._interrupts  # later ones reach the run themselves
            if self._stopped:
                running.stop()
        for _ in range(earlier):
            running.interrupt()

    def before_image(self) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._paused or self._allowed or self._stopped)
            self._allowed = max(0, self._allowed - 1)

    def posed(self, image: Image, step: Step, latency: float, dropped: int) -> None:
        with self._change:
            running, before = self._running, self._latest
        if running is None:
            return
        slam, source = running.slam, running.source
        focal = slam.graph.intrinsics[0] * source.camera.width / slam.predictor.grid.width
        measured = step.record.measurement
        if measured is None and before is not None:
            measured = before.measurement
        state = LiveState(
            image=image,
            step=step,
            measurement=measured,
            frames=1 if before is None else before.frames + 1,
            latency=latency,
            dropped=dropped,
            focal=focal,
            focal_sigma=focal * slam.backend.focal_sigma,
        )
        with self._change:
            self._latest = state

    def wants_save(self) -> bool:
        with self._change:
            wanted, self._save = self._save, False
            return wanted

    def saved(self, complaint: str) -> None:
        with self._change:
            self._complaints.append(complaint)

    def adjusting(self) -> None:
        with self._change:
            self._adjusting = True
