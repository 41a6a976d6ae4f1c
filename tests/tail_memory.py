"""What the tests of pages and tails share: a tail over memory or mapped files, and waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from patience import HANG_SECONDS

from pylog import _native

IS_PORTABLE = _native.PAGE_ABI.endswith("-0")  # the lock is not in the page, and waiters poll
NOW = 1_700_000_000_000
SERIAL = 7


class TailMemory:
    """A page, a window, two indexes and the tail over them; everything is a public attribute."""

    def __init__(
        self,
        *,
        page: Any = None,
        window: Any = None,
        index: Any = None,
        timeindex: Any = None,
        lock_fd: int = -1,
        clock: Callable[[], int] = lambda: NOW,
        log_events: _native.Events | None = None,
        rules: dict[str, Any] | None = None,
    ) -> None:
        self.memory = bytearray(_native.PAGE_BYTES) if page is None else page
        self.window = bytearray(1 << 16) if window is None else window
        self.index = bytearray(1024 * 8) if index is None else index
        self.timeindex = bytearray(1024 * 12) if timeindex is None else timeindex
        self.page = _native.SharedPage(self.memory, lock_fd=lock_fd)
        self.tail = _native.Tail(
            self.page, topic="orders", partition=3, clock=clock, log_events=log_events
        )
        self.configure(**(rules or {}))

    def configure(self, **rules: Any) -> None:
        defaults: dict[str, Any] = {
            "max_message_bytes": 1 << 20,
            "segment_bytes": 1 << 30,
            "segment_ms": 1 << 60,
            "index_interval_bytes": 4096,
            "timestamp_before_ms": 2**63 - 1,
            "timestamp_after_ms": 2**63 - 1,
            "visible_on_append": True,
            "is_compressed": False,
            "is_log_append_time": False,
            "needs_key": False,
            "is_held": False,
            "settings_seen": 0,
        }
        self.tail.configure(**(defaults | rules))

    def initialize(self, **marks: int) -> TailMemory:
        """Make the page, with all memory allocated unless `marks` say otherwise, and attach."""
        defaults = {
            "allocated": len(self.window),
            "index_allocated": len(self.index) // 8,
            "time_allocated": len(self.timeindex) // 12,
            "segment_serial": SERIAL,
        }
        self.page.initialize(b"test", **(defaults | marks))
        return self.attach()

    def attach(self, **changes: Any) -> TailMemory:
        self.tail.attach(
            **{
                "segment_serial": SERIAL,
                "window": self.window,
                "window_position": 0,
                "index": self.index,
                "timeindex": self.timeindex,
                "log": None,
            }
            | changes
        )
        return self

    def marks(self) -> dict[str, int]:
        marks = self.page.marks()
        return {name: getattr(marks, name) for name in dir(marks) if not name.startswith("_")}

    def batches(self) -> list[dict[str, int]]:
        """The headers of what was published in the window; asserts that each CRC is right."""
        data = bytes(self.window[: self.page.marks().position])
        if data:
            status, _, end, _, _ = _native.check_batches(data, 0, 0, 2**62, 2**62, -1, True)
            assert (status, end) == (_native.END, len(data))
        return _native.batch_headers(data)


def map_files(folder: Path, *, window_bytes: int) -> TailMemory:
    """Open the files in `folder`, made when missing, as a process does; the page is not made."""

    def mapped(name: str, size: int) -> _native.Mapping:
        fd = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(fd).st_size < size:
                os.pwrite(fd, bytes(size), 0)
            return _native.Mapping(fd, size, writable=True)
        finally:
            os.close(fd)

    entries = window_bytes // 4096 + 16
    # Stays open as long as the process: the portable lock is a flock on it.
    lock_fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    return TailMemory(
        page=mapped("page", _native.PAGE_BYTES),
        window=memoryview(mapped("log", window_bytes)),
        index=mapped("index", entries * 8),
        timeindex=mapped("timeindex", entries * 12),
        lock_fd=lock_fd,
    )


def batches_of(*values: list[bytes], timestamp: int = NOW) -> bytearray:
    """Encode one batch per list."""
    data = bytearray()
    for batch in values:
        data += _native.encode(batch, None, None, timestamp, 1 << 20)[0]
    return data


def stamp_and_publish(memory: TailMemory, data: bytearray) -> tuple[int, int]:
    """Append `data` as Python does when it is larger than the window; returns what stamp did."""
    memory.page.lock()
    placed = memory.tail.stamp(data)
    assert isinstance(placed, tuple)
    memory.window[placed[0] : placed[0] + len(data)] = data
    memory.tail.publish(data)
    memory.page.unlock()
    return placed


# ---------------------------------------------------------------- threads and waiting


@contextlib.contextmanager
def tiny_switch_interval() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def run_threads(*functions: Callable[[], object]) -> None:
    """Run all at once; asserts that none raised and all ended."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=[one], daemon=True) for one in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def in_thread(function: Callable[[], object]) -> threading.Thread:
    """Start one thread that cannot keep the process alive."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


class NewThreads:
    """The threads that were started since this was made; others may end meanwhile."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def __call__(self) -> list[str]:
        return sorted(one.name for one in set(threading.enumerate()) - self._before)


def wait_until(is_true: Callable[[], object]) -> None:
    """Give way to others until something is so; fails when it hangs, on the slowest machine."""
    began = time.monotonic()
    while not is_true():
        waited = time.monotonic() - began
        assert waited < HANG_SECONDS
        if waited < 0.05:
            os.sched_yield()
        else:
            _pause()  # whoever is waited for may need this processor


def _pause() -> None:
    threading.Event().wait(0.001)


def wait_until_asleep(native_id: int | None) -> None:
    """Return when a thread has slept in the kernel for a while, and not only on its way there.

    native_id: of a thread that has been started.
    """
    assert native_id is not None
    status = Path(f"/proc/self/task/{native_id}/stat")
    asleep = 0
    while asleep < 50:
        state = status.read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if state == "S" else 0
        os.sched_yield()


def signal_when_asleep(number: int = signal.SIGINT) -> threading.Thread:
    """Send this process a signal when its main thread, which is to call this, has gone to sleep.

    A signal after so many milliseconds would come too early on a busy machine, where nobody expects
    it yet: a KeyboardInterrupt would end all tests.
    """
    main = threading.get_native_id()

    def send() -> None:
        wait_until_asleep(main)
        os.kill(os.getpid(), number)

    return in_thread(send)


def wait_for_sleeper(events_memory: Any, position: int = 0) -> None:
    """Wait until somebody sleeps, or is about to, on the events at `position` of the memory."""
    if not IS_PORTABLE:
        wait_until(lambda: bool(memoryview(events_memory)[position] & 1))
