"""What a head of grids says cell by cell: objectness, class, and the score they make, as probabilities."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detcam.adapters.base import Detector, device_of
from detcam.cam.capture import capture
from detcam.errors import InputError, UnknownNameError
from detcam.files import make_folder, write_arrays, write_json, write_picture
from detcam.geometry import Letterbox
from detcam.images import Picture, as_picture
from detcam.render import blend, contact_sheet, scale_map, with_colour_bar
from detcam.scoring import ObjectAlone
from detcam.structures import Level, RawPrediction
from detcam.targets import class_id

MAPS_SCHEMA = "detcam.maps/1"
Kind = Literal["objectness", "class", "score"]


@dataclass(frozen=True, eq=False)
class HeadMap:
    """One quantity over the cells of every level.

    Attributes:
        kind: "objectness", "class", or "score", which is what detections are ranked by.
        class_id: whose class probability or score it is; None for objectness and for the best class of each
            cell.
        levels: level name -> (h, w) float32 in 0..1: the largest value of the cell's anchors.
    """

    kind: Kind
    class_id: int | None
    levels: Mapping[str, Tensor]

    @property
    def key(self) -> str:
        """Its name in files: "objectness", "class_5", "score_5"; "class" and "score" for the best class."""
        return self.kind if self.class_id is None else f"{self.kind}_{self.class_id}"


@dataclass(frozen=True, eq=False)
class OutputMaps:
    """What the head said of one picture.

    Attributes:
        picture: what was read.
        geometry: picture <-> network input, which every grid covers.
        class_names: class id -> name.
        levels: of the head.
        maps: objectness, if the head has it; then class and score of each class asked for.
    """

    picture: Picture
    geometry: Letterbox
    class_names: Mapping[int, str]
    levels: tuple[Level, ...]
    maps: tuple[HeadMap, ...]

    def __getitem__(self, key: str) -> HeadMap:
        """A map by its `HeadMap.key`.

        Raises:
            UnknownNameError: no such map.
        """
        for one in self.maps:
            if one.key == key:
                return one
        raise UnknownNameError("map", key, [one.key for one in self.maps])

    def merged(self, key: str) -> Tensor:
        """The largest of the levels at each pixel of the picture, (H, W) float32 in 0..1.

        Values are upsampled bilinearly, level by level; the padding's part is cut off.
        """
        on_picture = (self.geometry.maps_to_image(one[None])[0] for one in self[key].levels.values())
        merged = next(on_picture)
        for one in on_picture:
            merged = merged.maximum(one)
        return merged

    def sheet(self, key: str, colormap: str = "inferno") -> npt.NDArray[np.uint8]:
        """All levels merged, and each of them, on the picture, (H, W, 3) RGB; full colour is 1 everywhere.

        Raises:
            UnknownNameError: no such map or colour map.
        """
        tiles = [("all levels", self._panel(self.merged(key), colormap))]
        for name, values in self[key].levels.items():
            height, width = values.shape
            title = f"{name} · {height}×{width} · max {float(values.max()):.2g}"
            panel = self._panel(self.geometry.maps_to_image(values[None])[0], colormap)
            tiles.append((title, panel))
        columns = 2 if len(tiles) == 4 else None
        sheet = contact_sheet(tiles, columns, tile_side=640, numbered=False)
        return with_colour_bar(sheet, colormap, "0", "1", self._caption(self[key]))

    def save(
        self, folder: str | os.PathLike[str], stem: str | None = None, *, half: bool = False
    ) -> list[Path]:
        """Write a sheet per map (.jpg), the raw maps on their own grids (.npz) and a description (.json).

        Args:
            folder: created if need be.
            stem: how file names begin; the picture's own by default.
            half: store arrays in float16.

        Returns:
            The paths written.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder, stem = Path(folder), stem or self.picture.stem
        make_folder(folder)
        sheets = {one.key: self.sheet(one.key) for one in self.maps}
        written = [write_picture(folder / f"{stem}_map_{key}.jpg", sheet) for key, sheet in sheets.items()]
        raw = {
            f"{one.key}/{level}": values.cpu().numpy()
            for one in self.maps
            for level, values in one.levels.items()
        }
        document = {
            "schema": MAPS_SCHEMA,
            "image": {
                "path": None if self.picture.path is None else str(self.picture.path),
                "sha256": self.picture.sha256,
            },
            "geometry": asdict(self.geometry),
            "arrays": f"{stem}_maps.npz",
            "maps": [self._row(one, path.name) for one, path in zip(self.maps, written, strict=True)],
            "warnings": list(self.picture.warnings),
        }
        written.append(write_arrays(folder / f"{stem}_maps.npz", raw, half=half))
        return [*written, write_json(folder / f"{stem}_maps.json", document)]

    def _panel(self, values: Tensor, colormap: str) -> npt.NDArray[np.uint8]:
        return blend(self.picture.pixels, scale_map(values.cpu().numpy(), 0.0, 1.0), colormap)

    def _caption(self, one: HeadMap) -> str:
        of_class = "best class" if one.class_id is None else self.class_names[one.class_id]
        return f"{one.kind} · " + ("" if one.kind == "objectness" else f"{of_class} · ") + "probability"

    def _row(self, one: HeadMap, file: str) -> dict[str, Any]:
        return {
            "key": one.key,
            "kind": one.kind,
            "class_id": one.class_id,
            "class": None if one.class_id is None else self.class_names[one.class_id],
            "sheet": file,
            "levels": [
                {
                    "level": level.name,
                    "stride": level.stride,
                    "grid": list(level.grid),
                    "npz": f"{one.key}/{level.name}",
                    "max": float(one.levels[level.name].max()),
                }
                for level in self.levels
            ],
        }


def output_maps(
    detector: Detector,
    image: Any,
    *,
    classes: int | str | Sequence[int | str] | None = None,
    imgsz: int | tuple[int, int] | None = None,
) -> OutputMaps:
    """What the head says of each cell of a picture, before any suppression, as probabilities 0..1.

    A cell's value is the largest of its anchors'. A score is made of one anchor's objectness and that same
    anchor's class: where the best objectness and the best class belong to different anchors, the score is
    smaller than the two maps' product.

    Args:
        detector: from `detcam.load` or `detcam.wrap`, with a head of grids.
        image: a path, PIL picture, numpy RGB array or tensor.
        classes: class ids or names; None for the best class of each cell.
        imgsz: the input's largest side, or (H, W); None for the size the model was trained at.

    Returns:
        `OutputMaps`: objectness, class and score; the score alone for a head without objectness, and no
        class where the score is the objectness. FCOS has its centredness in objectness' place.

    Raises:
        InputError: no such class or picture, or a head of regions or queries, which has no grid.
    """
    wanted = [classes] if isinstance(classes, int | str) else classes
    names = detector.class_names
    ids = [None] if wanted is None else list(dict.fromkeys(class_id(one, names) for one in wanted))
    if not ids:
        raise InputError("no class given: name some, or leave them out for the best class of each cell")
    picture = as_picture(image)
    tensor, geometry = detector.prepare(picture.pixels, imgsz)
    with capture(detector.model, {}), torch.no_grad():
        (raw,) = detector.forward(tensor[None].to(device_of(detector.model)))
    if raw.located is not None:
        raise InputError(
            f"the head of this {detector.family} model predicts regions, queries or the whole picture, not a "
            "grid of cells: it has no output maps; use detcam explain"
        )
    return OutputMaps(picture, geometry, names, raw.levels, tuple(_maps(raw, ids)))


def _maps(raw: RawPrediction, ids: Sequence[int | None]) -> Iterator[HeadMap]:
    scores, objectness = raw.scores(), raw.objectness_logits
    if objectness is not None:
        yield HeadMap("objectness", None, _on_grids(raw, objectness.sigmoid()))
    for one in ids:
        if objectness is not None and not isinstance(raw.scoring, ObjectAlone):
            yield HeadMap("class", one, _on_grids(raw, _column(raw.class_logits.sigmoid(), one)))
        yield HeadMap("score", one, _on_grids(raw, _column(scores, one)))


def _column(values: Tensor, one: int | None) -> Tensor:
    """(N,) of (N, K): a class's, or the best one's."""
    return values.amax(dim=1) if one is None else values[:, one]


def _on_grids(raw: RawPrediction, values: Tensor) -> dict[str, Tensor]:
    """Level name -> (h, w): the largest of each cell's anchors, of one value (N,) for each candidate."""
    found = {}
    parts = torch.split(values.detach().float(), [level.rows for level in raw.levels])
    for level, part in zip(raw.levels, parts, strict=True):
        if raw.row_order == "yxa":
            found[level.name] = part.reshape(*level.grid, level.anchors).amax(dim=2)
        else:
            found[level.name] = part.reshape(level.anchors, *level.grid).amax(dim=0)
    return found
