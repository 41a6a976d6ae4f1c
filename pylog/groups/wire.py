"""Kafka's primitive types: how numbers, texts and lists stand in a record's key or value.

    int16, int32, int64     big endian, two's complement
    string                  int16 length, UTF-8; -1 for null
    bytes, array            int32 length or count; -1 for null
    compact ...             unsigned varint of length or count + 1; 0 for null
    tagged fields           unsigned varint count, then each: varint tag, varint size, bytes

Knows types.  Must not know which of them make up a record.  What is read may come from an enemy:
every length is checked against what remains before it is used.
Source: Kafka's protocol guide, KIP-482 (flexible versions).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from pylog.errors import CorruptionError

_INT8: Final = struct.Struct(">b")
_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")
_INT64: Final = struct.Struct(">q")
UUID_BYTES: Final = 16
_MAX_VARINT_BYTES: Final = 5  # of 32 bits
_MAX_VARINT: Final = 2**32
MAX_STRING_BYTES: Final = 2**15 - 1

_Item = TypeVar("_Item")


class Input:
    """The bytes of a key or value, read from the front.

    Every method raises CorruptionError for bytes that are not what it reads.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise CorruptionError(f"{size} bytes at {self._position}, {self.left} are left")
        start = self._position
        self._position += size
        return self._data[start : self._position]

    @property
    def left(self) -> int:
        """How many bytes were not read."""
        return len(self._data) - self._position

    def end(self) -> None:
        """Raise when bytes are left over."""
        if self.left:
            raise CorruptionError(f"{self.left} bytes are left over at {self._position}")

    def _number(self, kind: struct.Struct) -> int:
        (number,) = kind.unpack(self._take(kind.size))
        return int(number)

    def int8(self) -> int:
        """Read one byte."""
        return self._number(_INT8)

    def int16(self) -> int:
        """Read two bytes."""
        return self._number(_INT16)

    def int32(self) -> int:
        """Read four bytes."""
        return self._number(_INT32)

    def int64(self) -> int:
        """Read eight bytes."""
        return self._number(_INT64)

    def uuid(self) -> bytes:
        """Read a topic's id."""
        return self._take(UUID_BYTES)

    def varint(self) -> int:
        """Read an unsigned varint of at most 32 bits."""
        number = 0
        for place in range(_MAX_VARINT_BYTES):
            (byte,) = self._take(1)
            number |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if number >= _MAX_VARINT:
                    break
                return number
        raise CorruptionError(f"a varint of more than 32 bits before {self._position}")

    def _text(self, size: int) -> str:
        start = self._position
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as error:
            raise CorruptionError(f"a text at {start} is not UTF-8") from error

    def _length(self, *, is_compact: bool, kind: struct.Struct) -> int | None:
        """Read a length or count, None for null."""
        length = self.varint() - 1 if is_compact else self._number(kind)
        if length < -1:
            raise CorruptionError(f"a length of {length} before {self._position}")
        return None if length < 0 else length

    def nullable_string(self, *, is_compact: bool) -> str | None:
        """Read a text or null."""
        size = self._length(is_compact=is_compact, kind=_INT16)
        return None if size is None else self._text(size)

    def string(self, *, is_compact: bool) -> str:
        """Read a text, which is not null."""
        text = self.nullable_string(is_compact=is_compact)
        if text is None:
            raise CorruptionError(f"no text before {self._position}")
        return text

    def byte_string(self, *, is_compact: bool) -> bytes:
        """Read bytes, which are not null."""
        size = self._length(is_compact=is_compact, kind=_INT32)
        if size is None:
            raise CorruptionError(f"no bytes before {self._position}")
        return self._take(size)

    def array(self, read: Callable[[Input], _Item], *, is_compact: bool) -> list[_Item]:
        """Read a list of items, which is not null and whose items take a byte or more each."""
        count = self._length(is_compact=is_compact, kind=_INT32)
        if count is None or count > self.left:
            raise CorruptionError(f"a list of {count} items, {self.left} bytes are left")
        return [read(self) for _ in range(count)]

    def tagged(self) -> dict[int, bytes]:
        """Read the tagged fields that end a struct, by tag; tags rise."""
        count = self.varint()
        fields: dict[int, bytes] = {}
        last = -1
        for _ in range(count):
            tag = self.varint()
            if tag <= last:
                raise CorruptionError(f"tag {tag} after {last} before {self._position}")
            fields[tag], last = self._take(self.varint()), tag
        return fields


def encode_varint(number: int) -> bytes:
    """Return an unsigned varint; number: in [0, 2**32)."""
    assert 0 <= number < _MAX_VARINT
    data = bytearray()
    while number >= 0x80:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def encode_string(text: str | None) -> bytes:
    """Return a string that is not compact.  Raises ValueError for one that is too long."""
    if text is None:
        return _INT16.pack(-1)
    data = text.encode()
    if len(data) > MAX_STRING_BYTES:
        raise ValueError(f"a text of {len(data)} bytes, the limit is {MAX_STRING_BYTES}")
    return _INT16.pack(len(data)) + data


def encode_compact_string(text: str | None) -> bytes:
    """Return a compact string, of any length that memory has."""
    if text is None:
        return b"\x00"
    data = text.encode()
    return encode_varint(len(data) + 1) + data


def encode_compact_array(items: Iterable[bytes]) -> bytes:
    """Return a compact list of encoded items."""
    encoded = list(items)
    return encode_varint(len(encoded) + 1) + b"".join(encoded)


def encode_tagged(fields: dict[int, bytes]) -> bytes:
    """Return the tagged fields that end a struct."""
    data = encode_varint(len(fields))
    for tag, field in sorted(fields.items()):
        data += encode_varint(tag) + encode_varint(len(field)) + field
    return data
