"""How points are drawn, as the controls at the side say."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtCore import QSignalBlocker

from slam.viewer.controls import MOST_CONFIDENT, SIZE_STEPS, Controls
from slam.viewer.map_view import COLORINGS, MapView

CONFIDENCE_STEP, SIZE_STEP = 5, 5  # of the sliders, by key


class Styling:
    """Hands the controls' colouring, confidence, size and budget to the view; its commands too."""

    def __init__(self, view: MapView, controls: Controls) -> None:
        self.view, self.controls = view, controls
        controls.coloring.currentIndexChanged.connect(self.restyle)
        controls.confidence.valueChanged.connect(self.restyle)
        controls.point_size.valueChanged.connect(self.restyle)
        with QSignalBlocker(controls.confidence), QSignalBlocker(controls.point_size):
            controls.confidence.setValue(round(view.style.least))
            controls.point_size.setValue(round(SIZE_STEPS * view.style.size))
        controls.budget.valueChanged.connect(self._set_budget)

    def restyle(self) -> None:
        """Takes over what the controls say."""
        controls = self.controls
        self.view.style = replace(
            self.view.style,
            coloring=controls.coloring.currentIndex(),
            least=float(controls.confidence.value()),
            size=controls.point_size.value() / SIZE_STEPS,
        )
        controls.confidence_text.setText(f"confidence ≥ {controls.confidence.value()}")
        controls.size_text.setText(f"point size {controls.point_size.value() / SIZE_STEPS:.1f} px")
        self.view.update()

    def show_budget(self) -> None:
        """The view chooses it when it first draws."""
        with QSignalBlocker(self.controls.budget):
            self.controls.budget.setValue(self.view.budget)

    def _set_budget(self, points: int) -> None:
        self.view.budget = points
        self.view.update()

    # --- commands -----------------------------------------------------------------------------

    def do_see_through(self, on: bool) -> None:
        """Hides surfaces that are seen from behind, or shows them."""
        self.view.style = replace(self.view.style, both_sides=not on)
        self.view.update()

    def do_next_coloring(self) -> None:
        """The next of COLORINGS."""
        box = self.controls.coloring
        box.setCurrentIndex((box.currentIndex() + 1) % len(COLORINGS))

    def do_larger(self) -> None:
        """Larger points."""
        self.controls.point_size.setValue(self.controls.point_size.value() + SIZE_STEP)

    def do_smaller(self) -> None:
        """Smaller points."""
        self.controls.point_size.setValue(self.controls.point_size.value() - SIZE_STEP)

    def do_surer(self) -> None:
        """Only more confident points."""
        slider = self.controls.confidence
        slider.setValue(min(slider.value() + CONFIDENCE_STEP, MOST_CONFIDENT))

    def do_less_sure(self) -> None:
        """Less confident points too."""
        slider = self.controls.confidence
        slider.setValue(max(slider.value() - CONFIDENCE_STEP, 0))
