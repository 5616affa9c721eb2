"""What Qt makes of the colours, and which of them the desktop is set to."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QGuiApplication, QPalette

from slam.viewer.colors import DARK, LIGHT, Theme


def palette(theme: Theme) -> QPalette:
    """The colours of Qt's widgets."""
    made = QPalette()
    role = QPalette.ColorRole
    colors = {
        role.Window: theme.window,
        role.Button: theme.window,
        role.Base: theme.base,
        role.AlternateBase: theme.window,
        role.ToolTipBase: theme.base,
        role.Highlight: theme.accent,
        role.HighlightedText: (255, 255, 255),
    }
    texts = (role.WindowText, role.Text, role.ButtonText, role.ToolTipText)
    for name, color in (colors | dict.fromkeys(texts, theme.text)).items():
        made.setColor(name, QColor(*color))
    faint = QColor(*((a + b) // 2 for a, b in zip(theme.text, theme.window, strict=True)))
    for name in texts:
        made.setColor(QPalette.ColorGroup.Disabled, name, faint)
    made.setColor(role.PlaceholderText, faint)
    return made


def desktop_theme() -> Theme:
    """What the desktop is set to; dark where it does not say."""
    hints = QGuiApplication.styleHints()
    return LIGHT if hints.colorScheme() == Qt.ColorScheme.Light else DARK
