"""Topics of a cluster, copied into a log: at their offsets, once, whoever is killed when."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

import confluent_kafka
import pytest
from kafka_cluster import (
    PARTITIONS,
    SECONDS,
    SETTINGS,
    Cluster,
    Sent,
    random_records,
    sent,
)

import pylog
from pylog.interop import kafka


def produce(
    cluster: Cluster, topic: str, partition: int, records: Sequence[Sent], **more: Any
) -> None:
    """Write records as another client; with a transactional id, in a transaction."""
    producer = confluent_kafka.Producer({"bootstrap.servers": cluster.bootstrap} | more)
    if more:
        producer.init_transactions(SECONDS)
        producer.begin_transaction()
    for one in records:
        producer.produce(
            topic, one.value, one.key, partition, timestamp=one.timestamp, headers=[*one.headers]
        )
    if more:
        producer.commit_transaction(SECONDS)
    assert producer.flush(SECONDS) == 0


class Copied:
    """A topic there and here."""

    def __init__(self, log: pylog.Log, cluster: Cluster, **settings: Any) -> None:
        self.log, self.cluster = log, cluster
        self.name = cluster.topic()
        self.topic = log.create_topic(self.name, PARTITIONS, **(SETTINGS | settings))

    def source(self, **more: Any) -> kafka.Source:
        return kafka.Source(self.log, self.cluster.bootstrap, **({"topics": [self.name]} | more))

    def check(self) -> int:
        """Assert that all partitions hold the same on both sides; return how many records."""
        count = 0
        for partition in self.topic.partitions:
            here = {record.offset: sent(record) for record in partition.records()}
            assert here == self.cluster.read(self.name, partition.number)
            count += len(here)
        return count


@pytest.fixture
def copied(log: pylog.Log, cluster: Cluster) -> Copied:
    return Copied(log, cluster)


def test_every_field_arrives_as_it_was_at_its_offset(copied: Copied) -> None:
    seed = random.randrange(2**32)
    for number in range(PARTITIONS):
        produce(copied.cluster, copied.name, number, random_records(seed + number, 300))
    positions = copied.source().run()
    assert copied.check() == 300 * PARTITIONS
    assert {(one.position, one.records) for one in positions.values()} == {(300, 300)}


def test_copies_are_compressed_as_their_topic_asks(log: pylog.Log, cluster: Cluster) -> None:
    one = Copied(log, cluster, compression_type="lz4")
    records = [Sent(b"key", b"value" * 50, 1000 + number, []) for number in range(500)]
    produce(cluster, one.name, 0, records)
    one.source().run()
    assert one.check() == 500
    numbers = log.metrics()["partitions"][f"{one.name}-0"]
    assert numbers["size_bytes"] < 500 * 250 / 5


def test_next_run_goes_on_where_the_last_ended(copied: Copied) -> None:
    for turn in range(3):
        produce(copied.cluster, copied.name, 1, random_records(turn, 30))
        positions = copied.source().run()
        assert sum(one.records for one in positions.values()) == 30
    assert copied.check() == 90


def test_offsets_without_a_record_stay_without_one(copied: Copied) -> None:
    for turn in range(3):  # each transaction ends with a marker that takes an offset
        more = {"transactional.id": f"{copied.name}-{turn}"}
        produce(copied.cluster, copied.name, 0, random_records(turn, 10), **more)
        positions = copied.source().run()
    assert copied.check() == 30
    end = positions[pylog.TopicPartition(copied.name, 0)]
    assert (end.position, end.end) == (33, 33)
    assert copied.topic.partition(0).log_end_offset == 33


def test_copy_begins_where_the_cluster_does(log: pylog.Log, cluster: Cluster) -> None:
    copied = Copied(log, cluster)
    # More than the mock keeps of a partition.
    produce(cluster, copied.name, 0, [Sent(None, b"x" * 50_000, 1, [])] * 150)
    copied.source().run()
    assert copied.topic.partition(0).log_start_offset > 0
    assert copied.check() > 0


def test_follower_takes_what_comes_and_stops_when_it_is_told(copied: Copied) -> None:
    source = copied.source()
    threads = []

    def watch(progress: kafka.MirrorProgress) -> None:
        if progress.partition == 0 and progress.position == 0:
            produce(copied.cluster, copied.name, 0, random_records(1, 5))
        elif progress.position == 5:
            produce(copied.cluster, copied.name, 1, random_records(2, 7))
        elif progress.position == 7:
            threads.append(threading.Thread(target=source.stop))
            threads[-1].start()

    source.run(follow=True, progress=watch)
    for thread in threads:
        thread.join()
    assert copied.check() == 12


_LIFE = """
import sys
import pylog
from pylog.interop import kafka

path, bootstrap, topic = sys.argv[1:]
kafka.Source(pylog.open(path), bootstrap, topics=[topic]).run(follow=True)
"""


@pytest.mark.slow
def test_killed_sources_lose_nothing_and_append_nothing_twice(copied: Copied) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    partition = copied.topic.partition(0)
    for life in range(2):
        for number in range(PARTITIONS):
            produce(copied.cluster, copied.name, number, random_records(seed + life, 500))
        goal = partition.log_end_offset + chance.randrange(1, 400)
        arguments = [copied.log.path, copied.cluster.bootstrap, copied.name]
        process = subprocess.Popen([sys.executable, "-c", _LIFE, *arguments])
        try:
            while not partition.wait(goal - 1, timeout=0.1):
                assert process.poll() is None, "the source ended by itself"
        finally:
            process.kill()
            process.wait()
    copied.source().run()
    assert copied.check() == 1000 * PARTITIONS


# ---------------------------------------------------------------------- what goes wrong


def test_copy_that_somebody_else_appended_to_is_noticed(copied: Copied) -> None:
    produce(copied.cluster, copied.name, 0, random_records(3, 5))
    copied.source().run()
    copied.topic.append(b"not from there", partition=0)
    produce(copied.cluster, copied.name, 0, random_records(4, 5))
    with pytest.raises(pylog.errors.DivergedTopicError) as caught:
        copied.source().run()
    assert (caught.value.partition, caught.value.offset) == (0, 5)


def test_append_of_somebody_else_while_it_runs_is_noticed(copied: Copied) -> None:
    produce(copied.cluster, copied.name, 0, random_records(5, 5))

    def disturb(progress: kafka.MirrorProgress) -> None:
        if progress.position == 5:
            copied.topic.append(b"not from there", partition=0)
            produce(copied.cluster, copied.name, 0, random_records(6, 5))

    with pytest.raises(pylog.errors.OffsetsDifferError) as caught:
        copied.source().run(follow=True, progress=disturb)
    assert (caught.value.expected, caught.value.actual) == (5, 6)


def test_append_of_somebody_else_into_a_gap_is_noticed(copied: Copied) -> None:
    more = {"transactional.id": copied.name}
    produce(copied.cluster, copied.name, 0, random_records(7, 5), **more)  # and a marker

    def disturb(progress: kafka.MirrorProgress) -> None:
        if progress.position == 5:
            copied.topic.append(b"not from there", partition=0)
            produce(copied.cluster, copied.name, 0, random_records(8, 5), **more)

    with pytest.raises(pylog.errors.OffsetsDifferError):
        copied.source().run(follow=True, progress=disturb)


def test_copy_that_is_ahead_of_its_source_is_refused(copied: Copied) -> None:
    copied.topic.append(b"not from there", partition=0)
    with pytest.raises(pylog.errors.DivergedTopicError, match="ends at 0"):
        copied.source().run()


def test_records_that_the_cluster_deleted_before_they_came_are_an_error(copied: Copied) -> None:
    produce(copied.cluster, copied.name, 0, [Sent(None, b"first", 1, [])])
    copied.source().run()
    produce(copied.cluster, copied.name, 0, [Sent(None, b"x" * 50_000, 1, [])] * 150)
    with pytest.raises(pylog.errors.NotMirroredError) as caught:
        copied.source().run()
    assert caught.value.position == 1


def test_topics_that_are_missing_on_either_side_are_errors(
    log: pylog.Log, cluster: Cluster
) -> None:
    name = cluster.topic()
    with pytest.raises(pylog.errors.TargetTopicError) as caught:
        kafka.Source(log, cluster.bootstrap, topics=[name]).run()
    assert (caught.value.partitions, caught.value.needed) == (0, PARTITIONS)
    with pytest.raises(pylog.errors.UnknownTopicOrPartitionError):
        kafka.Source(log, cluster.bootstrap, topics=["nowhere"]).run()


def test_second_source_of_the_same_name_does_not_run(copied: Copied) -> None:
    errors: list[Exception] = []

    def run_another(progress: kafka.MirrorProgress) -> None:
        try:
            copied.source().run()
        except pylog.errors.MirrorRunningError as error:
            errors.append(error)

    copied.source().run(progress=run_another)
    assert len(errors) == PARTITIONS
