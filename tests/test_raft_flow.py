"""RAFT-small in the predictor and in the system: flow against exact flow, runs, and errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import pytest
import torch
from conftest import CommandResult
from sequences import SAMPLE, cut_sample
from torch import Tensor

from slam.config import Config, FlowSettings
from slam.frame import Features, Image, PairGuess, PairPrediction, TrackState
from slam.networks.raft_small import (
    RaftSmall,
    load_raft_small,
)
from slam.predictors import FlowPredictor, RaftFlowPredictor
from slam.predictors.factory import make_predictor
from slam.predictors.raft import REMEMBERED, RaftFlow
from slam.rendering.sample import INTRINSICS, render_sample_depth, sample_times, sample_trajectory
from slam.sources import open_source
from slam.system import Slam

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, HEIGHT = 400, 300  # px, the working images of the sample
NEAR, FAR = (60, 63), (64, 82)  # frames of the sample some 20 px and some 107 px apart


@pytest.fixture(scope="module")
def network(weights: Path) -> RaftSmall:
    return load_raft_small(weights)


# --- the predictor -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exact:
    """Where the grid pixels of one sample frame land in another, from its depth and poses."""

    target: Tensor  # [P, 2] px
    seen: Tensor  # [P] bool: there, and nothing before it


def exact(first: int, second: int, predictor: RaftFlowPredictor) -> Exact:
    T = sample_trajectory().poses(sample_times()[[first, second]])
    T_ji = torch.linalg.inv(T[1]) @ T[0]
    scale = WIDTH / 640
    fx, fy = scale * INTRINSICS[0], scale * INTRINSICS[1]
    cx, cy = (scale * (c + 0.5) - 0.5 for c in INTRINSICS[2:])
    size = (WIDTH, HEIGHT)
    depth, other = (
        cv2.resize(render_sample_depth(n).numpy(), size, interpolation=cv2.INTER_NEAREST)
        for n in (first, second)
    )
    grid = predictor.grid
    u, v = grid.pixel.double().unbind(-1)
    rays = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
    Y = (rays * grid.sample(torch.from_numpy(depth))[:, None]) @ T_ji[:3, :3].T + T_ji[:3, 3]
    target = torch.stack([fx * Y[:, 0] / Y[:, 2] + cx, fy * Y[:, 1] / Y[:, 2] + cy], -1).float()
    there = cv2.remap(other, target.numpy()[None], None, cv2.INTER_NEAREST)[0]
    seen = (torch.from_numpy(there) / Y[:, 2] - 1).abs() < 0.02
    inside = ((target > 2) & (target < torch.tensor([WIDTH - 3, HEIGHT - 3]))).all(-1)
    return Exact(target, seen & inside)


def image(index: int) -> Image:
    names = [n.split()[1] for n in (SAMPLE / "rgb.txt").read_text().splitlines() if n[0] != "#"]
    bgr = cv2.imread(str(SAMPLE / names[index]))
    return Image(index, 0.0, 0.0, torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)))


def learned(weights: Path, method: str) -> RaftFlowPredictor:
    settings = replace(FlowSettings(), method=method, weights=str(weights))
    predictor = make_predictor(640, 480, replace(Config(), flow=settings))
    assert isinstance(predictor, RaftFlowPredictor)
    return predictor


def right(exactly: Exact, pair: PairPrediction) -> float:
    """Share of the pixels seen in both that got a match within 1.5 px."""
    error = torch.linalg.vector_norm(pair.forward.target - exactly.target, dim=-1)
    good = (pair.forward.weight > 0) & (error < 1.5)
    return float(good[exactly.seen].float().mean())


@pytest.mark.parametrize("method", ["raft", "mixed"])
def test_correspondences_agree_with_exact_flow_and_their_weights_are_honest(
    weights: Path, method: str
) -> None:
    with closing(learned(weights, method)) as predictor:
        features = [predictor.encode(image(n)) for n in FAR]
        pair = predictor.pair(features[0], features[1], PairGuess(), fine=True)
        exactly = exact(*FAR, predictor)
    used = (pair.forward.weight > 0) & exactly.seen
    error = torch.linalg.vector_norm(pair.forward.target - exactly.target, dim=-1)[used]
    assert used.sum() > 0.7 * exactly.seen.sum()
    assert error.median() < 0.4  # RAFT alone: 0.6
    whitened = error * pair.forward.weight[used].sqrt()
    assert 0.3 < whitened.median() < 1.8  # 1.18 where the variances are the errors' own
    assert pair.median_flow > 80


def test_raft_alone_agrees_with_exact_flow(network: RaftSmall) -> None:
    """In the images' own order: forward is forward."""
    with closing(RaftFlowPredictor(640, 480, FlowSettings(), network)) as predictor:
        features = [predictor.encode(image(n)) for n in NEAR]
        flow = RaftFlow(network, 8)(features[0], features[1], PairGuess())
        exactly, grid = exact(*NEAR, predictor), predictor.grid
    assert flow.forward is not None
    error = torch.linalg.vector_norm(
        grid.pixel + grid.sample(flow.forward) - exactly.target, dim=-1
    )
    assert error[exactly.seen].median() < 0.4


def test_the_backward_correspondences_are_the_other_images(weights: Path) -> None:
    with closing(learned(weights, "raft")) as predictor:
        first, second = (predictor.encode(image(n)) for n in NEAR)
        there = predictor.pair(first, second, PairGuess())
        back = predictor.pair(second, first, PairGuess())
    assert (there.backward.target - back.forward.target).abs().max() < 0.01
    assert torch.equal(there.backward.weight > 0, back.forward.weight > 0)


def test_mixed_finds_motions_that_dis_does_not(weights: Path) -> None:
    with closing(learned(weights, "mixed")) as predictor:
        dis = FlowPredictor(640, 480, FlowSettings())
        first, second = (predictor.encode(image(n)) for n in FAR)
        exactly = exact(*FAR, predictor)
        alone = dis.pair(first, second, PairGuess())
        mixed = predictor.pair(first, second, PairGuess())
        dis.close()
    assert right(exactly, mixed) > 0.8 > right(exactly, alone) + 0.2


def test_mixed_is_dis_where_dis_is_sure_or_has_a_guess(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("RAFT was asked")

    monkeypatch.setattr(RaftFlow, "__call__", unwanted)
    with closing(learned(weights, "mixed")) as predictor:
        finest = FlowSettings().keyframe_finest_scale
        dis = FlowPredictor(640, 480, FlowSettings(tracking_finest_scale=finest))
        near = [predictor.encode(image(n)) for n in NEAR]
        far = [predictor.encode(image(n)) for n in FAR]
        zero = PairGuess(torch.zeros(HEIGHT, WIDTH, 2), None)
        for features, guess in ((near, PairGuess()), (far, zero)):
            got, want = (p.pair(features[0], features[1], guess) for p in (predictor, dis))
            assert torch.equal(got.forward.target, want.forward.target)
            assert torch.equal(got.forward.weight, want.forward.weight)
        with pytest.raises(AssertionError, match="RAFT was asked"):
            predictor.pair(far[0], far[1], PairGuess())
        dis.close()


def test_an_image_is_encoded_once_while_it_is_remembered() -> None:
    class Counting(RaftSmall):
        count = 0

        def encode(self, image: Tensor) -> object:
            self.count += 1
            return super().encode(image)

    network = Counting().eval()
    flow = RaftFlow(network, 1)
    grey = torch.zeros(64, 64, dtype=torch.uint8)
    images = [Features(grey, grey[..., None].expand(64, 64, 3), grey) for _ in range(3)]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        flow(images[first], images[second], PairGuess())
    assert network.count == 3
    others = [Features(grey, images[0].rgb, grey) for _ in range(REMEMBERED)]
    for other in others:
        flow(images[0], other, PairGuess())
    assert network.count == 3 + REMEMBERED  # image 0 was always in use
    flow(images[1], images[0], PairGuess())
    assert network.count == 4 + REMEMBERED  # image 1 was forgotten


def test_working_images_too_large_for_it_are_refused() -> None:
    settings = replace(FlowSettings(), method="mixed", long_side=4096)
    with pytest.raises(ValueError, match=r"got 4096 x 3072 px; lower flow\.long_side"):
        RaftFlowPredictor(8192, 6144, settings, RaftSmall())


# --- the system ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["raft", "mixed"])
def test_a_run_with_learned_flow_poses_every_frame(
    weights: Path, tmp_path: Path, method: str
) -> None:
    source = open_source(cut_sample(tmp_path / "cut", range(40, 88, 4)))
    config = Config()
    flow = replace(
        config.flow, method=method, weights=str(weights), raft_iterations=4, long_side=160
    )
    with closing(Slam(source.camera, replace(config, flow=flow))) as slam:
        for one in source.images():
            slam.feed(one)
        slam.finish()
        records = slam.graph.records()
        centres = torch.stack([slam.graph.T_WC(record)[:3] for record in records])
    assert [r.state for r in records] == [TrackState.TRACKED] * 12
    assert centres.isfinite().all() and float((centres[-1] - centres[0]).norm()) > 0


@pytest.mark.slow
def test_mixed_poses_every_frame_of_two_a_second(
    weights: Path, tmp_path: Path, run_cli: Callable[..., CommandResult]
) -> None:
    """Where DIS alone loses frames (README)."""
    arguments = ("--stride", "15", "--flow", "mixed", "--flow-weights", weights)
    result = run_cli("run", SAMPLE, *arguments, "--out", tmp_path / "out", "-q")
    assert result.code == 0, result.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["posed"] == report["frames"] == 20
    assert report["ate"]["sim3_rmse"] < 0.003


def test_without_weights_one_line_says_what_to_do(
    run_cli: Callable[..., CommandResult], tmp_path: Path
) -> None:
    source = cut_sample(tmp_path / "cut", range(4))
    for method in ("raft", "mixed"):
        result = run_cli("run", source, "--flow", method, "--out", tmp_path / "out")
        assert result.code == 2
        assert result.err.count("\n") == 1 and "--flow-weights" in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"no weights"])
def test_bad_weights_are_one_line_and_status_2(
    run_cli: Callable[..., CommandResult], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "w.pth"
    if content is not None:
        path.write_bytes(content)
    source = cut_sample(tmp_path / "cut", range(4))
    result = run_cli(
        "run", source, "--flow", "mixed", "--flow-weights", path, "--out", tmp_path / "out"
    )
    assert result.code == 2
    assert result.err.count("\n") == 1 and str(path) in result.err


def test_an_unknown_method_is_one_line(
    run_cli: Callable[..., CommandResult], tmp_path: Path
) -> None:
    result = run_cli("run", tmp_path, "--flow", "farneback")
    assert result.code == 2 and "dis, raft, mixed" in result.err
