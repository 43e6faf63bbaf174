"""The page of one picture: what its script is told, and what stands in it without a script."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from detcam.explanation import KINDS, MERGED, NOT_FOUND, RIGHT, SCALES, Verdict
from detcam.geometry import Letterbox
from detcam.images import Picture, read_picture
from detcam.metrics import energy_in_box
from detcam.render import COLORMAPS, class_colour
from detcam.report.html import data_url, render
from detcam.report.packing import pack_maps
from detcam.report.pictures import PHOTO_BYTES, PHOTO_SIDE, as_jpeg
from detcam.report.reading import FloatArray, StoredBox, StoredExplanation

_ENERGY_SIDE = 480  # pixels; energies are shares, which a finer grid does not change
_SHEET_SIDE, _SHEET_BYTES = 1024, 120_000
_OVERLAY_SIDE, _OVERLAY_BYTES = 640, 40_000
_DEFAULT_COLORMAP = "inferno"


def picture_page(
    source: str, picture: Picture, ways: Sequence[tuple[Mapping[str, Any], StoredExplanation]]
) -> bytes:
    """One self-contained HTML page, UTF-8.

    Args:
        source: what to call the picture.
        picture: the photograph.
        ways: run.json and explanation, one or more, of this very picture; the first is shown first.
    """
    maps: dict[str, FloatArray] = {}
    described = [
        _explanation(f"{number}", manifest, explanation, maps)
        for number, (manifest, explanation) in enumerate(ways)
    ]
    height, width = picture.pixels.shape[:2]
    first = ways[0][1]
    return render(
        "page.html",
        ["base.css", "page.css"],
        ["maps.js", "page.js"],
        images="data:",
        title=Path(source).name,
        source=source,
        size=f"{width} × {height}",
        photo=data_url(as_jpeg(picture.pixels, PHOTO_SIDE, PHOTO_BYTES)),
        photo_words=in_words(first),
        overlay=_overlay(first),
        warnings=[sentence for _, one in ways for sentence in one.warnings],
        sheets=[
            (path.name, data_url(_sheet(path))) for _, one in ways for path in one.sheets if path.is_file()
        ],
        runs=[_how(manifest, one) for manifest, one in ways],
        data={
            "picture": {"width": width, "height": height},
            "merged": MERGED,
            "kinds": KINDS,
            "right": RIGHT,
            "not_found": NOT_FOUND,
            "explanations": described,
            "scales": SCALES,
            "colormap": _DEFAULT_COLORMAP,
            "colormaps": {name: _base64(table.tobytes()) for name, table in COLORMAPS.items()},
            "maps": pack_maps(maps),
        },
    )


def in_words(explanation: StoredExplanation) -> str:
    """What was found in a picture, for who cannot see it: "2 boxes: bus 0.91, person 0.80"."""
    if not explanation.boxes:
        return f"nothing found, best score {explanation.best_score:.2g}"
    named = [
        f"{_wrong(explanation.verdict_of.get(number))}{box.class_name} {box.score:.2f}"
        for number, box in enumerate(explanation.boxes)
    ]
    return f"{len(named)} {'box' if len(named) == 1 else 'boxes'}: {', '.join(named)}"


def _wrong(verdict: Verdict | None) -> str:
    return "" if verdict is None or verdict.kind in RIGHT else f"{verdict.kind}: "


def _explanation(
    prefix: str, manifest: Mapping[str, Any], explanation: StoredExplanation, maps: dict[str, FloatArray]
) -> dict[str, Any]:
    """What the script is told of one explanation; its maps are added to `maps`."""
    geometry = explanation.geometry
    energies = _energies(explanation)
    boxes = []
    for number, box in enumerate(explanation.boxes):
        keys = {level: f"{prefix}/b{number:03d}/{level}" for level in box.maps}
        maps |= {keys[level]: values for level, values in box.maps.items()}
        boxes.append(_box(box, keys, energies[number], explanation.verdict_of.get(number)))
    return {
        "method": explanation.method,
        "input": {"width": geometry.input_size[1], "height": geometry.input_size[0]},
        "ratio": geometry.ratio,
        "pad": geometry.pad,
        "scale": {"kind": explanation.scale.kind, "value": explanation.scale.value},
        "levels": [
            {"name": x.level, "module": x.module, "set": x.member_of, "stride": x.stride, "grid": x.grid}
            for x in explanation.layers
        ],
        "boxes": boxes,
        "found": explanation.found,
        "best_score": explanation.best_score,
    }


def _box(
    box: StoredBox, keys: Mapping[str, str], energies: Mapping[str, float | None], verdict: Verdict | None
) -> dict[str, Any]:
    return {
        "xyxy": box.xyxy,
        "corners": box.corners,
        "class_id": box.class_id,
        "class": box.class_name,
        "score": box.score,
        "level": box.level,
        "target_value": box.target_value,
        "convergence": box.convergence,
        "colour": class_colour(box.class_id),
        "idle": box.idle,
        "shares": box.shares,
        "energy": energies,
        "maps": keys,
        "kind": verdict and verdict.kind,
        "reason": verdict and verdict.words,
        "truth": verdict and verdict.truth,
        "truth_class": verdict and verdict.truth_class,
    }


def _energies(explanation: StoredExplanation) -> list[dict[str, float | None]]:
    """For each box, level name -> share of the map's positive part in the box; None where there is none."""
    full = explanation.geometry
    factor = min(1.0, _ENERGY_SIDE / max(full.image_size))
    height, width = (max(1, round(side * factor)) for side in full.image_size)
    small = Letterbox((height, width), full.resized, full.pad, full.input_size)
    per_pixel = torch.tensor([width / full.image_size[1], height / full.image_size[0]] * 2)
    found = []
    for box in explanation.boxes:
        xyxy = torch.tensor([box.xyxy]) * per_pixel
        energies = {}
        for level, values in box.maps.items():
            share = float(energy_in_box(small.maps_to_image(torch.from_numpy(values)[None]), xyxy))
            energies[level] = share if 0 <= share <= 1 else None
        found.append(energies)
    return found


def _overlay(explanation: StoredExplanation) -> str | None:
    """For readers without scripts."""
    path = explanation.overlay
    if path is None or not path.is_file():
        return None
    return data_url(as_jpeg(read_picture(path).pixels, _OVERLAY_SIDE, _OVERLAY_BYTES))


def _sheet(path: Path) -> bytes:
    return as_jpeg(read_picture(path).pixels, _SHEET_SIDE, _SHEET_BYTES)


def _how(manifest: Mapping[str, Any], explanation: StoredExplanation) -> list[tuple[str, str]]:
    """What made the maps, for who wants to make them again."""
    model = manifest.get("model")
    model = model if isinstance(model, dict) else {}
    command, versions = manifest.get("command"), manifest.get("versions")
    facts = {
        "model": model.get("path"),
        "family": model.get("family"),
        "sha256 of the model": model.get("sha256"),
        "sha256 of the picture": explanation.sha256,
        "command": " ".join(_plain(command)) if isinstance(command, list) else None,
        "device": manifest.get("device"),
        "seed": manifest.get("seed"),
        "versions": ", ".join(map(" ".join, zip(versions, _plain(versions.values()), strict=True)))
        if isinstance(versions, dict)
        else None,
    }
    return [(name, str(value)) for name, value in facts.items() if isinstance(value, str | int | float)]


def _plain(values: Iterable[Any]) -> list[str]:
    """Texts and numbers as they are; what else a stranger put there is not looked into."""
    return [str(one) if isinstance(one, str | int | float) else "?" for one in values]


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
