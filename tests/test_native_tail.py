"""Tail in one process: bytes, indexes, statuses, and many threads at once."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tail_memory import NOW, SERIAL, TailMemory

from pylog import _native
from pylog.errors import ClosedError, InvalidRecordError, RecordTooLargeError

NO_ROOM, STALE, NOT_OPEN = _native.NO_ROOM, _native.STALE, _native.NOT_OPEN
# FORMAT.md 5.3, made by Kafka: six batches of two records and 99 bytes, base 1000, interval 100.
VECTOR_INDEX = bytes.fromhex("00000005000000c6000000090000018c")
VECTOR_TIMEINDEX = bytes.fromhex("0000018bcfe568c9000000050000018bcfe5692d0000000b")
VECTOR_TIMES = [NOW + 101, NOW + 51, NOW + 201, NOW + 201, NOW + 151, NOW + 301]


def batches_of(*values: list[bytes], timestamp: int = NOW) -> bytearray:
    """One batch per list."""
    data = bytearray()
    for batch in values:
        data += _native.encode(batch, None, None, timestamp, 1 << 20)[0]
    return data


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


def test_the_clock_is_asked_only_when_no_timestamp_is_given() -> None:
    times = iter([11, 12])
    memory = TailMemory(clock=lambda: next(times)).initialize()

    stamps = [memory.tail.append(b"", timestamp=given).timestamp for given in (None, 5, None)]

    assert stamps == [11, 5, 12]


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
    with pytest.raises(InvalidRecordError, match="-1"):
        TailMemory(clock=lambda: -1).initialize().tail.append(b"")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("text",), TypeError),
        ((b"", "text"), TypeError),
        ((b"", None, 5), TypeError),
        ((b"", None, [("name",)]), TypeError),
        ((b"", None, None, "now"), TypeError),
        ((b"", None, None, -1), InvalidRecordError),
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


def stamp_and_publish(memory: TailMemory, data: bytearray) -> tuple[int, int]:
    memory.page.lock()
    placed = memory.tail.stamp(data)
    assert isinstance(placed, tuple)
    memory.window[placed[0] : placed[0] + len(data)] = data
    memory.tail.publish(data)
    memory.page.unlock()
    return placed


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


# ---------------------------------------------------------------- statuses

SIZE = len(batches_of([b""]))
ENTRIES_DUE = {"bytes_since_index_entry": 4097, "max_timestamp": 5, "position": 100}
REFUSED: list[tuple[int, dict[str, int], dict[str, Any], dict[str, Any]]] = [
    # status, marks, rules, attachment
    (NOT_OPEN, {"state": _native.FAILED}, {}, {}),
    (NOT_OPEN, {"segment_serial": SERIAL + 1}, {}, {}),
    (NOT_OPEN, {}, {}, {"segment_serial": SERIAL - 1}),
    (STALE, {"log_end_offset": 6}, {}, {}),
    (STALE, {"log_end_offset": 4}, {}, {}),
    (NO_ROOM, {"position": 1}, {"segment_bytes": SIZE}, {}),
    (NO_ROOM, {"position": 1, "first_timestamp": NOW - 101}, {"segment_ms": 100}, {}),
    (NO_ROOM, {"base_offset": 5 - 2**31}, {}, {}),
    (NO_ROOM, {"base_offset": 6}, {}, {}),
    (NO_ROOM, ENTRIES_DUE | {"index_entries": 9, "index_allocated": 9}, {}, {}),
    (NO_ROOM, ENTRIES_DUE | {"index_entries": 9}, {}, {"index": bytearray(9 * 8 + 7)}),
    (NO_ROOM, ENTRIES_DUE | {"time_entries": 9, "time_allocated": 9}, {}, {}),
    (NO_ROOM, ENTRIES_DUE | {"time_entries": 9}, {}, {"timeindex": bytearray(9 * 12 + 11)}),
]
# Stamped data is written to the file, so these are no reason to refuse it.
REFUSED_BY_THE_WINDOW: list[tuple[int, dict[str, int], dict[str, Any], dict[str, Any]]] = [
    (NO_ROOM, {"allocated": SIZE - 1}, {}, {}),
    (NO_ROOM, {"position": (1 << 16) - SIZE + 1}, {}, {}),
    (NO_ROOM, {}, {}, {"window": bytearray(SIZE - 1)}),
    (NO_ROOM, {}, {}, {"window_position": 1}),
    (NO_ROOM, {"position": 4095}, {}, {"window_position": 4096}),
]
HOW = ["append", "place"]
CASES = [(how, case) for how in [*HOW, "stamp"] for case in REFUSED]
CASES += [(how, case) for how in HOW for case in REFUSED_BY_THE_WINDOW]


@pytest.mark.parametrize(
    ("how", "case"), CASES, ids=lambda one: one if isinstance(one, str) else "-".join(one[1])
)
def test_a_refused_append_says_why_and_changes_nothing(how: str, case: Any) -> None:
    status, marks, rules, attachment = case
    memory = TailMemory(rules=rules)
    memory.initialize(**({"log_end_offset": 5} | marks))
    memory.attach(**attachment)
    before, data = memory.marks(), batches_of([b""])

    if how == "stamp":
        memory.page.lock()
        result = memory.tail.stamp(data, 5)
        memory.page.unlock()
    elif how == "place":
        result = memory.tail.place(data, 5)
    else:
        result = memory.tail.append(b"", expected_offset=5)

    assert (result, type(result)) == (status, int)
    assert memory.marks() == before
    assert memory.page.intent == (0, 0)
    assert bytes(memory.window) == bytes(len(memory.window))
    assert memory.page.events.value == 0


ACCEPTED: list[tuple[dict[str, int], dict[str, Any]]] = [
    ({"state": _native.FULL}, {}),
    ({}, {"segment_bytes": 0}),  # an empty segment takes a batch of any size
    ({"position": 1}, {"segment_bytes": SIZE + 1}),
    ({"position": 1, "first_timestamp": NOW - 100}, {"segment_ms": 100}),
    ({"position": 1, "first_timestamp": -1}, {"segment_ms": 0}),
    ({"base_offset": 5 - (2**31 - 1)}, {}),
    ({"position": (1 << 16) - SIZE}, {}),
    (ENTRIES_DUE | {"index_entries": 9, "index_allocated": 10}, {}),
    (ENTRIES_DUE | {"bytes_since_index_entry": 4096, "index_allocated": 0}, {}),
    (ENTRIES_DUE | {"last_time_entry": NOW, "time_allocated": 0}, {}),
]


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: "-".join([*case[0], *case[1]]))
def test_an_append_at_the_edge_of_a_rule_is_taken(case: Any) -> None:
    marks, rules = case
    memory = TailMemory(rules=rules).initialize(**({"log_end_offset": 5} | marks))

    assert memory.tail.append(b"", expected_offset=5).offset == 5


def test_a_window_in_the_middle_of_the_file_gets_the_bytes_at_its_own_place() -> None:
    memory = TailMemory().initialize(position=4096 + 10, allocated=2**40, log_end_offset=50)
    memory.attach(window_position=4096)

    memory.tail.append(b"")

    assert _native.batch_headers(bytes(memory.window[10 : 10 + SIZE]))[0]["base_offset"] == 50
    assert not any(memory.window[:10])


def test_an_unfinished_intent_is_zeroed_above_the_position(memory: TailMemory) -> None:
    memory.tail.append(b"kept")
    position = memory.page.marks().position
    kept = bytes(memory.window[:position])
    memory.window[position : position + 500] = b"x" * 500
    memory.page.lock()
    memory.page.set_intent(0, position + 400)
    memory.page.unlock()

    assert memory.tail.append(b"", expected_offset=99) == STALE

    assert memory.page.intent == (0, 0)
    assert bytes(memory.window[: position + 500]) == kept + bytes(400) + b"x" * 100


@pytest.mark.parametrize("end", [1 << 16, (1 << 16) + 1, 2**63 - 1])
def test_an_intent_that_leaves_the_window_or_the_file_needs_room(end: int) -> None:
    memory = TailMemory().initialize(allocated=(1 << 16) - 1)
    memory.page.lock()
    memory.page.set_intent(0, end)
    memory.page.unlock()

    assert memory.tail.append(b"") == NO_ROOM
    assert memory.page.intent == (0, end)


def test_a_published_intent_is_only_cleared(memory: TailMemory) -> None:
    memory.tail.append(b"value")
    position = memory.page.marks().position
    memory.page.lock()
    memory.page.set_intent(0, position)
    memory.page.unlock()

    assert memory.tail.append(b"next").offset == 1
    assert len(memory.batches()) == 2


def test_hostile_marks_never_reach_memory_outside() -> None:
    """Every mark takes every ugly number; the sanitizer build watches all other memory."""
    ugly = [-(2**63), -(2**31), -1, 0, 1, 4095, 2**16, 2**31 - 1, 2**31, 2**62, 2**63 - 1]
    names = [name for name in TailMemory().initialize().marks() if name != "segment_serial"]
    guard = 4096
    block = bytearray(b"\xaa" * (guard + 8192 + guard))
    window = memoryview(block)[guard:-guard]
    taken = 0
    for rest in ({}, {"bytes_since_index_entry": 2**62, "allocated": 2**63 - 1}):
        for name in names:
            for value in ugly:
                memory = TailMemory(window=window, index=bytearray(16), timeindex=bytearray(24))
                memory.initialize(**(rest | {name: value}))
                taken += not isinstance(memory.tail.append(b"v"), int)
                memory.tail.place(batches_of([b"a"], [b"b"]))
                memory.page.lock()
                memory.page.set_intent(value, 2**63 - 1)
                memory.page.unlock()
                memory.tail.append(b"v")
    assert block[:guard] == block[-guard:] == b"\xaa" * guard
    assert taken > 100


# ---------------------------------------------------------------- life


def test_a_tail_that_is_not_attached_appends_nothing() -> None:
    memory = TailMemory()
    memory.page.initialize(b"")

    assert memory.tail.append(b"") == NOT_OPEN
    assert memory.tail.place(batches_of([b""])) == NOT_OPEN


def test_detach_gives_the_buffers_back(memory: TailMemory) -> None:
    memory.tail.detach()
    memory.tail.detach()

    assert memory.tail.append(b"") == NOT_OPEN
    memory.window.clear()
    memory.index.clear()
    memory.timeindex.clear()


def test_attach_replaces_what_was_attached(memory: TailMemory) -> None:
    other = bytearray(1 << 16)
    memory.attach(window=other)

    memory.tail.append(b"")

    memory.window.clear()
    assert any(other)


def test_a_failed_attach_keeps_what_was_attached_and_holds_nothing(memory: TailMemory) -> None:
    other = bytearray(100)
    for wrong in ({"timeindex": b"read-only"}, {"window_position": -1}, {"segment_serial": "1"}):
        with pytest.raises((TypeError, ValueError)):
            memory.attach(**({"window": other} | wrong))
    other.clear()
    assert memory.tail.append(b"").offset == 0


def test_configure_comes_before_attach_and_checks_numbers(memory: TailMemory) -> None:
    tail = _native.Tail(memory.page, topic="t", partition=0, clock=_native.system_clock)
    with pytest.raises(ValueError, match="configure"):
        tail.attach(
            segment_serial=0,
            window=bytearray(1),
            window_position=0,
            index=bytearray(),
            timeindex=bytearray(),
        )
    with pytest.raises(ValueError, match="segment_ms"):
        memory.configure(segment_ms=-1)
    with pytest.raises(TypeError, match="misses"):
        memory.tail.configure(max_message_bytes=1)  # type: ignore[call-arg]


def test_a_tail_is_made_of_the_right_parts(memory: TailMemory) -> None:
    good: dict[str, Any] = {"topic": "t", "partition": 0, "clock": int}
    _native.Tail(memory.page, **good)
    for wrong in (
        {"topic": b"t"},
        {"partition": -1},
        {"partition": 2**31},
        {"clock": 5},
        {"log_events": 5},
    ):
        with pytest.raises((TypeError, OverflowError)):
            _native.Tail(memory.page, **(good | wrong))
    with pytest.raises(TypeError):
        _native.Tail(memory.memory, **good)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _native.Tail(memory.page, topic="t")  # type: ignore[call-arg]


def test_a_released_page_closes_the_tail(memory: TailMemory) -> None:
    memory.page.release()

    for call in (lambda: memory.tail.append(b""), lambda: memory.tail.place(batches_of([b""]))):
        with pytest.raises(ClosedError):
            call()


def test_a_cycle_through_the_clock_is_collected() -> None:
    class Owner:
        def __init__(self) -> None:
            self.memory = TailMemory(clock=self.now).initialize()

        def now(self) -> int:
            return 5

    owner = Owner()
    assert owner.memory.tail.append(b"").timestamp == 5
    dead = weakref.ref(owner)
    del owner
    gc.collect()
    assert dead() is None


def test_appends_leak_no_memory(memory: TailMemory) -> None:
    headers = [("a", b"1")]

    def work() -> None:
        for _ in range(2_000):
            memory.tail.append(bytearray(5000), b"key", headers)
            memory.tail.place(bytearray(batches_of([b"a"])), 99)
            memory.attach()

    work()
    gc.collect()
    before = sys.getallocatedblocks()
    work()
    gc.collect()
    assert sys.getallocatedblocks() < before + 200


# ---------------------------------------------------------------- threads


@pytest.fixture
def tiny_switch_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_threads(*functions: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=[one], daemon=True) for one in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def test_eight_threads_append_dense_offsets(tiny_switch_interval: None) -> None:
    """Appends, batches, stamps under the Python lock: none is lost, doubled or torn, none hangs."""
    memory = TailMemory(window=bytearray(1 << 24), rules={"index_interval_bytes": 1 << 20})
    memory.initialize()
    each = 2_000
    offsets: list[list[int]] = [[] for _ in range(8)]

    def append(number: int) -> None:
        for _ in range(each):
            offsets[number].append(memory.tail.append(b"%d" % number, b"key").offset)

    def place(number: int) -> None:
        for _ in range(each // 4):
            first, end = memory.tail.place(batches_of([b"a", b"b"], [b"c"]))
            offsets[number].extend(range(first, end))

    def stamp(number: int) -> None:
        for _ in range(each // 4):
            first = stamp_and_publish(memory, batches_of([b"a", b"b"]))[1]
            offsets[number].extend((first, first + 1))

    roles = [append, append, append, append, append, place, place, stamp]
    run_threads(*(lambda n=n, role=role: role(n) for n, role in enumerate(roles)))

    end = memory.page.marks().log_end_offset
    assert sorted(offset for some in offsets for offset in some) == list(range(end))
    assert all(some == sorted(some) for some in offsets)
    assert sum(header["count"] for header in memory.batches()) == end
    assert end == 5 * each + 2 * 3 * (each // 4) + 2 * (each // 4)


def test_detach_attach_and_release_while_others_append(tiny_switch_interval: None) -> None:
    memory = TailMemory(window=bytearray(1 << 22)).initialize()
    taken = [0] * 3
    closed = threading.Event()

    def append(number: int) -> None:
        while not closed.is_set():
            try:
                result = memory.tail.append(b"value")
            except ClosedError:
                return
            taken[number] += not isinstance(result, int)

    def hold_and_disturb() -> None:
        for turn in range(300):
            memory.page.lock()  # appenders pile up without the GIL
            time.sleep(0.0005)
            memory.tail.detach()
            if turn % 2:
                memory.attach(window=bytearray(1 << 22))
            memory.configure(max_message_bytes=1 << 20)
            memory.page.unlock()
            memory.attach()
        memory.page.release()
        closed.set()

    run_threads(hold_and_disturb, *(lambda n=n: append(n) for n in range(3)))

    assert min(taken) > 0
    memory.memory.clear()  # nobody holds the page any more
