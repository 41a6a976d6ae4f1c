"""What batches of other clients must be like before they are appended as they are.

Knows Kafka's rules for a batch that a client sends.  Must not know files or where a batch goes.
Pure: takes no lock and no clock.
Source: Kafka LogValidator, UnifiedLog.analyzeAndValidateRecords, DefaultRecordBatch.ensureValid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from pylog import codecs
from pylog._native import Records, batch_headers, crc32c
from pylog.config import TopicConfig
from pylog.errors import CorruptionError, InvalidRecordError, RecordTooLargeError
from pylog.storage import policy
from pylog.storage.encoding import check_timestamp

Header = dict[str, int]

_CRC_END: Final = 21  # the CRC covers a batch from here on
_CODEC: Final = 0x07
_ZSTD: Final = 4
# What a client must not set, and why.
_FORBIDDEN: Final = {
    0x08: "its timestamps are of log append time, which is the log's to set",
    0x10: "it is part of a transaction, which pylog does not have",
    0x20: "it is a control batch",
    0x40: "it has a delete horizon, which is the log's to set",
}


def check_batches(data: memoryview, config: TopicConfig, *, now: int) -> list[Header]:
    """Return the headers of whole batches that a client may append to a topic of this config.

    data: one or more whole batches, and nothing else.  now: judges the records' timestamps.
    Raises InvalidRecordError that names the batch and the rule, InvalidTimestampError,
    RecordTooLargeError, MissingExtraError for a codec that is not installed.  Decompresses every
    batch.
    """
    headers = batch_headers(data)
    end = headers[-1]["position"] + headers[-1]["size"] if headers else 0
    if end != len(data) or not headers:
        raise InvalidRecordError(f"data at {end}: expected one or more whole batches of magic 2")
    for number, header in enumerate(headers):
        if header["size"] > config.max_message_bytes:
            raise RecordTooLargeError(header["size"], config.max_message_bytes)
        batch = data[header["position"] : header["position"] + header["size"]]
        reason = next(_complaints(batch, header, config), None)
        if reason is not None:
            raise InvalidRecordError(f"batch {number} at {header['position']}: {reason}")
        # The least and the greatest speak for all.
        for timestamp in _timestamp_range(batch):
            check_timestamp(timestamp, now=now, config=config)
    return headers


def _timestamp_range(batch: memoryview) -> tuple[int, int]:
    timestamps = np.frombuffer(_columns(batch)[1], np.int64)
    return int(timestamps.min()), int(timestamps.max())


def _columns(batch: memoryview) -> tuple[Any, ...]:
    return Records(batch, decompress=codecs.decompress).columns()


def _complaints(batch: memoryview, header: Header, config: TopicConfig) -> Iterator[str]:
    """Yield what is wrong with one batch; what comes later relies on what came before."""
    computed = crc32c(batch[_CRC_END:])
    if computed != header["crc"]:
        yield f"crc32c {header['crc']:#010x} stored, {computed:#010x} computed"
    attributes = header["attributes"]
    if attributes & _CODEC > _ZSTD:
        yield f"unknown compression codec {attributes & _CODEC}"
    for bit, reason in _FORBIDDEN.items():
        if attributes & bit:
            yield reason
    count, last = header["count"], header["last_offset_delta"]
    if count < 1 or count != last + 1:
        yield f"{count} records, last offset delta {last}"
    yield from _producer_complaints(header)
    yield from _record_complaints(batch, header, config)


def _producer_complaints(header: Header) -> Iterator[str]:
    fields = (header["producer_id"], header["producer_epoch"], header["base_sequence"])
    if fields != (-1, -1, -1) and min(fields) < 0:
        yield "producer id {}, epoch {}, sequence {}: expected all or none".format(*fields)


def _record_complaints(batch: memoryview, header: Header, config: TopicConfig) -> Iterator[str]:
    """Yield where the records are not those of the header, or not what the topic takes."""
    try:
        columns = _columns(batch)
    except CorruptionError as error:
        yield str(error)
        return
    offsets, timestamps = (np.frombuffer(column, np.int64) for column in columns[:2])
    base, count = header["base_offset"], header["count"]
    if not np.array_equal(offsets, np.arange(base, base + count)):
        yield f"its records do not have the offsets [{base}, {base + count}), one each"
    if (timestamps < 0).any():
        yield "a timestamp is negative"
    if timestamps.max(initial=-1) != header["max_timestamp"]:
        greatest = int(timestamps.max(initial=-1))
        yield f"max timestamp {header['max_timestamp']} in its header, {greatest} in its records"
    if policy.is_compacted(config) and (np.frombuffer(columns[3], np.int32) < 0).any():
        yield "a record has no key, and the topic is compacted"
