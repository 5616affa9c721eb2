"""A module imports only from modules below it: the order of the architecture, enforced."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import slam

# From the ground up. A folder is one entry: inside of it anything may import anything.
ORDER = [
    "data",
    "settings",
    "one_pose",
    "lie",
    "least_squares",
    "camera",
    "pointmap_settings",
    "flow_settings",
    "live_settings",
    "retrieval_settings",
    "focal",
    "config",
    "trajectory",
    "submaps",
    "frame",
    "timing",
    "memory",
    "paging",
    "kernels",
    "rendering",
    "sources",
    "networks",
    "matching",
    "predictors",
    "measurement",
    "shutter",
    "tracking",
    "pointmap_residuals",
    "pointmap_tracking",
    "mapping",
    "pointmap_fusion",
    "optimization",
    "descriptor_space",
    "vocabulary",
    "inverted_file",
    "retrieval",
    "checkpoints",
    "initialization",
    "changes",
    "rescaling",
    "graph",
    "corners",
    "places",
    "loops",
    "submap_search",
    "relocalization",
    "motion_filter",
    "recovery",
    "startup",
    "fresh_start",
    "standing",
    "refinement",
    "frame_pose",
    "whereabouts",
    "frontend",
    "pointmap_attempt",
    "pointmap_frontend",
    "edges",
    "pointmap_edges",
    "adjustment",
    "adjuster",
    "backend",
    "self_calibration",
    "pointmap_backend",
    "export",
    "map_parts",
    "mapcloud",
    "densification",
    "saved_map",
    "exports",
    "record_file",
    "journal_records",
    "journal",
    "session",
    "inputs",
    "system",
    "merging",
    "observer",
    "evaluation",
    "output_files",
    "submap_outputs",
    "outputs",
    "playing",
    "run",
    "localization",
    "viewer",
    "calibration",
    "arguments",
    "map_arguments",
    "live_arguments",
    "calibration_arguments",
    "bench",
    "doctor",
    "download",
    "cli",
    "__main__",
]
PACKAGE = Path(slam.__file__).parent
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path != Path("__init__.py")]


def layer(path: Path) -> str:
    """The entry of ORDER that a file belongs to."""
    return path.parts[0].removesuffix(".py")


def absolute_imports(source: str, package: list[str]) -> set[str]:
    """Dotted names that a file imports; `from a import b` counts as a.b; relative ones resolved.

    Args:
        package: names of the packages that the file lies in, outermost first.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def layers_used(source: str, path: Path) -> set[str]:
    """Entries of ORDER that a file of the package imports, its own left out."""
    names = absolute_imports(source, ["slam", *path.parts[:-1]])
    used = {name.split(".")[1] for name in names if name.startswith("slam.")}
    used -= {layer(path)}
    return {name for name in used if not name.startswith("__") or name == "__main__"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_module_imports_only_from_below(path: Path) -> None:
    assert layer(path) in ORDER, f"{path}: a new module needs its place in ORDER"
    below = ORDER[: ORDER.index(layer(path))]
    used = layers_used((PACKAGE / path).read_text(encoding="utf-8"), path)
    assert used <= set(below), f"{path} imports from above or beside: {sorted(used - set(below))}"


def test_the_package_itself_imports_nothing() -> None:
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    assert absolute_imports(source, ["slam"]) == set()


@pytest.mark.parametrize(
    ("source", "path", "used"),
    [
        ("import slam.cli", "graph.py", {"cli"}),
        ("from slam import system", "graph.py", {"system"}),
        ("from slam.viewer.window import Window", "graph.py", {"viewer"}),
        ("from . import system", "graph.py", {"system"}),
        ("from ..system import Slam", "viewer/window.py", {"system"}),
        ("from .points import Cloud", "viewer/window.py", set()),
        ("def f():\n    from slam.cli import main", "graph.py", {"cli"}),
        ("from slam import __version__\nimport numpy", "graph.py", set()),
    ],
)
def test_every_form_of_import_is_seen(source: str, path: str, used: set[str]) -> None:
    assert layers_used(source, Path(path)) == used
