"""Reading pictures: every mode with known values, every way a file can be wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from detcam.errors import ImageError, ShapeError
from detcam.images import MAX_FILE_BYTES, Picture, as_picture, find_pictures, read_frame, read_picture

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def photograph(height: int = 61, width: int = 97) -> Image.Image:
    """Smooth, asymmetric, in all three channels; a prime size, so that a swapped H/W cannot hide."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 127 + 100 * np.sin(x / 9 + y / 5)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def encoded(array: np.ndarray, extension: str) -> bytes:
    return cv2.imencode(extension, array)[1].tobytes()


@pytest.fixture
def careless_pillow(monkeypatch):
    """Pillow as another library may have left it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


def is_still_careless() -> bool:
    return Image.MAX_IMAGE_PIXELS is None and ImageFile.LOAD_TRUNCATED_IMAGES is True


# Modes and depths


@pytest.mark.parametrize(
    ("mode", "stored", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("CMYK", (0, 255, 255, 0), RED),
        ("I;16", 0x80FF, (0x80, 0x80, 0x80)),
        ("I", 0xFFFF, (255, 255, 255)),
    ],
)
def test_each_mode_of_a_tiff_becomes_its_rgb_colour(tmp_path, mode, stored, expected):
    picture = read_picture(save(Image.new(mode, (5, 3), stored), tmp_path / "a.tiff"))
    assert picture.pixels.shape == (3, 5, 3)
    assert picture.pixels.dtype == np.uint8
    assert np.unique(picture.pixels.reshape(-1, 3), axis=0).tolist() == [list(expected)]
    assert picture.warnings == ()


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_keep_their_high_byte(tmp_path, extension, channels):
    stored = np.full((2, 3, channels), 0xFFFF, np.uint16)
    stored[..., 0] = 0x12FF  # rounding instead of >> 8 would give 0x13
    path = tmp_path / f"a{extension}"
    path.write_bytes(encoded(stored, extension))
    expected = [0x12] * 3 if channels == 1 else [255, 255, 0x12]  # cv2 writes BGR
    assert read_picture(path).pixels[1, 2].tolist() == expected


def test_palette_with_transparency_keeps_the_stored_colours_and_says_so(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    picture = read_picture(save(image, tmp_path / "a.png", transparency=bytes([0, 255])))
    assert picture.pixels.tolist() == [[list(RED), list(GREEN)]]
    assert any("alpha" in warning for warning in picture.warnings)


def test_alpha_is_dropped_not_composed(tmp_path):
    picture = read_picture(save(Image.new("RGBA", (2, 2), (200, 100, 50, 0)), tmp_path / "a.png"))
    assert picture.pixels[0, 0].tolist() == [200, 100, 50]
    assert any("alpha" in warning for warning in picture.warnings)


def test_cmyk_jpeg_of_pure_red_is_red(tmp_path):
    path = save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95)
    assert np.abs(read_picture(path).pixels.astype(int) - RED).max() <= 2


@pytest.mark.parametrize("extension", ["webp", "bmp", "ppm", "gif"])
def test_a_lossless_format_gives_its_very_pixels(tmp_path, extension):
    options = {"lossless": True} if extension == "webp" else {}
    image = Image.new("RGB", (7, 5), RED)
    image.putpixel((6, 0), BLUE)
    pixels = read_picture(save(image, tmp_path / f"a.{extension}", **options)).pixels
    assert pixels[0, 6].tolist() == list(BLUE)
    assert pixels[4, 0].tolist() == list(RED)


def test_one_pixel_is_a_picture(tmp_path):
    assert read_picture(save(Image.new("RGB", (1, 1), GREEN), tmp_path / "a.png")).pixels.tolist() == [
        [list(GREEN)]
    ]


def test_first_frame_of_an_animation_is_used_with_a_warning(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    path = save(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(path)
    assert picture.pixels[0, 0].tolist() == list(RED)
    assert any("first" in warning for warning in picture.warnings)


def test_preview_inside_a_camera_file_is_no_animation(tmp_path):
    path = save(photograph(), tmp_path / "a.mpo", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert read_picture(path).warnings == ()


# Upright

UPRIGHT = {  # what [[1, 2, 3], [4, 5, 6]] looks like upright, by the EXIF 2.3 table of the 0th row and column
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("extension", ["png", "tiff"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied_once_and_recorded(tmp_path, orientation, extension):
    stored = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    path = save(stored, tmp_path / f"a.{extension}", exif=oriented(orientation))
    picture = read_picture(path)
    assert picture.pixels[..., 0].tolist() == UPRIGHT[orientation]
    assert picture.exif_orientation == orientation


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_frame_is_that_of_the_upright_picture(tmp_path, orientation, extension):
    path = save(photograph(), tmp_path / f"a.{extension}", exif=oriented(orientation))
    frame = read_frame(path)
    assert frame.size == read_picture(path).pixels.shape[:2]
    assert frame.size == ((97, 61) if orientation >= 5 else (61, 97))
    assert (frame.stored_size, frame.exif_orientation) == ((61, 97), orientation)


def test_the_frame_of_what_is_no_picture_is_refused_as_the_picture_is(tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    for path in (tmp_path / "a.jpg", tmp_path / "b.jpg"):
        with pytest.raises(ImageError) as pixels:
            read_picture(path)
        with pytest.raises(ImageError) as frame:
            read_frame(path)
        assert str(frame.value) == str(pixels.value)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pil_image_is_turned_upright_like_its_file(orientation, tmp_path):
    path = save(photograph(), tmp_path / "a.jpg", exif=oriented(orientation))
    with Image.open(path) as image:
        assert (as_picture(image).pixels == read_picture(path).pixels).all()


@pytest.mark.parametrize("orientation", [0, 9, 6500])
def test_orientation_without_a_meaning_is_upright(tmp_path, orientation):
    picture = read_picture(save(photograph(), tmp_path / "a.png", exif=oriented(orientation)))
    assert (picture.exif_orientation, picture.pixels.shape) == (1, (61, 97, 3))


def test_broken_exif_does_not_cost_the_picture(tmp_path):
    path = save(photograph(), tmp_path / "a.png", exif=b"Exif\x00\x00not a TIFF header at all")
    picture = read_picture(path)
    assert picture.pixels.shape == (61, 97, 3)
    assert any("EXIF" in warning for warning in picture.warnings)


# The same bytes as OpenCV, hence as the vendors


def vendor_photographs() -> list[Path]:
    spec = importlib.util.find_spec("ultralytics")
    return sorted(Path(spec.submodule_search_locations[0], "assets").glob("*.jpg")) if spec else []


def test_photographs_decode_as_in_opencv(assets):
    paths = [*sorted((assets / "coco64" / "images").glob("*.jpg")), *vendor_photographs()]
    assert len(paths) >= 64
    differing = [
        path.name
        for path in paths
        if not np.array_equal(read_picture(path).pixels, cv2.imread(str(path))[..., ::-1])
    ]
    assert differing == []


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {}])
@pytest.mark.parametrize("orientation", [1, 6])
def test_every_kind_of_jpeg_decodes_as_in_opencv(tmp_path, options, orientation):
    path = save(photograph(), tmp_path / "a.jpg", exif=oriented(orientation), **options)
    assert np.array_equal(read_picture(path).pixels, cv2.imread(str(path))[..., ::-1])


# Refusals


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_picture(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert ";" in message or "(" in message  # what to do, or what is wrong in detail
    return message


def test_missing_file_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.jpg")


def test_address_is_refused_as_an_address():
    with pytest.raises(ImageError, match="download"):
        read_picture("https://example.org/bus.jpg")


def test_folder_is_refused(tmp_path):
    assert "folder" in refusal(tmp_path)


def test_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    assert "pipe" in refusal(tmp_path / "a.jpg")


def test_empty_file_is_refused(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert "0 bytes" in refusal(tmp_path / "a.jpg")


def test_unreadable_file_is_refused_with_the_reason(tmp_path, monkeypatch):
    def forbidden(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = save(photograph(), tmp_path / "a.png")
    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "Permission denied" in refusal(path)


def test_a_format_this_pillow_lacks_is_named(tmp_path, monkeypatch):
    Image.init()
    factory = Image.OPEN["PNG"][0]
    monkeypatch.setitem(Image.OPEN, "AVIF", (factory, lambda prefix: "AVIF decoding not available"))
    (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif")
    assert "AVIF" in refusal(tmp_path / "a.avif")


def test_overlong_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    assert str(MAX_FILE_BYTES) in refusal(tmp_path / "a.jpg")


def test_text_called_jpg_is_refused_with_its_first_bytes(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>404</html>")
    assert "<html>" in refusal(tmp_path / "a.jpg")


def test_postscript_never_reaches_a_decoder(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "not a picture we read" in refusal(tmp_path / "a.png")


def test_float_values_are_refused(tmp_path):
    assert "floating-point" in refusal(save(Image.new("F", (3, 3), 0.5), tmp_path / "a.tiff"))


def test_float_colours_are_refused(tmp_path):
    (tmp_path / "a.tiff").write_bytes(encoded(np.full((3, 3, 3), 0.5, np.float32), ".tiff"))
    refusal(tmp_path / "a.tiff")


@pytest.mark.parametrize("value", [-1, 0x10000])
def test_integers_beyond_sixteen_bits_are_refused(tmp_path, value):
    assert "16 bits" in refusal(save(Image.new("I", (3, 3), value), tmp_path / "a.tiff"))


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "gif", "bmp", "tiff"])
def test_a_truncated_file_is_refused_or_whole_but_never_half(tmp_path, extension, careless_pillow):
    path = save(photograph(), tmp_path / f"a.{extension}")
    data, whole = path.read_bytes(), read_picture(path).pixels
    refused = 0
    for length in range(1, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        try:
            assert np.array_equal(read_picture(path).pixels, whole)
        except ImageError:
            refused += 1
    assert refused > 50
    assert is_still_careless()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extension=st.sampled_from(["jpg", "png", "webp", "gif", "bmp", "tiff"]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
def test_damaged_bytes_give_a_picture_or_one_line(tmp_path, extension, changes):
    path = save(photograph(13, 17), tmp_path / f"a.{extension}", exif=oriented(6))
    data = bytearray(path.read_bytes())
    for where, value in changes:
        data[int(where * len(data))] = value
    path.write_bytes(data)
    try:
        read_picture(path)
    except ImageError:
        refusal(path)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


def test_decompression_bomb_is_refused_whatever_others_set(tmp_path, careless_pillow):
    (tmp_path / "a.png").write_bytes(png_header(20_000, 20_000))
    assert "20000x20000" in refusal(tmp_path / "a.png")
    assert is_still_careless()


def test_bomb_inside_a_small_gif_is_refused_whatever_others_set(tmp_path, careless_pillow):
    screen = b"GIF89a" + struct.pack("<HHBBB", 2, 2, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00;"
    (tmp_path / "a.gif").write_bytes(screen + frame)
    assert "exceeds limit" in refusal(tmp_path / "a.gif")
    assert is_still_careless()


# The process's Pillow


def test_patched_open_is_never_called(tmp_path, monkeypatch):
    def installs_something(*_: object) -> None:
        raise AssertionError("ultralytics' Image.open would run pip here")

    path = save(photograph(), tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", installs_something)
    assert read_picture(path).pixels.shape == (61, 97, 3)
    (tmp_path / "b.png").write_text("no picture")
    refusal(tmp_path / "b.png")


def test_pillow_is_left_as_found_by_many_threads(tmp_path, careless_pillow):
    good, bad = save(photograph(480, 640), tmp_path / "a.jpg"), tmp_path / "b.jpg"
    bad.write_bytes(good.read_bytes()[:-500])
    outcomes: list[str] = []

    def read(path: Path) -> None:
        for _ in range(5):
            try:
                read_picture(path)
                outcomes.append("read")
            except ImageError:
                outcomes.append("refused")

    threads = [threading.Thread(target=read, args=(path,)) for path in (good, bad) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("read"), outcomes.count("refused")) == (20, 20)
    assert is_still_careless()


def test_importing_does_not_import_torch():
    code = "import sys, detcam.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# The record


def test_checksum_is_that_of_the_file(tmp_path):
    path = save(photograph(), tmp_path / "a.jpg")
    picture = read_picture(str(path))
    assert picture.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (picture.path, picture.stem, picture.exif_orientation) == (path, "a", 1)


def test_pixels_and_checksum_are_of_the_same_bytes(tmp_path, monkeypatch):
    """Uncompressed pictures are those that Pillow maps from the disk if it knows a file name."""
    path = save(Image.new("L", (4, 4), 50), tmp_path / "a.tiff")
    data = path.read_bytes()

    def read_then_replaced(path: Path) -> bytes:
        Image.new("L", (4, 4), 200).save(path)
        return data

    monkeypatch.setattr(Path, "read_bytes", read_then_replaced)
    assert read_picture(path).pixels[0, 0].tolist() == [50, 50, 50]


def test_a_picture_without_a_file_has_a_name_too():
    assert as_picture(np.zeros((2, 2, 3), np.uint8)).stem == "image"


@pytest.mark.parametrize(
    "pixels", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3))]
)
def test_picture_checks_its_pixels(pixels):
    with pytest.raises(ShapeError):
        Picture(pixels)


# What people hold

HWC = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


@pytest.mark.parametrize(
    "image",
    [
        HWC,
        HWC[None],
        HWC.transpose(2, 0, 1),
        HWC.transpose(2, 0, 1)[None],
        HWC.astype(np.uint16) * 257,
        HWC.astype(np.float32) / 255,
        HWC.astype(np.float64) / 255,
        np.dstack([HWC, np.full((5, 7), 255, np.uint8)]),
        Image.fromarray(HWC),
        torch.from_numpy(HWC),
        torch.from_numpy(HWC).permute(2, 0, 1),
        torch.from_numpy(HWC).permute(2, 0, 1)[None],
        (torch.from_numpy(HWC).permute(2, 0, 1) / 255).requires_grad_(),
        (torch.from_numpy(HWC) / 255).half(),
        (torch.from_numpy(HWC) / 255).bfloat16(),
        as_picture(HWC),
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', '')}-{getattr(image, 'shape', '')}",
)
def test_all_forms_of_one_picture_are_one_picture(image):
    assert np.array_equal(as_picture(image).pixels, HWC)


@pytest.mark.parametrize(
    ("mode", "stored", "expected"),
    [("RGBa", (50, 25, 5, 128), [100, 50, 10]), ("La", (50, 128), [100, 100, 100])],
)
def test_premultiplied_alpha_is_divided_out(mode, stored, expected):
    pixels = as_picture(Image.new(mode, (3, 2), stored)).pixels
    assert np.abs(pixels.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("grey", [HWC[..., 0], HWC[..., :1], HWC[None, ..., 0], Image.fromarray(HWC[..., 0])])
def test_grey_is_three_equal_channels(grey):
    assert np.array_equal(as_picture(grey).pixels, np.repeat(HWC[..., :1], 3, axis=2))


def test_where_both_ends_could_be_channels_the_last_axis_is():
    ambiguous = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    assert np.array_equal(as_picture(ambiguous).pixels, ambiguous)


def test_path_is_read(tmp_path):
    path = save(photograph(), tmp_path / "a.png")
    assert as_picture(path).sha256 == as_picture(str(path)).sha256 == read_picture(path).sha256


def test_later_changes_of_the_array_do_not_reach_the_picture():
    array = HWC.copy()
    picture = as_picture(array)
    array[:] = 0
    assert np.array_equal(picture.pixels, HWC)


def test_resizing_noise_around_zero_and_one_is_not_another_range():
    noisy = np.array([[-1e-7, 1 + 1e-7]], np.float32)
    assert as_picture(noisy).pixels[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("image", "named"),
    [
        (np.zeros((5, 7, 2), np.uint8), r"\(5, 7, 2\)"),
        (np.zeros((2, 5, 7, 3), np.uint8), r"\(2, 5, 7, 3\)"),
        (np.zeros((0, 7, 3), np.uint8), r"\(0, 7, 3\)"),
        (np.zeros(7, np.uint8), r"\(7,\)"),
        (np.zeros((5, 7, 3), np.int64), "int64"),
        (np.zeros((5, 7, 3), bool), "bool"),
        (np.full((5, 7, 3), 200.0), r"0\.\.1, got 200\.\.200"),
        (np.array([[-2.1, 2.6]]), r"-2\.1\.\.2\.6"),
        (np.array([[0.5, np.nan]]), "nan"),
        (torch.zeros(5, 7, 2), r"\(5, 7, 2\)"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), "int64"),
        (Image.new("F", (3, 3)), "floating-point"),
        ([HWC, HWC], "list"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused_by_name(image, named):
    with pytest.raises(ImageError, match=named):
        as_picture(image)


# Files, folders, globs


@pytest.fixture
def gallery(tmp_path, monkeypatch):
    for name in ("b.JPG", "a.png", "c.txt", ".hidden.jpg", "sub/d.webp", "x[1].jpg", "notes/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["."], ["a.png", "b.JPG", "x[1].jpg"]),
        (["*.png"], ["a.png"]),
        (["*"], ["a.png", "b.JPG", "x[1].jpg"]),
        (["**/*"], ["a.png", "b.JPG", "sub/d.webp", "x[1].jpg"]),
        (["x[1].jpg"], ["x[1].jpg"]),
        (["c.txt"], ["c.txt"]),
        (["sub", "b.JPG", "."], ["sub/d.webp", "b.JPG", "a.png", "x[1].jpg"]),
        (["b.JPG", "./b.JPG", "*.JPG"], ["b.JPG"]),
    ],
)
def test_arguments_name_pictures_in_order_and_once(gallery, arguments, expected):
    assert find_pictures(arguments) == [Path(name) for name in expected]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("notes", r"no picture in folder 'notes'.*\.jpg"),
        ("*.bmp", r"'\*\.bmp'"),
        ("gone.jpg", "no such file"),
    ],
)
def test_an_argument_that_names_no_picture_is_refused(gallery, argument, said):
    with pytest.raises(ImageError, match=said):
        find_pictures(["a.png", argument])


def test_no_arguments_are_refused():
    with pytest.raises(ImageError, match="no picture given"):
        find_pictures([])


def test_closed_pil_image_is_refused(tmp_path):
    data = io.BytesIO()
    photograph().save(data, "PNG")
    image = Image.open(data)
    image.close()
    with pytest.raises(ImageError, match="the PIL image"):
        as_picture(image)
