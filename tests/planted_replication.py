"""The classic mistakes of replication, planted one at a time into the rules: each has to be caught.

Each is (where, what, by what): an attribute that is replaced while the worlds live.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from replication_model import Disk, parting

from pylog.replication import election
from pylog.replication.divergence import StartAnew, Truncate
from pylog.replication.facts import InSync, ReplicaPosition
from pylog.replication.following import FollowerState
from pylog.replication.leading import LeaderState
from pylog.replication.standing import ReplicaState
from pylog.storage.role import RoleKind

Patch = tuple[Any, str, Any]


def to_the_high_watermark(
    leader: ReplicaPosition, follower: ReplicaPosition
) -> Truncate | StartAnew | None:
    """KIP-101's mistake: what is above the high watermark may have been acknowledged."""
    mark = follower.high_watermark
    if mark < leader.log_start_offset:
        return StartAnew(leader.log_start_offset)
    return Truncate(mark) if follower.log_end_offset > mark else None


def by_the_last_epoch(
    leader: ReplicaPosition, follower: ReplicaPosition
) -> Truncate | StartAnew | None:
    """KIP-279's mistake: to look at where the leader's next epoch begins, not at common ones."""
    last = follower.epochs[-1][0] if follower.epochs else -1
    ends = [start for epoch, start in leader.epochs if epoch > last]
    end = min([follower.log_end_offset, leader.log_end_offset, *ends])
    if end < leader.log_start_offset:
        return StartAnew(leader.log_start_offset)
    return Truncate(end) if end < follower.log_end_offset else None


def never(*_: Any, **__: Any) -> None:
    """Raise nothing, do nothing."""


def dangling_epochs_stay(
    leader: ReplicaPosition, follower: ReplicaPosition
) -> Truncate | StartAnew | None:
    plan = _divergence(leader, follower)
    return None if plan == Truncate(follower.log_end_offset) else plan


_divergence = parting.divergence


def always(*_: Any, **__: Any) -> bool:
    return True


def fenced_by_nothing(self: ReplicaState, epoch: int) -> ReplicaState:
    return self if epoch <= self.promised_epoch else _fenced(self, epoch)


_fenced = ReplicaState.fenced


def keeping_its_place(self: ReplicaState, *, lost_acknowledged: bool) -> ReplicaState:
    return self.demoted()


def leading_on(self: ReplicaState, *, lost_acknowledged: bool) -> ReplicaState:
    return dataclasses.replace(self, in_sync=None) if lost_acknowledged else self


def settle_at_once(self: LeaderState) -> None:
    self._settled, self._binding = self._newest, self._newest.members
    self._wait_anew()


def noting_everything(self: ReplicaState, in_sync: InSync) -> ReplicaState:
    return dataclasses.replace(self, in_sync=in_sync)


_begin = LeaderState.__init__


def versions_from_zero(self: LeaderState, replica_id: str, *, last: InSync, **facts: Any) -> None:
    _begin(self, replica_id, last=dataclasses.replace(last, version=-1), **facts)


def told_the_announced(self: LeaderState, replica_id: str) -> InSync | None:
    return self._announced


def attached_as_it_was(
    self: LeaderState, replica_id: str, in_sync: InSync | None, *, now_ms: int
) -> None:
    _attached(self, replica_id, in_sync or self._newest, now_ms=now_ms)


_attached = LeaderState.attached


def by_the_high_watermark(self: LeaderState) -> None:
    _admit(self)
    ready = {
        name
        for name, follower in self._followers.items()
        if name not in self._newest.members
        and follower.is_attached
        and self._has_everything(follower)
    }
    if ready:
        self._propose(self._newest.members | ready)


_admit = LeaderState._admit


def not_waiting_for_who_goes(self: LeaderState, members: frozenset[str]) -> None:
    self._newest = InSync(self._newest.epoch, self._newest.version + 1, members)
    self._binding = self._newest.members
    self._wait_anew()


def excusing(self: LeaderState, follower: Any, key: Any) -> bool:
    return key in follower.stopped


def by_chance(answer: Any) -> Any:
    return answer.log_end_offset, answer.replica_id


def one_too_few(*, replicas: int, min_insync_replicas: int) -> int:
    return max(1, replicas - min_insync_replicas)


def taking_the_same_epoch(self: ReplicaState, *, epoch: int, leader_id: str) -> ReplicaState:
    return dataclasses.replace(self.fenced(epoch), kind=RoleKind.FOLLOWER, leader_id=leader_id)


PLANTED: dict[str, tuple[Patch, ...]] = {
    "truncate to the high watermark": ((parting, "divergence", to_the_high_watermark),),
    "truncate by the last epoch alone": ((parting, "divergence", by_the_last_epoch),),
    "keep epochs that were led and wrote nothing": ((parting, "divergence", dangling_epochs_stay),),
    "truncate nothing": ((parting, "divergence", never),),
    "truncate when a late message says so": ((FollowerState, "check_truncation", never),),
    "take batches wherever they begin": ((FollowerState, "takes", always),),
    "take what a stale leader sends": ((FollowerState, "check", never),),
    "let a stale leader say hello": ((ReplicaState, "fenced", fenced_by_nothing),),
    "elect who lost what it had": ((ReplicaState, "after_power_cut", keeping_its_place),),
    "lead on after a power cut": ((ReplicaState, "after_power_cut", leading_on),),
    "let in who lacks something": ((LeaderState, "_has_everything", always),),
    "excuse who lacks what may be acknowledged": ((LeaderState, "_is_excused", excusing),),
    "let in who has the high watermark": ((LeaderState, "_admit", by_the_high_watermark),),
    "move the high watermark with too few in sync": (
        (LeaderState, "in_sync_count", property(lambda self: 9)),
    ),
    "settle what nobody wrote down": ((LeaderState, "_settle", settle_at_once),),
    "wait not for who is dropped": ((LeaderState, "_propose", not_waiting_for_who_goes),),
    "let everybody write down who is in sync": (
        (ReplicaState, "noted", noting_everything),
        (ReplicaState, "contradiction", None),
        (LeaderState, "to_note", told_the_announced),
    ),
    "let who comes back with less stay": ((LeaderState, "attached", attached_as_it_was),),
    "count versions anew": ((LeaderState, "__init__", versions_from_zero),),
    "elect anybody": ((election, "_rank", by_chance),),
    "ask one replica too few": ((election, "quorum", one_too_few),),
    "acknowledge what is not durable": ((Disk, "acknowledged", property(lambda self: self.end)),),
}
