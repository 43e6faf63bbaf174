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
