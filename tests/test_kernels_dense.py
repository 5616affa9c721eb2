"""Dense bundle adjustment: one step against a full float64 Hessian, convergence, the solver."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import reference
import torch
from torch import Tensor

from slam import kernels
from slam.kernels import DenseProblem, DenseStep, Intrinsics
from slam.lie import se3_exp, se3_inv, se3_mul

K: Intrinsics = (250.0, 260.0, 157.0, 121.0)
FREE = float("inf")


@dataclass(frozen=True, slots=True)
class Truth:
    """An exact scene: the problem stands at its minimum, cost 0."""

    problem: DenseProblem
    poses: Tensor
    inverse_depth: Tensor


def scene(keyframes: int, pixels: int, reach: int, seed: int = 0, fixed: int = 2) -> Truth:
    """Cameras along a curve; each measures its pixels in those up to `reach` away."""
    g = torch.Generator().manual_seed(seed)
    pixel = torch.rand(pixels, 2, generator=g) * torch.tensor([320.0, 240.0])
    along = 0.25 * torch.arange(keyframes).double()
    place = torch.stack([along, 0.1 * (2 * along).sin(), 0.2 * along.cos()], 1)
    turn = 0.1 * torch.randn(keyframes, 3, generator=g).double()
    poses = se3_exp(torch.cat([place, turn], 1))
    rho = 0.2 + 0.4 * torch.rand(keyframes, pixels, generator=g)
    near = [(i, j) for i in range(keyframes) for j in range(keyframes) if 0 < abs(i - j) <= reach]
    target = torch.zeros(len(near), pixels, 2)
    for n, (i, j) in enumerate(near):
        M = reference.pose_matrix(se3_mul(poses[j], se3_inv(poses[i])))
        Y = reference.moved(M, pixel.double(), rho[i].double(), K)
        target[n] = reference.project(Y, K).float()
    problem = DenseProblem(
        poses=poses,
        inverse_depth=rho,
        edges=torch.tensor(near, dtype=torch.int32).reshape(-1, 2),
        target=target,
        weight=0.5 + torch.rand(len(near), pixels, generator=g),
        prior=rho.clone(),
        prior_weight=torch.zeros(keyframes, pixels),
        pixel=pixel,
        intrinsics=K,
        fixed=torch.arange(keyframes) < fixed,
        huber=FREE,
        outlier=FREE,
        refine_focal=False,
    )
    return Truth(problem, poses, rho)


def disturbed(truth: Truth, pose: float, depth: float, noise: float = 0.0) -> DenseProblem:
    """The problem away from its minimum; fixed poses stay exact."""
    problem = truth.problem
    g = torch.Generator().manual_seed(7)
    xi = pose * torch.randn(len(problem.poses), 6, generator=g).double()
    xi[problem.fixed] = 0
    factor = 1 + depth * torch.randn(problem.inverse_depth.shape, generator=g)
    return replace(
        problem,
        poses=se3_mul(se3_exp(xi), problem.poses),
        inverse_depth=problem.inverse_depth * factor.clamp(0.3, 3),
        target=problem.target + noise * torch.randn(problem.target.shape, generator=g),
    )


def spoiled(focal: bool, fixed: int = 1) -> DenseProblem:
    """A small problem with every case: outliers, no weight, points behind, priors, odd sizes."""
    problem = disturbed(scene(4, 21, 2, fixed=fixed), 0.02, 0.1, noise=0.5)
    target, weight = problem.target.clone(), problem.weight.clone()
    target[:, ::6] += 30.0
    weight[:, 1::5], target[:, 1::5] = 0.0, torch.nan
    weight[1] = 0.0
    weight[:, 20] = 0.0  # a pixel that nothing measures, and no prior
    rho = problem.inverse_depth.clone()
    rho[:, 2] = 30.0  # behind some of the cameras
    prior_weight = torch.rand(rho.shape, generator=torch.Generator().manual_seed(9)) * 400
    prior_weight[:, 20] = 0.0
    return replace(
        problem,
        target=target.nan_to_num(0.0) if focal else target,
        weight=weight,
        inverse_depth=rho,
        prior=0.4 * torch.ones_like(rho),
        prior_weight=prior_weight,
        huber=1.5,
        outlier=15.0,
        refine_focal=focal,
    )


def on(device: torch.device, problem: DenseProblem) -> DenseProblem:
    names = ("inverse_depth", "target", "weight", "prior", "prior_weight", "pixel")
    return replace(problem, **{name: getattr(problem, name).to(device) for name in names})


def step(problem: DenseProblem, damping: float = 1e-6, depth_damping: float = 0.0) -> DenseStep:
    return kernels.dense_ba_step(
        problem, damping=damping, depth_damping=depth_damping, min_value=1e-3, max_value=1e3
    )


def applied(problem: DenseProblem, taken: DenseStep) -> DenseProblem:
    fx, fy, cx, cy = problem.intrinsics
    factor = math.exp(taken.log_focal)
    return replace(
        problem,
        poses=se3_mul(se3_exp(taken.twist), problem.poses),
        inverse_depth=taken.inverse_depth,
        intrinsics=(fx * factor, fy * factor, cx, cy),
    )


def assert_full_step(device: torch.device, problem: DenseProblem, damping: float) -> None:
    """The step is that of the full float64 Hessian, where pixel 20 is not measured."""
    clean = replace(problem, target=problem.target.nan_to_num(0.0))
    want = reference.dense_step(clean, damping, 0.05)
    got = step(on(device, problem), damping, 0.05)
    assert got.ok and got.cost == pytest.approx(want.cost, rel=1e-5)
    assert kernels.dense_ba_cost(on(device, problem)) == pytest.approx(want.cost, rel=1e-5)
    assert (got.twist - want.twist).abs().max() <= 2e-4 * want.twist.abs().max()
    assert got.log_focal == pytest.approx(want.log_focal, rel=5e-4)
    assert got.focal_information == pytest.approx(want.focal_information, rel=1e-3)
    expected = want.inverse_depth.clamp(1e-3, 1e3)
    torch.testing.assert_close(got.inverse_depth.cpu().double(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(got.inverse_depth[:, 20].cpu(), problem.inverse_depth[:, 20])
    assert not got.twist[problem.fixed].any()


@pytest.mark.parametrize("focal", [False, True])
@pytest.mark.parametrize("damping", [1e-3, 0.3])
def test_a_step_equals_the_full_hessians(device: torch.device, focal: bool, damping: float) -> None:
    assert_full_step(device, spoiled(focal), damping)


@pytest.mark.parametrize("focal", [False, True])
@pytest.mark.parametrize("stay", [(0, 1), (1, 3), (0, 2, 3), (0, 1, 2, 3)])
def test_poses_that_stay_leave_out_nothing_else(
    device: torch.device, focal: bool, stay: tuple[int, ...]
) -> None:
    """Edges among poses that stay, from them and to them, measure depths and focal all the same."""
    fixed = torch.tensor([k in stay for k in range(4)])
    assert_full_step(device, replace(spoiled(focal), fixed=fixed), 1e-3)


def test_the_spoiled_problem_has_points_behind_and_outliers() -> None:
    problem = spoiled(False)
    behind, outliers = 0, 0
    for n, (i, j) in enumerate(problem.edges.tolist()):
        M = reference.pose_matrix(se3_mul(problem.poses[j], se3_inv(problem.poses[i])))
        rho = problem.inverse_depth[i].double()
        Y = reference.moved(M, problem.pixel.double(), rho, K)
        r = (problem.target[n] - reference.project(Y, K)).norm(dim=1)
        used = (problem.weight[n] > 0) & (Y[:, 2] > 0)
        behind += int(((problem.weight[n] > 0) & (Y[:, 2] < 0)).sum())
        outliers += int((used & (r * problem.weight[n].sqrt() > 15)).sum())
    assert behind >= 2 and outliers >= 10


def test_the_step_is_the_slope_of_the_cost() -> None:
    problem = replace(spoiled(True), outlier=FREE)
    taken = step(problem, 1e-3)
    small = replace(taken, twist=1e-3 * taken.twist, log_focal=1e-3 * taken.log_focal)
    change = taken.inverse_depth.double() - problem.inverse_depth.double()
    moved = problem.inverse_depth.double() + 1e-3 * change
    near = applied(problem, replace(small, inverse_depth=moved.float()))
    full = applied(problem, taken)
    before, after = kernels.dense_ba_cost(problem), kernels.dense_ba_cost(full)
    assert kernels.dense_ba_cost(near) < before and after < before


def test_exact_poses_and_depths_are_found(device: torch.device) -> None:
    truth = scene(5, 700, 3)
    problem = on(device, disturbed(truth, 0.02, 0.1))
    for _ in range(8):
        problem = applied(problem, step(problem))
    assert (problem.poses - truth.poses).abs().max() < 1e-5
    assert (problem.inverse_depth.cpu() - truth.inverse_depth).abs().max() < 2e-4
    assert kernels.dense_ba_cost(problem) < 1e-3


def test_a_focal_ten_percent_off_is_recovered(device: torch.device) -> None:
    truth = scene(6, 500, 3)
    fx, fy, cx, cy = K
    problem = replace(truth.problem, intrinsics=(1.1 * fx, 1.1 * fy, cx, cy), refine_focal=True)
    problem = on(device, problem)
    for _ in range(10):
        taken = step(problem)
        problem = applied(problem, taken)
    assert problem.intrinsics[0] == pytest.approx(fx, rel=1e-5)
    assert problem.intrinsics[1] == pytest.approx(fy, rel=1e-5)
    assert (problem.poses - truth.poses).abs().max() < 1e-4


def test_focal_information_predicts_the_focals_scatter() -> None:
    truth = scene(4, 150, 3)
    errors, information = [], 0.0
    for trial in range(25):
        g = torch.Generator().manual_seed(trial)
        weight = torch.full_like(truth.problem.weight, 4.0)
        target = truth.problem.target + 0.5 * torch.randn(truth.problem.target.shape, generator=g)
        problem = replace(truth.problem, target=target, weight=weight, refine_focal=True)
        for _ in range(3):
            taken = step(problem, 1e-9)
            problem = applied(problem, taken)
        errors.append(math.log(problem.intrinsics[0] / K[0]))
        information = taken.focal_information
    deviation = torch.tensor(errors).square().mean().sqrt()
    assert float(deviation) * information**0.5 == pytest.approx(1.0, rel=0.4)


def test_priors_alone_set_the_depths() -> None:
    truth = scene(3, 40, 0)
    weight = torch.full_like(truth.problem.prior_weight, 10.0)
    problem = replace(truth.problem, prior=truth.inverse_depth + 0.1, prior_weight=weight)
    taken = step(problem)
    assert taken.ok and not taken.twist.any()
    torch.testing.assert_close(taken.inverse_depth, truth.inverse_depth + 0.1)
    assert taken.cost == pytest.approx(0.5 * 10 * 0.01 * 120, rel=1e-4)


def test_depths_stay_between_their_bounds() -> None:
    problem = disturbed(scene(4, 100, 2), 0.02, 0.5)
    taken = kernels.dense_ba_step(
        problem, damping=1e-6, depth_damping=0.0, min_value=0.3, max_value=0.5
    )
    assert float(taken.inverse_depth.min()) == pytest.approx(0.3)
    assert float(taken.inverse_depth.max()) == pytest.approx(0.5)


def test_poses_without_edges_do_not_spoil_the_others() -> None:
    problem = disturbed(scene(5, 60, 2), 0.02, 0.1)
    keep = (problem.edges != 4).all(1)
    alone = replace(
        problem, edges=problem.edges[keep], target=problem.target[keep], weight=problem.weight[keep]
    )
    taken = step(alone)
    assert taken.ok and not taken.twist[4].any() and taken.twist[3].any()
    assert torch.equal(taken.inverse_depth[4], problem.inverse_depth[4])


def test_all_poses_fixed_moves_depths_only() -> None:
    problem = disturbed(scene(4, 60, 2, fixed=4), 0.0, 0.1)
    for _ in range(6):
        taken = step(problem)
        assert taken.ok and not taken.twist.any()
        problem = applied(problem, taken)
    assert kernels.dense_ba_cost(problem) < 1e-4


def test_a_singular_system_is_a_value() -> None:
    problem = scene(3, 30, 2, fixed=1).problem
    broken = replace(problem, weight=torch.full_like(problem.weight, 1e35))  # sums overflow
    taken = step(broken)
    assert not taken.ok and not taken.twist.any() and taken.log_focal == 0.0
    assert torch.equal(taken.inverse_depth, problem.inverse_depth)


def test_empty_problems(device: torch.device) -> None:
    for keyframes, pixels, reach in ((0, 5, 1), (1, 5, 1), (3, 0, 2), (3, 5, 0)):
        problem = on(device, scene(keyframes, pixels, reach).problem)
        assert kernels.dense_ba_cost(problem) == 0.0
        taken = step(problem)
        assert taken.ok and not taken.twist.any()


def looped(keyframes: int, pixels: int) -> DenseProblem:
    """A long chain with loops, so that elimination fills blocks in; far from its minimum."""
    truth = scene(keyframes, pixels, 2, fixed=1)
    g = torch.Generator().manual_seed(4)
    last = keyframes - 1
    loops = {(0, last), (1, last - 2), (last, 0), (last // 2, 0), (last // 3, last - 1)}
    old = [(i, j) for i, j in truth.problem.edges.tolist()]
    edges = sorted(loops | set(old))
    target = 300 * torch.rand(len(edges), pixels, 2, generator=g)
    for edge, exact in zip(old, truth.problem.target, strict=True):
        target[edges.index(edge)] = exact
    return replace(
        truth.problem,
        edges=torch.tensor(edges, dtype=torch.int32),
        target=target,
        weight=torch.ones(len(edges), pixels),
        prior_weight=torch.full((keyframes, pixels), 1e4),
    )


def test_a_chain_with_loops_solves_like_a_dense_system(device: torch.device) -> None:
    problem = looped(9, 5)
    want, got = reference.dense_step(problem, 0.1, 0.0), step(on(device, problem), 0.1)
    assert got.ok
    assert (got.twist - want.twist).abs().max() < 1e-3 * want.twist.abs().max()


def test_renumbered_keyframes_move_alike() -> None:
    problem = looped(60, 20)
    g = torch.Generator().manual_seed(5)
    new = torch.randperm(60, generator=g)  # keyframe k becomes new[k]
    old = new.argsort()
    edges = new[problem.edges.long()]
    order = (edges[:, 0] * 60 + edges[:, 1]).argsort()
    names = ("poses", "inverse_depth", "prior", "prior_weight", "fixed")
    renumbered = replace(
        problem,
        edges=edges[order].int(),
        target=problem.target[order].contiguous(),
        weight=problem.weight[order].contiguous(),
        **{name: getattr(problem, name)[old].contiguous() for name in names},
    )
    first, second = step(problem, 0.1), step(renumbered, 0.1)
    assert first.ok and second.ok
    assert (second.twist[new] - first.twist).abs().max() < 2e-3 * first.twist.abs().max()
