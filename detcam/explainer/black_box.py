"""D-RISE of any callable that finds objects in pictures: no network, weights or gradients are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.ops import batched_nms

from detcam.adapters.base import DetectOptions
from detcam.cam.random_masks import RandomMasks
from detcam.cam.rescoring import Progress
from detcam.errors import CaptureError, InputError, ShapeError
from detcam.explainer.options import check_count
from detcam.explainer.sampling import SIMILARITY, Sampler, places, proposals, similarities
from detcam.explanation import Explanation
from detcam.geometry import Letterbox
from detcam.images import as_picture
from detcam.metrics.matching import Candidates, Wanted
from detcam.structures import Detections
from detcam.targets import class_id

Pixels = npt.NDArray[np.uint8]
Detect = Callable[[list[Pixels]], Sequence[Any]]
"""Pictures (H, W, 3) uint8 RGB -> what is found in each, in one of the ways that `d_rise` names."""

_CPU = torch.device("cpu")
_WANTED = (
    "detect must give for each picture (boxes (n, 4), probabilities (n, K)), the same and objectness (n,), "
    "or (boxes (n, 4), scores (n,), labels (n,))"
)


def d_rise(
    detect: Detect,
    image: Any,
    *,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    classes: int | str | Sequence[int | str] | None = None,
    conf: float = 0.25,
    iou: float = 0.7,
    max_boxes: int = 16,
    masks: int = 5000,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Explanation:
    """Explain why a detector that is no torch module fired on a picture: an ONNX session, a service.

    Petsiuk et al. 2021 (D-RISE), arXiv:2006.03204: the picture is looked at through random masks, and a pixel
    counts for a box by how much more of the box is found where it is seen. What is hidden becomes black.

    Args:
        detect: takes a list of pictures (H, W, 3) uint8 RGB, all of one size, and gives for each of them
            `(boxes, probabilities)`, `(boxes, probabilities, objectness)` or `(boxes, scores, labels)`: boxes
            (n, 4) xyxy in the picture's pixels, probabilities (n, K) of the classes, objectness (n,), scores
            (n,), labels (n,) class ids; arrays, tensors or lists. The weak ones too: what is left of a box is
            seen in proposals that score little, down to 0.01.
        image: a path, PIL picture, numpy RGB array or tensor.
        class_names: in order of the class ids, or by them; None names classes by their ids.
        classes: class ids or names to explain, or one of them; None for all.
        conf: lowest score of an explained box, 0..1, exclusive.
        iou: overlap from which the weaker of two boxes of a class is not explained, 0..1.
        max_boxes: boxes explained, best first.
        masks: how many. All boxes share them.
        seed: of the masks.
        batch_size: most pictures in a call of `detect`; halved when it runs out of memory as torch does.
        progress: wraps the iterable of calls, as `tqdm` does.

    Raises:
        InputError: something asked for does not exist or cannot be used.
        ShapeError: `detect` gave something else.
        CaptureError: a value it gave is not finite, or memory does not suffice for one picture.
    """
    for name, value in (("max_boxes", max_boxes), ("batch_size", batch_size)):
        check_count(name, value)
    options = DetectOptions(conf, iou)
    sampler = Sampler(RandomMasks(masks, seed=seed), batch_size, progress)
    picture = as_picture(image)
    pixels = picture.pixels
    geometry = Letterbox.stretch(pixels.shape[:2], pixels.shape[:2])
    ask = _Asked(detect)
    (first,) = ask([pixels])
    columns = first.columns
    names = _names(class_names, first)
    wanted_classes = (classes,) if isinstance(classes, int | str) else classes
    kept = None if wanted_classes is None else [class_id(one, names) for one in wanted_classes]
    everything = first.candidates(columns)
    found = _detections(everything, options, kept)
    chosen = found[:max_boxes]
    wanted = [
        Wanted(everything.boxes[row], label, everything.probabilities[row])
        for row, label in zip(chosen.candidates.tolist(), chosen.labels.tolist(), strict=True)
    ]
    rows, across = places(geometry, geometry.image_size, _CPU)

    def hidden(number: int) -> Pixels:
        seen = sampler.masks.at(range(number, number + 1), rows, across)[0, :, :, None].numpy()
        return np.asarray(np.rint(pixels * seen), np.uint8)

    def score(numbers: range) -> Tensor:
        given = ask([hidden(number) for number in numbers])
        return similarities(wanted, [_counting(one.candidates(columns)) for one in given])

    layer, maps, sampling = sampler.maps(len(chosen), geometry, score, _CPU)
    return Explanation(
        picture=picture,
        geometry=geometry,
        detections=chosen,
        found=len(found),
        class_names=names,
        question=SIMILARITY,
        layers=(layer,),
        levels={layer.level: maps},
        involved={layer.level: torch.ones(len(chosen), dtype=torch.bool)},
        deciding=(None,) * len(chosen),
        target_values=tuple(similarities(wanted, [_counting(everything)])[:, 0].tolist() if wanted else ()),
        sampling=sampling,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """What was found in one picture.

    Attributes:
        boxes: (n, 4).
        objectness: (n,), or the scores where classes are told by their ids.
        classes: (n, K) probabilities, or (n,) int64 ids.
    """

    boxes: Tensor
    objectness: Tensor
    classes: Tensor

    @property
    def columns(self) -> int:
        """How many classes there are; of ids, one more than is known, for any other."""
        if self.classes.ndim == 2:
            return self.classes.shape[1]
        return int(self.classes.max()) + 2 if len(self.classes) else 1

    def candidates(self, columns: int) -> Candidates:
        """With one column for each class."""
        if not len(self.boxes):
            return Candidates(self.boxes, torch.zeros(0, columns), self.objectness)
        if self.classes.ndim == 2:
            return Candidates(self.boxes, self.classes, self.objectness)
        ids = self.classes.clamp(max=columns - 1)
        return Candidates(self.boxes, one_hot(ids, columns).float(), self.objectness)


@dataclass(frozen=True, eq=False)
class _Asked:
    """A callable whose answers are checked.

    Attributes:
        detect: see `d_rise`.
    """

    detect: Detect

    def __call__(self, pictures: list[Pixels]) -> list[_Found]:
        given = self.detect(pictures)
        is_list = isinstance(given, list | tuple)
        if not is_list or len(given) != len(pictures):
            what = str(len(given)) if is_list else f"a {type(given).__name__}"
            raise ShapeError(
                f"detect must give a list with one answer for each of {len(pictures)} pictures, got {what}"
            )
        return [_found(one) for one in given]


def _found(given: Any) -> _Found:
    """One picture's answer, checked.

    Raises:
        ShapeError: it is none of the three that `d_rise` names.
        CaptureError: a value is not finite.
    """
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        what = f"{len(given)} things" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
        raise ShapeError(f"{_WANTED}, got {what}")
    boxes, *rest = (_tensor(one) for one in given)
    count = len(boxes) if boxes.ndim else 0
    shapes = ", ".join(str(tuple(one.shape)) for one in (boxes, *rest))
    if not count and not any(one.numel() for one in rest):
        return _Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    if boxes.shape != (count, 4) or any(not one.ndim or len(one) != count for one in rest):
        raise ShapeError(f"{_WANTED}, got {shapes}")
    classes, *more = rest
    dims = [one.ndim for one in rest]
    if dims == [2] and classes.shape[1]:
        found = _Found(boxes, torch.ones(count), classes)
    elif dims == [2, 1] and classes.shape[1]:
        found = _Found(boxes, more[0], classes)
    elif dims == [1, 1]:
        found = _Found(boxes, classes, more[0].long())
        if not torch.equal(found.classes.float(), more[0]) or int(found.classes.min()) < 0:
            raise ShapeError("detect gave labels that are no class ids, whole numbers of at least 0")
    else:
        raise ShapeError(f"{_WANTED}, got {shapes}")
    for one in (found.boxes, found.objectness, found.classes):
        if not bool(one.isfinite().all()):
            raise CaptureError("detect gave values that are no numbers (NaN or infinity)")
    for name, one in (("score", found.objectness), ("probability", found.classes)):
        if one.is_floating_point() and not bool(((one >= 0) & (one <= 1)).all()):
            raise InputError(f"detect gave a {name} outside 0..1, {float(one.max()):.4g}: logits are none")
    return found


def _tensor(values: Any) -> Tensor:
    try:
        return torch.as_tensor(values).detach().to(_CPU, torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"{_WANTED}, got a {type(values).__name__} that is no array: {error}") from error


def _detections(found: Candidates, options: DetectOptions, classes: Sequence[int] | None) -> Detections:
    """What is there to be explained, suppressed within each class, best first."""
    if not len(found.boxes):
        return Detections(found.boxes, torch.zeros(0), *(torch.zeros(0, dtype=torch.long),) * 2)
    best, labels = found.probabilities.max(dim=1)
    scores = best if found.objectness is None else best * found.objectness
    wanted = torch.ones_like(scores, dtype=torch.bool)
    if classes is not None:
        wanted = torch.isin(labels, torch.tensor(list(classes), dtype=torch.long))
    rows = (wanted & (scores > options.conf)).nonzero().flatten()
    rows = rows[batched_nms(found.boxes[rows], scores[rows], labels[rows], options.iou or 0.0)]
    highest = float(scores[wanted].max()) if wanted.any() else 0.0
    return Detections(found.boxes[rows], scores[rows], labels[rows], rows, best_score=highest)


def _counting(found: Candidates) -> Candidates:
    return proposals(found.boxes.__getitem__, found.probabilities, found.objectness)


def _names(given: Sequence[str] | Mapping[int, str] | None, found: _Found) -> dict[int, str]:
    """Class id -> name, for every class that is known."""
    count = found.columns if found.classes.ndim == 2 else found.columns - 1
    if given is None:
        return {index: str(index) for index in range(count)}
    names = dict(given) if isinstance(given, Mapping) else dict(enumerate(given))
    nameless = [index for index in range(count) if index not in names]
    if found.classes.ndim == 1:
        nameless = sorted(set(found.classes.tolist()) - set(names))
    if nameless:
        raise InputError(f"detect knows class {nameless[0]}, and class_names has {len(names)} without it")
    return names
