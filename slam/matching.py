"""Two pointmaps, and their descriptors where there are any, to where one's pixels lie in the other.

Projective: a point that camera f sees lies where f's viewing ray passes through it; descriptors
then say where exactly (Murai et al. 2025, MASt3R-SLAM, section 3.2). Reciprocal: descriptors that
are each other's nearest, whatever the points say (Leroy et al. 2024, MASt3R, section 3.3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from slam import kernels
from slam.camera import pixel_grid
from slam.config import MatchingSettings
from slam.frame import Correspondence, Pointmap, PointmapMatch, PointmapView

BLOCK = 1 << 24  # products of descriptors in memory at a time
SAMPLES = 64  # on each side of an image, that the model of its rays is fitted to
TINY = 1e-9
RIDGE = 1e-6  # relative; keeps the model's equations solvable


def match(
    searched: PointmapView,
    sought: PointmapView,
    settings: MatchingSettings,
    guess: Tensor | None = None,
) -> Correspondence:
    """Where the pixels of a view lie in another.

    Valid is what passes through its pixel's viewing ray, and lies on the surface seen there: within
    `gap` of its distance, whatever the unit. Points behind it are hidden, points before it wrong.
    With descriptors both that and the confidence are asked of the pixel they moved the match to.

    Args:
        searched, sought: of one pair, both in the searched one's camera: [H, W, ...], no batch.
        guess: [P, 2] float32 px, of a former match of the same pixels; used where it fits better
            than the same place, so that an outdated one does no harm. None = unknown.
    Returns a target and a weight for all pixels of `sought`, row by row; weight = descriptor
    confidence / sigma^2 (geometric mean of both), 0 = no match, where the target is the nearest
    found. Raises ValueError for shapes that do not fit, and where reciprocal matching has no
    descriptors.
    """
    _check(searched, sought, guess)
    points = sought.X.reshape(-1, 3)
    if len(points) == 0:
        return Correspondence(points.new_empty(0, 2), points.new_empty(0))
    rays = ray_image(Pointmap(searched.X, searched.confidence))
    if settings.method == "reciprocal":
        target, gap = _reciprocal(searched, sought, rays, settings)
    else:
        target, gap = _projective(searched, sought, rays, settings, guess)
    known = sought.confidence.reshape(-1) > 0
    confidence = _confidence(searched, sought, target, settings.descriptor_confidence)
    weight = torch.where(known & (gap < settings.gap), confidence / settings.sigma**2, 0.0)
    return Correspondence(target, weight)


def believed(
    searched: PointmapView, sought: PointmapView, found: Correspondence, settings: MatchingSettings
) -> Correspondence:
    """Matches, less believed where what they match does not agree with them.

    Their points are to be as near to each other as those of most: what descriptors match but points
    do not is another surface, or an edge. How near is usual depends on the pair's own errors. And
    the descriptor found is to lead back to the pixel sought: that of a hidden one does not.
    """
    if not (found.weight > 0).any():
        return found
    weight = found.weight * _gap_belief(searched, sought, found, settings.spread)
    if searched.descriptor is not None and settings.radius > 0:
        off = _way_off(searched, sought, found, settings)
        variance = 0.25 * (off**2 + _without_top(found.target))
        weight = torch.where(off <= settings.consistency, weight / (1 + weight * variance), 0.0)
    return Correspondence(found.target, weight)


def _gap_belief(
    searched: PointmapView, sought: PointmapView, found: Correspondence, spread: float
) -> Tensor:
    """Geman and McClure's function [P] of the gaps, measured between pixels: 0 to 1."""
    points = sought.X.reshape(-1, 3)
    distance = points.norm(dim=-1).clamp(min=TINY)
    gap = (_between_pixels(searched.X, found.target) - points).norm(dim=-1) / distance
    known = gap[(found.weight > 0) & gap.isfinite()]
    if len(known) == 0:
        return torch.zeros_like(gap)
    usual = spread * known.median().clamp(min=TINY)
    return (1 / (1 + (gap / usual) ** 2)).square().nan_to_num(0.0)


def _way_off(
    searched: PointmapView, sought: PointmapView, found: Correspondence, settings: MatchingSettings
) -> Tensor:
    """How far [P] px from a pixel sought the descriptor that was found for it leads back."""
    descriptors = _descriptors(sought, searched)
    if descriptors is None:
        return torch.zeros_like(found.weight)
    pixel, place = _pixels(sought.confidence), found.target.round()
    u, v = place.long().unbind(-1)
    index = v * searched.X.shape[1] + u
    back = kernels.refine_matches(
        descriptors[0],
        descriptors[1][index],
        ray_image(Pointmap(sought.X, sought.confidence)),
        searched.X.reshape(-1, 3)[index],
        pixel,
        found.weight > 0,
        radius=settings.radius,
        dilation=settings.dilation,
    )
    return (back.target + (found.target - place) - pixel).norm(dim=-1)


def _without_top(target: Tensor) -> Tensor:
    """Whether matches [P] stayed on their pixel, or went as far from it as they may."""
    step = (target - target.round()).abs()
    return (step == 0).all(-1) | (step == 0.5).any(-1)


def _between_pixels(image: Tensor, place: Tensor) -> Tensor:
    """Values [P, C] of an image [H, W, C] at (u, v) [P, 2] px, bilinear."""
    height, width = image.shape[:2]
    most = place.new_tensor([max(width - 1, 1), max(height - 1, 1)])
    found = functional.grid_sample(
        image.movedim(-1, 0)[None], (2 * place / most - 1)[None, None], align_corners=True
    )
    return found[0, :, 0].T


def overlap(found: PointmapMatch) -> float:
    """How much of an image another still shows (Murai et al. 2025, MASt3R-SLAM, section 3.4).

    The smaller of the share of its known pixels that are matched and the share that the different
    pixels they land on make: many that collapse onto few are no overlap.
    """
    matched = found.match.weight > 0
    u, v = found.match.target[matched].round().long().unbind(-1)
    landed = (v * found.searched.confidence.shape[1] + u).unique()
    known = int((found.sought.confidence > 0).sum())
    return min(len(u), len(landed)) / max(known, 1)


def ray_image(pointmap: Pointmap) -> Tensor:
    """Unit viewing ray and distance [H, W, 4] of every pixel; distance 0 = not measured.

    Where there is no point, the ray is that of a camera fitted to the others, so that a search may
    pass; where there are too few to fit one, it is 0.
    """
    distance = pointmap.X_C.norm(dim=-1, keepdim=True)
    usable = distance.isfinite() & (distance > 0)
    rays = pointmap.X_C / distance
    if not bool(usable.all()):
        rays = torch.where(usable, rays, _modelled_rays(pointmap.X_C, usable[..., 0]))
    measured = usable & (pointmap.confidence[..., None] > 0)
    return torch.cat([rays, torch.where(measured, distance, 0.0)], -1)


def _modelled_rays(X_C: Tensor, usable: Tensor) -> Tensor:
    """Unit rays [H, W, 3] of x / z and y / z as quadratic functions of the pixel: exact for a
    pinhole camera, near for mild distortion."""
    height, width = usable.shape
    terms = _quadratic_terms(height, width, X_C.device)
    rows, columns = (slice(None, None, max(side // SAMPLES, 1)) for side in (height, width))
    seen, X = usable[rows, columns], X_C[rows, columns].double()
    seen = seen & (X[..., 2] > 0)
    A, slopes = terms[rows, columns][seen], (X[..., :2] / X[..., 2:])[seen]
    if len(A) < A.shape[-1]:
        return torch.zeros_like(X_C)
    ridge = RIDGE * len(A) * torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    fitted = terms @ torch.linalg.solve(A.T @ A + ridge, A.T @ slopes)
    return functional.normalize(functional.pad(fitted, (0, 1), value=1.0), dim=-1).float()


def _quadratic_terms(height: int, width: int, device: torch.device) -> Tensor:
    """1, u, v, u^2, uv, v^2 of every pixel [H, W, 6] float64, the image being 2 wide and high."""
    v, u = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=torch.float64, device=device),
        torch.linspace(-1, 1, width, dtype=torch.float64, device=device),
        indexing="ij",
    )
    return torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v], -1)


def _projective(
    searched: PointmapView,
    sought: PointmapView,
    rays: Tensor,
    settings: MatchingSettings,
    guess: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Targets [P, 2] and gaps [P]; the gap is inf where no ray passes through the point."""
    points, descriptors = sought.X.reshape(-1, 3), _descriptors(searched, sought)
    same = _pixels(sought.confidence)
    starts = same[None] if guess is None else torch.stack([guess, same])
    found = kernels.match_rays(
        rays, points, starts, iterations=settings.iterations, damping=settings.damping
    )
    fits = found.error <= settings.ray_error
    if descriptors is None or settings.radius == 0:
        return found.target, torch.where(fits, found.gap, torch.inf)
    window = {"radius": settings.radius, "dilation": settings.dilation}
    return kernels.refine_matches(*descriptors, rays, points, found.target, fits, **window)


def _descriptors(searched: PointmapView, sought: PointmapView) -> tuple[Tensor, Tensor] | None:
    """Descriptors [H, W, D] that are searched and [P, D] sought, if there are any."""
    if searched.descriptor is None or sought.descriptor is None:
        return None
    return searched.descriptor.contiguous(), sought.descriptor.flatten(0, 1).contiguous()


def _reciprocal(
    searched: PointmapView, sought: PointmapView, rays: Tensor, settings: MatchingSettings
) -> tuple[Tensor, Tensor]:
    """Targets [P, 2] and gaps [P]; the gap is inf where no pixel has this one as its nearest."""
    descriptors, grid = _descriptors(searched, sought), sought.confidence
    if descriptors is None:
        raise ValueError(
            "matching.method: reciprocal wants descriptors, got a network without; take projective"
        )
    image, features = descriptors
    height, width = rays.shape[:2]
    seeds = _grid(grid, settings.stride)
    pairs = reciprocal_neighbours(image.flatten(0, 1), features, seeds, settings.rounds)
    target = torch.minimum(_pixels(grid), rays.new_tensor([width - 1, height - 1]))
    target[pairs.sought] = torch.stack([pairs.found % width, pairs.found // width], -1).float()
    met = torch.zeros(len(target), dtype=torch.bool, device=target.device)
    met[pairs.sought] = True
    points = sought.X.reshape(-1, 3)
    return kernels.refine_matches(image, features, rays, points, target, met, radius=0, dilation=0)


class Neighbours(NamedTuple):
    """Descriptors that are each other's nearest."""

    sought: Tensor  # [R] int64, rows, all different
    found: Tensor  # [R] int64, rows of those that are searched, all different


def reciprocal_neighbours(
    searched: Tensor, sought: Tensor, seeds: Tensor, rounds: int
) -> Neighbours:
    """Pairs of descriptors that are each other's nearest, as seen from some of them.

    From every seed to its nearest and back, again and again, until it comes back to where it was:
    similarity never falls on the way, so that most arrive in a few rounds, many at the same pair.

    Args:
        searched: [N, D], sought: [M, D] float32 of any length; nearness is the cosine. Those that
            are not finite, or 0, have no neighbours.
        seeds: rows of `sought` to start from; all rows give all pairs.
        rounds: after which those that have not come back are given up.
    """
    rows, columns = (_comparable(one) for one in (sought, searched))
    here, there = (
        functional.normalize(one[at], dim=-1) for one, at in ((sought, rows), (searched, columns))
    )
    place = torch.full((len(sought),), -1, dtype=torch.int64, device=sought.device)
    place[rows] = torch.arange(len(rows), device=sought.device)
    current = place[seeds]
    current = current[current >= 0].unique()
    partner = torch.full((len(rows),), -1, dtype=torch.int64, device=sought.device)
    for _ in range(rounds if len(columns) else 0):
        if len(current) == 0:
            break
        found = _nearest(there, here[current])
        back = _nearest(here, there[found])
        closed = back == current
        partner[current[closed]] = found[closed]
        current = back[~closed].unique()
        current = current[partner[current] < 0]
    met = (partner >= 0).nonzero()[:, 0]
    return Neighbours(rows[met], columns[partner[met]])


def _comparable(descriptors: Tensor) -> Tensor:
    """Rows that have a direction."""
    length = descriptors.norm(dim=-1)
    return (length.isfinite() & (length > 0)).nonzero()[:, 0]


def _nearest(among: Tensor, queries: Tensor) -> Tensor:
    """The row of `among` whose product with each query is largest [Q], block by block."""
    blocks = queries.split(max(BLOCK // len(among), 1))
    return torch.cat([(block @ among.T).argmax(dim=1) for block in blocks])


def _confidence(
    searched: PointmapView, sought: PointmapView, target: Tensor, least: float
) -> Tensor:
    """Geometric mean of both descriptors' confidence [P], 0 below the least; 1 without them."""
    if searched.descriptor_confidence is None or sought.descriptor_confidence is None:
        return torch.ones_like(target[:, 0])
    u, v = target.round().long().unbind(-1)
    there = searched.descriptor_confidence[v, u]
    mean = (there * sought.descriptor_confidence.reshape(-1)).sqrt()
    return torch.where(mean >= least, mean, 0.0)


def _pixels(image: Tensor) -> Tensor:
    """(u, v) of all pixels of an image [H, W], row by row [H * W, 2] float32."""
    height, width = image.shape
    return pixel_grid(height, width, image.device, torch.float32).reshape(-1, 2)


def _grid(image: Tensor, stride: int) -> Tensor:
    """Indices of every stride-th pixel of an image [H, W] in both directions, at least of one."""
    v, u = (
        torch.arange(min(stride, side) // 2, side, stride, device=image.device)
        for side in image.shape
    )
    return (v[:, None] * image.shape[1] + u).reshape(-1)


def _check(searched: PointmapView, sought: PointmapView, guess: Tensor | None) -> None:
    for name, view in (("searched", searched), ("sought", sought)):
        size = tuple(view.X.shape[:2])
        shapes = {
            "X": (view.X, (*size, 3)),
            "confidence": (view.confidence, size),
            "descriptor_confidence": (view.descriptor_confidence, size),
        }
        for field, (tensor, shape) in shapes.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise ValueError(
                    f"{name}.{field}: want shape {list(shape)}, got {list(tensor.shape)}; "
                    "give each pixel of the view one"
                )
    if (searched.descriptor is None) != (sought.descriptor is None):
        raise ValueError("descriptor: want one for both views or for none, got one; add the other")
    pixels = sought.confidence.numel()
    if guess is not None and tuple(guess.shape) != (pixels, 2):
        raise ValueError(
            f"guess: want shape [{pixels}, 2], a place for each pixel sought, got "
            f"{list(guess.shape)}; give None where the image sought is another"
        )
