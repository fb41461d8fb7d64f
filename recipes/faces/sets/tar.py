"""The members of a plain tar file: their names and where their bytes lie, so that each can be read alone.

A tar is headers of 512 bytes, each followed by the bytes of its member, filled up to 512; two headers of zeros are its
end. Names of any length stand in members of their own before the one that they name (pax and GNU). Python's tarfile
keeps an object of a kilobyte for every member, reads what such members ask for, and follows links; a set of millions of
images needs the names and places alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from reparam_kit import InputError, printable, require_file

_BLOCK = 512
_FILES = (b"0", b"\0", b"7")
_PASSED = (b"5", b"g", b"K", b"V")  # folders, settings for all, names of links, names of volumes
_LINKS = (b"1", b"2", b"3", b"4", b"6")  # and devices and pipes
_LONG_NAME, _PAX = b"L", b"x"
_LONGEST = 1 << 16  # bytes of a name, with what stands beside it
_NUMBER = re.compile(r"[0-9]{1,18}")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


class Member(NamedTuple):
    """A file in a tar: its name, and where its bytes are."""

    name: str
    offset: int
    size: int


def iterate_members(path: Path) -> Iterator[Member]:
    """Yield the files in a tar, in their order.

    Raises:
        InputError: it is no plain tar, is cut short or damaged; a name leads out of the folder that it would be
            unpacked to; or a member is a link, a device, or in pieces. The message names the byte.
    """
    size = require_file(path, "a .tar").stat().st_size
    with path.open("rb") as file:
        begin = file.read(2)
        if begin in _COMPRESSED:
            raise InputError(
                f"{path} is compressed ({_COMPRESSED[begin]}): images are read out of a plain .tar, so unpack it to one"
            )
        yield from _members(path, file, size)


def _members(path: Path, file: BinaryIO, size: int) -> Iterator[Member]:
    told: dict[str, str] = {}
    at, ended = 0, False
    while at + _BLOCK <= size:
        file.seek(at)
        header = file.read(_BLOCK)
        if not any(header):
            ended = True
            break
        kind, length = _read(header, f"{path}: the member at byte {at}")
        data = at + _BLOCK
        if kind in (_PAX, _LONG_NAME):
            if length > _LONGEST:
                raise InputError(f"{path}: the member at byte {at} has a name of {length:,} bytes")
            told = told | _told(kind, file.read(length))
        length = int(told.get("size", length)) if kind not in (_PAX, _LONG_NAME) else length
        if data + length > size:
            break
        at = data + -(-length // _BLOCK) * _BLOCK
        if kind in (_PAX, _LONG_NAME):
            continue
        if kind not in _PASSED:
            name = told.get("path") or _name(header)
            _require_plain(path, kind, name, data - _BLOCK, told)
            yield Member(name, data, length)
        told = {}
    if not ended:
        raise InputError(f"{path} is cut short: it ends at byte {size:,}, without the zeros that end a tar")


def _read(header: bytes, where: str) -> tuple[bytes, int]:
    """Kind and length of a member; InputError where it is none."""
    try:
        wanted = _number(header[148:156])
        length = _number(header[124:136])
    except ValueError:
        wanted, length = -1, -1
    if sum(header[:148]) + sum(header[156:]) + 8 * ord(" ") != wanted or length < 0:
        raise InputError(
            f"{where} is damaged, or this is no tar file: its header does not match its checksum"
        )
    return header[156:157], length


def _number(field: bytes) -> int:
    """Octal digits; or, with the first bit set, bytes (GNU, for more than 8 GiB)."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(b"\0")[0].strip() or b"0", 8)


def _name(header: bytes) -> str:
    name, prefix = (part.split(b"\0")[0] for part in (header[:100], header[345:500]))
    posix = header[257:263] == b"ustar\0"
    return (prefix + b"/" + name if posix and prefix else name).decode("utf-8", "surrogateescape")


def _told(kind: bytes, data: bytes) -> dict[str, str]:
    """Return what a member says of the next one: its ``path``, and its ``size`` where a header has no place for it."""
    if kind == _LONG_NAME:
        return {"path": data.split(b"\0")[0].decode("utf-8", "surrogateescape")}
    found, at = {}, 0
    while at < len(data):
        length, _, _ = data[at:].partition(b" ")
        if not _NUMBER.fullmatch(length.decode("latin1")) or not 0 < int(length) <= len(data) - at:
            break
        key, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        at += int(length)
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    return {name: value for name, value in found.items() if name != "size" or _NUMBER.fullmatch(value)}


def _require_plain(path: Path, kind: bytes, name: str, at: int, told: dict[str, str]) -> None:
    where = printable(f"{path}: the member {name!r} at byte {at}")
    parts = PurePosixPath(name).parts
    if not name or "\0" in name or name.startswith("/") or ".." in parts:
        raise InputError(f"{where} has a name that leads out of its folder")
    if kind in _LINKS:
        raise InputError(f"{where} is a link or a device, not a file")
    if kind not in _FILES or any(key.startswith("GNU.sparse") for key in told):
        raise InputError(f"{where} is in pieces, or of a kind that is not read ({kind!r})")
