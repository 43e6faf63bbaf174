"""COCO data sets: boxes, outlines and run lengths of pictures, upright; each way the file can be wrong."""

from __future__ import annotations

import json
import logging
import pickle

import numpy as np
import pytest
from data_sets import HEIGHT, WIDTH, write_coco, write_picture, write_text

from detcam.errors import ImageError, InputError
from detcam.images import read_picture
from detcam.labels import RunLengths, read_labelled

SQUARE = [10, 20, 14, 20, 14, 24, 10, 24]


def only(data, **options):
    (picture,) = read_labelled(data, **options).pictures
    return picture


def runs_of(*box):
    """Run lengths of a rectangle of whole pixels, in the picture of 97×61."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return {"size": [HEIGHT, WIDTH], "counts": RunLengths.of(mask).counts.tolist()}


def extent(pixels):
    """The box around what is bright, xyxy."""
    bright = pixels[..., 0] > 127
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


# What is read


def test_a_box_is_a_corner_and_a_size_in_pixels(tmp_path):
    labelled = read_labelled(write_coco(tmp_path, [{}]))
    picture = labelled.pictures[0]
    assert picture.boxes.tolist() == [[10, 20, 40, 25]]
    assert picture.labels.tolist() == [18]
    assert (picture.is_crowd.tolist(), picture.has_mask.tolist()) == ([False], [False])
    assert (picture.size, picture.path) == ((HEIGHT, WIDTH), tmp_path / "a.png")
    assert labelled.class_names == {18: "dog", 17: "cat"}
    assert (labelled.kind, labelled.source) == ("coco", tmp_path / "instances.json")


def test_parts_of_an_object_are_one_mask(tmp_path):
    """Two squares of 4×4; a line of two points covers nothing."""
    parts = [SQUARE, [20, 20, 24, 20, 24, 24, 20, 24], [1, 1, 9, 9]]
    picture = only(
        write_coco(tmp_path, [{"segmentation": parts}, {"segmentation": []}, {"segmentation": None}])
    )
    assert [len(polygon) for polygon in picture.polygons[0]] == [4, 4]
    assert picture.polygons[1:] == (None, None)
    masks = picture.masks()
    assert picture.has_mask.tolist() == [True, False, False]
    assert masks.sum(dim=(1, 2)).tolist() == [32, 0, 0]
    assert masks[0, 20:24, 10:14].all()
    assert masks[0, 20:24, 20:24].all()


@pytest.mark.parametrize("is_text", [False, True])
def test_run_lengths_are_decoded_in_both_forms(tmp_path, is_text):
    """A column of 5 at x = 2, y = 3: 2·61 + 3 outside, 5 inside, the rest; as text 125 is "m3", 5 is "5"."""
    rest = HEIGHT * WIDTH - 130
    counts = [125, 5, rest]
    # 125 = 3·32 + 29: "m" is 29 and more, "3"; 5787 = 5·1024 + 20·32 + 27: "k", "d", "5".
    text = "m35kd5"
    assert rest == 5 * 1024 + 20 * 32 + 27
    said = {"size": [HEIGHT, WIDTH], "counts": text if is_text else counts}
    picture = only(write_coco(tmp_path, [{"segmentation": said, "iscrowd": 1}]))
    (mask,) = picture.masks()
    assert np.argwhere(mask.numpy()).tolist() == [[row, 2] for row in range(3, 8)]
    assert (picture.is_crowd.tolist(), picture.polygons, picture.has_mask.tolist()) == (
        [True],
        (None,),
        [True],
    )


def test_a_picture_without_annotations_is_kept(tmp_path):
    images = [{"id": number, "file_name": "a.png"} for number in (3, 7)]
    pictures = read_labelled(write_coco(tmp_path, [{}], images=images)).pictures
    assert [len(picture.labels) for picture in pictures] == [0, 1]
    assert (pictures[0].boxes.shape, pictures[0].masks().shape) == ((0, 4), (0, HEIGHT, WIDTH))


def test_annotations_go_to_their_pictures_in_order(tmp_path):
    images = [{"id": key, "file_name": "a.png"} for key in ("x", 2)]
    annotations = [{"image_id": key, "bbox": [at, 0, 1, 1]} for at, key in enumerate(["x", 2, "x", 2, 2])]
    pictures = read_labelled(write_coco(tmp_path, annotations, images=images)).pictures
    assert [picture.boxes[:, 0].tolist() for picture in pictures] == [[0, 2], [1, 3, 4]]


def test_annotations_of_pictures_that_are_not_listed_are_left_out_and_counted(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "detcam"):
        pictures = read_labelled(write_coco(tmp_path, [{}, {"image_id": 8}, {"image_id": 9}])).pictures
    assert len(pictures[0].labels) == 1
    assert "2 annotations name images that it does not list" in caplog.text


def test_rounding_may_reach_outside_and_is_cut_off(tmp_path):
    annotations = [{"bbox": [-0.5, -1, 98.2, 62.5]}, {"bbox": [3, 4, 0, 0]}]
    assert only(write_coco(tmp_path, annotations)).boxes.tolist() == [[0, 0, WIDTH, HEIGHT], [3, 4, 3, 4]]


def test_a_set_can_be_sent_to_another_process(tmp_path):
    there = pickle.loads(pickle.dumps(read_labelled(write_coco(tmp_path, [{}]))))
    assert there.pictures[0].boxes.tolist() == [[10, 20, 40, 25]]


# Upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_run_lengths", [False, True])
def test_annotations_of_the_stored_picture_are_turned_with_it(tmp_path, orientation, is_run_lengths):
    """What is bright in the stored pixels is annotated there, and is bright inside the mask once upright.

    Sides that swap tell that the stored picture was meant; where they do not, the file cannot say so, and
    the upright picture is.
    """
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[5:25, 10:70] = 255
    upright = read_picture(write_picture(tmp_path / "b.png", orientation, stored)).pixels
    x1, y1, x2, y2 = extent(stored if orientation >= 5 else upright)
    segmentation = runs_of(x1, y1, x2, y2) if is_run_lengths else [[x1, y1, x2, y1, x2, y2, x1, y2]]
    data = write_coco(tmp_path, [{"bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": segmentation}])
    write_picture(tmp_path / "a.png", orientation, stored)
    picture = only(data)
    assert picture.size == upright.shape[:2]
    assert np.array_equal(picture.masks()[0].numpy(), upright[..., 0] > 127)
    assert picture.boxes[0].tolist() == extent(upright)


def test_annotations_of_the_upright_picture_are_taken_as_they_are(tmp_path):
    images = [{"id": 7, "file_name": "a.png", "width": HEIGHT, "height": WIDTH}]
    data = write_coco(tmp_path, [{"bbox": [1, 2, 50, 90]}], images=images)
    write_picture(tmp_path / "a.png", 6)
    assert only(data).boxes.tolist() == [[1, 2, 51, 92]]


def test_another_picture_than_the_annotated_is_refused(tmp_path):
    images = [{"id": 7, "file_name": "a.png", "width": 194, "height": 122}]
    pictures = read_labelled(write_coco(tmp_path, [{}], images=images)).pictures
    with pytest.raises(InputError, match=r"image 'a.png': described as 194x122, but the file is 97x61"):
        pictures[0]


# Where the pictures are


@pytest.mark.parametrize(
    ("json_at", "picture_at"),
    [
        ("x.json", "a.png"),
        ("x.json", "images/a.png"),
        ("annotations/instances_val2017.json", "val2017/a.png"),
        ("annotations/instances_val2017.json", "images/val2017/a.png"),
        ("instances_val2017.json", "val2017/a.png"),
    ],
)
def test_pictures_are_found_where_sets_have_them(tmp_path, json_at, picture_at):
    text = write_coco(tmp_path / "made", [{}]).read_text()
    write_picture(tmp_path / picture_at)
    assert only(write_text(tmp_path / json_at, text)).path == tmp_path / picture_at


def test_pictures_are_where_the_caller_says(tmp_path):
    data = write_coco(tmp_path / "set", [{}])
    write_picture(tmp_path / "photos" / "a.png")
    assert only(data, images=tmp_path / "photos").path == tmp_path / "photos" / "a.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a\.png is not in .*empty; say where the pictures are"):
        read_labelled(data, images=tmp_path / "empty")
    with pytest.raises(InputError, match="gone is no folder"):
        read_labelled(data, images=tmp_path / "gone")


def test_a_missing_picture_is_its_own_error_and_no_others(tmp_path):
    images = [{"id": 3, "file_name": "gone.png"}, {"id": 7, "file_name": "a.png"}]
    pictures = read_labelled(write_coco(tmp_path, [{}], images=images)).pictures
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        pictures[0]
    assert len(pictures[1].labels) == 1


# What is refused


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"category_id": 3}, "category_id 3 is not among the file's categories"),
        ({"category_id": "dog"}, "category_id 'dog'"),
        ({"category_id": True}, "category_id True"),
        ({"iscrowd": 2}, "iscrowd is 0 or 1, got 2"),
        ({"bbox": None}, "bbox is [x, y, width, height] in pixels, got None"),
        ({"bbox": [1, 2, 3]}, "got [1, 2, 3]"),
        ({"bbox": [1, 2, 3, "4"]}, "got [1, 2, 3, '4']"),
        ({"bbox": [1, 2, 3, True]}, "got [1, 2, 3, True]"),
        ({"bbox": [1, 2, float("nan"), 4]}, "got [1, 2, nan, 4]"),
        ({"bbox": [1, 2, 10**400, 4]}, "bbox is [x, y, width, height] in pixels, got [1, 2, 1000"),
        ({"bbox": [1, 2, -3, 4]}, "width and height -3 4, below 0"),
        ({"bbox": [50, 2, 50, 4]}, "bbox [50, 2, 50, 4] reaches outside the picture of 97x61"),
        ({"segmentation": "x"}, "segmentation is a list of polygons or run lengths, got 'x'"),
        ({"segmentation": SQUARE}, "polygon 1 is [x1, y1, x2, y2, …] in pixels, got 10"),
        ({"segmentation": [SQUARE, [1, 2, 3]]}, "polygon 2 is [x1, y1, x2, y2, …] in pixels, got [1, 2, 3]"),
        ({"segmentation": [[0, 0, 1e300, 0, 0, 1]]}, "polygon 1 reaches outside the picture of 97x61"),
        (
            {"segmentation": {"size": [WIDTH, HEIGHT], "counts": [5917]}},
            "run lengths of size [97, 61] in a picture",
        ),
        ({"segmentation": {"counts": [5917]}}, "run lengths of size None"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5]}},
            "run lengths add up to 5, not to the 5917",
        ),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5917.0]}},
            "counts of run lengths are whole numbers",
        ),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [10**30]}}, "annotation 12 of 'a.png': "),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "1 2"}}, "cannot hold ' ' at position 1"),
        (
            {"segmentation": {"size": [HEIGHT, WIDTH]}},
            "counts of run lengths are whole numbers or their text",
        ),
    ],
)
def test_a_wrong_annotation_is_named_and_is_its_pictures_alone(tmp_path, annotation, said):
    images = [{"id": 3, "file_name": "a.png"}, {"id": 7, "file_name": "a.png"}]
    pictures = read_labelled(write_coco(tmp_path, [{"image_id": 3}, annotation], images=images)).pictures
    assert len(pictures[0].labels) == 1
    with pytest.raises(InputError) as refused:
        pictures[1]
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'instances.json'}, annotation 12 of 'a.png': ")
    assert said in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"images": None},
            "no COCO file, which has the lists images, annotations, categories; it has keys images",
        ),
        ({"images": []}, "lists no images"),
        ({"images": [{"id": 1}]}, "image 1 of 1: needs an id and a file_name, got {'id': 1}"),
        ({"images": [5]}, "image 1 of 1: needs an id and a file_name, got 5"),
        ({"images": [{"id": 1, "file_name": "a.png"}] * 2}, "image 2 of 2: id 1 is that of 'a.png' already"),
        (
            {"images": [{"id": 9, "file_name": "a.png"}]},
            "none of its 1 annotations names one of its 1 images",
        ),
        ({"images": [{"id": 7, "file_name": "b.png"}]}, "b.png is not in"),
        ({"categories": []}, "lists no categories"),
        (
            {"categories": [{"id": "1", "name": "a"}]},
            "category 1 of 1: needs an id, a whole number, and a name",
        ),
        (
            {"categories": [{"id": 1, "name": n} for n in "ab"]},
            "category 2 of 2: id 1 is that of 'a' already",
        ),
        ({"annotations": [7]}, "annotation 1 of 1: needs an image_id, got 7"),
        ({"annotations": [{"image_id": [7]}]}, "annotation 1 of 1: needs an image_id"),
    ],
)
def test_a_wrong_file_is_named_with_what_it_says(tmp_path, said, message):
    with pytest.raises(InputError) as refused:
        read_labelled(write_coco(tmp_path, [{}], **said))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images":\n [1, 2', "instances.json, line 2: no JSON"),
        ("[" * 100_000, "no COCO file: "),
        ("9" * 5000, "no COCO file: "),
        ("[]", "it has no keys"),
        (json.dumps([{"image_id": 1, "bbox": [], "score": 0.5}]), "holds detections; give annotations"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path, text, said):
    with pytest.raises(InputError) as refused:
        read_labelled(write_text(tmp_path / "instances.json", text))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_coco_file_has_no_splits(tmp_path):
    with pytest.raises(InputError, match="is one split already; leave out the split 'val'"):
        read_labelled(write_coco(tmp_path, [{}]), split="val")
