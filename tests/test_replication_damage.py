"""A partition that the leader cannot read: it stops, and all others go on."""

from __future__ import annotations

from pathlib import Path

import pytest
from replicas_here import TWO, HeldTransport, leading, stored, values, wait_for

import pylog
from pylog import Log, Partition, ReplicationConfig
from pylog.errors import CorruptRangeError
from pylog.replication import link_session
from pylog.storage.replica_batches import StoredBatches

QUICK = ReplicationConfig(
    min_insync_replicas=2, replica_lag_time_max_ms=300, replica_fetch_wait_max_ms=50
)


def damage(path: Path, topic: str) -> None:
    """Flip a bit in the last batch of a topic."""
    file = path / f"{topic}-0" / "00000000000000000000.log"
    data = bytearray(file.read_bytes())
    data[data.rindex(b"bad") + 1] ^= 1
    file.write_bytes(data)


def stopped(log: Log) -> dict[str, str]:
    return log.replication.status().followers[0].stopped


def test_damaged_bytes_stop_one_partition_and_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with leading(tmp_path / "a", config=ReplicationConfig()) as log:
        for name in ("orders", "payments"):
            log.create_topic(name).append(b"good")
        log.topic("orders").append(b"bad")
    damage(tmp_path / "a", "orders")
    transport = HeldTransport(tmp_path / "b")
    with pylog.open(tmp_path / "a") as log, pylog.open(tmp_path / "b") as follower:
        log.promote(1, [transport])
        payments = log.topic("payments")
        wait_for(log, lambda: stopped(log))
        assert payments.append(b"more").offset == 1
        wait_for(follower, lambda: follower.topics() == ["orders", "payments"])
        wait_for(follower, lambda: len(values(follower, "payments")) == 2)
        assert values(follower, "orders") == [b"good"]
        # It lacks what was acknowledged by the leader alone, so it may not count.
        assert log.replication.status().in_sync_replicas == 1
        assert set(stopped(log)) == {"orders-0"}
        assert stopped(log)["orders-0"].startswith("CorruptRangeError")
        assert log.metrics()["replication"]["followers"][0]["stopped"] == stopped(log)
        assert len(transport.hellos) == 1
    assert caplog.text.count("gets no more of it: CorruptRangeError") == 1


def test_who_has_all_that_was_acknowledged_stays_in_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, is_damaged = Partition.read_batches, [False]

    def read_what_is_whole(self: Partition, offset: int, max_bytes: int = 1) -> StoredBatches:
        if is_damaged[0] and self.topic == "orders" and offset >= 1:
            raise CorruptRangeError(1, 1)
        return read(self, offset, max_bytes)

    monkeypatch.setattr(Partition, "read_batches", read_what_is_whole)
    monkeypatch.setattr(link_session, "_TRY_AGAIN", 0.05)
    with leading(tmp_path / "a", HeldTransport(tmp_path / "b"), config=QUICK) as log:
        orders, payments = (log.create_topic(name) for name in ("orders", "payments"))
        orders.append(b"good")
        is_damaged[0] = True
        with log.producer(acks=1) as producer:
            assert producer.send("orders", b"bad").result().offset == 1
        leader = log.replication._leader
        assert leader is not None
        too_late = leader.now_ms() + 3 * QUICK.replica_lag_time_max_ms
        wait_for(log, lambda: leader.now_ms() > too_late)
        assert payments.append(b"acknowledged by both").offset == 0
        assert (orders.partition(0).high_watermark, set(stopped(log))) == (1, {"orders-0"})
        is_damaged[0] = False
        wait_for(log, lambda: orders.partition(0).high_watermark == 2)
        wait_for(log, lambda: not stopped(log))
        whole = stored(orders.partition(0))
    with pylog.open(tmp_path / "b") as follower:
        assert stored(follower.topic("orders").partition(0)) == whole


def test_damaged_topics_do_not_stop_those_that_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leading(tmp_path / "a", HeldTransport(tmp_path / "b"), config=TWO) as log:
        orders = log.create_topic("orders")
        orders.append(b"x")
        read = Partition.read_batches

        def read_no_metadata(self: Partition, offset: int, max_bytes: int = 1) -> StoredBatches:
            if self.topic == "__metadata":
                raise OSError(5, "Input/output error")
            return read(self, offset, max_bytes)

        monkeypatch.setattr(Partition, "read_batches", read_no_metadata)
        wait_for(log, lambda: stopped(log))
        assert orders.append(b"y").offset == 1
        assert "Input/output error" in stopped(log)["__metadata-0"]
