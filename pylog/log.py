"""`Log`: what a user holds.  Every method hands on; there are no rules here."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Literal, TypeVar

from pylog._native import Events, Record
from pylog.arguments import check_callable
from pylog.closing import Closing
from pylog.consumer.config import ConsumerConfig
from pylog.consumer.consumer import Consumer
from pylog.consumer.group_part import Listener
from pylog.engine.engine import Engine
from pylog.errors import ClosedError, UnknownTopicOrPartitionError
from pylog.groups.administration import Groups
from pylog.groups.assignors import DEFAULT_ASSIGNOR, Assignor
from pylog.groups.coordinator import Coordinator
from pylog.groups.membership import DEFAULT_SESSION_TIMEOUT_MS
from pylog.producer.config import ProducerConfig
from pylog.producer.producer import Producer
from pylog.records import (
    AppendEvent,
    CompactionProgress,
    CompactionReport,
    Freed,
    ReadEvent,
    TableChange,
)
from pylog.replication.config import ReplicationConfig
from pylog.replication.replicated_log import ReplicatedLog
from pylog.replication.replicating import Replication
from pylog.replication.roles import Roles
from pylog.replication.transport import ReplicationTransport
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.policy import is_compacted
from pylog.table.replay import Replay
from pylog.table.table import Table
from pylog.topics.registry import TopicRegistry
from pylog.topics.topic import Partitioner, Topic

_Consumer = TypeVar("_Consumer", bound=Consumer)


class Log(Closing):
    """A directory of topics.  Any number of threads and processes may have it open at once.

    A context manager; also closed when neither it nor anything made from it is used any more, and
    when the interpreter ends.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._registry = TopicRegistry(engine)
        self._coordinator = Coordinator(engine, self._registry)
        roles = Roles(engine)
        self._replication = Replication(ReplicatedLog(engine, self._registry, roles))
        engine.clients.add(self._replication)

    @property
    def path(self) -> str:
        """The directory."""
        return self._engine.path

    @property
    def log_id(self) -> uuid.UUID:
        """What tells this log from all others, wherever its directory is."""
        return self._engine.log_id

    @property
    def events(self) -> Events:
        """The counter that changes when records become visible in any partition; can be waited on.

        Raises ClosedError.
        """
        return self._engine.events

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        *,
        if_exists: Literal["error", "ok"] = "error",
        **settings: Any,
    ) -> Topic:
        """Create a topic and return it.

        name: 1 to 249 of letters, digits, '.', '_' and '-', not beginning with '__'.
        if_exists: "ok" returns the existing topic as it is.  settings: fields of `TopicConfig`.
        Raises InvalidTopicError, TopicExistsError, UnknownSettingError, InvalidConfigurationError,
        PartitionFullError, NotAppendedError, DurabilityUnknownError, CorruptionError, ClosedError,
        OSError.  One synced append, two for a name that was used before; a partition's files are
        made with its first record.
        """
        return self._registry.create(
            name,
            partitions=partitions,
            if_exists=if_exists,
            settings=settings,
            forget=self._coordinator.forget_topic,
        )

    def topic(self, name: str, *, partitioner: Partitioner | None = None) -> Topic:
        """Return a topic.

        partitioner: called with (topic name, key, value, number of partitions), returns the number
        of the partition that the record goes to: by this Topic's append and append_many, where they
        are given no partition.  By default the key's murmur2 hash decides.
        Raises UnknownTopicOrPartitionError, CorruptionError, ClosedError, OSError; TypeError for a
        partitioner that cannot be called.
        Topics that another process made or deleted are seen at once.
        """
        topic = self._registry.get(name)
        return topic if partitioner is None else topic.partitioned_by(partitioner)

    def topics(self) -> list[str]:
        """Return the names of all topics, sorted, internal ones left out.

        Raises CorruptionError, ClosedError, OSError.
        """
        return self._registry.names()

    def alter_topic(self, name: str, **settings: Any) -> None:
        """Change some settings of a topic; the others stay.

        settings: fields of `TopicConfig`; None returns one to its default.
        Every handle in every process follows them from its next append on, without being opened
        again: an append that begins when this has returned is acknowledged by the new durability.
        Records appended before keep the durability that they were acknowledged with.
        Raises UnknownTopicOrPartitionError, UnknownSettingError that names the nearest known one,
        InvalidConfigurationError, each with nothing changed; PartitionFullError, NotAppendedError,
        DurabilityUnknownError, CorruptionError, ClosedError, OSError.  One synced append.
        Source: Kafka's incrementalAlterConfigs.
        """
        self._registry.alter(name, settings)

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all its records, and what groups committed; give the space back.

        Raises UnknownTopicOrPartitionError, and what `create_topic` raises.  Handles of the topic
        in this and other processes raise UnknownTopicOrPartitionError from now on.
        """
        self._registry.delete(name)
        self._coordinator.forget_topic(name)

    def read(
        self,
        topic: str,
        *,
        partition: int | None = None,
        start: int | datetime.datetime | None = None,
        end: int | None = None,
        follow: bool = False,
    ) -> Iterator[Record]:
        """Iterate over the records of one partition of a topic, or of all of them.

        start, end: offsets, [start, end), only with a partition; by default all there is, up to the
        high watermark of the moment it begins.  start may be an aware datetime: from the first
        record of each partition that is as late.  follow: go on for ever, waiting for appends.
        Raises what `topic` and `Topic.read` raise.
        """
        return self.topic(topic).read(partition, start, end, follow=follow)

    def table(
        self,
        topic: str,
        *,
        store: MutableMapping[bytes, bytes] | None = None,
        follow: Literal["read", "background", "never"] = "read",
        if_stale: Literal["error", "rebuild"] = "error",
        on_change: Callable[[TableChange], object] | None = None,
    ) -> Table:
        """Return a topic as a mapping of its keys to their latest values.

        A record with a null value takes its key away; records without a key are passed over.  The
        topic should be compacted: what deletes by age or size takes away records, not keys.  A key
        should have all its records in one partition, and `add_partitions` moves keys: otherwise the
        record that was read last counts, and a key that was taken away in another partition comes
        back for new tables when compaction has dropped that record.
        store: holds keys and values instead of memory, and how far they are, so that when it is
        opened again only what is new is read.  Any mutable mapping of bytes that holds nothing
        else; the caller closes it.  Its `commit()` is called after each 4 MiB of records and at the
        end of a refresh; one without has its `sync()` called before and after them, if it has that.
        follow: "read" refreshes before each look if anything was appended to the log: all that was
        acknowledged before is seen.  "background" leaves it to a thread, which starts with the
        first look or `refresh` and ends with the table; the store is used by several threads then,
        one at a time.  "never" refreshes before the first look only.
        if_stale: what to do when the topic was deleted and made anew, cut, or lost records or
        tombstones that the table has not read: "rebuild" begins anew.  `on_change` is told of every
        record again then, as of an empty table; one in memory shows what it held until it is done.
        on_change: called with each record that sets a key or takes one away, in the order of their
        offsets, after the table has it; in the thread that refreshes, under the table's lock: it
        may use the table, and must not wait for other threads that do.  What it raises is logged.
        A few microseconds a record.
        Reads no records: the first look does.  Raises TopicRecreatedError; CorruptionError and
        InvalidConfigurationError for a store that cannot be understood or holds something else;
        TypeError for a store that is no mapping, or an on_change that cannot be called;
        what `topic` raises, and what the store raises.
        """
        replay = Replay(
            self.topic(topic), store=store, follow=follow, if_stale=if_stale, on_change=on_change
        )
        replay.open()
        self._engine.clients.add(replay)
        return Table(replay)

    def producer(
        self,
        *,
        acks: Literal[0, 1, "all"] = "all",
        linger_ms: int = 5,
        batch_size: int = 16_384,
        compression: Literal["gzip", "snappy", "lz4", "zstd"] | None = None,
        compression_level: int | None = None,
        buffer_memory: int = 32 << 20,
        max_block_ms: int = 60_000,
        delivery_timeout_ms: int = 120_000,
        retry_backoff_ms: int = 100,
        enable_idempotence: bool = True,
        partitioner: Partitioner | None = None,
    ) -> Producer:
        """Return a producer: it sends records to any topic in the background, batched.

        Settings as in `ProducerConfig`, Kafka's names and defaults.  partitioner: as in `topic`,
        for every topic that is sent to.  Starts no thread before its first record.
        Raises InvalidConfigurationError, MissingExtraError, ClosedError, TypeError for a
        partitioner that cannot be called.
        """
        if self._engine.is_closed:
            raise ClosedError(f"log {self.path} is closed")
        check_callable("partitioner", partitioner)
        config = ProducerConfig(
            acks=acks,
            linger_ms=linger_ms,
            batch_size=batch_size,
            compression=compression,
            compression_level=compression_level,
            buffer_memory=buffer_memory,
            max_block_ms=max_block_ms,
            delivery_timeout_ms=delivery_timeout_ms,
            retry_backoff_ms=retry_backoff_ms,
            enable_idempotence=enable_idempotence,
        )
        producer = Producer(self._registry.get, config, partitioner=partitioner)
        self._engine.clients.add(producer.sender)
        return producer

    def consumer(
        self,
        *topics: str,
        pattern: str | re.Pattern[str] | None = None,
        auto_offset_reset: str | datetime.timedelta = "earliest",
        max_poll_records: int = 500,
        max_partition_fetch_bytes: int = 1 << 20,
        fetch_max_bytes: int = 50 << 20,
        group: str | None = None,
        instance_id: str | None = None,
        session_timeout_ms: int = DEFAULT_SESSION_TIMEOUT_MS,
        max_poll_interval_ms: int | None = None,
        enable_auto_commit: bool = True,
        auto_commit_interval_ms: int = 5000,
        assignor: str | Assignor = DEFAULT_ASSIGNOR,
        on_assigned: Listener | None = None,
        on_revoked: Listener | None = None,
        on_lost: Listener | None = None,
    ) -> Consumer:
        """Return a consumer: it reads several topics at once, and follows what is appended.

        topics, pattern, listeners: as in `Consumer.subscribe`; without topics it reads nothing
        before `subscribe` or `assign`.  Settings as in `ConsumerConfig`: with a group, it shares
        the topics' partitions with the group's other members, in any thread and process.
        Raises InvalidConfigurationError, and what `Consumer.subscribe` raises.  Starts no thread.
        """
        config = ConsumerConfig(
            auto_offset_reset=auto_offset_reset,
            max_poll_records=max_poll_records,
            max_partition_fetch_bytes=max_partition_fetch_bytes,
            fetch_max_bytes=fetch_max_bytes,
            group=group,
            instance_id=instance_id,
            session_timeout_ms=session_timeout_ms,
            max_poll_interval_ms=max_poll_interval_ms,
            enable_auto_commit=enable_auto_commit,
            auto_commit_interval_ms=auto_commit_interval_ms,
            assignor=assignor,
        )
        consumer = self._new_consumer(Consumer, config)
        if topics or pattern is not None:
            consumer.subscribe(
                *topics,
                pattern=pattern,
                on_assigned=on_assigned,
                on_revoked=on_revoked,
                on_lost=on_lost,
            )
        return consumer

    def _new_consumer(self, kind: type[_Consumer], config: ConsumerConfig) -> _Consumer:
        """Return a consumer that reads nothing yet.  `pylog.aio` has a kind of its own."""
        consumer = kind(self._registry, config, coordinator=self._coordinator)
        self._engine.clients.add(consumer.gate)
        return consumer

    @property
    def groups(self) -> Groups:
        """The consumer groups of the log, to list, describe, delete and reset them."""
        return self._coordinator.groups

    # ------------------------------------------------------------------ replicas

    @property
    def replication(self) -> Replication:
        """The log's share in replication: to serve it to a leader, elect, wait and look."""
        return self._replication

    def promote(
        self,
        epoch: int,
        replicas: Iterable[ReplicationTransport] = (),
        *,
        config: ReplicationConfig | None = None,
        unclean: bool = False,
    ) -> None:
        """Let this log lead from now on, and bring its followers on.

        epoch: from whoever elects; greater than any before, and no two leaders have the same.  With
        its own epoch a leader goes on, as when the process that ran it was killed.
        replicas: how to reach each follower: `DirectoryTransport`, `SocketTransport`, or the user's
        own.  config: how records are acknowledged, and who counts as in sync; see
        `ReplicationConfig`.  unclean: lead although acknowledged records may be lost.
        Every process that has the log open obeys with its next append.  This one runs the threads
        that replicate, until `demote`, `follow`, `close` or its end; the log stays open for that
        long.  Followers come in sync in the background: see `Replication.wait_in_sync`.
        Raises FencedLeaderEpochError when a later epoch was promised, or this one to another, or
        has records; NotEligibleError when it may lack acknowledged records; ReplicationError when
        another process lives this log's role; InvalidConfigurationError for the epoch; what opening
        a partition raises.  Opens all partitions.
        Source: Kafka's LeaderAndIsr request, KIP-101.
        """
        self._replication.promote(epoch, replicas, config or ReplicationConfig(), unclean=unclean)

    def demote(self) -> None:
        """Lead no more, and follow whoever leads next; nothing without a role, or as a follower.

        Appends raise NotLeaderError from now on; who waits for replicas is told
        NotEnoughReplicasAfterAppendError.  Raises CorruptFileError, ClosedError, OSError.
        """
        self._replication.demote()

    def follow(self) -> None:
        """Follow from now on: nobody appends here but a leader.

        How a leader gets here is another matter: by `Replication.serve`, or it keeps this directory
        by a `DirectoryTransport`.  An empty log becomes a replica of whatever log leads it first;
        one with records only of its own.  Raises as `demote`, and what opening a partition raises.
        """
        self._replication.follow()

    def metrics(self) -> dict[str, Any]:
        """Return what this process knows of the log, as plain data that `json.dumps` takes.

        path, log_id: text.  partitions_known: of all topics, as last read of them.
        partitions_attached: those whose files this process has open.  open_descriptors: files of
        segments that it has open.
        partitions: one entry for each attached one, internal ones included, by "topic-number":
            topic; partition, its number; state: "open", "full" or "failed";
            log_start_offset, high_watermark, log_end_offset, durable_offset: of now, whoever
            appended; segments, size_bytes: without indexes, as of the last manifest read here;
            appended_records, appended_bytes, read_records, read_bytes: by this process, since it
            opened the log: offsets, and bytes of batches as they lie on disk;
            syncs, sync_seconds, last_sync_seconds: those that this process did, but for rolls;
            dirty_ratio: of a compacted topic: how much of what compaction may go over it has not
            seen, in [0, 1], else None; compacted_at: when it last came to its end, in milliseconds,
            whoever ran it; compaction_error: of the last try by this process, None if it went well.
        replication: the fields of `ReplicationStatus`; None once the log is closed.
        Opens no partition and takes no lock: each entry is true of one moment, not all of the same.
        O(attached partitions and their segments).
        """
        attached = {}
        for partition in self._engine.attached:
            numbers = partition.metrics()
            if numbers is not None:
                attached[f"{partition.topic}-{partition.number}"] = numbers
        return {
            "path": self.path,
            "log_id": str(self._engine.log_id),
            "partitions_known": self._registry.known_partitions,
            "partitions_attached": len(attached),
            "open_descriptors": self._engine.open_descriptors,
            "replication": self._replication.plain_status(),
            "partitions": attached,
        }

    def apply_retention(self) -> dict[str, dict[int, Freed]]:
        """Delete what is too old or too much now; return what was freed, by topic and partition.

        It is also done in the background, every five minutes, by each process that has a partition
        open.  Raises what `Topic.apply_retention` raises.
        """
        freed = {}
        for name in self.topics():
            # One that is deleted meanwhile has nothing left.
            with contextlib.suppress(UnknownTopicOrPartitionError):
                freed[name] = self.topic(name).apply_retention()
        return freed

    def compact(
        self,
        *,
        include_active: bool = True,
        progress: Callable[[CompactionProgress], object] | None = None,
    ) -> dict[str, dict[int, CompactionReport]]:
        """Compact all topics whose cleanup policy says so, now; return what was done, by topic.

        Arguments and errors as `Topic.compact`; topics before the one that raises are done then.
        It is also done in the background when enough is dirty, see `CleanerConfig`.
        """
        done = {}
        for name in self.topics():
            with contextlib.suppress(UnknownTopicOrPartitionError):
                topic = self.topic(name)
                if is_compacted(topic.config):
                    done[name] = topic.compact(include_active=include_active, progress=progress)
        return done

    def close(self) -> None:
        """Sync what the topics' durability asks for and close.  Idempotent.

        Producers send what is left, and members leave their groups: in their own thread where it is
        in a call, which this waits for, five seconds at most; see `Consumer.subscribe`.
        Raises DurabilityUnknownError when a sync fails; everything is closed nevertheless.
        """
        self._engine.close()

    def __repr__(self) -> str:
        return f"<Log {self.path!r}{' (closed)' if self._engine.is_closed else ''}>"


def open(
    path: str | os.PathLike[str],
    *,
    create: bool = True,
    on_append: Callable[[AppendEvent], object] | None = None,
    on_read: Callable[[ReadEvent], object] | None = None,
    cleaner: CleanerConfig | None = None,
) -> Log:
    """Open a log directory and return it, making it if it is not there and `create` is true.

    on_append: called after an append through this Log was acknowledged, once for what was placed
    together; on_read: after each read.  In the thread that appended or read, a producer's own for
    what it sent; what they raise is logged.  With `on_append` an append is no longer one C call: it
    takes some microseconds more.  Internal partitions are not observed.
    cleaner: how this process compacts topics in the background, and with how much memory.
    Raises FileNotFoundError when there is none and `create` is false; NetworkFileSystemError,
    IncompatibleFormatError, CorruptFileError, OSError; TypeError for functions that cannot be
    called or a cleaner that is none.  Reads no data: partitions open with their first use.
    """
    check_callable("on_append", on_append)
    check_callable("on_read", on_read)
    if cleaner is not None and not isinstance(cleaner, CleanerConfig):
        raise TypeError(f"cleaner must be a CleanerConfig, not {type(cleaner).__name__}")
    engine = Engine(os.fspath(path), on_append=on_append, on_read=on_read, cleaner=cleaner)
    engine.open(create=create)
    log = Log(engine)
    try:
        log.replication.open()
    except BaseException:
        log.close()
        raise
    return log
