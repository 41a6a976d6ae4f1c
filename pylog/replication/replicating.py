"""`Replication`: a log's share in replication, as one process lives it: leads, follows, or neither.

Knows the role and who lives it.  Must not know the rules, nor how replicas are talked to.

Locks: `_lock`, around becoming and ending; who leads is ended and waited for within it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any, Final

from pylog.errors import ClosedError, InvalidConfigurationError
from pylog.replication.config import ReplicationConfig
from pylog.replication.connection import MAX_MESSAGE_BYTES
from pylog.replication.facts import (
    MAX_EPOCH,
    FollowerStatus,
    ReplicaStatus,
    ReplicationStatus,
)
from pylog.replication.follower_link import FollowerLink
from pylog.replication.leader import Leader
from pylog.replication.replica import Replica, follow
from pylog.replication.replicated_log import ReplicatedLog
from pylog.replication.server import ReplicaServer
from pylog.replication.standing import ReplicaState
from pylog.replication.transport import ReplicationTransport
from pylog.storage.role import RoleKind

logger = logging.getLogger("pylog")

_LOOK_AGAIN: Final = 1.0  # seconds; who waits is woken before, unless its waker died (guessed)


class Replication:
    """A log's replication in this process; see `Log.replication`.

    Every method may be called by many threads at once.
    """

    def __init__(self, log: ReplicatedLog) -> None:
        self.log = log
        self._lock = threading.RLock()
        self._leader: Leader | None = None
        self._links: list[FollowerLink] = []
        self._servers: weakref.WeakSet[ReplicaServer] = weakref.WeakSet()

    def open(self) -> None:
        """Step down if the log led before the last boot.  Raises CorruptFileError, OSError."""
        self.log.roles.open()

    # ------------------------------------------------------------------ roles

    def promote(
        self,
        epoch: int,
        replicas: Iterable[ReplicationTransport],
        config: ReplicationConfig,
        *,
        unclean: bool,
    ) -> None:
        """Lead; see `Log.promote`."""
        # A bool is an int to isinstance; here it is a mistake.
        if type(epoch) is not int or not 1 <= epoch <= MAX_EPOCH:
            raise InvalidConfigurationError("epoch", epoch, f"an integer in [1, {MAX_EPOCH}]")
        log = self.log
        with self._lock, contextlib.ExitStack() as serving:
            serving.callback(log.roles.serve())
            # Opened by that: what was lost is found, and noted, first.
            latest_epoch = log.sync_all()

            def event(state: ReplicaState) -> ReplicaState:
                is_again = state.kind is RoleKind.LEADER and state.promised_epoch == epoch
                if not is_again:
                    state = state.promoted(epoch, latest_epoch=latest_epoch, unclean=unclean)
                return dataclasses.replace(
                    state,
                    cluster_id=state.cluster_id or log.engine.log_id,
                    boot=log.roles.boot,
                    waits_for_all=config.acks == "all",
                    min_insync_replicas=config.min_insync_replicas,
                    request_timeout_ms=config.request_timeout_ms,
                )

            event(log.roles.state)  # when that is refused, whoever leads here goes on
            self._end_leader()
            log.engine.in_sync_replicas = 0
            state = log.roles.change(event)
            leader = self._leader = Leader(log, state, config, serving=serving.pop_all())
            self._links = [FollowerLink(leader, transport) for transport in replicas]
            leader.links.extend(self._links)
            try:
                leader.start()
            except BaseException:
                self._end_leader()
                raise

    def demote(self) -> None:
        """Lead no more; see `Log.demote`."""
        with self._lock:
            self.log.roles.change(lambda state: state.demoted())
            self._end_leader()

    def follow(self) -> None:
        """Follow; see `Log.follow`."""
        with self._lock:
            self.log.roles.change(lambda state: follow(state, self.log))
            self._end_leader()

    def _end_leader(self) -> None:
        leader, self._leader = self._leader, None
        if leader is not None:
            leader.stop()

    def fence(self, epoch: int) -> ReplicaStatus:
        """Promise to take nothing from leaders of older epochs; return how this log is.

        What who elects asks of each replica, see `best_candidate`.  A leader of an older epoch
        leads no more.  Durable when this returns.  Raises FencedLeaderEpochError when a later
        epoch was promised; what opening a partition raises.  Opens all partitions.
        """
        return self.log.fence(epoch)

    # ------------------------------------------------------------------ following

    def serve(
        self,
        *,
        secret: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = 10.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> ReplicaServer:
        """Let leaders in other processes and on other hosts replicate to this log.

        secret: what a `SocketTransport` needs, at least 16 random bytes.  host, port: where to
        listen; 0 takes a port that is free, which the server's `address` tells.  timeout: seconds
        for a message, once it began.  max_message_bytes: a longer one is refused.
        A log without a role follows as soon as a leader says hello, if it is empty; one that leads
        goes on until a later leader does.  Ends with the server, or the log.
        Raises TypeError, InvalidConfigurationError, ReplicationError when another process serves
        the log, CorruptFileError, OSError.
        """
        server = ReplicaServer(
            Replica(self.log),
            secret=secret,
            host=host,
            port=port,
            timeout=timeout,
            max_message_bytes=max_message_bytes,
        )
        server.open()
        self._servers.add(server)
        return server

    # ------------------------------------------------------------------ status

    def wait_in_sync(self, count: int, timeout: float | None = None) -> bool:
        """Wait until so many replicas are in sync, the leader included; return whether they are.

        In the process that leads also until all can be read that was there when it began to.
        timeout: seconds, None for ever.  In any process that has the leader's log open.
        Raises ClosedError, CorruptionError, OSError.
        """
        engine = self.log.engine
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            events = engine.events
            seen = events.value
            leader = self._leader
            if engine.in_sync_replicas >= count and (leader is None or leader.shows_all()):
                return True
            left = _LOOK_AGAIN if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return False
            events.wait(seen, min(left, _LOOK_AGAIN))

    def status(self) -> ReplicationStatus:
        """Return what this process knows of the log's replication.

        Raises CorruptFileError, ClosedError, OSError.  Reads a small file.
        """
        state, leader = self.log.roles.state, self._leader
        leads = state.kind is RoleKind.LEADER
        return ReplicationStatus(
            role=state.kind.value,
            epoch=state.promised_epoch,
            replica_id=state.replica_id,
            leader_id=state.leader_id,
            cluster_id=state.cluster_id,
            in_sync=() if state.in_sync is None else tuple(sorted(state.in_sync.members)),
            in_sync_replicas=self.log.engine.in_sync_replicas if leads else 0,
            is_run_here=leads and leader is not None and leader.is_running,
            error=None if leader is None else leader.error,
            followers=() if leader is None else tuple(_status_of(each) for each in self._links),
        )

    def plain_status(self) -> dict[str, Any] | None:
        """Return the fields of `status` as plain data that `json.dumps` takes; None when closed.

        Raises CorruptFileError, OSError.
        """
        try:
            status = self.status()
        except ClosedError:
            return None
        return dataclasses.asdict(status) | {
            "cluster_id": None if status.cluster_id is None else str(status.cluster_id),
            "in_sync": list(status.in_sync),
            "followers": [dataclasses.asdict(follower) for follower in status.followers],
        }

    # ------------------------------------------------------------------ the log's client

    def close(self) -> None:
        """End all threads; the role stays.  Idempotent."""
        for server in list(self._servers):
            server.close()
        with self._lock:
            self._end_leader()

    def after_fork(self) -> None:
        """In a forked child: whoever lives the role is in the parent."""
        self._lock = threading.RLock()
        self._leader = None
        self._links = []
        for server in list(self._servers):
            server.after_fork()
        self._servers.clear()


def _status_of(link: FollowerLink) -> FollowerStatus:
    session = link.session
    return FollowerStatus(
        transport=repr(link.transport),
        replica_id=link.replica_id,
        is_attached=session is not None,
        in_flight_bytes=0 if session is None else session.flight_bytes,
        error=link.error,
        stopped={} if session is None else session.stopped_names(),
    )
