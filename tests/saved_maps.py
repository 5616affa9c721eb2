"""Maps made by hand: of rendered or analytic depth, with everything known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from slam.camera import Camera
from slam.config import Config
from slam.frame import (
    Correspondence,
    Frame,
    FrameRecord,
    FusedPointmap,
    InverseDepth,
    Keyframe,
    TrackState,
)
from slam.graph import Graph
from slam.lie import se3_act, se3_exp, se3_inv
from slam.predictors import FlowPredictor, Grid
from slam.saved_map import Origin, SavedMap
from slam.tracking import unproject

CAMERA = Camera("pinhole", 96, 72, (80.0, 82.0, 47.0, 36.5))
SIGMA = 0.004  # relative, of the depths
PREDICTOR = FlowPredictor(96, 72, Config().flow)
DepthOf = Callable[[Tensor], Tensor]  # pose [7] to depth [72, 96], 0 = none


@dataclass(frozen=True, slots=True)
class Parts:
    """What a map was made of."""

    graph: Graph
    origin: Origin
    dense: tuple[Grid, list[InverseDepth]]
    saved: SavedMap


def painted(number: int) -> Tensor:
    """An image [72, 96, 3] that JPEG keeps well, another one for each number."""
    v, u = torch.meshgrid(torch.arange(72.0), torch.arange(96.0), indexing="ij")
    waves = [128 + 90 * torch.sin(u / (7 + k) + v / (9 - k) + number) for k in range(3)]
    return torch.stack(waves, -1).to(torch.uint8)


def sampled(grid: Grid, depth: Tensor) -> InverseDepth:
    """Depth [72, 96] on a grid, with SIGMA."""
    z = grid.sample(depth)
    value = torch.where(z > 0, 1 / z.clamp(min=1e-6), 1.0).float()
    return InverseDepth(value, torch.where(z > 0, (SIGMA * value) ** -2, 0.0))


def made_map(
    poses: Sequence[Tensor],
    depth_of: DepthOf,
    *,
    dense_stride: int = 1,
    images: Mapping[int, Tensor] | None = None,
    mirrored: bool = False,
    pointmaps: Sequence[FusedPointmap] | None = None,
) -> Parts:
    """A map whose keyframes are at `poses`, each linked with the next both ways."""
    grid, graph = PREDICTOR.grid, Graph(CAMERA.intrinsics)
    graph.set_readout(0.0123)
    graph.set_pinhole(False)
    depths = [depth_of(T) for T in poses]
    for k, (T_WC, depth) in enumerate(zip(poses, depths, strict=True)):
        rgb = painted(k) if images is None else images[k]
        features = PREDICTOR.features(rgb.numpy())
        frame = Frame(3 * k, 100.5 + 0.1 * k, 100.5 + 0.1 * k, features)
        points = None if pointmaps is None else pointmaps[k]
        graph.add_keyframe(Keyframe(frame, T_WC, sampled(grid, depth), points))
    pairs = [(k, k + 1) for k in range(len(poses) - 1)]
    edges = {(i, j): _projected(graph, i, j) for a, b in pairs for i, j in ((a, b), (b, a))}
    graph.set_edges(pairs, edges)
    for record in _records(len(poses)):
        graph.set_record(record)
    origin = Origin("made", "data/made", "tum", mirrored, True, CAMERA)
    fine = Grid(CAMERA.width, CAMERA.height, dense_stride)
    dense = fine, [sampled(fine, depth) for depth in depths]
    return Parts(graph, origin, dense, SavedMap.from_graph(graph, origin, Config(), grid, dense))


def _projected(graph: Graph, i: int, j: int) -> Correspondence:
    """Where keyframe i's pixels are in keyframe j, if they are in its image; occlusion or not."""
    grid, (a, b) = PREDICTOR.grid, (graph.keyframe(i), graph.keyframe(j))
    X = unproject(grid.pixel, a.depth.value, CAMERA.intrinsics).double()
    X = se3_act(a.T_WC.expand(len(X), 7), X)
    X = se3_act(se3_inv(b.T_WC).expand(len(X), 7), X)
    target = torch.where(X[:, 2:] > 0.1, CAMERA.project(X), -1.0)
    inside = (target >= 0).all(-1) & (target[:, 0] <= 95) & (target[:, 1] <= 71)
    weight = torch.where(inside & (a.depth.information > 0), 4.0, 0.0)
    return Correspondence(target.float(), weight.float())


def _records(keyframes: int) -> list[FrameRecord]:
    """Three frames a keyframe, near it; one has no keyframe, some have measurements."""
    generator, states = torch.Generator().manual_seed(1), list(TrackState)
    records = []
    for n in range(3 * keyframes):
        T_kf = se3_exp(0.1 * torch.randn(6, generator=generator, dtype=torch.float64))
        packed = torch.randint(-32767, 32767, (20, 3), generator=generator, dtype=torch.int16)
        records.append(
            FrameRecord(
                n,
                100.5 + n / 30,
                100.5 + n / 30,
                states[n % len(states)],
                -1 if n == 1 else n // 3,
                T_kf,
                packed if n % 2 else None,
            )
        )
    return records


def around(count: int = 14, distance: float = 3.0) -> list[Tensor]:
    """Poses [7] that look at the origin from the 6 faces and the 8 corners of a cube."""
    axes = np.array([[s * (k == a) for k in range(3)] for a in range(3) for s in (-1, 1)], float)
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 3**0.5
    return [looking_at(distance * d) for d in np.concatenate([axes, corners])[:count]]


def looking_at(position: np.ndarray) -> Tensor:
    """A pose [7] there that looks at the origin."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.3, 0.9, 0.2])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward], axis=1)
    return torch.tensor([*position, *Rotation.from_matrix(R).as_quat()], dtype=torch.float64)


def sphere_depth(T_WC: Tensor, radius: float = 1.0) -> Tensor:
    """Depth [72, 96] of a sphere round the origin, seen from outside; 0 beside it."""
    v, u = torch.meshgrid(torch.arange(72.0), torch.arange(96.0), indexing="ij")
    ray = CAMERA.unproject(torch.stack([u, v], -1).double())
    centre = se3_act(se3_inv(T_WC), torch.zeros(3, dtype=torch.float64))
    a, b = (ray * ray).sum(-1), ray @ centre
    inside = b * b - a * (centre @ centre - radius**2)
    return torch.where(inside > 0, (b - inside.clamp(min=0).sqrt()) / a, 0.0)
