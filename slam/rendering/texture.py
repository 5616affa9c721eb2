"""Procedural textures: what the surfaces of a rendered scene are painted with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

GAMMA = 2.2  # display value = linear value ** (1 / GAMMA)
TILE_MULTIPLE = 16  # texels; leaves four halvings for the atlas's coarser levels

Colour = tuple[float, float, float]  # RGB as displayed, 0..1


@dataclass(frozen=True, slots=True)
class Texture:
    """One tile of paint; it repeats in both directions."""

    albedo: np.ndarray  # [H, W, 3] float32, linear reflectance 0..1
    size: tuple[float, float]  # (width, height) of the tile, m


class Canvas:
    """A tile being painted, in display values; every painter below returns `canvas.texture()`."""

    def __init__(
        self, size: tuple[float, float], texel: float, colour: Colour, rng: np.random.Generator
    ) -> None:
        """Start a tile of `size` (width, height) m with texels of about `texel` m in one colour."""
        if min(size) <= 0 or texel <= 0:
            raise ValueError(f"a texture wants a positive size and texel, got {size} and {texel}")
        columns, rows = (
            TILE_MULTIPLE * math.ceil(side / texel / TILE_MULTIPLE - 1e-9) for side in size
        )
        self.size = size
        self.rng = rng
        self.shape = (rows, columns)
        self.texel = (size[0] / columns, size[1] / rows)
        self.values = np.broadcast_to(np.array(colour, np.float32), (rows, columns, 3)).copy()

    def noise(
        self,
        coarsest: float,
        finest: float,
        *,
        slope: float = 1.0,
        stretch: tuple[float, float] = (1.0, 1.0),
    ) -> np.ndarray:
        """Periodic band-limited noise, [H, W] float32, mean 0, deviation 1.

        Args:
            coarsest, finest: longest and shortest wavelength, m.
            slope: amplitude falls as frequency ** -slope (1: every octave is equally strong).
            stretch: wavelengths along (width, height) are longer by these factors.
        """
        along_v = np.fft.fftfreq(self.shape[0], self.texel[1])[:, None] * stretch[1]
        along_u = np.fft.rfftfreq(self.shape[1], self.texel[0])[None] * stretch[0]
        frequency = np.maximum(np.hypot(along_u, along_v), 1e-9)
        gain = frequency**-slope / np.sqrt(
            (1 + (1 / (coarsest * frequency)) ** 8) * (1 + (finest * frequency) ** 8)
        )
        gain[0, 0] = 0.0
        white = np.fft.rfft2(self.rng.standard_normal(self.shape))
        field = np.fft.irfft2(white * gain, s=self.shape)
        return (field / max(float(field.std()), 1e-12)).astype(np.float32)

    def shade(self, field: np.ndarray, amount: float) -> None:
        """Make the paint lighter and darker by the factor 1 + amount * field [H, W]."""
        self.values *= 1 + amount * field[..., None]

    def tint(self, field: np.ndarray, colour: Colour, amount: float) -> None:
        """Mix in a colour where the field [H, W] is positive, fully where it passes 1 / amount."""
        share = np.clip(amount * field, 0, 1)[..., None]
        self.values += share * (np.array(colour, np.float32) - self.values)

    def fill(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Paint a rectangle given in metres from the tile's corner; clipped to the tile."""
        columns = [round(max(side, 0.0) / self.texel[0]) for side in (left, right)]
        rows = [round(max(side, 0.0) / self.texel[1]) for side in (top, bottom)]
        self.values[rows[0] : rows[1], columns[0] : columns[1]] = colour

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float], c: Colour) -> None:
        """Paint an ellipse given in metres from the tile's corner; clipped to the tile."""
        v, u = np.mgrid[: self.shape[0], : self.shape[1]].astype(np.float32)
        du = ((u + 0.5) * self.texel[0] - centre[0]) / radii[0]
        dv = ((v + 0.5) * self.texel[1] - centre[1]) / radii[1]
        self.values[du * du + dv * dv < 1] = c

    def text(self, box: tuple[float, float, float, float], height: float, colour: Colour) -> None:
        """Fill a box (left, top, right, bottom) m with lines of marks that look like words."""
        left, top, right, bottom = box
        line = top
        while line + height <= bottom:
            at = left
            end = right - self.rng.uniform(0, 0.3) * (right - left)
            while at < end:
                width = height * self.rng.uniform(0.25, 0.6)
                rise = height * self.rng.choice([0.0, 0.3])
                if self.rng.random() > 0.17:
                    self.fill(at, line + rise, min(at + width, end), line + height, colour)
                at += width * 1.35
            line += 1.7 * height

    def jitter(self, colour: Colour, amount: float) -> Colour:
        """A colour near the given one: mostly lighter or darker, a third as much in hue."""
        change = self.rng.uniform(-amount, amount) + self.rng.uniform(-amount, amount, 3) / 3
        red, green, blue = np.clip(np.array(colour) + change, 0, 1)
        return float(red), float(green), float(blue)

    def hue(self, colour: Colour, amount: float) -> Colour:
        """A colour anywhere within `amount` of the given one."""
        red, green, blue = np.clip(np.array(colour) + self.rng.uniform(-amount, amount, 3), 0, 1)
        return float(red), float(green), float(blue)

    def texture(self, blur: float = 0.7) -> Texture:
        """The finished tile, low-passed by `blur` texels so that painted edges do not alias."""
        smooth = cv2.GaussianBlur(self.values, (0, 0), blur, borderType=cv2.BORDER_REFLECT)
        return Texture((np.clip(smooth, 0.0, 1.0) ** GAMMA).astype(np.float32), self.size)


def flat(colour: Colour) -> Texture:
    """One colour, no texture at all."""
    albedo = np.broadcast_to(np.array(colour, np.float32) ** np.float32(GAMMA), (16, 16, 3))
    return Texture(albedo.astype(np.float32), (1.0, 1.0))


def mottled(
    rng: np.random.Generator,
    size: tuple[float, float],
    colour: Colour,
    *,
    contrast: float = 0.1,
    coarsest: float = 0.5,
    finest: float = 0.012,
    texel: float = 0.004,
) -> Texture:
    """Plaster, stone or cloth: one colour with noise of equal strength in every octave."""
    canvas = Canvas(size, texel, colour, rng)
    canvas.shade(canvas.noise(coarsest, finest), contrast)
    canvas.tint(canvas.noise(2 * coarsest, 0.3), canvas.jitter(colour, 0.15), 0.4)
    return canvas.texture()


def checker(
    rng: np.random.Generator, size: tuple[float, float], square: float, colours: tuple[Colour, ...]
) -> Texture:
    """Squares of `square` m in the given colours, each a little different, worn by noise."""
    canvas = Canvas(size, 0.004, colours[0], rng)
    for row in range(math.ceil(size[1] / square)):
        for column in range(math.ceil(size[0] / square)):
            colour = canvas.jitter(colours[(row + column) % len(colours)], 0.04)
            left, top = column * square, row * square
            canvas.fill(left, top, left + square - 0.006, top + square - 0.006, colour)
    canvas.shade(canvas.noise(0.3, 0.012), 0.09)
    return canvas.texture()


def stripes(
    rng: np.random.Generator,
    size: tuple[float, float],
    period: float,
    colours: tuple[Colour, Colour],
) -> Texture:
    """Wallpaper: broad vertical stripes with a woven grain and a small motif on every other one."""
    canvas = Canvas(size, 0.004, colours[0], rng)
    for column in range(round(size[0] / period)):
        left = column * period
        canvas.fill(left, 0, left + 0.45 * period, size[1], colours[1])
        for row in range(round(size[1] / (2 * period))):
            middle = (left + 0.72 * period, (2 * row + 1 + column % 2) * period)
            radii = (0.13 * period * rng.uniform(0.7, 1.3), 0.22 * period * rng.uniform(0.7, 1.3))
            _blot(canvas, middle, radii, canvas.jitter(colours[1], 0.1))
    canvas.shade(canvas.noise(0.6, 0.012), 0.06)
    canvas.shade(canvas.noise(0.1, 0.01, stretch=(1, 8)), 0.03)
    return canvas.texture()


def _blot(
    canvas: Canvas, centre: tuple[float, float], radii: tuple[float, float], colour: Colour
) -> None:
    """A small diamond, painted as a stack of bars."""
    for step in np.linspace(-1, 1, 9):
        half = radii[0] * (1 - abs(step)) + canvas.texel[0]
        middle = centre[1] + step * radii[1]
        bar = radii[1] / 8
        canvas.fill(centre[0] - half, middle - bar, centre[0] + half, middle + bar, colour)


def bricks(rng: np.random.Generator, size: tuple[float, float], colour: Colour) -> Texture:
    """A brick wall with pale mortar; bricks of 24 x 8 cm."""
    canvas = Canvas(size, 0.004, (0.72, 0.70, 0.66), rng)
    columns, rows = round(size[0] / 0.24), round(size[1] / 0.16) * 2
    width, height = size[0] / columns, size[1] / rows
    for row in range(rows):
        for column in range(-1, columns):
            left, top = (column + 0.5 * (row % 2)) * width, row * height
            shade = canvas.jitter(colour, 0.07)
            canvas.fill(
                left + 0.005, top + 0.005, left + width - 0.006, top + height - 0.006, shade
            )
    canvas.shade(canvas.noise(0.15, 0.012), 0.10)
    canvas.shade(canvas.noise(1.5, 0.3), 0.05)
    return canvas.texture()


def wood(
    rng: np.random.Generator,
    size: tuple[float, float],
    colour: Colour,
    *,
    plank: float = 0.14,
    contrast: float = 0.10,
) -> Texture:
    """Planks along the width, `plank` m broad, with grain, knots and dark joints."""
    canvas = Canvas(size, 0.004, colour, rng)
    rows = max(round(size[1] / plank), 1)
    breadth = size[1] / rows
    for row in range(rows):
        at = -rng.uniform(0, 1)
        while at < size[0]:
            length = rng.uniform(0.7, 1.6)
            shade = canvas.jitter(colour, 0.06)
            canvas.fill(at, row * breadth, at + length - 0.004, (row + 1) * breadth - 0.004, shade)
            at += length
            canvas.fill(at - 0.004, row * breadth, at, (row + 1) * breadth, (0.2, 0.14, 0.1))
        canvas.fill(0, (row + 1) * breadth - 0.004, size[0], (row + 1) * breadth, (0.2, 0.14, 0.1))
    grain = canvas.noise(0.06, 0.008, slope=0.6, stretch=(14, 1))
    canvas.shade(np.sin(3 * canvas.noise(0.12, 0.03, stretch=(8, 1))) + grain, 0.6 * contrast)
    knots = canvas.noise(0.15, 0.04, slope=0.0) - 2.9
    canvas.tint(knots, (0.25, 0.16, 0.10), 1.2)
    return canvas.texture()


def rug(
    rng: np.random.Generator, size: tuple[float, float], colours: tuple[Colour, ...]
) -> Texture:
    """A woven rug: nested borders, a field of lozenges, worn and fibrous."""
    canvas = Canvas(size, 0.004, colours[0], rng)
    for index, inset in enumerate((0.05, 0.09, 0.20, 0.24)):
        colour = colours[(index + 1) % len(colours)]
        canvas.fill(inset, inset, size[0] - inset, size[1] - inset, colour)
    for row in range(1, round(size[1] / 0.22)):
        for column in range(1, round(size[0] / 0.22)):
            centre = (0.11 + 0.22 * column, 0.11 + 0.22 * row)
            if max(abs(centre[0] / size[0] - 0.5), abs(centre[1] / size[1] - 0.5)) < 0.38:
                colour = colours[int(rng.integers(1, len(colours)))]
                _blot(canvas, centre, (0.09, 0.09), colour)
                _blot(canvas, centre, (0.035, 0.045), colours[int(rng.integers(len(colours)))])
    canvas.shade(canvas.noise(0.4, 0.02), 0.07)
    canvas.shade(canvas.noise(0.03, 0.009, slope=0.0), 0.08)
    return canvas.texture()


def poster(rng: np.random.Generator, size: tuple[float, float], paper: Colour) -> Texture:
    """A framed print: a picture of soft shapes above a title and lines of small text."""
    canvas = Canvas(size, 0.0025, (0.14, 0.11, 0.09), rng)
    width, height = size
    canvas.fill(0.02, 0.02, width - 0.02, height - 0.02, paper)
    hues = [canvas.hue((0.52, 0.47, 0.4), 0.3) for _ in range(5)]
    split = height * rng.uniform(0.55, 0.7)
    canvas.fill(0.05, 0.05, width - 0.05, split, hues[0])
    before = canvas.values.copy()
    for colour in hues[1:] * 3:
        centre = (rng.uniform(0, width), rng.uniform(0, split))
        radii = (rng.uniform(0.04, 0.25) * width, rng.uniform(0.03, 0.2) * height)
        canvas.ellipse(centre, radii, colour)
    canvas.shade(canvas.noise(0.25, 0.01), 0.13)
    rows = round(split / canvas.texel[1])
    margin = round(0.05 / canvas.texel[0])
    canvas.values[rows:] = before[rows:]
    canvas.values[:margin] = before[:margin]
    canvas.values[:, :margin] = before[:, :margin]
    canvas.values[:, -margin:] = before[:, -margin:]
    ink = canvas.jitter((0.2, 0.18, 0.22), 0.15)
    title = 0.055 * height
    canvas.text((0.06, split + 0.02, width - 0.06, split + 0.03 + title), title, ink)
    canvas.text((0.06, split + 0.05 + title, width - 0.06, height - 0.05), 0.016, ink)
    return canvas.texture()


def books(rng: np.random.Generator, size: tuple[float, float]) -> Texture:
    """A row of book spines seen from the front, with titles; as high as the tile."""
    canvas = Canvas(size, 0.0025, (0.10, 0.08, 0.07), rng)
    at = 0.0
    while at < size[0]:
        width = rng.uniform(0.018, 0.055)
        top = size[1] * rng.uniform(0.04, 0.3)
        cloth = canvas.hue(canvas.jitter((0.42, 0.36, 0.31), 0.28), 0.13)
        ink = (0.9, 0.85, 0.7) if sum(cloth) < 1.4 else (0.15, 0.12, 0.12)
        canvas.fill(at, top, at + width - 0.003, size[1], cloth)
        band = top + rng.uniform(0.05, 0.2) * size[1]
        canvas.fill(at, band, at + width - 0.003, band + 0.012, canvas.jitter(cloth, 0.3))
        for mark in np.arange(band + 0.03, size[1] - 0.04, 0.014):
            if rng.random() > 0.3:
                right = at + width * rng.uniform(0.55, 0.8)
                canvas.fill(at + 0.25 * width, mark, right, mark + 0.008, ink)
        at += width
    canvas.shade(canvas.noise(0.1, 0.01), 0.06)
    return canvas.texture()


def cardboard(rng: np.random.Generator, size: tuple[float, float]) -> Texture:
    """A parcel: brown board, tape, a printed label."""
    canvas = Canvas(size, 0.003, (0.66, 0.52, 0.36), rng)
    canvas.shade(canvas.noise(0.3, 0.01), 0.06)
    canvas.shade(canvas.noise(0.02, 0.008, stretch=(1, 20)), 0.03)
    width, height = size
    canvas.fill(0.44 * width, 0, 0.56 * width, height, (0.76, 0.66, 0.48))
    left, top = rng.uniform(0.05, 0.4) * width, rng.uniform(0.1, 0.4) * height
    canvas.fill(left, top, left + 0.45 * width, top + 0.4 * height, (0.92, 0.91, 0.88))
    box = (left + 0.02, top + 0.02, left + 0.43 * width, top + 0.38 * height)
    canvas.text(box, 0.014, (0.13, 0.13, 0.15))
    return canvas.texture()
