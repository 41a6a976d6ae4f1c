"""Who may use a consumer: one thread at a time, until it is closed; and how others wake it.

Knows threads and events.  Must not know what a consumer does.

Locks: `_user`, held by the thread whose call is at work; only who closes waits for it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from pylog._native import Events
from pylog.callbacks import call_safely
from pylog.errors import ClosedError, ConcurrentUseError, WakeupError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_CLOSED: Final = "the consumer is closed"
# For so long who closes waits for the call that goes on, which ends what there is to end.  Longer
# only takes a user's function; guessed.
_CLOSING_SECONDS: Final = 5.0


class Gate:
    """What threads have to pass, and what other threads may say at any time."""

    def __init__(
        self,
        events: Events,
        *,
        end: Callable[[Gate], object] | None = None,
        stop: Callable[[], object] = lambda: None,
    ) -> None:
        """end: what is to be done when the gate closes, with nobody inside; None: nothing.
        stop: ends what goes on without passing the gate; the caller is inside.

        Who has something to end belongs to one process: the gate is closed in a forked child.
        """
        self._events = events
        self._end = end
        self._is_of_one_process = end is not None
        self._stop = stop
        self._user = threading.RLock()
        self._depth = 0  # of calls within calls, of the thread that is inside
        self._last_thread = 0
        self._is_woken = False
        self._is_closing = False
        self.is_closed = False

    def __repr__(self) -> str:
        return "<the gate of a consumer>"

    @property
    def is_users_thread(self) -> bool:
        """Whether this thread began the last call, or the one that did has ended."""
        last = self._last_thread
        if last == threading.get_ident():
            return True
        return all(thread.ident != last for thread in threading.enumerate())

    def enter(self) -> None:
        """Begin a call; the thread that is in one may begin another.

        Raises ConcurrentUseError, ClosedError.
        """
        if not self._user.acquire(blocking=False):
            raise ClosedError(_CLOSED) if self._is_closing else ConcurrentUseError
        self._depth += 1
        if self._depth == 1:
            if self._is_closing:
                self.leave()
                raise ClosedError(_CLOSED)
            self._last_thread = threading.get_ident()

    def leave(self) -> None:
        """End a call; and all, if another thread began to close meanwhile."""
        try:
            if self._depth == 1 and self._is_closing:
                self._finish()
        finally:
            self._depth -= 1
            self._user.release()

    def wakeup(self) -> None:
        """End the wait that is going on, or the next one.  Any thread, or a signal handler."""
        self._is_woken = True
        self._events.notify()

    @property
    def is_called(self) -> bool:
        """Whether `check` would raise."""
        return self._is_closing or self._is_woken

    def close(self) -> None:
        """Let nobody in any more, and end the wait that is going on.  Idempotent.

        Where a thread is inside, it does what there is to end when it comes out, and this waits for
        it, for some seconds.  What `end` raises is logged.
        """
        self._is_closing = True
        self._events.notify()
        if self._end is not None and self._user.acquire(timeout=_CLOSING_SECONDS):
            try:
                self._finish()
            finally:
                self._user.release()
        self.is_closed = True

    def _finish(self) -> None:
        """Do what there is to end, once; the caller is inside."""
        end, self._end = self._end, None
        if end is not None:
            self._depth += 1  # what is called now may begin calls
            try:
                self._stop()
                call_safely(end, self, what="the end")
            finally:
                self._depth -= 1
        self.is_closed = True

    def check(self) -> None:
        """Raise what other threads said: WakeupError once for all calls so far, ClosedError."""
        if self._is_closing:
            raise ClosedError(_CLOSED)
        if self._is_woken:
            self._is_woken = False
            raise WakeupError

    def after_fork(self) -> None:
        """In a forked child: a thread of the parent may have been in a call."""
        self._user = threading.RLock()
        self._depth = 0
        if self._is_of_one_process:
            self._is_closing = self.is_closed = True
            self._end = None
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
