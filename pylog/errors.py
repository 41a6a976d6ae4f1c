"""The exception tree.

Knows: what went wrong, who can act, the facts of both sides.  Must not know: files, clocks, locks.
Every class derives from PylogError, inherits the builtin that a caller would guess, and says in
`retriable` whether the same call can succeed later without anybody repairing anything.
OSError from the operating system passes through pylog unchanged; what is here adds a meaning that
errno lacks.  No text or attribute ever holds payload bytes: keys and values stay out of log files.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pylog._native import RecordMetadata

__all__ = [
    "BufferExhaustedError",
    "ClosedError",
    "CorruptFileError",
    "CorruptRangeError",
    "CorruptionError",
    "DeliveryTimeoutError",
    "DurabilityUnknownError",
    "IncompatibleFormatError",
    "InvalidConfigurationError",
    "InvalidPartitionsError",
    "InvalidProducerEpochError",
    "InvalidRecordError",
    "InvalidTimestampError",
    "InvalidTopicError",
    "LockTimeoutError",
    "MissingExtraError",
    "NetworkFileSystemError",
    "NotAppendedError",
    "OffsetMismatchError",
    "OffsetOutOfRangeError",
    "OutOfOrderSequenceError",
    "PartitionFailedError",
    "PartitionFullError",
    "PartitionerError",
    "PylogError",
    "RecordTooLargeError",
    "TopicExistsError",
    "UnknownSettingError",
    "UnknownTopicOrPartitionError",
]

# Values in messages are cut here: they may be hostile and a log line must stay a line.  Guessed.
_MAX_VALUE_CHARACTERS = 120


def _shown(value: object) -> str:
    """Return the repr of a value, cut so that a hostile one cannot flood a log."""
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "..."


class PylogError(Exception):
    """Catch this to catch everything that pylog raises on purpose.

    OSError from the operating system and TypeError for a wrong argument type are not among them.
    Every error pickles and copies with all its attributes, so it can cross a process pool.
    """

    retriable: ClassVar[bool] = False

    # The attributes that rebuild the error when passed to its constructor, in its order.
    _fields: ClassVar[tuple[str, ...]] = ("message",)

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # The builtins' own way calls the constructor with `args`, which here is the text alone.
        fields = tuple(getattr(self, name) for name in self._fields)
        return type(self), fields, self.__dict__


# ---------------------------------------------------------------- what the caller asked for


class ClosedError(PylogError, ValueError):
    """Raised when a closed log, partition, consumer or memory page is used.  Open it again."""


class InvalidTopicError(PylogError, ValueError):
    """Raised when a topic name breaks Kafka's rule, or collides with an existing topic.

    Nothing was created.  reason: says which part of the rule, and where in the name.
    """

    _fields = ("topic", "reason")

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"topic {_shown(topic)}: {reason}")
        self.topic = topic
        self.reason = reason


class InvalidConfigurationError(PylogError, ValueError):
    """Raised when a setting has a wrong type or lies outside its range.  Nothing was changed.

    allowed: the type and range in words.
    """

    _fields = ("setting", "value", "allowed")

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        super().__init__(f"{setting}={_shown(value)}: expected {allowed}")
        self.setting = setting
        self.value = value
        self.allowed = allowed


class UnknownSettingError(InvalidConfigurationError):
    """Raised when a setting does not exist; names the nearest one that does, if any is near.

    Nothing was changed.  nearest: None when no known name resembles the one given.
    """

    _fields = ("setting", "value", "nearest")

    def __init__(self, setting: str, value: object, nearest: str | None) -> None:
        hint = f" (did you mean {nearest}?)" if nearest else ""
        super().__init__(setting, value, f"a known setting{hint}")
        self.nearest = nearest


class InvalidRecordError(PylogError, ValueError):
    """Raised when a record cannot be written or decoded as given.  Nothing was appended."""


class InvalidTimestampError(InvalidRecordError):
    """Raised when a caller's timestamp is further from now than its topic allows, or negative.

    Nothing was appended.  timestamp, earliest, latest: milliseconds since the epoch; both bounds
    are allowed, and come from `message_timestamp_before_max_ms` and `..._after_max_ms`.
    Source: Kafka INVALID_TIMESTAMP.
    """

    _fields = ("timestamp", "earliest", "latest")

    def __init__(self, timestamp: int, earliest: int, latest: int) -> None:
        super().__init__(f"timestamp {timestamp} is outside [{earliest}, {latest}]")
        self.timestamp = timestamp
        self.earliest = earliest
        self.latest = latest


class RecordTooLargeError(InvalidRecordError):
    """Raised when one record, as a batch, is larger than `max_message_bytes`.

    Nothing was appended and no offset was used.  size, limit: bytes of the whole batch, compressed
    if the topic is.  limit_name: what the limit is, "max_message_bytes" unless it is the most that
    a reader takes from a compressed batch; size and limit are those before compression then.
    """

    _fields = ("size", "limit", "limit_name")

    def __init__(self, size: int, limit: int, limit_name: str = "max_message_bytes") -> None:
        super().__init__(f"record needs a batch of {size} bytes, {limit_name} is {limit}")
        self.size = size
        self.limit = limit
        self.limit_name = limit_name


class UnknownTopicOrPartitionError(PylogError, LookupError):
    """Raised when a topic does not exist, or has no such partition.

    partition: None when it is the topic that does not exist.
    """

    _fields = ("topic", "partition")

    def __init__(self, topic: str, partition: int | None = None) -> None:
        what = "" if partition is None else f", partition {partition}"
        super().__init__(f"unknown topic {_shown(topic)}{what}")
        self.topic = topic
        self.partition = partition


class PartitionerError(PylogError, ValueError):
    """Raised when a user's partitioner returns no partition's number.  Nothing was appended."""

    _fields = ("topic", "result", "partitions")

    def __init__(self, topic: str, result: object, partitions: int) -> None:
        expected = f"expected an integer in [0, {partitions})"
        super().__init__(f"partitioner of topic {_shown(topic)}: {_shown(result)}, {expected}")
        self.topic, self.result, self.partitions = topic, result, partitions


class TopicExistsError(PylogError, ValueError):
    """Raised when a topic is created that exists already.  The existing one was not changed."""

    _fields = ("topic",)

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {_shown(topic)} exists")
        self.topic = topic


class InvalidPartitionsError(PylogError, ValueError):
    """Raised when a topic is to have no more partitions than it has.  Nothing was changed."""

    _fields = ("topic", "partitions", "total")

    def __init__(self, topic: str, partitions: int, total: int) -> None:
        super().__init__(f"topic {_shown(topic)} has {partitions} partitions, {total} asked for")
        self.topic, self.partitions, self.total = topic, partitions, total


class OffsetOutOfRangeError(PylogError, IndexError):
    """Raised when an offset lies outside what a partition holds, [start, end] for a read.

    Below `start` the records are gone (retention or truncation); above `end` none were written.
    """

    _fields = ("offset", "start", "end")

    def __init__(self, offset: int, start: int, end: int) -> None:
        super().__init__(f"offset {offset} is outside [{start}, {end}]")
        self.offset = offset
        self.start = start
        self.end = end


class MissingExtraError(PylogError, ImportError):
    """Raised when a feature needs a package that an extra installs.  Data is untouched.

    name: the package that is missing;  extra: what to install, as in `pip install pylog[zstd]`.
    """

    _fields = ("name", "extra")

    def __init__(self, name: str, extra: str) -> None:
        super().__init__(f"needs the package {name}: pip install 'pylog[{extra}]'")
        self.name = name
        self.extra = extra


# ---------------------------------------------------------------- what stands on disk


class CorruptionError(PylogError):
    """Raised when stored bytes are not what was written.  Nothing is deleted because of it."""


class CorruptRangeError(CorruptionError):
    """Raised by a read that meets a damaged range of records; all others stay readable.

    first, last: offsets, both damaged, so reading goes on at `last + 1`.
    path, position: where the damage begins (file, byte), None where only memory was looked at.
    """

    _fields = ("first", "last", "path", "position", "reason")

    def __init__(
        self,
        first: int,
        last: int,
        path: str | None = None,
        position: int | None = None,
        reason: str = "not a valid batch",
    ) -> None:
        place = f"{path or 'batch'}" + ("" if position is None else f" at {position}")
        super().__init__(f"{place}: {reason}; offsets {first} to {last} are unreadable")
        self.first = first
        self.last = last
        self.path = path
        self.position = position
        self.reason = reason


class CorruptFileError(CorruptionError):
    """Raised when a checkpoint, manifest or metadata file cannot be parsed.

    The file was left as it is.  reason: what was expected and what stands there, with its place.
    """

    _fields = ("path", "reason")

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class IncompatibleFormatError(PylogError):
    """Raised when a directory was written in a format this version cannot read.

    Nothing was changed.  found, supported: format versions or tags.
    """

    _fields = ("path", "found", "supported")

    def __init__(self, path: str, found: object, supported: object) -> None:
        super().__init__(f"{path}: format {_shown(found)}, this pylog reads {_shown(supported)}")
        self.path = path
        self.found = found
        self.supported = supported


class NetworkFileSystemError(PylogError, OSError):
    """Raised when a log would stand on a network file system, whose locks cannot be trusted.

    Nothing was created.  errno is ENOTSUP, filename the directory, file_system its type.
    """

    _fields = ("filename", "file_system")

    def __init__(self, filename: str, file_system: str) -> None:
        message = f"{file_system} is a network file system: locks and durability do not hold there"
        super().__init__(message)
        self.errno = errno.ENOTSUP
        self.strerror = message
        self.filename = filename
        self.file_system = file_system


# ---------------------------------------------------------------- what became of an append


class NotAppendedError(PylogError):
    """Raised when records were certainly not appended: sending them again duplicates nothing.

    appended: the records of this call that had been appended (and acknowledged as the topic asks)
    before the failure: of one partition a prefix of what was given; empty for a single append.
    """

    _fields: ClassVar[tuple[str, ...]] = ("message", "appended")

    def __init__(self, message: str, appended: Sequence[RecordMetadata] = ()) -> None:
        super().__init__(message)
        self.appended = appended


class PartitionFullError(NotAppendedError, OSError):
    """Raised when there is no space for the record.  errno is ENOSPC (or EDQUOT, as given).

    Not appended; no offset was used.  The partition stays readable, and the next append after space
    is freed works without reopening.
    """

    retriable = True
    _fields = ("message", "appended", "errno")

    def __init__(
        self,
        message: str,
        appended: Sequence[RecordMetadata] = (),
        error_number: int = errno.ENOSPC,
    ) -> None:
        super().__init__(message, appended)
        self.errno = error_number
        self.strerror = message


class PartitionFailedError(NotAppendedError):
    """Raised when a partition is FAILED: a write to disk had failed before this call.

    Not appended, now or by a retry: it is read-only in all processes until it is opened again
    with nobody else holding it, which recovers first.
    """


class OffsetMismatchError(NotAppendedError):
    """Raised when an append expected a log end offset and another writer had moved it.

    Not appended.  Retriable once the caller has read what lies in [expected, actual) and decided
    again; the same call as it stands fails again.
    """

    retriable = True
    _fields = ("expected", "actual", "appended")

    def __init__(self, expected: int, actual: int, appended: Sequence[RecordMetadata] = ()) -> None:
        super().__init__(f"expected log end offset {expected}, it is {actual}", appended)
        self.expected = expected
        self.actual = actual


class OutOfOrderSequenceError(NotAppendedError):
    """Raised when a batch does not continue what its producer sent before: there is a gap.

    Not appended.  sequence: the batch's first;  expected: the one that comes next.
    Source: Kafka OUT_OF_ORDER_SEQUENCE_NUMBER.
    """

    _fields = ("producer_id", "sequence", "expected", "appended")

    def __init__(
        self,
        producer_id: int,
        sequence: int,
        expected: int,
        appended: Sequence[RecordMetadata] = (),
    ) -> None:
        message = f"producer {producer_id}: sequence {sequence}, expected {expected}"
        super().__init__(message, appended)
        self.producer_id = producer_id
        self.sequence = sequence
        self.expected = expected


class InvalidProducerEpochError(NotAppendedError):
    """Raised when a producer's epoch is over: another one goes on under its id.

    Not appended, now or by a retry.  epoch: the batch's;  current: the latest that is known.
    Source: Kafka INVALID_PRODUCER_EPOCH.
    """

    _fields = ("producer_id", "epoch", "current", "appended")

    def __init__(
        self, producer_id: int, epoch: int, current: int, appended: Sequence[RecordMetadata] = ()
    ) -> None:
        super().__init__(f"producer {producer_id}: epoch {epoch}, it is {current} now", appended)
        self.producer_id = producer_id
        self.epoch = epoch
        self.current = current


class DeliveryTimeoutError(NotAppendedError, TimeoutError):
    """Raised by a future when its record was not appended in the time that the producer has.

    Certainly not appended.  Its __cause__, if any, is what kept it from being appended; it was
    retriable.  errno is ETIMEDOUT.
    """

    retriable = True

    def __init__(self, message: str, appended: Sequence[RecordMetadata] = ()) -> None:
        super().__init__(message, appended)
        self.errno = errno.ETIMEDOUT
        self.strerror = message


class BufferExhaustedError(PylogError, TimeoutError):
    """Raised by `send` when the producer's memory stayed full for `max_block_ms`.

    The record was not taken.  used: bytes that wait for their acknowledgement;  max_block_ms: how
    long was waited.  errno is ETIMEDOUT.
    """

    retriable = True
    _fields = ("used", "max_block_ms")

    def __init__(self, used: int, max_block_ms: int) -> None:
        message = f"{used} bytes wait to be appended; no room after max_block_ms={max_block_ms}"
        super().__init__(message)
        self.errno = errno.ETIMEDOUT
        self.strerror = message
        self.used = used
        self.max_block_ms = max_block_ms


class DurabilityUnknownError(PylogError, OSError):
    """Raised when a sync failed after records were placed: they may or may not be there.

    Sending them again may duplicate them.  errno is the sync's.  start, end: the offsets in doubt,
    [start, end), None when the failure was met by a call that had appended nothing.
    """

    _fields = ("message", "errno", "start", "end")

    def __init__(
        self,
        message: str,
        error_number: int = errno.EIO,
        start: int | None = None,
        end: int | None = None,
    ) -> None:
        doubt = "" if start is None else f"; offsets [{start}, {end}) may or may not be there"
        super().__init__(message)
        self.errno = error_number
        self.strerror = message + doubt
        self.start = start
        self.end = end


class LockTimeoutError(PylogError, TimeoutError):
    """Raised when a lock was not free in time.  Nothing was done; errno is ETIMEDOUT.

    timeout: seconds that were waited, None when the caller did not say.
    """

    retriable = True
    _fields = ("message", "timeout")

    def __init__(self, message: str, timeout: float | None = None) -> None:
        super().__init__(message)
        self.errno = errno.ETIMEDOUT
        self.strerror = message
        self.timeout = timeout
