"""`KafkaTransport`: a Kafka cluster as a replica, which counts for acks="all".

What a leader hands over is decoded and written in transactions; each holds the records, how far the
partition is, which offset is which, and what the replica has promised.  A transactional id shuts a
leader out whose time is over.  Transactions hold what came while the one before was committed.

Knows the contract of replication/transport.py.  Must not know who leads, nor when.

Locks: none of its own; what is handed over is written by another thread, see replica_worker.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Final

from pylog.codecs import MAX_DECOMPRESSED_BYTES
from pylog.config import NEVER
from pylog.errors import (
    DivergedReplicaError,
    InconsistentClusterIdError,
    MirrorError,
    MirrorFencedError,
    ReplicationError,
)
from pylog.interop.kafka.client import Settings, library, settings_of
from pylog.interop.kafka.cluster import Cluster
from pylog.interop.kafka.replica_state import (
    Copied,
    copied_entry,
    read_replica,
    replica_entry,
)
from pylog.interop.kafka.replica_worker import Worker
from pylog.interop.kafka.states import LaneKey, prepare
from pylog.replication.facts import PartitionId, ReplicaPosition, ReplicaStatus
from pylog.replication.standing import ReplicaState
from pylog.replication.transport import (
    Acknowledgement,
    LeaderHello,
    ReplicaBatches,
    ReplicaHello,
)

# A topic of a replica takes and keeps whatever the leader has.
_KEPT: Final = {
    "max.message.bytes": str(MAX_DECOMPRESSED_BYTES),
    "message.timestamp.after.max.ms": str(NEVER),
    "message.timestamp.type": "CreateTime",
    "retention.ms": "-1",
}


def _named(name: str) -> str:
    """Return what a topic is called in the cluster: Kafka has internal topics of its own."""
    return f"pylog.{name}" if name.startswith("__") else name


class KafkaTransport:
    """A Kafka cluster as a follower; see `ReplicationTransport` for the methods.

    settings: librdkafka's, handed on, or the bootstrap servers alone.  replica_id: of the cluster,
    among the log's replicas.  rename: what a topic is called there; by default the same, with
    "pylog." before internal ones.  Topics and partitions that are missing are made.
    state_topic: where the replica remembers; compacted.  timeout: seconds until a call that gets no
    answer raises ReplicationTimeoutError.
    Raises MissingExtraError without confluent-kafka.  No I/O before `handshake`.

    Offsets are recorded, as by a `Mirror` with offsets="recorded".  Records are never taken back:
    when the leader asks for that (histories parted, because it died before the others had what the
    cluster has), DivergedReplicaError is raised until a person gives the replica another id and
    other topics.  It can be fenced and asked by who elects, and cannot be promoted: what it has
    comes back by `Source`.  A record with timestamp 0 cannot be sent and ends each session.
    """

    def __init__(
        self,
        settings: Settings | str,
        *,
        replica_id: str = "kafka",
        rename: Callable[[str], str] | None = None,
        replication_factor: int = -1,
        state_topic: str = "__pylog_replica",
        timeout: float = 30.0,
    ) -> None:
        library()
        self._settings = settings_of(settings)
        self._rename: Callable[[str], str] = rename or _named
        self._replication_factor = replication_factor
        self._state_topic = state_topic
        self._timeout = timeout
        self._state = ReplicaState(replica_id=replica_id)
        self._copies: dict[LaneKey, Copied] = {}
        self._counts: dict[str, int] = {}
        self._cluster: Cluster | None = None
        self._worker: Worker | None = None

    def __repr__(self) -> str:
        return f"KafkaTransport({self._settings.get('bootstrap.servers')!r})"

    # ------------------------------------------------------------------ who leads

    def handshake(self, hello: LeaderHello) -> ReplicaHello:
        """Begin a session; see `ReplicationTransport.handshake`."""
        self.close()
        with _replicating():
            self._open(lambda state: _followed(state, hello))
            assert self._worker is not None
            self._worker.start()
        return ReplicaHello(self._state.replica_id, self._state.in_sync)

    def fence(self, epoch: int) -> ReplicaStatus:
        """Let the replica promise to take nothing of older epochs; see `Electable.fence`."""
        self.close()
        with _replicating():
            self._open(lambda state: state.fenced(epoch))
        self.close()
        state = self._state
        return ReplicaStatus(
            replica_id=state.replica_id,
            cluster_id=state.cluster_id,
            promised_epoch=state.promised_epoch,
            in_sync=state.in_sync,
            log_end_offset=sum(copied.position for copied in self._copies.values()),
        )

    def _open(self, change: Callable[[ReplicaState], ReplicaState]) -> None:
        """Shut out who was here before, and write down what follows from who is here now.

        change: returns what is true from now on; raises for who may not be here.
        """
        self._cluster = cluster = Cluster(self._settings)
        prepare(cluster, self._state_topic, self._replication_factor)
        replica_id = self._state.replica_id
        # Looked at twice: who may not be here must not shut out who is.
        change(read_replica(cluster, self._state_topic, replica_id)[0])
        worker = self._worker = Worker(self._settings, self._state_topic, self._timeout)
        worker.open(f"pylog-replica-{self._state_topic}-{replica_id}")
        before, self._copies = read_replica(cluster, self._state_topic, replica_id)
        self._state = change(before)
        if self._state != before:
            worker.write([replica_entry(self._state)])
        worker.state, worker.copies = self._state, self._copies

    # ------------------------------------------------------------------ one partition

    def position(self, partition: PartitionId) -> ReplicaPosition:
        """Return how far the replica is; see `ReplicationTransport.position`."""
        with _replicating():
            return self._copied(partition).replica_position

    def truncate(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        """Return the position if nothing has to be removed; see the class."""
        with _replicating():
            copied = self._copied(partition)
        if copied.position > end_offset:
            name = f"{partition.topic}-{partition.number}"
            raise DivergedReplicaError(name, end_offset, copied.position)
        return copied.replica_position

    def start_anew(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        """Let the next record have this offset or a later one; what is there stays."""
        with _replicating():
            self._copied(partition)
            worker = self._running()
            key = self._key(partition)
            anew = dataclasses.replace(
                Copied(), position=offset, log_start_offset=offset, high_watermark=offset
            )
            anew = dataclasses.replace(anew, target=self._copies[key].target)
            worker.call(lambda: worker.write([copied_entry(key, anew)]))
            self._copies[key] = anew
            return anew.replica_position

    def _copied(self, partition: PartitionId) -> Copied:
        """Return how far a partition is, once there is a place for it in the cluster."""
        self._running()
        key = self._key(partition)
        self._make_room(key.target, partition.number)
        return self._copies.setdefault(key, Copied())

    def _key(self, partition: PartitionId) -> LaneKey:
        cluster_id = str(self._state.cluster_id)
        target = self._rename(partition.topic)
        return LaneKey.of(cluster_id, partition.topic_id, partition.number, target)

    def _make_room(self, topic: str, number: int) -> None:
        if self._counts.get(topic, 0) > number:
            return
        cluster = self._cluster
        assert cluster is not None
        self._counts = cluster.partitions()
        count = self._counts.get(topic, 0)
        if count == 0:
            cluster.create_topic(topic, number + 1, self._replication_factor, _KEPT)
        elif count <= number:
            cluster.add_partitions(topic, number + 1)
        self._counts[topic] = max(count, number + 1)

    # ------------------------------------------------------------------ batches

    def send(self, batches: ReplicaBatches) -> None:
        """Hand over; see `ReplicationTransport.send`.  Does not wait."""
        with _replicating():
            self._running().put(self._key(batches.partition), batches)

    def acknowledgement(self, timeout: float) -> Acknowledgement | None:
        """Return the next acknowledgement; see `ReplicationTransport.acknowledgement`."""
        with _replicating():
            return self._running().take(timeout)

    def _running(self) -> Worker:
        worker = self._worker
        if worker is None:
            raise ReplicationError("there is no session")
        return worker

    def close(self) -> None:
        """End the session.  Idempotent; what was handed over may or may not be there."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()


def _followed(state: ReplicaState, hello: LeaderHello) -> ReplicaState:
    """Return a replica's state after a leader said hello.  Raises what `handshake` raises."""
    if state.cluster_id not in (None, hello.cluster_id):
        raise InconsistentClusterIdError(str(state.cluster_id), str(hello.cluster_id))
    followed = state.following(epoch=hello.epoch, leader_id=hello.leader_id)
    return followed.joined(hello.cluster_id)


@contextlib.contextmanager
def _replicating() -> Iterator[None]:
    """Raise what a mirror raises as what a leader expects."""
    try:
        yield
    except MirrorFencedError as error:
        # By a later leader, or by who elects; the next handshake says by whom.
        raise ReplicationError(f"another leader was here: {error}") from error
    except MirrorError as error:
        if isinstance(error, OSError):
            raise
        raise ReplicationError(f"the cluster: {error}") from error
