"""METRICS: every metric by name. One function and one entry here are what make a metric exist."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from detcam.errors import UnknownNameError
from detcam.metrics.faithfulness import deletion, insertion, overall
from detcam.metrics.localisation import (
    compactness,
    energy_in_box,
    energy_in_mask,
    odi,
    odi_in_masks,
    pointing_game,
    pointing_game_in_mask,
    vea,
)
from detcam.metrics.similarity import spearman, spearman_abs, ssim

# What a metric may ask for by naming a parameter. For M explained boxes of one picture:
INPUTS = {
    "maps": "(M, H, W), raw, on the picture",
    "boxes": "(M, 4), xyxy in the picture's pixels, the explained or the annotated ones",
    "masks": "(M, H, W) bool, of the explained objects",
    "object_boxes": "(N, 4), of all objects in the picture",
    "object_masks": "(N, H, W) bool, of all objects in the picture",
    "explained": "(M,) int64, which of the objects each map explains",
    "others": "(M, H, W), the maps after what they explain has changed",
    "faithfulness": "curves of `faithfulness`, which takes a score function of changed pictures",
}


@dataclass(frozen=True)
class Metric:
    """A metric under its name.

    Attributes:
        name: how users call it, such as "energy-in-box".
        compute: what it `needs`, by name -> (M,) float64, nan where undefined.
        summary: what it says, in one line.
        source: the paper.
        better: which way is better.
        bounds: smallest and largest value there can be.
    """

    name: str
    compute: Callable[..., Tensor]
    summary: str
    source: str
    better: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        for name in self.needs:
            if name not in INPUTS:
                raise UnknownNameError(f"input (asked for by metric {self.name!r})", name, INPUTS)

    @property
    def needs(self) -> tuple[str, ...]:
        """The inputs to call `compute` with, by name: its parameters."""
        return tuple(inspect.signature(self.compute).parameters)

    @property
    def asks_the_network(self) -> bool:
        """Whether changed pictures are scored: all others look at the map alone."""
        return "faithfulness" in self.needs


_ODAM = "Zhao 2023, arXiv:2304.06354"
_RISE = "Petsiuk 2018, arXiv:1806.07421"
_ADEBAYO = "Adebayo 2018, arXiv:1810.03292"
_ANY = (-math.inf, math.inf)

METRICS: dict[str, Metric] = {
    "pointing-game": Metric(
        "pointing-game",
        pointing_game,
        "whether the map's largest value lies in the box",
        "Zhang 2018, arXiv:1608.00507",
    ),
    "pointing-game-in-mask": Metric(
        "pointing-game-in-mask",
        pointing_game_in_mask,
        "whether the map's largest value lies on the object",
        "Zhang 2018, arXiv:1608.00507",
    ),
    "energy-in-box": Metric(
        "energy-in-box",
        energy_in_box,
        "share of the map in the box (EBPG)",
        "Wang 2020, arXiv:1910.01279",
    ),
    "energy-in-mask": Metric(
        "energy-in-mask",
        energy_in_mask,
        "share of the map on the object",
        "Wang 2020, arXiv:1910.01279",
    ),
    "compactness": Metric(
        "compactness",
        compactness,
        "spread around the map's largest value, in half diagonals of the box",
        _ODAM,
        "lower",
        (0.0, math.inf),
    ),
    "vea": Metric(
        "vea", vea, "IoU of map and object at the best threshold", f"Oramas 2019, arXiv:1712.06302; {_ODAM}"
    ),
    "odi": Metric("odi", odi, "share in other objects' boxes of what lies in any", _ODAM, "lower"),
    "odi-in-masks": Metric(
        "odi-in-masks", odi_in_masks, "share on other objects of what lies on any", _ODAM, "lower"
    ),
    "deletion": Metric(
        "deletion", deletion, "mean score as the most salient pixels go", _RISE, "lower", _ANY
    ),
    "insertion": Metric(
        "insertion", insertion, "mean score as the most salient pixels come", _RISE, bounds=_ANY
    ),
    "overall": Metric(
        "overall", overall, "insertion - deletion", "ODExAI 2025, arXiv:2504.19249", bounds=_ANY
    ),
    "spearman": Metric(
        "spearman",
        spearman,
        "rank correlation with the map after what it explains has changed",
        _ADEBAYO,
        "lower",
        (-1.0, 1.0),
    ),
    "spearman-abs": Metric(
        "spearman-abs",
        spearman_abs,
        "the same of absolute values",
        _ADEBAYO,
        "lower",
        (-1.0, 1.0),
    ),
    "ssim": Metric(
        "ssim",
        ssim,
        "structural similarity with the map after what it explains has changed",
        f"Wang 2004, doi:10.1109/TIP.2003.819861; {_ADEBAYO}",
        "lower",
        (-1.0, 1.0),
    ),
}


def get_metric(name: str) -> Metric:
    """Look a metric up by its name.

    Raises:
        UnknownNameError: there is none; the text has the closest names.
    """
    try:
        return METRICS[name]
    except KeyError:
        raise UnknownNameError("metric", name, METRICS) from None
