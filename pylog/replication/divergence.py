"""Where the histories of two replicas part, told by their leader epochs.

Each epoch has one leader, which wrote its records in one order and never again after it lost some.
So two replicas that both have records of an epoch agree on that epoch as far as both have it, and
on everything before.  To cut at the high watermark instead loses acknowledged records, or keeps
others' (KIP-101, KIP-279).

Pure.  Must not know who asks whom, nor how records are removed.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pylog.replication.facts import MAX_EPOCHS, ReplicaPosition
from pylog.storage.epochs import LeaderEpochs

# The epoch of records that were written before the log had replicas: they are one history, too.
_NO_EPOCH: Final = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Truncate:
    """Remove every batch that reaches beyond `end_offset`, then ask again."""

    end_offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class StartAnew:
    """Remove everything and begin at `offset`: what the leader has begins later."""

    offset: int


def divergence(leader: ReplicaPosition, follower: ReplicaPosition) -> Truncate | StartAnew | None:
    """Return what a follower has to do before it may be sent anything; None for nothing.

    leader: with all its epochs.  follower: with all, or its latest MAX_EPOCHS; then it may take
    more than one round, each of which goes back by so many.
    Both are replicas of one log; what has no leader epoch is the same in both.
    O(entries of both).  Source: KIP-101, KIP-279.
    """
    # Below its own start a follower has nothing that could be wrong.
    agreed = max(_agreed_end(leader, follower), follower.log_start_offset)
    is_behind = follower.log_start_offset > leader.log_end_offset
    if agreed < leader.log_start_offset or is_behind:
        # Where they part is gone from the leader, and with it what the follower should have there;
        # or the follower begins behind all that the leader has.
        return StartAnew(leader.log_start_offset)
    is_led = bool(follower.epochs) and follower.epochs[-1][1] >= follower.log_end_offset
    if agreed < follower.log_end_offset or is_led:
        # An epoch that it led and wrote nothing in has to go, too: records of older epochs will
        # stand there.  Source: Kafka UnifiedLog.truncateTo.
        return Truncate(agreed)
    return None


def _agreed_end(leader: ReplicaPosition, follower: ReplicaPosition) -> int:
    """Return the end (exclusive) of what both have of the same history.

    May be too low for a follower that sent not all of its epochs, never too high.
    """
    leaders, followers = LeaderEpochs(leader.epochs), LeaderEpochs(follower.epochs)
    known = {epoch for epoch, _ in leader.epochs}
    common = max((epoch for epoch, _ in follower.epochs if epoch in known), default=_NO_EPOCH)
    if common != _NO_EPOCH:
        return min(_end_of(leaders, common, leader), _end_of(followers, common, follower))
    if len(follower.epochs) >= MAX_EPOCHS:
        # Nothing of what was sent is common; what is common ends before it.
        return follower.epochs[0][1]
    return min(_end_of(leaders, _NO_EPOCH, leader), _end_of(followers, _NO_EPOCH, follower))


def _end_of(epochs: LeaderEpochs, epoch: int, position: ReplicaPosition) -> int:
    """Return where an epoch that a replica has, or what has none, ends in it (exclusive)."""
    later = (start for known, start in epochs.entries if known > epoch)
    return next(later, position.log_end_offset)
