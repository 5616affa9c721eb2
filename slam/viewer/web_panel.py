"""The panel of the page: status, buttons, sliders, layers, the current image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import viser

from slam.viewer.commands import COMMANDS, LAYERS
from slam.viewer.web_map import Choice

MOST_CONFIDENT = 250  # that the slider asks for
BUDGET = 1_000_000  # points: 9 MB for each browser, and what one without a graphics card can draw
SIZE = 1.4  # of a point, of the spacing of what was measured: no gaps, seen at an angle
NOTHING = np.zeros((3, 4, 3), np.uint8)  # before there is an image
LIVE = ("pause", "step", "save", "stop")  # buttons of a run


class Panel:
    """Widgets that all browsers share. Who clicks one is heard as `tell(name)`."""

    def __init__(
        self, gui: viser.GuiApi, tell: Callable[[str], None], least: float, *, live: bool
    ) -> None:
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        self._status = gui.add_markdown("starting", order=0.1)
        self._buttons: dict[str, Any] = {}
        self._image = gui.add_image(NOTHING, format="jpeg", visible=False, order=0.2)
        if live:
            with gui.add_folder("run"):
                for name in LIVE:
                    self._buttons[name] = _button(gui, name, tell)
        with gui.add_folder("points"):
            self._least = gui.add_slider("confidence", 0, MOST_CONFIDENT, 1, round(least))
            self._size = gui.add_slider("size", 0.2, 5.0, 0.1, SIZE)
            self._budget = gui.add_number("at most", BUDGET, min=10_000, max=50_000_000)
        with gui.add_folder("layers"):
            self._layers = {n: gui.add_checkbox(text, True) for n, (_, text) in LAYERS.items()}
        for widget in (self._least, self._size, self._budget, *self._layers.values()):
            widget.on_update(lambda _: tell("choice"))

    @property
    def choice(self) -> Choice:
        """Which points somebody wants to see."""
        return Choice(float(self._least.value), int(self._budget.value), float(self._size.value))

    @property
    def layers(self) -> dict[str, bool]:
        """Which layers somebody wants to see."""
        return {name: bool(box.value) for name, box in self._layers.items()}

    def say(self, words: str) -> None:
        """The status line."""
        if self._status.content != words:
            self._status.content = words

    def show_image(self, rgb: np.ndarray) -> None:
        """The current image, [h, w, 3] uint8."""
        self._image.image, self._image.visible = rgb, True

    def show_paused(self, paused: bool) -> None:
        """What the first button does next."""
        self._buttons["pause"].label = "Go on" if paused else "Pause"

    def end_run(self) -> None:
        """There is nothing more to steer."""
        for button in self._buttons.values():
            button.disabled = True


def _button(gui: viser.GuiApi, name: str, tell: Callable[[str], None]) -> Any:
    """One of LIVE, with the words that the desktop's has."""
    known = {command.name: (command.label, command.help) for command in COMMANDS}
    known["stop"] = "Stop", "end the run: it is adjusted and saved"
    label, help_ = known[name]
    button = gui.add_button(label, hint=help_)
    button.on_click(lambda _: tell(name))
    return button
