"""What a model file is, told without running or building anything of it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from torch import Tensor

from detcam.adapters.base import Family, LoadOptions
from detcam.adapters.class_count import counts_of_convolutions
from detcam.adapters.layouts import HeadFacts
from detcam.adapters.torchvision_loading import class_columns, torchvision_class_layers
from detcam.checkpoints import ModelFile, open_model_file
from detcam.checkpoints.files import printable, read_bytes
from detcam.checkpoints.model_file import WAYS_WITH_A_WHOLE_MODEL, is_safetensors
from detcam.checkpoints.reading import unknown_globals
from detcam.checkpoints.scanning import PickleListing, list_pickle
from detcam.errors import CheckpointError, DetcamError, ShapeError

_DARKNET_HEADER = {True: 20, False: 16}  # bytes; from version 0.2 on the count of pictures seen takes eight
_SHOWN_NAMES = 10
_LEVEL = re.compile(
    r"(?<=\.)\d+(?=\.)"
)  # a number between dots counts levels; one in a name tells towers apart
_KINDS = {
    "torch": "torch checkpoint",
    "safetensors": "safetensors, weights without a model",
    "darknet": "Darknet weights, to be read with --cfg",
}


@dataclass(frozen=True)
class FileDescription:
    """What `describe_file` found; None where the file does not say it without being built.

    Attributes:
        path: as given.
        kind: what it is, for people.
        family: key of `ADAPTERS` that would read it as it is, or None.
        classes: number of classes: by the last convolutions, else by the names. With torchvision the
            background counts, as it does for `--num-classes`.
        class_names: in order of their ids; where they are not as many as the classes, both are shown.
        tensors: how many there are.
        parameters: numbers in them, what is shared counted once.
        bytes: size of the file.
        sha256: of the file's bytes, hexadecimal.
        final_convolutions: name of a weight of the head's last convolutions -> its output channels.
        known_globals: dotted names in it that the family or detcam itself has a safe meaning for.
        unknown_globals: those that would be refused.
        trust: what reading it would take.
    """

    path: str
    kind: str
    family: str | None
    classes: int | None
    class_names: tuple[str, ...] | None
    tensors: int | None
    parameters: int | None
    bytes: int
    sha256: str
    final_convolutions: dict[str, int]
    known_globals: tuple[str, ...]
    unknown_globals: tuple[str, ...]
    trust: str

    def lines(self) -> list[str]:
        """For people, a line each; what the file says is kept from steering the terminal."""
        names = self.class_names or ()
        shown = {
            "file": self.path,
            "kind": self.kind,
            "family": self.family or "none that would read it as it is",
            "classes": self._classes_text(),
            "names": ", ".join(names[:_SHOWN_NAMES]) + (" …" if len(names) > _SHOWN_NAMES else ""),
            "tensors": "" if self.tensors is None else f"{self.tensors:,}",
            "parameters": "" if self.parameters is None else f"{self.parameters:,}",
            "size": f"{self.bytes:,} bytes",
            "sha256": self.sha256,
            "last convolutions": ", ".join(f"{n} ({c})" for n, c in self.final_convolutions.items()),
            "known globals": ", ".join(self.known_globals),
            "unknown globals": ", ".join(self.unknown_globals),
            "trust": self.trust,
        }
        return [f"{name + ':':18} {printable(value)}" for name, value in shown.items() if value]

    def _classes_text(self) -> str:
        if self.classes is None:
            return "not known without building it"
        if self.class_names is not None and len(self.class_names) != self.classes:
            return f"{self.classes} by the last convolutions, but {len(self.class_names)} names"
        return f"{self.classes}{', background counted' if self.family == 'torchvision' else ''}"


def describe_file(path: str | PathLike[str], families: Mapping[str, Family]) -> FileDescription:
    """Describe a model file: nothing in it runs. A pickle is only listed; weights alone are read.

    Args:
        path: of the file.
        families: `ADAPTERS`.

    Raises:
        CheckpointError: there is no such file, or it holds no model.
    """
    path = Path(path)
    data = read_bytes(path)
    if data.startswith(b"\x80") and not is_safetensors(path, data):
        return _bare_pickle(path, data)
    file = open_model_file(path)
    family = _family_of(file, families)
    tensors = _weights(file)
    listing = list_pickle(file.checkpoint.archive.pickle) if file.checkpoint else PickleListing()
    convolutions = torchvision_class_layers(tensors or {}) or final_convolutions(tensors or {})
    unknown = _unknown(file, families.get(family or ""))
    counted = class_columns(tensors or {}) or _count(convolutions, tensors or {})
    return FileDescription(
        path=str(path),
        kind=_KINDS[file.kind],
        family=family,
        classes=counted or (len(listing.names) if listing.names else None),
        class_names=listing.names,
        tensors=listing.tensors if tensors is None and listing.tensors else _length(tensors),
        parameters=_parameters(file, tensors, listing),
        bytes=len(file.data),
        sha256=file.sha256,
        final_convolutions=convolutions,
        known_globals=tuple(name for name in file.globals if name not in unknown),
        unknown_globals=tuple(unknown),
        trust=_trust(file, family, unknown, is_weights=tensors is not None),
    )


def final_convolutions(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The last convolutions of a head in a state dict: with a bias, in the last part of the network.

    Convolutions inside a network have a normalisation in place of the bias, so those with one are few.

    Returns:
        Name of the weight -> output channels, in the order of the file.
    """
    biased = {
        name: weight.shape[0]
        for name, weight in tensors.items()
        if weight.ndim == 4 and name.endswith(".weight") and name.removesuffix("weight") + "bias" in tensors
    }
    if not biased:
        return {}
    last = _part(list(biased)[-1])
    return {name: channels for name, channels in biased.items() if _part(name) == last}


def _part(name: str) -> str:
    """The part of a network: "head", "yolo_head" of yolo_head3, "model.22" of a numbered one."""
    first, _, rest = name.partition(".")
    second = rest.partition(".")[0]
    return (
        f"{first}.{second}" if second.isdigit() and not first[-1:].isdigit() else first.rstrip("0123456789")
    )


def _count(convolutions: Mapping[str, int], tensors: Mapping[str, Tensor]) -> int | None:
    """The class count, if the convolutions can be read in one way only."""
    towers: dict[str, list[int]] = defaultdict(list)
    for name, channels in convolutions.items():
        towers[_LEVEL.sub("#", name)].append(channels)
    has_objectness = any("obj" in name for name in towers)
    # Three without an objectness by name: masks, angles or keypoints, which channels do not tell from it.
    if len({len(levels) for levels in towers.values()}) != 1 or len(towers) > 2 + has_objectness:
        return None
    anchors = next((a.shape[1] for n, a in tensors.items() if n.endswith("anchors") and a.ndim == 3), None)
    try:
        facts = HeadFacts(
            convolutions=tuple(zip(*towers.values(), strict=True)),
            anchors=anchors if len(towers) == 1 else None,
        )
        counts = counts_of_convolutions(facts)
    except ShapeError:
        return None
    return next(iter(counts)) if len(counts) == 1 else None


def _bare_pickle(path: Path, data: bytes) -> FileDescription:
    """A pickle without torch's zip archive around it: never read, only listed."""
    listing = list_pickle(data)
    return FileDescription(
        path=str(path),
        kind="bare pickle, as torch saved before 1.6",
        family=None,
        classes=len(listing.names) if listing.names else None,
        class_names=listing.names,
        tensors=listing.tensors or None,
        parameters=listing.numbers or None,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        final_convolutions={},
        known_globals=(),
        unknown_globals=listing.globals,
        trust="refused: it cannot be read safely. Ask its author to save it again with a newer torch",
    )


def _family_of(file: ModelFile, families: Mapping[str, Family]) -> str | None:
    for name, family in families.items():
        try:
            if family.reads is not None and family.reads(file, LoadOptions()):
                return name
        except DetcamError:
            continue  # it looked for weights and met a name nobody knows: not its file
    return None


def _weights(file: ModelFile) -> Mapping[str, Tensor] | None:
    try:
        return file.tensors
    except CheckpointError:
        if file.kind == "safetensors":
            raise
        return None  # a pickle with foreign code: its listing must do


def _unknown(file: ModelFile, family: Family | None) -> list[str]:
    resolve: Callable[[str], type | None] = lambda _: None  # noqa: E731 -- the family may have a better one
    if family is not None and family.resolve is not None:
        resolve = family.resolve
    return unknown_globals(file.globals, resolve)


def _parameters(file: ModelFile, tensors: Mapping[str, Tensor] | None, listing: PickleListing) -> int | None:
    if tensors is not None:
        return sum({(t.data_ptr(), t.numel()): t.numel() for t in tensors.values()}.values())
    if file.kind == "darknet":
        major, minor = file.data[0], file.data[4]
        return (len(file.data) - _DARKNET_HEADER[10 * major + minor >= 2]) // 4
    return listing.numbers or None


def _length(tensors: Mapping[str, Tensor] | None) -> int | None:
    return None if tensors is None else len(tensors)


def _trust(file: ModelFile, family: str | None, unknown: list[str], *, is_weights: bool) -> str:
    if file.kind != "torch" or not file.globals:
        return "safe: numbers only"
    if is_weights:
        beside = f", the {len(unknown)} unknown names are never looked at" if unknown else ""
        return f"safe: only its weights are read{beside}"
    if unknown and family is None:
        return f"{len(unknown)} unknown names: refused. {WAYS_WITH_A_WHOLE_MODEL}"
    if unknown:
        return (
            f"{len(unknown)} unknown names: refused, unless allowed by --allow-global NAME or --unsafe-load"
        )
    return "every name in it is known; how they are used is checked when it is read, and nothing of it runs"
