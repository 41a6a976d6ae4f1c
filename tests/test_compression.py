"""Topics with a codec: what is written, what others decode, and how large a batch may be."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka_clients import (
    AiokafkaBatch,
    AiokafkaBuilder,
    KafkaPythonBatch,
    KafkaPythonBuilder,
    missing_extra,
)
from partitions import NOW, bases, logs_in, make_partition, values

import pylog
from pylog import Log, TopicConfig, _native, codecs
from pylog.codecs import UNCOMPRESSED, Compression
from pylog.errors import MissingExtraError, OffsetMismatchError, RecordTooLargeError
from pylog.storage.encoding import compression_of, recode

ZSTD_MODULE = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"

NAMES = ["gzip", "snappy", "lz4", "zstd"]
EVENT = b'{"user": %d, "action": "click", "page": "/shop/shoes"}'


def needs(name: str) -> None:
    if name == "zstd":
        pytest.importorskip(ZSTD_MODULE, reason="needs the extra zstd")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    needs(request.param)
    return str(request.param)


def stored_batches(path: Path) -> list[tuple[dict[str, int], bytes]]:
    """Header and bytes of every batch of the partition, as they stand in its files."""
    found = []
    for log in logs_in(path):
        data = log.read_bytes()
        for header in _native.batch_headers(data):
            start = header["position"]
            found.append((header, data[start : start + header["size"]]))
    return found


def codecs_in(path: Path) -> list[int]:
    return [header["attributes"] & 7 for header, _ in stored_batches(path)]


def random_records(source: random.Random, count: int) -> dict[str, list[Any]]:
    def text(limit: int) -> bytes | None:
        words = (b"", b"abc", source.randbytes(source.randrange(limit)))
        return source.choice([None, b"", source.choice(words) * source.randrange(1, 20)])

    return {
        "values": [text(100) for _ in range(count)],
        "keys": [text(20) for _ in range(count)],
        "headers": [
            [(f"h\u00fc{i}", text(10)) for i in range(source.choice([0, 0, 0, 1, 3]))]
            for _ in range(count)
        ],
        "timestamps": [NOW + source.randrange(-9000, 9000) for _ in range(count)],
    }


def expected_facts(records: dict[str, list[Any]], first: int = 0) -> list[tuple[Any, ...]]:
    columns = (records["timestamps"], records["keys"], records["values"], records["headers"])
    return [
        (first + row, timestamp, key, value, tuple(headers))
        for row, (timestamp, key, value, headers) in enumerate(zip(*columns, strict=True))
    ]


def facts(record: Any) -> tuple[Any, ...]:
    headers = tuple((name, _bytes(value)) for name, value in record.headers)
    key, value = _bytes(record.key), _bytes(record.value)
    return record.offset, record.timestamp, key, value, headers


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


# ---------------------------------------------------------------- what is written


def test_topic_with_a_codec_compresses_every_append(log: Log, tmp_path: Path, name: str) -> None:
    partition = make_partition(log, compression_type=name)
    records = random_records(random.Random(1), 200)
    appended = partition.append_many(**records)
    single = partition.append(b"value" * 50, None, [("a", None)], NOW)
    assert (list(appended.offsets), single.offset) == (list(range(200)), 200)
    assert codecs_in(tmp_path) == [codecs.NUMBERS[name]] * 2
    found = [facts(record) for record in partition.records()]
    assert found[:200] == expected_facts(records)
    assert found[200] == (200, NOW, None, b"value" * 50, (("a", None),))
    partition.check()


def test_producer_compresses_no_more_than_can_be_read_again(log: Log) -> None:
    large = codecs.MAX_DECOMPRESSED_BYTES // 3
    config: dict[str, Any] = {"max_message_bytes": 200 << 20, "segment_bytes": 400 << 20}
    partition = log.create_topic("large", durability="os", **config).partition(0)
    with log.producer(
        compression="lz4", batch_size=150 << 20, buffer_memory=1 << 30, linger_ms=60_000
    ) as producer:
        futures = [producer.send("large", bytes(large)) for _ in range(4)]
        too_large = producer.send("large", bytes(codecs.MAX_DECOMPRESSED_BYTES))
    assert [future.result().offset for future in futures] == [0, 1, 2, 3]
    assert isinstance(too_large.exception(), RecordTooLargeError)
    assert [len(record.value or b"") for record in partition.records()] == [large] * 4


def test_compressed_batches_outlive_the_log(tmp_path: Path, name: str) -> None:
    events = [EVENT % row for row in range(5000)]
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t", compression_type=name).partition(0)
        partition.append_many(events)
        partition.append(b"last")
    (header, _), _ = stored_batches(tmp_path)
    assert header["size"] < sum(map(len, events)) / 3
    with pylog.open(tmp_path) as log:
        partition = log.topic("t").partition(0)
        assert values(partition) == [*events, b"last"]
        assert [record.value for record in partition.read(4321)][:2] == events[4321:4323]
        columns = partition.read_columns(100)
        assert (columns.value(0), len(columns)) == (events[100], 4901)


def test_topic_of_its_producers_is_not_compressed_by_the_log(log: Log, tmp_path: Path) -> None:
    partition = make_partition(log)
    assert partition.config.compression_type == "producer"
    partition.append_many([EVENT] * 100)
    partition.append(EVENT)
    assert codecs_in(tmp_path) == [codecs.NONE] * 2


@pytest.mark.parametrize(
    ("topic", "producer", "written"),
    [
        ("producer", "none", "none"),
        ("producer", "gzip", "gzip"),
        ("uncompressed", "gzip", "none"),
        ("lz4", "gzip", "lz4"),
        ("gzip", "none", "gzip"),
    ],
)
def test_topic_overrules_the_producer_as_in_kafka(
    log: Log, tmp_path: Path, topic: str, producer: str, written: str
) -> None:
    partition = make_partition(log, compression_type=topic)
    compression = Compression.named(producer)
    partition.append_chunks(
        partition.encode_chunks([EVENT] * 9, None, None, NOW, compression=compression)
    )
    assert codecs_in(tmp_path) == [codecs.NUMBERS[written]]
    assert values(partition) == [EVENT] * 9


def test_levels_of_the_topic_are_used() -> None:
    config = TopicConfig(
        compression_gzip_level=2, compression_lz4_level=3, compression_zstd_level=-4
    )
    levels = {}
    for name in NAMES:
        config = TopicConfig.from_settings(
            **{**{key: getattr(config, key) for key in config.__slots__}, "compression_type": name}
        )
        levels[name] = compression_of(config).level
    assert levels == {"gzip": 2, "snappy": 0, "lz4": 3, "zstd": -4}
    assert compression_of(TopicConfig(), Compression(codecs.ZSTD, 7)).level == 7


def test_codec_stays_when_it_does_not_help(log: Log, tmp_path: Path, name: str) -> None:
    partition = make_partition(log, compression_type=name)
    value = random.Random(2).randbytes(1000)
    partition.append(value)
    ((header, data),) = stored_batches(tmp_path)
    assert header["attributes"] & 7 == codecs.NUMBERS[name]
    assert len(data) > 61 + 1000
    assert values(partition) == [value]


def test_expected_offset_holds_for_a_compressed_append(log: Log) -> None:
    partition = make_partition(log, compression_type="lz4")
    assert partition.append(b"a", expected_offset=0).offset == 0
    with pytest.raises(OffsetMismatchError):
        partition.append(b"b", expected_offset=0)
    assert values(partition) == [b"a"]


def test_keyed_records_are_compressed_in_each_partition(log: Log) -> None:
    topic = log.create_topic("t", partitions=3, compression_type="gzip", durability="os")
    appended = topic.append_many([EVENT] * 90, keys=[b"%d" % row for row in range(90)])
    assert len(set(appended.partitions)) == 3
    assert [record.value for record in topic.read()] == [EVENT] * 90


@pytest.mark.parametrize(
    ("name", "modules", "extra"),
    [
        ("snappy", ["cramjam"], "snappy"),
        ("zstd", ["compression", "compression.zstd", "backports", "backports.zstd"], "zstd"),
    ],
)
def test_without_its_extra_nothing_is_appended(
    log: Log, name: str, modules: list[str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = make_partition(log, compression_type=name)
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pylog\[{extra}\]"):
        partition.append(b"x")
    with pytest.raises(MissingExtraError, match=rf"pylog\[{extra}\]"):
        partition.append_many([b"x"])
    assert partition.log_end_offset == 0


# ---------------------------------------------------------------- how large


def test_record_larger_than_a_batch_fits_when_it_compresses(log: Log, tmp_path: Path) -> None:
    partition = make_partition(log, compression_type="lz4", max_message_bytes=10_000)
    large = b"x" * 1_000_000
    partition.append(large)
    partition.append_many([b"before", large, b"after"])
    assert values(partition) == [large, b"before", large, b"after"]
    assert all(header["size"] <= 10_000 for header, _ in stored_batches(tmp_path))


def test_record_that_does_not_compress_enough_is_refused(log: Log) -> None:
    partition = make_partition(log, compression_type="lz4", max_message_bytes=10_000)
    value = random.Random(3).randbytes(10_000)
    with pytest.raises(RecordTooLargeError) as caught:
        partition.append_many([b"small", value, b"small"])
    assert caught.value.limit == 10_000
    assert 10_000 < caught.value.size < 10_200
    assert caught.value.limit_name == "max_message_bytes"
    with pytest.raises(RecordTooLargeError):
        partition.append(value)
    assert partition.log_end_offset == 0


def test_record_that_no_reader_would_take_is_refused(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = make_partition(log, compression_type="lz4")
    monkeypatch.setattr(codecs, "MAX_DECOMPRESSED_BYTES", 5000)
    partition.append(bytes(4985))
    with pytest.raises(RecordTooLargeError, match="what can be decompressed is 5061") as caught:
        partition.append(bytes(4995))
    assert caught.value.limit == 5061
    partition.append_many([bytes(999)] * 20)
    assert values(partition) == [bytes(4985), *[bytes(999)] * 20]
    # Nor when the batch comes from somebody who does not compress.
    foreign, _ = _native.encode([bytes(4995)], None, None, NOW, 10_000)
    with pytest.raises(RecordTooLargeError, match="what can be decompressed is 5000"):
        recode(foreign, partition.config)


def test_batch_that_grows_past_its_limit_is_written_as_several(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grow(payload: memoryview, level: int) -> bytes:
        # Bytes behind the frame are ignored by a reader of lz4.
        return lz4(payload, level) + b"x" * len(payload)

    lz4 = codecs._ENCODERS[codecs.LZ4]
    monkeypatch.setitem(codecs._ENCODERS, codecs.LZ4, grow)
    partition = make_partition(log, compression_type="lz4", max_message_bytes=10_000)
    some = [random.Random(row).randbytes(100) for row in range(500)]
    partition.append_many(some)
    assert values(partition) == some
    sizes = [header["size"] for header, _ in stored_batches(tmp_path)]
    assert max(sizes) <= 10_000
    assert len(sizes) > 2 * 500 * 100 / 10_000


@pytest.mark.parametrize("seed", range(12))
def test_everything_written_keeps_both_limits_and_is_read(
    log: Log, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print("seed", seed)
    source = random.Random(seed)
    limit = source.choice([400, 3000, 70_000])
    cap = source.choice([500, 40_000, 1 << 20])
    monkeypatch.setattr(codecs, "MAX_DECOMPRESSED_BYTES", cap)
    partition = make_partition(
        log,
        compression_type=source.choice(["gzip", "snappy", "lz4"]),
        max_message_bytes=limit,
        segment_bytes=source.choice([20_000, 1 << 20]),
    )
    expected: list[bytes | None] = []
    refused = 0
    for _ in range(15):
        longest = source.choice([10, 300, 2 * limit])
        some = [
            (source.randbytes(7) * longest if source.random() < 0.5 else source.randbytes(longest))[
                : source.randrange(longest + 1)
            ]
            for _ in range(source.randrange(1, 60))
        ]
        try:
            partition.append_many(some)
            expected += some
        except RecordTooLargeError:
            refused += 1
    assert values(partition) == expected
    for header, data in stored_batches(tmp_path):
        assert header["size"] <= limit
        assert len(codecs.decompress(header["attributes"] & 7, memoryview(data)[61:])) <= cap
    assert len(expected) + refused > 15
    partition.check()


def test_compressed_batches_fill_segments(log: Log, tmp_path: Path) -> None:
    partition = make_partition(
        log, compression_type="gzip", segment_bytes=20_000, max_message_bytes=5000
    )
    some = [random.Random(row).randbytes(300) for row in range(500)]
    appended = partition.append_many(some)
    assert list(appended.offsets) == list(range(500))
    # Four batches of at most 5,000 bytes a segment, 15 records in each.
    assert bases(tmp_path) == list(range(0, 500, 60))
    assert values(partition) == some


def test_compressed_batches_are_placed_together_as_far_as_a_segment_goes(log: Log) -> None:
    partition = make_partition(
        log, compression_type="gzip", segment_bytes=20_000, max_message_bytes=5000
    )
    some = [random.Random(row).randbytes(300) for row in range(100)]
    chunks = partition.encode_chunks(some, None, None, list(range(100))).chunks
    assert [len(_native.batch_headers(chunk.data)) for chunk in chunks] == [4, 3]
    assert [(chunk.record_count, chunk.latest) for chunk in chunks] == [(60, 59), (40, 99)]


# ---------------------------------------------------------------- other clients


def skip_without_extra(client: object, codec: str) -> None:
    if reason := missing_extra(client, codec):
        pytest.skip(reason)


@pytest.mark.parametrize("reader", [KafkaPythonBatch, AiokafkaBatch])
@pytest.mark.parametrize("seed", range(3))
def test_kafka_clients_decode_what_a_topic_wrote(
    log: Log, tmp_path: Path, name: str, reader: Any, seed: int
) -> None:
    skip_without_extra(reader, name)
    print("seed", seed)
    records = random_records(random.Random(seed), 150)
    partition = make_partition(log, compression_type=name, max_message_bytes=3000)
    partition.append_many(**records)
    partition.append(None, None, None, NOW)
    found = []
    for _, data in stored_batches(tmp_path):
        batch = reader(data)
        assert batch.validate_crc()
        found += [facts(record) for record in batch]
    assert found == [*expected_facts(records), (150, NOW, None, None, ())]
    assert len(stored_batches(tmp_path)) > 2


@pytest.mark.parametrize("builder", [KafkaPythonBuilder, AiokafkaBuilder])
@pytest.mark.parametrize("target", ["producer", "uncompressed", "gzip", "lz4"])
def test_what_kafka_clients_wrote_is_brought_to_the_topics_codec(
    name: str, builder: Callable[..., Any], target: str
) -> None:
    skip_without_extra(builder, name)
    records = random_records(random.Random(9), 100)
    made = builder(
        magic=2,
        compression_type=codecs.NUMBERS[name],
        is_transactional=0,
        producer_id=77,
        producer_epoch=2,
        base_sequence=5,
        batch_size=1 << 20,
    )
    for offset, timestamp, key, value, headers in expected_facts(records):
        made.append(offset, timestamp=timestamp, key=key, value=value, headers=list(headers))
    batch = bytearray(made.build())
    config = TopicConfig(compression_type=target)
    stored = recode(batch, config)
    (header,) = _native.batch_headers(stored)
    expected = compression_of(config, Compression.named(name))
    assert header["attributes"] & 7 == expected.codec
    assert (header["producer_id"], header["producer_epoch"], header["base_sequence"]) == (77, 2, 5)
    assert header["crc"] == _native.crc32c(stored[21:])
    found = _native.Records(stored, decompress=codecs.decompress)
    assert [facts(record) for record in found] == expected_facts(records)
    assert (stored == batch) == (target in ("producer", name))


def test_no_compression_is_the_default() -> None:
    assert UNCOMPRESSED == Compression.named("none") == compression_of(TopicConfig())


def test_change_of_codec_counts_for_the_next_append_of_everybody(tmp_path: Path) -> None:
    with pylog.open(tmp_path) as one, pylog.open(tmp_path) as other:
        mine = make_partition(one)
        theirs = other.topic("t").partition(0)
        for partition in (mine, theirs):
            partition.append(EVENT)
        for codec in ("gzip", "uncompressed", "lz4"):
            one.alter_topic("t", compression_type=codec)
            for partition in (mine, theirs):
                partition.append(EVENT)
                partition.append_many([EVENT] * 2)
        assert values(mine) == [EVENT] * 20
    assert codecs_in(tmp_path) == [0, 0, *[codecs.GZIP] * 4, *[0] * 4, *[codecs.LZ4] * 4]
