"""Value types that users hold: records, where they went, and records as columns.

Knows no files and no clocks.  `Record`, `RecordMetadata` and `Records` are types of the C core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from pylog._native import Record, RecordMetadata, Records
from pylog.arguments import whole_number

__all__ = [
    "AppendedRecords",
    "Columns",
    "CompactionProgress",
    "CompactionReport",
    "Freed",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "Record",
    "RecordMetadata",
    "Records",
    "TopicPartition",
]

Int64s = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


@dataclasses.dataclass(frozen=True, slots=True)
class OffsetAndTimestamp:
    """A record that was found by its time.  timestamp: milliseconds since the epoch.

    leader_epoch: of its batch, None when no leader stamped it.
    """

    offset: int
    timestamp: int
    leader_epoch: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Freed:
    """What retention deleted from one partition.  size: bytes of the segments' batches.

    log_start_offset: where the log starts now, also when nothing was deleted.
    """

    log_start_offset: int
    segments: int = 0
    size: int = 0


class TopicPartition(NamedTuple):
    """A partition of a topic, by name and number."""

    topic: str
    partition: int


def partition_named(pair: tuple[str, int]) -> TopicPartition:
    """Return the partition that a user names by a (topic, number) pair.

    Raises TypeError for what is no such pair, ValueError for a number outside [0, 2**31).
    """
    try:
        topic, number = pair
    except (TypeError, ValueError):
        raise TypeError(f"expected a (topic, partition) pair, not {pair!r}") from None
    if not isinstance(topic, str):
        raise TypeError(f"a topic must be a str, not {type(topic).__name__}")
    number = whole_number("a partition", number)
    if not 0 <= number < 2**31:
        raise ValueError(f"partition {number} of topic {topic!r}: expected one in [0, 2**31)")
    return TopicPartition(topic, number)


class OffsetAndMetadata(NamedTuple):
    """A committed offset: of the next record to read, with a text that says what the user likes.

    leader_epoch: of the last record that was read, None when it is not known.
    """

    offset: int
    metadata: str = ""
    leader_epoch: int | None = None


class CompactionProgress(NamedTuple):
    """How far a compaction of one partition is.

    round: from 1; there are more when there are more keys than fit into memory.  phase: "map" while
    keys are collected, then "filter" while what stays is written.  done_bytes, total_bytes: read in
    this phase, and to be read in it, as far as is known.
    """

    topic: str
    partition: int
    round: int
    phase: str
    done_bytes: int
    total_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CompactionReport:
    """What a compaction of one partition did.

    start, end: offsets [start, end) that it had not seen before; empty when there was nothing to
    do.  records_read, records_kept: of the log below `end`, before and after; tombstones count.
    bytes_before, bytes_after, segments_before, segments_after: of the same part.
    """

    topic: str
    partition: int
    start: int
    end: int
    rounds: int = 0
    records_read: int = 0
    records_kept: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    segments_before: int = 0
    segments_after: int = 0


class AppendEvent(NamedTuple):
    """What `on_append` is told: records that were placed together and acknowledged.

    Their offsets are [first_offset, first_offset + records).  size_bytes: of their batches, as they
    lie on disk.  seconds: from when they were encoded until they were acknowledged.
    """

    topic: str
    partition: int
    first_offset: int
    records: int
    size_bytes: int
    seconds: float


class ReadEvent(NamedTuple):
    """What `on_read` is told: one read, by offset or in the course of an iteration.

    first_offset: asked for.  records: offsets that were read from there on, 0 at the end.
    size_bytes: of the batches, as they lie on disk.  seconds: that it took.
    """

    topic: str
    partition: int
    first_offset: int
    records: int
    size_bytes: int
    seconds: float


class TableChange(NamedTuple):
    """What `on_change` of a table is told: a record, and the value that its key had before.

    old: None when the key was not there.  new: None when the record took it away.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    old: bytes | None
    new: bytes | None


class AppendedRecords(Sequence[RecordMetadata]):
    """Where the records of one `append_many` went, in the order they were given.

    The metadata objects, and the arrays with one row a record, are made when they are asked for.
    """

    __slots__ = ("_offsets", "_partitions", "_timestamps", "topic")

    def __init__(
        self,
        topic: str,
        partitions: Int32s | int,
        offsets: Int64s | Sequence[range],
        timestamps: Int64s | Sequence[int] | int,
    ) -> None:
        """Take arrays, or what stands for them: one partition, spans of offsets, timestamps."""
        self.topic = topic
        self._partitions = partitions
        self._offsets = offsets
        self._timestamps = timestamps

    @property
    def partitions(self) -> Int32s:
        """The records' partitions."""
        if isinstance(self._partitions, int):
            self._partitions = np.full(len(self), self._partitions, np.int32)
        return self._partitions

    @property
    def offsets(self) -> Int64s:
        """The records' offsets."""
        if not isinstance(self._offsets, np.ndarray):
            arrays = [np.arange(span.start, span.stop, dtype=np.int64) for span in self._offsets]
            self._offsets = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
        return self._offsets

    @property
    def timestamps(self) -> Int64s:
        """The records' timestamps, milliseconds since the epoch."""
        given = self._timestamps
        if isinstance(given, int):
            given = np.full(len(self), given, np.int64)
        elif not isinstance(given, np.ndarray):
            given = np.asarray(given[: len(self)], np.int64)
        self._timestamps = given
        return given

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> RecordMetadata: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RecordMetadata]: ...
    def __getitem__(self, index: int | slice) -> RecordMetadata | Sequence[RecordMetadata]:
        partitions, offsets = self.partitions[index], self.offsets[index]
        timestamps = self.timestamps[index]
        if isinstance(index, slice):
            return AppendedRecords(self.topic, partitions, offsets, timestamps)
        return RecordMetadata(self.topic, int(partitions), int(offsets), int(timestamps))

    def __repr__(self) -> str:
        return f"<AppendedRecords {self.topic}: {len(self)} records>"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Records as numpy arrays, one row a record; positions are bytes in `data`.

    key_lengths, value_lengths: -1 for null.  data: the batches as they were read, and after them
    the records of compressed batches; the arrays borrow nothing from the log. next_offset: where to
    go on reading.
    """

    offsets: Int64s
    timestamps: Int64s
    key_positions: Int64s
    key_lengths: Int32s
    value_positions: Int64s
    value_lengths: Int32s
    data: npt.NDArray[np.uint8]
    next_offset: int

    def __len__(self) -> int:
        return len(self.offsets)

    def key(self, row: int) -> bytes | None:
        """Return a copy of one key, None for null.  Raises IndexError."""
        return self._bytes(self.key_positions[row], self.key_lengths[row])

    def value(self, row: int) -> bytes | None:
        """Return a copy of one value, None for null.  Raises IndexError."""
        return self._bytes(self.value_positions[row], self.value_lengths[row])

    def _bytes(self, position: np.int64, length: np.int32) -> bytes | None:
        return None if length < 0 else self.data[position : position + length].tobytes()


def columns_of(records: Records) -> Columns:
    """Return the columns of records that were read; one pass in C.

    Raises CorruptRangeError for a record that does not parse.
    """
    offsets, timestamps, key_positions, key_lengths, value_positions, value_lengths, data = (
        records.columns()
    )
    return Columns(
        offsets=_array(offsets, np.int64),
        timestamps=_array(timestamps, np.int64),
        key_positions=_array(key_positions, np.int64),
        key_lengths=_array(key_lengths, np.int32),
        value_positions=_array(value_positions, np.int64),
        value_lengths=_array(value_lengths, np.int32),
        data=_array(data, np.uint8),
        next_offset=records.next_offset,
    )


def _array(buffer: Any, kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.frombuffer(buffer, dtype=kind)
