"""The coloured points as binary glTF 2.0: one file that browsers and modelling programs open.

One buffer holds the positions and the colours. glTF's vertex colours are linear, so ours, which are
sRGB as all images are, are converted, to 16 bits lest the dark ones merge. Its world has y up and
ours y down: the node that holds the points is turned half round the x axis, the points stay.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from slam import __version__
from slam.exports.views import Choices, cloud_of
from slam.saved_map import SavedMap
from slam.trajectory import write_atomically

MAGIC, VERSION = 0x46546C67, 2  # "glTF"
JSON_CHUNK, BINARY_CHUNK = 0x4E4F534A, 0x004E4942  # "JSON", "BIN"
FLOAT, UNSIGNED_SHORT, POINTS, ARRAY_BUFFER = 5126, 5123, 0, 34962  # glTF's numbers for them
HALF_TURN = [1.0, 0.0, 0.0, 0.0]  # quaternion x y z w, about x
UNLIT = "KHR_materials_unlit"  # the points show their own colours


def write_glb(saved: SavedMap, out: Path, choices: Choices) -> str:
    """Writes the points of `ply` without their confidence."""
    cloud = cloud_of(saved, choices)
    colors = np.full((len(cloud.points), 4), 65535, "<u2")
    colors[:, :3] = np.rint(_linear(cloud.colors) * 65535)
    positions = np.ascontiguousarray(cloud.points, "<f4")
    head = _padded(json.dumps(_scene(positions)).encode(), b" ")
    body = positions.tobytes() + colors.tobytes()  # 12 and 8 bytes a point: whole words
    chunks = struct.pack("<II", len(head), JSON_CHUNK) + head
    chunks += struct.pack("<II", len(body), BINARY_CHUNK) + body
    write_atomically(out, struct.pack("<III", MAGIC, VERSION, 12 + len(chunks)) + chunks)
    return f"{len(positions)} points"


def _scene(positions: np.ndarray) -> dict[str, Any]:
    """The JSON part: where the numbers are, and one node that shows them."""
    count = len(positions)
    sizes = (12 * count, 8 * count)
    return {
        "asset": {"version": "2.0", "generator": f"slam {__version__}"},
        "extensionsUsed": [UNLIT],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "map", "mesh": 0, "rotation": HALF_TURN}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {"POSITION": 0, "COLOR_0": 1},
                        "mode": POINTS,
                        "material": 0,
                    }
                ]
            }
        ],
        "materials": [{"extensions": {UNLIT: {}}}],
        "buffers": [{"byteLength": sum(sizes)}],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": sizes[0], "target": ARRAY_BUFFER},
            {"buffer": 0, "byteOffset": sizes[0], "byteLength": sizes[1], "target": ARRAY_BUFFER},
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": FLOAT,
                "count": count,
                "type": "VEC3",
                "min": positions.min(0).tolist(),
                "max": positions.max(0).tolist(),
            },
            {
                "bufferView": 1,
                "componentType": UNSIGNED_SHORT,
                "normalized": True,
                "count": count,
                "type": "VEC4",
            },
        ],
    }


def _linear(colors: np.ndarray) -> np.ndarray:
    """sRGB uint8 to linear 0..1 (IEC 61966-2-1)."""
    c = colors / 255.0
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _padded(block: bytes, filler: bytes) -> bytes:
    return block + filler * (-len(block) % 4)
