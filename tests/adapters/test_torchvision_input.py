"""What torchvision's detectors share: the input and its geometry, and the formulas, by hand."""

from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision_models import as_input, noise, small

import detcam
from detcam.adapters.suppression import best_of_each, pairs_above
from detcam.adapters.torchvision_common import boxes_from_deltas, clipped, fit_transform
from detcam.adapters.torchvision_stages import stride_of
from detcam.errors import InputError

# --- geometry -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (31, 211), (480, 641)])
@pytest.mark.parametrize("options", [{}, {"fixed_size": (80, 48), "size_divisible": 1}])
def test_the_input_is_the_transforms_own_pixel_for_pixel(size, options):
    model = small("retinanet")
    model.transform = GeneralizedRCNNTransform(96, 160, [0.4, 0.5, 0.6], [0.2, 0.3, 0.1], **options).eval()
    detector = detcam.wrap(model)
    expected, _ = model.transform([as_input(noise(*size))])
    tensor, geometry = detector.prepare(noise(*size), None)
    assert geometry.resized == tuple(tensor.shape[1:]) == expected.image_sizes[0]
    assert geometry.input_size == tuple(expected.tensors.shape[2:])
    assert geometry.pad == (0, 0)
    padded = detector._padded(tensor[None])
    assert torch.equal(padded.tensors, expected.tensors)
    assert padded.image_sizes == expected.image_sizes


def transform(**options):
    return GeneralizedRCNNTransform(96, 160, [0.0] * 3, [1.0] * 3, **options)


def test_the_shorter_side_decides_until_the_longer_one_is_too_long():
    # 61 → 96: 97·96/61 = 152.66 → 152, padded to 160. 31 × 211: 160/211 → 23.5 → 23, padded to 32.
    assert fit_transform((97, 61), transform(), None).resized == (152, 96)
    assert fit_transform((97, 61), transform(), None).input_size == (160, 96)
    assert fit_transform((31, 211), transform(), None).resized == (23, 160)
    assert fit_transform((31, 211), transform(), None).input_size == (32, 160)


def test_a_wanted_size_is_fitted_into():
    assert fit_transform((97, 61), transform(), 64).resized == (64, 40)
    assert fit_transform((100, 50), transform(), (64, 64)).input_size == (64, 32)
    with pytest.raises(InputError, match="positive, got 0"):
        fit_transform((97, 61), transform(), 0)


def test_a_fixed_size_cannot_be_changed():
    fixed = transform(fixed_size=(80, 48), size_divisible=1)  # (W, H) there
    assert fit_transform((97, 61), fixed, (48, 80)).resized == (48, 80)
    with pytest.raises(InputError, match=r"takes 48×80 pixels only, got imgsz 64: leave it out"):
        fit_transform((97, 61), fixed, 64)


# --- formulas by hand -----------------------------------------------------------------------------

CODER = SimpleNamespace(weights=(10.0, 10.0, 5.0, 5.0), bbox_xform_clip=torch.tensor(62.5).log().item())


def test_deltas_move_and_stretch_an_anchor():
    # Anchor 10 × 20 around (5, 10). dx = 10/10: one width right, to 15; dw = ln 2: 20 wide.
    anchors = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    deltas = torch.tensor([[10.0, -5.0, 5 * torch.tensor(2.0).log(), 0.0]])
    # dy = -5/10: half a height up, to 0; dh = 0: 20 high.
    expected = torch.tensor([[5.0, -10.0, 25.0, 10.0]])
    torch.testing.assert_close(boxes_from_deltas(deltas, anchors, CODER), expected)


def test_growth_is_capped():
    anchors = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    boxes = boxes_from_deltas(torch.tensor([[0.0, 0.0, 500.0, 0.0]]), anchors, CODER)
    torch.testing.assert_close(boxes, torch.tensor([[-62.5, -1.0, 62.5, 1.0]]))


def test_boxes_are_cut_to_the_picture():
    boxes = torch.tensor([[-3.0, 2.0, 70.0, 90.0]])
    assert clipped(boxes, (50, 60)).tolist() == [[0, 2, 60, 50]]


def test_strides_are_powers_of_two_unless_far_from_one():
    # 300/38 = 7.9, 300/10 = 30, 300/3 = 100, 320/3 = 106.7, 800/13 = 61.5
    cells = [(300, 38), (300, 10), (300, 3), (320, 3), (800, 13), (256, 2)]
    assert [stride_of(*one) for one in cells] == [8, 32, 100, 107, 64, 128]


def test_pairs_are_those_above_the_threshold_candidate_by_candidate():
    scores = torch.tensor([[0.9, 0.2, 0.6], [0.9, 0.5, 0.51], [0.9, 0.7, 0.1]])
    pairs = pairs_above(scores, 0.5, labels=[1, 2])
    assert pairs.candidates.tolist() == [0, 1, 2]
    assert pairs.labels.tolist() == [2, 2, 1]
    torch.testing.assert_close(pairs.scores, torch.tensor([0.6, 0.51, 0.7]))
    assert len(pairs_above(scores, 0.5, labels=[]).scores) == 0


def test_the_best_of_each_group_are_kept():
    scores = torch.tensor([0.1, 0.9, 0.3, 0.5, 0.4])
    groups = torch.tensor([7, 7, 2, 7, 2])
    assert best_of_each(scores, groups, 2).tolist() == [4, 2, 1, 3]
    assert best_of_each(scores, groups, 1).tolist() == [4, 1]
    assert best_of_each(scores[:0], groups[:0], 1).tolist() == []
