"""How far a table has come in a partition, and whether the partition still holds what it read.

Knows offsets, and what tells one record from another that got its offset after the log was cut.
Must not know what the table holds, nor where.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final, NamedTuple

from pylog._native import Record, crc32c
from pylog.errors import CorruptionError, RecordsMissedError, TopicTruncatedError
from pylog.storage.partition import Partition

_VERSION: Final = 1
_NULL_CHECKSUM: Final = -1  # of a null key or value; that of empty bytes is 0


class Mark(NamedTuple):
    """What is remembered of a record.

    Two records that get the same offset, one after the other was lost, differ in one of these.
    """

    offset: int
    leader_epoch: int
    timestamp: int
    key_checksum: int
    value_checksum: int


def mark_of(record: Record) -> Mark:
    """Return what to remember of a record."""
    return Mark(
        record.offset,
        record.leader_epoch,
        record.timestamp,
        _checksum(record.key),
        _checksum(record.value),
    )


def _checksum(field: bytes | None) -> int:
    return _NULL_CHECKSUM if field is None else crc32c(field)


class Point(NamedTuple):
    """Every record below `offset` was read.  last: the last of them, None before there was one."""

    offset: int
    last: Mark | None


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where a table stands in one partition.

    reached: everything up to here is in the table.  reaching: nothing from here on is.  They differ
    while records between them are put into a store, and after a crash in the middle of that.
    dropped_end: the partition's `dropped_tombstones_end` when it was read.
    """

    reached: Point
    reaching: Point
    dropped_end: int

    def encode(self) -> bytes:
        """Return the position as it is kept in a store."""
        fields = {
            "version": _VERSION,
            "reached": self.reached,
            "reaching": self.reaching,
            "dropped_end": self.dropped_end,
        }
        return json.dumps(fields).encode()

    def check(self, partition: Partition) -> None:
        """Raise unless the partition still holds what was read of it, and goes on from there.

        Raises TopicTruncatedError, RecordsMissedError, and what a read raises.  One read, or two.
        """
        for point in {self.reached, self.reaching}:
            high_watermark = partition.high_watermark
            if point.offset > high_watermark or not _holds(partition, point.last):
                raise TopicTruncatedError(
                    partition.topic, partition.number, point.offset, high_watermark
                )
        check_start(partition, self.reached.offset)


def check_start(partition: Partition, offset: int) -> None:
    """Raise RecordsMissedError if records at `offset` or behind it were deleted."""
    start = partition.log_start_offset
    if offset < start:
        raise RecordsMissedError(partition.topic, partition.number, offset, start)


def _holds(partition: Partition, mark: Mark | None) -> bool:
    """Whether no other record stands where one was; that it was deleted or compacted is fine."""
    if mark is None or mark.offset < partition.log_start_offset:
        return True
    for record in partition.read(mark.offset, 1, mark.offset + 1):
        return mark_of(record) == mark
    return True


def parse_position(value: bytes) -> Position:
    """Return what `encode` made.  Raises CorruptionError."""
    try:
        fields = json.loads(value)
        if fields["version"] != _VERSION:
            raise ValueError(f"version {fields['version']!r}")
        return Position(
            _parse_point(fields["reached"]),
            _parse_point(fields["reaching"]),
            _whole(fields["dropped_end"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptionError(f"a table's position in its store: {error}") from error


def _parse_point(fields: Any) -> Point:
    offset, last = fields
    mark = None if last is None else Mark(*(_whole(number) for number in last))
    return Point(_whole(offset), mark)


def _whole(number: Any) -> int:
    if type(number) is not int:
        raise ValueError(f"{number!r} is no whole number")
    return number
