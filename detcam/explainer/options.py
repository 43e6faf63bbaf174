"""What may be asked of a detector, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from detcam.cam.capture import GradientPath
from detcam.cam.methods import Method
from detcam.cam.random_masks import RandomMasks
from detcam.errors import InputError, UnknownNameError
from detcam.explanation import Merge


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain and how; `explain` documents each field."""

    classes: tuple[int | str, ...] | None = None
    conf: float = 0.25
    iou: float | None = None
    max_det: int = 300
    imgsz: int | tuple[int, int] | None = None
    max_boxes: int = 16
    method: str = "grad-cam-elementwise"
    layers: str | tuple[str, ...] | None = None
    target: str = "class-logit"
    path: GradientPath | None = None
    merge: Merge | None = None
    keep_features: bool = False
    batch_size: int | None = None
    masks: int = RandomMasks.count
    seed: int = RandomMasks.seed
    near_misses: int = 0

    def __post_init__(self) -> None:
        if self.path not in (None, *get_args(GradientPath)):
            raise UnknownNameError("gradient path", str(self.path), get_args(GradientPath))
        if self.merge not in (None, *get_args(Merge)):
            raise UnknownNameError("merge", str(self.merge), get_args(Merge))
        for name in ("max_det", "max_boxes"):
            check_count(name, getattr(self, name))
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)
        if not isinstance(self.near_misses, int) or self.near_misses < 0:
            raise InputError(f"near_misses must be a whole number of at least 0, got {self.near_misses!r}")
        RandomMasks(self.masks, seed=self.seed)
        sides = self.imgsz if isinstance(self.imgsz, tuple) else (self.imgsz or 0, self.imgsz or 0)
        if self.imgsz is not None and (
            len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides)
        ):
            raise InputError(f"imgsz must be pixels, or (H, W), got {self.imgsz!r}")


def settled(options: ExplainOptions, method: Method) -> ExplainOptions:
    """The options with layers and path where none were asked for, as measured in docs/evidence.md.

    A method that works cell by cell has its evidence where cells are small, at the backbone's stages from
    stride 4 on, with everything that lies behind them; one that pools gradients over the picture has not.
    """
    if method.is_sampled:
        return options
    layers = options.layers
    if layers is None:
        layers = "evidence" if method.is_by_cell else "backbone"
    return replace(
        options, layers=layers, path=options.path or ("total" if layers == "evidence" else "direct")
    )


def check_fits(options: ExplainOptions, method: Method) -> None:
    """Refuse what was asked for and has no meaning with the method.

    Raises:
        InputError: random masks are asked about layers, gradients or a target, or other methods about masks.
    """
    default = ExplainOptions()
    layered, sampled = ("layers", "target", "path", "merge", "keep_features"), ("masks", "seed")
    idle = layered if method.is_sampled else sampled
    for name in idle:
        if getattr(options, name) != getattr(default, name):
            what = (
                "looks at no layer and has its own target" if method.is_sampled else "draws no random masks"
            )
            raise InputError(f"method {method.name!r} {what}: leave {name} out")


def check_count(name: str, value: int) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        InputError: it is not; the text has its name.
    """
    if not isinstance(value, int | np.integer) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
