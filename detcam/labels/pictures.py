"""What is known about labelled pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch
from torch import Tensor

from detcam.errors import ShapeError
from detcam.labels.masks import Mask, Polygon, RunLengths, fill, resized


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """One picture and the N objects that somebody marked in it.

    Attributes:
        path: of the picture; it has not been decoded.
        size: (H, W) of the picture as `images.read_picture` gives it, its EXIF orientation applied.
        boxes: (N, 4) float32 xyxy in pixels of that picture, within it.
        labels: (N,) int64, the set's class ids.
        is_crowd: (N,) bool: the box holds many objects, marked together.
        polygons: of each object, the outlines of its parts in pixels; None where it has no outline.
        run_lengths: of each object, its mask where the set holds one instead of an outline.
    """

    path: Path
    size: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    is_crowd: Tensor
    polygons: tuple[tuple[Polygon, ...] | None, ...]
    run_lengths: tuple[RunLengths | None, ...]

    def __post_init__(self) -> None:
        count = len(self.labels)
        shapes = [tuple(one.shape) for one in (self.boxes, self.labels, self.is_crowd)]
        if shapes != [(count, 4), (count,), (count,)]:
            raise ShapeError(f"boxes, labels and is_crowd must be (N, 4), (N,) and (N,), got {shapes}")
        if not len(self.polygons) == len(self.run_lengths) == count:
            raise ShapeError(
                f"{count} labels, but {len(self.polygons)} polygons and {len(self.run_lengths)} run lengths"
            )

    @property
    def has_mask(self) -> Tensor:
        """(N,) bool: whether more than its box is known about an object."""
        known = [
            polygons is not None or runs is not None
            for polygons, runs in zip(self.polygons, self.run_lengths, strict=True)
        ]
        return torch.tensor(known, dtype=torch.bool)

    def masks(self, size: tuple[int, int] | None = None) -> Tensor:
        """Pixels whose centre lies on each object, (N, H, W) bool; empty where `has_mask` is False.

        Args:
            size: (H, W) of the picture scaled, by default its own.
        """
        size = self.size if size is None else size
        rows = [self._mask(row, size) for row in range(len(self.labels))]
        return torch.from_numpy(np.stack(rows)) if rows else torch.zeros((0, *size), dtype=torch.bool)

    def _mask(self, row: int, size: tuple[int, int]) -> Mask:
        runs, polygons = self.run_lengths[row], self.polygons[row]
        if runs is not None:
            return resized(runs.mask(), size)
        scale = np.array([size[1] / self.size[1], size[0] / self.size[0]])
        return fill([polygon * scale for polygon in polygons or ()], size)


class LabelledPictures(Sequence[LabelledPicture]):
    """Pictures whose labels are read each time one is asked for; a slice reads none.

    Asking for one raises what is wrong with it (`InputError`: file, line, what was got), and says nothing
    about the others. Iterating stops there; who wants the others asks by index.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[int], LabelledPicture]) -> None:
        self._paths, self._read, self._rows = paths, read, range(len(paths))

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the pictures are, for which nothing is read."""
        return tuple(self._paths[row] for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> LabelledPicture: ...
    @overload
    def __getitem__(self, index: slice) -> LabelledPictures: ...
    def __getitem__(self, index: int | slice) -> LabelledPicture | LabelledPictures:
        if isinstance(index, slice):
            part = LabelledPictures(self._paths, self._read)
            part._rows = self._rows[index]
            return part
        return self._read(self._rows[index])

    def __iter__(self) -> Iterator[LabelledPicture]:
        return (self._read(row) for row in self._rows)


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A data set with labels.

    Attributes:
        class_names: of each class id.
        source: the file or folder it was read from.
        kind: how it was written.
        pictures: in the order of the set; read as they are asked for.
    """

    class_names: dict[int, str]
    source: Path
    kind: Literal["yolo", "coco"]
    pictures: LabelledPictures
