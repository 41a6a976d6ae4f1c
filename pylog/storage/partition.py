"""One partition on one disk: append, read, flush; OPEN, FULL or FAILED.

Knows how its parts work together: writable end, group commit, segments.  Must not know topics'
meaning, groups or clients.

Locks: those of handle.py, for appends that find no room.  Reads take none: one copy of the marks,
one immutable snapshot of the segments.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pylog import _native
from pylog._native import Marks, Reader, Record, RecordMetadata, Records, stamp_append_time
from pylog.codecs import UNCOMPRESSED, Compression
from pylog.config import LOG_APPEND_TIME, TopicConfig
from pylog.errors import (
    ClosedError,
    NotAppendedError,
    OffsetMismatchError,
    OffsetOutOfRangeError,
)
from pylog.records import AppendedRecords, Columns, columns_of
from pylog.storage import encoding, policy
from pylog.storage.attachment import Attachment
from pylog.storage.decided import DecidedPartition
from pylog.storage.encoding import BatchRules, Chunk, Chunks, Headers
from pylog.storage.environment import Environment
from pylog.storage.files import Directory
from pylog.storage.produced import Piece, Produced, pieces_of
from pylog.storage.producer_state import ProducedBatch
from pylog.storage.role import Role
from pylog.storage.segment import ReplacedError, Segment
from pylog.storage.segments import SegmentSet, view_of
from pylog.storage.timed import whole_number

DEFAULT_READ_BYTES: Final = 1 << 20
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
        # Where the next sequential read goes on without a lookup: offset, segment, position.
        self._place: tuple[int, Segment, int] | None = None
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
        Raises TypeError, OverflowError, ValueError for an expected_offset below 0,
        InvalidRecordError, InvalidTimestampError for one too far from now, RecordTooLargeError,
        MissingExtraError for a topic whose codec is not installed (nothing was appended);
        OffsetMismatchError, PartitionFullError, PartitionFailedError, NotAppendedError (certainly
        not appended); DurabilityUnknownError (may or may not be there); ClosedError; and what
        opening raises.
        One C call and no system call in the usual case; where the topic asks for a codec, a batch
        of one record is compressed.  With durability "fsync" it then blocks for a sync that all
        waiting threads share.  Source: Kafka UnifiedLog.appendAsLeader.
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
        if spans and (self.waits_for_sync or self._observer is not None):
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

    # ------------------------------------------------------------------ read

    def read(
        self, offset: int, max_bytes: int = DEFAULT_READ_BYTES, end: int | None = None
    ) -> Records:
        """Return the records from `offset` on, below the high watermark, and below `end`.

        offset: in [log_start_offset, log_end_offset]; at or above the high watermark the result is
        empty.  max_bytes: of whole batches; at least one batch is returned, however large.
        end: an offset, by default none; at or below `offset` the result is empty.
        The result is iterated for `Record`s; its `next_offset` is where to go on.  It holds on to
        the bytes that were read, and so does each of its records.
        Raises OffsetOutOfRangeError, CorruptRangeError when `offset` lies in damaged bytes (go on
        at its `last` + 1), TypeError, ValueError for max_bytes below 1, ClosedError, OSError, and
        what opening raises.  Iterating raises CorruptRangeError for a record that does not parse,
        InvalidRecordError and MissingExtraError for a batch that cannot be decompressed.
        O(log n), one pread, no lock; CRCs are checked.  Source: Kafka UnifiedLog.read.
        """
        return self._read_below(offset, max_bytes, end)

    def _read_below(self, offset: int, max_bytes: int, end: int | None) -> Records:
        """Read as `read` does, below `end` if it is given."""
        attachment = self._attachment or self._attached()
        if attachment is None:
            return self._nothing_at(offset, max_bytes, None)
        try:
            marks = attachment.page.marks()
        except ClosedError:
            return Partition._read_below(self._again(attachment), offset, max_bytes, end)
        limit = marks.high_watermark
        if end is not None and end < limit:
            limit = end
        if not marks.log_start_offset <= offset < limit or max_bytes < 1:
            return self._nothing_at(offset, max_bytes, marks)
        place, records = self._place, None
        if place is not None and place[0] == offset:
            _, segment, position = place
            view = view_of(segment, marks)
            try:
                records = segment.read_on(self._reader, position, offset, view, limit, max_bytes)
            except ReplacedError:
                # Deleted or cleaned: another segment goes on here.
                self._place = None
        if records is None:
            found = self._find(attachment, marks, offset, limit, max_bytes)
            if found is None:
                return Records(b"", next_offset=limit, topic=self.topic, partition=self.number)
            segment, records = found
        # One assignment: another thread sees the old place or the new one.
        self._place = records.next_offset, segment, records.end_position
        return records

    def read_placed(self, offset: int, max_bytes: int = DEFAULT_READ_BYTES) -> Records:
        """Read as `read` does, also what is placed and not visible yet.

        For who only appends behind what it read: after a power cut none of that is there without
        what it was decided from.
        """
        attachment = self._attachment or self._attached()
        if attachment is None:
            return self._nothing_at(offset, max_bytes, None)
        try:
            marks = attachment.page.marks()
        except ClosedError:
            return self._again(attachment).read_placed(offset, max_bytes)
        limit = marks.log_end_offset
        if not marks.log_start_offset <= offset < limit:
            return self._nothing_at(offset, max_bytes, marks)
        found = self._find(attachment, marks, offset, limit, max_bytes)
        if found is None:
            return Records(b"", next_offset=limit, topic=self.topic, partition=self.number)
        return found[1]

    def _find(
        self, attachment: Attachment, marks: Marks, offset: int, limit: int, max_bytes: int
    ) -> tuple[Segment, Records] | None:
        """Return the first records at or after `offset`, and the segment that holds them."""
        self._was_used = True
        while True:
            segments = attachment.segments(marks)
            assert segments.manifest is not None, "there are records"
            # The manifest may be newer than the marks: then segments that it leaves out are gone.
            self._check_start(offset, segments.manifest.log_start_offset)
            try:
                return self._find_in(segments, marks, offset, limit, max_bytes)
            except ReplacedError:
                # Newer marks find a newer snapshot; what they show besides can wait.
                marks = attachment.page.marks()

    def _find_in(
        self, segments: SegmentSet, marks: Marks, offset: int, limit: int, max_bytes: int
    ) -> tuple[Segment, Records] | None:
        for position in range(segments.floor(offset), len(segments.segments)):
            segment = segments.segments[position]
            view = view_of(segment, marks)
            start = max(offset, segment.base_offset)
            if start < view.end_offset:
                records = segment.read(self._reader, start, view, limit, max_bytes)
                if records is not None:
                    return segment, records
        return None

    def _check_start(self, offset: int, log_start_offset: int) -> None:
        if offset < log_start_offset:
            raise OffsetOutOfRangeError(offset, log_start_offset, self.log_end_offset)

    def _nothing_at(self, offset: int, max_bytes: int, marks: Marks | None) -> Records:
        start, end = (0, 0) if marks is None else (marks.log_start_offset, marks.log_end_offset)
        if not start <= offset <= end:
            raise OffsetOutOfRangeError(offset, start, end)
        if max_bytes < 1:
            raise ValueError(f"max_bytes={max_bytes}: expected at least 1")
        return Records(b"", next_offset=offset, topic=self.topic, partition=self.number)

    def read_columns(self, offset: int, max_bytes: int = DEFAULT_READ_BYTES) -> Columns:
        """Return the records from `offset` on as numpy arrays, one row a record.

        Arguments, errors and cost as `read`, without an object per record.
        """
        return columns_of(self.read(offset, max_bytes))

    def records(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        follow: bool = False,
        max_bytes: int = DEFAULT_READ_BYTES,
    ) -> Iterator[Record]:
        """Iterate over the records in [start, end).

        start: by default the log start offset.  end: by default the high watermark at the first
        step, or never with `follow`, which waits for records to be appended by anybody.
        Raises what `read` raises.  A wait holds no GIL and ends on Ctrl-C.
        """
        # A chain asks for the next read only when one is used up; per record it costs no frame.
        return itertools.chain.from_iterable(self._reads(start, end, max_bytes, follow=follow))

    def _reads(
        self, start: int | None, end: int | None, max_bytes: int, *, follow: bool
    ) -> Iterator[Records]:
        """Yield what is read, one read after the other; see `records`."""
        offset = self.log_start_offset if start is None else start
        if end is None and not follow:
            end = self.high_watermark
            if offset >= end:
                self.read(offset)  # raises when the offset is out of range
        while end is None or offset < end:
            try:
                records = self._read_below(offset, max_bytes, end)
            except OffsetOutOfRangeError:
                if start is not None:
                    raise
                # Retention was faster than this first read, which is to begin where the log does.
                offset = self.log_start_offset
                continue
            start = offset
            yield records
            if records.next_offset == offset:
                if not follow:
                    return
                self.wait(offset)
            offset = records.next_offset
