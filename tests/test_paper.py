"""Figures for papers: what is in the files, in print sizes, with text as text."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detcam.errors import InputError
from detcam.explanation import MERGED, ExplainedLayer, Explanation, Question, Style, Verdict
from detcam.explanation.paper import draw_figure
from detcam.geometry import Letterbox
from detcam.images import Picture
from detcam.render import COLORMAPS
from detcam.render.paper import Panel, PaperBar, PaperFigure, paper_figure, paper_format
from detcam.structures import Detections

# Two boxes on a 64×64 picture. Coarse level: one cell. Merged of box 0: [[4, 3], [3, 5]], of box 1: FINE[1].
FINE = [[[1.0, 0.0], [0.0, 2.0]], [[0.0, 0.5], [0.0, 0.0]]]
COARSE = [[[3.0]], [[0.0]]]


def by_hand(height: int = 64, width: int = 64, **changes: object) -> Explanation:
    geometry = Letterbox.stretch((height, width), (64, 64))
    facts = {
        "picture": Picture(np.full((height, width, 3), 100, np.uint8), Path("street.png")),
        "geometry": geometry,
        "detections": Detections(
            torch.tensor([[2.0, 40, 12, 60], [40, 44, 60, 60]]),
            torch.tensor([0.9, 0.5]),
            torch.tensor([2, 0]),
            torch.tensor([7, 3]),
        ),
        "found": 2,
        "class_names": {0: "cat", 1: "dog", 2: r"no formula: $\bus$"},
        "question": Question("layer-cam", "class-logit", "logit", "direct"),
        "layers": (
            ExplainedLayer("P5", "model.8", "backbone", 32, (2, 2)),
            ExplainedLayer("P6", "model.9", "backbone", 64, (1, 1)),
        ),
        "levels": {"P5": torch.tensor(FINE), "P6": torch.tensor(COARSE)},
        "involved": {level: torch.tensor([True, True]) for level in ("P5", "P6")},
        "deciding": ("P5", "P6"),
        "target_values": (1.5, -0.5),
    }
    return Explanation(**{**facts, **changes})


def texts(sheet: PaperFigure) -> list[str]:
    """Everything that is written, as an SVG has it."""
    root = ElementTree.fromstring(sheet.encoded("svg"))
    return ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def panels(sheet: PaperFigure) -> list[np.ndarray]:
    """The pictures, row by row; the last axis is the colour bar."""
    return [np.asarray(axis.images[0].get_array()) for axis in sheet.axes[:-1]]


# What is in the file


@pytest.mark.parametrize(("width", "inches"), [("column", 3.25), ("page", 6.875)])
def test_a_figure_is_as_wide_as_the_column_in_every_format(width, inches):
    pypdf = pytest.importorskip("pypdf", reason="no pypdf, which reads PDFs: pip install pypdf")
    sheet = by_hand().figure(width=width)
    page = pypdf.PdfReader(io.BytesIO(sheet.encoded("pdf"))).pages[0]
    assert float(page.mediabox.width) == pytest.approx(inches * 72)
    svg = ElementTree.fromstring(sheet.encoded("svg"))
    assert svg.get("width") == f"{inches * 72:g}pt"
    png = Image.open(io.BytesIO(sheet.encoded("png")))
    assert png.width == pytest.approx(inches * 300, abs=1)
    assert png.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_text_in_a_pdf_is_text_in_truetype_fonts():
    pypdf = pytest.importorskip("pypdf", reason="no pypdf, which reads PDFs: pip install pypdf")
    content = by_hand().figure(scale="image").encoded("pdf")
    assert b"/Type3" not in content
    assert b"/FontFile2" in content  # embedded TrueType
    assert b"CreationDate" not in content
    page = pypdf.PdfReader(io.BytesIO(content)).pages[0]
    fonts = [font.get_object() for font in page["/Resources"]["/Font"].values()]
    assert {font["/Subtype"] for font in fonts} == {"/Type0"}
    assert {font["/DescendantFonts"][0].get_object()["/Subtype"] for font in fonts} == {"/CIDFontType2"}
    words = page.extract_text()
    for text in ("photograph", "P5", "P6", "all levels", "cat 0.50", "layer-cam of class-logit (logit)"):
        assert text in words


def test_text_in_an_svg_is_text():
    said = texts(by_hand().figure(scale="image"))
    for text in ("photograph", "P5", "P6", "all levels", "cat 0.50", "0", "2.5", "5"):
        assert text in said
    assert r"no formula: $\bus$ 0.90" in texts(by_hand().figure(boxes=[0], levels=["P5"]))


@pytest.mark.parametrize("file_format", ["pdf", "svg", "png"])
def test_the_same_figure_is_the_same_file(file_format):
    first, second = (by_hand().figure().encoded(file_format) for _ in range(2))
    assert first == second
    assert b"<dc:date>" not in first


def test_saving_a_figure_oneself_embeds_fonts_and_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    by_hand().figure().savefig(tmp_path / "figure.pdf")
    assert b"/CIDFontType2" in (tmp_path / "figure.pdf").read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_a_notebook_shows_a_figure_as_png():
    sheet = by_hand().figure()
    assert sheet._repr_png_() == sheet.encoded("png")


def test_figures_do_without_pyplot():
    code = (
        "import sys, numpy; from detcam.render.paper import Panel, PaperBar, paper_figure; "
        "panel = Panel(numpy.zeros((4, 4, 3), 'u1'), [], [], [], []); "
        "paper_figure([''], [[panel]], PaperBar('jet', 1.0, '', ()), 'page').encoded('pdf'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_class_name_in_a_script_that_the_font_lacks_is_no_warning():
    by_hand(class_names={0: "猫", 2: "バス"}).figure().encoded("pdf")


# Panels


def test_a_panel_has_the_colours_of_the_overlay():
    explanation = by_hand()
    sheet = explanation.figure(scale="image", levels=["P5", MERGED])
    for panel, level in zip(panels(sheet)[1:], ("P5", MERGED), strict=True):
        # The upper part has neither boxes nor labels, and 64 pixels are kept as they are.
        drawn = explanation.overlay(scale="image", level=level)[:24, :64]
        assert panel.shape == (64, 64, 3)
        assert np.array_equal(panel[:24], drawn)
        assert (panel[:24] != 100).any()


def test_a_panel_comes_out_in_its_colours_in_a_png():
    # 1 of 2 in the upper half: image·(1 - α) + colour·α with α = 0.85 · 0.5^0.75.
    flat = by_hand(
        levels={"P5": torch.tensor([[[1.0, 1], [1, 0]]] * 2), "P6": torch.zeros(2, 1, 1)},
        question=Question("layer-cam", "class-logit", "logit", "total", "finest"),
    )
    sheet = flat.figure(boxes=[0], levels=["P5"], scale="fixed:2")
    drawn = np.array(Image.open(io.BytesIO(sheet.encoded("png"))).convert("RGB"))
    alpha = 0.85 * 0.5**0.75
    expected = 100 * (1 - alpha) + COLORMAPS["inferno"][128] * alpha
    # The second of two panels fills the right half; its box lies in the lower left.
    height, width = drawn.shape[:2]
    np.testing.assert_allclose(drawn[height // 5, width * 7 // 8], expected, atol=1)
    np.testing.assert_allclose(drawn[height // 5, width * 3 // 8], 100, atol=1)


def test_a_row_of_one_box_shows_that_box_only():
    sheet = by_hand().figure(boxes=[1, 0], levels=["P5"], scale="fixed:2")
    photograph, second, _, first = panels(sheet)
    assert (photograph == 100).all()
    # Box 1 says 0.5 at the top right, box 0 says 1 at the top left and 2 at the bottom right.
    assert (second[4, 60] != 100).any()
    assert (second[4, 4] == 100).all()
    assert (first[4, 4] != 100).any()
    assert (first[4, 60] == 100).all()
    assert [word for word in texts(sheet) if "0.50" in word] == ["cat 0.50"]


def test_a_row_of_a_class_shows_all_its_boxes():
    both = by_hand(detections=replace(by_hand().detections, labels=torch.tensor([0, 0])))
    sheet = both.figure(classes=["cat"], levels=["P5"])
    assert len(sheet.axes) == 3
    assert {"cat 0.90", "cat 0.50"} <= set(texts(sheet))
    assert texts(both.figure(classes=[0], levels=["P5"])) == texts(sheet)


def test_rows_are_as_high_as_their_pictures():
    sheet = by_hand(height=30, width=60).figure(boxes=[0, 1], levels=["P5"])
    across = sheet.get_size_inches()
    for axis in sheet.axes[:-1]:
        place = axis.get_position()
        assert place.height * across[1] == pytest.approx(place.width * across[0] / 2)


def test_nothing_overlaps():
    sheet = by_hand().figure(boxes=[0, 1], width="column")
    sheet.draw_without_rendering()
    places = [axis.get_tightbbox() for axis in sheet.axes]
    for number, one in enumerate(places):
        assert one.x0 >= 0
        assert one.y0 >= 0
        assert one.x1 <= sheet.bbox.width
        assert one.y1 <= sheet.bbox.height
        for other in places[number + 1 :]:
            apart = one.x1 <= other.x0 or other.x1 <= one.x0 or one.y1 <= other.y0 or other.y1 <= one.y0
            assert apart


def test_without_levels_a_sum_that_is_none_of_them_is_shown_too():
    assert "all levels" in texts(by_hand().figure())
    whole = by_hand(question=Question("layer-cam", "class-logit", "logit", "total", "finest"))
    assert {"P5", "P6"} <= set(texts(whole.figure()))
    assert "P5 (finest)" not in texts(whole.figure())
    assert "P5 (finest)" in texts(whole.figure(levels=[MERGED]))


def test_what_is_no_detection_is_dashed_and_named():
    def dashed(sheet: PaperFigure) -> int:
        return sheet.encoded("svg").count(b"stroke-dasharray")

    assert dashed(by_hand().figure(levels=["P5"])) == 0
    asked = by_hand(region=(20.0, 2.0, 60.0, 30.0)).figure(levels=["P5"])
    assert "asked about" in texts(asked)
    assert dashed(asked) == 2 * 2  # a line and its rim, on the photograph and on the panel
    miss = Verdict("near miss", (40, 44, 60, 60), 0, "cat", 0.2, "below the threshold", 3, row=1)
    missed = by_hand(verdicts=(miss,)).figure(boxes=[1], levels=["P5"])
    assert "near miss: cat 0.50" in texts(missed)
    assert dashed(missed) == 2 * 2


def test_a_figure_of_nothing_detected_is_the_photograph_and_says_so():
    sheet = by_hand().of_class(1).figure()
    assert all((panel == 100).all() for panel in panels(sheet))
    assert "layer-cam of class-logit: nothing to show" in texts(sheet)


# The bar


@pytest.mark.parametrize(
    ("scale", "levels", "top"),
    # The largest values of the panels: 2 of box 0 at P5, 5 of it merged.
    [("image", ["P5"], "2"), ("image", ["P5", MERGED], "5"), ("fixed:4", ["P5", MERGED], "4")],
)
def test_the_shared_bar_reaches_as_far_as_the_panels(scale, levels, top):
    said = texts(by_hand().figure(boxes=[0, 1], levels=levels, scale=scale))
    assert said[-4:] == ["0", top, f"{float(top) / 2:.3g}", "layer-cam of class-logit (logit)"]


def test_a_bar_of_boxes_on_their_own_scales_says_from_where_to_where_these_go():
    # Box 0 is drawn up to 5, box 1 up to 0.5.
    said = texts(by_hand().figure(boxes=[0, 1], scale="box"))
    assert said[-4:-1] == ["0", "box max", "layer-cam of class-logit"]
    assert said[-1] == "full colour from 0.5 to 5 (logit), by box and level"
    assert "top tenth" in texts(by_hand().figure(boxes=[0, 1]))


def test_the_bar_shows_the_colour_map():
    sheet = by_hand().figure(colormap="viridis")
    assert np.array_equal(np.asarray(sheet.axes[-1].images[0].get_array())[0], COLORMAPS["viridis"])


# What cannot be drawn


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"boxes": [2]}, "no box 2 in street: it has 0 to 1"),
        ({"boxes": [-1]}, "no box -1 in street: it has 0 to 1"),
        ({"classes": ["dog"]}, "no explained box in street of class 'dog'. Known: 'cat', 'no formula"),
        ({"classes": ["cats"]}, "Closest: 'cat'"),
        ({"levels": ["P5", "P9"]}, "no level 'P9'. Closest: 'P6', 'P5'"),
        ({"width": "half"}, "no width 'half'. Known: 'column', 'page'"),
        ({"levels": ["P5"] * 20, "width": "column"}, "21 panels beside each other do not fit 3.25 inches"),
        ({"boxes": [0] * 80, "levels": ["P5"]}, "inches high, no page may pass 200"),
        ({"colormap": "virids"}, "no colour map 'virids'"),
        ({"scale": "bx"}, "no scale 'bx'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(asked, message):
    with pytest.raises(InputError, match=re.escape(message)) as raised:
        by_hand().figure(**asked)
    assert "\n" not in str(raised.value)


def test_a_box_of_a_picture_without_any_is_one_line():
    with pytest.raises(InputError, match="no box 0 in street: nothing was detected there"):
        by_hand().of_class(1).figure(boxes=[0])


def test_rows_that_answer_different_questions_share_no_bar():
    other = by_hand(question=Question("grad-cam", "class-logit", "logit", "direct"))
    with pytest.raises(
        InputError, match=r"rows of one figure answer one question, got .*layer-cam.* and .*grad-cam"
    ):
        draw_figure([by_hand(), other], Style())


def test_a_figure_of_no_panels_is_refused():
    with pytest.raises(InputError, match="0 rows of 1"):
        paper_figure(["P3"], [], PaperBar("inferno", 1.0, "", ()), "page")
    with pytest.raises(InputError, match="a picture must be"):
        paper_figure([""], [[Panel(np.zeros((4, 4)), [], [], [], [])]], PaperBar("jet", 1.0, "", ()), "page")


def test_the_ending_says_the_format():
    assert [paper_format(Path(name)) for name in ("a.pdf", "a.SVG", "b.x.png")] == ["pdf", "svg", "png"]
    with pytest.raises(InputError, match=r"a figure ends in .pdf, .svg or .png, got 'a.jpg'"):
        paper_format(Path("a.jpg"))
