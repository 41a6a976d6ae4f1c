"""Batches as Kafka's own code writes them, in both directions, and against the reference."""

from __future__ import annotations

import gzip
import io
import json
import pathlib
import random
import struct
from typing import Any

import cramjam
import lz4.frame
import pytest
import reference
from kafka_clients import AiokafkaBatch, AiokafkaBuilder, KafkaPythonBatch, KafkaPythonBuilder

from pylog import _native
from pylog.errors import InvalidTimestampError, RecordTooLargeError

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "batches.json").read_text())
BATCHES = {name: bytes.fromhex(text) for name, text in GOLDEN["batches"].items()}
T = 1_700_000_000_000


def decompress(codec: int, payload: memoryview) -> bytes:
    """Undo a codec with its own library, as the storage floor does."""
    data = bytes(payload)
    if codec == 1:
        return gzip.decompress(data)
    if codec == 2:
        return xerial(data)
    if codec == 3:
        return bytes(lz4.frame.decompress(data))
    return bytes(cramjam.zstd.decompress(data))


def xerial(data: bytes) -> bytes:
    """Undo snappy-java's framing."""
    stream, plain = io.BytesIO(data[16:]), b""
    while prefix := stream.read(4):
        plain += bytes(cramjam.snappy.decompress_raw(stream.read(int.from_bytes(prefix, "big"))))
    return plain


def facts(record: _native.Record) -> tuple[Any, ...]:
    return record.offset, record.timestamp, record.key, record.value, record.headers


def read(data: bytes, **arguments: Any) -> list[tuple[Any, ...]]:
    records = _native.Records(data, decompress=decompress, include_control=True, **arguments)
    listed = [facts(record) for record in records]
    assert len(records) == len(listed)
    return listed


def reread(data: bytes) -> bytes:
    """Decode a batch with the C core and encode the same facts again."""
    (header,) = _native.batch_headers(data)
    fields = {
        name: value
        for name, value in header.items()
        if name not in ("position", "size", "magic", "crc")
    }
    if header["attributes"] & 7:
        return _native.make_batch([], payload=data[61:], **fields)
    deltas = reference.decode_records(data[61:], header["count"])
    records = []
    for record, delta in zip(_native.Records(data, include_control=True), deltas, strict=True):
        offset_delta = record.offset - header["base_offset"]
        assert offset_delta == delta.offset_delta
        records.append(
            (offset_delta, delta.timestamp_delta, record.key, record.value, record.headers)
        )
    return _native.make_batch(records, **fields)


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize("name", BATCHES)
def test_a_vector_comes_out_byte_for_byte_when_it_is_encoded_again(name: str) -> None:
    assert reread(BATCHES[name]) == BATCHES[name]


@pytest.mark.parametrize("name", BATCHES)
def test_the_reference_agrees_on_every_vector(name: str) -> None:
    data = BATCHES[name]
    header, payload, size = reference.decode_batch(data)
    assert size == len(data)
    if header.codec:
        payload = decompress(header.codec, memoryview(payload))
    expected = [
        (
            header.base_offset + record.offset_delta,
            reference.timestamp_of(header, record),
            record.key,
            record.value,
            record.headers,
        )
        for record in reference.decode_records(payload, header.count)
    ]
    assert read(data) == expected


def test_v1_is_read_as_described() -> None:
    expected = [
        (1000, T, b"k1", b"hello", (("h1", b"v1"), ("h2", None))),
        (1001, T + 5, b"k2", None, ()),
    ]
    assert read(BATCHES["V1"]) == expected
    record = next(iter(_native.Records(BATCHES["V1"], topic="orders", partition=3)))
    assert (record.topic, record.partition, record.leader_epoch) == ("orders", 3, 5)
    assert (record.timestamp_type, record.size) == (0, 24)


@pytest.mark.parametrize("name", [name for name in BATCHES if name.startswith(("V2", "V4b"))])
def test_compressed_vectors_are_read_as_described(name: str) -> None:
    expected = [
        (2000 + i, T + i, b"key-%d" % i, b"value-%d " % i + b"abc" * 24, ()) for i in range(4)
    ]
    if name.startswith("V4b"):
        expected = expected[1:3]
    if name == "V2":
        assert len(expected[0][3]) == 80
    assert read(BATCHES[name]) == expected


def test_log_append_time_replaces_the_timestamp_of_every_record() -> None:
    records = list(_native.Records(BATCHES["V7_log_append_time"]))
    (header,) = _native.batch_headers(BATCHES["V7_log_append_time"])
    assert {record.timestamp for record in records} == {header["max_timestamp"]}
    assert {record.timestamp_type for record in records} == {1}


def test_a_delete_horizon_leaves_timestamps_as_they_were() -> None:
    assert read(BATCHES["V5"]) == read(BATCHES["V1"])
    assert read(BATCHES["V5b"]) == read(BATCHES["V1"])[1:]


def test_an_emptied_batch_has_no_records_but_its_offsets() -> None:
    records = _native.Records(BATCHES["V3"])
    assert (list(records), len(records), bool(records), records.next_offset) == ([], 0, False, 2004)


def test_control_batches_are_hidden_unless_asked_for() -> None:
    for name in ("V6_COMMIT", "V6_ABORT"):
        assert list(_native.Records(BATCHES[name])) == []
        assert len(_native.Records(BATCHES[name])) == 0
        assert len(read(BATCHES[name])) == 1


@pytest.mark.parametrize(("number", "text"), GOLDEN["varints"])
def test_varints_are_kafkas(number: int, text: str) -> None:
    assert reference.zigzag_varint(number).hex() == text
    batch = _native.make_batch([(0, number, None, None)], max_timestamp=0)
    body = bytes.fromhex("00") + bytes.fromhex(text) + bytes.fromhex("00010100")
    assert batch[61:] == reference.zigzag_varint(len(body)) + body
    (record,) = _native.Records(batch)
    assert record.timestamp == number


# ---------------------------------------------------------------- encode() against others


def random_records(source: random.Random, count: int) -> dict[str, list[Any]]:
    def text(limit: int) -> bytes | None:
        return source.choice([None, b"", source.randbytes(source.randrange(limit))])

    return {
        "values": [text(300) for _ in range(count)],
        "keys": [text(20) for _ in range(count)],
        "headers": [
            [(f"h\u00fc{i}", text(10)) for i in range(source.choice([0, 0, 0, 1, 3, 12]))]
            for _ in range(count)
        ],
        "timestamps": [T + source.randrange(-9000, 9000) for _ in range(count)],
    }


def expected_facts(records: dict[str, list[Any]]) -> list[tuple[Any, ...]]:
    columns = (records["timestamps"], records["keys"], records["values"], records["headers"])
    return [
        (offset, timestamp, key, value, tuple(headers))
        for offset, (timestamp, key, value, headers) in enumerate(zip(*columns, strict=True))
    ]


@pytest.mark.parametrize("seed", range(20))
def test_encode_agrees_with_the_reference_on_random_records(seed: int) -> None:
    source = random.Random(seed)
    records = random_records(source, source.randrange(1, 200))
    data, end = _native.encode(**records, max_batch_bytes=source.choice([4300, 20_000, 1 << 20]))
    assert end == len(records["values"])
    rebuilt = b""
    for _, header, payload, _ in reference.batches(bytes(data)):
        decoded = reference.decode_records(payload, header.count)
        rebuilt += reference.encode_batch(header, b"".join(record.encode() for record in decoded))
        stamps = [reference.timestamp_of(header, record) for record in decoded]
        assert (header.base_timestamp, header.max_timestamp) == (stamps[0], max(stamps))
        assert header.last_offset_delta == header.count - 1
        assert (header.leader_epoch, header.producer_id, header.base_sequence) == (-1, -1, -1)
    assert rebuilt == data
    assert read(bytes(data)) == expected_facts(records)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("reader", [KafkaPythonBatch, AiokafkaBatch])
def test_kafka_clients_decode_what_encode_wrote(seed: int, reader: Any) -> None:
    records = random_records(random.Random(seed), 100)
    data, _ = _native.encode(**records, max_batch_bytes=1 << 20)
    batch = reader(bytes(data))
    assert batch.validate_crc()
    decoded = [
        (record.offset, record.timestamp, record.key, record.value, tuple(record.headers))
        for record in batch
    ]
    assert [
        (offset, timestamp, _bytes(key), _bytes(value), tuple((n, _bytes(v)) for n, v in headers))
        for offset, timestamp, key, value, headers in decoded
    ] == expected_facts(records)


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("builder", [KafkaPythonBuilder, AiokafkaBuilder])
@pytest.mark.parametrize("codec", [0, 1, 3])
def test_what_kafka_clients_wrote_is_decoded(seed: int, builder: Any, codec: int) -> None:
    records = random_records(random.Random(100 + seed), 100)
    made = builder(
        magic=2,
        compression_type=codec,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    for offset, timestamp, key, value, headers in expected_facts(records):
        assert made.append(offset, timestamp=timestamp, key=key, value=value, headers=list(headers))
    assert read(bytes(made.build())) == expected_facts(records)


# ---------------------------------------------------------------- encode() itself


def test_batches_are_as_full_as_the_limit_allows() -> None:
    data, end = _native.encode([b"x" * 100] * 1000, None, None, T, 5000)
    headers = _native.batch_headers(data)
    assert end == 1000
    assert [header["base_offset"] for header in headers] == [
        sum(header["count"] for header in headers[:i]) for i in range(len(headers))
    ]
    assert all(5000 - 110 < header["size"] <= 5000 for header in headers[:-1])


def test_encode_stops_before_max_bytes_and_goes_on_from_there() -> None:
    values = [b"%d" % i * 20 for i in range(500)]
    start, rounds, seen = 0, 0, []
    while start < len(values):
        data, end = _native.encode(values, None, None, T, 1000, start, 3000)
        assert len(data) <= 3000
        assert end > start
        seen += [record.value for record in _native.Records(data)]
        start, rounds = end, rounds + 1
    assert seen == values
    assert rounds > 3


def test_at_least_one_record_is_encoded_whatever_max_bytes_says() -> None:
    data, end = _native.encode([b"x" * 100, b"y"], None, None, T, 1000, 0, 10)
    assert (len(list(_native.Records(data))), end) == (1, 1)


def test_a_record_that_just_fits_is_taken_and_one_byte_more_is_refused() -> None:
    data, _ = _native.encode([b"x" * 1000], None, None, T, 1 << 20)
    assert _native.encode([b"x" * 1000], None, None, T, len(data))[0] == data
    with pytest.raises(RecordTooLargeError) as caught:
        _native.encode([b"a", b"x" * 1000], None, None, T, len(data) - 1)
    assert (caught.value.size, caught.value.limit) == (len(data), len(data) - 1)


def test_no_records_make_no_bytes() -> None:
    assert _native.encode([], None, None, T, 1000) == (bytearray(), 0)


def test_any_buffer_is_taken_and_any_sequence() -> None:
    values = (bytearray(b"a"), memoryview(b"b"), None)
    data, _ = _native.encode(
        values, [b"k"] * 3, ((("h", bytearray(b"v")),), None, ()), [T] * 3, 999
    )
    assert read(bytes(data)) == [
        (0, T, b"k", b"a", (("h", b"v"),)),
        (1, T, b"k", b"b", ()),
        (2, T, b"k", None, ()),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([b"a", "b"], None, None, T), r"values\[1\] must be bytes-like or None, not str"),
        (([b"a"], [1], None, T), r"keys\[0\] must be bytes-like or None, not int"),
        (([b"a"], None, [[(b"name", b"v")]], T), "a header must be a pair"),
        (([b"a"], None, [[("name", "v")]], T), "a header's value must be bytes-like"),
        (([b"a"], None, [[("name",)]], T), "a header must be a pair"),
        (([b"a"], None, None, ["now"]), "a timestamp must be an int, not str"),
        ((7, None, None, T), "int"),
    ],
)
def test_wrong_types_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _native.encode(*arguments, 1000)


@pytest.mark.parametrize("timestamps", [-1, [T, -5]])
def test_negative_timestamps_are_refused(timestamps: Any) -> None:
    with pytest.raises(InvalidTimestampError, match=r"outside \[0, "):
        _native.encode([b"a", b"b"], None, None, timestamps, 1000)


def test_sequences_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="keys has 1 elements, values has 2"):
        _native.encode([b"a", b"b"], [b"k"], None, T, 1000)


def test_a_list_that_shrinks_while_it_is_encoded_is_noticed() -> None:
    values: list[Any] = []

    class Shrinking:
        def __index__(self) -> int:
            values.clear()
            return T

    values += [b"a", b"b", b"c"]
    with pytest.raises(IndexError):
        _native.encode(values, None, None, [Shrinking()] * 3, 1000)


def test_what_a_sequence_makes_on_the_fly_stays_alive_until_it_is_written() -> None:
    class Made:
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, index: int) -> bytes:
            return b"%d" % index * 50

    data, _ = _native.encode(Made(), None, None, T, 1 << 20)  # type: ignore[arg-type]
    assert [record.value for record in _native.Records(data)] == [
        b"%d" % i * 50 for i in range(1000)
    ]


def test_make_batch_agrees_with_the_reference_on_every_field() -> None:
    source = random.Random(9)
    for _ in range(50):
        header = reference.Header(
            base_offset=source.randrange(2**62),
            leader_epoch=source.randrange(-1, 2**31),
            attributes=source.choice([0, 8, 16, 32, 64]),
            last_offset_delta=source.randrange(5, 2**31),
            base_timestamp=source.randrange(-1, 2**62),
            max_timestamp=source.randrange(-1, 2**62),
            producer_id=source.randrange(-1, 2**63),
            producer_epoch=source.randrange(-1, 2**15),
            base_sequence=source.randrange(-1, 2**31),
            count=3,
        )
        records = [
            reference.Record(i, source.randrange(-(2**40), 2**40), b"k", None, (("h", None),))
            for i in range(3)
        ]
        fields = {name: getattr(header, name) for name in header.__slots__}
        tuples = [(r.offset_delta, r.timestamp_delta, r.key, r.value, r.headers) for r in records]
        expected = reference.encode_batch(header, b"".join(record.encode() for record in records))
        assert _native.make_batch(tuples, **fields) == expected
        assert _native.make_batch([], **fields, payload=expected[61:]) == expected
        (parsed,) = _native.batch_headers(expected)
        assert {name: parsed[name] for name in fields} == fields
        assert parsed["crc"] == struct.unpack(">I", expected[17:21])[0]
