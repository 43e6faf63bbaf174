"""Each layer against the arithmetic its name stands for, with parts whose effect is plain to see."""

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from detcam.adapters import yolov5_modules as ours
from detcam.adapters.yolov5_checkpoint import MODULES


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def made(name, **attributes):
    """An object as the checkpoint reader makes it: empty, then given its attributes."""
    kind = MODULES[name]
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    for attribute, value in attributes.items():
        setattr(layer, attribute, Times(value) if isinstance(value, int) and attribute[:2] == "cv" else value)
    return layer


def ones(*shape):
    return torch.ones(shape)


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def channels(x):
    """The values of one pixel's channels; every pixel must be alike."""
    assert (x == x[..., :1, :1]).all()
    return x[0, :, 0, 0].tolist()


def test_every_class_is_known_by_the_name_people_look_for():
    assert all(kind.__name__ == name.rpartition(".")[2] for name, kind in MODULES.items())
    assert {"models.common.C3", "models.yolo.IAuxDetect", "models.experimental.GhostConv"} <= MODULES.keys()


def test_a_convolution_is_normalised_then_activated():
    layer = made("models.common.Conv", conv=Times(3), bn=Times(-1), act=nn.ReLU())
    assert channels(layer(-ones(1, 1, 2, 2))) == [3]


def test_a_fused_convolution_has_no_normalisation():
    layer = made("models.common.Conv", conv=Times(3), act=nn.ReLU())
    assert channels(layer(ones(1, 1, 2, 2))) == [3]
    assert channels(layer.forward_fuse(ones(1, 1, 2, 2))) == [3]


@pytest.mark.parametrize(("is_added", "value"), [(True, 7), (False, 6)])
def test_a_bottleneck_adds_its_input_if_it_may(is_added, value):
    assert channels(made("models.common.Bottleneck", cv1=2, cv2=3, add=is_added)(ones(1, 1, 2, 2))) == [value]


@pytest.mark.parametrize(("is_added", "value"), [(True, 31), (False, 30)])
def test_a_residual_bottleneck_has_three_layers(is_added, value):
    layer = made("models.common.Res", cv1=2, cv2=3, cv3=5, add=is_added)
    assert channels(layer(ones(1, 1, 2, 2))) == [value]


def test_a_ghost_convolution_makes_its_second_half_of_the_first():
    assert channels(made("models.common.GhostConv", cv1=2, cv2=5)(ones(1, 1, 2, 2))) == [2, 10]


def test_a_ghost_bottleneck_sums_two_paths():
    layer = made("models.common.GhostBottleneck", conv=Times(2), shortcut=Times(5))
    assert channels(layer(ones(1, 1, 2, 2))) == [7]


# cv1 = ·2, m = ·3, cv2 = ·5, then ·7 and ·11 where there are more, on ones.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C3", [42, 35]),  # 2·3·7, 5·7
        ("BottleneckCSPA", [42, 35]),
        ("BottleneckCSPB", [42, 70]),  # 2·3·7, 2·5·7
        ("BottleneckCSPC", [462, 55]),  # 2·3·7·11, 5·11
    ],
)
def test_partial_networks_join_their_two_paths(name, expected):
    more = {"cv4": 11} if name.endswith("C") else {}
    layer = made(f"models.common.{name}", cv1=2, cv2=5, cv3=7, m=Times(3), **more)
    assert channels(layer(ones(1, 1, 2, 2))) == expected


def test_the_older_partial_network_normalises_and_activates_both_paths():
    layer = made("models.common.BottleneckCSP", cv1=2, cv2=5, cv3=7, cv4=11, m=Times(3), bn=Times(-1))
    layer.act = nn.LeakyReLU(0.5)
    assert channels(layer(ones(1, 1, 2, 2))) == [-231, -27.5]  # 2·3·7 and 5, ·-1, ·.5, ·11


def test_serial_pooling_sees_what_parallel_pooling_sees():
    # A 5x5 window applied twice and three times sees 9x9 and 13x13.
    pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
    parallel = made("models.common.SPP", cv1=1, cv2=2, m=pools)
    serial = made("models.common.SPPF", cv1=1, cv2=2, m=nn.MaxPool2d(5, 1, 2))
    x = random(1, 3, 17, 19)
    expected = torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13))], 1) * 2
    assert torch.equal(parallel(x), expected)
    assert torch.equal(serial(x), expected)


def test_partial_pyramid_pooling_pools_on_one_path():
    layer = made("models.common.SPPCSPC", cv1=2, cv2=3, cv3=5, cv4=7, cv5=11, cv6=13, cv7=1)
    layer.m = nn.ModuleList([Times(10)])
    assert channels(layer(ones(1, 1, 2, 2))) == [70 * 143, 700 * 143, 3]


@pytest.mark.parametrize(("name", "parts"), [("Focus", {"conv": Times(1)}), ("ReOrg", {})])
def test_squares_become_channels_even_columns_first(name, parts):
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(3, 2)[None, None]
    assert channels(made(f"models.common.{name}", **parts)(x)) == [0, 2, 1, 3]


def test_contraction_orders_channels_by_place_in_the_square_and_expansion_undoes_it():
    x = random(2, 3, 4, 6)
    contracted = made("models.common.Contract", gain=2)(x)
    places = [x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    assert torch.equal(contracted, torch.cat(places, 1))
    assert torch.equal(made("models.common.Expand", gain=2)(contracted), x)


def test_a_stem_convolves_and_pools():
    layer = made("models.common.Stem", cv1=2, cv2=3, cv3=5, cv4=7, pool=Times(11))
    assert channels(layer(ones(1, 1, 2, 2))) == [210, 154]


def test_a_downsampling_convolves_and_pools():
    layer = made("models.common.DownC", cv1=2, cv2=3, cv3=5, mp=Times(7))
    assert channels(layer(ones(1, 1, 2, 2))) == [6, 35]


def test_inputs_are_joined_by_halves_by_sum_or_side_by_side():
    first = torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    second = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)
    assert channels(made("models.common.Concat", d=1)([first, second])) == [1, 2, 3, 4]
    assert channels(made("models.common.Chuncat", d=1)([first, second])) == [1, 3, 2, 4]
    assert channels(made("models.common.Shortcut", d=0)([first, second])) == [4, 6]
    assert channels(made("models.common.Foldcut", d=0)(second)) == [7]


def test_pooling_is_the_pooling_inside():
    assert channels(made("models.common.MP", m=Times(3))(ones(1, 1, 2, 2))) == [3]


@pytest.mark.parametrize(("identity", "expected"), [(Times(11), 16), (None, 5)])
def test_a_reparameterised_convolution_sums_its_paths(identity, expected):
    layer = made("models.common.RepConv", rbr_dense=Times(2), rbr_1x1=Times(3), rbr_identity=identity)
    layer.act = nn.ReLU()
    assert channels(layer(ones(1, 1, 2, 2))) == [expected]
    assert channels(layer(-ones(1, 1, 2, 2))) == [0]


def test_a_merged_convolution_is_one_path():
    layer = made("models.common.RepConv", rbr_reparam=Times(5), act=nn.ReLU())
    assert channels(layer(ones(1, 1, 2, 2))) == [5]


def test_implicit_knowledge_is_added_or_multiplied():
    implicit = nn.Parameter(torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1))
    x = 5 * ones(1, 2, 2, 2)
    assert channels(made("models.common.ImplicitA", implicit=implicit)(x)) == [7, 8]
    assert channels(made("models.common.ImplicitM", implicit=implicit)(x)) == [10, 15]


def test_a_transformer_treats_cells_as_tokens():
    torch.manual_seed(0)
    parts = {name: nn.Linear(4, 4, bias=False) for name in ("q", "k", "v", "fc1", "fc2")}
    attention = nn.MultiheadAttention(4, 2)
    layer = made("models.common.TransformerLayer", ma=attention, **parts)
    place = nn.Linear(4, 4)
    block = made("models.common.TransformerBlock", conv=None, linear=place, tr=nn.Sequential(layer), c2=4)
    x = random(2, 4, 3, 5)
    for b in range(2):
        tokens = torch.stack([x[b, :, row, column] for row in range(3) for column in range(5)])[:, None]
        tokens = tokens + place(tokens)
        y = tokens + attention(*(parts[name](tokens) for name in "qkv"))[0]
        y = (y + parts["fc2"](parts["fc1"](y)))[:, 0]
        torch.testing.assert_close(block(x)[b], y.T.reshape(4, 3, 5), rtol=0, atol=1e-5)


def test_activations_of_older_releases():
    x = torch.tensor([-4.0, -1.0, 0.0, 1.0, 4.0])
    softplus = torch.log1p(torch.exp(x))
    torch.testing.assert_close(made("utils.activations.Mish")(x), x * torch.tanh(softplus))
    funnel = made("utils.activations.FReLU", conv=Times(2), bn=Times(-1))
    assert funnel(x).tolist() == [8, 2, 0, 1, 4]  # max(x, -2x)


def test_a_head_gives_raw_maps_and_leaves_auxiliary_inputs_alone():
    head = made("models.yolo.IAuxDetect", m=nn.ModuleList([Times(2), Times(3)]))
    x = [ones(1, 1, 2, 2)] * 4
    assert [channels(y) for y in head(x)] == [[2], [3]]


def test_an_implicit_head_adds_before_and_multiplies_behind():
    implicit = nn.Parameter(7 * ones(1, 1, 1, 1))
    head = made("models.yolo.IDetect", m=nn.ModuleList([Times(2)]))
    head.ia = nn.ModuleList([made("models.common.ImplicitA", implicit=implicit)])
    head.im = nn.ModuleList([made("models.common.ImplicitM", implicit=implicit)])
    assert channels(head([ones(1, 1, 2, 2)])[0]) == [112]  # (1 + 7)·2·7


def numbered(*plan):
    for i, (source, layer) in enumerate(plan):
        layer.f, layer.i = source, i
    return made("models.yolo.Model", model=nn.Sequential(*(layer for _, layer in plan)))


def test_a_graph_reads_earlier_layers_by_number_and_relative_to_its_place():
    concat = made("models.common.Concat", d=1)
    graph = numbered((-1, Times(2)), (-1, Times(3)), (0, Times(5)), ([-1, 1, -3], concat))
    assert channels(graph(ones(1, 1, 2, 2))) == [10, 6, 2]


def test_a_graph_can_read_the_picture_again():
    graph = numbered((-1, Times(2)), ([-2, 0], made("models.common.Concat", d=1)))
    assert channels(graph(ones(1, 1, 2, 2))) == [1, 2]


def test_a_graph_lets_go_of_outputs_that_nothing_reads_any_more():
    alive = []

    class Watching(Times):
        def forward(self, x):
            alive.append(sum(1 for reference in references if reference() is not None))
            return super().forward(x)

    references = []
    layers = [Watching(2) for _ in range(4)]
    for layer in layers:
        layer.register_forward_hook(lambda _module, _inputs, y: references.append(weakref.ref(y)))
    with torch.no_grad():
        numbered(*((-1, layer) for layer in layers))(ones(1, 1, 2, 2))
    assert max(alive) == 1


def test_sources_of_a_layer_are_counted_from_the_start():
    layer = Times(1)
    layer.f = [-1, 2, -3]
    assert list(ours.sources_of(layer, 7)) == [6, 2, 4]
