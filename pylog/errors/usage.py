"""What a caller asked for and cannot have: names, settings, records, offsets, packages."""

from __future__ import annotations

from pylog.errors.base import PylogError, shown


class ClosedError(PylogError, ValueError):
    """Raised when a closed log, partition, consumer or memory page is used.  Open it again."""


class InvalidTopicError(PylogError, ValueError):
    """Raised when a topic name breaks Kafka's rule, or collides with an existing topic.

    Nothing was created.  reason: says which part of the rule, and where in the name.
    """

    _fields = ("topic", "reason")

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"topic {shown(topic)}: {reason}")
        self.topic = topic
        self.reason = reason


class InvalidConfigurationError(PylogError, ValueError):
    """Raised when a setting has a wrong type or lies outside its range.  Nothing was changed.

    allowed: the type and range in words.
    """

    _fields = ("setting", "value", "allowed")

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        super().__init__(f"{setting}={shown(value)}: expected {allowed}")
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
        super().__init__(f"unknown topic {shown(topic)}{what}")
        self.topic = topic
        self.partition = partition


class PartitionerError(PylogError, ValueError):
    """Raised when a user's partitioner returns no partition's number.  Nothing was appended."""

    _fields = ("topic", "result", "partitions")

    def __init__(self, topic: str, result: object, partitions: int) -> None:
        expected = f"expected an integer in [0, {partitions})"
        super().__init__(f"partitioner of topic {shown(topic)}: {shown(result)}, {expected}")
        self.topic, self.result, self.partitions = topic, result, partitions


class TopicExistsError(PylogError, ValueError):
    """Raised when a topic is created that exists already.  The existing one was not changed."""

    _fields = ("topic",)

    def __init__(self, topic: str) -> None:
        super().__init__(f"topic {shown(topic)} exists")
        self.topic = topic


class InvalidPartitionsError(PylogError, ValueError):
    """Raised when a topic is to have no more partitions than it has.  Nothing was changed."""

    _fields = ("topic", "partitions", "total")

    def __init__(self, topic: str, partitions: int, total: int) -> None:
        super().__init__(f"topic {shown(topic)} has {partitions} partitions, {total} asked for")
        self.topic, self.partitions, self.total = topic, partitions, total


class OffsetOutOfRangeError(PylogError, IndexError):
    """Raised when an offset lies outside what a partition holds, [start, end] for a read.

    Below `start` the records are gone (retention or truncation); above `end` none were written.
    topic, partition: said by who reads several partitions, else None.
    """

    topic: str | None = None
    partition: int | None = None
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
