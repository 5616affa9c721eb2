"""`slam bench network`: time, memory and half precision of a small pointmap network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CommandResult, expect_one_line

from slam.bench import network as bench
from slam.bench.network import Trial, measure_network
from slam.networks.pointmap import PointmapNetwork
from tests.pointmap_networks import CALL, DUST3R, SIZES, random_network

Command = Callable[..., CommandResult]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "small.pth"
    arguments = argparse.Namespace(model=CALL)
    torch.save({"model": random_network().state_dict(), "args": arguments}, path)
    return path


def test_times_of_a_checkpoint_are_printed_and_written(
    run_cli: Command, tmp_path: Path, checkpoint: Path
) -> None:
    threads = torch.get_num_threads()
    written = tmp_path / "n.json"
    options = ("--size", "48x32", "--repeats", "3", "--threads", "2", "--json", written)
    result = run_cli("bench", "network", "--checkpoint", checkpoint, *options)
    assert result.code == 0, result.err
    assert torch.get_num_threads() == threads
    content = json.loads(written.read_text())
    count = sum(value.numel() for value in random_network().parameters())
    assert content["parameters"] == count and content["weights"] == str(checkpoint)
    assert (content["threads"], content["size"], content["repeats"]) == (2, [48, 32], 3)
    (row,) = content["precisions"]
    assert (row["precision"], row["errors"]) == ("float32", None)
    assert row["weights_mb"] == pytest.approx(4e-6 * count)
    assert row["peak_mb"] > 50
    for part in ("encode", "decode"):
        assert 0 < row[part]["least_ms"] <= row[part]["median_ms"]
    assert f"{count / 1e6:.1f} M parameters" in result.out
    assert "images of 48 x 32 px; 3 calls of each" in result.out
    assert f"{row['encode']['least_ms']:.1f}" in result.out


def test_without_a_checkpoint_it_is_the_full_size_with_random_weights(
    run_cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        full = PointmapNetwork(bench.FULL_SIZE)
    assert 680e6 < sum(value.numel() for value in full.parameters()) < 700e6
    monkeypatch.setattr(bench, "FULL_SIZE", SIZES)
    result = run_cli("bench", "network", "--size", "32x32", "--repeats", "1")
    assert result.code == 0 and "MASt3R, random weights" in result.out


@pytest.mark.parametrize("sizes", [SIZES, DUST3R], ids=["MASt3R", "DUSt3R"])
def test_half_precision_is_compared_with_float32(
    monkeypatch: pytest.MonkeyPatch, sizes: object
) -> None:
    monkeypatch.setattr(bench, "FULL_SIZE", sizes)
    result = measure_network(Trial(width=48, height=32, repeats=1, half=True))
    exact, half = result.precisions
    assert (exact.errors, half.precision) == (None, "float16")
    assert half.errors is not None and len(half.errors) == (9 if sizes is SIZES else 5)
    assert all(1e-6 < error < 1e-2 for error in half.errors.values()), half.errors
    assert half.weights_mb < exact.weights_mb
    assert max(half.errors, key=lambda name: half.errors[name]) in bench.format_network(result)


def test_several_pairs_are_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "FULL_SIZE", SIZES)
    decoded: list[int] = []
    real = PointmapNetwork.decode

    def decode(self: PointmapNetwork, one: torch.Tensor, *rest: object) -> object:
        decoded.append(len(one))
        return real(self, one, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(PointmapNetwork, "decode", decode)
    result = measure_network(Trial(width=32, height=32, repeats=2, pairs=3))
    assert decoded == [3, 3, 3, 1] and "decode 3 pairs at once" in bench.format_network(result)


def test_the_weights_are_the_same_each_time() -> None:
    one, two = (random_network().state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_on_a_gpu_both_precisions_are_measured(
    run_cli: Command, tmp_path: Path, checkpoint: Path
) -> None:
    written = tmp_path / "n.json"
    options = ("--device", "cuda", "--size", "48x32", "--json", written)
    assert run_cli("bench", "network", "--checkpoint", checkpoint, *options).code == 0
    exact, half = json.loads(written.read_text())["precisions"]
    assert 0 < half["weights_mb"] < exact["weights_mb"] <= exact["peak_mb"]
    assert 1e-6 < max(half["errors"].values()) < 1e-2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "50x32"), "wanted images of whole patches of 16 x 16 px, got 32 x 50"),
        (("--size", "0x32"), "wanted images of whole patches"),
        (("--checkpoint", "none.pth"), "none.pth: no such file"),
    ],
)
def test_what_does_not_fit_is_one_line(
    run_cli: Command, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: str
) -> None:
    monkeypatch.setattr(bench, "FULL_SIZE", SIZES)
    expect_one_line(run_cli("bench", "network", *options), words)


@pytest.mark.parametrize("size", ["512", "x", "512x", "-1x3", "axb"])
def test_a_size_is_two_numbers(run_cli: Command, size: str) -> None:
    result = run_cli("bench", "network", f"--size={size}")
    assert result.code == 2 and "wanted WIDTHxHEIGHT in px" in result.err
