"""Layers by module, name and pattern, and those that are found, in networks as they are published."""

import pytest
import torch
import torchvision
from small_networks import Attention, Classifier, SharedHead, Tower, UNet, pictures
from torch import nn
from torchvision.models import segmentation

from detcam.cam.capture import borrowed
from detcam.cam.layers import FOUND, named_layers, select_layers, shift_of
from detcam.cam.network import activation_maps
from detcam.cam.targets import MaskedClass, TopClass
from detcam.cam.tokens import InputFrame
from detcam.errors import CaptureError, InputError, UnknownNameError


def no_probe():
    raise AssertionError("nobody asked for layers to be found")


def chosen(model, layers):
    return list(select_layers(model, layers, InputFrame(1, (32, 48)), no_probe))


def found(model, layers, x, target=None):
    """Names of the layers that are found, and the strides of their maps."""
    result = activation_maps(model, x, target, layers=layers, method="eigen-cam")
    return {name: round(x.shape[-1] / one.shape[-1]) for name, one in result.maps.items()}


# --- asked for ------------------------------------------------------------------------------------------


def test_a_layer_may_be_a_module_or_a_name():
    model = Tower(cells=6)
    assert select_layers(model, model.blocks[1].norm1, InputFrame(1, (32, 48)), no_probe) == {
        "blocks.1.norm1": model.blocks[1].norm1
    }
    assert chosen(model, "blocks.1.norm1") == ["blocks.1.norm1"]
    assert chosen(model, ["norm", model.patches, "blocks.0"]) == ["norm", "patches", "blocks.0"]


def test_a_pattern_is_all_that_it_matches():
    assert chosen(Tower(cells=6), "blocks.*.norm?") == [
        "blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2",
    ]  # fmt: skip
    assert chosen(Tower(cells=6), "blocks.[1].norm1") == ["blocks.1.norm1"]


def test_a_module_under_two_names_may_be_asked_for_by_either():
    model = Classifier()
    model.again = model.second
    assert select_layers(model, "again", InputFrame(1, (32, 48)), no_probe) == {"again": model.second}
    assert chosen(model, "*") == ["first", "relu", "norm", "second", "silu", "head"]


def test_what_is_no_layer_says_what_it_is():
    with pytest.raises(InputError, match="got a int"):
        chosen(Classifier(), [3])


def test_a_layer_asked_for_twice_is_there_once():
    model = Classifier()
    assert chosen(model, ["first", model.first, "f*"]) == ["first"]


def test_a_name_may_ask_for_one_call_or_one_output():
    model = SharedHead()
    assert named_layers(model, "head#1") == {"head#1": model.head}
    assert named_layers(model, "head[0]") == {"head[0]": model.head}


@pytest.mark.parametrize(
    ("name", "closest"),
    [("secnd", "'second'"), ("laast", "'last'"), ("stage", "'stages'"), ("Head", "'head'")],
)
def test_an_unknown_name_offers_the_closest(name, closest):
    with pytest.raises(UnknownNameError, match=f"no layer '{name}'.*{closest}"):
        chosen(Classifier(), name)


def test_a_pattern_that_matches_nothing_is_an_unknown_name():
    with pytest.raises(UnknownNameError, match=r"no layer 'blocks\.\*'"):
        chosen(Classifier(), "blocks.*")


def test_a_module_of_another_network_is_refused():
    with pytest.raises(InputError, match="layer Conv2d is not part of this Classifier"):
        chosen(Classifier(), Classifier().first)


def test_the_network_itself_is_no_layer_of_it():
    model = Classifier()
    with pytest.raises(InputError, match="layer Classifier is not part of this Classifier"):
        chosen(model, model)


def test_no_layers_are_an_error():
    with pytest.raises(InputError, match="name layers, patterns, or one of last, stages"):
        chosen(Classifier(), [])


def test_wrappers_names_are_taken_off_only_where_they_are_no_parts():
    model = nn.Module()
    model.module = Classifier()
    assert chosen(model, "module.first") == ["module.first"]
    assert chosen(model.module, "module.first") == ["first"]
    with pytest.raises(UnknownNameError):
        chosen(model.module, "modules.firsts")


# --- found ----------------------------------------------------------------------------------------------


def test_the_last_layer_is_called_once_for_all_keys_of_a_name():
    model = Classifier()
    x, runs = pictures(1, size=(32, 48)), []

    def probe():
        runs.append(1)
        output = model(x.requires_grad_())
        return output, output.amax()

    with borrowed(model), torch.enable_grad():
        assert list(select_layers(model, "last", InputFrame(1, (32, 48)), probe)) == ["silu"]
    assert len(runs) == 1


PUBLISHED = {
    "resnet18": (
        torchvision.models.resnet18, "layer4",
        {"relu": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32},
    ),
    "densenet121": (
        torchvision.models.densenet121, "features",
        {"features.relu0": 2, "features.denseblock1": 4, "features.denseblock2": 8,
         "features.denseblock3": 16, "features": 32},
    ),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, "features", [2, 4, 8, 16, 32]),
    "convnext_tiny": (
        torchvision.models.convnext_tiny, "features", [4, 8, 16, 32],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_last_layer_and_the_stages_of_published_classifiers(name):
    make, last, strides = PUBLISHED[name]
    torch.manual_seed(0)
    model, x = make(weights=None), pictures(1, size=(64, 96))
    assert found(model, "last", x) == {last: 32}
    stages = found(model, "stages", x)
    assert list(stages.values()) == sorted(stages.values())
    if isinstance(strides, dict):
        assert stages == strides
    else:
        assert list(stages.values()) == strides


def test_the_last_layer_and_the_stages_of_vgg():
    torch.manual_seed(0)
    model = nn.Sequential(torchvision.models.vgg11(weights=None, init_weights=False).features, nn.Flatten(),
                          nn.Linear(512 * 6, 4))  # fmt: skip
    x = pictures(1, size=(64, 96))
    assert found(model, "last", x) == {"0": 32}
    assert found(model, "stages", x) == {"0.1": 1, "0.4": 2, "0.9": 4, "0.14": 8, "0.19": 16, "0": 32}


def small_vit():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=32, num_classes=5
    )
    nn.init.normal_(model.heads.head.weight)  # torchvision's are all zero: no class has a gradient
    return model


def small_swin():
    torch.manual_seed(0)
    return torchvision.models.SwinTransformer(
        patch_size=[4, 4], embed_dim=12, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 6], window_size=[7, 7],
        num_classes=5,
    )  # fmt: skip


def test_the_last_layer_of_a_vit_is_the_norm_before_the_last_attention():
    """Behind it only the class token counts."""
    assert found(small_vit(), "last", pictures(1, size=(64, 64))) == {
        "encoder.layers.encoder_layer_1.ln_1": 16
    }
    assert found(Tower(cells=6), "last", pictures(1, size=(32, 48))) == {"blocks.1.norm1": 16}


def test_a_vit_whose_head_is_zero_says_that_nothing_depends_on_its_layers():
    model = small_vit()
    nn.init.zeros_(model.heads.head.weight)
    with pytest.raises(CaptureError, match="no layer gives a grid of cells that the target depends on"):
        found(model, "last", pictures(1, size=(64, 64)))


def test_the_shares_of_attention_are_no_maps():
    """(B, heads, N, N) lies over a square picture as feature maps do, in steps of a pixel or so."""
    model = nn.Sequential(nn.Conv2d(3, 8, 16, 16), nn.Flatten(2), Transposed(), Attention(8), Averaged())
    assert "3.attend" not in found(model, "stages", pictures(1, size=(80, 80)))
    assert set(found(model, "last", pictures(1, size=(80, 80)))) & {"2", "3"}


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class Averaged(nn.Module):
    def forward(self, x):
        return x.mean(dim=1)


def test_the_last_layer_and_the_stages_of_a_swin():
    model, x = small_swin(), pictures(1, size=(64, 96))
    assert found(model, "last", x) == {"permute": 32}
    assert list(found(model, "stages", x).values()) == [4, 8, 16, 32]


def test_the_last_layer_of_a_dense_network_is_not_its_output():
    model, x = UNet(), pictures(1, size=(32, 48))
    target = MaskedClass(1, output="out")
    assert found(model, "last", x, target) == {"up1": 2}
    assert found(model, "stages", x, target) == {"up1": 2, "down2": 4}


def test_the_last_layer_of_deeplab_explains_a_mask():
    torch.manual_seed(0)
    model = segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    x = pictures(1, size=(64, 96))
    mask = torch.zeros(64, 96)
    mask[10:50, 20:60] = 1
    (name,) = found(model, "last", x, MaskedClass(1, mask, output="out"))
    assert name == "classifier.3"
    result = activation_maps(model, x, MaskedClass(1, mask, output="out"), layers=name)
    assert result.maps[name].any()


def test_layers_behind_the_target_are_not_found():
    model, x = SharedHead(), pictures(1, size=(32, 48))
    assert found(model, "last", x, lambda out: out["levels"][0].sum()) == {"fine": 2}


def test_a_layer_that_is_found_may_run_several_times():
    model, x = SharedHead(), pictures(1, size=(32, 48))
    assert found(model, "head", x, lambda out: out["levels"][1].sum()) == {"head#0": 2, "head#1": 4}


def test_a_network_without_a_grid_says_so():
    with pytest.raises(CaptureError, match="no layer gives a grid of cells that the target depends on"):
        found(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 48, 2)), "last", pictures(1, size=(32, 48)))


class Detached(Classifier):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


def test_a_network_that_detaches_what_it_computes_says_so():
    with pytest.raises(CaptureError, match="detaches what it computes"):
        found(Detached(), "last", pictures(1, size=(32, 48)))


class Detr(nn.Module):
    """An encoder over cells in a sequence, and a decoder of queries."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 32, 32)
        layer = nn.TransformerEncoderLayer(16, 2, 32)
        encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.transformer = nn.Transformer(16, 2, 2, 2, 32, custom_encoder=encoder)
        self.queries, self.head = nn.Parameter(torch.randn(100, 1, 16)), nn.Linear(16, 5)

    def forward(self, x):
        cells = self.patches(x).flatten(2).permute(2, 0, 1)
        queries = self.transformer(cells, self.queries.expand(-1, len(x), -1))
        return self.head(queries).transpose(0, 1)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_last_layer_of_a_detr_is_its_encoder_and_not_its_queries(batch):
    x = pictures(batch, size=(224, 256))
    assert found(Detr(), "last", x, lambda out: out[3, 1]) == {"transformer.encoder": 32}


def test_shifted_windows_are_known_by_the_block_they_are_in():
    swin = small_swin()
    assert shift_of(swin, "features.1.0.attn.proj") == 0
    assert shift_of(swin, "features.1.1.attn.proj#1[0]") == 3
    assert shift_of(swin, "features.0") == 0
    assert shift_of(swin, "norm") == 0


def test_every_way_to_find_layers_has_a_name():
    model, x = Classifier(), pictures(1, size=(32, 48))
    for key in FOUND:
        assert found(model, key, x, TopClass())


class StagesInOne(nn.Module):
    """A stem, and all stages in a container of their own, as timm's Swin and PVT have them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 2, 2), nn.ReLU()),
            nn.Sequential(nn.Conv2d(4, 4, 2, 2), nn.ReLU()),
        )

    def forward(self, x):
        return self.stages(self.stem(x)).mean(dim=(2, 3))


def test_a_container_of_all_stages_hides_none_of_them():
    torch.manual_seed(0)
    maps = activation_maps(StagesInOne(), torch.randn(1, 3, 64, 64), 0, layers="stages")
    assert list(maps.maps) == ["stages.0", "stages.1", "stages"]
