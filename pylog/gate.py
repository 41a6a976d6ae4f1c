"""Who may use a consumer: one thread at a time, until it is closed; and how others wake it.

Knows threads and events.  Must not know what a consumer does.

Locks: `_user`, held by the thread whose call is at work; never waited for.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from pylog._native import Events
from pylog.callbacks import call_safely
from pylog.errors import ClosedError, ConcurrentUseError, WakeupError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Gate:
    """What threads have to pass, and what other threads may say at any time."""

    def __init__(
        self,
        events: Events,
        *,
        end: Callable[[Gate], object] | None = None,
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        """end: what is to be done before the gate closes, if nobody is inside; None: nothing.
        stop: ends what goes on without passing the gate; it takes no lock.

        Who has something to end belongs to one process: the gate is closed in a forked child.
        """
        self._events = events
        self._end = end
        self._stop = stop
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
        """Let nobody in any more, and end the wait that is going on.  Idempotent.

        What `end` raises is logged.
        """
        if self._end is not None and not self.is_closed and self._user.acquire(blocking=False):
            try:
                call_safely(self._end, self, what="the end")
            finally:
                self._user.release()
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
        if self._end is not None:
            self.is_closed = True
            self._stop()


class Gated(Protocol):
    """Who has a gate."""

    gate: Gate


_Self = TypeVar("_Self", bound=Gated)


def alone(
    method: Callable[Concatenate[_Self, _Arguments], _Result],
) -> Callable[Concatenate[_Self, _Arguments], _Result]:
    """Let one thread at a time call a method, while the gate is open."""

    @functools.wraps(method)
    def entered(self: _Self, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        self.gate.enter()
        try:
            return method(self, *arguments, **named)
        finally:
            self.gate.leave()

    return entered
