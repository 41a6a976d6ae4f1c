"""A Kafka cluster for tests, and what an independent consumer finds in it.

The cluster is librdkafka's mock: it listens on ephemeral ports of 127.0.0.1 and lives in the
process that made it, which other processes reach by its bootstrap servers.  It keeps the last 5 MiB
of a partition, makes topics of four partitions when they are asked for, gives the markers of
transactions offsets as Kafka does, and hides nothing from who reads committed records only.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import confluent_kafka
from confluent_kafka.admin import AdminClient

PARTITIONS = 4
# Of a topic that is mirrored: records of any time, and no sync for each of them.
SETTINGS: dict[str, Any] = {"durability": "os", "message_timestamp_after_max_ms": 2**62}
SECONDS = 120.0  # a client that waits is deaf to pytest's time-out

_names = itertools.count()


class Sent(NamedTuple):
    """A record as a user sees it, here and there."""

    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: list[tuple[str, bytes | None]]


class Cluster:
    """The mock.  bootstrap: what other clients are told."""

    def __init__(self) -> None:
        self._anchor = confluent_kafka.Producer({"test.mock.num.brokers": 2, "log_level": 0})
        brokers = self._anchor.list_topics(timeout=SECONDS).brokers.values()
        self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def die(self) -> None:
        """Be there no more."""
        del self._anchor, self.admin

    def topic(self, prefix: str = "topic") -> str:
        """Make a topic and return its name, which no other test has."""
        name = f"{prefix}-{next(_names)}"
        self.admin.list_topics(name, timeout=SECONDS)
        return name

    def produce(self, topic: str, value: bytes, partition: int = 0) -> None:
        """Write as anybody else."""
        producer = confluent_kafka.Producer({"bootstrap.servers": self.bootstrap})
        producer.produce(topic, value, partition=partition)
        assert producer.flush(SECONDS) == 0

    def serve_all(self) -> None:
        """Return when all is done that was asked of the cluster, also by who has died since.

        It serves its connections in turn, and none has more than five requests under way.
        """
        for _ in range(20):
            self.admin.list_topics(timeout=SECONDS)

    def end(self, topic: str, partition: int) -> int:
        """Return where a partition ends."""
        place = confluent_kafka.TopicPartition(topic, partition)
        spec = confluent_kafka.admin.OffsetSpec.latest()
        return int(self.admin.list_offsets({place: spec})[place].result(SECONDS).offset)

    def read(self, topic: str, partition: int, **more: Any) -> dict[int, Sent]:
        """Return all records of a partition by their offsets, as another consumer reads them."""
        return read_partition(self.bootstrap, topic, partition, **more)


def read_partition(bootstrap: str, topic: str, partition: int, **more: Any) -> dict[int, Sent]:
    """Return all records of a partition of any cluster by their offsets."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "witness",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
        }
        | more
    )
    found = {}
    try:
        place = confluent_kafka.TopicPartition(topic, partition)
        start, _ = consumer.get_watermark_offsets(place, timeout=SECONDS)
        consumer.assign([confluent_kafka.TopicPartition(topic, partition, start)])
        while True:
            message = consumer.poll(SECONDS)
            assert message is not None, f"nothing came of {topic}-{partition}"
            if message.error() is not None:
                assert message.error().name() == "_PARTITION_EOF", message.error()
                return found
            kind, timestamp = message.timestamp()
            assert kind == confluent_kafka.TIMESTAMP_CREATE_TIME
            found[message.offset()] = Sent(
                message.key(), message.value(), timestamp, list(message.headers() or [])
            )
    finally:
        consumer.close()


@contextlib.contextmanager
def mock_cluster() -> Iterator[Cluster]:
    """Run a cluster until the end of the block, and leave no threads of clients behind."""
    yield Cluster()
    # Errors hold on to clients; a test that forks later must not have their threads.
    gc.collect()


_LIFE = """
import sys
import pylog
from pylog.interop import kafka

path, bootstrap, topic, state_topic, offsets = sys.argv[1:]
mirror = kafka.Mirror(
    pylog.open(path),
    bootstrap,
    topics=[topic],
    state_topic=state_topic,
    offsets=offsets,
    settle_ms=50,
)
mirror.run(follow=True)
"""


def kill_mirror(arguments: Sequence[str], end: Callable[[], int], *, goal: int) -> None:
    """Let a process mirror until there is enough in the cluster, and kill it.

    arguments: the log's path, bootstrap servers, topic, topic of the mirror's own, offsets.
    end: tells how much is there;  goal: how much is enough.
    """
    process = subprocess.Popen([sys.executable, "-c", _LIFE, *arguments])
    try:
        while end() < goal:
            assert process.poll() is None, "the mirror ended by itself"
    finally:
        process.kill()
        process.wait()


def sent(record: Any) -> Sent:
    """Return a record of the log as a user sees it."""
    return Sent(record.key, record.value, record.timestamp, list(record.headers))


def random_records(seed: int, count: int, *, needs_key: bool = False) -> list[Sent]:
    """Return records with every kind of key, value, header and timestamp; prints the seed."""
    print(f"seed {seed}")
    chance = random.Random(seed)

    def some_bytes(most: int) -> bytes | None:
        kind = chance.random()
        if kind < 0.1:
            return None
        return b"" if kind < 0.2 else chance.randbytes(chance.randrange(most))

    names = ["", "a", "a", "trace", "ü", "h" * 200]
    return [
        Sent(
            chance.randbytes(3) if needs_key else some_bytes(20),
            some_bytes(200),
            chance.choice([1, 1_700_000_000_000 + chance.randrange(10**9), 2**41]),
            [(chance.choice(names), some_bytes(30)) for _ in range(chance.choice([0, 0, 1, 3]))],
        )
        for _ in range(count)
    ]


def append_all(partition: Any, records: Sequence[Sent]) -> None:
    """Append records as one user does."""
    partition.append_many(
        [record.value for record in records],
        keys=[record.key for record in records],
        headers=[record.headers for record in records],
        timestamps=[record.timestamp for record in records],
    )
