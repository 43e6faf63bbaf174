"""Errors in the pages, as a reader walks through them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from watched_page import Page

from detcam.explanation import Verdict
from detcam.report import write_report

ATTACK = "</script><img src=x onerror=\"document.title='hacked'\">'"


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_run, explained) -> Path:
    """A right, a wrong and a missed one, in two pictures; strangers' words among them."""
    boxes, labels, scores = (
        one.tolist()
        for one in (explained.detections.boxes, explained.detections.labels, explained.detections.scores)
    )
    kinds = [
        ("true positive", "a labelled thing, IoU 0.91", None),
        ("wrong class", f"a labelled {ATTACK}", (5.0, 5.0, 40.0, 40.0)),
        ("missed", "best candidate dog 0.2: below the threshold", (8.0, 6.0, 50.0, 44.0)),
    ]
    verdicts = tuple(
        Verdict(
            kind=kind,
            box=tuple(boxes[row]),
            class_id=labels[row],
            class_name=explained.class_names[labels[row]],
            score=scores[row],
            words=words,
            candidate=row,
            truth=truth,
            truth_class=None if truth is None else ATTACK,
            overlap=None if truth is None else 0.5,
            row=row,
        )
        for row, (kind, words, truth) in enumerate(kinds)
    )
    folder = write_run(tmp_path_factory.mktemp("run"), verdicts=verdicts)
    index = folder / "index.jsonl"
    row = json.loads(index.read_text())
    failed = {"source": "b.png", "status": "error", "files": [], "error": "is no picture"}
    index.write_text("\n".join(map(json.dumps, (row, failed))) + "\n")
    list(write_report(folder))
    return folder


@pytest.fixture
def window(browser, run) -> Iterator[Page]:
    opened = Page(browser, run / "index.html")
    yield opened
    assert opened.complaints == []
    assert opened.page.title() != "hacked"
    opened.page.close()


def chosen(window: Page) -> str:
    return window.page.locator("#boxes label:has(:checked)").inner_text().replace("\n", " ")


def test_three_clicks_from_the_index_to_why_something_was_missed(window):
    first = window.page.locator("#first a")
    assert first.count() == 2
    first.filter(has_text="missed").click()  # the one click it takes
    window.ready()
    assert "missed" in chosen(window)
    assert window.text("sentence").startswith(
        f"“{ATTACK}” was missed. Best candidate dog 0.2: below the threshold. What spoke for it: layer-cam"
    )
    assert window.pixels()[..., 3].any()


def test_the_index_counts_kinds_and_filters_by_them(window):
    counts = window.page.locator(".errors th").all_inner_texts()
    assert counts == ["missed", "wrong class", "true positive", "medium objects found"]
    assert window.page.locator("#kind option").all_inner_texts() == [
        "all",
        "missed",
        "wrong class",
        "true positive",
    ]
    assert window.page.locator("#rows li").count() == 2
    window.page.select_option("#kind", "wrong class")
    assert window.page.locator("#rows li").count() == 1
    window.page.click("#rows a")
    window.ready()
    assert window.page.locator("#kind").input_value() == "wrong class"
    assert chosen(window).startswith("wrong class:")
    shown = [one for one in window.page.locator("#boxes label").all() if one.is_visible()]
    assert len(shown) == 2  # all of them, and the one of that kind


def test_what_is_no_detection_is_dashed_and_the_labelled_object_is_drawn(window, run):
    window.go(run / "street_report.html").ready()
    dashes = window.page.eval_on_selector_all(
        "#outlines g",
        "groups => groups.map(g => [...g.querySelectorAll('polygon:not(.rim)')]"
        ".map(p => getComputedStyle(p).strokeDasharray !== 'none'))",
    )
    assert dashes == [[False], [False, True], [True, True]]
    points = window.page.locator("#outlines g:nth-child(3) polygon:not(.rim)").nth(1).get_attribute("points")
    assert points == "8,6 50,6 50,44 8,44"


def test_arrows_walk_through_one_kind(window, run):
    window.go(run / "street_report.html").ready()
    window.page.select_option("#kind", "missed")
    window.page.focus("#stage")
    window.page.keyboard.press("ArrowRight")
    assert chosen(window).startswith("missed:")
    window.page.keyboard.press("ArrowRight")
    assert chosen(window) == "all boxes"


@pytest.mark.parametrize("address", ["#box=99", "#box=-1", "#kind=nonsense", "#box=%3Cscript%3E", "#=&&box"])
def test_an_address_that_asks_for_nothing_known_opens_the_page_as_it_is(window, run, address):
    window.page.goto((run / "street_report.html").as_uri() + address)
    window.ready()
    assert chosen(window) == "all boxes"


def test_a_page_without_verdicts_has_no_kinds_to_choose(window, tmp_path, write_run):
    folder = write_run(tmp_path)
    list(write_report(folder))
    window.go(folder / "street_report.html").ready()
    assert not window.page.locator("#kind").is_visible()
