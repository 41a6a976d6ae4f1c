"""Records here and messages there: what tells them apart.

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


def difference(record: Record, message: Message[bytes, bytes]) -> str | None:
    """Return why a message is not the copy of a record; None when it is.

    Offset and partition do not count.
    """
    if (
        record.key != message.key()
        or record.value != message.value()
        or list(record.headers) != headers_of(message)
    ):
        return "another record is there"
    if record.timestamp != message.timestamp()[1]:
        return "its timestamp differs; does the topic stamp records (LogAppendTime)?"
    return None
