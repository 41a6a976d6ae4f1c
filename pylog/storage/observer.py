"""Tell a user's functions what one partition appended and read.

Knows the two functions and when they are due: after an append was acknowledged, after a read, in
the thread that did it.  Must not know what they do; what they raise is logged and goes no further.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from pylog._native import Records
from pylog.callbacks import call_safely
from pylog.records import AppendEvent, ReadEvent
from pylog.storage import layout
from pylog.storage.environment import Environment

_OBSERVER: Final = "an observer"

Read = Callable[[int, int, int | None], Records]


def observer_of(topic: str, number: int, environment: Environment) -> Observer | None:
    """Return who tells of a partition; None where nobody wants to know.

    Internal partitions are used under locks, which a user's function may want to take.
    """
    if layout.is_internal(topic) or not (environment.on_append or environment.on_read):
        return None
    return Observer(topic, number, environment)


class Observer:
    """What a partition tells of itself."""

    def __init__(self, topic: str, number: int, environment: Environment) -> None:
        self._name = (topic, number)
        self._on_append = environment.on_append
        self._on_read = environment.on_read
        self._monotonic = environment.monotonic
        # By (thread, first offset): end offset, bytes, and when it was begun.
        self._placed: dict[tuple[int, int], tuple[int, int, float]] = {}

    @property
    def sees_appends(self) -> bool:
        """Whether each append has to be told of."""
        return self._on_append is not None

    def now(self) -> float:
        """Return seconds, of the clock that durations are measured by."""
        return self._monotonic()

    def placed(self, first: int, end_offset: int, size_bytes: int, since: float) -> None:
        """Note what this thread placed; `acknowledged` or `given_up` by the same thread follows."""
        if self._on_append is not None:
            self._placed[threading.get_ident(), first] = end_offset, size_bytes, since

    def acknowledged(self, start: int, end_offset: int) -> None:
        """Tell of what this thread placed in [start, end_offset)."""
        on_append = self._on_append
        if on_append is None:
            return  # and nothing was noted
        for first, (end, size_bytes, since) in self._taken(start, end_offset):
            seconds = self._monotonic() - since
            event = AppendEvent(*self._name, first, end - first, size_bytes, seconds)
            call_safely(on_append, event, what=_OBSERVER)

    def given_up(self, start: int, end_offset: int) -> None:
        """Forget what this thread placed in [start, end_offset): nobody knows what became of it."""
        self._taken(start, end_offset)

    def _taken(self, start: int, end_offset: int) -> list[tuple[int, tuple[int, int, float]]]:
        me = threading.get_ident()
        mine = sorted(
            first
            for thread, first in list(self._placed)
            if thread == me and start <= first < end_offset
        )
        return [(first, self._placed.pop((me, first))) for first in mine]

    def watched(self, read: Read) -> Read:
        """Return a function that reads as `read` does, and tells of it."""
        on_read = self._on_read
        if on_read is None:
            return read

        def watch(offset: int, max_bytes: int, end: int | None) -> Records:
            since = self._monotonic()
            records = read(offset, max_bytes, end)
            seconds = self._monotonic() - since
            count = max(0, records.next_offset - offset)
            event = ReadEvent(*self._name, offset, count, records.nbytes, seconds)
            call_safely(on_read, event, what=_OBSERVER)
            return records

        return watch
