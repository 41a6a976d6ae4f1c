"""`SocketTransport`: a follower in another process or host, which runs a `ReplicaServer`.

Knows connections and what is said over them.  Must not know logs.

Locks: `_condition`, around what was received and is not asked for yet; nobody receives while
holding it.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from pylog.errors import InvalidMessageError, PylogError, ReplicationTimeoutError
from pylog.replication import wire
from pylog.replication.authentication import check_secret
from pylog.replication.connection import MAX_MESSAGE_BYTES, Connection
from pylog.replication.facts import PartitionId, ReplicaPosition, ReplicaStatus
from pylog.replication.transport import Acknowledgement, LeaderHello, ReplicaBatches, ReplicaHello
from pylog.replication.wire import Kind, Message

_TIMEOUT: Final = 10.0  # of a message and its answer; some syncs of a slow disk long (guessed)


class SocketTransport:
    """Replicates to a `ReplicaServer`; see `ReplicationTransport`.

    host, port: where it listens.  secret: what it was given, at least 16 random bytes.
    timeout: seconds for connecting, for each answer, and for each message to be read.
    max_message_bytes: of what is sent and taken; the server's should be the same.
    Raises TypeError, InvalidConfigurationError.  Connects with `handshake` or `fence`, not before.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        secret: bytes,
        timeout: float = _TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._address = host, port
        self._secret = check_secret(secret)
        self._timeout = timeout
        self._max_message_bytes = max_message_bytes
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return "<SocketTransport {}:{}>".format(*self._address)

    def _connect(self) -> Connection:
        connected = socket.create_connection(self._address, timeout=self._timeout)
        connection = Connection(
            connected, timeout=self._timeout, max_message_bytes=self._max_message_bytes
        )
        try:
            connection.greet_as_client(self._secret)
        except BaseException:
            connection.close()
            raise
        return connection

    def handshake(self, hello: LeaderHello) -> ReplicaHello:
        """Connect, and begin a session; see `ReplicationTransport`."""
        self.close()
        session = self._session = _Session(self._connect(), timeout=self._timeout)
        header = session.ask(Kind.HELLO, wire.hello_header(hello), Kind.REPLICA_HELLO)
        return wire.replica_hello_of(header)

    def position(self, partition: PartitionId) -> ReplicaPosition:
        """Return how far the follower is; see `ReplicationTransport`."""
        return self._ask_position(Kind.POSITION, wire.partition_header(partition))

    def truncate(self, partition: PartitionId, end_offset: int) -> ReplicaPosition:
        """Cut a partition; see `ReplicationTransport`."""
        header = wire.partition_header(partition) | {"end": end_offset}
        return self._ask_position(Kind.TRUNCATE, header)

    def start_anew(self, partition: PartitionId, offset: int) -> ReplicaPosition:
        """Empty a partition; see `ReplicationTransport`."""
        header = wire.partition_header(partition) | {"start": offset}
        return self._ask_position(Kind.START_ANEW, header)

    def _ask_position(self, kind: Kind, header: dict[str, Any]) -> ReplicaPosition:
        return wire.position_of(self._open_session().ask(kind, header, Kind.REPLICA_POSITION))

    def send(self, batches: ReplicaBatches) -> None:
        """Hand over; see `ReplicationTransport`."""
        session = self._open_session()
        session.connection.send(Kind.BATCHES, wire.batches_header(batches), batches.data)

    def acknowledgement(self, timeout: float) -> Acknowledgement | None:
        """Return the next acknowledgement; see `ReplicationTransport`."""
        header = self._open_session().next_of(Kind.ACKNOWLEDGEMENT, timeout)
        return None if header is None else wire.acknowledgement_of(header)

    def fence(self, epoch: int) -> ReplicaStatus:
        """Let the replica promise itself to an epoch; see `Electable`.

        Over a connection of its own: whoever replicates through this object is not disturbed.
        """
        session = _Session(self._connect(), timeout=self._timeout)
        with contextlib.closing(session.connection):
            return wire.status_of(session.ask(Kind.FENCE, {"epoch": epoch}, Kind.STATUS))

    def close(self) -> None:
        """End the session; see `ReplicationTransport`."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open_session(self) -> _Session:
        session = self._session
        if session is None:
            raise ConnectionAbortedError(f"{self!r}: no session is open")
        return session


class _Session:
    """Sorts what one connection receives: answers to who asked, acknowledgements to who waits.

    There is no thread of its own: of those who wait, one receives for all.
    """

    def __init__(self, connection: Connection, *, timeout: float) -> None:
        self.connection = connection
        self._timeout = timeout
        self._condition = threading.Condition()
        self._received: collections.deque[dict[str, Any]] = collections.deque()
        self._answer: Message | None = None
        self._is_receiving = False
        self._error: BaseException | None = None

    def ask(self, kind: Kind, header: dict[str, Any], expected: Kind) -> dict[str, Any]:
        """Send a request; return the header of its answer, which has to be of a kind."""
        self.connection.send(kind, header)
        answer = self.next_of(expected, self._timeout)
        if answer is None:
            message = f"{self.connection.peer} did not answer {kind.name}"
            raise ReplicationTimeoutError(message, self._timeout)
        return answer

    def next_of(self, kind: Kind, timeout: float) -> dict[str, Any] | None:
        """Return the header of the next acknowledgement, or the answer; None after `timeout`.

        Raises what the replica answered instead, and what receiving raises.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._condition:
                header = self._take(kind)
                if header is not None:
                    return header
                if self._error is not None:
                    raise self._error
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                if self._is_receiving:
                    self._condition.wait(left)
                    continue
                self._is_receiving = True
            self._receive_one(left)

    def _take(self, kind: Kind) -> dict[str, Any] | None:
        """Take what was received for who waits for a kind; the caller holds `_condition`."""
        if kind is Kind.ACKNOWLEDGEMENT:
            return self._received.popleft() if self._received else None
        answer, self._answer = self._answer, None
        if answer is not None and answer.kind is not kind:
            raise InvalidMessageError(f"{answer.kind.name} instead of {kind.name}")
        return None if answer is None else answer.header

    def _receive_one(self, timeout: float) -> None:
        """Receive a message if one comes in time, for whomever it is."""
        try:
            message = self.connection.receive() if self.connection.is_readable(timeout) else None
            error: PylogError | OSError | None = None
            if message is not None and message.kind is Kind.ERROR:
                error = wire.error_of(message.header)
        except (PylogError, OSError) as caught:
            message, error = None, caught
        except BaseException as interrupt:
            with self._receiver_ends():
                self._error = ConnectionAbortedError(f"interrupted: {interrupt!r}")
            raise
        with self._receiver_ends():
            if error is not None:
                self._error = error
            elif message is not None and message.kind is Kind.ACKNOWLEDGEMENT:
                self._received.append(message.header)
            elif message is not None:
                self._answer = message

    @contextlib.contextmanager
    def _receiver_ends(self) -> Iterator[None]:
        with self._condition:
            self._is_receiving = False
            self._condition.notify_all()
            yield

    def close(self) -> None:
        """End; who waits gets an error."""
        self.connection.close()
