"""Saved maps: kept bit for bit, within half a step of the graph's, and never silently damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CommandResult, expect_one_line
from saved_maps import CAMERA, PREDICTOR, Parts, around, made_map, sphere_depth

from slam.config import Config
from slam.frame import Correspondence, FusedPointmap, InverseDepth
from slam.predictors import FlowPredictor
from slam.saved_map import SavedMap, format, load_map, restore_graph, save_map
from slam.saved_map.container import FRONT_BYTES, Contents, read_contents, write_contents
from slam.saved_map.format import VERSION, to_contents
from slam.saved_map.packing import PackedDepth, PackedMatches, PackedPointmap

Command = Callable[..., CommandResult]
HALF = 2.0**-11  # relative, of half precision rounded


def random_pointmap(seed: int) -> FusedPointmap:
    """Points in every direction, also behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(72, 96, 3, generator=generator) * torch.rand(72, 96, 1, generator=generator)
    confidence = 900 * torch.rand(72, 96, generator=generator).pow(4)
    confidence[::7] = 0.0
    return FusedPointmap(30 * X, confidence * 40, 40)


@pytest.fixture(scope="module")
def made() -> Parts:
    return made_map(around(4), sphere_depth, pointmaps=[random_pointmap(k) for k in range(4)])


@pytest.fixture
def file(made: Parts, tmp_path: Path) -> Path:
    save_map(tmp_path / "map.slam", made.saved)
    return tmp_path / "map.slam"


def same(one: Contents, other: Contents) -> bool:
    """Whether single values and parts are equal to the last bit."""
    if one.version != other.version or json.dumps(one.about) != json.dumps(other.about):
        return False
    return list(one.parts) == list(other.parts) and all(
        a.dtype == b.dtype and np.array(a).tobytes() == np.array(b).tobytes() and a.shape == b.shape
        for a, b in zip(one.parts.values(), other.parts.values(), strict=True)
    )


# --- what is kept --------------------------------------------------------------------------------


def test_a_map_is_kept_bit_for_bit(made: Parts, file: Path, tmp_path: Path) -> None:
    loaded = load_map(file)
    assert same(to_contents(loaded), to_contents(made.saved))
    save_map(tmp_path / "again.slam", loaded)
    assert (tmp_path / "again.slam").read_bytes() == file.read_bytes()
    assert load_map(tmp_path).origin == made.origin  # by its folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.slam", "map.slam"]


def test_a_restored_graph_is_the_one_that_was_saved(made: Parts, file: Path) -> None:
    graph, saved = restore_graph(load_map(file), PREDICTOR), made.graph
    assert graph.intrinsics == saved.intrinsics and graph.readout == saved.readout
    assert graph.pinhole == saved.pinhole and len(graph) == len(saved) == 4
    for mine, theirs in zip(graph.records(), saved.records(), strict=True):
        scalars = ("index", "time", "seconds", "state", "keyframe")
        assert all(getattr(mine, name) == getattr(theirs, name) for name in scalars)
        assert torch.equal(mine.T_kf, theirs.T_kf)
        assert (mine.measurement is None) == (theirs.measurement is None)
        if mine.measurement is not None and theirs.measurement is not None:
            assert torch.equal(mine.measurement, theirs.measurement)
    for mine, theirs in zip(graph.keyframes(), saved.keyframes(), strict=True):
        assert torch.equal(mine.T_WC, theirs.T_WC)
        assert (mine.frame.index, mine.frame.time) == (theirs.frame.index, theirs.frame.time)
        torch.testing.assert_close(mine.depth.value, theirs.depth.value, rtol=HALF, atol=0)
        known = theirs.depth.information > 0
        assert torch.equal(mine.depth.information > 0, known)
        pair = mine.depth.information[known], theirs.depth.information[known]
        torch.testing.assert_close(*pair, rtol=2.01 * HALF, atol=0)
        off = (mine.frame.features.rgb.float() - theirs.frame.features.rgb.float()).abs()
        assert off.mean() < 2 and mine.frame.features.texture.shape == (432,)
    edges = saved.edges()
    assert list(graph.edges()) == sorted(edges)
    for edge, found in graph.edges().items():
        known = edges[edge].weight > 0
        assert known.any() and not known.all()
        assert torch.equal(found.weight, edges[edge].weight)  # 4 and 0: exact in half precision
        assert (found.target - edges[edge].target)[known].abs().max() <= 1 / 256 + 1e-5


def test_a_predictor_of_another_size_is_refused(made: Parts) -> None:
    other = FlowPredictor(128, 96, Config().flow)
    with pytest.raises(ValueError, match=r"96x72 px, depths 4 px apart, got one on 128x96"):
        restore_graph(made.saved, other)


def test_nothing_is_read_before_it_is_asked_for(file: Path) -> None:
    for keyframe in load_map(file).keyframes:
        for array in (keyframe.jpeg, keyframe.depth.value, keyframe.depth.information):
            assert not array.flags.owndata and not array.flags.writeable  # in the file's mapping


def test_parts_are_aligned_in_the_file(file: Path) -> None:
    content = file.read_bytes()
    end = FRONT_BYTES + int.from_bytes(content[16:24], "little")
    entries = json.loads(content[FRONT_BYTES:end])["parts"]
    assert len(entries) == 29 and all(entry["offset"] % 64 == 0 for entry in entries)


def test_the_description_of_the_format_names_every_part(made: Parts) -> None:
    contents = to_contents(made.saved)
    described = str(format.__doc__)
    for name in [*contents.about, *contents.parts]:
        assert f"`{name}`" in described or name.startswith("dense."), name


def test_a_map_without_keyframes_is_kept(tmp_path: Path) -> None:
    empty = made_map([], sphere_depth).saved
    save_map(tmp_path / "map.slam", empty)
    loaded = load_map(tmp_path / "map.slam")
    assert same(to_contents(loaded), to_contents(empty))
    assert len(restore_graph(loaded, PREDICTOR)) == 0 and len(loaded.poses()) == 0


def test_a_map_without_dense_depths_and_pointmaps_is_kept(tmp_path: Path) -> None:
    parts = made_map(around(2), sphere_depth)
    saved = SavedMap.from_graph(parts.graph, parts.origin, Config(), PREDICTOR.grid)
    save_map(tmp_path / "map.slam", saved)
    loaded = load_map(tmp_path / "map.slam")
    assert same(to_contents(loaded), to_contents(saved)) and loaded.dense_grid is None
    assert all(k.dense is None and k.pointmap is None for k in loaded.keyframes)
    assert loaded.settings() == Config()


def test_poses_of_frames_are_those_of_the_graph(made: Parts) -> None:
    posed = [r for r in made.graph.records() if r.keyframe >= 0]
    wanted = torch.stack([made.graph.T_WC(r) for r in posed])
    np.testing.assert_allclose(made.saved.poses().poses, wanted, rtol=0, atol=1e-12)
    assert made.saved.poses().times.tolist() == [r.time for r in posed]


# --- packing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-9, 1.0, 3e7])
def test_depths_of_any_scale_keep_three_digits(scale: float) -> None:
    value = torch.tensor([-0.3, 0.0, 1e-3, 0.02, 0.7, 1.0, 1.3, 40.0]) * scale
    trust = torch.tensor([0.01, 1.0, 0.0, 300.0, 1e-9, 100.0, 10.0, 20.0]) / scale
    packed = PackedDepth.of(InverseDepth(value, trust.double().square().float()))
    back = packed.unpack()
    torch.testing.assert_close(back.value, value, rtol=HALF, atol=0)
    assert torch.equal(back.information > 0, trust.square() > 0)  # vague is not unknown
    sure = trust * scale > 1e-3
    pair = back.information.sqrt()[sure], trust[sure]
    torch.testing.assert_close(*pair, rtol=1.1 * HALF, atol=0)


def test_pointmaps_keep_directions_all_round_and_their_distances() -> None:
    fused = random_pointmap(7)
    fused.X_C[0, 0] = 0.0
    fused.X_C[0, 1] = torch.tensor([0.0, 0.0, -5.0])
    back = PackedPointmap.of(fused).unpack()
    distance = fused.X_C.double().norm(dim=-1)
    off = (back.X_C - fused.X_C).double().norm(dim=-1)
    assert (off <= 1.1 * HALF * distance + 1e-6).all()
    along = (back.X_C.double() * fused.X_C).sum(-1) / (distance * back.X_C.double().norm(dim=-1))
    angle = torch.acos(along.clamp(-1, 1))[distance > 0]
    assert angle.nan_to_num().max() < 1e-4
    assert torch.equal(back.confidence > 0, fused.confidence > 0) and back.count == 40
    torch.testing.assert_close(back.confidence, fused.confidence, rtol=1.1 * HALF, atol=1e-4)


@pytest.mark.parametrize(("reach", "step"), [(200.0, 1 / 128), (300.0, 1 / 64), (0.0, 1 / 128)])
def test_matches_keep_their_places_however_long_the_flow(reach: float, step: float) -> None:
    pixel = PREDICTOR.grid.pixel
    flow = reach * (2 * torch.rand(len(pixel), 2, generator=torch.Generator().manual_seed(3)) - 1)
    weight = torch.arange(len(pixel)) % 5 / 3
    flow[weight == 0] = 1e6  # what was not found may be anywhere
    packed = PackedMatches.of(pixel, Correspondence(pixel + flow, weight))
    back = packed.unpack(pixel)
    assert packed.step == step
    assert ((back.target - pixel - flow)[weight > 0].abs() <= step / 2 + 1e-4).all()
    torch.testing.assert_close(back.weight, weight, rtol=HALF, atol=0)


# --- damage --------------------------------------------------------------------------------------


def test_a_flipped_bit_in_any_part_is_named(file: Path, run_cli: Command) -> None:
    content = bytearray(file.read_bytes())
    end = FRONT_BYTES + int.from_bytes(content[16:24], "little")
    for entry in json.loads(content[FRONT_BYTES:end])["parts"]:
        for place in {entry["offset"], entry["offset"] + entry["bytes"] - 1}:
            content[place] ^= 1
            file.write_bytes(content)
            with pytest.raises(ValueError, match=rf"damaged: part {entry['name']}; copy it again"):
                load_map(file)
            content[place] ^= 1
    expect_one_line(run_cli("map", "check", _damaged(file, content)), "edge.pair", "copy it again")


def _damaged(file: Path, content: bytearray) -> Path:
    end = FRONT_BYTES + int.from_bytes(content[16:24], "little")
    entries = json.loads(content[FRONT_BYTES:end])["parts"]
    content[next(e["offset"] for e in entries if e["name"] == "edge.pair")] ^= 128
    file.write_bytes(content)
    return file


def test_no_byte_of_the_file_can_change_unseen(file: Path) -> None:
    whole = file.read_bytes()
    places = np.random.default_rng(2).integers(0, len(whole), 60).tolist()
    for place in [*range(0, FRONT_BYTES), FRONT_BYTES + 5, *places, len(whole) - 1]:
        content = bytearray(whole)
        content[place] ^= 16
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged|another kind of file"):
            load_map(file)


@pytest.mark.parametrize("size", [0, 5, FRONT_BYTES - 1, FRONT_BYTES + 100, -1])
def test_a_file_that_is_cut_off_is_refused(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"cut off|another kind|first 36 bytes"):
        load_map(file)


def test_other_files_and_none_are_refused(tmp_path: Path, run_cli: Command) -> None:
    expect_one_line(run_cli("map", "check", tmp_path / "none.slam"), "no such map", "run")
    expect_one_line(run_cli("map", "info", tmp_path), "map.slam: no such map")
    (tmp_path / "map.ply").write_text("ply\n" * 100)
    expect_one_line(run_cli("map", "check", tmp_path / "map.ply"), "SLAM_MAP", "another kind")


# --- versions ------------------------------------------------------------------------------------


def test_version_0_becomes_the_present_one(made: Parts, tmp_path: Path) -> None:
    now = to_contents(made.saved)
    about = {key: now.about[key] for key in now.about if key not in ("readout", "pinhole")}
    times = {name: now.parts[name][:, 0] for name in ("keyframe.time", "frame.time")}
    write_contents(tmp_path / "map.slam", Contents(0, about, {**now.parts, **times}))
    loaded = load_map(tmp_path / "map.slam")
    assert loaded.readout == 0.0 and loaded.pinhole
    assert [k.seconds for k in loaded.keyframes] == [k.time for k in made.saved.keyframes]
    assert same(Contents(VERSION, {}, to_contents(loaded).parts), Contents(VERSION, {}, now.parts))


def test_a_newer_version_says_to_update(made: Parts, tmp_path: Path) -> None:
    now = to_contents(made.saved)
    newer = Contents(VERSION + 1, now.about, now.parts)
    write_contents(tmp_path / "map.slam", newer)
    with pytest.raises(ValueError, match=r"version 1 or less, got 2; .* update"):
        load_map(tmp_path)


def test_a_part_that_is_missing_is_named(made: Parts, tmp_path: Path) -> None:
    now = to_contents(made.saved)
    parts = {name: part for name, part in now.parts.items() if name != "edge.end"}
    write_contents(tmp_path / "map.slam", Contents(VERSION, now.about, parts))
    with pytest.raises(ValueError, match=r"wanted 'edge\.end' in it"):
        load_map(tmp_path)


def test_contents_without_parts_are_kept(tmp_path: Path) -> None:
    write_contents(tmp_path / "a", Contents(3, {"x": [1.5, "é"]}, {}))
    assert same(read_contents(tmp_path / "a"), Contents(3, {"x": [1.5, "é"]}, {}))


def test_info_says_what_a_map_holds(made: Parts, file: Path, run_cli: Command) -> None:
    about = json.loads(run_cli("map", "info", file, "--json").out)
    assert about["keyframes"] == 4 and about["edges"] == 6 and about["version"] == VERSION
    assert about["camera"]["intrinsics"] == list(CAMERA.intrinsics)
    assert about["bytes"] == file.stat().st_size > sum(about["parts"].values())
    assert sum(about["frames"].values()) == 12
    words = run_cli("map", "info", file)
    assert words.code == 0 and "4, 6 edges" in words.out and "data/made (tum)" in words.out
    done = run_cli("map", "check", file)
    assert done.code == 0 and "29 parts and all checksums right" in done.out
