"""The pointmap path with a simulated network: on rays, on pixels, with dense adjustment.

`python -m tests.simulated_figures SOURCE [--end N] [--stride N] [section.key=value ...]`, of a
source with true poses and depth maps, or the bundled sample with `simulated.world=sample`. Only
images whose depth is known are played. Prints the RMSE after Sim(3) alignment of each.
"""

from __future__ import annotations

import argparse
from contextlib import closing

import numpy as np
import torch

from slam.config import load_config
from slam.evaluation import evaluate
from slam.frame import SOLVED
from slam.predictors.factory import simulated_views
from slam.sources import Source, open_source
from slam.system import Slam
from slam.trajectory import Trajectory

NETWORK = (  # 5 % scale of a pair, 2 % smooth warp, 1 % noise, on small images
    "predictor=simulated",
    "pointmap.long_side=192",
    "pointmap.grid_stride=4",
    "simulated.finest=0.5",
    "simulated.pair_scale=0.05",
    "simulated.warp=0.02",
    "simulated.noise=0.01",
)
MODES = {  # overrides, and whether the camera is known
    "rays, uncalibrated": (["pointmap.focal_sigma=1e-6"], False),
    "pixels": (["pointmap.dense=false"], True),
    "dense adjustment": ([], True),
}


def run(source: Source, overrides: list[str]) -> tuple[float, str]:
    """RMSE in m of the frames' positions, and what became of the frames."""
    config = load_config(None, overrides)
    known = simulated_views(config, 192, 144).known
    wanted = [place for place, index in enumerate(source.indices) if int(index) in known]
    with closing(Slam(source.camera, config, calibrated=source.calibrated)) as slam:
        for image in source.images(wanted):
            slam.feed(image)
        slam.finish()
        posed = [r for r in slam.graph.records() if r.state in SOLVED]
        poses = torch.stack([slam.graph.T_WC(r) for r in posed]).numpy()
        words = f"{len(posed)}/{len(wanted)} posed, {len(slam.graph)} keyframes"
    path = Trajectory(np.array([r.time for r in posed], float), poses)
    assert source.ground_truth is not None
    return evaluate(path, source.ground_truth).ate_sim3.rmse, words


def main() -> None:
    """Prints a line a mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("--end", type=int)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    for name, (more, calibrated) in MODES.items():
        calibration = "auto" if calibrated else "none"
        source = open_source(
            given.source, calibration=calibration, end=given.end, stride=given.stride
        )
        chosen = [f"source.path={given.source}", f"source.stride={given.stride}"]
        error, words = run(source, [*NETWORK, *chosen, *more, *given.overrides])
        print(f"{name:20} {1000 * error:6.1f} mm  {words}", flush=True)


if __name__ == "__main__":
    main()
