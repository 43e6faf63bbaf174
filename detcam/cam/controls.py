"""Controls: maps that know nothing of the network. A method that does not beat them has shown nothing.

Boxes and cells are xyxy in cells of the layer's own grid: cell (row r, column c) covers
[c, c+1] × [r, r+1], its centre is (c + 0.5, r + 0.5). They may stick out of the grid. Of the
activations only the grid and the device are read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detcam.cam.inputs import boxes_float32, check_feature_maps, check_rows

# In cells. No cell centre is further than half a cell from a point of the grid, along x and along y:
# a Gaussian narrower than this would fall between the centres and leave an empty map.
SMALLEST_SIGMA = 0.25


def random_control(activations: Tensor, seeds: Tensor) -> Tensor:
    """Random control: independent uniform numbers, 0 <= x < 1, from the seed and the grid's shape alone.

    The same on every device and in every batch; the global random state is neither read nor moved.

    Args:
        activations: layer output, (B, C, h, w).
        seeds: one for each map, (B,) int64.

    Returns:
        Map (B, h, w), float32.

    Raises:
        ShapeError: activations not (B, C, h, w), or seeds not (B,).
    """
    check_feature_maps(activations=activations)
    check_rows(activations, (), seeds=seeds)
    maps = torch.empty((len(seeds), *activations.shape[2:]), dtype=torch.float32, device="cpu")
    for row, seed in zip(maps, seeds.tolist(), strict=True):
        row.uniform_(generator=torch.Generator("cpu").manual_seed(seed))
    return maps.to(activations.device)


def box_control(activations: Tensor, boxes: Tensor) -> Tensor:
    """Box control: the share of each cell that the box covers, 0..1.

    Args:
        activations: layer output, (B, C, h, w).
        boxes: explained boxes, (B, 4) xyxy in grid cells.

    Returns:
        Map (B, h, w), float32; the sum is the box's area inside the grid, in cells.

    Raises:
        ShapeError: activations not (B, C, h, w), or boxes not (B, 4).
        InputError: a box with x2 < x1 or y2 < y1, or a NaN.
    """
    boxes = boxes_float32(activations, boxes=boxes)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(dim=1)
    rows, columns = _cell_starts(activations)
    covered_x = (torch.minimum(x2, columns + 1) - torch.maximum(x1, columns)).clamp(min=0)
    covered_y = (torch.minimum(y2, rows + 1) - torch.maximum(y1, rows)).clamp(min=0)
    return covered_y[:, :, None] * covered_x[:, None, :]


def gaussian_in_box_control(activations: Tensor, boxes: Tensor) -> Tensor:
    """Gaussian-in-box control: a Gaussian at the box's centre, as wide and high as the box asks.

    σ_x = width / 4, σ_y = height / 4, so an edge is 2σ away; at least a quarter of a cell. 1 at the
    box's centre, evaluated at cell centres, not cut off at the box.

    Args:
        activations: layer output, (B, C, h, w).
        boxes: explained boxes, (B, 4) xyxy in grid cells.

    Returns:
        Map (B, h, w), float32, 0..1.

    Raises:
        ShapeError: activations not (B, C, h, w), or boxes not (B, 4).
        InputError: a box with x2 < x1 or y2 < y1, or a NaN.
    """
    boxes = boxes_float32(activations, boxes=boxes)
    return _gaussians(activations, _centres(boxes), _sizes(boxes) / 4)


def cell_blob_control(activations: Tensor, cells: Tensor) -> Tensor:
    """Cell-blob control: a Gaussian at the centre of the cell that decided, σ = that cell's side.

    At the head's input a prediction's gradient lives in a few cells around its own (`detcam layers` says
    how many); this is what a map owes to that alone. σ is at least a quarter of a cell of this grid.

    Args:
        activations: layer output, (B, C, h, w).
        cells: the deciding cells, (B, 4) xyxy in cells of this grid: one wide for a cell of this very
            level, wider for a cell of a coarser one.

    Returns:
        Map (B, h, w), float32, 0..1.

    Raises:
        ShapeError: activations not (B, C, h, w), or cells not (B, 4).
        InputError: a cell with x2 < x1 or y2 < y1, or a NaN.
    """
    cells = boxes_float32(activations, cells=cells)
    return _gaussians(activations, _centres(cells), _sizes(cells))


def _gaussians(activations: Tensor, centres: Tensor, sigmas: Tensor) -> Tensor:
    """Gaussians of height 1 at `centres` with `sigmas`, both (B, 2) as (x, y) -> (B, h, w)."""
    centre_x, centre_y = centres[:, :, None].unbind(dim=1)
    sigma_x, sigma_y = sigmas.clamp(min=SMALLEST_SIGMA)[:, :, None].unbind(dim=1)
    rows, columns = _cell_starts(activations)
    along_x = torch.exp(-0.5 * ((columns + 0.5 - centre_x) / sigma_x) ** 2)
    along_y = torch.exp(-0.5 * ((rows + 0.5 - centre_y) / sigma_y) ** 2)
    return along_y[:, :, None] * along_x[:, None, :]


def _cell_starts(activations: Tensor) -> tuple[Tensor, Tensor]:
    """Upper edges of the grid's rows (h,) and left edges of its columns (w,), on the same device."""
    height, width = activations.shape[2:]
    rows = torch.arange(height, dtype=torch.float32, device=activations.device)
    columns = torch.arange(width, dtype=torch.float32, device=activations.device)
    return rows, columns


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _sizes(boxes: Tensor) -> Tensor:
    return boxes[:, 2:] - boxes[:, :2]
