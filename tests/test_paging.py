"""Values that page to a file: the same to the last bit, within a budget, whatever the disk does."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CommandResult, expect_one_line
from four_keyframes import GRID, MAPPING, NONE, SETTINGS, measurements, start
from sequences import cut_sample
from synthetic import CAMERA
from test_outputs import limited_files
from torch import Tensor

from slam import mapcloud, paging
from slam.arguments import megabytes
from slam.config import Config, load_config
from slam.frame import FusedPointmap, InverseDepth
from slam.lie import se3_exp
from slam.mapping import covisibility, may_share
from slam.optimization import BundleAdjustment, bundle_adjust, dense_parts
from slam.paging import Pages
from slam.run import run

Command = Callable[..., CommandResult]
LEAST = 1.0  # MB that a store of these tests holds


@dataclass(frozen=True, slots=True)
class Mixed:
    """Large and small fields of all kinds."""

    name: str
    floats: Tensor
    halves: Tensor
    steps: Tensor
    words: np.ndarray
    little: Tensor
    nothing: Tensor | None = None


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has far more than any budget: stores hold as little as they may."""
    monkeypatch.setattr(paging, "resident_memory", lambda: 1e6)
    monkeypatch.setattr(paging, "LEAST", LEAST)
    monkeypatch.setattr(paging, "LOOK", 0.05)
    monkeypatch.setattr(dense_parts, "PART", 1e5)


def depths(count: int, size: int = 5000) -> list[InverseDepth]:
    """Different ones of 8 * size bytes."""
    return [InverseDepth(torch.rand(size), torch.full((size,), float(n))) for n in range(count)]


def equal(one: InverseDepth, other: InverseDepth) -> bool:
    """To the last bit."""
    return torch.equal(one.value, other.value) and torch.equal(one.information, other.information)


# --- values --------------------------------------------------------------------------------------


def test_without_a_budget_a_value_is_itself() -> None:
    value = depths(1)[0]
    assert Pages().keep(value) is value
    assert Pages().unlimited and not Pages(100.0).unlimited


def test_all_kinds_of_fields_come_back_to_the_last_bit(scarce: None, tmp_path: Path) -> None:
    pages, grid = Pages(1.0, tmp_path), torch.rand(40, 60, 3)
    value = Mixed(
        name="a",
        floats=grid[:, ::2],  # not contiguous
        halves=torch.rand(999).to(torch.bfloat16),
        steps=torch.randint(-9, 9, (700, 3), dtype=torch.int16),
        words=np.arange(4000, dtype=np.uint64).reshape(2000, 2)[::2],
        little=torch.ones(3),
    )
    kept = pages.keep(value)
    others = [pages.keep(d) for d in depths(100)]
    assert pages.written > 0 and isinstance(kept, Mixed) and pages.keep(kept) is kept
    assert (kept.name, kept.little, kept.nothing) == ("a", value.little, None)
    for name in ("floats", "halves", "steps"):
        here, there = getattr(value, name), getattr(kept, name)
        assert torch.equal(here, there) and here.dtype == there.dtype
    assert np.array_equal(kept.words, value.words) and kept.words.dtype == np.uint64
    assert len(others) == 100


def test_what_is_made_of_a_kept_value_is_a_plain_one(scarce: None, tmp_path: Path) -> None:
    kept = Pages(1.0, tmp_path).keep(FusedPointmap(torch.rand(30, 40, 3), torch.rand(30, 40), 4))
    other = replace(kept, count=5)
    assert type(other) is FusedPointmap and type(kept) is not FusedPointmap
    assert torch.equal(other.X_C, kept.X_C) and torch.equal(
        kept.mean.confidence * 4, kept.confidence
    )


def test_values_without_large_tensors_stay_as_they_are(scarce: None) -> None:
    value = InverseDepth(torch.ones(3), torch.ones(3))
    assert Pages(1.0).keep(value) is value and Pages(1.0).keep(None) is None


# --- the store -----------------------------------------------------------------------------------


def test_no_more_is_held_than_may_be_and_all_can_be_read(scarce: None, tmp_path: Path) -> None:
    pages, values = Pages(1.0, tmp_path), depths(200)  # 8 MB
    kept = [pages.keep(d) for d in values]
    assert pages.held <= LEAST and 7 < pages.written < 8.5
    for n in random.Random(0).sample(range(200), 200):
        assert equal(kept[n], values[n])
        assert pages.held <= LEAST
    assert pages.written < 8.5  # what was written once is only dropped
    assert list(tmp_path.iterdir()) == []  # nobody sees the file


def test_a_value_that_is_held_stays_when_others_go(scarce: None, tmp_path: Path) -> None:
    pages, values = Pages(1.0, tmp_path), depths(60)
    kept = pages.keep(values[0])
    read = kept.value
    others = [pages.keep(d) for d in values[1:]]
    assert torch.equal(read, values[0].value) and read.data_ptr() != kept.value.data_ptr()
    assert len(others) == 59


def test_what_nobody_has_any_more_leaves_its_place_to_others(scarce: None, tmp_path: Path) -> None:
    pages = Pages(1.0, tmp_path)
    for _ in range(10):
        kept = [pages.keep(d) for d in depths(60)]
        assert len(kept) == 60
    assert pages.written < 2 * 60 * 0.041


def test_what_is_replaced_in_memory_is_never_written(scarce: None, tmp_path: Path) -> None:
    pages = Pages(1.0, tmp_path)
    kept = pages.keep(depths(1)[0])
    for value in depths(300):
        kept = pages.keep(value)
    assert pages.written == 0 and pages.held < 0.1 and float(kept.information[0]) == 299


def test_threads_read_what_they_wrote(scarce: None, tmp_path: Path) -> None:
    pages, wrong = Pages(1.0, tmp_path), []

    def work(seed: int) -> None:
        chance, mine = random.Random(seed), {}
        for n in range(300):
            tag = float(1000 * seed + n)
            value = InverseDepth(torch.full((4000,), tag), torch.ones(4000))
            mine[chance.randrange(30)] = (tag, pages.keep(value))
            tag, value = mine[chance.choice(list(mine))]
            if not (value.value == tag).all() or not (value.information == 1).all():
                wrong.append(tag)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and pages.held <= LEAST and pages.written > 1


def test_less_is_held_where_the_process_has_more_besides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pages, besides = Pages(500.0, tmp_path), 500.0 - paging.HEADROOM - 4.0
    monkeypatch.setattr(paging, "LEAST", 0.5)
    monkeypatch.setattr(paging, "LOOK", 0.1)
    monkeypatch.setattr(paging, "resident_memory", lambda: besides + pages.held)
    kept = [pages.keep(d) for d in depths(200)]
    assert 3.5 < pages.held <= 4.0
    besides += 2.0
    kept += [pages.keep(d) for d in depths(20)]
    assert 1.5 < pages.held <= 2.0


def test_a_store_can_let_go_of_nearly_all(scarce: None, tmp_path: Path) -> None:
    pages, values = Pages(1.0, tmp_path), depths(60)
    kept = [pages.keep(d) for d in values]
    pages.let_go()
    assert pages.held < 0.05
    assert all(equal(a, b) for a, b in zip(kept, values, strict=True)) and pages.held > 0.5


def test_a_full_disk_is_said_once_and_nothing_is_lost(
    scarce: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pages, values = Pages(1.0, tmp_path), depths(100)
    with limited_files(500_000), caplog.at_level(logging.WARNING):
        kept = [pages.keep(d) for d in values]
        assert all(equal(a, b) for a, b in zip(kept, values, strict=True))
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}: File too large; what has no room under the memory budget stays in memory"
    ]
    assert pages.held > 3 and pages.written <= 0.5
    kept += [pages.keep(d) for d in depths(10)]  # there is room again
    assert pages.held <= LEAST
    assert all(equal(a, b) for a, b in zip(kept, values, strict=False))


def test_a_folder_that_is_not_there_loses_nothing(
    scarce: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pages, values = Pages(1.0, tmp_path / "none"), depths(60)
    kept = [pages.keep(d) for d in values]
    assert all(equal(a, b) for a, b in zip(kept, values, strict=True))
    assert len(caplog.records) == 1 and "No such file" in caplog.text


def test_the_process_stays_under_its_budget(tmp_path: Path) -> None:
    code = """
import torch
from pathlib import Path
from slam import paging
from slam.frame import InverseDepth
from slam.memory import resident_memory
from slam.paging import Pages
paging.HEADROOM = 40.0
torch.set_num_threads(1)
budget = resident_memory() + paging.HEADROOM + 70
pages = Pages(budget, Path.cwd())
ones, kept, most = torch.ones(50_000), [], 0.0
for n in range(700):
    kept.append(pages.keep(InverseDepth(float(n) * ones, ones.clone())))
    most = max(most, resident_memory())
for n, value in enumerate(kept):
    assert float(value.value[7]) == n
    most = max(most, resident_memory())
print(most, budget, pages.written)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=True,
    )
    most, budget, written = map(float, done.stdout.split())
    assert most < budget and written > 150


# --- what is computed from them ------------------------------------------------------------------


def adjust(pages: Pages | None) -> BundleAdjustment:
    return bundle_adjust(
        GRID,
        start(),
        measurements(),
        [True, True, False, False],
        NONE,
        SETTINGS,
        MAPPING,
        iterations=5,
        refine_focal=True,
        pages=pages,
    )


def test_an_adjustment_in_parts_is_the_same_to_the_last_bit(scarce: None, tmp_path: Path) -> None:
    whole, parted = adjust(None), adjust(Pages(1.0, tmp_path))
    assert whole.converged and torch.equal(whole.T_WC, parted.T_WC)
    assert (whole.intrinsics, whole.cost) == (parted.intrinsics, parted.cost)
    assert whole.focal_sigma == parted.focal_sigma
    assert all(equal(a, b) for a, b in zip(whole.depth, parted.depth, strict=True))


def test_parts_have_all_keyframes_and_edges_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order = [(0, 1), (0, 2), (2, 1), (2, 3), (5, 4)]
    assert list(dense_parts.spans_of(order, 7, 10, Pages())) == [((0, 7), order)]
    monkeypatch.setattr(dense_parts, "PART", 450.0)
    parts = list(dense_parts.spans_of(order, 7, 10, Pages(1.0)))
    assert [span for span, _ in parts] == [(0, 1), (1, 2), (2, 3), (3, 5), (5, 7)]
    assert [e for _, chosen in parts for e in chosen] == order


def test_a_quick_look_leaves_out_no_image_that_shares_enough() -> None:
    torch.manual_seed(1)
    spread = torch.tensor([0.5, 0.5, 0.5, 0.4, 0.4, 0.4], dtype=torch.float64)
    T_ji = se3_exp(torch.randn(500, 6, dtype=torch.float64) * spread)
    known = (torch.rand(len(GRID.pixel)) > 0.2).float()
    depth = InverseDepth(torch.rand(len(GRID.pixel)) + 0.2, known)
    share, flow = covisibility(GRID, depth, T_ji, CAMERA)
    may = may_share(GRID, depth, T_ji, CAMERA, 0.3)
    assert not (share > 0.3)[~may].any() and 0 < int(may.sum()) < 1.3 * int((share > 0.3).sum())
    few = covisibility(GRID, depth, T_ji[may], CAMERA)
    assert torch.equal(few[0], share[may]) and torch.equal(few[1], flow[may])


def small_run(source: Path, out: Path, *settings: str) -> Config:
    small = ["flow.long_side=160", "keyframes.flow=0.05", f"run.out={out}", f"source.path={source}"]
    return load_config(None, [*small, *settings])


def test_a_run_under_a_budget_writes_what_one_without_does(
    scarce: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(paging, "LEAST", 0.1)
    monkeypatch.setattr(mapcloud, "SLICE", 3000)
    made: list[Pages] = []

    def tight(_: object) -> Pages:
        made.append(Pages(1.0, tmp_path))
        return made[-1]

    source, (free, bound) = (
        cut_sample(tmp_path / "cut", range(36)),
        (tmp_path / "a", tmp_path / "b"),
    )
    run(small_run(source, free))
    monkeypatch.setattr("slam.system.pages_of", tight)
    run(small_run(source, bound))
    assert made[0].written > 1 and made[0].held <= 0.1
    for name in ("trajectory.txt", "trajectory_causal.txt", "keyframes.txt", "map.ply", "map.slam"):
        assert (free / name).read_bytes() == (bound / name).read_bytes(), name
    parts = [np.load(folder / "keyframes.npz") for folder in (free, bound)]
    assert parts[0].files == parts[1].files and len(parts[0]["index"]) > 2
    assert all(np.array_equal(parts[0][name], parts[1][name]) for name in parts[0].files)


# --- the budget ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2000.0), ("1.5 gb", 1500.0), (" 800MB ", 800.0), ("0.25GB", 250.0)]
)
def test_a_size_has_a_unit(text: str, size: float) -> None:
    assert megabytes(text) == size


@pytest.mark.parametrize("text", ["", "2", "lots", "2 apples", "-2GB", "0GB", "2GBs", "1e3MB"])
def test_nonsense_for_a_size_is_told(text: str, run_cli: Command) -> None:
    result = run_cli("run", "datasets/sample", f"--memory-budget={text}")
    assert result.code == 2
    assert result.err.splitlines()[-1].endswith(f"wanted a size such as 2GB or 800MB, got '{text}'")


def test_less_than_the_program_needs_is_told(run_cli: Command, tmp_path: Path) -> None:
    source = cut_sample(tmp_path / "cut", range(3))
    result = run_cli("run", source, "--out", tmp_path / "out", "--memory-budget", "100MB")
    expect_one_line(result, "memory budget: wanted at least", "got 100 MB", "the program alone")


def test_bench_speed_says_what_was_given_and_what_went_to_the_disk(
    run_cli: Command, tmp_path: Path
) -> None:
    source, file = cut_sample(tmp_path / "cut", range(0, 40, 8)), tmp_path / "speed.json"
    small = ["--set", "flow.long_side=160", "-q", "--json", file]
    result = run_cli("bench", "speed", source, "--memory-budget", "3GB", *small)
    assert result.code == 0 and "3000 MB were given; 0 MB on disk" in result.out
    assert "MB by minutes of input:" in result.out
    content = json.loads(file.read_text())
    assert (content["budget_mb"], content["disk_mb"]) == (3000.0, 0.0)
    assert content["resident"][0]["megabytes"] > 100 and content["keyframe_memory_mb"] is None
