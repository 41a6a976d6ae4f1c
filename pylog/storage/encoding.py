"""Records into the batches that are appended: how large, in which codec.

Knows a topic's settings for batches.  Must not know files or where a batch goes.  Pure: takes no
lock, and no clock but the time it is given.

A batch is bounded twice: what is written by `max_message_bytes`, as in Kafka, and what comes out of
it again by what our own reader accepts, so that everything written can be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pylog import codecs
from pylog._native import BATCH_HEADER_BYTES, batch_headers, compress_batches, encode
from pylog.codecs import UNCOMPRESSED, Compression
from pylog.config import LOG_APPEND_TIME, NEVER, TopicConfig
from pylog.errors import InvalidTimestampError, RecordTooLargeError
from pylog.storage import policy

_APPEND_TIME_ATTRIBUTE: Final = 1 << 3  # of a batch: its max timestamp counts for all records

Headers = Sequence[tuple[str, bytes | None]] | None
# Values, keys, headers and timestamps.
_Records = tuple[
    Sequence[bytes | None],
    Sequence[bytes | None] | None,
    Sequence[Headers] | None,
    Sequence[int] | int,
]

# What incompressible bytes grow by in the worst of the codecs, a part and a constant: gzip and
# snappy need 10 bytes for 32 KiB (measured on random bytes).
_GROWTH_PART: Final = 1024
_GROWTH_BYTES: Final = 64
_LONGEST_PLAIN: Final = BATCH_HEADER_BYTES + codecs.MAX_DECOMPRESSED_BYTES


# The last arguments of `encode`: attributes, earliest and latest timestamp, whether it needs keys.
# No NamedTuple, which takes as long to make as a batch of one record.
Stamping = tuple[int, int, int, bool]


class Chunk(NamedTuple):
    """Whole batches that are placed together, all or nothing.

    latest: the greatest timestamp of their records.
    """

    data: bytearray
    record_count: int
    latest: int


def is_one_batch(chunk: Chunk) -> bool:
    """Return whether a chunk is one batch: a power cut leaves it whole, or nothing of it."""
    return len(batch_headers(chunk.data)) == 1


class Chunks(NamedTuple):
    """Encoded records, in order, with their timestamps (one may stand for all)."""

    chunks: list[Chunk]
    timestamps: Sequence[int] | int


def compression_of(config: TopicConfig, producer: Compression = UNCOMPRESSED) -> Compression:
    """Return how a topic's batches are compressed: as the topic says, else as the producer does.

    Source: Kafka BrokerCompressionType.targetCompression; KIP-390.
    """
    name = config.compression_type
    if name == "producer":
        return producer
    if name == "uncompressed":
        return UNCOMPRESSED
    return Compression.named(name, _levels(config).get(codecs.NUMBERS[name]))


def _levels(config: TopicConfig) -> dict[int, int]:
    return {
        codecs.GZIP: config.compression_gzip_level,
        codecs.LZ4: config.compression_lz4_level,
        codecs.ZSTD: config.compression_zstd_level,
    }


def compress(data: bytearray, config: TopicConfig, producer: Compression) -> bytearray:
    """Return whole batches that are not compressed as the topic wants them, else the producer.

    The same object if they stay as they are.  Raises RecordTooLargeError for a batch that grew too
    large, MissingExtraError.
    """
    target = compression_of(config, producer)
    if target.codec == codecs.NONE:
        return data
    if len(data) > _LONGEST_PLAIN:
        raise RecordTooLargeError(len(data), _LONGEST_PLAIN, "what can be decompressed")
    data = compress_batches(data, target.codec, target.compress)
    if len(data) > config.max_message_bytes:
        raise RecordTooLargeError(len(data), config.max_message_bytes)
    return data


def compress_again(config: TopicConfig) -> Callable[[int, memoryview], bytes]:
    """Return what compresses a batch's records in the codec they had, at the topic's level for it.

    The result raises what Compression.compress raises.
    """
    levels = _levels(config)
    return lambda codec, payload: Compression(codec, levels.get(codec, 0)).compress(payload)


def fitting_bytes(max_message_bytes: int) -> int:
    """Return how large a batch may be so that no codec makes it larger than this.

    And so that all that comes out of it again is accepted.
    """
    fitting = max_message_bytes - max_message_bytes // _GROWTH_PART - _GROWTH_BYTES
    return min(max(fitting, 0), _LONGEST_PLAIN)


def recode(data: bytearray, config: TopicConfig) -> bytearray:
    """Return whole batches in the codec that the topic asks for; the same object if they may stay.

    data: each batch's CRC has been checked.  Batches keep their records, offsets and producer.
    Raises InvalidRecordError for a payload that does not decode, RecordTooLargeError for one that
    no reader would take once it is compressed, MissingExtraError.  Source: Kafka LogValidator.
    """
    if config.compression_type == "producer":
        return data
    target = compression_of(config)
    compress = target.compress if target.codec else None
    return compress_batches(data, target.codec, compress, codecs.decompress)


def chunk_bytes(config: TopicConfig) -> int:
    """Return how many bytes are placed at once: they fit into one segment with its indexes."""
    limit = policy.max_index_entries(config.segment_index_bytes) * config.index_interval_bytes
    return max(min(config.segment_bytes, limit), config.max_message_bytes)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchRules:
    """What a topic's settings mean for its batches, worked out once.

    target: how batches are compressed where their writer asks for nothing.
    """

    config: TopicConfig
    target: Compression
    max_message_bytes: int
    chunk_bytes: int
    attributes: int  # of the batches
    is_append_time: bool
    before_ms: int
    after_ms: int
    needs_key: bool

    @classmethod
    def of(cls, config: TopicConfig) -> BatchRules:
        """Return the rules of these settings."""
        is_append_time = config.message_timestamp_type == LOG_APPEND_TIME
        return cls(
            config,
            target=compression_of(config),
            max_message_bytes=config.max_message_bytes,
            chunk_bytes=chunk_bytes(config),
            attributes=_APPEND_TIME_ATTRIBUTE if is_append_time else 0,
            is_append_time=is_append_time,
            before_ms=config.message_timestamp_before_max_ms,
            after_ms=config.message_timestamp_after_max_ms,
            needs_key=policy.is_compacted(config),
        )

    def stamping(self, now: int) -> Stamping:
        """Return what `encode` is told at this time."""
        earliest = now - self.before_ms if self.before_ms < now else 0
        latest = now + self.after_ms if self.after_ms < NEVER - now else NEVER
        return self.attributes, earliest, latest, self.needs_key


def check_timestamp(timestamp: int, *, now: int, config: TopicConfig) -> None:
    """Raise InvalidTimestampError for a caller's timestamp that the topic does not take."""
    if config.message_timestamp_type != LOG_APPEND_TIME:
        _, earliest, latest, _ = BatchRules.of(config).stamping(now)
        if not earliest <= timestamp <= latest:
            raise InvalidTimestampError(timestamp, earliest, latest)


def encode_chunks(
    values: Sequence[bytes | None],
    keys: Sequence[bytes | None] | None,
    headers: Sequence[Headers] | None,
    timestamps: Sequence[int] | int | None,
    *,
    now: int,
    rules: BatchRules,
    compression: Compression,
) -> Chunks:
    """Encode records into the chunks that are each placed whole.

    timestamps: None for `now`, which also judges those that are given.  compression: of the
    producer, which the topic may overrule.  Raises TypeError, ValueError, OverflowError,
    InvalidRecordError, InvalidTimestampError, RecordTooLargeError, MissingExtraError.
    """
    target = rules.target
    if compression is not UNCOMPRESSED:
        target = compression_of(rules.config, compression)
    if timestamps is None or rules.is_append_time:
        timestamps = now
    stamping = rules.stamping(now)
    records = values, keys, headers, timestamps
    max_bytes, limit = rules.max_message_bytes, rules.chunk_bytes
    chunks: list[Chunk] = []
    start, count = 0, len(values)
    while start < count:
        if target.codec == codecs.NONE:
            data, end = encode(*records, max_bytes, start, limit, *stamping)
        else:
            data, end = _compressed_batch(
                records, start, stamping, max_bytes=max_bytes, target=target
            )
        latest = timestamps if isinstance(timestamps, int) else max(timestamps[start:end])
        chunk = Chunk(data, end - start, latest)
        if start == 0:
            chunks.append(chunk)
        else:
            _add(chunks, chunk, limit)
        start = end
    return Chunks(chunks, timestamps)


def _add(chunks: list[Chunk], more: Chunk, limit: int) -> None:
    """Put batches into the last chunk, or behind it where they do not fit."""
    last = chunks[-1]
    if len(last.data) + len(more.data) > limit:
        chunks.append(more)
        return
    last.data.extend(more.data)
    count = last.record_count + more.record_count
    chunks[-1] = Chunk(last.data, count, max(last.latest, more.latest))


def _compressed_batch(
    records: _Records, start: int, stamping: Stamping, *, max_bytes: int, target: Compression
) -> tuple[bytearray, int]:
    """Return one compressed batch of the records from `start` on, and the index behind them.

    Before compression it is as large as one that is not compressed may be; only a single record may
    be larger, up to what can be read again.
    """
    longest = BATCH_HEADER_BYTES + codecs.MAX_DECOMPRESSED_BYTES
    room = min(fitting_bytes(max_bytes), longest)
    while True:
        try:
            plain, end = encode(*records, longest, start, room, *stamping)
        except RecordTooLargeError as error:
            raise RecordTooLargeError(error.size, longest, codecs.DECOMPRESSED) from None
        data = compress_batches(plain, target.codec, target.compress)
        if len(data) <= max_bytes:
            return data, end
        if end == start + 1:
            raise RecordTooLargeError(len(data), max_bytes)
        # It grew by more than was left for it: with half of them there is room to spare.
        room = len(plain) // 2
