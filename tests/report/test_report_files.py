"""What is in the pages, read without a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcam.errors import InputError
from detcam.explanation import Verdict
from detcam.report import ErrorSummary, RankedError, read_explanation, read_run, write_report
from detcam.report.index import index_page, index_row
from detcam.report.packing import pack_maps
from detcam.report.pictures import as_jpeg
from detcam.report.reading import StoredRow

ATTACK = "</script><img src=x onerror=\"document.title='hacked'\">\u2028'"
UNSORTED = ErrorSummary({}, {}, ())
MEGABYTE = 1_000_000


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, content):
        if self.cdata_elem:  # set between <script> or <style> and its end
            self.inside.append((self.cdata_elem, content))


def report(folder: Path) -> str:
    (row,) = write_report(folder)
    assert row.error is None
    return row.page.read_text("utf-8")


def data_of(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page).group(1))


def unpacked(packed: dict) -> dict[str, np.ndarray]:
    """The maps of a page, decoded here as the page's script is meant to."""
    dtype = {"float32": "<f4", "uint16": "<u2"}[packed["precision"]]
    numbers = np.frombuffer(zlib.decompress(base64.b64decode(packed["block"])), dtype)
    found = {}
    for key, place in packed["places"].items():
        height, width = place["grid"]
        stored = numbers[place["start"] :][: height * width].reshape(height, width)
        if packed["precision"] == "uint16":
            stored = place["low"] + (place["high"] - place["low"]) * (stored / 65535)
        found[key] = stored
    return found


# Values


def test_the_page_holds_the_very_values_of_the_npz(tmp_path, write_run):
    maps = unpacked(data_of(report(write_run(tmp_path)))["maps"])
    with np.load(tmp_path / "street_cam.npz") as stored:
        keys = [key for key in stored.files if key.startswith("b")]
        assert {key.removeprefix("0/") for key in maps} == set(keys)
        for key in keys:
            np.testing.assert_array_equal(maps[f"0/{key}"], stored[key])


def test_maps_that_would_fill_the_page_are_stored_in_65536_steps():
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    packed = pack_maps({"one": values}, most=10)
    assert packed["precision"] == "uint16"
    half_a_step = (values.max() - values.min()) / 131070
    assert abs(unpacked(packed)["one"] - values).max() <= half_a_step * 1.001


def test_equal_maps_are_stored_once_and_those_of_one_shape_only_in_steps_are_not():
    ramp = np.arange(6, dtype=np.float32).reshape(2, 3)
    packed = pack_maps({"a": ramp, "b": ramp.copy(), "c": ramp * 2}, most=0)  # codes of c equal those of a
    starts = [packed["places"][key]["start"] for key in "abc"]
    assert starts == [0, 0, 6]
    np.testing.assert_allclose(unpacked(packed)["c"], ramp * 2, atol=1e-4)


def test_no_maps_are_no_trouble():
    assert unpacked(pack_maps({})) == {}


def test_the_energy_in_the_box_is_the_metrics(tmp_path, write_run, explained):
    from detcam.metrics import energy_in_box

    boxes = data_of(report(write_run(tmp_path)))["explanations"][0]["boxes"]
    for level, maps in explained.levels.items():
        expected = energy_in_box(explained.geometry.maps_to_image(maps), explained.detections.boxes)
        assert [box["energy"][level] for box in boxes] == pytest.approx(expected.tolist(), abs=1e-4)


# Size


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(("spoken", "precision"), [(1.0, "uint16"), (0.55, "float32")])
def test_ten_boxes_with_three_levels_fit_a_megabyte_whatever_the_picture(
    tmp_path, write_run, spoken, precision
):
    # The worst there can be: photograph, overlay and maps of noise, which nothing compresses.
    # `spoken` is the part of a map that is not zero: at 0.55, float32 nearly takes all that it may.
    folder = write_run(tmp_path)
    side, grids = 1280, {"P3": 80, "P4": 40, "P5": 20, "merged": 80}
    photograph = tmp_path / "noise.png"
    Image.fromarray(noise(side, side)).save(photograph, compress_level=0)
    Image.fromarray(noise(side, side)).save(folder / "street_cam.jpg", quality=95)
    generator = np.random.default_rng(0)
    maps = {
        f"b{box:03d}/{level}": (
            generator.normal(size=(grid, grid)) * (generator.random((grid, grid)) < spoken)
        ).astype(np.float32)
        for box in range(10)
        for level, grid in grids.items()
    }
    np.savez(folder / "street_cam.npz", **maps)

    def enlarge(document: dict) -> None:
        sha256 = hashlib.sha256(photograph.read_bytes()).hexdigest()
        document["image"] |= {"path": str(photograph), "width": side, "height": side, "sha256": sha256}
        document["input"] = {"width": 640, "height": 640, "letterbox": {"ratio": [0.5, 0.5], "pad": [0, 0]}}
        for layer in document["layers"]:
            layer["grid"] = [grids[layer["level"]]] * 2
        template = json.dumps(document["boxes"][0])
        document["boxes"] = [json.loads(template.replace("b000/", f"b{box:03d}/")) for box in range(10)]

    changed(folder, enlarge)
    page = report(folder)
    assert data_of(page)["maps"]["precision"] == precision
    assert MEGABYTE / 2 < len(page.encode()) <= MEGABYTE


def test_a_jpeg_keeps_to_its_side_and_bytes():
    jpeg = as_jpeg(noise(300, 2000), 1280, 100_000)
    assert len(jpeg) <= 100_000
    assert Image.open(io.BytesIO(jpeg)).size == (1280, 192)


def test_a_jpeg_that_would_be_too_large_however_coarse_becomes_smaller():
    jpeg = as_jpeg(noise(640, 640), 640, 20_000)
    assert len(jpeg) <= 20_000
    assert Image.open(io.BytesIO(jpeg)).size[0] < 640


# Strangers' words


def test_class_names_and_paths_are_only_ever_text(tmp_path, write_run):
    harmless = Elements(report(write_run(tmp_path / "harmless")))
    folder = write_run(tmp_path / "attack", dict.fromkeys(range(3), ATTACK))
    row = json.loads((folder / "index.jsonl").read_text())
    (folder / "index.jsonl").write_text(json.dumps(row | {"source": f'x"{ATTACK}.png'}) + "\n")
    page = report(folder)
    attacked = Elements(page)
    assert [tag for tag, _ in attacked.found] == [tag for tag, _ in harmless.found]
    assert not [name for _, attributes in attacked.found for name in attributes if name.startswith("on")]
    assert data_of(page)["explanations"][0]["boxes"][0]["class"] == ATTACK
    raw = re.search(r'id="data">(.*?)</script>', page).group(1)
    assert not set("<>&\u2028\u2029'") & set(raw)


def test_a_picture_is_listed_under_what_was_missed_and_is_not_explained(tmp_path, write_run):
    lost = Verdict("missed", (1, 1, 9, 9), 1, "dog", 0.0, "no candidate lies over it", None)
    (row,) = read_run(write_run(tmp_path, verdicts=(lost,))).rows
    stored = read_explanation(row.sidecar)
    boxes = index_row(row, stored)["boxes"]
    assert [kind for _, _, kind in boxes] == [None] * len(stored.boxes) + ["missed"]
    assert boxes[-1] == ("dog", 0.0, "missed")


def test_the_index_takes_strangers_words_as_text_too():
    rows = [
        StoredRow(f'1"{ATTACK}', "error", None, ATTACK),
        StoredRow(f'"{ATTACK}', "ok", Path("a_cam.json")),
    ]
    listed = [index_row(rows[0]), index_row(rows[1], page=Path('a#?".html'))]
    attacked = Verdict("missed", (0, 0, 1, 1), 0, ATTACK, 0.1, ATTACK, 0, (0, 0, 1, 1), ATTACK, 0.5, 0)
    summary = ErrorSummary({"missed": 1}, {"small": (0, 1)}, (RankedError(0.9, rows[1], attacked),))
    page = index_page(ATTACK, listed, summary).decode()
    tags = [tag for tag, _ in Elements(page).found]
    assert "img" not in tags
    assert tags.count("script") == 2
    addresses = [attributes["href"] for tag, attributes in Elements(page).found if tag == "a"]
    assert sorted(addresses) == ["a%23%3F%22.html", "a%23%3F%22.html#box=0"]


def test_a_file_name_that_is_no_text_does_no_harm():
    assert b"\\udcff" in index_page(
        "run", [index_row(StoredRow("\udcff.png", "error", None, "no"))], UNSORTED
    )


@pytest.mark.parametrize("kind", ["page", "index"])
def test_the_policy_names_the_very_scripts_and_styles_and_nothing_else(tmp_path, write_run, kind):
    page = report(write_run(tmp_path)) if kind == "page" else index_page("run", [], UNSORTED).decode()
    elements = Elements(page)
    (policy,) = [one["content"] for tag, one in elements.found if tag == "meta" and "http-equiv" in one]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    assert rules.pop("img-src") == ("data:" if kind == "page" else "'self'")
    hashes = {
        tag: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for tag, text in elements.inside
        if not text.startswith("{")
    }
    assert rules == {
        "script-src": f"'sha256-{hashes['script']}'",
        "style-src": f"'sha256-{hashes['style']}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [one for _, one in elements.found if "style" in one]


def test_no_file_beside_the_page_is_named_in_it(tmp_path, write_run):
    addresses = [
        one[name]
        for _, one in Elements(report(write_run(tmp_path))).found
        for name in ("src", "href")
        if name in one
    ]
    assert addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)


# Damage


def changed(folder: Path, change) -> Path:
    path = folder / "street_cam.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("boxes"), "damaged .*boxes"),
        (lambda d: d.update(schema="other/1"), "its schema is 'other/1'"),
        (lambda d: d["boxes"][0].update(score="high"), "a finite number expected, got 'high'"),
        (lambda d: d["boxes"][0].update(xyxy=[1, 2, 3]), "damaged"),
        (lambda d: d["boxes"][0]["maps"]["P3"].update(npz="b999/P3"), "the arrays lack 'b999/P3'"),
        (lambda d: d["layers"][0].update(grid=[5, 7]), r"must be finite and \(5, 7\)"),
        (lambda d: d["files"].update(arrays="../street_cam.npz"), "no plain file name"),
        (lambda d: d["files"].update(arrays="gone.npz"), "gone.npz is missing"),
        (lambda d: d["image"].update(width=0), "a side is not 1 to"),
        (lambda d: d["method"].update(scale="huge"), "no scale 'huge'"),
    ],
)
def test_a_damaged_description_is_one_line_that_says_what(tmp_path, write_run, change, message):
    path = changed(write_run(tmp_path), change)
    with pytest.raises(InputError, match=message) as caught:
        read_explanation(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_arrays_are_one_line_that_says_so(tmp_path, write_run):
    folder = write_run(tmp_path)
    arrays = folder / "street_cam.npz"
    arrays.write_bytes(arrays.read_bytes()[:200])
    (row,) = write_report(folder)
    assert row.page is None
    assert "street_cam.npz cannot be read" in row.error


def test_another_picture_in_the_same_place_is_told(tmp_path, write_run):
    folder = write_run(tmp_path)
    other = tmp_path / "other.png"
    Image.fromarray(noise(61, 97)).save(other)
    changed(folder, lambda document: document["image"].update(path=str(other)))
    (row,) = write_report(folder)
    assert "not the picture that was explained" in row.error


def test_pictures_that_moved_are_found_in_the_folder_given(tmp_path, write_run, explained):
    folder = write_run(tmp_path / "run")
    changed(folder, lambda document: document["image"].update(path="gone/street.png"))
    assert "the picture gone/street.png is not there" in next(iter(write_report(folder))).error
    (row,) = write_report(folder, images=explained.picture.path.parent)
    assert row.page == folder / "street_report.html"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no run.json"),
        ({"run.json": "{"}, "damaged"),
        ({"run.json": "[]"}, "damaged"),
        ({"run.json": '{"schema": "detcam.run/1", "task": "maps"}'}, "of detcam maps"),
        ({"run.json": '{"schema": "detcam.run/1"}'}, "holds no index.jsonl"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_run(tmp_path)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        read_run(tmp_path / "nowhere")


def test_a_damaged_row_is_listed_and_the_rest_goes_on(tmp_path, write_run):
    folder = write_run(tmp_path)
    with (folder / "index.jsonl").open("a") as index:
        index.write('{"source": "park.png", "sta\n')
        index.write('{"source": "gone.png", "status": "error", "files": [], "error": "no such file"}\n')
    rows = list(write_report(folder))
    assert [row.page.name for row in rows] == ["street_report.html", "index.html"]
    listed = data_of(rows[-1].page.read_text("utf-8"))["rows"]
    assert [row["status"] for row in listed] == ["ok", "error", "error"]
    assert listed[1]["source"] == "line 2 of index.jsonl"
    assert listed[2]["words"] == "no such file"
    assert listed[0]["thumb"] == "thumbs/street.jpg"
    with Image.open(folder / "thumbs" / "street.jpg") as thumb:
        assert thumb.size == (97, 61)  # the picture without the colour bar


def test_a_run_into_the_same_folder_replaces_the_row(tmp_path, write_run):
    folder = write_run(tmp_path)
    line = (folder / "index.jsonl").read_text()
    (folder / "index.jsonl").write_text(line + line)
    assert len(read_run(folder).rows) == 1


def test_another_runs_maps_of_the_same_picture_can_be_chosen(tmp_path, write_run):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", method="grad-cam")
    (row,) = write_report(first, others=[second])
    explanations = data_of(row.page.read_text("utf-8"))["explanations"]
    assert [one["method"]["name"] for one in explanations] == ["layer-cam", "grad-cam"]
