"""A log with followers: what is acknowledged, visible and refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from processes import children
from replicas_here import TWO, HeldTransport, kept_mark, leading, stored, values, wait_for

import pylog
from pylog import (
    DirectoryTransport,
    ReplicationConfig,
)
from pylog.errors import (
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderError,
    ReplicationError,
    UnknownTopicOrPartitionError,
)

ALONE = ReplicationConfig()


# ---------------------------------------------------------------- acknowledged and visible


def test_what_is_acknowledged_is_in_every_replica_and_visible(tmp_path: Path) -> None:
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        topic = log.create_topic("orders", partitions=2)
        topic.append_many([b"%d" % number for number in range(100)], keys=[b"k"] * 100)
        topic.append(b"last", key=b"k")
        with log.producer(acks="all") as producer:
            sent = producer.send("orders", b"sent", key=b"k").result()
        assert values(log, "orders")[-2:] == [b"last", b"sent"]
        leader = [stored(partition) for partition in topic.partitions]
    with pylog.open(tmp_path / "b") as follower:
        partitions = follower.topic("orders").partitions
        assert [stored(partition) for partition in partitions] == leader
        assert partitions[sent.partition].log_end_offset == sent.offset + 1


def test_an_append_by_all_waits_and_hides_its_record_until_then(tmp_path: Path) -> None:
    transport = HeldTransport(tmp_path / "b")
    with leading(tmp_path / "a", transport) as log:
        partition = log.create_topic("orders").partition(0)
        partition.append(b"seen")
        transport.gate.clear()
        appended: list[int] = []
        thread = threading.Thread(target=lambda: appended.append(partition.append(b"x").offset))
        thread.start()
        wait_for(log, lambda: partition.durable_offset == 2)
        assert (partition.high_watermark, appended) == (1, [])
        transport.gate.set()
        thread.join()
        assert (partition.high_watermark, appended) == (2, [1])


def test_an_append_by_one_never_waits_for_replicas(tmp_path: Path) -> None:
    transport = HeldTransport(tmp_path / "b")
    config = ReplicationConfig(acks=1, min_insync_replicas=2)
    with leading(tmp_path / "a", transport, config=config) as log:
        partition = log.create_topic("orders").partition(0)
        transport.gate.clear()
        assert [partition.append(b"x").offset for _ in range(3)] == [0, 1, 2]
        with log.producer(acks=1) as producer:
            assert producer.send("orders", b"x").result().offset == 3
        assert partition.high_watermark == 0
        transport.gate.set()
        wait_for(log, lambda: partition.high_watermark == 4)


def test_an_append_that_gets_no_answer_in_time_may_or_may_not_survive(tmp_path: Path) -> None:
    transport = HeldTransport(tmp_path / "b")
    config = ReplicationConfig(min_insync_replicas=2, request_timeout_ms=500)
    with pylog.open(tmp_path / "a") as log:
        partition = log.create_topic("orders").partition(0)  # which may take longer than that
        log.promote(1, [transport], config=config)
        assert log.replication.wait_in_sync(2)
        transport.gate.clear()
        with pytest.raises(NotEnoughReplicasAfterAppendError) as caught:
            partition.append(b"x")
        assert (caught.value.start, caught.value.end) == (0, 1)
        assert (partition.log_end_offset, partition.high_watermark) == (1, 0)


def test_too_few_replicas_refuse_an_append_before_it_is_there(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "a") as log:
        topic = log.create_topic("orders", partitions=2)
        log.promote(1, config=TWO)
        wait_for(log, lambda: log.replication.status().in_sync_replicas == 1)
        for append in (
            lambda: topic.append(b"x"),
            lambda: topic.append_many([b"x", b"y"], keys=[b"k", b"l"]),
            lambda: topic.partition(0).append_many([b"x"]),
            lambda: log.create_topic("more"),
        ):
            with pytest.raises(NotEnoughReplicasError) as caught:
                append()
            assert (caught.value.in_sync, caught.value.needed) == (1, 2)
            assert caught.value.retriable
        assert [partition.log_end_offset for partition in topic.partitions] == [0, 0]


def test_a_topic_may_ask_for_more_replicas_than_the_log(tmp_path: Path) -> None:
    with leading(tmp_path / "a", config=ALONE) as log:
        log.create_topic("few").append(b"x")
        with pytest.raises(NotEnoughReplicasError):
            log.create_topic("many", min_insync_replicas=2).append(b"x")


def test_a_producer_tries_again_until_enough_replicas_are_there(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "a") as log:
        log.create_topic("orders")
        log.promote(1, config=TWO)
        with log.producer(retry_backoff_ms=1) as producer:
            future = producer.send("orders", b"x")
            producer.flush(timeout=0.01)
            log.promote(1, [DirectoryTransport(tmp_path / "b")], config=TWO)
            assert future.result().offset == 0


def test_a_slow_replica_falls_out_and_comes_back(tmp_path: Path) -> None:
    transport = HeldTransport(tmp_path / "b")
    config = ReplicationConfig(replica_lag_time_max_ms=300, replica_fetch_wait_max_ms=50)
    with leading(tmp_path / "a", transport, config=config) as log:
        partition = log.create_topic("orders").partition(0)
        transport.gate.clear()
        # It waits for the slow one until that is out: then it is alone.
        assert partition.append(b"x").offset == 0
        assert log.replication.status().in_sync_replicas == 1
        transport.gate.set()
        assert log.replication.wait_in_sync(2)
        assert partition.append(b"y").offset == 1


def test_other_processes_append_and_wait_for_replicas_too(tmp_path: Path) -> None:
    def append() -> None:
        with pylog.open(tmp_path / "a") as log:
            assert log.topic("orders").append(b"from elsewhere").offset == 0
            with pytest.raises(ReplicationError, match="another process"):
                log.promote(2)

    with leading(tmp_path / "z", config=ALONE):
        pass  # nothing of a log that was open before is in the child's way
    with children() as start, leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        topic = log.create_topic("orders")
        start(append).join()
        assert values(log, "orders") == [b"from elsewhere"]
        assert topic.partition(0).high_watermark == 1


# ---------------------------------------------------------------- followers


def test_a_follower_reads_and_refuses_to_write(tmp_path: Path) -> None:
    with (
        pylog.open(tmp_path / "b") as follower,
        leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log,
    ):
        log.create_topic("orders").append(b"x", key=b"k")
        wait_for(follower, lambda: follower.topics() == ["orders"])
        topic = follower.topic("orders")
        wait_for(follower, lambda: topic.partition(0).high_watermark == 1)
        assert values(follower, "orders") == [b"x"]
        for write in (
            lambda: topic.append(b"y"),
            lambda: topic.append_many([b"y"]),
            lambda: follower.create_topic("more"),
            lambda: follower.alter_topic("orders", retention_ms=1),
            lambda: follower.delete_topic("orders"),
            lambda: follower.groups.reset_offsets("g", ["orders"], to="earliest"),
        ):
            with pytest.raises(NotLeaderError):
                write()
        with follower.producer(delivery_timeout_ms=200, linger_ms=0) as producer:
            cause = None
            while cause is None:  # on a busy machine its time may be over before it was tried
                cause = producer.send("orders", b"y").exception().__cause__
            assert isinstance(cause, NotLeaderError)
        assert topic.partition(0).log_end_offset == 1


def test_topics_that_change_or_go_do_so_on_followers(tmp_path: Path) -> None:
    with (
        pylog.open(tmp_path / "b") as follower,
        leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log,
    ):
        topic = log.create_topic("orders")
        topic.append(b"old")
        log.alter_topic("orders", retention_ms=12345)
        topic.add_partitions(3)
        topic.append(b"two", partition=2)
        wait_for(follower, lambda: follower.topics() and len(follower.topic("orders")) == 3)
        assert follower.topic("orders").config.retention_ms == 12345
        wait_for(follower, lambda: follower.topic("orders").partition(2).high_watermark == 1)
        log.delete_topic("orders")
        wait_for(follower, lambda: follower.topics() == [])
        wait_for(follower, lambda: not (tmp_path / "b" / "orders-2").exists())
        log.create_topic("orders").append(b"new")
        wait_for(follower, lambda: follower.topics() == ["orders"])
        wait_for(follower, lambda: follower.topic("orders").partition(0).high_watermark == 1)
        assert values(follower, "orders") == [b"new"]
        with pytest.raises(UnknownTopicOrPartitionError):
            follower.topic("orders").partition(2)


def test_a_topic_that_was_seen_stays_known_after_a_power_cut(tmp_path: Path) -> None:
    leader, other = tmp_path / "a", tmp_path / "b"
    with pylog.open(leader) as log, pylog.open(other) as follower:
        log.create_topic("before")
        log.promote(1, [DirectoryTransport(other)])
        seen = kept_mark(leader)
        assert seen > 0
        log.create_topic("orders")
        wait_for(log, lambda: kept_mark(leader) > seen)
        wait_for(follower, lambda: follower.topics() == ["before", "orders"])
        wait_for(follower, lambda: kept_mark(other) == kept_mark(leader))


def test_a_new_follower_gets_what_compaction_left_with_its_gaps(tmp_path: Path) -> None:
    with leading(tmp_path / "a", config=ALONE) as log:
        topic = log.create_topic("state", cleanup_policy="compact", segment_bytes=2048)
        for number in range(200):
            topic.append(b"%d" % number, key=b"key-%d" % (number % 7))
        topic.compact()
        log.promote(1, [DirectoryTransport(tmp_path / "b")], config=ALONE)
        assert log.replication.wait_in_sync(2)
        topic.append(b"more", key=b"key-1")
        leader = stored(topic.partition(0))
        kept = [record.offset for record in topic.read()]
        assert len(kept) < 100
    with pylog.open(tmp_path / "b") as follower:
        assert stored(follower.topic("state").partition(0)) == leader


def test_a_follower_behind_the_log_start_begins_there(tmp_path: Path) -> None:
    transport = HeldTransport(tmp_path / "b")
    with leading(tmp_path / "a", transport, config=ALONE) as log:
        log.create_topic("orders").append(b"both have it")
    with leading(tmp_path / "a", config=ALONE) as log:
        topic = log.topic("orders")
        topic.append_many([b"%d" % number for number in range(10)])
        topic.delete_records({0: 8})
        log.promote(1, [transport], config=ALONE)
        assert log.replication.wait_in_sync(2)
        assert transport.cuts == [("orders", 8)] or transport.cuts == [("orders", 1)]
        assert topic.append(b"after").offset == 11
    with pylog.open(tmp_path / "b") as follower:
        assert follower.topic("orders").partition(0).log_end_offset == 12


def test_what_the_leader_deletes_goes_on_followers(tmp_path: Path) -> None:
    with (
        pylog.open(tmp_path / "b") as follower,
        leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log,
    ):
        topic = log.create_topic("orders")
        topic.append_many([b"%d" % number for number in range(10)])
        topic.delete_records({0: 4})
        topic.append(b"more")
        wait_for(follower, lambda: follower.topics() == ["orders"])
        partition = follower.topic("orders").partition(0)
        wait_for(follower, lambda: partition.log_start_offset == 4)
        assert [record.offset for record in partition.records(4, 6)] == [4, 5]
