"""Who may use a consumer: one thread at a time, until it is closed; and how others wake it.

Knows threads and events.  Must not know what a consumer does.

Locks: `_user`, held by the thread whose call is at work; never waited for.
"""

from __future__ import annotations

import threading

from pylog._native import Events
from pylog.errors import ClosedError, ConcurrentUseError, WakeupError


class Gate:
    """What threads have to pass, and what other threads may say at any time."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._user = threading.RLock()
        self._is_woken = False
        self.is_closed = False

    def enter(self) -> None:
        """Begin a call; the thread that is in one may begin another.

        Raises ConcurrentUseError, ClosedError.
        """
        if not self._user.acquire(blocking=False):
            raise ConcurrentUseError
        if self.is_closed:
            self._user.release()
            raise ClosedError("the consumer is closed")

    def leave(self) -> None:
        """End a call."""
        self._user.release()

    def wakeup(self) -> None:
        """End the wait that is going on, or the next one.  Any thread, or a signal handler."""
        self._is_woken = True
        self._events.notify()

    def close(self) -> None:
        """Let nobody in any more, and end the wait that is going on.  Idempotent."""
        self.is_closed = True
        self._events.notify()

    def check(self) -> None:
        """Raise what other threads said: WakeupError once for all calls so far, ClosedError."""
        if self.is_closed:
            raise ClosedError("the consumer is closed")
        if self._is_woken:
            self._is_woken = False
            raise WakeupError

    def after_fork(self) -> None:
        """In a forked child: a thread of the parent may have been in a call."""
        self._user = threading.RLock()
