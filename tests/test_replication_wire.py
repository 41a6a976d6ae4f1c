"""Messages between replicas: what was said is understood, and whatever else comes is refused."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from patience import HANG_SECONDS

from pylog.errors import (
    AuthenticationError,
    DivergedReplicaError,
    FencedLeaderEpochError,
    InconsistentClusterIdError,
    InvalidConfigurationError,
    InvalidMessageError,
    NotEligibleError,
    PylogError,
    ReplicationError,
    ReplicationTimeoutError,
)
from pylog.replication import wire
from pylog.replication.connection import Connection
from pylog.replication.facts import InSync, PartitionId, ReplicaPosition, ReplicaStatus
from pylog.replication.socket_transport import SocketTransport
from pylog.replication.transport import (
    Acknowledgement,
    LeaderHello,
    ReplicaBatches,
    ReplicaHello,
)
from pylog.replication.wire import Kind

SECRET = b"sixteen bytes are enough"
ORDERS = PartitionId("orders", 3, uuid.UUID(int=7))
IN_SYNC = InSync(4, 2, frozenset({"a", "b"}))
HELLO = LeaderHello(uuid.UUID(int=9), "leader-1", 4)
POSITION = ReplicaPosition(
    epochs=((0, 0), (4, 100)), log_start_offset=5, high_watermark=90, log_end_offset=2**62
)
BATCHES = ReplicaBatches(
    partition=ORDERS,
    epoch=4,
    from_offset=10,
    end_offset=12,
    in_sync=IN_SYNC,
    high_watermark=9,
    log_start_offset=5,
    data=b"as they are stored",
)
STATUS = ReplicaStatus(
    replica_id="a", cluster_id=None, promised_epoch=5, in_sync=None, log_end_offset=77
)

# Of each message: a value, how it becomes a header, and how it comes back.
MESSAGES: list[tuple[Kind, Any, Callable[[Any], Any], Callable[[Any], Any]]] = [
    (Kind.HELLO, HELLO, wire.hello_header, wire.hello_of),
    (
        Kind.REPLICA_HELLO,
        ReplicaHello("a", IN_SYNC),
        wire.replica_hello_header,
        wire.replica_hello_of,
    ),
    (Kind.REPLICA_HELLO, ReplicaHello("a"), wire.replica_hello_header, wire.replica_hello_of),
    (Kind.REPLICA_POSITION, POSITION, wire.position_header, wire.position_of),
    (
        Kind.ACKNOWLEDGEMENT,
        Acknowledgement(ORDERS, 12, (4, 2)),
        wire.acknowledgement_header,
        wire.acknowledgement_of,
    ),
    (Kind.STATUS, STATUS, wire.status_header, wire.status_of),
]


def sent(kind: Kind, header: dict[str, Any], data: bytes = b"") -> bytes:
    """Return the bytes of a message that follow its length."""
    whole = wire.encode(kind, header, len(data)) + data
    (length,) = wire.LENGTH.unpack_from(whole)
    assert length == len(whole) - wire.LENGTH.size
    return whole[wire.LENGTH.size :]


def understood(body: bytes | bytearray) -> object:
    """Return what a message says, as its receiver understands it."""
    message = wire.decode(body)
    if message.kind is Kind.BATCHES:
        return wire.batches_of(message)
    if message.kind is Kind.ERROR:
        return wire.error_of(message.header)
    for kind, _, _, parse in MESSAGES:
        if kind is message.kind:
            return parse(message.header)
    return message.header


@pytest.mark.parametrize(("kind", "value", "header_of", "parse"), MESSAGES)
def test_what_was_said_is_understood(
    kind: Kind, value: object, header_of: Callable[[Any], Any], parse: Callable[[Any], Any]
) -> None:
    message = wire.decode(sent(kind, header_of(value)))
    assert message.kind is kind
    assert parse(message.header) == value


def test_batches_arrive_unchanged() -> None:
    body = sent(Kind.BATCHES, wire.batches_header(BATCHES), bytes(BATCHES.data))
    assert understood(body) == BATCHES


@pytest.mark.parametrize(
    "error",
    [
        FencedLeaderEpochError(3, 5),
        InconsistentClusterIdError("a", "b"),
        NotEligibleError("lost records"),
        DivergedReplicaError("orders-3", 5, 9),
    ],
)
def test_an_error_that_means_something_arrives_as_itself(error: PylogError) -> None:
    arrived = wire.error_of(wire.decode(sent(Kind.ERROR, wire.error_header(error))).header)
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)


def test_any_other_error_arrives_as_one_of_replication() -> None:
    header = wire.error_header(OSError(28, "No space left on device", "x" * 10_000))
    arrived = wire.error_of(header)
    assert type(arrived) is ReplicationError
    assert "No space left" in str(arrived)
    assert len(str(arrived)) < 5_000


def every_message() -> list[bytes]:
    """Return one message of each kind that carries values."""
    messages = [sent(kind, header_of(value)) for kind, value, header_of, _ in MESSAGES]
    messages.append(sent(Kind.BATCHES, wire.batches_header(BATCHES), bytes(BATCHES.data)))
    messages.append(sent(Kind.ERROR, wire.error_header(FencedLeaderEpochError(3, 5))))
    return messages


def test_a_cut_message_is_refused() -> None:
    for body in every_message():
        size = len(body) - (len(BATCHES.data) if body[0] == Kind.BATCHES else 0)
        for end in range(size):
            with pytest.raises(InvalidMessageError):
                understood(body[:end])


def test_a_damaged_message_is_refused_or_says_something_that_could_be_said() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    choose = random.Random(seed)
    refused = 0
    for body in every_message() * 300:
        damaged = bytearray(body)
        for _ in range(choose.randint(1, 4)):
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        try:
            understood(damaged)
        except InvalidMessageError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("from", -1),
        ("from", 2**63),
        ("from", 13),  # behind its end
        ("from", True),
        ("from", 1.0),
        ("from", None),
        ("epoch", 2**31),
        ("topic", "../orders"),
        ("topic", "x" * 250),
        ("topic", 7),
        ("topic_id", "7"),
        ("topic_id", "G" * 32),
        ("in_sync", [4, 2]),
        ("in_sync", [4, 2, []]),
        ("in_sync", [4, 2, ["a", "a"]]),
        ("in_sync", [4, 2, ["a,b"]]),
        ("in_sync", [4, 2, ["a"], 1]),
        ("in_sync", [4, 2, [str(member) for member in range(1001)]]),
        ("in_sync", {"epoch": 4}),
        ("more", 1),
    ],
)
def test_batches_with_a_field_that_cannot_be_are_refused(name: str, value: object) -> None:
    header = wire.batches_header(BATCHES) | {name: value}
    with pytest.raises(InvalidMessageError):
        understood(sent(Kind.BATCHES, header, bytes(BATCHES.data)))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b"9" * 5000,
        b'{"a":' * 50_000,
        b"\xff",
        b"[1]",
        b"null",
        b'{"a":NaN}',
        b"",
    ],
)
def test_a_header_that_is_no_object_is_refused(header: bytes) -> None:
    body = bytes([Kind.POSITION]) + len(header).to_bytes(4, "big") + header
    with pytest.raises(InvalidMessageError):
        wire.position_of(wire.decode(body).header)


def test_epochs_that_do_not_rise_are_refused() -> None:
    for epochs in ([[4, 1], [4, 2]], [[4, 1], [5, 1]], [[4]], [7], [[-1, 0]], [[0, 0]] * 3000):
        header = wire.position_header(POSITION) | {"epochs": epochs}
        with pytest.raises(InvalidMessageError):
            wire.position_of(header)


# ---------------------------------------------------------------- connections


@contextlib.contextmanager
def connected(*, timeout: float = HANG_SECONDS, limit: int = 1 << 20) -> Iterator[list[Connection]]:
    """Two connections that are each other's other side."""
    pair = [
        Connection(end, timeout=timeout, max_message_bytes=limit) for end in socket.socketpair()
    ]
    try:
        yield pair
    finally:
        for connection in pair:
            connection.close()


@contextlib.contextmanager
def one_end(*, timeout: float, limit: int) -> Iterator[tuple[Connection, socket.socket]]:
    """A connection, and the socket at its other side."""
    left, right = socket.socketpair()
    connection = Connection(left, timeout=timeout, max_message_bytes=limit)
    with contextlib.closing(right), contextlib.closing(connection):
        yield connection, right


def beside(function: Callable[[], object]) -> threading.Thread:
    """Call a function in another thread, whatever it raises."""

    def run() -> None:
        with contextlib.suppress(PylogError, OSError):
            function()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_both_sides_that_know_the_secret_go_on() -> None:
    with connected() as (client, server):
        thread = beside(lambda: server.greet_as_server(SECRET))
        client.greet_as_client(SECRET)
        thread.join()
        client.send(Kind.HELLO, wire.hello_header(HELLO))
        assert wire.hello_of(server.receive().header) == HELLO


def test_a_client_with_another_secret_is_refused() -> None:
    with connected() as (client, server):
        thread = beside(lambda: client.greet_as_client(b"another secret of sixteen bytes"))
        with pytest.raises(AuthenticationError):
            server.greet_as_server(SECRET)
        server.close()
        thread.join()


def test_a_server_with_another_secret_is_refused() -> None:
    # It takes any answer, and cannot prove that it knows the secret itself.
    with one_end(timeout=HANG_SECONDS, limit=1 << 20) as (client, right):
        right.sendall(b"pylog-replica 1\n" + bytes(32) + bytes(32))
        with pytest.raises(AuthenticationError):
            client.greet_as_client(SECRET)


def test_a_server_that_sends_back_what_it_got_is_refused() -> None:
    with one_end(timeout=HANG_SECONDS, limit=1 << 20) as (client, right):

        def mirror() -> None:
            right.sendall(b"pylog-replica 1\n" + bytes(32))
            answer = right.recv(80, socket.MSG_WAITALL)
            right.sendall(answer[-32:])

        thread = beside(mirror)
        with pytest.raises(AuthenticationError):
            client.greet_as_client(SECRET)
        thread.join()


def test_who_speaks_another_protocol_is_refused() -> None:
    with one_end(timeout=HANG_SECONDS, limit=1 << 20) as (server, right):
        right.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(100))
        with pytest.raises(AuthenticationError):
            server.greet_as_server(SECRET)


def test_a_message_that_says_it_is_too_long_is_refused_before_it_is_read() -> None:
    with one_end(timeout=HANG_SECONDS, limit=1000) as (server, right):
        right.sendall(wire.LENGTH.pack(2**32 - 1))
        with pytest.raises(InvalidMessageError, match="max_message_bytes"):
            server.receive()


def test_a_message_that_is_too_long_for_the_other_side_is_not_sent() -> None:
    with connected(limit=1000) as (client, _), pytest.raises(InvalidMessageError):
        client.send(Kind.BATCHES, wire.batches_header(BATCHES), bytes(2000))


def test_a_message_that_stops_in_its_middle_is_a_time_out() -> None:
    with one_end(timeout=0.01, limit=1000) as (server, right):
        right.sendall(wire.LENGTH.pack(100) + b"and no more")
        with pytest.raises(ReplicationTimeoutError):
            server.receive()


def test_closing_wakes_who_receives() -> None:
    with connected() as (client, server):
        thread = beside(server.receive)
        server.close()
        thread.join()
        with pytest.raises(ConnectionError):
            client.receive()


def test_large_batches_arrive_whole() -> None:
    data = random.Random(1).randbytes(500_000)
    with connected() as (client, server):
        thread = beside(lambda: client.send(Kind.BATCHES, wire.batches_header(BATCHES), data))
        message = server.receive()
        thread.join()
        assert bytes(message.data) == data


@pytest.mark.parametrize("secret", [b"", b"fifteen bytes !"])
def test_a_short_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        SocketTransport("127.0.0.1", 1, secret=secret)
    assert secret.decode() not in str(caught.value) or not secret


def test_a_secret_that_is_no_bytes_is_refused() -> None:
    with pytest.raises(TypeError):
        SocketTransport("127.0.0.1", 1, secret="sixteen characters")  # type: ignore[arg-type]
