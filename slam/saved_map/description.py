"""What a saved map holds, for a person or as JSON; and its checks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from slam.saved_map.container import read_contents
from slam.saved_map.format import find_map, load_map


def check_map(path: Path | str) -> str:
    """Verifies every checksum, and that the parts make a map; says so in words.

    Raises FileNotFoundError, and ValueError that names what is damaged.
    """
    file = find_map(path)
    saved, parts = load_map(file), read_contents(file).parts
    return (
        f"{file}: {file.stat().st_size} bytes, {len(parts)} parts and all checksums right; "
        f"{len(saved.keyframes)} keyframes, {len(saved.records)} frames, {len(saved.edges)} edges"
    )


def describe(path: Path | str) -> dict[str, Any]:
    """What `slam map info --json` prints. Raises as load_map does."""
    file = find_map(path)
    contents, saved = read_contents(file), load_map(file)
    origin, grid = saved.origin, saved.grid
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "version": contents.version,
        "made_by": contents.about["made_by"],
        "source": dict(contents.about["source"]),
        "camera": dict(contents.about["camera"]),
        "predictor": saved.predictor,
        "keyframes": len(saved.keyframes),
        "frames": dict(Counter(record.state.value for record in saved.records)),
        "edges": len(saved.edges),
        "matches": sum(len(matches.weight) for matches in saved.edges.values()),
        "working_size": [grid.width, grid.height],
        "stride": grid.stride,
        "dense_stride": None if saved.dense_grid is None else saved.dense_grid.stride,
        "intrinsics": list(saved.intrinsics),
        "horizontal_fov": origin.camera.horizontal_fov,
        "readout": saved.readout,
        "confidence": saved.confidence,
        "parts": {name: array.nbytes for name, array in contents.parts.items()},
    }


def format_description(about: dict[str, Any]) -> str:
    """The same in a few lines."""
    source, camera = about["source"], about["camera"]
    known = "calibrated" if camera["calibrated"] else "not calibrated"
    states = ", ".join(f"{count} {state}" for state, count in about["frames"].items())
    fx, fy, cx, cy = about["intrinsics"]
    width, height = about["working_size"]
    each = about["bytes"] / max(about["keyframes"], 1)
    sizes = Counter({name.split(".")[0]: 0 for name in about["parts"]})
    for name, size in about["parts"].items():
        sizes[name.split(".")[0]] += size
    shares = ", ".join(f"{name} {size / 1e6:.2f}" for name, size in sizes.most_common())
    dense = about["dense_stride"]
    rows = [
        ("file", f"{about['file']}, version {about['version']}, {about['made_by']}"),
        ("source", f"{source['path']} ({source['format']})"),
        ("camera", f"{camera['model']}, {camera['width']}x{camera['height']} px, {known}"),
        ("predictor", about["predictor"]),
        ("keyframes", f"{about['keyframes']}, {about['edges']} edges, {about['matches']} matches"),
        ("frames", states or "none"),
        ("images", f"{width}x{height} px; fx {fx:.2f}, fy {fy:.2f}, cx {cx:.2f}, cy {cy:.2f}"),
        ("depths", f"1 in {about['stride']} px each way; dense: 1 in {dense or '-'}"),
        ("readout", f"{1e3 * about['readout']:.1f} ms"),
        ("bytes", f"{about['bytes']}, {each:.0f} a keyframe; in MB: {shares}"),
    ]
    return "\n".join(f"{name:10} {value}" for name, value in rows)
