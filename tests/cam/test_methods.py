"""The registry, and what every method in it has to keep."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from detcam.cam import ALIASES, METHODS, Method, get_method, grad_cam
from detcam.cam.methods import INPUTS
from detcam.errors import InputError, ShapeError, UnknownNameError

GRADIENT_METHODS = [name for name, method in METHODS.items() if method.uses_gradients]
# Grad-CAM++'s weights are a ratio of powers of the gradient: the only formulas that do not scale with it.
RATIO_METHODS = ["grad-cam++", "ss-grad-cam++"]
LINEAR_METHODS = [name for name in GRADIENT_METHODS if name not in RATIO_METHODS]
# Its map is signed, as in the paper; all other sums are rectified.
SIGNED_SUMS = ["cam"]
WEIGHTED_METHODS = [name for name, method in METHODS.items() if method.weigh is not None]
MAPS = ("activations", "gradients", "sampled_masks")
BY_CHANNEL = ("masked_scores", "ablated_scores", "sampled_scores", "class_weights")

Inputs = dict[str, Tensor]


def make_inputs(batch: int = 3, channels: int = 5, height: int = 5, width: int = 7, seed: int = 0) -> Inputs:
    """One of everything a method may need, on a grid of primes; activations as after SiLU."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    corners = torch.rand(batch, 2, generator=generator) * torch.tensor([width, height]) / 2
    sizes = 1 + torch.rand(batch, 2, generator=generator) * torch.tensor([width, height])
    cells = corners.floor()
    return {
        "activations": torch.nn.functional.silu(2 * torch.randn(shape, generator=generator) + 1),
        "gradients": 0.3 * torch.randn(shape, generator=generator),
        "boxes": torch.cat([corners, corners + sizes], dim=1),
        "cells": torch.cat([cells, cells + 1], dim=1),
        "seeds": torch.randint(2**40, (batch,), generator=generator),
        "scores": 2 * torch.randn(batch, generator=generator),
        "masked_scores": 2 * torch.randn(batch, channels, generator=generator),
        "ablated_scores": 2 * torch.randn(batch, channels, generator=generator),
        "class_weights": torch.randn(batch, channels, generator=generator),
        "sampled_masks": torch.rand(shape, generator=generator),
        "sampled_scores": torch.rand(batch, channels, generator=generator),
    }


def compute(name: str, inputs: Inputs) -> Tensor:
    return METHODS[name].compute(**needed(name, inputs))


def needed(name: str, inputs: Inputs) -> Inputs:
    return {need: inputs[need] for need in METHODS[name].needs}


every_method = pytest.mark.parametrize("name", METHODS)


# --- The registry ---


def test_every_method_is_filed_under_its_own_name_and_introduces_itself():
    for name, method in METHODS.items():
        assert method.name == name
        assert method.summary
        assert method.source


def test_the_controls_are_marked_and_say_so():
    controls = {name for name, method in METHODS.items() if method.is_control}
    assert controls == {"random", "box", "gaussian-in-box", "cell-blob"}
    assert all(METHODS[name].summary.startswith("control: ") for name in controls)


def test_needs_are_the_formulas_own_parameters():
    assert METHODS["grad-cam"].needs == ("activations", "gradients")
    assert METHODS["eigen-cam"].needs == ("activations",)
    assert METHODS["box"].needs == ("activations", "boxes")
    assert METHODS["cell-blob"].needs == ("activations", "cells")
    assert METHODS["random"].needs == ("activations", "seeds")


def test_only_eigen_cam_and_noise_are_class_agnostic():
    agnostic = {name for name, method in METHODS.items() if method.is_class_agnostic}
    assert agnostic == {"eigen-cam", "random"}
    assert "class-agnostic" in METHODS["eigen-cam"].summary


def test_gradients_are_asked_for_by_every_real_method_that_has_no_other_weights():
    real = {name for name, method in METHODS.items() if not method.is_control}
    assert set(GRADIENT_METHODS) == real - {"eigen-cam", "cam", "score-cam", "ablation-cam", "d-rise"}


def test_methods_say_what_has_to_be_scored_anew():
    rescoring = {name: method.rescores for name, method in METHODS.items() if method.rescores}
    assert rescoring == {"score-cam": "masked", "ablation-cam": "ablated", "d-rise": "sampled"}


def test_every_input_is_asked_for_by_some_method_and_described():
    assert {need for method in METHODS.values() for need in method.needs} == set(INPUTS)
    assert all(INPUTS.values())


def test_what_cannot_be_had_is_said_in_one_sentence():
    detectors = set(INPUTS) - {"class_weights"}
    for name, method in METHODS.items():
        if name != "cam":
            method.check_given(detectors)
    with pytest.raises(InputError, match=r"'cam' needs class_weights.*final linear layer.*a detector does"):
        METHODS["cam"].check_given(detectors)
    with pytest.raises(InputError, match=r"'box' needs boxes.*a classifier does not"):
        METHODS["box"].check_given(["activations"], "classifier")


def test_a_method_is_found_by_name_and_by_alias():
    assert get_method("layer-cam") is METHODS["layer-cam"]
    assert get_method("odam") is METHODS["hires-cam"]


def test_aliases_lead_to_methods_and_hide_none():
    assert set(ALIASES.values()) <= set(METHODS)
    assert set(ALIASES).isdisjoint(METHODS)


def test_an_unknown_method_is_refused_with_close_names_and_where_to_look():
    with pytest.raises(
        UnknownNameError, match=r"no method 'layercam'.*'layer-cam'.*List all: detcam methods"
    ) as info:
        get_method("layercam")
    assert info.value.__cause__ is None


def test_a_formula_that_asks_for_something_unknown_cannot_become_a_method():
    def wants_image(activations: Tensor, image: Tensor) -> Tensor:
        raise AssertionError

    with pytest.raises(UnknownNameError, match=r"input .*'mine'.*'image'"):
        Method("mine", wants_image, "summary", "source")


def test_a_method_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        METHODS["grad-cam"].name = "other"


# --- The contract: every method ---


@every_method
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [(3, 5, 5, 7), (2, 1, 3, 2), (2, 40, 3, 2), (1, 1, 1, 1), (0, 4, 3, 2)],
    ids=["usual", "one channel", "more channels than cells", "one cell", "no boxes"],
)
def test_maps_are_finite_float32_of_the_grids_shape(name, batch, channels, height, width):
    heatmap = compute(name, make_inputs(batch, channels, height, width))
    assert heatmap.shape == (batch, height, width)
    assert heatmap.dtype == torch.float32
    assert heatmap.isfinite().all()


@every_method
def test_the_same_inputs_give_the_same_map_to_the_last_bit(name):
    assert torch.equal(compute(name, make_inputs()), compute(name, make_inputs()))


@every_method
def test_a_batch_gives_what_its_rows_give_alone(name, assert_close):
    inputs = make_inputs()
    maps = compute(name, inputs)
    for row in range(3):
        alone = {need: tensor[row : row + 1] for need, tensor in inputs.items()}
        assert_close(maps[row : row + 1], compute(name, alone))


@every_method
def test_inputs_are_untouched(name):
    inputs = make_inputs()
    before = {need: tensor.clone() for need, tensor in inputs.items()}
    compute(name, inputs).add_(1)  # nor may the map share memory with them
    assert all(torch.equal(inputs[need], before[need]) for need in inputs)


@every_method
def test_the_global_random_state_is_untouched(name):
    before = torch.get_rng_state()
    compute(name, make_inputs())
    assert torch.equal(torch.get_rng_state(), before)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_give_the_float32_map_of_the_same_numbers(name, dtype):
    inputs = {need: tensor.to(dtype) if need != "seeds" else tensor for need, tensor in make_inputs().items()}
    in_float32 = {need: tensor.float() if need != "seeds" else tensor for need, tensor in inputs.items()}
    heatmap = compute(name, inputs)
    assert heatmap.dtype == torch.float32
    assert torch.equal(heatmap, compute(name, in_float32))


@every_method
def test_memory_layout_does_not_matter(name, assert_close):
    inputs = make_inputs()
    strided = {need: torch.stack([tensor, tensor], dim=-1)[..., 0] for need, tensor in inputs.items()}
    channels_last = dict(inputs)
    for need in MAPS:
        channels_last[need] = inputs[need].contiguous(memory_format=torch.channels_last)
    assert_close(compute(name, strided), compute(name, inputs))
    assert_close(compute(name, channels_last), compute(name, inputs))


@every_method
def test_one_layer_expanded_over_several_boxes_will_do(name, assert_close):
    inputs = make_inputs()
    for need in ("activations", "sampled_masks"):
        inputs[need] = inputs[need][:1].expand(3, -1, -1, -1)
    copied = {need: tensor.clone() for need, tensor in inputs.items()}
    assert_close(compute(name, inputs), compute(name, copied))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "random"])
def test_a_picture_turned_over_its_diagonal_gives_the_map_turned(name, assert_close):
    inputs = make_inputs()
    turned = {**inputs}
    for need in MAPS:
        turned[need] = inputs[need].transpose(-2, -1)
    for need in ("boxes", "cells"):
        turned[need] = inputs[need][:, [1, 0, 3, 2]]
    assert_close(compute(name, turned).transpose(-2, -1), compute(name, inputs))


@every_method
def test_the_order_of_channels_does_not_matter(name, assert_close):
    inputs = make_inputs()
    shuffled = {**inputs}
    for need in (*MAPS, *BY_CHANNEL):
        shuffled[need] = inputs[need].flip(1)
    assert_close(compute(name, shuffled), compute(name, inputs))


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.is_control])
def test_a_volume_may_be_laid_out_flat_in_any_way(name, assert_close):
    # The engine lays (d, h) along one axis: formulas must not know which cells are neighbours.
    inputs = make_inputs(height=3 * 5, width=7)
    flat = {**inputs, **{need: inputs[need].reshape(3, 5, 3, 5 * 7) for need in MAPS}}
    column = {**inputs, **{need: inputs[need].reshape(3, 5, 3 * 5 * 7, 1) for need in MAPS}}
    volume = compute(name, inputs).reshape(3, 3, 5, 7)
    assert volume.any()
    assert_close(compute(name, flat).reshape(3, 3, 5, 7), volume)
    assert_close(compute(name, column).reshape(3, 3, 5, 7), volume)


# --- The contract: the terms of the sum, and the smoothed map ---


def test_every_formula_but_principal_components_slopes_and_controls_weighs():
    others = {name for name, method in METHODS.items() if method.weigh is None}
    principal, controls = {"eigen-cam", "eigen-grad-cam"}, {"random", "box", "gaussian-in-box", "cell-blob"}
    assert others == {*principal, *controls, "d-rise"}


@pytest.mark.parametrize("name", WEIGHTED_METHODS)
def test_the_map_is_the_sum_of_the_weighted_activations(name):
    method, inputs = METHODS[name], make_inputs()
    inputs["activations"] = inputs["activations"] - 1  # so that every sum but one has negative cells
    assert method.weigh is not None
    terms = method.weigh(**needed(name, inputs))
    assert terms.shape == inputs["activations"].shape
    total = terms.sum(dim=1)
    assert (total < 0).any() or name == "grad-cam-elementwise"
    assert torch.equal(compute(name, inputs), total if name in SIGNED_SUMS else total.clamp(min=0))


@pytest.mark.parametrize("name", WEIGHTED_METHODS)
@pytest.mark.parametrize("channels", [5, 50], ids=["few channels", "many channels"])
def test_the_smoothed_map_is_numpys_first_component_of_the_weighted_activations(name, channels, assert_close):
    method, inputs = METHODS[name], make_inputs(channels=channels)
    assert method.weigh is not None
    smoothed = method.smoothed(**needed(name, inputs))
    for heatmap, terms in zip(smoothed, method.weigh(**needed(name, inputs)), strict=True):
        cells = terms.double().flatten(1).T
        cells = cells - cells.mean(dim=0)
        left, values, _ = np.linalg.svd(cells.numpy(), full_matrices=False)
        expected = torch.from_numpy(left[:, 0] * values[0]).reshape(heatmap.shape)
        # The house's sign: with the mean over channels.
        witness = (expected.flatten() @ cells.mean(dim=1)).sign()
        assert_close(heatmap, witness * expected)


def test_a_smoothed_map_follows_the_gradient_not_the_activations_alone():
    inputs = make_inputs()
    other = {**inputs, "gradients": inputs["gradients"].flip(1)}
    method = METHODS["layer-cam"]
    found, turned = (method.smoothed(**needed("layer-cam", one)) for one in (inputs, other))
    assert not torch.allclose(found, turned, rtol=0.1)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.weigh is None])
def test_a_method_that_weighs_no_channels_cannot_be_smoothed(name):
    with pytest.raises(InputError, match=rf"'{name}' weighs no channels.*choose of grad-cam, .*layer-cam"):
        METHODS[name].smoothed(**needed(name, make_inputs()))


# --- The contract: how a map follows the gradient ---


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_no_gradient_gives_a_map_of_zeros(name):
    inputs = make_inputs()
    inputs["gradients"] = torch.zeros_like(inputs["gradients"])
    assert torch.equal(compute(name, inputs), torch.zeros(3, 5, 7))


@pytest.mark.parametrize("name", [*GRADIENT_METHODS, "cam", "score-cam", "ablation-cam"])
def test_a_channel_without_activation_or_gradient_adds_nothing(name, assert_close):
    inputs = make_inputs()
    padded = {**inputs}
    for need in MAPS:
        padded[need] = torch.nn.functional.pad(inputs[need], (0, 0, 0, 0, 0, 2))
    for need in BY_CHANNEL:
        padded[need] = torch.nn.functional.pad(inputs[need], (0, 2), value=9.0)
    assert_close(compute(name, padded), compute(name, inputs))


@pytest.mark.parametrize("name", LINEAR_METHODS)
def test_a_score_in_other_units_gives_the_map_in_those_units(name, assert_close):
    inputs = make_inputs()
    scaled = {**inputs, "gradients": 3 * inputs["gradients"]}
    assert_close(compute(name, scaled), 3 * compute(name, inputs))


@pytest.mark.parametrize("name", RATIO_METHODS)
def test_the_plus_plus_weights_keep_the_map_when_activations_shrink_as_gradients_grow(name, assert_close):
    # α holds A and g as the product (Σ A)·g: A/k and k·g leave α and w·A what they were.
    inputs = make_inputs()
    scaled = {**inputs, "activations": inputs["activations"] / 3, "gradients": 3 * inputs["gradients"]}
    assert_close(compute(name, scaled), compute(name, inputs))
    only_gradients = {**inputs, "gradients": scaled["gradients"]}
    assert not torch.allclose(compute(name, only_gradients), 3 * compute(name, inputs), rtol=0.01)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in GRADIENT_METHODS])
def test_a_method_that_asks_for_no_gradient_gets_none(name):
    inputs = make_inputs()
    del inputs["gradients"]
    assert compute(name, inputs).isfinite().all()


# --- The contract: shapes that do not fit ---


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize(
    "shape", [(3, 5, 7, 5), (3, 5, 1, 1), (1, 5, 5, 7)], ids=["turned", "broadcastable", "one for all"]
)
def test_gradients_of_another_shape_are_refused_with_both_shapes(name, shape):
    inputs = {**make_inputs(), "gradients": torch.zeros(shape)}
    with pytest.raises(ShapeError, match="activations and gradients must have one shape") as info:
        compute(name, inputs)
    assert "(3, 5, 5, 7)" in str(info.value)
    assert str(shape) in str(info.value)


@pytest.mark.parametrize("name", ["cam", "score-cam", "ablation-cam"])
@pytest.mark.parametrize("shape", [(3, 4), (1, 5), (5, 3), (3, 5, 1, 1), (3,)])
def test_weights_that_are_not_one_for_each_channel_are_refused_with_both_shapes(name, shape):
    inputs = {**make_inputs(), **{need: torch.zeros(shape) for need in BY_CHANNEL}}
    with pytest.raises(ShapeError, match=r"must be \(3, 5\), one row for every map") as info:
        compute(name, inputs)
    assert str(shape) in str(info.value)


@pytest.mark.parametrize("shape", [(1,), (3, 1), (3, 5), ()])
def test_scores_that_are_not_one_for_each_picture_are_refused_with_both_shapes(shape):
    with pytest.raises(ShapeError, match=r"scores must be \(3,\), one row for every map") as info:
        compute("ablation-cam", {**make_inputs(), "scores": torch.zeros(shape)})
    assert str(shape) in str(info.value)


@every_method
@pytest.mark.parametrize("shape", [(5, 5, 7), (3, 5, 0, 7), (3, 0, 5, 7), (3, 5, 7, 1, 1)])
def test_activations_that_are_no_stack_of_maps_are_refused_with_their_shape(name, shape):
    inputs = {**make_inputs(), **dict.fromkeys(MAPS, torch.zeros(shape))}
    what = "sampled_masks" if name == "d-rise" else "activations"
    with pytest.raises(ShapeError, match=rf"{what} must be \(B, C, h, w\)") as info:
        compute(name, inputs)
    assert str(shape) in str(info.value)


def test_a_shape_error_is_a_value_error():
    with pytest.raises(ValueError, match="one shape"):
        grad_cam(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))
