"""What a follower takes from its leader, and what it must not.

Messages may be lost, repeated, late or overtaken; what is taken is never wrong, at worst nothing.

    a session  begins with a leader's hello.  What belongs to another session than the last, or to
               an older leader, is not taken.
    truncate   only before the first batches of a partition come in a session, and never below the
               high watermark: a late repetition would cut what was acknowledged meanwhile.
    batches    only where the log ends.  A message that was lost cannot look like a gap that
               compaction left: such gaps lie within what one message covers.

Pure: no clock, no I/O, no locks; the caller serializes, and acts between question and next event.
"""

from __future__ import annotations

from collections.abc import Hashable

from pylog.errors import DivergedReplicaError, FencedLeaderEpochError, InvalidMessageError
from pylog.replication.standing import ReplicaState


class FollowerState:
    """The rules of a follower, for all partitions of its log."""

    def __init__(self, state: ReplicaState) -> None:
        # Durable before anybody gets an answer that follows from it.
        self.state = state
        # The one that is on; None before the first hello, and after a promise to somebody else.
        self.session: Hashable | None = None
        self._taking: set[Hashable] = set()

    def fence(self, epoch: int) -> None:
        """Promise to take nothing from leaders of older epochs.

        Raises FencedLeaderEpochError when a later one was promised before.
        """
        state = self.state.fenced(epoch)
        if state != self.state:
            self.state, self.session = state, None

    def hello(self, *, epoch: int, leader_id: str, session: Hashable) -> None:
        """Begin a session, which ends any other one.

        session: never used before.  Raises FencedLeaderEpochError; then all stays as it was.
        """
        self.state = self.state.following(epoch=epoch, leader_id=leader_id)
        self.session = session
        self._taking.clear()

    def check(self, session: Hashable, *, epoch: int) -> None:
        """Raise unless a message belongs to the session.

        Raises FencedLeaderEpochError when a later epoch is promised, InvalidMessageError when
        another session of the same leader began.
        """
        if epoch < self.state.promised_epoch:
            raise FencedLeaderEpochError(epoch, self.state.promised_epoch)
        if self.session is None or session != self.session:
            raise InvalidMessageError("of a session that is over")

    def check_truncation(
        self, partition: Hashable, *, end_offset: int, high_watermark: int
    ) -> None:
        """Raise unless a partition may be cut to end at `end_offset`, in the session.

        high_watermark: what this replica knows to be acknowledged.
        Raises InvalidMessageError after batches were taken, DivergedReplicaError when records that
        were acknowledged would go; a replica that is not eligible may lose them: it lacks others.
        """
        if partition in self._taking:
            raise InvalidMessageError(f"{partition} is to be truncated after batches were taken")
        if end_offset < high_watermark and self.state.in_sync is not None:
            raise DivergedReplicaError(str(partition), end_offset, high_watermark)

    def takes(self, partition: Hashable, *, from_offset: int, log_end_offset: int) -> bool:
        """Return whether batches, or a heartbeat, continue what is there, in the session.

        from_offset: what the leader believes to be the log end offset here.
        When not, nothing is done but to acknowledge what is there.
        """
        self._taking.add(partition)
        return from_offset == log_end_offset

    def is_taking(self, partition: Hashable) -> bool:
        """Return whether batches came in the session: what is there may be acknowledged.

        Before that it may hold what another leader wrote, which is yet to be truncated.
        """
        return self.session is not None and partition in self._taking

    @staticmethod
    def high_watermark(*, told: int, known: int, log_end_offset: int) -> int:
        """Return a follower's high watermark: what it is told, as far as it has it; never back."""
        return max(known, min(told, log_end_offset))
