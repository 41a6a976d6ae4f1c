"""What goes wrong between a leader, its followers, and who elects them."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pylog.errors.appends import NotAppendedError
from pylog.errors.base import PylogError, shown

if TYPE_CHECKING:
    from pylog._native import RecordMetadata


class NotLeaderError(NotAppendedError):
    """Raised when something is appended to a log that does not lead its replicas.

    Not appended, and nothing was changed.  Append to the leader; a retry here succeeds when this
    log is promoted.  Source: Kafka NOT_LEADER_OR_FOLLOWER.
    """

    retriable = True


class NotEnoughReplicasError(NotAppendedError):
    """Raised by acks="all" when too few replicas are in sync.

    Not appended; no offset was used.  in_sync: how many are, the leader included;  needed: the
    topic's min_insync_replicas.  Source: Kafka NOT_ENOUGH_REPLICAS.
    """

    retriable = True
    _fields = ("in_sync", "needed", "appended")

    def __init__(self, in_sync: int, needed: int, appended: Sequence[RecordMetadata] = ()) -> None:
        super().__init__(f"{in_sync} replicas are in sync, {needed} are needed", appended)
        self.in_sync = in_sync
        self.needed = needed


class NotEnoughReplicasAfterAppendError(PylogError):
    """Raised by acks="all" when records were appended here and not in enough replicas in time.

    They may or may not survive a change of the leader; nobody can read them before it is known.
    Sending them again may duplicate them.  start, end: the offsets in doubt, [start, end).
    Source: Kafka NOT_ENOUGH_REPLICAS_AFTER_APPEND, which calls itself retriable.
    """

    _fields = ("message", "start", "end")

    def __init__(self, message: str, start: int, end: int) -> None:
        super().__init__(f"{message}; offsets [{start}, {end}) may or may not survive")
        self.message = message
        self.start = start
        self.end = end


class ReplicationError(PylogError):
    """Raised when a replica cannot be brought on, or cannot change its role."""


class FencedLeaderEpochError(ReplicationError):
    """Raised when somebody acts for a leader whose time is over: the replica promised itself.

    Nothing was done.  A leader that meets it steps down.  epoch: what was acted for;  promised: the
    replica takes nothing of older epochs, nor of another leader of this one.
    Source: Kafka FENCED_LEADER_EPOCH.
    """

    _fields = ("epoch", "promised")

    def __init__(self, epoch: int, promised: int) -> None:
        super().__init__(f"leader epoch {epoch}, {promised} is promised")
        self.epoch = epoch
        self.promised = promised


class NotEligibleError(ReplicationError):
    """Raised when a replica may lack acknowledged records, so that to promote it may lose them.

    Nothing was changed.  It lost, or may have lost, what it had acknowledged, or never was in sync;
    or too few replicas were asked to know.  `unclean=True` promotes nevertheless.
    Source: Kafka ELIGIBLE_LEADERS_NOT_AVAILABLE, KIP-966.
    """


class DivergedReplicaError(ReplicationError):
    """Raised when a follower would have to remove records that were acknowledged.

    Nothing was removed.  Somebody promoted a replica that lacked them (`unclean=True`), or two logs
    have one identity.  end_offset: where the leader's history parts from the follower's;
    high_watermark: what the follower knows to be acknowledged.
    """

    _fields = ("partition", "end_offset", "high_watermark")

    def __init__(self, partition: str, end_offset: int, high_watermark: int) -> None:
        super().__init__(
            f"{partition}: to be truncated to {end_offset}, the high watermark is {high_watermark}"
        )
        self.partition = partition
        self.end_offset = end_offset
        self.high_watermark = high_watermark


class InconsistentClusterIdError(ReplicationError, ValueError):
    """Raised when a leader meets a replica of another log.  Nothing was done.

    ours, theirs: the ids.  Source: Kafka INCONSISTENT_CLUSTER_ID.
    """

    _fields = ("ours", "theirs")

    def __init__(self, ours: str, theirs: str) -> None:
        super().__init__(f"this is a replica of {shown(ours)}, the other one of {shown(theirs)}")
        self.ours = ours
        self.theirs = theirs


class ReplicationTimeoutError(ReplicationError, TimeoutError):
    """Raised when a replica does not answer in time.

    What was asked may or may not be done.  timeout: seconds that were waited.
    """

    retriable = True
    _fields = ("message", "timeout")

    def __init__(self, message: str, timeout: float) -> None:
        super().__init__(message)
        self.errno = errno.ETIMEDOUT
        self.strerror = message
        self.timeout = timeout


class AuthenticationError(ReplicationError, PermissionError):
    """Raised when the other side does not know the shared secret.  Nothing was sent or taken."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EACCES
        self.strerror = message


class InvalidMessageError(ReplicationError, ValueError):
    """Raised for what no leader or follower of this version says: too large, cut, out of order.

    The session is over; nothing of the message was done.
    """
