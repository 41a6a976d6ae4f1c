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

from pylog import _native, codecs
from pylog.errors import CorruptRangeError, InvalidRecordError

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


# ---------------------------------------------------------------- what Kafka itself wrote


def golden(name: str) -> bytes:
    return bytes.fromhex(GOLDEN["batches"][name])


def kafkas(codec: int, payload: memoryview) -> bytes:
    name = next(name for name, number in codecs.NUMBERS.items() if number == codec)
    return codecs.Compression.named(name).compress(payload)


def with_newer(data: bytes, *keys: bytes) -> _native.KeyMap:
    """A map of `data`, in which these keys have newer records behind it."""
    _, header, _, _ = list(reference.batches(data))[-1]
    end = header.base_offset + header.last_offset_delta + 1
    key_map = _native.KeyMap(SECRET, 1 << 20, codecs.decompress)
    key_map.add_batches(data + batch(end, [(key, b"newer") for key in keys]))
    return key_map


def cleaned(name: str, *newer: bytes, **changes: Any) -> bytes:
    data = golden(name)
    coding = {"decompress": codecs.decompress, "compress": kafkas}
    return run(filter_of(with_newer(data, *newer), **coding | changes), data)


def test_batch_that_loses_a_record_is_what_kafka_writes() -> None:
    assert cleaned("V1", b"k2", now=-1) == golden("V4a")


def test_batch_that_keeps_a_tombstone_gets_the_horizon_that_kafka_writes() -> None:
    assert cleaned("V1", now=T + 100_000) == golden("V5")
    # A later cleaning leaves the horizon as it is.
    assert cleaned("V5", now=T + 200_000) == golden("V5")
    assert cleaned("V5", b"k1", now=T + 200_000) == golden("V5b")


def test_tombstone_goes_when_its_horizon_is_past() -> None:
    horizon = T + 100_000 + DAY
    assert cleaned("V5b", now=horizon - 1) == golden("V5b")
    assert cleaned("V5b", now=horizon) == b""
    assert cleaned("V5b", now=-1) == golden("V5b")


def test_emptied_batch_is_what_kafka_writes() -> None:
    keys = [b"key-%d" % n for n in range(4)]
    assert cleaned("V2", *keys, kept_offsets=[5, 2003, 1]) == golden("V3")
    assert cleaned("V2", *keys, round_end=2004) == golden("V3")
    assert cleaned("V2", *keys, kept_offsets=[2000, 2002, 2004], round_end=2003) == b""
    # It stays what it is for as long as somebody needs it.
    assert cleaned("V3", kept_offsets=[2003]) == golden("V3")
    assert cleaned("V3") == b""


@pytest.mark.parametrize("name", [name for name in GOLDEN["batches"] if name.startswith("V2")])
def test_every_codec_is_read_and_written_as_in_kafka(name: str) -> None:
    ours = cleaned(name, b"key-0", b"key-3")
    codec = reference.decode_batch(golden(name))[0].codec
    partial, payload, _ = reference.decode_batch(golden("V4b_partial_lz4_stored_block_from_V2"))
    header, packed_payload, size = reference.decode_batch(ours)
    assert size == len(ours) and header == dataclasses.replace(partial, attributes=codec)
    assert codecs.decompress(codec, memoryview(packed_payload)) == codecs.decompress(
        LZ4, memoryview(payload)
    )
    # Nothing to do, nothing done.
    assert cleaned(name) == golden(name)


@pytest.mark.parametrize("name", ["V6_COMMIT", "V6_ABORT", "V8_transactional"])
def test_batches_of_transactions_that_nothing_newer_covers_are_copied(name: str) -> None:
    assert cleaned(name) == golden(name)


def test_log_append_time_stays_the_time_of_all_records() -> None:
    data = golden("V7_log_append_time")
    header, payload, _ = reference.decode_batch(data)
    first, *others = reference.decode_records(payload, header.count)
    assert first.key is not None
    left, payload, _ = reference.decode_batch(cleaned("V7_log_append_time", first.key, now=-1))
    assert (left.max_timestamp, left.base_timestamp) == (header.max_timestamp,) * 2
    kept = reference.decode_records(payload, left.count)
    assert [record.key for record in kept] == [record.key for record in others]
    assert {reference.timestamp_of(left, record) for record in kept} == {header.max_timestamp}


# ---------------------------------------------------------------- rules of our own


def test_newer_record_takes_the_place_of_one_in_a_transaction_and_not_the_other_way_round() -> None:
    older, newer = batch(0, [(b"k", b"1")]), batch(1, [(b"k", b"2")], attributes=TRANSACTIONAL)
    newest = batch(2, [(b"k", b"3")])
    assert compacted(older + newer) == older + newer
    assert compacted(older + newer + newest) == newest


def test_tombstone_of_a_transaction_stays() -> None:
    data = batch(0, [(b"k", b"1")])
    data += batch(1, [(b"k", None)], attributes=TRANSACTIONAL)
    data += batch(2, [(b"k", None)], attributes=TRANSACTIONAL | HAS_HORIZON)
    assert compacted(data, now=2**62) == data


def test_horizon_waits_until_older_values_are_gone() -> None:
    # The map ends behind the first tombstone: `b` may have older values, and its reader the time.
    data = batch(0, [(b"a", None), (b"b", None)])
    key_map = _native.KeyMap(SECRET, 6 * 24)
    assert key_map.add_batches(data)[0] == _native.NO_ROOM
    assert key_map.end_offset == 1
    batch_filter = filter_of(key_map)
    assert run(batch_filter, data) == data
    assert batch_filter.horizons_set == 0
    assert compacted(data) != data


def test_no_horizon_is_set_or_passed_by_a_clock_in_doubt() -> None:
    data = batch(0, [(b"a", None)])
    assert compacted(data, now=-1) == data
    past = batch(0, [(b"a", None)], attributes=HAS_HORIZON, base_timestamp=-5)
    assert compacted(past, now=-1) == past
    assert compacted(past, now=0) == b""


def test_horizon_does_not_overflow() -> None:
    data = batch(0, [(b"a", None)])
    header, _, _ = reference.decode_batch(compacted(data, delete_retention_ms=2**63 - 1))
    assert header.base_timestamp == 2**63 - 1


def test_batch_with_timestamps_too_far_from_a_horizon_is_copied() -> None:
    far = batch(0, [(b"a", b"1"), (b"b", None)], base_timestamp=-(2**63) + 5, max_timestamp=T)
    newer = batch(2, [(b"a", b"2")])
    batch_filter = filter_of(map_of(far + newer))
    assert run(batch_filter, far + newer) == far + newer
    assert batch_filter.horizons_set == 0
    assert batch_filter.records_kept == 3
    # Without one, only the record that was replaced goes.
    assert rows(compacted(far + newer, now=-1)) == [(1, b"b", None), (2, b"a", b"2")]


def test_records_behind_the_map_are_kept_whatever_they_are() -> None:
    mapped = batch(0, [(b"a", b"1"), (None, b"x"), (b"a", b"2")])
    behind = batch(3, [(b"a", b"3"), (None, b"y"), (b"a", None)])
    batch_filter = filter_of(map_of(mapped))
    assert rows(run(batch_filter, mapped + behind)) == [(2, b"a", b"2"), *rows(behind)]


def test_filter_counts_what_it_did() -> None:
    data = batch(0, [(b"a", b"1"), (None, b"x"), (b"a", b"2"), (b"b", None)])
    data += batch(4, [(b"c", None)], attributes=HAS_HORIZON, base_timestamp=T - 1)
    data += batch(5, [(b"a", b"3")], producer_id=1) + batch(6, [(b"a", b"4")])
    batch_filter = filter_of(map_of(data), kept_offsets=[5])
    run(batch_filter, data)
    assert (batch_filter.next_offset, batch_filter.emptied_batches) == (7, 1)
    assert (batch_filter.records_read, batch_filter.records_kept) == (7, 2)
    assert (batch_filter.horizons_set, batch_filter.dropped_tombstones_end) == (1, 5)


def test_kept_offsets_are_asked_for_with_the_first_batch_of_a_producer() -> None:
    asked: list[int] = []

    def kept() -> list[int]:
        asked.append(1)
        return [3, 2]

    plain = batch(0, [(b"a", b"1"), (b"a", b"2")])
    producers = b"".join(
        batch(n, [(b"a", b"3")], producer_id=5, attributes=n % 2 * GZIP) for n in range(2, 6)
    )
    batch_filter = filter_of(map_of(plain + producers), kept_offsets=kept)
    assert (run(batch_filter, plain), asked) == (b"", [])
    assert rows(run(batch_filter, producers)) == [(5, b"a", b"3")]
    assert (batch_filter.emptied_batches, asked) == (2, [1])

    with pytest.raises(TypeError):
        run(filter_of(map_of(producers), kept_offsets=lambda: None), producers)


# ---------------------------------------------------------------- buffers


def test_output_that_is_too_small_is_told_how_much_it_needs() -> None:
    data = b"".join(batch(n, [(b"%d" % n, bytes(n))]) for n in range(20))
    expected = compacted(data)
    for out in (0, 60, 61, 200, 1000):
        assert run(filter_of(map_of(data)), data, out=out) == expected


@pytest.mark.parametrize("codec", [0, GZIP])
def test_input_may_be_cut_anywhere(codec: int) -> None:
    parts = [batch(3 * n, [(b"%d" % (n % 3), b"v")] * 3, attributes=codec) for n in range(6)]
    data = b"".join(parts)
    key_map, buffer = map_of(data), bytearray(1 << 16)
    expected = compacted(data)
    for cut in range(len(data) + 1):
        batch_filter = filter_of(key_map)
        status, position, written, needed = batch_filter.filter(data, buffer, 0, cut)
        whole = [sum(map(len, parts[:n])) for n in range(7)]
        assert position == max(end for end in whole if end <= cut)
        assert status == (_native.END if cut in whole else _native.INCOMPLETE)
        if status == _native.INCOMPLETE:
            assert needed == (61 if cut - position < 61 else len(parts[whole.index(position)]))
        first = bytes(buffer[:written])
        status, position, written, _ = batch_filter.filter(data, buffer, position)
        assert (status, position) == (_native.END, len(data))
        assert first + buffer[:written] == expected


def test_compressed_batch_that_grows_needs_more_output_once() -> None:
    data = batch(0, [(b"a", b"v" * 1000), (b"b", b"w" * 1000), (b"a", b"x")], attributes=GZIP)

    def store(codec: int, payload: memoryview) -> bytes:
        return gzip.compress(payload, compresslevel=0)

    batch_filter = filter_of(map_of(data), compress=store)
    status, position, written, needed = batch_filter.filter(data, bytearray(len(data)))
    assert (status, position, written) == (_native.NO_ROOM, 0, 0)
    assert 1000 < needed < 1200
    cleaned_data = run(batch_filter, data, out=needed)
    assert rows(cleaned_data) == [(1, b"b", b"w" * 1000), (2, b"a", b"x")]
    assert (batch_filter.records_read, batch_filter.records_kept) == (3, 2)


def test_filter_needs_its_map_as_it_was_and_for_itself() -> None:
    data = batch(0, [(b"a", b"1"), (b"a", b"2")], attributes=GZIP)
    key_map = map_of(data)
    batch_filter = filter_of(key_map)

    def meddle(codec: int, payload: memoryview) -> bytes:
        with pytest.raises(RuntimeError, match="another thread"):
            batch_filter.filter(data, bytearray(1000))
        return inflate(codec, payload)

    assert rows(run(filter_of(key_map, decompress=meddle), data)) == [(1, b"a", b"2")]
    key_map.add_batches(batch(2, [(b"a", b"3")]))
    with pytest.raises(ValueError, match="taken in more"):
        run(batch_filter, data)


def test_arguments_are_checked() -> None:
    key_map = _native.KeyMap(SECRET, 1 << 20)
    for changes in ({"now": -2}, {"delete_retention_ms": -1}):
        with pytest.raises(ValueError, match="needs"):
            filter_of(key_map, **changes)
    with pytest.raises(TypeError):
        filter_of(key_map, kept_offsets=[None])
    with pytest.raises(BufferError):
        filter_of(key_map).filter(b"", b"")
    with pytest.raises(TypeError):
        filter_of("no map")  # type: ignore[arg-type]


def test_errors_of_codecs_go_through() -> None:
    def fail(codec: int, payload: memoryview) -> bytes:
        raise InvalidRecordError("no")

    data = batch(0, [(b"a", b"1"), (b"a", b"2")], attributes=GZIP)
    for changes in ({"decompress": fail}, {"compress": fail}):
        batch_filter = filter_of(map_of(data), **changes)
        with pytest.raises(InvalidRecordError, match="no"):
            run(batch_filter, data)
        assert batch_filter.records_read == 0
    with pytest.raises(InvalidRecordError, match="no decompressor"):
        run(filter_of(map_of(data), decompress=None), data)
    with pytest.raises(InvalidRecordError, match="no compressor"):
        run(filter_of(map_of(data), compress=None), data)


# ---------------------------------------------------------------- damage


def filtered_or_none(data: bytes | bytearray, key_map: _native.KeyMap, end: int) -> bytes | None:
    buffer = bytearray(1 << 16)
    try:
        status, _, written, _ = filter_of(key_map).filter(data, buffer, end_offset=end)
    except (CorruptRangeError, zlib.error):
        return None
    return bytes(buffer[:written]) if status == _native.END else None


def test_flipped_bit_is_damage() -> None:
    good = batch(7, [(b"a", b"1"), (b"b", None), (b"a", b"2")])
    key_map, data = map_of(good), bytearray(good)
    for position in [*range(8, 12), *range(16, len(data))]:
        for bit in range(8):
            data[position] ^= 1 << bit
            assert filtered_or_none(data, key_map, 10) is None, (position, bit)
            data[position] ^= 1 << bit
    assert filtered_or_none(data, key_map, 10) is not None


def test_batches_that_do_not_ascend_or_leave_their_range_are_damage() -> None:
    key_map = _native.KeyMap(SECRET, 1 << 20)
    assert filtered_or_none(good := batch(10, [(b"a", b"1"), (b"b", b"1")]), key_map, 12) == good
    assert filtered_or_none(good, key_map, 11) is None
    assert filtered_or_none(good + batch(11, [(b"c", b"1")]), key_map, 50) is None


@pytest.mark.parametrize("codec", [0, GZIP])
@pytest.mark.parametrize("has_marks", [True, False])
def test_records_that_break_the_format_are_damage_under_a_good_crc(
    codec: int, has_marks: bool
) -> None:
    source = random.Random(3)
    good = batch(0, [(b"key-%d" % (n % 2), b"v" * n) for n in range(5)])
    # Marks of a wide range would take too much memory: the map is asked.  With marks the records
    # that go are passed over, for pass 1 has read them.
    more = b"" if has_marks else batch(10**6, [(b"far", b"")])
    header, payload, _ = reference.decode_batch(good)
    key_map, damaged = map_of(good + more, max_bytes=2000), 0
    for _ in range(3000):
        bad = bytearray(payload)
        for _ in range(source.randrange(1, 4)):
            bad[source.randrange(len(bad))] = source.randrange(256)
        cut = bytes(bad[: source.choice([len(bad), source.randrange(len(bad))])])
        changed = dataclasses.replace(header, attributes=codec)
        data = reference.encode_batch(changed, deflate(codec, cut) if codec else cut)
        left = filtered_or_none(data, key_map, 5)
        try:
            reference.decode_records(cut, header.count)
        except reference.FormatError:
            damaged += 1
            assert left is None or (has_marks and len(rows(left)) == 2)
            continue
        if left is not None:
            assert all(record in rows(data) for record in rows(left))
    assert damaged > 1000


def test_count_that_lies_is_damage() -> None:
    good = batch(0, [(b"a", b"1"), (b"b", b"1")])
    header, payload, _ = reference.decode_batch(good)
    key_map = map_of(good)
    for count in (0, 1, 3, 100, 2**31 - 1):
        for codec in (0, GZIP):
            lying = dataclasses.replace(
                header, count=count, last_offset_delta=max(count, 1) - 1, attributes=codec
            )
            packed = deflate(codec, payload) if codec else payload
            assert filtered_or_none(reference.encode_batch(lying, packed), key_map, 2**40) is None
