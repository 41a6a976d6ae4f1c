"""The oracle of compaction: what Kafka's cleaner does to batches, in readable Python.

Written from the rules' description (Kafka Cleaner.scala, MemoryRecords.filterTo), not from the C
core.  Where pylog differs on purpose:

    it has no transactions, so records of a foreign log's transactions take no other record's place
    and never get a horizon, and control batches are copied as they are
    a batch gets its horizon when all its tombstones have been looked at: before that the older
    rows of a key may still be there, and a reader of them be far from their tombstone

Imports nothing of pylog.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import reference
from reference import Header, Record

TRANSACTIONAL = 0x10
CONTROL = 0x20
HAS_HORIZON = 0x40
CODEC = 0x07
LAST_TIME = 2**63 - 1

# (codec number, payload) to payload; never called with codec 0.
Codec: TypeAlias = Callable[[int, bytes], bytes]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round of cleaning goes by.

    latest: the newest offset of each key, as `newest_offsets` has them.  latest_offset: the last
    one that was looked at for it.  end: the batch that ends here is kept, if need be as an empty
    one; so are those whose last offset is in `kept_offsets`, the last of active producers.
    now: milliseconds, -1 when the clock is in doubt; then no horizon is set or passed.
    """

    latest: Mapping[bytes, int]
    latest_offset: int
    end: int
    now: int
    delete_retention_ms: int
    kept_offsets: frozenset[int] = frozenset()


def records_of(header: Header, payload: bytes, unpack: Codec) -> list[Record]:
    if header.count == 0:
        return []
    if header.codec:
        payload = unpack(header.codec, payload)
    return reference.decode_records(payload, header.count)


def newest_offsets(
    data: bytes, *, first_offset: int, last_offset: int, unpack: Codec
) -> dict[bytes, int]:
    """Pass 1: the newest offset of each key in [first_offset, last_offset]."""
    newest: dict[bytes, int] = {}
    for _, header, payload, _ in reference.batches(data):
        if header.attributes & (CONTROL | TRANSACTIONAL):
            continue
        for record in records_of(header, payload, unpack):
            offset = header.base_offset + record.offset_delta
            if record.key is not None and first_offset <= offset <= last_offset:
                newest[record.key] = offset
    return newest


def clean(data: bytes, round_: Round, *, unpack: Codec, pack: Codec) -> bytes:
    """Pass 2: the batches that are left of `data`."""
    cleaned = bytearray()
    for position, header, payload, size in reference.batches(data):
        original = data[position : position + size]
        cleaned += _clean_batch(header, payload, original, round_, unpack, pack)
    return bytes(cleaned)


def _clean_batch(
    header: Header, payload: bytes, original: bytes, round_: Round, unpack: Codec, pack: Codec
) -> bytes:
    if header.attributes & CONTROL:
        return original
    records = records_of(header, payload, unpack)
    kept = [record for record in records if _is_kept(record, header, round_)]
    if not kept:
        last_offset = header.base_offset + header.last_offset_delta
        if last_offset + 1 == round_.end or last_offset in round_.kept_offsets:
            return empty_batch(header)
        return b""
    horizon = header.base_timestamp if header.attributes & HAS_HORIZON else None
    tombstones = [header.base_offset + one.offset_delta for one in kept if one.value is None]
    needs_horizon = (
        horizon is None
        and round_.now >= 0
        and not header.attributes & TRANSACTIONAL
        and 0 <= max(tombstones, default=-1) <= round_.latest_offset
    )
    if needs_horizon:
        horizon = min(round_.now + round_.delete_retention_ms, LAST_TIME)
    elif len(kept) == len(records):
        return original
    return _rewritten(header, kept, horizon, pack)


def _is_kept(record: Record, header: Header, round_: Round) -> bool:
    offset = header.base_offset + record.offset_delta
    if offset > round_.latest_offset:
        return True
    if record.key is None:
        return False
    if offset < round_.latest.get(record.key, -1):
        return False
    if record.value is not None or header.attributes & TRANSACTIONAL:
        return True
    is_past = header.attributes & HAS_HORIZON and round_.now >= header.base_timestamp
    return not is_past


def _rewritten(header: Header, kept: list[Record], horizon: int | None, pack: Codec) -> bytes:
    """Return a batch of fewer records, or of a new horizon, as Kafka's builder makes it."""
    times = [reference.timestamp_of(header, record) for record in kept]
    base_timestamp = times[0] if horizon is None else horizon
    payload = b"".join(
        dataclasses.replace(record, timestamp_delta=time - base_timestamp).encode()
        for record, time in zip(kept, times, strict=True)
    )
    if header.codec:
        payload = pack(header.codec, payload)
    new_header = dataclasses.replace(
        header,
        attributes=header.attributes & ~HAS_HORIZON | (0 if horizon is None else HAS_HORIZON),
        base_timestamp=base_timestamp,
        max_timestamp=max(-1, *times),
        count=len(kept),
    )
    return reference.encode_batch(new_header, payload)


def empty_batch(header: Header) -> bytes:
    """Return what stays of a batch for its offsets and its producer's sequence numbers."""
    attributes = header.attributes & ~(CODEC | HAS_HORIZON)
    empty = dataclasses.replace(header, attributes=attributes, base_timestamp=-1, count=0)
    return reference.encode_batch(empty, b"")


def plain(data: bytes, unpack: Codec) -> list[tuple[Header, bytes]]:
    """Return (header, decompressed payload) of each batch: what two writers have to agree on."""
    return [
        (header, unpack(header.codec, payload) if header.codec and header.count else payload)
        for _, header, payload, _ in reference.batches(data)
    ]


# ---------------------------------------------------------------- what a log means

# (offset, key, value)
Row: TypeAlias = tuple[int, bytes | None, bytes | None]


def rows(data: bytes, unpack: Codec) -> list[Row]:
    """Return the records of all batches but control batches."""
    return [
        (header.base_offset + record.offset_delta, record.key, record.value)
        for _, header, payload, _ in reference.batches(data)
        if not header.attributes & CONTROL
        for record in records_of(header, payload, unpack)
    ]


def fold(found: Iterable[Row]) -> dict[bytes, bytes]:
    """Return the last value of each key; a tombstone takes it away."""
    state: dict[bytes, bytes] = {}
    for _, key, value in found:
        if key is None:
            continue
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    return state


def end_of(data: bytes) -> int:
    """Return the offset behind the last batch, 0 for none."""
    end = 0
    for _, header, _, _ in reference.batches(data):
        end = header.base_offset + header.last_offset_delta + 1
    return end
