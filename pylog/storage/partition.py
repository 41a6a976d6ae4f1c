"""One partition on one disk: append, read, flush; OPEN, FULL or FAILED.

Knows how its parts work together: writable end, group commit, segments.  Must not know topics'
meaning, groups or clients.

Locks: those of handle.py, for appends that find no room.  Reads take none; see readable.py.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

from pylog import _native
from pylog._native import Reader, RecordMetadata, stamp_append_time
from pylog.arguments import whole_number
from pylog.codecs import UNCOMPRESSED, Compression
from pylog.config import LOG_APPEND_TIME, TopicConfig
from pylog.errors import (
    ClosedError,
    NotAppendedError,
    OffsetMismatchError,
)
from pylog.records import AppendedRecords
from pylog.storage import encoding, policy
from pylog.storage.decided import DecidedPartition
from pylog.storage.encoding import BatchRules, Chunk, Chunks, Headers
from pylog.storage.environment import Environment
from pylog.storage.files import Directory
from pylog.storage.produced import Piece, Produced, pieces_of
from pylog.storage.producer_state import ProducedBatch
from pylog.storage.role import Role

# More rounds than this mean that something never makes room: a bug, not bad luck.
_MAX_ROUNDS: Final = 10_000


class Placed(NamedTuple):
    """Where a batch is.  append_time: the timestamp of all its records; None: they keep theirs."""

    first_offset: int
    append_time: int | None


class Partition(DecidedPartition):
    """An ordered, durable sequence of records, shared by any number of threads and processes.

    topic: the topic's name.  number: which of its partitions.  config: the topic's settings.
    Any call may be the one that opens the files; what that can raise is said once, here:
    UnknownTopicOrPartitionError when the topic was deleted, CorruptFileError when the directory is
    another topic's, IncompatibleFormatError for a later format or another build's living page,
    OSError.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        topic: str,
        number: int,
        topic_id: uuid.UUID,
        config: TopicConfig,
        environment: Environment,
    ) -> None:
        super().__init__(
            directory,
            topic=topic,
            number=number,
            topic_id=topic_id,
            config=config,
            environment=environment,
        )
        self._reader = Reader(topic, number, environment.decompress, self._counters)
        self._searcher = Reader(topic, number, environment.decompress)  # what it reads is not asked
        self._rules: BatchRules | None = None  # of the settings that were seen last
        if self._observer is not None:
            self._read_below = self._observer.watched(self._read_below)  # type: ignore
        # The C call waits for what is left to do, so it is the method itself: no Python frame.
        self.append = self.appender.append  # type: ignore[method-assign]

    def metrics(self) -> dict[str, int | float | str | None] | None:
        """Return numbers of now, None while this process has no files open; see `Log.metrics`.

        Opens nothing and takes no lock; never raises.
        """
        numbers = super().metrics()
        attachment = self._attachment
        if numbers is None or attachment is None:
            return None
        dirty = None
        # Closed meanwhile.
        with contextlib.suppress(ClosedError):
            dirty = self.dirty_range() if self.is_compacted else None
        manifest = attachment.known_segments().manifest
        time = -1 if manifest is None else manifest.cleaned.time
        error = self.compaction_error
        return numbers | {
            "dirty_ratio": None if dirty is None else dirty.ratio,
            "compacted_at": None if time < 0 else time,
            "compaction_error": None if error is None else f"{type(error).__name__}: {error}",
        }

    # ------------------------------------------------------------------ append

    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        expected_offset: int | None = None,
    ) -> RecordMetadata:
        """Append one record; return where it is, once the topic's durability is reached.

        value, key: bytes-like, None for null (a null value is a tombstone; a null key is refused
        where the topic is compacted).  headers: (name, value) pairs.  timestamp: milliseconds since
        the epoch, by default now; ignored where the topic's message_timestamp_type is
        "LogAppendTime".  expected_offset: append only if the record gets just this offset, decided
        atomically: what was read before still holds then.
        Raises TypeError, BufferError for memory that is not contiguous, OverflowError,
        ValueError for an expected_offset below 0,
        InvalidRecordError, InvalidTimestampError for one too far from now, RecordTooLargeError,
        MissingExtraError for a topic whose codec is not installed (nothing was appended);
        OffsetMismatchError, PartitionFullError, PartitionFailedError, NotAppendedError (certainly
        not appended); DurabilityUnknownError (may or may not be there); ClosedError; and what
        opening raises.
        One C call and no system call in the usual case; where the topic asks for a codec, a batch
        of one record is compressed.  With durability "fsync" the first one after a sync is also a
        pwrite, and each blocks for a sync that all waiting threads share.
        Source: Kafka UnifiedLog.appendAsLeader.
        """
        return self.appender.append(value, key, headers, timestamp, expected_offset)

    def append_many(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Sequence[tuple[str, bytes | None]] | None] | None = None,
        timestamps: Sequence[int] | int | None = None,
    ) -> AppendedRecords:
        """Append records in order, as few batches as possible, with one sync at the end.

        keys, headers, timestamps: as long as `values`, or None; one timestamp may serve all.
        Returns a sequence of RecordMetadata, made when asked for; empty for no values.
        All or nothing up to `segment_bytes` of batches; beyond that in chunks of this size, and
        the `appended` of a NotAppendedError holds the records of the chunks before the failure.
        Raises what `append` raises, and ValueError for lengths that differ; argument errors come
        before anything is appended.
        About 50 ns a record, then a pwrite for each chunk of 64 KiB or more; where the topic asks
        for a codec, the codec's time for each batch as well, without the GIL.
        """
        return self.append_chunks(self.encode_chunks(values, keys, headers, timestamps))

    def encode_chunks(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None,
        headers: Sequence[Headers] | None,
        timestamps: Sequence[int] | int | None,
        compression: Compression = UNCOMPRESSED,
    ) -> Chunks:
        """Encode records into the chunks that are each placed whole; nothing is appended.

        compression: of who writes them; counts where the topic's compression_type is "producer".
        Raises what `append_many` raises for arguments.
        """
        return encoding.encode_chunks(
            values,
            keys,
            headers,
            timestamps,
            now=self._environment.clock(),
            rules=self._batch_rules(),
            compression=compression,
        )

    def _batch_rules(self) -> BatchRules:
        config, rules = self.config, self._rules
        if rules is None or rules.config is not config:
            rules = self._rules = BatchRules.of(config)
        return rules

    def append_chunks(self, chunks: Chunks) -> AppendedRecords:
        """Append what `encode_chunks` made; see `append_many`."""
        spans: list[range] = []
        role = self.begin_append()
        for chunk in chunks.chunks:
            try:
                spans.append(range(*self._write(chunk, -1)))
            except NotAppendedError as error:
                error.appended = self._acknowledged(spans, chunks.timestamps, role)
                raise
        return self._acknowledged(spans, chunks.timestamps, role)

    def append_batches(self, data: bytes | bytearray | memoryview) -> list[range]:
        """Append whole batches that are encoded already; return the offsets of each.

        data: bytes-like, one or more batches v2 of any client, as `read` and Kafka's wire have
        them; copied.  They keep codec, timestamps and producer, and get offsets and leader epoch;
        where the topic asks for a codec or for log append time, that is set.  All or nothing.
        A batch of a producer with an id is appended once: a repetition of one of its last five gets
        the offsets that it has.
        Raises InvalidRecordError for what Kafka would not take (a CRC, a count, records that do not
        decode, a control batch; bytes that are left over), InvalidTimestampError,
        RecordTooLargeError for a batch beyond `max_message_bytes` or more than fits a segment;
        OutOfOrderSequenceError, InvalidProducerEpochError; MissingExtraError, TypeError; and what
        `append` raises.  Decompresses every batch, and blocks as `append` does.
        Source: Kafka LogValidator, ProducerStateManager.
        """
        now = self._environment.clock()
        pieces = pieces_of(memoryview(data).cast("B"), self.config, now=now)
        role = self.begin_append()
        spans = self._produced_log().append(pieces)
        self.wait_durable(min(s.start for s in spans), max(s.stop for s in spans), role)
        return spans

    def place_batch(
        self,
        data: bytearray,
        count: int,
        timestamp: int,
        compression: Compression,
        produced: ProducedBatch | None,
    ) -> Placed:
        """Append one batch of records, visible as the topic says.

        data: one whole batch, not compressed, which may be stamped in place.  count: its records.
        timestamp: the greatest of them.  compression: as in `encode_chunks`.  produced: its
        producer's numbers, as they stand in it.
        Does not wait for durability: `wait_durable` does.
        Raises what `append_batches` raises, except for what is wrong with a record.
        """
        data = encoding.compress(data, self.config, compression)
        append_time = None
        if self.config.message_timestamp_type == LOG_APPEND_TIME:
            timestamp = append_time = self._environment.clock()
            stamp_append_time(data, append_time)
        if produced is None:
            first, _ = self._write(Chunk(data, count, timestamp), -1)
        else:
            piece = Piece(data, count, timestamp, produced)
            first = self._produced_log().append([piece])[0].start
        return Placed(first, append_time)

    def _produced_log(self) -> Produced:
        with self._lock:
            if self._produced is None:
                self._produced = Produced(
                    self._directory,
                    self._reader,
                    attach=self._ready_attachment,
                    write=self._write,
                    held=lambda: self._lock,
                    clock=self._environment.clock,
                    observer=self._observer,
                )
            return self._produced

    def place(self, chunk: Chunk, expected_offset: int | None = None) -> tuple[int, int]:
        """Append whole batches, all or nothing; return (first, end offset).

        expected_offset: as in `append`, of the first record.
        Does not wait for durability: `wait_durable` does.
        Raises what `append` raises, except for what is wrong with a record.
        """
        return self._write(chunk, -1 if expected_offset is None else expected_offset)

    def _acknowledged(
        self, spans: list[range], timestamps: Sequence[int] | int, role: Role | None
    ) -> AppendedRecords:
        """Return what was placed, once the topic's durability is reached."""
        if spans and (self.waits_after_placing or self._observer is not None):
            self.wait_durable(spans[0].start, spans[-1].stop, role)
        return AppendedRecords(self.topic, self.number, spans, timestamps)

    def _append_slowly(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        expected_offset: int | None = None,
    ) -> RecordMetadata:
        """Append when the C call found no room, another segment, or nothing attached."""
        if expected_offset is not None:
            expected_offset = whole_number("expected_offset", expected_offset)
            if expected_offset < 0:
                raise ValueError(f"expected_offset={expected_offset}: expected at least 0")
        if timestamp is not None and self.config.message_timestamp_type != LOG_APPEND_TIME:
            timestamp = whole_number("timestamp", timestamp)
        (chunk,) = self.encode_chunks((value,), (key,), (headers,), timestamp).chunks
        expected = -1 if expected_offset is None else expected_offset
        role = self.begin_append()
        first, end_offset = self._write(chunk, expected)
        self.wait_durable(first, end_offset, role)
        return RecordMetadata(self.topic, self.number, first, chunk.latest)

    def _write(self, chunk: Chunk, expected_offset: int) -> tuple[int, int]:
        """Place whole batches, making room as needed; returns (first, end offset)."""
        data, count, timestamp = chunk
        is_large = len(data) >= policy.LARGE_WRITE
        observer = self._observer
        since = 0.0 if observer is None else observer.now()
        for _ in range(_MAX_ROUNDS):
            attachment = self._attachment
            if attachment is None or is_large:
                result: tuple[int, int] | int = _native.NO_ROOM
            else:
                result = attachment.tail.native.place(data, expected_offset)
            if result == _native.NO_ROOM or result == _native.NOT_OPEN:
                with self._lock:
                    attachment = self._attach_for_writing()
                    self._follow_settings(attachment)
                    result = attachment.write(
                        data, count, timestamp, expected_offset, is_large=is_large
                    )
            if isinstance(result, tuple):
                if observer is not None:
                    observer.placed(*result, len(data), since)
                return result
            if result == _native.STALE:
                raise OffsetMismatchError(expected_offset, self.log_end_offset)
        raise AssertionError(f"{self!r}: no room after {_MAX_ROUNDS} rounds")
