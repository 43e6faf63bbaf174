"""What detectors with queries share: their boxes, their choice, and the cells that they stand for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detcam.adapters.base import DetectOptions
from detcam.adapters.suppression import Chosen, best_pair_score, best_score, take_each, take_pairs
from detcam.errors import CaptureError
from detcam.geometry import Letterbox
from detcam.structures import Detections, Level, Location, RawPrediction


def boxes_from_shares(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (n, 4) xyxy in pixels from centre and size (n, 4) cx, cy, w, h in shares of an (H, W) input."""
    height, width = size
    centres, sizes = boxes[:, :2], boxes[:, 2:]
    corners = torch.stack([centres - sizes / 2, centres + sizes / 2], dim=1)
    return (corners * boxes.new_tensor([width, height])).reshape(-1, 4)


@torch.no_grad()
def query_detections(raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
    """Every query under its best class."""
    return _detections(raw, take_each(raw, options), geometry, best_score(raw, options))


@torch.no_grad()
def query_class_detections(raw: RawPrediction, geometry: Letterbox, options: DetectOptions) -> Detections:
    """As many of the best pairs of a query and a class as there are queries."""
    chosen = take_pairs(raw, options, most=len(raw.class_logits))
    return _detections(raw, chosen, geometry, best_pair_score(raw, options))


def _detections(raw: RawPrediction, chosen: Chosen, geometry: Letterbox, best: float) -> Detections:
    candidates, scores, labels = chosen
    # Not clipped: as with the vendors, boxes may reach beyond the picture.
    corners = geometry.points_to_image(raw.boxes(candidates).reshape(-1, 2, 2))
    return Detections(corners.reshape(-1, 4), scores, labels, candidates, best_score=best)


def selected_cells(scores: Tensor, queries: int) -> Tensor:
    """The encoder cell that each query was made from.

    Zhao et al. 2023, RT-DETR, arXiv:2304.08069, sec. 4.3: the cells with the best class score become queries.

    Args:
        scores: (B, cells, K) class logits of the encoder.
        queries: number of queries.

    Returns:
        (B, queries) int64, best first, which is the order of the queries.
    """
    return scores.detach().amax(dim=2).topk(queries, dim=1).indices


def cell_at(levels: Sequence[Level], index: int) -> Location:
    """The cell with a running number over all levels, row by row, finest level first.

    Raises:
        IndexError: there is no such cell.
    """
    offset = index
    for level in levels:
        if 0 <= offset < level.rows:
            return Location(level, *divmod(offset, level.grid[1]))
        offset -= level.rows
    raise IndexError(f"cell {index} of {sum(level.rows for level in levels)}")


def cell_under(level: Level, point: Tensor) -> Location:
    """The cell of a level that holds a point (2,) as (x, y) in input pixels, or the nearest one."""
    column, row = (point.detach() // level.stride).long().tolist()
    height, width = level.grid
    return Location(level, min(max(row, 0), height - 1), min(max(column, 0), width - 1))


def check_queries(logits: Tensor, boxes: Tensor, classes: int) -> None:
    """Check that a head gave one row of class logits and one box for each query.

    Raises:
        CaptureError: other shapes, or values that are no numbers.
    """
    if logits.ndim != 3 or logits.shape[2] != classes or boxes.shape != (*logits.shape[:2], 4):
        raise CaptureError(
            f"the head gave logits {tuple(logits.shape)} and boxes {tuple(boxes.shape)}, "
            f"not (B, queries, {classes}) and (B, queries, 4): this kind of head is not supported"
        )
    if not (logits.isfinite().all() and boxes.isfinite().all()):
        raise CaptureError("the network's output holds NaN or infinity: check its weights")
