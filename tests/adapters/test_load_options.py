"""What a user types about a model: class names, anchors; errors name the file and the line."""

import struct

import pytest

from detcam.adapters.options import load_options, parse_anchors, read_names
from detcam.cli import main
from detcam.errors import InputError, UnknownNameError


@pytest.fixture
def file(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("coco.names", "person\nbicycle\ntraffic light\n\n", ("person", "bicycle", "traffic light")),
        ("coco.txt", "\ufeffcat\r\ndog\r\n", ("cat", "dog")),
        ("one.names", "Übergang", ("Übergang",)),
        ("data.yaml", "nc: 2\nnames: [cat, dog]\n", ("cat", "dog")),
        ("data.yml", "names:\n  1: dog\n  0: cat\n", ("cat", "dog")),
        ("odd.yaml", "names: [no, 1, x]\n", ("False", "1", "x")),
    ],
)
def test_names_are_read_in_order_of_their_ids(file, name, text, expected):
    assert read_names(file(name, text)) == expected


def test_names_may_be_given_with_commas():
    assert read_names("cat, traffic light,bird") == ("cat", "traffic light", "bird")
    assert read_names("cat") == ("cat",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.names", "cat\n\ndog\n", r"a\.names, line 2: empty"),
        ("a.txt", b"cat\n\xff\xfe\n", r"a\.txt, line 2: not UTF-8"),
        ("a.names", "", r"a\.names, line 1: empty"),
        ("a.names", b"x" * 1_000_001, "too large"),
        ("a.yaml", "names: [cat\nnc: 2\n", r"a\.yaml, line 2: no YAML"),
        ("a.yaml", "path: x\n", "no `names:` list"),
        ("a.yaml", "- cat\n", "no `names:` list"),
        ("a.yaml", "names: {0: cat, 2: dog}\n", "1 is missing"),
        ("a.yaml", "names: [cat, [dog]]\n", r"class 1 is no text \(list\)"),
        ("a.yaml", "names: ['']\n", "class 0 is no text"),
        ("a.yaml", "names: !!python/object/apply:os.system ['touch x']\n", r"line 1: no YAML"),
        ("a.yaml", "[" * 900, "no YAML"),
        ("a.json", "[]", r"ends in \.names, \.txt, \.yaml"),
    ],
)
def test_a_file_of_names_that_cannot_be_used_is_one_line(file, name, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_names(file(name, text))
    assert "\n" not in str(caught.value)


def test_a_yaml_that_grows_without_end_is_refused_at_once(file):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(InputError, match="line 2: no YAML: aliases of lists"):
        read_names(file("bomb.yaml", "\n".join([*lines, "names: *a11"])))


def test_a_missing_file_of_names_is_named():
    with pytest.raises(InputError, match=r"nowhere\.names: cannot be read: No such file"):
        read_names("nowhere.names")


def test_an_empty_name_between_commas_is_an_error():
    with pytest.raises(InputError, match="a name is empty"):
        read_names("cat,,dog")


def test_anchors_are_pairs_in_pixels():
    assert parse_anchors("10,13 16,30.5\n33,23") == ((10.0, 13.0), (16.0, 30.5), (33.0, 23.0))


@pytest.mark.parametrize("text", ["10", "10,13,16", "10,x", "0,5", "-1,5", "nan,5", "1,inf", "10,13 16", ""])
def test_anchors_that_are_no_pairs_of_positive_numbers_are_one_line(text):
    with pytest.raises(InputError, match=r"--anchors.*10,13 16,30 33,23") as caught:
        parse_anchors(text)
    assert "\n" not in str(caught.value)


def test_options_that_were_not_typed_are_left_open():
    options = load_options()
    assert {
        options.cfg,
        options.names,
        options.num_classes,
        options.anchors,
        options.arch,
        options.layout,
    } == {None}


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        ({"num_classes": 0}, InputError, "at least 1"),
        ({"layout": "anchormaps"}, UnknownNameError, "'anchor-maps'"),
        ({"cfg": "nowhere.cfg"}, InputError, r"no file 'nowhere\.cfg'"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused(typed, error, message):
    with pytest.raises(error, match=message):
        load_options(**typed)


def test_all_options_reach_the_family(file, monkeypatch, capsys):
    from detcam.adapters import Family
    from detcam.errors import CheckpointError

    seen = []

    def reads(weights, options):
        seen.append(options)
        raise CheckpointError("seen enough")

    nothing = lambda *_: False  # noqa: E731
    # Another dict: items taken out and put back would come back in another order, and the order counts.
    monkeypatch.setattr("detcam.adapters.ADAPTERS", {"spy": Family("", nothing, nothing, reads, nothing)})
    weights = file("net.weights", struct.pack("<3iq", 0, 2, 5, 0))
    cfg = file("net.cfg", "[net]")
    typed = [
        "--cfg",
        cfg,
        "--names",
        "cat,dog",
        "--num-classes",
        "2",
        "--anchors",
        "1,2 3,4",
        "--arch",
        "ssd",
    ]
    with pytest.raises(SystemExit) as end:
        main(
            ["layers", weights, *typed, "--layout", "anchor-maps", "--allow-global", "a.B", "--device", "cpu"]
        )
    assert end.value.code == 1
    assert "error: seen enough" in capsys.readouterr().err
    (options,) = seen
    assert (str(options.cfg), options.names, options.num_classes) == (cfg, ("cat", "dog"), 2)
    assert (options.anchors, options.arch, options.layout) == (((1.0, 2.0), (3.0, 4.0)), "ssd", "anchor-maps")
    assert (options.allow_globals, options.unsafe, options.branch) == (("a.B",), False, None)


def test_a_mistyped_option_is_one_line_on_the_command_line(file, capsys):
    names = file("a.names", "cat\n\ndog\n")
    with pytest.raises(SystemExit) as end:
        main(["layers", "net.weights", "--names", names])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --names")
    assert "line 2" in error
    assert error.count("\n") == 1
