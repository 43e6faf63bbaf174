"""RT-DETR of ultralytics, and the parts that all detectors with queries share."""

import copy

import numpy as np
import pytest
import torch
from detector_checks import (
    assert_same,
    clear_threshold,
    gradients_of_best,
    noise,
    predicted,
    untouched,
)
from vendor_rtdetr import IMGSZ, network, predict

import detcam
from detcam.adapters import DetectOptions, LoadOptions
from detcam.adapters.queries import boxes_from_shares, cell_at, cell_under, selected_cells
from detcam.adapters.suppression import best_pair_score, take_each, take_pairs
from detcam.adapters.ultralytics_rtdetr import RTDETRDetector
from detcam.cam.capture import borrowed
from detcam.errors import CaptureError, InputError, UnsupportedModelError
from detcam.scoring import Softmax
from detcam.structures import Level, Location, RawPrediction

P3, P4 = Level("P3", 8, (2, 3)), Level("P4", 16, (1, 2))


# --- the shared parts ------------------------------------------------------------------------------


def test_shares_of_the_input_become_corners_in_pixels():
    # A box of 20 % of 200 and 40 % of 100 pixels around the middle (100, 50).
    boxes = boxes_from_shares(torch.tensor([[0.5, 0.5, 0.2, 0.4]]), (100, 200))
    torch.testing.assert_close(boxes, torch.tensor([[80.0, 30.0, 120.0, 70.0]]))


def test_a_queries_cell_is_counted_level_by_level_and_row_by_row():
    assert cell_at((P3, P4), 0) == Location(P3, 0, 0)
    assert cell_at((P3, P4), 5) == Location(P3, 1, 2)
    assert cell_at((P3, P4), 7) == Location(P4, 0, 1)


@pytest.mark.parametrize("index", [-1, 8])
def test_a_cell_that_does_not_exist_is_refused(index):
    with pytest.raises(IndexError):
        cell_at((P3, P4), index)


@pytest.mark.parametrize(
    ("point", "cell"),
    [((23.9, 8.0), (1, 2)), ((0.0, 7.9), (0, 0)), ((99.0, -5.0), (0, 2)), ((-1.0, 99.0), (1, 0))],
)
def test_a_point_lies_in_its_cell_or_the_nearest_one(point, cell):
    assert cell_under(P3, torch.tensor(point)) == Location(P3, *cell)


def test_the_cells_with_the_best_class_become_queries_best_first():
    scores = torch.tensor([[[0.0, 1.0], [3.0, -9.0], [2.0, 2.0], [-1.0, -1.0]]])
    assert selected_cells(scores, 3).tolist() == [[1, 2, 0]]


def raw_of(probabilities, **changes):
    logits = torch.tensor(probabilities).logit()
    return RawPrediction(
        logits, (P3,), boxes=lambda i: torch.zeros(len(i), 4), located=lambda _: Location(P3, 0, 0), **changes
    )


def test_pairs_may_show_one_query_under_several_classes():
    raw = raw_of([[0.9, 0.8], [0.1, 0.7], [0.6, 0.2]])
    candidates, scores, labels = take_pairs(raw, DetectOptions(conf=0.5), most=3)
    assert list(zip(candidates.tolist(), labels.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 1)]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8, 0.7]))


def test_pairs_are_counted_before_classes_are_chosen_as_in_the_vendors_code():
    raw = raw_of([[0.9, 0.8], [0.1, 0.7], [0.6, 0.2]])
    candidates, _, _ = take_pairs(raw, DetectOptions(conf=0.0, classes=(0,)), most=3)
    assert candidates.tolist() == [0]  # (2, 0) is the fourth pair


def test_each_query_is_shown_under_its_best_class_alone():
    raw = raw_of([[0.9, 0.8], [0.1, 0.7], [0.6, 0.2]])
    candidates, _, labels = take_each(raw, DetectOptions(conf=0.65))
    assert list(zip(candidates.tolist(), labels.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert take_each(raw, DetectOptions(conf=0.0, max_det=1))[0].tolist() == [0]
    assert take_each(raw, DetectOptions(conf=0.0, classes=(0,)))[0].tolist() == [0, 2]


def test_the_best_score_of_a_class_counts_where_another_class_is_better():
    raw = raw_of([[0.9, 0.8], [0.1, 0.7]])
    assert best_pair_score(raw, DetectOptions(classes=(1,))) == pytest.approx(0.8)
    assert best_pair_score(raw, DetectOptions(classes=())) == 0


def test_a_softmax_without_background_scores_every_column():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    total = np.exp([1, 2, 3]).sum()
    scores = Softmax(background=None).scores(logits, None)
    assert scores[0].tolist() == pytest.approx([np.exp(1) / total, np.exp(2) / total, np.exp(3) / total])


# --- RT-DETR of ultralytics ------------------------------------------------------------------------


def wrapped(classes=7):
    return RTDETRDetector(network(classes), LoadOptions())


@pytest.mark.compat
def test_rtdetr_boxes_reach_beyond_the_picture_as_in_predict():
    raw, geometry = predicted(wrapped(), noise())
    found = wrapped().detect(raw, geometry, DetectOptions(conf=0))
    assert found.boxes.min() < 0


@pytest.mark.compat
def test_rtdetr_keeps_the_classes_that_predict_keeps():
    detector, pixels = wrapped(), noise()
    raw, geometry = predicted(detector, pixels)
    conf = clear_threshold(raw.scores().amax(dim=1), 0.3)
    everything = detector.detect(raw, geometry, DetectOptions(conf))
    wanted = (int(everything.labels[0]), 6)
    found = detector.detect(raw, geometry, DetectOptions(conf, classes=wanted))
    assert len(found) < len(everything)
    assert_same(found, *predict(pixels, conf=conf, classes=list(wanted)))


def test_rtdetr_keeps_as_many_as_predict_keeps():
    detector, pixels = wrapped(), noise()
    raw, geometry = predicted(detector, pixels)
    found = detector.detect(raw, geometry, DetectOptions(conf=0, max_det=3))
    assert_same(found, *predict(pixels, conf=0, max_det=3))


@pytest.mark.parametrize("imgsz", [64, 70, (64, 128)])
def test_rtdetr_takes_any_input_size_as_predict_does(imgsz):
    detector, pixels = wrapped(), noise()
    raw, geometry = predicted(detector, pixels, imgsz)
    conf = clear_threshold(raw.scores().amax(dim=1))
    assert_same(detector.detect(raw, geometry, DetectOptions(conf)), *predict(pixels, conf=conf, imgsz=imgsz))


@pytest.mark.compat
def test_a_query_stands_for_the_encoder_cell_whose_score_selected_it():
    detector = wrapped()
    tensor, _ = detector.prepare(noise(), None)
    cells = []
    with borrowed(detector.model), torch.no_grad():
        # The vendor gives back the scores of the cells it selected.
        handle = detector.head.enc_score_head.register_forward_hook(
            lambda _m, _i, output: cells.append(output[0])
        )
        _, (_, _, _, selected, _) = detector.model(tensor[None])
        handle.remove()
        (raw,) = detector.forward(tensor[None])
    offsets = {level.name: start for level, start in zip(raw.levels, (0, 144), strict=True)}
    assert [level.grid for level in raw.levels] == [(12, 12), (6, 6)]
    for query in range(30):
        level, row, column, _ = raw.locate(query)
        cell = cells[0][offsets[level.name] + row * level.grid[1] + column]
        assert torch.equal(cell, selected[0, query])


@pytest.mark.compat
@pytest.mark.parametrize(
    ("layer_set", "names"),
    [
        ("backbone", ["model.3", "model.5"]),
        ("neck", ["model.9", "model.12"]),
        ("head", ["model.10", "model.13"]),
    ],
)
def test_rtdetr_layers_of_every_set_have_a_gradient(layer_set, names):
    reach = gradients_of_best(wrapped(), noise(), None, layer_set)
    assert list(reach) == names
    assert all(value > 0 for value in reach.values())


@pytest.mark.compat
def test_rtdetr_says_its_levels_layers_and_classes():
    detector = wrapped()
    assert detector.strides == (8, 16)
    assert detector.imgsz == IMGSZ
    assert list(detector.class_names.items())[:2] == [(0, "class 0"), (1, "class 1")]
    assert [(layer.kind, layer.stride, layer.part) for layer in detector.layers()][5:8] == [
        ("C2f", 16, "backbone"),
        ("Conv", 16, "neck"),
        ("AIFI", 16, "neck"),
    ]


@pytest.mark.compat
def test_rtdetr_is_left_as_it_was_when_its_weights_are_bad():
    model = copy.deepcopy(network())
    detector = RTDETRDetector(model, LoadOptions())
    torch.nn.init.constant_(model.model[-1].dec_score_head[-1].bias, torch.nan)
    with untouched(model), pytest.raises(CaptureError, match="NaN or infinity"):
        predicted(detector, noise())


@pytest.mark.compat
def test_rtdetr_can_be_explained_after_predict_ran_in_inference_mode():
    model = copy.deepcopy(network())
    with torch.inference_mode():
        model(torch.zeros(1, 3, IMGSZ, IMGSZ))
    reach = gradients_of_best(RTDETRDetector(model, LoadOptions()), noise(), IMGSZ, "backbone")
    assert all(value > 0 for value in reach.values())


@pytest.mark.compat
def test_rtdetr_files_are_loaded_and_explained(tmp_path):
    path = tmp_path / "rtdetr.pt"
    torch.save({"ema": None, "model": copy.deepcopy(network()).half(), "train_args": {"imgsz": IMGSZ}}, path)
    detector = detcam.load(path, device="cpu")
    assert isinstance(detector, RTDETRDetector)
    assert detector.origin.path == str(path)
    assert detector.origin.trust == "safe"
    pixels = noise()
    raw, geometry = predicted(detector, pixels)
    found = detector.detect(raw, geometry, DetectOptions(conf=0, max_det=10))
    live = copy.deepcopy(network()).half().float()
    raw, geometry = predicted(RTDETRDetector(live, LoadOptions()), pixels)
    same = detector.detect(raw, geometry, DetectOptions(conf=0, max_det=10))
    assert torch.equal(found.boxes, same.boxes)
    assert torch.equal(found.candidates, same.candidates)


def test_a_class_count_that_is_not_rtdetrs_is_told():
    with pytest.raises(InputError, match="--num-classes says 8, but the weights of the head score 7"):
        detcam.wrap(network(), num_classes=8)


def test_another_network_is_no_rtdetr():
    with pytest.raises(UnsupportedModelError, match="Linear is no ultralytics RT-DETR"):
        RTDETRDetector(torch.nn.Linear(1, 1), LoadOptions())


def test_the_released_rtdetr_is_read():
    from ultralytics.nn.tasks import RTDETRDetectionModel

    detector = detcam.wrap(RTDETRDetectionModel("rtdetr-l.yaml", verbose=False))
    assert detector.strides == (8, 16, 32)
    sets = {layer.name: layer.member_of for layer in detector.layers() if layer.member_of}
    assert [name for name, member in sets.items() if member == "backbone"] == [
        "model.3",
        "model.7",
        "model.9",
    ]
    assert [name for name, member in sets.items() if member == "head"] == ["model.21", "model.24", "model.27"]
