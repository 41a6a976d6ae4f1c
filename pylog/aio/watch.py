"""How tasks wait for a log: one thread of the process sleeps on the events of all logs.

It wakes event loops, each once for all of its tasks that wait; there, each waiter is asked whether
there is anything for it, which costs microseconds, and only who says so goes on.  So an append
wakes one thread and one loop, however many consumers wait.

Knows events and loops.  Must not know what is waited for.

Locks: the watcher's condition, never held while anything is waited for or called.  A room belongs
to its loop's thread, but for `wake`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final

from pylog._native import Events, wait_for_events
from pylog.errors import PylogError
from pylog.storage.policy import LOOK_AGAIN_SECONDS

# Asking those who have nothing to do, while others append all the time, takes at most one part of
# so many of the loop's time; else it is done at once (guessed).
_LOOKING_SHARE: Final = 10


class Room:
    """Where the tasks of one event loop wait for one log.  Made in the loop."""

    def __init__(self, events: Events) -> None:
        """events: of the log."""
        self.events = events
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._is_watched = False
        self._look_at: asyncio.TimerHandle | None = None
        self._not_before = 0.0
        _watcher.enter(self)

    async def wait(
        self,
        future: asyncio.Future[None],
        is_due: Callable[[], bool],
        seen: int,
        timeout: float | None,
    ) -> None:
        """Return when there may be something to do.

        future: a new one of the loop; who sets its result ends the wait.
        is_due: whether there is anything to do; asked in the loop when the events' value is not
        `seen` any more, and every second, as things are due by the clock, too.  It must not wait;
        what it raises counts as yes.
        timeout: seconds, None for ever; after it this returns as well.
        """
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(timeout, _end, future)
        self._waiters[future] = is_due
        try:
            if self.events.value != seen:
                self._look_soon()
            else:
                # Whoever counts an event from now on meets a room that is watched.
                self._watch(seen)
            await future
        finally:
            del self._waiters[future]
            if timer is not None:
                timer.cancel()

    def _watch(self, seen: int) -> None:
        if not self._is_watched:
            self._is_watched = True
            _watcher.watch(self, seen)
        if self._look_at is None:
            self._look_at = self._loop.call_later(LOOK_AGAIN_SECONDS, self._look)

    def wake(self) -> None:
        """Have the waiters asked, in the loop.  The watcher's thread calls this."""
        # A loop that is closed has nobody who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed)

    def _changed(self) -> None:
        self._is_watched = False
        self._look_soon()

    def _look_soon(self) -> None:
        if self._look_at is not None:
            self._look_at.cancel()
        self._look_at = self._loop.call_at(self._not_before, self._look)

    def _look(self) -> None:
        """Ask all who wait."""
        self._look_at = None
        seen = self.events.value
        began = self._loop.time()
        is_idle = False
        for future, is_due in list(self._waiters.items()):
            if not future.done():
                if _is_true(is_due):
                    future.set_result(None)
                else:
                    is_idle = True
        if is_idle:
            now = self._loop.time()
            self._not_before = now + (_LOOKING_SHARE - 1) * (now - began)
            self._watch(seen)

    def close(self) -> None:
        """End all waits, and the thread with the last room."""
        for future in self._waiters:
            _end(future)
        if self._look_at is not None:
            self._look_at.cancel()
        _watcher.leave(self)


def _end(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _is_true(is_due: Callable[[], bool]) -> bool:
    # Who is woken by an error meets it again, in a place where it can be raised.
    with contextlib.suppress(PylogError, OSError):
        return is_due()
    return True


class Watcher:
    """The thread that waits, for all rooms of the process; it lives while anybody needs it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rooms: weakref.WeakSet[Room] = weakref.WeakSet()
        self._watched: dict[Room, int] = {}  # and the value that was seen of its events
        self._asleep_on: set[Events] = set()
        self._thread: threading.Thread | None = None

    def enter(self, room: Room) -> None:
        """Take in a room."""
        with self._condition:
            self._rooms.add(room)

    def watch(self, room: Room, seen: int) -> None:
        """Wake the room, once, when the value of its events is not `seen` any more."""
        with self._condition:
            self._watched[room] = seen
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pylog-aio", daemon=True)
                self._thread.start()
            elif room.events not in self._asleep_on:
                self._rouse_locked()

    def leave(self, room: Room) -> None:
        """Forget a room; with the last one, end the thread and wait for that."""
        with self._condition:
            self._rooms.discard(room)
            self._watched.pop(room, None)
            if self._rooms:
                return
            thread, self._thread = self._thread, None
            self._rouse_locked()
        if thread is not None:
            thread.join()

    def _rouse_locked(self) -> None:
        self._condition.notify()
        for events in self._asleep_on:
            events.notify()
            return

    def _run(self) -> None:
        while (pairs := self._begin()) is not None:
            wait_for_events(pairs)
            # A call of its own, so that this keeps no room alive while it sleeps.
            self._wake_changed()

    def _begin(self) -> list[tuple[Events, int]] | None:
        """Return what to sleep on, when there is any; None at the end."""
        with self._condition:
            while self._thread is threading.current_thread():
                if self._watched:
                    pairs = {(room.events, seen) for room, seen in self._watched.items()}
                    self._asleep_on = {events for events, _ in pairs}
                    return list(pairs)
                self._condition.wait()
            return None

    def _wake_changed(self) -> None:
        """Wake the rooms whose events changed; they are not watched any more."""
        with self._condition:
            self._asleep_on = set()
            changed = [room for room, seen in self._watched.items() if room.events.value != seen]
            for room in changed:
                del self._watched[room]
        for room in changed:
            room.wake()


def _after_fork_in_child() -> None:
    global _watcher
    _watcher = Watcher()  # the thread is the parent's, and so are the rooms


_watcher = Watcher()
os.register_at_fork(after_in_child=_after_fork_in_child)
