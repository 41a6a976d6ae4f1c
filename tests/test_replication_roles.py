"""Roles of a replicated log: who leads, who follows, and what a change of them keeps."""

from __future__ import annotations

import json
import threading
import uuid
from pathlib import Path

import pytest
from replicas_here import SECRET, TWO, HeldTransport, leading, stored, values, wait_for

import pylog
from pylog import (
    DirectoryTransport,
    Log,
    OffsetAndMetadata,
    ReplicationConfig,
    SocketTransport,
    TopicPartition,
)
from pylog.errors import (
    FencedLeaderEpochError,
    InconsistentClusterIdError,
    InvalidConfigurationError,
    NotEligibleError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderError,
    ReplicationError,
)
from pylog.replication.replica import Replica
from pylog.replication.replicated_log import METADATA
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaBatches
from pylog.storage.files import OsFiles

ALONE = ReplicationConfig()


def committed(log: Log) -> int | None:
    """Return what the group committed, as this log sees it."""
    (offset,) = log.groups.describe("billing").offsets.values()
    return None if offset.committed is None else offset.committed.offset


def visible_ends(log: Log) -> dict[object, int]:
    """Return the high watermark of every partition, internal ones included."""
    replicated = log.replication.log
    return {one: replicated.partition(one).high_watermark for one in replicated.partition_ids()}


def test_a_returning_leader_cuts_just_what_the_next_one_never_had(tmp_path: Path) -> None:
    back = HeldTransport(tmp_path / "a")
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        log.create_topic("orders").append_many([b"%d" % number for number in range(20)])
    # It goes on alone, by acks=1: nobody else ever hears of these.
    with leading(tmp_path / "a", config=ReplicationConfig(acks=1)) as log:
        log.topic("orders").append_many([b"lost"] * 7)
    with pylog.open(tmp_path / "b") as log:
        log.promote(2, [back], config=TWO)
        assert log.replication.wait_in_sync(2)
        log.topic("orders").append(b"20")
        expected = [b"%d" % number for number in range(21)]
        assert values(log, "orders") == expected
        assert back.cuts == [("orders", 20)]
        leader = stored(log.topic("orders").partition(0))
    with pylog.open(tmp_path / "a") as log:
        assert log.replication.status().role == "follower"
        assert stored(log.topic("orders").partition(0)) == leader


def test_a_returning_leader_forgets_commits_that_the_next_one_never_had(tmp_path: Path) -> None:
    orders = TopicPartition("orders", 0)
    copy = DirectoryTransport(tmp_path / "b")
    # No heartbeat tells it too early that another is to lead.
    rare = ReplicationConfig(min_insync_replicas=2, replica_fetch_wait_max_ms=29_000)
    with (
        leading(tmp_path / "a", copy, config=rare) as log,
        log.replication.serve(secret=SECRET) as server,
    ):
        log.create_topic("orders").append_many([b"x"] * 20)
        log.groups.alter_offsets("billing", {orders: OffsetAndMetadata(3)})
        with pylog.open(tmp_path / "b") as follower:  # nothing is on its way there any more
            wait_for(follower, lambda: visible_ends(follower) == visible_ends(log))
        copy.fence(2)
        with pytest.raises(NotEnoughReplicasAfterAppendError):
            log.groups.alter_offsets("billing", {orders: OffsetAndMetadata(9)})
        assert committed(log) == 9
        back = SocketTransport(*server.address, secret=SECRET)
        with leading(tmp_path / "b", back, epoch=2) as new:
            assert (committed(new), committed(log)) == (3, 3)
            new.groups.alter_offsets("billing", {orders: OffsetAndMetadata(5)})
            assert committed(log) == 5


def test_a_leader_whose_follower_promised_another_leads_no_more(tmp_path: Path) -> None:
    with (
        pylog.open(tmp_path / "b") as follower,
        follower.replication.serve(secret=SECRET) as server,
        pylog.open(tmp_path / "a") as log,
    ):
        log.promote(1, [SocketTransport(*server.address, secret=SECRET)], config=TWO)
        assert log.replication.wait_in_sync(2)
        topic = log.create_topic("orders")
        status = SocketTransport(*server.address, secret=SECRET).fence(2)
        assert (status.promised_epoch, status.in_sync is not None) == (2, True)
        with pytest.raises((NotEnoughReplicasAfterAppendError, NotLeaderError)):
            topic.append(b"nobody else takes it")
        wait_for(log, lambda: log.replication.status().role == "follower")
        with pytest.raises(NotLeaderError):
            topic.append(b"x")
        assert not log.replication.status().is_run_here


def test_what_followers_say_moves_nothing_in_a_log_that_leads_no_more(tmp_path: Path) -> None:
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        leader = log.replication._leader
        assert leader is not None
        log.replication.fence(9)
        with pytest.raises(FencedLeaderEpochError):
            leader.settle(lambda rules, now_ms: rules.tick(now_ms))


def test_appends_by_all_are_refused_at_once_when_nobody_replicates(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "a") as other:
        with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
            log.create_topic("orders")
            other.topic("orders").append(b"v")
        with pytest.raises(NotEnoughReplicasError):
            other.topic("orders").append(b"v")


def test_who_waits_is_told_when_the_log_is_demoted(tmp_path: Path) -> None:
    transport = HeldTransport(tmp_path / "b")
    with leading(tmp_path / "a", transport) as log:
        partition = log.create_topic("orders").partition(0)
        transport.gate.clear()
        errors: list[BaseException] = []

        def append() -> None:
            with pytest.raises(NotEnoughReplicasAfterAppendError) as caught:
                partition.append(b"x")
            errors.append(caught.value)

        thread = threading.Thread(target=append)
        thread.start()
        wait_for(log, lambda: partition.log_end_offset == 1)
        log.demote()
        thread.join()
        assert "leads no more" in str(errors[0])


def test_a_leader_goes_on_with_its_own_epoch_in_another_process(tmp_path: Path) -> None:
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        log.create_topic("orders").append(b"x")
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        assert log.topic("orders").append(b"y").offset == 1


def test_a_leader_follows_after_a_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with leading(tmp_path / "a", config=ALONE) as log:
        log.create_topic("orders").append(b"x")
    monkeypatch.setattr(OsFiles, "boot_identity", lambda self: "another boot")
    with pylog.open(tmp_path / "a") as log:
        assert log.replication.status().role == "follower"
        with pytest.raises(FencedLeaderEpochError):
            log.promote(1)
        log.promote(2)
        assert log.replication.wait_in_sync(1)
        assert log.topic("orders").append(b"y").offset == 1


def test_only_who_has_all_may_lead(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "b") as log:
        log.follow()
        with pytest.raises(NotEligibleError):
            log.promote(1)
        log.promote(1, unclean=True)
        assert log.replication.status().role == "leader"


def test_an_epoch_has_one_leader(tmp_path: Path) -> None:
    b = DirectoryTransport(tmp_path / "b")
    with leading(tmp_path / "a", b, epoch=5):
        pass
    with pylog.open(tmp_path / "b") as log:
        for epoch in (4, 5):
            with pytest.raises(FencedLeaderEpochError):
                log.promote(epoch)
        with pytest.raises(FencedLeaderEpochError):
            log.replication.fence(4)
        assert log.replication.fence(5).promised_epoch == 5
        log.promote(6)


@pytest.mark.parametrize("epoch", [0, -1, True, "1", 2**31])
def test_an_epoch_that_is_none_is_refused(tmp_path: Path, epoch: object) -> None:
    with pylog.open(tmp_path / "a") as log, pytest.raises(InvalidConfigurationError):
        log.promote(epoch)  # type: ignore[arg-type]


def test_a_log_of_its_own_does_not_become_a_replica(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "b") as other:
        other.create_topic("mine").append(b"x")
        with other.replication.serve(secret=SECRET) as server, pylog.open(tmp_path / "a") as log:
            log.create_topic("orders")
            transport = SocketTransport(*server.address, secret=SECRET)
            log.promote(1, [transport])
            wait_for(log, lambda: log.replication.status().followers[0].error)
            error = log.replication.status().followers[0].error
            assert error is not None
            assert InconsistentClusterIdError.__name__ in error
        assert values(other, "mine") == [b"x"]
        other.topic("mine").append(b"y")


def test_a_log_does_not_follow_itself(tmp_path: Path) -> None:
    with leading(tmp_path / "a", config=ALONE) as log:
        log.promote(1, [DirectoryTransport(tmp_path / "a")], config=ALONE)
        wait_for(log, lambda: log.replication.status().followers[0].error)
        assert log.create_topic("orders").append(b"x").offset == 0


def test_the_status_is_plain_data(tmp_path: Path) -> None:
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        status = json.loads(json.dumps(log.metrics()))["replication"]
        assert (status["role"], status["epoch"], status["in_sync_replicas"]) == ("leader", 1, 2)
        assert [follower["is_attached"] for follower in status["followers"]] == [True]
    with pylog.open(tmp_path / "c") as log:
        status = log.metrics()["replication"]
        assert (status["role"], status["in_sync"]) == ("none", [])


def test_who_asks_while_a_directory_is_closed_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_busy, may_go_on, caught = threading.Event(), threading.Event(), []

    def apply(self: Replica, batches: ReplicaBatches) -> Acknowledgement:
        is_busy.set()
        may_go_on.wait()
        raise ReplicationError("interrupted")

    monkeypatch.setattr(Replica, "apply_locked", apply)
    transport = DirectoryTransport(tmp_path / "b", timeout=3600)
    transport.handshake(LeaderHello(uuid.UUID(int=7), "a", 1))
    worker = transport._worker
    assert worker is not None
    heartbeat = ReplicaBatches(
        partition=METADATA,
        epoch=1,
        from_offset=0,
        end_offset=0,
        in_sync=None,
        high_watermark=0,
        log_start_offset=0,
    )
    transport.send(heartbeat)
    is_busy.wait()

    def ask() -> None:
        with pytest.raises(ConnectionAbortedError) as error:
            transport.position(METADATA)
        caught.append(error)

    threads = [threading.Thread(target=ask), threading.Thread(target=transport.close)]
    threads[0].start()
    with worker._condition:
        worker._condition.wait_for(lambda: worker._asked)
        threads[1].start()
        worker._condition.wait_for(lambda: worker._is_closed)
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert caught
