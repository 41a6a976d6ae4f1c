"""A log as its replication sees it: all partitions of all topics by their ids, and its role.

Knows topics, and in which order they have to be replicated.  Must not know who leads.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from pylog.engine.engine import Engine
from pylog.errors import ClosedError, CorruptFileError, UnknownTopicOrPartitionError
from pylog.replication.facts import PartitionId, ReplicaPosition, ReplicaStatus
from pylog.replication.roles import Roles
from pylog.storage import layout
from pylog.storage.files import Directory
from pylog.storage.lifecycle import check_owner, remove_directory
from pylog.storage.partition import Partition
from pylog.topics.metadata import METADATA_TOPIC, TopicFacts
from pylog.topics.registry import METADATA_ID, TopicRegistry

logger = logging.getLogger("pylog")

METADATA: PartitionId = PartitionId(METADATA_TOPIC, 0, METADATA_ID)


class ReplicatedLog:
    """The partitions and the role of a log that is open in this process."""

    def __init__(self, engine: Engine, registry: TopicRegistry, roles: Roles) -> None:
        self.engine = engine
        self.registry = registry
        self.roles = roles

    @staticmethod
    def open(path: str | os.PathLike[str]) -> ReplicatedLog:
        """Open the log in a directory, made if need be, for replication alone.

        Raises what `pylog.open` raises.
        """
        engine = Engine(os.fspath(path))
        engine.open(create=True)
        log = ReplicatedLog(engine, TopicRegistry(engine), Roles(engine))
        log.roles.open()
        return log

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever written to it.  Raises what opening a partition raises."""
        return self.registry.metadata.log_end_offset == 0

    def partition(self, partition: PartitionId) -> Partition:
        """Return a partition.

        Raises UnknownTopicOrPartitionError unless the topic of this very id has it, as far as is
        visible here; what a read raises.
        """
        if partition == METADATA:
            return self.registry.metadata
        facts = self.registry.facts_of(partition.topic, partition.topic_id)
        if partition.number >= facts.partitions:
            raise UnknownTopicOrPartitionError(partition.topic, partition.number)
        return self.registry.partition_of(facts, partition.number)

    def make_way(self, partition: PartitionId) -> None:
        """Remove files of an older topic of the same name, which a crash left.

        Raises OSError.
        """
        name = layout.partition_directory(partition.topic, partition.number)
        directory = self.engine.root.directory(name)
        if not directory.exists():
            return
        try:
            check_owner(directory, partition.topic_id)
        except CorruptFileError as error:
            _remove(directory, error)

    def remove_deleted(self) -> None:
        """Remove files of topics that were deleted, which a crash left, and which nobody made anew.

        Only while all of `__metadata` is visible: what is not may say that a topic was made anew.
        Files of which it says nothing stay.  Raises OSError, and what a read raises.
        """
        registry = self.registry
        marks = registry.metadata.marks()
        if marks is None or marks.high_watermark < marks.log_end_offset:
            return
        facts = {topic.name: topic for topic in registry.all_facts()}
        for name in self.engine.root.names():
            topic, number = layout.parse_partition_directory(name) or ("", 0)
            known = facts.get(topic)
            if known is None and registry.was_deleted(topic):
                _remove(self.engine.root.directory(name), "its topic was deleted")
            elif known is not None and number >= known.partitions:
                # Of one that had more of them.
                self.make_way(PartitionId(topic, number, known.topic_id))

    def partition_ids(self) -> list[PartitionId]:
        """Return all partitions, those first without which the others mean nothing.

        `__metadata`, then the other internal ones: a follower has to know a topic before it gets
        records of it.  Raises what a read raises.
        """
        facts = [topic for topic in self.registry.all_facts() if not topic.is_deleting]
        facts.sort(key=lambda topic: not layout.is_internal(topic.name))
        return [METADATA, *(each for topic in facts for each in ids_of(topic))]

    @contextlib.contextmanager
    def unless_deleted(self) -> Iterator[None]:
        """Do nothing more with a partition whose topic is deleted meanwhile, by anybody."""
        try:
            yield
        except UnknownTopicOrPartitionError as error:
            logger.debug("%s", error)
        except ClosedError:
            # Its object was closed when its files were removed; or all were.
            if self.engine.is_closed:
                raise

    def status(self) -> ReplicaStatus:
        """Return what who elects has to know; opens every partition.

        What a partition lost is found when it is opened, so the state is read after that.
        Raises what opening a partition raises.
        """
        end = 0
        for each in self.partition_ids():
            with self.unless_deleted():
                end += self.partition(each).log_end_offset
        state = self.roles.state
        return ReplicaStatus(
            replica_id=state.replica_id,
            cluster_id=state.cluster_id,
            promised_epoch=state.promised_epoch,
            in_sync=state.in_sync,
            log_end_offset=end,
        )

    def fence(self, epoch: int) -> ReplicaStatus:
        """Promise to take nothing from leaders of older epochs; see `Electable`.

        Raises FencedLeaderEpochError and what `status` raises.
        """
        # First: what is lost is found, and noted, before the promise counts.
        self.status()
        self.roles.change(lambda state: state.fenced(epoch))
        return self.status()

    def sync_all(self) -> int:
        """Make all there is durable; return the greatest epoch of any record, negative for none.

        Raises DurabilityUnknownError, and what `status` raises.
        """
        latest = -1
        for each in self.partition_ids():
            with self.unless_deleted():
                partition = self.partition(each)
                partition.flush()
                latest = max(latest, partition.leader_epochs.latest_epoch)
        return latest

    def close(self) -> None:
        """Close the log."""
        self.engine.close()


def _remove(directory: Directory, why: object) -> None:
    logger.warning("%s: its files are removed: %s", directory.path, why)
    remove_directory(directory)


def ids_of(topic: TopicFacts) -> Iterator[PartitionId]:
    """Yield the partitions of a topic."""
    for number in range(topic.partitions):
        yield PartitionId(topic.name, number, topic.topic_id)


def position_of(partition: Partition) -> ReplicaPosition:
    """Return how far a partition is, durable or not.

    Raises ClosedError, and what opening raises.
    """
    # Marks first: an epoch that begins in between begins at or behind this end, and is told.  The
    # other way round its records would pass for the epoch's before.
    marks = partition.marks()
    if marks is None:
        return ReplicaPosition()
    return ReplicaPosition(
        epochs=partition.leader_epochs.entries,
        log_start_offset=marks.log_start_offset,
        high_watermark=marks.high_watermark,
        log_end_offset=marks.log_end_offset,
    )
