"""What a mirror asks a Kafka cluster: which topics there are, where they end, what lies there.

Knows requests and their answers.  Must not know what is mirrored, nor how far.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from pylog.config import TopicConfig
from pylog.errors import KafkaRefusedError, KafkaUnavailableError
from pylog.interop.kafka.client import (
    POLL_SECONDS,
    REQUEST_SECONDS,
    Settings,
    admin_library,
    error_of,
    library,
    new_admin,
    new_consumer,
    translated,
)
from pylog.records import TopicPartition

if TYPE_CHECKING:
    from concurrent.futures import Future

    from confluent_kafka import Message

# What a setting of a topic means in a cluster, too.  The rest says how one machine keeps files.
_TRANSLATED: Final = (
    "cleanup.policy",
    "compression.type",
    "delete.retention.ms",
    "max.compaction.lag.ms",
    "max.message.bytes",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "retention.bytes",
    "retention.ms",
)


class Cluster:
    """Questions to a cluster; each blocks for its answer, for half a minute at most.

    Every method raises KafkaUnavailableError and KafkaRefusedError.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._admin = new_admin(settings)

    def partitions(self) -> dict[str, int]:
        """Return how many partitions each topic has."""
        with translated():
            # Of all topics: asked for one by name, some clusters would make it.
            topics = self._admin.list_topics(timeout=REQUEST_SECONDS).topics
        return {name: len(topic.partitions) for name, topic in topics.items()}

    def create_topic(
        self, name: str, partitions: int, replication_factor: int, config: Mapping[str, str]
    ) -> None:
        """Create a topic, unless it is there."""
        topic = admin_library().NewTopic(name, partitions, replication_factor, config=dict(config))
        futures = self._admin.create_topics([topic], request_timeout=REQUEST_SECONDS)
        _result(futures[name], allowed="TOPIC_ALREADY_EXISTS")
        self._wait_for(name, partitions)

    def add_partitions(self, name: str, total: int) -> None:
        """Let a topic have so many partitions."""
        wanted = admin_library().NewPartitions(name, total)
        futures = self._admin.create_partitions([wanted], request_timeout=REQUEST_SECONDS)
        _result(futures[name])
        self._wait_for(name, total)

    def _wait_for(self, name: str, partitions: int) -> None:
        """Wait until a topic that was made is known: brokers tell each other."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while self.partitions().get(name, 0) < partitions:
            if time.monotonic() > deadline:
                raise KafkaUnavailableError("_TIMED_OUT", f"topic {name} was made and is not seen")
            time.sleep(POLL_SECONDS)

    def topic_settings(self, name: str) -> dict[str, str]:
        """Return what a topic is set to, of what means the same in a log."""
        kind = admin_library().ConfigResource
        wanted = kind(kind.Type.TOPIC, name)
        futures = self._admin.describe_configs([wanted], request_timeout=REQUEST_SECONDS)
        entries = _result(futures[wanted])
        return {name: entries[name].value for name in _TRANSLATED if name in entries}

    def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return the offsets [start, end) of partitions that exist: end is the high watermark."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            try:
                return self._ends_now(partitions)
            except KafkaUnavailableError:
                # One that was just made, or has just moved, has no leader for a moment.
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def _ends_now(
        self, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Ask once."""
        wanted = list(dict.fromkeys(partitions))
        kafka, place = library(), admin_library().OffsetSpec

        def asked(where: Any) -> list[int]:
            names = [kafka.TopicPartition(*one) for one in wanted]
            futures = self._admin.list_offsets(
                dict.fromkeys(names, where), request_timeout=REQUEST_SECONDS
            )
            return [_result(futures[name]).offset for name in names]

        if not wanted:
            return {}
        pairs = zip(asked(place.earliest()), asked(place.latest()), strict=True)
        return dict(zip(wanted, pairs, strict=True))

    def first_messages(
        self, offsets: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, Message[bytes, bytes]]:
        """Return the first message of each partition at or after an offset, where there is one."""
        if not offsets:
            return {}
        found: dict[TopicPartition, Message[bytes, bytes]] = {}
        waiting = set(offsets)
        for message in self._messages(offsets, "read_uncommitted"):
            partition = place_of(message)
            if message.error() is None:
                found.setdefault(partition, message)
            waiting.discard(partition)
            if not waiting:
                break
        return found

    def committed_messages(self, topic: str, number: int) -> Iterator[Message[bytes, bytes]]:
        """Yield the messages of a partition, without those of transactions that did not end well.

        It ends where the partition does, or the first transaction begins that has not ended.
        """
        place = TopicPartition(topic, number)
        start, end = self.ends([place])[place]
        if start == end:
            return
        for message in self._messages({place: start}, "read_committed"):
            if message.error() is not None:
                return
            yield message

    def _messages(
        self, offsets: Mapping[TopicPartition, int], isolation: str
    ) -> Iterator[Message[bytes, bytes]]:
        """Yield messages from offsets on, and one with an error at the end of each partition."""
        kafka = library()
        consumer = new_consumer(
            self._settings, isolation_level=isolation, auto_offset_reset="earliest"
        )
        try:
            with translated():
                consumer.assign(
                    [kafka.TopicPartition(*one, offset) for one, offset in offsets.items()]
                )
            deadline = time.monotonic() + REQUEST_SECONDS
            while True:
                with translated():
                    message = consumer.poll(POLL_SECONDS)
                if message is None:
                    if time.monotonic() > deadline:
                        raise KafkaUnavailableError("_TIMED_OUT", "nothing to read came in time")
                    continue
                deadline = time.monotonic() + REQUEST_SECONDS
                error = message.error()
                if error is not None and error.name() != "_PARTITION_EOF":
                    raise error_of(error)
                yield message
        finally:
            consumer.close()

    def alter_group_offsets(
        self, group: str, offsets: Mapping[TopicPartition, tuple[int, str]]
    ) -> None:
        """Commit offsets, each with its text, of a group without members; made if it is not there.

        Raises KafkaRefusedError when it has members.
        """
        kafka = library()
        places = [kafka.TopicPartition(*one, *offset) for one, offset in offsets.items()]
        futures = self._admin.alter_consumer_group_offsets(
            [kafka.ConsumerGroupTopicPartitions(group, places)], request_timeout=REQUEST_SECONDS
        )
        for place in _result(futures[group]).topic_partitions:
            if place.error is not None:
                raise error_of(place.error)


def kafka_settings(config: TopicConfig) -> dict[str, str]:
    """Return what a topic's settings are in a cluster.

    Timestamps are kept, so they are the records' own there; what is the business of one machine's
    files is left to the cluster.
    """
    default, wanted = TopicConfig().to_kafka(), config.to_kafka()
    settings = {name: wanted[name] for name in _TRANSLATED if wanted[name] != default[name]}
    settings["cleanup.policy"] = config.cleanup_policy
    settings["message.timestamp.type"] = "CreateTime"
    if not config.cleanup_policy:
        # Kafka's way to say that everything is kept.
        settings |= {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
    return settings


def place_of(message: Message[bytes, bytes]) -> TopicPartition:
    """Return which partition a message is of."""
    topic, partition = message.topic(), message.partition()
    assert topic is not None and partition is not None
    return TopicPartition(topic, partition)


def _result(future: Future[Any], *, allowed: str = "") -> Any:
    """Return what a request came to; None when it failed with the code that is allowed."""
    try:
        return future.result(REQUEST_SECONDS)
    except library().KafkaException as error:
        if error.args[0].name() == allowed:
            return None
        raise error_of(error.args[0]) from error
    except TimeoutError as error:
        raise KafkaUnavailableError("_TIMED_OUT", "no answer in time") from error


def check_partitions(topic: str, has: int, needs: int) -> None:
    """Raise KafkaRefusedError unless a topic of the mirror's own has its partitions."""
    if has < needs:
        raise KafkaRefusedError("INVALID_PARTITIONS", f"topic {topic} has {has}, not {needs}")
