"""Convolutions that leave zeros out give torch's own gradients, whatever their geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_yolo import network
from torch import Tensor, nn

from detcam.cam.sparse_backward import SparseBackward, blocks


def gradients(score: Tensor, *inputs: Tensor) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(score, inputs, retain_graph=True, allow_unused=True)


@settings(max_examples=150, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
    side=st.tuples(st.sampled_from([13, 17, 29]), st.sampled_from([11, 19, 23])),
    picked=st.lists(st.tuples(st.integers(0, 1), st.floats(0, 0.999), st.floats(0, 0.999)), max_size=6),
    seed=st.integers(0, 99),
)
def test_gradients_are_torchs_own(kernel, stride, padding, dilation, groups, side, picked, seed):
    torch.manual_seed(seed)
    picture = torch.randn(2, 4, *side, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(8, 4 // groups, *kernel, dtype=torch.float64)
    bias = torch.randn(8, dtype=torch.float64)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if any(s + 2 * p < r for s, p, r in zip(side, padding, reach, strict=True)):
        return
    plain = F.conv2d(picture, weight, bias, **options)
    with SparseBackward():
        sparse = F.conv2d(picture, weight, bias, **options)
    assert torch.equal(sparse, plain)
    mask = torch.zeros_like(plain)
    for batch, y, x in picked:
        mask[batch, :, int(y * plain.shape[2]), int(x * plain.shape[3])] = torch.randn(8, dtype=torch.float64)
    (expected,) = gradients((plain * mask).sum(), picture)
    (found,) = gradients((sparse * mask).sum(), picture)
    if not picked:
        assert found is None
    else:
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_far_apart_cells_are_computed_apart_and_near_ones_together():
    touched = np.zeros((31, 37), bool)
    touched[2, 3] = touched[2, 30] = touched[4, 5] = touched[29, 36] = True
    found = [(rows.start, rows.stop, cols.start, cols.stop) for rows, cols in blocks(touched)]
    assert found == [(2, 5, 3, 6), (2, 5, 30, 31), (29, 30, 36, 37)]


@pytest.mark.parametrize("everywhere", [True, False])
def test_pictures_of_a_batch_are_told_apart_dense_or_not(everywhere):
    generator = torch.Generator().manual_seed(3)
    picture = torch.randn(3, 2, 19, 23, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(5, 2, 3, 3, dtype=torch.float64, generator=generator)
    gradient = torch.randn(3, 5, 17, 21, dtype=torch.float64, generator=generator)
    if not everywhere:
        gradient[0, :, 2:] = gradient[1, :, :, 3:] = gradient[2, :, :15] = 0
    with SparseBackward():
        (found,) = torch.autograd.grad(F.conv2d(picture, weight), picture, gradient)
    (expected,) = torch.autograd.grad(F.conv2d(picture, weight), picture, gradient)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_whole_networks_gradients_are_torchs_own_at_every_level():
    model = network("Detect").eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    picture = torch.rand(1, 3, 224, 160, generator=torch.Generator().manual_seed(1))

    def forward() -> tuple[list[Tensor], Tensor]:
        leaves, outputs = [], []
        x = picture
        for i, layer in enumerate(model.model[:-1]):
            if layer.f != -1:
                x = [x if source == -1 else outputs[source] for source in layer.f]
            x = layer(x)
            if i in (4, 6, 8):
                x = x.detach().clone().requires_grad_()
                leaves.append(x)
                x = x.clone()
            outputs.append(x)
        head = model.model[-1]
        rows = [tower(outputs[source]).flatten(2) for tower, source in zip(head.cv3, head.f, strict=True)]
        return leaves, torch.cat(rows, dim=2)[0].T

    plain_leaves, plain = forward()
    with SparseBackward():
        sparse_leaves, sparse = forward()
    assert torch.equal(plain, sparse)
    for candidate in (0, 300, 559, 600, 700, 734):
        for expected, found in zip(
            gradients(plain[candidate, 1], *plain_leaves),
            gradients(sparse[candidate, 1], *sparse_leaves),
            strict=True,
        ):
            assert expected is not None
            if found is None:  # nothing came back: torch's own is zero everywhere
                assert not expected.any()
            else:
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_values_that_are_no_numbers_are_not_hidden():
    picture = torch.ones(1, 1, 9, 9, requires_grad=True)
    with SparseBackward():
        out = F.conv2d(picture, torch.ones(1, 1, 3, 3))
    gradient = torch.zeros_like(out)
    gradient[0, 0, 3, 3] = torch.nan
    (found,) = torch.autograd.grad(out, picture, gradient)
    assert int(found.isnan().sum()) == 9


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w: F.conv2d(x, w.requires_grad_()),
        lambda x, w: F.conv2d(x[0], w),
        lambda x, w: F.conv2d(x, w, padding="same"),
        lambda x, w: F.conv2d(x.detach(), w),
    ],
    ids=["trained weights", "one picture without a batch", "padding in words", "nothing to differentiate"],
)
def test_calls_it_is_not_made_for_are_left_to_torch(call):
    picture, weight = torch.rand(1, 2, 7, 7, requires_grad=True), torch.rand(3, 2, 3, 3)
    with SparseBackward():
        out = call(picture, weight)
    name = type(out.grad_fn).__name__
    assert "Sparse" not in name
    if weight.requires_grad:
        found, expected = gradients(out.sum(), weight), gradients(F.conv2d(picture, weight).sum(), weight)
        assert torch.equal(found[0], expected[0])


def test_outside_the_block_torch_is_as_it_was():
    layer = nn.Conv2d(2, 2, 3)
    with SparseBackward():
        pass
    assert type(layer(torch.rand(1, 2, 5, 5)).grad_fn).__name__ == "ConvolutionBackward0"
