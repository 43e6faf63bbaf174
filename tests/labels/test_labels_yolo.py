"""YOLO data sets: where pictures and labels are found, what lines mean, each way they can be wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from data_sets import HEIGHT, NAMES, WIDTH, write_picture, write_text, write_yolo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detcam.errors import ImageError, InputError
from detcam.images import read_picture
from detcam.labels import read_labelled

TOLERANCE = 1e-3  # pixels, of float32 and six decimals


def only(data, **options):
    (picture,) = read_labelled(data, **options).pictures
    return picture


def names_of(labelled):
    return [path.name for path in labelled.pictures.paths]


# Lines


def test_a_box_is_given_by_its_centre_and_size_in_fractions(tmp_path):
    """x (.5 ± .125)·97 = 36.375, 60.625; y (.25 ± .25)·61 = 0, 30.5."""
    picture = only(write_yolo(tmp_path, "1 0.5 0.25 0.25 0.5\n"))
    assert picture.boxes.tolist() == [[36.375, 0, 60.625, 30.5]]
    assert picture.labels.tolist() == [1]
    assert (picture.polygons, picture.run_lengths, picture.has_mask.tolist()) == ((None,), (None,), [False])
    assert picture.is_crowd.tolist() == [False]
    assert (picture.size, picture.path.name) == ((HEIGHT, WIDTH), "a.png")


def test_an_outline_has_its_extent_as_the_box(tmp_path):
    picture = only(write_yolo(tmp_path, "0 0 0 0.5 0 0 1\n1 0.5 0.5 0.5 0.5\n"))
    assert picture.boxes.tolist() == [[0, 0, 48.5, 61], [24.25, 15.25, 72.75, 45.75]]
    assert picture.polygons[0][0].tolist() == [[0, 0], [48.5, 0], [0, 61]]
    assert picture.has_mask.tolist() == [True, False]
    masks = picture.masks()
    assert masks.shape == (2, HEIGHT, WIDTH)
    # The triangle is half of 48.5 × 61, and a centre more or less along its edges.
    assert abs(int(masks[0].sum()) - 48.5 * 61 / 2) < 61
    assert masks[0, 0, 0]
    assert not masks[1].any()


def test_masks_of_a_scaled_picture_are_scaled(tmp_path):
    picture = only(write_yolo(tmp_path, "0 0 0 0.5 0 0.5 0.5 0 0.5\n"))
    mask = picture.masks((20, 40))[0]
    assert mask[:10, :20].all()
    assert mask.sum() == 200


@given(
    corners=st.lists(
        st.tuples(*[st.floats(0, 1)] * 4).map(lambda v: (*np.sort(v[::2]), *np.sort(v[1::2]))), max_size=5
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_boxes_survive_being_written_and_read(tmp_path, corners):
    lines = [
        f"1 {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}" for x1, x2, y1, y2 in corners
    ]
    boxes = only(write_yolo(tmp_path, "\n".join(lines))).boxes
    expected = [[x1 * WIDTH, y1 * HEIGHT, x2 * WIDTH, y2 * HEIGHT] for x1, x2, y1, y2 in corners]
    assert boxes.shape == (len(corners), 4)
    assert np.abs(boxes.numpy() - np.reshape(expected, (-1, 4))).max(initial=0) < TOLERANCE


def test_rounding_may_reach_a_hundredth_outside_and_is_cut_off(tmp_path):
    picture = only(write_yolo(tmp_path, "1 0.05 0.5 0.11 1.01\n1 -0.01 0 1.01 0 1 1\n"))
    assert picture.boxes[0].tolist() == pytest.approx([0, 0, 0.105 * WIDTH, HEIGHT])
    assert picture.boxes[1].tolist() == [0, 0, WIDTH, HEIGHT]


@pytest.mark.parametrize("text", ["", "\n\n", "﻿1 .5 .5 1 1\r\n\r\n", "1.0\t5e-1 .5 1 1"])
def test_empty_lines_byte_order_marks_and_other_spellings_are_read(tmp_path, text):
    assert len(only(write_yolo(tmp_path, text)).labels) == (1 if text.strip() else 0)


def test_keypoints_after_a_box_are_left_out(tmp_path):
    data = write_yolo(tmp_path, "1 .5 .5 1 1 .1 .1 2 .2 .2 0\n", kpt_shape=[2, 3])
    picture = only(data)
    assert (picture.boxes.tolist(), picture.polygons) == ([[0, 0, WIDTH, HEIGHT]], (None,))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 .5 .5 .5", "4 columns, where a box has 5 (class x y w h) and an outline 7, 9, 11 …"),
        ("1 .5 .5 .5 .5 .9", "a sixth is the score of a prediction: give labels"),
        ("1 .1 .1 .2 .2 .3 .3 .4", "8 columns"),
        ("2 .5 .5 .5 .5", "class 2 has no name; correct the line, or add it to `names:`"),
        ("cat .5 .5 .5 .5", "the first column is a class id, 0, 1, 2 …, got 'cat'"),
        ("-1 .5 .5 .5 .5", "got '-1'"),
        ("0.5 .5 .5 .5 .5", "got '0.5'"),
        ("nan .5 .5 .5 .5", "got 'nan'"),
        ("inf .5 .5 .5 .5", "got 'inf'"),
        ("1 .5 nan .5 .5", "column 3: 'nan' is no number"),
        ("1 .5 .5 x .5", "column 4: 'x' is no number"),
        ("1 48 30 20 20", "column 2: 48 is outside 0..1; divide x and w by the picture's width"),
        ("1 .5 .5 inf .5", "column 4: inf is outside 0..1"),
        ("1 .5 .5 .5 -.005", "width and height are 0.5 -0.005, below 0"),
        ("1 .1 .1 .2 .2 .3 1.02", "column 7: 1.02 is outside 0..1"),
        ("1 .1 .1 .2 .2 .3 é", "column 7: 'é' is no number"),
    ],
)
def test_a_wrong_line_is_named_with_what_it_says(tmp_path, line, said):
    labelled = read_labelled(write_yolo(tmp_path, f"1 .5 .5 .5 .5\n\n{line}\n"))
    with pytest.raises(InputError) as refused:
        labelled.pictures[0]
    message = str(refused.value)
    assert message.startswith(f"{tmp_path / 'labels' / 'a.txt'}, line 3")
    assert said in message
    assert "\n" not in message


def test_keypoints_of_another_number_are_named(tmp_path):
    labelled = read_labelled(write_yolo(tmp_path, "1 .5 .5 1 1 .1 .1\n", kpt_shape=[2, 3]))
    with pytest.raises(InputError, match="line 1: 7 columns, where `kpt_shape:` asks for 11"):
        labelled.pictures[0]


def test_labels_that_are_no_text_are_named_with_the_line(tmp_path):
    labelled = read_labelled(write_yolo(tmp_path))
    (tmp_path / "labels" / "a.txt").write_bytes(b"1 .5 .5 1 1\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2: not UTF-8 text"):
        labelled.pictures[0]


def test_labels_that_cannot_be_read_are_named(tmp_path):
    labelled = read_labelled(write_yolo(tmp_path))
    (tmp_path / "labels" / "a.txt").unlink()
    (tmp_path / "labels" / "a.txt").mkdir()
    with pytest.raises(InputError, match=r"a\.txt: cannot be read \(Is a directory\)"):
        labelled.pictures[0]


# Pictures


def test_one_broken_picture_says_nothing_about_the_others(tmp_path):
    data = write_yolo(tmp_path)
    for name in ("b", "c", "d"):
        write_picture(tmp_path / "images" / f"{name}.png")
    write_text(tmp_path / "labels" / "b.txt", "9 9\n")
    (tmp_path / "images" / "d.png").write_text("no picture")
    pictures = read_labelled(data).pictures
    assert [path.stem for path in pictures.paths] == list("abcd")
    assert len(pictures[0].labels) == 1
    with pytest.raises(InputError, match=r"b\.txt, line 1"):
        pictures[1]
    with pytest.raises(ImageError, match=r"d\.png"):
        pictures[-1]
    with pytest.raises(IndexError):
        pictures[4]


def test_a_picture_without_a_label_file_has_no_object(tmp_path):
    data = write_yolo(tmp_path)
    write_picture(tmp_path / "images" / "b.png")
    empty = read_labelled(data).pictures[1]
    assert (empty.boxes.shape, empty.labels.shape, empty.polygons) == ((0, 4), (0,), ())
    assert (empty.masks().shape, empty.has_mask.shape) == ((0, HEIGHT, WIDTH), (0,))


def test_labels_are_read_each_time_they_are_asked_for(tmp_path):
    pictures = read_labelled(write_yolo(tmp_path)).pictures
    assert len(pictures[0].labels) == 1
    write_text(tmp_path / "labels" / "a.txt", "1 .5 .5 1 1\n0 .5 .5 1 1\n")
    assert pictures[0].labels.tolist() == [1, 0]


def test_a_slice_reads_nothing_and_keeps_the_order(tmp_path):
    data = write_yolo(tmp_path)
    for name in "bcd":
        write_text(tmp_path / "images" / f"{name}.png", "no picture")
    pictures = read_labelled(data).pictures
    assert [path.stem for path in pictures[::-1][1:].paths] == ["c", "b", "a"]
    assert pictures[:2][0].path == pictures[:1][-1].path == pictures.paths[0]
    assert (len(pictures[1:3]), len(pictures[:0])) == (2, 0)


def test_a_set_can_be_sent_to_another_process(tmp_path):
    labelled = read_labelled(write_yolo(tmp_path))
    there = pickle.loads(pickle.dumps(labelled))
    assert there.pictures[0].boxes.tolist() == labelled.pictures[0].boxes.tolist()


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_are_fractions_of_the_upright_picture(tmp_path, orientation):
    """A bright rectangle in the stored pixels; its box is measured upright, as labelling tools show it."""
    stored = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    stored[5:25, 10:70] = 255
    path = write_picture(tmp_path / "images" / "a.jpg", orientation, stored)
    bright = read_picture(path).pixels[..., 0] > 127
    height, width = bright.shape
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    x1, y1, x2, y2 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    line = f"0 {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} {(x2 - x1) / width} {(y2 - y1) / height}"
    write_text(tmp_path / "labels" / "a.txt", line)
    picture = only(write_text(tmp_path / "data.yaml", "val: images\nnames: [cat]"))
    assert picture.size == bright.shape
    assert picture.boxes[0].tolist() == pytest.approx([x1, y1, x2, y2], abs=TOLERANCE)


# Outlines of another folder


def test_outlines_of_segments_go_to_the_boxes_they_fit(tmp_path):
    """Two dogs and a cat; the outlines come in another order, the last is of a crowd that has no box."""
    data = write_yolo(tmp_path, "1 .2 .2 .2 .2\n1 .7 .7 .4 .4\n0 .2 .2 .2 .2\n1 .5 .1 .1 .1\n")
    outlines = [
        "0 .1 .1 .3 .1 .3 .3",
        "1 .52 .5 .9 .5 .9 .9",
        "1 .1 .1 .3 .1 .3 .3 .1 .3",
        "1 0 0 1 0 1 1 0 1",
    ]
    write_text(tmp_path / "segments" / "a.txt", "\n".join(outlines))
    picture = only(data)
    assert [polygons and len(polygons[0]) for polygons in picture.polygons] == [4, 3, 3, None]
    assert picture.has_mask.tolist() == [True, True, True, False]
    assert picture.boxes[1].tolist() == pytest.approx([0.5 * WIDTH, 0.5 * HEIGHT, 0.9 * WIDTH, 0.9 * HEIGHT])


def test_an_outline_in_the_labels_is_not_replaced(tmp_path):
    data = write_yolo(tmp_path, "1 .1 .1 .3 .1 .3 .3\n")
    write_text(tmp_path / "segments" / "a.txt", "1 .1 .1 .3 .1 .3 .3 .1 .3\n")
    assert len(only(data).polygons[0][0]) == 3


def test_a_wrong_line_of_segments_is_named(tmp_path):
    labelled = read_labelled(write_yolo(tmp_path))
    write_text(tmp_path / "segments" / "a.txt", "1 .1 .1 .3\n")
    with pytest.raises(InputError, match=r"segments.a\.txt, line 1: 4 columns"):
        labelled.pictures[0]


# data.yaml


def test_classes_may_be_a_list_a_dict_or_a_count(tmp_path):
    assert read_labelled(write_yolo(tmp_path, names=["cat", "dog"])).class_names == NAMES
    assert read_labelled(write_yolo(tmp_path, names={1: "dog", 0: "cat"}, nc=2)).class_names == NAMES
    assert read_labelled(write_yolo(tmp_path, names=None, nc=2)).class_names == {0: "0", 1: "1"}
    assert read_labelled(write_yolo(tmp_path, names={1: 7})).class_names == {1: "7"}


def test_a_set_says_what_it_is(tmp_path):
    data = write_yolo(tmp_path)
    labelled = read_labelled(tmp_path)
    assert (labelled.kind, labelled.source) == ("yolo", data)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"names": None}, "has no `names:`; list the classes"),
        ({"names": "cat"}, "has no `names:`"),
        ({"names": {"cat": 0}}, "`names:` has 'cat' where a class id belongs"),
        ({"names": {True: "cat"}}, "`names:` has True"),
        ({"names": {0: "cat", 1: False}}, "the name of class 1 reads as False; put it in quotes"),
        ({"nc": 3}, "`nc: 3`, but 2 `names:`"),
        ({"val": None}, "has no `val or train:`; the splits it has: none"),
        ({"val": None, "test": "images"}, "the splits it has: `test:`"),
        ({"val": 3}, "`val:` must be a folder, a .txt file or a list of them, got [3]"),
        ({"val": "photos"}, "names 'photos', which would be"),
        ({"val": "../photos"}, "nothing is downloaded: fetch the data set, or correct"),
        ({"val": "labels"}, "labels: holds no picture; what counts is .jpg"),
        ({"val": "labels/a.csv"}, "'labels/a.csv' is no picture"),
        ({"path": "elsewhere"}, "`path: elsewhere` is no folder, neither from"),
        ({"path": 3}, "`path:` must be a folder, got 3"),
        ({"kpt_shape": 17}, "`kpt_shape:` must be [keypoints, numbers of each], got 17"),
    ],
)
def test_a_wrong_data_yaml_is_named_with_what_it_says(tmp_path, said, message):
    data = write_yolo(tmp_path, **said)
    write_text(tmp_path / "labels" / "a.csv", "")
    with pytest.raises(InputError) as refused:
        read_labelled(data)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat\nval: x", "data.yaml, line 2: no YAML: "),
        ("- 1", "holds no `key: value` lines"),
        ("", "holds no `key: value` lines"),
        (
            "names: !!python/object/apply:os.getcwd []",
            "data.yaml, line 1: no YAML: could not determine a constructor",
        ),
        ("a: \x07", "no YAML: "),
    ],
)
def test_what_is_no_yaml_of_values_is_refused_and_not_run(tmp_path, text, message):
    with pytest.raises(InputError) as refused:
        read_labelled(write_text(tmp_path / "data.yaml", text))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_val_is_read_else_train_or_what_is_asked_for(tmp_path):
    for split in ("train", "val", "test"):
        write_picture(tmp_path / split / "images" / f"{split}.png")
        write_text(tmp_path / split / "labels" / f"{split}.txt", "0 .5 .5 1 1")
    everything = {split: f"{split}/images" for split in ("train", "val", "test")}
    data = write_yolo(tmp_path, **everything)
    assert names_of(read_labelled(data)) == ["val.png"]
    assert names_of(read_labelled(data, split="test")) == ["test.png"]
    assert names_of(read_labelled(write_yolo(tmp_path, **everything | {"val": None}))) == ["train.png"]
    renamed = everything | {"val": None, "validation": "val/images"}
    assert names_of(read_labelled(write_yolo(tmp_path, **renamed))) == ["val.png"]
    with pytest.raises(InputError, match="has no `holdout:`; the splits it has: `train:`, `val:`, `test:`"):
        read_labelled(data, split="holdout")


def test_a_folder_is_searched_to_its_depths_and_labels_lie_likewise(tmp_path):
    data = write_yolo(tmp_path)
    write_picture(tmp_path / "images" / "deep" / "er" / "b.c.png")
    write_picture(tmp_path / "images" / ".hidden.png")
    write_text(tmp_path / "labels" / "deep" / "er" / "b.c.txt", "0 .5 .5 1 1\n0 .5 .5 1 1\n")
    pictures = read_labelled(data).pictures
    assert [path.name for path in pictures.paths] == ["a.png", "b.c.png"]
    assert len(pictures[1].labels) == 2


def test_the_last_images_of_a_path_becomes_labels(tmp_path):
    root = tmp_path / "images" / "my images"
    assert len(only(write_yolo(root)).labels) == 1
    beside = tmp_path / "flat"
    write_picture(beside / "photos" / "a.png")
    write_text(beside / "photos" / "a.txt", "0 .5 .5 1 1")
    assert tmp_path.name != "images"
    outer = write_text(beside / "data.yaml", "val: photos\nnames: [cat]")
    # An images/ further up would be replaced, as ultralytics does: here there is none below tmp_path.
    assert len(only(outer).labels) == 1


def test_several_folders_and_pictures_are_one_split_each_picture_once(tmp_path):
    write_picture(tmp_path / "more" / "b.png")
    data = write_yolo(tmp_path, val=["more", "images", "images/a.png"])
    assert names_of(read_labelled(data)) == ["b.png", "a.png"]


def test_a_list_of_pictures_is_seen_from_itself_or_from_the_data_set(tmp_path):
    data = write_yolo(tmp_path, val="lists/val.txt")
    write_picture(tmp_path / "lists" / "b.png")
    listed = ["./b.png", "", "images/a.png", str(tmp_path / "images" / "a.png"), "gone.png"]
    write_text(tmp_path / "lists" / "val.txt", "\n".join(listed))
    pictures = read_labelled(data).pictures
    assert [path.name for path in pictures.paths] == ["b.png", "a.png", "gone.png"]
    assert len(pictures[1].labels) == 1
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        pictures[2]


@pytest.mark.parametrize(
    ("text", "said"), [("\n", "lists no picture"), ("a.png\nb.doc", "line 2: 'b.doc' is no")]
)
def test_a_wrong_list_is_named(tmp_path, text, said):
    data = write_yolo(tmp_path, val="val.txt")
    write_text(tmp_path / "val.txt", text)
    with pytest.raises(InputError, match=said):
        read_labelled(data)


def test_the_path_is_seen_from_the_yaml_then_from_here_or_is_absolute(tmp_path, monkeypatch):
    write_yolo(tmp_path / "set")
    text = "path: {}\nval: images\nnames: [cat, dog]"
    for said in ("set", "../set", str(tmp_path / "set")):
        start = tmp_path / "configs" if said.startswith("..") else tmp_path
        assert names_of(read_labelled(write_text(start / "x.yaml", text.format(said)))) == ["a.png"]
    monkeypatch.chdir(tmp_path)
    far = write_text(tmp_path / "far" / "away" / "x.yaml", text.format("set"))
    assert names_of(read_labelled(far)) == ["a.png"]


def test_an_entry_that_leaves_the_folder_by_mistake_is_found_in_it(tmp_path):
    assert names_of(read_labelled(write_yolo(tmp_path / "set", val="../images"))) == ["a.png"]


def test_a_linked_folder_of_pictures_keeps_its_labels(tmp_path):
    data = write_yolo(tmp_path / "set")
    os.rename(tmp_path / "set" / "images", tmp_path / "storage")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "storage")
    assert len(only(data).labels) == 1


def test_a_set_without_any_label_says_where_one_would_be(tmp_path):
    data = write_yolo(tmp_path)
    (tmp_path / "labels" / "a.txt").unlink()
    with pytest.raises(InputError) as refused:
        read_labelled(data)
    assert "none of its 1 pictures has labels" in str(refused.value)
    assert str(tmp_path / "labels" / "a.txt") in str(refused.value)


def test_nothing_is_downloaded(tmp_path):
    data = write_yolo(tmp_path, val="gone", download="import os; os.abort()")
    with pytest.raises(InputError, match="nothing is downloaded"):
        read_labelled(data)


# Folders


def bare(tmp_path):
    write_yolo(tmp_path).unlink()
    return tmp_path


def test_a_folder_without_a_yaml_has_the_ids_for_names(tmp_path):
    labelled = read_labelled(bare(tmp_path))
    write_text(tmp_path / "labels" / "a.txt", "5.0 .5 .5 1 1\nx\n\xff\n2 .5 .5 1 1\n")
    assert (labelled.class_names, len(labelled.pictures[:1])) == ({1: "1"}, 1)
    assert read_labelled(tmp_path).class_names == {2: "2", 5: "5"}


@pytest.mark.parametrize("place", ["classes.txt", "labels/classes.txt"])
def test_a_folder_may_name_its_classes(tmp_path, place):
    write_text(bare(tmp_path) / place, "cat\n dog \n")
    assert read_labelled(tmp_path).class_names == NAMES
    write_text(tmp_path / place, "cat\n\ndog\n")
    with pytest.raises(InputError, match=r"classes\.txt, line 2: empty"):
        read_labelled(tmp_path)


@pytest.mark.parametrize("layout", ["images/{}", "{}/images"])
def test_a_folder_with_splits_is_read_by_split(tmp_path, layout):
    for split in ("train", "val"):
        folder = tmp_path / layout.format(split)
        write_picture(folder / f"{split}.png")
        write_text(Path(str(folder).replace("images", "labels")) / f"{split}.txt", "0 .5 .5 1 1")
    (tmp_path / "images").mkdir(exist_ok=True)
    assert names_of(read_labelled(tmp_path)) == ["val.png"]
    assert names_of(read_labelled(tmp_path, split="train")) == ["train.png"]
    with pytest.raises(InputError, match="has neither images/test nor test/images"):
        read_labelled(tmp_path, split="test")


def test_the_only_yaml_of_a_folder_is_taken(tmp_path):
    data = write_yolo(tmp_path)
    os.rename(data, tmp_path / "pets.yml")
    assert read_labelled(tmp_path).source == tmp_path / "pets.yml"
    write_text(tmp_path / "other.yaml", "")
    assert read_labelled(tmp_path).source == tmp_path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "gone", "no such file or folder; data sets are not looked up or downloaded"),
        (lambda folder: folder, "holds neither a data.yaml nor images/ with labels/"),
        (
            lambda folder: write_text(folder / "a.csv", "x"),
            "give a data.yaml, a folder with images/ and labels/",
        ),
        (
            lambda folder: write_text(folder / "annotations" / "x.json", "{}").parents[1],
            "is given by its file",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path, make, said):
    with pytest.raises(InputError, match=said):
        read_labelled(make(tmp_path))


def test_a_folder_of_pictures_is_for_coco(tmp_path):
    with pytest.raises(InputError, match="images: is for a COCO JSON"):
        read_labelled(write_yolo(tmp_path), images=tmp_path)


def test_pictures_of_any_known_kind_are_found(tmp_path):
    write_yolo(tmp_path)
    Image.new("RGB", (5, 3)).save(tmp_path / "images" / "B.JPG")
    assert names_of(read_labelled(tmp_path)) == ["B.JPG", "a.png"]
