"""Tables in memory: a mapping of the latest values, changes, waiting, and where replay ends."""

from __future__ import annotations

import gzip
import logging
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from tables import FOLLOW, fold
from tail_memory import in_thread

import pylog
from pylog import Log, Table, TableChange, Topic, _native, errors
from pylog.storage import layout

HIGH_WATERMARK: Any = pylog.Partition.high_watermark


@pytest.fixture
def topic(log: Log) -> Topic:
    return log.create_topic("profiles", durability="os", cleanup_policy="compact")


# ------------------------------------------------------------------ a mapping


@pytest.mark.parametrize("follow", FOLLOW)
def test_a_table_is_a_mapping_of_the_latest_values(log: Log, topic: Topic, follow: Any) -> None:
    topic.append_many([b"1", b"2", b"3", None], keys=[b"a", b"b", b"a", b"b"])
    with log.table("profiles", follow=follow) as table:
        assert table[b"a"] == b"3"
        assert b"b" not in table and "a" not in table
        assert (len(table), list(table)) == (1, [b"a"])
        assert table == {b"a": b"3"} == dict(table) == table.snapshot()
        assert list(table.items()) == [(b"a", b"3")]
        assert (list(table.keys()), list(table.values())) == ([b"a"], [b"3"])
        assert (table.get(b"a"), table.get(b"b"), table.get(b"b", 7)) == (b"3", None, 7)
        with pytest.raises(KeyError):
            table[b"b"]
        table.check()


def test_an_empty_topic_is_an_empty_table(log: Log, topic: Topic) -> None:
    table = log.table("profiles")
    assert dict(table) == {}
    assert table.refresh() == table.offsets == {0: 0}
    table.check()


def test_opening_a_table_reads_nothing(tmp_path: Path) -> None:
    reads: list[pylog.ReadEvent] = []
    with pylog.open(tmp_path, on_read=reads.append) as log:
        log.create_topic("t").append(b"1", key=b"a")
        table = log.table("t")
        assert (table.offsets, reads) == ({}, [])
        assert len(table) == 1
        assert [(event.first_offset, event.records) for event in reads] == [(0, 1)]
        assert (len(table), table[b"a"], len(reads)) == (1, b"1", 1)


@pytest.mark.parametrize("given", [{"follow": "always"}, {"if_stale": "ignore"}])
def test_settings_that_do_not_exist_are_refused(
    log: Log, topic: Topic, given: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidConfigurationError):
        log.table("profiles", **given)


def test_a_topic_that_does_not_exist_has_no_table(log: Log) -> None:
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        log.table("nowhere")


def test_records_without_a_key_are_passed_over_and_counted(log: Log) -> None:
    topic = log.create_topic("t", durability="os", cleanup_policy="delete")
    topic.append_many([b"1", b"2", None], keys=[None, b"a", None])
    table = log.table("t")
    assert (dict(table), table.keyless_records, table.offsets) == ({b"a": b"2"}, 2, {0: 3})


def test_what_was_iterated_over_is_of_the_moment_when_it_began(log: Log, topic: Topic) -> None:
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    table = log.table("profiles")
    views = [iter(table), iter(table.keys()), iter(table.values()), iter(table.items())]
    snapshot = table.snapshot()
    topic.append_many([None, b"3", b"4"], keys=[b"a", b"b", b"c"])
    assert dict(table) == {b"b": b"3", b"c": b"4"}
    assert [list(view) for view in views] == [
        [b"a", b"b"],
        [b"a", b"b"],
        [b"1", b"2"],
        [(b"a", b"1"), (b"b", b"2")],
    ]
    assert snapshot == {b"a": b"1", b"b": b"2"}


# ------------------------------------------------------------------ changes


@pytest.mark.parametrize("follow", FOLLOW)
def test_each_record_that_changes_a_key_is_told_of(log: Log, topic: Topic, follow: Any) -> None:
    told: list[TableChange] = []
    topic.append_many([b"1", b"2"], keys=[b"a", b"a"], timestamps=[10, 20])
    table = log.table("profiles", follow=follow, on_change=told.append)
    assert told == []
    assert len(table) == 1
    topic.append_many([None, None, b"3"], keys=[b"a", b"b", b"c"], timestamps=[30, 40, 50])
    table.refresh()
    assert told == [
        TableChange("profiles", 0, 0, 10, b"a", None, b"1"),
        TableChange("profiles", 0, 1, 20, b"a", b"1", b"2"),
        TableChange("profiles", 0, 2, 30, b"a", b"2", None),
        TableChange("profiles", 0, 4, 50, b"c", None, b"3"),
    ]


def test_changes_without_a_key_are_not_told_of(log: Log) -> None:
    told: list[TableChange] = []
    topic = log.create_topic("t", durability="os", cleanup_policy="delete")
    topic.append_many([b"1", b"2"], keys=[None, b"a"])
    log.table("t", on_change=told.append).refresh()
    assert [change.key for change in told] == [b"a"]


@pytest.mark.parametrize("follow", FOLLOW)
def test_who_is_told_may_use_the_table_and_the_topic(log: Log, topic: Topic, follow: Any) -> None:
    seen: list[tuple[bytes, dict[int, int]]] = []

    def on_change(change: TableChange) -> None:
        seen.append((table[change.key], table.refresh()))
        if change.offset < 3:
            topic.append(b"%d" % (change.offset + 1), key=b"a")

    table = log.table("profiles", follow=follow, on_change=on_change)
    topic.append(b"0", key=b"a")
    while len(seen) < 4:
        table.refresh()
    assert seen == [(b"%d" % n, {0: n + 1}) for n in range(4)]


def test_changes_are_told_of_in_order_also_when_who_is_told_appends(log: Log, topic: Topic) -> None:
    told: list[int] = []

    def on_change(change: TableChange) -> None:
        told.append(change.offset)
        if change.offset == 0:
            topic.append(b"3", key=b"c")
            assert table[b"b"] == b"2"
            assert table.refresh() == {0: 2}

    table = log.table("profiles", on_change=on_change)
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    table.refresh()
    assert len(table) == 3
    assert told == [0, 1, 2]


def test_what_who_is_told_raises_is_logged_and_harms_nothing(
    log: Log, topic: Topic, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(change: TableChange) -> None:
        raise RuntimeError("no good")

    table = log.table("profiles", on_change=fail)
    topic.append_many([b"1", b"2"], keys=[b"a", b"b"])
    with caplog.at_level(logging.ERROR, "pylog"):
        assert dict(table) == {b"a": b"1", b"b": b"2"}
    assert [record.message.count("on_change of a table") for record in caplog.records] == [1, 1]


# ------------------------------------------------------------------ waiting


@pytest.mark.parametrize("follow", FOLLOW)
def test_waiting_for_what_an_append_returned_ends_when_the_table_has_it(
    log: Log, follow: Any
) -> None:
    topic = log.create_topic("t", partitions=3, durability="os")
    table = log.table("t", follow=follow)
    for turn in range(20):
        metadata = topic.append(b"%d" % turn, key=b"%d" % turn)
        assert table.wait_for(metadata)
        assert table.offsets[metadata.partition] == metadata.offset + 1
        assert table.wait_for(metadata.offset, partition=metadata.partition, timeout=0)


def test_waiting_ends_when_another_thread_appends(log: Log, topic: Topic) -> None:
    table = log.table("profiles")
    results: list[bool] = []
    thread = in_thread(lambda: results.append(table.wait_for(1, timeout=30)))
    topic.append(b"1", key=b"a")
    topic.append(b"2", key=b"a")
    thread.join()
    assert results == [True]


def test_waiting_ends_when_the_time_is_over(log: Log, topic: Topic) -> None:
    topic.append(b"1", key=b"a")
    table = log.table("profiles")
    assert not table.wait_for(1, timeout=0)
    assert not table.wait_for(1, timeout=0.001)
    assert table.wait_for(0, timeout=0)


@pytest.mark.parametrize("timeout", [None, 100])
@pytest.mark.parametrize("end", ["table", "topic"])
def test_waiting_ends_with_the_table_and_with_the_topic(
    log: Log, topic: Topic, monkeypatch: pytest.MonkeyPatch, end: str, timeout: float | None
) -> None:
    table, partition = log.table("profiles"), topic.partition(0)
    wait, is_waiting = partition.wait, threading.Event()
    raised: list[type[Exception]] = []

    def told(offset: int, timeout: float) -> bool:
        is_waiting.set()
        return wait(offset, timeout)

    def wait_for() -> None:
        try:
            table.wait_for(1, timeout=timeout)
        except errors.PylogError as error:
            raised.append(type(error))

    monkeypatch.setattr(partition, "wait", told)
    monkeypatch.setattr("pylog.table.table.LOOK_AGAIN_SECONDS", 0.001)
    thread = in_thread(wait_for)
    is_waiting.wait()
    if end == "table":
        table.close()
    else:
        log.delete_topic("profiles")
    thread.join()
    expected = errors.ClosedError if end == "table" else errors.UnknownTopicOrPartitionError
    assert raised == [expected]


def test_waiting_for_what_cannot_come_is_refused(log: Log, topic: Topic) -> None:
    other = log.create_topic("other", partitions=2, durability="os")
    with pytest.raises(ValueError, match="metadata is of topic 'other'"):
        log.table("profiles").wait_for(other.append(b"1", key=b"a"))
    with pytest.raises(ValueError, match="an offset needs a partition"):
        log.table("other").wait_for(0)
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        log.table("other").wait_for(0, partition=2)


# ------------------------------------------------------------------ exactly to the end


@pytest.mark.parametrize("codec", [None, "gzip", "lz4"])
def test_refresh_ends_exactly_where_it_was_asked_to(log: Log, codec: str | None) -> None:
    settings = {} if codec is None else {"compression_type": codec}
    topic = log.create_topic("t", durability="os", **settings)
    table = log.table("t", follow="never")
    end = 0
    for count in (1, 7, 300, 2):
        topic.append_many([b"v" * 300] * count, keys=[b"%d" % n for n in range(count)])
        end += count
        assert table.refresh() == {0: end}
        assert dict(table) == fold(topic)


def test_a_large_topic_is_read_in_pieces(tmp_path: Path) -> None:
    reads: list[pylog.ReadEvent] = []
    with pylog.open(tmp_path, on_read=reads.append) as log:
        topic = log.create_topic("t", durability="os", segment_bytes=1 << 20)
        for start in range(0, 10_000, 100):
            keys = [b"%d" % (n % 3000) for n in range(start, start + 100)]
            topic.append_many([b"%0200d" % n for n in range(start, start + 100)], keys=keys)
        table = log.table("t")
        assert len(table) == 3000
        assert table == fold(topic)
        table.check()
    assert len(reads) > 5


def write_foreign_segments(path: Path) -> dict[int, tuple[bytes, bytes | None]]:
    """Write a partition as Kafka leaves one that was compacted; return its records by offset.

    Gaps inside of batches, between them, and at the end of a segment; empty batches, a control
    batch, compressed batches and null values.
    """
    records: dict[int, tuple[bytes, bytes | None]] = {}

    def batch(base: int, rows: dict[int, tuple[bytes, bytes | None]], **header: Any) -> bytes:
        records.update({base + delta: row for delta, row in rows.items()})
        tuples = [(delta, 0, key, value) for delta, (key, value) in rows.items()]
        return _native.make_batch(tuples, base_offset=base, base_timestamp=1, **header)

    marker = _native.make_batch(
        [(0, 0, b"\x00\x00\x00\x01", b"\x00" * 6)], base_offset=31, attributes=0x30, producer_id=5
    )
    zipped = [(0, 0, b"a", b"5"), (3, 0, b"b", None)]
    payload = gzip.compress(_native.make_batch(zipped)[_native.BATCH_HEADER_BYTES :])
    records.update({40: (b"a", b"5"), 43: (b"b", None)})
    first = [
        batch(0, {1: (b"a", b"1"), 4: (b"b", b"1")}, last_offset_delta=6),
        batch(9, {}, last_offset_delta=3),
        batch(20, {0: (b"c", b"2"), 1: (b"a", None), 5: (b"d", b"2")}, last_offset_delta=9),
        batch(30, {0: (b"d", None)}, attributes=0x10, producer_id=5),
        marker,
        _native.make_batch(
            [], base_offset=40, attributes=1, count=2, last_offset_delta=5, payload=payload
        ),
        batch(46, {}, last_offset_delta=1),
    ]
    path.mkdir()
    (path / layout.log_name(0)).write_bytes(b"".join(first))
    (path / layout.log_name(60)).write_bytes(
        batch(60, {0: (b"c", None)}) + batch(61, {0: (b"e", b"6"), 1: (b"a", b"6")})
    )
    return records


def pretend_end(monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    """Let tables see no more than [0, end) of topic t."""

    def pretended(partition: pylog.Partition) -> int:
        return end if partition.topic == "t" else int(HIGH_WATERMARK.fget(partition))

    monkeypatch.setattr(pylog.Partition, "high_watermark", property(pretended))


@pytest.mark.parametrize("read_bytes", [1, 200, 1 << 18])
def test_replay_passes_gaps_markers_and_empty_batches_and_ends_where_it_was_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int
) -> None:
    monkeypatch.setattr("pylog.table.state.MemoryState.read_bytes", read_bytes)
    with pylog.open(tmp_path) as log:
        partition = log.create_topic("t").partition(0)
        records = write_foreign_segments(tmp_path / "t-0")
        assert partition.high_watermark == 63
        for end in range(64):
            pretend_end(monkeypatch, end)
            table = log.table("t", follow="never")
            assert table.refresh() == {0: end}
            expected: dict[bytes, bytes | None] = {}
            for offset in sorted(records):
                if offset < end:
                    expected[records[offset][0]] = records[offset][1]
            assert dict(table) == {key: value for key, value in expected.items() if value}
            # And on from there, in steps.
            pretend_end(monkeypatch, min(63, end + 7))
            assert table.refresh() == {0: min(63, end + 7)}


# ------------------------------------------------------------------ a model


@pytest.mark.parametrize("seed", range(8))
def test_tables_agree_with_a_dict_through_anything(tmp_path: Path, seed: int) -> None:
    pick = random.Random(seed)
    print(f"seed {seed}")
    model: dict[bytes, bytes] = {}
    with pylog.open(tmp_path) as log:
        topic = log.create_topic(
            "t",
            partitions=pick.choice([1, 3]),
            durability="os",
            segment_bytes=2000,
            compression_type=pick.choice(["producer", "gzip", "lz4"]),
        )
        tables: dict[Any, Table] = {follow: log.table("t", follow=follow) for follow in FOLLOW}
        for _ in range(60):
            rows = [
                (
                    b"%d" % pick.randrange(15),
                    pick.choice([None, pick.randbytes(pick.randrange(90))]),
                )
                for _ in range(pick.randrange(1, 12))
            ]
            topic.append_many([value for _, value in rows], keys=[key for key, _ in rows])
            for key, value in rows:
                if value is None:
                    model.pop(key, None)
                else:
                    model[key] = value
            if pick.randrange(4) == 0:
                chosen = pick.choice(FOLLOW)
                tables[chosen].close()
                tables[chosen] = log.table("t", follow=chosen)
            ends = {one.number: one.high_watermark for one in topic.partitions}
            assert tables["never"].refresh() == ends
            for table in tables.values():
                for number, end in ends.items():
                    assert end == 0 or table.wait_for(end - 1, partition=number)
                assert dict(table) == model
                table.check()
