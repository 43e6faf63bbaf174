"""From what a head's convolutions give to boxes: pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detcam.structures import Level


def cell_centres(levels: Sequence[Level], device: torch.device) -> tuple[Tensor, Tensor]:
    """Centre (N, 2) of every candidate's cell as (x, y), in cells of its level, and its stride (N, 1)."""
    centres, strides = [], []
    for level in levels:
        rows, columns = (torch.arange(side, device=device) + 0.5 for side in level.grid)
        centres.append(torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 2))
        strides.append(torch.full((level.rows, 1), float(level.stride), device=device))
    return torch.cat(centres), torch.cat(strides)


def expected_distances(logits: Tensor, bins: int) -> Tensor:
    """Distances to the four edges as expected values of four discrete distributions.

    Li et al. 2020, Generalized Focal Loss, arXiv:2006.04388, eq. 4. With one bin there is no
    distribution and the values are the distances.

    Args:
        logits: (n, 4·bins), ordered edge by edge.
        bins: values of each distribution, for distances 0 … bins - 1.

    Returns:
        (n, 4) left, top, right, bottom, in cells.
    """
    if bins == 1:
        return logits
    values = torch.arange(bins, dtype=logits.dtype, device=logits.device)
    return logits.reshape(-1, 4, bins).softmax(dim=-1) @ values


def boxes_around(centres: Tensor, distances: Tensor) -> Tensor:
    """Boxes (n, 4) xyxy that reach `distances` (n, 4) left, top, right, bottom from `centres` (n, 2)."""
    return torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], dim=1)


def rotated_boxes_around(centres: Tensor, distances: Tensor, angles: Tensor) -> Tensor:
    """Rotated boxes (n, 5) cx, cy, w, h, angle; the distances (n, 4) are measured in the box's own axes.

    Args:
        centres: (n, 2) cell centres.
        distances: (n, 4) left, top, right, bottom.
        angles: (n,) in radians.
    """
    before, behind = distances[:, :2], distances[:, 2:]
    along, across = ((behind - before) / 2).unbind(1)
    cos, sin = angles.cos(), angles.sin()
    shift = torch.stack([along * cos - across * sin, along * sin + across * cos], dim=1)
    return torch.cat([centres + shift, before + behind, angles[:, None]], dim=1)


def corners_of(boxes: Tensor) -> Tensor:
    """Corner points (n, 4, 2) as (x, y), in order around the box, of rotated boxes (n, 5)."""
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    along = torch.stack([cos, sin], dim=1) * boxes[:, 2:3] / 2
    across = torch.stack([-sin, cos], dim=1) * boxes[:, 3:4] / 2
    centre = boxes[:, :2]
    return torch.stack(
        [centre + along + across, centre + along - across, centre - along - across, centre - along + across],
        dim=1,
    )


def squared_anchor_boxes(
    offsets: Tensor, cells: Tensor, anchors: Tensor, stride: int, scale_xy: float = 2.0
) -> Tensor:
    """Boxes of YOLOv5 and v7, and of Darknet's `new_coords`: sizes are squared sigmoids.

    Centre (s·σ(t_xy) - (s - 1)/2 + cell)·stride, size (2·σ(t_wh))²·anchor (Wang et al. 2021,
    Scaled-YOLOv4, arXiv:2011.08036; YOLOv5 has s = 2).

    Args:
        offsets: (n, 4) t_x, t_y, t_w, t_h before any sigmoid.
        cells: (n, 2) column and row of each candidate's cell.
        anchors: (n, 2) width and height in pixels.
        stride: pixels per cell.
        scale_xy: s; above 1 the centre can leave its cell.

    Returns:
        (n, 4) xyxy in pixels.
    """
    centres = _anchor_centres(offsets, cells, stride, scale_xy)
    return _boxes_of_size(centres, (2 * offsets[:, 2:].sigmoid()).square() * anchors)


def exponential_anchor_boxes(
    offsets: Tensor, cells: Tensor, anchors: Tensor, stride: int, scale_xy: float = 1.0
) -> Tensor:
    """Boxes of Darknet, YOLOv2 to v4: sizes are exponentials.

    Centre as in `squared_anchor_boxes`, size exp(t_wh)·anchor (Redmon and Farhadi 2018, YOLOv3,
    arXiv:1804.02767, sec. 2.1; the scale s of the centre: Bochkovskiy et al. 2020, YOLOv4, arXiv:2004.10934).

    Args:
        offsets: (n, 4) t_x, t_y, t_w, t_h before any sigmoid.
        cells: (n, 2) column and row of each candidate's cell.
        anchors: (n, 2) width and height in pixels.
        stride: pixels per cell.
        scale_xy: s, 1 in YOLOv3; `scale_x_y` in Darknet's files.

    Returns:
        (n, 4) xyxy in pixels.
    """
    centres = _anchor_centres(offsets, cells, stride, scale_xy)
    return _boxes_of_size(centres, offsets[:, 2:].exp() * anchors)


def _anchor_centres(offsets: Tensor, cells: Tensor, stride: int, scale_xy: float) -> Tensor:
    return (offsets[:, :2].sigmoid() * scale_xy - (scale_xy - 1) / 2 + cells) * stride


def _boxes_of_size(centres: Tensor, sizes: Tensor) -> Tensor:
    return torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)
