"""Raw maps inside a page: one compressed block that a browser unpacks without any library."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from detcam.render import encode_map_16bit

MOST_EXACT = 500_000  # base64 letters; with photograph, overlay and script, a page stays below 1 MB


def pack_maps(maps: Mapping[str, npt.NDArray[np.float32]], most: int = MOST_EXACT) -> dict[str, Any]:
    """Lay maps out behind each other, compress them, and say where each begins.

    Float32, the very values, as long as they fit; else 65536 steps between each map's ends, which err by
    half a step at most. Equal maps, such as a merged one that is the finest level's, are stored once.

    Args:
        maps: key -> (h, w), finite.
        most: base64 letters that float32 may take.

    Returns:
        precision: "float32" or "uint16"; block: base64 of zlib-compressed little-endian values; places:
        key -> start in values, grid (h, w), low and high, the ends of the 65536 steps.
    """
    exact = _packed(maps, "float32")
    return exact if len(exact["block"]) <= most else _packed(maps, "uint16")


def _packed(maps: Mapping[str, npt.NDArray[np.float32]], precision: str) -> dict[str, Any]:
    starts: dict[bytes, int] = {}
    parts: list[bytes] = []
    places, end = {}, 0
    for key, values in maps.items():
        encoded = encode_map_16bit(values)
        stored = values.astype("<f4") if precision == "float32" else encoded.codes.astype("<u2")
        content = stored.tobytes()
        same = np.array([encoded.low, encoded.high]).tobytes() + content
        if same not in starts:
            starts[same] = end
            parts.append(content)
            end += values.size
        place = {"start": starts[same], "grid": list(values.shape), "low": encoded.low, "high": encoded.high}
        places[key] = place
    block = base64.b64encode(zlib.compress(b"".join(parts), 9)).decode("ascii")
    return {"precision": precision, "block": block, "places": places}
