"""Tail: attaching, letting go, and many threads at once."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
from tail_memory import (
    TailMemory,
    batches_of,
    in_thread,
    run_threads,
    stamp_and_publish,
    tiny_switch_interval,
    wait_until,
    wait_until_asleep,
)

from pylog import _native
from pylog.errors import ClosedError

NOT_OPEN = _native.NOT_OPEN


@pytest.fixture
def memory() -> TailMemory:
    return TailMemory().initialize()


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
    for wrong in (
        {"timeindex": b"read-only"},
        {"window_position": -1},
        {"segment_serial": "1"},
        {"log": 1},
    ):
        with pytest.raises((TypeError, ValueError)):
            memory.attach(**({"window": other} | wrong))
    other.clear()
    assert memory.tail.append(b"").offset == 0


def log_file(folder: Path, flags: int) -> int:
    (folder / "log").write_bytes(bytes(1 << 16))
    return os.open(folder / "log", flags)


def test_the_first_append_after_a_sync_is_written_and_the_others_are_stored(
    memory: TailMemory, tmp_path: Path
) -> None:
    written: list[int] = []
    memory.attach(log=_native.Descriptor(log_file(tmp_path, os.O_RDWR)))
    for offset, durable_offset in enumerate((0, 0, 0, 3, 3)):
        with memory.page:
            memory.page.publish(durable_offset=durable_offset)
        start = memory.page.marks().position
        memory.tail.append(b"value %d" % offset)
        end = memory.page.marks().position
        in_file, in_window = (tmp_path / "log").read_bytes()[start:end], memory.window[start:end]
        assert any(in_file) != any(in_window)
        batch = in_file if any(in_file) else in_window
        assert _native.batch_headers(batch)[0]["base_offset"] == offset
        written += [offset] * any(in_file)

    assert written == [0, 3]


def test_what_cannot_be_written_is_stored(memory: TailMemory, tmp_path: Path) -> None:
    memory.attach(log=_native.Descriptor(log_file(tmp_path, os.O_RDONLY)))

    memory.tail.append(b"value")

    assert len(memory.batches()) == 1


def test_a_tail_keeps_the_log_open_until_it_is_detached(memory: TailMemory, tmp_path: Path) -> None:
    fd = log_file(tmp_path, os.O_RDWR)
    memory.attach(log=_native.Descriptor(fd))
    gc.collect()
    os.fstat(fd)

    memory.tail.detach()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_configure_comes_before_attach_and_checks_numbers(memory: TailMemory) -> None:
    tail = _native.Tail(memory.page, topic="t", partition=0, clock=_native.system_clock)
    with pytest.raises(ValueError, match="configure"):
        tail.attach(
            segment_serial=0,
            window=bytearray(1),
            window_position=0,
            index=bytearray(),
            timeindex=bytearray(),
            log=None,
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


def test_eight_threads_append_dense_offsets() -> None:
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
    with tiny_switch_interval():
        run_threads(*(lambda n=n, role=role: role(n) for n, role in enumerate(roles)))

    end = memory.page.marks().log_end_offset
    assert sorted(offset for some in offsets for offset in some) == list(range(end))
    assert all(some == sorted(some) for some in offsets)
    assert sum(header["count"] for header in memory.batches()) == end
    assert end == 5 * each + 2 * 3 * (each // 4) + 2 * (each // 4)


def test_an_append_that_waits_for_the_lock_keeps_what_it_will_write_to(memory: TailMemory) -> None:
    results: list[object] = []

    def append() -> None:
        try:
            results.append(memory.tail.append(b"value"))
        except ClosedError as error:
            # Between two slices of its wait it may look at the page, and find it released.
            results.append(error)

    memory.page.lock()
    thread = in_thread(append)
    wait_until_asleep(thread.native_id)  # it waits, without the GIL
    memory.tail.detach()
    memory.page.release()

    for held in (memory.window, memory.index, memory.timeindex, memory.memory):
        with pytest.raises(BufferError):
            held.clear()
    memory.page.unlock()
    thread.join()

    for given_back in (memory.window, memory.index, memory.timeindex, memory.memory):
        given_back.clear()
    assert len(results) == 1


def test_detach_attach_and_release_while_others_append() -> None:
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
        for turn in range(150):
            memory.page.lock()
            until = time.monotonic() + 50e-6
            while time.monotonic() < until:
                os.sched_yield()  # appenders come to wait for the lock, without the GIL
            memory.tail.detach()
            if turn % 2:
                memory.attach(window=bytearray(1 << 22))
            memory.configure(max_message_bytes=1 << 20)
            memory.page.publish(position=0, index_entries=0)  # so that nothing fills
            goal = sum(taken) + 1
            memory.page.unlock()
            memory.attach()
            wait_until(lambda goal=goal: sum(taken) >= goal)
        memory.page.release()
        closed.set()

    with tiny_switch_interval():
        run_threads(hold_and_disturb, *(lambda n=n: append(n) for n in range(3)))

    assert sum(taken) >= 150
    memory.memory.clear()  # nobody holds the page any more
