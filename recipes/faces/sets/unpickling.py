"""The part of pickle that holds lists of bytes and truths, read by a machine that imports and calls nothing.

Python's own unpickler, told to import nothing, still takes a file at its word about memory: four bytes ask for a table
of a billion entries, eight for a buffer of any length. Here all that is held was in the file or refers to what was, and
no number of entries is believed before they are there.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO

from reparam_kit import UnsafeFileError, first_line

_MAX_OBJECTS = 1 << 22  # of every kind, each of which may take 150 bytes and be one byte of the file
_MAX_DIGITS = 18


class _Mark:
    """Where the entries of a list or tuple begin on the stack."""


_MARK = _Mark()


class Unpickler:
    """Reads one pickle of any protocol.

    Args:
        file: where the pickle is read from.
        size: how many bytes it has.
        names: what stands for each ``module.name`` that the pickle may name.
    """

    def __init__(self, file: BinaryIO, size: int, names: Mapping[str, Callable[..., object]]) -> None:
        self._file = file
        self._size = size
        self._at = 0
        self._names = names
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}
        self._pushed = 0

    def load(self) -> object:
        """Return the object that is pickled.

        Raises:
            UnsafeFileError: a name is not among ``names``.
            ValueError: the pickle is cut short or malformed, or needs what no list of bytes does. The message names
                the byte.
        """
        at = 0
        try:
            while (code := self._take(1)) != b".":
                if code not in _STEPS:
                    raise ValueError(f"the instruction {code!r} is for no list of bytes")
                _STEPS[code](self)
                at = self._at
            return self._pop()
        except UnsafeFileError:
            raise
        except Exception as error:  # an instruction may find anything where it takes something
            raise ValueError(f"byte {at}: {first_line(error)}") from error

    def _take(self, count: int) -> bytes:
        if not 0 <= count <= self._size - self._at:
            raise ValueError(f"the file ends before the {count} bytes that it announces")
        self._at += count
        return self._file.read(count)

    def _line(self) -> bytes:
        line = self._file.readline()
        self._at += len(line)
        return line.rstrip(b"\r\n")

    def _number(self, form: str) -> int:
        number: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return number

    def _push(self, value: object) -> None:
        self._pushed += 1
        if self._pushed > _MAX_OBJECTS:
            raise ValueError(f"more than {_MAX_OBJECTS:,} objects")
        self._stack.append(value)

    def _pop(self) -> object:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("nothing is there to be used")
        return value

    def _pop_tuple(self, count: int) -> None:
        self._push(tuple([self._pop() for _ in range(count)][::-1]))

    def _since_mark(self) -> list[object]:
        at = len(self._stack) - 1
        while self._stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise ValueError("what ends here did not begin")
        entries = self._stack[at + 1 :]
        del self._stack[at:]
        return entries

    def _extend(self, entries: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ValueError(f"entries for a {type(target).__name__}")
        target.extend(entries)

    def _name(self, module: object, name: object) -> None:
        full = f"{module}.{name}"
        if full not in self._names:
            raise UnsafeFileError(
                f"names {full[:80]!r}, which no verification set needs; it was not run, and the file is not used"
            )
        self._push(self._names[full])

    def _named(self) -> None:
        self._name(self._line().decode(), self._line().decode())

    def _named_on_stack(self) -> None:
        name, module = self._pop(), self._pop()
        self._name(module, name)

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not any(function is known for known in self._names.values()) or not isinstance(arguments, tuple):
            raise ValueError("what is called is no function")
        self._push(function(*arguments))  # type: ignore[operator]

    def _set_state(self) -> None:
        state = self._pop()
        self._stack[-1].__setstate__(state)  # type: ignore[attr-defined]

    def _integer(self) -> None:
        line = self._line().rstrip(b"L")
        if len(line) > _MAX_DIGITS:
            raise ValueError(f"a number of {len(line)} digits")
        self._push({b"00": False, b"01": True}.get(line, int(line)))

    def _string(self) -> None:
        """Read a string as Python 2 wrote bytes: in quotes, with escapes."""
        line = self._line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("text without its quotes")
        self._push(codecs.escape_decode(line[1:-1])[0])

    def _remember(self, number: int) -> None:
        self._memo[number] = self._stack[-1]
        if len(self._memo) > self._pushed:
            raise ValueError("more objects are remembered than there are")

    def _take_bytes(self, form: str) -> None:
        self._push(self._take(self._number(form)))

    def _take_text(self, form: str) -> None:
        self._push(self._take(self._number(form)).decode("utf-8", "surrogatepass"))


_Step = Callable[[Unpickler], object]
_STEPS: dict[bytes, _Step] = {
    pickle.PROTO: lambda u: u._take(1),
    pickle.FRAME: lambda u: u._take(8),  # of the frame's length, which need not be known
    pickle.MARK: lambda u: u._push(_MARK),
    pickle.NONE: lambda u: u._push(None),
    pickle.NEWTRUE: lambda u: u._push(True),
    pickle.NEWFALSE: lambda u: u._push(False),
    pickle.INT: Unpickler._integer,
    pickle.LONG: Unpickler._integer,
    pickle.BININT: lambda u: u._push(u._number("<i")),
    pickle.BININT1: lambda u: u._push(u._number("<B")),
    pickle.BININT2: lambda u: u._push(u._number("<H")),
    pickle.LONG1: lambda u: u._push(int.from_bytes(u._take(u._number("<B")), "little", signed=True)),
    pickle.STRING: Unpickler._string,
    pickle.BINSTRING: lambda u: u._take_bytes("<i"),
    pickle.SHORT_BINSTRING: lambda u: u._take_bytes("<B"),
    pickle.BINBYTES: lambda u: u._take_bytes("<I"),
    pickle.SHORT_BINBYTES: lambda u: u._take_bytes("<B"),
    pickle.BINBYTES8: lambda u: u._take_bytes("<Q"),
    pickle.BYTEARRAY8: lambda u: u._take_bytes("<Q"),
    pickle.UNICODE: lambda u: u._push(u._line().decode("raw-unicode-escape")),
    pickle.BINUNICODE: lambda u: u._take_text("<I"),
    pickle.SHORT_BINUNICODE: lambda u: u._take_text("<B"),
    pickle.BINUNICODE8: lambda u: u._take_text("<Q"),
    pickle.EMPTY_LIST: lambda u: u._push([]),
    pickle.LIST: lambda u: u._push(u._since_mark()),
    pickle.APPEND: lambda u: u._extend([u._pop()]),
    pickle.APPENDS: lambda u: u._extend(u._since_mark()),
    pickle.EMPTY_TUPLE: lambda u: u._push(()),
    pickle.TUPLE: lambda u: u._push(tuple(u._since_mark())),
    pickle.TUPLE1: lambda u: u._pop_tuple(1),
    pickle.TUPLE2: lambda u: u._pop_tuple(2),
    pickle.TUPLE3: lambda u: u._pop_tuple(3),
    pickle.GLOBAL: Unpickler._named,
    pickle.INST: Unpickler._named,  # only to say what it names: no stand-in is made like this
    pickle.STACK_GLOBAL: Unpickler._named_on_stack,
    pickle.REDUCE: Unpickler._call,
    pickle.BUILD: Unpickler._set_state,
    pickle.PUT: lambda u: u._remember(int(u._line())),
    pickle.BINPUT: lambda u: u._remember(u._number("<B")),
    pickle.LONG_BINPUT: lambda u: u._remember(u._number("<I")),
    pickle.MEMOIZE: lambda u: u._remember(len(u._memo)),
    pickle.GET: lambda u: u._push(u._memo[int(u._line())]),
    pickle.BINGET: lambda u: u._push(u._memo[u._number("<B")]),
    pickle.LONG_BINGET: lambda u: u._push(u._memo[u._number("<I")]),
}
