#!/usr/bin/env python3
"""Draw what every method makes of one detection, a sheet for each detector with trained weights.

    python scripts/gallery.py              # all sheets, and docs/gallery.md
    python scripts/gallery.py yolox_nano   # this sheet; the page is left alone

Weights and photograph are those that DETCAM_ASSETS points at, else ../shared/assets; the shapes detectors are
bundled. A detector without trained weights has no sheet: maps of random weights mean nothing.
"""

# ruff: noqa: T201

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

import detcam
from detcam.adapters import ADAPTERS, Detector, inspect
from detcam.errors import DetcamError
from detcam.explanation import Explanation
from detcam.render import contact_sheet

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(os.environ.get("DETCAM_ASSETS", ROOT.parent / "shared" / "assets"))
SHEETS = ROOT / "docs" / "images" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"

PHOTOGRAPH = ASSETS / "coco64" / "images" / "000000007281.jpg"
CREDIT = "flickr.com/photos 5022207571 (COCO val2017 000000007281), CC BY 2.0; drawn over"
SCENE = ROOT / "weights" / "scene.png"

IMGSZ = 320  # pixels: tiles show no more, and forward passes are many
MASKS = 500  # of d-rise, a tenth of its default
TILE, COLUMNS = 236, 5  # pixels; tiles in a row
LARGEST = 150_000  # bytes of a sheet


@dataclass(frozen=True)
class Sheet:
    """A detector and the detection of it that is drawn.

    Attributes:
        name: of the file.
        title: for people.
        weights: the file.
        picture: that is looked at.
        wanted: the class whose best detection is drawn.
        cfg: Darknet's description.
        is_named: whether the file knows its classes; else they are COCO's.
    """

    name: str
    title: str
    weights: Path
    picture: Path
    wanted: str
    cfg: Path | None = field(default=None, kw_only=True)
    is_named: bool = field(default=True, kw_only=True)

    def detector(self) -> Detector:
        """The detector, loaded as a user would."""
        options: dict[str, Any] = {} if self.cfg is None else {"cfg": self.cfg}
        if not self.is_named:
            options["names"] = yaml.safe_load((ASSETS / "coco64" / "data.yaml").read_text())["names"]
        return detcam.load(self.weights, device="cpu", **options)


_BUNDLED, _REAL = ROOT / "weights", ASSETS / "weights"
ALL = (
    Sheet("shapes", "The bundled shapes detector", _BUNDLED / "shapes.pt", SCENE, "triangle"),
    Sheet(
        "shapes-shortcut",
        "The bundled detector with a shortcut",
        *(_BUNDLED / "shapes-shortcut.pt", SCENE, "green-marked"),
    ),
    Sheet("yolov8n", "YOLOv8n", _REAL / "yolov8n.pt", PHOTOGRAPH, "horse"),
    Sheet("yolo26n", "YOLO26n", _REAL / "yolo26n.pt", PHOTOGRAPH, "horse"),
    Sheet("yolov5n", "YOLOv5n, of its own repository", _REAL / "yolov5n.pt", PHOTOGRAPH, "horse"),
    Sheet("yolox_nano", "YOLOX-nano", _REAL / "yolox_nano.pth", PHOTOGRAPH, "horse", is_named=False),
    Sheet(
        "yolo-fastest",
        "Yolo-Fastest 1.1-xl, of Darknet",
        *(_REAL / "yolo-fastest-1.1-xl.weights", PHOTOGRAPH, "horse"),
        cfg=_REAL / "yolo-fastest-1.1-xl.cfg",
        is_named=False,
    ),
)


@dataclass(frozen=True)
class Drawn:
    """What became of a sheet.

    Attributes:
        found: the detection, such as "horse 0.87".
        layers: of a method that works cell by cell, of one that does not.
        left_out: method -> why it cannot be drawn.
    """

    found: str
    layers: tuple[str, str]
    left_out: dict[str, str]


def draw(sheet: Sheet) -> Drawn:
    """Write a sheet with a tile for every method that can be asked."""
    detector, tiles, left_out = sheet.detector(), [], {}
    explained: dict[str, Explanation] = {}
    for name, method in detcam.METHODS.items():
        options: dict[str, Any] = {"masks": MASKS} if method.is_sampled else {}
        try:
            explanation = detcam.explain(
                detector,
                sheet.picture,
                **{"classes": [sheet.wanted], "max_boxes": 1, "method": name, "imgsz": IMGSZ, **options},
            )
        except DetcamError as error:
            left_out[name] = str(error)
            continue
        print(f"{sheet.name}: {name}", file=sys.stderr)
        explained[name] = explanation
        tiles.append((_title(name, explanation), _tile(explanation)))
    SHEETS.mkdir(exist_ok=True)
    (SHEETS / f"{sheet.name}.jpg").write_bytes(
        _jpeg(contact_sheet(tiles, COLUMNS, TILE, numbered=False), LARGEST)
    )
    layers = [", ".join(f"{one.level} `{one.module}`" for one in explained[name].layers) for name in _SHOWN]
    return Drawn(explained[_SHOWN[0]].label(0), (layers[0], layers[1]), left_out)


_SHOWN = ("grad-cam-elementwise", "grad-cam")  # whose layers stand for those of all


def _title(name: str, explanation: Explanation) -> str:
    masks = f", {MASKS} masks" if explanation.sampling else ""
    return f"{name}{masks} · {explanation.energy_in_box[0]:.0%} in box"


def _tile(explanation: Explanation) -> np.ndarray:
    """The picture with the map and the box, without the colour bar under it."""
    height, width = explanation.geometry.image_size
    return explanation.overlay()[:height, :width]


def _jpeg(pixels: np.ndarray, largest: int) -> bytes:
    """The best quality that fits."""
    for quality in range(90, 30, -4):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, format="JPEG", quality=quality, optimize=True)
        if stream.tell() <= largest:
            break
    return stream.getvalue()


INTRODUCTION = f"""# Gallery

One detection as every [method](methods/index.md) explains it, at the method's default
[layers](layers.md). Each tile has its own scale, `energy`: brightness says nothing from one tile to the next,
and a tile of noise is as bright as any. The share of the evidence in the box stands over it; that of a drawn
box is high, too, which is why the last four, the controls, are there. What is better is not seen here but
[measured](evidence.md).

The networks see {IMGSZ} pixels; click a sheet for its full size. `d-rise` looks through {MASKS:,} masks
here, a tenth of its default, so that its maps are noisier than they need be.
`make gallery` draws everything again."""

LAYERS = (
    "Layers: {}, of which the finest is drawn, for methods that work cell by cell; {}, added up, for others."
)

WITHOUT_WEIGHTS = """## Left out

Families without trained weights at hand, as maps of random weights mean nothing: {}."""


def page(drawn: dict[str, Drawn]) -> str:
    """docs/gallery.md."""
    families = {sheet.name: inspect(sheet.weights).family for sheet in ALL}
    without = [f"[{name}](families/{name}.md)" for name in ADAPTERS if name not in families.values()]
    sections = [_section(sheet, families[sheet.name], drawn[sheet.name]) for sheet in ALL]
    reasons = _reasons(drawn)
    return "\n\n".join([INTRODUCTION, *sections, WITHOUT_WEIGHTS.format(", ".join(without)), *reasons]) + "\n"


def _reasons(drawn: dict[str, Drawn]) -> list[str]:
    """Why a method was left out, and of which sheets."""
    sheets: dict[str, list[str]] = {}
    for sheet in ALL:
        for reason in drawn[sheet.name].left_out.values():
            sheets.setdefault(reason, []).append(sheet.title)
    return [
        f"On no sheet: {reason}." if len(titles) == len(ALL) else f"Not of {', '.join(titles)}: {reason}."
        for reason, titles in sheets.items()
    ]


def _section(sheet: Sheet, family: str | None, drawn: Drawn) -> str:
    credit = f" Photograph: {CREDIT}." if sheet.picture == PHOTOGRAPH else ""
    shown = f"images/gallery/{sheet.name}.jpg"
    parts = [
        f"## {sheet.title}",
        f"[![{sheet.title}: one detection under every method]({shown})]({shown})",
        f"*`{sheet.weights.name}`, read as [{family}](families/{family}.md): {drawn.found}.{credit}*",
        LAYERS.format(*drawn.layers),
    ]
    return "\n\n".join(parts)


def main(names: list[str]) -> None:
    """Draw the sheets that are named, or all and the page."""
    if not ASSETS.is_dir():
        sys.exit(f"no real weights: {ASSETS} does not exist and DETCAM_ASSETS names no other place")
    unknown = set(names) - {sheet.name for sheet in ALL}
    if unknown:
        sys.exit(f"no sheet {', '.join(unknown)}: choose of {', '.join(sheet.name for sheet in ALL)}")
    drawn = {sheet.name: draw(sheet) for sheet in ALL if not names or sheet.name in names}
    if not names:
        PAGE.write_text(page(drawn), encoding="utf-8")
        print(PAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
