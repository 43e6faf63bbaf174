"""What a user says about a model: every family uses it or refuses it, and a wrong count is told."""

import copy

import pytest
import small_yolo
import torch
from small_detectors import KINDS
from torch import nn

import detcam
from detcam.adapters import ADAPTERS, LoadOptions
from detcam.adapters.base import device_of
from detcam.adapters.options import PERMISSIONS
from detcam.cli import main
from detcam.errors import InputError, UnknownNameError, UnsupportedModelError

SAID = {
    "branch": "one2many",
    "cfg": "yolo.cfg",
    "names": ("a", "b", "c"),
    "num_classes": 3,
    "anchors": ((1.0, 2.0),),
    "arch": "ssd300_vgg16",
    "layout": "anchor-maps",
    "allow_globals": ("lab.Block",),
    "unsafe": True,
}
FAMILIES = {kind.family: name for name, kind in reversed(KINDS.items()) if kind.family in ADAPTERS}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    made = {}

    def get(family):
        if family not in made:
            with torch.random.fork_rng(devices=[]):
                kind = KINDS[FAMILIES[family]]
                made[family] = kind.build(7, tmp_path_factory.mktemp("small"))
        return made[family]

    return get


def test_every_field_of_the_options_has_a_value_here_and_a_family_or_none():
    assert set(SAID) == set(LoadOptions.__dataclass_fields__)
    used = {name for family in ADAPTERS.values() for name in family.uses | family.file_uses}
    assert used | PERMISSIONS | {"layout"} == set(SAID)


# --- one check for all families ---


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_does_not_use_of_a_live_model_is_refused(small, family, name):
    if name in ADAPTERS[family].uses:
        return
    one = small(family)
    with pytest.raises(InputError, match=f"{family} takes no --{name.replace('_', '-')[:5]}") as caught:
        detcam.wrap(one.model, **{**one.options, name: SAID[name]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("family", [name for name, family in ADAPTERS.items() if family.load])
def test_what_a_family_does_not_use_of_a_file_is_refused(small, family, name):
    entry, one = ADAPTERS[family], small(family)
    if one.file is None or name in entry.uses | entry.file_uses | PERMISSIONS:
        return
    with pytest.raises(InputError, match=f"{family} takes no --{name.replace('_', '-')}"):
        detcam.load(one.file, device="cpu", **{**one.load, name: SAID[name]})


def test_the_refusal_says_whose_the_option_is_and_what_there_is_instead():
    with pytest.raises(InputError) as caught:
        detcam.load(small_yolo.checkpoint(), cfg="yolo.cfg")
    assert str(caught.value) == (
        "ultralytics takes no --cfg, which is for darknet: it takes --branch, --names, --num-classes"
    )
    with pytest.raises(InputError, match=r"which is for detcam\.wrap\(model, head=…\): it takes"):
        detcam.load(small_yolo.checkpoint(), layout="anchor-maps")


@pytest.mark.parametrize("entrance", ["load", "wrap"])
def test_an_unknown_option_offers_the_closest(entrance):
    given = small_yolo.checkpoint() if entrance == "load" else small_yolo.network()
    with pytest.raises(UnknownNameError, match=r"no option 'num_clases'\. Closest: 'num_classes'"):
        getattr(detcam, entrance)(given, num_clases=3)


def test_an_unknown_option_beside_a_head_offers_the_closest():
    with pytest.raises(UnknownNameError, match=r"no option 'stride'\. Closest: 'strides'"):
        detcam.wrap(nn.Conv2d(3, 8, 1), head=("",), stride=(8,))


# --- class counts and names of ultralytics ---


def test_a_wrong_count_is_told_of_a_live_model_and_of_a_file():
    for make in (detcam.wrap, detcam.load):
        given = small_yolo.network() if make is detcam.wrap else small_yolo.checkpoint()
        with pytest.raises(InputError, match="--num-classes says 79, but the weights of the head score 3"):
            make(given, num_classes=79)
        with pytest.raises(InputError, match="2 names were given for the 3 classes"):
            make(given, names=("a", "b"))
        told = make(given, names=("a", "b", "c"), num_classes=3)
        assert told.class_names == {0: "a", 1: "b", 2: "c"}


def test_the_command_line_tells_a_wrong_count(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["layers", str(small_yolo.checkpoint()), "--num-classes", "79"])
    assert end.value.code == 1
    assert "--num-classes says 79" in capsys.readouterr().err


@pytest.mark.parametrize("branch", ["one2many", "one2one"])
def test_the_last_convolutions_count_and_not_the_heads_own_number(branch, tmp_path):
    model = copy.deepcopy(KINDS["yolo26n"].build(7, tmp_path).model)
    detector = detcam.wrap(model, branch=branch)
    assert len(detector.class_names) == 7
    model.model[-1].nc = 10
    with pytest.raises(InputError, match=r"head says it has 10 classes.*last convolutions score 7"):
        detcam.wrap(model, branch=branch)


def test_levels_that_score_different_numbers_of_classes_are_told():
    model = small_yolo.network()
    model.model[-1].cv3[1][-1] = nn.Conv2d(model.model[-1].cv3[1][-1].in_channels, 5, 1)
    with pytest.raises(UnsupportedModelError, match=r"levels .*different numbers of classes: \[3, 5\]"):
        detcam.wrap(model)


def test_a_branch_that_is_none_offers_the_two():
    with pytest.raises(UnknownNameError, match=r"no branch 'one2two'.*'one2one'"):
        detcam.wrap(small_yolo.network(), branch="one2two")


# --- forms of names ---


def test_names_by_their_ids_are_taken_in_order():
    told = detcam.wrap(small_yolo.network(), names={2: "c", 0: "a", 1: "b"})
    assert told.class_names == {0: "a", 1: "b", 2: "c"}
    assert detcam.wrap(small_yolo.network(), names=["a", "b", "c"]).class_names[2] == "c"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a,b", r"names 'a,b' are one text: give one name for each class"),
        ({0: "a", 2: "b", 3: "c"}, "ids must be 0 to 2 without a gap, but 1 is missing"),
        ({"0": "a", "1": "b", "2": "c"}, "ids must be 0 to 2"),
        (7, "names are a int"),
        (("a", None, "c"), "name of class 1 is no text"),
    ],
)
@pytest.mark.parametrize("is_generic", [False, True])
def test_names_that_are_no_names_are_told(names, said, is_generic):
    head = {"head": "anything"} if is_generic else {}
    with pytest.raises(InputError, match=said):
        detcam.wrap(small_yolo.network(), names=names, **head)


@pytest.mark.parametrize("count", [0, -1, 2.5, "3", True])
def test_a_count_that_is_no_count_is_told(count):
    with pytest.raises(InputError, match="num_classes must be a whole number of at least 1"):
        detcam.wrap(small_yolo.network(), num_classes=count)


# --- odd models given to wrap ---


def test_odd_attributes_of_a_stranger_do_no_harm():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = [1]

        @property
        def model(self):
            return self

    class Chain(nn.Module):
        @property
        def model(self):
            return Chain()

    for stranger in (Loop(), Chain(), nn.Identity()):
        with pytest.raises(UnsupportedModelError, match="no adapter understands"):
            detcam.wrap(stranger)


def test_a_network_without_weights_is_on_the_cpu_or_where_its_buffers_are():
    assert device_of(nn.Identity()) == torch.device("cpu")
    buffered = nn.Module()
    buffered.register_buffer("scale", torch.ones(1, device="meta"))
    assert device_of(buffered) == torch.device("meta")


def test_a_file_of_no_family_is_told_only_of_families_that_read_files(tmp_path):
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(detcam.DetcamError, match="Families that are read") as caught:
        detcam.load(tmp_path / "a.pth")
    assert "transformers" not in str(caught.value)
    assert "torchvision" in str(caught.value)
