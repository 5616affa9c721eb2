"""The network RAFT-small: the published one's own output, its parts, and files that do not fit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slam.networks.raft_small import (
    RaftSmall,
    cell_coordinates,
    load_raft_small,
    look_up,
    pyramid,
    to_cells,
    upsample,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# --- the published weights -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(weights: Path) -> RaftSmall:
    return load_raft_small(weights)


@pytest.fixture(scope="module")
def golden(slam_data: Path) -> dict[str, Tensor]:
    """Two images [1, 3, 240, 320], and the published network's flow after 1, 4 and 12 updates."""
    path = slam_data.parent / "golden" / "raft_small.npz"
    if not path.is_file():
        pytest.skip(f"no golden output of RAFT-small at {path}")
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name])[None] for name in file.files}


@pytest.mark.parametrize("iterations", [1, 4, 12])
def test_flow_is_that_of_the_published_network(
    network: RaftSmall, golden: dict[str, Tensor], iterations: int
) -> None:
    got = network(golden["image_1"], golden["image_2"], iterations)
    assert (got.low - golden[f"low_{iterations}"]).abs().max() < 1e-3
    assert (got.flow - golden[f"flow_{iterations}"]).abs().max() < 1e-3


def test_iterations_go_on_from_a_start(network: RaftSmall, golden: dict[str, Tensor]) -> None:
    """One update from the flow after 12 stays near it; one from zero is far from it."""
    images, done = (golden["image_1"], golden["image_2"]), golden["flow_12"]
    for start, low, high in ((golden["low_12"], 0.0, 2.0), (None, 10.0, 100.0)):
        far = torch.linalg.vector_norm(network(*images, 1, start).flow - done, dim=1)
        assert low <= far.median() < high


def test_both_ways_at_once_equal_each_way_alone(
    network: RaftSmall, golden: dict[str, Tensor]
) -> None:
    first, second = (network.encode(golden[name]) for name in ("image_1", "image_2"))
    both = network.match_both(first, second, 4).flow
    assert (both[:1] - network.match(first, second, 4).flow).abs().max() < 1e-3
    assert (both[1:] - network.match(second, first, 4).flow).abs().max() < 1e-3
    assert (both[0] - both[1]).abs().max() > 1


@pytest.mark.parametrize(("height", "width"), [(235, 317), (49, 67)])
def test_any_size_is_padded_and_cropped(
    network: RaftSmall, golden: dict[str, Tensor], height: int, width: int
) -> None:
    """As if the caller had repeated the last row and column himself."""
    one, two = (golden[name][..., :height, :width] for name in ("image_1", "image_2"))
    missing = [max(64, math.ceil(size / 8) * 8) - size for size in (width, height)]
    wide, wider = (
        F.pad(image.float(), (0, missing[0], 0, missing[1]), mode="replicate")
        for image in (one, two)
    )
    got, padded = network(one, two, 2), network(wide, wider, 2)
    assert got.flow.shape == (1, 2, height, width)
    assert got.flow.isfinite().all()
    assert (got.flow - padded.flow[..., :height, :width]).abs().max() < 1e-3


# --- its parts, without weights ------------------------------------------------------------------


def test_windows_are_read_column_by_column_at_each_level() -> None:
    """Against a volume that says where it was read: x + 100 y, at every level."""
    height, width = 16, 24
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    volume = (x + 100.0 * y).expand(1, height, width, height, width)
    position = torch.full((1, 2, height, width), 0.0) + torch.tensor([9.25, 6.5])[:, None, None]
    found = look_up(pyramid(volume), position)[0, :, 3, 5].view(4, 7, 7)
    for a in range(7):
        for b in range(7):
            assert float(found[0, a, b]) == pytest.approx(9.25 + a - 3 + 100 * (6.5 + b - 3), 1e-4)
    # A cell of the second level is the mean of cells 2 x, 2 x + 1: its centre lies at 2 x + 1/2.
    assert float(found[1, 3, 3]) == pytest.approx(9.25 + 0.5 + 100 * (6.5 + 0.5), 1e-4)


def test_windows_are_zero_outside_of_the_image() -> None:
    volume = torch.ones(1, 8, 8, 8, 8)
    found = look_up(pyramid(volume), torch.full((1, 2, 8, 8), -1.5))[0, :, 0, 0].view(4, 7, 7)
    assert found[0, :4].abs().max() == 0 and found[0, :, :4].abs().max() == 0
    assert float(found[0, 4, 4]) == pytest.approx(0.25)  # half a cell inside on both axes
    assert float(found[0, 6, 6]) == pytest.approx(1.0)


def test_flow_in_cells_and_in_px_are_one() -> None:
    smooth = 0.1 * cell_coordinates(8, 9)
    full = upsample(smooth, 64, 72)
    assert float(full[0, 0, 0, -1]) == pytest.approx(8 * 0.8)
    assert (to_cells(full) - smooth).abs().max() < 1e-4


# --- weights that do not fit ---------------------------------------------------------------------


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def states() -> dict[str, Tensor]:
    """A file's content with the right names, of an untrained network."""
    return {f"module.{name}": value for name, value in RaftSmall().state_dict().items()}


def test_weights_are_read_by_name(tmp_path: Path, states: dict[str, Tensor]) -> None:
    got = load_raft_small(saved(tmp_path / "w.pth", states)).state_dict()
    assert all(torch.equal(got[name.removeprefix("module.")], v) for name, v in states.items())
    assert sum(value.numel() for value in states.values()) == 990_162  # the published count


def test_missing_tensors_are_named(tmp_path: Path, states: dict[str, Tensor]) -> None:
    del states["module.update_block.gru.convz.bias"]
    with pytest.raises(ValueError, match=r"1 missing \(update_block\.gru\.convz\.bias\)"):
        load_raft_small(saved(tmp_path / "w.pth", states))


def test_other_weights_are_refused(tmp_path: Path, states: dict[str, Tensor]) -> None:
    other = {name.removeprefix("module."): value for name, value in states.items()}
    with pytest.raises(ValueError, match="missing"):  # names without their prefix
        load_raft_small(saved(tmp_path / "a.pth", other))
    states["module.fnet.norm1.weight"] = torch.ones(32)
    with pytest.raises(ValueError, match=r"1 unknown \(module\.fnet\.norm1\.weight\)"):
        load_raft_small(saved(tmp_path / "b.pth", states))
    del states["module.fnet.norm1.weight"]
    states["module.cnet.conv2.bias"] = torch.ones(7)
    with pytest.raises(ValueError, match=r"1 of another shape \(cnet\.conv2\.bias\)"):
        load_raft_small(saved(tmp_path / "c.pth", states))
    with pytest.raises(ValueError, match="tensors by name"):
        load_raft_small(saved(tmp_path / "d.pth", [1, 2]))


def test_a_file_that_is_cut_off_or_foreign_is_refused(
    tmp_path: Path, states: dict[str, Tensor]
) -> None:
    whole = saved(tmp_path / "whole.pth", states).read_bytes()
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"no weights\n",
    }.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cut off or something else") as caught:
            load_raft_small(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_a_pickle_that_would_run_a_command_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "code.pth"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"a pickle that would run os\.system; nothing was run$"):
        load_raft_small(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="RAFT-small"):
        load_raft_small(tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError):
        load_raft_small(tmp_path)
