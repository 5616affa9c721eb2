"""The row under the map that goes through a recording: play, steps, speed, slider."""

from __future__ import annotations

import time
from collections.abc import Callable

from PySide6.QtCore import QSignalBlocker, Qt, QTimer, Signal
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSlider, QToolButton, QWidget

from slam.viewer.recording import Recording

SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # times the recording's own pace
SHORTEST = 15  # ms between two frames that are shown
BUTTONS = {"first": "|◀", "back": "-1", "play": "▶", "forward": "+1", "last": "▶|"}
PAUSE = "II"


class Timeline(QWidget):
    """Where a recording is at; `moved` tells its frame. It plays by the clock: slow ones are left
    out, none is late.
    """

    moved = Signal(int)  # to this frame, which is another one than before

    def __init__(
        self, actions: dict[str, QAction], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args: actions: of the commands named in BUTTONS. clock: in s."""
        super().__init__()
        self.recording: Recording | None = None
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.speed = QComboBox()
        self.text = QLabel()
        self.clock = clock
        self._play = actions["play"]
        self._start = (0.0, 0.0)  # clock and recording's seconds when playing began
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self.tick)
        self._lay_out(actions)
        self.hide()

    def _lay_out(self, actions: dict[str, QAction]) -> None:
        row = QHBoxLayout(self)
        row.setContentsMargins(4, 2, 4, 0)
        for name, sign in BUTTONS.items():
            button = QToolButton()
            button.setDefaultAction(actions[name])
            button.setText(sign)
            button.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            actions[name].setIconText(sign)
            row.addWidget(button)
        self.slider.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.slider.valueChanged.connect(self._slid)
        self.slider.sliderPressed.connect(lambda: self._play.setChecked(False))
        row.addWidget(self.slider, stretch=1)
        self.speed.addItems([f"{speed:g} x" for speed in SPEEDS])
        self.speed.setCurrentIndex(SPEEDS.index(1.0))
        self.speed.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.speed.currentIndexChanged.connect(self._restart)
        row.addWidget(self.speed)
        self.text.setMinimumWidth(250)
        row.addWidget(self.text)

    def show_recording(self, recording: Recording) -> None:
        """Goes through this one from now on; it is at its last frame, with nothing hidden."""
        self.recording = recording
        with QSignalBlocker(self.slider):
            self.slider.setRange(0, len(recording) - 1)
            self.slider.setValue(len(recording) - 1)
        self.show()
        self.moved.emit(self.place)

    @property
    def place(self) -> int:
        """The frame that it is at."""
        return self.slider.value()

    @property
    def playing(self) -> bool:
        """Whether it goes on by itself."""
        return self._play.isChecked()

    def go_to(self, place: int) -> None:
        """Stops at a frame, or at the nearest one there is."""
        self._play.setChecked(False)
        self.slider.setValue(place)

    def tick(self) -> None:
        """Goes to the frame that is due, and waits for the next one."""
        if self.recording is None or not self.playing:
            return
        self.slider.setValue(max(self.recording.place_at(self._now()), self.place))
        if self.place == self.slider.maximum():
            self._play.setChecked(False)
            return
        wait = (self.recording.seconds[self.place + 1] - self._now()) / self._speed
        self._timer.start(max(round(1000 * wait), SHORTEST))

    def _now(self) -> float:
        """Where in the recording it should be, s."""
        clock, seconds = self._start
        return seconds + (self.clock() - clock) * self._speed

    @property
    def _speed(self) -> float:
        return SPEEDS[self.speed.currentIndex()]

    def _restart(self) -> None:
        """Counts from the present frame on."""
        if self.recording is not None and self.playing:
            self._start = (self.clock(), float(self.recording.seconds[self.place]))
            self.tick()

    def _slid(self, place: int) -> None:
        if self.slider.isSliderDown():
            self._play.setChecked(False)
        self.moved.emit(place)

    # --- commands -----------------------------------------------------------------------------

    def do_play(self, on: bool) -> None:
        """Goes on by itself, from the beginning where it was at the end; or stops."""
        self._play.setIconText(PAUSE if on else BUTTONS["play"])
        self._timer.stop()
        if on:
            if self.place == self.slider.maximum():
                self.slider.setValue(0)
            self._restart()

    def do_forward(self) -> None:
        """The next frame."""
        self.go_to(self.place + 1)

    def do_back(self) -> None:
        """The frame before."""
        self.go_to(self.place - 1)

    def do_first(self) -> None:
        """The first frame."""
        self.go_to(0)

    def do_last(self) -> None:
        """The last frame."""
        self.go_to(self.slider.maximum())

    def do_faster(self) -> None:
        """The next higher of SPEEDS."""
        self.speed.setCurrentIndex(min(self.speed.currentIndex() + 1, len(SPEEDS) - 1))

    def do_slower(self) -> None:
        """The next lower one."""
        self.speed.setCurrentIndex(max(self.speed.currentIndex() - 1, 0))
