"""Replicas within one process: logs in directories, and transports that tests can hold up."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pylog
from pylog import DirectoryTransport, Log, Partition, ReplicationConfig
from pylog.replication.facts import PartitionId, ReplicaPosition
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaHello

SECRET = b"known to all logs of a test"
TWO = ReplicationConfig(min_insync_replicas=2)


class HeldTransport(DirectoryTransport):
    """A follower whose acknowledgements a test can hold up, and that notes what it was to cut."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = threading.Event()
        self.gate.set()
        self.hellos: list[LeaderHello] = []
        self.cuts: list[tuple[str, int]] = []

    def handshake(self, hello: LeaderHello) -> ReplicaHello:
        self.hellos.append(hello)
        return super().handshake(hello)

    def truncate(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        self.cuts.append((partition.topic, end_offset))
        return super().truncate(partition, end_offset)

    def start_anew(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        self.cuts.append((partition.topic, offset))
        return super().start_anew(partition, offset)

    def acknowledgement(self, timeout: float) -> Acknowledgement | None:
        acknowledgement = super().acknowledgement(timeout)
        self.gate.wait()
        return acknowledgement

    def close(self) -> None:
        # Whoever waits at the gate has to hear of the end.
        is_open = self.gate.is_set()
        self.gate.set()
        super().close()
        if not is_open:
            self.gate.clear()


@contextlib.contextmanager
def leading(
    path: Path, *replicas: DirectoryTransport, epoch: int = 1, config: ReplicationConfig = TWO
) -> Iterator[Log]:
    """Open a log and let it lead, with all its followers in sync."""
    with pylog.open(path) as log:
        log.promote(epoch, replicas, config=config)
        assert log.replication.wait_in_sync(1 + len(replicas))
        yield log


def wait_for(log: Log, is_so: object) -> None:
    """Wait until a function of nothing is true, looking whenever anything happens in a log."""
    assert callable(is_so)
    events = log.replication.log.engine.events
    while True:
        seen = events.value
        if is_so():
            return
        events.wait(seen, 0.05)


def stored(partition: Partition) -> bytes:
    """Return all batches of a partition, as they are stored."""
    data, offset = b"", partition.log_start_offset
    while offset < partition.log_end_offset:
        batches = partition.read_batches(offset, 1 << 20)
        data += bytes(batches.data)
        offset = batches.end
    return data


def values(log: Log, topic: str) -> list[bytes | None]:
    """Return what can be read of a topic."""
    return [record.value for record in log.read(topic)]


def kept_mark(log: Path) -> int:
    """Return the high watermark of `__metadata` that a power cut leaves."""
    found = re.search(
        r"^high_watermark (\d+)$", (log / "__metadata-0" / "manifest").read_text(), re.M
    )
    assert found is not None
    return int(found[1])
