"""What a pickle says, read off its instructions one by one: none of them is carried out."""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass, field

from detcam.checkpoints.records import DAMAGE

_MOST_BYTES = 16 << 20  # a pickle without its tensors is far smaller
_MOST_PICKLES = 5  # torch before 1.6 wrote up to five, one after the other
_STRINGS = (
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "UNICODE",
    "SHORT_BINSTRING",
    "BINSTRING",
    "STRING",
)
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG")
_FILLS = ("SETITEM", "SETITEMS", "APPEND", "APPENDS")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_GETS = ("GET", "BINGET", "LONG_BINGET")


@dataclass
class PickleListing:
    """What stands in a pickle.

    Attributes:
        globals: dotted names it wants, sorted.
        tensors: how many tensors it makes.
        numbers: how many numbers their memory holds, what is shared counted once.
        names: the first list, or dictionary from 0 on, of texts that is called "names".
    """

    globals: tuple[str, ...] = ()
    tensors: int = 0
    numbers: int = 0
    names: tuple[str, ...] | None = None


def list_pickle(data: bytes) -> PickleListing:
    """What stands in a pickle, or in several one after the other, as far as it can be made out."""
    reader = _Reader()
    stream = io.BytesIO(data[:_MOST_BYTES])
    try:
        for _ in range(_MOST_PICKLES):
            for opcode, argument, _ in pickletools.genops(stream):
                reader.step(opcode.name, argument)
    except DAMAGE:
        pass  # behind the last pickle, or in one that is cut short: what was seen before is the answer
    return PickleListing(
        tuple(sorted(reader.globals)), reader.tensors, sum(reader.storages.values()), reader.names
    )


@dataclass
class _Reader:
    """Follows texts and numbers through the memo; all other values are None."""

    globals: set[str] = field(default_factory=set)
    tensors: int = 0
    storages: dict[object, int] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    last: object = None
    since_mark: list[object] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    collecting: str = ""  # "named": the word stood there; "open", "filled": in the list behind it
    is_dictionary: bool = False
    collected: list[object] = field(default_factory=list)

    def step(self, opcode: str, argument: object) -> None:
        if opcode in _PUTS:
            index = argument if isinstance(argument, int) else len(self.memo)
            self.memo[index] = self.last
            return
        self._collect(opcode)
        if opcode == "MARK":
            self.since_mark = []
            return
        if opcode == "GLOBAL" and isinstance(argument, str):
            self.globals.add(argument.replace(" ", "."))
        elif opcode == "STACK_GLOBAL":
            self.globals.add(".".join(str(part) for part in self.since_mark[-2:]))
        elif opcode == "BINPERSID":
            self._storage()
        if opcode in _STRINGS or opcode in _NUMBERS:
            self.last = argument
        else:
            self.last = self.memo.get(argument) if opcode in _GETS and isinstance(argument, int) else None
        self.since_mark.append(self.last)
        if self.collecting == "open":
            self.collected.append(self.last)
        elif not self.collecting and self.last == "names" and self.names is None:
            self.collecting = "named"

    def _storage(self) -> None:
        """A tensor's memory: the tuple ("storage", class, key, place, count) was just made."""
        self.tensors += 1
        if len(self.since_mark) >= 5 and self.since_mark[0] == "storage":
            key, count = self.since_mark[2], self.since_mark[4]
            self.storages[key] = count if isinstance(count, int) else 0

    def _collect(self, opcode: str) -> None:
        if self.collecting == "named":
            self.collecting = "open" if opcode in ("EMPTY_DICT", "EMPTY_LIST") else ""
            self.is_dictionary, self.collected = opcode == "EMPTY_DICT", []
        elif opcode in _FILLS:
            self.collecting = self.collecting and "filled"
        elif self.collecting == "filled":
            # A long list is filled in parts, each after a mark; anything else is what comes behind it.
            self.collecting = "open" if opcode == "MARK" else ""
            if not self.collecting:
                # The first value is the list itself.
                self.names = _names(self.collected[1:], is_dictionary=self.is_dictionary)


def _names(values: list[object], *, is_dictionary: bool) -> tuple[str, ...] | None:
    """Texts, in a dictionary behind the ids 0, 1, 2 …; None for anything else."""
    texts = values[1::2] if is_dictionary else values
    if is_dictionary and values[::2] != list(range(len(texts))):
        return None
    names = [text for text in texts if isinstance(text, str)]
    return tuple(names) if names and len(names) == len(texts) else None
