"""The kernels that match pointmaps in plain torch, in the inputs' precision.

What their speed is compared to in float32, and what they have to equal in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

STILL = 1e-3  # px; a shorter step ends the descent
FARTHEST = 8  # px on each side, of the derivative used far from the goal
CHUNK = 256  # matches refined at a time: their windows' descriptors stay in a cache


def match_rays(
    rays: Tensor, points: Tensor, starts: Tensor, iterations: int, damping: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As slam.kernels.match_rays."""
    goal = points / points.norm(dim=-1, keepdim=True)
    place, cost = _clamped(starts[0], rays), torch.full_like(goal[:, 0], torch.inf)
    for start in starts:
        trial = _clamped(start, rays)
        fits = (sample_rays(rays, trial)[0] - goal).square().sum(-1)
        better = fits < cost
        place, cost = torch.where(better[:, None], trial, place), torch.where(better, fits, cost)
    started, going = cost.isfinite(), cost.isfinite()
    factor = torch.full_like(cost, damping)
    for _ in range(iterations):
        ray, J = sample_rays(rays, place)
        reach = (0.5 * _pixels(cost, J)).clamp(max=FARTHEST).nan_to_num(FARTHEST).long()
        J = torch.where(reach[:, None, None] > 0, smooth_derivatives(rays, place, reach, ray), J)
        A, b = J.mT @ J, (J.mT @ (goal - ray)[..., None])[..., 0]
        more = factor * 0.5 * A.diagonal(dim1=-2, dim2=-1).sum(-1)
        A = A + more[:, None, None] * torch.eye(2).to(A)
        determinant = A[:, 0, 0] * A[:, 1, 1] - A[:, 0, 1] ** 2
        going = going & (determinant > 1e-20)
        step = torch.stack(
            [
                A[:, 1, 1] * b[:, 0] - A[:, 0, 1] * b[:, 1],
                A[:, 0, 0] * b[:, 1] - A[:, 0, 1] * b[:, 0],
            ],
            -1,
        )
        trial = _clamped(place + step / determinant[:, None], rays)
        moved = (trial - place).norm(dim=-1)
        fits = (sample_rays(rays, trial)[0] - goal).square().sum(-1)
        better = going & (fits < cost)
        place, cost = torch.where(better[:, None], trial, place), torch.where(better, fits, cost)
        factor = factor * torch.where(better, 0.1, 10.0)
        going = going & ~(moved < STILL)
    error = torch.where(started, _pixels(cost, sample_rays(rays, place)[1]), torch.inf)
    gap = torch.where(started, relative_gap(rays, points, place), torch.inf)
    return place, error, gap


def _clamped(place: Tensor, rays: Tensor) -> Tensor:
    height, width = rays.shape[:2]
    most = torch.tensor([width - 1, height - 1]).to(place)
    return torch.minimum(place.nan_to_num(0.0).clamp(min=0), most)


def sample_rays(rays: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rays [P, 3] between pixels, and their derivatives [P, 3, 2] by u and v."""
    height, width = rays.shape[:2]
    left = place[:, 0].long().clamp(max=max(width - 2, 0))
    top = place[:, 1].long().clamp(max=max(height - 2, 0))
    right, bottom = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    s, t = (place[:, :1] - left[:, None]), (place[:, 1:] - top[:, None])
    a, b, c, d = (
        rays[v, u, :3] for v, u in ((top, left), (top, right), (bottom, left), (bottom, right))
    )
    above, below = a + s * (b - a), c + s * (d - c)
    du, dv = (b - a) + t * ((d - c) - (b - a)), below - above
    sampled = above + t * dv
    length = sampled.norm(dim=-1, keepdim=True) + 1e-20
    ray = sampled / length
    across = torch.eye(3).to(ray) - ray[:, :, None] * ray[:, None, :]
    return ray, across @ torch.stack([du, dv], -1) / length[..., None]


def smooth_derivatives(rays: Tensor, place: Tensor, reach: Tensor, ray: Tensor) -> Tensor:
    """Derivatives [P, 3, 2] from the pixels `reach` [P] to each side."""
    height, width = rays.shape[:2]
    x, y = (place + 0.5).long().unbind(-1)
    left, right = (x - reach).clamp(min=0), (x + reach).clamp(max=width - 1)
    top, bottom = (y - reach).clamp(min=0), (y + reach).clamp(max=height - 1)
    du = (rays[y, right, :3] - rays[y, left, :3]) / (right - left).clamp(min=1)[:, None]
    dv = (rays[bottom, x, :3] - rays[top, x, :3]) / (bottom - top).clamp(min=1)[:, None]
    J = torch.stack([du, dv], -1)
    return J - ray[:, :, None] * (ray[:, None] @ J)


def _pixels(cost: Tensor, J: Tensor) -> Tensor:
    """An angle, given by its square, in steps from one pixel to the next."""
    return (cost / (0.5 * J.square().sum((-2, -1)))).sqrt()


def relative_gap(rays: Tensor, points: Tensor, place: Tensor) -> Tensor:
    """Distance between points [P, 3] and what the nearest pixels saw, by the smaller distance."""
    u, v = (place + 0.5).long().unbind(-1)
    there = rays[v, u]
    apart = (there[:, :3] * there[:, 3:] - points).norm(dim=-1)
    gap = apart / torch.minimum(there[:, 3], points.norm(dim=-1))
    return torch.where((there[:, 3] > 0) & (gap < torch.inf), gap, torch.inf)


def refine_matches(
    descriptors: Tensor,
    sought: Tensor,
    rays: Tensor,
    points: Tensor,
    start: Tensor,
    active: Tensor,
    radius: int,
    dilation: int,
) -> tuple[Tensor, Tensor]:
    """As slam.kernels.refine_matches."""
    parts = [
        _refined(descriptors, *part, radius, dilation)
        for part in zip(sought.split(CHUNK), start.split(CHUNK), strict=True)
    ]
    best, top, found = (torch.cat(one) for one in zip(*parts, strict=True))
    used = active & found
    target = torch.where(used[:, None], best + top, start)
    return target, torch.where(used, relative_gap(rays, points, best), torch.inf)


def _refined(
    descriptors: Tensor, sought: Tensor, start: Tensor, radius: int, dilation: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Best pixels [P, 2], the step between pixels [P, 2], and whether there was any [P]."""
    height, width = descriptors.shape[:2]
    size = torch.tensor([width, height], device=start.device)
    best = (start + 0.5).long()

    def scores(place: Tensor) -> Tensor:
        """Of places [P, W, 2]; -inf outside of the image."""
        inside = ((place >= 0) & (place < size)).all(-1)
        index = torch.where(inside, place[..., 1] * width + place[..., 0], 0)
        product = (descriptors.flatten(0, 1)[index] * sought[:, None]).sum(-1)
        return torch.where(inside & ~product.isnan(), product, -torch.inf)

    span = torch.arange(-radius, radius + 1, device=start.device)
    window = torch.stack(torch.meshgrid(span, span, indexing="xy"), -1).reshape(-1, 2)
    for distance in range(dilation, 0, -1):
        places = best[:, None] + distance * window
        best = places.gather(1, scores(places).argmax(1)[:, None, None].expand(-1, 1, 2))[:, 0]
    around = torch.cartesian_prod(*2 * [torch.arange(-1, 2, device=start.device)]).flip(-1)
    near = scores(best[:, None] + around).reshape(-1, 3, 3)
    return best.to(start), _top(near).to(start), near[:, 1, 1] > -torch.inf


def _top(near: Tensor) -> Tensor:
    """Step [P, 2] from the middle of 3 x 3 scores (row, column) to their paraboloid's top."""
    gu, gv = (near[:, 1, 2] - near[:, 1, 0]) / 2, (near[:, 2, 1] - near[:, 0, 1]) / 2
    uu = near[:, 1, 0] - 2 * near[:, 1, 1] + near[:, 1, 2]
    vv = near[:, 0, 1] - 2 * near[:, 1, 1] + near[:, 2, 1]
    uv = (near[:, 2, 2] - near[:, 0, 2] - near[:, 2, 0] + near[:, 0, 0]) / 4
    determinant = uu * vv - uv * uv
    step = torch.stack([uv * gv - vv * gu, uv * gu - uu * gv], -1) / determinant[:, None]
    usable = (determinant > 0) & (uu < 0) & near.isfinite().all(-1).all(-1)
    return torch.where(usable[:, None], step.clamp(-0.5, 0.5), 0.0)
