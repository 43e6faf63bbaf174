"""The engine: maps of any network against hand-made numbers and a float64 replica, whatever the wiring."""

import copy
import gc

import network_replica as replica
import pytest
import torch
from guests_coat import unchanged
from pencil_networks import Chain, W, X
from small_networks import (
    Classifier,
    OfSeveral,
    SharedHead,
    Tower,
    TwoInputs,
    TwoTowers,
    UNet,
    Volume,
    pictures,
)
from torch import nn
from torch.nn import functional as F

from detcam.cam.methods import METHODS
from detcam.cam.network import activation_maps
from detcam.cam.network_inputs import NetworkInputs
from detcam.cam.targets import (
    BinaryScore,
    ClassScore,
    Contrast,
    CosineSimilarity,
    MaskedClass,
    MaskScore,
    TopClass,
    Value,
)
from detcam.cam.tokens import TokenGrid
from detcam.errors import CaptureError, InputError, NoGradientError, ShapeError, UnknownNameError

# Random masks are of an input: which of several there may be is for detectors to say.
APPLICABLE = [name for name, method in METHODS.items() if not method.is_control and name != "d-rise"]


@pytest.fixture
def same():
    def check(found, expected):
        torch.testing.assert_close(found.double(), expected.double(), rtol=2e-4, atol=2e-6)
        assert expected.any()

    return check


def maps_of(model, *args, **kwargs):
    """The one map."""
    (found,) = activation_maps(model, *args, **kwargs).maps.values()
    return found


# --- the numbers -----------------------------------------------------------------------------------------


def score_of_pencil(row):
    return (W[0] * row).sum()


def test_the_map_of_a_pencil_network(assert_close):
    """A = [[2, -4], [0, 6]], gradient W ⊙ 6A = [[12, -48], [0, 18]], mean -4.5: -4 gives evidence."""
    assert_close(maps_of(Chain(), X, score_of_pencil, layers="a"), [[[0, 18], [0, 0]]])
    assert_close(
        maps_of(Chain(), X, score_of_pencil, layers="a", method="hires-cam"), [[[24, 192], [0, 108]]]
    )


def test_direct_maps_leave_out_the_path_through_deeper_layers(assert_close):
    found = activation_maps(Chain(), X, score_of_pencil, layers=["b", "a"], method="hires-cam", path="direct")
    assert list(found.maps) == ["b", "a"]
    assert_close(found.maps["a"], [[[12, 96], [0, 54]]])  # W ⊙ B ⊙ A
    assert_close(found.maps["b"], [[[12, 96], [0, 54]]])
    assert_close(found.values, [2 * 6 * 1 + 4 * 12 * 2 + 6 * 18 * 0.5])


def test_layers_are_kept_apart_or_put_together_in_the_inputs_size(assert_close):
    found = activation_maps(Chain(), X, score_of_pencil, layers=["a", "b"], method="hires-cam")
    assert_close(found.maps["a"], [[[24, 192], [0, 108]]])
    assert_close(found.maps["b"], [[[12, 96], [0, 54]]])
    assert_close(found.heatmaps(), [[[36, 288], [0, 162]]])
    assert_close(found.heatmaps(merge="max"), [[[24, 192], [0, 108]]])
    # A quarter and three quarters of the way from cell to cell: (24 + 12) + (192 + 96 - 36) / 4, and on.
    assert_close(found.heatmaps((2, 4)), [[[36, 99, 225, 288], [0, 40.5, 121.5, 162]]])


def test_heatmaps_are_grown_by_whole_cells():
    """Each cell of 2 × 1 pixels: bilinear between their centres, so the corners keep their values."""
    found = activation_maps(Classifier(), pictures(1), 1, layers="second", method="layer-cam")
    (small,) = found.maps.values()
    grown = found.heatmaps((3 * small.shape[1], 5 * small.shape[2]))
    assert torch.allclose(grown[:, 1::3, 2::5], small, atol=1e-6)
    assert found.heatmaps().shape == (1, 37, 29)
    with pytest.raises(ShapeError, match="size of 2 numbers"):
        found.heatmaps((1, 2, 3))
    with pytest.raises(InputError, match="'sum' or 'max', got 'mean'"):
        found.heatmaps(merge="mean")


LAYER_OF = {"cam": "silu"}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("method", APPLICABLE)
def test_every_method_is_its_float64_replica(method, inplace, same):
    model, x = Classifier(inplace=inplace), pictures()
    for layer in [LAYER_OF[method]] if method in LAYER_OF else ["norm", "second", "silu"]:
        found = maps_of(model, x, 2, layers=layer, method=method)
        same(found, replica.maps_of(method, model, x, layer, 2))


@pytest.mark.parametrize("method", replica.TERMS)
def test_eigen_smoothing_is_the_first_component_of_what_is_summed(method, same):
    model, x = Classifier(), pictures()
    a, scores = replica.classifier(model, x, "second")
    (g,) = torch.autograd.grad(scores[:, 2].sum(), a)
    found = maps_of(model, x, 2, layers="second", method=method, eigen_smooth=True)
    same(found, replica.component(replica.TERMS[method](a.detach(), g)))


@pytest.mark.parametrize("method", APPLICABLE)
def test_a_batch_gives_each_pictures_own_map(method, same):
    model, x, layer = Classifier(), pictures(3), LAYER_OF.get(method, "second")
    together = activation_maps(model, x, [0, 2, 1], layers=layer, method=method, batch_size=3)
    for index, class_id in enumerate([0, 2, 1]):
        alone = activation_maps(model, x[index : index + 1], class_id, layers=layer, method=method)
        same(together.maps[layer][index], alone.maps[layer][0])
        same(together.values[index], alone.values[0])


def test_no_target_is_each_pictures_top_class(same):
    model, x = Classifier(classes=9), pictures(6)
    with torch.no_grad():
        model.head.weight.mul_(100)
    top = model.eval()(x).argmax(dim=1)
    assert len(set(top.tolist())) > 1
    same(maps_of(model, x, layers="second"), maps_of(model, x, top.tolist(), layers="second"))


@pytest.mark.parametrize("method", ["score-cam", "ablation-cam"])
def test_changed_pictures_are_scored_for_the_class_of_the_unchanged(method, same):
    """Under a mask another class may score highest: it is not what is explained."""
    model, x = Classifier(classes=9), pictures(3)
    with torch.no_grad():
        model.head.weight.mul_(100)
    top = model.eval()(x).argmax(dim=1).tolist()
    for target in (None, TopClass()):
        found = maps_of(model, x, target, layers="norm", method=method)
        same(found, maps_of(model, x, top, layers="norm", method=method))


@pytest.mark.parametrize("target", [CosineSimilarity([1.0] * 4), Value((3,)), lambda row: row[1]])
def test_cam_explains_classes_only(target):
    with pytest.raises(InputError, match="method 'cam' explains a class"):
        activation_maps(Classifier(), pictures(), target, layers="silu", method="cam")


def test_cam_is_of_the_layer_in_front_of_the_classifier():
    with pytest.raises(InputError, match=r"reads the 6 channels of the layer, averaged; .* takes 5"):
        activation_maps(Classifier(), pictures(), 1, layers="norm", method="cam")


@pytest.mark.parametrize("method", ["box", "gaussian-in-box", "cell-blob", "d-rise"])
def test_methods_that_need_a_box_say_so(method):
    with pytest.raises(InputError, match="which a network without boxes does not give"):
        activation_maps(Classifier(), pictures(), 1, layers="norm", method=method)


# --- smoothing over views ----------------------------------------------------------------------------------


def test_augmented_smoothing_is_the_mean_of_six_passes(same):
    model, x = Classifier(), pictures()
    expected = [replica.maps_of("grad-cam", model, b * x, "second", 2) for b in (1.0, 0.9, 1.1)] + [
        replica.maps_of("grad-cam", model, b * x.flip(-1), "second", 2).flip(-1) for b in (1.0, 0.9, 1.1)
    ]
    found = activation_maps(model, x, 2, layers="second", aug_smooth=True)
    same(found.maps["second"], torch.stack(expected).mean(dim=0))
    same(found.values, model.eval()(x)[:, 2].detach())


class Pointwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.end = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.stem.weight)
        nn.init.ones_(self.end.weight)

    def forward(self, x):
        return self.end(self.stem(x)).square()[:, 0]


def test_a_target_at_a_place_is_mirrored_with_the_picture():
    """pytorch-grad-cam draws a second peak, at column 13."""
    mask = torch.zeros(16, 16)
    mask[5, 2] = 1
    found = maps_of(Pointwise(), torch.ones(1, 1, 16, 16), MaskScore(mask), layers="stem",
                    method="hires-cam", aug_smooth=True)  # fmt: skip
    assert found.nonzero().tolist() == [[0, 5, 2]]


def test_the_pixels_of_a_class_are_kept_in_all_views(same):
    """What is highest in the picture is explained in the darker and the mirrored ones, too."""
    model, x = UNet(), pictures(2, size=(32, 48))
    mask = model(x)["out"].argmax(dim=1) == 1
    fixed = [MaskedClass(1, one, output="out") for one in mask]
    found = maps_of(model, x, MaskedClass(1, output="out"), layers="up1", aug_smooth=True)
    same(found, maps_of(model, x, fixed, layers="up1", aug_smooth=True))


# --- inputs ----------------------------------------------------------------------------------------------


def two_inputs():
    return pictures(2, 3, (32, 48), 1), pictures(2, 7, (32, 48), 2)


def test_several_inputs_may_come_in_any_way(same):
    model, (rgb, frequency) = TwoInputs(), two_inputs()
    expected = maps_of(model, (rgb, frequency), 1, layers="both")
    for inputs in (
        [rgb, frequency],
        {"frequency": frequency, "rgb": rgb},
        NetworkInputs((rgb,), {"frequency": frequency}),
        NetworkInputs((rgb, frequency), {"ids": torch.tensor([1, 5])}),
        {"rgb": rgb, "frequency": frequency, "scale": 1.0},
    ):
        same(maps_of(model, inputs, 1, layers="both"), expected)


def test_each_branch_of_a_network_of_two_inputs_has_its_own_map(same):
    model, (rgb, frequency) = TwoInputs(), two_inputs()
    found = activation_maps(model, (rgb, frequency), 1, layers=["rgb", "frequency"])
    a, b = (
        m(x).detach().double().requires_grad_() for m, x in ((model.rgb, rgb), (model.frequency, frequency))
    )
    both = F.conv2d(
        torch.cat([a, b], 1).relu(), model.both.weight.double(), model.both.bias.double(), padding=1
    )
    score = both.relu().mean((2, 3)) @ model.head.weight.double()[1]
    for maps, activations in (("rgb", a), ("frequency", b)):
        (gradient,) = torch.autograd.grad(score.sum(), activations, retain_graph=True)
        same(found.maps[maps], replica.sums(replica.TERMS["grad-cam"](activations.detach(), gradient)))


@pytest.mark.parametrize("method", ["score-cam", "ablation-cam"])
def test_methods_of_many_passes_take_several_inputs(method):
    model, (rgb, frequency) = TwoInputs(), two_inputs()
    one = maps_of(model, {"rgb": rgb, "frequency": frequency}, 1, layers="both", method=method, batch_size=2)
    two = maps_of(model, (rgb, frequency), 1, layers="both", method=method)
    assert torch.allclose(one, two, atol=1e-6)
    assert one.any()


@pytest.mark.parametrize("channels", [1, 7])
def test_pictures_may_have_any_number_of_channels(channels, same):
    model, x = Classifier(channels), pictures(2, channels)
    same(maps_of(model, x, 1, layers="second"), replica.maps_of("grad-cam", model, x, "second", 1))


def test_a_volumes_map_is_that_of_its_cells_in_one_row(same):
    model, x = Volume(), torch.randn(2, 1, 7, 20, 26, generator=torch.Generator().manual_seed(1))
    found = activation_maps(model, x, 1, layers="first", method="grad-cam++")
    a = model.double().first(x.double()).detach().requires_grad_()
    (g,) = torch.autograd.grad(model.head(model.second(a.relu()).relu().mean((2, 3, 4)))[:, 1].sum(), a)
    flat = replica.sums(
        replica.TERMS["grad-cam++"](a.detach().flatten(2)[:, :, None], g.flatten(2)[:, :, None])
    )
    same(found.maps["first"], flat.reshape(2, 7, 10, 13))
    assert found.heatmaps().shape == (2, 7, 20, 26)


def test_volumes_can_be_smoothed_and_found(same):
    model, x = Volume(), torch.randn(1, 1, 7, 20, 26, generator=torch.Generator().manual_seed(1))
    plain = activation_maps(model, x, 1, layers="last", method="eigen-cam")
    assert list(plain.maps) == ["second"]
    a = model.second(model.first(x).relu()).detach().double()
    same(plain.maps["second"].flatten(1)[:, None], replica.component(a.flatten(2)[:, :, None]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["grad-cam", "eigen-grad-cam", "score-cam", "ablation-cam"])
def test_half_precision_is_computed_in_float32(method, dtype):
    model, x = Classifier().to(dtype), pictures().to(dtype)
    rounded = copy.deepcopy(model).float()
    with unchanged(model):
        found = maps_of(model, x, 1, layers="second", method=method)
    assert found.dtype == torch.float32
    assert torch.equal(found, maps_of(rounded, x.float(), 1, layers="second", method=method))


def test_a_network_of_float64_gives_float32_maps(same):
    model = Classifier().double()
    found = maps_of(model, pictures().double(), 1, layers="second")
    assert found.dtype == torch.float32
    same(found, replica.maps_of("grad-cam", model, pictures(), "second", 1))


def test_forward_may_be_any_callable(same):
    model, x = Classifier(), pictures()
    found = maps_of(model, x, lambda row: row, layers="second", forward=lambda x: 3 * model(x)[:, 1])
    same(found, 3 * maps_of(model, x, 1, layers="second"))


# --- wiring ----------------------------------------------------------------------------------------------


def test_a_shared_head_gives_a_map_for_every_level():
    """The score of the second level does not touch the head's first call; both are there, by name."""
    model, x = SharedHead(), pictures(1, size=(32, 48))
    found = activation_maps(
        model, x, lambda out: out["levels"][1][1, 2, 3], layers="head", method="hires-cam"
    )
    assert list(found.maps) == ["head#0", "head#1"]
    assert found.reached == {"head#0": torch.tensor([False]), "head#1": torch.tensor([True])}
    assert not found.maps["head#0"].any()
    assert found.maps["head#1"].shape[1:] == (8, 12)
    level = model(x)["levels"][1][0, 1].detach().clamp(min=0)
    expected = torch.zeros(8, 12)
    expected[2, 3] = level[2, 3]
    assert torch.allclose(found.maps["head#1"][0], expected)


def test_layers_that_pair_with_no_gradient_do_not_shift_the_others():
    """The score of the fine level depends on one of three layers: order asked for, values its own."""
    model, x = SharedHead(), pictures(1, size=(32, 48))
    fine = activation_maps(model, x, lambda out: out["levels"][0].sum(), layers=["coarse", "head", "fine"])
    assert list(fine.maps) == ["coarse", "head#0", "head#1", "fine"]
    assert {name for name, is_reached in fine.reached.items() if is_reached} == {"head#0", "fine"}
    alone = activation_maps(model, x, lambda out: out["levels"][0].sum(), layers="fine")
    assert torch.allclose(fine.maps["fine"], alone.maps["fine"])


def test_outputs_in_a_dict_are_told_apart(same):
    model, x = OfSeveral(), pictures(1, size=(32, 48))
    found = activation_maps(model, x, 1, layers="backbone", method="hires-cam")
    assert set(found.maps) == {"backbone[one]", "backbone[pool.0]"}
    chosen = activation_maps(model, x, 1, layers="backbone[pool.0]", method="hires-cam")
    same(chosen.maps["backbone[pool.0]"], found.maps["backbone[pool.0]"])
    a = model.backbone(x)["pool"][0].detach()
    peaks = model.head.weight[1, 4:, None, None] * a * (a == a.amax((2, 3), keepdim=True))
    same(chosen.maps["backbone[pool.0]"], peaks.sum(dim=1).clamp(min=0).detach())


def test_a_target_that_reaches_no_layer_names_them():
    model, x = SharedHead(), pictures(1, size=(32, 48))
    with pytest.raises(NoGradientError, match="coarse"):
        activation_maps(model, x, lambda out: out["levels"][0].sum(), layers="coarse")


def test_a_picture_whose_gradient_is_zero_is_named():
    """Not an all-zero map without a word."""
    targets = [ClassScore(1), lambda row: 0 * row[1]]
    with pytest.raises(NoGradientError, match="target of picture 1 is zero at norm, second: choose other"):
        activation_maps(Classifier(), pictures(), targets, layers=["norm", "second"])


def test_a_picture_that_one_of_the_layers_serves_is_no_error():
    def first_level(out):
        return out["levels"][0].sum()

    def second_level(out):
        return out["levels"][1].sum()

    model, x = SharedHead(), pictures(2, size=(32, 48))
    found = activation_maps(model, x, [first_level, second_level], layers=["fine", "coarse"])
    assert found.reached["fine"].tolist() == [True, True]
    assert found.reached["coarse"].tolist() == [False, True]
    assert not found.maps["coarse"][0].any()


def test_a_gradient_that_is_not_finite_is_an_error():
    with pytest.raises(NoGradientError, match="at layer 'second' is not finite"):
        activation_maps(
            Classifier(), pictures(), lambda row: (row[1] - row[1].detach()).sqrt(), layers="second"
        )


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "eigen-cam", "score-cam"])
def test_a_picture_that_is_not_finite_is_an_error_and_no_black_map(method):
    broken = pictures()
    broken[1, 0, 3, 3] = torch.nan
    with pytest.raises(CaptureError, match="the target of picture 1 is nan: check the input"):
        activation_maps(Classifier(), broken, 1, layers="second", method=method)


def test_a_layer_that_is_not_finite_is_named():
    broken = Classifier()
    broken.first.weight.data[2] = torch.inf
    with pytest.raises(CaptureError, match="layer 'first' gives NaN or infinite values"):
        activation_maps(broken, pictures(), lambda row: row.nan_to_num()[1], layers="first")


def test_a_target_that_is_no_scalar_shows_its_shape():
    with pytest.raises(ShapeError, match=r"0-dim tensor, got shape \(4,\)"):
        activation_maps(Classifier(), pictures(), lambda row: row, layers="second")


def test_one_target_in_a_list_is_not_for_three_pictures():
    with pytest.raises(InputError, match="one for each of the 3 pictures; got 1 targets"):
        activation_maps(Classifier(), pictures(3), [1], layers="second")


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_the_callers_mode_does_not_matter(mode):
    model, x = Classifier(), pictures()
    expected = maps_of(model, x, 1, layers="second")
    with mode(), unchanged(model):
        inside = x.clone()
        found = activation_maps(model, inside, 1, layers="second")
    assert torch.equal(found.maps["second"], expected)
    assert not found.maps["second"].is_inference()


def test_frozen_weights_and_training_mode_do_not_matter():
    model, x = Classifier(), pictures()
    expected = maps_of(model, x, 1, layers="second")
    model.requires_grad_(False)
    model.train()
    with unchanged(model):
        assert torch.equal(maps_of(model, x, 1, layers="second"), expected)


def test_a_frozen_backbone_under_a_trained_head_does_not_matter():
    model, x = Classifier(), pictures()
    expected = maps_of(model, x, 1, layers="norm")
    model.first.requires_grad_(False)
    model.norm.requires_grad_(False)
    assert torch.equal(maps_of(model, x, 1, layers="norm"), expected)


def test_wrapped_networks_give_the_maps_of_what_is_in_them():
    model, x = Classifier(), pictures()
    expected = maps_of(model, x, 1, layers="second")
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert torch.equal(maps_of(wrapped, x, 1, layers="second"), expected)
        assert torch.equal(maps_of(wrapped, x, 1, layers=model.second), expected)


def test_layers_may_carry_the_names_that_wrappers_give_them():
    model, x = Classifier(), pictures()
    expected = maps_of(model, x, 1, layers="second")
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(maps_of(nn.DataParallel(model), x, 1, layers="module.second"), expected)
    assert torch.equal(maps_of(compiled, x, 1, layers="_orig_mod.second"), expected)
    assert torch.equal(maps_of(nn.DataParallel(compiled), x, 1, layers="module._orig_mod.second"), expected)


# --- segmentation, embeddings, tokens ---------------------------------------------------------------------


def test_a_class_over_a_mask_of_a_dense_output(same):
    model, x = UNet(), pictures(1, size=(32, 48))
    mask = torch.zeros(32, 48)
    mask[3:9, 20:41] = 1
    found = maps_of(model, x, MaskedClass(1, mask, output="out"), layers="up1")
    one = model.down1(x).relu()
    a = torch.cat([one, F.interpolate(model.down2(one).relu(), (16, 24), mode="bilinear")], 1)
    a = model.up1(a).detach().requires_grad_()
    (g,) = torch.autograd.grad((F.interpolate(model.up2(a.relu()), (32, 48))[0, 1] * mask).sum(), a)
    same(found, replica.sums(replica.TERMS["grad-cam"](a.detach(), g)))


def test_a_dense_output_of_one_channel_may_be_summed_over_a_mask():
    """As a manipulation map: what lies outside the mask has no part in it, as far as the layers are local."""
    model, x = UNet(classes=1), pictures(1, size=(32, 48))
    mask = torch.zeros(32, 48)
    mask[:, :8] = 1
    found = maps_of(model, x, MaskScore(mask, output="out"), layers="up1", method="layer-cam")
    assert found[:, :, :4].any()
    assert not found[:, :, 4:].any()


def test_the_image_tower_of_two_towers_is_explained_by_a_text(same):
    model, x = TwoTowers(cells=6), pictures(2, size=(32, 48))
    text = model.encode_text(torch.tensor([[1, 4, 2]])).detach()[0]
    layer = "visual.blocks.1.norm1"
    found = maps_of(model, x, CosineSimilarity(text), layers=layer, forward=model.encode_image)
    again = maps_of(model, NetworkInputs((x,), {"ids": torch.tensor([[1, 4, 2]])}),
                    lambda row: row[0] / model.scale, layers=layer)  # fmt: skip
    same(found, again)
    assert found.shape == (2, 2, 3)


def test_the_map_of_a_tower_is_that_of_its_tokens_in_reading_order(same):
    model, x = Tower(cells=6), pictures(2, size=(32, 48))
    found = maps_of(model, x, 1, layers="blocks.1.norm1", method="hires-cam")
    tokens = model.patches(x).flatten(2).transpose(1, 2)
    tokens = model.blocks[0](torch.cat([model.token.expand(2, -1, -1), tokens], 1) + model.places)
    a = model.blocks[1].norm1(tokens).detach().requires_grad_()
    y = tokens.detach() + model.blocks[1].attention(a)
    score = model.head(model.norm(y + model.blocks[1].mlp(model.blocks[1].norm2(y)))[:, 0])[:, 1].sum()
    (g,) = torch.autograd.grad(score, a)
    rows = (a.detach() * g).sum(dim=2)[:, 1:].clamp(min=0)
    same(found, torch.stack([torch.stack([row[:3], row[3:]]) for row in rows]))


@pytest.mark.parametrize("grid", [(2, 3), TokenGrid((2, 3), skip=1)])
def test_a_given_grid_is_that_of_the_tokens(grid, same):
    model, x = Tower(cells=6), pictures(2, size=(32, 48))
    expected = maps_of(model, x, 1, layers="blocks.1.norm1")
    same(maps_of(model, x, 1, layers="blocks.1.norm1", grid=grid), expected)
    same(maps_of(model, x, 1, layers="last", grid=grid), expected)


@pytest.mark.parametrize("method", ["ablation-cam", "score-cam", "eigen-cam"])
def test_methods_of_many_passes_work_on_tokens(method):
    model, x = Tower(cells=6), pictures(2, size=(32, 48))
    found = maps_of(model, x, 1, layers="blocks.1.norm1", method=method, batch_size=3)
    if method == "ablation-cam":
        with torch.no_grad():
            tokens = model.patches(x).flatten(2).transpose(1, 2)
            tokens = model.blocks[0](torch.cat([model.token.expand(2, -1, -1), tokens], 1) + model.places)
            a, lost = model.blocks[1].norm1(tokens), []
            for channel in [None, *range(8)]:
                b = a.clone()
                if channel is not None:
                    b[:, 1:, channel] = 0  # the class token keeps its own
                y = tokens + model.blocks[1].attention(b)
                y = model.norm(y + model.blocks[1].mlp(model.blocks[1].norm2(y)))
                lost.append(model.head(y[:, 0])[:, 1])
            weights = (lost[0][:, None] - torch.stack(lost[1:], 1)) / lost[0].abs()[:, None]
            expected = (weights[:, None] * a[:, 1:]).sum(2).clamp(min=0).reshape(2, 2, 3)
        assert torch.allclose(found, expected, atol=1e-5)
    assert found.any()


def test_a_contrast_takes_the_others_off(same):
    model, x = Classifier(), pictures()
    a, b, c = torch.eye(4)[:3]
    found = maps_of(
        model, x, Contrast(a, torch.stack([b, c])), layers="second", method="grad-cam-elementwise"
    )

    def by_hand(row):
        row = F.normalize(row, dim=0)
        return row[0] - (row[1] + row[2]) / 2

    same(found, maps_of(model, x, by_hand, layers="second", method="grad-cam-elementwise"))


def test_a_binary_score_and_its_opposite_share_nothing():
    model, x = Classifier(classes=1), pictures()
    up, down = (
        maps_of(model, x, BinaryScore(positive), layers="second", method="hires-cam")
        for positive in (True, False)
    )
    assert up.any()
    assert down.any()
    assert not (up * down).any()


# --- the guest's coat ---------------------------------------------------------------------------------------


class TroubleError(Exception):
    """Raised on purpose."""


def failing(*_):
    raise TroubleError


@pytest.mark.parametrize("method", APPLICABLE)
@pytest.mark.parametrize("aug_smooth", [False, True])
def test_the_network_is_what_it_was_after_success(method, aug_smooth):
    model, x = Classifier().train(), pictures()
    before = x.clone()
    with unchanged(model):
        activation_maps(
            model, x, 1, layers=LAYER_OF.get(method, "second"), method=method, aug_smooth=aug_smooth
        )
    assert torch.equal(x, before)
    assert x.grad is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"layers": "seconds"}, UnknownNameError),
        ({"layers": nn.Conv2d(1, 1, 1)}, InputError),
        ({"layers": []}, InputError),
        ({"layers": "head"}, CaptureError),
        ({"method": "grad_cam"}, UnknownNameError),
        ({"target": failing}, TroubleError),
        ({"target": failing, "layers": "last"}, TroubleError),
        ({"target": 7}, InputError),
        ({"target": lambda row: row}, ShapeError),
        ({"target": failing, "method": "score-cam"}, TroubleError),
        ({"forward": failing}, TroubleError),
        ({"batch_size": 0, "method": "ablation-cam"}, InputError),
    ],
)
def test_the_network_is_what_it_was_after_any_failure(arguments, error):
    model = Classifier().train()
    arguments = {"target": 1, "layers": "second", **arguments}
    with unchanged(model), pytest.raises(error):
        activation_maps(model, pictures(), arguments.pop("target"), **arguments)


@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "ablation-cam"])
@pytest.mark.parametrize("layer", ["first", "silu", "head"])
@pytest.mark.parametrize("passes", [0, 2, 4])
def test_the_network_is_what_it_was_after_a_module_raised(layer, method, passes):
    """In the first pass, or in one of those that the method adds."""
    model = Classifier().train()
    count = iter(range(100))

    def fail_at(*_):
        if next(count) >= passes:
            raise TroubleError

    getattr(model, layer).register_forward_hook(fail_at)
    raised = False
    with unchanged(model):
        try:
            activation_maps(model, pictures(), 1, layers="norm", method=method, batch_size=2)
        except (TroubleError, CaptureError):
            raised = True
    assert raised or passes


def tensors_alive():
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


@pytest.mark.parametrize("method", APPLICABLE)
def test_calls_leave_nothing_behind(method):
    model, x, layer = Classifier(), pictures(), LAYER_OF.get(method, "second")

    def call():
        activation_maps(model, x, [1, None], layers=[layer, "last"] if method != "cam" else layer,
                        method=method, aug_smooth=method == "grad-cam")  # fmt: skip

    call()
    before = tensors_alive()
    for _ in range(3):
        call()
    assert tensors_alive() <= before


def test_failed_calls_leave_nothing_behind():
    model, x = Classifier(), pictures()

    def call():
        with pytest.raises(TroubleError):
            activation_maps(model, x, failing, layers="last")

    call()
    before = tensors_alive()
    for _ in range(3):
        call()
    assert tensors_alive() <= before


def test_maps_hold_no_graph():
    found = activation_maps(Classifier(), pictures(), 1, layers="second")
    assert not found.maps["second"].requires_grad
    assert not found.values.requires_grad


def test_random_numbers_do_not_depend_on_the_callers(same):
    model, x = Classifier(), pictures()
    torch.manual_seed(1)
    first = maps_of(model, x, 1, layers="second", method="random")
    torch.manual_seed(2)
    same(maps_of(model, x, 1, layers="second", method="random"), first)
