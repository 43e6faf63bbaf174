"""From a detector and pictures to explanations: one forward pass a picture, whatever is asked."""

from detcam.explainer.black_box import d_rise
from detcam.explainer.candidates import Candidate
from detcam.explainer.core import Explainer, explain
from detcam.explainer.judging import LabelJudge
from detcam.explainer.missed import Missed, why_missed
from detcam.explainer.options import ExplainOptions, check_count
from detcam.explainer.piecemeal import explain_piecemeal

__all__ = [
    "Candidate",
    "ExplainOptions",
    "Explainer",
    "LabelJudge",
    "Missed",
    "check_count",
    "d_rise",
    "explain",
    "explain_piecemeal",
    "why_missed",
]
