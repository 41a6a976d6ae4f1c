"""A thread that keeps something up to date for as long as anybody uses it.

Knows when to look again: when records become visible anywhere in the log.  Must not know what is
brought up to date.  Holds no lock and no GIL while it waits.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Final

from pylog._native import Events
from pylog.errors import ClosedError, PylogError, UnknownTopicOrPartitionError
from pylog.storage.policy import LOOK_AGAIN_SECONDS

logger = logging.getLogger("pylog")

_LAST_PAUSE_SECONDS: Final = 60.0  # between attempts that fail, after doubling (guessed)


class Follower:
    """Calls a method again and again; started and stopped once.

    refresh: a bound method, whose object is not kept alive by this.  events: of the log.
    name: of what is brought up to date, for messages.
    is_current: whether the last call succeeded and there will be another.
    """

    def __init__(self, refresh: Callable[[], object], events: Events, *, name: str) -> None:
        self._refresh = weakref.WeakMethod(refresh, lambda _: events.notify())
        self._events = events
        self._name = name
        self._is_stopped = threading.Event()
        self.is_current = False
        self._thread = threading.Thread(target=self._run, name="pylog-table", daemon=True)

    def start(self) -> None:
        """Start the thread; what was refreshed just now counts as its first call."""
        self.is_current = True
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs; else another follower is needed."""
        return self._thread.is_alive()

    def stop(self, *, wait: bool) -> None:
        """End the thread, and wait for it unless it is the caller."""
        self._is_stopped.set()
        self._events.notify()
        if wait and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        pause = LOOK_AGAIN_SECONDS
        try:
            while not self._is_stopped.is_set():
                seen = self._events.value
                if not self._call():
                    return
                if self.is_current:
                    pause = LOOK_AGAIN_SECONDS
                    self._events.wait(seen, LOOK_AGAIN_SECONDS)
                else:
                    self._is_stopped.wait(pause)
                    pause = min(2 * pause, _LAST_PAUSE_SECONDS)
        finally:
            self.is_current = False

    def _call(self) -> bool:
        """Refresh once; return whether to go on.

        A function of its own, so that nothing holds on to the object while the thread waits: a log
        that nobody uses could not be collected.
        """
        refresh = self._refresh()
        if refresh is None:
            return False
        try:
            refresh()
        except (ClosedError, UnknownTopicOrPartitionError) as error:
            if not self._is_stopped.is_set():
                logger.warning("%s is not followed any more: %s", self._name, error)
            return False
        except (PylogError, OSError):
            self.is_current = False
            logger.exception("%s: to be tried again", self._name)
        else:
            self.is_current = True
        return True
