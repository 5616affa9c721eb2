"""The simulated network: exact without noise, as wrong as asked with it, and blind to the rest."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from simulated_room import CAMERA, SIZE, CountingWorld
from torch import Tensor

from slam.camera import pixel_grid
from slam.frame import PointmapView
from slam.lie import se3_act, se3_inv, se3_matrix, se3_mul
from slam.predictors.posed_depth import RenderedDepth, SourceDepth
from slam.predictors.simulated import SimulatedNetwork, SimulatedSettings, surface_descriptor
from slam.predictors.simulated_noise import Draw, direction_field, generator
from slam.rendering import sample_times, sample_trajectory
from slam.rendering.rooms import sample_room_builder
from slam.sources import open_source

pytestmark = pytest.mark.usefixtures("one_thread")
SAMPLE = Path(__file__).parents[1] / "datasets" / "sample"


@cache
def world() -> CountingWorld:
    return CountingWorld()


def pair(i: int, j: int, **settings: float) -> tuple[PointmapView, PointmapView]:
    network = SimulatedNetwork(world(), SimulatedSettings(**settings))  # type: ignore[arg-type]
    return network.decode(network.encode([i]), network.encode([j]), SIZE)


def pose(index: int) -> Tensor:
    return world().read(index).T_WC


def log_errors(i: int, **settings: float) -> Tensor:
    """Log distance [H, W] of frame i's own pointmap over the truth."""
    distance = torch.linalg.vector_norm(pair(i, i, **settings)[0].X[0].double(), dim=-1)
    return (distance / torch.linalg.vector_norm(pair(i, i)[0].X[0].double(), dim=-1)).log()


def test_without_noise_both_views_are_the_renderers_geometry() -> None:
    first, second = pair(10, 25)
    rays = CAMERA.unproject(pixel_grid(*SIZE))
    X_11, X_22 = (rays * world().read(i).depth[..., None].double() for i in (10, 25))
    torch.testing.assert_close(first.X[0].double(), X_11, rtol=2e-6, atol=0)
    X_12 = se3_act(se3_mul(se3_inv(pose(10)), pose(25)), X_22)
    torch.testing.assert_close(second.X[0].double(), X_12, rtol=0, atol=2e-6)


def test_without_noise_points_of_view_2_lie_on_the_surface_that_view_1_shows() -> None:
    second = pair(10, 16)[1].X[0]
    u, v = CAMERA.project(second).unbind(-1)
    inside = (u > 1) & (u < 94) & (v > 1) & (v < 70) & (second[..., 2] > 0)
    # A camera that looks through exactly those pixels sees the points' own depths.
    T_WC = sample_trajectory().poses(sample_times())[10]
    fine = CAMERA.resized(960, 720)
    depth = RenderedDepth(world().inner.surfaces, fine, T_WC[None]).read(0).depth
    place = fine.project(second[inside].double()).round().long()
    z = depth[place[:, 1], place[:, 0]]
    same = (z / second[inside][:, 2] - 1).abs() < 0.01
    assert inside.float().mean() > 0.6 and same.float().mean() > 0.95


def test_descriptors_have_unit_length_and_peak_at_the_true_match() -> None:
    first, second = pair(10, 16)
    length = torch.linalg.vector_norm(second.descriptor[0], dim=-1)
    torch.testing.assert_close(length, torch.ones(SIZE), rtol=1e-6, atol=0)
    seen = second.descriptor_confidence[0] > 3  # the surface is in both images
    u, v = CAMERA.project(second.X[0]).unbind(-1)
    inner = seen & (u > 2) & (u < 93) & (v > 2) & (v < 69)
    picked = inner.flatten().nonzero()[::7, 0]
    scores = second.descriptor[0].reshape(-1, 24)[picked] @ first.descriptor[0].reshape(-1, 24).T
    best = scores.argmax(1)
    error_u = best % 96 - u.flatten()[picked]
    error_v = best // 96 - v.flatten()[picked]
    assert len(picked) > 200
    assert (torch.hypot(error_u, error_v) < 1.5).float().mean() > 0.95


def test_descriptor_products_fall_with_distance_however_the_points_differ() -> None:
    stream = torch.Generator().manual_seed(0)
    X = 3 * torch.rand(300, 3, generator=stream).double()
    step = torch.nn.functional.normalize(torch.randn(300, 3, generator=stream).double(), dim=-1)
    products = [
        (surface_descriptor(X, 0.1, 6.0) * surface_descriptor(X + d * step, 0.1, 6.0)).sum(-1)
        for d in (0.0, 0.005, 0.01, 0.02, 0.04)
    ]
    assert (products[0] - 1).abs().max() < 1e-12
    assert all((b < a).all() for a, b in pairwise(products))


def test_noise_has_the_size_asked_for_and_confidence_knows_where() -> None:
    error = log_errors(10, noise=0.02)
    assert float(error.square().mean().sqrt()) == pytest.approx(0.02, rel=0.03)
    confidence = pair(10, 10, noise=0.02)[0].confidence[0]
    whitened = error * (confidence - 1).sqrt()
    for part in whitened.flatten()[confidence.flatten().argsort()].chunk(4):
        assert float(part.std()) == pytest.approx(0.02 * 10**0.5, rel=0.06)
    neighbours = (error[:, 1:] * error[:, :-1]).mean() / error.square().mean()
    assert abs(float(neighbours)) < 0.05


def test_warp_has_the_size_asked_for_is_smooth_and_new_for_each_pair_and_view() -> None:
    error = log_errors(10, warp=0.03)
    assert float(error.square().mean().sqrt()) == pytest.approx(0.03, rel=1e-3)
    assert abs(float(error.mean())) < 1e-6
    step = (error[:, 1:] - error[:, :-1]).abs().max()
    assert float(step) < 0.03 * 2 * math.pi * 1.5 * 3 / 96
    others = [log_ratio(pair(10, j, warp=0.03)[0], pair(10, j)[0]) for j in (12, 14)]
    others.append(log_ratio(pair(10, 10, warp=0.03)[1], pair(10, 10)[1]))
    for other in others:
        assert float((other - error).square().mean().sqrt()) > 0.02


def log_ratio(noisy: PointmapView, clean: PointmapView) -> Tensor:
    """Log [H, W] of the ratio of two pointmaps' distances from camera 1."""
    noisy_distance, distance = (
        torch.linalg.vector_norm(view.X[0].double(), dim=-1) for view in (noisy, clean)
    )
    return (noisy_distance / distance).log()


def test_errors_of_view_2_lie_along_its_own_rays() -> None:
    T_21 = se3_mul(se3_inv(pose(25)), pose(10))
    noisy, clean = (
        torch.nn.functional.normalize(se3_act(T_21, pair(10, 25, **s)[1].X[0].double()), dim=-1)
        for s in ({"warp": 0.05, "noise": 0.02, "wrong": 0.2}, {})
    )
    assert (noisy - clean).abs().max() < 1e-5


def test_ray_noise_turns_rays_and_keeps_distances() -> None:
    noisy, clean = pair(10, 10, ray_noise=0.004)[0], pair(10, 10)[0]
    unit, true = (torch.nn.functional.normalize(v.X[0].double(), dim=-1) for v in (noisy, clean))
    for axis in (0, 1):
        difference = (unit - true)[20:52, 30:66, axis]
        assert float(difference.square().mean().sqrt()) == pytest.approx(0.004, rel=0.4)
    angle = torch.linalg.vector_norm(unit - true, dim=-1)
    assert float(angle.square().mean().sqrt()) == pytest.approx(0.004 * 2**0.5, rel=0.03)
    assert log_ratio(noisy, clean).abs().max() < 1e-3


def test_pair_scale_is_shared_by_both_views_and_spread_as_asked() -> None:
    scales = []
    for i, j in [(i, j) for i in range(10, 18) for j in range(10, 18)]:
        noisy, clean = pair(i, j, pair_scale=0.05), pair(i, j)
        first, second = (log_ratio(n, c) for n, c in zip(noisy, clean, strict=True))
        assert float((first - first.mean()).abs().max()) < 1e-5
        assert float(second.mean()) == pytest.approx(float(first.mean()), abs=1e-5)
        scales.append(float(first.mean()))
    found = torch.tensor(scales).reshape(8, 8)
    assert float(found.std()) == pytest.approx(0.05, rel=0.25)
    assert abs(float(found.mean())) < 3 * 0.05 / 8
    apart = (found - found.T)[torch.triu(torch.ones(8, 8), 1) > 0]  # a pair and its reverse
    assert float(apart.square().mean().sqrt()) == pytest.approx(0.05 * 2**0.5, rel=0.3)


def test_focal_error_is_that_of_a_wider_or_narrower_lens() -> None:
    noisy, clean = (view.X[0].double() for view in (pair(3, 4, focal=0.1)[1], pair(3, 4)[1]))
    factor = noisy / clean
    assert (factor[..., 2] - 1).abs().max() < 1e-6
    assert float(factor[..., 0].std()) < 1e-4 and abs(float(factor[..., 0].median()) - 1) > 1e-3


def test_holes_cover_the_share_asked_for_in_blobs_without_confidence() -> None:
    view = pair(10, 12, holes=0.15)[0]
    hole = view.confidence[0] == 0
    assert float(hole.float().mean()) == pytest.approx(0.15, abs=0.01)
    assert torch.equal(hole, view.descriptor_confidence[0] == 0)
    assert bool(view.X.isfinite().all())
    border = (hole[:, 1:] != hole[:, :-1]).float().mean()
    assert float(border) < 0.05


def test_wrong_regions_are_blobs_at_full_confidence() -> None:
    error = log_errors(10, wrong=0.2, wrong_depth=0.4)
    wrong = error.abs() > 0.2
    assert float(wrong.float().mean()) == pytest.approx(0.2, abs=0.01)
    assert error[wrong].abs() == pytest.approx(torch.full_like(error[wrong], 0.4), rel=1e-4)
    assert error[~wrong].abs().max() < 1e-5
    spoiled, clean = pair(10, 10, wrong=0.2)[0], pair(10, 10)[0]
    assert torch.equal(spoiled.confidence, clean.confidence)


def test_view_bias_depends_on_the_direction_alone() -> None:
    at = {i: log_ratio(pair(i, 10, view_bias=0.02)[0], pair(i, 10)[0]) for i in (10, 12, 60)}
    again = log_ratio(pair(10, 50, view_bias=0.02)[0], pair(10, 50)[0])
    torch.testing.assert_close(again, at[10], rtol=0, atol=1e-6)
    rays = torch.nn.functional.normalize(CAMERA.unproject(pixel_grid(*SIZE)), dim=-1)
    near, far = (float((at[10] - at[i]).abs().mean()) for i in (12, 60))
    assert near < 0.5 * far
    turn = se3_mul(se3_inv(pose(12)), pose(10))[3:]
    moved = CAMERA.project(se3_act(torch.cat([torch.zeros(3).double(), turn]), rays))
    u, v = moved[36, 48].round().long().tolist()  # the same direction in the other frame
    around = at[12][v - 1 : v + 2, u - 1 : u + 2]
    assert float(around.min()) < float(at[10][36, 48]) < float(around.max())


@pytest.mark.parametrize("seed", [0, 1])
def test_a_direction_field_has_unit_rms_over_the_sphere(seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize(torch.randn(20000, 3, generator=stream).double(), dim=-1)
    field = direction_field(generator(seed, Draw.BIAS), unit)
    assert float(field.mean()) == pytest.approx(0, abs=0.03)
    assert float(field.square().mean().sqrt()) == pytest.approx(1, rel=0.03)


def test_descriptor_noise_keeps_unit_length_and_costs_similarity() -> None:
    noisy, clean = (pair(10, 10, **s)[0].descriptor[0] for s in ({"descriptor_noise": 0.3}, {}))
    assert (torch.linalg.vector_norm(noisy, dim=-1) - 1).abs().max() < 1e-6
    product = (noisy * clean).sum(-1).mean()
    assert float(product) == pytest.approx((1 + 0.3**2) ** -0.5, abs=0.01)


def test_confidence_is_lower_where_the_other_image_shows_something_else() -> None:
    options = {"noise_spread": 0.0}
    alone, beside = (pair(10, j, **options)[0].confidence[0] - 1 for j in (10, 45))
    ratio = alone / beside
    lower = ratio > 2
    assert 0.1 < float(lower.float().mean()) < 0.95
    T_21 = se3_mul(se3_inv(pose(45)), pose(10))
    X_21 = se3_act(T_21, pair(10, 45)[0].X[0].double())
    u, v = CAMERA.project(X_21).unbind(-1)
    outside = (u < -1) | (u > 96) | (v < -1) | (v > 72) | (X_21[..., 2] < 0)
    assert bool(lower[outside].all()) and bool(outside.any())
    inside = ((u > 0) & (u < 95) & (v > 0) & (v < 71) & (X_21[..., 2] > 0)).flatten()
    place = torch.where(inside, (v.round() * 96 + u.round()).flatten(), 0.0).long()
    nearer = world().read(45).depth.flatten()[place] < 0.8 * X_21[..., 2].flatten()
    occluded = inside & nearer
    assert bool(lower.flatten()[occluded].all()) and int(occluded.sum()) > 20


EVERYTHING = {
    "pair_scale": 0.05,
    "focal": 0.02,
    "warp": 0.02,
    "noise": 0.01,
    "ray_noise": 0.001,
    "holes": 0.1,
    "wrong": 0.1,
    "view_bias": 0.02,
    "descriptor_noise": 0.1,
}


def same(a: tuple[PointmapView, PointmapView], b: tuple[PointmapView, PointmapView]) -> bool:
    names = ("X", "confidence", "descriptor", "descriptor_confidence")
    return all(
        torch.equal(getattr(v, name), getattr(w, name))
        for v, w in zip(a, b, strict=True)
        for name in names
    )


def test_a_pair_is_the_same_bits_whatever_was_asked_before() -> None:
    settings = SimulatedSettings(**EVERYTHING)  # type: ignore[arg-type]
    network, other = (SimulatedNetwork(world(), settings) for _ in range(2))
    tokens = {i: network.encode([i]) for i in (10, 12, 14)}
    first = network.decode(tokens[10], tokens[12], SIZE)
    for i, j in ((12, 10), (14, 14), (10, 14)):
        assert not same(other.decode(tokens[i], tokens[j], SIZE), first)
    assert same(other.decode(other.encode([10]), other.encode([12]), SIZE), first)
    assert same(network.decode(tokens[10], tokens[12], SIZE), first)
    reseeded = SimulatedNetwork(world(), replace(settings, seed=1))
    assert not same(reseeded.decode(tokens[10], tokens[12], SIZE), first)


def test_a_batch_is_its_pairs() -> None:
    settings = SimulatedSettings(**EVERYTHING)  # type: ignore[arg-type]
    network = SimulatedNetwork(world(), settings)
    batch = network.decode(network.encode([10, 14]), network.encode([12, 10]), SIZE)
    assert batch[0].X.shape == (2, *SIZE, 3) and batch[1].descriptor.shape == (2, *SIZE, 24)
    single = network.decode(network.encode([14]), network.encode([10]), SIZE)
    for whole, one in zip(batch, single, strict=True):
        assert torch.equal(whole.X[1:], one.X)
        assert torch.equal(whole.descriptor[1:], one.descriptor)


def test_only_the_two_frames_are_read() -> None:
    counting = CountingWorld()
    network = SimulatedNetwork(counting, SimulatedSettings(**EVERYTHING))  # type: ignore[arg-type]
    one, two = network.encode([40]), network.encode([7])
    network.decode(one, two, SIZE)
    network.decode(two, one, SIZE)
    assert counting.reads == [40, 7]


def test_wrong_calls_say_so() -> None:
    network = SimulatedNetwork(world(), SimulatedSettings())
    tokens = network.encode([0])
    with pytest.raises(ValueError, match=r"wanted size \(72, 96\)"):
        network.decode(tokens, tokens, (96, 72))
    with pytest.raises(ValueError, match="1 with 2"):
        network.decode(tokens, network.encode([0, 1]), SIZE)
    with pytest.raises(ValueError, match="wanted 0 to 299, got 300"):
        network.encode([300])
    with pytest.raises(ValueError, match="at least one frame"):
        network.encode([])
    with pytest.raises(ValueError, match="warp"):
        SimulatedSettings(warp=-0.1)


def test_the_samples_depth_maps_agree_with_the_renderer() -> None:
    source = open_source(SAMPLE)
    stored = SourceDepth(source, 96, 72)
    assert stored.indices == [*range(0, 271, 27), 299]
    exact = RenderedDepth(
        tuple(sample_room_builder().surfaces),
        stored.camera,
        sample_trajectory().poses(sample_times()),
    )
    for index in (27, 162):
        view, truth = stored.read(index), exact.read(index)
        assert ((view.depth / truth.depth - 1).abs() < 0.01).float().mean() > 0.9
        assert (se3_matrix(view.T_WC) - se3_matrix(truth.T_WC)).abs().max() < 1e-6
    with pytest.raises(ValueError, match="got frame 3"):
        stored.read(3)


def test_frames_of_a_real_sensor_agree_in_depth(slam_data: Path) -> None:
    source = open_source(slam_data / "rgbd_dataset_freiburg1_xyz")
    known = SourceDepth(source, 160, 120)
    network = SimulatedNetwork(known, SimulatedSettings())
    first, second = network.decode(network.encode([0]), network.encode([29]), (120, 160))
    assert len(known.indices) > 60 and bool((second.confidence == 0).any())
    u, v = known.camera.project(second.X[0]).round().long().unbind(-1)
    inside = (u >= 0) & (u < 160) & (v >= 0) & (v < 120) & (second.confidence[0] > 0)
    u, v, z = u[inside], v[inside], second.X[0][inside][:, 2]
    measured = first.confidence[0][v, u] > 0
    there = first.X[0][v, u, 2][measured]
    assert float((there / z[measured] - 1).abs().median()) < 0.015


def test_poses_are_interpolated_to_the_time_of_the_depth_map(slam_data: Path) -> None:
    source = open_source(slam_data / "rgbd_dataset_freiburg1_xyz")
    known, truth = SourceDepth(source, 64, 48), source.ground_truth
    assert truth is not None
    time = source.depth_time(known.indices[0])
    assert time is not None and abs(time - source.times[known.indices[0]]) > 0.01
    after = int((truth.times < time).sum())
    low, high = truth.positions[after - 1], truth.positions[after]
    share = (time - truth.times[after - 1]) / (truth.times[after] - truth.times[after - 1])
    position = known.read(known.indices[0]).T_WC[:3].numpy()
    assert position == pytest.approx(low + share * (high - low), abs=1e-5)
