"""A thread for work of a log that is due later; started with the first such work, never before.

Knows times and callables.  Must not know what it runs.

Locks: `_condition`, around the timetable; tasks run without it.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable, Hashable

from pylog.errors import PylogError

logger = logging.getLogger("pylog")

Task = Callable[[], None]


class Background:
    """A timetable of tasks.  A task that fails is reported and forgotten; the others go on."""

    def __init__(self, monotonic: Callable[[], float], name: str = "pylog") -> None:
        self._monotonic = monotonic
        self._name = name
        self._condition = threading.Condition()
        # A heap by due time; the count keeps tasks of the same instant apart.
        self._timetable: list[tuple[float, int, Hashable, Task]] = []
        self._due: set[Hashable] = set()
        self._count = 0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def schedule(self, name: Hashable, delay: float, task: Task) -> None:
        """Run `task` in `delay` seconds, unless a task of this name is waiting already.

        When Ctrl-C ends it anywhere, the task may be done, or by the next call; it is never lost.
        """
        with self._condition:
            if self._is_closed:
                return
            if name not in self._due:
                self._count += 1
                due = self._monotonic() + delay
                # One call of C.  Twice in the timetable is no harm, and not in it would be.
                heapq.heappush(self._timetable, (due, self._count, name, task))
                self._due.add(name)
            if self._thread is None or not self._thread.is_alive():
                try:
                    self._start_locked()
                except RuntimeError as error:
                    # Python 3.12 starts none when the interpreter ends, and says so in words only.
                    # The log is closed then, which syncs: nothing that waits here is missed.
                    if "shutdown" not in str(error):
                        raise
            self._condition.notify()

    def close(self) -> None:
        """Forget all waiting tasks and wait for the running one."""
        with self._condition:
            self._is_closed = True
            self._timetable.clear()
            self._due.clear()
            self._condition.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join()

    def after_fork(self) -> None:
        """In a forked child: the thread is gone; partitions ask again when they attach."""
        self._condition = threading.Condition()
        self._thread = None
        self._timetable.clear()
        self._due.clear()

    def _start_locked(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while self._run_next():
                pass
        except BaseException:
            # A bug of one task, which Python reports: the others go on in another thread.
            with self._condition:
                if not self._is_closed:
                    self._start_locked()
            raise

    def _run_next(self) -> bool:
        # A function of its own, so that nothing holds on to what a task held while the next is
        # waited for: a log that nobody uses could not be collected.
        task = self._next()
        if task is None:
            return False
        try:
            task()
        except (PylogError, OSError):
            logger.exception("background work failed")
        return True

    def _next(self) -> Task | None:
        with self._condition:
            while not self._is_closed:
                if not self._timetable:
                    self._condition.wait()
                    continue
                left = self._timetable[0][0] - self._monotonic()
                if left > 0:
                    self._condition.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                _, _, name, task = heapq.heappop(self._timetable)
                self._due.discard(name)
                return task
            return None
