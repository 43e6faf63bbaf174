"""What a pickle would do, followed instruction by instruction without doing it.

torch's restricted unpickler runs no code of the file's choice, but what it does call may take more memory or
time than there is: `bytearray(10**12)`, a set of a tensor that repeats one number a billion times, a tuple of
tuples forty deep as a key. So every call is checked first, against how `torch.save` writes the same things.
"""

from __future__ import annotations

import pickle
import pickletools
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Collection
from typing import Any

from detcam.checkpoints.archive import Archive

_LARGEST_KEY = 64  # values in a dictionary's key or a set's member, counting those in tuples
_SIZE_CAP = 1 << 20
_ELEMENT_BYTES = {
    **dict.fromkeys(("UntypedStorage", "ByteStorage", "CharStorage", "BoolStorage"), 1),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("DoubleStorage", "LongStorage", "ComplexFloatStorage"), 8),
    "ComplexDoubleStorage": 16,
}
_REBUILDS = frozenset(
    f"torch._utils._rebuild_{what}"
    for what in (
        *("tensor", "tensor_v2", "tensor_v3", "meta_tensor_no_storage"),
        *("parameter", "parameter_with_state"),
    )
)
_DICT_MAKERS = frozenset({"collections.OrderedDict", "collections.Counter"})


class ActError(pickle.UnpicklingError):
    """A pickle would do something that `torch.save` never writes."""


class _Name(str):
    """A dotted name."""


class _Made:
    """What a call gave, and which."""

    def __init__(self, by: str) -> None:
        self.by = by


class _Tuple:
    """A tuple, and how many values lie in it, those in tuples inside counted each time they are met."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.size = min(1 + sum(map(_size, items)), _SIZE_CAP)


class _List:
    """A list: only the size of its largest value matters."""

    def __init__(self) -> None:
        self.largest = 1


class _Dict:
    """A dictionary."""


def check_acts(archive: Archive, names: Collection[str]) -> None:
    """Follow a checkpoint's pickle to its end.

    Args:
        archive: with the pickle.
        names: dotted names that will be records, whose making does nothing.

    Raises:
        ActError: it would call, fill in or read what no training run saves.
        UnpicklingError: it is none that torch's restricted unpickler can read.
    """
    follower = _Follower(archive, frozenset(names))
    try:
        for opcode, argument, _ in pickletools.genops(archive.pickle):
            if opcode.name == "STOP":
                return
            follower.step(opcode, argument)
    except (IndexError, ValueError) as error:
        raise pickle.UnpicklingError(f"no pickle of torch's: {error}") from error


class _Follower:
    """torch's unpickler with notes in place of values: atoms as they are, else one of the classes above."""

    def __init__(self, archive: Archive, names: frozenset[str]) -> None:
        self._storages, self._names = archive.storages, names
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do one instruction."""
        name = opcode.name
        if name in _ATOMS:
            self._stack.append(_CONSTANTS.get(name, argument))
        elif name in _GETS:
            self._stack.append(self._memo[argument])
        elif name in _PUTS:
            self._memo[argument] = self._stack[-1]
        elif name in _STEPS:
            getattr(self, _STEPS[name])(argument)
        elif name != "PROTO":
            raise pickle.UnpicklingError(f"Unsupported operand {ord(opcode.code)}")

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")  # as Python 2 had them: so protocol 2 writes them
        if (module, name) in NAME_MAPPING:
            module, name = NAME_MAPPING[module, name]
        self._stack.append(_Name(f"{IMPORT_MAPPING.get(module, module)}.{name}"))

    def _mark(self, _argument: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _tuple(self, _argument: Any) -> None:
        made = _Tuple(self._since_mark())  # first: it puts another stack in place
        self._stack.append(made)

    def _tuple1(self, _argument: Any, count: int = 1) -> None:
        items = [self._stack.pop() for _ in range(count)]
        self._stack.append(_Tuple(items[::-1]))

    def _tuple2(self, argument: Any) -> None:
        self._tuple1(argument, 2)

    def _tuple3(self, argument: Any) -> None:
        self._tuple1(argument, 3)

    def _empty_tuple(self, _argument: Any) -> None:
        self._stack.append(_Tuple([]))

    def _empty_list(self, _argument: Any) -> None:
        self._stack.append(_List())

    def _empty_dict(self, _argument: Any) -> None:
        self._stack.append(_Dict())

    def _append(self, _argument: Any) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, _argument: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, _List):
            raise ActError("it appends to what is no list")
        target.largest = max([target.largest, *map(_size, items)])

    def _setitem(self, _argument: Any) -> None:
        self._stack.pop()
        self._set_keys([self._stack.pop()])

    def _setitems(self, _argument: Any) -> None:
        self._set_keys(self._since_mark()[::2])

    def _set_keys(self, keys: list[Any]) -> None:
        target = self._stack[-1]
        is_dict = isinstance(target, _Dict) or (isinstance(target, _Made) and target.by in _DICT_MAKERS)
        if not is_dict or any(_size(key) > _LARGEST_KEY for key in keys):
            raise ActError("it fills in what is no dictionary, or under a key that is not plain")

    def _persistent(self, _argument: Any) -> None:
        """The memory of a tensor: ("storage", class, key, place, how many numbers)."""
        said = self._stack.pop()
        items = said.items if isinstance(said, _Tuple) else []
        if len(items) != 5 or items[0] != "storage" or not isinstance(items[1], _Name):
            raise ActError("it asks for what is no tensor's memory")
        each, key, count = _ELEMENT_BYTES.get(items[1].rpartition(".")[2]), items[2], items[4]
        if each is None or type(key) is not str or type(count) is not int or key not in self._storages:
            raise ActError("it asks for memory that is not in the file")
        if not 0 <= count * each <= self._storages[key]:
            raise ActError(f"a tensor claims {count * each} bytes where the file has {self._storages[key]}")
        self._stack.append(_Made("storage"))

    def _newobj(self, _argument: Any) -> None:
        self._stack.pop()
        made = self._stack.pop()
        if not isinstance(made, _Name) or made not in self._names:
            raise ActError("it makes an object that is none of a class")
        self._stack.append(_Made(made))

    def _reduce(self, _argument: Any) -> None:
        given, called = self._stack.pop(), self._stack.pop()
        if not isinstance(called, _Name) or not isinstance(given, _Tuple):
            raise ActError("it calls what is no name")
        if called not in self._names and not _is_usual(called, given.items):
            raise ActError(f"it calls {called} as no training run does")
        self._stack.append(_Made(called))

    def _build(self, _argument: Any) -> None:
        state, filled = self._stack.pop(), self._stack[-1]
        by = filled.by if isinstance(filled, _Made) else ""
        is_plain = by == "collections.OrderedDict" and isinstance(state, _Dict)  # a state dict's _metadata
        if by not in self._names and not is_plain:
            raise ActError("it fills in what is no object")


def _is_usual(called: str, given: list[Any]) -> bool:
    """Whether a call of torch's own list is one that `torch.save` writes."""
    if called in _REBUILDS:
        return True
    if called == "torch._tensor._rebuild_from_type_v2":
        return bool(given) and isinstance(given[0], _Name) and given[0] in _REBUILDS
    if called == "builtins.set":
        return not given or (_are(given, _List) and given[0].largest <= _LARGEST_KEY)
    if called in _DICT_MAKERS:
        return not given or (called == "collections.Counter" and _are(given, _Dict))
    if called == "torch.Size":
        return _are(given, _Tuple)
    if called == "_codecs.encode":
        return len(given) == 2 and type(given[0]) is str and given[1] == "latin1"
    return called in ("torch.device", "builtins.complex") and not any(map(_is_note, given))


def _are(given: list[Any], kind: type) -> bool:
    return len(given) == 1 and isinstance(given[0], kind)


def _is_note(value: Any) -> bool:
    return isinstance(value, _Name | _Made | _Tuple | _List | _Dict)


def _size(value: Any) -> int:
    return value.size if isinstance(value, _Tuple) else 1


_CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True}
_ATOMS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", *_CONSTANTS)
)
_GETS, _PUTS = ("BINGET", "LONG_BINGET"), ("BINPUT", "LONG_BINPUT")
_STEPS = {
    "GLOBAL": "_global",
    "MARK": "_mark",
    "TUPLE": "_tuple",
    "TUPLE1": "_tuple1",
    "TUPLE2": "_tuple2",
    "TUPLE3": "_tuple3",
    "EMPTY_TUPLE": "_empty_tuple",
    "EMPTY_LIST": "_empty_list",
    "EMPTY_DICT": "_empty_dict",
    "APPEND": "_append",
    "APPENDS": "_appends",
    "SETITEM": "_setitem",
    "SETITEMS": "_setitems",
    "BINPERSID": "_persistent",
    "NEWOBJ": "_newobj",
    "REDUCE": "_reduce",
    "BUILD": "_build",
}
