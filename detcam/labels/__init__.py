"""Data sets that somebody labelled: pictures with the boxes, classes and outlines of their objects."""

from detcam.labels.masks import RunLengths
from detcam.labels.pictures import LabelledPicture, LabelledPictures, LabelledSet
from detcam.labels.reading import read_labelled

__all__ = [
    "LabelledPicture",
    "LabelledPictures",
    "LabelledSet",
    "RunLengths",
    "read_labelled",
]
