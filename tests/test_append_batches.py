"""Batches that other clients encoded: what is taken, what is refused, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c
from kafka_clients import AiokafkaBuilder, KafkaPythonBuilder

import pylog
from pylog import Log
from pylog._native import batch_headers, make_batch, stamp_append_time
from pylog.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    OutOfOrderSequenceError,
    RecordTooLargeError,
)

NOW = 1_700_000_000_000
ROWS = [(0, 0, b"k", b"one"), (1, 5, None, b"two", [("h", b"1"), ("i", None)]), (2, 3, b"", None)]
ANY_TIME = {"message_timestamp_after_max_ms": 2**63 - 1}


def made(rows: list[Any] = ROWS, **header: Any) -> bytes:
    header = {"base_timestamp": NOW, "max_timestamp": NOW + 5, "leader_epoch": -1} | header
    return make_batch(rows, **header)


def changed(data: bytes, position: int, value: bytes) -> bytes:
    """Overwrite bytes of one batch, and make its CRC right again."""
    out = bytearray(data)
    out[position : position + len(value)] = value
    out[17:21] = crc32c(bytes(out[21:])).to_bytes(4, "big")
    return bytes(out)


def stored_bytes(log: Log, topic: str = "t") -> bytes:
    files = sorted((Path(log.path) / f"{topic}-0").glob("*.log"))
    data = b"".join(file.read_bytes() for file in files)
    end = max((h["position"] + h["size"] for h in batch_headers(data)), default=0)
    return data[:end]


def by_kafka_python(codec: int, producer: tuple[int, int, int]) -> bytes:
    builder = KafkaPythonBuilder(2, codec, False, *producer, 1 << 20)
    for delta, ahead, key, value, *rest in ROWS:
        builder.append(delta, NOW + ahead, key, value, [(n, v) for n, v in (rest or [[]])[0]])
    return bytes(builder.build())


def by_aiokafka(codec: int, producer: tuple[int, int, int]) -> bytes:
    builder = AiokafkaBuilder(
        2, codec, 0, producer_id=producer[0], producer_epoch=producer[1],
        base_sequence=producer[2], batch_size=1 << 20,
    )  # fmt: skip
    for delta, ahead, key, value, *rest in ROWS:
        builder.append(delta, NOW + ahead, key, value, headers=(rest or [[]])[0])
    return bytes(builder.build())


# ---------------------------------------------------------------- taken


@pytest.mark.parametrize("build", [by_kafka_python, by_aiokafka])
@pytest.mark.parametrize("codec", [0, 1, 3])
@pytest.mark.parametrize("producer", [(-1, -1, -1), (4242, 3, 17)])
def test_other_clients_batches_go_in_and_come_out_equal(
    log: Log, build: Callable[..., bytes], codec: int, producer: tuple[int, int, int]
) -> None:
    partition = log.create_topic("t").partition(0)
    partition.append(b"before")
    data = build(codec, producer)
    assert partition.append_batches(data) == [range(1, 4)]
    # All but base offset and leader epoch, which are the log's to set.
    stored = stored_bytes(log)[-len(data) :]
    assert stored[8:12] + stored[16:] == data[8:12] + data[16:]
    header = batch_headers(stored)[0]
    assert (header["base_offset"], header["leader_epoch"]) == (1, 0)
    assert (header["producer_id"], header["producer_epoch"], header["base_sequence"]) == producer
    found = [(r.timestamp, r.key, r.value, list(r.headers)) for r in partition.records(1)]
    assert found == [(NOW + row[1], row[2], row[3], (row[4:] or [[]])[0]) for row in ROWS]


def test_several_batches_are_appended_together(log: Log) -> None:
    partition = log.create_topic("t", durability="os").partition(0)
    data = made() + made(base_offset=100) + made(ROWS[:1], max_timestamp=NOW)
    assert partition.append_batches(data) == [range(3), range(3, 6), range(6, 7)]
    assert [record.offset for record in partition.records()] == list(range(7))
    partition.check()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_given_is_left_as_it_was(log: Log, kind: Callable[[bytes], Any]) -> None:
    partition = log.create_topic("t", message_timestamp_type="LogAppendTime").partition(0)
    data = made()
    given = kind(data)
    partition.append_batches(given)
    partition.append_batches(given)
    assert bytes(given) == data
    assert partition.log_end_offset == 6


def test_what_was_read_can_be_appended_elsewhere(log: Log) -> None:
    source = log.create_topic("s", durability="os").partition(0)
    source.append_many([b"%d" % n for n in range(100)])
    partition = log.create_topic("t", durability="os", compression_type="lz4").partition(0)
    partition.append_batches(stored_bytes(log, "s"))
    assert [r.value for r in partition.records()] == [r.value for r in source.records()]
    assert {h["attributes"] & 7 for h in batch_headers(stored_bytes(log))} == {3}


def test_log_append_time_replaces_timestamps(log: Log) -> None:
    settings = {"message_timestamp_type": "LogAppendTime"}
    partition = log.create_topic("t", durability="os", **settings).partition(0)
    partition.append_batches(made())
    [timestamp] = {record.timestamp for record in partition.records()}
    assert timestamp > NOW + 5
    assert {record.timestamp_type for record in partition.records()} == {1}


# ---------------------------------------------------------------- refused

GOOD = made()
IMPOSSIBLE = {
    "nothing": b"",
    "a cut header": GOOD[:40],
    "a cut batch": GOOD[:-1],
    "bytes left over": GOOD + b"\0",
    "a batch and a cut one": GOOD + GOOD[:-1],
    "zeros": bytes(100),
    "an older magic": GOOD[:16] + b"\1" + GOOD[17:],
    "a later magic": GOOD[:16] + b"\3" + GOOD[17:],
    "a wrong CRC": GOOD[:-1] + b"\1",
    "a count below the last delta": changed(GOOD, 57, (2).to_bytes(4, "big")),
    "a last delta beyond the count": changed(GOOD, 23, (3).to_bytes(4, "big")),
    "no records": make_batch([], last_offset_delta=0, count=0, leader_epoch=-1),
    "an unknown codec": changed(GOOD, 21, b"\0\5"),
    "a codec that the payload is not in": changed(GOOD, 21, b"\0\3"),
    "log append time": changed(GOOD, 21, b"\0\x08"),
    "a transaction": changed(GOOD, 21, b"\0\x10"),
    "a control batch": changed(GOOD, 21, b"\0\x20"),
    "a delete horizon": changed(GOOD, 21, b"\0\x40"),
    "a producer without a sequence": made(producer_id=5, producer_epoch=0, base_sequence=-1),
    "a producer without an epoch": made(producer_id=5, producer_epoch=-1, base_sequence=0),
    "a sequence without a producer": made(producer_id=-1, producer_epoch=-1, base_sequence=4),
    "a negative producer": made(producer_id=-2, producer_epoch=-1, base_sequence=-1),
    "offsets with a gap": made([(0, 0, None, b"a"), (2, 0, None, b"b")], max_timestamp=NOW),
    "a greatest timestamp that none has": made(max_timestamp=NOW + 6),
    "a greatest timestamp that is not": made(max_timestamp=NOW + 4),
    "a negative timestamp": made([(0, -NOW - 1, None, b"")], max_timestamp=-1),
    "records that do not parse": changed(GOOD, 61, b"\x7e"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_kafka_would_not_take_is_refused_whole(log: Log, name: str) -> None:
    partition = log.create_topic("t", durability="os", **ANY_TIME).partition(0)
    for data in (IMPOSSIBLE[name], GOOD + IMPOSSIBLE[name] if name != "nothing" else b""):
        with pytest.raises(InvalidRecordError):
            partition.append_batches(data)
    assert partition.log_end_offset == 0
    assert partition.append_batches(GOOD) == [range(3)]


def test_batch_is_refused_wherever_a_bit_is_flipped_or_it_is_cut(log: Log) -> None:
    partition = log.create_topic("t", durability="os").partition(0)
    for size in range(len(GOOD)):
        with pytest.raises(InvalidRecordError):
            partition.append_batches(GOOD[:size])
    for position in range(16, len(GOOD)):
        flipped = bytearray(GOOD)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(InvalidRecordError):
            partition.append_batches(flipped)
    assert partition.log_end_offset == 0


def test_batch_larger_than_its_topic_allows_is_refused(log: Log) -> None:
    partition = log.create_topic("t", max_message_bytes=len(GOOD) - 1).partition(0)
    with pytest.raises(RecordTooLargeError) as caught:
        partition.append_batches(made(ROWS[:1], max_timestamp=NOW) + GOOD)
    assert caught.value.size == len(GOOD)
    assert partition.log_end_offset == 0


def test_more_than_fits_a_segment_is_refused(log: Log) -> None:
    limit = 2 * len(GOOD)
    partition = log.create_topic(
        "t", segment_bytes=limit, max_message_bytes=limit, index_interval_bytes=64
    ).partition(0)
    with pytest.raises(RecordTooLargeError):
        partition.append_batches(GOOD * 3)
    assert partition.append_batches(GOOD * 2) == [range(3), range(3, 6)]


def test_timestamp_too_far_from_now_is_refused(log: Log) -> None:
    far = make_batch([(0, 0, None, b"")], base_timestamp=2**61, max_timestamp=2**61)
    partition = log.create_topic("t", durability="os").partition(0)
    with pytest.raises(InvalidTimestampError):
        partition.append_batches(far)
    stamped = log.create_topic("u", durability="os", message_timestamp_type="LogAppendTime")
    assert stamped.partition(0).append_batches(far) == [range(1)]


def test_compacted_topic_wants_keys(log: Log) -> None:
    partition = log.create_topic("t", durability="os", cleanup_policy="compact").partition(0)
    with pytest.raises(InvalidRecordError):
        partition.append_batches(GOOD)
    assert partition.append_batches(made(ROWS[:1], max_timestamp=NOW)) == [range(1)]


def test_text_is_no_batch(log: Log) -> None:
    with pytest.raises(TypeError):
        log.create_topic("t").partition(0).append_batches("text")  # type: ignore[arg-type]


# ---------------------------------------------------------------- producers


def test_repetition_gets_the_offsets_that_it_has_and_a_gap_is_refused(log: Log) -> None:
    partition = log.create_topic("t").partition(0)

    def numbered(sequence: int) -> bytes:
        return made(producer_id=9, producer_epoch=0, base_sequence=sequence)

    assert partition.append_batches(numbered(0) + numbered(3)) == [range(3), range(3, 6)]
    partition.append(b"between")
    assert partition.append_batches(numbered(3)) == [range(3, 6)]
    mixed = numbered(0) + made() + numbered(3) + numbered(6)
    assert partition.append_batches(mixed) == [range(3), range(7, 10), range(3, 6), range(10, 13)]
    with pytest.raises(OutOfOrderSequenceError):
        partition.append_batches(numbered(9) + numbered(15))
    assert partition.log_end_offset == 13


def test_stamp_gives_the_records_own_timestamps_back() -> None:
    data = bytearray(GOOD + GOOD)
    stamp_append_time(data, NOW + 99)
    headers = batch_headers(data)
    assert [(h["attributes"], h["max_timestamp"]) for h in headers] == [(8, NOW + 99)] * 2
    for header in headers:
        start = header["position"]
        assert crc32c(bytes(data[start + 21 : start + header["size"]])) == header["crc"]
    stamp_append_time(data, -1)
    assert [h["attributes"] for h in batch_headers(data)] == [0, 0]
    with pytest.raises(pylog.errors.CorruptionError):
        stamp_append_time(bytearray(GOOD[:-1]), NOW)
