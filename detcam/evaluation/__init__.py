"""How far a detector's maps can be trusted: a number for anyone's own model, from labelled pictures."""

from detcam.evaluation.evaluator import DEFAULT_METRICS, SANITY_METRICS, EvaluateOptions, Evaluator
from detcam.evaluation.measured import Curve, MeasuredPicture, Row
from detcam.evaluation.minimal import MinimalEvidence, Part, minimal_evidence
from detcam.evaluation.run import (
    Progress,
    check_writable,
    evaluate,
    open_unfinished,
    write_question,
    write_tables,
)
from detcam.evaluation.sources import LabelledSource, PlantedSource, Source
from detcam.evaluation.summary import SummaryLine, summarise
from detcam.evaluation.truth import Truth
from detcam.evaluation.ways import BASELINE, Way, ways_for

__all__ = [
    "BASELINE",
    "DEFAULT_METRICS",
    "SANITY_METRICS",
    "Curve",
    "EvaluateOptions",
    "Evaluator",
    "LabelledSource",
    "MeasuredPicture",
    "MinimalEvidence",
    "Part",
    "PlantedSource",
    "Progress",
    "Row",
    "Source",
    "SummaryLine",
    "Truth",
    "Way",
    "check_writable",
    "evaluate",
    "minimal_evidence",
    "open_unfinished",
    "summarise",
    "ways_for",
    "write_question",
    "write_tables",
]
