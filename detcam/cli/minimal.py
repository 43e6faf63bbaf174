"""`detcam explain --minimal`: how little of a picture keeps or kills each detection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcam.cli.words import say

if TYPE_CHECKING:
    from detcam.evaluation import MinimalEvidence, Part
    from detcam.explainer import Explainer
    from detcam.explanation import Explanation
    from detcam.runner import Row

KEEPS, KILLS = (118, 255, 3), (255, 80, 80)
_TILE = 640  # pixels


def write_minimal(explainer: Explainer, row: Row, folder: Path) -> list[Path]:
    """Say, draw and store the minimal evidence of a picture's boxes; the paths written.

    Raises:
        DetcamError: the detector's pixels cannot be taken away, or the folder cannot be written.
    """
    from detcam.evaluation import minimal_evidence
    from detcam.files import write_json, write_picture
    from detcam.render import contact_sheet

    explanation = row.explanation
    if explanation is None or not len(explanation):
        return []
    found = minimal_evidence(explainer, explanation)
    for one in found:
        say(f"  b{one.box:03d} {explanation.label(one.box)}: {_words(one)}")
    document = {
        "schema": "detcam.minimal/1",
        "image": str(row.job.path),
        "boxes": [_record(one) for one in found],
    }
    tiles = [(f"{explanation.label(one.box)}: {_words(one)}", _drawn(explanation, one)) for one in found]
    return [
        write_picture(folder / f"{row.job.stem}_minimal.jpg", contact_sheet(tiles, tile_side=_TILE)),
        write_json(folder / f"{row.job.stem}_minimal.json", document),
    ]


def _words(one: MinimalEvidence) -> str:
    if one.keeps is None:
        keeps = "not kept by what the map puts first"
    elif not one.keeps.share:
        keeps = f"kept at {one.keeps.score:.2f} by the blurred picture alone"
    else:
        keeps = f"kept at {one.keeps.score:.2f} by {100 * one.keeps.share:.2g}% of the picture"
    kills = (
        f"down to {one.kills.score:.2f} without {100 * one.kills.share:.2g}%"
        if one.kills
        else "there still without what the map puts first"
    )
    return f"{keeps}, {kills}"


def _drawn(explanation: Explanation, one: MinimalEvidence) -> Any:
    """The picture with the box, what keeps it in green and what kills it in red."""
    from detcam.render import class_colour, draw_boxes, draw_outline

    drawn = explanation.picture.pixels
    for part, colour in ((one.keeps, KEEPS), (one.kills, KILLS)):
        if part is not None:
            drawn = draw_outline(drawn, part.mask.numpy(), colour)
    alone = explanation[one.box].detections
    label = explanation.label(one.box)
    return draw_boxes(drawn, alone.boxes.cpu().numpy(), [label], [class_colour(int(alone.labels[0]))])


def _record(one: MinimalEvidence) -> dict[str, Any]:
    return {
        "id": one.box,
        "score": one.score,
        "keeps": _part(one.keeps),
        "kills": _part(one.kills),
        "forwards": one.forwards,
    }


def _part(part: Part | None) -> dict[str, float] | None:
    return None if part is None else {"share": part.share, "score": part.score}
