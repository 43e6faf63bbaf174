"""Reading pictures safely: whatever people hold becomes upright RGB uint8, (H, W, 3).

Pixels are those the detectors were trained on: a JPEG decodes to the same bytes as in OpenCV, 16-bit
values keep their high byte, and an alpha channel is dropped, not composed over some background.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from detcam.errors import ImageError, ShapeError

UInt8Array = npt.NDArray[np.uint8]

# Pillow's decoders we let near a stranger's file. Not among them: EPS, which runs Ghostscript.
# HEIF is there only once somebody has registered a plugin for it.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
# What counts as a picture inside a folder or a glob; a file named outright may be called anything.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
MAX_PIXELS = 178_956_970  # where Pillow, as shipped, calls a picture a decompression bomb
MAX_FILE_BYTES = 2 << 30

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112

# What Pillow's decoders are known to raise on damaged files.
_DECODER_FAILURES = (
    *(OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(EOFError, RuntimeError, MemoryError, BufferError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Warning),
)


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, upright.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        path: the file it came from, or None.
        sha256: of that file's bytes, hexadecimal, or None.
        exif_orientation: the EXIF orientation that has been applied, 1..8; 1 is "as stored".
        warnings: what a reader should know about the pixels, such as "only the first frame is used".
    """

    pixels: UInt8Array
    path: Path | None = None
    sha256: str | None = None
    exif_orientation: int = 1
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != np.uint8:
            raise ShapeError(f"pixels must be (H, W, 3) uint8, got {shape} {dtype}")

    @property
    def stem(self) -> str:
        """The file's name without folder and extension; "image" for a picture that has no file."""
        return self.path.stem if self.path else "image"


@dataclass(frozen=True)
class Frame:
    """How large a picture is, upright.

    Attributes:
        size: (H, W).
        exif_orientation: the EXIF orientation that makes it upright, 1..8; from 5 on it swaps the sides.
    """

    size: tuple[int, int]
    exif_orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """(H, W) of the pixels as they are stored, before the orientation is applied."""
        return self.size[::-1] if self.exif_orientation >= 5 else self.size


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read one file; the bytes are read once, so that pixels and checksum belong together.

    Raises:
        ImageError: there is no such file, or it is empty, truncated, a decompression bomb, no picture, or
            a picture whose values have no agreed 8-bit form (floating point).
    """
    path = Path(path)
    data = _read_bytes(path)
    with _decoding(str(path)):
        pixels, orientation, notes = _decode(_open(data, str(path)), str(path))
    return Picture(pixels, path, hashlib.sha256(data).hexdigest(), orientation, notes)


def read_frame(path: str | os.PathLike[str]) -> Frame:
    """Read how large the picture of `read_picture` is, without decoding it where its header says so.

    Raises:
        ImageError: there is no such file, or it is empty or no picture.
    """
    path = Path(path)
    data = _read_bytes(path)
    with _decoding(str(path)):
        image = _open(data, str(path))
        if image.format == "TIFF":  # whether its size is that of the upright picture depends on the release
            pixels, orientation, _ = _decode(image, str(path))
            return Frame((pixels.shape[0], pixels.shape[1]), orientation)
        width, height = image.size
        orientation, _ = _orientation(image)
        return Frame((width, height) if orientation >= 5 else (height, width), orientation)


def as_picture(image: object) -> Picture:
    """Turn what the caller holds into a picture.

    Args:
        image: a path; a PIL image; a Picture; a numpy array or torch tensor with 1, 3 or 4 channels (grey,
            RGB, RGBA; never BGR), as (H, W), (H, W, C), (C, H, W), or one of these in a batch of one. Where
            both ends could be the channels (3, 5, 3), the last axis is taken. uint8, uint16 (its high byte
            is kept) or floats in 0..1.

    Raises:
        ImageError: it is none of these; the text names what it is.
    """
    if isinstance(image, Picture):
        return image
    if isinstance(image, str | os.PathLike):
        return read_picture(image)
    if isinstance(image, Image.Image):
        with _decoding("the PIL image"):
            pixels, orientation, notes = _decode(image, "the PIL image")
        return Picture(pixels, exif_orientation=orientation, warnings=notes)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if type(image).__module__.partition(".")[0] == "torch" and hasattr(image, "detach"):
        return _from_array(_tensor_values(image))
    raise ImageError(
        f"a picture is a path, a PIL image, a numpy array or a torch tensor, got {type(image).__name__}; "
        "give one picture at a time"
    )


def find_pictures(arguments: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List the picture files that files, folders and globs name, in the order given, each once.

    A folder gives the pictures directly in it, sorted by name, without its sub-folders and hidden files; a
    glob gives its matches, sorted (`**` descends). In both only `EXTENSIONS` count. A file named outright
    is taken whatever its extension.

    Raises:
        ImageError: an argument that names no picture.
    """
    if not arguments:
        raise ImageError("no picture given; name files, folders or globs")
    found: dict[str, Path] = {}
    for argument in arguments:
        for path in _expand(os.fspath(argument)):
            # Not resolve(): two links to one file are two pictures to whoever made the links.
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


# Files and folders. By os.path, for Path raises an error at a name that is too long for any file.


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if os.path.isdir(path):
        candidates, what = sorted(path.iterdir()), f"folder {argument!r}"
    elif os.path.exists(path) or not glob.has_magic(argument):
        return [_existing(path)]
    else:
        candidates, what = sorted(map(Path, glob.glob(argument, recursive=True))), f"pattern {argument!r}"
    pictures = [candidate for candidate in candidates if _is_picture(candidate)]
    if not pictures:
        got = f"{len(candidates)} other entries" if candidates else "nothing"
        raise ImageError(f"no picture in {what}: found {got}; what counts is {', '.join(EXTENSIONS)}")
    return pictures


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and os.path.isfile(path)


def _existing(path: Path) -> Path:
    if os.path.exists(path):
        return path
    if re.match(r"\w{2,}:/", str(path)):
        raise ImageError(f"{path}: addresses are not fetched; download the picture and give its path")
    raise ImageError(f"{path}: no such file; check the path (relative ones start at {Path.cwd()})")


def _read_bytes(path: Path) -> bytes:
    _existing(path)
    if os.path.isdir(path):
        raise ImageError(f"{path}: is a folder, not a picture; give one of the files in it")
    if not os.path.isfile(path):
        raise ImageError(f"{path}: is a device or pipe, not a picture; save it to a file first")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ImageError(f"{path}: {size} bytes, over the {MAX_FILE_BYTES} we read; cut it into tiles")
        data = path.read_bytes()
    except OSError as failure:
        raise ImageError(f"{path}: cannot be read ({failure.strerror}); check its permissions") from failure
    if not data:
        raise ImageError(f"{path}: is empty (0 bytes); fetch or save the picture again")
    return data


# Decoding


class _Safeguards:
    """Pillow's limits as shipped, for as long as somebody inside is decoding.

    They are variables of the whole process, and others switch them off (ultralytics does). The first
    reader in puts them on, the last one out restores what was found, so that threads decode side by side.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers = 0
        self._found: tuple[int | None, bool] = (None, False)

    def __enter__(self) -> None:
        with self._lock:
            if self._readers == 0:
                self._found = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
                # Pillow warns at this value and refuses at twice as much.
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = MAX_PIXELS // 2, False
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if self._readers == 0:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self._found


_SAFEGUARDS = _Safeguards()


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Safeguards on; whatever a decoder raises becomes one ImageError."""
    with _SAFEGUARDS:
        try:
            yield
        except ImageError:
            raise
        except _DECODER_FAILURES as failure:
            reason = " ".join(str(failure).split()) or type(failure).__name__
            raise ImageError(f"{name}: cannot be decoded ({reason}); save or fetch it again") from failure


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    """Read the file's header by Pillow's own plugins.

    Not `Image.open`: ultralytics replaces it by one that pip-installs a plugin on failure.
    """
    Image.init()
    for format_name in FORMATS:
        factory, accept = Image.OPEN.get(format_name, (None, None))
        if factory is None or accept is None:
            continue
        accepted = accept(data[:16])
        if isinstance(accepted, str):
            raise ImageError(f"{name}: {format_name} needs a newer Pillow ({accepted}); convert it to PNG")
        if accepted:
            # Without a file name: by one, Pillow would map the file and decode other bytes than we hashed.
            image: ImageFile.ImageFile = factory(BytesIO(data), "")
            return image
    raise ImageError(
        f"{name}: not a picture we read (it begins {data[:8]!r}); convert it to one of {', '.join(FORMATS)}"
    )


def _decode(image: Image.Image, name: str) -> tuple[UInt8Array, int, tuple[str, ...]]:
    """Upright RGB pixels, the EXIF orientation that was applied, and what a reader should know."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name}: {width}x{height} is over {MAX_PIXELS} pixels; cut it into tiles")
    orientation, notes = _orientation(image)
    # The second picture of an MPO file is a preview or depth map that cameras add, not another frame.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notes += ("more than one frame: only the first is used",)
    if not _is_covered(image):
        raise ImageError(
            f"{name}: its data is for less than its {width}x{height} pixels; save or fetch it again"
        )
    image.load()
    # Pillow turns a TIFF upright while loading it and then drops the tag, hence asking again.
    left_to_do = _TRANSPOSES.get(_orientation(image)[0])
    upright = image if left_to_do is None else image.transpose(left_to_do)
    pixels, alpha_notes = _to_rgb(upright, name)
    return pixels, orientation, notes + alpha_notes


def _is_covered(image: Image.Image) -> bool:
    """Whether there is data for every pixel; Pillow leaves those black that no strip of a TIFF covers."""
    tiles = getattr(image, "tile", None)  # empty once it is loaded
    if image.format != "TIFF" or not tiles:
        return True
    covered = sum((right - left) * (bottom - top) for _, (left, top, right, bottom), *_ in tiles)
    return bool(covered >= image.size[0] * image.size[1])


def _orientation(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_FAILURES:
        return 1, ("EXIF data cannot be read: taken as upright",)
    return (int(orientation) if orientation in _TRANSPOSES else 1), ()


def _to_rgb(image: Image.Image, name: str) -> tuple[UInt8Array, tuple[str, ...]]:
    if image.mode == "F":
        raise ImageError(f"{name}: holds floating-point values of unknown range; save it as 8-bit PNG")
    if image.mode.startswith("I"):
        return _three_channels(_high_byte(np.asarray(image), name)), ()
    if image.mode in ("P", "PA", "RGBa"):
        image = image.convert("RGBA")  # a palette's transparency would otherwise leak into the colours
    elif image.mode == "La":
        image = image.convert("LA")
    notes = _alpha_notes(np.asarray(image.getchannel("A"))) if image.mode in ("RGBA", "LA") else ()
    return np.array(image.convert("RGB")), notes


def _high_byte(values: npt.NDArray[Any], name: str) -> UInt8Array:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"{name}: integers {low}..{high} do not fit 16 bits; save it as 8-bit or 16-bit PNG")
    return (values >> 8).astype(np.uint8)


def _alpha_notes(alpha: npt.NDArray[Any]) -> tuple[str, ...]:
    if (alpha == 255).all():
        return ()
    return ("alpha channel dropped: transparent pixels show the colours stored under them",)


# Arrays


def _from_array(array: npt.NDArray[Any]) -> Picture:
    pixels = _eight_bits(_channels_last(array))
    notes = _alpha_notes(pixels[..., 3]) if pixels.shape[2] == 4 else ()
    return Picture(_three_channels(pixels), warnings=notes)


def _tensor_values(tensor: Any) -> npt.NDArray[Any]:
    on_cpu = tensor.detach().cpu()
    # numpy has no bfloat16, and a float16 or float64 loses nothing that 8 bits could show.
    values: npt.NDArray[Any] = (on_cpu.float() if on_cpu.is_floating_point() else on_cpu).numpy()
    return values


def _channels_last(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(H, W, C) with 1, 3 or 4 channels."""
    single = array[0] if array.ndim == 4 and len(array) == 1 else array
    if single.ndim == 2:
        single = single[..., None]
    if single.ndim == 3 and single.size:
        if single.shape[2] in (1, 3, 4):
            return single
        if single.shape[0] in (1, 3, 4):
            return single.transpose(1, 2, 0)
    raise ImageError(
        f"a picture is (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, got {array.shape}; "
        "give one picture at a time"
    )


def _eight_bits(array: npt.NDArray[Any]) -> UInt8Array:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return _high_byte(array, "the array")
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"pixel values are uint8, uint16 or floats in 0..1, got {array.dtype}; cast it")
    scaled = np.rint(array.astype(np.float32) * 255)
    # Rounded first: resizing leaves 1.0000001 behind, which is not a different range.
    if not (np.isfinite(scaled).all() and scaled.min() >= 0 and scaled.max() <= 255):
        raise ImageError(
            f"float pixel values must lie in 0..1, got {array.min():.4g}..{array.max():.4g}; divide 0..255 "
            "by 255, or give the picture before its mean and deviation were taken out"
        )
    return scaled.astype(np.uint8)


def _three_channels(pixels: UInt8Array) -> UInt8Array:
    """Copy, so that what the caller does to the array later does not reach the picture."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    return np.array(pixels[..., :3], order="C")
