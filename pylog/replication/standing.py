"""What a replica has to remember through every crash: its role, what it promised, what it may lead.

An immutable value; each event gives the next one.  Where that differs, it is durable before anybody
gets an answer that follows from it.  Pure: how it is written down is in role_file.py.
"""

from __future__ import annotations

import dataclasses
import uuid

from pylog.errors import FencedLeaderEpochError, NotEligibleError
from pylog.replication.facts import InSync
from pylog.storage.role import Role, RoleKind


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """What a log durably knows of itself as a replica.

    cluster_id: what all replicas have in common; None until a leader told it, or it led.
    promised_epoch: it takes nothing from leaders of older epochs.
    leader_id: whose it takes in that epoch, maybe its own; None while that is open.
    in_sync: the last set that it was a member of.  None: it may lack acknowledged records.
    waits_for_all, min_insync_replicas, request_timeout_ms: of `ReplicationConfig`.
    boot: of a leader, a digest of the boot that it was made one in; whoever makes it one notes it.
    """

    replica_id: str
    cluster_id: uuid.UUID | None = None
    kind: RoleKind = RoleKind.NONE
    promised_epoch: int = 0
    leader_id: str | None = None
    in_sync: InSync | None = None
    waits_for_all: bool = True
    min_insync_replicas: int = 1
    request_timeout_ms: int = 30_000
    boot: str | None = None

    @property
    def role(self) -> Role:
        """What partitions have to know of it."""
        return Role(
            kind=self.kind,
            epoch=self.promised_epoch,
            waits_for_all=self.waits_for_all,
            min_insync_replicas=self.min_insync_replicas,
            request_timeout=self.request_timeout_ms / 1000,
        )

    @property
    def contradiction(self) -> str | None:
        """What cannot be true together, None when all can."""
        in_sync = self.in_sync
        if self.kind is RoleKind.LEADER and self.cluster_id is None:
            return "leads no cluster"
        if self.kind is not RoleKind.LEADER and self.boot is not None:
            return f"{self.kind.value}, and made leader in boot {self.boot}"
        if self.kind is RoleKind.LEADER and self.leader_id != self.replica_id:
            return f"leads, and promised to follow {self.leader_id}"
        if in_sync is not None and self.replica_id not in in_sync.members:
            return f"in_sync does not name {self.replica_id}"
        if in_sync is not None and in_sync.epoch > self.promised_epoch:
            return f"in sync in epoch {in_sync.epoch}, promised {self.promised_epoch}"
        return None

    # ---------------------------------------------------------------- what happens to it

    def fenced(self, epoch: int) -> ReplicaState:
        """Return it after it promised `epoch`; the same again is no change.

        Raises FencedLeaderEpochError when a later one was promised before.
        """
        if epoch < self.promised_epoch:
            raise FencedLeaderEpochError(epoch, self.promised_epoch)
        if epoch == self.promised_epoch:
            return self
        return dataclasses.replace(self.demoted(), promised_epoch=epoch, leader_id=None)

    def following(self, *, epoch: int, leader_id: str) -> ReplicaState:
        """Return it after a leader said hello.

        Raises FencedLeaderEpochError when that leader's time is over, or when another leader of the
        same epoch was here before, be it this replica itself: no two may write one epoch's records.
        """
        promised = self.fenced(epoch)
        if promised.leader_id not in (None, leader_id) or leader_id == self.replica_id:
            raise FencedLeaderEpochError(epoch, self.promised_epoch)
        followed = dataclasses.replace(promised.demoted(), kind=RoleKind.FOLLOWER)
        return dataclasses.replace(followed, leader_id=leader_id)

    def to_follow(self, *, cluster_id: uuid.UUID | None) -> ReplicaState:
        """Return it as a follower of whoever leads.

        cluster_id: of a log that never had a role and is not empty, its own: it cannot become
        another log's replica.
        """
        if self.kind is not RoleKind.NONE:
            return self.demoted()
        return dataclasses.replace(
            self, kind=RoleKind.FOLLOWER, cluster_id=self.cluster_id or cluster_id
        )

    def joined(self, cluster_id: uuid.UUID) -> ReplicaState:
        """Return it after it heard of which log it is a replica, unless it knew."""
        return self if self.cluster_id else dataclasses.replace(self, cluster_id=cluster_id)

    def promoted(self, epoch: int, *, latest_epoch: int, unclean: bool = False) -> ReplicaState:
        """Return it as the leader of `epoch`.

        latest_epoch: the greatest of which any partition has a record; negative for none.
        unclean: also when it may lack acknowledged records.  A log that never had a role has all
        that there is.
        Raises FencedLeaderEpochError when a later epoch was promised, or this one to a leader, be
        it this replica before it stepped down, or when records of it are there; NotEligibleError.
        """
        promised = self.fenced(epoch)
        if promised.leader_id is not None or epoch <= latest_epoch:
            raise FencedLeaderEpochError(epoch, max(self.promised_epoch, latest_epoch))
        if self.in_sync is None and not unclean and self.kind is not RoleKind.NONE:
            raise NotEligibleError(
                f"replica {self.replica_id!r} may lack acknowledged records: it was not in sync, "
                "or lost what it had"
            )
        return dataclasses.replace(
            promised,
            kind=RoleKind.LEADER,
            leader_id=self.replica_id,
            in_sync=InSync(epoch, 0, frozenset({self.replica_id})),
        )

    def demoted(self) -> ReplicaState:
        """Return it as no leader any more.  It leads again only with a later epoch."""
        if self.kind is not RoleKind.LEADER:
            return self
        return dataclasses.replace(self, kind=RoleKind.FOLLOWER, boot=None)

    def noted(self, in_sync: InSync) -> ReplicaState:
        """Return it after its leader said who is in sync; no change unless it is one of them.

        One that is older than what is written down, as of a late message, is no change either.
        """
        assert in_sync.epoch <= self.promised_epoch, (in_sync, self)
        is_later = self.in_sync is None or in_sync.order > self.in_sync.order
        if self.replica_id not in in_sync.members or not is_later:
            return self
        return dataclasses.replace(self, in_sync=in_sync)

    def after_power_cut(self, *, lost_acknowledged: bool) -> ReplicaState:
        """Return it after its host went down without a clean end.

        lost_acknowledged: records that it had acknowledged are, or may be, gone.  A leader leads no
        more: records that it had sent, and lost, would be followed by others with their offsets and
        their epoch, and nobody could tell them apart.
        """
        kept = None if lost_acknowledged else self.in_sync
        return dataclasses.replace(self.demoted(), in_sync=kept)
