"""`ReplicaServer`: lets leaders in other processes and on other hosts replicate to a log.

Knows connections and what is said over them.  Must not know the rules of following (replica.py).

A thread accepts, and one for each connection does what it is asked.  Who does not prove within the
time-out that it knows the secret is cut off, having been read some hundred bytes of; a message that
is too long, cut, or nothing that a leader says ends its connection, and nothing else.

Locks: `_lock`, around the open connections.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import Final

from pylog.closing import Closing
from pylog.errors import InvalidMessageError, PylogError
from pylog.replication import wire
from pylog.replication.authentication import check_secret
from pylog.replication.connection import MAX_MESSAGE_BYTES, Connection
from pylog.replication.facts import MAX_EPOCH, ReplicaPosition
from pylog.replication.replica import Replica, Session
from pylog.replication.transport import ReplicaBatches
from pylog.replication.wire import Fields, Kind, Message

logger = logging.getLogger("pylog")

_TIMEOUT: Final = 10.0
_PAUSE: Final = 0.1  # after a connection that could not be accepted (guessed)
_MAX_CONNECTIONS: Final = 64  # a leader has one, who elects another; more are cut off (guessed)
_MAX_WAITING_BYTES: Final = 4 << 20  # of batches that are applied, and synced, together (guessed)
_QUESTIONS: Final = (Kind.POSITION, Kind.TRUNCATE, Kind.START_ANEW)


class ReplicaServer(Closing):
    """Serves one log.  A context manager; made by `Log.serve`.

    port: 0 takes one that is free, which `address` tells.
    Raises TypeError, InvalidConfigurationError for the secret.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        secret: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout: float = _TIMEOUT,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._replica = replica
        self._secret = check_secret(secret)
        self._wanted = host, port
        self._timeout = timeout
        self._max_message_bytes = max_message_bytes
        self._lock = threading.Lock()
        self._connections: dict[Connection, threading.Thread] = {}
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._closing = threading.Event()

    def open(self) -> None:
        """Follow, listen, and start.  Raises OSError, and what `Replica.open` raises."""
        self._replica.open()
        try:
            self._listener = socket.create_server(self._wanted, backlog=_MAX_CONNECTIONS)
        except BaseException:
            self._replica.close()
            raise
        self._acceptor = threading.Thread(
            target=self._accept, name="pylog-replica-server", daemon=True
        )
        self._acceptor.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        assert self._listener is not None, "open() first"
        host, port = self._listener.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Stop listening, end all connections, and follow no more.  Idempotent."""
        with self._lock:
            self._closing.set()
            connections = dict(self._connections)
        if self._listener is not None:
            # Closing alone does not wake who accepts.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()
        for thread in [self._acceptor, *connections.values()]:
            if thread is not None and thread is not threading.current_thread():
                thread.join()
        if self._listener is not None:
            self._listener.close()
        self._replica.close()

    def after_fork(self) -> None:
        """In a forked child: nothing is served there."""
        self._lock = threading.Lock()
        self._closing.set()
        self._connections = {}
        self._acceptor = None
        if self._listener is not None:
            self._listener.close()

    def __repr__(self) -> str:
        return "<ReplicaServer{}>".format(" (closed)" if self._closing.is_set() else "")

    # ------------------------------------------------------------------ the threads

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closing.is_set():
            try:
                self._serve_in_thread(self._listener.accept()[0])
            # RuntimeError: no thread can be started.
            except (OSError, RuntimeError) as error:
                if not self._closing.wait(_PAUSE):
                    # Mostly too many open files: others will close theirs.
                    logger.warning("a connection was not accepted: %s", error)

    def _serve_in_thread(self, accepted: socket.socket) -> None:
        """Serve a connection, unless there are too many.  Raises RuntimeError without a thread."""
        connection = Connection(
            accepted, timeout=self._timeout, max_message_bytes=self._max_message_bytes
        )
        thread = threading.Thread(
            target=self._serve, args=(connection,), name="pylog-replica", daemon=True
        )
        with self._lock:
            if self._closing.is_set() or len(self._connections) >= _MAX_CONNECTIONS:
                logger.warning("%s is cut off: too many connections", connection.peer)
                connection.close()
                return
            try:
                thread.start()
            except RuntimeError:
                connection.close()
                raise
            self._connections[connection] = thread

    def _serve(self, connection: Connection) -> None:
        """Do what one connection asks, until it ends or says nonsense."""
        peer = connection.peer
        try:
            connection.greet_as_server(self._secret)
            conversation = _Conversation(self._replica, connection)
            while True:
                conversation.answer_next()
        except (PylogError, OSError) as error:
            if not self._closing.is_set():
                is_end = isinstance(error, ConnectionError)
                logger.log(logging.DEBUG if is_end else logging.WARNING, "%s: %s", peer, error)
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()


class _Conversation:
    """What is asked over one connection, and answered."""

    def __init__(self, replica: Replica, connection: Connection) -> None:
        self._replica = replica
        self._connection = connection
        self._session: Session | None = None

    def answer_next(self) -> None:
        """Receive a message, with batches all that wait behind it, and answer.

        Raises what went wrong, having told the other side if it did something wrong here.
        """
        message: Message | None = self._connection.receive()
        try:
            while message is not None:
                if message.kind is Kind.BATCHES:
                    message = self._apply(message)
                else:
                    self._answer(message)
                    message = None
        except ConnectionError:
            raise
        except (PylogError, OSError) as error:
            self._connection.send(Kind.ERROR, wire.error_header(error))
            raise

    def _answer(self, message: Message) -> None:
        send = self._connection.send
        if message.kind is Kind.HELLO:
            self._session = self._replica.handshake(wire.hello_of(message.header))
            send(Kind.REPLICA_HELLO, wire.replica_hello_header(self._session.hello))
        elif message.kind is Kind.FENCE:
            fields = Fields(message.header)
            epoch = fields.end(fields.number("epoch", MAX_EPOCH))
            send(Kind.STATUS, wire.status_header(self._replica.fence(epoch)))
        elif message.kind in _QUESTIONS:
            send(Kind.REPLICA_POSITION, wire.position_header(self._ask(message)))
        else:
            raise InvalidMessageError(f"nobody asks by {message.kind.name}")

    def _ask(self, message: Message) -> ReplicaPosition:
        session, fields = self._open_session(), Fields(message.header)
        partition = fields.partition()
        if message.kind is Kind.TRUNCATE:
            return session.truncate(partition, fields.end(fields.number("end")))
        if message.kind is Kind.START_ANEW:
            return session.start_anew(partition, fields.end(fields.number("start")))
        return fields.end(session.position(partition))

    def _apply(self, message: Message | None) -> Message | None:
        """Apply batches, and those that came meanwhile; return another message that came."""
        session = self._open_session()
        waiting: list[ReplicaBatches] = []
        size = 0
        while message is not None and message.kind is Kind.BATCHES:
            waiting.append(wire.batches_of(message))
            size += len(message.data)
            is_more = size < _MAX_WAITING_BYTES and self._connection.is_readable(0)
            message = self._connection.receive() if is_more else None
        for acknowledgement in session.apply(waiting):
            header = wire.acknowledgement_header(acknowledgement)
            self._connection.send(Kind.ACKNOWLEDGEMENT, header)
        return message

    def _open_session(self) -> Session:
        if self._session is None:
            raise InvalidMessageError("a leader has to say hello first")
        return self._session
