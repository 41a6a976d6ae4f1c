"""The exception tree.

Knows: what went wrong, who can act, the facts of both sides.  Must not know: files, clocks, locks.
Every class derives from PylogError, inherits the builtin that a caller would guess, and says in
`retriable` whether the same call can succeed later without anybody repairing anything.
OSError from the operating system passes through pylog unchanged; what is here adds a meaning that
errno lacks.  No text or attribute ever holds payload bytes: keys and values stay out of log files.
"""

from __future__ import annotations

from pylog.errors.appends import (
    BufferExhaustedError,
    DeliveryTimeoutError,
    DurabilityUnknownError,
    InvalidProducerEpochError,
    LockTimeoutError,
    NotAppendedError,
    OffsetMismatchError,
    OutOfOrderSequenceError,
    PartitionFailedError,
    PartitionFullError,
)
from pylog.errors.base import (
    PylogError,
)
from pylog.errors.consumers import (
    ConcurrentUseError,
    NoOffsetForPartitionError,
    NotAssignedError,
    WakeupError,
)
from pylog.errors.disk import (
    CorruptFileError,
    CorruptionError,
    CorruptRangeError,
    IncompatibleFormatError,
    NetworkFileSystemError,
)
from pylog.errors.groups import (
    CommitFailedError,
    FencedInstanceIdError,
    GroupIdNotFoundError,
    InconsistentGroupProtocolError,
    InvalidAssignmentError,
    InvalidGroupIdError,
    NonEmptyGroupError,
    OffsetMetadataTooLargeError,
    StaleMemberEpochError,
    UnknownMemberIdError,
)
from pylog.errors.mirrors import (
    DivergedTopicError,
    KafkaRefusedError,
    KafkaUnavailableError,
    MirrorError,
    MirrorFencedError,
    MirrorRunningError,
    NotMirroredError,
    OffsetsDifferError,
    TargetTopicError,
    UnmirrorableRecordError,
)
from pylog.errors.replication import (
    AuthenticationError,
    DivergedReplicaError,
    FencedLeaderEpochError,
    InconsistentClusterIdError,
    InvalidMessageError,
    NotEligibleError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderError,
    ReplicationError,
    ReplicationTimeoutError,
)
from pylog.errors.tables import (
    RecordsMissedError,
    StaleTableError,
    TombstonesDroppedError,
    TopicRecreatedError,
    TopicTruncatedError,
)
from pylog.errors.usage import (
    ClosedError,
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidRecordError,
    InvalidTimestampError,
    InvalidTopicError,
    MissingExtraError,
    OffsetOutOfRangeError,
    PartitionerError,
    RecordTooLargeError,
    TopicExistsError,
    UnknownSettingError,
    UnknownTopicOrPartitionError,
)

__all__ = [
    "AuthenticationError",
    "BufferExhaustedError",
    "ClosedError",
    "CommitFailedError",
    "ConcurrentUseError",
    "CorruptFileError",
    "CorruptRangeError",
    "CorruptionError",
    "DeliveryTimeoutError",
    "DivergedReplicaError",
    "DivergedTopicError",
    "DurabilityUnknownError",
    "FencedInstanceIdError",
    "FencedLeaderEpochError",
    "GroupIdNotFoundError",
    "IncompatibleFormatError",
    "InconsistentClusterIdError",
    "InconsistentGroupProtocolError",
    "InvalidAssignmentError",
    "InvalidConfigurationError",
    "InvalidGroupIdError",
    "InvalidMessageError",
    "InvalidPartitionsError",
    "InvalidProducerEpochError",
    "InvalidRecordError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "KafkaRefusedError",
    "KafkaUnavailableError",
    "LockTimeoutError",
    "MirrorError",
    "MirrorFencedError",
    "MirrorRunningError",
    "MissingExtraError",
    "NetworkFileSystemError",
    "NoOffsetForPartitionError",
    "NonEmptyGroupError",
    "NotAppendedError",
    "NotAssignedError",
    "NotEligibleError",
    "NotEnoughReplicasAfterAppendError",
    "NotEnoughReplicasError",
    "NotLeaderError",
    "NotMirroredError",
    "OffsetMetadataTooLargeError",
    "OffsetMismatchError",
    "OffsetOutOfRangeError",
    "OffsetsDifferError",
    "OutOfOrderSequenceError",
    "PartitionFailedError",
    "PartitionFullError",
    "PartitionerError",
    "PylogError",
    "RecordTooLargeError",
    "RecordsMissedError",
    "ReplicationError",
    "ReplicationTimeoutError",
    "StaleMemberEpochError",
    "StaleTableError",
    "TargetTopicError",
    "TombstonesDroppedError",
    "TopicExistsError",
    "TopicRecreatedError",
    "TopicTruncatedError",
    "UnknownMemberIdError",
    "UnknownSettingError",
    "UnknownTopicOrPartitionError",
    "UnmirrorableRecordError",
    "WakeupError",
]

for _name in __all__:
    # Known by where users import them from, in tracebacks and in pickles: those stay readable when
    # a class moves within this folder.
    globals()[_name].__module__ = __name__
