"""A cluster as a replica: what is acknowledged is there, and whoever leads no more is shut out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka_cluster import PARTITIONS, SECONDS, Cluster, Sent, random_records

import pylog
from pylog._native import make_batch
from pylog.errors import (
    DivergedReplicaError,
    FencedLeaderEpochError,
    InconsistentClusterIdError,
    ReplicationError,
)
from pylog.interop import kafka
from pylog.replication.facts import InSync, PartitionId, ReplicaPosition
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaBatches

LOG = uuid.uuid4()


class Leader:
    """A session of a leader with a cluster."""

    def __init__(
        self, transport: kafka.KafkaTransport, *, epoch: int = 1, name: str = "leader"
    ) -> None:
        self.transport, self.epoch = transport, epoch
        self.hello = transport.handshake(LeaderHello(LOG, name, epoch))
        self.in_sync = InSync(epoch, 0, frozenset({name}))

    def send(
        self, partition: PartitionId, start: int, data: bytes, *, end: int | None = None
    ) -> None:
        self.transport.send(
            ReplicaBatches(
                partition=partition,
                epoch=self.epoch,
                from_offset=start,
                end_offset=start if end is None else end,
                in_sync=self.in_sync,
                high_watermark=0,
                log_start_offset=0,
                data=data,
            )
        )

    def acknowledged(self) -> Acknowledgement:
        answer = self.transport.acknowledgement(SECONDS)
        assert answer is not None
        return answer


def batch(records: list[Sent], start: int, *, epoch: int = 1, step: int = 1) -> bytes:
    """Return records as a leader stores them; step: 2 leaves every second offset out."""
    return make_batch(
        [
            (row * step, one.timestamp - 1, one.key, one.value, one.headers)
            for row, one in enumerate(records)
        ],
        base_offset=start,
        leader_epoch=epoch,
        base_timestamp=1,
        max_timestamp=max(one.timestamp for one in records),
    )


@pytest.fixture
def partition(cluster: Cluster) -> PartitionId:
    return PartitionId(cluster.topic(), 1, uuid.uuid4())


@pytest.fixture
def new(cluster: Cluster) -> Iterator[Callable[[], kafka.KafkaTransport]]:
    """Makes transports of one replica: one for each leader that there is."""
    state_topic, made = cluster.topic("state"), list[kafka.KafkaTransport]()

    def make() -> kafka.KafkaTransport:
        made.append(kafka.KafkaTransport(cluster.bootstrap, state_topic=state_topic))
        return made[-1]

    yield make
    for one in made:
        one.close()


New = Callable[[], kafka.KafkaTransport]


def test_what_is_acknowledged_is_in_the_cluster_as_it_was(
    cluster: Cluster, partition: PartitionId, new: New
) -> None:
    leader = Leader(new())
    assert leader.hello.in_sync is None
    assert leader.transport.position(partition) == ReplicaPosition()
    records = random_records(1, 400)
    for start in range(0, 400, 50):
        part = records[start : start + 50]
        leader.send(partition, start, batch(part, start), end=start + 50)
    answers = [leader.acknowledged() for _ in range(8)]
    # Each says what it is for, also where one transaction held several.
    assert [one.log_end_offset for one in answers] == list(range(50, 401, 50))
    assert {one.partition for one in answers} == {partition}
    there = cluster.read(partition.topic, partition.number)
    assert list(there.values()) == records
    assert leader.transport.acknowledgement(0.0) is None


def test_replica_remembers_how_far_it_is_and_of_which_histories(
    cluster: Cluster, partition: PartitionId, new: New
) -> None:
    leader = Leader(new())
    leader.transport.position(partition)
    leader.send(partition, 0, batch(random_records(2, 10), 0), end=10)
    later = batch(random_records(3, 10), 12, epoch=2, step=2)
    leader.send(partition, 10, later, end=35)
    assert [leader.acknowledged().log_end_offset for _ in range(2)][-1] == 35
    again = Leader(new())
    position = again.transport.position(partition)
    assert position.log_end_offset == 35
    assert position.epochs == ((1, 0), (2, 12))
    again.send(partition, 35, batch(random_records(4, 5), 35, epoch=2), end=40)
    assert again.acknowledged().log_end_offset == 40
    assert len(cluster.read(partition.topic, partition.number)) == 25


def test_batches_that_do_not_follow_are_not_taken(
    cluster: Cluster, partition: PartitionId, new: New
) -> None:
    leader = Leader(new())
    leader.transport.position(partition)
    leader.send(partition, 5, batch(random_records(5, 5), 5), end=10)
    assert leader.acknowledged().log_end_offset == 0
    assert cluster.end(partition.topic, partition.number) == 0


def test_heartbeat_is_acknowledged_and_notes_who_is_in_sync(
    partition: PartitionId, new: New
) -> None:
    leader = Leader(new())
    leader.transport.position(partition)
    leader.send(partition, 0, b"")
    assert leader.acknowledged() == Acknowledgement(partition, 0, None)  # it is no member
    leader.in_sync = InSync(1, 1, frozenset({"leader", "kafka"}))
    leader.send(partition, 0, b"")
    assert leader.acknowledged() == Acknowledgement(partition, 0, (1, 1))
    assert Leader(new()).hello.in_sync == leader.in_sync


def test_leader_whose_time_is_over_is_refused(new: New) -> None:
    Leader(new(), epoch=5)
    with pytest.raises(FencedLeaderEpochError) as caught:
        Leader(new(), epoch=4)
    assert (caught.value.epoch, caught.value.promised) == (4, 5)
    with pytest.raises(FencedLeaderEpochError):
        Leader(new(), epoch=5, name="another")
    status = new().fence(7)
    assert (status.replica_id, status.promised_epoch, status.cluster_id) == ("kafka", 7, LOG)
    with pytest.raises(FencedLeaderEpochError):
        Leader(new(), epoch=6)


def test_leader_of_another_log_is_refused(new: New) -> None:
    Leader(new())
    with pytest.raises(InconsistentClusterIdError):
        new().handshake(LeaderHello(uuid.uuid4(), "leader", 9))


def test_records_are_not_taken_back(partition: PartitionId, new: New) -> None:
    leader = Leader(new())
    leader.transport.position(partition)
    leader.send(partition, 0, batch(random_records(6, 10), 0), end=10)
    leader.acknowledged()
    assert leader.transport.truncate(partition, 10).log_end_offset == 10
    with pytest.raises(DivergedReplicaError):
        leader.transport.truncate(partition, 9)


def test_new_beginning_is_remembered(partition: PartitionId, new: New) -> None:
    leader = Leader(new())
    leader.transport.position(partition)
    assert leader.transport.start_anew(partition, 100).log_end_offset == 100
    leader.send(partition, 100, batch(random_records(7, 5), 100), end=105)
    assert leader.acknowledged().log_end_offset == 105
    position = Leader(new()).transport.position(partition)
    assert (position.log_start_offset, position.log_end_offset) == (0, 105)
    assert position.epochs == ((1, 100),)


def test_internal_topics_have_other_names_there(cluster: Cluster, new: New) -> None:
    leader, internal = Leader(new()), PartitionId("__consumer_offsets", 0, uuid.uuid4())
    cluster.admin.list_topics("pylog.__consumer_offsets", timeout=SECONDS)
    leader.transport.position(internal)
    records = random_records(8, 3)
    leader.send(internal, 0, batch(records, 0), end=3)
    assert leader.acknowledged().log_end_offset == 3
    assert list(cluster.read("pylog.__consumer_offsets", 0).values()) == records


def test_damaged_batch_ends_the_session(partition: PartitionId, new: New) -> None:
    leader = Leader(new())
    leader.transport.position(partition)
    data = batch([Sent(b"k", b"v", 0, [])], 0)  # a timestamp that cannot be sent
    leader.send(partition, 0, data, end=1)
    with pytest.raises(ReplicationError, match="timestamp 0"):
        leader.transport.acknowledgement(SECONDS)
    with pytest.raises(ReplicationError):
        leader.send(partition, 0, b"")


def test_closed_session_answers_nobody(partition: PartitionId, new: New) -> None:
    leader = Leader(new())
    leader.transport.close()
    leader.transport.close()
    with pytest.raises(ReplicationError):
        leader.transport.acknowledgement(SECONDS)
    with pytest.raises(ReplicationError):
        leader.transport.position(partition)


def test_cluster_counts_for_appends_that_all_replicas_acknowledge(
    cluster: Cluster, new: New, tmp_path: Path
) -> None:
    name = cluster.topic()
    for internal in ("__metadata", "__consumer_offsets"):
        cluster.admin.list_topics(f"pylog.{internal}", timeout=SECONDS)
    config = pylog.ReplicationConfig(min_insync_replicas=2)
    with pylog.open(tmp_path / "log") as log:
        topic = log.create_topic(name, PARTITIONS, durability="os")
        topic.append(b"before", partition=0)
        log.promote(1, [new()], config=config)
        assert log.replication.wait_in_sync(2)
        for number in range(20):
            topic.append(b"%d" % number, partition=number % PARTITIONS)
            # Acknowledged: so it is there.
            values = [one.value for one in cluster.read(name, number % PARTITIONS).values()]
            assert values[-1] == b"%d" % number
        with log.producer(acks="all", batch_size=200) as producer:
            sends = [producer.send(name, b"burst %d" % n, key=b"%d" % n) for n in range(1000)]
        assert all(one.result().topic == name for one in sends)
        counts = [len(cluster.read(name, number)) for number in range(PARTITIONS)]
        assert sum(counts) == 1021
        (follower,) = log.replication.status().followers
        assert (follower.is_attached, follower.error) == (True, None)
        with log.consumer(name, group="readers") as consumer:
            assert len(consumer.poll(timeout=0, max_records=2000)) == 1021
            consumer.commit()
        assert cluster.end("pylog.__consumer_offsets", 0) > 0
        assert next(one.value for one in log.read(name, partition=0)) == b"before"
