"""`slam bench suite`: what it finds, keeps, makes again, and what its tables say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CommandResult
from sequences import cut_sample

from slam.bench import suite as suite_module
from slam.bench.published import TABLES, published, sequence_order
from slam.bench.sequences import TITLES, find_sequences
from slam.bench.suite import Suite, run_suite

Command = Callable[..., CommandResult]

# Stands for `slam run`: fast, and notes that it ran. A sequence with a file `broken` fails.
FAKE_RUN = """
import json, sys
from dataclasses import replace
from pathlib import Path
from slam.config import load_config, to_yaml
arguments = sys.argv[1:]
out = Path(arguments[arguments.index("--out") + 1])
sets = [b for a, b in zip(arguments, arguments[1:]) if a == "--set"]
config = load_config(None, sets)
source = Path(config.source.path)
with open(source / "made", "a") as made:
    made.write(out.name + "\\n")
if (source / "slow").exists():
    import time
    time.sleep(60)
if (source / "broken").exists():
    print("slam: WARNING: hm", file=sys.stderr)
    sys.exit("slam: error: rgb.txt: wanted images | got none")
config = replace(config, run=replace(config.run, out=""))
(out / "config.yaml").write_text(to_yaml(config))
error = float((source / "error").read_text()) * int(out.name.split("-")[1][0])
ate = {"sim3_rmse": error, "se3_rmse": 2 * error, "scale": 1.5}
(out / "report.json").write_text(json.dumps({
    "frames": 40, "posed": 38, "ate": ate, "ate_causal": ate, "focal": None,
    "frames_per_second": {"loop": 20.0, "with_final_adjustment": 10.0},
    "peak_memory_mb": 300.0,
}))
"""


def made(folder: Path) -> list[str]:
    """The runs that were made of a sequence."""
    file = folder / "made"
    return file.read_text().split() if file.is_file() else []


def sequence(folder: Path, error: float) -> Path:
    """A folder that looks like a TUM sequence to those who do not open it."""
    folder.mkdir(parents=True)
    (folder / "rgb.txt").write_text("# colour images\n1.0 rgb/1.png\n")
    (folder / "error").write_text(str(error))
    return folder


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the suite are FAKE_RUN in their own process."""
    real = suite_module._command

    def command(*arguments: object) -> list[str]:
        line = real(*arguments)  # type: ignore[arg-type]
        assert line[1:4] == ["-m", "slam", "run"]
        return [sys.executable, "-c", FAKE_RUN, *line[4:]]

    monkeypatch.setattr(suite_module, "_command", command)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two good sequences in one data set, one that fails in another."""
    sequence(tmp_path / "tum" / "rgbd_dataset_freiburg1_xyz", 0.012)
    sequence(tmp_path / "tum" / "rgbd_dataset_freiburg1_desk", 0.03)
    (sequence(tmp_path / "more" / "rgbd_dataset_freiburg1_room", 1.0) / "broken").touch()
    return tmp_path


def plan(data: Path, **changes: object) -> Suite:
    folders = (data / "tum", data / "more")
    return Suite(folders, data / "out", **changes)  # type: ignore[arg-type]


@pytest.mark.usefixtures("fake_runs")
def test_every_sequence_runs_and_a_failure_is_shown_not_hidden(data: Path) -> None:
    said: list[str] = []
    result = run_suite(plan(data, runs=3, workers=2), said.append)
    assert len(result.outcomes) == 9
    assert [o.sequence for o in result.failures] == ["rgbd_dataset_freiburg1_room"] * 3
    assert sum("FAILED" in line for line in said) == 3
    text = (data / "out" / "suite.md").read_text()
    assert "rgb.txt: wanted images | got none (exit status 1)" in text
    assert "| rgbd_dataset_freiburg1_xyz | 3 | 40 | 95.0 % | 0.0240 | 0.0480 | 1.5 |" in text
    assert "| rgbd_dataset_freiburg1_room | 0, 3 FAILED | – | 0.0 % | – |" in text
    # medians 0.024 and 0.06; the failed sequence counts as not posed
    assert "| average | 6, 3 FAILED | 40 | 63.3 % | 0.0420 (of 2) |" in text
    groups = json.loads((data / "out" / "suite.json").read_text())["groups"]
    assert groups[0]["average"]["posed"] == pytest.approx(2 * 0.95 / 3)


@pytest.mark.usefixtures("fake_runs")
def test_published_numbers_stand_beside_ours(data: Path) -> None:
    run_suite(plan(data))
    text = (data / "out" / "suite.md").read_text()
    assert "| system | desk | room | xyz | average of these 3 |" in text
    assert "| **slam** | 0.0300 | – | 0.0120 | 0.0210 (of 2) |" in text
    mast3r = next(line for line in text.splitlines() if line.startswith("| MASt3R-SLAM |"))
    assert "| 0.016 | 0.061 | 0.009 | 0.0287 | 0.030 | not published |" in mast3r
    assert "every 2nd image" in mast3r
    orb = next(line for line in text.splitlines() if line.startswith("| ORB-SLAM3 (2 cores)"))
    assert "| – | – | 0.0092 | 0.0092 (of 1) | – | 99.7 % | measured by this project" in orb


@pytest.mark.usefixtures("fake_runs")
def test_what_is_finished_is_not_made_again(data: Path) -> None:
    xyz, desk = data / "tum/rgbd_dataset_freiburg1_xyz", data / "tum/rgbd_dataset_freiburg1_desk"
    room = data / "more/rgbd_dataset_freiburg1_room"
    run_suite(plan(data, runs=2))
    before = (data / "out" / "suite.md").read_text()
    (data / "out/tum-fr1" / xyz.name / "calibrated-2" / "report.json").unlink()
    # cut off: its folder is there, but under the name of one not finished
    shutil.move(data / "out/tum-fr1" / desk.name / "calibrated-1", data / "out/cut")
    shutil.move(data / "out/cut", data / "out/tum-fr1" / desk.name / "calibrated-1.partial")
    run_suite(plan(data, runs=2))
    assert made(xyz)[2:] == ["calibrated-2.partial"]
    assert made(desk)[2:] == ["calibrated-1.partial"]
    assert len(made(room)) == 4  # what failed is tried again
    assert (data / "out" / "suite.md").read_text() == before
    assert not list((data / "out/tum-fr1" / desk.name).glob("*.partial"))


@pytest.mark.usefixtures("fake_runs")
def test_changed_settings_are_made_again_and_other_modes_added(data: Path) -> None:
    xyz = data / "tum/rgbd_dataset_freiburg1_xyz"
    run_suite(plan(data))
    run_suite(plan(data, overrides=("tracking.huber=2.0",)))
    assert len(made(xyz)) == 2
    run_suite(plan(data, overrides=("tracking.huber=2",)))  # the same, written otherwise
    assert len(made(xyz)) == 2
    modes = ("calibrated", "uncalibrated", "realtime")
    result = run_suite(plan(data, overrides=("tracking.huber=2.0",), modes=modes))
    assert made(xyz)[2:] == ["uncalibrated-1.partial", "realtime-1.partial"]
    assert result.groups() == [("tum-fr1", mode) for mode in modes]
    config = (data / "out/tum-fr1" / xyz.name / "uncalibrated-1/config.yaml").read_text()
    assert "calibration: none" in config and "huber: 2.0" in config


@pytest.mark.usefixtures("fake_runs")
def test_runs_of_other_code_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_suite(plan(data))
    assert "other code" not in (data / "out" / "suite.md").read_text()
    monkeypatch.setattr(suite_module, "code_fingerprint", lambda: "changed")
    run_suite(plan(data))
    text = (data / "out" / "suite.md").read_text()
    kept = "tum-fr1/rgbd_dataset_freiburg1_desk/calibrated-1"
    assert f"Kept from other code than changed: {kept}," in text


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_finished_and_leaves_nothing_running(
    data: Path, which: signal.Signals
) -> None:
    slow = data / "tum/rgbd_dataset_freiburg1_xyz"  # after desk
    (slow / "slow").touch()
    script = (
        "import sys; from pathlib import Path; from slam.bench import suite; "
        "from test_bench_suite import FAKE_RUN, plan; real = suite._command; "
        "suite._command = lambda *a: [sys.executable, '-c', FAKE_RUN, *real(*a)[4:]]; "
        "suite.run_suite(plan(Path(sys.argv[1])))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(data)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: bool(made(slow)))
    start = time.monotonic()
    parent.send_signal(which)
    assert parent.wait(20) != 0
    assert time.monotonic() - start < 20  # not the minute that the run would take
    content = json.loads((data / "out" / "suite.json").read_text())
    assert [run["sequence"] for run in content["runs"]] == ["rgbd_dataset_freiburg1_desk"]
    assert not (data / "out/tum-fr1" / slow.name / "calibrated-1").exists()
    assert not running(str(slow))


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(argument: str) -> bool:
    """Whether a process has this text among its arguments."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in file.read_bytes():
                return True
        except OSError:  # it ended meanwhile
            continue
    return False


@pytest.mark.slow
def test_the_command_runs_the_system(run_cli: Command, tmp_path: Path) -> None:
    """Once for real: one good sequence, one with a calibration that is none."""
    cut_sample(tmp_path / "a" / "good", range(0, 32, 4))
    bad = cut_sample(tmp_path / "b" / "bad", range(4))
    (bad / "calibration.yaml").write_text("model: nonsense\n")
    arguments = ["bench", "suite", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out"]
    result = run_cli(*arguments, "--set", "flow.long_side=200", "--workers", "2")
    assert result.code == 1, result.err
    text = (tmp_path / "out" / "suite.md").read_text()
    assert "1 of 2 runs finished, 1 failed" in text
    assert "tum bad, calibrated-1: calibration" in text
    content = json.loads((tmp_path / "out" / "suite.json").read_text())
    rows = {row["sequence"]: row["figures"] for row in content["groups"][0]["sequences"]}
    assert rows["good"]["frames"] == 8
    assert 0 < rows["good"]["rate_loop"] < 1e4
    assert rows["bad"]["posed"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder; wanted a data set as downloaded"),
        (["."], ".: no sequence in it or below it; wanted mav0/cam0/data.csv (euroc)"),
        (["data", "--set", "tracking.hubr=1"], "tracking.hubr: unknown setting; did you mean"),
    ],
)
def test_bad_folders_are_one_line(
    run_cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "data":
        sequence(tmp_path / "data" / "desk", 0.0)
    result = run_cli("bench", "suite", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert result.err.startswith(f"slam: error: {message}")


@pytest.mark.parametrize("option", [["--runs", "0"], ["--mode", "fast"], ["--workers", "two"]])
def test_wrong_options_are_status_2(run_cli: Command, option: list[str]) -> None:
    result = run_cli("bench", "suite", ".", *option)
    assert result.code == 2
    assert "wanted" in result.err


# --- sequences -----------------------------------------------------------------------------------


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_sequences_are_found_in_every_layout(tmp_path: Path) -> None:
    touch(tmp_path / "EuRoC/MH_01_easy/mav0/cam0/data.csv")
    (tmp_path / "EuRoC/MH_01_easy/mav0/cam0/data").mkdir()
    for number in ("02", "01"):
        touch(tmp_path / f"7scenes/redkitchen/seq-{number}/frame-000000.color.png")
    touch(tmp_path / "kitti/sequences/00/times.txt", tmp_path / "kitti/sequences/00/image_0/0.png")
    touch(tmp_path / "eth3d/cables_1/rgb.txt", tmp_path / "eth3d/cables_1/calibration.txt")
    sequence(tmp_path / "tum/rgbd_dataset_freiburg2_desk", 0.0)
    office = sequence(tmp_path / "icl/office_traj0", 0.0)
    (office / "rgb.txt").write_text("0 rgb/0.png\n")
    touch(tmp_path / "holiday/1.jpg")  # a folder of images is no data set
    found = {f.path.relative_to(tmp_path).as_posix(): f for f in find_sequences([tmp_path])}
    assert {path: (f.benchmark, f.name, f.short) for path, f in found.items()} == {
        "EuRoC/MH_01_easy": ("euroc", "MH_01_easy", "MH01"),
        "7scenes/redkitchen/seq-01": ("7scenes", "redkitchen-seq-01", "kitchen"),
        "7scenes/redkitchen/seq-02": ("7scenes", "redkitchen-seq-02", "kitchen"),
        "kitti/sequences/00": ("kitti", "00", "00"),
        "eth3d/cables_1": ("eth3d", "cables_1", "cables_1"),
        "tum/rgbd_dataset_freiburg2_desk": ("tum-fr2", "rgbd_dataset_freiburg2_desk", "desk"),
        "icl/office_traj0": ("icl", "office_traj0", "of-kt0"),
    }
    assert {f.benchmark for f in found.values()} <= set(TITLES)


def test_a_sequence_given_twice_counts_once_and_two_of_one_name_are_refused(
    tmp_path: Path,
) -> None:
    first = sequence(tmp_path / "a" / "desk", 0.0)
    assert len(find_sequences([tmp_path, first])) == 1
    sequence(tmp_path / "b" / "desk", 0.0)
    with pytest.raises(
        ValueError, match=r"wanted one sequence named desk, got another at .*a/desk"
    ):
        find_sequences([tmp_path])


# --- published numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(("benchmark", "calibrated"), [(t[0], t[1]) for t in TABLES])
def test_published_averages_are_those_of_their_rows(benchmark: str, calibrated: bool) -> None:
    rows = published(benchmark, calibrated)
    assert rows
    order = sequence_order(benchmark)
    for row in rows:
        assert row.source and row.protocol
        if order and row.average is not None and len(row.ate) == len(order):
            mean = sum(row.ate.values()) / len(order)
            assert mean == pytest.approx(row.average, rel=0.04, abs=0.0011), row.system
