"""Which maps are compared."""

import pytest
from small_yolo import detector

from detcam.cam.methods import METHODS
from detcam.errors import InputError, UnknownNameError
from detcam.evaluation import BASELINE, Way, ways_for


def test_every_combination_is_compared_and_every_control_once():
    ways = ways_for(["layer-cam", "odam"], ["head", "backbone"], ["direct", "total"], ["class-logit"])
    asked = [way for way in ways if not way.is_control]
    assert len(asked) == 8
    assert {way.method for way in asked} == {"layer-cam", "hires-cam"}  # an alias is its method
    controls = [way for way in ways if way.is_control]
    assert {way.name for way in controls} == {name for name, method in METHODS.items() if method.is_control}
    assert {way.layers for way in controls} == {"head"}
    assert BASELINE in {way.name for way in controls}


def test_a_control_that_was_asked_for_is_not_there_twice():
    ways = ways_for(["box"], ["head"], ["direct"], ["class-logit"])
    assert len({way.name for way in ways}) == len(ways)


def test_a_name_tells_ways_apart():
    one = Way("layer-cam", "head", "direct", "class-logit")
    assert one.name == "layer-cam head direct class-logit"
    assert Way("layer-cam", "head", "direct", "class-logit", "finest").name == f"{one.name} finest"
    assert Way("box", "head", "direct", "class-logit").name == "box"


@pytest.mark.parametrize("empty", range(4))
def test_nothing_to_compare_is_an_error(empty):
    lists = [["layer-cam"], ["head"], ["direct"], ["class-logit"]]
    lists[empty] = []
    with pytest.raises(InputError, match=r"no (methods|layers|paths|targets) given"):
        ways_for(*lists)


def test_what_does_not_exist_is_named():
    with pytest.raises(UnknownNameError, match="layer-cam"):
        ways_for(["layer-can"], ["head"], ["direct"], ["class-logit"])
    with pytest.raises(UnknownNameError, match=r"model\.99"):
        Way("layer-cam", "model.99", "direct", "class-logit").explainer(detector(), None)


def test_a_method_without_layers_is_one_way_whatever_layers_are_asked_for():
    ways = ways_for(["d-rise"], ["head", "evidence"], ["direct", "total"], ["class-logit"])
    (found,) = (way for way in ways if not way.is_control)
    assert found.name == "d-rise"
    assert found.explainer(detector(), None).modules == {}
