"""BatchFilter: pass 2 of compaction against the reference cleaner, and fed what is damaged."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pathlib
import random
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import reference
import reference_cleaner
from reference_cleaner import CONTROL, HAS_HORIZON, TRANSACTIONAL, Round

from pylog import _native

SECRET = bytes(range(16))
T = 1_700_000_000_000
DAY = 86_400_000
GZIP, LZ4 = 1, 3
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "batches.json").read_text())


def inflate(codec: int, payload: bytes | memoryview) -> bytes:
    return zlib.decompress(payload, 31) if codec == GZIP else zlib.decompress(payload)


def deflate(codec: int, payload: bytes | memoryview) -> bytes:
    return gzip.compress(payload, mtime=0) if codec == GZIP else zlib.compress(payload)


def batch(base: int, records: Sequence[Any], **fields: Any) -> bytes:
    """A batch of (key, value) pairs, a millisecond apart."""
    rows = [(delta, delta, *record) for delta, record in enumerate(records)]
    fields = {"base_timestamp": T, "last_offset_delta": max(len(rows) - 1, 0)} | fields
    codec = fields.get("attributes", 0) & 7
    data = _native.make_batch(rows, base_offset=base, **fields | {"attributes": 0})
    header, payload, _ = reference.decode_batch(data)
    header = dataclasses.replace(header, attributes=fields.get("attributes", 0))
    return reference.encode_batch(header, deflate(codec, payload) if codec and rows else payload)


def map_of(
    data: bytes, *, max_bytes: int = 1 << 20, first_offset: int = 0, end: int | None = None
) -> _native.KeyMap:
    key_map = _native.KeyMap(SECRET, max_bytes, inflate)
    key_map.add_batches(data, 0, end, first_offset=first_offset)
    return key_map


def filter_of(key_map: _native.KeyMap, **changes: Any) -> _native.BatchFilter:
    arguments: dict[str, Any] = {"now": T, "delete_retention_ms": DAY}
    arguments |= {"decompress": inflate, "compress": deflate} | changes
    return _native.BatchFilter(key_map, **arguments)


def run(batch_filter: _native.BatchFilter, data: bytes, *, out: int = 1 << 20) -> bytes:
    """Filter all of `data` through an output of `out` bytes, enlarged only when one batch asks."""
    cleaned, buffer, position = bytearray(), bytearray(out), 0
    while True:
        status, position, written, needed = batch_filter.filter(data, buffer, position)
        cleaned += buffer[:written]
        if status == _native.END:
            assert position == len(data)
            return bytes(cleaned)
        assert status == _native.NO_ROOM
        if not written:
            assert needed > len(buffer)
            buffer = bytearray(needed)


def compacted(data: bytes, **changes: Any) -> bytes:
    return run(filter_of(map_of(data), **changes), data)


def rows(data: bytes) -> list[reference_cleaner.Row]:
    return reference_cleaner.rows(data, inflate)


# ---------------------------------------------------------------- against the reference


def random_header_fields(source: random.Random) -> dict[str, Any]:
    attributes = source.choice([0, 0, 0, GZIP, LZ4, TRANSACTIONAL, TRANSACTIONAL | LZ4])
    attributes |= source.choice([0, 0, 0, 8])
    if source.random() < 0.2:
        attributes |= HAS_HORIZON
    fields: dict[str, Any] = {"attributes": attributes, "leader_epoch": source.randrange(3)}
    fields["base_timestamp"] = T + source.randrange(-DAY, DAY)
    if source.random() < 0.5:
        fields |= {"producer_id": 7, "producer_epoch": 1, "base_sequence": source.randrange(2**31)}
    return fields


def random_log(source: random.Random) -> tuple[bytes, int]:
    """Batches with gaps, of few keys; some are a transaction's, some markers, some empty."""
    data, offset = b"", 0
    keys = [b"key-%d" % n for n in range(source.choice([1, 5, 50]))]
    for _ in range(source.randrange(1, 60)):
        offset += source.choice([0, 0, 0, 3])
        if source.random() < 0.05:
            data += batch(offset, [(b"\0\0\0\0", b"")], attributes=CONTROL | TRANSACTIONAL)
            offset += 1
            continue
        count = source.choice([0, 1, 1, 2, 5, 100])
        records = [
            (
                source.choice([*keys, None] if source.random() < 0.1 else keys),
                None if source.random() < 0.2 else source.randbytes(source.choice([0, 5, 200])),
                (("h", source.choice([None, b"x"])),) if source.random() < 0.1 else (),
            )
            for _ in range(count)
        ]
        gap = source.choice([0, 0, 2])
        fields = random_header_fields(source)
        last_delta = max(count - 1, 0) + gap
        data += batch(offset, records, last_offset_delta=last_delta, **fields)
        offset += last_delta + 1
    return data, offset


@pytest.mark.parametrize("seed", range(150))
def test_core_and_reference_agree(seed: int) -> None:
    source = random.Random(seed)
    data, end = random_log(source)
    first_offset = source.choice([0, source.randrange(end)])
    key_map = map_of(data, max_bytes=source.choice([1 << 20, 240, 1200]), first_offset=first_offset)
    now = source.choice([-1, T, T + DAY])
    last_offsets = [
        header.base_offset + header.last_offset_delta for _, header, _, _ in reference.batches(data)
    ]
    kept = source.sample(last_offsets, source.randrange(min(4, len(last_offsets) + 1)))
    batch_filter = filter_of(key_map, now=now, round_end=end, kept_offsets=kept)
    cleaned = run(batch_filter, data, out=source.choice([61, 1000, 1 << 20]))

    last_offset = key_map.end_offset - 1
    newest = reference_cleaner.newest_offsets(
        data, first_offset=first_offset, last_offset=last_offset, unpack=inflate
    )
    round_ = Round(
        latest=newest,
        latest_offset=last_offset,
        end=end,
        now=now,
        delete_retention_ms=DAY,
        kept_offsets=frozenset(kept),
    )
    expected = reference_cleaner.clean(data, round_, unpack=inflate, pack=deflate)
    assert reference_cleaner.plain(cleaned, inflate) == reference_cleaner.plain(expected, inflate)
    assert cleaned == expected
    assert batch_filter.next_offset == end
    assert batch_filter.records_read == sum(h.count for _, h, _, _ in reference.batches(data))
    assert batch_filter.records_kept == sum(h.count for _, h, _, _ in reference.batches(cleaned))
