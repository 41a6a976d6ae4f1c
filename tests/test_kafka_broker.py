"""A real Kafka broker and Kafka's own tools, against what a mirror sends and what pylog writes."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from kafka_broker import Broker, dump, jars, running_broker
from kafka_cluster import (
    SETTINGS,
    Sent,
    append_all,
    kill_mirror,
    random_records,
    read_partition,
    sent,
)
from test_kafka_transport import Leader, batch

import pylog
from pylog.errors import (
    DivergedTopicError,
    FencedLeaderEpochError,
    KafkaRefusedError,
    ReplicationError,
)
from pylog.interop import kafka
from pylog.replication.facts import PartitionId

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900)]

# The broker would drop what is as old as some of the records, and refuse what is as new.
FOREVER: dict[str, Any] = SETTINGS | {"cleanup_policy": ""}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    jars()
    with running_broker(tmp_path_factory.mktemp("broker")) as one:
        yield one


def records_of(partition: pylog.Partition) -> dict[int, Sent]:
    return {record.offset: sent(record) for record in partition.records()}


def keep_for_ever(broker: Broker, name: str, partitions: int) -> None:
    far = str(2**62)
    broker.create_topic(name, partitions, retention_ms="-1", message_timestamp_after_max_ms=far)


@pytest.mark.parametrize("offsets", ["identity", "recorded"])
def test_killed_mirrors_lose_nothing_and_send_nothing_twice(
    broker: Broker, log: pylog.Log, offsets: str
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    name, state_topic, count = f"killed-{offsets}", f"state-{offsets}", 5000
    keep_for_ever(broker, name, 3)
    topic = log.create_topic(name, 3, **SETTINGS)
    lives = 6
    for life in range(lives):
        for partition in topic.partitions:
            append_all(partition, random_records(seed + life, count))
        arguments = [log.path, broker.bootstrap, name, state_topic, offsets]
        start = broker.end(name, 0)
        goal = min(start + chance.randrange(1, count), count * (life + 1))
        kill_mirror(arguments, lambda: broker.end(name, 0), goal=goal)
    mirror = kafka.Mirror(
        log,
        broker.bootstrap,
        topics=[name],
        state_topic=state_topic,
        offsets=offsets,  # type: ignore[arg-type]
    )
    positions = mirror.run()
    for partition in topic.partitions:
        there = read_partition(
            broker.bootstrap, name, partition.number, **{"isolation.level": "read_committed"}
        )
        here = records_of(partition)
        assert len(here) == count * lives
        if offsets == "identity":
            assert there == here
        else:
            assert list(there.values()) == list(here.values())
            for offset in chance.sample(sorted(here), 5):
                assert there[mirror.translate(name, partition.number, offset)] == here[offset]
        place = pylog.TopicPartition(name, partition.number)
        assert positions[place].position == count * lives


def test_topics_are_made_with_what_their_settings_mean_there(
    broker: Broker, log: pylog.Log
) -> None:
    topic = log.create_topic(
        "made", 2, cleanup_policy="compact", delete_retention_ms=5000, **SETTINGS
    )
    topic.append(b"value", key=b"key", partition=1)
    mirror = kafka.Mirror(log, broker.bootstrap, topics=["made"], create_topics=True)
    mirror.run()
    topic.add_partitions(3)
    topic.append(b"value", key=b"key", partition=2)
    mirror.run()
    admin = broker.admin()
    wanted = confluent_kafka.admin.ConfigResource(
        confluent_kafka.admin.ConfigResource.Type.TOPIC, "made"
    )
    config = admin.describe_configs([wanted])[wanted].result(60)
    told = {name: config[name].value for name in ("cleanup.policy", "delete.retention.ms")}
    assert told == {"cleanup.policy": "compact", "delete.retention.ms": "5000"}
    assert len(admin.list_topics(timeout=60).topics["made"].partitions) == 3
    assert read_partition(broker.bootstrap, "made", 2).keys() == {0}


def test_record_that_the_broker_does_not_take_ends_the_run_without_a_gap(
    broker: Broker, log: pylog.Log
) -> None:
    broker.create_topic("small", max_message_bytes="2000")
    topic = log.create_topic("small", **SETTINGS)
    for size in (10, 10, 5000, 10, 10):
        topic.append(b"x" * size)
    mirror = kafka.Mirror(log, {"bootstrap.servers": broker.bootstrap, "batch.num.messages": 1})
    with pytest.raises(KafkaRefusedError, match="Message size too large"):
        mirror.run()
    assert list(read_partition(broker.bootstrap, "small", 0)) in ([], [0], [0, 1])


def test_target_that_stamps_records_itself_is_named_as_the_reason(
    broker: Broker, log: pylog.Log
) -> None:
    broker.create_topic("stamped", message_timestamp_type="LogAppendTime")
    log.create_topic("stamped", **SETTINGS).append(b"x", timestamp=1_700_000_000_000)
    mirror = kafka.Mirror(log, broker.bootstrap, topics=["stamped"])
    mirror.run()
    with pytest.raises(DivergedTopicError, match="LogAppendTime"):
        mirror.run()


def test_groups_go_on_in_the_cluster(broker: Broker, log: pylog.Log) -> None:
    topic = log.create_topic("consumed", **FOREVER)
    topic.append_many([b"%d" % number for number in range(100)])
    with log.consumer("consumed", group="readers", enable_auto_commit=False) as consumer:
        consumer.poll(timeout=0)
        consumer.commit({("consumed", 0): 42}, metadata="by hand")
    mirror = kafka.Mirror(log, broker.bootstrap, topics=["consumed"], create_topics=True)
    mirror.run()
    mirror.copy_groups(["readers"])
    reader = confluent_kafka.Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "readers"}
    )
    reader.subscribe(["consumed"])
    try:
        message = reader.poll(60)
        assert message is not None and message.error() is None
        assert message.value() == b"42"
        with pytest.raises(KafkaRefusedError):  # it has a member now
            mirror.copy_groups(["readers"])
    finally:
        reader.close()


def test_leader_whose_time_is_over_writes_nothing_more(broker: Broker) -> None:
    partition = PartitionId("replicated", 0, uuid.uuid4())
    records = random_records(1, 30)
    transports = [
        kafka.KafkaTransport(broker.bootstrap, state_topic="replica-state") for _ in range(2)
    ]
    try:
        old = Leader(transports[0], epoch=1, name="old")
        assert old.transport.position(partition).log_end_offset == 0
        old.send(partition, 0, batch(records[:10], 0), end=10)
        assert old.acknowledged().log_end_offset == 10
        new = Leader(transports[1], epoch=2, name="new")
        position = new.transport.position(partition)
        assert (position.log_end_offset, position.epochs) == (10, ((1, 0),))
        old.send(partition, 10, batch(records[20:], 10), end=20)
        with pytest.raises(ReplicationError):
            old.acknowledged()
        new.send(partition, 10, batch(records[10:20], 10, epoch=2), end=20)
        assert new.acknowledged().log_end_offset == 20
        with pytest.raises(FencedLeaderEpochError):
            Leader(transports[0], epoch=1, name="old")
        there = read_partition(
            broker.bootstrap, "replicated", 0, **{"isolation.level": "read_committed"}
        )
        assert list(there.values()) == records[:20]
    finally:
        for transport in transports:
            transport.close()


def test_topic_of_the_cluster_is_copied_with_its_gaps_and_settings(
    broker: Broker, log: pylog.Log
) -> None:
    broker.create_topic(
        "copied", 2, cleanup_policy="compact", message_timestamp_after_max_ms=str(2**62)
    )
    produce_transactions(broker, "copied")
    source = kafka.Source(log, broker.bootstrap, topics=["copied"], create_topics=True)
    for turn in range(2):
        positions = source.run()
        assert len(positions) == 2
        for partition in log.topic("copied").partitions:
            place = pylog.TopicPartition("copied", partition.number)
            assert records_of(partition) == read_partition(
                broker.bootstrap, *place, **{"isolation.level": "read_committed"}
            )
            assert partition.log_end_offset == broker.end(*place) == positions[place].position
        assert len(records_of(log.topic("copied").partition(0))) == 20 * (turn + 1)
        produce_transactions(broker, "copied")
    assert log.topic("copied").config.cleanup_policy == "compact"


def produce_transactions(broker: Broker, topic: str) -> None:
    """Produce records in transactions, every second of which is aborted."""
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": broker.bootstrap, "transactional.id": f"writer-of-{topic}"}
    )
    producer.init_transactions(60)
    for turn in range(4):
        producer.begin_transaction()
        for number, one in enumerate(random_records(turn, 20, needs_key=True)):
            producer.produce(
                topic, one.value, one.key, number % 2, timestamp=one.timestamp, headers=one.headers
            )
        producer.flush(60)
        if turn % 2:
            producer.abort_transaction(60)
        else:
            producer.commit_transaction(60)


def test_what_all_replicas_acknowledged_is_in_the_cluster(broker: Broker, log: pylog.Log) -> None:
    topic = log.create_topic("acknowledged", 2, **SETTINGS)
    transport = kafka.KafkaTransport(broker.bootstrap, state_topic="acknowledged-state")
    log.promote(1, [transport], config=pylog.ReplicationConfig(min_insync_replicas=2))
    assert log.replication.wait_in_sync(2, 120)
    with log.producer(acks="all", batch_size=500) as producer:
        for number in range(2000):
            producer.send("acknowledged", b"%d" % number, key=b"%d" % number)
    for partition in topic.partitions:
        there = read_partition(
            broker.bootstrap,
            "acknowledged",
            partition.number,
            **{"isolation.level": "read_committed"},
        )
        assert list(there.values()) == list(records_of(partition).values())


# ---------------------------------------------------------------------- pylog's files

_FINDINGS = (
    "isvalid: false",
    "invalid bytes",
    "Mismatches in",
    "Non-consecutive",
    "Found timestamp mismatch",
    "Found out of order timestamp",
    "indexed offsets are not found",
    "Exception",
    "ERROR",
)


def findings(text: str, *, may_have_gaps: bool = False) -> list[str]:
    """Return the lines in which DumpLogSegments says that something is wrong."""
    wrong = [word for word in _FINDINGS if not (may_have_gaps and word == "Non-consecutive")]
    return [line for line in text.splitlines() if any(word in line for word in wrong)]


def fill_every_way(log: pylog.Log, name: str, **settings: Any) -> pylog.Topic:
    """Return a topic of several segments, with batches of every codec and kind."""
    topic = log.create_topic(name, segment_bytes=100_000, **(FOREVER | settings))
    for number, codec in enumerate(("uncompressed", "gzip", "snappy", "lz4", "zstd")):
        log.alter_topic(name, compression_type=codec)
        append_all(topic.partition(0), random_records(number, 500, needs_key=True))
        topic.append(b"one", key=b"by itself")
        with log.producer(linger_ms=0) as producer:
            for turn in range(20):
                producer.send(name, b"sent %d" % turn, key=b"%d" % (turn % 3))
    return topic


def segment_files(topic: pylog.Topic, log: pylog.Log, suffix: str) -> list[str]:
    return [str(path) for path in sorted(Path(log.path, f"{topic.name}-0").glob(f"*{suffix}"))]


def test_kafka_finds_nothing_wrong_in_the_segments(tmp_path: Path) -> None:
    jars()
    with pylog.open(tmp_path / "log") as log:
        topic = fill_every_way(log, "dumped")
        expected = records_of(topic.partition(0))
    files = segment_files(topic, log, ".log")
    assert len(files) > 3
    text = dump("--deep-iteration", "--print-data-log", "--files", ",".join(files))
    assert findings(text) == []
    offsets = [int(one) for one in re.findall(r"^\| offset: (\d+)", text, re.MULTILINE)]
    assert offsets == list(expected)
    for suffix in (".index", ".timeindex"):
        paths = ",".join(segment_files(topic, log, suffix))
        assert findings(dump("--index-sanity-check", "--files", paths)) == []
        assert findings(dump("--verify-index-only", "--files", paths)) == []
    snapshots = segment_files(topic, log, ".snapshot")
    if snapshots:
        assert findings(dump("--files", ",".join(snapshots))) == []


def test_kafka_finds_nothing_wrong_in_compacted_segments(tmp_path: Path) -> None:
    jars()
    with pylog.open(tmp_path / "log") as log:
        topic = fill_every_way(log, "compacted", cleanup_policy="compact")
        topic.compact()
        expected = records_of(topic.partition(0))
    files = segment_files(topic, log, ".log")
    text = dump("--deep-iteration", "--print-data-log", "--files", ",".join(files))
    assert findings(text, may_have_gaps=True) == []
    offsets = [int(one) for one in re.findall(r"^\| offset: (\d+)", text, re.MULTILINE)]
    assert offsets == list(expected)
    for suffix in (".index", ".timeindex"):
        paths = ",".join(segment_files(topic, log, suffix))
        assert findings(dump("--index-sanity-check", "--files", paths)) == []


def test_kafka_reads_what_groups_commit(tmp_path: Path) -> None:
    jars()
    with pylog.open(tmp_path / "log") as log:
        log.create_topic("read", **SETTINGS).append(b"x")
        with log.consumer("read", group="readers") as consumer:
            consumer.poll(timeout=0)
            consumer.commit()
    files = sorted(Path(log.path, "__consumer_offsets-0").glob("*.log"))
    text = dump("--offsets-decoder", "--files", ",".join(map(str, files)))
    assert findings(text) == []
    assert '"group":"readers"' in text.replace(" ", "")


def test_a_broker_serves_a_topic_from_the_segment_files(tmp_path: Path, log: pylog.Log) -> None:
    jars()
    topic = fill_every_way(log, "served")
    expected = records_of(topic.partition(0))
    log.close()
    with running_broker(tmp_path / "another") as broker:
        keep_for_ever(broker, "served", 1)
        broker.stop()
        directory = broker.data / "served-0"
        for path in directory.iterdir():
            if path.name != "partition.metadata":
                path.unlink()
        for suffix in (".log", ".index", ".timeindex"):
            for name in segment_files(topic, log, suffix):
                (directory / Path(name).name).write_bytes(Path(name).read_bytes())
        (broker.data / ".kafka_cleanshutdown").unlink()
        broker.start()
        assert read_partition(broker.bootstrap, "served", 0) == expected
        # It goes on: what is produced now comes behind.
        producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap})
        producer.produce("served", b"by Kafka", key=b"later")
        assert producer.flush(60) == 0
        assert broker.end("served", 0) == max(expected) + 2
