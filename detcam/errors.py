"""Every error the package raises on purpose.

DetcamError
├── InputError (ValueError)          what the caller gave cannot be used
│   ├── ShapeError                   tensors whose shapes do not fit
│   ├── AmbiguousHeadError           a head whose classes cannot be counted without being told more
│   ├── UnknownNameError             a layer, method, class … that does not exist; offers the closest
│   └── ImageError                   a picture that cannot be read
├── CheckpointError                  a model file that cannot be read
│   └── UnsafeCheckpointError        a model file that would have to run code, or was made to do harm
├── UnsupportedModelError (TypeError) a model no adapter understands
├── CaptureError (RuntimeError)      the forward pass did not give what was to be captured
│   └── NoGradientError              the target does not depend on any captured layer
├── MissingPackageError (ImportError) a package that detcam does without until it is asked for
└── OutputError (OSError)            a result that cannot be written
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DetcamError(Exception):
    """Base of all errors of this package; its text is one line that says what to do."""


class InputError(DetcamError, ValueError):
    """What the caller gave cannot be used."""


class ShapeError(InputError):
    """Tensors whose shapes do not fit."""


class ImageError(InputError):
    """A picture that cannot be read."""


class AmbiguousHeadError(InputError):
    """A head whose classes cannot be counted: its readings differ, or what was said contradicts them.

    Attributes:
        readings: what the head can be read as, one line each.
    """

    def __init__(self, message: str, readings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.readings = tuple(readings)


class UnknownNameError(InputError):
    """A name that is not among the known ones.

    Args:
        kind: what was looked for, such as "layer" or "method".
        name: what was given.
        known: the names that exist.
        hint: where to see them all, such as "List all: detcam methods".
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = list(known)
        close = _closest(name, known)
        parts = [f"no {kind} {name!r}."]
        if close:
            parts.append(f"Closest: {', '.join(map(repr, close))}.")
        elif 0 < len(known) <= 20:
            parts.append(f"Known: {', '.join(map(repr, known))}.")
        if hint:
            parts.append(hint)
        super().__init__(" ".join(parts))


class CheckpointError(DetcamError):
    """A model file that cannot be read."""


class UnsafeCheckpointError(CheckpointError):
    """A model file that would have to run code to be read, or that was made to take more than it holds.

    Attributes:
        unsafe_globals: dotted names the file wants imported and that nobody allowed.
    """

    def __init__(self, message: str, unsafe_globals: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unsafe_globals = tuple(unsafe_globals)


class UnsupportedModelError(DetcamError, TypeError):
    """A model no adapter understands."""


class CaptureError(DetcamError, RuntimeError):
    """The forward pass did not give what was to be captured."""


class NoGradientError(CaptureError):
    """The target does not depend on any captured layer."""


class MissingPackageError(DetcamError, ImportError):
    """A package that detcam does without until it is asked for."""


class OutputError(DetcamError, OSError):
    """A result that cannot be written."""


def _closest(name: str, known: Sequence[str]) -> list[str]:
    by_lower = {candidate.lower(): candidate for candidate in known}
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
