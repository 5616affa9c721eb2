"""Inputs of a run's sizes for every native kernel, with its plain torch twin on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from slam import kernels
from slam.bench import twins, twins_dense, twins_images, twins_matching
from slam.camera import pixel_grid
from slam.config import Config
from slam.frame import InverseDepth
from slam.kernels import DenseProblem, Intrinsics
from slam.lie import se3_act, se3_exp, se3_inv, se3_mul, sim3_exp
from slam.mapping import project_grid, relative
from slam.predictors.grid import Grid, working_size

IMAGE = (640, 480)  # px, of a camera
POINTMAP = (512, 384)  # px, of a network's pointmaps
KEYFRAMES = 16  # a window of 8 and those linked to it
NEIGHBOURS = 3  # on each side that a keyframe is linked to
FAR = 8  # keyframes apart, of the covisible pairs
NOISE, OUTLIERS = 0.3, 0.05  # px; share of wrong measurements
DESCRIPTOR = 24  # channels
LIKENESS = 6.0  # px, over which descriptors are alike
FLOAT = 4  # bytes


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel on one input."""

    kernel: str  # its name in slam.kernels
    size: str  # in words
    bytes: int  # inputs read once, outputs written once
    native: Callable[[], Sequence[Tensor]]
    twin: Callable[[], Sequence[Tensor]]  # the same values, in the same order
    matches: int = 0  # pixels that a call looks for; 0 = it matches none


def kernel_cases(device: torch.device, scale: float = 1.0) -> Iterator[Case]:
    """All kernels. Args: scale: on the sides of images; tests take less."""
    yield from _pose_cases(device, scale)
    yield from _filter_cases(device, scale)
    yield from _image_cases(device, scale)
    yield from _pointmap_cases(device, scale)
    yield from _matching_cases(device, scale)
    yield from _dense_cases(device, scale)


def make_grid(scale: float) -> Grid:
    """The grid that a run keeps depth on."""
    flow = Config().flow
    width, height = working_size(*IMAGE, max(round(flow.long_side * scale), 64))
    return Grid(width, height, flow.grid_stride)


def intrinsics_of(grid: Grid) -> Intrinsics:
    """60 degrees wide, and nothing symmetric."""
    fx = grid.width / (2 * math.tan(math.radians(30)))
    return fx, 1.01 * fx, 0.49 * grid.width, 0.51 * grid.height


def inverse_depths(grid: Grid, count: int, random: torch.Generator) -> Tensor:
    """Smooth ones [count, P] from 0.4 to 1.6, all different."""
    phase = 6 * torch.rand(count, 3, 1, generator=random)
    u, v = (grid.pixel / grid.width).unbind(-1)
    waves = torch.sin(5 * u + phase[:, 0]) + torch.cos(4 * v + phase[:, 1])
    return 1 + 0.2 * waves + 0.2 * torch.sin(9 * (u + v) + phase[:, 2])


def measured(
    grid: Grid, value: Tensor, T_ji: Tensor, K: Intrinsics, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Targets [P, 2] and weights [P]: noisy, some wrong, none where the pixel leaves the image."""
    depth = InverseDepth(value, torch.ones_like(value))
    target, inside = project_grid(grid, depth, T_ji, K)
    target = target + NOISE * torch.randn(target.shape, generator=random)
    wrong = torch.rand(len(value), generator=random) < OUTLIERS
    target = torch.where(wrong[:, None], target + 15.0, target)
    return target.contiguous(), torch.where(inside, NOISE**-2, 0.0)


def _twist(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _pose_cases(device: torch.device, scale: float) -> Iterator[Case]:
    grid, random = make_grid(scale), torch.Generator().manual_seed(1)
    K, value = intrinsics_of(grid), inverse_depths(grid, 1, random)[0]
    T_true = se3_exp(_twist(0.08, -0.03, 0.05, 0.01, -0.02, 0.03))
    T_start = se3_mul(se3_exp(_twist(0.01, 0.01, -0.01, 0.004, 0.003, -0.005)), T_true)
    target, weight = measured(grid, value, T_true, K, random)
    information = (0.05 * value) ** -2
    pixel, value, information, target, weight = (
        x.to(device) for x in (grid.pixel, value, information, target, weight)
    )
    points = pixel, value, information, target, weight
    tracking, count = Config().tracking, len(value)
    robust = {"huber": tracking.huber, "outlier": tracking.outlier}
    size, moved = f"{count} pixels", 7 * FLOAT * count

    def equations() -> Sequence[Tensor]:
        found = kernels.pose_normal_equations(*points, T_start, K, **robust)
        return found.H, found.g, torch.tensor([found.cost])

    def equations_twin() -> Sequence[Tensor]:
        found = twins.pose_normal_equations(points, T_start, K, **robust)
        return found.H, found.g, torch.tensor([found.cost])

    yield Case("pose_normal_equations", size, moved, equations, equations_twin)
    most = tracking.iterations
    yield Case(
        "solve_pose",
        f"{size}, <= {most} iterations",
        moved,
        lambda: (kernels.solve_pose(*points, T_start, K, **robust, iterations=most).T,),
        lambda: (twins.solve_pose(points, T_start, K, **robust, iterations=most),),
    )


def _filter_cases(device: torch.device, scale: float) -> Iterator[Case]:
    grid, random = make_grid(scale), torch.Generator().manual_seed(2)
    K, value = intrinsics_of(grid), inverse_depths(grid, 1, random)[0]
    T_ji = se3_exp(_twist(0.1, -0.04, 0.03, 0.01, -0.02, 0.02))
    target, weight = (x.to(device) for x in measured(grid, value, T_ji, K, random))
    pixel, cells = grid.pixel.to(device), kernels.Grid(*grid.shape)
    mapping, count = Config().mapping, len(value)
    known = ((0.1 * value) ** -2 * (torch.rand(count, generator=random) > 0.2)).to(device)
    seen = (value * (1 + 0.05 * torch.randn(count, generator=random))).to(device)
    value, certain = value.to(device), ((0.05 * value) ** -2).to(device)
    fusion = {
        "gate": mapping.gate,
        "relative_floor": mapping.relative_floor,
        "initial": mapping.initial,
        "decay": mapping.decay,
    }
    arguments, size = (pixel, target, weight, T_ji, K), f"{count} pixels"

    def fused() -> Sequence[Tensor]:
        out = value.clone(), known.clone()
        kernels.fuse_inverse_depth(*out, seen, certain, **fusion)
        return out

    yield Case(
        "triangulate_inverse_depth",
        size,
        7 * FLOAT * count,
        lambda: kernels.triangulate_inverse_depth(*arguments, gate=mapping.gate),
        lambda: twins.triangulate_inverse_depth(*arguments, gate=mapping.gate),
    )
    yield Case(
        "fuse_inverse_depth",
        f"{size}, with copies",
        6 * FLOAT * count,
        fused,
        lambda: twins.fuse_inverse_depth(value, known, seen, certain, **fusion),
    )
    warp = (value, certain, T_ji, K, cells)
    yield Case(
        "warp_inverse_depth",
        size,
        4 * FLOAT * count,
        lambda: kernels.warp_inverse_depth(*warp, inflation=mapping.warp_inflation),
        lambda: twins.warp_inverse_depth(*warp, inflation=mapping.warp_inflation),
    )


def _image_cases(device: torch.device, scale: float) -> Iterator[Case]:
    grid, random = make_grid(scale), torch.Generator().manual_seed(5)
    K, value = intrinsics_of(grid), inverse_depths(grid, 1, random)[0]
    T_ji = se3_exp(_twist(0.1, -0.04, 0.03, 0.01, -0.02, 0.02))
    target, _ = measured(grid, value, T_ji, K, random)
    points = grid.pixel.to(device), value.to(device), target.to(device)
    motion = T_ji, _twist(0.4, -0.3, 0.25, -0.5, 0.7, 0.35), _twist(-0.2, 0.3, 0.1, 0.6, 0.3, -0.4)
    rolling = {"readout": 0.025, "height": grid.height}
    yield Case(
        "unroll_target",
        f"{len(value)} pixels",
        7 * FLOAT * len(value),
        lambda: (kernels.unroll_target(*points, *motion, K, **rolling),),
        lambda: (twins_images.unroll_target(*points, *motion, K, **rolling),),
    )
    first, second = (x.to(device) for x in images(grid, random))
    start = 0.3 * torch.randn(grid.height, grid.width, 2, generator=random).to(device)
    flow = Config().flow
    options = {"radius": flow.window, "iterations": flow.tracking_iterations}

    def refined() -> Sequence[Tensor]:
        out = start.clone()
        kernels.refine_flow(first, second, out, **options, regularisation=0.5, longest_step=1.0)
        return (out,)

    yield Case(
        "refine_flow",
        f"{grid.width} x {grid.height} px, {flow.tracking_iterations} iterations, with copies",
        (2 + 4 * FLOAT) * first.numel(),
        refined,
        lambda: (
            twins_images.refine_flow(
                first, second, start, **options, regularisation=0.5, longest_step=1.0
            ),
        ),
    )


def images(grid: Grid, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two textured grey images [h, w] uint8, half a pixel apart, with noise of their own."""
    u, v = pixel_grid(grid.height, grid.width, dtype=torch.float32).unbind(-1)
    phase = torch.rand(4, generator=random) * 6

    def grey(shift: float) -> Tensor:
        waves = torch.sin(0.31 * (u + shift) + 0.12 * v + phase[0])
        waves = waves + torch.sin(0.36 * v - 0.17 * (u + shift) + phase[1])
        waves = waves + torch.sin(0.9 * (u + shift) + phase[2]) * torch.sin(0.7 * v + phase[3])
        noise = 2 * torch.randn(grid.height, grid.width, generator=random)
        return (120 + 35 * waves + noise).round().clamp(0, 255).to(torch.uint8)

    return grey(0.0), grey(0.5)


def _pointmap_cases(device: torch.device, scale: float) -> Iterator[Case]:
    width, height = (round(scale * side) for side in POINTMAP)
    grid, random = Grid(width, height, 1), torch.Generator().manual_seed(3)
    K, count = intrinsics_of(grid), width * height
    fx, fy, cx, cy = K
    u, v = grid.pixel.unbind(-1)
    rays = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
    X_k = rays / inverse_depths(grid, 1, random)[0][:, None]
    T_kf = sim3_exp(_twist(0.05, -0.02, 0.03, 0.01, -0.02, 0.015, 0.02))
    X_f = X_k * (1 + 0.01 * torch.randn(count, 3, generator=random))
    weight = (torch.rand(count, generator=random) - 0.1).clamp(min=0)
    pixel, X_k, X_f, weight = (x.to(device).contiguous() for x in (grid.pixel, X_k, X_f, weight))
    ray = {"sigma_ray": 0.003, "sigma_distance": 10.0, "huber": 1.345}
    depth = {"sigma_pixel": 1.0, "sigma_depth": 10.0, "huber": 1.345}
    size = f"{width} x {height} pointmap"

    def values(found: kernels.NormalEquations | twins.Equations) -> Sequence[Tensor]:
        return found.H, found.g, torch.tensor([found.cost])

    yield Case(
        "ray_normal_equations",
        size,
        7 * FLOAT * count,
        lambda: values(kernels.ray_normal_equations(X_k, X_f, weight, T_kf, **ray)),
        lambda: values(twins.ray_normal_equations(X_k, X_f, weight, T_kf, **ray)),
    )
    points = (pixel, X_k, X_f, weight, T_kf, K)
    yield Case(
        "pixel_depth_normal_equations",
        size,
        9 * FLOAT * count,
        lambda: values(kernels.pixel_depth_normal_equations(*points, **depth)),
        lambda: values(twins.pixel_depth_normal_equations(*points, **depth)),
    )


def _matching_cases(device: torch.device, scale: float) -> Iterator[Case]:
    width, height = (round(scale * side) for side in POINTMAP)
    grid, random = Grid(width, height, 1), torch.Generator().manual_seed(6)
    fx, fy, cx, cy = intrinsics_of(grid)
    u, v = grid.pixel.unbind(-1)
    X_C = torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], -1)
    X_C = X_C / inverse_depths(grid, 1, random)[0][:, None]
    distance = X_C.norm(dim=-1, keepdim=True)
    rays = torch.cat([X_C / distance, distance], -1).reshape(height, width, 4)
    points = se3_act(se3_exp(_twist(0.06, -0.03, 0.04, 0.01, -0.03, 0.02)), X_C.double()).float()
    waves = torch.randn(2, DESCRIPTOR, generator=random) / LIKENESS
    phase = 6 * torch.rand(DESCRIPTOR, generator=random)
    shift = 3 * torch.stack([torch.sin(v / 30), torch.cos(u / 40)], -1)
    image, sought = (
        torch.nn.functional.normalize(torch.cos(place @ waves + phase), dim=-1).to(device)
        for place in (grid.pixel, grid.pixel + shift)
    )
    image = image.reshape(height, width, DESCRIPTOR)
    rays, points, start = (x.to(device).contiguous() for x in (rays, points, grid.pixel))
    settings, count, size = Config().matching, len(u), f"{width} x {height} pointmap"
    descent = {"iterations": settings.iterations, "damping": settings.damping}

    def seen(found: Sequence[Tensor]) -> Sequence[Tensor]:
        """Errors and gaps, of which some are infinite, up to 1."""
        return found[0], *(value.clamp(max=1.0) for value in found[1:])

    yield Case(
        "match_rays",
        f"{size}, <= {settings.iterations} iterations",
        (4 + 3 + 2 + 4) * FLOAT * count,
        lambda: seen(kernels.match_rays(rays, points, start[None], **descent)),
        lambda: seen(twins_matching.match_rays(rays, points, start[None], **descent)),
        matches=count,
    )
    window = {"radius": settings.radius, "dilation": settings.dilation}
    active = torch.ones(count, dtype=torch.bool, device=device)
    arguments = image, sought, rays, points, start, active
    yield Case(
        "refine_matches",
        f"{size}, {settings.dilation} windows of {(2 * settings.radius + 1) ** 2}",
        ((2 * DESCRIPTOR + 4 + 3 + 2 + 3) * FLOAT + 1) * count,
        lambda: seen(kernels.refine_matches(*arguments, **window)),
        lambda: seen(twins_matching.refine_matches(*arguments, **window)),
        matches=count,
    )


def _dense_cases(device: torch.device, scale: float) -> Iterator[Case]:
    problem = dense_problem(device, scale)
    keyframes, pixels = problem.inverse_depth.shape
    edges = len(problem.edges)
    size = f"{keyframes} keyframes, {edges} edges of {pixels}"
    read = FLOAT * pixels * (3 * edges + 3 * keyframes + 2)
    options = {"damping": 1e-4, "depth_damping": 0.0, "min_value": 0.01, "max_value": 100.0}
    yield Case(
        "dense_ba_cost",
        size,
        read,
        lambda: (torch.tensor([kernels.dense_ba_cost(problem)]),),
        lambda: (torch.tensor([twins_dense.dense_ba_cost(problem)]),),
    )
    for words, one in (("", problem), (", focal", replace(problem, refine_focal=True))):
        yield _step_case(size + words, read + FLOAT * pixels * keyframes, one, options)


def _step_case(size: str, moved: int, problem: DenseProblem, options: dict[str, float]) -> Case:
    def native() -> Sequence[Tensor]:
        step = kernels.dense_ba_step(problem, **options)
        return step.twist, step.inverse_depth

    return Case(
        "dense_ba_step",
        size,
        moved,
        native,
        lambda: twins_dense.dense_ba_step(problem, **options),
    )


def dense_problem(device: torch.device, scale: float) -> DenseProblem:
    """A window on a curved path, a few poses fixed, everything a little off."""
    grid, random = make_grid(scale), torch.Generator().manual_seed(4)
    K, value = intrinsics_of(grid), inverse_depths(grid, KEYFRAMES, random)
    twists = torch.tensor([[0.08, 0.01, 0.03, 0.004, 0.015, 0.006]], dtype=torch.float64)
    T_WC = se3_exp(torch.arange(KEYFRAMES, dtype=torch.float64)[:, None] * twists)
    spans = [*range(1, NEIGHBOURS + 1), FAR]
    pairs = [(k, k + span) for span in spans for k in range(KEYFRAMES - span)]
    edges = sorted([*pairs, *((j, i) for i, j in pairs)])
    seen = [measured(grid, value[i], relative(T_WC[i], T_WC[j]), K, random) for i, j in edges]
    noise = 0.005 * torch.randn(KEYFRAMES, 6, generator=random, dtype=torch.float64)
    fixed = torch.arange(KEYFRAMES) < 2
    noise[fixed] = 0.0
    off = value * (1 + 0.02 * torch.randn(value.shape, generator=random))
    adjustment = Config().bundle_adjustment
    weak = (adjustment.depth_prior_sigma * off) ** -2
    return DenseProblem(
        poses=se3_mul(se3_exp(noise), se3_inv(T_WC)),
        inverse_depth=off.to(device),
        edges=torch.tensor(edges, dtype=torch.int32),
        target=torch.stack([target for target, _ in seen]).to(device),
        weight=torch.stack([weight for _, weight in seen]).to(device),
        prior=off.to(device),
        prior_weight=weak.to(device),
        pixel=grid.pixel.to(device),
        intrinsics=K,
        fixed=fixed,
        huber=adjustment.huber,
        outlier=adjustment.outlier,
        refine_focal=False,
    )
