"""The topics of a log: their names and settings, in the internal partition `__metadata`.

Knows which topics exist and how that changes.  Must not know files, nor how records are placed.
Every process replays `__metadata` and so has the same view; a change is appended only if the view
it was computed from is still the latest, which the append itself checks.

Locks: `_lock`, around the replayed view.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import uuid
from typing import Any, Final, Literal

from pylog.config import TopicConfig
from pylog.engine import Engine
from pylog.errors import (
    InvalidConfigurationError,
    InvalidTopicError,
    OffsetMismatchError,
    PartitionFullError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from pylog.metadata import MAX_PARTITIONS, METADATA_TOPIC, TopicFacts, parse_topic
from pylog.storage import layout
from pylog.storage.partition import Partition
from pylog.topics import Topic

_METADATA_ID: Final = uuid.uuid5(uuid.NAMESPACE_URL, "pylog:__metadata")
_METADATA_CONFIG: Final = TopicConfig(cleanup_policy="compact", segment_bytes=4 << 20)


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
