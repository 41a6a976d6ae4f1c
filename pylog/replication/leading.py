"""What a leader knows of its followers, and what follows: who is in sync, the high watermark.

One `LeaderState` per log and per start of the process that leads: it is not durable.  Events go in;
the caller then takes what came out (`unwritten`, `take_moved`, `to_note`).

**Who is in sync** changes by versions (`InSync`).  A new one is first written down by the leader
(`noted`), then sent to its members, who write it down and say so.  When all have, it is settled.

    added    when it is in time: it has had, in its session, everything that was there; for what was
             there when this leader began may be acknowledged, too.  And it has everything below the
             high watermark, which waits for it once it is in time.
    dropped  when it lacks what was appended replica_lag_time_max_ms ago, or is silent for so long,
             or comes back with less than it had.  The high watermark waits for it until all who
             stay have written down that it is gone: it could be elected before that.
    excused  where the leader cannot read what comes next (`stopped`), who has all that may be
             acknowledged is not late: the high watermark of that partition waits for it.

**The high watermark** of a partition is the least that the counting replicas have, and moves only
while enough are in sync and settled (KIP-966).  It never goes back.

Pure: no clock, no I/O, no locks; the caller serializes.  Times are milliseconds of any clock; one
that goes back is taken to stand still.  Source: Kafka's Partition.scala (ISR, KIP-497, KIP-966).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Final

from pylog.replication.facts import InSync

# What a replica has of a partition as long as it did not say so: less than nothing.
_UNKNOWN: Final = -1
_NEVER: Final = -(2**63)
_NOTHING_NOTED: Final = (-1, -1)


@dataclasses.dataclass(slots=True)
class _Partition:
    """What the leader itself has.

    needed: min_insync_replicas.  floor: where it ended when it was added: as far as that it may be
    acknowledged, also where the high watermark does not tell.
    """

    end_offset: int
    own_offset: int
    high_watermark: int
    needed: int
    floor: int


@dataclasses.dataclass(slots=True)
class _Lag:
    """Of a replica in a partition in which it lacks something.

    since_ms: everything that was appended until then is there.  target: the log end offset at
    target_ms: when it is reached, that is the new since_ms.
    """

    since_ms: int
    target: int
    target_ms: int


@dataclasses.dataclass(slots=True)
class _Follower:
    """What a follower said.

    offsets: what it has, as durable as the topic asks.  lags: where it lacks something.
    stopped: partitions of which no more can be sent to it.
    noted: the order of the last `InSync` that it wrote down.
    is_attached: whether there is a session with it.
    """

    offsets: dict[Hashable, int] = dataclasses.field(default_factory=dict)
    lags: dict[Hashable, _Lag] = dataclasses.field(default_factory=dict)
    stopped: set[Hashable] = dataclasses.field(default_factory=set)
    noted: tuple[int, int] = _NOTHING_NOTED
    heard_ms: int = _NEVER
    is_attached: bool = False


class LeaderState:
    """The rules of a leader, for all partitions of its log.  See the module for what they are."""

    def __init__(self, replica_id: str, *, last: InSync, lag_time_max_ms: int) -> None:
        """Begin alone in sync.

        last: what this replica has written down as the leader that it is.  Every version is a later
        one, also when another process led in the same epoch and was killed.
        """
        assert replica_id in last.members, (replica_id, last)
        self.replica_id = replica_id
        self._lag_time_max_ms = lag_time_max_ms
        self._now_ms = _NEVER
        self._partitions: dict[Hashable, _Partition] = {}
        self._followers: dict[str, _Follower] = {}
        self._newest = InSync(last.epoch, last.version + 1, frozenset({replica_id}))
        self._announced: InSync | None = None
        self._settled: InSync | None = None
        # Whose offsets bind the high watermark: of all sets since the settled one; who is caught
        # up and not in yet; and what follows from both.
        self._binding: frozenset[str] = self._newest.members
        self._joining: frozenset[str] = frozenset()
        self._awaited: tuple[_Follower, ...] = ()
        self._moved: dict[Hashable, int] = {}

    def check(self) -> None:
        """Assert every invariant."""
        assert self.replica_id in self._newest.members
        assert self._newest.members <= self._binding
        assert not self._joining & self._newest.members
        if self._settled is not None:
            assert self._announced is not None
            assert self._settled.order <= self._announced.order <= self._newest.order
        for partition in self._partitions.values():
            assert partition.own_offset <= partition.end_offset, partition
            assert partition.high_watermark <= partition.end_offset, partition
        for follower in self._followers.values():
            for key, partition in self._partitions.items():
                lacks = follower.offsets.get(key, _UNKNOWN) < partition.end_offset
                assert not lacks or key in follower.lags, (key, follower)

    # ---------------------------------------------------------------- what came out

    @property
    def unwritten(self) -> InSync | None:
        """What the leader has to write down, then to say so by `noted`; None when it has."""
        return None if self._announced is self._newest else self._newest

    @property
    def in_sync(self) -> InSync:
        """Who is in sync as far as this leader knows, settled or not."""
        return self._newest

    @property
    def in_sync_count(self) -> int:
        """How many replicas acks="all" can count on, the leader included; 0 before it noted."""
        if self._settled is None:
            return 0
        return min(len(self._settled.members), len(self._newest.members))

    def to_note(self, replica_id: str) -> InSync | None:
        """Return what a follower is to write down, None for one that is not in sync.

        One that is to be dropped is told nothing any more: it may have come back with less.
        """
        announced = self._announced
        if announced is None or replica_id not in announced.members & self._newest.members:
            return None
        return announced

    def high_watermark(self, partition: Hashable) -> int:
        """Return the high watermark of a partition that was added."""
        return self._partitions[partition].high_watermark

    def take_moved(self) -> dict[Hashable, int]:
        """Return the high watermarks that moved since the last call."""
        moved, self._moved = self._moved, {}
        return moved

    # ---------------------------------------------------------------- events: the leader's log

    def partition_added(
        self,
        partition: Hashable,
        *,
        end_offset: int,
        own_offset: int,
        high_watermark: int,
        min_insync_replicas: int,
        now_ms: int,
    ) -> None:
        """Take in a partition: all that exist at the beginning, later each that is made.

        end_offset: of the log.  own_offset: up to where it is as durable as its topic asks.
        """
        assert partition not in self._partitions, partition
        self._partitions[partition] = _Partition(
            end_offset, own_offset, high_watermark, min_insync_replicas, floor=end_offset
        )
        now_ms = self._at(now_ms)
        for follower in self._followers.values():
            follower.lags[partition] = _Lag(now_ms, end_offset, now_ms)
        self._advance(partition)

    def partition_removed(self, partition: Hashable) -> None:
        """Forget a partition whose topic is deleted."""
        self._partitions.pop(partition, None)
        self._moved.pop(partition, None)
        for follower in self._followers.values():
            follower.offsets.pop(partition, None)
            follower.lags.pop(partition, None)
            follower.stopped.discard(partition)
        self._admit()

    def needed(self, partition: Hashable, min_insync_replicas: int) -> None:
        """Take in that a topic's setting is another one."""
        self._partitions[partition].needed = min_insync_replicas
        self._advance(partition)

    def appended(
        self, partition: Hashable, *, end_offset: int, own_offset: int, now_ms: int
    ) -> None:
        """Take in how far the leader's own log is; as in `partition_added`.  Neither goes back."""
        now_ms = self._at(now_ms)
        known = self._partitions[partition]
        if end_offset > known.end_offset:
            known.end_offset = end_offset
            for follower in self._followers.values():
                # It may have been sent, and acknowledged, before this was told.
                if follower.offsets.get(partition, _UNKNOWN) < end_offset:
                    follower.lags.setdefault(partition, _Lag(now_ms, end_offset, now_ms))
        if own_offset > known.own_offset:
            known.own_offset = own_offset
            self._advance(partition)

    def noted(self, in_sync: InSync) -> None:
        """Take in that the leader has written down what was `unwritten`."""
        if in_sync == self._newest:
            self._announced = self._newest
        elif self._announced is None or in_sync.order > self._announced.order:
            self._announced = in_sync
        self._settle()

    # ---------------------------------------------------------------- events: followers

    def attached(self, replica_id: str, in_sync: InSync | None, *, now_ms: int) -> None:
        """Take in a follower's handshake.

        in_sync: what it has written down.  What it has of the partitions comes with
        `acknowledged`, once for each at least, after it was truncated.
        """
        now_ms = self._at(now_ms)
        assert replica_id != self.replica_id
        follower = self._followers.setdefault(replica_id, _Follower())
        is_member = replica_id in self._newest.members
        follower.is_attached = True
        follower.noted = _NOTHING_NOTED if in_sync is None else in_sync.order
        follower.heard_ms = now_ms
        follower.offsets.clear()
        follower.stopped.clear()
        for key, partition in self._partitions.items():
            lag = follower.lags.get(key)
            since_ms = _NEVER if not is_member else now_ms if lag is None else lag.since_ms
            follower.lags[key] = _Lag(since_ms, partition.end_offset, now_ms)
        if is_member and in_sync is None:
            self._propose(self._newest.members - {replica_id})
        self._settle()
        self._admit()

    def detached(self, replica_id: str) -> None:
        """Take in that a session is over.  The follower is dropped when it stays away."""
        follower = self._followers.get(replica_id)
        if follower is not None:
            follower.is_attached = False
            self._admit()

    def removed(self, replica_id: str) -> None:
        """Take in that somebody took a follower away for good: it is dropped at once."""
        self.detached(replica_id)
        if replica_id in self._newest.members:
            self._propose(self._newest.members - {replica_id})

    def acknowledged(
        self,
        replica_id: str,
        partition: Hashable,
        *,
        end_offset: int,
        in_sync: tuple[int, int] | None,
        now_ms: int,
    ) -> None:
        """Take in what an attached follower has; of a session that is over it must not be told.

        in_sync: the order of what it has written down.  An offset that is lower than before, as
        of a message that was overtaken, says nothing.
        O(followers); more while this one is not in sync.
        """
        now_ms = self._at(now_ms)
        follower = self._followers[replica_id]
        follower.heard_ms = now_ms
        if in_sync is not None and in_sync > follower.noted:
            follower.noted = in_sync
            self._settle()
        known = self._partitions.get(partition)
        if known is None:
            return
        is_member = replica_id in self._newest.members
        if is_member and partition not in follower.offsets and end_offset < known.high_watermark:
            # It wrote down that it has more, and has not: not to be relied on.
            self._propose(self._newest.members - {replica_id})
        if end_offset > follower.offsets.get(partition, _UNKNOWN):
            follower.offsets[partition] = end_offset
            follower.stopped.discard(partition)
        self._catch_up(follower, partition, known)
        if replica_id not in self._newest.members:
            self._admit()
        self._advance(partition)

    def stopped(self, replica_id: str, partition: Hashable) -> None:
        """Take in that the leader cannot read what an attached follower lacks of a partition.

        Until more of it is acknowledged, or another session begins.
        """
        if partition in self._partitions:
            self._followers[replica_id].stopped.add(partition)
            self._admit()

    def tick(self, now_ms: int) -> None:
        """Drop who is late; due at least every replica_lag_time_max_ms / 2."""
        self._at(now_ms)
        members = self._newest.members
        late = {name for name in members - {self.replica_id} if not self._is_in_time(name)}
        if late:
            self._propose(members - late)
        self._admit()

    # ---------------------------------------------------------------- what follows

    def _at(self, now_ms: int) -> int:
        self._now_ms = max(self._now_ms, now_ms)
        return self._now_ms

    def _is_in_time(self, replica_id: str) -> bool:
        """Return whether a follower has all that was appended replica_lag_time_max_ms ago.

        But for what cannot be sent to it, see `_is_excused`.
        """
        oldest = self._now_ms - self._lag_time_max_ms
        follower = self._followers[replica_id]
        return follower.heard_ms >= oldest and all(
            lag.since_ms >= oldest or self._is_excused(follower, key)
            for key, lag in follower.lags.items()
        )

    def _is_excused(self, follower: _Follower, key: Hashable) -> bool:
        """Return whether a follower has all that may be acknowledged, and cannot be sent more."""
        if key not in follower.stopped:
            return False
        partition = self._partitions[key]
        least = max(partition.high_watermark, partition.floor)
        return follower.offsets.get(key, _UNKNOWN) >= least

    def _catch_up(self, follower: _Follower, key: Hashable, partition: _Partition) -> None:
        """Bring on how late a follower is in a partition.  Source: Kafka Replica.updateFetchState.

        Its own reaches as far as the log did at some time: it had everything then.
        """
        lag = follower.lags.get(key)
        if lag is None:
            return
        offset = follower.offsets[key]
        if offset >= partition.end_offset:
            del follower.lags[key]
        elif offset >= lag.target:
            follower.lags[key] = _Lag(lag.target_ms, partition.end_offset, self._now_ms)

    def _admit(self) -> None:
        """Take in who has everything; let the high watermarks wait for who soon will."""
        joining = {
            name
            for name, follower in self._followers.items()
            if name not in self._newest.members and follower.is_attached and self._is_in_time(name)
        }
        ready = {name for name in joining if self._has_everything(self._followers[name])}
        if ready:
            self._propose(self._newest.members | ready)
        if joining - ready != self._joining:
            self._joining = frozenset(joining - ready)
            self._wait_anew()

    def _has_everything(self, follower: _Follower) -> bool:
        return all(
            follower.offsets.get(key, _UNKNOWN) >= self._partitions[key].high_watermark
            for key in follower.lags
        )

    def _propose(self, members: frozenset[str]) -> None:
        self._newest = InSync(self._newest.epoch, self._newest.version + 1, members)
        self._binding |= members
        self._joining -= members
        self._wait_anew()

    def _settle(self) -> None:
        """Let a set count that all its members have written down."""
        newest = self._newest
        if self._settled is newest or self._announced is not newest:
            return
        others = newest.members - {self.replica_id}
        if all(self._followers[name].noted >= newest.order for name in others):
            self._settled = newest
            self._binding = newest.members
            self._wait_anew()

    def _wait_anew(self) -> None:
        """Find out whom the high watermarks wait for; move what waits for nobody any more."""
        names = (self._binding | self._joining) - {self.replica_id}
        self._awaited = tuple(self._followers[name] for name in sorted(names))
        for key in self._partitions:
            self._advance(key)

    def _advance(self, key: Hashable) -> None:
        partition = self._partitions[key]
        if self.in_sync_count < partition.needed:
            return
        offsets = [follower.offsets.get(key, _UNKNOWN) for follower in self._awaited]
        reached = min(partition.own_offset, *offsets) if offsets else partition.own_offset
        if reached > partition.high_watermark:
            partition.high_watermark = reached
            self._moved[key] = reached
