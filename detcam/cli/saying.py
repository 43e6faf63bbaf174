"""What is said of an explained picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from detcam.cli.words import say

if TYPE_CHECKING:
    from detcam.explainer import Explainer
    from detcam.explanation import Explanation
    from detcam.runner import Row


def say_row(row: Row, explainer: Explainer) -> None:
    """Say on stderr what was explained: class, score, box, level, layers, method, target."""
    explanation = row.explanation
    if explanation is None:
        say(f"{row.job.path}: {row.error}")
        return
    say(f"{row.job.path}: {len(explanation)} boxes, {_how(explanation)}")
    for box in range(len(explanation)):
        x1, y1, x2, y2 = explanation.detections.boxes[box].tolist()
        verdict = explanation.verdict_of.get(box)
        say(
            f"  b{box:03d} {explanation.label(box)} at {x1:.0f},{y1:.0f},{x2:.0f},{y2:.0f}"
            f" predicted at {explanation.deciding[box]}; evidence: {_found_of(explanation, box)}"
            + (f"; {verdict.kind}: {verdict.words}" if verdict is not None and verdict.words else "")
        )
    if not len(explanation):
        say(f"  nothing found: {_nothing_found(explanation.detections.best_score, explainer.options.conf)}")
    for warning in explanation.warnings:
        say(f"  {warning}")


def _how(explanation: Explanation) -> str:
    """Method, target, and layers or masks."""
    question, sampling = explanation.question, explanation.sampling
    asked = f"{question.method} of {question.target}"
    if sampling is not None:
        return f"{asked}, {sampling.masks} masks of seed {sampling.seed}"
    layers = " ".join(f"{layer.level}={layer.module}" for layer in explanation.layers)
    return f"{asked}, {layers}, {question.path}"


def _found_of(explanation: Explanation, box: int) -> str:
    """Where a box's evidence lies, or how far its map has converged."""
    if explanation.sampling is not None:
        convergence = explanation.sampling.convergence[box]
        return "convergence " + ("-" if math.isnan(convergence) else f"{convergence:.2f}")
    parts = [
        f"{level} {_percent(share[box])}"
        for level, share in explanation.shares.items()
        if not math.isnan(share[box])
    ]
    return " ".join([*parts, f"{_percent(explanation.energy_in_box[box])} in the box"])


def _nothing_found(best: float, conf: float) -> str:
    if not best:
        return "no candidate, however weak, is most like a class that was asked for"
    return f"best score {best:.2g} <= {conf:g}, try --conf {best * 0.9:.2g}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.0%}"
