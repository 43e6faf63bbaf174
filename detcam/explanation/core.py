"""One picture explained: raw maps, what they belong to, and how they look and are stored."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from detcam.errors import ShapeError
from detcam.explanation.exchange import to_supervision
from detcam.explanation.overlay import MERGED, Scale, Style, draw
from detcam.explanation.saving import SaveOptions, paths_of, save
from detcam.explanation.verdicts import NOT_FOUND, Verdict, of_rows
from detcam.geometry import Letterbox
from detcam.images import Picture
from detcam.metrics import energy_in_box
from detcam.structures import Detections

if TYPE_CHECKING:
    from detcam.render.paper import PaperFigure

Merge = Literal["sum", "finest"]


@dataclass(frozen=True)
class ExplainedLayer:
    """A captured layer and the receptive-field level it stands for.

    Attributes:
        level: "P3" …, or "input"; with the module's name behind it where two captured layers share a stride.
        module: dotted name; None for the network's input.
        member_of: "backbone", "neck", "head", or None for a layer chosen by name.
        stride: network-input pixels per cell.
        grid: (h, w).
    """

    level: str
    module: str | None
    member_of: str | None
    stride: float
    grid: tuple[int, int]


@dataclass(frozen=True)
class Question:
    """What was asked of the network, the same for every box of a run.

    Attributes:
        method: key of `METHODS`.
        target: as given to `target_for`.
        unit: of the target's value and so of the maps.
        path: "direct" or "total" gradients; None for a method that looks at no layer.
        merge: how the levels of a box become one map: "sum", or "finest" for the finest level's alone.
    """

    method: str
    target: str
    unit: str
    path: str | None
    merge: Merge = "sum"


@dataclass(frozen=True)
class Sampling:
    """The random masks that maps were made of, and how far that many of them settle each map.

    Attributes:
        masks: how many.
        cells: of a mask's grid, along each side of the picture.
        visible: how much of the picture is seen on average, 0..1.
        seed: of the masks.
        convergence: for each box, how far its map would agree with that of other masks, up to 1, and 0 for
            chance; nan where it cannot be told. See `agreement`.
    """

    masks: int
    cells: int
    visible: float
    seed: int
    convergence: tuple[float, ...]

    def of_boxes(self, rows: Sequence[int]) -> Sampling:
        """The same of some of the boxes."""
        return replace(self, convergence=tuple(self.convergence[row] for row in rows))


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why the detector fired, for every explained box of one picture.

    Attributes:
        picture: what was read.
        geometry: picture <-> network input.
        detections: the M explained boxes, best first, in picture pixels.
        found: how many there were before `max_boxes` cut them.
        class_names: class id -> name.
        question: method, target and gradient path.
        layers: the captured layers, finest level first.
        levels: level name -> raw float32 maps (M, h, w) on that layer's grid, in the target's unit, with
            the sign the method gives them. Row i belongs to detection i.
        involved: level name -> (M,) bool: whether the box's target depends on that layer at all.
        deciding: level that predicted each box, M names, None where it is not known.
        target_values: value of each box's target, M numbers.
        features: level name -> activations (C, h, w), if they were asked for.
        sampling: the random masks behind the maps, of a method that draws such.
        region: xyxy in picture pixels of what was asked about, if that was a place; drawn with the boxes.
        verdicts: what the boxes are, right, wrong or not found, if that was asked; also of some that are
            not explained.
    """

    picture: Picture
    geometry: Letterbox
    detections: Detections
    found: int
    class_names: Mapping[int, str]
    question: Question
    layers: tuple[ExplainedLayer, ...]
    levels: Mapping[str, Tensor]
    involved: Mapping[str, Tensor]
    deciding: tuple[str | None, ...]
    target_values: tuple[float, ...]
    features: Mapping[str, Tensor] | None = None
    sampling: Sampling | None = None
    region: tuple[float, float, float, float] | None = None
    verdicts: tuple[Verdict, ...] = ()

    def __post_init__(self) -> None:
        for layer in self.layers:
            expected = (len(self.detections), *layer.grid)
            if self.levels[layer.level].shape != expected:
                raise ShapeError(
                    f"maps of {layer.level} must be {expected}, got {tuple(self.levels[layer.level].shape)}"
                )

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, box: int) -> Explanation:
        """The explanation of one box alone."""
        if not -len(self) <= box < len(self):
            raise IndexError(f"box {box} of {len(self)} explained boxes")
        return self._rows([box % len(self)])

    def of_class(self, class_id: int) -> Explanation:
        """The explanation of the boxes of one class."""
        return self._rows((self.detections.labels == class_id).nonzero().flatten().tolist())

    def detected(self) -> Explanation:
        """The explanation of what the detector gave: without objects missed and near misses."""
        verdict_of = self.verdict_of
        return self._rows(
            [
                row
                for row in range(len(self))
                if row not in verdict_of or verdict_of[row].kind not in NOT_FOUND
            ]
        )

    def label(self, box: int) -> str:
        """Class name and score of one box, such as "bus 0.90"."""
        name = self.class_names[int(self.detections.labels[box])]
        return f"{name} {float(self.detections.scores[box]):.2f}"

    @property
    def finest(self) -> ExplainedLayer:
        """The layer with the most cells."""
        return max(self.layers, key=lambda layer: layer.grid[0] * layer.grid[1])

    @cached_property
    def verdict_of(self) -> Mapping[int, Verdict]:
        """Box -> what it is, if that was asked."""
        return {one.row: one for one in self.verdicts if one.row is not None}

    @cached_property
    def merged(self) -> Tensor:
        """One map of each box on the finest grid, (M, h, w), raw, as `Question.merge` says.

        The sum of the levels, coarser ones interpolated; or the finest level's map alone, where all evidence
        passes through that layer and any other level would count it again.
        """
        if self.question.merge == "finest":
            return self.levels[self.finest.level]
        grid = self.finest.grid
        total = torch.zeros(len(self), *grid)
        for maps in self.levels.values():
            total = total.to(maps.device)
            if len(self):
                total += F.interpolate(maps[None], size=grid, mode="bilinear", align_corners=False)[0]
        return total

    @property
    def heatmap(self) -> Tensor:
        """(H, W) on the picture: at each pixel the strongest of the boxes' merged maps, raw.

        The strongest rather than the sum: boxes that share their evidence would count it again and again.
        All zero when nothing was detected.
        """
        if not len(self):
            return torch.zeros(self.geometry.image_size)
        heatmap = self.geometry.maps_to_image(self.merged[:1])[0]
        for box in range(1, len(self)):  # one at a time: all at once would fill the memory on large pictures
            heatmap = heatmap.maximum(self.geometry.maps_to_image(self.merged[box : box + 1])[0])
        return heatmap

    @cached_property
    def shares(self) -> dict[str, list[float]]:
        """Level name -> each box's share of its total evidence, |map| summed over the area it covers.

        0..1, M numbers; nan where a box's maps are zero throughout, and where each level holds the whole
        evidence (merge "finest"), of which it is no part.
        """
        if self.question.merge == "finest":
            return {level: [math.nan] * len(self) for level in self.levels}
        areas = {
            x.level: self.geometry.input_size[0] * self.geometry.input_size[1] / np.prod(x.grid)
            for x in self.layers
        }
        energy = {
            level: maps.abs().sum(dim=(1, 2)).cpu() * areas[level] for level, maps in self.levels.items()
        }
        total = torch.stack(list(energy.values())).sum(dim=0)
        return {level: (value / total).tolist() for level, value in energy.items()}

    @cached_property
    def energy_in_box(self) -> list[float]:
        """The share of each box's merged map that lies in the box, 0..1; nan where the map is empty.

        What a map that says nothing gets is the box's share of the picture.
        """
        grid = self.merged.shape[1], self.merged.shape[2]
        corners = self.geometry.boxes_to_input(self.detections.boxes)
        boxes = self.geometry.boxes_to_grid(corners, grid).to(self.merged.device)
        found: list[float] = energy_in_box(self.merged, boxes).tolist()
        return found

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader of the maps should know, a sentence each."""
        sentences = list(self.picture.warnings)
        if self.found > len(self):
            which = "detections and misses, the first" if self.verdicts else "detections, the best"
            sentences.append(f"{self.found} {which} {len(self)} explained: raise max_boxes for more")
        for one in self.verdicts:
            if one.candidate is None:
                sentences.append(f"missed: {one.truth_class}: {one.words}")
        for box in range(len(self)):
            idle = [level for level, involved in self.involved.items() if not involved[box]]
            if idle:
                sentences.append(
                    f"box {box} ({self.label(box)}): {', '.join(idle)} takes no part in this target"
                )
            if not any(bool(maps[box].any()) for maps in self.levels.values()):
                sentences.append(f"box {box} ({self.label(box)}): the map is empty, all evidence is negative")
        return sentences

    def overlay(
        self, *, level: str = MERGED, scale: str = "energy", colormap: str = "inferno", opacity: float = 0.85
    ) -> npt.NDArray[np.uint8]:
        """The picture with maps, boxes and colour bar, RGB; the picture itself fills the top left (H, W).

        Args:
            level: a key of `levels`, or "merged" for all of them in one.
            scale: what is drawn in full colour: "energy" what the strongest tenth of each box's evidence
                reaches, "box" each box's own maximum, "image" one maximum for all, "level" each box's
                maximum at that level, "fixed:VALUE" a value in the target's unit.
            colormap: key of `detcam.render.COLORMAPS`.
            opacity: of the strongest evidence, 0..1.

        Raises:
            UnknownNameError: no such level, scale or colour map.
        """
        return draw(self, Style(Scale.parse(scale), colormap, opacity), level)

    def figure(
        self,
        *,
        boxes: Sequence[int] | None = None,
        classes: Sequence[int | str] | None = None,
        levels: Sequence[str] | None = None,
        width: str = "page",
        scale: str = "energy",
        colormap: str = "inferno",
    ) -> PaperFigure:
        """A figure for a paper: the photograph with boxes and a panel for each level, over one colour bar.

        Args:
            boxes: those that get a row each.
            classes: ids or names of classes that get a row each, of all their boxes; with neither, one row
                shows everything.
            levels: keys of `levels`, or "merged"; None for all.
            width: "column", 3.25 inches, or "page", 6.875.
            scale: as in `overlay`, but "image" is one maximum for all panels.
            colormap: as in `overlay`.

        Returns:
            A `matplotlib.figure.Figure` that notebooks show; `savefig` embeds fonts as TrueType.

        Raises:
            InputError: no such box, class, level, width, scale or colour map, or too many panels to be read.
        """
        from detcam.explanation.paper import chosen_rows, draw_figure  # here, since matplotlib takes 0.2 s

        style = Style(Scale.parse(scale), colormap)
        return draw_figure(chosen_rows(self, boxes, classes), style, levels=levels, width=width)

    def save(
        self,
        folder: str | os.PathLike[str],
        stem: str | None = None,
        *,
        extras: Sequence[str] = (),
        scale: str = "energy",
        colormap: str = "inferno",
        half: bool = False,
    ) -> list[Path]:
        """Write overlay, raw arrays and sidecar, and what `extras` names; each file is whole or not there.

        Args:
            folder: created if need be.
            stem: how file names begin; the picture's own by default.
            extras: any of "levels", "boxes", "maps", "features", "figure".
            scale: as in `overlay`.
            colormap: as in `overlay`.
            half: store arrays in float16.

        Returns:
            The paths written, the sidecar last.

        Raises:
            OutputError: the folder cannot be written.
            UnknownNameError: no such extra, scale or colour map.
        """
        options = SaveOptions(Style(Scale.parse(scale), colormap), tuple(extras), half)
        return paths_of(save(self, Path(folder), stem or self.picture.stem, options))

    def to_detections(self) -> Any:
        """What was detected as `supervision.Detections`: xyxy in picture pixels, confidence and class_id.

        `data` has for each box, beside supervision's "class_name": "level", that predicted it, or None;
        "heatmap", (M, h, w), its merged map, raw, on a grid over the network's input; "heatmap_top", the
        value that the scale "energy" draws in full colour; "target_value"; "energy_in_box". `metadata` has
        the "geometry" that brings maps onto the picture, as `detcam.integrations.supervision` does.

        Raises:
            MissingPackageError: supervision is not installed.
        """
        return to_supervision(self.detected() if self.verdicts else self)

    def _repr_png_(self) -> bytes:
        """The overlay, for notebooks."""
        png = io.BytesIO()
        Image.fromarray(self.overlay()).save(png, format="PNG")
        return png.getvalue()

    def _rows(self, rows: list[int]) -> Explanation:
        return replace(
            self,
            detections=self.detections[rows],
            found=len(rows),
            levels={level: maps[rows] for level, maps in self.levels.items()},
            involved={level: flags[rows] for level, flags in self.involved.items()},
            deciding=tuple(self.deciding[row] for row in rows),
            target_values=tuple(self.target_values[row] for row in rows),
            sampling=self.sampling and self.sampling.of_boxes(rows),
            verdicts=of_rows(self.verdicts, rows),
        )
