"""Brokers for tests: processes that serve a log, lead when they are told, and get killed.

A node says what was acknowledged to it, line by line, into a pipe that outlives it: what stands
there was promised.  It is found by a file beside its directory, for it gets another port each time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path

from processes import Child, value_of

import pylog
from pylog import Log, ReplicaStatus, ReplicationConfig, SocketTransport
from pylog.replication.facts import PartitionId, ReplicaPosition
from pylog.replication.transport import (
    Acknowledgement,
    LeaderHello,
    ReplicaBatches,
    ReplicaHello,
)

SECRET = b"known to all nodes of a test"
TOPIC = "orders"
CONFIG = ReplicationConfig(min_insync_replicas=2)
Start = Callable[[Callable[[], object]], Child]


def address_of(path: Path) -> tuple[str, int]:
    """Return where the node of a directory listens now."""
    host, port = path.with_suffix(".address").read_text().split()
    return host, int(port)


class FoundTransport:
    """A follower whose address is looked up for each session, as names are in a cluster."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: SocketTransport | None = None

    def handshake(self, hello: LeaderHello) -> ReplicaHello:
        self.close()
        self._found = SocketTransport(*address_of(self._path), secret=SECRET)
        return self._found.handshake(hello)

    @property
    def _now(self) -> SocketTransport:
        found = self._found
        if found is None:
            raise ConnectionAbortedError("no session")
        return found

    def position(self, partition: PartitionId) -> ReplicaPosition:
        return self._now.position(partition)

    def truncate(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        return self._now.truncate(partition, end_offset)

    def start_anew(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        return self._now.start_anew(partition, offset)

    def send(self, batches: ReplicaBatches) -> None:
        self._now.send(batches)

    def acknowledgement(self, timeout: float) -> Acknowledgement | None:
        return self._now.acknowledgement(timeout)

    def close(self) -> None:
        found, self._found = self._found, None
        if found is not None:
            found.close()


@dataclasses.dataclass
class Life:
    """What a leader was told, from its promotion to its end: offsets by turn."""

    number: int
    offsets: list[int] = dataclasses.field(default_factory=list)


class Node:
    """A broker: one directory, and one process after the other."""

    def __init__(self, start: Start, path: Path) -> None:
        self._start = start
        self.path = path
        self._child: Child | None = None
        self._rest = b""

    def start(self) -> None:
        """Start a process, and wait until it serves."""
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._rest = b""
        self._child = self._start(lambda: _live(self.path, commands, answers))
        os.close(commands)
        os.close(answers)
        assert self.hear() == ["serves"]

    def kill(self) -> None:
        """SIGKILL."""
        assert self._child is not None
        self._child.kill()
        self._child = None

    def tell(self, *words: object) -> None:
        """Tell the process to do something."""
        os.write(self._commands, " ".join(map(str, words)).encode() + b"\n")

    def hear(self) -> list[str]:
        """Wait for a line; return its words."""
        while b"\n" not in self._rest:
            data = os.read(self._answers, 1 << 16)
            assert data, "the node ended by itself"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().split()

    def heard(self) -> Iterator[list[str]]:
        """Yield the lines that are there, waiting for none: what a killed process has said."""
        while b"\n" in self._rest or select.select([self._answers], [], [], 0)[0]:
            if b"\n" not in self._rest:
                data = os.read(self._answers, 1 << 16)
                if not data:
                    return
                self._rest += data
            if b"\n" in self._rest:
                yield self.hear()

    def fence(self, epoch: int) -> ReplicaStatus:
        """Let it promise an epoch."""
        return SocketTransport(*address_of(self.path), secret=SECRET).fence(epoch)


def _live(path: Path, commands: int, answers: int) -> None:
    """Serve a log and do what is told, until the end."""

    def say(*words: object) -> None:
        # One write of less than PIPE_BUF: it is there whole, or not at all.
        os.write(answers, " ".join(map(str, words)).encode() + b"\n")

    with (
        pylog.open(path) as log,
        log.replication.serve(secret=SECRET) as server,
        os.fdopen(commands) as lines,
    ):
        host, port = server.address
        new = path.with_suffix(".new")
        new.write_text(f"{host} {port}")
        new.rename(path.with_suffix(".address"))
        say("serves")
        for line in lines:
            command, *words = line.split()
            if command == "lead":
                epoch, *others = words
                log.promote(int(epoch), [FoundTransport(Path(o)) for o in others], config=CONFIG)
                log.replication.wait_in_sync(2)
                say("leads")
            elif command == "append":
                _append(log, int(words[0]), int(words[1]), say)
            elif command == "consume":
                _consume(log, int(words[0]), say)
            elif command == "gather":
                log.replication.wait_in_sync(int(words[0]))
                say("gathered")


def _append(log: Log, life: int, turns: int, say: Callable[..., None]) -> None:
    topic = log.create_topic(TOPIC, if_exists="ok")
    for turn in range(turns):
        say("appended", turn, topic.append(value_of(life, turn)).offset)


def _consume(log: Log, count: int, say: Callable[..., None]) -> None:
    """Read on as a member of a group, and commit each record when it is said."""
    with log.consumer(TOPIC, group="billing", enable_auto_commit=False) as consumer:
        for _, record in zip(range(count), consumer, strict=False):
            say("consumed", record.offset)
            consumer.commit(record)
            say("committed", record.offset + 1)


@contextlib.contextmanager
def nodes(start: Start, directory: Path, count: int = 3) -> Iterator[list[Node]]:
    """Start brokers; their processes end with the test."""
    started = [Node(start, directory / f"node{number}") for number in range(count)]
    for node in started:
        node.start()
    yield started
