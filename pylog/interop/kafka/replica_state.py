"""What a cluster that counts as a replica remembers, in a topic of the mirror's own.

The same topic as a mirror's (see states.py), with two more kinds of records in partition 0:

    ["replica", replica id]
            {"cluster_id", "kind", "promised_epoch", "leader_id", "in_sync": [epoch, version, ids]}
    ["replicated", cluster id, topic id, partition, target topic]
            {"position": next source offset, "target": next target offset, "log_start_offset",
             "high_watermark", "epochs": [[epoch, start offset], ...]}

Knows their form.  Must not know when they change.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from pylog.errors import KafkaRefusedError
from pylog.interop.kafka.cluster import Cluster
from pylog.interop.kafka.states import POSITIONS, Entry, LaneKey, decode, encode
from pylog.replication.facts import MAX_EPOCHS, InSync, ReplicaPosition
from pylog.replication.standing import ReplicaState
from pylog.storage.role import RoleKind


@dataclasses.dataclass(frozen=True, slots=True)
class Copied:
    """How far one partition is.  position: the log end offset of the replica."""

    position: int = 0
    target: int = 0
    log_start_offset: int = 0
    high_watermark: int = 0
    epochs: tuple[tuple[int, int], ...] = ()

    @property
    def replica_position(self) -> ReplicaPosition:
        """What a leader is told of it."""
        return ReplicaPosition(
            epochs=self.epochs[-MAX_EPOCHS:],
            log_start_offset=self.log_start_offset,
            high_watermark=self.high_watermark,
            log_end_offset=self.position,
        )

    def with_epoch(self, epoch: int, offset: int) -> Copied:
        """Return it when a batch of this epoch begins at an offset."""
        if self.epochs and epoch <= self.epochs[-1][0]:
            return self
        return dataclasses.replace(self, epochs=(*self.epochs, (epoch, offset)))


def replica_entry(state: ReplicaState) -> Entry:
    """Return the record of what a replica promised and of which set it is a member."""
    in_sync = state.in_sync
    fields = {
        "cluster_id": None if state.cluster_id is None else str(state.cluster_id),
        "kind": state.kind.value,
        "promised_epoch": state.promised_epoch,
        "leader_id": state.leader_id,
        "in_sync": in_sync and [in_sync.epoch, in_sync.version, sorted(in_sync.members)],
    }
    return Entry(POSITIONS, encode(["replica", state.replica_id]), encode(fields))


def copied_entry(key: LaneKey, copied: Copied) -> Entry:
    """Return the record of how far a partition is."""
    return Entry(POSITIONS, encode(["replicated", *key]), encode(dataclasses.asdict(copied)))


def read_replica(
    cluster: Cluster, topic: str, replica_id: str
) -> tuple[ReplicaState, dict[LaneKey, Copied]]:
    """Return what was written down last.  Raises KafkaRefusedError for what nobody wrote."""
    state = ReplicaState(replica_id=replica_id)
    copies: dict[LaneKey, Copied] = {}
    for message in cluster.committed_messages(topic, POSITIONS):
        kind, *key = decode(message.key())
        try:
            if kind == "replica" and key == [replica_id]:
                state = _state(replica_id, decode(message.value()))
            elif kind == "replicated":
                copies[LaneKey(*key)] = _copied(decode(message.value()))
        except (TypeError, ValueError, KeyError) as error:
            raise KafkaRefusedError("_BAD_MSG", f"topic {topic}: {error}") from error
    return state, copies


def _state(replica_id: str, fields: dict[str, Any]) -> ReplicaState:
    cluster_id, in_sync = fields["cluster_id"], fields["in_sync"]
    return ReplicaState(
        replica_id=replica_id,
        cluster_id=None if cluster_id is None else uuid.UUID(cluster_id),
        kind=RoleKind(fields["kind"]),
        promised_epoch=int(fields["promised_epoch"]),
        leader_id=fields["leader_id"],
        in_sync=None
        if in_sync is None
        else InSync(int(in_sync[0]), int(in_sync[1]), frozenset(in_sync[2])),
    )


def _copied(fields: dict[str, Any]) -> Copied:
    fields["epochs"] = tuple((int(epoch), int(start)) for epoch, start in fields["epochs"])
    return Copied(**fields)
