"""Real-time playback: the newest image wins, nothing is lost silently, errors come out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from slam.frame import Image
from slam.sources.realtime import RealTime


def images(count: int, interval: float) -> Iterator[Image]:
    for index in range(count):
        yield Image(index, index * interval, index * interval, torch.zeros(1, 1, 3))


def test_a_fast_consumer_gets_every_image_at_its_time() -> None:
    start = time.monotonic()
    assert [i.index for i in RealTime(images(8, 0.02))] == list(range(8))
    assert time.monotonic() - start >= 7 * 0.02 - 0.001


def test_a_slow_consumer_gets_the_newest_and_the_rest_are_counted() -> None:
    live = RealTime(images(12, 0.01))
    taken = []
    for image in live:
        taken.append(image.index)
        time.sleep(0.035)  # a slow consumer is what is tested
    assert taken == sorted(taken) and taken[-1] == 11
    assert len(taken) + live.dropped == 12 and live.dropped > 0


def test_an_error_of_the_source_is_raised_where_images_are_taken() -> None:
    def broken() -> Iterator[Image]:
        yield from images(2, 0.0)
        raise ValueError("no more film")

    with pytest.raises(ValueError, match="no more film"):
        list(RealTime(broken()))


def test_leaving_early_ends_the_camera_thread() -> None:
    stream = iter(RealTime(images(1000, 0.01)))
    next(stream)
    stream.close()
    assert not any(t.name == "camera" for t in threading.enumerate())
