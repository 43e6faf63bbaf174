"""Detections and maps in supervision, the real one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_yolo import CLASS_NAMES, detector, pictures

import detcam
from detcam.errors import InputError, ShapeError, UnknownNameError
from detcam.explanation import MERGED, Scale, Style, lay_maps
from detcam.integrations.supervision import EvidenceAnnotator

sv = pytest.importorskip("supervision", reason="no supervision: pip install supervision")


@pytest.fixture(scope="module")
def detections(explained):
    return explained.to_detections()


def test_detections_are_those_of_the_explanation(explained, detections):
    assert isinstance(detections, sv.Detections)
    found = explained.detections
    assert np.array_equal(detections.xyxy, found.boxes.numpy())
    assert np.array_equal(detections.confidence, found.scores.numpy())
    assert np.array_equal(detections.class_id, found.labels.numpy())
    assert detections["class_name"].tolist() == [CLASS_NAMES[label] for label in found.labels.tolist()]
    assert detections["level"].tolist() == list(explained.deciding)
    assert np.array_equal(detections["heatmap"], explained.merged.numpy())
    assert detections["target_value"].tolist() == list(explained.target_values)
    assert detections["energy_in_box"].tolist() == explained.energy_in_box


def test_supervision_filters_and_iterates_them(detections):
    best = detections[detections.confidence >= detections.confidence[1]]
    assert len(best) == 2
    assert np.array_equal(best["heatmap"], detections["heatmap"][:2])
    assert best.metadata == detections.metadata
    assert len(list(detections)) == 3
    assert len(sv.Detections.merge([detections[:1], detections[1:]])) == 3


def test_supervisions_own_annotators_draw_them(explained, detections):
    scene = explained.picture.pixels[..., ::-1].copy()
    drawn = sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(scene.copy(), detections), detections)
    assert (drawn != scene).any()


def overlay(explained) -> np.ndarray:
    """The overlay without boxes, RGB."""
    tops = Scale("energy").tops(explained, MERGED)
    return lay_maps(explained.picture.pixels, explained.merged, tops, explained.geometry, Style())


def test_the_annotator_draws_what_the_overlay_shows(explained, detections):
    scene = explained.picture.pixels[..., ::-1].copy()  # supervision's pictures are BGR
    drawn = EvidenceAnnotator().annotate(scene, detections)
    assert drawn is scene
    assert np.array_equal(drawn[..., ::-1], overlay(explained))
    assert (drawn[..., ::-1] != explained.picture.pixels).any()


def test_the_annotator_draws_on_pil_pictures(explained, detections):
    scene = Image.fromarray(explained.picture.pixels)
    assert EvidenceAnnotator().annotate(scene, detections) is scene
    assert np.array_equal(np.array(scene), overlay(explained))


def test_the_annotator_draws_only_the_detections_it_is_given(explained, detections):
    scene = explained.picture.pixels[..., ::-1].copy()
    second = EvidenceAnnotator().annotate(scene, detections[[1]])
    tops = [Scale("energy").tops(explained, MERGED)[1]]
    alone = lay_maps(explained.picture.pixels, explained.merged[1:2], tops, explained.geometry, Style())
    assert np.array_equal(second[..., ::-1], alone)


def test_nothing_detected_leaves_the_picture(explained):
    nothing = explained.of_class(99).to_detections()
    assert len(nothing) == 0
    scene = explained.picture.pixels[..., ::-1].copy()
    assert np.array_equal(EvidenceAnnotator().annotate(scene.copy(), nothing), scene)
    assert np.array_equal(EvidenceAnnotator().annotate(scene.copy(), sv.Detections.empty()), scene)


def test_what_cannot_be_drawn_is_one_line(detections):
    with pytest.raises(ShapeError, match=r"of a picture of \(H, W\) = \(61, 97\), got one of \(97, 61\)"):
        EvidenceAnnotator().annotate(np.zeros((97, 61, 3), np.uint8), detections)
    with pytest.raises(InputError, match="hold no maps: make them with"):
        EvidenceAnnotator().annotate(
            np.zeros((61, 97, 3), np.uint8), sv.Detections(np.array([[1.0, 2, 3, 4]]))
        )
    with pytest.raises(UnknownNameError, match="no colour map 'virids'"):
        EvidenceAnnotator("virids")


def test_rotated_boxes_keep_their_corners():
    found = detcam.explain(detector("OBB"), pictures(1)[0], max_boxes=2)
    detections = found.to_detections()
    assert np.array_equal(detections["xyxyxyxy"], found.detections.corners.numpy())
    scene = found.picture.pixels[..., ::-1].copy()
    assert (sv.OrientedBoxAnnotator().annotate(scene.copy(), detections) != scene).any()
