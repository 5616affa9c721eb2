"""Fixtures that all tests share: devices, real data, the command in and out of process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from chromium import Chromium, chromium, executable

import slam
from slam.cli import main
from slam.viewer import why_not

if TYPE_CHECKING:
    from slam.viewer.window import Window

PACKAGE_PARENT = Path(slam.__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command left behind."""

    code: int  # exit status
    out: str  # standard output
    err: str  # standard error


def expect_one_line(result: CommandResult, *words: str) -> None:
    """Bad input: exit status 2, and one line that says all these words."""
    assert result.code == 2, result
    assert "Traceback" not in result.err
    line = [text for text in result.err.splitlines() if text.startswith("slam: error:")]
    assert len(line) == 1, result.err
    for word in words:
        assert word in line[0], line[0]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; CUDA is skipped where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU on this machine")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def slam_data() -> Path:
    """The folder of real sequences, from the environment variable SLAM_DATA."""
    folder = os.environ.get("SLAM_DATA")
    if not folder:
        pytest.skip("SLAM_DATA is not set: name the folder of the test sequences there")
    if not Path(folder).is_dir():
        pytest.fail(f"SLAM_DATA={folder} is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def weights(slam_data: Path) -> Path:
    """RAFT-small's published weights, beside the folder of real sequences."""
    path = slam_data.parent / "weights" / "raft-small" / "raft-small.pth"
    if not path.is_file():
        pytest.skip(f"no weights of RAFT-small at {path}")
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For many small problems, where handing them round costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _log_level_of_its_own() -> None:
    """A command's -q or -v is not for the next test."""
    logging.getLogger("slam").setLevel(logging.NOTSET)


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """`run_cli("eval", path, ...)` runs the command in this process."""

    def run(*arguments: str | Path) -> CommandResult:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse: --help, or wrong arguments
            code = stop.code if isinstance(stop.code, int) else 1
        return CommandResult(code, *capsys.readouterr())

    return run


@pytest.fixture
def run_cli_process() -> Callable[..., CommandResult]:
    """`run_cli_process("doctor", cwd=...)` runs `python -m slam` as a user would."""

    def run(*arguments: str | Path, cwd: Path | None = None) -> CommandResult:
        path = os.pathsep.join([str(PACKAGE_PARENT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-m", "slam", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def app() -> Any:
    """Qt's application; skips where there is no display with OpenGL."""
    if reason := why_not():
        pytest.skip(reason)
    from slam.viewer.application import application

    return application()


@pytest.fixture
def window(app: Any) -> Iterator[Window]:
    """An empty one of files, 800 x 600, the map on black."""
    from slam.viewer.window import Window

    made = Window("test", None, 0.0)
    made.view.background = (0.0, 0.0, 0.0)
    made.resize(900, 700)
    made.show()
    app.processEvents()
    yield made
    made.close()
    made.deleteLater()
    app.processEvents()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium; skips where there is none."""
    if executable() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started
