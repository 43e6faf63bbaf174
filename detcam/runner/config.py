"""What an explainer is made of, small enough to be sent to another machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from detcam.adapters import load
from detcam.adapters.base import LoadOptions
from detcam.cam.rescoring import Progress
from detcam.explainer import Explainer, ExplainOptions
from detcam.labels import LabelledSet, read_labelled


@dataclass(frozen=True)
class LabelsConfig:
    """Where labels are; `read_labelled` documents each field."""

    data: str
    split: str | None = None
    images: str | None = None

    def read(self) -> LabelledSet:
        """The data set.

        Raises:
            InputError: it is none.
        """
        return read_labelled(self.data, split=self.split, images=self.images)


@dataclass(frozen=True)
class ExplainerConfig:
    """A model file and what is asked of it. Calling it loads the model.

    Attributes:
        model: the file.
        load: what is said about it.
        device: where it runs; None for the first GPU, else the CPU.
        options: what is asked.
        labels: by which detections are sorted, if they are.
    """

    model: Path
    load: LoadOptions = field(default_factory=LoadOptions)
    device: str | None = None
    options: ExplainOptions = field(default_factory=ExplainOptions)
    labels: LabelsConfig | None = None

    def told(self) -> dict[str, str]:
        """What was said about the model and the labels, for run.json: name -> value, as text."""
        said = {**vars(self.load), **({} if self.labels is None else vars(self.labels))}
        return {name: str(value) for name, value in said.items() if value not in (None, (), False)}

    def __call__(self, progress: Progress | None = None, labels: LabelledSet | None = None) -> Explainer:
        """The explainer.

        Args:
            progress: wraps the iterable of forward passes, for methods that need many.
            labels: what `labels` says, where it has been read.

        Raises:
            DetcamError: the model, the options or the labels cannot be used.
        """
        if labels is None and self.labels is not None:
            labels = self.labels.read()
        detector = load(self.model, device=self.device, **vars(self.load))
        return Explainer.of(detector, self.options, progress, labels)
