"""Topics: their names and settings in the internal partition `__metadata`, and what a user holds.

Knows topics, how a record's partition is picked, and that a topic's settings are one JSON value per
name.  Must not know files.  Every process replays `__metadata` and so has the same view; a change
is appended only if the view it was computed from is still the latest, which the append itself
checks.

Locks: `_lock`, around the replayed view.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np

from pylog._native import Appender, Events, Record, RecordMetadata, Router
from pylog.config import TopicConfig
from pylog.engine import Engine
from pylog.errors import (
    CorruptionError,
    InvalidConfigurationError,
    InvalidTopicError,
    NotAppendedError,
    OffsetMismatchError,
    PartitionFullError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from pylog.records import AppendedRecords
from pylog.storage import layout
from pylog.storage.partition import Partition
from pylog.storage.policy import LOOK_AGAIN_SECONDS

METADATA_TOPIC: Final = "__metadata"
MAX_PARTITIONS: Final = 1_000_000  # a bound for typing errors, not for the format (guessed)
_METADATA_ID: Final = uuid.uuid5(uuid.NAMESPACE_URL, "pylog:__metadata")
_METADATA_CONFIG: Final = TopicConfig(cleanup_policy="compact", segment_bytes=4 << 20)
_VALUE_VERSION: Final = 1


@dataclasses.dataclass(frozen=True, slots=True)
class TopicFacts:
    """What `__metadata` says of one topic."""

    name: str
    topic_id: uuid.UUID
    partitions: int
    config: TopicConfig
    is_deleting: bool = False

    def encode(self) -> bytes:
        """Return the record value; settings are written under Kafka's names."""
        fields = {
            "version": _VALUE_VERSION,
            "id": self.topic_id.hex,
            "partitions": self.partitions,
            "config": self.config.to_kafka(),
            "is_deleting": self.is_deleting,
        }
        return json.dumps(fields, sort_keys=True).encode()


def parse_topic(name: str, value: bytes) -> TopicFacts:
    """Return what a record of `__metadata` says.  Raises CorruptionError."""
    try:
        # The name becomes a path: one with slashes would lead out of the log.
        layout.check_topic_name(name)
        fields = json.loads(value)
        if fields["version"] != _VALUE_VERSION:
            raise ValueError(f"version {fields['version']!r}")
        partitions = int(fields["partitions"])
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise ValueError(f"{partitions} partitions")
        config = TopicConfig.from_kafka(fields["config"])
        is_deleting = fields["is_deleting"] is True
        return TopicFacts(name, uuid.UUID(hex=fields["id"]), partitions, config, is_deleting)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptionError(f"{METADATA_TOPIC}: topic {name!r}: {error}") from error


class Topic:
    """A named set of partitions.  Cheap to make: partitions come into being when they are used.

    name: as given to `create_topic`.  config: its settings, a TopicConfig, fixed at creation.
    Every method may be called by many threads at once.
    """

    def __init__(
        self, facts: TopicFacts, partition_of: Callable[[int], Partition], *, events: Events
    ) -> None:
        self.name = facts.name
        self.config = facts.config
        self._count = facts.partitions
        self._partition_of = partition_of
        self._events = events
        self._router = Router(self._count, self._appender_of, _STICKY_BYTES)
        if facts.config.durability != "fsync":
            # Nothing is left to do after the C call, so it is the method itself: no Python frame.
            self.append = self._router.append  # type: ignore[method-assign]

    def __repr__(self) -> str:
        return f"<Topic {self.name}: {self._count} partitions>"

    def __len__(self) -> int:
        """Return the number of partitions."""
        return self._count

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """All partitions, by number.  Raises ClosedError."""
        return tuple(self._partition_of(number) for number in range(self._count))

    def partition(self, number: int) -> Partition:
        """Return one partition; no I/O.

        number: in [0, len(self)).  Raises UnknownTopicOrPartitionError, ClosedError, TypeError.
        """
        if not isinstance(number, int):
            raise TypeError(f"partition must be an int, not {type(number).__name__}")
        if not 0 <= number < self._count:
            raise UnknownTopicOrPartitionError(self.name, number)
        return self._partition_of(number)

    def _appender_of(self, number: int) -> Appender:
        return self.partition(number).appender

    def append(
        self,
        value: bytes | None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        *,
        partition: int | None = None,
    ) -> RecordMetadata:
        """Append one record; return where it is, once the topic's durability is reached.

        partition: by default by the key's murmur2 hash, as Kafka's Java client does; without a key
        one partition is kept for a while and then the next is taken.
        Other arguments, errors and cost as `Partition.append`; UnknownTopicOrPartitionError.
        Source: Kafka BuiltInPartitioner, KIP-480.
        """
        number = self._router.pick(key, value) if partition is None else partition
        return self.partition(number).append(value, key, headers, timestamp)

    def append_many(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        headers: Sequence[Sequence[tuple[str, bytes | None]] | None] | None = None,
        timestamps: Sequence[int] | int | None = None,
        *,
        partition: int | None = None,
    ) -> AppendedRecords:
        """Append records, one batch per partition and one sync per partition at the end.

        Records of one partition keep their order.  The result has one row per value, in the order
        given.  partition: by default each key's; records without keys all go to one partition.
        Other arguments, errors and cost as `Partition.append_many`; with several partitions the
        `appended` of a NotAppendedError need not be a prefix of what was given.
        Raises UnknownTopicOrPartitionError too.
        """
        if partition is None and self._count > 1 and keys is not None:
            return self._append_keyed(values, keys, headers, timestamps)
        number = self._router.pick(None, None) if partition is None else partition
        return self.partition(number).append_many(values, keys, headers, timestamps)

    def _append_keyed(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None],
        headers: Sequence[Sequence[tuple[str, bytes | None]] | None] | None,
        timestamps: Sequence[int] | int | None,
    ) -> AppendedRecords:
        """Append records to the partitions of their keys."""
        for name, given in (("keys", keys), ("headers", headers), ("timestamps", timestamps)):
            if given is not None and not isinstance(given, int) and len(given) != len(values):
                raise ValueError(f"{name} has {len(given)} elements, values has {len(values)}")
        rows_of: dict[int, list[int]] = {}
        for row, (key, value) in enumerate(zip(keys, values, strict=True)):
            rows_of.setdefault(self._router.pick(key, value), []).append(row)
        # All is encoded before anything is appended, so that a wrong argument leaves no traces.
        chunks = {
            number: self._partition_of(number).encode_chunks(
                [values[row] for row in rows],
                [keys[row] for row in rows],
                None if headers is None else [headers[row] for row in rows],
                _pick_timestamps(timestamps, rows),
            )
            for number, rows in rows_of.items()
        }
        parts: list[tuple[list[int], AppendedRecords]] = []
        try:
            for number, rows in rows_of.items():
                appended = self._partition_of(number).append_chunks(chunks[number])
                parts.append((rows, appended))
        except NotAppendedError as error:
            assert isinstance(error.appended, AppendedRecords)
            parts.append((rows[: len(error.appended)], error.appended))
            error.appended = _in_order(self.name, parts)
            raise
        return _in_order(self.name, parts)

    def read(
        self,
        partition: int | None = None,
        start: int | None = None,
        end: int | None = None,
        *,
        follow: bool = False,
    ) -> Iterator[Record]:
        """Iterate over the records of one partition, or of all, one partition after the other.

        Without `follow` it ends at the high watermarks of the moment it begins.  Following all
        partitions of a topic delivers records as they come.  start, end: only with `partition`, or
        where the topic has one, else ValueError.  Arguments and errors otherwise as
        `Partition.records`, whose errors come with the iteration.
        """
        if partition is None and self._count == 1:
            partition = 0
        if partition is not None:
            return self.partition(partition).records(start, end, follow=follow)
        if start is not None or end is not None:
            raise ValueError("start and end need a partition")
        return self._follow() if follow else self._replay()

    def _replay(self) -> Iterator[Record]:
        partitions = self.partitions
        ends = [partition.high_watermark for partition in partitions]
        return itertools.chain.from_iterable(
            partition.records(end=end)
            for partition, end in zip(partitions, ends, strict=True)
            if end > partition.log_start_offset
        )

    def _follow(self) -> Iterator[Record]:
        partitions = self.partitions
        offsets = [partition.log_start_offset for partition in partitions]
        events = self._events
        while True:
            seen = events.value
            is_idle = True
            for number, partition in enumerate(partitions):
                records = partition.read(offsets[number])
                yield from records
                is_idle = is_idle and records.next_offset == offsets[number]
                offsets[number] = records.next_offset
            if is_idle:
                events.wait(seen, LOOK_AGAIN_SECONDS)


_STICKY_BYTES: Final = 16384  # Kafka's batch.size


def _pick_timestamps(
    timestamps: Sequence[int] | int | None, rows: list[int]
) -> Sequence[int] | int | None:
    if timestamps is None or isinstance(timestamps, int):
        return timestamps
    return [timestamps[row] for row in rows]


def _in_order(topic: str, parts: list[tuple[list[int], AppendedRecords]]) -> AppendedRecords:
    """Return what several partitions took, in the order of the rows that were given."""
    if not parts:
        empty = np.empty(0, np.int64)
        return AppendedRecords(topic, np.empty(0, np.int32), empty, empty)
    order = np.argsort(np.concatenate([rows for rows, _ in parts]))
    return AppendedRecords(
        topic,
        np.concatenate([appended.partitions for _, appended in parts])[order],
        np.concatenate([appended.offsets for _, appended in parts])[order],
        np.concatenate([appended.timestamps for _, appended in parts])[order],
    )


class TopicRegistry:
    """All topics of a log, replayed from `__metadata`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._facts: dict[str, TopicFacts] = {}
        self._topics: dict[TopicFacts, Topic] = {}
        self._offset = 0
        engine.check_topic = self._check_topic
        engine.fork_listeners.append(self._after_fork)

    def _after_fork(self) -> None:
        # Another thread of the parent may have held it.
        self._lock = threading.Lock()

    @property
    def metadata(self) -> Partition:
        """The internal partition that holds the topics."""
        return self._engine.partition(
            METADATA_TOPIC, 0, topic_id=_METADATA_ID, config=_METADATA_CONFIG
        )

    def _refresh_locked(self) -> dict[str, TopicFacts]:
        """Return all topics by name; reads what was appended to `__metadata` since the last call.

        Raises CorruptionError, OSError, ClosedError.  Without news: one copy of the marks.
        """
        metadata = self.metadata
        if metadata.high_watermark == self._offset:
            return self._facts
        for record in metadata.records(self._offset):
            name = (record.key or b"").decode(errors="replace")
            if record.value is None:
                self._forget_locked(name)
            else:
                facts = parse_topic(name, record.value)
                self._forget_locked(name)
                self._facts[name] = facts
            self._offset = record.offset + 1
        return self._facts

    def _forget_locked(self, name: str) -> None:
        old = self._facts.pop(name, None)
        if old is not None:
            self._topics.pop(old, None)

    def get(self, name: str) -> Topic:
        """Return a topic, the same object for as long as it is not changed.

        Raises UnknownTopicOrPartitionError and what a read raises.
        """
        with self._lock:
            facts = self._refresh_locked().get(name)
            if facts is None or facts.is_deleting:
                raise UnknownTopicOrPartitionError(name)
            return self._topic_locked(facts)

    def names(self) -> list[str]:
        """Return the names of all topics that are not being deleted, sorted."""
        with self._lock:
            facts = self._refresh_locked().values()
            return sorted(topic.name for topic in facts if not topic.is_deleting)

    def _check_topic(self, name: str, topic_id: uuid.UUID) -> None:
        """Raise UnknownTopicOrPartitionError unless this very topic exists; see Environment."""
        if name == METADATA_TOPIC:
            return
        with self._lock:
            facts = self._refresh_locked().get(name)
        if facts is None or facts.is_deleting or facts.topic_id != topic_id:
            raise UnknownTopicOrPartitionError(name)

    def create(
        self,
        name: str,
        *,
        partitions: int,
        if_exists: Literal["error", "ok"],
        settings: dict[str, Any],
    ) -> Topic:
        """Create a topic; see Log.create_topic."""
        _check_arguments(name, partitions, if_exists)
        facts = TopicFacts(name, uuid.uuid4(), partitions, TopicConfig.from_settings(**settings))
        while True:
            with self._lock:
                known, expected = self._refresh_locked(), self._offset
                existing = known.get(name)
                if existing is None:
                    _check_collision(name, known)
                elif not existing.is_deleting:
                    if if_exists == "ok":
                        return self._topic_locked(existing)
                    raise TopicExistsError(name)
            if existing is not None:
                # Somebody began to delete it and died, or is still at it: whoever notices finishes.
                self._finish_deletion(existing)
            elif self._commit(name, facts.encode(), expected):
                return self.get(name)

    def delete(self, name: str) -> None:
        """Delete a topic and give its space back; see Log.delete_topic.

        Two records: the first hides the topic, the second forgets it when its files are gone, so a
        crash in between is noticed and finished by whoever creates the name again.
        On a full disk, where not even a record fits, the files go first: the call that frees space
        must not need any.  A crash then leaves a topic without records, to be deleted again.
        """
        has_space = True
        while True:
            with self._lock:
                facts, expected = self._refresh_locked().get(name), self._offset
            if facts is None or facts.is_deleting:
                raise UnknownTopicOrPartitionError(name)
            hidden = dataclasses.replace(facts, is_deleting=True)
            try:
                if self._commit(name, hidden.encode(), expected):
                    break
            except PartitionFullError:
                if not has_space:
                    raise
                has_space = False
                self._delete_partitions(facts)
        self._finish_deletion(hidden)

    def _delete_partitions(self, facts: TopicFacts) -> None:
        for number in range(facts.partitions):
            partition = self._partition(facts, number)
            self._engine.delete_partition(partition, topic_id=facts.topic_id)

    def _finish_deletion(self, facts: TopicFacts) -> None:
        self._delete_partitions(facts)
        while True:
            with self._lock:
                current, expected = self._refresh_locked().get(facts.name), self._offset
            if current != facts or self._commit(facts.name, None, expected):
                return

    def _commit(self, name: str, value: bytes | None, expected: int) -> bool:
        """Append a change if nobody was faster; return whether it was appended."""
        try:
            self.metadata.append(value, name.encode(), expected_offset=expected)
        except OffsetMismatchError:
            # What came in between is seen when it is durable.  Its writer may have been killed
            # before its sync: whoever notices syncs for it, or would try again for ever.
            self.metadata.flush()
            return False
        return True

    def _topic_locked(self, facts: TopicFacts) -> Topic:
        topic = self._topics.get(facts)
        if topic is None:
            topic = self._topics[facts] = Topic(
                facts, functools.partial(self._partition, facts), events=self._engine.events
            )
        return topic

    def _partition(self, facts: TopicFacts, number: int) -> Partition:
        return self._engine.partition(
            facts.name, number, topic_id=facts.topic_id, config=facts.config
        )


def _check_arguments(name: str, partitions: int, if_exists: str) -> None:
    layout.check_topic_name(name)
    if layout.is_internal(name):
        raise InvalidTopicError(name, "names that begin with '__' are internal")
    if isinstance(partitions, bool) or not isinstance(partitions, int):
        raise InvalidConfigurationError("partitions", partitions, "a whole number")
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise InvalidConfigurationError("partitions", partitions, f"1 to {MAX_PARTITIONS}")
    layout.partition_directory(name, partitions - 1)
    if if_exists not in ("error", "ok"):
        raise InvalidConfigurationError("if_exists", if_exists, "'error' or 'ok'")


def _check_collision(name: str, topics: dict[str, TopicFacts]) -> None:
    """Refuse a name that Kafka's metrics could not tell from an existing one."""
    key = layout.collision_key(name)
    for other in topics:
        if layout.collision_key(other) == key:
            raise InvalidTopicError(name, f"collides with {other!r} ('.' and '_' count as equal)")
