"""Records and columns: ranges, laziness, compression, and batches whose records are damaged."""

from __future__ import annotations

import gc
import pickle
import random
import tracemalloc
import weakref
from typing import Any

import numpy as np
import pytest
import reference

from pylog import _native
from pylog.errors import CorruptRangeError, InvalidRecordError

T = 1_700_000_000_000


def several_batches() -> bytes:
    """Return offsets 10 to 29 in four batches of five; 17 and 22 were compacted away."""
    data = b""
    for base in (10, 15, 20, 25):
        records = [
            (delta, delta, b"k%d" % (base + delta), b"v%d" % (base + delta))
            for delta in range(5)
            if base + delta not in (17, 22)
        ]
        data += _native.make_batch(
            records, base_offset=base, base_timestamp=T, last_offset_delta=4, leader_epoch=3
        )
    return data


def test_a_range_selects_records_and_its_length_agrees() -> None:
    data = several_batches()
    offsets = [offset for offset in range(10, 30) if offset not in (17, 22)]
    for first in range(8, 32):
        for end in range(8, 33):
            records = _native.Records(data, first_offset=first, end_offset=end)
            expected = [offset for offset in offsets if first <= offset < end]
            assert [record.offset for record in records] == expected
            assert len(records) == len(expected)
            assert bool(records) == bool(expected)
            columns = np.frombuffer(records.columns()[0], np.int64)
            assert columns.tolist() == expected


def test_positions_select_whole_batches() -> None:
    data = several_batches()
    headers = _native.batch_headers(data)
    start, end = headers[1]["position"], headers[3]["position"]
    records = _native.Records(data, start=start, end=end)
    assert [record.offset for record in records] == [15, 16, 18, 19, 20, 21, 23, 24]
    assert records.nbytes == end - start
    assert records.next_offset == 25


@pytest.mark.parametrize(("start", "end"), [(-1, None), (5, 4), (0, 10_000)])
def test_positions_outside_the_data_are_refused(start: int, end: int | None) -> None:
    with pytest.raises(ValueError, match="no range"):
        _native.Records(several_batches(), start=start, end=end)


def test_next_offset_is_the_one_given_or_the_end_of_the_last_batch() -> None:
    data = several_batches()
    assert _native.Records(data).next_offset == 30
    assert _native.Records(data, next_offset=99).next_offset == 99
    assert _native.Records(b"", first_offset=7).next_offset == 7


def test_a_record_outlives_what_it_was_read_from() -> None:
    data = bytearray(several_batches())
    records = list(_native.Records(data, topic="orders", partition=2))
    with pytest.raises(BufferError):
        data.append(0)
    kept = records[3]
    del records
    assert (kept.topic, kept.partition, kept.key, kept.value) == ("orders", 2, b"k13", b"v13")
    del kept
    data.append(0)


def test_the_repr_of_a_record_holds_no_payload() -> None:
    record = next(iter(_native.Records(several_batches(), topic="orders")))
    assert (
        repr(record) == f"Record(topic='orders', partition=0, offset=10, timestamp={T}, 13 bytes)"
    )


def test_record_metadata_is_a_value() -> None:
    metadata = _native.RecordMetadata("orders", 1, 2, 3)
    assert metadata == _native.RecordMetadata("orders", partition=1, offset=2, timestamp=3)
    assert metadata != _native.RecordMetadata("orders", 1, 2, 4)
    assert len({metadata, _native.RecordMetadata("orders", 1, 2, 3)}) == 1
    assert pickle.loads(pickle.dumps(metadata)) == metadata
    assert repr(metadata) == "RecordMetadata(topic='orders', partition=1, offset=2, timestamp=3)"
    assert (metadata == ("orders", 1, 2, 3)) is False


# ---------------------------------------------------------------- columns


def rows(columns: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    offsets, timestamps, key_positions, key_lengths, value_positions, value_lengths, data = columns

    def field(position: int, size: int) -> bytes | None:
        return None if size < 0 else bytes(data[position : position + size])

    return [
        (offset, timestamp, field(key_position, key_length), field(value_position, value_length))
        for offset, timestamp, key_position, key_length, value_position, value_length in zip(
            np.frombuffer(offsets, np.int64).tolist(),
            np.frombuffer(timestamps, np.int64).tolist(),
            np.frombuffer(key_positions, np.int64).tolist(),
            np.frombuffer(key_lengths, np.int32).tolist(),
            np.frombuffer(value_positions, np.int64).tolist(),
            np.frombuffer(value_lengths, np.int32).tolist(),
            strict=True,
        )
    ]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("is_compressed", [False, True])
def test_columns_agree_with_the_records(seed: int, is_compressed: bool) -> None:
    source = random.Random(seed)
    data = b""
    for base in range(0, 1000, 100):
        plain = _native.make_batch(
            [
                (delta, source.randrange(100), source.choice([None, b"", b"key"]), b"v" * delta)
                for delta in range(source.randrange(1, 100))
            ],
            base_offset=base,
            base_timestamp=T,
            last_offset_delta=99,
        )
        if is_compressed and source.random() < 0.5:
            header, payload, _ = reference.decode_batch(plain)
            fields = {name: getattr(header, name) for name in header.__slots__}
            plain = _native.make_batch([], payload=payload[::-1], **fields | {"attributes": 3})
        data += plain
    records = _native.Records(
        data,
        first_offset=57,
        end_offset=930,
        decompress=lambda codec, payload: bytes(payload)[::-1],
    )
    columns = records.columns()
    assert rows(columns) == [
        (record.offset, record.timestamp, record.key, record.value) for record in records
    ]
    assert (columns[6] is data) == (not is_compressed or data == columns[6])


def test_columns_that_are_kept_share_no_memory_with_later_ones() -> None:
    # The memory of dropped columns serves later ones, that of kept ones must not.
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    kept: list[tuple[Any, list[int]]] = []
    for _ in range(500):
        count = generator.choice((1, 9, generator.randrange(1, 400), 350, 700))
        base = generator.randrange(10**9)
        data = _native.make_batch([(i, i, None, None) for i in range(count)], base_offset=base)
        columns = _native.Records(bytes(data)).columns()
        if generator.random() < 0.5:
            kept.append((columns[0], list(range(base, base + count))))
        del columns
        if len(kept) > 20:
            del kept[generator.randrange(20)]
        for offsets, expected in kept:
            assert np.frombuffer(offsets, np.int64).tolist() == expected


def test_columns_of_few_rows_hold_on_to_little_memory() -> None:
    many = _native.make_batch([(i, i, None, None) for i in range(20_000)], base_offset=0)
    few = _native.make_batch([(0, 0, None, None)], base_offset=0)
    _native.Records(bytes(many)).columns()  # and dropped: 800 KB that are kept for the next
    assert memoryview(_native.Records(bytes(few)).columns()[0].obj).nbytes < 1000


def test_columns_of_no_records_are_empty() -> None:
    assert _native.Records(b"").columns() == (*[bytearray()] * 6, b"")


# ---------------------------------------------------------------- compression


def compressed_batch(payload: bytes = b"squeezed", count: int = 1, base: int = 7) -> bytes:
    return _native.make_batch([], payload=payload, count=count, attributes=2, base_offset=base)


PLAIN = reference.Record(0, 0, b"k", b"v").encode()


def test_the_decompressor_is_called_once_a_batch_with_codec_and_payload() -> None:
    calls = []

    def decompress(codec: int, payload: memoryview) -> bytes:
        calls.append((codec, payload))  # keeping the view is allowed: it holds the data
        return PLAIN

    data = compressed_batch(base=7) + compressed_batch(base=8)
    found = [(r.offset, r.key, r.value) for r in _native.Records(data, decompress=decompress)]
    assert found == [(7, b"k", b"v"), (8, b"k", b"v")]
    del data
    gc.collect()
    assert [(codec, bytes(payload)) for codec, payload in calls] == [(2, b"squeezed")] * 2


def test_without_a_decompressor_a_compressed_batch_is_refused() -> None:
    with pytest.raises(InvalidRecordError, match="compressed"):
        list(_native.Records(compressed_batch()))
    with pytest.raises(InvalidRecordError, match="compressed"):
        _native.Records(compressed_batch()).columns()


def test_errors_of_the_decompressor_pass_through_and_the_next_batch_is_readable() -> None:
    def decompress(codec: int, payload: memoryview) -> bytes:
        if bytes(payload) == b"bad":
            raise RuntimeError("damaged frame")
        return PLAIN

    data = compressed_batch(b"bad", base=7) + compressed_batch(b"good", base=8)
    iterator = iter(_native.Records(data, decompress=decompress))
    with pytest.raises(RuntimeError, match="damaged frame"):
        next(iterator)
    assert next(iterator).offset == 8


@pytest.mark.parametrize("result", [None, "text", 7])
def test_a_decompressor_that_returns_no_bytes_is_refused(result: Any) -> None:
    with pytest.raises(TypeError):
        list(_native.Records(compressed_batch(), decompress=lambda codec, payload: result))


def test_a_compressed_batch_cannot_claim_more_records_than_its_bytes_hold() -> None:
    data = compressed_batch(count=2**31 - 1)
    records = _native.Records(data, decompress=lambda codec, payload: PLAIN)
    tracemalloc.start()
    with pytest.raises(CorruptRangeError) as caught:
        records.columns()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert (caught.value.first, caught.value.last) == (7, 7 + 2**31 - 2)


def test_records_in_a_cycle_are_collected() -> None:
    class Codec:
        kept: tuple[Any, ...]

        def __call__(self, codec: int, payload: memoryview) -> bytes:
            return PLAIN

    codec = Codec()
    records = _native.Records(compressed_batch(), decompress=codec)
    codec.kept = (records, iter(records))
    del records
    alive = weakref.ref(codec)
    del codec
    gc.collect()
    assert alive() is None


def test_a_decompressor_may_use_the_iterator_that_called_it() -> None:
    nested: list[int] = []

    def decompress(codec: int, payload: memoryview) -> bytes:
        if not nested:
            nested.append(0)
            nested.append(next(iterator).offset)
        return PLAIN

    data = b"".join(compressed_batch(base=base) for base in (7, 8, 9))
    iterator = iter(_native.Records(data, decompress=decompress))
    assert next(iterator).offset == 7
    assert nested == [0, 8]


# ---------------------------------------------------------------- damage inside of batches


def damaged(payload: bytes, count: int = 1, last_offset_delta: int = 0) -> bytes:
    return _native.make_batch(
        [], payload=payload, count=count, last_offset_delta=last_offset_delta, base_offset=50
    )


def wrapped(body: bytes) -> bytes:
    return reference.zigzag_varint(len(body)) + body


GOOD = reference.Record(0, 0, b"k", b"v")
varint = reference.zigzag_varint
DAMAGED = {
    "a length past the batch": varint(100) + GOOD.encode()[1:],
    "a negative length": varint(-5) + GOOD.encode()[1:],
    "a length that does not end": b"\xff" * 12,
    "an empty body": varint(0) + bytes(7),
    "a key past the record": wrapped(b"\0\0\0" + varint(50) + b"k" + varint(1) + b"v\0"),
    "a key of length -2": wrapped(b"\0\0\0" + varint(-2) + varint(1) + b"v\0"),
    "a value past the record": wrapped(b"\0\0\0" + varint(-1) + varint(2**31 - 1) + b"v\0"),
    "a value of length -2**31": wrapped(b"\0\0\0" + varint(-1) + varint(-(2**31)) + b"v\0"),
    "a negative count of headers": wrapped(b"\0\0\0\1\1" + varint(-1)),
    "more headers than bytes": wrapped(b"\0\0\0\1\1" + varint(2**31 - 1)),
    "a header without a name": wrapped(b"\0\0\0\1\1" + varint(1) + varint(-1) + varint(-1)),
    "a header's value past the record": wrapped(b"\0\0\0\1\1" + varint(1) + b"\0" + varint(9)),
    "bytes behind the headers": wrapped(b"\0\0\0\1\1\0extra"),
    "bytes behind the last record": GOOD.encode() + b"x",
    "an offset outside of the batch": wrapped(b"\0\0" + varint(1) + b"\1\1\0\0"[:3]),
    "a negative offset": wrapped(b"\0\0" + varint(-1) + b"\1\1\0"),
    "a timestamp that overflows": wrapped(b"\0" + varint(-(2**63)) + b"\0\1\1\0"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_record_that_breaks_the_format_raises_the_range_of_its_batch(name: str) -> None:
    base_timestamp = {"base_timestamp": -1, "max_timestamp": 0}
    data = _native.make_batch(
        [], payload=DAMAGED[name], count=1, last_offset_delta=0, base_offset=50, **base_timestamp
    )
    with pytest.raises(CorruptRangeError) as caught:
        list(_native.Records(data))
    assert (caught.value.first, caught.value.last) == (50, 50)
    with pytest.raises(CorruptRangeError):
        _native.Records(data).columns()


def test_offsets_must_ascend_within_a_batch() -> None:
    twice = damaged(GOOD.encode() * 2, count=2, last_offset_delta=5)
    with pytest.raises(CorruptRangeError) as caught:
        list(_native.Records(twice))
    assert (caught.value.first, caught.value.last) == (50, 55)


def test_iteration_goes_on_behind_a_damaged_batch() -> None:
    after = _native.make_batch([(0, 0, b"k", b"after")], base_offset=60)
    iterator = iter(_native.Records(damaged(b"nothing good") + after))
    with pytest.raises(CorruptRangeError):
        next(iterator)
    assert next(iterator).value == b"after"
    with pytest.raises(StopIteration):
        next(iterator)


def test_a_header_that_is_no_header_ends_the_iteration_with_what_is_unreadable() -> None:
    good = _native.make_batch([(0, 0, b"k", b"v")], base_offset=50)
    records = _native.Records(good + b"\xff" * 80, next_offset=70)
    iterator = iter(records)
    assert next(iterator).offset == 50
    with pytest.raises(CorruptRangeError) as caught:
        next(iterator)
    assert (caught.value.first, caught.value.last) == (51, 69)
    with pytest.raises(StopIteration):
        next(iterator)
    with pytest.raises(CorruptRangeError):
        len(records)


def test_headers_whose_bytes_changed_after_parsing_raise_and_do_not_read_past_them() -> None:
    data = bytearray(_native.make_batch([(0, 0, b"k", b"v", [("name", b"value")])]))
    (record,) = _native.Records(data)
    data[-11] = 0x7E  # the name now claims 63 bytes
    with pytest.raises(Exception, match="format"):
        _ = record.headers


@pytest.mark.parametrize("seed", range(3))
def test_random_payloads_are_refused_or_decoded_as_the_reference_does(seed: int) -> None:
    source = random.Random(seed)
    outcomes = {True: 0, False: 0}
    good = [reference.Record(i, i, b"k", b"v", (("h", b"x"),)).encode() for i in range(3)]
    for _ in range(3000):
        payload = bytearray(b"".join(good))
        for _ in range(source.choice([0, 1, 1, 2])):
            payload[source.randrange(len(payload))] = source.randrange(256)
        data = damaged(bytes(payload), count=3, last_offset_delta=2)
        outcomes[agrees(data, bytes(payload))] += 1
    assert min(outcomes.values()) > 100


def agrees(data: bytes, payload: bytes) -> bool:
    """Return whether the payload decodes; fail when the core and the reference disagree."""
    try:
        expected = reference.decode_records(payload, 3)
        deltas = [record.offset_delta for record in expected]
        is_good = deltas == sorted(set(deltas)) and min(deltas) >= 0 and max(deltas) <= 2
    except reference.FormatError:
        is_good = False
    try:
        found = list(_native.Records(data))
    except CorruptRangeError:
        assert not is_good, payload.hex()
        return False
    assert is_good, payload.hex()
    assert [(r.key, r.value, r.headers) for r in found] == [
        (r.key, r.value, r.headers) for r in expected
    ]
    return True
