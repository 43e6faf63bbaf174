"""A network run again from a layer on gives, number for number, what the full network gives."""

from __future__ import annotations

import io

import pytest
import torch
from guests_coat import unchanged
from replayed_networks import (
    HARD_NETWORKS,
    CalledTwice,
    GivesSeveral,
    LayerCalledTwice,
    Small,
    TakesSeveral,
    full,
    lively,
    random_outputs,
    small_picture,
)
from torch import Tensor, nn

from detcam.cam.capture import observe
from detcam.cam.replay import replayed


class TroubleError(Exception):
    """What a module of the network raises in these tests."""


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def check_exact(model: nn.Module, layer: str, picture: Tensor, run=None, copies: int = 3) -> None:
    run = run or (lambda pictures: model(pictures).T)
    with replayed(model, layer, run, picture) as replay:
        output = random_outputs(replay, copies)
        found = [
            replay(output.clone(), copies) for _ in range(2)
        ]  # nothing of the first is left in the second
        expected = full(model, layer, output, run, picture.repeat(copies, 1, 1, 1))
    tolerance = 1e-5 * expected.abs().amax()
    assert expected.std(dim=1).amax() > 100 * tolerance  # else this test could not fail
    for one in found:
        torch.testing.assert_close(one, expected, rtol=0, atol=float(tolerance))


# --- Exactness ---


@pytest.mark.parametrize("network", HARD_NETWORKS)
def test_hard_networks_give_what_the_full_network_gives(network):
    picture = small_picture()
    before = picture.clone()
    check_exact(network().eval(), "layer", picture)
    assert torch.equal(picture, before)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("resnet18", "layer3.0.conv2"),
        ("resnet18", "layer3.0.downsample"),
        ("resnet18", "layer2.1.bn1"),
        ("densenet121", "features.denseblock3.denselayer4.conv1"),
        ("densenet121", "features.norm5"),
        ("mobilenet_v3_small", "features.5.block.1"),
        ("mobilenet_v3_small", "features.4.block.2.fc1"),
    ],
)
def test_torchvisions_networks_give_what_the_full_network_gives(name, layer):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    picture = torch.randn(1, 3, 64, 96)
    model = lively(models.get_model(name, weights=None), picture)
    check_exact(model, layer, picture, lambda pictures: model(pictures)[:, :3].T)


@pytest.fixture(scope="module")
def yolo() -> nn.Module:
    vendor = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save(lively(vendor.YOLO("yolov8n.yaml").model, torch.zeros(1, 3, 96, 64)), file)
    file.seek(0)
    return torch.load(file, weights_only=False).eval()


@pytest.mark.parametrize(
    "layer", ["model.2", "model.4.m.0.cv1", "model.9.cv2", "model.12", "model.21", "model.22.cv3.1.0"]
)
def test_a_detector_that_was_saved_gives_what_the_full_network_gives(yolo, layer):
    torch.manual_seed(1)

    def logits(pictures: Tensor) -> Tensor:
        with observe({str(i): branch[-1] for i, branch in enumerate(yolo.model[-1].cv3)}) as seen:
            yolo(pictures)
        return torch.cat([seen[str(i)].flatten(1) for i in range(3)], dim=1)[:, ::97].T

    check_exact(yolo, layer, torch.rand(1, 3, 96, 64), logits)


def test_hooks_of_others_inside_earlier_modules_still_fire():
    model = Small(middle=nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1))).eval()

    def with_side_product(pictures: Tensor) -> Tensor:
        with observe({"inner": model.middle[0]}) as seen:
            scores = model(pictures)
        return scores.T + seen["inner"].mean(dim=(1, 2, 3))

    check_exact(model, "layer", small_picture(), with_side_product)


@pytest.mark.parametrize("call", [0, 1])
def test_one_of_several_calls_of_the_layer_is_replaced(call):
    model, picture = LayerCalledTwice().eval(), small_picture()
    with replayed(model, f"layer#{call}", lambda pictures: model(pictures).T, picture) as replay:
        output = random_outputs(replay, 2)
        found = replay(output.clone(), 2)
        expected = full(model, "layer", output, replay.run, picture.repeat(2, 1, 1, 1), call)
    torch.testing.assert_close(found, expected)
    assert replay.output().shape[-1] == (8, 4)[call]


@pytest.mark.parametrize("place", ["fine", "coarse.0"])
def test_one_of_several_tensors_of_the_layer_is_replaced(place):
    model, picture = GivesSeveral().eval(), small_picture()
    with replayed(model, f"layer[{place}]", lambda pictures: model(pictures).T, picture) as replay:
        output = random_outputs(replay, 2)
        found = replay(output.clone(), 2)
        with torch.no_grad():
            parts = model.layer(model.middle(model.stem(picture.repeat(2, 1, 1, 1))))
            fine = output if place == "fine" else parts["fine"]
            coarse = output if place == "coarse.0" else parts["coarse"][0]
            expected = (model.scores(model.after(fine)) + 7 * model.scores(coarse)).T
    torch.testing.assert_close(found, expected)


def test_inputs_may_be_nested_and_go_by_name():
    model = TakesSeveral().eval()
    torch.manual_seed(0)
    picture, heat, scale = torch.randn(1, 3, 8, 8), torch.randn(1, 1, 8, 8), torch.rand(1, 3)
    inputs = {"x": picture, "heat": heat, "extra": {"scale": scale, "name": "night"}}
    with replayed(model, "layer", lambda given: model(**given).T, inputs) as replay:
        output = random_outputs(replay, 2)
        found = replay(output.clone(), 2)
        both = {"heat": heat.repeat(2, 1, 1, 1), "extra": {"scale": scale.repeat(2, 1)}}
        run = lambda pictures: model(pictures, **both).T  # noqa: E731
        torch.testing.assert_close(found, full(model, "layer", output, run, picture.repeat(2, 1, 1, 1)))


def test_the_recorded_pass_is_the_networks_own():
    model, picture = Small().eval(), small_picture()
    with replayed(model, "layer", lambda pictures: model(pictures).T, picture) as replay, torch.no_grad():
        torch.testing.assert_close(replay.scores, model(picture).T)
        torch.testing.assert_close(replay(replay.output(4), 4), replay.scores.expand(-1, 4))
        torch.testing.assert_close(replay.output(), model.layer(model.middle(model.stem(picture))))


# --- What is computed ---


class Counted(nn.Conv2d):
    runs: list[tuple[int, str]] = []  # noqa: RUF012  # on the class, to leave the modules as they are

    def __init__(self, name, channels_in=4):
        super().__init__(channels_in, 4, 3, padding=1)
        self.name = name

    def forward(self, x):
        Counted.runs.append((len(x), self.name))
        return super().forward(x)


def test_only_what_lies_behind_the_layer_is_computed():
    names = {"stem": 3, "middle": 4, "layer": 4, "after": 4}
    model = Small(**{name: Counted(name, channels) for name, channels in names.items()}).eval()
    with replayed(model, "layer", lambda pictures: model(pictures).T, small_picture()) as replay:
        Counted.runs.clear()
        replay(replay.output(16), 16)
        assert Counted.runs == [(16, "after")]


def test_a_module_that_is_used_before_and_after_the_layer_is_computed_after_it_only():
    model = CalledTwice()
    model.middle = Counted("middle")
    with replayed(model, "layer", lambda pictures: model(pictures).T, small_picture()) as replay:
        Counted.runs.clear()
        replay(replay.output(5), 5)
        assert Counted.runs == [(5, "middle")] * 2


def test_no_graph_is_built():
    model, modes = Small(), set()

    def run(pictures: Tensor) -> Tensor:
        modes.add(torch.is_grad_enabled())
        return model(pictures).T

    with replayed(model, "layer", run, small_picture().requires_grad_()) as replay:
        replay(replay.output(2), 2)
    assert modes == {False}


@pytest.mark.parametrize("middle", [nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)], ids=["beside", "in place"])
def test_what_ran_before_the_layer_is_one_picture_in_memory(middle):
    model = Small(middle=middle)
    seen = []

    def forward(pictures: Tensor) -> Tensor:
        x = model.middle(model.stem(pictures))
        seen.append(x.stride(0))
        return model.scores(model.layer(x)).T

    with replayed(model, "layer", forward, small_picture()) as replay:
        replay(replay.output(16), 16)
    assert seen[-1] == 0


# --- The guest's coat ---


@pytest.mark.parametrize("network", HARD_NETWORKS)
def test_success_leaves_the_network_as_it_was(network):
    model = network()
    with unchanged(model):
        with replayed(model, "layer", lambda pictures: model(pictures).T, small_picture()) as replay:
            replay(replay.output(3), 3)
        assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("passes", range(5))
@pytest.mark.parametrize("trouble", [TroubleError, KeyboardInterrupt])
def test_trouble_in_any_pass_leaves_the_network_as_it_was(passes, trouble):
    # One pass to record, one of two pictures, one to check, then the caller's.
    model, runs = Small(), []

    def run(pictures: Tensor) -> Tensor:
        scores = model(pictures)
        runs.append(len(pictures))
        if len(runs) == passes + 1:
            raise trouble
        return scores.T

    def all_passes() -> None:
        with replayed(model, "layer", run, small_picture()) as replay:
            replay(replay.output(3), 3)
            replay(replay.output(2), 2)

    own = [dict(vars(module)) for module in model.modules()]
    with unchanged(model), pytest.raises(trouble):
        all_passes()
    assert [list(vars(module)) for module in model.modules()] == [list(one) for one in own]
    assert runs == [1, 2, 2, 3, 2][: passes + 1]


def test_between_two_passes_the_network_is_the_callers():
    model, picture = Small().eval(), small_picture()
    with torch.no_grad():
        expected = model(picture)
    with replayed(model, "layer", lambda pictures: model(pictures).T, picture) as replay:
        replay(0 * replay.output(3), 3)
        assert torch.equal(model(picture), expected)
        assert not any("forward" in vars(module) for module in model.modules())
