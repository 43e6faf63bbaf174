"""DETR, RT-DETR and YOLOS of HuggingFace: look-alikes that show each part, and the real ones, untrained."""

import numpy as np
import pytest
import torch
from detector_checks import (
    assert_batch_equals_single,
    assert_same,
    clear_threshold,
    gradients_of_best,
    noise,
    predicted,
    untouched,
)
from huggingface_networks import (
    REAL,
    DetrForObjectDetection,
    LongformerForObjectDetection,
    RTDetrForObjectDetection,
    YolosForObjectDetection,
    lookalike,
    real,
    real_processor,
    softmax_replica,
)
from torch import nn

import detcam
from detcam.adapters import DetectOptions, LoadOptions
from detcam.adapters.huggingface import HuggingFaceDetector, proportional
from detcam.errors import CaptureError, InputError, UnsupportedModelError
from detcam.geometry import Letterbox

# --- preparation ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_size", "resized"),
    [
        ((480, 640), (800, 1066)),  # 800 · 640 / 480 = 1066.7, cut
        ((640, 480), (1066, 800)),
        ((100, 1000), (133, 1333)),  # 8000 is too long: 1333 · 100 / 1000 = 133.3
        ((500, 500), (800, 800)),
        ((97, 61), (1272, 800)),
    ],
)
def test_proportions_are_kept_up_to_the_longest_side(image_size, resized):
    geometry = proportional(image_size, 800, multiple=1, stride=32)
    assert geometry.resized == resized
    assert geometry.input_size == tuple(-(-side // 32) * 32 for side in resized)


def test_yolos_cuts_sides_to_whole_patches():
    assert proportional((480, 640), 800, multiple=16, stride=16).resized == (800, 1056)


def test_a_size_of_two_sides_is_stretched_to():
    assert proportional((480, 640), (96, 160), multiple=1, stride=32) == Letterbox(
        (480, 640), (96, 160), pad=(0, 0), input_size=(96, 160)
    )


# --- look-alikes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (61, 211)])
def test_a_softmax_over_classes_and_no_object_is_read(size):
    detector, pixels = detcam.wrap(lookalike(YolosForObjectDetection)), noise(*size)
    raw, geometry = predicted(detector, pixels, 96)
    tensor, _ = detector.prepare(pixels, 96)
    with torch.no_grad():
        output = detector.model(tensor[None])
    conf = clear_threshold(raw.scores().amax(dim=1))
    found = detector.detect(raw, geometry, DetectOptions(conf))
    assert_same(found, *softmax_replica(output.logits[0], output.pred_boxes[0], conf, size))


@pytest.mark.parametrize("kind", ["rt_detr", "rt_detr_v2"])
def test_sigmoids_of_pairs_are_read(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        detector = detcam.wrap(RTDetrForObjectDetection(kind).eval())
    raw, geometry = predicted(detector, noise(), 96)
    found = detector.detect(raw, geometry, DetectOptions(conf=0))
    pairs = raw.class_logits.double().sigmoid().flatten().sort(descending=True)
    assert len(found) == 20
    torch.testing.assert_close(found.scores.double(), pairs.values[:20], rtol=0, atol=1e-6)
    assert (found.candidates * 5 + found.labels).tolist() == pairs.indices[:20].tolist()


def test_a_free_query_is_located_under_the_middle_of_its_box():
    detector = detcam.wrap(lookalike(DetrForObjectDetection))
    raw, geometry = predicted(detector, noise(97, 61), 96)
    boxes = raw.boxes(torch.arange(12))
    assert geometry.resized == (152, 96)
    for query, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        level, row, column, _ = raw.locate(query)
        assert (level.name, level.stride, level.grid) == ("P5", 32, (5, 3))
        assert (row, column) == (min(int((y1 + y2) / 2 // 32), 4), min(int((x1 + x2) / 2 // 32), 2))


def test_a_selected_query_is_located_at_the_cell_it_was_made_from():
    model = lookalike(RTDetrForObjectDetection)
    detector = detcam.wrap(model)
    seen = []
    handle = model.model.enc_score_head.register_forward_hook(
        lambda _m, _i, output: seen.append(output[0].detach())
    )
    raw, _ = predicted(detector, noise(), 96)
    handle.remove()
    ranked = sorted(range(len(seen[0])), key=lambda cell: -float(seen[0][cell].max()))[:20]
    offsets, grids = {"P3": 0, "P4": 144, "P5": 180}, {"P3": (12, 12), "P4": (6, 6), "P5": (3, 3)}
    assert len(seen[0]) == 189
    for query, cell in enumerate(ranked):
        level, row, column, _ = raw.locate(query)
        assert level.grid == grids[level.name]
        assert offsets[level.name] + row * level.grid[1] + column == cell


def test_layers_are_feature_maps_of_the_picture_and_nothing_else():
    detector = detcam.wrap(lookalike(DetrForObjectDetection))
    assert [(layer.name, layer.stride, layer.part, layer.member_of) for layer in detector.layers()] == [
        ("model.backbone.stages.0", 4, "backbone", None),
        ("model.backbone.stages.1", 8, "backbone", None),
        ("model.backbone.stages.2", 16, "backbone", None),
        ("model.backbone.stages.3", 32, "backbone", "backbone"),
        ("model.input_projection", 32, "neck", "head"),
    ]


@pytest.mark.parametrize(
    ("kind", "layer_set", "count"),
    [
        (DetrForObjectDetection, "backbone", 1),
        (DetrForObjectDetection, "head", 1),
        (RTDetrForObjectDetection, "backbone", 3),
        (RTDetrForObjectDetection, "neck", 3),
        (RTDetrForObjectDetection, "head", 3),
    ],
)
def test_layers_of_the_sets_have_a_gradient(kind, layer_set, count):
    reach = gradients_of_best(detcam.wrap(lookalike(kind)), noise(), 96, layer_set)
    assert len(reach) == count
    assert all(value > 0 for value in reach.values())


def test_a_plain_vision_transformer_says_that_it_has_no_layers():
    detector = detcam.wrap(lookalike(YolosForObjectDetection))
    assert detector.strides == (16,)
    with pytest.raises(UnsupportedModelError, match=r"plain vision transformer.*tokens are not supported"):
        detector.layers()


# Without layers, YOLOS cannot be explained, and is not in the contract suite.
def test_a_batch_gives_yolos_what_single_pictures_give():
    assert_batch_equals_single(detcam.wrap(lookalike(YolosForObjectDetection)), 96)


def test_yolos_is_left_as_it_was():
    model = lookalike(YolosForObjectDetection)
    with untouched(model):
        predicted(detcam.wrap(model), noise(), 96)


def test_the_network_is_left_as_it_was_when_its_weights_are_bad():
    with torch.random.fork_rng(devices=[]):
        model = DetrForObjectDetection()
    detector = detcam.wrap(model)
    nn.init.constant_(model.heads.boxes.bias, torch.nan)
    with untouched(model), pytest.raises(CaptureError, match="NaN or infinity"):
        predicted(detector, noise(), 96)


def test_the_no_object_column_is_no_class():
    assert detcam.wrap(lookalike(DetrForObjectDetection)).class_names == {i: f"name {i}" for i in range(5)}
    assert len(detcam.wrap(lookalike(RTDetrForObjectDetection)).class_names) == 5
    with pytest.raises(InputError, match="--num-classes says 6"):
        detcam.wrap(lookalike(DetrForObjectDetection), num_classes=6)


def test_default_sizes_are_those_of_the_image_processors():
    assert detcam.wrap(lookalike(DetrForObjectDetection)).prepare(noise(48, 64), None)[0].shape == (
        3,
        800,
        1066,
    )
    tensor, geometry = detcam.wrap(lookalike(RTDetrForObjectDetection)).prepare(noise(48, 64), None)
    assert tensor.shape == (3, 640, 640)
    assert geometry.resized == (640, 640)


def test_pixels_are_normalised_as_imagenets_are():
    tensor, _ = detcam.wrap(lookalike(DetrForObjectDetection)).prepare(np.full((96, 96, 3), 51, np.uint8), 96)
    expected = [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert tensor[:, 5, 7].tolist() == pytest.approx(expected, abs=1e-6)
    tensor, _ = detcam.wrap(lookalike(RTDetrForObjectDetection)).prepare(
        np.full((96, 96, 3), 51, np.uint8), 96
    )
    assert tensor[:, 5, 7].tolist() == pytest.approx([0.2] * 3)


def test_a_family_that_is_not_known_is_refused():
    with pytest.raises(UnsupportedModelError, match="no adapter understands"):
        detcam.wrap(LongformerForObjectDetection())
    with pytest.raises(UnsupportedModelError, match="no transformers detector that is known: detr, yolos"):
        HuggingFaceDetector(LongformerForObjectDetection(), LoadOptions())


# --- the real ones ----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (61, 211)])
@pytest.mark.parametrize("kind", REAL)
def test_detections_equal_their_post_processing(kind, size, classes):
    model, pixels = real(kind, classes), noise(*size)
    processor = real_processor(kind)
    inputs = processor(images=pixels, return_tensors="pt")
    detector = detcam.wrap(model)
    assert len(detector.class_names) == classes
    raw, geometry = predicted(detector, pixels, 96)
    conf = clear_threshold(raw.scores().amax(dim=1))
    found = detector.detect(raw, geometry, DetectOptions(conf))
    with torch.no_grad():
        output = model(pixel_values=inputs["pixel_values"])
    theirs = processor.post_process_object_detection(output, threshold=conf, target_sizes=[size])[0]
    assert_same(found, theirs["boxes"], theirs["scores"], theirs["labels"])


@pytest.mark.parametrize("kind", REAL)
def test_pictures_are_prepared_as_their_processor_does(kind):
    detector, pixels = detcam.wrap(real(kind, 7)), noise(97, 61)
    theirs = real_processor(kind)(images=pixels, return_tensors="pt")
    torch.testing.assert_close(detector.prepare(pixels, 96)[0], theirs["pixel_values"][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "layer_set", "count"),
    [("detr", "backbone", 1), ("detr", "head", 1)]
    + [(kind, part, 3) for kind in ("rt_detr", "rt_detr_v2") for part in ("backbone", "neck", "head")],
)
def test_layers_of_the_real_ones_have_a_gradient(kind, layer_set, count):
    reach = gradients_of_best(detcam.wrap(real(kind, 7)), noise(), 96, layer_set)
    assert len(reach) == count
    assert all(value > 0 for value in reach.values())


@pytest.mark.parametrize("kind", ["rt_detr", "rt_detr_v2"])
def test_real_queries_stand_for_the_cells_that_were_selected(kind):
    model = real(kind, 7)
    detector = detcam.wrap(model)
    tensor, _ = detector.prepare(noise(), 96)
    raw, _ = predicted(detector, noise(), 96)
    with torch.no_grad():
        output = model(pixel_values=tensor[None])
    offsets = {"P3": 0, "P4": 144, "P5": 180}
    for query in range(30):
        level, row, column, _ = raw.locate(query)
        cell = offsets[level.name] + row * level.grid[1] + column
        torch.testing.assert_close(output.enc_topk_logits[0, query], output.enc_outputs_class[0, cell])


def test_the_real_yolos_says_that_it_has_no_layers():
    with pytest.raises(UnsupportedModelError, match="plain vision transformer"):
        detcam.wrap(real("yolos", 7)).layers()


@pytest.mark.parametrize("kind", ["detr", "rt_detr"])
def test_the_real_ones_can_be_explained_after_they_ran_in_inference_mode(kind):
    model = real(kind, 7)
    with torch.inference_mode():
        model(pixel_values=torch.zeros(1, 3, 96, 96))
    reach = gradients_of_best(detcam.wrap(model), noise(96, 96), 96, "backbone")
    assert all(value > 0 for value in reach.values())


@pytest.mark.parametrize("kind", REAL)
def test_the_real_ones_are_left_as_they_were(kind):
    model = real(kind, 7)
    predicted(detcam.wrap(model), noise(), 96)  # their first call prepares their own output capturing
    with untouched(model):
        predicted(detcam.wrap(model), noise(), 96)
