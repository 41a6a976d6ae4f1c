"""Processes for tests: started, watched and never left behind.

A child is forked from a process that has no log open, unless a test wants just that, and opens the
log itself.  It ends by os._exit or SIGKILL, never by returning.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from patience import HANG_SECONDS

from pylog import Partition


class Child:
    """A forked process that runs a function; its exit status says whether that raised."""

    def __init__(self, function: Callable[[], object], *, alarm_seconds: int) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.alarm(alarm_seconds)
                function()
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                os._exit(status)

    def is_asleep(self) -> bool:
        """Whether it waits in the kernel; a system that does not tell says yes."""
        status = Path(f"/proc/{self.pid}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "S"

    def is_stopped(self) -> bool:
        """Whether a SIGSTOP reached it."""
        status = Path(f"/proc/{self.pid}/stat")
        return status.read_text().rpartition(")")[2].split()[0] == "T"

    def has_failed(self) -> bool:
        """Whether it has ended by itself, which one that works until it is killed never does."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
            return True
        return False

    def kill(self) -> None:
        """SIGKILL, if it was not joined or killed before."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def join(self) -> None:
        """Wait for the end; asserts that the function returned."""
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        assert status == 0, f"a child ended with {status:#x}"


@contextlib.contextmanager
def children(
    *, alarm_seconds: int = HANG_SECONDS
) -> Iterator[Callable[[Callable[[], object]], Child]]:
    """Fork children that cannot outlive the test, nor, if this process is killed, their alarm."""
    born: list[Child] = []

    def start(function: Callable[[], object]) -> Child:
        born.append(Child(function, alarm_seconds=alarm_seconds))
        return born[-1]

    try:
        yield start
    finally:
        for child in born:
            child.kill()


class Numbers:
    """Integers in memory that forked processes share: one writer per slot."""

    def __init__(self, count: int) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 8 * count)).cast("q")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, slot: int) -> int:
        return self._numbers[slot]

    def __setitem__(self, slot: int, number: int) -> None:
        self._numbers[slot] = number


_VALUE = struct.Struct(">II")
_FILLER = bytes(range(256))


def value_of(life: int, turn: int) -> bytes:
    """Return the value that a life appends in a turn: 8 to 200 bytes that tell both."""
    return _VALUE.pack(life, turn) + _FILLER[: (life * 31 + turn * 7) % 193]


class Ledger:
    """What one life of a writer was told; survives its SIGKILL.  The writer alone writes.

    A life appends turns 0, 1, 2, ...; the offset of each is noted when the append has returned.
    """

    def __init__(self, life: int, turns: int = 40_000) -> None:
        self.life = life
        self._numbers = Numbers(2 + turns)

    @property
    def acknowledged(self) -> int:
        """How many turns were acknowledged."""
        return self._numbers[0]

    @property
    def started(self) -> int:
        """How many turns were begun: those after the acknowledged ones may or may not be there."""
        return self._numbers[1]

    def offset(self, turn: int) -> int:
        return self._numbers[2 + turn]

    def append_all(self, partition: Partition, *, many: int = 1) -> None:
        """Append turn after turn until the ledger is full, `many` at a time."""
        numbers, life = self._numbers, self.life
        for turn in range(0, len(numbers) - 1 - many, many):
            numbers[1] = turn + many
            values = [value_of(life, turn + place) for place in range(many)]
            if many == 1:
                offsets = [partition.append(values[0]).offset]
            else:
                offsets = [one.offset for one in partition.append_many(values)]
            for place, offset in enumerate(offsets):
                numbers[2 + turn + place] = offset
            numbers[0] = turn + many


def check_ledgers(partition: Partition, ledgers: list[Ledger]) -> int:
    """Assert that the partition holds what the ledgers say, and nothing else; returns the records.

    Offsets are dense; each life's turns are there once, in order and unaltered, all acknowledged
    ones at the offsets that were returned, and no more than the one call in flight besides.
    """
    by_life = {ledger.life: ledger for ledger in ledgers}
    turns = dict.fromkeys(by_life, 0)
    expected = 0
    for record in partition.records():
        assert record.offset == expected
        expected += 1
        life, turn = _VALUE.unpack_from(record.value or b"")
        assert record.value == value_of(life, turn)
        assert turn == turns[life]
        turns[life] += 1
        ledger = by_life[life]
        if turn < ledger.acknowledged:
            assert ledger.offset(turn) == record.offset
    assert expected == partition.log_end_offset
    for life, count in turns.items():
        assert by_life[life].acknowledged <= count <= by_life[life].started
    return expected
