"""The command: what its arguments become, and that whatever goes wrong is one clear line."""

from __future__ import annotations

import errno
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import slam
from slam import doctor
from slam.cli import main
from slam.config import Config

if TYPE_CHECKING:
    from tests.conftest import CommandResult

Run = Callable[..., "CommandResult"]


class FakeResult:
    """Stands for the result of a run."""

    exit_code = 3

    def summary(self) -> str:
        return "12 frames"


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations that `slam run` hands to the system, which is not started."""
    seen: list[Config] = []

    def run(config: Config) -> FakeResult:
        seen.append(config)
        return FakeResult()

    replace_run(monkeypatch, run)
    return seen


def replace_run(monkeypatch: pytest.MonkeyPatch, run: Callable[[Config], Any]) -> None:
    module = types.ModuleType("slam.run")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slam.run", module)


def test_run_hands_every_option_to_the_system(run_cli: Run, configs: list[Config]) -> None:
    options = "--format tum --calib none --fov 70 --start 3 --end 9 --stride 2 --threads 1"
    result = run_cli("run", "some/desk", "--out", "x y", "--realtime", *options.split())
    assert (result.code, result.out) == (3, "12 frames\n")
    (config,) = configs
    source, run = config.source, config.run
    assert (source.path, source.format, source.calibration) == ("some/desk", "tum", "none")
    assert (source.fov, source.start, source.end, source.stride) == (70.0, 3, 9, 2)
    assert (run.out, run.realtime, run.threads) == ("x y", True, 1)


def test_run_without_options_changes_only_the_source(run_cli: Run, configs: list[Config]) -> None:
    run_cli("run", "1e3")
    assert configs[0].source.path == "1e3"
    assert configs[0].run == Config().run


def test_options_win_over_the_file_and_set_over_options(
    run_cli: Run, configs: list[Config], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("source: {stride: 2, start: 5}\nrun: {realtime: true}")
    run_cli(
        "run", "a", "--config", path, "--stride", "3", "--start", "6", "--set", "source.start=7"
    )
    assert (configs[0].source.stride, configs[0].source.start) == (3, 7)
    assert configs[0].run.realtime


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "source.strid=2"], "source.strid: unknown setting; did you mean source.stride?"),
        (["--fov", "500"], "source.fov: wanted a number from 10 to 150 deg, got 500.0"),
        (["--fov", "nan"], "source.fov: wanted a number from 10 to 150 deg, got"),
        (["--stride", "0"], "source.stride: wanted a whole number of at least 1 frames, got 0"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["--config", "nowhere"], "no 'nowhere' among the configs; there are: "),
        (["--config", "."], "no '.' among the configs"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(
    run_cli: Run, configs: list[Config], arguments: list[str], message: str
) -> None:
    result = run_cli("run", "a", *arguments)
    assert (result.code, result.out, configs) == (2, "", [])
    assert result.err.startswith(f"slam: error: {message}")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("first line\nsecond line"), "first line second line"),
        (FileNotFoundError("no images in x"), "no images in x"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), "x: Not a directory"),
        (PermissionError(errno.EACCES, "Permission denied", "y"), "y: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "[Errno 28] No space left on device"),
        (ValueError(), "ValueError"),
    ],
)
def test_bad_input_is_one_line_without_traceback(
    run_cli: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def run(_: Config) -> None:
        raise error

    replace_run(monkeypatch, run)
    result = run_cli("run", "a")
    assert (result.code, result.err) == (2, f"slam: error: {message}\n")


def test_an_interrupt_is_status_130(run_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: Config) -> None:
        raise KeyboardInterrupt

    replace_run(monkeypatch, run)
    result = run_cli("run", "a")
    assert (result.code, result.err) == (130, "slam: interrupted\n")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: Config) -> None:
        raise RuntimeError("a bug")

    replace_run(monkeypatch, run)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["run", "a"])


@pytest.mark.parametrize(
    "arguments", [[], ["run"], ["fly"], ["run", "a", "--fov", "wide"], ["sample"], ["eval", "a"]]
)
def test_wrong_arguments_are_status_2(run_cli: Run, arguments: list[str]) -> None:
    result = run_cli(*arguments)
    assert result.code == 2
    assert "error: " in result.err.splitlines()[-1]


@pytest.mark.parametrize("text", ["nan", "-1", "inf"])
def test_eval_wants_a_time_to_match_within(run_cli: Run, text: str) -> None:
    truth = Path(slam.__file__).parents[1] / "datasets" / "sample" / "groundtruth.txt"
    result = run_cli("eval", truth, truth, f"--max-dt={text}")
    assert (result.code, result.out) == (2, "")
    assert result.err == f"slam: error: max_dt: wanted a time of at least 0 s, got {float(text)}\n"


def test_eval_wants_a_picture_it_can_draw_before_it_works(run_cli: Run, tmp_path: Path) -> None:
    result = run_cli("eval", "nowhere", "nowhere", "--plot", tmp_path / "errors.xyz")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "--plot: wanted a file name that ends in .png, got " in result.err


def test_eval_does_not_call_a_free_scale_an_error(run_cli: Run, tmp_path: Path) -> None:
    truth = Path(slam.__file__).parents[1] / "datasets" / "sample" / "groundtruth.txt"
    rows = [x.split() for x in truth.read_text().splitlines() if x and not x.startswith("#")]
    half = tmp_path / "half.txt"
    half.write_text(
        "\n".join(" ".join([t, *(str(float(x) / 2) for x in p[:3]), *p[3:]]) for t, *p in rows)
    )
    result = run_cli("eval", half, truth)
    (line,) = [line for line in result.out.splitlines() if line.startswith("scale")]
    assert line.split()[:4] == ["scale", "2", "(true", "/"]
    assert "100 % from metric; a monocular run is free to have any" in line
    assert "error" not in line


@pytest.mark.parametrize("command", ["run", "eval", "bench", "sample", "doctor", "download"])
def test_every_command_has_help(run_cli: Run, command: str) -> None:
    result = run_cli(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"usage: slam {command}")


def test_help_and_version_load_neither_torch_nor_numpy() -> None:
    script = "import sys, slam.cli; print(sorted({'torch', 'numpy', 'cv2'} & set(sys.modules)))"
    path = str(Path(slam.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=path, check=True
    )
    assert done.stdout == "[]\n"


def test_the_module_runs_as_the_command(run_cli_process: Run, tmp_path: Path) -> None:
    result = run_cli_process("--version", cwd=tmp_path)
    assert (result.code, result.out) == (0, f"slam {slam.__version__}\n")


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    script = (
        "import sys, slam.doctor as d, slam.cli as c\n"
        "d.run_checks = lambda: []\n"
        "d.format_checks = lambda checks: 'line\\n' * 100000\n"
        "sys.exit(c.main(['doctor']))\n"
    )
    command = [
        "bash",
        "-c",
        '"$0" -c "$1" | head -1; exit ${PIPESTATUS[0]}',
        sys.executable,
        script,
    ]
    path = str(Path(slam.__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, cwd=path, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (141, "line\n", "")


def check(*, ok: bool, required: bool) -> doctor.Check:
    return doctor.Check("thing", ok, required, "found this", "do that")


@pytest.mark.parametrize(
    ("ok", "required", "code", "line"),
    [
        (True, True, 0, "ok       thing: found this"),
        (False, False, 0, "missing  thing: found this; do that"),
        (False, True, 1, "MISSING  thing: found this; do that"),
    ],
)
def test_doctor_fails_only_for_what_a_run_needs(
    run_cli: Run,
    monkeypatch: pytest.MonkeyPatch,
    ok: bool,
    required: bool,
    code: int,
    line: str,
) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda: [check(ok=ok, required=required)])
    result = run_cli("doctor")
    assert result.code == code
    assert result.out.splitlines()[0] == line


def test_doctor_reports_a_missing_module_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # makes `import cv2` fail
    missing = doctor.check_opencv()
    assert not missing.ok
    assert "cv2" in missing.found
    assert "pip install" in missing.remedy


def test_doctor_checks_this_machine_in_one_line_each() -> None:
    checks = doctor.run_checks()
    assert len(doctor.format_checks(checks).splitlines()) == len(checks) + 1
    assert next(one for one in checks if one.name == "Python").ok
    assert next(one for one in checks if one.name == "torch").ok
