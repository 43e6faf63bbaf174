"""The harnesses of `make fuzz` for seconds, with inputs that know the format; and what was found."""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detcam.adapters.layouts import HeadFacts
from detcam.errors import CheckpointError, ImageError, InputError
from detcam.report.reading import read_explanation

FUZZ = Path(__file__).parents[1] / "fuzz"
sys.path.insert(0, str(FUZZ))
as_file = importlib.import_module("as_file").as_file
HARNESSES = {
    path.stem: importlib.import_module(path.stem)
    for path in sorted(FUZZ.glob("*.py"))
    if path.stem not in ("main", "as_file")
}
ODD = (
    *(None, True, False, 0, -1, 7, 2**31, 2**63, 10**400, 0.5, -1e308, 1e-320, float("nan"), float("inf")),
    *("", "x", "../../x", "nul\0", "\ud800", "9" * 99, "x" * 300),
    *([], {}, [[]], [None], {"a": 1}, [0, 0, 0, 0]),
)

pytestmark = pytest.mark.filterwarnings("ignore")


def fuzzed(examples: int = 150):
    """A test of so many inputs, none of which says how long it may take."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@st.composite
def damaged(draw, seeds):
    """A seed with bytes changed, cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 5))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 9)))
        instead = (bytes(data[place:end]) * 2, b"", b"\xff" * 4)
        data[place:end] = draw(st.sampled_from(instead) | st.binary(max_size=9))
    return bytes(data)


@st.composite
def lying(draw, document):
    """A JSON document of which some values are others."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        holder, key = None, None
        inner = document
        while isinstance(inner, list | dict) and inner and draw(st.integers(0, 5)):
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            holder, key = inner, draw(st.sampled_from(keys))
            inner = holder[key]
        if holder is None:
            continue
        if draw(st.booleans()) and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    return document


@pytest.mark.parametrize("name", HARNESSES)
def test_seeds_are_read(name):
    """A harness whose seeds were refused at once would find nothing behind the first check."""
    harness = HARNESSES[name]
    seeds = harness.seeds()
    assert len(seeds) >= 2
    for seed in seeds:
        harness.check(seed)


@pytest.mark.parametrize("name", HARNESSES)
def test_only_our_errors_come_out_of_damaged_files(name):
    harness = HARNESSES[name]

    @fuzzed(60 if name in ("labels", "run_folder") else 150)
    @given(damaged(harness.seeds()))
    def run(data):
        harness.check(data)

    run()


OPTIONS = (
    *(
        "filters",
        "size",
        "stride",
        "pad",
        "padding",
        "groups",
        "group_id",
        "layers",
        "from",
        "mask",
        "anchors",
    ),
    *("anchors", "classes", "activation", "batch_normalize", "scale_x_y", "new_coords", "dilation"),
    *("width", "height"),
)
KINDS = (
    *("net", "convolutional", "maxpool", "avgpool", "upsample", "dropout", "route", "shortcut", "sam"),
    *("scale_channels", "yolo", "region"),
)
VALUES = (
    *("0", "1", "2", "3", "4", "32", "-1", "-2", "-4,-1", "0,1", "10,14,23,27", "1e9", "nan", "99999999999"),
    *("linear", "leaky", "logistic", "mish", "", ",", "-1,", "0x10", "２", "1.5", "255"),
)
SECTIONS = st.tuples(
    st.sampled_from(KINDS), st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)), max_size=6)
)


@fuzzed(300)
@given(st.lists(SECTIONS, max_size=10))
def test_only_our_errors_come_out_of_any_darknet_description(sections):
    lines = ["[net]", "width=64", "height=32"]
    for kind, options in sections:
        lines += [f"[{kind}]", *(f"{key}={value}" for key, value in options)]
    HARNESSES["darknet_cfg"].check("\n".join(lines).encode())


@fuzzed(500)
@given(st.binary(max_size=120))
def test_only_our_errors_come_out_of_any_shapes_of_a_head(data):
    HARNESSES["tensor_layouts"].check(data)


HEADER = {
    "weight": {"dtype": "F32", "shape": [2, 1, 1, 1], "data_offsets": [0, 8]},
    "bias": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
    "__metadata__": {"a": "b"},
}


@fuzzed(300)
@given(lying(HEADER), st.integers(0, 20))
def test_only_our_errors_come_out_of_a_safetensors_header_that_lies(header, length):
    harness = HARNESSES["safetensors_file"]
    harness.check(harness.file_of(header, bytes(length)))


CHECKPOINTS = HARNESSES["torch_checkpoint"]
PICKLES = [CHECKPOINTS.pickle_of(one) for one in ({"a": {1, 2}}, {"model": CHECKPOINTS._NETWORK})]


@fuzzed(200)
@given(damaged(PICKLES))
def test_only_our_errors_come_out_of_a_damaged_pickle_in_a_sound_archive(pickled):
    HARNESSES["torch_checkpoint"].check(pickled)


@fuzzed(150)
@given(st.data())
def test_only_our_errors_come_out_of_a_run_folder_that_lies(data):
    harness = HARNESSES["run_folder"]
    kind = data.draw(st.sampled_from([b"d", b"r", b"i"]))
    document = {b"d": harness._DESCRIPTION, b"r": harness._MANIFEST, b"i": harness._ROWS[0]}[kind]
    harness.check(kind + json.dumps(data.draw(lying(document))).encode())


@fuzzed(100)
@given(lying(HARNESSES["labels"]._COCO))
def test_only_our_errors_come_out_of_labels_that_lie(document):
    HARNESSES["labels"].check(b"c" + json.dumps(document).encode())


# --- what was found ---------------------------------------------------------------------------------------


def test_a_name_in_an_archive_that_is_no_text_is_damage(tmp_path):
    from detcam.checkpoints import open_checkpoint

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}.")
        archive.writestr("model/ö", b"")
    path = tmp_path / "model.pt"
    path.write_bytes(file.getvalue().replace("ö".encode(), b"\xff\xff"))
    with pytest.raises(CheckpointError, match="damaged zip archive"):
        open_checkpoint(path)


@pytest.mark.parametrize("said", [{"anchors": 0}, {"reg_max": 0}, {"strides": (8, 0)}])
def test_counts_below_one_are_refused(said):
    with pytest.raises(InputError, match=r"at least 1|pixels per cell"):
        HeadFacts((64, 64), ((1, 85, 8, 8),), **said)


def test_names_too_long_for_a_file_are_names_of_no_file(tmp_path):
    """They raised errors of the operating system, also where 80 class names were typed."""
    from detcam.adapters.options import read_names
    from detcam.images import find_pictures, read_picture
    from detcam.labels import read_labelled

    names = [f"class number {number}" for number in range(80)]
    assert read_names(",".join(names)) == tuple(names)
    for read in (read_picture, lambda name: find_pictures([name])):
        with pytest.raises(ImageError, match="no such file"):
            read("x" * 300)
    document = copy.deepcopy(HARNESSES["labels"]._COCO)
    document["images"][0]["file_name"] = "x" * 300
    (tmp_path / "coco.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="is not in"):
        read_labelled(tmp_path / "coco.json")


@pytest.mark.parametrize("place", ["pad", "ratio"])
def test_a_letterbox_beyond_all_pictures_is_refused(place):
    harness = HARNESSES["run_folder"]
    document = copy.deepcopy(harness._DESCRIPTION)
    document["input"]["letterbox"][place] = [10**30, 10**30]
    harness.check(harness.seeds()[0])  # writes the files beside it
    path = as_file("run/a_cam.json", json.dumps(document).encode())
    with pytest.raises(InputError, match="a side is not 1 to"):
        read_explanation(path)


def test_a_count_of_classes_beyond_all_data_sets_makes_no_names(tmp_path):
    from PIL import Image

    from detcam.labels import read_labelled

    Image.new("RGB", (5, 3)).save(tmp_path / "a.png")
    (tmp_path / "data.yaml").write_text("train: .\nnc: 1000000000000\n")
    with pytest.raises(InputError, match="over the 1000000 classes"):
        read_labelled(tmp_path / "data.yaml")
