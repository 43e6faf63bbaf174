"""Pictures that are not what they say: read for what they are, or refused in one line."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageMode

from detcam.errors import ImageError
from detcam.images import EXTENSIONS, FORMATS, read_frame, read_picture

MODES = (
    *(
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "LA",
        "PA",
        "RGBX",
        "RGBa",
        "La",
    ),
    *("I;16", "I;16L", "I;16B"),
)
SIZE = 17, 13


def picture_of(mode: str) -> Image.Image:
    grey = Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE[::-1]))
    if ";" in mode or mode in ("LAB", "PA"):
        return Image.new(mode, SIZE)
    return grey.convert({"RGBa": "RGBA", "La": "LA"}.get(mode, "RGB")).convert(mode)


def refusal(path) -> str:
    with pytest.raises(ImageError) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("mode", "kind"), [*itertools.product(MODES, FORMATS)])
def test_every_mode_in_every_format_is_a_picture_or_one_line(tmp_path, mode, kind):
    assert ImageMode.getmode(mode)
    file = io.BytesIO()
    with suppress(KeyError, OSError, ValueError):
        picture_of(mode).save(file, kind)
    if not file.getvalue():
        pytest.skip(f"Pillow writes no {kind} of mode {mode}")
    path = tmp_path / "a.bin"
    path.write_bytes(file.getvalue())
    if mode == "F" and kind in ("TIFF", "PPM"):  # other formats make bytes of it
        assert "floating" in refusal(path)
    else:
        assert read_picture(path).pixels.shape == (13, 17, 3)
        assert read_frame(path).size == (13, 17)


def png(depth: int, colour: int, row: bytes, *chunks: bytes, size: tuple[int, int] = (4, 1)) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(12))) if colour == 3 else b""
    extra = b"".join(chunk(one[:4], one[4:]) for one in chunks)
    ends = chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + palette + ends


@pytest.mark.parametrize(
    ("depth", "colour", "row", "red"),
    [
        (1, 0, b"\x50", [0, 255, 0, 255]),
        (2, 0, b"\x1b", [0, 85, 170, 255]),
        (4, 0, b"\x0f\x37", [0, 255, 51, 119]),
        (8, 0, b"\x00\x10\x80\xff", [0, 16, 128, 255]),
        (16, 0, b"\x00\xff\x10\x00\x80\xff\xff\xff", [0, 16, 128, 255]),
        (1, 3, b"\x50", [0, 3, 0, 3]),
        (2, 3, b"\x1b", [0, 3, 6, 9]),
        (4, 3, b"\x01\x23", [0, 3, 6, 9]),
        (8, 3, b"\x00\x01\x02\x03", [0, 3, 6, 9]),
        (8, 2, bytes([0, 9, 9, 16, 9, 9, 128, 9, 9, 255, 9, 9]), [0, 16, 128, 255]),
        (
            16,
            2,
            b"".join(bytes([one, 255]) + b"\x09\x09" * 2 for one in (0, 16, 128, 255)),
            [0, 16, 128, 255],
        ),
        (8, 4, bytes([0, 9, 16, 9, 128, 9, 255, 9]), [0, 16, 128, 255]),
        (8, 6, bytes([0, 9, 9, 9, 16, 9, 9, 9, 128, 9, 9, 9, 255, 9, 9, 9]), [0, 16, 128, 255]),
    ],
)
def test_every_bit_depth_of_png_gives_its_values(tmp_path, depth, colour, row, red):
    (tmp_path / "a.png").write_bytes(png(depth, colour, row))
    assert read_picture(tmp_path / "a.png").pixels[0, :, 0].tolist() == red


@pytest.mark.parametrize(("depth", "colour"), [(3, 0), (0, 0), (255, 2), (8, 1), (8, 7), (16, 3)])
def test_depths_that_png_has_not_are_refused(tmp_path, depth, colour):
    (tmp_path / "a.png").write_bytes(png(depth, colour, bytes(32)))
    refusal(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_the_content_counts_and_not_the_ending(tmp_path, kind):
    file = io.BytesIO()
    picture_of("RGB").save(file, kind)
    (tmp_path / "right").write_bytes(file.getvalue())
    expected = read_picture(tmp_path / "right").pixels
    for ending in EXTENSIONS:
        (tmp_path / f"a{ending}").write_bytes(file.getvalue())
        assert np.array_equal(read_picture(tmp_path / f"a{ending}").pixels, expected)


@pytest.mark.parametrize("ending", EXTENSIONS)
def test_empty_and_senseless_files_of_every_ending_are_refused(tmp_path, ending):
    (tmp_path / f"a{ending}").write_bytes(b"")
    assert "0 bytes" in refusal(tmp_path / f"a{ending}")
    (tmp_path / f"a{ending}").write_bytes(b"\0" * 100)
    assert "not a picture" in refusal(tmp_path / f"a{ending}")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(tmp_path, kind):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((200, 0, 0), (0, 200, 0), (0, 0, 200))]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:], **lossless)
    picture = read_picture(tmp_path / "a")
    assert picture.pixels[0, 0].tolist() == [200, 0, 0]
    assert picture.warnings == ("more than one frame: only the first is used",)


def exif(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block whose orientation has that type, count and value."""
    entry = struct.pack("<HHI", 0x0112, kind, count) + value.ljust(4, b"\0")[:4]
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (exif(3, 1, b"\x06\0"), (17, 13)),
        (exif(2, 2, b"6\0"), (13, 17)),  # a text
        (exif(7, 4, b"\xff\xff\xff\xff"), (13, 17)),  # bytes
        (exif(5, 1, b"\xff\xff\xff\x7f"), (13, 17)),  # a fraction behind the end
        (exif(3, 2**31, b"\x08\0\0\0"), (13, 17)),  # two billion of them
        (exif(13, 1, b"\x63\0\0\0"), (13, 17)),  # a directory
        (exif(99, 1, b"\x06\0\0\0"), (13, 17)),
        (b"Exif\0\0II*\0" + struct.pack("<I", 2**31), (13, 17)),
        (b"Exif\0\0" + b"\xff" * 200, (13, 17)),
        (b"Exif\0\0", (13, 17)),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_an_orientation_that_lies_costs_nothing(tmp_path, block, size):
    picture_of("RGB").save(tmp_path / "a.jpg", exif=block)
    assert read_picture(tmp_path / "a.jpg").pixels.shape[:2] == size
    assert read_frame(tmp_path / "a.jpg").size == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("profile", [b"", b"no profile", b"\xff" * 70_000])
def test_a_colour_profile_that_is_none_changes_nothing(tmp_path, kind, profile):
    picture_of("RGB").save(tmp_path / "plain", kind)
    picture_of("RGB").save(tmp_path / "profiled", kind, icc_profile=profile)
    assert np.array_equal(read_picture(tmp_path / "plain").pixels, read_picture(tmp_path / "profiled").pixels)


@pytest.mark.parametrize(
    "content",
    [
        b"P6 99999999 99999999 255\n",
        b"P6 -1 5 255\n" + bytes(99),
        b"P6 2 2 65536\n" + bytes(99),
        b"BM" + struct.pack("<IHHIIiiHHII", 54, 0, 0, 54, 40, -5, 5, 1, 24, 0, 0) + bytes(99),
        b"BM" + struct.pack("<IHHIIiiHHII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0),
        b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + bytes(12) + struct.pack("<I", 8),  # a loop
        b"MM\0*" + struct.pack(">I", 2**32 - 1),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",",
        b"\xff\xd8\xff\xe0" + b"\xff" * 99,
        b"RIFF\xff\xff\xff\xffWEBPVP8X" + bytes(30),
        b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_headers_that_lie_are_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    refusal(tmp_path / "a")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_tiff_that_claims_more_rows_than_it_has_is_refused(tmp_path, mode):
    """Pillow gives them in black: 565 bytes made a picture of 140 million pixels."""
    picture_of(mode).save(tmp_path / "a.tiff")
    data = (tmp_path / "a.tiff").read_bytes()
    rows = struct.pack("<HHII", 0x0101, 4, 1, 13)  # ImageLength
    assert rows in data
    (tmp_path / "a.tiff").write_bytes(data.replace(rows, struct.pack("<HHII", 0x0101, 4, 1, 130)))
    assert "data is for less than its 17x130 pixels" in refusal(tmp_path / "a.tiff")
