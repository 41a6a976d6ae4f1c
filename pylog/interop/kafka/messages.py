"""Records here and messages there: whether they are the same.

Knows their fields.  Must not know where either lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pylog.records import Record

if TYPE_CHECKING:
    from confluent_kafka import Message

Headers = list[tuple[str, bytes | None]]


def headers_of(message: Message[bytes, bytes]) -> Headers:
    """Return a message's headers, in order; empty for none."""
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]


def is_same(record: Record, message: Message[bytes, bytes]) -> bool:
    """Return whether a message is the copy of a record, apart from offset and partition."""
    return (
        record.key == message.key()
        and record.value == message.value()
        and record.timestamp == message.timestamp()[1]
        and list(record.headers) == headers_of(message)
    )
