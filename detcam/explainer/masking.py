"""D-RISE of a detector: its boxes explained by what it finds when parts of its input are hidden."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from detcam.cam.capture import borrowed
from detcam.cam.random_masks import RandomMasks
from detcam.cam.rescoring import usual_batch_size
from detcam.explainer.passes import asked_of
from detcam.explainer.plan import Plan, PreparedPicture
from detcam.explainer.sampling import Sampler, places, proposals, similarities
from detcam.explanation import Explanation
from detcam.metrics.matching import Candidates, Wanted
from detcam.structures import RawPrediction


def explain_by_masking(plan: Plan, one: PreparedPicture) -> Explanation:
    """The explanation of a picture's boxes, all from the same forward passes.

    Petsiuk et al. 2021, arXiv:2006.03204. What is hidden becomes black, as in the paper; the input of a black
    picture says what that is for this network, and that padding stays as it is.

    Raises:
        CaptureError: the network gave values that are no numbers, or memory does not suffice for one picture.
    """
    detector, options, geometry = plan.detector, plan.options, one.geometry
    black, _ = detector.prepare(np.zeros_like(one.picture.pixels), options.imgsz)
    rows, columns = places(geometry, geometry.input_size, one.tensor.device)
    # Some networks pad their input themselves, behind the picture.
    rows, columns = rows[: one.tensor.shape[1]], columns[: one.tensor.shape[2]]
    masks = RandomMasks(options.masks, seed=options.seed)
    with borrowed(detector.model), torch.no_grad():
        (raw,) = detector.forward(one.tensor[None])
        found, chosen, verdicts = asked_of(plan, one, raw)
        wanted = _wanted(raw, chosen.candidates, chosen.labels)

        def score(numbers: range) -> Tensor:
            seen = masks.at(numbers, rows, columns)[:, None]
            raws = detector.forward(torch.lerp(black, one.tensor, seen))
            return similarities(wanted, [_candidates(each) for each in raws])

        batch_size = options.batch_size or usual_batch_size(one.tensor.device)
        sampler = Sampler(masks, batch_size, plan.progress)
        layer, maps, sampling = sampler.maps(len(chosen), geometry, score, one.tensor.device)
        values = similarities(wanted, [_candidates(raw)])[:, 0].tolist() if wanted else []
    return Explanation(
        picture=one.picture,
        geometry=geometry,
        detections=chosen,
        found=found,
        class_names=detector.class_names,
        question=plan.question,
        layers=(layer,),
        levels={layer.level: maps},
        involved={layer.level: torch.ones(len(chosen), dtype=torch.bool)},
        deciding=tuple(raw.locate(c).level.name for c in chosen.candidates.tolist()),
        target_values=tuple(values),
        sampling=sampling,
        verdicts=verdicts,
    )


def _wanted(raw: RawPrediction, candidates: Tensor, labels: Tensor) -> list[Wanted]:
    """The explained boxes, in network-input pixels."""
    rows = zip(raw.boxes(candidates), labels.tolist(), raw.class_probabilities()[candidates], strict=True)
    return [Wanted(*row) for row in rows]


def _candidates(raw: RawPrediction) -> Candidates:
    return proposals(raw.boxes, raw.class_probabilities(), raw.objectness())
