"""`DirectoryTransport`: a follower in another directory, as on another disk, kept by the leader.

Knows the log there and who asks it.  Must not know the rules of following (replica.py).

A thread of its own does all that is asked, so that a disk that hangs is a time-out and not a leader
that hangs, and so that the next batches are read while those before are synced.

Locks: `_condition`, around what is asked and what was done; nothing is done while it is held.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from pylog.errors import PylogError, ReplicationTimeoutError
from pylog.replication.facts import PartitionId, ReplicaPosition, ReplicaStatus
from pylog.replication.replica import Replica, Session
from pylog.replication.replicated_log import ReplicatedLog
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaBatches, ReplicaHello

logger = logging.getLogger("pylog")

_TIMEOUT: Final = 10.0  # of what is asked; some syncs of a slow disk long (guessed)

_T = TypeVar("_T")


class DirectoryTransport:
    """Replicates to a log in another directory of this host; see `ReplicationTransport`.

    path: made if it is not there.  timeout: seconds for each answer.
    Other processes may open the directory and read beside.  It is opened with `handshake` or
    `fence`, not before, and closed with the session.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = _TIMEOUT) -> None:
        self._path = os.fspath(path)
        self._timeout = timeout
        self._worker: _Worker | None = None

    def __repr__(self) -> str:
        return f"<DirectoryTransport {self._path!r}>"

    def handshake(self, hello: LeaderHello) -> ReplicaHello:
        """Begin a session; see `ReplicationTransport`."""
        self.close()
        worker = _Worker(self._path, timeout=self._timeout)
        # First: as soon as others see it they may close it, and wait for its end.
        worker.start()
        self._worker = worker
        return worker.ask("handshake", lambda: worker.begin(hello))

    def position(self, partition: PartitionId) -> ReplicaPosition:
        """Return how far the follower is; see `ReplicationTransport`."""
        worker = self._open_worker()
        return worker.ask("position", lambda: worker.session.position(partition))

    def truncate(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        """Cut a partition; see `ReplicationTransport`."""
        worker = self._open_worker()
        return worker.ask("truncate", lambda: worker.session.truncate(partition, end_offset))

    def start_anew(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        """Empty a partition; see `ReplicationTransport`."""
        worker = self._open_worker()
        return worker.ask("start_anew", lambda: worker.session.start_anew(partition, offset))

    def send(self, batches: ReplicaBatches) -> None:
        """Hand over; see `ReplicationTransport`.  Never blocks."""
        self._open_worker().give(batches)

    def acknowledgement(self, timeout: float) -> Acknowledgement | None:
        """Return the next acknowledgement; see `ReplicationTransport`."""
        return self._open_worker().next_acknowledgement(timeout)

    def fence(self, epoch: int) -> ReplicaStatus:
        """Let the log promise an epoch; see `Electable`."""
        log = ReplicatedLog.open(self._path)
        try:
            return log.fence(epoch)
        finally:
            log.close()

    def close(self) -> None:
        """End the session; see `ReplicationTransport`."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    def _open_worker(self) -> _Worker:
        worker = self._worker
        if worker is None:
            raise ConnectionAbortedError(f"{self!r}: no session is open")
        return worker


class _Call(Generic[_T]):
    """Something that is asked, and its answer."""

    def __init__(self, function: Callable[[], _T]) -> None:
        self.function = function
        self.answer: _T | None = None
        self.error: PylogError | OSError | None = None
        self.is_done = threading.Event()

    def run(self) -> None:
        """Do it."""
        try:
            self.answer = self.function()
        except (PylogError, OSError) as error:
            self.error = error
        finally:
            self.is_done.set()


class _Worker:
    """The thread of one session, and the log that it has open."""

    session: Session

    def __init__(self, path: str, *, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._condition = threading.Condition()
        self._asked: collections.deque[ReplicaBatches | _Call[Any]] = collections.deque()
        self._done: collections.deque[Acknowledgement] = collections.deque()
        self._error: PylogError | OSError | None = None
        self._is_closed = False
        self._log: ReplicatedLog | None = None
        self._replica: Replica | None = None
        self._thread = threading.Thread(target=self._run, name="pylog-replica", daemon=True)

    # ------------------------------------------------------------------ for the leader's threads

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask(self, what: str, function: Callable[[], _T]) -> _T:
        """Let the thread call a function after all that was asked before; return what it returns.

        Raises what it raises, ReplicationTimeoutError.
        """
        call = _Call(function)
        self._put(call)
        if not call.is_done.wait(self._timeout):
            raise ReplicationTimeoutError(f"{self._path}: no answer to {what}", self._timeout)
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer

    def give(self, batches: ReplicaBatches) -> None:
        """Let the thread apply batches after all that was asked before."""
        self._put(batches)

    def _put(self, asked: ReplicaBatches | _Call[Any]) -> None:
        with self._condition:
            self._check()
            self._asked.append(asked)
            self._condition.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._is_closed:
            raise ConnectionAbortedError(f"{self._path}: the session is over")

    def next_acknowledgement(self, timeout: float) -> Acknowledgement | None:
        """Return the next one, None when there is none for so long."""
        with self._condition:
            self._condition.wait_for(
                lambda: self._done or self._error is not None or self._is_closed, timeout
            )
            if self._done:
                return self._done.popleft()
            self._check()
            return None

    def close(self) -> None:
        """End the thread, unless the disk hangs: then it ends when that does."""
        with self._condition:
            self._is_closed = True
            self._condition.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(self._timeout)

    # ------------------------------------------------------------------ the thread

    def begin(self, hello: LeaderHello) -> ReplicaHello:
        """Open the log, and obey."""
        self._log = ReplicatedLog.open(self._path)
        self._replica = Replica(self._log)
        self._replica.open()
        self.session = self._replica.handshake(hello)
        return self.session.hello

    def _run(self) -> None:
        try:
            while (asked := self._next()) is not None:
                if isinstance(asked, _Call):
                    asked.run()
                elif not self._apply(asked):
                    # What was handed over behind it must not be acknowledged in its place.
                    return
        finally:
            self._end()

    def _next(self) -> _Call[Any] | list[ReplicaBatches] | None:
        """Return what is to be done next, all batches that wait for it; None at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._asked or self._is_closed)
            if self._is_closed:
                return None
            batches: list[ReplicaBatches] = []
            while self._asked:
                first = self._asked[0]
                if isinstance(first, _Call):
                    if not batches:
                        self._asked.popleft()
                        return first
                    break
                batches.append(first)
                self._asked.popleft()
            return batches

    def _apply(self, batches: list[ReplicaBatches]) -> bool:
        """Apply batches and acknowledge each; return whether all went well."""
        try:
            for acknowledgement in self.session.apply(batches):
                with self._condition:
                    self._done.append(acknowledgement)
                    self._condition.notify_all()
        except (PylogError, OSError) as error:
            with self._condition:
                self._error = error
                self._condition.notify_all()
            return False
        return True

    def _end(self) -> None:
        """Answer who still asks, and close the log."""
        with self._condition:
            self._is_closed = True
            asked = list(self._asked)
            self._asked.clear()
            self._condition.notify_all()
        for left in asked:
            if isinstance(left, _Call):
                left.error = ConnectionAbortedError(f"{self._path}: the session is over")
                left.is_done.set()
        if self._replica is not None:
            self._replica.close()
        if self._log is not None:
            try:
                self._log.close()
            except (PylogError, OSError):
                logger.exception("%s was not closed cleanly", self._path)
