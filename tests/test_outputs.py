"""Files that cannot be written: all others are there, and one line says which are not and why."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import CommandResult, expect_one_line
from sequences import OUTPUTS, cut_sample

from slam.backend import Backend
from slam.frame import Keyframe
from slam.output_files import Files
from slam.session import JOURNAL

Command = Callable[..., CommandResult]
SMALL = ("--set", "flow.long_side=160")


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """A write beyond so many bytes of a file fails, as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_what_is_too_large_for_the_disk_is_named_and_all_else_is_there(
    tmp_path: Path, run_cli: Command
) -> None:
    source, out = cut_sample(tmp_path / "cut", range(40)), tmp_path / "out"
    with limited_files(12_000):
        result = run_cli("run", source, "--out", out, *SMALL, "--set", "run.journal=false")
    missing = OUTPUTS - {path.name for path in out.iterdir()}
    assert {"map.ply", "report.png"} <= missing and "trajectory.txt" not in missing
    expect_one_line(result, str(out), "File too large", *missing)
    assert not any(name in result.err.split("could not write")[1] for name in OUTPUTS - missing)
    assert {path.name for path in out.iterdir()} == OUTPUTS - missing  # no temporary file is left


@pytest.mark.parametrize("taken", [["trajectory.txt"], ["config.yaml", "report.json"]], ids=len)
def test_a_folder_in_a_files_place_costs_that_file_only(
    tmp_path: Path, run_cli: Command, taken: list[str]
) -> None:
    out = tmp_path / "out"
    for name in taken:
        (out / name).mkdir(parents=True)
    source = cut_sample(tmp_path / "cut", range(40))
    result = run_cli("run", source, "--out", out, *SMALL)
    expect_one_line(result, f"could not write {', '.join(taken)} (Is a directory)")
    written = {path.name for path in out.iterdir() if path.is_file()}
    assert written == OUTPUTS - set(taken) | {JOURNAL}
    for name in taken:
        (out / name).rmdir()
    assert run_cli("resume", out, "-q").code == 0  # nothing had to be computed in vain
    assert {path.name for path in out.iterdir()} == OUTPUTS


def test_what_broke_the_run_comes_before_what_could_not_be_written(
    tmp_path: Path,
    run_cli: Command,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(backend: Backend, keyframes: list[Keyframe], number: int) -> None:
        raise ValueError("the solver broke")

    monkeypatch.setattr(Backend, "step", broken)
    (tmp_path / "out" / "map.jpg").mkdir(parents=True)
    source = cut_sample(tmp_path / "cut", range(40))
    result = run_cli("run", source, "--out", tmp_path / "out", *SMALL)
    expect_one_line(result, "the solver broke")
    assert "could not write map.jpg" in caplog.text


def test_files_of_one_reason_are_named_together(tmp_path: Path) -> None:
    files = Files(tmp_path)
    assert files.complaint() == ""
    for name, why in (("a", "full"), ("b", "forbidden"), ("c", "full")):
        with files.writing(name) as path:
            assert path == tmp_path / name
            raise OSError(1, why)
    with files.writing("d"):
        pass
    assert "could not write a, c (full); b (forbidden);" in files.complaint()
    with pytest.raises(ValueError), files.writing("e"):
        raise ValueError  # no matter of the disk


def test_only_what_an_earlier_run_lists_as_its_own_is_removed(tmp_path: Path) -> None:
    names = ["map-2.slam", "trajectory-2.txt", "map-3.slam", "map-2025.slam", "trajectory-7.txt"]
    for name in names:
        (tmp_path / name).touch()
    parts = [
        {"trajectory": "trajectory.txt", "map": "map.slam"},
        {"trajectory": "trajectory-2.txt", "map": "map-2.slam"},
        {"trajectory": "../trajectory-7.txt", "map": "map-3.slam"},
    ]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"submaps": parts}))
    Files(tmp_path).remove_earlier(["trajectory-2.txt"], keep=str(tmp_path / "map-3.slam"))
    left = {"trajectory-2.txt", "map-3.slam", "map-2025.slam", "trajectory-7.txt", "report.json"}
    assert {p.name for p in tmp_path.iterdir()} == left
    report.write_text("[3]")
    Files(tmp_path).remove_earlier([], keep="")
    assert {p.name for p in tmp_path.iterdir()} == left
