"""Data sets that somebody labelled: pictures with the boxes, classes and outlines of their objects."""

from detcam.labels.agreement import IGNORED, UNMATCHED, assign, classes_for
from detcam.labels.masks import RunLengths
from detcam.labels.pictures import LabelledPicture, LabelledPictures, LabelledSet
from detcam.labels.reading import read_labelled
from detcam.labels.tide import Finding, Kind, sort_findings

__all__ = [
    "IGNORED",
    "UNMATCHED",
    "Finding",
    "Kind",
    "LabelledPicture",
    "LabelledPictures",
    "LabelledSet",
    "RunLengths",
    "assign",
    "classes_for",
    "read_labelled",
    "sort_findings",
]
