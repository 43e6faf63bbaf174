"""Explanations beside the curves of a training, in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detcam.explanation import MERGED, Explanation


def add_explanation(
    writer: Any,
    tag: str,
    explanation: Explanation,
    step: int,
    *,
    levels: Sequence[str] = (MERGED,),
    scale: str = "energy",
) -> None:
    """Add the overlay of each level as an image called `tag`/level.

    Args:
        writer: `torch.utils.tensorboard.SummaryWriter`, or what has its `add_image`.
        tag: how the images' names begin.
        explanation: what to show.
        step: of the training.
        levels: keys of `Explanation.levels`, or "merged".
        scale: as in `Explanation.overlay`; "fixed:VALUE" keeps the steps comparable.

    Raises:
        UnknownNameError: no such level or scale.
    """
    for level in levels:
        overlay = explanation.overlay(level=level, scale=scale)
        writer.add_image(f"{tag}/{level}", overlay, step, dataformats="HWC")
