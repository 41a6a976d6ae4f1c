"""The exception tree: what a caller can catch, read and carry to another process."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from pylog import errors

# One instance of each class, with every field given and none at its default.
EXAMPLES: list[errors.PylogError] = [
    errors.PylogError("something"),
    errors.ClosedError("the log is closed"),
    errors.InvalidTopicError("a/b", "'/' at 1 is not one of [A-Za-z0-9._-]"),
    errors.InvalidConfigurationError("segment_bytes", 3, "an integer in [14, 100]"),
    errors.UnknownSettingError("retention_mss", 5, "retention_ms"),
    errors.InvalidRecordError("a record that cannot be decoded"),
    errors.RecordTooLargeError(2000, 1000),
    errors.UnknownTopicOrPartitionError("orders", 7),
    errors.TopicExistsError("orders"),
    errors.OffsetOutOfRangeError(3, 10, 20),
    errors.MissingExtraError("zstandard", "zstd"),
    errors.CorruptionError("damage"),
    errors.CorruptRangeError(10, 19, "orders-0/00000000000000000000.log", 8192, "crc32c differs"),
    errors.CorruptFileError("orders-0/manifest", "line 3: expected an integer"),
    errors.IncompatibleFormatError("data", "9", "1"),
    errors.NetworkFileSystemError("/mnt/data", "nfs"),
    errors.NotAppendedError("not appended", ("metadata",)),
    errors.PartitionFullError("no space for 4096 bytes", ("metadata",), errno.EDQUOT),
    errors.PartitionFailedError("orders-0 is FAILED", ("metadata",)),
    errors.OffsetMismatchError(5, 9, ("metadata",)),
    errors.DurabilityUnknownError("fdatasync failed", errno.ENXIO, 5, 9),
    errors.LockTimeoutError("page lock", 1.5),
    errors.DeliveryTimeoutError("not appended", ("metadata",)),
    errors.BufferExhaustedError(32 << 20, 60_000),
    errors.InvalidTimestampError(50, 100, 200),
    errors.InvalidPartitionsError("orders", 6, 3),
    errors.OutOfOrderSequenceError(7, 5, 3, ("metadata",)),
    errors.InvalidProducerEpochError(7, 1, 2, ("metadata",)),
    errors.PartitionerError("orders", 7, 6),
    errors.InvalidGroupIdError("", "a group needs a name"),
    errors.GroupIdNotFoundError("billing"),
    errors.NonEmptyGroupError("billing", 3),
    errors.InconsistentGroupProtocolError("billing", "consumer"),
    errors.InvalidAssignmentError("mine", "orders-3 has two owners"),
    errors.OffsetMetadataTooLargeError(5000, 4096),
    errors.CommitFailedError("not committed"),
    errors.StaleMemberEpochError("billing", "m-1", "orders", 3, 7),
    errors.UnknownMemberIdError("billing", "m-1"),
    errors.FencedInstanceIdError("billing", "m-1", "worker-1"),
    errors.ConcurrentUseError("a consumer serves one thread at a time"),
    errors.WakeupError("woken by wakeup()"),
    errors.NotAssignedError("orders", 7),
    errors.NoOffsetForPartitionError("orders", 7),
    errors.StaleTableError("the table is stale"),
    errors.TopicRecreatedError("orders", "5f", "6f"),
    errors.TopicTruncatedError("orders", 7, 20, 10),
    errors.RecordsMissedError("orders", 7, 10, 20),
    errors.TombstonesDroppedError("orders", 7, 10, 20),
    errors.NotLeaderError("orders-7 follows", ("metadata",)),
    errors.NotEnoughReplicasError(1, 2, ("metadata",)),
    errors.NotEnoughReplicasAfterAppendError("1 replica is in sync", 5, 9),
    errors.ReplicationError("something between replicas"),
    errors.FencedLeaderEpochError(3, 4),
    errors.NotEligibleError("it lost records"),
    errors.DivergedReplicaError("orders-7", 5, 9),
    errors.InconsistentClusterIdError("5f", "6f"),
    errors.ReplicationTimeoutError("no answer", 1.5),
    errors.AuthenticationError("another secret"),
    errors.InvalidMessageError("a message of 5 bytes"),
    errors.MirrorError("a mirror ended"),
    errors.KafkaUnavailableError("_TRANSPORT", "connection refused"),
    errors.KafkaRefusedError("TOPIC_AUTHORIZATION_FAILED", "not yours"),
    errors.MirrorRunningError("data", "mirror"),
    errors.MirrorFencedError("_FENCED", "another one goes on"),
    errors.TargetTopicError("orders", 3, 6),
    errors.OffsetsDifferError("orders", 3, 5, 6),
    errors.DivergedTopicError("orders", 3, 5, "another record is there"),
    errors.NotMirroredError("orders", 3, 5, 9),
    errors.UnmirrorableRecordError("orders", 3, 5, "its timestamp is 0"),
]

OSERROR_FIELDS = ("errno", "strerror", "filename")


def all_classes() -> list[type[errors.PylogError]]:
    return [getattr(errors, name) for name in errors.__all__]


def facts(error: errors.PylogError) -> dict[str, object]:
    extra = {name: getattr(error, name, None) for name in OSERROR_FIELDS}
    return {**error.__dict__, **extra, "text": str(error), "class": type(error)}


def test_every_class_has_an_example() -> None:
    assert {type(error) for error in EXAMPLES} == set(all_classes())


def test_every_public_class_of_the_module_is_exported() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.PylogError)
    }
    assert defined == set(errors.__all__)


def test_a_class_says_that_it_is_of_the_module_that_users_import_it_from() -> None:
    assert {cls.__module__ for cls in all_classes()} == {"pylog.errors"}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_error_pickles_with_all_its_facts(error: errors.PylogError, protocol: int) -> None:
    error = copy.copy(error)
    error.add_note("while opening orders-0")
    restored = pickle.loads(pickle.dumps(error, protocol))
    assert facts(restored) == facts(error)
    assert restored.__notes__ == ["while opening orders-0"]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_field_is_an_attribute(error: errors.PylogError) -> None:
    for name in error._fields:
        assert getattr(error, name) is not None


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ClosedError, ValueError),
        (errors.InvalidTopicError, ValueError),
        (errors.InvalidConfigurationError, ValueError),
        (errors.UnknownSettingError, errors.InvalidConfigurationError),
        (errors.InvalidRecordError, ValueError),
        (errors.RecordTooLargeError, errors.InvalidRecordError),
        (errors.InvalidTimestampError, errors.InvalidRecordError),
        (errors.UnknownTopicOrPartitionError, LookupError),
        (errors.TopicExistsError, ValueError),
        (errors.InvalidPartitionsError, ValueError),
        (errors.PartitionerError, ValueError),
        (errors.OffsetOutOfRangeError, IndexError),
        (errors.MissingExtraError, ImportError),
        (errors.CorruptRangeError, errors.CorruptionError),
        (errors.CorruptFileError, errors.CorruptionError),
        (errors.NetworkFileSystemError, OSError),
        (errors.PartitionFullError, errors.NotAppendedError),
        (errors.PartitionFullError, OSError),
        (errors.PartitionFailedError, errors.NotAppendedError),
        (errors.OffsetMismatchError, errors.NotAppendedError),
        (errors.DurabilityUnknownError, OSError),
        (errors.LockTimeoutError, TimeoutError),
        (errors.DeliveryTimeoutError, errors.NotAppendedError),
        (errors.DeliveryTimeoutError, TimeoutError),
        (errors.BufferExhaustedError, TimeoutError),
        (errors.OutOfOrderSequenceError, errors.NotAppendedError),
        (errors.InvalidProducerEpochError, errors.NotAppendedError),
        (errors.InvalidGroupIdError, ValueError),
        (errors.GroupIdNotFoundError, LookupError),
        (errors.NonEmptyGroupError, ValueError),
        (errors.InconsistentGroupProtocolError, ValueError),
        (errors.InvalidAssignmentError, ValueError),
        (errors.OffsetMetadataTooLargeError, ValueError),
        (errors.StaleMemberEpochError, errors.CommitFailedError),
        (errors.UnknownMemberIdError, errors.CommitFailedError),
        (errors.UnknownMemberIdError, LookupError),
        (errors.FencedInstanceIdError, errors.CommitFailedError),
        (errors.StaleTableError, LookupError),
        (errors.TopicRecreatedError, errors.StaleTableError),
        (errors.TopicTruncatedError, errors.StaleTableError),
        (errors.RecordsMissedError, errors.StaleTableError),
        (errors.TombstonesDroppedError, errors.StaleTableError),
        (errors.NotLeaderError, errors.NotAppendedError),
        (errors.NotEnoughReplicasError, errors.NotAppendedError),
        (errors.FencedLeaderEpochError, errors.ReplicationError),
        (errors.NotEligibleError, errors.ReplicationError),
        (errors.DivergedReplicaError, errors.ReplicationError),
        (errors.InconsistentClusterIdError, ValueError),
        (errors.ReplicationTimeoutError, TimeoutError),
        (errors.AuthenticationError, PermissionError),
        (errors.InvalidMessageError, ValueError),
        (errors.KafkaUnavailableError, ConnectionError),
        (errors.TargetTopicError, LookupError),
        (errors.OffsetsDifferError, ValueError),
        (errors.NotMirroredError, LookupError),
    ],
)
def test_error_is_caught_as_what_a_caller_would_guess(cls: type, builtin: type) -> None:
    assert issubclass(cls, builtin)


def test_unknown_outcome_is_not_caught_as_not_appended() -> None:
    for cls in (errors.DurabilityUnknownError, errors.NotEnoughReplicasAfterAppendError):
        assert not issubclass(cls, errors.NotAppendedError)
        assert not cls.retriable


def test_only_errors_that_pass_by_themselves_are_retriable() -> None:
    retriable = {cls for cls in all_classes() if cls.retriable}
    assert retriable == {
        errors.PartitionFullError,
        errors.OffsetMismatchError,
        errors.LockTimeoutError,
        errors.DeliveryTimeoutError,
        errors.BufferExhaustedError,
        errors.NotLeaderError,
        errors.NotEnoughReplicasError,
        errors.ReplicationTimeoutError,
        errors.KafkaUnavailableError,
        errors.MirrorRunningError,
    }


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.PartitionFullError("no space"), errno.ENOSPC),
        (errors.DurabilityUnknownError("fdatasync failed"), errno.EIO),
        (errors.LockTimeoutError("page lock"), errno.ETIMEDOUT),
        (errors.NetworkFileSystemError("/mnt", "nfs"), errno.ENOTSUP),
    ],
    ids=lambda value: type(value).__name__,
)
def test_os_error_has_an_errno_and_shows_it(error: OSError, number: int) -> None:
    assert error.errno == number
    assert str(error).startswith(f"[Errno {number}] {error.strerror}")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (EXAMPLES[3], "segment_bytes=3: expected an integer in [14, 100]"),
        (EXAMPLES[4], "retention_mss=5: expected a known setting (did you mean retention_ms?)"),
        (errors.InvalidTimestampError(50, 100, 200), "timestamp 50 is outside [100, 200]"),
        (errors.UnknownSettingError("zzz", 5, None), "zzz=5: expected a known setting"),
        (EXAMPLES[6], "record needs a batch of 2000 bytes, max_message_bytes is 1000"),
        (EXAMPLES[7], "unknown topic 'orders', partition 7"),
        (errors.UnknownTopicOrPartitionError("orders"), "unknown topic 'orders'"),
        (EXAMPLES[9], "offset 3 is outside [10, 20]"),
        (
            EXAMPLES[12],
            "orders-0/00000000000000000000.log at 8192: crc32c differs; "
            "offsets 10 to 19 are unreadable",
        ),
        (
            errors.CorruptRangeError(10, 19),
            "batch: not a valid batch; offsets 10 to 19 are unreadable",
        ),
        (
            errors.TopicRecreatedError("orders", "5f", "6f"),
            "topic 'orders' was id 5f, it is id 6f now",
        ),
        (
            errors.TopicTruncatedError("orders", 7, 20, 10),
            "topic 'orders', partition 7, was cut and ends at 10; "
            "the table holds other records, up to 20",
        ),
        (
            errors.RecordsMissedError("orders", 7, 10, 20),
            "topic 'orders', partition 7: offsets [10, 20) were deleted unread",
        ),
        (
            errors.TombstonesDroppedError("orders", 7, 10, 20),
            "topic 'orders', partition 7: compaction dropped tombstones of offsets [10, 20) unread",
        ),
        (EXAMPLES[19], "expected log end offset 5, it is 9"),
    ],
)
def test_text_names_both_sides(error: errors.PylogError, text: str) -> None:
    assert str(error) == text


def test_unknown_durability_names_the_offsets_in_doubt() -> None:
    error = errors.DurabilityUnknownError("fdatasync failed", errno.EIO, 5, 9)
    assert str(error).endswith("offsets [5, 9) may or may not be there")


def test_long_value_is_cut_in_the_text_and_whole_in_the_attribute() -> None:
    error = errors.InvalidTopicError("x" * 100_000, "too long")
    assert len(str(error)) < 300
    assert len(error.topic) == 100_000
