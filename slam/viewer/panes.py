"""Small pictures with a caption, in a row, and the text that lies over the map."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QImage, QPainter, QPaintEvent
from PySide6.QtWidgets import QHBoxLayout, QLabel, QVBoxLayout, QWidget

CAPTIONS = {
    "image": "image",
    "depth": "inverse depth of the keyframe",
    "confidence": "its confidence",
    "flow": "flow from the keyframe",
}


class Picture(QWidget):
    """One picture, as large as fits."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumSize(96, 72)
        self.image: QImage | None = None
        self.words = ""  # in place of a picture

    def show_rgb(self, rgb: np.ndarray) -> None:
        """Takes over [h, w, 3] uint8."""
        height, width = rgb.shape[:2]
        data = np.ascontiguousarray(rgb).tobytes()
        shape = (width, height, 3 * width, QImage.Format.Format_RGB888)
        self.image = QImage(data, *shape).copy()  # a copy of its own: `data` goes
        self.words = ""
        self.update()

    def say(self, words: str) -> None:
        """Shows words, and no picture."""
        self.image, self.words = None, words
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Keeps the picture's shape."""
        if self.image is None:
            flags = Qt.AlignmentFlag.AlignCenter.value | Qt.TextFlag.TextWrapAnywhere.value
            painter = QPainter(self)
            painter.drawText(self.rect(), flags, self.words)
            return
        scale = min(self.width() / self.image.width(), self.height() / self.image.height())
        width, height = scale * self.image.width(), scale * self.image.height()
        place = QRectF((self.width() - width) / 2, (self.height() - height) / 2, width, height)
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(place, self.image)


class Panes(QWidget):
    """The row of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures = {name: Picture() for name in CAPTIONS}
        self._captions = {name: QLabel(caption) for name, caption in CAPTIONS.items()}
        row = QHBoxLayout(self)
        row.setContentsMargins(4, 2, 4, 2)
        for name, picture in self.pictures.items():
            column = QVBoxLayout()
            column.setSpacing(1)
            column.addWidget(picture, stretch=1)
            caption = self._captions[name]
            caption.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            column.addWidget(caption)
            row.addLayout(column, stretch=1)

    def hide_flow(self) -> None:
        """There is none but in a run."""
        self.pictures["flow"].hide()
        self._captions["flow"].hide()


class Overlay(QLabel):
    """Text on a dark, see-through ground, in the middle or in a corner of its parent."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self._ground = parent
        self.setTextFormat(Qt.TextFormat.RichText)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setStyleSheet(
            "background: rgba(20, 22, 28, 215); color: #eef; padding: 12px; border-radius: 8px;"
        )
        self.hide()

    def show_in_the_middle(self) -> None:
        """As large as its text."""
        self.adjustSize()
        ground = self._ground
        self.move((ground.width() - self.width()) // 2, (ground.height() - self.height()) // 2)
        self.show()
        self.raise_()
