"""Messages of a cluster become batches of a log, at the offsets that they have.

Knows how records are put into batches that keep gaps, as compaction leaves them.  Must not know
how messages are fetched.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pylog._native import Record, make_batch
from pylog.codecs import UNCOMPRESSED
from pylog.config import TopicConfig
from pylog.errors import (
    DivergedTopicError,
    OffsetMismatchError,
    OffsetsDifferError,
    RecordTooLargeError,
    UnmirrorableRecordError,
)
from pylog.interop.kafka.lanes import MirrorProgress
from pylog.interop.kafka.messages import Headers, difference, headers_of
from pylog.records import TopicPartition
from pylog.storage.encoding import compress
from pylog.storage.partition import Partition

if TYPE_CHECKING:
    from confluent_kafka import Message

_BATCH_BYTES: Final = 64 << 10  # what is copied once more for its CRC stays in the caches
_RECORD_BYTES: Final = 32  # besides key, value and headers, at most but for large offsets
_LARGEST_DELTA: Final = 2**31 - 1  # of offsets in a batch

_Row = tuple[int, int, bytes | None, bytes | None, Headers]


@dataclasses.dataclass(slots=True, eq=False)
class Intake:
    """One partition that takes what a cluster has.

    source: in the cluster.  position: the next offset to read there, which is where the partition
    ends here as long as nobody else appends.  end: where to stop, None for never.
    """

    partition: Partition
    source: TopicPartition
    position: int = 0
    end: int | None = None
    records: int = 0
    size_bytes: int = 0
    is_done: bool = False

    def __post_init__(self) -> None:
        self.position = self.partition.log_end_offset

    def start_anew(self, offset: int) -> None:
        """Begin at an offset, with nothing."""
        self.partition.start_anew(offset)
        self.position = offset

    def progress(self, end: int) -> MirrorProgress:
        """Return what its user is told.  end: of the partition in the cluster."""
        position = self.position
        place = self.partition
        counts = self.records, self.size_bytes
        return MirrorProgress(
            place.topic, place.number, position, max(end, position), position, *counts, "identity"
        )

    def take(self, messages: Sequence[Message[bytes, bytes]]) -> None:
        """Append messages, which follow what is there, durably as the topic says.

        Raises UnmirrorableRecordError, RecordTooLargeError; OffsetsDifferError when somebody else
        appended; what `Partition.append` raises.
        """
        config = self.partition.config
        marks = self.partition.marks()
        epoch = 0 if marks is None else max(marks.leader_epoch, 0)
        data = b"".join(
            compress(bytearray(batch), config, UNCOMPRESSED)
            for batch in _batches(messages, config, epoch)
        )
        self._append(data)
        self.records += len(messages)
        self.size_bytes += len(data)

    def skip_to(self, offset: int) -> None:
        """Let the partition end at an offset: below it there is nothing more to come."""
        self._append(b"", offset)

    def _append(self, data: bytes, end_offset: int | None = None) -> None:
        try:
            _, self.position = self.partition.append_replica(
                data, expected_offset=self.position, end_offset=end_offset
            )
        except OffsetMismatchError as error:
            place = self.partition
            raise OffsetsDifferError(
                place.topic, place.number, error.expected, error.actual
            ) from error

    def check_last(self, message: Message[bytes, bytes] | None) -> None:
        """Raise DivergedTopicError where the last record here is not the one that is there.

        message: of the last record's offset, None when the cluster has it no more.
        """
        record = self.last_record()
        if record is not None and message is not None and message.offset() == record.offset:
            place, reason = self.partition, difference(record, message)
            if reason is not None:
                raise DivergedTopicError(place.topic, place.number, record.offset, reason)

    def last_record(self) -> Record | None:
        """Return the record before the end, None where there is none."""
        offset = self.position - 1
        if offset < self.partition.log_start_offset:
            return None
        return next(iter(self.partition.read(offset, 1)), None)


def _batches(
    messages: Sequence[Message[bytes, bytes]], config: TopicConfig, epoch: int
) -> Iterator[bytes]:
    """Yield batches of records with the offsets and timestamps of messages.

    Source: FORMAT section 2, "after compaction".
    """
    limit = min(_BATCH_BYTES, config.max_message_bytes)
    rows: list[_Row] = []
    size = base = 0
    for message in messages:
        row = _row(message)
        row_size = _RECORD_BYTES + sum(
            len(part or b"") for part in (row[2], row[3], *(one for _, one in row[4]))
        )
        row_size += sum(len(name) * 4 for name, _ in row[4])
        if rows and (size + row_size > limit or row[0] - base > _LARGEST_DELTA):
            yield _batch(rows, config, epoch)
            rows, size = [], 0
        base = rows[0][0] if rows else row[0]
        rows.append(row)
        size += row_size
    if rows:
        yield _batch(rows, config, epoch)


def _batch(rows: list[_Row], config: TopicConfig, epoch: int) -> bytes:
    offset, timestamp = rows[0][:2]
    batch = make_batch(
        [(row[0] - offset, row[1] - timestamp, *row[2:]) for row in rows],
        base_offset=offset,
        leader_epoch=epoch,
        base_timestamp=timestamp,
        max_timestamp=max(row[1] for row in rows),
    )
    if len(batch) > config.max_message_bytes:
        raise RecordTooLargeError(len(batch), config.max_message_bytes)
    return batch


def _row(message: Message[bytes, bytes]) -> _Row:
    offset, timestamp = message.offset(), message.timestamp()[1]
    assert offset is not None
    if timestamp < 0:
        topic, partition = message.topic() or "", message.partition() or 0
        raise UnmirrorableRecordError(topic, partition, offset, "it has no timestamp")
    return offset, timestamp, message.key(), message.value(), headers_of(message)
