"""What a user writes about a detector that no adapter knows, and what may be said besides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from detcam.adapters.base import check_count
from detcam.adapters.told_names import ordered_names
from detcam.geometry import Letterbox
from detcam.scoring import Scoring
from detcam.structures import Level, Origin, RowOrder

Prepare = Callable[[np.ndarray, "int | tuple[int, int]"], tuple[Tensor, Letterbox]]
"""A picture (H, W, 3) uint8 RGB and the wanted side or (H, W) -> the input (3, H, W) and its geometry."""


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """What a user's head makes of a batch: N candidates per picture, level by level.

    Attributes:
        class_logits: (B, N, K), before the sigmoid or softmax, in the live graph.
        boxes: (B, N, 4) xyxy in network-input pixels.
        objectness_logits: (B, N), or None.
        levels: the head's levels in the order of the rows; None works them out from `Head.strides` and N.
        row_order: of the candidates inside a level, if a cell has several.
    """

    class_logits: Tensor
    boxes: Tensor
    objectness_logits: Tensor | None = None
    levels: tuple[Level, ...] | None = None
    row_order: RowOrder = "yxa"


class Head(Protocol):
    """What a user writes about a detector that no adapter knows.

    It may also have `prepare(pixels, imgsz)` (see `Prepare`; default: letterboxed RGB 0..1), and `layers()`
    giving `Layer`s (default: see `detcam.adapters.layer_table`).

    Attributes:
        strides: network-input pixels per cell of the levels, in the order of the rows.
    """

    strides: Sequence[int]

    def forward(self, batch: Tensor) -> HeadOutput:
        """Run the model on (B, 3, H, W) and give its candidates, in the live graph."""
        ...


@dataclass(frozen=True, eq=False)
class GenericOptions:
    """What may be said about a detector besides its head.

    Attributes:
        names: class names, in order of their ids, or by their ids; None for the ids themselves.
        num_classes: to settle or to check what the tensors say.
        imgsz: side of the square that inputs fit into by default, in pixels.
        iou: overlap that the detector's own predict suppresses from; 1 for heads that need no suppression.
        scoring: how logits become scores; None: σ(class), times σ(objectness) where there is one.
        backbone: dotted names of the modules that are the backbone; () works it out.
        head_modules: dotted names of the modules that are the head.
        origin: the file it was loaded from.

    Raises:
        InputError: names or count that cannot be used for any model.
    """

    names: tuple[str, ...] | None = None
    num_classes: int | None = None
    imgsz: int = 640
    iou: float = 0.7
    scoring: Scoring | None = None
    backbone: tuple[str, ...] = ()
    head_modules: tuple[str, ...] = ()
    origin: Origin | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", ordered_names(self.names))
        check_count(self.num_classes)


def is_head(given: object) -> bool:
    """Whether an object has what `Head` asks for."""
    return hasattr(given, "strides") and callable(getattr(given, "forward", None))
