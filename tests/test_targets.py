"""Every target's value and gradient, by pencil, on a head with two candidates and two classes."""

import math

import pytest
import torch

from detcam.errors import InputError, UnknownNameError
from detcam.scoring import ObjectTimesClass, Sigmoid
from detcam.structures import Level, RawPrediction
from detcam.targets import TARGETS, UNITS, class_id, summary, target_for

NAMES = {0: "person", 1: "truck", 2: "7"}

LOGITS = [[1.0, -2.0], [0.5, 3.0]]  # (candidate, class)
OBJECTNESS = [2.0, -1.0]
EDGES = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]


class Fixture:
    """Two candidates whose numbers are leaves; boxes are ten times their edges."""

    def __init__(self, objectness):
        self.logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
        self.edges = torch.tensor(EDGES, dtype=torch.float64, requires_grad=True)
        self.objectness = torch.tensor(OBJECTNESS, dtype=torch.float64, requires_grad=True)
        self.raw = RawPrediction(
            self.logits,
            (Level("P3", 8, (1, 2)),),
            lambda i: 10 * self.edges[i],
            objectness_logits=self.objectness if objectness else None,
            scoring=ObjectTimesClass() if objectness else Sigmoid(),
        )

    def check(self, spec, candidate, label, value, **gradients):
        """The target's value, and its gradient at each of the leaves: zero where none is given."""
        score = target_for(spec, NAMES)(candidate, label)(self.raw)
        assert score.ndim == 0
        assert float(score.detach()) == pytest.approx(value)
        leaves = {"logits": self.logits, "edges": self.edges, "objectness": self.objectness}
        found = torch.autograd.grad(score, list(leaves.values()), allow_unused=True)
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
            expected = torch.zeros_like(leaf)
            for index, slope in gradients.get(name, {}).items():
                expected[index] = slope
            torch.testing.assert_close(torch.zeros_like(leaf) if gradient is None else gradient, expected)


@pytest.fixture
def plain():
    return Fixture(objectness=False)


@pytest.fixture
def with_objectness():
    return Fixture(objectness=True)


def sigma(x):
    return 1 / (1 + math.exp(-x))


def test_class_logit_is_the_number_before_the_sigmoid(plain):
    plain.check("class-logit", 1, 0, 0.5, logits={(1, 0): 1.0})


def test_class_logit_with_objectness_is_the_logarithm_of_the_score(with_objectness):
    with_objectness.check(
        "class-logit",
        *(1, 1),
        math.log(sigma(3)) + math.log(sigma(-1)),
        logits={(1, 1): 1 - sigma(3)},  # d log σ(x) / dx = 1 - σ(x)
        objectness={1: 1 - sigma(-1)},
    )


def test_probability_is_the_score(plain):
    plain.check("probability", 0, 1, sigma(-2), logits={(0, 1): sigma(-2) * (1 - sigma(-2))})


def test_probability_with_objectness_is_their_product(with_objectness):
    with_objectness.check(
        "probability",
        *(0, 0),
        sigma(1) * sigma(2),
        logits={(0, 0): sigma(1) * (1 - sigma(1)) * sigma(2)},
        objectness={0: sigma(1) * sigma(2) * (1 - sigma(2))},
    )


def test_objectness_is_its_own_logit(with_objectness):
    with_objectness.check("objectness", 1, 0, -1.0, objectness={1: 1.0})


def test_the_box_is_what_holds_its_edges_apart(plain):
    x1, y1, x2, y2 = EDGES[1]
    pushed = {(1, 0): -10.0, (1, 1): -10.0, (1, 2): 10.0, (1, 3): 10.0}
    plain.check("box", 1, 0, 10 * (x2 - x1 + y2 - y1), edges=pushed)


@pytest.mark.parametrize(("edge", "column"), [("x1", 0), ("y1", 1), ("x2", 2), ("y2", 3)])
def test_an_edge_is_where_the_box_ends(plain, edge, column):
    plain.check(edge, 1, 0, 10 * EDGES[1][column], edges={(1, column): 10.0})


def test_class_difference_is_one_logit_minus_another(plain):
    plain.check("class-difference:truck", 0, 0, 1 - (-2), logits={(0, 0): 1.0, (0, 1): -1.0})


def test_every_target_is_tested_here():
    assert list(TARGETS) == [
        *("class-logit", "probability", "objectness", "x1", "y1", "x2", "y2", "box", "class-difference")
    ]


def test_the_class_logit_still_has_a_gradient_where_the_probability_has_none():
    logits = torch.tensor([[20.0], [0.0]], requires_grad=True)
    raw = RawPrediction(logits, (Level("P3", 8, (1, 2)),), lambda i: i)
    slopes = {
        name: float(torch.autograd.grad(target_for(name, NAMES)(0, 0)(raw), logits)[0][0, 0])
        for name in ("class-logit", "probability")
    }
    assert slopes == {"class-logit": 1.0, "probability": 0.0}


def test_a_confident_objectness_still_has_a_gradient():
    logits = torch.tensor([[30.0], [0.0]], requires_grad=True)
    objectness = torch.tensor([5.0, 0.0], requires_grad=True)
    raw = RawPrediction(
        logits, (Level("P3", 8, (1, 2)),), lambda i: i, objectness, scoring=ObjectTimesClass()
    )
    (gradient,) = torch.autograd.grad(target_for("class-logit", NAMES)(0, 0)(raw), objectness)
    assert gradient.tolist() == pytest.approx([1 - sigma(5), 0])


def test_targets_are_compared_by_what_they_explain():
    factory = target_for("class-logit", NAMES)
    assert factory(3, 1) == factory(3, 1)
    assert factory(3, 1) != factory(3, 0)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_summed_up_in_a_line(name):
    line = summary(name)
    assert line
    assert "\n" not in line
    assert "  " not in line


def test_units_belong_to_targets():
    assert set(UNITS) <= set(TARGETS)


def test_an_unknown_target_is_answered_with_the_closest():
    with pytest.raises(UnknownNameError, match=r"no target 'class-logits'\. Closest: 'class-logit'"):
        target_for("class-logits", NAMES)


def test_an_unknown_class_is_answered_with_the_closest():
    with pytest.raises(UnknownNameError, match=r"no class 'truk'\. Closest: 'truck'"):
        target_for("class-difference:truk", NAMES)


@pytest.mark.parametrize("spec", ["class-difference:3", "class-difference:-1"])
def test_a_class_id_out_of_range_is_refused(spec):
    with pytest.raises(InputError, match="this model has 3 classes, 0 to 2"):
        target_for(spec, NAMES)


@pytest.mark.parametrize("spec", ["class-difference", "class-difference:"])
def test_a_missing_argument_is_asked_for(spec):
    with pytest.raises(InputError, match="needs the other class"):
        target_for(spec, NAMES)


@pytest.mark.parametrize("spec", ["class-logit:truck", "x1:3"])
def test_an_argument_too_many_is_refused(spec):
    with pytest.raises(InputError, match="takes no argument"):
        target_for(spec, NAMES)


def test_objectness_of_a_head_without_is_refused(plain):
    with pytest.raises(InputError, match="has no objectness"):
        target_for("objectness", NAMES)(0, 0)(plain.raw)


@pytest.mark.parametrize(("given", "expected"), [("truck", 1), ("1", 1), (1, 1), ("0", 0), ("7", 2), (2, 2)])
def test_a_class_is_known_by_its_name_before_its_number(given, expected):
    assert class_id(given, NAMES) == expected


def test_a_class_name_may_hold_a_colon():
    assert target_for("class-difference:a:b", {0: "x", 1: "a:b"})(0, 0).other == 1


def test_a_class_by_name_of_a_model_without_names_says_how_to_give_them():
    with pytest.raises(UnknownNameError) as caught:
        class_id("person", {0: "0", 1: "1"})
    assert str(caught.value) == (
        "no class 'person'. This model has no names for its 2 classes: give --names, or the id"
    )
