"""Colours of what is drawn, light and dark; without Qt."""

from __future__ import annotations

from dataclasses import dataclass

Color = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Theme:
    """RGB of what is drawn."""

    window: Color
    base: Color  # behind lists and text fields
    text: Color
    accent: Color
    view: Color  # behind the map
    path: Color
    guessed: Color  # path where the pose is a guess
    keyframe: Color
    camera: Color
    edge: Color
    loop: Color
    measure: Color


DARK = Theme(
    window=(37, 39, 44),
    base=(28, 30, 34),
    text=(224, 226, 230),
    accent=(62, 124, 200),
    view=(18, 19, 23),
    path=(80, 200, 255),
    guessed=(255, 120, 60),
    keyframe=(255, 200, 60),
    camera=(90, 255, 130),
    edge=(150, 160, 190),
    loop=(255, 80, 160),
    measure=(255, 255, 255),
)
LIGHT = Theme(
    window=(240, 241, 243),
    base=(255, 255, 255),
    text=(30, 32, 36),
    accent=(40, 110, 200),
    view=(250, 250, 252),
    path=(0, 110, 200),
    guessed=(220, 80, 20),
    keyframe=(200, 130, 0),
    camera=(0, 150, 60),
    edge=(90, 100, 130),
    loop=(210, 20, 120),
    measure=(20, 20, 20),
)
