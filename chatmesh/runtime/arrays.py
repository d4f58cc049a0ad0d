"""PostgreSQL arrays packed by hand, as parameters of binary calls.

`execute("… unnest($1) …", [Int8Array(ids), BytesArray(bodies)])`: one struct call per array
instead of psycopg's dumper per element (17 list parameters cost 65 µs a call, as much as the round
trip itself). None elements are NULLs.

Wire format (array_send in PostgreSQL's arrayfuncs.c): int32 dimensions, int32 has-nulls, int32
element oid, then per dimension int32 length and int32 lower bound, then per element int32 size
(-1 for NULL) and the bytes. Importing this module registers the dumpers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, Final
from uuid import UUID

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER: Final = struct.Struct(">iiIii")
_EMPTY: Final = struct.Struct(">iiI")
_SIZE: Final = struct.Struct(">i")
_NULL: Final = _SIZE.pack(-1)
_UUID_SIZE: Final = _SIZE.pack(16)


class PackedArray:
    """Base: one dimension, lower bound 1."""

    element_oid: ClassVar[int]
    array_oid: ClassVar[int]
    __slots__ = ()

    def pack(self) -> bytes:
        """The array's binary representation."""
        raise NotImplementedError


class _IntArray(PackedArray):
    size_bytes: ClassVar[int]
    letter: ClassVar[str]
    __slots__ = ("values",)

    def __init__(self, values: Sequence[int | None]) -> None:
        self.values = values

    def pack(self) -> bytes:
        """Binary representation; struct.error when a number does not fit its type."""
        count = len(self.values)
        if not count:
            return _EMPTY.pack(0, 0, self.element_oid)
        if None in self.values:
            return self._pack_with_nulls()
        flat: list[int | None] = [self.size_bytes] * (2 * count)
        flat[1::2] = self.values
        return _HEADER.pack(1, 0, self.element_oid, count, 1) + _pairs(self.letter, count).pack(
            *flat
        )

    def _pack_with_nulls(self) -> bytes:
        pair = struct.Struct(">i" + self.letter)
        parts = [_HEADER.pack(1, 1, self.element_oid, len(self.values), 1)]
        parts += [
            _NULL if value is None else pair.pack(self.size_bytes, value) for value in self.values
        ]
        return b"".join(parts)


@lru_cache(maxsize=512)
def _pairs(letter: str, count: int) -> struct.Struct:
    """Format of `count` times (size, value); batch sizes repeat, so the compiled ones are kept."""
    return struct.Struct(">" + ("i" + letter) * count)


class Int8Array(_IntArray):
    """bigint[]"""

    element_oid, array_oid, size_bytes, letter = 20, 1016, 8, "q"
    __slots__ = ()


class Int4Array(_IntArray):
    """integer[]"""

    element_oid, array_oid, size_bytes, letter = 23, 1007, 4, "i"
    __slots__ = ()


class Int2Array(_IntArray):
    """smallint[]"""

    element_oid, array_oid, size_bytes, letter = 21, 1005, 2, "h"
    __slots__ = ()


class BoolArray(_IntArray):
    """boolean[]"""

    element_oid, array_oid, size_bytes, letter = 16, 1000, 1, "?"
    __slots__ = ()


class BytesArray(PackedArray):
    """bytea[]"""

    element_oid, array_oid = 17, 1001
    __slots__ = ("values",)

    def __init__(self, values: Sequence[bytes | None]) -> None:
        self.values = values

    def pack(self) -> bytes:
        """Binary representation."""
        return _pack_bytes(self.values, self.element_oid)


class TextArray(PackedArray):
    """text[]; PostgreSQL refuses U+0000"""

    element_oid, array_oid = 25, 1009
    __slots__ = ("values",)

    def __init__(self, values: Sequence[str | None]) -> None:
        self.values = values

    def pack(self) -> bytes:
        """Binary representation in UTF-8; UnicodeEncodeError for lone surrogates."""
        encoded = [None if value is None else value.encode() for value in self.values]
        return _pack_bytes(encoded, self.element_oid)


class UuidArray(PackedArray):
    """uuid[]; elements are UUID objects or their 16 bytes"""

    element_oid, array_oid = 2950, 2951
    __slots__ = ("values",)

    def __init__(self, values: Sequence[bytes | UUID | None]) -> None:
        self.values = values

    def pack(self) -> bytes:
        """Binary representation; ValueError for bytes of another length than 16."""
        raw = [value.bytes if isinstance(value, UUID) else value for value in self.values]
        if any(value is not None and len(value) != 16 for value in raw):
            raise ValueError("a UUID has 16 bytes")
        return _pack_bytes(raw, self.element_oid)


def _pack_bytes(values: Sequence[bytes | None], oid: int) -> bytes:
    if not values:
        return _EMPTY.pack(0, 0, oid)
    parts = [_HEADER.pack(1, int(None in values), oid, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            parts.append(_SIZE.pack(len(value)))
            parts.append(value)
    return b"".join(parts)


class _PackedDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: PackedArray) -> bytes:
        return obj.pack()


def _register(kind: type[PackedArray]) -> None:
    dumper = type(f"{kind.__name__}Dumper", (_PackedDumper,), {"oid": kind.array_oid})
    psycopg.adapters.register_dumper(kind, dumper)


for _kind in (Int8Array, Int4Array, Int2Array, BoolArray, BytesArray, TextArray, UuidArray):
    _register(_kind)
