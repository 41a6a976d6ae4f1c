"""The follower's side of a socket: who may ask, and what becomes of whoever says nonsense."""

from __future__ import annotations

import contextlib
import random
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import HANG_SECONDS
from replicas_here import SECRET

import pylog
from pylog import ReplicaServer, SocketTransport
from pylog.errors import (
    AuthenticationError,
    FencedLeaderEpochError,
    InvalidMessageError,
    PylogError,
    ReplicationError,
    ReplicationTimeoutError,
)
from pylog.replication import wire
from pylog.replication.connection import Connection
from pylog.replication.facts import InSync
from pylog.replication.replicated_log import METADATA
from pylog.replication.transport import LeaderHello, ReplicaBatches
from pylog.replication.wire import Kind

HELLO = LeaderHello(uuid.UUID(int=5), "leader", 3)
IN_SYNC = InSync(3, 1, frozenset({"leader"}))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReplicaServer]:
    with pylog.open(tmp_path / "log") as log, log.replication.serve(secret=SECRET) as server:
        yield server


@contextlib.contextmanager
def transport_to(server: ReplicaServer) -> Iterator[SocketTransport]:
    transport = SocketTransport(*server.address, secret=SECRET, timeout=HANG_SECONDS)
    try:
        yield transport
    finally:
        transport.close()


@contextlib.contextmanager
def authenticated(server: ReplicaServer) -> Iterator[Connection]:
    """A connection of somebody who knows the secret and may say anything."""
    connected = socket.create_connection(server.address, timeout=HANG_SECONDS)
    connection = Connection(connected, timeout=HANG_SECONDS, max_message_bytes=1 << 20)
    with contextlib.closing(connection):
        connection.greet_as_client(SECRET)
        yield connection


def is_served(server: ReplicaServer) -> bool:
    """Return whether a leader still gets what it asks for."""
    with transport_to(server) as transport:
        hello = transport.handshake(HELLO)
        return bool(hello.replica_id) and transport.position(METADATA).log_end_offset == 0


def heartbeat(**changes: object) -> ReplicaBatches:
    fields = {
        "partition": METADATA,
        "epoch": 3,
        "from_offset": 0,
        "end_offset": 0,
        "in_sync": None,
        "high_watermark": 0,
        "log_start_offset": 0,
    }
    return ReplicaBatches(**(fields | changes))  # type: ignore[arg-type]


def test_who_does_not_know_the_secret_gets_nothing(server: ReplicaServer) -> None:
    stranger = SocketTransport(
        *server.address, secret=b"a guess of sixteen bytes", timeout=HANG_SECONDS
    )
    with pytest.raises(AuthenticationError):
        stranger.handshake(HELLO)
    with pytest.raises(AuthenticationError):
        stranger.fence(2**31 - 1)
    stranger.close()
    assert is_served(server)


def test_bytes_of_an_enemy_end_their_connection_and_nothing_else(server: ReplicaServer) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    choose = random.Random(seed)
    for _ in range(30):
        enemy = socket.create_connection(server.address, timeout=HANG_SECONDS)
        with contextlib.closing(enemy), contextlib.suppress(OSError):
            enemy.sendall(choose.randbytes(choose.randrange(300)))
            enemy.shutdown(socket.SHUT_WR)
            while enemy.recv(1000):
                pass
    assert is_served(server)


def test_messages_of_an_enemy_that_knows_the_secret_are_refused(server: ReplicaServer) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    choose = random.Random(seed)
    good = [
        wire.encode(Kind.HELLO, wire.hello_header(HELLO)),
        wire.encode(Kind.POSITION, wire.partition_header(METADATA)),
        wire.encode(Kind.TRUNCATE, wire.partition_header(METADATA) | {"end": 0}),
        wire.encode(Kind.FENCE, {"epoch": 2}),
        wire.encode(Kind.BATCHES, wire.batches_header(heartbeat()), 7) + b"garbage",
    ]
    answered = 0
    for _ in range(60):
        with authenticated(server) as enemy, contextlib.suppress(PylogError, OSError):
            for message in (good[0], choose.choice(good)):
                damaged = bytearray(message)
                for _ in range(choose.randrange(3)):
                    damaged[choose.randrange(4, len(damaged))] ^= choose.randrange(1, 256)
                enemy._send_all(damaged)
                enemy.receive()
                answered += 1
    assert answered > 10
    with transport_to(server) as transport:
        assert transport.fence(2**31 - 1).replica_id


def test_garbage_instead_of_batches_is_refused_and_nothing_of_it_is_there(
    server: ReplicaServer,
) -> None:
    with transport_to(server) as transport:
        transport.handshake(HELLO)
        transport.position(METADATA)
        transport.send(heartbeat(data=b"no batch", end_offset=1))
        with pytest.raises(ReplicationError):
            transport.acknowledgement(HANG_SECONDS)
    assert is_served(server)


@pytest.mark.parametrize("kind", [Kind.POSITION, Kind.TRUNCATE, Kind.START_ANEW, Kind.BATCHES])
def test_nothing_is_done_before_a_leader_says_hello(server: ReplicaServer, kind: Kind) -> None:
    headers = {
        Kind.TRUNCATE: wire.partition_header(METADATA) | {"end": 0},
        Kind.START_ANEW: wire.partition_header(METADATA) | {"start": 9},
        Kind.BATCHES: wire.batches_header(heartbeat()),
    }
    with authenticated(server) as connection:
        connection.send(kind, headers.get(kind, wire.partition_header(METADATA)))
        answer = connection.receive()
        assert answer.kind is Kind.ERROR
        assert "hello" in str(wire.error_of(answer.header))


def test_what_an_older_leader_sends_is_refused(server: ReplicaServer) -> None:
    with transport_to(server) as old, transport_to(server) as new:
        old.handshake(HELLO)
        new.handshake(LeaderHello(HELLO.cluster_id, "next", 4))
        old.send(heartbeat())
        with pytest.raises(FencedLeaderEpochError):
            old.acknowledgement(HANG_SECONDS)
        with pytest.raises(FencedLeaderEpochError):
            old.handshake(HELLO)
        new.send(heartbeat(epoch=4))
        assert new.acknowledgement(HANG_SECONDS) is not None


def test_a_later_session_of_the_same_leader_ends_the_one_before(server: ReplicaServer) -> None:
    with transport_to(server) as first, transport_to(server) as second:
        first.handshake(HELLO)
        second.handshake(HELLO)
        first.send(heartbeat())
        with pytest.raises(ReplicationError):
            first.acknowledgement(HANG_SECONDS)
        second.send(heartbeat())
        assert second.acknowledgement(HANG_SECONDS) is not None


def test_every_send_is_acknowledged_in_its_order(server: ReplicaServer) -> None:
    member = InSync(3, 2, frozenset({"leader", "x"}))
    with transport_to(server) as transport:
        replica_id = transport.handshake(HELLO).replica_id
        assert transport.acknowledgement(0) is None
        in_sync = InSync(3, 5, frozenset({"leader", replica_id}))
        for told in (None, member, in_sync, IN_SYNC):
            transport.send(heartbeat(in_sync=told))
        answers = [transport.acknowledgement(HANG_SECONDS) for _ in range(4)]
        assert all(answer is not None and answer.partition == METADATA for answer in answers)
        # What it is no member of it does not write down, nor what is older.
        assert answers[-1] is not None
        assert answers[-1].in_sync == (3, 5)
        assert transport.acknowledgement(0) is None
        assert transport.fence(4).in_sync == in_sync


def test_who_is_silent_in_the_greeting_is_cut_off(tmp_path: Path) -> None:
    with (
        pylog.open(tmp_path / "log") as log,
        log.replication.serve(secret=SECRET, timeout=0.05) as server,
        contextlib.closing(
            socket.create_connection(server.address, timeout=HANG_SECONDS)
        ) as silent,
    ):
        received = b""
        while data := silent.recv(1000):
            received += data
        assert len(received) < 100


def test_a_server_that_does_not_answer_is_a_time_out() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        host, port = listener.getsockname()
        transport = SocketTransport(host, port, secret=SECRET, timeout=0.05)
        with pytest.raises(ReplicationTimeoutError):
            transport.handshake(HELLO)
        transport.close()


def test_a_transport_without_a_session_says_so() -> None:
    transport = SocketTransport("127.0.0.1", 1, secret=SECRET)
    with pytest.raises(ConnectionError):
        transport.position(METADATA)
    with pytest.raises(ConnectionError):
        transport.acknowledgement(0)
    transport.close()


def test_closing_the_server_ends_its_connections(tmp_path: Path) -> None:
    with pylog.open(tmp_path / "log") as log:
        server = log.replication.serve(secret=SECRET)
        with authenticated(server) as connection:
            server.close()
            server.close()
            with pytest.raises((ConnectionError, InvalidMessageError)):
                connection.receive()
        with log.replication.serve(secret=SECRET) as again:
            assert is_served(again)
