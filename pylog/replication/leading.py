"""What a leader knows of its followers, and what follows: who is in sync, the high watermark.

One `LeaderState` per log and per start of the process that leads: it is not durable.  Events go in;
the caller then takes what came out (`unwritten`, `take_moved`).

**Who is in sync** changes by versions (`InSync`).  A new one is first written down by the leader
(`noted`), then sent to its members, who write it down and say so.  When all have, it is settled.

    added    when it has everything below the high watermark, and everything that was there when
             this leader began: that may be acknowledged, too.  The high watermark waits for it from
             the moment of the proposal, and already before, once it is caught up in time.
    dropped  when it lacks what was appended replica_lag_time_max_ms ago, or is silent for so long,
             or comes back with less than it had.  The high watermark waits for it until all who
             stay have written down that it is gone: it could be elected before that.

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


@dataclasses.dataclass(slots=True)
class _Partition:
    """What the leader itself has.

    needed: min_insync_replicas.  floor: its log end offset when this leader began.
    """

    end_offset: int
    own_offset: int
    high_watermark: int
    floor: int
    needed: int

    @property
    def threshold(self) -> int:
        """What a replica must have to be in sync."""
        return max(self.high_watermark, self.floor)


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
    noted: the order of the last `InSync` that it wrote down.
    is_attached: whether there is a session with it.
    """

    offsets: dict[Hashable, int] = dataclasses.field(default_factory=dict)
    lags: dict[Hashable, _Lag] = dataclasses.field(default_factory=dict)
    noted: tuple[int, int] = (_UNKNOWN, _UNKNOWN)
    heard_ms: int = _NEVER
    is_attached: bool = False


class LeaderState:
    """The rules of a leader, for all partitions of its log.  See the module for what they are."""

    def __init__(self, replica_id: str, *, last: InSync, lag_time_max_ms: int) -> None:
        """Begin alone in sync.

        last: what the leader's standing says.  Every version has to be a later one, also when a
        process that led in the same epoch was killed.
        """
        self.replica_id = replica_id
        self._lag_time_max_ms = lag_time_max_ms
        self._now_ms = _NEVER
        self._partitions: dict[Hashable, _Partition] = {}
        self._followers: dict[str, _Follower] = {}
        self._newest = InSync(last.epoch, last.version + 1, frozenset({replica_id}))
        self._announced: InSync | None = None
        self._settled: InSync | None = None
        self._binding: frozenset[str] = self._newest.members
        self._joining: frozenset[str] = frozenset()
        self._moved: dict[Hashable, int] = {}

    # ---------------------------------------------------------------- what came out

    @property
    def unwritten(self) -> InSync | None:
        """What the leader has to write down, then to say so by `noted`; None when it has."""
        raise NotImplementedError

    @property
    def announced(self) -> InSync | None:
        """What to send to its members: the newest that the leader has written down."""
        raise NotImplementedError

    @property
    def in_sync_count(self) -> int:
        """How many replicas acks="all" can count on, the leader included; 0 before it noted."""
        raise NotImplementedError

    def high_watermark(self, partition: Hashable) -> int:
        """Return the high watermark of a partition that was added."""
        raise NotImplementedError

    def take_moved(self) -> dict[Hashable, int]:
        """Return the high watermarks that moved since the last call."""
        raise NotImplementedError

    # ---------------------------------------------------------------- events: the leader's log

    def partition_added(
        self,
        partition: Hashable,
        *,
        end_offset: int,
        own_offset: int,
        high_watermark: int,
        min_insync_replicas: int,
    ) -> None:
        """Take in a partition: all that exist at the beginning, later each that is made.

        end_offset: of the log.  own_offset: up to where it is as durable as its topic asks.
        """
        raise NotImplementedError

    def partition_removed(self, partition: Hashable) -> None:
        """Forget a partition whose topic is deleted."""
        raise NotImplementedError

    def needed(self, partition: Hashable, min_insync_replicas: int) -> None:
        """Take in that a topic's setting is another one."""
        raise NotImplementedError

    def appended(
        self, partition: Hashable, *, end_offset: int, own_offset: int, now_ms: int
    ) -> None:
        """Take in how far the leader's own log is; as in `partition_added`."""
        raise NotImplementedError

    def noted(self, in_sync: InSync) -> None:
        """Take in that the leader has written `unwritten` down."""
        raise NotImplementedError

    # ---------------------------------------------------------------- events: followers

    def attached(self, replica_id: str, in_sync: InSync | None, *, now_ms: int) -> None:
        """Take in a follower's handshake.

        in_sync: what it has written down.  What it has of the partitions comes with
        `acknowledged`, once for each at least, after it was truncated.
        """
        raise NotImplementedError

    def detached(self, replica_id: str) -> None:
        """Take in that a session is over.  The follower is dropped when it stays away."""
        raise NotImplementedError

    def removed(self, replica_id: str) -> None:
        """Take in that somebody took a follower away for good: it is dropped at once."""
        raise NotImplementedError

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
        """
        raise NotImplementedError

    def tick(self, now_ms: int) -> None:
        """Drop who is late; due at least every replica_lag_time_max_ms / 2."""
        raise NotImplementedError
