"""The panel at the side: buttons, sliders, layers."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt
from PySide6.QtGui import QAction
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QGroupBox,
    QLabel,
    QSlider,
    QSpinBox,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from slam.viewer.commands import COMMANDS, LAYERS
from slam.viewer.map_view import COLORINGS

WIDTH = 230  # px
SIZE_STEPS = 10  # of the slider, a pixel
MOST_CONFIDENT = 250  # that the slider asks for
LARGEST_SIZE = 8  # px


class Controls(QWidget):
    """Widgets only: who made them connects what they do."""

    def __init__(self, actions: dict[str, QAction], *, live: bool) -> None:
        super().__init__()
        self.setFixedWidth(WIDTH)
        self.coloring = QComboBox()
        self.coloring.addItems(list(COLORINGS))
        self.confidence = _slider(0, MOST_CONFIDENT)
        self.point_size = _slider(SIZE_STEPS // 2, SIZE_STEPS * LARGEST_SIZE)
        self.confidence_text, self.size_text = QLabel(), QLabel()
        self.budget = QSpinBox()
        self.budget.setRange(10_000, 50_000_000)
        self.budget.setSingleStep(100_000)
        self.budget.setGroupSeparatorShown(True)
        self.budget.setKeyboardTracking(False)
        self.layers = {name: QCheckBox(f"{text}  ({key})") for name, (key, text) in LAYERS.items()}
        self.keyframe = QSlider(Qt.Orientation.Horizontal)
        self.keyframe_text = QLabel()
        self._lay_out(actions, live)

    def _lay_out(self, actions: dict[str, QAction], live: bool) -> None:
        column = QVBoxLayout(self)
        if live:
            column.addWidget(_buttons("run", actions, lambda name: _is_live(name)))
        column.addWidget(_buttons("view", actions, lambda name: not _is_live(name)))
        form = QFormLayout()
        form.addRow("colour by", self.coloring)
        form.addRow(self.confidence_text)
        form.addRow(self.confidence)
        form.addRow(self.size_text)
        form.addRow(self.point_size)
        form.addRow("at most", self.budget)
        column.addWidget(_group("points", form))
        boxes = QGridLayout()
        for place, box in enumerate(self.layers.values()):
            box.setChecked(True)
            box.setFocusPolicy(Qt.FocusPolicy.NoFocus)
            boxes.addWidget(box, place // 2, place % 2)
        column.addWidget(_group("layers", boxes))
        rows = QVBoxLayout()
        rows.addWidget(self.keyframe)
        rows.addWidget(self.keyframe_text)
        column.addWidget(_group("keyframe", rows))
        column.addStretch(1)


def _is_live(name: str) -> bool:
    return next(c.live for c in COMMANDS if c.name == name)


def _group(title: str, layout: QFormLayout | QGridLayout | QVBoxLayout) -> QGroupBox:
    box = QGroupBox(title)
    box.setLayout(layout)
    return box


def _buttons(title: str, actions: dict[str, QAction], chosen: Callable[[str], bool]) -> QGroupBox:
    """The commands that have a label, two in a row."""
    grid = QGridLayout()
    shown = [c for c in COMMANDS if c.label and c.name in actions and chosen(c.name)]
    for place, command in enumerate(shown):
        button = QToolButton()
        button.setDefaultAction(actions[command.name])
        button.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # or Space would press it
        button.setMinimumWidth(96)
        grid.addWidget(button, place // 2, place % 2)
    return _group(title, grid)


def _slider(low: int, high: int) -> QSlider:
    slider = QSlider(Qt.Orientation.Horizontal)
    slider.setRange(low, high)
    slider.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return slider
