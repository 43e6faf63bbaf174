"""The pages as a reader sees them, in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from watched_page import Page

from detcam.explanation import Scale
from detcam.geometry import Letterbox
from detcam.render import COLORMAPS, blend, scale_map, strongest_share
from detcam.report import ErrorSummary, StoredBox, StoredExplanation, read_explanation, write_report
from detcam.report.index import index_page, index_row
from detcam.report.reading import StoredRow

ATTACK = "</script><img src=x onerror=\"document.title='hacked'\">'"
NAMES = {0: ATTACK, 1: "dog", 2: "fire hydrant"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_run) -> Path:
    """A run and a second one with another method, whose pages are written."""
    first = write_run(tmp_path_factory.mktemp("run"), NAMES)
    second = write_run(tmp_path_factory.mktemp("other"), NAMES, method="grad-cam")
    list(write_report(first, others=[second]))
    return first


@pytest.fixture(scope="module")
def window(browser, run) -> Iterator[Page]:
    opened = Page(browser, run / "street_report.html")
    yield opened
    opened.page.close()


@pytest.fixture
def page(window, run) -> Iterator[Page]:
    """The picture's page as it is when opened; no test may leave a complaint, and none a request."""
    yield window.go(run / "street_report.html").ready()
    assert window.complaints == []
    assert all(url == window.path.as_uri() or url.startswith("data:image/jpeg") for url in window.requests)


@pytest.fixture(scope="module")
def stored(run) -> StoredExplanation:
    return read_explanation(run / "street_cam.json")


# Values and pixels


def test_the_values_in_the_page_are_those_of_the_npz(page, run):
    with np.load(run / "street_cam.npz") as arrays:
        for key in [name for name in arrays.files if name.startswith("b")]:
            values = page.array(f"maps['0/{key}'].values").astype(np.float32)
            np.testing.assert_array_equal(values, arrays[key].ravel())


@pytest.mark.parametrize(
    ("letterbox", "grid"),
    [
        (Letterbox.fit((61, 97), (640, 640), 32), (13, 20)),
        (Letterbox.fit((97, 61), (96, 96), 32), (3, 2)),
        (Letterbox.fit((61, 97), (320, 320), 320), (11, 7)),  # padded on both sides
        (Letterbox.stretch((53, 31), (64, 160)), (5, 3)),
        (Letterbox.centre_crop((61, 97), 224), (7, 7)),
        (Letterbox.fit((61, 97), (640, 640), 32), (1, 1)),
    ],
    ids=str,
)
def test_maps_lie_on_the_picture_where_the_renderer_puts_them(page, letterbox, grid):
    values = np.random.default_rng(0).normal(size=grid).astype(np.float32)
    height, width = letterbox.image_size
    asked = {
        "picture": {"width": width, "height": height},
        "explanation": {
            "ratio": letterbox.ratio,
            "pad": letterbox.pad,
            "input": {"width": letterbox.input_size[1], "height": letterbox.input_size[0]},
        },
        "map": {"height": grid[0], "width": grid[1], "values": values.ravel().tolist()},
    }
    found, one = page.page.evaluate(
        "({picture, explanation, map}) => { data.picture = picture; "
        "return [Array.from(upsample(explanation, map, picture.height, picture.width)), "
        "valueAt(explanation, map, 12.5, 7.5)]; }",
        asked,
    )
    expected = letterbox.maps_to_image(torch.from_numpy(values)[None])[0].numpy()
    np.testing.assert_allclose(np.reshape(found, (height, width)), expected, atol=2e-5)
    assert one == pytest.approx(expected[7, 12], abs=2e-5)


def expected_values(stored: StoredExplanation, numbers: list[int], level: str) -> np.ndarray:
    """What detcam's own picture of these boxes is coloured by, each box on its own scale."""
    values = np.zeros(stored.geometry.image_size, np.float32)
    for number in numbers:
        maps = stored.boxes[number].maps
        top = max(float(one.max()) for one in maps.values())
        heatmap = stored.geometry.maps_to_image(torch.from_numpy(maps[level])[None])[0].numpy()
        values = np.maximum(values, scale_map(heatmap, 0.0, top))
    return values


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_the_picture_looks_as_the_renderer_draws_it(page, stored, explained, colormap):
    page.page.select_option("#colormap", colormap)
    photograph = explained.picture.pixels
    drawn = page.pixels().astype(float)
    alpha = drawn[..., 3:] / 255
    composed = photograph * (1 - alpha) + drawn[..., :3] * alpha
    values = expected_values(stored, [0, 1, 2], "merged")
    expected = blend(photograph, values, colormap)
    # The canvas keeps colours multiplied by an opacity of 8 bits. A step of the table may be met just aside.
    assert abs(composed - expected).max() < 6
    assert abs(composed - expected).mean() < 0.6
    np.testing.assert_array_equal(drawn[values == 0], 0)


def test_the_energy_scale_is_the_renderers(page, stored):
    page.page.select_option("#scale", "energy")
    expected = [max(strongest_share(one) for one in box.maps.values()) for box in stored.boxes]
    assert page.page.evaluate("tops()") == pytest.approx(expected)
    assert "scale: energy" in page.page.locator("#bar-title").inner_text()


def test_opacity_and_threshold_change_pixels(page, stored):
    before = page.pixels()
    page.set("opacity", 40)
    half = page.pixels()
    assert half[..., 3].max() == round(255 * 0.4)
    assert before[..., 3].max() == round(255 * 0.85)
    page.set("threshold", 50)
    values = expected_values(stored, [0, 1, 2], "merged")
    assert not page.pixels()[values < 0.49].any()
    assert (page.pixels()[values > 0.51] == half[values > 0.51]).all()
    page.set("opacity", 0)
    assert not page.pixels()[..., 3].any()


def test_level_scale_and_fixed_scale_change_what_is_drawn(page, stored):
    page.page.locator("input[name=box][value='0']").check()
    page.page.select_option("#level", "P4")
    maps = stored.boxes[0].maps
    heatmap = stored.geometry.maps_to_image(torch.from_numpy(maps["P4"])[None])[0].numpy()
    size = stored.geometry.image_size
    every = [float(one.max()) for box in stored.boxes for one in box.maps.values()]
    tops = {"box": max(float(m.max()) for m in maps.values()), "level": float(maps["P4"].max())}
    for kind, top in (tops | {"image": max(every), "fixed": 0.5}).items():
        page.page.select_option("#scale", kind)
        page.set("fixed", 0.5)
        found = page.array("shown.values").reshape(size)
        np.testing.assert_allclose(found, scale_map(heatmap, 0.0, top), atol=1e-5)
        end = float(page.page.locator("#ticks span").last.inner_text())
        assert end == pytest.approx(top, rel=6e-3)
        assert f"scale: {kind}" in page.text("bar-title")


# Choosing


def test_a_click_chooses_the_box_and_a_click_beside_all_of_them(page, stored):
    stage = page.page.locator("#stage").bounding_box()
    height, width = stored.geometry.image_size
    for number, box in enumerate(stored.boxes):
        x, y = (box.xyxy[0] + box.xyxy[2]) / 2, (box.xyxy[1] + box.xyxy[3]) / 2
        holding = [
            other
            for other, one in enumerate(stored.boxes)
            if one.xyxy[0] < x < one.xyxy[2] and one.xyxy[1] < y < one.xyxy[3]
        ]
        page.page.mouse.click(
            stage["x"] + x / width * stage["width"], stage["y"] + y / height * stage["height"]
        )
        chosen = int(page.page.locator("input[name=box]:checked").input_value())
        assert chosen in holding
        assert len(holding) > 1 or chosen == number
        np.testing.assert_allclose(
            page.array("shown.values").reshape(height, width),
            expected_values(stored, [chosen], "merged"),
            atol=1e-5,
        )
    page.page.locator("#stage").press("Escape")
    assert page.page.locator("input[name=box]:checked").input_value() == ""


def test_arrows_walk_the_boxes(page):
    stage = page.page.locator("#stage")
    stage.focus()
    order = []
    for _ in range(5):
        page.page.keyboard.press("ArrowRight")
        order.append(page.page.locator("input[name=box]:checked").input_value())
    assert order == ["0", "1", "2", "", "0"]
    page.page.keyboard.press("ArrowUp")
    assert page.page.locator("input[name=box]:checked").input_value() == ""
    page.page.locator("input[name=box]:checked").focus()
    page.page.keyboard.press("ArrowDown")
    assert page.page.locator("input[name=box]:checked").input_value() == "0"


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page):
    reached = []
    for _ in range(10):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("(it => it.id || it.name || it.tagName)(document.activeElement)"))
        assert page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", reached
    assert reached == [
        *("stage", "method", "class", "level", "scale"),
        *("colormap", "opacity", "threshold", "box", "SUMMARY"),
    ]


def test_every_control_and_picture_has_a_name(page):
    nameless = page.page.evaluate(
        "[...document.querySelectorAll('select, input')].filter(it => !it.labels.length).map(it => it.id)"
    )
    assert nameless == []
    assert page.page.evaluate("[...document.images].every(it => it.alt)")
    assert page.page.locator("#bar").get_attribute("aria-label").startswith("Colour bar, inferno, from 0")


def test_what_was_explained_is_said_in_words(page, stored):
    page.page.locator("input[name=box][value='1']").check()
    box = stored.boxes[1]
    words = page.text("sentence")
    assert f"“{box.class_name}” was found with a score of {box.score:.2f}, by a cell of {box.level}" in words
    assert "layer-cam of class-logit" in words
    assert "of the evidence of all levels lies in the box" in words
    facts = page.text("facts")
    for fact in ("deciding level", "layer", "target", "energy in the box", "highest value"):
        assert fact in facts


def test_the_value_under_the_cursor_is_the_raw_one(page, stored):
    page.page.locator("input[name=box][value='0']").check()
    page.page.locator("#stage").scroll_into_view_if_needed()
    stage = page.page.locator("#stage").bounding_box()
    height, width = stored.geometry.image_size
    x, y = 40.5, 30.5
    page.page.mouse.move(stage["x"] + x / width * stage["width"], stage["y"] + y / height * stage["height"])
    heatmap = stored.geometry.maps_to_image(torch.from_numpy(stored.boxes[0].maps["merged"])[None])[0]
    said = page.text("readout")
    assert said.startswith("x 40, y 30: ")
    assert float(said.split(": ")[1].split(" ")[0]) == pytest.approx(
        float(heatmap[30, 40]), rel=0.05, abs=1e-4
    )


def test_a_class_hides_the_boxes_of_others(page, stored):
    label = stored.boxes[0].class_id
    of_class = [number for number, box in enumerate(stored.boxes) if box.class_id == label]
    page.page.select_option("#class", str(label))
    assert page.page.locator("#boxes label:visible").count() == 1 + len(of_class)
    np.testing.assert_allclose(
        page.array("shown.values").reshape(stored.geometry.image_size),
        expected_values(stored, of_class, "merged"),
        atol=1e-5,
    )


def test_a_method_can_be_chosen_where_there_are_several(page):
    assert page.page.locator("#method").is_visible()
    page.page.locator("input[name=box][value='1']").check()
    page.page.locator("#method").focus()
    page.page.select_option("#method", "1")
    assert page.page.locator("input[name=box]:checked").input_value() == "1"
    assert "grad-cam of class-logit" in page.text("sentence")


def test_one_method_needs_no_choice(window, tmp_path, write_run):
    (row,) = write_report(write_run(tmp_path))
    assert not window.go(row.page).ready().page.locator("#method").is_visible()


def test_light_and_dark_follow_the_reader(page):
    papers = []
    for scheme in ("dark", "light"):
        page.page.emulate_media(color_scheme=scheme)
        papers.append(page.page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(20, 23, 26)", "rgb(255, 255, 255)"]


def test_a_narrow_window_is_not_scrolled_sideways(page):
    page.page.set_viewport_size({"width": 420, "height": 800})
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 420
    page.page.set_viewport_size({"width": 1000, "height": 800})


# Strangers


def test_a_class_name_cannot_inject_anything(page):
    assert page.page.title() == "street.png · detcam"
    assert page.page.locator("img").count() == 1
    assert page.page.evaluate("document.scripts.length") == 2
    assert ATTACK in page.page.evaluate("document.body.textContent")


def test_the_policy_stops_what_somebody_puts_into_the_file(browser, run, tmp_path):
    text = (run / "street_report.html").read_text("utf-8")
    image = "<img src='http://127.0.0.1:9/x' onerror='window.hacked = 2'>"
    bad = f"<script>window.hacked = 1</script>{image}</body>"
    (tmp_path / "changed.html").write_text(text.replace("</body>", bad), "utf-8")
    opened = Page(browser, tmp_path / "changed.html").ready()
    assert opened.page.evaluate("window.hacked") is None
    assert len([one for one in opened.complaints if "Content Security Policy" in one]) >= 2
    assert opened.page.evaluate("shown.values.length") > 0  # the page itself works
    opened.page.close()


def test_without_scripts_the_overlay_is_there(browser, run):
    opened = Page(browser, run / "street_report.html", java_script_enabled=False)
    assert opened.page.locator("noscript img").is_visible()
    assert "needs JavaScript" in opened.page.locator("body").inner_text()
    opened.page.close()


# The index


def a_box(name: str, score: float) -> StoredBox:
    return StoredBox((0, 0, 9, 9), None, 0, name, score, "P3", 0, 1.0, None, {}, {}, ())


def listed(number: int) -> dict[str, Any]:
    """Of every four pictures: a dog at 0.9, a cat at 0.3 to 0.9, nothing, a failure."""
    row = StoredRow(f"photos/{number:03d}.png", ("ok", "ok", "no_detections", "error")[number % 4], None)
    if number % 4 == 3:
        return index_row(row, error=f"{ATTACK} is no picture")
    boxes = {0: (a_box("dog", 0.9),), 1: (a_box(ATTACK, 0.3 + number / 200),), 2: ()}[number % 4]
    geometry = Letterbox.stretch((9, 9), (32, 32))
    found = StoredExplanation(
        None, None, geometry, {}, Scale("box"), (), boxes, len(boxes), 0.1, (), None, (), (), ()
    )
    return index_row(row, found, Path(f"{number:03d}_report.html"))


@pytest.fixture
def index(window, tmp_path) -> Iterator[Page]:
    path = tmp_path / "index.html"
    path.write_bytes(index_page("run", [listed(number) for number in range(120)], ErrorSummary({}, {}, ())))
    yield window.go(path)
    assert window.complaints == []
    assert window.requests == [path.as_uri()]


def names(index: Page) -> list[str]:
    return index.page.locator("#rows li a, #rows li strong").all_inner_texts()


def test_the_index_shows_fifty_pictures_at_a_time(index):
    assert names(index) == [f"{number:03d}.png" for number in range(50)]
    assert index.page.locator("#back").is_disabled()
    index.page.click("#next")
    index.page.click("#next")
    assert names(index) == [f"{number:03d}.png" for number in range(100, 120)]
    assert index.text("where") == "101–120 of 120"
    assert index.page.locator("#next").is_disabled()


def test_the_index_filters_by_class_score_and_status(index):
    index.page.click("#next")
    index.page.select_option("#class", label="dog")
    assert names(index) == [f"{number:03d}.png" for number in range(0, 120, 4)]
    index.set("score", 91)
    assert names(index) == []
    assert index.text("where") == "none"
    index.page.select_option("#class", label=ATTACK)
    index.set("score", 60)
    assert names(index) == [f"{number:03d}.png" for number in range(61, 120, 4)]  # 0.3 + n / 200 >= 0.6
    index.page.select_option("#class", "")
    index.set("score", 0)
    index.page.select_option("#status", "error")
    assert len(names(index)) == 30
    assert index.text("count") == "30 of 120 pictures"
    assert index.page.locator("#rows img").count() == 0
    assert "is no picture" in index.page.locator("#rows li").first.inner_text()


def test_thumbnails_are_files_beside_the_index_and_load_late(window, tmp_path, write_run):
    folder = write_run(tmp_path)
    row = json.loads((folder / "index.jsonl").read_text())
    (folder / "index.jsonl").write_text(
        "".join(json.dumps(row | {"source": f"{i}.png"}) + "\n" for i in "ab")
    )
    *_, last = write_report(folder)
    opened = window.go(last.page)
    opened.page.wait_for_function("document.images[0].complete")
    assert opened.page.evaluate("[document.images[0].naturalWidth, document.images[0].loading]") == [
        97,
        "lazy",
    ]
    opened.page.click("#rows a >> nth=0")
    opened.ready()
    assert opened.complaints == []
