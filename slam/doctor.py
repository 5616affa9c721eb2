"""What works on this machine and what is missing, one line each: `slam doctor`."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

GIGABYTE = 1e9
DISK_NEEDED = 1 * GIGABYTE  # bytes; a long run's journal, map and report
MEMORY_NEEDED = 2 * GIGABYTE  # bytes; torch and a map of some hundred keyframes


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a run needs or could use."""

    name: str
    ok: bool
    required: bool  # False: `slam run` works without it
    found: str  # what there is, or what went wrong
    remedy: str  # what to do where it is missing


def run_checks() -> list[Check]:
    """All checks, in the order in which they are shown."""
    checks: list[Callable[[], Check]] = [
        check_python,
        check_torch,
        check_cuda,
        check_native,
        check_opencv,
        check_viewer,
        check_web_viewer,
        check_display,
        check_cameras,
        check_disk,
        check_memory,
    ]
    return [check() for check in checks]


def format_checks(checks: list[Check]) -> str:
    """One line for each check, and a last one that says whether `slam run` can work."""
    lines = [_line(check) for check in checks]
    missing = [check.name for check in checks if check.required and not check.ok]
    verdict = f"`slam run` cannot work without: {', '.join(missing)}" if missing else "ready to run"
    return "\n".join([*lines, verdict])


def _line(check: Check) -> str:
    if check.ok:
        return f"ok       {check.name}: {check.found}"
    state = "MISSING " if check.required else "missing "
    return f"{state} {check.name}: {check.found}; {check.remedy}"


def _attempt(module: str) -> str:
    """Empty where a module can be imported, otherwise why not, in one line."""
    try:
        importlib.import_module(module)
    except ImportError as error:  # also a shared library that is not there
        return " ".join(str(error).split())
    return ""


# --- required ------------------------------------------------------------------------------------


def check_python() -> Check:
    """The interpreter."""
    found = f"{platform.python_version()} ({sys.executable})"
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, True, found, "install Python 3.11 or newer")


def check_torch() -> Check:
    """The version of torch and what it was built for."""
    failure = _attempt("torch")
    remedy = "pip install 'torch>=2.4'"
    if failure:
        return Check("torch", False, True, failure, remedy)
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    found = f"{torch.__version__}, {built}, {torch.get_num_threads()} threads"
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return Check("torch", version >= (2, 4), True, found, remedy)


def check_native() -> Check:
    """The compiled kernels."""
    failure = _attempt("slam.kernels")
    remedy = "install a C++ compiler, then: pip install -c constraints.txt ."
    if failure:
        return Check("native module", False, True, failure, remedy)
    from slam.kernels import native_info

    info = native_info()
    cuda = f"CUDA for {', '.join(info.architectures)}" if info.with_cuda else "no CUDA"
    return Check("native module", True, True, f"CPU kernels, {cuda}", remedy)


def check_opencv() -> Check:
    """OpenCV, which decodes images and measures flow."""
    failure = _attempt("cv2")
    remedy = "pip install 'opencv-python>=4.8'; on Linux apt-get install libgl1 libglib2.0-0"
    if failure:
        return Check("OpenCV", False, True, failure, remedy)
    import cv2

    ok = hasattr(cv2, "DISOpticalFlow_create")
    return Check("OpenCV", ok, True, cv2.__version__, remedy)


def check_disk() -> Check:
    """Free space in the working directory, where results go by default."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / GIGABYTE:.1f} GB free in {Path.cwd()}"
    return Check("disk", free >= DISK_NEEDED, True, found, "free some, or give --out elsewhere")


def check_memory() -> Check:
    """Main memory, where the system tells its size."""
    if not hasattr(os, "sysconf"):
        return Check("memory", True, True, f"not measured on {platform.system()}", "")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = f"{total / GIGABYTE:.1f} GB, {os.cpu_count()} cores"
    return Check("memory", total >= MEMORY_NEEDED, True, found, "2 GB are needed")


# --- optional ------------------------------------------------------------------------------------


def check_cuda() -> Check:
    """A GPU that torch can use."""
    remedy = "not needed: the default path runs on the CPU"
    if _attempt("torch"):
        return Check("GPU", False, False, "torch is missing", remedy)
    import torch

    if not torch.cuda.is_available():
        return Check("GPU", False, False, "torch sees none", remedy)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("GPU", True, False, ", ".join(names), remedy)


def check_viewer() -> Check:
    """The viewer's libraries, imported as the viewer would."""
    failures = [_attempt(name) for name in ("PySide6.QtWidgets", "pyqtgraph", "OpenGL.GL")]
    found = next((failure for failure in failures if failure), "PySide6, pyqtgraph, PyOpenGL")
    remedy = "pip install -c constraints.txt '.[viewer]', and the README's apt packages"
    return Check("viewer", not any(failures), False, found, remedy)


def check_web_viewer() -> Check:
    """The library that serves the viewer to browsers."""
    failure = _attempt("viser")
    remedy = "pip install -c constraints.txt '.[web]'"
    return Check("web viewer", not failure, False, failure or "viser", remedy)


def check_display() -> Check:
    """A screen to open a window on."""
    if platform.system() != "Linux":
        return Check("display", True, False, platform.system(), "")
    names = [name for name in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(name)]
    found = ", ".join(f"{name}={os.environ[name]}" for name in names)
    remedy = "log in to a desktop, or use xvfb-run"
    return Check("display", bool(names), False, found or "none is set", remedy)


def check_cameras() -> Check:
    """Video devices that may be opened; listed, never switched on."""
    if platform.system() != "Linux":
        return Check("cameras", True, False, f"not listed on {platform.system()}", "")
    devices = sorted(Path("/dev").glob("video*"))
    usable = [str(device) for device in devices if os.access(device, os.R_OK | os.W_OK)]
    if devices and not usable:
        found, remedy = f"no right to open {devices[0]}", "add yourself to the group video"
    else:
        found, remedy = "no /dev/video*", "connect one; data sets and videos need none"
    return Check("cameras", bool(usable), False, ", ".join(usable) or found, remedy)
