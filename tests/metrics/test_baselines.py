"""Baselines: constants, seeded noise, and a blur against plain loops."""

from __future__ import annotations

import metric_replicas as replicas
import pytest
import torch
from torch import tensor

from detcam.errors import InputError
from detcam.metrics import BLUR_11, BLUR_51, GREY, NOISE, ZEROS, Baseline
from detcam.metrics.smoothing import gaussian_blur

PICTURE = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("baseline", "value"), [(ZEROS, 0.0), (GREY, 0.5), (Baseline("constant", 0.2), 0.2)])
def test_a_constant_is_the_same_everywhere(baseline, value):
    assert torch.equal(baseline.of(PICTURE), torch.full_like(PICTURE, value))


def test_noise_is_uniform_and_depends_on_its_seed_alone():
    state = torch.random.get_rng_state()
    large = torch.zeros(3, 100, 100)
    noise = NOISE.of(large)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(noise, NOISE.of(large + 1))
    assert not torch.equal(noise, Baseline("noise", seed=1).of(large))
    assert not torch.equal(noise[0], noise[1])
    assert noise.min() >= 0
    assert noise.max() < 1
    # 30 000 uniform numbers: mean .5 ± 5 · .0017, variance 1/12.
    assert abs(noise.mean() - 0.5) < 0.0085
    assert abs(noise.var() - 1 / 12) < 0.002


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("baseline", [GREY, NOISE, BLUR_11])
def test_a_baseline_has_the_pictures_shape_and_dtype(baseline, dtype):
    found = baseline.of(PICTURE.to(dtype))
    assert (found.shape, found.dtype) == (PICTURE.shape, dtype)


@pytest.mark.parametrize(("kernel", "sigma"), [(1, 1.0), (3, 0.7), (5, 2.0), (11, 5.0), (25, 4.0)])
def test_blur_agrees_with_plain_loops_also_where_the_kernel_is_larger_than_the_picture(
    kernel, sigma, assert_close
):
    picture = PICTURE.double()
    expected = [replicas.blur(channel, kernel, sigma) for channel in picture.tolist()]
    assert_close(gaussian_blur(picture, kernel, sigma), expected)


def test_blur_by_hand(assert_close):
    # A weight of exp(-1/2σ²) = 1/2 on each side: (1, 2, 1) / 4 down and across. Mirrored at the last pixel.
    sigma = (1 / (2 * torch.log(tensor(2.0)))).sqrt().item()
    line = gaussian_blur(tensor([[[0.0, 4.0, 0.0, 8.0]]]), 3, sigma)
    assert_close(line, [[[2, 2, 3, 4]]])
    assert_close(gaussian_blur(tensor([[7.0]]), 3, sigma), [[7]])


def test_blur_leaves_a_constant_as_it_is(assert_close):
    assert_close(BLUR_51.of(torch.full((3, 9, 5), 0.3)), torch.full((3, 9, 5), 0.3))


@pytest.mark.parametrize(("kernel", "sigma"), [(4, 1.0), (0, 1.0), (3, 0.0), (3, -1.0)])
def test_a_blur_without_a_middle_or_a_width_is_refused(kernel, sigma):
    with pytest.raises(InputError, match="odd kernel and a sigma above 0"):
        Baseline("blur", kernel=kernel, sigma=sigma).of(PICTURE)


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="no baseline 'fog'"):
        Baseline("fog").of(PICTURE)
