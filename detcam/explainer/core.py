"""What is asked of a detector, and of which pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any, overload

import numpy as np
import torch

from detcam.adapters.base import DetectOptions, Detector
from detcam.adapters.choosing import chosen_layers
from detcam.adapters.rehearsal import InputSize, rehearse
from detcam.cam.capture import GradientPath, capture
from detcam.cam.methods import Method, get_method
from detcam.cam.rescoring import Progress
from detcam.errors import InputError
from detcam.explainer.judging import Judge, LabelJudge, NearMissJudge
from detcam.explainer.masking import explain_by_masking
from detcam.explainer.options import ExplainOptions, check_count, check_fits, settled
from detcam.explainer.passes import check_rescorable, explain_batch, layouts_of
from detcam.explainer.plan import EVIDENCE, Plan, PreparedPicture
from detcam.explainer.sampling import SIMILARITY
from detcam.explanation import Explanation, Merge, Question
from detcam.images import Picture, as_picture
from detcam.labels import LabelledSet
from detcam.structures import Detections
from detcam.targets import UNITS, class_id, target_for


@overload
def explain(detector: Detector, image: list[Any] | tuple[Any, ...], **options: Any) -> list[Explanation]: ...


@overload
def explain(detector: Detector, image: Any, **options: Any) -> Explanation: ...


def explain(  # type: ignore[misc]  # the overloads tell one picture from several, not every keyword
    detector: Detector,
    image: Any,
    *,
    classes: int | str | Sequence[int | str] | None = None,
    conf: float = 0.25,
    iou: float | None = None,
    max_det: int = 300,
    imgsz: int | tuple[int, int] | None = None,
    max_boxes: int = 16,
    method: str = "grad-cam-elementwise",
    layers: str | Sequence[str] | None = None,
    target: str = "class-logit",
    path: GradientPath | None = None,
    merge: Merge | None = None,
    keep_features: bool = False,
    batch: int = 1,
    batch_size: int | None = None,
    masks: int = 5000,
    seed: int = 0,
    near_misses: int = 0,
    labels: LabelledSet | None = None,
    progress: Progress | None = None,
) -> Any:
    """Explain why a detector fired on a picture, box by box and level by level.

    Args:
        detector: from `detcam.load` or `detcam.wrap`.
        image: a path, PIL picture, numpy RGB array or tensor, or a list of these.
        classes: class ids or names to explain, or one of them; None for all.
        conf: lowest score, 0..1.
        iou: overlap from which the weaker box of a class is suppressed, 0..1; None for what the detector's
            own predict takes, 0.7 for ultralytics.
        max_det: detections kept per picture.
        imgsz: the input's largest side, or (H, W); None for the size the model was trained at.
        max_boxes: boxes explained per picture, best first.
        method: key of `detcam.METHODS`.
        layers: "evidence" (the backbone's stages from stride 4 on), "backbone", "neck" or "head" (one layer
            at each of the head's strides), "stages" (the stem and the backbone's stages), dotted names, or
            patterns such as "model.*.cv1". None takes "evidence" for methods that work cell by cell, as the
            default one, and "backbone" for others.
        target: what of the prediction is explained: a key of `TARGETS`.
        path: "direct" gradients add up over the layers; "total" ones also run through deeper captured layers.
            None takes "total" at "evidence" and "direct" elsewhere.
        merge: how the levels of a box become one map: "sum", or "finest" for the finest level's alone. None
            takes "finest" where levels would count the same evidence again (total gradients at layers of the
            backbone, which follow each other) and "sum" elsewhere.
        keep_features: keep the captured activations in `Explanation.features`.
        batch: pictures of one input size per forward pass.
        batch_size: changed pictures per forward pass of methods that score many, halved when memory runs out;
            None for 8 on the CPU, which is slower with more, and 32 elsewhere.
        masks: how many random masks "d-rise" looks through; it knows no layers, path and other targets.
        seed: of these masks.
        near_misses: also explain so many of the strongest candidates below the threshold, at places where
            nothing was found.
        labels: what is there (`detcam.labels.read_labelled`): detections are sorted into right and wrong,
            objects that were missed are explained by their best candidate, and errors come first when
            `max_boxes` has to choose; see `Explanation.verdicts`.
        progress: wraps the iterable of these passes, as `tqdm` does.

    Returns:
        An `Explanation`, or a list of them for a list of images. No detection is an answer: an
        explanation of length 0.

    Raises:
        InputError: something asked for does not exist or cannot be used.
        CaptureError: the network did not give what was to be captured.
        NoGradientError: a box's target depends on none of the layers.
    """
    wanted = (classes,) if isinstance(classes, int | str) else classes
    options = ExplainOptions(
        classes=None if wanted is None else tuple(wanted),
        conf=conf,
        iou=iou,
        max_det=max_det,
        imgsz=imgsz,
        max_boxes=max_boxes,
        method=method,
        layers=layers if layers is None or isinstance(layers, str) else tuple(layers),
        target=target,
        path=path,
        merge=merge,
        keep_features=keep_features,
        batch_size=batch_size,
        masks=masks,
        seed=seed,
        near_misses=near_misses,
    )
    explainer = Explainer.of(detector, options, progress, labels)
    several = isinstance(image, list | tuple)
    pictures = (as_picture(one) for one in (image if several else [image]))
    explanations = list(explainer.explain(pictures, batch))
    return explanations if several else explanations[0]


class Explainer(Plan):
    """A detector and what is asked of it, looked up and checked once for any number of pictures."""

    @classmethod
    def of(
        cls,
        detector: Detector,
        options: ExplainOptions,
        progress: Progress | None = None,
        labels: LabelledSet | None = None,
    ) -> Explainer:
        """Look the options up in the registries.

        Args:
            detector: what is asked.
            options: what it is asked.
            progress: wraps the iterable of forward passes, for methods that need many, as `tqdm` does.
            labels: of the pictures that will be explained; see `explain`.

        Raises:
            InputError: something asked for does not exist or cannot be used.
        """
        names = detector.class_names
        wanted = None if options.classes is None else tuple(class_id(c, names) for c in options.classes)
        method = get_method(options.method)
        method.check_given(EVIDENCE)
        check_fits(options, method)
        options = settled(options, method)
        modules = (
            {} if options.layers is None else chosen_layers(detector.model, detector.layers(), options.layers)
        )
        return cls(
            detector=detector,
            options=options,
            method=method,
            detect=DetectOptions(options.conf, options.iou, wanted, options.max_det),
            modules=modules,
            target=target_for(options.target, names),
            question=SIMILARITY
            if method.is_sampled
            else Question(
                method.name,
                options.target,
                UNITS.get(options.target, "logit"),
                options.path,
                options.merge or _merge(detector, method, options.path, modules),
            ),
            progress=progress,
            judge=_judge(options, labels, names),
        )

    @property
    def labels(self) -> str | None:
        """The data set by which detections are sorted, if they are."""
        return str(self.judge.labelled.source) if isinstance(self.judge, LabelJudge) else None

    def explain(self, pictures: Iterable[Picture], batch: int = 1) -> Iterator[Explanation]:
        """Explanations in the order of `pictures`; neighbours of one input size share forward passes.

        Raises:
            InputError: `batch` is no count.
            CaptureError: the network did not give what was to be captured.
            NoGradientError: a box's target depends on none of the layers.
        """
        check_count("batch", batch)
        inputs = (
            PreparedPicture(one, *self.detector.prepare(one.pixels, self.options.imgsz)) for one in pictures
        )
        for _, alike in groupby(inputs, key=lambda one: one.tensor.shape):
            while members := list(islice(alike, batch)):
                yield from self._explained(members)

    def explain_boxes(self, picture: Picture, boxes: Detections) -> Explanation:
        """The explanation of these very boxes, whatever is detected: their class may be another one.

        What to ask of a network that has been changed, or of a class that lost.

        Args:
            picture: in which they were found.
            boxes: M of them; `candidates` are rows of the prediction at this picture's input.

        Raises:
            InputError: a candidate or class does not exist in this prediction.
            CaptureError: the network did not give what was to be captured.
            NoGradientError: a box's target depends on none of the layers.
        """
        tensor, geometry = self.detector.prepare(picture.pixels, self.options.imgsz)
        (explanation,) = self._explained([PreparedPicture(picture, tensor, geometry, asked=boxes)])
        return explanation

    def _explained(self, inputs: Sequence[PreparedPicture]) -> Iterable[Explanation]:
        """Explanations of inputs of one size, as the method makes them."""
        if self.method.is_sampled:
            return (explain_by_masking(self, one) for one in inputs)
        return explain_batch(self, inputs)

    def rehearse(self) -> None:
        """Ask the question once of a small black picture: what would fail for every picture fails here.

        Raises:
            InputError: the target or method cannot be had from this detector.
            CaptureError: the network did not give what was to be captured.
            NoGradientError: no level's target depends on any of the layers.
        """
        rehearse(self.detector, self.options.imgsz, self._ask_all_levels)

    def _ask_all_levels(self, pixels: np.ndarray, imgsz: InputSize) -> None:
        """Ask of one candidate of each level, whatever it found."""
        tensor, _ = self.detector.prepare(pixels, imgsz)
        with capture(self.detector.model, self.modules, self.path) as caught:
            (raw,) = self.detector.forward(tensor[None])
            layouts_of(self, caught, 1, (tensor.shape[1], tensor.shape[2]))
            check_rescorable(self, raw)
            candidates = raw.central_candidates().values()
            scores = [self.target(candidate, min(self.detector.class_names))(raw) for candidate in candidates]
            if self.method.uses_gradients and scores:  # a head of regions may see none in a black picture
                caught.gradients(torch.stack(scores).sum())


def _judge(options: ExplainOptions, labels: LabelledSet | None, names: Mapping[int, str]) -> Judge | None:
    if labels is not None and options.near_misses:
        raise InputError("near_misses are for pictures without labels: leave one of the two out")
    if labels is not None:
        return LabelJudge.of(labels, names)
    return NearMissJudge(options.near_misses) if options.near_misses else None


def _merge(detector: Detector, method: Method, path: GradientPath | None, names: Iterable[str]) -> Merge:
    """Only the finest where every layer's evidence has passed through it, else the sum."""
    backbone = {layer.name for layer in detector.layers() if layer.part == "backbone"}
    is_chain = method.uses_gradients and path == "total" and backbone.issuperset(names)
    return "finest" if is_chain else "sum"
