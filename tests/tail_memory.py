"""A tail over plain memory or over mapped files, as small tests need it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pylog import _native

NOW = 1_700_000_000_000
RECORD_BYTES = 70  # of a batch that holds one empty value and no key
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
            "visible_on_append": True,
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
