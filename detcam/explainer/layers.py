"""What the captured layers of a detector are called."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from detcam.adapters.base import Detector
from detcam.explanation import ExplainedLayer
from detcam.geometry import Letterbox
from detcam.structures import level_name


def explained_layers(
    detector: Detector, grids: Mapping[str, tuple[int, int]], geometry: Letterbox
) -> dict[str, ExplainedLayer]:
    """Captured name -> what it stands for, finest level first.

    Args:
        detector: whose layers they are.
        grids: captured name -> (h, w) cells.
        geometry: of the input.
    """
    member_of = {layer.name: layer.member_of for layer in detector.layers()}
    strides = {name: geometry.input_size[0] / grid[0] for name, grid in grids.items()}
    levels = {name: _level_name(stride) for name, stride in strides.items()}
    shared = {level for level, times in Counter(levels.values()).items() if times > 1}
    return {
        name: ExplainedLayer(
            level=f"{levels[name]}:{name}" if levels[name] in shared else levels[name],
            module=name,
            member_of=member_of.get(name),
            stride=strides[name],
            grid=grids[name],
        )
        for name in sorted(grids, key=lambda name: strides[name])
    }


def _level_name(stride: float) -> str:
    power = math.log2(stride)
    # Where the input is no multiple of the stride, a grid is rounded up or down.
    return level_name(2 ** round(power)) if abs(power - round(power)) < 0.25 else f"stride-{stride:g}"
