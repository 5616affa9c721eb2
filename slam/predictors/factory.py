"""The predictor that a configuration names, with what it stands on: weights, or a simulation."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from slam.config import Config, FlowSettings, PointmapSettings
from slam.networks.pointmap import PointmapNetwork, load_pointmap_network
from slam.networks.raft_small import load_raft_small
from slam.predictors import FlowPredictor, Grid, PointmapPredictor, Predictor, RaftFlowPredictor
from slam.predictors.pointmap import LoadedViews, ViewNetwork, whole_patches
from slam.predictors.posed_depth import RoomDepth, SourceDepth
from slam.predictors.simulated import SimulatedNetwork
from slam.predictors.simulated_views import SimulatedViews
from slam.sources.configured import open_configured

log = logging.getLogger(__name__)

SIMULATED_PATCH = 4  # px: the simulated network has none; this keeps the shape of pixels


def make_predictor(width: int, height: int, config: Config) -> Predictor:
    """The predictor that a configuration names, for images of `width` x `height` px.

    Raises ValueError or FileNotFoundError where it lacks what it needs.
    """
    if config.predictor == "flow":
        if config.pointmap.checkpoint:
            raise ValueError(
                f"checkpoint {config.pointmap.checkpoint} wants --predictor mast3r, got flow; "
                "name both, or neither"
            )
        return _flow_predictor(width, height, config.flow)
    if config.flow.weights:
        raise ValueError(
            f"flow weights {config.flow.weights} want --predictor flow, got {config.predictor}; "
            "leave them out"
        )
    return make_pointmap_predictor(width, height, config)


def _flow_predictor(width: int, height: int, settings: FlowSettings) -> Predictor:
    if settings.method == "dis":
        return FlowPredictor(width, height, settings)
    if not settings.weights:
        raise ValueError(
            f"flow.method {settings.method} wants the weights of RAFT-small, got none; name the "
            "file (--flow-weights raft-small.pth), or take --flow dis, which needs none"
        )
    return RaftFlowPredictor(width, height, settings, load_raft_small(settings.weights))


def make_pointmap_predictor(width: int, height: int, config: Config) -> PointmapPredictor:
    """The one with a network's weights, or with the simulated network; errors as above."""
    settings = config.pointmap
    if config.predictor == "simulated":
        size = whole_patches(width, height, settings.long_side, SIMULATED_PATCH)
        network: ViewNetwork = simulated_views(config, *size)
    else:
        loaded = _load_network(settings)
        size = whole_patches(width, height, settings.long_side, loaded.sizes.patch)
        network = LoadedViews(loaded, *size)
    return PointmapPredictor(network, Grid(*size, settings.grid_stride), config.matching)


def _load_network(settings: PointmapSettings) -> PointmapNetwork:
    """On the device that is wanted."""
    if not settings.checkpoint:
        raise ValueError(
            "predictor mast3r wants weights of MASt3R or DUSt3R, got none; name the file "
            "(--checkpoint FILE; see `slam download mast3r`), or take --predictor flow"
        )
    found = torch.cuda.is_available()
    if settings.device == "cuda" and not found:
        raise ValueError("pointmap.device: wanted a GPU, found none; take auto or cpu")
    network = load_pointmap_network(settings.checkpoint)
    network.place("cuda" if found and settings.device != "cpu" else "cpu")
    return network.compile_parts() if settings.compiled else network


def simulated_views(config: Config, width: int, height: int) -> SimulatedViews:
    """The simulated network on the true depth and poses of the configured source.

    Of the whole recording: a map that is entered may be made of other images than those chosen.
    """
    chosen = config.source
    calibration = "auto" if chosen.calibration == "none" else chosen.calibration
    whole = replace(chosen, calibration=calibration, start=0, end=None, stride=1)
    source = open_configured(replace(config, source=whole))
    if not source.calibrated:
        raise ValueError(
            f"{source.path}: the simulated predictor wants the true camera, got no calibration; "
            "name one (--calib), or take --predictor flow"
        )
    kind = RoomDepth if config.simulated.world == "sample" else SourceDepth
    world = kind(source, width, height)
    known = world.indices
    run = source.indices[chosen.start : chosen.end : chosen.stride]
    blind = set(run.tolist()) - set(known)
    if blind:
        log.warning("%s: blind in %d of %d frames", source.name, len(blind), len(run))
    return SimulatedViews(SimulatedNetwork(world, config.simulated), known)
