"""What keeps a mirror, to a Kafka cluster or from one, from going on."""

from __future__ import annotations

from pylog.errors.base import PylogError, shown


class MirrorError(PylogError):
    """Raised when a mirror ended before it was done.  What was acknowledged stays; run it again."""


class KafkaUnavailableError(MirrorError, ConnectionError):
    """Raised when a Kafka cluster does not answer, or cannot do now what it was asked.

    code: Kafka's or librdkafka's name of the reason.
    """

    retriable = True
    _fields = ("code", "reason")

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class KafkaRefusedError(MirrorError):
    """Raised when a Kafka cluster will not do what it was asked: rights, settings, sizes.

    code: Kafka's or librdkafka's name of the reason.
    """

    _fields = ("code", "reason")

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class MirrorRunningError(MirrorError, BlockingIOError):
    """Raised when a mirror of this name runs already, in any process that has the log open.

    Nothing was sent.
    """

    retriable = True
    _fields = ("path", "name")

    def __init__(self, path: str, name: str) -> None:
        super().__init__(f"mirror {shown(name)} of log {shown(path)} runs already")
        self.path, self.name = path, name


class MirrorFencedError(MirrorError):
    """Raised when another mirror took over, with the same log id and name.

    Nothing of what was under way counts.  Source: Kafka PRODUCER_FENCED, INVALID_PRODUCER_EPOCH.
    """

    _fields = ("code", "reason")

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


class TargetTopicError(MirrorError, LookupError):
    """Raised when a topic to write to is missing or has too few partitions.  Nothing was sent.

    partitions: that it has, 0 when it is missing;  needed: at least.
    """

    _fields = ("topic", "partitions", "needed")

    def __init__(self, topic: str, partitions: int, needed: int) -> None:
        super().__init__(f"topic {shown(topic)} has {partitions} partitions, {needed} are needed")
        self.topic, self.partitions, self.needed = topic, partitions, needed


class OffsetsDifferError(MirrorError, ValueError):
    """Raised when records cannot have the same offsets on both sides, or did not get them.

    topic, partition: where they are written.  expected: the offset that a record has in its source;
    actual: the one that it would get, or got because somebody else writes there, too.
    """

    _fields = ("topic", "partition", "expected", "actual")

    def __init__(self, topic: str, partition: int, expected: int, actual: int) -> None:
        place = f"{shown(topic)}-{partition}"
        super().__init__(f"{place}: the record of offset {expected} has offset {actual} there")
        self.topic, self.partition = topic, partition
        self.expected, self.actual = expected, actual


class DivergedTopicError(MirrorError, ValueError):
    """Raised when a copy holds what its source does not: it cannot be gone on with.

    topic, partition: of the copy.  offset: of the last record of the copy, which differs, or up to
    which the source has none.
    """

    _fields = ("topic", "partition", "offset", "reason")

    def __init__(self, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(f"{shown(topic)}-{partition} at offset {offset}: {reason}")
        self.topic, self.partition = topic, partition
        self.offset, self.reason = offset, reason


class NotMirroredError(MirrorError, LookupError):
    """Raised when records were deleted from their source before they were mirrored.

    topic, partition: of the source.  Offsets [position, log_start_offset) are gone.
    """

    _fields = ("topic", "partition", "position", "log_start_offset")

    def __init__(self, topic: str, partition: int, position: int, log_start_offset: int) -> None:
        gone = f"offsets [{position}, {log_start_offset}) were deleted before they were mirrored"
        super().__init__(f"{shown(topic)}-{partition}: {gone}")
        self.topic, self.partition = topic, partition
        self.position, self.log_start_offset = position, log_start_offset


class UnmirrorableRecordError(MirrorError, ValueError):
    """Raised when a record cannot be written on the other side as it is.  It was not sent.

    topic, partition, offset: of the record in its source.
    """

    _fields = ("topic", "partition", "offset", "reason")

    def __init__(self, topic: str, partition: int, offset: int, reason: str) -> None:
        super().__init__(f"{shown(topic)}-{partition} at offset {offset}: {reason}")
        self.topic, self.partition = topic, partition
        self.offset, self.reason = offset, reason
