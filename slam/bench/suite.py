"""Whole data sets: each run in its own process, its results kept, the tables rewritten."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import _slam_native

from slam.bench.processes import Processes
from slam.bench.results import Outcome, SuiteResult
from slam.bench.sequences import Recorded, find_sequences
from slam.bench.suite_table import format_suite
from slam.config import Config, load_config, to_yaml
from slam.trajectory import write_atomically

log = logging.getLogger(__name__)

MODES = {  # name → settings of that mode
    "calibrated": (),
    "uncalibrated": ("source.calibration=none",),
    "realtime": ("run.realtime=true",),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
CODE = (".py", ".so", ".pyd", ".dylib")
RECORD = "bench.json"  # beside report.json: how the run was made
LOG = "log.txt"


@dataclass(frozen=True, slots=True)
class Suite:
    """What to run."""

    folders: tuple[Path, ...]  # data sets
    out: Path  # OUT/<benchmark>/<sequence>/<mode>-<k>/ gets each run
    modes: tuple[str, ...] = ("calibrated",)
    runs: int = 1  # of each sequence and mode
    workers: int = 1  # runs at once
    config: str | None = None  # YAML file or preset
    overrides: tuple[str, ...] = ()  # section.key=value


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the suite."""

    sequence: Recorded
    mode: str
    number: int  # from 1
    folder: Path  # of its results
    overrides: tuple[str, ...]  # on the suite's config file
    config: Config  # what it resolves to
    settings: str  # config.yaml as the run writes it: the same file = the same run


def run_suite(suite: Suite, say: Callable[[str], None] = log.info) -> SuiteResult:
    """Runs what is not there yet; writes OUT/suite.md and OUT/suite.json after every run.

    A run is there when its report is and its config.yaml is what it would be now. It is written
    into a folder `<mode>-<k>.partial` first, so that one that was cut off is made again. A run that
    failed is tried again by the next suite. Ctrl-C and SIGTERM end the runs under way and keep
    those that are finished.

    Args: say: is given a line for each run.
    Raises ValueError or FileNotFoundError for folders without sequences and for wrong settings.
    """
    sequences = find_sequences(suite.folders)
    runs = list(_runs(suite, sequences))
    code = code_fingerprint()
    done = {run.folder: _kept(run, suite) for run in runs if _is_finished(run)}
    if suite.workers > 1 and "realtime" in suite.modes:
        log.warning("real time with %d workers: they take each other's CPU", suite.workers)
    if done:
        say(f"{len(done)} of {len(runs)} runs are there already")

    def write() -> SuiteResult:
        outcomes = tuple(done[run.folder] for run in runs if run.folder in done)
        result = SuiteResult(
            outcomes, len(runs), suite.overrides, suite.config, suite.workers, code
        )
        content = json.dumps(result.to_dict(), indent=1)
        write_atomically(suite.out / "suite.json", content.encode())
        write_atomically(suite.out / "suite.md", format_suite(result).encode())
        return result

    suite.out.mkdir(parents=True, exist_ok=True)
    write()
    missing = [run for run in runs if run.folder not in done]
    processes = Processes()
    with (
        _ended_by_sigterm(),
        processes,
        ThreadPoolExecutor(suite.workers, thread_name_prefix="suite") as pool,
    ):
        futures = {pool.submit(_make, run, suite, code, processes): run for run in missing}
        try:
            for future in as_completed(futures):
                outcome = done[futures[future].folder] = future.result()
                write()
                say(f"[{len(done)}/{len(runs)}] {outcome.in_words()}")
        except BaseException:  # Ctrl-C: nothing new starts, what runs ends
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end_all()
            raise
    return write()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends a `with` block as Ctrl-C does; nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _runs(suite: Suite, sequences: list[Recorded]) -> Iterator[Run]:
    for mode in suite.modes:
        for sequence in sequences:
            overrides = (f"source.path={sequence.path}", *MODES[mode], *suite.overrides)
            config = load_config(suite.config, overrides)
            settings = to_yaml(replace(config, run=replace(config.run, out="")))
            place = suite.out / sequence.benchmark / sequence.name
            for number in range(1, suite.runs + 1):
                folder = place / f"{mode}-{number}"
                yield Run(sequence, mode, number, folder, overrides, config, settings)


def _is_finished(run: Run) -> bool:
    files = [run.folder / name for name in ("report.json", "config.yaml", RECORD)]
    return all(f.is_file() for f in files) and files[1].read_text("utf-8") == run.settings


def _kept(run: Run, suite: Suite) -> Outcome:
    """A finished run, from its folder."""
    report = json.loads((run.folder / "report.json").read_text("utf-8"))
    record = json.loads((run.folder / RECORD).read_text("utf-8"))
    return _outcome(run, suite, report, None, record)


def _outcome(
    run: Run,
    suite: Suite,
    report: dict[str, Any] | None,
    error: str | None,
    record: dict[str, Any],
) -> Outcome:
    return Outcome(
        benchmark=run.sequence.benchmark,
        sequence=run.sequence.name,
        short=run.sequence.short,
        mode=run.mode,
        number=run.number,
        folder=run.folder.relative_to(suite.out).as_posix(),
        report=report,
        error=error,
        seconds=record["seconds"],
        code=record["code"],
    )


def _make(run: Run, suite: Suite, code: str, processes: Processes) -> Outcome:
    """Makes one run, in its own process."""
    partial = run.folder.with_name(run.folder.name + ".partial")
    for old in (partial, run.folder):
        shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    start = time.monotonic()
    status = processes.run(_command(run, suite, partial), _environment(run), partial / LOG)
    record = {
        "seconds": time.monotonic() - start,
        "code": code,
        "workers": suite.workers,
        "settings_sha256": hashlib.sha256(run.settings.encode()).hexdigest(),
    }
    error = _failure(status, partial)
    if error is not None:
        return _outcome(run, suite, None, error, record)
    (partial / RECORD).write_text(json.dumps(record), "utf-8")
    partial.rename(run.folder)
    return _kept(run, suite)


def _command(run: Run, suite: Suite, folder: Path) -> list[str]:
    config = [] if suite.config is None else ["--config", suite.config]
    settings = [part for override in run.overrides for part in ("--set", override)]
    path = str(run.sequence.path)
    return [sys.executable, "-m", "slam", "run", path, "--out", str(folder), *config, *settings]


def _environment(run: Run) -> dict[str, str]:
    threads = str(run.config.run.threads)
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, threads)}


def _failure(status: int, folder: Path) -> str | None:
    """Why a run left no result, in one line; None where it left one."""
    if status == 0 and (folder / "report.json").is_file():
        return None
    lines = [x for x in (folder / LOG).read_text("utf-8", errors="replace").splitlines() if x]
    said = [line for line in lines if line.startswith("slam: error: ")] or lines
    words = said[-1].removeprefix("slam: error: ").strip() if said else "it said nothing"
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{words} ({how})"


def code_fingerprint() -> str:
    """A short hash of the package's code and of the native module: runs of other code differ."""
    package = Path(__file__).resolve().parents[1]
    files = sorted(path for path in package.rglob("*") if path.suffix in CODE)
    digest = hashlib.sha256()
    for path in [*files, Path(inspect.getfile(_slam_native))]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
