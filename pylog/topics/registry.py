"""The topics of a log: their names and settings, in the internal partition `__metadata`.

Knows which topics exist and how that changes.  Must not know files, nor how records are placed.
Every process replays `__metadata` and so has the same view; a change is appended only if the view
it was computed from is still the latest, which the append itself checks.

Locks: `_lock`, around the replayed view.
"""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from pylog._native import Events, Marks
from pylog.config import NEVER, TopicConfig
from pylog.engine.engine import Engine
from pylog.errors import (
    InvalidConfigurationError,
    InvalidPartitionsError,
    InvalidTopicError,
    OffsetMismatchError,
    PartitionFullError,
    TopicExistsError,
    UnknownTopicOrPartitionError,
)
from pylog.storage import layout
from pylog.storage.partition import Partition
from pylog.topics.metadata import MAX_PARTITIONS, METADATA_TOPIC, TopicFacts, parse_topic
from pylog.topics.topic import Topic

METADATA_ID: Final = uuid.uuid5(uuid.NAMESPACE_URL, "pylog:__metadata")
# Tombstones stay: a process that looks again after days has to see which topics were deleted.
_METADATA_CONFIG: Final = TopicConfig(
    cleanup_policy="compact", segment_bytes=4 << 20, delete_retention_ms=NEVER
)


class TopicRegistry:
    """All topics of a log, replayed from `__metadata`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._facts: dict[str, TopicFacts] = {}
        self._deleted: set[str] = set()  # names of topics that were, and are not now
        self._topics: dict[uuid.UUID, Topic] = {}
        self._offset = 0
        self._truncated_at: int | None = None  # what all this is as new as
        self._metadata: Partition | None = None
        engine.settings_of = self._settings_of
        engine.fork_listeners.append(self._after_fork)

    def _after_fork(self) -> None:
        # Another thread of the parent may have held it.
        self._lock = threading.Lock()

    @property
    def events(self) -> Events:
        """The counter that changes when records become visible in any partition."""
        return self._engine.events

    @property
    def settings(self) -> Events:
        """The counter of changes of any topic."""
        return self._engine.settings

    @property
    def metadata(self) -> Partition:
        """The internal partition that holds the topics."""
        if self._metadata is None:
            self._metadata = self._engine.partition(
                METADATA_TOPIC, 0, topic_id=METADATA_ID, config=_METADATA_CONFIG
            )
        return self._metadata

    def _refresh_locked(self) -> dict[str, TopicFacts]:
        """Return all topics by name; reads what was appended to `__metadata` since the last call.

        A topic that was changed is counted before anybody here can act by that: its writer may have
        been killed before it did.  See Environment.settings.
        Raises CorruptionError, OSError, ClosedError.  Without news: one copy of the marks.
        """
        metadata = self.metadata
        marks = metadata.marks()
        if marks is None or self._is_as_new_as(marks):
            return self._facts
        end_offset = marks.high_watermark
        was_truncated = is_changed = self._forget_truncated_locked(marks.truncated_at)
        try:
            for record in metadata.records(self._offset):
                name = (record.key or b"").decode(errors="replace")
                facts = None if record.value is None else parse_topic(name, record.value)
                is_changed = self._learn_locked(name, facts) or is_changed
                self._offset = record.offset + 1
            # Batches without a record may be the last: who appended to their start tried for ever.
            self._offset = max(self._offset, end_offset)
        finally:
            if was_truncated:
                known = {facts.topic_id for facts in self._facts.values()}
                for topic_id in self._topics.keys() - known:
                    del self._topics[topic_id]
            if is_changed:
                self._engine.settings.notify()
        return self._facts

    def _is_as_new_as(self, marks: Marks) -> bool:
        return (self._offset, self._truncated_at) == (marks.high_watermark, marks.truncated_at)

    def _forget_truncated_locked(self, truncated_at: int) -> bool:
        """Forget everything if `__metadata` was truncated since; return whether it was.

        A follower that may lack acknowledged records is cut also below what was visible.
        """
        is_truncated = self._truncated_at not in (None, truncated_at)
        if is_truncated:
            self._facts, self._offset = {}, 0
            self._deleted.clear()
        self._truncated_at = truncated_at
        return is_truncated

    def _learn_locked(self, name: str, facts: TopicFacts | None) -> bool:
        """Note what is true of a name from now on; return whether a topic that exists changed."""
        old = self._facts.get(name)
        if facts is None:
            self._facts.pop(name, None)
            self._deleted.add(name)
        else:
            self._facts[name] = facts
            self._deleted.discard(name)
        if old is None:
            return False
        if facts is not None and facts.topic_id == old.topic_id:
            return not facts.is_deleting
        self._topics.pop(old.topic_id, None)
        self._engine.forget_topic(old.topic_id)
        return False

    def get(self, name: str) -> Topic:
        """Return a topic, the same object until it is deleted.

        Raises UnknownTopicOrPartitionError and what a read raises.
        """
        with self._lock:
            facts = self._refresh_locked().get(name)
            if facts is None or facts.is_deleting:
                raise UnknownTopicOrPartitionError(name)
            return self._topic_locked(facts)

    def names(self) -> list[str]:
        """Return the names of all topics but internal ones that are not being deleted, sorted."""
        with self._lock:
            facts = self._refresh_locked().values()
            names = (topic.name for topic in facts if not topic.is_deleting)
            return sorted(name for name in names if not layout.is_internal(name))

    def known(self, names: Iterable[str]) -> list[TopicFacts]:
        """Return what is known of those of these topics that exist."""
        with self._lock:
            facts = self._refresh_locked()
            found = (facts.get(name) for name in names)
            return [topic for topic in found if topic is not None and not topic.is_deleting]

    def all_facts(self) -> list[TopicFacts]:
        """Return what is known of all topics, internal ones and those being deleted included."""
        with self._lock:
            return list(self._refresh_locked().values())

    def was_deleted(self, name: str) -> bool:
        """Return whether there was a topic of this name, and is none now.

        Raises what a read raises.
        """
        with self._lock:
            self._refresh_locked()
            return name in self._deleted

    @property
    def version(self) -> int:
        """Up to which offset of `__metadata` all is known: each change of any topic moves it on.

        Those that others made included.  It goes back only where a replica is truncated.
        Raises what a read raises.  Without news: one copy of the marks.
        """
        marks = self.metadata.marks()
        if marks is None or self._is_as_new_as(marks):
            return self._offset
        with self._lock:
            self._refresh_locked()
            return self._offset

    @property
    def known_partitions(self) -> int:
        """How many partitions all topics have together, as this process last read of them."""
        known = list(self._facts.values())
        return sum(facts.partitions for facts in known if not facts.is_deleting)

    def _settings_of(self, name: str, topic_id: uuid.UUID) -> TopicConfig | None:
        """Return the settings of this very topic, if it is kept here; see Environment."""
        return None if name == METADATA_TOPIC else self.facts_of(name, topic_id).config

    def facts_of(self, name: str, topic_id: uuid.UUID) -> TopicFacts:
        """Return what is known of this very topic.  Raises UnknownTopicOrPartitionError."""
        with self._lock:
            facts = self._refresh_locked().get(name)
        if facts is None or facts.is_deleting or facts.topic_id != topic_id:
            raise UnknownTopicOrPartitionError(name)
        return facts

    def create(
        self,
        name: str,
        *,
        partitions: int,
        if_exists: Literal["error", "ok"],
        settings: dict[str, Any],
        forget: Callable[[str], object],
    ) -> Topic:
        """Create a topic; see Log.create_topic.

        forget: called before a name is used again, with no topic of that name there: what was noted
        under it was meant for one that was deleted.
        """
        _check_arguments(name, partitions, if_exists)
        config = TopicConfig.from_settings(**settings)
        return self._create(name, partitions, config, is_new=if_exists == "error", forget=forget)

    def internal(self, name: str, config: TopicConfig) -> Topic:
        """Return a topic of the log's own, of one partition; created with these settings if new.

        Its settings may be altered as any topic's; it is not among `names`.
        """
        with self._lock:
            facts = self._refresh_locked().get(name)
            if facts is not None:
                return self._topic_locked(facts)
        return self._create(name, 1, config, is_new=False)

    def _create(
        self,
        name: str,
        partitions: int,
        config: TopicConfig,
        *,
        is_new: bool,
        forget: Callable[[str], object] | None = None,
    ) -> Topic:
        """Create a topic, or return the one that is there unless `is_new`."""
        facts = TopicFacts(name, uuid.uuid4(), partitions, config)
        while True:
            with self._lock:
                known, expected = self._refresh_locked(), self._offset
                existing, is_deleted = known.get(name), name in self._deleted
                if existing is None:
                    _check_collision(name, known)
                elif not existing.is_deleting:
                    if not is_new:
                        return self._topic_locked(existing)
                    raise TopicExistsError(name)
            if existing is not None:
                # Somebody began to delete it and died, or is still at it: whoever notices finishes.
                self._finish_deletion(existing)
                continue
            if is_deleted and forget is not None:
                # Nobody made and deleted it again in between, else `expected` is refused.
                forget(name)
            if self._commit(name, facts.encode(), expected):
                return self.get(name)

    def alter(self, name: str, settings: dict[str, Any]) -> None:
        """Change some settings of a topic; see Log.alter_topic."""

        def altered(facts: TopicFacts) -> TopicFacts:
            return dataclasses.replace(facts, config=facts.config.altered(**settings))

        self._change(name, altered)

    def add_partitions(self, name: str, topic_id: uuid.UUID, total: int) -> None:
        """Give this very topic more partitions; see Topic.add_partitions."""
        _check_not_internal(name)
        _check_partitions(name, total)

        def grown(facts: TopicFacts) -> TopicFacts:
            if facts.topic_id != topic_id:
                raise UnknownTopicOrPartitionError(name)
            if total <= facts.partitions:
                raise InvalidPartitionsError(name, facts.partitions, total)
            return dataclasses.replace(facts, partitions=total)

        self._change(name, grown)

    def _change(self, name: str, changed: Callable[[TopicFacts], TopicFacts]) -> None:
        """Replace what is known of a topic, as soon as nobody else does.

        changed: returns what shall be true, given what is; may raise.
        """
        while True:
            with self._lock:
                facts, expected = self._refresh_locked().get(name), self._offset
            if facts is None or facts.is_deleting:
                raise UnknownTopicOrPartitionError(name)
            new = changed(facts)
            if new == facts or self._commit(name, new.encode(), expected):
                break
        with self._lock:
            # Reads the change, and so counts it.  Killed before: whoever reads it next does.
            self._refresh_locked()

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
            _check_not_internal(name)
            hidden = dataclasses.replace(facts, is_deleting=True)
            try:
                if self._commit(name, hidden.encode(), expected):
                    break
            except PartitionFullError:
                if not has_space:
                    raise
                has_space = False
                self.delete_files(facts)
        self._finish_deletion(hidden)

    def delete_files(self, facts: TopicFacts) -> None:
        """Remove the files of a topic that is no more, or is not to be seen any more."""
        for number in range(facts.partitions):
            partition = self.partition_of(facts, number)
            self._engine.delete_partition(partition, topic_id=facts.topic_id)

    def _finish_deletion(self, facts: TopicFacts) -> None:
        self.delete_files(facts)
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
        topic = self._topics.get(facts.topic_id)
        if topic is None:
            topic = self._topics[facts.topic_id] = Topic(facts, self)
        return topic

    def partition_of(self, facts: TopicFacts, number: int) -> Partition:
        """Return the topic's partition of this number, which exists.  Raises ClosedError."""
        return self._engine.partition(
            facts.name, number, topic_id=facts.topic_id, config=facts.config
        )


def _check_arguments(name: str, partitions: int, if_exists: str) -> None:
    layout.check_topic_name(name)
    _check_not_internal(name)
    _check_partitions(name, partitions)
    if if_exists not in ("error", "ok"):
        raise InvalidConfigurationError("if_exists", if_exists, "'error' or 'ok'")


def _check_not_internal(name: str) -> None:
    if layout.is_internal(name):
        raise InvalidTopicError(name, "names that begin with '__' are internal")


def _check_partitions(name: str, partitions: int) -> None:
    """Refuse a number of partitions that no topic can have."""
    if isinstance(partitions, bool) or not isinstance(partitions, int):
        raise InvalidConfigurationError("partitions", partitions, "a whole number")
    if not 1 <= partitions <= MAX_PARTITIONS:
        raise InvalidConfigurationError("partitions", partitions, f"1 to {MAX_PARTITIONS}")
    layout.partition_directory(name, partitions - 1)


def _check_collision(name: str, topics: dict[str, TopicFacts]) -> None:
    """Refuse a name that Kafka's metrics could not tell from an existing one."""
    key = layout.collision_key(name)
    for other in topics:
        if layout.collision_key(other) == key:
            raise InvalidTopicError(name, f"collides with {other!r} ('.' and '_' count as equal)")
