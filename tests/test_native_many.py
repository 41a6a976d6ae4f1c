"""Router.append_many over tails in memory: partitions, bytes, what is left, errors, references."""

from __future__ import annotations

import gc
import mmap
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import reference
from kafka_clients import kafka_murmur2
from tail_memory import NOW, TailMemory, run_threads, tiny_switch_interval

from pylog import _native
from pylog.errors import InvalidRecordError, RecordTooLargeError

SEED = int(os.environ.get("PYLOG_MANY_SEED", "0")) or random.randrange(1 << 30)
LIMITS = {"max_batch_bytes": 1 << 20, "max_chunk_bytes": 1 << 30, "large_bytes": 1 << 16}


class Topic:
    """Some partitions in memory, and the router to them."""

    def __init__(self, count: int, *, window_bytes: int = 1 << 16, sticky_bytes: int = 100) -> None:
        self.tails = [TailMemory(window=bytearray(window_bytes)) for _ in range(count)]
        self.appenders = [_native.Appender(self._refuse) for _ in range(count)]
        for tail, appender in zip(self.tails, self.appenders, strict=True):
            appender.use(tail.initialize().tail)
        self.asked: list[int] = []
        self.router = _native.Router(count, self._resolve, sticky_bytes)

    def _refuse(self, *arguments: Any) -> _native.RecordMetadata:
        raise AssertionError("append_many does not append one by one")

    def _resolve(self, number: int) -> _native.Appender:
        self.asked.append(number)
        return self.appenders[number]

    def append(
        self,
        values: Any,
        keys: Any = None,
        headers: Any = None,
        timestamps: Any = NOW,
        **limits: int,
    ) -> Appended:
        given = LIMITS | limits
        result = self.router.append_many(values, keys, headers, timestamps, **given)
        return Appended(self, *result)

    def records(self, number: int) -> list[_native.Record]:
        """What was published in one partition; asserts that every batch is sound."""
        tail = self.tails[number]
        tail.batches()
        data = bytes(tail.window[: tail.page.marks().position])
        return list(_native.Records(data, topic="t", partition=number))

    def ends(self) -> list[int]:
        return [tail.page.marks().log_end_offset for tail in self.tails]


class Appended:
    """A result, with its arrays as lists."""

    def __init__(
        self, topic: Topic, partitions: bytearray, offsets: bytearray, stamps: Any, *rest: Any
    ) -> None:
        self.topic = topic
        self.partitions = memoryview(partitions).cast("i").tolist()
        self.offsets = memoryview(offsets).cast("q").tolist()
        is_one = isinstance(stamps, int)
        self.timestamps = stamps if is_one else memoryview(stamps).cast("q").tolist()
        self.spans, self.left = rest

    def place_left(self) -> None:
        """Place what was left as Python does."""
        for number, data, row_bytes, _ in self.left:
            placed = self.topic.tails[number].tail.place(data)
            assert isinstance(placed, tuple)
            rows = memoryview(row_bytes).cast("i").tolist()
            assert placed[1] - placed[0] == len(rows)
            for row, offset in zip(rows, range(*placed), strict=True):
                assert self.offsets[row] == -1
                self.offsets[row] = offset


def some_bytes(generator: random.Random, most: int) -> bytes | None:
    size = generator.choice((-1, 0, 1, 3, 4, 5, 60, 63, 64, 65, most))
    return None if size < 0 else generator.randbytes(generator.randrange(size + 1))


def some_headers(generator: random.Random) -> list[tuple[str, bytes | None]] | None:
    count = generator.choice((-1, 0, 1, 2, 9))
    return None if count < 0 else [(f"ü{n}", some_bytes(generator, 9)) for n in range(count)]


Model = dict[int, list[tuple[Any, ...]]]


def check_against(model: Model, topic: Topic) -> None:
    for number in range(len(topic.tails)):
        found = [
            (record.offset, record.timestamp, record.key, record.value, record.headers)
            for record in topic.records(number)
        ]
        expected = [(offset, *rest) for offset, rest in enumerate(model.get(number, []))]
        assert found == expected


@pytest.mark.parametrize("round_number", range(30))
def test_every_record_is_where_kafka_puts_its_key_and_in_order(round_number: int) -> None:
    print("seed", SEED, round_number)
    generator = random.Random(SEED + round_number)
    count = generator.choice((1, 2, 3, 7, 50))
    topic = Topic(count, window_bytes=1 << 20, sticky_bytes=1 << 20)
    model: Model = {}
    sticky = topic.router.pick(None)
    for _ in range(generator.randrange(1, 6)):
        size = generator.choice((0, 1, 2, 30, 300))
        values = [some_bytes(generator, 300) for _ in range(size)]
        keys = (
            [some_bytes(generator, 20) for _ in range(size)] if generator.random() < 0.9 else None
        )
        headers = (
            [some_headers(generator) for _ in range(size)] if generator.random() < 0.5 else None
        )
        stamps: Any = [NOW + generator.randrange(-99, 99) for _ in range(size)]
        stamps = stamps if generator.random() < 0.5 else NOW
        limits = {
            "max_batch_bytes": generator.choice((1200, 5000, 1 << 20)),
            "large_bytes": generator.choice((61, 700, 1 << 16)),
        }
        limits["max_chunk_bytes"] = limits["max_batch_bytes"] * generator.choice((1, 3))

        appended = topic.append(values, keys, headers, stamps, **limits)
        appended.place_left()

        assert len(appended.offsets) == size
        for row in range(size):
            key = None if keys is None else keys[row]
            number = sticky if key is None else (kafka_murmur2(key) & 0x7FFFFFFF) % count
            if key is not None:
                assert number == (reference.murmur2(key) & 0x7FFFFFFF) % count
            stamp = stamps if isinstance(stamps, int) else stamps[row]
            records = model.setdefault(number, [])
            assert (appended.partitions[row], appended.offsets[row]) == (number, len(records))
            pairs = tuple(headers[row] or ()) if headers is not None else ()
            records.append((stamp, key, values[row], pairs))
        assert appended.timestamps == stamps
    check_against(model, topic)


def test_one_batch_is_made_for_each_partition() -> None:
    topic = Topic(5)
    keys = [b"%d" % (n % 40) for n in range(200)]
    appended = topic.append([b"v"] * 200, keys)
    assert appended.left == []
    for number, first, end in appended.spans:
        assert (first, end) == (0, appended.partitions.count(number))
        assert [batch["count"] for batch in topic.tails[number].batches()] == [end]
    assert sum(end for _, _, end in appended.spans) == 200


def test_batch_headers_hold_the_first_and_the_greatest_timestamp() -> None:
    topic = Topic(1)
    topic.append([b"a", b"b", b"c"], None, None, [50, 70, 60])
    (batch,) = topic.tails[0].batches()
    assert (batch["base_timestamp"], batch["max_timestamp"]) == (50, 70)
    assert [record.timestamp for record in topic.records(0)] == [50, 70, 60]


def test_records_without_a_key_stay_together_and_go_on_to_the_next_partition() -> None:
    topic = Topic(3, sticky_bytes=100)
    seen = [set(topic.append([bytes(40)] * 3).partitions) for _ in range(4)]
    assert seen == [{0}, {1}, {2}, {0}]
    mixed = topic.append([bytes(40)] * 4, [None, b"k", None, None])
    assert [mixed.partitions[row] for row in (0, 2, 3)] == [1, 1, 1]
    assert topic.router.stick(1000) == 2
    assert topic.router.stick(0) == 0


def test_no_records_are_no_batch_and_resolve_nothing() -> None:
    topic = Topic(3)
    appended = topic.append([], [], [], [])
    assert (appended.partitions, appended.offsets, appended.timestamps) == ([], [], [])
    assert (appended.spans, appended.left, topic.asked) == ([], [], [])
    assert topic.append([], None, None, 5).timestamps == 5


# ---------------------------------------------------------------- what is left


def test_what_has_no_tail_or_no_room_or_is_large_is_left_whole() -> None:
    topic = Topic(4, window_bytes=4096)
    keys = [next(b"%d" % n for n in range(99) if topic.router.pick(b"%d" % n) == number)
            for number in range(4)]  # fmt: skip
    topic.appenders[0].use(None)
    topic.tails[1].tail.detach()
    rows = [(keys[0], b"a"), (keys[1], b"b"), (keys[2], bytes(5000)), (keys[3], b"d")] * 2

    appended = topic.append([value for _, value in rows], [key for key, _ in rows])

    assert [span[0] for span in appended.spans] == [3]
    assert appended.offsets == [-1, -1, -1, 0, -1, -1, -1, 1]
    rows_of = [(number, rows) for number, _, rows, _ in appended.left]
    assert rows_of == [(number, pack(number, number + 4)) for number in (0, 1, 2)]
    for number, data, _, latest in appended.left:
        (batch,) = _native.batch_headers(data)
        assert (batch["count"], latest) == (2, NOW)
        status, *_ = _native.check_batches(data, 0, 0, 2**62, 2**62, -1, True)
        assert status == _native.END
        assert topic.ends()[number] == 0


def pack(*rows: int) -> bytes:
    return b"".join(row.to_bytes(4, sys.byteorder) for row in rows)


def test_batches_of_large_bytes_and_more_are_left() -> None:
    topic = Topic(1)
    size = len(_native.encode([b"12345"], None, None, NOW, 1 << 20)[0])
    assert topic.append([b"12345"], large_bytes=size).spans == []
    assert topic.append([b"12345"], large_bytes=size + 1).spans == [(0, 0, 1)]


def test_what_is_left_is_cut_into_batches_and_chunks_as_encode_cuts_it() -> None:
    topic = Topic(1)
    topic.appenders[0].use(None)
    generator = random.Random(SEED)
    values = [generator.randbytes(generator.randrange(400)) for _ in range(500)]
    stamps = [NOW + n % 7 for n in range(500)]
    limits = {"max_batch_bytes": 2000, "max_chunk_bytes": 5000}
    appended = topic.append(values, None, None, stamps, **limits)

    start = 0
    for _, data, row_bytes, latest in appended.left:
        rows = memoryview(row_bytes).cast("i").tolist()
        expected, end = _native.encode(values, None, None, stamps, 2000, start, 5000)
        assert (data, rows) == (expected, list(range(start, end)))
        assert latest == max(stamps[start:end])
        start = end
    assert start == 500 and len(appended.left) > 10


@pytest.mark.parametrize("count", [3, 3000])
def test_a_partition_whose_lock_is_held_is_left_and_the_others_are_not(count: int) -> None:
    topic = Topic(2, window_bytes=1 << 18)
    keys = [b"%d" % n for n in range(count)]
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with topic.tails[1].page:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    appended = topic.append([bytes(60)] * count, keys, large_bytes=1 << 20)
    done.set()
    thread.join()

    assert [span[0] for span in appended.spans] == [0]
    assert {item[0] for item in appended.left} == {1}
    appended.place_left()
    assert sorted(topic.ends()) == sorted(map(appended.partitions.count, (0, 1)))


# ---------------------------------------------------------------- arguments


def test_everything_bytes_like_is_taken_and_copied() -> None:
    topic = Topic(1, window_bytes=1 << 16)

    class Bytes(bytes):
        pass

    with mmap.mmap(-1, 10) as mapped:
        mapped[:] = b"0123456789"
        values = [b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], Bytes(b"d"), mapped, None, b""]
        keys = [bytearray(b"k"), None, memoryview(b"kk"), b"", Bytes(b"k"), mapped, b"k" * 50]
        topic.append(tuple(values), keys)
    records = topic.records(0)
    assert [record.value for record in records] == [
        b"a", b"b", b"c", b"d", b"0123456789", None, b""]  # fmt: skip
    assert [record.key for record in records] == [
        b"k", None, b"kk", b"", b"k", b"0123456789", b"k" * 50]  # fmt: skip


class Sequence3:
    """Three elements of which one makes trouble when it is asked for."""

    def __init__(self, element: Any, trouble: Callable[[], Any]) -> None:
        self.element, self.trouble = element, trouble

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self.element if index != 1 else self.trouble()


def fails() -> Any:
    raise ZeroDivisionError


WRONG: list[tuple[type[BaseException], dict[str, Any]]] = [
    (TypeError, {"values": [b"a", "text", b"c"]}),
    (TypeError, {"values": [b"a", 5, b"c"]}),
    (TypeError, {"values": object()}),
    (TypeError, {"values": dict.fromkeys((b"a", b"b", b"c"))}),
    (TypeError, {"values": {b"a", b"b", b"c"}}),
    (TypeError, {"values": b"abc"}),
    (TypeError, {"keys": [b"a", "text", b"c"]}),
    (TypeError, {"keys": "abc"}),
    (ValueError, {"keys": [b"a", b"b"]}),
    (ValueError, {"headers": [None]}),
    (ValueError, {"timestamps": [1, 2, 3, 4]}),
    (TypeError, {"headers": [None, [("a", "text")], None]}),
    (TypeError, {"headers": [None, [b"a"], None]}),
    (TypeError, {"timestamps": [1, "2", 3]}),
    (TypeError, {"timestamps": None}),
    (OverflowError, {"timestamps": [1, 2**63, 3]}),
    (OverflowError, {"timestamps": 2**64}),
    (InvalidRecordError, {"timestamps": [1, -1, 3]}),
    (InvalidRecordError, {"timestamps": -1}),
    (RecordTooLargeError, {"values": [b"a", bytes(2000), b"c"], "max_batch_bytes": 1000}),
    (ZeroDivisionError, {"values": Sequence3(b"a", fails)}),
    (ZeroDivisionError, {"keys": Sequence3(b"a", fails)}),
    (ValueError, {"max_batch_bytes": 0}),
    (ValueError, {"max_batch_bytes": 100, "max_chunk_bytes": 99}),
    (ValueError, {"large_bytes": -1}),
]


@pytest.mark.parametrize(("error", "arguments"), WRONG)
def test_a_wrong_argument_changes_nothing_and_keeps_no_reference(
    error: type[BaseException], arguments: dict[str, Any]
) -> None:
    topic = Topic(3)
    value, key, header = bytes(bytearray(b"value")), bytes(bytearray(b"key")), b"header" * 2
    stamps = [NOW, NOW, NOW + 1]
    given: dict[str, Any] = {
        "values": [value, value, value],
        "keys": [key, key, key],
        "headers": [[("a", header)]] * 3,
        "timestamps": stamps,
    }
    given |= arguments
    # Everybody counts references to None, and from 3.12 on hardly anybody does.
    counted = [one for one in (value, key, header, *given.values()) if one is not None]
    for _ in range(2):
        gc.collect()
        before = [sys.getrefcount(one) for one in counted]
        with pytest.raises(error):
            topic.append(**given)
        after = [sys.getrefcount(one) for one in counted]
        assert after == before
    assert topic.ends() == [0, 0, 0]


def test_an_unknown_partition_is_found_before_anything_is_appended() -> None:
    topic = Topic(4)
    resolve = topic._resolve

    def fail_for_last(number: int) -> _native.Appender:
        if len(topic.asked) == 3:
            raise LookupError(number)
        return resolve(number)

    topic.router = _native.Router(4, fail_for_last, 100)
    value = bytes(bytearray(b"value"))
    values, keys = [value] * 99, [b"%d" % n for n in range(99)]
    before = sys.getrefcount(value)
    with pytest.raises(LookupError):
        topic.append(values, keys)
    assert sys.getrefcount(value) == before
    assert topic.ends() == [0] * 4


def test_all_references_are_given_back_when_it_works() -> None:
    topic = Topic(3, window_bytes=1 << 20)
    value, key = bytes(bytearray(b"value")), bytes(bytearray(b"key"))
    objects = (value, key, *(tail.tail for tail in topic.tails), *topic.appenders)
    topic.append([value] * 9, [b"%d" % n for n in range(9)])
    before = [sys.getrefcount(one) for one in objects]
    for count in (9, 3000):
        appended = topic.append([value] * count, [key] * count)
        assert appended.left == []
    topic.tails[0].tail.detach()
    topic.append([value] * 9, [b"%d" % n for n in range(9)])
    assert [sys.getrefcount(one) for one in objects] == before


def test_a_list_that_shrinks_while_it_is_taken_is_an_index_error() -> None:
    topic = Topic(2)
    values = [b"%d" % n for n in range(3)]

    def empty() -> bytes:
        values.clear()
        gc.collect()
        return b"key"

    with pytest.raises(IndexError):
        topic.append(values, Sequence3(b"key", empty))
    assert topic.ends() == [0, 0]


def test_a_list_that_changes_while_the_gil_is_released_does_no_harm() -> None:
    topic = Topic(2, window_bytes=1 << 22)
    values = [b"%060d" % n for n in range(3000)]
    keys = [b"%d" % n for n in range(3000)]
    given_values, given_keys = list(values), list(keys)
    is_over = threading.Event()

    def change() -> None:
        while not is_over.is_set():
            for row in range(len(given_values)):
                given_values[row] = bytes(bytearray(values[row]))
                given_keys[row] = bytes(bytearray(keys[row]))

    def append() -> None:
        for _ in range(20):
            assert topic.append(given_values, given_keys, large_bytes=1 << 20).left == []
        is_over.set()

    with tiny_switch_interval():
        run_threads(change, append)
    for number in range(2):
        rows = [row for row in range(3000) if topic.router.pick(keys[row]) == number]
        found = [(record.key, record.value) for record in topic.records(number)]
        assert found == [(keys[row], values[row]) for row in rows] * 20


# ---------------------------------------------------------------- threads


def test_threads_append_to_the_same_partitions_without_losing_any() -> None:
    topic = Topic(5, window_bytes=1 << 21)
    rounds, size = 40, 500

    def append(thread: int) -> None:
        for turn in range(rounds):
            values = [b"%d %d %d %80d" % (thread, turn, row, row) for row in range(size)]
            keys: Sequence[bytes] = [b"%d" % (row % 37) for row in range(size)]
            topic.append(values, keys).place_left()

    with tiny_switch_interval():
        run_threads(*(lambda thread=thread: append(thread) for thread in range(3)))

    seen: dict[tuple[int, int], list[int]] = {}
    for number in range(5):
        for record in topic.records(number):
            thread, turn, row = map(int, bytes(record.value or b"").split()[:3])
            seen.setdefault((thread, turn), []).append(row)
    assert len(seen) == 3 * rounds
    for rows in seen.values():
        assert sorted(rows) == list(range(size))


def test_partitions_that_are_added_meanwhile_get_no_record_of_this_call() -> None:
    topic = Topic(3)
    counter = _native.Events(bytearray(64))
    count = 2
    topic.router = _native.Router(2, topic._resolve, 100, counter, lambda: count)

    def add() -> bytes:
        nonlocal count
        count = 3
        counter.notify()
        topic.router.pick(b"k")
        return b"3"

    assert set(topic.append([b"v"] * 3, Sequence3(b"1", add)).partitions) <= {0, 1}
    added = topic.append([b"v"] * 30, [b"%d" % n for n in range(30)])
    assert set(added.partitions) == {0, 1, 2}


@pytest.fixture(autouse=True)
def no_garbage() -> Iterator[None]:
    yield
    gc.collect()
