"""A budget of file descriptors for segments: open on first use, close what was not used lately.

Knows files only as things that can be opened and let go of.  Source: the second-chance algorithm
(Corbato's clock), which costs a reader one attribute store and no lock.

Locks: one, around the ring.  Closing is by reference count: a reader that still holds the file
keeps it open, so a descriptor number is never reused under a running pread.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Final

from pylog.storage.files import File

DEFAULT_BUDGET: Final = 512  # half of the usual soft limit of 1,024 descriptors
# Of partitions that are appended to, each with four maps: half of the 65,530 that Linux gives.
MAX_BUDGET: Final = 8192


def budget_of(limit: int) -> int:
    """Return what a log may hold open in a process that may open `limit` files: half of it."""
    return min(limit // 2, MAX_BUDGET)


class Holder:
    """The place that keeps one file open.  `file` is None while it is closed."""

    __slots__ = ("file", "is_pinned", "was_used")

    def __init__(self) -> None:
        self.file: File | None = None
        self.was_used = False
        self.is_pinned = False  # a file with bytes that are not on disk yet stays open


class Descriptors:
    """Keeps at most `budget` holders open, as long as enough of them are not pinned."""

    def __init__(self, budget: int = DEFAULT_BUDGET) -> None:
        self._budget = budget
        self._ring: collections.deque[Holder] = collections.deque()
        self._lock = threading.Lock()

    def open(self, holder: Holder, opener: Callable[[], File]) -> File:
        """Return the holder's file, opened by `opener` if need be.  Raises OSError."""
        with self._lock:
            holder.was_used = True
            if holder.file is not None:
                return holder.file
            self._make_room()
            file = holder.file = opener()
            self._ring.append(holder)
            return file

    def forget(self, holder: Holder) -> None:
        """Close the holder's file when its last reader is done."""
        with self._lock:
            holder.file = None
            if holder in self._ring:
                self._ring.remove(holder)

    def __len__(self) -> int:
        return len(self._ring)

    def _make_room(self) -> None:
        # Two rounds at most: the first takes the second chance from everyone.
        for _ in range(2 * len(self._ring)):
            if len(self._ring) < self._budget:
                return
            holder = self._ring.popleft()
            if holder.was_used or holder.is_pinned:
                holder.was_used = False
                self._ring.append(holder)
            else:
                holder.file = None

    def after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()
