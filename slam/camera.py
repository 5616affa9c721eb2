"""Camera models: projection, Jacobians, undistortion, calibration files."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from torch import Tensor

COEFFICIENTS = {"pinhole": (0,), "radtan": (4, 5), "kannala_brandt": (4,)}
SHORTEST_FOCAL, LONGEST_FOCAL = 0.1, 100.0  # of the image's longer side: 157 and 0.6 degrees
WIDEST_ANGLE = math.radians(65)  # from the axis to a corner of an undistorted view: 2.4 x coarser
BORDER = 1 / 32  # px kept free inside the raw image: the grid of cv2.remap's fixed-point maps
NEWTON_STEPS = 50


@dataclass(frozen=True, slots=True)
class Camera:
    """A calibrated camera. Pixel centres are at integers; +z forward, x right, y down.

    radtan is Brown's radial-tangential model (OpenCV's), kannala_brandt the equidistant fisheye of
    Kannala & Brandt 2006 (OpenCV's fisheye). Raises ValueError for parameters no camera has.
    """

    model: str  # "pinhole", "radtan" or "kannala_brandt"
    width: int  # px
    height: int  # px
    intrinsics: tuple[float, float, float, float]  # (fx, fy, cx, cy), px
    distortion: tuple[float, ...] = ()  # radtan (k1, k2, p1, p2[, k3]); kannala_brandt (k1..k4)

    def __post_init__(self) -> None:
        object.__setattr__(self, "intrinsics", tuple(float(v) for v in self.intrinsics))
        object.__setattr__(self, "distortion", tuple(float(v) for v in self.distortion))
        _check(self)
        if self.model == "radtan" and len(self.distortion) == 4:
            object.__setattr__(self, "distortion", (*self.distortion, 0.0))

    @classmethod
    def from_fov(cls, width: int, height: int, degrees: float) -> Camera:
        """A centred pinhole camera with square pixels whose image is `degrees` wide."""
        if not 0 < degrees < 180:
            raise ValueError(f"field of view: wanted 0 to 180 degrees, got {degrees}")
        focal = 0.5 * width / math.tan(math.radians(degrees) / 2)
        return cls("pinhole", width, height, (focal, focal, (width - 1) / 2, (height - 1) / 2))

    @property
    def horizontal_fov(self) -> float:
        """Angle between the image's left and right edge along the principal row, degrees."""
        fx, _, cx, cy = self.intrinsics
        u = torch.tensor([-0.5, self.width - 0.5], dtype=torch.float64)
        if self.model == "kannala_brandt":
            left, right = _fisheye_angle((u - cx) / fx, self.distortion)
        else:
            edges = torch.stack([u, torch.full_like(u, cy)], dim=-1)
            left, right = torch.atan(self.unproject(edges)[:, 0])
        return math.degrees(float(right - left))

    def pinhole(self) -> Camera:
        """The same camera without its distortion."""
        return replace(self, model="pinhole", distortion=())

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the image resized to width x height px (areas align, not pixel centres)."""
        fx, fy, cx, cy = self.intrinsics
        sx, sy = width / self.width, height / self.height
        intrinsics = (fx * sx, fy * sy, (cx + 0.5) * sx - 0.5, (cy + 0.5) * sy - 0.5)
        return replace(self, width=width, height=height, intrinsics=intrinsics)

    def project(self, X_C: Tensor) -> Tensor:
        """Pixels [..., 2] of camera-frame points [..., 3]; z <= 0 gives no meaningful pixel."""
        if self.model != "pinhole":
            return self.project_with_jacobian(X_C)[0]
        m = X_C[..., :2] / X_C[..., 2:]
        return m * m.new_tensor(self.intrinsics[:2]) + m.new_tensor(self.intrinsics[2:])

    def project_with_jacobian(self, X_C: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [..., 2] and their derivative by the point, [..., 2, 3], px per unit length."""
        if self.model == "kannala_brandt":
            m, dm_dX = _fisheye(X_C, self.distortion)
        else:
            m, dm_dX = _perspective(X_C)
        if self.model == "radtan":
            m, dd_dm = _radtan(m, self.distortion)
            dm_dX = dd_dm @ dm_dX
        focal = m.new_tensor(self.intrinsics[:2])
        return m * focal + m.new_tensor(self.intrinsics[2:]), focal[:, None] * dm_dX

    def unproject(self, pixel: Tensor) -> Tensor:
        """Points [..., 3] at z = 1 that project to pixels [..., 2] (floating point), to 1e-9 px.

        NaN where the model has none: beyond the turning point of a radial polynomial, or at 90
        degrees and more from a fisheye's axis.
        """
        focal, centre = torch.tensor(self.intrinsics, dtype=torch.float64).view(2, 2)
        m = (pixel.double() - centre.to(pixel.device)) / focal.to(pixel.device)
        if self.model == "radtan":
            m = _invert_radtan(m, self.distortion)
        if self.model == "kannala_brandt":
            radius = m.norm(dim=-1, keepdim=True)
            theta = _fisheye_angle(radius, self.distortion)
            theta = torch.where(theta < math.pi / 2, theta, math.nan)
            m = m * torch.where(radius > 0, torch.tan(theta) / radius, 1.0)
        return torch.cat([m, torch.ones_like(m[..., :1])], dim=-1).to(pixel.dtype)


def pixel_grid(
    height: int,
    width: int,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """All pixels (u, v) of an image [H, W, 2]."""
    v, u = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype),
        torch.arange(width, device=device, dtype=dtype),
        indexing="ij",
    )
    return torch.stack([u, v], -1)


def _check(camera: Camera) -> None:
    """Raises ValueError with the one thing that is wrong."""
    if camera.model not in COEFFICIENTS:
        raise ValueError(f"camera model: wanted {', '.join(COEFFICIENTS)}, got '{camera.model}'")
    if camera.width < 1 or camera.height < 1:
        raise ValueError(f"camera size: wanted px >= 1, got {camera.width}x{camera.height}")
    if len(camera.intrinsics) != 4:
        raise ValueError(f"intrinsics: wanted 4 (fx, fy, cx, cy), got {len(camera.intrinsics)}")
    counts, got = COEFFICIENTS[camera.model], len(camera.distortion)
    if got not in counts:
        wanted = f"wanted {' or '.join(map(str, counts))} coefficients"
        raise ValueError(f"distortion of a {camera.model} camera: {wanted}, got {got}")
    numbers = (*camera.intrinsics, *camera.distortion)
    if not np.isfinite(numbers).all():
        raise ValueError(f"calibration: wanted finite numbers, got {numbers}")
    fx, fy, cx, cy = camera.intrinsics
    side = max(camera.width, camera.height)
    if not all(SHORTEST_FOCAL * side <= f <= LONGEST_FOCAL * side for f in (fx, fy)):
        raise ValueError(
            f"focal length: wanted {SHORTEST_FOCAL * side:g} to {LONGEST_FOCAL * side:g} px for a "
            f"{camera.width}x{camera.height} image, got fx {fx:g}, fy {fy:g}"
        )
    if not (-camera.width < cx < 2 * camera.width and -camera.height < cy < 2 * camera.height):
        raise ValueError(
            f"principal point: wanted one near the {camera.width}x{camera.height} image, "
            f"got ({cx:g}, {cy:g})"
        )


def _perspective(X: Tensor) -> tuple[Tensor, Tensor]:
    """(x/z, y/z) [..., 2] and its derivative by X [..., 2, 3]."""
    x, y, z = X.unbind(-1)
    inverse, zero = 1 / z, torch.zeros_like(z)
    m = torch.stack([x * inverse, y * inverse], dim=-1)
    row_x = torch.stack([inverse, zero, -m[..., 0] * inverse], dim=-1)
    row_y = torch.stack([zero, inverse, -m[..., 1] * inverse], dim=-1)
    return m, torch.stack([row_x, row_y], dim=-2)


def _radtan(m: Tensor, distortion: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Distorted coordinates of m [..., 2], and their derivative [..., 2, 2]."""
    k1, k2, p1, p2, k3 = distortion
    x, y = m.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + r2 * 3 * k3))  # d radial / dx = slope x
    u = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
    v = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
    du_dx = radial + slope * x * x + 2 * p1 * y + 6 * p2 * x
    dv_dy = radial + slope * y * y + 6 * p1 * y + 2 * p2 * x
    cross = slope * x * y + 2 * p1 * x + 2 * p2 * y  # the Jacobian is symmetric
    jacobian = torch.stack([du_dx, cross, cross, dv_dy], dim=-1)
    return torch.stack([u, v], dim=-1), jacobian.unflatten(-1, (2, 2))


def _determinant(matrix: Tensor) -> Tensor:
    """Of the left 2x2 part of [..., 2, 2 or 3]; torch.linalg.det is 100 times slower here."""
    return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]


def _invert_radtan(distorted: Tensor, distortion: tuple[float, ...]) -> Tensor:
    """Inverse of _radtan by Newton's method; NaN where it finds no upright solution."""
    m = distorted
    for _ in range(NEWTON_STEPS):
        value, jacobian = _radtan(m, distortion)
        (a, b), (_, d) = (row.unbind(-1) for row in jacobian.unbind(-2))
        r, s = (distorted - value).unbind(-1)
        step = torch.stack([d * r - b * s, a * s - b * r], dim=-1)
        step = step / _determinant(jacobian)[..., None]
        m = m + step
        if not (step.abs() > 1e-15).any():
            break
    value, jacobian = _radtan(m, distortion)
    solved = ((value - distorted).abs() < 1e-13 * (1 + distorted.abs())).all(-1)
    upright = (_determinant(jacobian) > 0) & (jacobian[..., 0, 0] > 0)
    return torch.where((solved & upright)[..., None], m, math.nan)


def _fisheye(X: Tensor, distortion: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """theta_d (x, y) / r [..., 2] with theta the angle from the axis, and its derivative by X."""
    x, y, z = X.unbind(-1)
    r2 = x * x + y * y
    r, d2 = r2.sqrt(), r2 + z * z
    theta_d, slope = _fisheye_radius(torch.atan2(r, z), distortion)
    near = r2 < 1e-12 * d2
    scale = torch.where(near, 1 / z, theta_d / torch.where(near, 1.0, r))
    bend = (slope * z / d2 - scale) / torch.where(near, 1.0, r2)  # bounded on the axis, times x^2
    bend = torch.where(near, 0.0, bend)
    row_x = torch.stack([scale + bend * x * x, bend * x * y, -slope * x / d2], dim=-1)
    row_y = torch.stack([bend * x * y, scale + bend * y * y, -slope * y / d2], dim=-1)
    return torch.stack([scale * x, scale * y], dim=-1), torch.stack([row_x, row_y], dim=-2)


def _fisheye_radius(theta: Tensor, distortion: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """theta_d = theta (1 + k1 theta^2 + .. + k4 theta^8) and its derivative by theta."""
    k1, k2, k3, k4 = distortion
    t2 = theta * theta
    theta_d = theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))
    return theta_d, 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))


def _fisheye_angle(theta_d: Tensor, distortion: tuple[float, ...]) -> Tensor:
    """Inverse of _fisheye_radius (odd) by Newton's method; NaN where there is none."""
    theta = theta_d
    for _ in range(NEWTON_STEPS):
        value, slope = _fisheye_radius(theta, distortion)
        step = (theta_d - value) / slope
        theta = theta + step
        if not (step.abs() > 1e-15).any():
            break
    value, slope = _fisheye_radius(theta, distortion)
    solved = ((value - theta_d).abs() < 1e-13) & (slope > 0) & (theta.abs() < math.pi)
    return torch.where(solved, theta, math.nan)


@dataclass(frozen=True, slots=True)
class Undistorter:
    """Turns images of a distorted camera into those of a pinhole camera of the same size."""

    camera: Camera  # the pinhole camera; every pixel of it lies in the raw image
    maps: tuple[np.ndarray, np.ndarray] | None  # cv2.remap's fixed-point maps; None: no distortion

    def apply(self, rgb: np.ndarray) -> np.ndarray:
        """The undistorted image, [H, W, 3] uint8, of a raw one of that shape."""
        if rgb.shape[:2] != (self.camera.height, self.camera.width):
            raise ValueError(
                f"undistortion: wanted a {self.camera.width}x{self.camera.height} image, "
                f"got {rgb.shape[1]}x{rgb.shape[0]}"
            )
        if self.maps is None:
            return rgb
        return cv2.remap(rgb, *self.maps, cv2.INTER_LINEAR)


def undistorter(camera: Camera) -> Undistorter:
    """Undistortion onto the largest inscribed view of the same fx / fy: no black border."""
    if not any(camera.distortion) and camera.model != "kannala_brandt":
        return Undistorter(camera.pinhole(), None)
    target = _inscribed_view(camera)
    models = cv2.fisheye if camera.model == "kannala_brandt" else cv2
    K, K_target = _intrinsic_matrix(camera), _intrinsic_matrix(target)
    distortion, size = np.array(camera.distortion), (camera.width, camera.height)
    maps = models.initUndistortRectifyMap(K, distortion, np.eye(3), K_target, size, cv2.CV_16SC2)
    return Undistorter(target, (maps[0], maps[1]))


def _intrinsic_matrix(camera: Camera) -> np.ndarray:
    fx, fy, cx, cy = camera.intrinsics
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def _inscribed_view(camera: Camera) -> Camera:
    """The widest pinhole view, centred in the raw one, whose pixels all lie in the raw image."""
    focal = np.array(camera.intrinsics[:2])
    last = np.array([camera.width - 1, camera.height - 1])
    half, centre = last / (2 * focal), _view_centre(camera)
    samples = _view_samples(camera)
    size, too_large = 0.0, 4.0
    while too_large - size > 1e-6:
        middle = 0.5 * (size + too_large)
        fits = _inside(camera, centre + samples * middle * half)
        size, too_large = (middle, too_large) if fits else (size, middle)
    if size < 0.01:
        raise ValueError(
            f"distortion {camera.distortion}: wanted a model that is one-to-one in a "
            f"{camera.width}x{camera.height} image, got one that folds; check the calibration"
        )
    intrinsics = (*(focal / size), *(last / 2 - centre * focal / size))
    return Camera("pinhole", camera.width, camera.height, intrinsics)


def _view_centre(camera: Camera) -> np.ndarray:
    """(x, y) at z = 1 midway between the innermost points of opposite image borders."""
    last, limit = np.array([camera.width - 1, camera.height - 1]), math.tan(WIDEST_ANGLE)
    along = np.linspace(0, 1, 65)[:, None] * last
    edges = np.stack([along * (0, 1), along * (1, 0)])  # left, top
    low = camera.unproject(torch.from_numpy(edges)).numpy()
    high = camera.unproject(torch.from_numpy(edges + last * np.eye(2)[:, None])).numpy()
    left_top = [np.nan_to_num(low[axis, :, axis], nan=-limit).max() for axis in (0, 1)]
    right_bottom = [np.nan_to_num(high[axis, :, axis], nan=limit).min() for axis in (0, 1)]
    return 0.5 * np.add(left_top, right_bottom)


def _view_samples(camera: Camera) -> np.ndarray:
    """Every border pixel of a view and a grid inside it, [P, 2] in -1..1."""
    x, y = np.linspace(-1, 1, camera.width), np.linspace(-1, 1, camera.height)
    border = [(x, np.full_like(x, e)) for e in (-1, 1)] + [(np.full_like(y, e), y) for e in (-1, 1)]
    grid = np.meshgrid(np.linspace(-1, 1, 33), np.linspace(-1, 1, 33))
    return np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in [*border, grid]])


def _inside(camera: Camera, m: np.ndarray) -> bool:
    """Whether all points m [P, 2] at z = 1 are seen in the raw image, where the model is 1:1."""
    if np.linalg.norm(m, axis=1).max() > math.tan(WIDEST_ANGLE):
        return False
    X = torch.from_numpy(np.column_stack([m, np.ones(len(m))]))
    pixel, jacobian = camera.project_with_jacobian(X)
    last = pixel.new_tensor([camera.width - 1, camera.height - 1])
    within = ((pixel >= BORDER) & (pixel <= last - BORDER)).all()
    return bool(within & (_determinant(jacobian) > 0).all())


def load_calibration(path: Path | str) -> Camera:
    """The camera of a calibration file (YAML: model, width, height, intrinsics, distortion).

    Raises FileNotFoundError, and ValueError that names the file and what is wrong in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"calibration {path}: no such file")
    try:
        return _camera_from_fields(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(f"calibration {path}: {' '.join(str(error).split())}") from error


def save_calibration(path: Path | str, camera: Camera) -> None:
    """Writes a calibration file that load_calibration reads back unchanged."""
    Path(path).write_text(calibration_text(camera), encoding="utf-8")


def calibration_text(camera: Camera) -> str:
    """The text of a calibration file."""
    return (
        f"model: {camera.model}\nwidth: {camera.width}\nheight: {camera.height}\n"
        f"intrinsics: {list(camera.intrinsics)}\ndistortion: {list(camera.distortion)}\n"
    )


def published_calibration(name: str) -> Camera:
    """A published calibration by its name; an unknown one raises ValueError with the known ones."""
    files = _published_files()
    if name not in files:
        raise ValueError(
            f"calibration '{name}': wanted a file (.yaml) or one of {', '.join(sorted(files))}"
        )
    return load_calibration(files[name])


def _published_files() -> dict[str, Path]:
    """Files of datasets/calibrations by name: packaged, or beside the package in a checkout."""
    packaged = Path(str(resources.files("slam") / "_data" / "calibrations"))
    checkout = Path(__file__).resolve().parents[1] / "datasets" / "calibrations"
    folder = packaged if packaged.is_dir() else checkout
    return {file.stem: file for file in folder.glob("*.yaml")}


def _camera_from_fields(fields: object) -> Camera:
    wanted = ("model", "width", "height", "intrinsics", "distortion")
    if not isinstance(fields, dict) or set(wanted) != set(fields) | {"distortion"}:
        got = ", ".join(map(str, fields)) if isinstance(fields, dict) else "none"
        raise ValueError(f"wanted the keys {', '.join(wanted)}, got {got}")
    width, height = fields["width"], fields["height"]
    if type(width) is not int or type(height) is not int:
        raise ValueError(f"width, height: wanted whole numbers, got {width!r}, {height!r}")
    return Camera(
        str(fields["model"]), width, height, fields["intrinsics"], fields.get("distortion") or ()
    )
