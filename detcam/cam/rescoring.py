"""Scoring many changed copies of a picture, a few at a time: as many as memory holds, never all."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from detcam.cam.replay import Replay
from detcam.errors import CaptureError, InputError, ShapeError

Progress = Callable[[Iterable[int]], Iterable[int]]
"""Wraps the iterable of batches and says how far it got, as `tqdm` or `rich.progress.track` do."""

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}

_AT_A_TIME, _AT_A_TIME_ON_THE_CPU = 32, 8
"""Changed pictures per forward pass. Measured on a CPU, a picture costs least at 4 to 8 at a time (ResNet-50
at 224 pixels, YOLOv8n at 640). At 32 it takes half as long again: layers then give more than the 32 MB that
the C library's allocator keeps, and every tensor is fetched from the system anew."""


def usual_batch_size(device: torch.device) -> int:
    """How many changed pictures to run at a time where nobody says."""
    return _AT_A_TIME_ON_THE_CPU if device.type == "cpu" else _AT_A_TIME


def in_batches(
    count: int, run: Callable[[range], Tensor], batch_size: int = 32, progress: Progress | None = None
) -> Tensor:
    """Run numbers 0 to `count` - 1 in batches, and put the results side by side.

    Where memory runs out, the batch is halved, and so are all that follow: the results are the same.

    Args:
        count: at least 1.
        run: from consecutive numbers to a tensor whose last dimension has one entry for each of them.
        batch_size: most numbers at a time.
        progress: wraps the iterable of batches.

    Returns:
        (…, count).

    Raises:
        InputError: `batch_size` is no count.
        CaptureError: memory does not suffice for a single number.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    starts: Iterable[int] = range(0, count, batch_size)
    results: list[Tensor] = []
    size = batch_size
    for start in starts if progress is None else progress(starts):
        stop = min(start + batch_size, count)
        while start < stop:
            numbers = range(start, min(start + size, stop))
            result = _run_if_it_fits(run, numbers)
            if result is None:
                size = len(numbers) // 2
            else:
                results.append(result)
                start = numbers.stop
    return torch.cat(results, dim=-1)


def masked_scores(
    pictures: tuple[Tensor, ...],
    maps: Tensor,
    score: Callable[[tuple[Tensor, ...]], Tensor],
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Scores of a picture seen through each channel of a layer: what Score-CAM weighs with.

    A channel becomes a mask: upsampled to the input's size, then scaled so that its smallest value is 0 and
    its largest 1. One that is the same everywhere lets nothing through. Only the masks and pictures of one
    batch are in memory.

    Args:
        pictures: all input tensors of one picture. Those with the maps' dimensions at their end, such as
            (1, 3, H, W), are masked, each at its own size; others are repeated if they begin with 1.
        maps: the layer's output for the picture, (C, h, w), or (C, d, h, w) of volumes.
        score: from such a tuple of k pictures to (T, k) scores of T targets.
        batch_size: most pictures at a time; None for `usual_batch_size`.
        progress: wraps the iterable of batches.

    Returns:
        (T, C), without a graph.

    Raises:
        ShapeError: there is nothing to be masked, or the scores are not (T, k).
        CaptureError: memory does not suffice for one picture, or a score is not finite.
    """
    cells = maps.ndim - 1
    if cells not in _MODES or not any(_is_masked(picture, cells) for picture in pictures):
        shapes = ", ".join(str(tuple(picture.shape)) for picture in pictures)
        raise ShapeError(f"maps {tuple(maps.shape)} mask none of the inputs {shapes}")

    def run(channels: range) -> Tensor:
        chosen = maps[channels.start : channels.stop].detach().float()
        seen = tuple(
            picture * masks(chosen, picture).to(picture)
            if _is_masked(picture, cells)
            else _repeated(picture, len(channels))
            for picture in pictures
        )
        return checked_scores(score(seen), len(channels))

    with torch.no_grad():
        batch_size = usual_batch_size(maps.device) if batch_size is None else batch_size
        return in_batches(len(maps), run, batch_size, progress)


def masks(maps: Tensor, picture: Tensor) -> Tensor:
    """Channels (k, …) as masks of a picture, 0..1: (k, 1, …, H, W) with as many dimensions as it has."""
    dims = maps.ndim - 1
    size = picture.shape[-dims:]
    grown = functional.interpolate(maps[:, None], size, mode=_MODES[dims], align_corners=False)
    lowest, highest = grown.flatten(1).aminmax(dim=1)
    lowest, height = (one.view(-1, *[1] * (dims + 1)) for one in (lowest, highest - lowest))
    scaled = (grown - lowest) / height.masked_fill(height == 0, 1)
    return scaled.view(len(maps), *[1] * (picture.ndim - 1 - dims), *size)


def ablated_scores(
    replay: Replay,
    unfold: Callable[[Tensor], Tensor] | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Scores of a picture with each channel of a layer set to zero: what Ablation-CAM weighs with.

    Only what lies behind the layer is computed.

    Args:
        replay: from `replayed`, inside its `with` block.
        unfold: from what the layer gives to its feature maps (k, C, …), differentiable; every number of the
            maps must be one of the output's. None where it gives feature maps.
        batch_size: most pictures at a time; None for `usual_batch_size`.
        progress: wraps the iterable of batches.

    Returns:
        (T, C), without a graph.

    Raises:
        CaptureError: memory does not suffice for one picture, or a score is not finite.
    """
    unfold = unfold or _as_it_is

    def run(channels: range) -> Tensor:
        output = replay.output(len(channels))
        return checked_scores(replay(output * kept(output, channels, unfold), len(channels)), len(channels))

    with torch.no_grad():
        maps = unfold(replay.output())
        batch_size = usual_batch_size(maps.device) if batch_size is None else batch_size
        return in_batches(maps.shape[1], run, batch_size, progress)


def kept(output: Tensor, channels: range, unfold: Callable[[Tensor], Tensor]) -> Tensor:
    """1 where a layer's output is kept and 0 where it is not: picture i loses channel `channels[i]`."""
    with torch.enable_grad():
        leaf = torch.zeros_like(output, memory_format=torch.contiguous_format).requires_grad_()
        maps = unfold(leaf)
    lost = torch.zeros_like(maps)
    for row, channel in enumerate(channels):
        lost[row, channel] = 1
    # The gradient of a view leads back to where its numbers came from.
    (where,) = torch.autograd.grad(maps, leaf, lost)
    return 1 - where


def is_out_of_memory(error: Exception) -> bool:
    """Whether CUDA, Apple's GPU or the CPU ran out of memory."""
    said = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in said
        or ("defaultcpuallocator" in said and "allocate memory" in said)
    )


def checked_scores(scores: Tensor, copies: int) -> Tensor:
    """Scores of `copies` changed pictures, (T, copies), without their graph.

    Raises:
        ShapeError: they have another shape.
        CaptureError: one is not finite.
    """
    if scores.ndim != 2 or scores.shape[1] != copies:
        raise ShapeError(f"scores of {copies} pictures must be (T, {copies}), got {tuple(scores.shape)}")
    if not scores.isfinite().all():
        raise CaptureError("the score of a changed picture is not finite: choose another target or layer")
    return scores.detach()


def _run_if_it_fits(run: Callable[[range], Tensor], numbers: range) -> Tensor | None:
    """The result, or None where memory runs out: by then, all that the try has held is free again.

    Raises:
        CaptureError: memory runs out for a single number.
    """
    try:
        return run(numbers)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(numbers) == 1:
            raise CaptureError(f"not enough memory for one picture at a time: {error}") from error
    return None


def _is_masked(picture: Tensor, dims: int) -> bool:
    return picture.ndim >= dims + 2 and picture.is_floating_point()


def _repeated(tensor: Tensor, copies: int) -> Tensor:
    is_one = tensor.ndim > 0 and tensor.shape[0] == 1
    return tensor.expand(copies, *tensor.shape[1:]) if is_one else tensor


def _as_it_is(output: Tensor) -> Tensor:
    return output
