"""What an installed package holds: presets and calibrations where slam/data.py looks for them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from slam.data import data_folder, data_names, data_path

CHECKOUT = Path(__file__).resolve().parents[1]
KINDS = {"configs": "configs", "calibrations": "datasets/calibrations"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_kind_is_found_by_name(kind: str) -> None:
    names = data_names(kind)
    assert names == sorted(path.stem for path in (CHECKOUT / KINDS[kind]).glob("*.yaml"))
    for name in names:
        assert data_path(kind, name).read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("name", ["../pyproject", "/etc/passwd", "", "default.yaml"])
def test_only_a_name_is_taken(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="among the configs"):
        data_path("configs", name)


def test_constraints_pin_every_dependency_exactly() -> None:
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for wanted in project["dependencies"] + extras["viewer"] + extras["web"] + extras["dev"]:
        name = wanted.split(">=")[0].split("[")[0].lower()
        assert name in pinned, f"{name} is not pinned in constraints.txt"


def build_tools_missing() -> str:
    """Why the package cannot be built here without a network; empty where it can."""
    tools = ("scikit_build_core", "nanobind", "pip")
    missing = [name for name in tools if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package installed from the checkout, not editable, CPU only."""
    if build_tools_missing():
        pytest.skip(build_tools_missing())
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-build-isolation", "--no-deps", "--quiet", "--target", str(target)]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(CHECKOUT)],
        env={**os.environ, "SLAM_CUDA": "OFF"},
        check=True,
    )
    return target


def in_installed(target: Path, cwd: Path, *arguments: str) -> str:
    """Output of Python run outside the checkout, with the installed package and its dependencies.

    Without site (-S): the hook of an editable install would come first.
    """
    libraries = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *libraries])},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_an_installed_package_carries_its_data(installed: Path, tmp_path: Path) -> None:
    for kind in KINDS:
        script = f"from slam.data import *; print(data_folder({kind!r}), *data_names({kind!r}))"
        folder, *names = in_installed(installed, tmp_path, "-c", script).split()
        assert Path(folder) == installed / "slam" / "_data" / kind
        assert names == data_names(kind)
        for name in names:
            content = (Path(folder) / f"{name}.yaml").read_bytes()
            assert content == (data_folder(kind) / f"{name}.yaml").read_bytes()


@pytest.mark.slow
def test_an_installed_package_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    script = "import slam, slam.config as c, _slam_native as n; c.load_config('default')\n"
    script += "print(slam.__file__, n.__file__, sep='\\n')"
    for line in in_installed(installed, tmp_path, "-c", script).splitlines():
        assert Path(line).is_relative_to(installed)
    assert in_installed(installed, tmp_path, "-m", "slam", "--version").startswith("slam ")


@pytest.mark.slow
def test_an_installed_package_names_version_licence_and_command(installed: Path) -> None:
    (found,) = importlib.metadata.distributions(name="slam-dense", path=[str(installed)])
    assert f'"{found.version}"' in (CHECKOUT / "slam" / "__init__.py").read_text(encoding="utf-8")
    assert found.metadata["License-Expression"] == "Apache-2.0"
    (command,) = found.entry_points
    assert (command.name, command.value) == ("slam", "slam.cli:main")


@pytest.mark.slow
def test_the_sample_and_the_tests_are_not_installed(installed: Path) -> None:
    names = {path.name for path in installed.iterdir()}
    assert not names & {"datasets", "tests", "configs", "cuda_ext"}
