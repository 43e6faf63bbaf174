"""Every target's value worked out by hand, its gradient, and what it says where it does not fit."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from detcam.cam.targets import (
    BinaryScore,
    ClassProbability,
    ClassScore,
    Contrast,
    CosineSimilarity,
    MaskedClass,
    MaskScore,
    ReST,
    TopClass,
    Value,
    check_scalar,
    mirrored,
    picture_of,
    settled,
    targets_for,
)
from detcam.errors import InputError, ShapeError

SCORES = torch.tensor([0.0, math.log(2), math.log(5)])  # softmax 1/8, 2/8, 5/8
DENSE = torch.tensor([[[1.0, 2, 3], [4, 5, 6]], [[6.0, 1, 4], [1, 9, 2]]])  # (2, 2, 3)
MASK = [[0, 1, 0], [0, 0, 0.5]]
EMBEDDING = torch.tensor([3.0, 4.0])

# target, one picture's output, value, gradient of the value by the output
PENCIL = {
    "class score": (ClassScore(1), SCORES, math.log(2), [0, 1, 0]),
    "top class": (TopClass(), SCORES, math.log(5), [0, 0, 1]),
    # p = 1/4: dp/ds_1 = p (1 - p), dp/ds_j = -p p_j
    "class probability": (ClassProbability(1), SCORES, 0.25, [-1 / 32, 3 / 16, -5 / 32]),
    # s_1 + ln p_1: (0, 1, 0) + (0, 1, 0) - p
    "ReST": (ReST(1), SCORES, math.log(2) + math.log(0.25), [-1 / 8, 7 / 4, -5 / 8]),
    "binary": (BinaryScore(), torch.tensor([0.7]), 0.7, [1]),
    "the other side of a binary": (BinaryScore(positive=False), torch.tensor([[0.7]]), -0.7, [[-1]]),
    "a single number": (Value(), torch.tensor([2.5]), 2.5, [1]),
    "what lowers a number": (Value((1, 2), sign=-1), DENSE[0], -6, [[0, 0, 0], [0, 0, -1]]),
    # 2 + 0.5 · 6
    "class over a mask": (MaskedClass(0, MASK), DENSE, 5, [MASK, [[0] * 3] * 2]),
    # class 1 is the highest in cells (0, 0), (0, 2), (1, 1): 6 + 4 + 9
    "class where it is highest": (MaskedClass(1), DENSE, 19, [[[0] * 3] * 2, [[1, 0, 1], [0, 1, 0]]]),
    "map over a mask": (MaskScore(MASK), DENSE[0], 5, MASK),
    "one-channel map over all": (MaskScore(), DENSE[:1], 21, [[[1] * 3] * 2]),
    # (3, 4)·(1, 0) / 5; gradient (u - cos · v/|v|) / |v| = ((1, 0) - .6 (.6, .8)) / 5
    "cosine": (CosineSimilarity([1.0, 0.0]), EMBEDDING, 0.6, [0.128, -0.096]),
    # .6 - (.8 - .6) / 2; gradients of the others: ((0, 1) - .8 (.6, .8)) / 5 and minus the first
    "contrast": (
        Contrast([1.0, 0.0], [[0.0, 2.0], [-3.0, 0.0]]), EMBEDDING, 0.5,
        [0.128 - (-0.096 - 0.128) / 2, -0.096 - (0.072 + 0.096) / 2],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PENCIL)
def test_a_target_has_the_value_and_the_gradient_worked_out_by_hand(case, assert_close):
    target, output, value, gradient = PENCIL[case]
    output = output.clone().requires_grad_()
    score = check_scalar(target(output))
    assert_close(score.detach(), float(value))
    (found,) = torch.autograd.grad(score, output)
    assert_close(found, gradient)
    assert found.any()


@pytest.mark.parametrize("case", PENCIL)
@pytest.mark.parametrize("wrap", [lambda x: ("out", {"aux": None, "out": x}), lambda x: (1, (None, x))])
def test_a_target_reads_a_part_of_the_output(case, wrap, assert_close):
    target, output, value, _ = PENCIL[case]
    key, nested = wrap(output)
    fields = {name: getattr(target, name) for name in vars(target) if name != "output"}
    assert_close(type(target)(**fields, output=key)(nested).detach(), float(value))


@pytest.mark.parametrize("kind", [TopClass, BinaryScore, MaskScore, Value])
def test_an_output_of_several_parts_lists_them(kind):
    output = {"out": SCORES, "aux": SCORES}
    with pytest.raises(InputError, match=r"no tensor: name its part with output=…; it has 'out', 'aux'"):
        kind()(output)
    with pytest.raises(InputError, match=r"no part 'logits': it has 'out', 'aux'"):
        kind(output="logits")(output)
    with pytest.raises(InputError, match=r"no part 2: it has the parts 0 to 1"):
        kind(output=2)((SCORES, SCORES))
    with pytest.raises(InputError, match=r"no part 'x': it has the parts 0 to 0"):
        kind(output="x")([SCORES])
    with pytest.raises(InputError, match="it is a NoneType"):
        kind()(None)


def test_a_part_may_not_be_named_of_a_tensor_by_a_word():
    with pytest.raises(InputError, match="no part 'out': it is a Tensor"):
        ClassScore(0, output="out")(SCORES)


@pytest.mark.parametrize("class_id", [3, -1])
@pytest.mark.parametrize("kind", [ClassScore, ClassProbability, ReST])
def test_a_class_that_does_not_exist_says_which_do(kind, class_id):
    with pytest.raises(InputError, match=rf"no class {class_id}: the output has 3, 0 to 2"):
        kind(class_id)(SCORES)


def test_a_class_of_a_dense_output_that_does_not_exist_says_which_do():
    with pytest.raises(InputError, match="no class 2: the output has 2, 0 to 1"):
        MaskedClass(2, MASK)(DENSE)


@pytest.mark.parametrize("kind", [ClassScore, ClassProbability, ReST])
def test_a_classifiers_target_does_not_take_a_dense_output(kind):
    with pytest.raises(ShapeError, match=r"\(K,\) scores for a picture, got \(2, 2, 3\)"):
        kind(0)(DENSE)


@pytest.mark.parametrize(
    ("target", "output"), [(MaskedClass(0, torch.ones(3, 2)), DENSE), (MaskScore([1.0]), DENSE[0])]
)
def test_a_mask_must_have_the_outputs_size_and_never_broadcasts(target, output):
    with pytest.raises(ShapeError, match=r"mask must be \(2, 3\) as the output, got \("):
        target(output)


def test_a_map_of_several_channels_is_no_map_of_one():
    with pytest.raises(ShapeError, match=r"\(H, W\) or \(1, H, W\), got \(2, 2, 3\)"):
        MaskScore()(DENSE)


def test_embeddings_of_other_lengths_do_not_broadcast():
    with pytest.raises(ShapeError, match=r"\(E,\), got \(2,\) and \(1,\)"):
        CosineSimilarity([1.0])(EMBEDDING)
    with pytest.raises(ShapeError, match=r"got \(2, 2\) and \(2, 2\)"):
        CosineSimilarity(torch.eye(2))(torch.eye(2))


def test_a_contrast_to_nothing_is_an_error():
    with pytest.raises(InputError, match="at least one negative"):
        Contrast([1.0, 0.0], [])(EMBEDDING)


@pytest.mark.parametrize("target", [BinaryScore(), Value()])
def test_several_numbers_are_not_one(target):
    with pytest.raises(ShapeError, match=r"is \(3,\), not one number"):
        target(SCORES)


@pytest.mark.parametrize(
    ("score", "said"),
    [(torch.zeros(3), r"shape \(3,\)"), (torch.zeros(1, 1), r"shape \(1, 1\)"), (1.5, "a float")],
)
def test_a_target_that_is_no_single_number_shows_what_it_is(score, said):
    with pytest.raises(ShapeError, match=f"0-dim tensor, got {said}: index, sum or average it"):
        check_scalar(score)


# --- places in the mirrored picture ----------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda mask: MaskedClass(0, mask), MaskScore])
@pytest.mark.parametrize("mask", [MASK, torch.tensor(MASK), torch.tensor(MASK).numpy()])
def test_a_mask_is_mirrored_along_with_the_picture(make, mask, assert_close):
    """In the mirrored output the target has the same value; unmirrored it would have another."""
    output = DENSE if make is not MaskScore else DENSE[0]
    assert_close(mirrored(make(mask))(output.flip(-1)), 5.0)
    assert make(mask)(output.flip(-1)) != 5
    assert_close(mirrored(mirrored(make(mask)))(output), 5.0)


def test_targets_without_a_place_are_the_same_in_the_mirror():
    target = ClassScore(1)
    assert mirrored(target) is target
    assert mirrored(nn.Identity()) is not None


def test_a_mask_left_open_stays_open_in_the_mirror():
    assert mirrored(MaskedClass(1)).mask is None
    assert mirrored(MaskScore()).mask is None


# --- what changed pictures are scored for ----------------------------------------------------------------


def test_the_top_class_is_that_of_the_picture_whatever_it_is_in_changed_ones():
    target = settled(TopClass(output="out"), {"out": SCORES})
    assert target({"out": torch.tensor([7.0, 8.0, 3.0])}) == 3


def test_the_pixels_of_a_class_are_those_of_the_picture_whatever_they_are_in_changed_ones():
    target = settled(MaskedClass(1), DENSE)
    assert target(-DENSE) == -19
    assert mirrored(target)(-DENSE.flip(-1)) == -19


@pytest.mark.parametrize("target", [ClassScore(1), MaskedClass(1, MASK), torch.sum])
def test_a_target_that_leaves_nothing_open_is_kept(target):
    assert settled(target, DENSE) is target


# --- one for each picture --------------------------------------------------------------------------------


def test_one_target_is_for_all_pictures():
    assert targets_for(torch.sum, 3) == [torch.sum] * 3
    assert [one.class_id for one in targets_for(2, 3)] == [2, 2, 2]
    assert all(isinstance(one, TopClass) for one in targets_for(None, 2))


def test_a_target_for_each_picture_is_its_own():
    first, second, third = targets_for((1, None, torch.sum), 3)
    assert first.class_id == 1
    assert isinstance(second, TopClass)
    assert third is torch.sum


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_another_number_of_targets_than_pictures_is_an_error(count):
    """Pictures without a target would have had an empty map."""
    with pytest.raises(
        InputError, match=f"one target, or one for each of the 3 pictures; got {count} targets"
    ):
        targets_for([1] * count, 3)


@pytest.mark.parametrize(
    ("target", "said"),
    [("cats", "got 4 targets"), (1.5, "got a float"), (torch.ones(2, 2), "got 2 targets")],
)
def test_what_is_no_target_is_an_error(target, said):
    with pytest.raises(InputError, match=said):
        targets_for(target, 3)


def test_what_is_no_target_among_targets_is_an_error():
    with pytest.raises(InputError, match="a callable, a class id or None, got a str"):
        targets_for([1, "cat", 2], 3)


def test_a_pictures_part_of_nested_outputs_is_its_own():
    output = {"a": torch.arange(6).reshape(3, 2), "b": (torch.arange(3), [torch.zeros(3, 1), "name"], None)}
    part = picture_of(output, 1, 3)
    assert part["a"].tolist() == [2, 3]
    assert part["b"][0] == 1
    assert part["b"][1][0].shape == (1,)
    assert part["b"][1][1] == "name"
    assert part["b"][2] is None


def test_a_list_of_a_dict_for_each_picture_is_told_apart_by_its_length():
    """As many boxes as pictures would be cut apart otherwise."""
    output = [{"boxes": torch.zeros(2, 4)}, {"boxes": torch.ones(2, 4)}]
    assert torch.equal(picture_of(output, 1, 2)["boxes"], torch.ones(2, 4))


def test_tensors_that_are_for_all_pictures_are_kept_whole():
    anchors, scale = torch.arange(5), torch.tensor(2.0)
    part = picture_of((torch.zeros(3, 2), anchors, scale), 1, 3)
    assert part[0].shape == (2,)
    assert part[1] is anchors
    assert part[2] is scale


@pytest.mark.parametrize("ids", [torch.tensor([2, 0]), np.array([2, 0]), [2, 0]])
def test_class_ids_may_come_as_arrays_and_tensors(ids):
    assert [one.class_id for one in targets_for(ids, 2)] == [2, 0]
    assert [one.class_id for one in targets_for(np.int64(3), 2)] == [3, 3]
    with pytest.raises(InputError, match="got 2 targets"):
        targets_for(ids, 3)
