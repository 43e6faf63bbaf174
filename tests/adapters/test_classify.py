"""Classifiers of ultralytics, and the heads for which there is only an explanation why not."""

import copy

import numpy as np
import pytest
import torch
from detector_checks import (
    gradients_of_best,
    noise,
    predicted,
    untouched,
)
from vendor_classifiers import IMGSZ, network, predict

import detcam
from detcam.adapters import DetectOptions, LoadOptions
from detcam.adapters.ultralytics_classify import ClassifyDetector
from detcam.errors import CaptureError, CheckpointError, InputError, UnsupportedModelError
from detcam.geometry import Letterbox

# --- the geometry of a crop -------------------------------------------------------------------------


def test_a_centre_crop_keeps_the_middle_square():
    # 100×61 becomes int(64·100/61) = 104 × 64; of 104 rows, 20 are cut off on either side.
    crop = Letterbox.centre_crop((100, 61), 64)
    assert crop == Letterbox((100, 61), resized=(104, 64), pad=(0, -20), input_size=(64, 64))
    seen = crop.boxes_to_image(torch.tensor([[0.0, 0.0, 64.0, 64.0]]))
    torch.testing.assert_close(seen, torch.tensor([[0.0, 20 / 1.04, 61.0, 84 / 1.04]]))


def test_an_odd_remainder_is_cut_as_torchvision_cuts_it():
    # 97 - 64 = 33: round(16.5) = 16 in front.
    assert Letterbox.centre_crop((301, 457), 64).pad == (-16, 0)


def test_a_map_is_zero_where_the_crop_does_not_show_the_picture():
    crop = Letterbox.centre_crop((10, 6), 6)  # rows 2 to 7 of 10
    heat = crop.maps_to_image(torch.full((1, 3, 3), 2.0))
    assert heat.shape == (1, 10, 6)
    assert heat[0, 2:8].eq(2.0).all()
    assert heat[0, :2].eq(0.0).all()
    assert heat[0, 8:].eq(0.0).all()


def test_points_survive_a_crop_there_and_back():
    crop = Letterbox.centre_crop((97, 61), 32)
    points = torch.tensor([[3.0, 40.0], [60.0, 70.0]])
    torch.testing.assert_close(crop.points_to_image(crop.points_to_input(points)), points)


def test_a_crop_is_made_of_the_pixels_around_the_middle():
    pixels = np.arange(10 * 6 * 3, dtype=np.uint8).reshape(10, 6, 3)
    assert (Letterbox.centre_crop((10, 6), 6).apply(pixels) == pixels[2:8]).all()


# --- classifiers ------------------------------------------------------------------------------------


def wrapped(family="yolov8n-cls", classes=7):
    return ClassifyDetector(network(family, classes), LoadOptions())


@pytest.mark.compat
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (301, 457), (64, 64), (37, 31)])
@pytest.mark.parametrize(("family", "classes"), [("yolov8n-cls", 7), ("yolo11n-cls", 80)])
def test_the_best_classes_equal_those_of_predict(family, classes, size):
    detector, pixels = wrapped(family, classes), noise(*size)
    raw, geometry = predicted(detector, pixels)
    found = detector.detect(raw, geometry, DetectOptions(conf=0, max_det=5))
    probabilities = predict(detector.model, pixels, IMGSZ)
    assert found.labels.tolist() == probabilities.top5
    torch.testing.assert_close(found.scores, probabilities.top5conf, rtol=0, atol=1e-4)


def test_an_oblong_input_is_stretched_as_in_predict():
    detector, pixels = wrapped(), noise()
    raw, geometry = predicted(detector, pixels, (64, 96))
    found = detector.detect(raw, geometry, DetectOptions(conf=0, max_det=5))
    probabilities = predict(detector.model, pixels, (64, 96))
    assert found.labels.tolist() == probabilities.top5
    torch.testing.assert_close(found.scores, probabilities.top5conf, rtol=0, atol=1e-4)


@pytest.mark.compat
def test_a_class_is_shown_once_it_passes_the_threshold():
    detector = wrapped()
    raw, geometry = predicted(detector, noise())
    scores = raw.scores()[0].sort(descending=True)
    conf = float(scores.values[1] + scores.values[2]) / 2
    found = detector.detect(raw, geometry, DetectOptions(conf))
    assert found.labels.tolist() == scores.indices[:2].tolist()
    assert found.best_score == pytest.approx(float(scores.values[0]))
    assert float(raw.scores().sum()) == pytest.approx(1)


@pytest.mark.compat
def test_a_class_asked_for_is_found_however_many_are_better():
    detector = wrapped(classes=80, family="yolo11n-cls")
    raw, geometry = predicted(detector, noise())
    worst = int(raw.scores()[0].argmin())
    found = detector.detect(raw, geometry, DetectOptions(conf=0, classes=(worst,)))
    assert found.labels.tolist() == [worst]
    assert found.best_score == pytest.approx(float(raw.scores()[0, worst]))


@pytest.mark.compat
def test_the_box_is_the_part_of_the_picture_that_the_network_sees():
    detector = wrapped()
    raw, geometry = predicted(detector, noise(97, 61))
    found = detector.detect(raw, geometry, DetectOptions(conf=0))
    assert raw.boxes(torch.tensor([0])).tolist() == [[0, 0, 64, 64]]
    # 97×61 becomes 101×64, of which rows 18 to 82 are seen.
    expected = [0, 18 * 97 / 101, 61, 82 * 97 / 101]
    assert found.boxes[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert found.candidates.tolist() == [0] * 7
    level, row, column, _ = raw.locate(0)
    assert (level.name, level.stride, level.grid, row, column) == ("picture", 64, (1, 1), 0, 0)


@pytest.mark.compat
@pytest.mark.parametrize("family", ["yolov8n-cls", "yolo11n-cls"])
@pytest.mark.parametrize("layer_set", ["backbone", "head"])
def test_a_classifier_is_explained_at_its_last_stage(family, layer_set):
    last = {"yolov8n-cls": 8, "yolo11n-cls": 9 if hasattr_layer(family, 9, "C2PSA") else 10}[family]
    reach = gradients_of_best(wrapped(family), noise(), None, layer_set)
    assert list(reach) == [f"model.{last}" if layer_set == "backbone" else f"model.{last + 1}.conv"]
    assert all(value > 0 for value in reach.values())


def hasattr_layer(family, index, kind):
    return type(network(family).model[index]).__name__ == kind


@pytest.mark.compat
def test_a_classifiers_layers_are_all_named():
    detector = wrapped()
    assert detector.strides == (32,)
    assert detector.imgsz == IMGSZ
    layers = [(layer.name, layer.kind, layer.stride, layer.part) for layer in detector.layers()]
    assert layers[-2:] == [("model.8", "C2f", 32, "backbone"), ("model.9.conv", "Conv", 32, "head")]
    assert layers[4] == ("model.4", "C2f", 8, "backbone")


@pytest.mark.compat
def test_a_classifier_is_left_as_it_was_when_its_weights_are_bad():
    model = copy.deepcopy(network())
    detector = ClassifyDetector(model, LoadOptions())
    torch.nn.init.constant_(model.model[-1].linear.bias, torch.nan)
    with untouched(model), pytest.raises(CaptureError, match="NaN or infinity"):
        predicted(detector, noise())


@pytest.mark.compat
def test_classifier_files_are_loaded_with_the_transforms_left_out(tmp_path):
    from ultralytics.data.augment import classify_transforms

    model = copy.deepcopy(network())
    model.transforms = classify_transforms(IMGSZ)  # as the vendor's trainer leaves them
    path = tmp_path / "classifier.pt"
    torch.save({"ema": None, "model": model.half(), "train_args": {"imgsz": IMGSZ}}, path)
    detector = detcam.load(path, device="cpu")
    assert isinstance(detector, ClassifyDetector)
    assert (detector.imgsz, detector.origin.trust) == (IMGSZ, "safe")
    loaded, _ = predicted(detector, noise())
    live, _ = predicted(ClassifyDetector(copy.deepcopy(network()).half().float(), LoadOptions()), noise())
    assert torch.equal(loaded.class_logits, live.class_logits)


def test_class_names_can_be_given():
    assert detcam.wrap(network(), names=tuple("abcdefg")).class_names[6] == "g"
    with pytest.raises(InputError, match="2 names were given for the 7 classes"):
        detcam.wrap(network(), names=("a", "b"))


def test_a_classifier_that_always_gives_the_same_answer_is_refused():
    with pytest.raises(UnsupportedModelError, match="one class answers 1 to every picture"):
        detcam.wrap(network(classes=1))


def test_another_network_is_no_classifier():
    with pytest.raises(UnsupportedModelError, match="Linear is no ultralytics classifier"):
        ClassifyDetector(torch.nn.Linear(1, 1), LoadOptions())


@pytest.mark.parametrize(("family", "kind"), [("yolo26n-sem", "SemanticSegment"), ("yolo26n-depth", "Depth")])
def test_heads_that_speak_of_pixels_are_refused_with_a_reason(family, kind, tmp_path):
    from ultralytics import YOLO

    try:
        model = YOLO(f"{family}.yaml").model
    except (FileNotFoundError, KeyError):
        pytest.skip(f"this ultralytics has no {family}")
    with pytest.raises(UnsupportedModelError, match=f"a {kind} head gives a value for every pixel"):
        detcam.wrap(model)
    path = tmp_path / "pixels.pt"
    torch.save({"ema": None, "model": model}, path)
    with pytest.raises(
        (UnsupportedModelError, CheckpointError), match=f"a {kind} head gives a value for every pixel"
    ):
        detcam.load(path, device="cpu")
