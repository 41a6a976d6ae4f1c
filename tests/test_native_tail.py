"""Tail in one process: the bytes, marks and index entries that appends make."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tail_memory import NOW, TailMemory, batches_of, stamp_and_publish

from pylog import _native
from pylog.errors import InvalidRecordError, InvalidTimestampError, RecordTooLargeError

NO_ROOM = _native.NO_ROOM
# FORMAT.md 5.3, made by Kafka: six batches of two records and 99 bytes, base 1000, interval 100.
VECTOR_INDEX = bytes.fromhex("00000005000000c6000000090000018c")
VECTOR_TIMEINDEX = bytes.fromhex("0000018bcfe568c9000000050000018bcfe5692d0000000b")
VECTOR_TIMES = [NOW + 101, NOW + 51, NOW + 201, NOW + 201, NOW + 151, NOW + 301]


def vector_batch(timestamp: int) -> bytearray:
    """A batch like the vector's: two records, 99 bytes."""
    data, end = _native.encode([b"v" * 13, b"v" * 11], None, None, [timestamp - 1, timestamp], 1000)
    assert (len(data), end) == (99, 2)
    return data


@pytest.fixture
def memory() -> TailMemory:
    return TailMemory().initialize()


# ---------------------------------------------------------------- one record


def test_append_places_a_batch_that_reads_back(memory: TailMemory) -> None:
    headers = [("trace", b"1"), ("empty", None)]
    first = memory.tail.append(b"value", b"key", headers, 5)
    second = memory.tail.append(None, timestamp=NOW)

    records = list(_native.Records(bytes(memory.window[: memory.marks()["position"]])))
    assert (first.topic, first.partition, first.offset, first.timestamp) == ("orders", 3, 0, 5)
    assert (second.offset, second.timestamp) == (1, NOW)
    assert [(r.offset, r.key, r.value, r.timestamp) for r in records] == [
        (0, b"key", b"value", 5),
        (1, None, None, NOW),
    ]
    assert records[0].headers == tuple(headers)


def test_append_moves_the_marks_that_it_must_and_no_others(memory: TailMemory) -> None:
    before = memory.marks()
    memory.tail.append(b"value", timestamp=77)
    size = len(batches_of([b"value"]))

    changes = {name: mark for name, mark in memory.marks().items() if mark != before[name]}
    assert changes == {
        "log_end_offset": 1,
        "high_watermark": 1,
        "position": size,
        "bytes_since_index_entry": size,
        "first_timestamp": 77,
        "max_timestamp": 77,
        "max_timestamp_offset": 0,
        "append_time": NOW,
    }
    assert memory.page.intent == (0, 0)
    assert memory.page.events.value == 1


def test_an_append_that_is_not_visible_moves_no_watermark_and_wakes_nobody() -> None:
    log_events = _native.Events(bytearray(8))
    memory = TailMemory(log_events=log_events, rules={"visible_on_append": False}).initialize()

    memory.tail.append(b"value")

    marks = memory.page.marks()
    assert (marks.log_end_offset, marks.high_watermark) == (1, 0)
    assert (memory.page.events.value, log_events.value) == (0, 0)


def test_a_visible_append_tells_the_page_and_the_log() -> None:
    log_events = _native.Events(bytearray(8))
    memory = TailMemory(log_events=log_events).initialize()

    memory.tail.append(b"value")
    memory.tail.place(batches_of([b"value"]))

    assert (memory.page.events.value, log_events.value) == (2, 2)


def test_the_batch_carries_offset_and_leader_epoch(memory: TailMemory) -> None:
    memory.initialize(log_end_offset=2**40, base_offset=2**40 - 5, leader_epoch=9)

    assert memory.tail.append(b"value").offset == 2**40

    (header,) = memory.batches()
    assert (header["base_offset"], header["leader_epoch"]) == (2**40, 9)


def test_the_clock_gives_the_timestamp_only_when_the_caller_does_not() -> None:
    times = iter([11, 12, 13])
    memory = TailMemory(clock=lambda: next(times)).initialize()

    stamps = [memory.tail.append(b"", timestamp=given).timestamp for given in (None, 5, None)]

    assert stamps == [11, 5, 13]


def test_the_time_of_the_last_append_is_the_clocks_and_never_goes_back() -> None:
    times = iter([100, 200, 150, 300, 250])
    memory = TailMemory(clock=lambda: next(times)).initialize()
    seen = []
    for timestamp in (None, 5, 2**40):
        memory.tail.append(b"", timestamp=timestamp)
        seen.append(memory.page.marks().append_time)
    memory.tail.place(batches_of([b"x"]))
    seen.append(memory.page.marks().append_time)
    with memory.page:
        data = batches_of([b"y"])
        position, _ = memory.tail.stamp(data)
        memory.window[position : position + len(data)] = data
        memory.tail.publish(data)
    assert [*seen, memory.page.marks().append_time] == [100, 200, 200, 300, 300]


def test_while_the_clock_is_far_behind_it_is_not_known_when_records_came() -> None:
    times = iter([100_000, 40_000, 39_999, 200_000])
    memory = TailMemory(clock=lambda: next(times)).initialize()
    seen = []
    for _ in range(4):
        memory.tail.append(b"")
        seen.append(memory.page.marks().append_time)
    # Later than any time until somebody who knows better says otherwise.
    assert seen == [100_000, 100_000, 2**63 - 1, 2**63 - 1]


def test_a_timestamp_is_measured_against_the_clock_only_where_the_topic_has_bounds() -> None:
    times = iter([0, 100, 200, 300])
    memory = TailMemory(clock=lambda: next(times)).initialize()

    memory.tail.append(b"", timestamp=2**63 - 1)
    memory.configure(timestamp_before_ms=10)
    memory.tail.append(b"", timestamp=90)
    memory.configure(timestamp_after_ms=10)
    memory.tail.append(b"", timestamp=210)
    with pytest.raises(InvalidTimestampError) as caught:
        memory.tail.append(b"", timestamp=311)

    assert (caught.value.timestamp, caught.value.earliest, caught.value.latest) == (311, 0, 310)
    assert memory.marks()["log_end_offset"] == 3


def test_log_append_time_takes_the_clock_and_looks_at_nothing_else() -> None:
    memory = TailMemory(clock=lambda: 77, rules={"is_log_append_time": True}).initialize()

    placed = memory.tail.append(b"", timestamp=5)
    memory.tail.append(b"", timestamp="ignored")  # type: ignore[arg-type]

    assert placed.timestamp == 77
    headers = _native.batch_headers(memory.window)
    assert {header["attributes"] for header in headers} == {8}
    assert {header["max_timestamp"] for header in headers} == {77}


def test_compressed_topics_are_appended_to_elsewhere() -> None:
    memory = TailMemory(rules={"is_compressed": True}).initialize()
    data, _ = _native.encode([b"x"], None, None, NOW, 1000)

    assert memory.tail.append(b"x") == _native.NOT_OPEN
    assert memory.tail.place(data) == (0, 1)


def test_the_system_clock_is_the_time() -> None:
    memory = TailMemory(clock=_native.system_clock).initialize()

    before = time.time_ns() // 1_000_000
    stamp = memory.tail.append(b"").timestamp

    assert before <= stamp <= time.time_ns() // 1_000_000
    assert abs(_native.system_clock() - stamp) < 10_000


def test_an_error_of_the_clock_passes_through(memory: TailMemory) -> None:
    def broken() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        TailMemory(clock=broken).initialize().tail.append(b"")
    with pytest.raises(TypeError):
        TailMemory(clock=lambda: "now").initialize().tail.append(b"")  # type: ignore
    with pytest.raises(InvalidTimestampError, match="-1"):
        TailMemory(clock=lambda: -1).initialize().tail.append(b"")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("text",), TypeError),
        ((b"", "text"), TypeError),
        ((b"", None, 5), TypeError),
        ((b"", None, [("name",)]), TypeError),
        ((b"", None, None, "now"), TypeError),
        ((b"", None, None, -1), InvalidTimestampError),
        ((b"", None, None, 2**63), OverflowError),
        ((b"", None, None, 0, "first"), TypeError),
        ((), TypeError),
        ((b"",) * 6, TypeError),
    ],
)
def test_wrong_arguments_append_nothing(
    memory: TailMemory, arguments: Any, error: type[Exception]
) -> None:
    before = memory.marks()
    with pytest.raises(error):
        memory.tail.append(*arguments)
    assert memory.marks() == before
    assert memory.tail.append(b"", expected_offset=0).offset == 0


@pytest.mark.parametrize("name", ["timestamp", "expected_offset"])
def test_an_integer_too_large_for_the_format_is_named(memory: TailMemory, name: str) -> None:
    with pytest.raises(OverflowError, match=f"^{name} does not fit into 64 bits$"):
        memory.tail.append(b"", **{name: 2**63})


def test_any_bytes_like_value_is_taken_and_given_back(memory: TailMemory) -> None:
    value, key = bytearray(b"value"), bytearray(b"key")
    memory.tail.append(value, memoryview(key))
    value.clear()  # a BufferError would say that it is still held
    with pytest.raises(TypeError):
        memory.tail.append(value, key, [("name", "text")])
    key.clear()

    assert next(iter(_native.Records(bytes(memory.window[:90])))).value == b"value"


def test_a_record_over_the_limit_is_refused_with_its_size(memory: TailMemory) -> None:
    size = len(batches_of([b"12345"]))
    memory.configure(max_message_bytes=size)

    assert memory.tail.append(b"12345").offset == 0
    with pytest.raises(RecordTooLargeError) as caught:
        memory.tail.append(b"123456")

    assert (caught.value.size, caught.value.limit) == (size + 1, size)
    assert memory.page.marks().log_end_offset == 1


@pytest.mark.parametrize("size", [0, 63, 64, 3990, 4050, 4096, 60_000])
def test_values_of_all_sizes_are_placed_whole(memory: TailMemory, size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    memory.tail.append(value[:size])

    (record,) = _native.Records(bytes(memory.window[: memory.marks()["position"]]))
    assert record.value == value[:size]
    memory.batches()


# ---------------------------------------------------------------- indexes


def index_of(memory: TailMemory) -> tuple[bytes, bytes]:
    marks = memory.page.marks()
    return bytes(memory.index[: marks.index_entries * 8]), bytes(
        memory.timeindex[: marks.time_entries * 12]
    )


@pytest.mark.parametrize("how", ["each", "at once", "stamped"])
def test_index_entries_are_kafkas(how: str) -> None:
    memory = TailMemory(rules={"index_interval_bytes": 100})
    memory.initialize(base_offset=1000, log_end_offset=1000)
    batches = [vector_batch(timestamp) for timestamp in VECTOR_TIMES]

    if how == "each":
        for batch in batches:
            assert isinstance(memory.tail.place(batch), tuple)
    elif how == "at once":
        assert memory.tail.place(bytearray().join(batches)) == (1000, 1012)
    else:
        stamp_and_publish(memory, bytearray().join(batches))

    marks = memory.page.marks()
    assert index_of(memory) == (VECTOR_INDEX, VECTOR_TIMEINDEX[:12])
    assert (marks.max_timestamp, marks.max_timestamp_offset) == (NOW + 301, 1011)
    assert marks.last_time_entry == NOW + 201
    assert marks.first_timestamp == NOW + 101
    assert marks.bytes_since_index_entry == 198


def test_the_marks_and_indexes_are_what_a_scan_of_the_log_derives() -> None:
    memory = TailMemory(rules={"index_interval_bytes": 300}).initialize()
    for number in range(400):
        memory.tail.append(b"v" * (number % 70), timestamp=NOW + (number * 37) % 101)
        if number % 50 == 0:
            memory.tail.place(batches_of([b"a", b"b"], [b"c"] * 30, timestamp=NOW + number))

    marks = memory.page.marks()
    scanner = _native.Scanner(base_offset=0, next_offset=0, index_interval_bytes=300)
    assert scanner.feed(bytes(memory.window[: marks.position])) == _native.END
    assert (scanner.index, scanner.timeindex) == index_of(memory)
    assert scanner.next_offset == marks.log_end_offset
    assert scanner.position == marks.position
    assert scanner.first_timestamp == marks.first_timestamp
    assert scanner.max_timestamp == marks.max_timestamp
    assert scanner.max_timestamp_offset == marks.max_timestamp_offset
    assert scanner.bytes_since_index_entry == marks.bytes_since_index_entry
    assert marks.index_entries > 30
    assert marks.time_entries > 2


# ---------------------------------------------------------------- whole batches


def test_place_gives_dense_offsets_to_many_batches(memory: TailMemory) -> None:
    memory.tail.append(b"first")
    data, _ = _native.encode([b"v"] * 300, None, None, NOW, 100)

    assert memory.tail.place(data) == (1, 301)

    headers = memory.batches()
    assert len(headers) > 20
    assert [header["base_offset"] for header in headers][:2] == [0, 1]
    assert sum(header["last_offset_delta"] + 1 for header in headers) == 301
    assert memory.page.events.value == 2


def test_placing_the_same_bytes_again_gives_them_new_offsets(memory: TailMemory) -> None:
    data = batches_of([b"a", b"b"], [b"c"])

    assert [memory.tail.place(data) for _ in range(3)] == [(0, 3), (3, 6), (6, 9)]
    assert [header["base_offset"] for header in memory.batches()] == [0, 2, 3, 5, 6, 8]


def test_place_takes_all_batches_or_none(memory: TailMemory) -> None:
    data = batches_of([b"a"], [b"b" * 60_000], [b"c" * 9_000])
    before = memory.marks()

    assert memory.tail.place(data) == NO_ROOM

    assert memory.marks() == before
    assert bytes(memory.window) == bytes(len(memory.window))


def test_data_that_is_not_whole_batches_is_refused(memory: TailMemory) -> None:
    good = batches_of([b"a"], [b"b"])
    before = memory.marks()
    for data in (
        bytearray(),
        good[:-1],
        good[:60],
        good + b"\x00",
        good + bytes(100),
        good[:16] + b"\x01" + good[17:],
        bytearray(b"\xff" * 200),
    ):
        with pytest.raises(InvalidRecordError):
            memory.tail.place(data)
    with pytest.raises(TypeError):
        memory.tail.place(bytes(good))  # type: ignore[arg-type]
    assert memory.marks() == before
    assert memory.page.intent == (0, 0)


def test_stamp_tells_the_place_and_publish_makes_it_count(memory: TailMemory) -> None:
    memory.tail.append(b"first")
    position = memory.page.marks().position
    data = batches_of([b"a", b"b"], [b"c"])

    memory.page.lock()
    assert memory.tail.stamp(data) == (position, 1)
    assert memory.page.intent == (position, position + len(data))
    assert memory.page.marks().log_end_offset == 1
    memory.window[position : position + len(data)] = data
    memory.tail.publish(data)
    assert memory.page.intent == (0, 0)
    memory.page.unlock()

    assert memory.page.marks().log_end_offset == 4
    assert [header["base_offset"] for header in memory.batches()] == [0, 1, 3]
    assert memory.page.events.value == 2


def test_stamped_data_may_lie_outside_the_window_and_raises_allocated() -> None:
    memory = TailMemory(window=bytearray(100)).initialize(allocated=10)
    data = batches_of([b"v" * 500])

    memory.page.lock()
    assert memory.tail.stamp(data) == (0, 0)
    memory.tail.publish(data)
    memory.page.unlock()

    marks = memory.page.marks()
    assert marks.position == marks.allocated == len(data)


def test_stamp_and_publish_need_the_lock(memory: TailMemory) -> None:
    data = batches_of([b"a"])
    for call in (memory.tail.stamp, memory.tail.publish):
        with pytest.raises(RuntimeError, match="does not hold"):
            call(data)


def test_publish_refuses_what_stamp_did_not_prepare(memory: TailMemory) -> None:
    data, other = batches_of([b"a"]), batches_of([b"ab"])
    memory.page.lock()
    with pytest.raises(RuntimeError, match="stamp"):
        memory.tail.publish(data)
    memory.tail.stamp(data)
    for wrong in (other, bytearray(), data + data):
        with pytest.raises(RuntimeError, match="stamp"):
            memory.tail.publish(wrong)
    memory.tail.publish(data)
    with pytest.raises(RuntimeError, match="stamp"):
        memory.tail.publish(data)
    memory.page.unlock()
    assert memory.page.marks().log_end_offset == 1


def test_an_append_of_the_thread_that_holds_the_lock_is_an_error(memory: TailMemory) -> None:
    memory.page.lock()
    for call in (lambda: memory.tail.append(b""), lambda: memory.tail.place(batches_of([b""]))):
        with pytest.raises(RuntimeError, match="already"):
            call()
    memory.page.unlock()
    assert memory.tail.append(b"").offset == 0
