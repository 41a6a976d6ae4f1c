"""What the tests of compaction share: a topic's rows, and what may be missing of them.

Rows are (key, value) by offset.  GONE stands for an offset that reading passes over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import reference
import reference_cleaner
from crash_checks import DELETED, Content, Contents, Promise, ViolationError, check_range
from kafka_clients import MemoryRecords

from pylog.errors import CorruptRangeError
from pylog.storage.manifest import parse_manifest
from pylog.storage.partition import Partition

GONE: Final = b"gone"


def read_rows(partition: Partition) -> Contents:
    """Return all rows below the end: GONE, DELETED below the log start, None where damaged.

    Raises ViolationError when offsets do not rise or reading does not move on.
    """
    end = partition.high_watermark
    found: Contents = [DELETED] * partition.log_start_offset
    while len(found) < end:
        offset = len(found)
        try:
            records = partition.read(offset)
        except CorruptRangeError as error:
            if not error.first <= offset <= error.last < end:
                raise ViolationError(f"reading {offset} of {end}: {error}") from error
            found.extend([None] * (error.last + 1 - offset))
            continue
        for record in records:
            if record.offset < len(found):
                raise ViolationError(f"offset {record.offset} after {len(found) - 1}")
            found.extend([GONE] * (record.offset - len(found)))
            found.append((record.key, record.value))
        if not max(len(found), offset + 1) <= records.next_offset <= end:
            raise ViolationError(f"reading {offset} of {end} ends at {records.next_offset}")
        found.extend([GONE] * (records.next_offset - len(found)))
    return found


def is_row(content: Content) -> bool:
    return isinstance(content, tuple)


def fold(contents: Iterable[Content]) -> dict[bytes, bytes]:
    """Return the last value of each key in rows by offset."""
    rows = ((0, *content) for content in contents if is_row(content))
    return reference_cleaner.fold(rows)


def newest_of_keys(contents: Sequence[Content]) -> dict[bytes, int]:
    """Return the offset of each key's last row, tombstones too."""
    return {content[0]: offset for offset, content in enumerate(contents) if is_row(content)}


def check_rows(found: Contents, promise: Promise) -> None:
    """Raise ViolationError unless `found` keeps the promise and means what was appended.

    What is missing must have given way to something newer that is there, or be a tombstone; both
    follow from the fold, but the text says where.
    """
    allowed, start, end = promise.allowed, check_range(found, promise), len(found)
    for offset in range(start, end):
        row, appended = found[offset], allowed[offset]
        if row is None:
            if offset < promise.end and is_row(appended):
                raise ViolationError(f"row {offset} of {promise.end} promised is unreadable")
        elif row is not GONE and row != appended:
            raise ViolationError(f"row {offset} is {row!r:.40}, not {appended!r:.40}")
    readable = [
        appended if found[n] is not None else None for n, appended in enumerate(allowed[:end])
    ]
    check_fold(found[start:], readable[start:])


def check_fold(found: Sequence[Content], appended: Sequence[Content]) -> None:
    """Raise ViolationError unless the last value of each key is the same."""
    shown, expected = fold(found), fold(appended)
    if shown == expected:
        return
    newest = newest_of_keys(appended)
    for key in sorted(expected.keys() | shown.keys()):
        if shown.get(key) != expected.get(key):
            raise ViolationError(
                f"{key!r} is {shown.get(key)!r:.20}, not {expected.get(key)!r:.20};"
                f" last appended at {newest.get(key)} of these {len(appended)} offsets"
            )


# ---------------------------------------------------------------- files


def check_files(files: Mapping[str, bytes], found: Contents) -> int:
    """Assert that sealed segments decode elsewhere, and that their indexes point at batches.

    files: of a partition, by name.  found: its rows.  Returns how many segments were looked at.
    """
    sealed = parse_manifest(files["manifest"], path="manifest").segments[:-1]
    for facts in sealed:
        name = f"{facts.base_offset:020}"
        # A writer that was killed may have left zeros behind what counts.
        data, rest = files[f"{name}.log"][: facts.size], files[f"{name}.log"][facts.size :]
        assert not rest.strip(b"\0")
        for offset, row in kafka_rows(data):
            assert found[offset] in (row, DELETED), f"{name}: row {offset}"
        check_indexes(
            data,
            base_offset=facts.base_offset,
            index=files[f"{name}.index"][: 8 * facts.index_entries],
            timeindex=files[f"{name}.timeindex"][: 12 * facts.time_entries],
        )
    return len(sealed)


def kafka_rows(data: bytes) -> Iterator[tuple[int, Content]]:
    """Yield (offset, row) as kafka-python decodes a segment."""
    records = MemoryRecords(data)
    assert records.valid_bytes() == len(data)
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        # It decompresses what is not there in a batch of no records.
        for record in batch if batch.records_count else ():
            yield record.offset, (record.key, record.value)


def check_indexes(data: bytes, *, base_offset: int, index: bytes, timeindex: bytes) -> None:
    """Assert what Kafka's DumpLogSegments does of both indexes: they point at batches."""
    last_offsets = {}
    greatest: dict[int, int] = {}
    for position, header, _, _ in reference.batches(data):
        last_offset = header.base_offset + header.last_offset_delta
        last_offsets[position] = last_offset
        greatest[last_offset] = header.max_timestamp
    entries = list(struct.iter_unpack(">ii", index))
    assert entries == sorted(set(entries))
    for relative, position in entries:
        assert last_offsets[position] == base_offset + relative
    times = list(struct.iter_unpack(">qi", timeindex))
    assert times == sorted(set(times))
    for timestamp, relative in times:
        assert greatest[base_offset + relative] == timestamp
        assert all(
            time <= timestamp
            for offset, time in greatest.items()
            if offset <= base_offset + relative
        )
    if max(greatest.values(), default=-1) >= 0:
        assert times[-1][0] == max(greatest.values())
