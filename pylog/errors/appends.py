"""What became of an append: not appended, or nobody knows; and waits that took too long."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pylog.errors.base import PylogError

if TYPE_CHECKING:
    from pylog._native import RecordMetadata


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
