"""Records made into objects, by a list of what a model file may hold."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn, cast

import numpy
import torch
from torch import Tensor, nn

from detcam.checkpoints.records import Record
from detcam.errors import UnsafeCheckpointError

# Exact types only: a subclass could bring methods of its own.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device})
_MAPPINGS = frozenset({dict, OrderedDict, Counter})
_REGISTERS = {"_parameters": nn.Parameter, "_buffers": Tensor, "_modules": nn.Module}

# What runs when a module is called. In front of its other methods nothing callable may stand; plain data may,
# for ultralytics itself keeps a layer's name in `type`.
_RESERVED = frozenset({"forward", "_compiled_call_impl"})

METHOD_LOOKUP = "builtins.getattr"  # how a pickle writes a bound method
ARRAY_CALLS = frozenset(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core"))
ARRAY_CLASS = "numpy.ndarray"


# In bytes: a grid of anchors is saved repeated along an axis; nothing repeats its numbers further than this.
_MOST_REPEATED = 16 * 2**20


class ParallelWrapper(nn.Module):
    """What a file's `DataParallel` becomes: it holds the network as `module`, and never runs."""


class Ignored:
    """What a name stands for that a file may mention and nobody builds, such as a training loss."""


class Rebuilder:
    """Makes objects from records. What it has no rule for is refused, so this is all that a file can hold.

    Args:
        path: of the file, for messages.
        classes: what the file's names stand for.
        ignore_attributes: attributes left out of every object, with all that hangs on them.
    """

    def __init__(self, path: Path, classes: Mapping[str, object], ignore_attributes: Collection[str]) -> None:
        self._path = path
        self._classes = classes
        self._ignored = frozenset(ignore_attributes)
        self._built: dict[int, Any] = {}  # by id of the original: what was shared stays shared
        self._open: set[int] = set()

    def build(self, value: object) -> Any:
        """Rebuild one value and all it holds.

        Raises:
            UnsafeCheckpointError: there is something in it that no rule allows.
        """
        if type(value) in _ATOMS:
            return value
        if id(value) in self._open:
            self._refuse("an object that contains itself")  # walking such a model would never end
        if id(value) not in self._built:
            self._open.add(id(value))
            self._built[id(value)] = self._rebuild(value)
            self._open.remove(id(value))
        return self._built[id(value)]

    def _rebuild(self, value: Any) -> object:
        kind = type(value)
        if isinstance(value, Record):
            return self._object(value)
        if isinstance(value, type) and issubclass(value, Record):
            return self._bare_name(value.name)
        if kind in (list, tuple, set):
            return kind(self.build(item) for item in value)
        if kind in _MAPPINGS:
            return kind({self._key(key): self.build(item) for key, item in value.items()})
        if kind in (Tensor, nn.Parameter):
            return self._tensor(value)
        self._refuse(f"a {kind.__module__}.{kind.__qualname__}, which is not plain data")

    def _key(self, key: object) -> Any:
        if type(key) not in _ATOMS:
            self._refuse("a dictionary key that is not plain data")
        return key

    def _tensor(self, value: Tensor) -> Tensor:
        """Take the numbers, without the hooks and attributes that the file may have hung on them."""
        plain = torch.Tensor.detach(value)
        if plain.layout != torch.strided or plain.device.type != "cpu" or plain.is_quantized:
            self._refuse(f"a {plain.layout} {plain.dtype} tensor on {plain.device}, not plain numbers")
        claimed = plain.numel() * plain.element_size()
        if claimed > max(plain.untyped_storage().nbytes(), _MOST_REPEATED):
            self._refuse(f"a tensor of shape {list(plain.shape)}, larger than the numbers it holds")
        if type(value) is nn.Parameter:
            return nn.Parameter(plain, requires_grad=value.requires_grad)
        return plain

    def _bare_name(self, name: str) -> object:
        """Let a function held as a value through, such as an activation, if the user vouched for it."""
        found = self._classes.get(name)
        if found is None or isinstance(found, type):
            self._refuse(f"{name} itself as a value", name)
        return found

    def _object(self, record: Record) -> object:
        found = self._classes.get(record.name)
        if found is None and record.name in PLAIN_CALLS:
            return PLAIN_CALLS[record.name](*map(self.build, record.args))
        if found is None and record.name in ARRAY_CALLS:
            return self._array(record)
        if not isinstance(found, type) or found is Ignored:
            self._refuse(f"{record.name} where it has no meaning", record.name)
        if record.args:
            self._refuse(f"a call of {record.name} with arguments of the file's choice", record.name)
        return self._instance(record, found)

    def _array(self, record: Record) -> object:
        """A numpy array of numbers, such as the best validation result; its class is not asked for."""
        if type(record.state) is not tuple or len(record.state) != 5:
            self._refuse("a numpy array without contents", record.name)
        _, shape, dtype, is_fortran, data = map(self.build, record.state)
        if not isinstance(dtype, numpy.dtype) or type(data) is not bytes:
            self._refuse("a numpy array of something else than numbers", record.name)
        return numpy.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C").copy()

    def _instance(self, record: Record, real: type[Any]) -> object:
        """Make an object of the real class: empty, without its constructor, then given its attributes."""
        if type(record.state) is not dict or not all(type(name) is str for name in record.state):
            self._refuse(f"a {record.name} without attributes", record.name)
        instance = cast(Any, real).__new__(real)
        attributes = self._attributes(record, instance)
        if isinstance(instance, nn.Module):
            self._check_module(record.name, attributes)
        if hasattr(instance, "__setstate__"):  # nn.Module's fills in what older torch releases did not save
            instance.__setstate__(attributes)
        else:
            vars(instance).update(attributes)
        return instance

    def _attributes(self, record: Record, instance: object) -> dict[str, object]:
        attributes: dict[str, object] = {}
        for name, value in record.state.items():
            inherited = getattr(type(instance), name, None)
            if name in self._ignored or isinstance(inherited, property):
                continue  # a property wins over an entry of its name, so nobody could see the entry
            if name == "forward" and _is_own_forward(value, record):
                attributes[name] = getattr(instance, value.args[1])
                continue
            if name in _RESERVED or name.startswith("__"):
                self._refuse(f"a {record.name} with a {name!r} of its own", record.name)
            attributes[name] = self._children(value) if name == "_modules" else self.build(value)
            if callable(attributes[name]) and callable(inherited):
                self._refuse(f"a {record.name} whose {name!r} was replaced", record.name)
        return attributes

    def _children(self, modules: Any) -> object:
        if type(modules) not in _MAPPINGS:
            self._refuse("a module without children")
        return self._rebuild({name: child for name, child in modules.items() if name not in self._ignored})

    def _check_module(self, name: str, attributes: Mapping[str, Any]) -> None:
        """Check what `nn.Module` itself makes sure of when attributes are set one by one."""
        for register, kind in _REGISTERS.items():
            entries = attributes.get(register)
            if not isinstance(entries, dict):
                self._refuse(f"a {name} without {register}", name)
            if not all(entry is None or isinstance(entry, kind) for entry in entries.values()):
                self._refuse(f"a {name} whose {register} hold something else", name)
        hooks = [key for key, value in attributes.items() if "_hooks" in key and value]
        if hooks:
            self._refuse(f"a {name} with entries in {hooks[0]}", name)

    def _refuse(self, what: str, *names: str) -> NoReturn:
        raise UnsafeCheckpointError(
            f"{self._path} holds {what}, which no plain training run saves. Refused; nothing in it was run. "
            "If you trust where it comes from: --unsafe-load",
            names,
        )


def _is_own_forward(value: object, record: Record) -> bool:
    """Whether this is `self.forward = self.forward_fuse`, as fusing a model leaves behind.

    It is the one attribute lookup that is understood; every other is refused.
    """
    if not isinstance(value, Record) or value.name != METHOD_LOOKUP or len(value.args) != 2:
        return False
    owner, method = value.args
    return (owner is record or owner is type(record)) and method in ("forward", "forward_fuse")


def _numpy_dtype(code: str, *_flags: object) -> numpy.dtype[Any]:
    if not re.fullmatch("[fiub][1248]", code):
        raise ValueError(f"numpy type {code!r} is not a number")
    return numpy.dtype(code)


def _numpy_number(dtype: numpy.dtype[Any], data: bytes) -> object:
    return numpy.frombuffer(data, dtype)[0].item()


# The calls a file may make: each only turns plain data into plain data.
PLAIN_CALLS: dict[str, Callable[..., object]] = {
    f"{home}.{flavour}": path_class
    for home in ("pathlib", "pathlib._local")
    for path_class, flavours in (
        (PurePosixPath, ("PosixPath", "PurePosixPath")),
        (PureWindowsPath, ("WindowsPath", "PureWindowsPath")),
    )
    for flavour in flavours
} | {
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_number,
    "numpy._core.multiarray.scalar": _numpy_number,
}
