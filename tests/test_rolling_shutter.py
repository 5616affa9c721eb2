"""The whole system on a room seen through a rolling shutter, rendered row by row."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
from moving_room import CAMERA, Rendered, hand_held, render_room

from slam.config import load_config
from slam.evaluation import EvaluationResult, evaluate
from slam.system import Slam
from slam.trajectory import Trajectory

FRAMES = 60
READOUT = 0.025  # s


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found."""

    readout: float  # s
    result: EvaluationResult  # against the exact poses


@lru_cache(maxsize=2)
def rendered(readout: float) -> Rendered:
    """The sequence with a readout time."""
    return render_room(hand_held(), FRAMES, readout)


@lru_cache(maxsize=8)
def outcome(readout: float, *settings: str) -> Outcome:
    """A run with small images, so that it takes two seconds."""
    sequence = rendered(readout)
    config = load_config(None, ["flow.long_side=200", *settings])
    with closing(Slam(CAMERA, config)) as slam:
        for image in sequence.images:
            slam.feed(image)
        slam.finish()
        records = slam.graph.records()
        path = Trajectory(
            np.array([r.time for r in records]),
            np.stack([slam.graph.T_WC(r).numpy() for r in records]),
        )
        return Outcome(slam.graph.readout, evaluate(path, sequence.truth))


def rotation_error(found: Outcome) -> float:
    assert found.result.rotation is not None
    return found.result.rotation.rmse


def test_the_readout_time_is_found_and_poses_are_better_for_it() -> None:
    found, without = outcome(READOUT), outcome(READOUT, "shutter.readout=0")
    assert found.readout == pytest.approx(READOUT, rel=0.2)
    assert without.readout == 0.0
    assert found.result.ate_sim3.rmse < 0.5 * without.result.ate_sim3.rmse
    assert rotation_error(found) < 0.5 * rotation_error(without)
    assert found.result.ate_sim3.rmse < 0.003 * found.result.path_length


@pytest.mark.slow
def test_a_shutter_that_runs_upwards_is_found_too() -> None:
    found, without = outcome(-READOUT), outcome(-READOUT, "shutter.readout=0")
    assert found.readout == pytest.approx(-READOUT, rel=0.3)
    assert found.result.ate_sim3.rmse < 0.5 * without.result.ate_sim3.rmse


def test_a_global_shutter_is_told_to_be_one() -> None:
    assert outcome(0.0).readout == 0.0
    assert outcome(0.0).result.ate_sim3.rmse < outcome(READOUT).result.ate_sim3.rmse


def test_a_readout_that_is_given_is_used_as_it_is() -> None:
    given, without = (outcome(READOUT, f"shutter.readout={r}") for r in (0.024, 0))
    assert given.readout == 0.024
    assert given.result.ate_sim3.rmse < 0.5 * without.result.ate_sim3.rmse


@pytest.mark.parametrize("setting", ["null", "0.02"])
def test_a_discarded_start_takes_its_readout_with_it(setting: str) -> None:
    config = load_config(None, [f"shutter.readout={setting}"])
    with closing(Slam(CAMERA, config)) as slam:
        given = slam.graph.readout
        assert given == (0.02 if setting == "0.02" else 0.0)
        slam.graph.set_readout(0.044)
        slam.backend.reset()
        assert slam.graph.readout == given


def test_a_few_keyframes_do_not_tell_a_readout() -> None:
    """Their cost has its least far off: with fewer than shutter.first the shutter is global."""
    with closing(Slam(CAMERA, load_config(None, ["flow.long_side=200"]))) as slam:
        for image in rendered(READOUT).images[:30]:
            slam.feed(image)
        slam.finish()
        assert 3 <= len(slam.graph) < slam.config.shutter.first
        assert slam.graph.readout == 0.0
