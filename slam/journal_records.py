"""Records of a journal: changes of the map, poses as published, and where the run stood, as arrays.

Of a keyframe's image only the working image is kept: what the predictor makes of that is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from slam.changes import (
    Adopted,
    Change,
    Cleared,
    DepthChanged,
    Edge,
    EdgesKept,
    EdgesSet,
    KeyframeAdded,
    PinholeSet,
    ReadoutSet,
    RecordSet,
)
from slam.frame import (
    Correspondence,
    Features,
    Frame,
    FrameRecord,
    FusedPointmap,
    Image,
    Intrinsics,
    InverseDepth,
    Keyframe,
    PairGuess,
    TrackState,
)
from slam.graph import Graph
from slam.shutter import ReadoutCost
from slam.standing import BackendStanding, FrontendStanding, Standing

Values = dict[str, np.ndarray]  # of one record, as RecordWriter takes them
Encode = Callable[[Image], Features]  # a predictor's


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first record: what a run was told."""

    config: str  # YAML


@dataclass(frozen=True, slots=True)
class Published:
    """What was said of one frame at once."""

    time: float  # as the source writes it
    T_WC: Tensor | None  # [7]; None = nothing: not solved, or the start is on trial
    in_map: bool  # False = there is no map yet, or it was discarded with all that was said before
    submap: int = 0  # in whose world the pose is


@dataclass(frozen=True, slots=True)
class Commit:
    """All up to here is of one piece: a run can go on from it."""

    standing: Standing
    keyframes: int  # in the map
    seconds: float  # wall time of the loop so far
    damaged: tuple[str, ...]  # images of the source that could not be read so far


@dataclass(frozen=True, slots=True)
class Ended:
    """The run's outputs are saved: there is nothing to go on with."""


Entry = Change | Beginning | Published | Commit | Ended


def encode(entry: Entry) -> tuple[str, Values]:
    """Kind and values of an entry's record."""
    match entry:
        case KeyframeAdded(keyframe, submap):
            return "keyframe", _keyframe(keyframe) | {"submap": np.array(submap)}
        case DepthChanged(number, depth, pointmap):
            return "depth", {"number": np.array(number)} | _depth(depth) | _pointmap(pointmap)
        case EdgesSet(pairs, edges):
            return "edges", {"pairs": _edges(pairs)} | _correspondences(edges)
        case EdgesKept(edges):
            return "kept", {"edges": _edges(edges)}
        case Adopted():
            return "adopted", _adopted(entry)
        case RecordSet(record):
            return "record", _record(record)
        case Cleared(intrinsics, first):
            return "cleared", {"intrinsics": np.array(intrinsics), "first": np.array(first)}
        case PinholeSet(known):
            return "pinhole", {"known": np.array(known)}
        case ReadoutSet(seconds):
            return "readout", {"seconds": np.array(seconds)}
        case Beginning(config):
            return "beginning", {"config": _text(config)}
        case Published():
            return "published", _published(entry)
        case Commit():
            return "commit", _commit(entry)
        case Ended():
            return "ended", {}


def decode(kind: str, values: Values, features: Encode) -> Entry:
    """The entry of a record. Raises ValueError for a kind that is not known.

    Args: features: what makes features of a keyframe's working image.
    """
    match kind:
        case "keyframe":
            return KeyframeAdded(_to_keyframe(values, features), _to_submap(values))
        case "depth":
            return DepthChanged(int(values["number"]), _to_depth(values), _to_pointmap(values))
        case "edges":
            return EdgesSet(_to_edges(values["pairs"]), _to_correspondences(values))
        case "kept":
            return EdgesKept(_to_edges(values["edges"]))
        case "adopted":
            return _to_adopted(values)
        case "record":
            return RecordSet(_to_record(values))
        case "cleared":
            return Cleared(_to_intrinsics(values["intrinsics"]), int(values.get("first", 0)))
        case "pinhole":
            return PinholeSet(bool(values["known"]))
        case "readout":
            return ReadoutSet(float(values["seconds"]))
        case "beginning":
            return Beginning(_to_text(values["config"]))
        case "published":
            return _to_published(values)
        case "commit":
            return to_commit(values)
        case "ended":
            return Ended()
    raise ValueError(f"wanted a record of a journal, got one of kind {kind!r}")


def apply(change: Change, graph: Graph) -> None:
    """Does to a graph what was done to the one that told of it."""
    match change:
        case KeyframeAdded(keyframe, submap):
            graph.add_keyframe(keyframe, submap)
        case DepthChanged(number, depth, pointmap):
            graph.fused(number, graph.keyframe(number).depth, depth, pointmap)
        case EdgesSet(pairs, edges):
            graph.set_edges(pairs, edges)
        case EdgesKept(edges):
            graph.keep_edges(edges)
        case Adopted():
            graph.adopt(
                *(change.poses, change.depths, change.intrinsics, change.newest),
                *(change.scales, change.joined),
            )
        case RecordSet(record):
            graph.set_record(record)
        case Cleared(intrinsics, first):
            graph.clear(intrinsics, first)
        case PinholeSet(known):
            graph.set_pinhole(known)
        case ReadoutSet(seconds):
            graph.set_readout(seconds)


# --- values and back ------------------------------------------------------------------------------


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _to_text(values: np.ndarray) -> str:
    return values.tobytes().decode()


def _edges(edges: Sequence[Edge]) -> np.ndarray:
    return np.array(edges, np.int64).reshape(-1, 2)


def _to_edges(values: np.ndarray) -> tuple[Edge, ...]:
    return tuple((i, j) for i, j in values.tolist())


def _to_intrinsics(values: np.ndarray) -> Intrinsics:
    fx, fy, cx, cy = values.tolist()
    return fx, fy, cx, cy


def _depth(depth: InverseDepth) -> Values:
    return {"value": _array(depth.value), "information": _array(depth.information)}


def _to_depth(values: Values) -> InverseDepth:
    return InverseDepth(torch.from_numpy(values["value"]), torch.from_numpy(values["information"]))


def _pointmap(pointmap: FusedPointmap | None) -> Values:
    if pointmap is None:
        return {}
    return {
        "X_C": _array(pointmap.X_C),
        "confidence": _array(pointmap.confidence),
        "count": np.array(pointmap.count),
    }


def _to_pointmap(values: Values) -> FusedPointmap | None:
    if "X_C" not in values:
        return None
    X_C, confidence = (torch.from_numpy(values[name]) for name in ("X_C", "confidence"))
    return FusedPointmap(X_C, confidence, int(values["count"]))


def _keyframe(keyframe: Keyframe) -> Values:
    frame = keyframe.frame
    return {
        "index": np.array(frame.index),
        "time": np.array(frame.time),
        "seconds": np.array(frame.seconds),
        "rgb": _array(frame.features.rgb),
        "T_WC": _array(keyframe.T_WC),
        **_depth(keyframe.depth),
        **_pointmap(keyframe.pointmap),
    }


def _to_keyframe(values: Values, features: Encode) -> Keyframe:
    index, rgb = int(values["index"]), torch.from_numpy(values["rgb"])
    image = Image(index, float(values["time"]), float(values["seconds"]), rgb)
    frame = Frame(index, image.time, image.seconds, features(image))
    T_WC = torch.from_numpy(values["T_WC"])
    return Keyframe(frame, T_WC, _to_depth(values), _to_pointmap(values))


def _correspondences(edges: Mapping[Edge, Correspondence]) -> Values:
    found = list(edges.values())
    return {
        "edges": _edges(list(edges)),
        "target": np.array([_array(c.target) for c in found], np.float32),
        "weight": np.array([_array(c.weight) for c in found], np.float32),
    }


def _to_correspondences(values: Values) -> dict[Edge, Correspondence]:
    each = zip(_to_edges(values["edges"]), values["target"], values["weight"], strict=True)
    return {
        edge: Correspondence(torch.from_numpy(target.copy()), torch.from_numpy(weight.copy()))
        for edge, target, weight in each
    }


def _adopted(change: Adopted) -> Values:
    optional = {} if change.intrinsics is None else {"intrinsics": np.array(change.intrinsics)}
    optional |= {} if change.newest is None else {"newest": np.array(change.newest)}
    depths = list(change.depths.values())
    return optional | {
        "posed": np.array(list(change.poses), np.int64),
        "T_WC": np.array([_array(T) for T in change.poses.values()]).reshape(-1, 7),
        "deepened": np.array(list(change.depths), np.int64),
        "value": np.array([_array(d.value) for d in depths], np.float32),
        "information": np.array([_array(d.information) for d in depths], np.float32),
        "scaled": np.array(list(change.scales), np.int64),
        "scale": np.array(list(change.scales.values()), np.float64),
        "joined": np.array(list(change.joined.items()), np.int64).reshape(-1, 2),
    }


def _to_adopted(values: Values) -> Adopted:
    poses = {k: torch.from_numpy(T.copy()) for k, T in _numbered(values, "posed", "T_WC")}
    information = dict(_numbered(values, "deepened", "information"))
    return Adopted(
        poses,
        {
            k: _to_depth({"value": value.copy(), "information": information[k].copy()})
            for k, value in _numbered(values, "deepened", "value")
        },
        _to_intrinsics(values["intrinsics"]) if "intrinsics" in values else None,
        int(values["newest"]) if "newest" in values else None,
        {k: float(scale) for k, scale in _numbered(values, "scaled", "scale")},
        {gone: into for gone, into in values.get("joined", np.empty((0, 2), int)).tolist()},
    )


def _numbered(values: Values, numbers: str, name: str) -> list[tuple[int, np.ndarray]]:
    return list(zip(values[numbers].tolist(), values[name], strict=True))


def _record(record: FrameRecord) -> Values:
    packed = {} if record.measurement is None else {"measurement": _array(record.measurement)}
    return packed | {
        "index": np.array(record.index),
        "time": np.array(record.time),
        "seconds": np.array(record.seconds),
        "state": _text(record.state.value),
        "keyframe": np.array(record.keyframe),
        "T_kf": _array(record.T_kf),
    }


def _to_record(values: Values) -> FrameRecord:
    packed = torch.from_numpy(values["measurement"]) if "measurement" in values else None
    return FrameRecord(
        int(values["index"]),
        float(values["time"]),
        float(values["seconds"]),
        TrackState(_to_text(values["state"])),
        int(values["keyframe"]),
        torch.from_numpy(values["T_kf"]),
        packed,
    )


def _published(said: Published) -> Values:
    pose = {} if said.T_WC is None else {"T_WC": _array(said.T_WC)}
    return pose | {
        "time": np.array(said.time),
        "in_map": np.array(said.in_map),
        "submap": np.array(said.submap),
    }


def _to_published(values: Values) -> Published:
    T_WC = torch.from_numpy(values["T_WC"]) if "T_WC" in values else None
    seconds, in_map = float(values["time"]), bool(values["in_map"])
    return Published(seconds, T_WC, in_map, _to_submap(values))


def _to_submap(values: Values) -> int:
    return int(values.get("submap", 0))  # there was but one in older journals


def _guess(guess: PairGuess) -> Values:
    flows = {"forward": guess.forward, "backward": guess.backward}
    return {name: _array(flow) for name, flow in flows.items() if flow is not None}


def _to_guess(values: Values) -> PairGuess:
    names = ("forward", "backward")
    return PairGuess(*(torch.from_numpy(values[n]) if n in values else None for n in names))


def _commit(commit: Commit) -> Values:
    standing, frontend = commit.standing, commit.standing.frontend
    backend, cost = commit.standing.backend, commit.standing.backend.readout_cost
    return {
        "frame": np.array(standing.frame),
        "linked": np.array(standing.linked),
        "keyframes": np.array(commit.keyframes),
        "seconds": np.array(commit.seconds),
        "damaged": _text("\0".join(commit.damaged)),
        "current": np.array(frontend.keyframe),
        "velocity": _array(frontend.velocity),
        **_guess(frontend.guess),
        "on_trial": np.array(frontend.on_trial),
        "trials": np.array(frontend.trials),
        "free_focal": np.array(backend.free_focal_at),
        "readout": np.array(backend.readout_at, np.float64),
        "readout_cost": np.array([cost.a, cost.b, cost.c]),
        "focal_sigma": np.array(backend.focal_sigma),
        "last_cost": np.array(backend.last_cost),
    }


def to_commit(values: Values) -> Commit:
    """The commit of its record's values."""
    frontend = FrontendStanding(
        int(values["current"]),
        torch.from_numpy(values["velocity"]),
        bool(values["on_trial"]),
        int(values["trials"]),
        _to_guess(values),
    )
    backend = BackendStanding(
        int(values["free_focal"]),
        float(values["readout"]),
        ReadoutCost(*values["readout_cost"].tolist()),
        float(values["focal_sigma"]),
        float(values["last_cost"]),
    )
    return Commit(
        Standing(int(values["frame"]), int(values["linked"]), frontend, backend),
        int(values["keyframes"]),
        float(values["seconds"]),
        tuple(name for name in _to_text(values["damaged"]).split("\0") if name),
    )
