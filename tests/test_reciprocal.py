"""Descriptors that are each other's nearest, against the whole table of products."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pointmap_pair import RECIPROCAL, room, with_points
from torch import Tensor
from torch.nn import functional

from slam import matching
from slam.matching import match, reciprocal_neighbours


def mutual(searched: Tensor, sought: Tensor) -> set[tuple[int, int]]:
    """All pairs of each other's nearest, from the whole table."""
    table = functional.normalize(sought, dim=-1) @ functional.normalize(searched, dim=-1).T
    there, back = table.argmax(1), table.argmax(0)
    return {(k, int(there[k])) for k in range(len(sought)) if int(back[there[k]]) == k}


def pairs_of(searched: Tensor, sought: Tensor, seeds: Tensor, rounds: int = 20) -> set:
    found = reciprocal_neighbours(searched, sought, seeds, rounds)
    return set(zip(found.sought.tolist(), found.found.tolist(), strict=True))


@pytest.mark.parametrize("block", [1, 1000, 1 << 24])
def test_reciprocal_neighbours_are_those_of_the_whole_table(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(matching, "BLOCK", block)
    random = torch.Generator().manual_seed(2)
    searched, sought = torch.randn(230, 8, generator=random), torch.randn(170, 8, generator=random)
    every = mutual(searched, sought)
    assert len(every) > 40
    assert pairs_of(searched, sought, torch.arange(170)) == every
    some = pairs_of(searched, sought, torch.arange(0, 170, 6))
    assert len(some) > 15 and some <= every
    first = pairs_of(searched, sought, torch.arange(0, 170, 6), rounds=1)
    assert first == {(k, j) for k, j in every if k % 6 == 0} and len(first) < len(some)
    longer = torch.rand(170, 1, generator=random) + 0.1
    assert pairs_of(searched, longer * sought, torch.arange(170)) == every


def test_reciprocal_neighbours_end_when_all_seeds_have_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, nearest = [], matching._nearest

    def counted(among: Tensor, queries: Tensor) -> Tensor:
        calls.append(len(queries))
        return nearest(among, queries)

    monkeypatch.setattr(matching, "_nearest", counted)
    random = torch.Generator().manual_seed(3)
    searched, sought = torch.randn(400, 6, generator=random), torch.randn(400, 6, generator=random)
    found = reciprocal_neighbours(searched, sought, torch.arange(0, 400, 2), 1000)
    queries = calls[::2]
    assert queries == sorted(queries, reverse=True) and 1 < len(queries) < 10
    assert len(found.sought.unique()) == len(found.found.unique()) == len(found.sought)


def test_descriptors_without_a_direction_have_no_neighbours() -> None:
    random = torch.Generator().manual_seed(2)
    searched, sought = torch.randn(50, 8, generator=random), torch.randn(60, 8, generator=random)
    searched[7], searched[8], sought[3], sought[4, 1] = torch.nan, 0.0, torch.inf, torch.nan
    found = pairs_of(searched, sought, torch.arange(60))
    assert found and not any(k in (3, 4) or j in (7, 8) for k, j in found)
    usable = [k for k in range(60) if k not in (3, 4)], [j for j in range(50) if j not in (7, 8)]
    want = mutual(searched[usable[1]], sought[usable[0]])
    assert found == {(usable[0][k], usable[1][j]) for k, j in want}
    nothing = torch.zeros(5, 8)
    for one, other in ((nothing, sought), (searched, nothing), (searched[:0], sought)):
        assert pairs_of(one, other, torch.arange(min(5, len(other)))) == set()


def test_reciprocal_matching_finds_the_same_places() -> None:
    pair = room(True)
    found = match(pair.searched, pair.sought, replace(RECIPROCAL, stride=2))
    used = found.weight > 0
    assert used.sum() > 0.15 * len(used)
    smooth = pair.error(found)[used & pair.smooth()]
    assert smooth.quantile(0.9) < 0.15 and smooth.max() < 1
    assert (pair.error(found)[used] < 1).float().mean() > 0.98
    far = with_points(pair.sought, 2 * pair.sought.X)
    assert not match(pair.searched, far, RECIPROCAL).weight.any()
