"""One page and one log, many processes; any of them is killed at any instant.

A dead holder of the lock is noticed at once (RELIABILITY, T14: within 0.1 s; 6 to 17 ms were
measured), but no test here demands a time: that would measure how busy the machine is.  A wake-up
that is lost is a test that never ends.

Children are forked and map the files themselves, as a process that opens a log does.  Parent and
children share no Python object.  A child ends by os._exit or SIGKILL, never by returning.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
from pathlib import Path

import pytest
from conftest import IS_EXHAUSTIVE
from processes import Child, Numbers, children
from tail_memory import (
    IS_PORTABLE,
    NOW,
    SERIAL,
    TailMemory,
    map_files,
    wait_until,
)

from pylog import _native

WINDOW_BYTES = 256 << 20
TURN = 0xFFFFFFFF  # the bits of a slot that hold the turn; the life stands above
KILLS = 400 if IS_EXHAUSTIVE else 120
TURNS_OF_A_LIFE = 4000  # more than any wait; a killer that gets no time must not meet a full window
MARK_NAMES = [name for name in dir(_native.Marks) if not name.startswith("_")]


@pytest.fixture
def log(tmp_path: Path) -> TailMemory:
    """A log of this process, whose files others map with map_files(tmp_path)."""
    with (tmp_path / "log").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, WINDOW_BYTES)
    return map_files(tmp_path, window_bytes=WINDOW_BYTES).initialize()


class Checker:
    """Follows the log from outside and compares what it derives from the bytes with the marks."""

    def __init__(self, log: TailMemory) -> None:
        self._log = log
        self._scanner = _native.Scanner(base_offset=0, next_offset=0)

    def check(self) -> _native.Marks:
        """Check the marks of this moment: all of them belong to the same end of valid batches."""
        marks, scanner = self._log.page.marks(), self._scanner
        status = scanner.feed(self._log.window, scanner.position, marks.position)
        assert (status, scanner.position) == (_native.END, marks.position)
        assert scanner.next_offset == marks.log_end_offset == marks.high_watermark
        assert scanner.bytes_since_index_entry == marks.bytes_since_index_entry
        assert len(scanner.index) == marks.index_entries * 8
        assert len(scanner.timeindex) == marks.time_entries * 12
        assert scanner.max_timestamp == marks.max_timestamp
        assert scanner.max_timestamp_offset == marks.max_timestamp_offset
        assert (marks.segment_serial, marks.state) == (SERIAL, _native.OPEN)
        return marks

    def check_indexes(self) -> None:
        index, timeindex = self._scanner.index, self._scanner.timeindex
        assert bytes(memoryview(self._log.index)[: len(index)]) == index
        assert bytes(memoryview(self._log.timeindex)[: len(timeindex)]) == timeindex


# ---------------------------------------------------------------- appending together


def test_processes_append_dense_offsets(tmp_path: Path, log: TailMemory) -> None:
    workers, each = 4, 5_000
    slots = Numbers(workers)

    def work(number: int) -> None:
        mine = map_files(tmp_path, window_bytes=WINDOW_BYTES).attach()
        last = -1
        for turn in range(each):
            offset = mine.tail.append(b"%d %d" % (number, turn)).offset
            assert offset > last
            last = offset
        slots[number] = last

    with children() as start:
        for child in [start(lambda number=number: work(number)) for number in range(workers)]:
            child.join()

    checker = Checker(log)
    assert checker.check().log_end_offset == workers * each
    checker.check_indexes()
    assert max(slots[number] for number in range(workers)) == workers * each - 1
    turns = [0] * workers
    for record in _native.Records(bytes(log.window[: log.page.marks().position])):
        number, turn = map(int, record.value.split())
        assert turn == turns[number]
        turns[number] += 1
    assert turns == [each] * workers


def test_a_reader_never_sees_a_mix_of_marks_of_another_process(
    tmp_path: Path, log: TailMemory
) -> None:
    def publish() -> None:
        page = map_files(tmp_path, window_bytes=WINDOW_BYTES).page
        value = 0
        while True:
            value += 1
            page.lock()
            page.publish(**dict.fromkeys(MARK_NAMES, value))
            page.unlock()

    log.page.lock()
    log.page.publish(**dict.fromkeys(MARK_NAMES, 0))
    log.page.unlock()
    reads, seen = 0, set()
    with children() as start:
        start(publish)
        wait_until(lambda: log.page.marks().state > 0)
        while reads <= 50_000 or len(seen) <= 100:
            marks = log.page.marks()
            values = {getattr(marks, name) for name in MARK_NAMES}
            assert len(values) == 1
            seen |= values
            reads += 1


# ---------------------------------------------------------------- killing


def write_by_hand(mine: TailMemory, data: bytearray, *, pauses: int) -> None:
    """Write like Python does, slowly: bytes in two halves between stamp and publish."""
    mine.page.lock()
    position, _ = mine.tail.stamp(data)
    middle = len(data) // 2
    mine.window[position : position + middle] = data[:middle]
    for _ in range(pauses):
        pass  # and never yields: on a busy machine others would wait for the lock all the while
    mine.window[position + middle : position + len(data)] = data[middle:]
    mine.tail.publish(data)
    mine.page.unlock()


def append_until_killed(tmp_path: Path, acknowledged: Numbers, waits: Numbers, slot: int) -> None:
    """Append "<life> <turn>" to the end of a life, each way; tell which turn was acknowledged, and
    how long the longest took.  Every 50th is written by hand inside the lock."""
    mine = map_files(tmp_path, window_bytes=WINDOW_BYTES).attach()
    life = acknowledged[slot] >> 32
    chance = random.Random(life)
    for turn in range(1, TURNS_OF_A_LIFE + 1):
        value = b"%d %d " % (life, turn) + b"." * chance.choice((0, 30, 300))
        began = time.monotonic_ns()
        if turn % 50 == 0:
            data, _ = _native.encode([value], None, None, NOW, 1 << 20)
            write_by_hand(mine, data, pauses=chance.choice((0, 3000)))
        elif turn % 50 == 25:
            data, _ = _native.encode([value], None, None, NOW + turn, 1 << 20)
            assert isinstance(mine.tail.place(data), tuple)
        else:
            result = mine.tail.append(value)
            assert not isinstance(result, int), result
        acknowledged[slot] = life << 32 | turn
        waits[slot] = max(waits[slot], time.monotonic_ns() - began)
    signal.pause()


def turns_by_life(log: TailMemory) -> dict[int, int]:
    """The last turn of each life; asserts that each life's turns are 1, 2, 3 ..."""
    turns: dict[int, int] = {}
    position, end = 0, log.page.marks().position
    while position < end:
        chunk = bytes(log.window[position : min(position + (8 << 20), end)])
        status, _, taken, _, _ = _native.check_batches(chunk, 0, 0, 2**62, 2**62, -1, True)
        assert status in (_native.END, _native.INCOMPLETE)
        for record in _native.Records(chunk, end=taken):
            life, turn = map(int, record.value.split()[:2])
            assert turn == turns.get(life, 0) + 1
            turns[life] = turn
        position += taken
    return turns


@pytest.mark.slow
def test_processes_are_killed_at_random_and_nothing_is_lost(
    tmp_path: Path, log: TailMemory
) -> None:
    """RELIABILITY D6 and T14.  PYLOG_EXHAUSTIVE=1 kills more often, as far as the window goes."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    workers = 3
    acknowledged, waits = Numbers(workers), Numbers(workers)
    last_turn: dict[int, int] = {}
    interrupted = kills = lives = 0
    longest_wait = 0.0
    checker = Checker(log)

    with children() as start:

        def born(slot: int) -> Child:
            nonlocal lives
            lives += 1
            acknowledged[slot] = lives << 32
            return start(lambda: append_until_killed(tmp_path, acknowledged, waits, slot))

        living = [born(slot) for slot in range(workers)]
        # Fast children must not fill the window: what is left is more than they append in between.
        while kills < KILLS and log.page.marks().position < WINDOW_BYTES // 2:
            slot = chance.randrange(workers)
            turn = chance.randrange(800)
            wait_until(lambda slot=slot, turn=turn: acknowledged[slot] & TURN >= turn)
            living[slot].kill()
            kills += 1
            life, turn = acknowledged[slot] >> 32, acknowledged[slot] & TURN
            last_turn[life] = turn
            interrupted += log.page.intent != (0, 0)
            checker.check()
            asked = time.monotonic()
            log.page.lock()
            log.page.unlock()
            longest_wait = max(longest_wait, time.monotonic() - asked)
            living[slot] = born(slot)
        for slot, child in enumerate(living):
            child.kill()
            last_turn[acknowledged[slot] >> 32] = acknowledged[slot] & TURN

    log.tail.append(b"0 1")
    end = checker.check().log_end_offset
    checker.check_indexes()
    found = turns_by_life(log)
    for life, turn in last_turn.items():
        assert found.get(life, 0) in (turn, turn + 1)  # killed between the append and telling
    assert not any(log.window[log.page.marks().position :][: 1 << 16])
    stall = max(longest_wait, *(waits[slot] / 1e9 for slot in range(workers)))
    print(
        f"{kills} kills, {interrupted} met an intent, {end} records, longest {stall * 1e3:.1f} ms"
    )
    assert kills >= 100
    assert end > 10_000


def test_a_killed_holder_of_the_lock_is_noticed_at_once(tmp_path: Path, log: TailMemory) -> None:
    slots = Numbers(1)

    def die_inside() -> None:
        mine = map_files(tmp_path, window_bytes=WINDOW_BYTES).attach()
        data, _ = _native.encode([b"never published"] * 9, None, None, NOW, 1000)
        mine.page.lock()
        position, _ = mine.tail.stamp(data)
        mine.window[position : position + 100] = data[:100]
        slots[0] = 1
        signal.pause()

    log.tail.append(b"first")
    position = log.page.marks().position
    with children() as start:
        child = start(die_inside)
        wait_until(lambda: slots[0] == 1)
        told = log.page.events.value
        child.kill()

        log.page.lock()
        assert log.page.intent[0] == position
        assert any(log.window[position : position + 100])
        assert log.page.events.value == told + (not IS_PORTABLE)
        log.page.unlock()

    assert log.tail.append(b"second").offset == 1
    assert log.page.intent == (0, 0)
    assert Checker(log).check().log_end_offset == 2
    assert not any(log.window[log.page.marks().position :][:200])


@pytest.mark.parametrize("how", ["lock", "append"])
def test_who_already_waits_gets_the_lock_of_a_holder_that_is_killed(
    tmp_path: Path, log: TailMemory, how: str
) -> None:
    slots = Numbers(2)

    def hold() -> None:
        mine = map_files(tmp_path, window_bytes=WINDOW_BYTES)
        mine.page.lock()
        slots[0] = 1
        signal.pause()

    def wait() -> None:
        mine = map_files(tmp_path, window_bytes=WINDOW_BYTES).attach()
        slots[1] = -1
        if how == "lock":
            mine.page.lock()
        else:
            assert mine.tail.append(b"value").offset == 0

    with children() as start:
        holder = start(hold)
        wait_until(lambda: slots[0] == 1)
        waiter = start(wait)
        wait_until(lambda: slots[1] == -1 and waiter.is_asleep())
        holder.kill()
        waiter.join()


def test_a_forked_child_does_not_hold_its_parents_lock(log: TailMemory) -> None:
    def misuse() -> None:
        for call in (log.page.unlock, log.page.publish):
            with pytest.raises(RuntimeError, match="does not hold"):
                call()

    log.page.lock()
    with children() as start:
        start(misuse).join()
    log.page.publish(flags=1)
    log.page.unlock()


# ---------------------------------------------------------------- waking


@pytest.mark.usefixtures("no_second_look")
@pytest.mark.parametrize("which", ["page", "log"])
def test_an_append_wakes_a_waiter_in_another_process(
    tmp_path: Path, log: TailMemory, which: str
) -> None:
    rounds = 50
    shared = mmap.mmap(-1, 4096)
    log_events = _native.Events(shared)
    tail = _native.Tail(
        log.page, topic="t", partition=0, clock=_native.system_clock, log_events=log_events
    )
    log.tail = tail
    log.configure()
    log.attach()
    read_end, write_end = os.pipe()

    def follow() -> None:
        page = map_files(tmp_path, window_bytes=WINDOW_BYTES).page
        events = page.events if which == "page" else log_events
        for turn in range(rounds):
            assert events.wait(turn)
            assert page.marks().high_watermark == turn + 1
            os.write(write_end, struct.pack("q", time.monotonic_ns()))

    delays = []
    with children() as start:
        child = start(follow)
        for _ in range(rounds):
            wait_until(child.is_asleep)
            began = time.monotonic_ns()
            tail.append(b"value")
            (woken,) = struct.unpack("q", os.read(read_end, 8))
            delays.append((woken - began) / 1e9)
        child.join()
    os.close(read_end)
    os.close(write_end)

    delays.sort()
    print(f"wake-up: median {delays[rounds // 2] * 1e6:.0f} us, longest {delays[-1] * 1e6:.0f} us")


@pytest.mark.usefixtures("no_second_look")
def test_killed_sleepers_disturb_nobody(tmp_path: Path, log: TailMemory) -> None:
    slots = Numbers(4)

    def sleep(slot: int) -> None:
        events = map_files(tmp_path, window_bytes=WINDOW_BYTES).page.events
        slots[slot] = 1
        assert events.wait(0)
        slots[slot] = 2

    with children() as start:
        sleepers = [start(lambda slot=slot: sleep(slot)) for slot in range(4)]
        wait_until(lambda: all(slots[slot] == 1 for slot in range(4)))
        wait_until(lambda: all(sleeper.is_asleep() for sleeper in sleepers))
        sleepers[0].kill()
        sleepers[2].kill()
        log.tail.append(b"value")
        sleepers[1].join()
        sleepers[3].join()

    assert list(slots) == [1, 2, 1, 2]
    for _ in range(3):
        log.tail.append(b"value")
    assert log.page.events.value == 4
