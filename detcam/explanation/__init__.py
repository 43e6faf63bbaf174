"""One picture explained: what was found, how it looks, how it is stored."""

from detcam.explanation.core import ExplainedLayer, Explanation, Merge, Question, Sampling
from detcam.explanation.overlay import MERGED, SCALES, Scale, Style, blended, lay_maps
from detcam.explanation.saving import EXTRAS, SaveOptions, paths_of, save
from detcam.explanation.sidecar import SCHEMA, sidecar
from detcam.explanation.verdicts import KINDS, NOT_FOUND, RIGHT, Kind, Verdict

__all__ = [
    "EXTRAS",
    "KINDS",
    "MERGED",
    "NOT_FOUND",
    "RIGHT",
    "SCALES",
    "SCHEMA",
    "ExplainedLayer",
    "Explanation",
    "Kind",
    "Merge",
    "Question",
    "Sampling",
    "SaveOptions",
    "Scale",
    "Style",
    "Verdict",
    "blended",
    "lay_maps",
    "paths_of",
    "save",
    "sidecar",
]
