"""What every detector family must keep to: one list of checks for each kind of model of each family."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace

import pytest
import torch
from detector_checks import BOX_PIXELS, assert_batch_equals_single, assert_same, noise, predicted
from guests_coat import unchanged
from small_detectors import GENERIC, KINDS, clear_conf
from torch import nn

import detcam
from detcam.adapters import ADAPTERS, DetectOptions
from detcam.adapters.choosing import chosen_layers
from detcam.cam.capture import capture
from detcam.cam.methods import METHODS
from detcam.errors import UnsupportedModelError
from detcam.explainer import Explainer, ExplainOptions
from detcam.targets import TARGETS, ClassLogit

PORTRAIT, LANDSCAPE = (97, 61), (61, 97)
CLASSES = 7


def marked(kind, *values):
    marks = [pytest.mark.compat] if KINDS[kind].is_compat else []
    return pytest.param(kind, *values, marks=marks, id="-".join(str(value) for value in (kind, *values)))


ALL = pytest.mark.parametrize("kind", [marked(kind) for kind in KINDS])


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Kind and number of classes -> its detector, made once: that a test leaves it alone is tested."""
    made = {}

    def get(kind, classes=CLASSES):
        if (kind, classes) not in made:
            folder = tmp_path_factory.mktemp("small")
            with torch.random.fork_rng(devices=[]):
                made[kind, classes] = KINDS[kind].build(classes, folder)
        return made[kind, classes]

    return get


def detected(detector, pixels, imgsz, conf=None):
    """A picture's raw prediction, its geometry and its detections above a clear threshold."""
    raw, geometry = predicted(detector, pixels, imgsz)
    conf = clear_conf(raw.scores()) if conf is None else conf
    return raw, geometry, detector.detect(raw, geometry, DetectOptions(conf)), conf


@functools.cache
def seen(one):
    """What `detected` gives for `noise()`."""
    return detected(one.detector, noise(), one.imgsz)


def explained(one, pictures, **options):
    options = {"conf": seen(one)[-1], "imgsz": one.imgsz, "max_boxes": 3, **options}
    return detcam.explain(one.detector, pictures, **options)


def modules_of(detector, layer_set):
    names = [layer.name for layer in detector.layers() if layer.member_of == layer_set]
    return {name: detector.model.get_submodule(name) for name in names}


def best_of_levels(raw):
    """Level name -> (candidate, class) with the best score on it; coarsest level last."""
    scores, labels = raw.scores().detach().max(dim=1)
    best = {}
    for candidate in scores.argsort(descending=True).tolist():
        best.setdefault(raw.locate(candidate).level, (candidate, int(labels[candidate])))
    return {level.name: best[level] for level in raw.levels if level in best}


# --- the table and the registry ---------------------------------------------------------------------


def test_every_family_has_an_entry_in_the_table_of_small_models():
    assert {kind.family for kind in KINDS.values()} == {*ADAPTERS, GENERIC}


@ALL
def test_the_first_family_that_knows_the_model_is_its_own(small, kind, monkeypatch):
    one, family = small(kind), KINDS[kind].family
    knowing = [name for name, entry in ADAPTERS.items() if entry.recognises(one.model)]
    if family == GENERIC:
        assert knowing == []
        with pytest.raises(UnsupportedModelError, match="no adapter understands"):
            detcam.wrap(one.model)
        return
    assert knowing[0] == family
    assert detcam.wrap(nn.DataParallel(one.model), **one.options).family == one.detector.family
    for name, entry in ADAPTERS.items():
        monkeypatch.setitem(ADAPTERS, name, replace(entry, wrap=lambda *_, name=name: name))
    assert detcam.wrap(one.model) == family


# --- the vendor's detections ------------------------------------------------------------------------


CASES = [
    marked(kind, classes, size)
    for kind, entry in KINDS.items()
    for classes in entry.counts
    for size in ((PORTRAIT, LANDSCAPE) if classes == CLASSES else (PORTRAIT,))
]


@pytest.mark.parametrize(("kind", "classes", "size"), CASES)
def test_detections_equal_the_vendors(small, kind, classes, size):
    one, pixels = small(kind, classes), noise(*size)
    _, _, found, conf = detected(one.detector, pixels, one.imgsz)
    assert_same(found, *one.expected(pixels, conf))


@ALL
def test_a_detections_candidate_is_its_box_score_class_and_cell(small, kind):
    one = small(kind)
    for size in (PORTRAIT, LANDSCAPE):
        raw, geometry, found, _ = detected(one.detector, noise(*size), one.imgsz)
        assert torch.equal(raw.scores()[found.candidates, found.labels], found.scores)
        # The letterbox by hand, then cut to the picture where the vendor does.
        (height, width), (left, top) = geometry.resized, geometry.pad
        scale = torch.tensor([width / size[1], height / size[0]] * 2)
        boxes = (raw.boxes(found.candidates) - torch.tensor([left, top] * 2)) / scale
        if KINDS[kind].clips:
            boxes = boxes.clamp(min=0).minimum(torch.tensor([size[1], size[0]] * 2).float())
        torch.testing.assert_close(found.boxes, boxes, rtol=0, atol=BOX_PIXELS)
        for candidate in found.candidates.tolist():
            level, row, column, anchor = raw.locate(candidate)
            assert level in raw.levels
            assert 0 <= row < level.grid[0]
            assert 0 <= column < level.grid[1]
            assert 0 <= anchor < level.anchors


@ALL
def test_a_candidates_logit_looks_at_its_own_cell(small, kind):
    """At the head's input a class logit reads the few cells around its own, and its own level alone."""
    one = small(kind)
    layers = modules_of(one.detector, "head")
    tensor, _ = one.detector.prepare(noise(), one.imgsz)
    with capture(one.model, layers) as caught:
        (raw,) = one.detector.forward(tensor[None])
        if raw.located is not None or not layers:
            pytest.skip("its candidates are no cells of a head's input")
        for candidate in range(1, len(raw.class_logits), max(len(raw.class_logits) // 12, 1)):
            level, row, column, _ = raw.locate(candidate)
            gradients = caught.gradients(raw.class_logits[candidate, -1])
            ((_, gradient),) = [(n, g) for n, g in gradients.items() if g is not None and g.any()]
            assert gradient.shape[2:] == level.grid
            strongest = gradient[0].abs().sum(dim=0)
            peak = divmod(int(strongest.argmax()), level.grid[1])
            assert max(abs(peak[0] - row), abs(peak[1] - column)) <= 2


@ALL
def test_a_file_gives_what_the_live_model_gives(small, kind):
    one = small(kind)
    if one.file is None:
        pytest.skip("its family reads no files, or only with weights that are not small")
    loaded = detcam.load(one.file, device="cpu", **one.load)
    assert (loaded.family, loaded.class_names) == (one.detector.family, one.detector.class_names)
    _, _, live, conf = seen(one)
    _, _, found, _ = detected(loaded, noise(), one.imgsz, conf)
    assert torch.equal(found.candidates, live.candidates)
    assert_same(found, live.boxes, live.scores, live.labels)


# --- any number of classes --------------------------------------------------------------------------


COUNTS = [marked(kind, classes) for kind, entry in KINDS.items() for classes in entry.counts]


@pytest.mark.parametrize(("kind", "classes"), COUNTS)
def test_the_class_count_is_the_heads_and_one_class_can_be_explained(small, kind, classes):
    one = small(kind, classes)
    raw, _, found, _ = seen(one)
    assert len(one.detector.class_names) == classes
    assert raw.class_logits.shape == (len(raw.scores()), classes + KINDS[kind].background)
    assert set(found.labels.tolist()) <= set(one.detector.class_names)
    label = int(found.labels[-1])
    explanation = explained(one, noise(), classes=[label])
    assert explanation.detections.labels.unique().tolist() == [label]
    assert any(involved.any() for involved in explanation.involved.values())


# --- gradients --------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("layer_set", ["backbone", "neck", "head"])
def test_every_layer_of_a_set_has_a_gradient(small, kind, layer_set):
    """Direct: from some level's best candidate. Total: from the coarsest level's alone."""
    one = small(kind)
    layers = modules_of(one.detector, layer_set)
    if not layers:
        assert layer_set != "backbone"
        pytest.skip(f"it has no {layer_set} layers")
    strides = {layer.name: layer.stride for layer in one.detector.layers()}
    tensor, _ = one.detector.prepare(noise(), one.imgsz)
    for path in ("direct", "total"):
        with capture(one.model, layers, path) as caught:
            (raw,) = one.detector.forward(tensor[None])
            reached = {}
            for level, best in best_of_levels(raw).items():
                gradients = caught.gradients(ClassLogit(*best)(raw))
                reached[level] = {n for n, g in gradients.items() if g is not None and g.any()}
                assert all(g is None or g.isfinite().all() for g in gradients.values())
        expected = set(layers)
        if (kind, layer_set) == ("regions", "head"):  # a level that no region is pooled from is not read
            read = [level.stride for level in raw.levels if level.name in reached]
            expected = {name for name in layers if strides[name] in read}
        assert set().union(*reached.values()) == expected
        if raw.located is None:
            for level in raw.levels:
                own = [name for name in layers if strides[name] == level.stride]
                assert reached[level.name] >= set(own)
                assert own or layer_set != "head"
        if path == "total" and layer_set == "backbone":
            assert reached[list(reached)[-1]] == set(layers)


# --- the model is a guest ---------------------------------------------------------------------------


class TroubleError(Exception):
    """What is raised in the middle of an explanation."""


def trouble(*_args, **_options):
    raise TroubleError


@contextlib.contextmanager
def in_the_middle_of_training(model):
    """Modes, flags and a gradient that only an owner could have put there."""
    modules, parameters = list(model.modules()), list(model.parameters())
    modes = [module.training for module in modules]
    flags = [parameter.requires_grad for parameter in parameters]
    for module in modules[::2]:
        module.training = True
    for parameter in parameters[1::3]:
        parameter.requires_grad_(False)
    parameters[0].requires_grad_(True).grad = torch.ones_like(parameters[0])
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag).grad = None


def last_module(one):
    """The module without children that runs last."""
    ran = []
    leaves = [module for module in one.model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(lambda module, *_: ran.append(module)) for module in leaves]
    predicted(one.detector, noise(), one.imgsz)
    for handle in handles:
        handle.remove()
    return ran[-1]


@ALL
def test_a_model_in_training_is_explained_as_it_predicts_and_left_as_it_was(small, kind):
    one = small(kind)
    *_, expected, conf = seen(one)
    with in_the_middle_of_training(one.model), unchanged(one.model):
        detector = detcam.wrap(one.model, **one.options)
        options = {"conf": conf, "imgsz": one.imgsz, "max_boxes": 2, "path": "total"}
        explanation = detcam.explain(detector, noise(), **options)
    assert explanation.detections.candidates.tolist() == expected.candidates[:2].tolist()
    torch.testing.assert_close(explanation.detections.scores, expected.scores[:2])


@ALL
@pytest.mark.parametrize("place", ["target", "method", "layer", "last module"])
def test_the_model_is_left_as_it_was_by_what_raises_in_the_middle(small, kind, place, monkeypatch):
    one = small(kind)
    layers, conf = list(modules_of(one.detector, "backbone").values()), seen(one)[-1]
    with contextlib.ExitStack() as stack:
        if place == "target":
            monkeypatch.setitem(TARGETS, "class-logit", trouble)
        elif place == "method":
            name = ExplainOptions().method
            broken = replace(METHODS[name], compute=lambda activations, gradients: trouble())
            monkeypatch.setitem(METHODS, name, broken)
        else:
            broken = layers[-1] if place == "layer" else last_module(one)
            stack.callback(broken.register_forward_pre_hook(trouble).remove)
        with in_the_middle_of_training(one.model), unchanged(one.model), pytest.raises(TroubleError):
            detcam.explain(one.detector, noise(), imgsz=one.imgsz, conf=conf)


# --- a batch ----------------------------------------------------------------------------------------


@ALL
def test_a_batch_gives_each_picture_what_it_gets_alone(small, kind):
    one = small(kind)
    assert_batch_equals_single(one.detector, one.imgsz)
    pictures = [noise(seed=seed) for seed in (3, 4)]
    together = explained(one, pictures, conf=0.0, batch=2)
    for pixels, found in zip(pictures, together, strict=True):
        alone = explained(one, pixels, conf=0.0)
        assert found.detections.candidates.tolist() == alone.detections.candidates.tolist()
        assert len(found) > 0
        for level, maps in alone.levels.items():
            largest = float(maps.abs().max())
            torch.testing.assert_close(found.levels[level], maps, rtol=0, atol=1e-3 * largest + 1e-9)


# --- from the picture to its maps -------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("method", ["layer-cam", "hires-cam", "cell-blob"])
def test_a_picture_has_a_finite_map_for_every_detection_and_level(small, kind, method):
    one = small(kind)
    explanation, raw = explained(one, noise(), method=method), seen(one)[0]
    found = explanation.detections
    boxes = list(zip(found.candidates.tolist(), found.labels.tolist(), strict=True))
    logits = [float(ClassLogit(*box)(raw)) for box in boxes]
    assert list(explanation.target_values) == pytest.approx(logits, rel=1e-4, abs=1e-4)
    names = [layer.level for layer in explanation.layers]
    assert list(explanation.levels) == names
    layer_set = "evidence" if METHODS[method].is_by_cell else "backbone"
    asked = chosen_layers(one.model, one.detector.layers(), layer_set)
    assert len(set(names)) == len(names) == len(asked)
    assert len(explanation) == len(explanation.detections) > 0
    for layer in explanation.layers:
        maps = explanation.levels[layer.level]
        assert maps.shape == (len(explanation), *layer.grid)
        assert maps.isfinite().all()
        assert (maps >= 0).all()
        for (candidate, _), one_map in zip(boxes, maps, strict=True):
            level, row, column, _ = raw.locate(candidate)
            if method == "cell-blob" and level.grid == layer.grid:
                assert divmod(int(one_map.argmax()), layer.grid[1]) == (row, column)
    shown = torch.stack([maps.abs().amax(dim=(1, 2)) for maps in explanation.levels.values()])
    # Where no evidence is positive, a box's maps are all zero.
    assert shown.amax() > 0
    assert (shown.amax(dim=0) > 0).all() or method != "cell-blob"


@ALL
def test_every_detector_can_be_asked_under_random_masks(small, kind):
    one = small(kind)
    with unchanged(one.model):
        explanation = explained(one, noise(), method="d-rise", masks=4, max_boxes=2, batch_size=3)
    (maps,) = explanation.levels.values()
    assert len(maps) == len(explanation) > 0
    assert maps.isfinite().all()
    found = explanation.detections
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    # In the whole picture its own proposal is there, unless that scores too low or has no area to share.
    counts = (found.scores > 0.01) & (sides > 1e-3).all(dim=1)
    for value, is_there in zip(explanation.target_values, counts.tolist(), strict=True):
        assert is_there <= (0 < value <= 1 + 1e-5)


@ALL
def test_a_rehearsal_succeeds_where_an_explanation_does(small, kind):
    one = small(kind)
    explainer = Explainer.of(one.detector, ExplainOptions())
    with unchanged(one.model):
        explainer.rehearse()
