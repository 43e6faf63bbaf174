"""The published protocols, value by value, and how their steps fall."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest

from detcam.errors import InputError, UnknownNameError
from detcam.metrics import MATCHES, NOISE, PRESETS, ZEROS, Baseline, Preset, Step, get_preset
from detcam.metrics.matching import match_d_close, match_d_rise, match_odam


def test_odam_is_what_its_code_does():
    odam = PRESETS["odam"]
    assert (odam.deletion_to, odam.insertion_from) == (NOISE, ZEROS)
    assert odam.step == Step("box", 100, count=100, scored_every=10)
    assert odam.matching is match_odam
    assert (odam.divides_deletion, odam.divides_insertion) == (True, False)
    assert odam.inclusion_iou == 0.9


def test_d_close_is_what_its_code_does():
    d_close = PRESETS["d-close"]
    assert (d_close.deletion_to, d_close.insertion_from) == (ZEROS, Baseline("blur", kernel=51, sigma=8.0))
    assert d_close.step == Step("pixels", 2000)
    assert d_close.matching is match_d_close
    assert (d_close.divides_deletion, d_close.divides_insertion) == (False, False)
    assert (d_close.picture_size, d_close.score_threshold, d_close.nms_iou) == ((640, 640), 0.25, 0.45)
    # 409600 pixels: 204 whole steps and one of 1600.
    pixels = d_close.step.pixels((640, 640))
    assert (len(pixels), pixels[1], pixels[-2], pixels[-1]) == (206, 2000, 408000, 409600)


def test_d_rise_takes_rises_steps():
    d_rise = PRESETS["d-rise"]
    assert (d_rise.deletion_to, d_rise.insertion_from) == (ZEROS, Baseline("blur", kernel=11, sigma=5.0))
    assert d_rise.step.pixels((224, 224)) == list(range(0, 224 * 224 + 1, 224))
    assert d_rise.matching is match_d_rise
    assert (d_rise.divides_deletion, d_rise.divides_insertion) == (False, False)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_source_and_what_is_unsure(name):
    preset = PRESETS[name]
    assert preset.name == name
    assert "arXiv:" in preset.source
    assert preset.unsure
    assert (preset.ties, preset.seed) == ("first", 0)
    assert get_preset(name) is preset
    with pytest.raises(FrozenInstanceError):
        preset.seed = 1


@pytest.mark.parametrize(
    ("step", "size", "box", "expected"),
    [
        (Step("pixels", 4), (3, 3), None, [0, 4, 8, 9]),
        (Step("pixels", 9), (3, 3), None, [0, 9]),
        (Step("pixels", 50), (3, 3), None, [0, 9]),
        (Step("pixels", 4, count=2), (3, 3), None, [0, 4, 8]),
        (Step("picture", 10), (97, 61), None, [*range(0, 5329, 592), 5917]),  # 591.7, rounded up
        (Step("picture", 3), (3, 3), None, [0, 3, 6, 9]),
        (Step("picture", 100), (3, 3), None, list(range(10))),  # at least one pixel
        (Step("box", 4), (3, 4), (0, 1, 3, 4), [0, 2, 4, 6, 8, 10, 12]),  # 9 / 4, rounded down
        (Step("box", 4), (2, 2), (0, 0, 0.5, 0.5), [0, 1, 2, 3, 4]),  # at least one pixel
        (Step("box", 100, count=100, scored_every=10), (100, 100), (10, 20, 30, 45), [*range(0, 501, 50)]),
        (Step("pixels", 1, scored_every=2), (1, 5), None, [0, 2, 4, 5]),
        (Step("pixels", 2, scored_every=2), (1, 8), None, [0, 4, 8]),
        (Step("box", 1, count=2), (2, 2), (-9, -9, 9, 9), [0, 4]),  # never more than there are
    ],
)
def test_steps_by_hand(step, size, box, expected):
    assert step.pixels(size, box) == expected


def test_fewer_steps_and_division_get_another_name_and_change_nothing_else():
    d_close = PRESETS["d-close"]
    coarse = d_close.with_steps(10)
    assert coarse.name == "d-close-10-steps"
    assert coarse.step.pixels((640, 640)) == list(range(0, 409601, 40960))
    assert replace(coarse, name=d_close.name, step=d_close.step) == d_close
    divided = d_close.divided()
    assert divided.name == "d-close-f0"
    assert (divided.divides_deletion, divided.divides_insertion) == (True, True)
    assert replace(divided, name="d-close", divides_deletion=False, divides_insertion=False) == d_close
    assert divided.divided() is divided
    half = PRESETS["odam"].divided()
    assert (half.name, half.divides_deletion, half.divides_insertion) == ("odam-f0", True, True)


def test_every_field_of_a_preset_is_described():
    for field in fields(Preset):
        assert f"        {field.name}: " in Preset.__doc__


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: get_preset("dclose"), UnknownNameError, "no preset 'dclose'. Closest: 'd-close'"),
        (
            lambda: replace(PRESETS["odam"], match="odom"),
            UnknownNameError,
            "no match 'odom'. Closest: 'odam'",
        ),
        (lambda: replace(PRESETS["odam"], ties="last"), InputError, "ties must be 'first' or 'shuffled'"),
        (lambda: Step("pixels", 0), InputError, "at least 1"),
        (lambda: Step("pixels", 1, count=0), InputError, "at least 1"),
        (lambda: Step("pixels", 1, scored_every=0), InputError, "at least 1"),
        (lambda: Step("box", 100).pixels((5, 5)), InputError, "give the box"),
        (lambda: Step("boxes", 100).pixels((5, 5), (0, 0, 1, 1)), InputError, "no steps of 'boxes'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_every_preset_has_a_match_that_exists():
    assert {preset.match for preset in PRESETS.values()} <= set(MATCHES)
