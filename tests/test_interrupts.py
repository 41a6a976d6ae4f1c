"""Ctrl-C at any moment: a KeyboardInterrupt that passes through storage leaves every lock free.

Python handles signals after calls into C, at the start of functions and at jumps back.  A trace
function raises at each of these places in turn, so nothing here depends on when a signal arrives.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from tail_memory import run_threads

import pylog
from pylog import Partition
from pylog.engine.background import Background

PACKAGE = str(Path(pylog.__file__).parent)
ENDS = contextlib._GeneratorContextManager.__exit__.__code__


@functools.cache
def handler_at(code: CodeType, position: int) -> int | None:
    """Return where an instruction of `code` continues when it raises, None for nowhere."""
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]
    found = [entry.target for entry in entries if entry.start <= position < entry.end]
    return found[0] if found else None


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place where Python handles signals in pylog's code."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.place = ""
        self._last: dict[FrameType, int] = {}
        self._has_returned = False

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "return":
            # Of a Python function: its caller goes on without a look at signals.
            self._has_returned = True
            self._last.pop(frame, None)
        elif event == "opcode":
            last = self._last.get(frame)
            self._last[frame] = frame.f_lasti
            has_returned, self._has_returned = self._has_returned, False
            if last is not None and self._is_place(frame, last, has_returned=has_returned):
                self._count(frame)
        return self.trace

    def _is_place(self, frame: FrameType, last: int, *, has_returned: bool) -> bool:
        """Return whether a signal may be handled between two instructions, the second one next.

        It belongs to the first one, so where that has another handler nothing can be raised here.
        """
        code = frame.f_code
        name = dis.opname[code.co_code[last]]
        return (
            code.co_filename.startswith(PACKAGE)
            and name in ("RESUME", "JUMP_BACKWARD", "CALL")
            and not (name == "CALL" and has_returned)
            and handler_at(code, last) == handler_at(code, frame.f_lasti)
        )

    def _count(self, frame: FrameType) -> None:
        if self.left == 0:
            self.place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
            sys.settrace(None)
            self.left = -1
            raise KeyboardInterrupt(self.place)
        self.left -= 1

    def strikes(self, call: Callable[[], object]) -> bool:
        """Return whether the call came to the place of the interrupt."""
        sys.settrace(self.trace)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                call()
        finally:
            sys.settrace(None)
        return self.left < 0


class InterruptOfEnds(Interrupt):
    """Raises where contextlib is about to go on with a generator at the end of a `with`."""

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "call" and frame.f_code is ENDS:
            self._count(frame)


def use(one: Partition, other: Partition) -> None:
    """Append through two handles; fails when one of them waits for ever or raises."""
    run_threads(other.suspend)
    run_threads(lambda: other.append(b"after"), other.flush)
    run_threads(lambda: one.append(b"after"), one.flush)
    one.check()


def append_and_roll(partition: Partition) -> None:
    partition.append(bytes(200))


def append_large(partition: Partition) -> None:
    partition.append(bytes(70_000))


def open_again(partition: Partition) -> None:
    partition.suspend()
    partition.append(b"x")


@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("call", [append_and_roll, append_large, open_again])
def test_an_interrupt_anywhere_leaves_every_lock_free(
    tmp_path: Path, call: Callable[[Partition], object], durability: str
) -> None:
    with pylog.open(tmp_path) as log, pylog.open(tmp_path) as other:
        topic = log.create_topic("t", 1000, durability=durability, segment_bytes=250)
        is_struck, nth = True, 0
        while is_struck:
            # Each time another partition, so that there is equally much to do.
            one, two = topic.partition(nth), other.topic("t").partition(nth)
            one.append(b"first")
            two.append(b"second")
            interrupt = Interrupt(nth)
            is_struck = interrupt.strikes(lambda one=one: call(one))
            print(f"interrupted at {interrupt.place}")
            use(one, two)
            assert [record.offset for record in one.records()] == list(range(one.log_end_offset))
            two.suspend()
            one.suspend()
            nth += 1
        assert nth > 100


@pytest.mark.parametrize(("before", "after"), [("os", "fsync"), ("fsync", "os")])
def test_an_interrupt_anywhere_leaves_no_settings_half_followed(
    tmp_path: Path, before: str, after: str
) -> None:
    with pylog.open(tmp_path) as log:
        is_struck, nth = True, 0
        while is_struck:
            partition = log.create_topic(f"t{nth}", durability=before).partition(0)
            partition.append(b"first")
            log.alter_topic(f"t{nth}", durability=after)
            interrupt = Interrupt(nth)
            is_struck = interrupt.strikes(functools.partial(partition.append, b"x"))
            print(f"interrupted at {interrupt.place}")
            offset = partition.append(b"after").offset
            assert partition.durable_offset > offset or after != "fsync"
            assert partition.high_watermark == offset + 1
            nth += 1
        assert nth > 20


def test_an_interrupt_that_is_kept_keeps_no_lock(tmp_path: Path) -> None:
    # Story: a generator held the lock of the page.  Interrupted where contextlib was about to end
    # it, it lived as long as the traceback, in an interactive session for ever, and nobody could
    # append; and what compaction did at its end found the lock held by its own thread.
    kept: list[BaseException] = []

    def compact(partition: Partition) -> None:
        try:
            partition.compact()
        except KeyboardInterrupt as error:
            kept.append(error)

    with pylog.open(tmp_path) as log, pylog.open(tmp_path) as other:
        topic = log.create_topic("t", 1000, durability="os", cleanup_policy="compact")
        is_struck, nth = True, 0
        while is_struck:
            one, two = topic.partition(nth), other.topic("t").partition(nth)
            one.append(b"first", key=b"k")
            one.append(b"second", key=b"k")
            interrupt = InterruptOfEnds(nth)
            is_struck = interrupt.strikes(functools.partial(compact, one))
            print(f"interrupted at {interrupt.place}")
            run_threads(functools.partial(two.append, b"after", key=b"k"))
            one.check()
            nth += 1
        assert len(kept) == nth - 1 > 10


def test_an_interrupt_anywhere_leaves_no_background_work_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Story: a task that was in one table and not in the other ended the thread, and was lost; one
    # that nobody woke the thread for was taken to be waiting, and never came.
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    is_struck, nth = True, 0
    while is_struck:
        background, done = Background(lambda: 0.0), threading.Event()
        schedule = functools.partial(background.schedule, "work", 0.0, done.set)
        interrupt = Interrupt(nth)
        is_struck = interrupt.strikes(schedule)
        print(f"interrupted at {interrupt.place}")
        schedule()
        done.wait()
        background.close()
        nth += 1
    assert nth > 2
    assert reported == []
