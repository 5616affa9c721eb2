"""Place recognition on real images: precision and recall by overlap from true depth and poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slam.descriptor_space import Binary
from slam.retrieval import Candidate, Retrieval
from slam.retrieval_settings import RetrievalSettings
from tests.place_overlap import Places, euroc_places, sample_places


def numbers(found: list[Candidate]) -> list[int]:
    return [candidate.number for candidate in found]


def recognition(places: Places, gap: int, most: int = 3) -> dict[str, float]:
    """Precision and recall of every image among those before it, the last `gap` left out.

    A place is the same where more than 40 % is seen in both. Recall counts up to `most` of them.
    """
    made, right, given, wanted, first, asked = (
        Retrieval(Binary(), RetrievalSettings()),
        0,
        0,
        0,
        0,
        0,
    )
    for number, descriptors in enumerate(places.descriptors):
        same = set(np.flatnonzero(places.overlap[number, : max(0, number - gap)] > 0.4).tolist())
        found = numbers(made.query(descriptors, exclude_after=number - gap - 1, most=most))
        made.add(number, descriptors)
        if same:
            asked += 1
            first += bool(found) and found[0] in same
            right += len(same.intersection(found))
            given += len(found)
            wanted += min(most, len(same))
    return {"precision@3": right / given, "recall@3": right / wanted, "recall@1": first / asked}


@pytest.fixture(scope="module")
def sample() -> Places:
    return sample_places(stride=6)


def test_the_sample_is_recognised_where_it_returns(sample: Places) -> None:
    values = recognition(sample, gap=10)
    print(values)
    assert values["precision@3"] > 0.85 and values["recall@3"] > 0.9 and values["recall@1"] > 0.9


def test_only_exclusion_lets_the_sample_find_its_beginning(sample: Places) -> None:
    """The walk ends where it began, but the image before looks more like any than the beginning."""
    made = Retrieval(Binary(), RetrievalSettings())
    for number, descriptors in enumerate(sample.descriptors[:48]):
        if number >= 38:
            assert numbers(made.query(descriptors, most=1)) == [number - 1]
            loop = numbers(made.query(descriptors, exclude_after=number - 11, most=3))
            assert len(loop) == 3 and sample.overlap[number, loop].min() > 0.4
        made.add(number, descriptors)


def test_euroc_is_recognised_as_well_as_by_comparing_all_descriptors(slam_data: Path) -> None:
    """Mutual nearest descriptors of all pairs reach precision 0.48, recall 0.57 and 0.66 here."""
    folder = slam_data / "euroc_V101_stereo_keyframes"
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} in SLAM_DATA")
    values = recognition(euroc_places(folder), gap=5)
    print(values)
    assert values["precision@3"] > 0.48 and values["recall@3"] > 0.57 and values["recall@1"] > 0.55
