"""What is said of a calibration: the file, a summary, warnings, and a picture of its quality."""

from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from slam.calibration.boards import Board
from slam.calibration.selection import CELLS, filled_cells
from slam.calibration.solve import Solution
from slam.camera import Camera, calibration_text, undistorter
from slam.trajectory import write_atomically

DPI = 110
LARGE_RMS = 1.0  # px
LEAST_FILLED = 1 / 3  # of the cells of a ninth of the image
TILTED, FEWEST_TILTED = math.radians(15), 5  # views that a focal length needs
UNSURE = 0.01  # relative sigma of a focal length
ARROW = 0.05  # of the image's width, that an arrow of the typical residual is long
RAW, INK = "#1668c7", "#20262e"
REGIONS = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)


def coverage(solution: Solution) -> np.ndarray:
    """[rows, columns] bool: in which cells of the image a corner was used."""
    camera = solution.camera
    pixel = np.concatenate([view.pixel for view in solution.views])
    return filled_cells(pixel, (camera.width, camera.height))


def warnings_of(solution: Solution) -> list[str]:
    """What makes this calibration doubtful, and what to do, a line each."""
    lines = []
    if missing := _missing_regions(coverage(solution)):
        lines.append(
            f"poor coverage: few corners at the {', '.join(missing)} of the image; "
            "hold the board there too"
        )
    if solution.rms > LARGE_RMS:
        lines.append(
            f"reprojection error {solution.rms:.2f} px, more than {LARGE_RMS:g}: see whether the "
            "board is flat, the images are sharp and --model suits the lens"
        )
    tilted = int((solution.tilts > TILTED).sum())
    if tilted < FEWEST_TILTED:
        lines.append(
            f"{tilted} views are tilted by {math.degrees(TILTED):.0f} degrees or more, wanted "
            f"{FEWEST_TILTED}: focal length and distance are hard to tell apart; tilt the board"
        )
    fx, fy, *_ = solution.camera.intrinsics
    relative = max(solution.sigma["fx"] / fx, solution.sigma["fy"] / fy)
    if relative > UNSURE:
        lines.append(
            f"the focal length is sure to {100 * relative:.1f} % only: film the board from more "
            "sides, nearer and tilted"
        )
    if _folds(solution.camera):
        lines.append(
            "the distortion folds within the image, where there were no corners: hold the board "
            "there too, or see --model"
        )
    return lines


def _folds(camera: Camera) -> bool:
    """Whether some of the image's border is beyond the turning point of the distortion."""
    try:
        undistorter(camera)
    except ValueError:
        return True
    u, v = np.linspace(0, camera.width - 1, 33), np.linspace(0, camera.height - 1, 33)
    rows = [np.column_stack([u, np.full(33, edge)]) for edge in (0, camera.height - 1)]
    columns = [np.column_stack([np.full(33, edge), v]) for edge in (0, camera.width - 1)]
    rays = camera.unproject(torch.from_numpy(np.concatenate([*rows, *columns])))
    return camera.model == "radtan" and bool(rays.isnan().any())  # a fisheye may see beyond z = 0


def _missing_regions(filled: np.ndarray) -> list[str]:
    """Ninths of the image with too few filled cells."""
    columns, rows = CELLS[0] // 3, CELLS[1] // 3
    share = filled.reshape(3, rows, 3, columns).mean(axis=(1, 3))
    return [
        REGIONS[row][column]
        for row in range(3)
        for column in range(3)
        if share[row, column] < LEAST_FILLED
    ]


def summary(solution: Solution, seen: int, found: int) -> str:
    """The numbers. Args: seen: images. found: of them with the board."""
    camera, sigma, worst = solution.camera, solution.sigma, float(solution.view_rms.max())
    names = ("fx", "fy", "cx", "cy")
    focal = [f"{n} {v:.2f} ± {sigma[n]:.2f}" for n, v in zip(names, camera.intrinsics, strict=True)]
    lines = [
        f"{seen} images, {found} with the board, {len(solution.views)} used, "
        f"{len(solution.rejected)} thrown out",
        f"reprojection error {solution.rms:.3f} px RMS, worst view {worst:.3f} px",
        f"{', '.join(focal)} px",
    ]
    if camera.distortion:
        words = [f"{n} {v:.4f} ± {sigma[n]:.4f}" for n, v in _coefficients(solution)]
        lines.append(f"{camera.model}: {', '.join(words)}")
    tilt = math.degrees(float(solution.tilts.max()))
    lines.append(
        f"field of view {_angle(camera.horizontal_fov)} x {_angle(_turned(camera).horizontal_fov)} "
        f"degrees; corners in {100 * coverage(solution).mean():.0f} % of the image, "
        f"board tilted up to {tilt:.0f} degrees"
    )
    return "\n".join(lines)


def calibration_file(solution: Solution, board: Board, source: str) -> str:
    """Text of the file: a calibration that `--calib` reads, and how sure it is as comments."""
    sigma = ", ".join(f"{name} {value:.3g}" for name, value in solution.sigma.items())
    about = [
        f"made by slam calibrate from {' '.join(source.split())}: {board.words}",
        f"reprojection error {solution.rms:.4f} px RMS, {len(solution.views)} views used, "
        f"{len(solution.rejected)} thrown out, "
        f"corners in {100 * coverage(solution).mean():.0f} % of the image",
        f"standard deviations: {sigma}",
    ]
    return "".join(f"# {line}\n" for line in about) + calibration_text(solution.camera)


def _coefficients(solution: Solution) -> list[tuple[str, float]]:
    names = [name for name in solution.sigma if name not in ("fx", "fy", "cx", "cy")]
    return list(zip(names, solution.camera.distortion, strict=True))


def _turned(camera: Camera) -> Camera:
    """The camera with x and y exchanged."""
    fx, fy, cx, cy = camera.intrinsics
    distortion = camera.distortion
    if camera.model == "radtan":
        k1, k2, p1, p2, k3 = distortion
        distortion = (k1, k2, p2, p1, k3)
    return replace(
        camera,
        width=camera.height,
        height=camera.width,
        intrinsics=(fy, fx, cy, cx),
        distortion=distortion,
    )


def _angle(degrees: float) -> str:
    return f"{degrees:.1f}" if math.isfinite(degrees) else "unknown"


# --- the picture ---------------------------------------------------------------------------------


def draw_report(path: Path, solution: Solution, example: np.ndarray, title: str) -> None:
    """Writes a PNG: corners over the image, residuals, their size, the image undistorted.

    Args: example: [H, W, 3] uint8, one of the images.
    """
    figure = Figure(figsize=(15, 11), facecolor="white")
    FigureCanvasAgg(figure)
    camera = solution.camera
    facts = (
        f"{camera.model}, {camera.width} x {camera.height} px   ·   {solution.rms:.3f} px RMS   ·  "
        f" {len(solution.views)} views   ·   fx {camera.intrinsics[0]:.1f} ± "
        f"{solution.sigma['fx']:.2f} px"
    )
    figure.suptitle(title, x=0.04, y=0.975, ha="left", fontsize=15, color=INK, weight="bold")
    figure.text(0.04, 0.925, facts, fontsize=11, color=INK)
    grid = figure.add_gridspec(
        2, 2, left=0.04, right=0.98, bottom=0.06, top=0.88, hspace=0.16, wspace=0.1
    )
    panels = [figure.add_subplot(grid[k // 2, k % 2]) for k in range(4)]
    _draw_coverage(panels[0], solution, example)
    _draw_residuals(panels[1], solution)
    _draw_errors(panels[2], solution)
    _draw_undistorted(panels[3], camera, example)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    write_atomically(path, buffer.getvalue())


def _draw_coverage(axes: Axes, solution: Solution, example: np.ndarray) -> None:
    """All corners, a colour for each view, over a faint image; empty cells in red."""
    camera, filled = solution.camera, coverage(solution)
    axes.imshow(example, alpha=0.35)
    width, height = camera.width / CELLS[0], camera.height / CELLS[1]
    for row, column in np.argwhere(~filled):
        corner = column * width - 0.5, row * height - 0.5
        axes.add_patch(Rectangle(corner, width, height, color="#d7301f", alpha=0.18, lw=0))
    colors = colormaps["turbo"](np.linspace(0, 1, len(solution.views)))
    for view, color in zip(solution.views, colors, strict=True):
        axes.plot(*view.pixel.T, ".", ms=3.5, color=color)
    for view in solution.rejected:
        axes.plot(*view.pixel.T, "x", ms=4, color="#d7301f", lw=0.5)
    _frame(axes, camera, f"Corners: in {100 * filled.mean():.0f} % of the cells (others shaded)")


def _draw_residuals(axes: Axes, solution: Solution) -> None:
    """What is left of each corner, enlarged."""
    camera = solution.camera
    pixel = np.concatenate([view.pixel for view in solution.views])
    residual = np.concatenate(solution.residuals)
    length = np.linalg.norm(residual, axis=1)
    factor = ARROW * camera.width / max(3 * float(np.median(length)), 1e-9)
    axes.quiver(
        *pixel.T, *(factor * residual).T, length,
        angles="xy", scale_units="xy", scale=1, width=0.0016, cmap="viridis",
    )  # fmt: skip
    _frame(axes, camera, f"Residuals, {factor:.0f} times as long")


def _draw_errors(axes: Axes, solution: Solution) -> None:
    """How long residuals are, and the error of each view."""
    length = np.linalg.norm(np.concatenate(solution.residuals), axis=1)
    limit = max(float(np.percentile(length, 99.5)), 1e-3)
    axes.hist(np.minimum(length, limit), bins=40, range=(0, limit), color=RAW, alpha=0.75)
    axes.axvline(solution.rms, color=INK, lw=1.5, label=f"RMS {solution.rms:.3f} px")
    for rms in solution.view_rms:
        axes.axvline(float(rms), ymax=0.05, color="#c2410c", lw=1.2)
    axes.plot([], [], color="#c2410c", label="each view's RMS (ticks below)")
    axes.set_title("Length of the residuals", loc="left", fontsize=11, color=INK)
    axes.set_xlabel("px")
    axes.set_ylabel("corners")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_undistorted(axes: Axes, camera: Camera, example: np.ndarray) -> None:
    """An image as a run gets to see it."""
    try:
        axes.imshow(undistorter(camera).apply(np.ascontiguousarray(example)))
        title = "The same image undistorted: straight lines should be straight"
    except ValueError:  # said in the warnings
        axes.imshow(example)
        title = "Not undistorted: the distortion folds within the image"
    _frame(axes, camera, title)


def _frame(axes: Axes, camera: Camera, title: str) -> None:
    axes.set_xlim(-0.5, camera.width - 0.5)
    axes.set_ylim(camera.height - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.tick_params(labelsize=8)
