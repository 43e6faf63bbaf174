"""Similarities of two maps, by hand, against plain loops, and what cannot change them."""

from __future__ import annotations

import math

import metric_replicas as replicas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, tensor

from detcam.errors import InputError, ShapeError
from detcam.metrics import spearman, spearman_abs, ssim

every_similarity = pytest.mark.parametrize("similarity", [spearman, spearman_abs, ssim])


def signed_maps(seed: int, size=(6, 5)) -> Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(seed)).double()


# --- By hand ---


def test_spearman_by_hand(assert_close):
    # Ranks 0 1 2 3 and 1 0 3 2: 1 - 6 · (1 + 1 + 1 + 1) / (4 · 15) = .6.
    assert_close(spearman(tensor([[1.0, 2.0], [3.0, 40.0]]), tensor([[-1.0, -2.0], [9.0, 8.0]])), 0.6)


def test_spearman_gives_equal_values_their_mean_rank(assert_close):
    # Ranks .5 .5 2 and 0 1 2, about 1: (-.5, -.5, 1) · (-1, 0, 1) = 1.5 over sqrt(1.5 · 2).
    assert_close(spearman(tensor([[0.0, 0.0, 5.0]]), tensor([[1.0, 2.0, 3.0]])), 1.5 / math.sqrt(3))


def test_spearman_with_and_without_signs(assert_close):
    first = tensor([[-3.0, -1.0, 2.0]])
    assert_close(spearman(first, -first), -1)
    assert_close(spearman_abs(first, -first), 1)
    # |first| = 3 1 2: ranks 2 0 1 with 0 1 2: 1 - 6 · (4 + 1 + 1) / (3 · 8) = -.5.
    assert_close(spearman_abs(first, tensor([[0.0, -1.0, 2.0]])), -0.5)


def test_ssim_of_two_constants_compares_their_scaled_means(assert_close):
    # Each over its largest value: 1 and 1, or 1 and -1: (-2 + C1) / (2 + C1) with C1 = .0004.
    ones = torch.full((4, 6), 3.0)
    assert_close(ssim(ones, 7 * ones), 1)
    assert_close(ssim(ones, -ones), (-2 + 0.0004) / (2 + 0.0004))


# --- Plain loops ---


@pytest.mark.parametrize("seed", range(3))
def test_similarities_agree_with_plain_loops(seed, assert_close):
    first, second = signed_maps(seed), signed_maps(seed + 50)
    first[1], second[1] = first[1].round(), second[1].round()  # with ties
    for row in range(3):
        a, b = first[row], second[row]
        assert_close(
            spearman(first, second)[row], replicas.spearman(a.flatten().tolist(), b.flatten().tolist())
        )
        assert_close(
            spearman_abs(first, second)[row],
            replicas.spearman(a.abs().flatten().tolist(), b.abs().flatten().tolist()),
        )
        assert_close(ssim(first, second)[row], replicas.ssim(a.tolist(), b.tolist()))


# --- What cannot change them ---


@every_similarity
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-20, 20))
def test_a_similarity_is_the_same_both_ways_1_of_itself_and_free_of_units(similarity, seed, exponent):
    first, second = signed_maps(seed), signed_maps(seed + 1)
    found = similarity(first, second)
    torch.testing.assert_close(similarity(second, first), found)
    torch.testing.assert_close(similarity(first, first), torch.ones(3).double())
    torch.testing.assert_close(similarity(first * 2.0**exponent, second), found)
    assert ((found >= -1) & (found <= 1)).all()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_spearman_survives_every_increasing_transform(seed):
    first, second = signed_maps(seed), signed_maps(seed + 1)
    torch.testing.assert_close(spearman(first.exp(), second**3), spearman(first, second))


def test_independent_maps_are_not_alike():
    first, second = signed_maps(0, (64, 64)), signed_maps(1, (64, 64))
    for similarity in (spearman, spearman_abs, ssim):
        assert similarity(first, second).abs().max() < 5 / 64  # a rank correlation's sigma is 1/64


# --- Undefined, refused ---


def test_ranks_of_a_constant_are_undefined_and_so_is_the_likeness_of_nothing():
    maps = signed_maps(0)
    constant, nothing = torch.full_like(maps, 2.0), torch.zeros_like(maps)
    for similarity in (spearman, spearman_abs):
        assert similarity(maps, constant).isnan().all()
        assert similarity(constant, maps).isnan().all()
    assert ssim(maps, nothing).isnan().all()
    assert ssim(nothing, maps).isnan().all()
    maps[1] = 0
    assert ssim(maps, signed_maps(1)).isnan().tolist() == [False, True, False]


@every_similarity
def test_a_single_map_gives_a_single_number(similarity):
    first, second = signed_maps(0), signed_maps(1)
    assert similarity(first[0], second[0]).shape == ()
    torch.testing.assert_close(similarity(first[0], second[0]), similarity(first, second)[0])


@every_similarity
def test_maps_that_do_not_fit_are_refused(similarity):
    maps = signed_maps(0)
    with pytest.raises(ShapeError, match="two maps must have one shape"):
        similarity(maps, maps[:1])
    for pair in ((maps, maps * math.nan), (maps * math.inf, maps)):
        with pytest.raises(InputError, match="finite"):
            similarity(*pair)
