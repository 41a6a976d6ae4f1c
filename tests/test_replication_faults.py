"""What goes wrong beside the rules: races, full disks, and peers and transports that misbehave."""

from __future__ import annotations

import dataclasses
import errno
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from processes import children
from replicas import OS, Host, leader
from replicas_here import SECRET, HeldTransport, kept_mark, leading, wait_for

import pylog
from pylog import DirectoryTransport, Log, Partition, ReplicationConfig
from pylog.errors import FencedLeaderEpochError, ReplicationTimeoutError
from pylog.replication import roles, wire
from pylog.replication.connection import Connection
from pylog.replication.divergence import Truncate, divergence
from pylog.replication.facts import InSync, PartitionId, ReplicaPosition
from pylog.replication.leader import Leader, Led
from pylog.replication.link_session import LinkSession
from pylog.replication.replica import Replica
from pylog.replication.replicated_log import METADATA, ReplicatedLog, position_of
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaBatches, ReplicaHello
from pylog.replication.wire import Kind
from pylog.storage import replicated

ALONE = ReplicationConfig()
QUICK = ReplicationConfig(replica_lag_time_max_ms=300, replica_fetch_wait_max_ms=50)
HELLO = LeaderHello(uuid.UUID(int=7), "leader", 3)


def leader_of(log: Log) -> Leader:
    found = log.replication._leader
    assert found is not None
    return found


def heartbeat(in_sync: InSync | None = None) -> ReplicaBatches:
    return ReplicaBatches(
        partition=METADATA,
        epoch=3,
        from_offset=0,
        end_offset=0,
        in_sync=in_sync,
        high_watermark=0,
        log_start_offset=0,
    )


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, "no space left")


# ---------------------------------------------------------------- the leader


def test_an_epoch_that_begins_while_a_position_is_read_is_not_taken_for_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(leader(1))
    partition = host.partition(OS)
    partition.append_many([b"x"] * 3)
    host.become(leader(2))
    load, reads = replicated.load_epochs, [1]

    def load_and_append(directory: object) -> object:
        epochs = load(directory)  # type: ignore[arg-type]
        if reads.pop():
            reads.append(0)
            partition.append_many([b"first of epoch 2"] * 4)
        return epochs

    monkeypatch.setattr(replicated, "load_epochs", load_and_append)
    # The one that led in epoch 1 has two records more of it, which nobody else has.
    theirs = ReplicaPosition(epochs=((1, 0),), log_end_offset=5)
    assert divergence(position_of(partition), theirs) == Truncate(3)
    assert partition.log_end_offset == 7


def test_a_leader_goes_on_when_a_topic_goes_while_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leading(tmp_path / "a", config=ALONE) as log:
        log.create_topic("orders").append(b"x")
        here = leader_of(log)
        changed = here._changed_topics
        monkeypatch.setattr(here, "_changed_topics", lambda: ([], []))
        log.delete_topic("orders")
        here._look()
        monkeypatch.setattr(here, "_changed_topics", changed)
        assert log.create_topic("more").append(b"x").offset == 0
        assert log.replication.status().is_run_here


def test_a_leader_goes_on_when_a_topic_goes_before_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ReplicatedLog.partition_ids
    gone = PartitionId("gone", 0, uuid.UUID(int=1))
    monkeypatch.setattr(ReplicatedLog, "partition_ids", lambda self: [*ids(self), gone])
    with leading(tmp_path / "a", config=ALONE) as log:
        assert log.create_topic("orders").append(b"x").offset == 0
        assert gone not in leader_of(log).led


def test_a_leader_whose_disk_was_full_goes_on_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport, replace, is_full = HeldTransport(tmp_path / "b"), roles.replace_state, [False]

    def replace_unless_full(*arguments: object) -> None:
        if is_full[0]:
            raise disk_full()
        replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(roles, "replace_state", replace_unless_full)
    with leading(tmp_path / "a", transport, config=QUICK) as log:
        partition = log.create_topic("orders").partition(0)
        is_full[0] = True
        transport.gate.clear()  # so it falls out of sync, which cannot be written down
        wait_for(log, lambda: "no space left" in (log.replication.status().error or ""))
        is_full[0] = False
        assert partition.append(b"x").offset == 0
        status = log.replication.status()
        assert (status.is_run_here, status.error, status.in_sync_replicas) == (True, None, 1)
        transport.gate.set()
        assert log.replication.wait_in_sync(2)
        assert partition.append(b"y").offset == 1


def test_a_promotion_that_is_refused_leaves_the_leader_as_it_is(tmp_path: Path) -> None:
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b"), epoch=5) as log:
        with pytest.raises(FencedLeaderEpochError):
            log.promote(4)
        assert log.replication.status().is_run_here
        assert log.create_topic("orders").append(b"x").offset == 0


def test_a_look_reads_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with leading(tmp_path / "a", config=ALONE) as log:
        topic = log.create_topic("orders", partitions=9)
        for partition in topic.partitions[:5]:
            partition.append(b"x")
        looked: list[str] = []
        look = Led.look

        def noted(self: Led) -> None:
            looked.append(str(self.id))
            look(self)

        here = leader_of(log)
        here._look()
        monkeypatch.setattr(here, "_look_at_all_ms", 2**62)
        monkeypatch.setattr(Led, "look", noted)
        topic.append(b"x", partition=3)
        topic.append(b"x", partition=7)
        assert set(looked) == {"orders-3", "orders-7"}


def test_the_first_record_of_a_partition_that_another_process_makes_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append() -> None:
        with pylog.open(tmp_path / "a") as log:
            log.topic("orders").append(b"x")

    with children() as start, leading(tmp_path / "a", config=ALONE) as log:
        partition = log.create_topic("orders").partition(0)
        monkeypatch.setattr(leader_of(log), "_look_at_all_ms", 2**62)
        start(append).join()
        assert partition.high_watermark == 1


@pytest.mark.parametrize("whose", ["a", "b"])
def test_what_a_full_disk_kept_from_being_kept_is_kept_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    keep, failures = Partition.keep_high_watermark, [disk_full()]

    def fail_first(self: Partition) -> None:
        if failures and f"/{whose}/" in self._directory.path:
            raise failures.pop()
        keep(self)

    with (
        pylog.open(tmp_path / "b") as follower,
        follower.replication.serve(secret=SECRET) as server,
        leading(tmp_path / "a", pylog.SocketTransport(*server.address, secret=SECRET)) as log,
    ):
        log.create_topic("before")
        wait_for(log, lambda: kept_mark(tmp_path / whose) == log.replication.log.registry.version)
        monkeypatch.setattr(Partition, "keep_high_watermark", fail_first)
        log.create_topic("orders").append(b"x")
        wait_for(log, lambda: kept_mark(tmp_path / whose) == log.replication.log.registry.version)
        assert not failures


# ---------------------------------------------------------------- sessions


def test_what_moved_is_told_also_while_there_is_always_more_to_send(tmp_path: Path) -> None:
    with leading(tmp_path / "a", HeldTransport(tmp_path / "b"), config=ALONE) as log:
        session = LinkSession(leader_of(log), HeldTransport(tmp_path / "c"), ReplicaHello("other"))
        grown, moved = (PartitionId(name, 0, uuid.UUID(int=1)) for name in ("grown", "moved"))
        session.wake([grown], [moved])
        session._tell_at = 0.0
        assert session._next() == [moved]
        assert session._next() == [grown]


def test_messages_without_batches_are_bounded_too(tmp_path: Path) -> None:
    transport = HeldTransport(tmp_path / "b")
    with leading(tmp_path / "a", transport, config=QUICK) as log:
        transport.gate.clear()
        wait_for(log, lambda: log.replication.status().followers[0].in_flight_bytes > 0)
        transport.gate.set()
        wait_for(log, lambda: log.replication.status().followers[0].in_flight_bytes == 0)
        assert log.create_topic("orders").append(b"x").offset == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_transport_that_breaks_its_contract_does_not_hang_the_session(tmp_path: Path) -> None:
    class Broken(HeldTransport):
        def acknowledgement(self, timeout: float) -> Acknowledgement | None:
            if len(self.hellos) == 1:
                raise RuntimeError("not a ReplicationError")
            return super().acknowledgement(timeout)

    with leading(tmp_path / "a", Broken(tmp_path / "b"), config=ALONE) as log:
        assert log.create_topic("orders").append(b"x").offset == 0


def test_who_cannot_write_down_that_it_leads_no_more_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step_down, failures = Leader.step_down, [disk_full()]

    def fail_first(self: Leader, error: FencedLeaderEpochError) -> None:
        if failures:
            raise failures.pop()
        step_down(self, error)

    monkeypatch.setattr(Leader, "step_down", fail_first)
    transport = HeldTransport(tmp_path / "b")
    with pylog.open(tmp_path / "b") as follower:
        follower.replication.fence(9)
    with pylog.open(tmp_path / "a") as log:
        log.promote(1, [transport])
        wait_for(log, lambda: log.replication.status().role == "follower")
        assert not failures


# ---------------------------------------------------------------- followers


def test_nothing_is_acknowledged_in_place_of_what_was_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied, is_applying, may_fail = Replica.apply_locked, threading.Event(), threading.Event()
    failures = [disk_full()]

    def fail_first(self: Replica, batches: ReplicaBatches) -> Acknowledgement:
        if failures:
            is_applying.set()
            may_fail.wait()
            raise failures.pop()
        return applied(self, batches)

    monkeypatch.setattr(Replica, "apply_locked", fail_first)
    transport = DirectoryTransport(tmp_path / "b")
    transport.handshake(HELLO)
    worker = transport._worker
    assert worker is not None
    transport.send(heartbeat())
    is_applying.wait()
    transport.send(heartbeat())
    may_fail.set()
    worker._thread.join()
    with pytest.raises(OSError, match="no space"):
        transport.acknowledgement(0)
    transport.close()


def test_who_is_in_sync_is_not_acknowledged_unless_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ReplicatedLog.open(tmp_path / "b")
    replica = Replica(log)
    replica.open()
    session = replica.handshake(HELLO)
    in_sync = InSync(3, 1, frozenset({"leader", log.roles.replica_id}))

    def fail(*_: object) -> None:
        raise disk_full()

    with monkeypatch.context() as patch:
        patch.setattr(roles, "replace_state", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="no space"):
                list(session.apply([heartbeat(in_sync)]))
    assert [one.in_sync for one in session.apply([heartbeat(in_sync)])] == [(3, 1)]
    replica.close()
    log.close()


def test_files_of_a_topic_that_the_next_leader_never_had_are_removed(tmp_path: Path) -> None:
    def topic_in(name: str) -> ReplicaBatches:
        """The record of a log's only topic, as a leader sends it."""
        with pylog.open(tmp_path / f"leader-of-{name}") as source:
            source.create_topic(name)
            stored = source.replication.log.registry.metadata.read_batches(0)
        return dataclasses.replace(
            heartbeat(), end_offset=stored.end, high_watermark=stored.end, data=stored.data
        )

    log = ReplicatedLog.open(tmp_path / "b")
    replica = Replica(log)
    replica.open()
    session = replica.handshake(HELLO)
    for _ in session.apply([topic_in("gone")]):
        log.registry.get("gone").partition(0).append_replica(b"", end_offset=1)
    assert (tmp_path / "b" / "gone-0").is_dir()
    session = replica.handshake(HELLO)
    session.truncate(METADATA, 0)
    # As many records as before: that is not as before.
    list(session.apply([topic_in("new")]))
    assert [topic.name for topic in log.registry.all_facts()] == ["new"]
    assert not (tmp_path / "b" / "gone-0").exists()
    replica.close()
    log.close()


def test_files_of_deleted_topics_that_a_crash_left_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def there() -> set[str]:
        return {path.name for path in (tmp_path / "b").iterdir() if path.is_dir()}

    with (
        monkeypatch.context() as crash,
        pylog.open(tmp_path / "b") as follower,
        leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log,
    ):
        crash.setattr(Replica, "_delete_gone_topics", lambda self: None)
        for name in ("orders", "payments"):
            topic = log.create_topic(name, partitions=2)
            for partition in topic.partitions:
                partition.append(b"x")
            log.delete_topic(name)
        log.create_topic("payments").append(b"new")
        ends = [one.replication.log.registry.metadata for one in (log, follower)]
        wait_for(follower, lambda: ends[1].high_watermark == ends[0].log_end_offset)
    (tmp_path / "b" / "unknown-0").mkdir()
    left = {"orders-0", "orders-1", "payments-1"}
    assert left < there()
    here = ReplicatedLog.open(tmp_path / "b")
    with monkeypatch.context() as hidden:
        # One record more, which may say that a topic was made anew.
        mark = here.registry.version
        marks = Mock(high_watermark=mark, log_end_offset=mark + 1)
        hidden.setattr(here.registry.metadata, "marks", lambda: marks)
        here.remove_deleted()
    assert left < there()
    here.close()
    with leading(tmp_path / "a", DirectoryTransport(tmp_path / "b")) as log:
        assert there() & (left | {"unknown-0", "payments-0"}) == {"unknown-0", "payments-0"}
        assert log.topic("payments").append(b"more").offset == 1


# ---------------------------------------------------------------- connections


def test_who_sends_a_byte_now_and_then_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    connection = Connection(ours, timeout=10, max_message_bytes=100)
    theirs.sendall(wire.encode(Kind.FENCE, {"epoch": 1}))
    # Its length comes at once, the rest by and by.
    times: Callable[[], float] = iter([0.0, 1.0, 11.0]).__next__
    monkeypatch.setattr(time, "monotonic", times)
    with pytest.raises(ReplicationTimeoutError, match="in the middle"):
        connection.receive()
    connection.close()
    theirs.close()


def test_a_server_that_cannot_start_a_thread_serves_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")]

    def fail_first(self: threading.Thread) -> None:
        if failures and self.name == "pylog-replica":
            raise failures.pop()
        start(self)

    with (
        pylog.open(tmp_path / "b") as log,
        log.replication.serve(secret=SECRET) as server,
    ):
        monkeypatch.setattr(threading.Thread, "start", fail_first)
        with pytest.raises(OSError):
            pylog.SocketTransport(*server.address, secret=SECRET).fence(2)
        status = pylog.SocketTransport(*server.address, secret=SECRET).fence(2)
        assert (status.promised_epoch, failures) == (2, [])
