r"""kcat's ways to print a record: `-f` with its tokens, the `-J` envelope; and its escapes.

Knows records and bytes.  Must not know where either comes from.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from pylog._native import Record
from pylog.storage.inspect_file import escaped

Format = Callable[[Record], bytes]

_NULL: Final = b"NULL"
_ESCAPES: Final = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
_TOKEN: Final = re.compile(r"%(.?)", re.DOTALL)
_TIMESTAMP_TYPES: Final = ("create", "append")


class FormatError(ValueError):
    """Raised for a format that cannot be understood."""


def unescaped(text: str) -> bytes:
    r"""Return a delimiter as bytes: \t, \n, \r, \0, \\ and \xNN mean what they do in kcat.

    Raises FormatError.
    """
    # Every second piece is what stood behind a backslash.
    pieces = _ESCAPE.split(text)
    return b"".join(
        _escape(piece, text) if number % 2 else piece.encode("utf-8", "surrogateescape")
        for number, piece in enumerate(pieces)
    )


def _escape(name: str, text: str) -> bytes:
    if len(name) == 3:
        return bytes.fromhex(name[1:])
    if name not in _ESCAPES:
        raise FormatError(f'\\{name} in "{text}" has no meaning')
    return _ESCAPES[name]


def record_format(text: str, *, is_for_terminal: bool, shows_null: bool) -> Format:
    """Return what prints a record as a format says; see `read --help`.

    is_for_terminal: keys, values and headers are escaped, so that no terminal obeys them.
    shows_null: null is NULL, else nothing.  Raises FormatError.
    """
    shown: Callable[[bytes], bytes] = _escaped if is_for_terminal else bytes
    null = _NULL if shows_null else b""

    def field(name: str) -> Callable[[Record], bytes]:
        def get(record: Record) -> bytes:
            data = getattr(record, name)
            return null if data is None else shown(data)

        return get

    tokens: dict[str, Callable[[Record], bytes]] = {
        "s": field("value"),
        "k": field("key"),
        "S": lambda record: b"%d" % _length(record.value),
        "K": lambda record: b"%d" % _length(record.key),
        "R": lambda record: _length(record.value).to_bytes(4, "big", signed=True),
        "T": lambda record: b"%d" % record.timestamp,
        "h": lambda record: _headers(record, shown),
        "t": lambda record: record.topic.encode(),
        "p": lambda record: b"%d" % record.partition,
        "o": lambda record: b"%d" % record.offset,
    }
    parts: list[bytes | Callable[[Record], bytes]] = []
    for number, piece in enumerate(_TOKEN.split(text)):
        if number % 2 == 0 or piece == "%":
            parts.append(unescaped(piece))
        elif piece in tokens:
            parts.append(tokens[piece])
        else:
            raise FormatError(f"%{piece} is no token: expected one of %{' %'.join(tokens)} %%")
    return lambda record: b"".join(
        [part if isinstance(part, bytes) else part(record) for part in parts]
    )


def envelope(record: Record) -> bytes:
    """Return a record as a line of JSON, with the names of kcat's -J.

    What is not UTF-8 stands as `key_base64`, `payload_base64` instead of `key`, `payload`.
    """
    values: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "tstype": _TIMESTAMP_TYPES[record.timestamp_type],
        "ts": record.timestamp,
    }
    if record.headers:
        headers: list[str | None] = []
        for name, value in record.headers:
            headers += name, None if value is None else value.decode("utf-8", "backslashreplace")
        values["headers"] = headers
    _put(values, "key", record.key)
    _put(values, "payload", record.value)
    return json.dumps(values).encode() + b"\n"


def values_of(records: Iterable[Record], *, is_for_terminal: bool) -> bytes:
    """Return the values, each on a line; null is an empty one."""
    if is_for_terminal:
        return b"".join(_escaped(record.value or b"") + b"\n" for record in records)
    return b"".join([(record.value or b"") + b"\n" for record in records])


def _put(values: dict[str, Any], name: str, data: bytes | None) -> None:
    try:
        values[name] = None if data is None else data.decode()
    except UnicodeDecodeError:
        assert data is not None
        values[f"{name}_base64"] = base64.b64encode(data).decode("ascii")


def _escaped(data: bytes) -> bytes:
    return escaped(data).encode()


def _length(data: bytes | None) -> int:
    return -1 if data is None else len(data)


def _headers(record: Record, shown: Callable[[bytes], bytes]) -> bytes:
    pairs = (
        shown(name.encode()) + b"=" + (_NULL if value is None else shown(value))
        for name, value in record.headers
    )
    return b",".join(pairs)
