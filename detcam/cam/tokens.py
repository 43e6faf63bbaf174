"""Where a layer's numbers lie in the picture: feature maps, channels last, tokens, windows of tokens.

Convolutions give (B, C, h, w), or (B, C, d, h, w) of volumes. Transformers give (B, h, w, C), tokens
(B, N, C) or (N, B, C) with class and register tokens among them, or tokens gathered in windows. Formulas see
(B, C, h, w) only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from detcam.errors import CaptureError, ShapeError

MOST_EXTRA_TOKENS = 8
"""Class, distillation and register tokens that are looked for: DINOv2 has five, and tasks add their own."""

USUAL_STRIDES = (1, 2, 4, 8, 14, 16, 32)

LARGEST_STRIDE = 32
"""Of tokens. The hundred queries of a decoder would be 10 × 10 cells in steps of 64 otherwise."""

COARSEST_FIRST_LEVEL = 8
"""Of detection heads of three or more levels: the stride that they begin with at the latest."""

Cells = tuple[int, ...]
"""Sizes of a grid, (h, w) or (d, h, w)."""


class Unfold(Protocol):
    """From what a layer gives to feature maps."""

    def __call__(self, output: Tensor) -> Tensor:
        """(B, C, h, w) or (B, C, d, h, w), a view where that is possible; differentiable."""
        ...


@dataclass(frozen=True)
class TokenGrid:
    """How a row of tokens fills a grid, where that cannot be inferred.

    Attributes:
        grid: (h, w), or (d, h, w).
        skip: tokens in front of the grid's: class and register tokens. Tokens behind it are left out, too.
        window: side of the windows that the tokens are gathered in, in cells; None for none.
        shift: cells by which the grid was rolled up and left before it was cut into windows.
    """

    grid: Cells
    skip: int = 0
    window: int | None = None
    shift: int = 0

    def __call__(self, output: Tensor) -> Tensor:
        """(B, N, C), or windows (B·k, n, C) or (B·k, n, n, C) -> (B, C, *grid).

        Raises:
            ShapeError: there are fewer tokens than cells, or windows do not make up the grid.
        """
        return self._from_tokens(output) if self.window is None else self._from_windows(output, self.window)

    def _from_tokens(self, output: Tensor) -> Tensor:
        count = math.prod(self.grid)
        if output.ndim != 3 or output.shape[1] < self.skip + count:
            raise ShapeError(
                f"a grid of {self.grid} behind {self.skip} tokens needs (B, {self.skip + count} or more, C), "
                f"got {tuple(output.shape)}"
            )
        tokens = output[:, self.skip : self.skip + count]
        return tokens.transpose(1, 2).reshape(len(tokens), -1, *self.grid)

    def _from_windows(self, output: Tensor, window: int) -> Tensor:
        rows, columns = (math.ceil(cells / window) for cells in self.grid)
        channels = output.shape[-1]
        if output.shape[0] % (rows * columns) or output.shape[1:-1].numel() != window * window:
            raise ShapeError(
                f"a grid of {self.grid} in windows of {window}×{window} needs (B·{rows * columns}, "
                f"{window * window}, C), got {tuple(output.shape)}"
            )
        windows = output.reshape(-1, rows, columns, window, window, channels)
        cells = windows.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, rows * window, columns * window)
        cells = cells.roll((self.shift, self.shift), dims=(2, 3))
        return cells[:, :, : self.grid[0], : self.grid[1]]


def feature_maps(output: Tensor) -> Tensor:
    """(B, C, h, w) and (B, C, d, h, w) as they are."""
    return output


def channels_last(output: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w); (B, d, h, w, C) -> (B, C, d, h, w)."""
    return output.movedim(-1, 1)


def sequence_first(tokens: TokenGrid, output: Tensor) -> Tensor:
    """(N, B, C) -> (B, C, *grid)."""
    return tokens(output.transpose(0, 1))


@dataclass(frozen=True)
class InputFrame:
    """What layers lie over.

    Attributes:
        batch: pictures, B.
        input_size: (H, W) of the input, or (D, H, W).
        grid: what tokens fill, to override what is inferred.
    """

    batch: int
    input_size: Cells
    grid: Cells | TokenGrid | None = None

    def layout(self, output: Tensor, name: str, shift: int = 0) -> Unfold:
        """How a layer's output lies over the input.

        A grid is one that some stride makes of the input, best without rounding. Where both readings of
        four dimensions are possible, channels come first.

        Args:
            output: the layer's.
            name: the layer's, for the error.
            shift: of the windows that the layer works in, if it does.

        Raises:
            CaptureError: nothing fits, or several grids do; the text says how to go on.
        """
        is_map = output.shape[0] == self.batch and output.ndim == len(self.input_size) + 2
        if isinstance(self.grid, TokenGrid) and not (is_map and self.grid.window is None):
            return self.grid
        if self.grid is not None and not isinstance(self.grid, TokenGrid) and not is_map:
            return _given(output, self.batch, tuple(self.grid), shift)
        if is_map:
            first, last = output.shape[2:], output.shape[1:-1]
            return channels_last if _fits_better(last, first, self.input_size) else feature_maps
        is_rows_of_a_head = output.ndim == 3 and _is_head_length(output.shape[2], self.input_size)
        found = [] if is_rows_of_a_head else list(_token_layouts(output, self.batch, self.input_size, shift))
        if len(found) == 1:
            return found[0]
        raise CaptureError(
            f"layer {name!r} gave {tuple(output.shape)} for {self.batch} pictures of "
            f"{tuple(self.input_size)} pixels: "
            f"{'several grids fit' if found else 'no grid fits'}; choose another layer, or say grid=(h, w), "
            "or TokenGrid((h, w), skip=…) where other tokens stand in front"
        )

    def layout_if_any(self, output: Tensor) -> Unfold | None:
        """The same, or None where it does not lie over the input as strides would have it."""
        try:
            layout = self.layout(output, "")
            cells = layout(output).shape[2:]
        except (CaptureError, ShapeError):
            return None
        return layout if _fits(cells, self.input_size) else None


def _given(output: Tensor, batch: int, grid: Cells, shift: int) -> Unfold:
    """The layout with this grid and as many tokens in front of it as are left over, or in windows."""
    is_first = output.shape[0] != batch and output.shape[1] == batch
    side = _side(output)
    if output.shape[0] != batch and not is_first and side is not None:
        return TokenGrid(grid, window=side, shift=shift)
    tokens = output.shape[0] if is_first else output.shape[1]
    layout = TokenGrid(grid, skip=max(tokens - math.prod(grid), 0))
    return partial(sequence_first, layout) if is_first else layout


def _token_layouts(output: Tensor, batch: int, input_size: Cells, shift: int) -> Iterator[Unfold]:
    if output.ndim == 3 and output.shape[0] == batch:
        for grid, extra in _grids(output.shape[1], input_size):
            yield TokenGrid(grid, skip=extra)
    elif output.ndim == 3 and output.shape[1] == batch:
        for grid, extra in _grids(output.shape[0], input_size):
            yield partial(sequence_first, TokenGrid(grid, skip=extra))
    elif len(input_size) == 2 and output.shape[0] % batch == 0:
        yield from _window_layouts(output, batch, input_size, shift)


def _grids(tokens: int, input_size: Cells) -> list[tuple[Cells, int]]:
    """Grids that a row of tokens may fill, with how many tokens stand in front."""
    fitting = {
        cells: extra
        for extra in range(MOST_EXTRA_TOKENS + 1)
        for cells in _grids_of(tokens - extra, input_size)
        if tokens - extra > 1  # a single token is no grid
    }
    return [(cells, fitting[cells]) for cells in _likely(fitting, input_size)]


def _window_layouts(output: Tensor, batch: int, input_size: Cells, shift: int) -> Iterator[TokenGrid]:
    """Grids that so many square windows cover, padded to whole windows if need be."""
    windows, side = output.shape[0] // batch, _side(output)
    if side is None:
        return
    fitting = [
        (height, width)
        for rows in range(1, windows + 1)
        if windows % rows == 0
        for height in _padded_to(rows * side, side)
        for width in _padded_to(windows // rows * side, side)
        if _is_grid((height, width), input_size)
    ]
    likely = _likely(fitting, input_size)
    # Networks rarely pad; where the stride is not even, that says too little.
    whole = [cells for cells in likely if _stride(cells, input_size) and not any(one % side for one in cells)]
    for cells in whole or likely:
        yield TokenGrid(cells, window=side, shift=shift)


def _padded_to(cells: int, side: int) -> range:
    return range(cells - side + 1, cells + 1)


def _side(output: Tensor) -> int | None:
    """The side of the square windows in (B·k, n, C) or (B·k, n, n, C); None where they are not square."""
    side = math.isqrt(output.shape[1]) if output.ndim == 3 else output.shape[1]
    return side if output.shape[1:-1].numel() == side * side else None


def _grids_of(count: int, input_size: Cells) -> list[Cells]:
    """All grids of so many cells. Volumes may have any depth: along time, networks take other strides."""
    *depth, height, _ = input_size
    if depth:
        return [
            (deep, *cells)
            for deep in range(1, depth[0] + 1)
            if count % deep == 0
            for cells in _grids_of(count // deep, input_size[1:])
        ]
    pairs = [(rows, count // rows) for rows in range(1, min(count, height) + 1) if count % rows == 0]
    return [cells for cells in pairs if _is_grid(cells, input_size)]


def _likely(fitting: Collection[Cells], input_size: Cells) -> list[Cells]:
    """What to believe of the grids that fit: one, or several that cannot be told apart.

    Those that a usual stride makes without rounding, if there are such. Otherwise rounding leaves too much
    open, unless there is but one grid and a usual stride makes it, or no usual one and one without rounding.
    """
    even = {cells: _stride(cells, input_size) for cells in sorted(fitting)}
    exact = [cells for cells, stride in even.items() if stride in USUAL_STRIDES]
    if exact or any(_is_usual(cells, input_size) for cells in fitting):
        return exact or list(even)
    return [cells for cells, stride in even.items() if stride]


def _stride(cells: Cells, input_size: Cells) -> int | None:
    """The stride that makes rows and columns without rounding, if one does."""
    if any(side % cell for side, cell in zip(input_size, cells, strict=True)):
        return None
    rows, columns = (side // cell for side, cell in zip(input_size[-2:], cells[-2:], strict=True))
    return rows if rows == columns <= LARGEST_STRIDE else None


def _is_usual(cells: Cells, input_size: Cells) -> bool:
    """Whether a usual stride makes rows and columns, each rounded up or down."""
    pairs = list(zip(input_size[-2:], cells[-2:], strict=True))
    return any(
        all(cell in (side // stride, math.ceil(side / stride)) for side, cell in pairs)
        for stride in USUAL_STRIDES
    )


def _fits_better(cells: Cells, others: Cells, input_size: Cells) -> bool:
    if not _fits(cells, input_size):
        return False
    is_usual = _is_usual(cells, input_size) and not _is_usual(others, input_size)
    return is_usual or not _fits(others, input_size)


def _is_grid(cells: Cells, input_size: Cells) -> bool:
    """Whether one stride of 1 or more makes the cells."""
    return _fits(cells, input_size) and all(
        cell <= side for side, cell in zip(input_size, cells, strict=True)
    )


def _fits(cells: Cells, input_size: Cells) -> bool:
    """Whether one stride makes the cells' rows and columns of the input's, up to rounding.

    Depth is left out: along time, networks take other strides.
    """
    pairs = list(zip(input_size, cells, strict=True))[-2:]
    lowest = max(side / (cell + 1) for side, cell in pairs)
    highest = min(side / (cell - 1) if cell > 1 else math.inf for side, cell in pairs)
    return lowest < highest


def _is_head_length(rows: int, input_size: Cells) -> bool:
    """Whether so many are the cells of three or more levels: detection heads give (B, values, cells).

    Those of two levels are ordinary numbers of channels, such as 16² + 8² = 320, and so are those whose
    finest level is coarser than any detector's: 4·6 + 2·3 + 1·2 = 32 of 64×96 pixels.
    """
    strides = [stride for stride in (4, 8, 16, 32, 64, 128) if stride <= min(input_size)]
    cells = [math.prod(math.ceil(side / stride) for side in input_size) for stride in strides]
    finest = [i for i, stride in enumerate(strides) if stride <= COARSEST_FIRST_LEVEL]
    sums = {sum(cells[i:j]) for i in finest for j in range(i + 3, len(cells) + 1)}
    return any(rows == anchors * one for anchors in (1, 3) for one in sums)


def flattened(maps: Tensor) -> tuple[Tensor, Cells]:
    """(B, C, d, h, w) as (B, C, d·h, w), which formulas take, and the grid's sizes; others as they are."""
    cells = tuple(maps.shape[2:])
    return maps.flatten(2, -2) if len(cells) > 2 else maps, cells
