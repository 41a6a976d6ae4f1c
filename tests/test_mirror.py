"""A mirror into a cluster: what arrives is what was there, at the same offsets, once."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from kafka_cluster import (
    PARTITIONS,
    SETTINGS,
    Cluster,
    append_all,
    kill_mirror,
    random_records,
    sent,
)
from tail_memory import wait_until

import pylog
from pylog.interop import kafka
from pylog.interop.kafka import writers

# "os": these tests are about what is sent, not about what survives a power cut here.


class Mirrored:
    """A topic here and there, and what mirrors it."""

    def __init__(self, log: pylog.Log, cluster: Cluster, **settings: Any) -> None:
        self.cluster, self.log = cluster, log
        self.name = cluster.topic()
        self.state_topic = cluster.topic("state")
        self.topic = log.create_topic(self.name, PARTITIONS, **(SETTINGS | settings))

    def mirror(self, **more: Any) -> kafka.Mirror:
        arguments = {"topics": [self.name], "state_topic": self.state_topic, "settle_ms": 20}
        return kafka.Mirror(self.log, self.cluster.bootstrap, **(arguments | more))

    def fill(self, seed: int, count: int) -> None:
        for partition in self.topic.partitions:
            append_all(partition, random_records(seed + partition.number, count))

    def check_same_offsets(self, partition: int) -> int:
        """Assert that a partition holds the same there as here; return how many records."""
        here = {one.offset: sent(one) for one in self.topic.partition(partition).records()}
        assert self.cluster.read(self.name, partition) == here
        return len(here)

    def check(self) -> int:
        return sum(self.check_same_offsets(number) for number in range(PARTITIONS))


@pytest.fixture
def mirrored(log: pylog.Log, cluster: Cluster) -> Mirrored:
    return Mirrored(log, cluster)


def test_every_field_arrives_as_it_was_and_offsets_are_the_same(mirrored: Mirrored) -> None:
    mirrored.fill(random.randrange(2**32), 500)
    positions = mirrored.mirror().run()
    assert mirrored.check() == 500 * PARTITIONS
    assert {one.offsets for one in positions.values()} == {"identity"}
    assert {(one.position, one.end, one.target_offset) for one in positions.values()} == {
        (500, 500, 500)
    }


def test_next_run_sends_only_what_is_new(mirrored: Mirrored) -> None:
    mirrored.fill(1, 20)
    mirrored.mirror().run()
    mirrored.topic.append(b"one more", partition=2)
    positions = mirrored.mirror().run()
    assert sum(one.records for one in positions.values()) == 1
    assert mirrored.check() == 20 * PARTITIONS + 1


def test_run_without_anything_to_do_writes_nothing(mirrored: Mirrored) -> None:
    mirrored.fill(2, 5)
    mirrored.mirror(offsets="identity").run()
    before = mirrored.cluster.end(mirrored.state_topic, 0)
    mirrored.mirror(offsets="identity").run()
    assert mirrored.cluster.end(mirrored.state_topic, 0) == before


def test_compressed_batches_are_mirrored_record_by_record(log: pylog.Log, cluster: Cluster) -> None:
    one = Mirrored(log, cluster, compression_type="lz4")
    one.fill(3, 300)
    one.mirror().run()
    assert one.check() == 300 * PARTITIONS


def test_memory_for_a_thousand_messages_is_enough(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight = []
    poll = writers.Writer.poll

    def counting(self: writers.Writer, seconds: float = 0.0) -> None:
        in_flight.append(self.in_flight)
        poll(self, seconds)

    monkeypatch.setattr(writers.Writer, "poll", counting)
    mirrored.topic.append_many([b"x" * 10] * 4000, partition=1)
    mirrored.mirror(max_in_flight_bytes=1).run()
    assert mirrored.check() == 4000
    assert 0 < max(in_flight) <= 1000 + PARTITIONS


def test_progress_is_told_of_each_partition_and_reaches_the_end(mirrored: Mirrored) -> None:
    mirrored.fill(4, 30)
    told: list[kafka.MirrorProgress] = []
    mirrored.mirror().run(progress=told.append)
    assert [one.position for one in told[:PARTITIONS]] == [0] * PARTITIONS
    latest = {one.partition: one.position for one in told}
    assert latest == dict.fromkeys(range(PARTITIONS), 30)


# ---------------------------------------------------------------------- following


def test_follower_takes_what_comes_and_stops_when_it_is_told(
    log: pylog.Log, mirrored: Mirrored
) -> None:
    later = mirrored.cluster.topic(mirrored.name)
    mirror = mirrored.mirror(topics=None, pattern=f"{mirrored.name}.*")
    steps: list[str] = []

    def watch(progress: kafka.MirrorProgress) -> None:
        if progress.position != progress.end or progress.end == 0:
            return
        if not steps:
            steps.append("first")
            mirrored.topic.append(b"second", partition=3)
        elif progress.topic == mirrored.name and len(steps) == 1:
            steps.append("second")
            log.create_topic(later, **SETTINGS).append(b"third")
        elif progress.topic == later:
            steps.append("third")
            mirror.stop()

    mirrored.topic.append(b"first", partition=0)
    mirror.run(follow=True, progress=watch)
    assert steps == ["first", "second", "third"]
    assert mirrored.check() == 2
    assert [one.value for one in mirrored.cluster.read(later, 0).values()] == [b"third"]


def test_stop_from_another_thread_ends_a_wait(mirrored: Mirrored) -> None:
    mirror = mirrored.mirror()
    threads = []

    def stop_soon(progress: kafka.MirrorProgress) -> None:
        if progress.position:
            threads.append(threading.Thread(target=mirror.stop))
            threads[-1].start()

    mirrored.topic.append(b"one", partition=0)
    mirror.run(follow=True, progress=stop_soon)
    for thread in threads:
        thread.join()
    assert mirrored.check() == 1


def test_follower_lets_a_deleted_topic_go(log: pylog.Log, mirrored: Mirrored) -> None:
    other = mirrored.cluster.topic(mirrored.name)
    mirror = mirrored.mirror(topics=None, pattern=f"{mirrored.name}.*")

    def watch(progress: kafka.MirrorProgress) -> None:
        if progress.topic == other and progress.position:
            log.delete_topic(other)
            mirrored.topic.append(b"after it", partition=0)
        elif progress.topic == mirrored.name and progress.position:
            mirror.stop()

    log.create_topic(other, **SETTINGS).append(b"first")
    mirror.run(follow=True, progress=watch)
    assert mirrored.check() == 1


def test_interrupt_ends_a_wait_and_the_next_run_goes_on(mirrored: Mirrored) -> None:
    mirrored.fill(5, 50)
    threads = []

    def interrupt_soon(progress: kafka.MirrorProgress) -> None:
        if progress.position and not threads:
            kill = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
            threads.append(kill)
            kill.start()

    with pytest.raises(KeyboardInterrupt):
        mirrored.mirror().run(follow=True, progress=interrupt_soon)
    mirrored.cluster.serve_all()
    mirrored.mirror().run()
    assert mirrored.check() == 50 * PARTITIONS


def test_what_progress_raises_ends_the_run_and_nothing_is_sent_twice(mirrored: Mirrored) -> None:
    mirrored.topic.append_many([b"x" * 1000] * 3000, partition=0)

    def fail(progress: kafka.MirrorProgress) -> None:
        if progress.position:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        mirrored.mirror().run(progress=fail)
    mirrored.cluster.serve_all()
    mirrored.mirror().run()
    assert mirrored.check() == 3000


# ---------------------------------------------------------------------- killed


@pytest.mark.slow
def test_killed_mirrors_lose_nothing_and_send_nothing_twice(
    log: pylog.Log, mirrored: Mirrored
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    mirrored.fill(seed, 1000)
    for life in range(2):
        goal = mirrored.cluster.end(mirrored.name, 0) + chance.randrange(1, 800)
        kill_mirror(
            [log.path, mirrored.cluster.bootstrap, mirrored.name, mirrored.state_topic, "auto"],
            lambda: mirrored.cluster.end(mirrored.name, 0),
            goal=min(goal, 1000 * (life + 1)),
        )
        mirrored.cluster.serve_all()
        mirrored.fill(seed + life + 1, 1000)
    mirrored.mirror().run()
    assert mirrored.check() == 1000 * 3 * PARTITIONS


# ---------------------------------------------------------------------- what goes wrong


def test_second_mirror_of_the_same_name_does_not_run(mirrored: Mirrored) -> None:
    mirrored.topic.append(b"one", partition=0)
    errors: list[Exception] = []

    def run_another(progress: kafka.MirrorProgress) -> None:
        try:
            mirrored.mirror().run()
        except pylog.errors.MirrorRunningError as error:
            errors.append(error)

    mirrored.mirror().run(progress=run_another)
    assert errors
    assert mirrored.check() == 1


def test_missing_topic_is_an_error_before_anything_is_sent(
    log: pylog.Log, mirrored: Mirrored
) -> None:
    log.create_topic("not-there", **SETTINGS).append(b"x")
    with pytest.raises(pylog.errors.TargetTopicError) as caught:
        mirrored.mirror(topics=[mirrored.name, "not-there"]).run()
    assert (caught.value.topic, caught.value.partitions, caught.value.needed) == ("not-there", 0, 1)


def test_two_topics_cannot_have_one_name_there(log: pylog.Log, mirrored: Mirrored) -> None:
    log.create_topic("another", **SETTINGS)
    with pytest.raises(pylog.errors.InvalidConfigurationError, match="rename"):
        mirrored.mirror(topics=[mirrored.name, "another"], rename=lambda name: mirrored.name).run()


def test_record_of_anybody_else_at_the_end_is_noticed(mirrored: Mirrored) -> None:
    mirrored.fill(6, 10)
    mirrored.mirror().run()
    mirrored.cluster.produce(mirrored.name, b"not from here", partition=1)
    mirrored.fill(7, 10)
    with pytest.raises(pylog.errors.DivergedTopicError) as caught:
        mirrored.mirror().run()
    assert (caught.value.partition, caught.value.offset) == (1, 10)


def test_record_of_anybody_else_while_it_runs_is_noticed(mirrored: Mirrored) -> None:
    mirrored.topic.append(b"first", partition=0)
    written = []

    def disturb(progress: kafka.MirrorProgress) -> None:
        if progress.position and not written:
            written.append(mirrored.cluster.produce(mirrored.name, b"not from here"))
            mirrored.topic.append(b"second", partition=0)

    with pytest.raises(pylog.errors.OffsetsDifferError) as caught:
        mirrored.mirror().run(follow=True, progress=disturb)
    assert (caught.value.expected, caught.value.actual) == (1, 2)


def test_target_that_is_ahead_of_its_source_is_refused(log: pylog.Log, mirrored: Mirrored) -> None:
    mirrored.fill(8, 3)
    mirrored.mirror().run()
    mirrored.cluster.produce(mirrored.name, b"not from here")
    with pytest.raises(pylog.errors.DivergedTopicError, match="ends at 3"):
        mirrored.mirror().run()


def test_records_that_are_gone_before_they_were_sent_are_an_error(mirrored: Mirrored) -> None:
    mirrored.fill(9, 3)
    mirrored.mirror().run()
    mirrored.fill(10, 3)
    mirrored.topic.delete_records({2: 5})
    with pytest.raises(pylog.errors.NotMirroredError) as caught:
        mirrored.mirror().run()
    place = caught.value
    assert (place.partition, place.position, place.log_start_offset) == (2, 3, 5)


def test_timestamp_that_the_client_cannot_send_is_an_error(mirrored: Mirrored) -> None:
    mirrored.topic.append(b"sent", partition=0)
    mirrored.topic.append(b"not sent", partition=0, timestamp=0)
    with pytest.raises(pylog.errors.UnmirrorableRecordError) as caught:
        mirrored.mirror().run()
    assert caught.value.offset == 1
    assert mirrored.cluster.end(mirrored.name, 0) <= 1


def test_cluster_that_does_not_answer_is_unavailable(
    log: pylog.Log, mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylog.interop.kafka.cluster.REQUEST_SECONDS", 0.2)
    mirror = kafka.Mirror(log, "127.0.0.1:1", topics=[mirrored.name])
    with pytest.raises(pylog.errors.KafkaUnavailableError) as caught:
        mirror.run()
    assert caught.value.retriable
    assert isinstance(caught.value, ConnectionError)


def client_threads() -> int:
    """Return how many threads of librdkafka this process has; each cluster has some, too."""
    count = 0
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            count += (task / "comm").read_text().startswith("rdk")
    return count


@pytest.mark.parametrize("offsets", ["identity", "recorded"])
def test_cluster_that_dies_meanwhile_ends_the_run_and_leaves_no_threads(
    log: pylog.Log, offsets: str
) -> None:
    gc.collect()  # what errors of other tests still hold on to
    before = client_threads()
    mirrored = Mirrored(log, Cluster())
    is_dead = False

    def kill(progress: kafka.MirrorProgress) -> None:
        nonlocal is_dead
        if progress.position and not is_dead:
            mirrored.cluster.die()
            is_dead = True
            mirrored.topic.append_many([b"not sent"] * 1000, partition=0)

    mirrored.topic.append(b"sent", partition=0)
    while not is_dead:  # on a busy machine it may be too slow for that time while it lives
        mirror = mirrored.mirror(offsets=offsets, delivery_timeout_ms=300)
        with pytest.raises(pylog.errors.KafkaUnavailableError):
            mirror.run(follow=True, progress=kill)
    wait_until(lambda: client_threads() <= before)  # joined, and for a moment still to be seen
    assert mirrored.topic.partition(0).log_end_offset == 1001


def test_without_the_client_library_the_error_names_the_extra(
    log: pylog.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(pylog.errors.MissingExtraError, match=r"pylog\[kafka\]"):
        kafka.Mirror(log, "127.0.0.1:1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"offsets": "same"},
        {"topics": ["a"], "pattern": "b"},
        {"max_in_flight_bytes": 0},
        {"delivery_timeout_ms": 0},
    ],
)
def test_wrong_settings_are_refused(log: pylog.Log, wrong: dict[str, Any]) -> None:
    with pytest.raises(pylog.errors.InvalidConfigurationError):
        kafka.Mirror(log, "127.0.0.1:1", **wrong)
