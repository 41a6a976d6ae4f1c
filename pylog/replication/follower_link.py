"""`FollowerLink`: brings one follower on, session after session (link_session.py).

Knows when to try again, and who may be a follower.  Must not know what is sent.

Locks: none of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from typing import Final

from pylog.errors import FencedLeaderEpochError, PylogError, ReplicationError
from pylog.replication.facts import PartitionId
from pylog.replication.leader import Leader
from pylog.replication.link_session import LinkSession
from pylog.replication.transport import LeaderHello, ReplicationTransport

logger = logging.getLogger("pylog")

_FIRST_PAUSE: Final = 0.1  # seconds before the next session; doubled each time (guessed)
_LAST_PAUSE: Final = 10.0


class FollowerLink:
    """Brings one follower on, for as long as the leader leads."""

    def __init__(self, leader: Leader, transport: ReplicationTransport) -> None:
        self._leader = leader
        self.transport = transport
        self._stopping = threading.Event()
        self._session: LinkSession | None = None
        self.replica_id: str | None = None
        self.error: str | None = None  # why the last session ended
        self._thread = threading.Thread(target=self._run, name="pylog-link", daemon=True)

    def __repr__(self) -> str:
        return f"<FollowerLink {self.replica_id or ''} {self.transport!r}>"

    @property
    def session(self) -> LinkSession | None:
        """The session of now, None between two."""
        return self._session

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self, grown: Iterable[PartitionId], moved: Iterable[PartitionId] = ()) -> None:
        """Send what has grown, tell what moved; called with the leader's lock held."""
        session = self._session
        if session is not None:
            session.wake(grown, moved)

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()
        session = self._session
        if session is not None:
            session.end()
        self.transport.close()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _run(self) -> None:
        """Begin session after session, until it is stopped or the follower is another's."""
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                session = self._begin()
                pause = _FIRST_PAUSE
                session.run()
            except (PylogError, OSError) as error:
                self._note(error)
                if isinstance(error, FencedLeaderEpochError) and self._has_stepped_down(error):
                    return
            except BaseException as error:
                # Of a transport that breaks its contract: this thread ends with it.
                self._note(error)
                raise
            finally:
                self._end()
            self._stopping.wait(pause)
            pause = min(2 * pause, _LAST_PAUSE)

    def _note(self, error: BaseException) -> None:
        """Say why a session ended."""
        self.error = f"{type(error).__name__}: {error}"
        if not self._stopping.is_set():
            # One that is down is no news each time; that it falls out of sync is.
            level = logging.WARNING if isinstance(error, PylogError) else logging.INFO
            logger.log(level, "%r: %s; to be tried again", self, self.error)

    def _has_stepped_down(self, error: FencedLeaderEpochError) -> bool:
        """Lead no more; return False when that could not be written down, so is to be repeated."""
        if self._stopping.is_set():
            return True
        try:
            self._leader.step_down(error)
        except (PylogError, OSError) as reason:
            self._note(reason)
            return False
        return True

    def _begin(self) -> LinkSession:
        """Shake hands, and begin a session that knows all partitions there are."""
        leader = self._leader
        state = leader.state
        assert state.cluster_id is not None
        hello = self.transport.handshake(
            LeaderHello(state.cluster_id, state.replica_id, leader.epoch)
        )
        others = {link.replica_id for link in leader.links if link is not self}
        if hello.replica_id == state.replica_id or hello.replica_id in others:
            raise ReplicationError(f"replica {hello.replica_id!r} is there already")
        self.replica_id = hello.replica_id
        session = LinkSession(leader, self.transport, hello)
        leader.settle(
            lambda rules, now_ms: rules.attached(hello.replica_id, hello.in_sync, now_ms=now_ms)
        )
        self._session = session
        with leader.lock:
            # All there are: from now on it is told of others.
            session.wake(leader.led, ())
        self.error = None
        if self._stopping.is_set():
            session.end()
        return session

    def _end(self) -> None:
        session, self._session = self._session, None
        self.transport.close()
        if session is not None:
            session.close()
            replica_id = session.replica_id
            try:
                self._leader.settle(lambda rules, _: rules.detached(replica_id))
            except (PylogError, OSError) as error:
                # The leader's own thread meets it with its next look, and ends.
                logger.debug("%r: %s", self, error)
