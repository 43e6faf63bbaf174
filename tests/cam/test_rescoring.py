"""Masks and scores worked out by hand, against one-by-one loops, whatever the batch and the memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcam.cam.rescoring import in_batches, is_out_of_memory, masked_scores, masks, usual_batch_size
from detcam.errors import CaptureError, InputError, ShapeError

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.50 GB, max allowed: 20.40 GB)."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
]


def squares(numbers: range) -> Tensor:
    return torch.tensor([[n * n for n in numbers], [-n for n in numbers]])


# --- In batches ---


@pytest.mark.parametrize("batch_size", [1, 2, 3, 10, 11, 1000])
def test_any_batch_gives_the_same_numbers_in_order(batch_size):
    asked: list[range] = []
    found = in_batches(10, lambda numbers: asked.append(numbers) or squares(numbers), batch_size)
    assert torch.equal(found, squares(range(10)))
    assert max(map(len, asked)) == min(batch_size, 10)
    assert [n for numbers in asked for n in numbers] == list(range(10))


@pytest.mark.parametrize("error", NO_MEMORY, ids=["cuda", "mps", "cpu"])
@pytest.mark.parametrize("fits", [1, 2, 3, 7])
def test_where_memory_runs_out_the_batch_is_halved_until_it_fits_and_stays_so(error, fits):
    asked = []

    def run(numbers: range) -> Tensor:
        asked.append(len(numbers))
        if len(numbers) > fits:
            raise error
        return squares(numbers)

    assert torch.equal(in_batches(20, run, batch_size=8), squares(range(20)))
    failed = [size for size in asked if size > fits]
    assert failed == [size for size in (8, 4, 2) if size > fits]  # once each, never tried again


def test_a_single_number_that_does_not_fit_is_an_error_in_a_sentence():
    def run(numbers: range) -> Tensor:
        raise NO_MEMORY[0]

    with pytest.raises(CaptureError, match="not enough memory for one picture at a time: CUDA") as info:
        in_batches(4, run)
    assert info.value.__cause__ is NO_MEMORY[0]


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no")]
)
def test_other_errors_are_not_tried_again(error):
    asked = []

    def run(numbers: range) -> Tensor:
        asked.append(numbers)
        raise error

    with pytest.raises(type(error), match=str(error)):
        in_batches(4, run, batch_size=4)
    assert len(asked) == 1


def test_what_a_failed_try_held_is_free_before_the_next_one():
    class Held:
        alive = 0

        def __init__(self):
            Held.alive += 1

        def __del__(self):
            Held.alive -= 1

    seen = []

    def run(numbers: range) -> Tensor:
        seen.append(Held.alive)
        held = Held()
        if len(numbers) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert held
        return squares(numbers)

    in_batches(4, run, batch_size=4)
    assert set(seen) == {0}


def test_progress_wraps_the_batches_and_knows_how_many_there_are():
    told = []

    def progress(batches):
        told.append(len(batches))
        for one in batches:
            yield one
            told.append(one)

    assert torch.equal(in_batches(10, squares, 4, progress), squares(range(10)))
    assert told == [3, 0, 4, 8]


def test_a_batch_of_none_is_refused():
    with pytest.raises(InputError, match=r"batch_size must be .* at least 1, got 0"):
        in_batches(3, squares, 0)


@pytest.mark.parametrize("error", NO_MEMORY)
def test_running_out_of_memory_is_known_by_its_text(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("cannot allocate a view"))


# --- Masks ---


def test_a_mask_is_upsampled_first_and_then_scaled_to_0_and_1(assert_close):
    # [2, 6] on four pixels, bilinear without aligned corners: [2, 3, 5, 6]; less 2, by 4.
    assert_close(masks(torch.tensor([[[2.0, 6.0]]]), torch.ones(1, 3, 1, 4)), [[[[0, 0.25, 0.75, 1]]]])


def test_each_channel_is_scaled_by_itself_and_one_without_contrast_lets_nothing_through(assert_close):
    maps = torch.tensor([[[0.0, -4.0]], [[100.0, 300.0]], [[7.0, 7.0]]])
    assert_close(masks(maps, torch.ones(1, 1, 1, 2))[:, 0, 0], [[1, 0], [0, 1], [0, 0]])


def test_masked_scores_worked_out_by_hand(assert_close):
    # Picture [3, 5]; masks [0, 1], [1, 0], [0, 0]. Targets: the sum, and 10 times the first pixel.
    maps = torch.tensor([[[0.0, 4.0]], [[6.0, 2.0]], [[1.0, 1.0]]])
    picture = torch.tensor([[[[3.0, 5.0]]]])
    found = masked_scores(
        (picture,), maps, lambda seen: torch.stack([seen[0].sum(dim=(1, 2, 3)), 10 * seen[0][:, 0, 0, 0]])
    )
    assert_close(found, [[5, 3, 0], [0, 30, 0]])


class Fusing(nn.Module):
    """Two pictures of different sizes, and a vector that belongs to them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.colour, self.heat = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3)
        self.end = nn.Linear(4, 5)

    def forward(self, colour, heat, weights):
        together = self.colour(colour).relu().mean((2, 3)) * weights + self.heat(heat).relu().mean((2, 3))
        return self.end(together)


def fusing():
    torch.manual_seed(1)
    pictures = (torch.randn(1, 3, 9, 11), torch.randn(1, 1, 14, 6), torch.randn(1, 4))
    return Fusing(), pictures, torch.randn(7, 3, 4)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 32])
def test_masked_scores_are_those_of_one_masked_picture_after_the_other(batch_size, assert_close):
    model, (colour, heat, weights), maps = fusing()
    sizes = []

    def score(seen):
        sizes.append({len(one) for one in seen})
        return model(*seen).T[:2]

    found = masked_scores((colour, heat, weights), maps, score, batch_size)
    assert all(size == {min(batch_size, 7)} for size in sizes[:1])
    assert max(max(size) for size in sizes) <= batch_size
    for channel in range(7):
        seen = []
        for picture in (colour, heat):
            mask = F.interpolate(maps[None, channel : channel + 1], picture.shape[2:], mode="bilinear")
            seen.append(picture * (mask - mask.min()) / (mask.max() - mask.min()))
        assert_close(found[:, channel], model(*seen, weights)[0, :2].detach())
    assert not found.requires_grad


def test_on_the_cpu_eight_pictures_are_masked_at_a_time_unless_told_otherwise(assert_close):
    picture, maps = torch.rand(1, 3, 6, 6), torch.rand(20, 3, 3)
    sizes = []

    def score(seen):
        sizes.append(len(seen[0]))
        return seen[0].square().sum(dim=(1, 2, 3))[None]

    found = masked_scores((picture,), maps, score)
    assert sizes == [8, 8, 4]
    assert_close(found, masked_scores((picture,), maps, score, batch_size=20))


def test_elsewhere_more_are_run_at_a_time():
    assert [usual_batch_size(torch.device(one)) for one in ("cpu", "cuda", "mps")] == [8, 32, 32]


def test_no_graph_is_built(assert_close):
    model, pictures, maps = fusing()
    modes = []
    masked_scores(pictures, maps, lambda seen: modes.append(torch.is_grad_enabled()) or model(*seen).T)
    assert modes == [False]


def test_volumes_are_masked_trilinearly(assert_close):
    torch.manual_seed(2)
    volume, maps = torch.randn(1, 2, 4, 6, 5), torch.randn(3, 2, 3, 2)
    weights = torch.randn(2, 4, 6, 5)
    found = masked_scores((volume,), maps, lambda seen: (seen[0] * weights).sum(dim=(1, 2, 3, 4))[None], 2)
    for channel in range(3):
        mask = F.interpolate(maps[None, channel : channel + 1], (4, 6, 5), mode="trilinear")
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        assert_close(found[0, channel], (volume * mask * weights).sum())


def test_frames_of_a_clip_are_masked_alike(assert_close):
    clip, maps = torch.rand(1, 4, 3, 2, 2) + 1, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    found = masked_scores((clip,), maps, lambda seen: seen[0].sum(dim=(1, 2, 3, 4))[None])
    assert_close(found, (clip * maps).sum().reshape(1, 1))


def test_what_does_not_belong_to_a_picture_stays_as_it_is():
    kept = (torch.zeros(5, 7), torch.tensor(3), torch.zeros(1, 4, dtype=torch.int64))
    seen = []

    def score(given):
        seen[:] = given
        return given[0].sum(dim=(1, 2, 3))[None]

    masked_scores((torch.ones(1, 1, 2, 2), *kept), torch.rand(3, 2, 2), score)
    assert [tuple(one.shape) for one in seen] == [(3, 1, 2, 2), (5, 7), (), (3, 4)]


def test_inputs_that_no_map_can_mask_are_refused_with_their_shapes():
    with pytest.raises(ShapeError, match=r"\(2, 3, 3\) mask none of the inputs \(1, 5\), \(1, 7, 7\)"):
        masked_scores((torch.zeros(1, 5), torch.zeros(1, 7, 7)), torch.zeros(2, 3, 3), lambda seen: seen[0])


def test_scores_of_another_shape_are_refused():
    with pytest.raises(ShapeError, match=r"scores of 2 pictures must be \(T, 2\), got \(2, 1\)"):
        masked_scores((torch.ones(1, 1, 2, 2),), torch.rand(2, 2, 2), lambda seen: seen[0].sum((2, 3)))


def test_a_score_that_is_not_finite_is_an_error():
    with pytest.raises(CaptureError, match="not finite"):
        masked_scores(
            (torch.ones(1, 1, 2, 2),),
            torch.rand(2, 2, 2),
            lambda seen: seen[0].sum((1, 2, 3))[None].log() * 1e39,
        )
