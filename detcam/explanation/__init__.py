"""One picture explained: what was found, how it looks, how it is stored."""

from detcam.explanation.core import ExplainedLayer, Explanation, Merge, Question, Sampling
from detcam.explanation.overlay import MERGED, SCALES, Scale, Style
from detcam.explanation.saving import EXTRAS, SaveOptions, save
from detcam.explanation.sidecar import SCHEMA, sidecar

__all__ = [
    "EXTRAS",
    "MERGED",
    "SCALES",
    "SCHEMA",
    "ExplainedLayer",
    "Explanation",
    "Merge",
    "Question",
    "Sampling",
    "SaveOptions",
    "Scale",
    "Style",
    "save",
    "sidecar",
]
