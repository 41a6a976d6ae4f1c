"""One TCP connection that carries messages, each bounded in size and in time.

Knows sockets, lengths and time-outs.  Must not know what is said.

Locks: `_lock`, around who uses the socket.  One thread may send while one other receives; `close`
may come from any.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

from pylog.errors import AuthenticationError, InvalidMessageError, ReplicationTimeoutError
from pylog.replication import authentication, wire
from pylog.replication.wire import Buffer, Kind, Message

MAX_MESSAGE_BYTES: Final = 64 << 20  # by default: a batch of Kafka's largest producers (guessed)
_JOINED_BYTES: Final = 1 << 16  # below it one copy costs less than one more system call (guessed)


class Connection:
    """Messages over a socket that is connected already.

    timeout: seconds for each message, once its first byte came or was to go, and for the greeting.
    max_message_bytes: a message that says it is longer is refused before memory is taken for it.
    """

    def __init__(self, connected: socket.socket, *, timeout: float, max_message_bytes: int) -> None:
        self._socket = connected
        self._timeout = timeout
        self._max_message_bytes = max_message_bytes
        self._lock = threading.Lock()
        self._users = 0
        self._is_closed = False
        self._peer = "a connection that is over"
        with contextlib.suppress(OSError):
            host, port = connected.getpeername()[:2] or ("a socket", "0")
            self._peer = f"{host}:{port}"
        connected.settimeout(timeout)
        # Acknowledgements are small and waited for.
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A host that vanished without a word is noticed also when there is nothing to say.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def peer(self) -> str:
        """Who is on the other side, for messages."""
        return self._peer

    # ------------------------------------------------------------------ greeting

    def greet_as_client(self, secret: bytes) -> None:
        """Prove to the server that we know the secret, and let it prove the same.

        Raises AuthenticationError, ReplicationTimeoutError, OSError.
        """
        deadline = self._deadline()
        theirs = bytes(self._receive_all(authentication.CHALLENGE_BYTES, deadline))
        nonce = secrets.token_bytes(authentication.NONCE_BYTES)
        self._send_all(authentication.answer(secret, theirs, nonce))
        try:
            proof = bytes(self._receive_all(authentication.PROOF_BYTES, deadline))
        except ConnectionError:
            # It tells nothing to who does not know the secret.
            raise AuthenticationError(f"{self.peer} did not take our proof") from None
        authentication.check_proof(secret, proof, challenge=theirs, nonce=nonce)

    def greet_as_server(self, secret: bytes) -> None:
        """Let the client prove that it knows the secret, and prove the same.

        Takes no more than a hundred bytes of who cannot.
        Raises AuthenticationError, ReplicationTimeoutError, OSError.
        """
        nonce = secrets.token_bytes(authentication.NONCE_BYTES)
        self._send_all(authentication.challenge(nonce))
        theirs = bytes(self._receive_all(authentication.ANSWER_BYTES, self._deadline()))
        self._send_all(authentication.check_answer(secret, theirs, nonce))

    # ------------------------------------------------------------------ messages

    def send(self, kind: Kind, header: dict[str, Any], data: Buffer = b"") -> None:
        """Send one message.

        Raises InvalidMessageError for one that is too long for the other side,
        ReplicationTimeoutError when it does not read, OSError.
        """
        size = memoryview(data).nbytes
        start = wire.encode(kind, header, size)
        length = len(start) - wire.LENGTH.size + size
        if length > self._max_message_bytes:
            raise InvalidMessageError(f"{kind.name} of {length} bytes: {self._limit}")
        if size < _JOINED_BYTES:
            self._send_all(start + bytes(data) if size else start)
        else:
            self._send_all(start)
            self._send_all(data)

    def receive(self) -> Message:
        """Return the next message, whose first byte may take any time.

        Raises InvalidMessageError, ReplicationTimeoutError for one that stops in its middle,
        ConnectionError at the end, OSError.
        """
        while not self.is_readable(None):
            pass
        deadline = self._deadline()
        (length,) = wire.LENGTH.unpack(self._receive_all(wire.LENGTH.size, deadline))
        if length > self._max_message_bytes:
            raise InvalidMessageError(f"{self.peer}: a message of {length} bytes: {self._limit}")
        return wire.decode(self._receive_all(length, deadline))

    @property
    def _limit(self) -> str:
        return f"at most {self._max_message_bytes} (max_message_bytes) are taken"

    def is_readable(self, timeout: float | None) -> bool:
        """Return whether there is something to receive, or the end, within `timeout` seconds."""
        with self._in_use() as used:
            poll = select.poll()
            poll.register(used, select.POLLIN)
            return bool(poll.poll(None if timeout is None else 1000 * timeout))

    def _send_all(self, data: Buffer) -> None:
        with self._in_use() as used:
            try:
                used.sendall(data)
            except TimeoutError:
                message = f"{self.peer} did not read for {self._timeout} s"
                raise ReplicationTimeoutError(message, self._timeout) from None

    def _deadline(self) -> float:
        """Return until when a message that begins now has to be here."""
        return time.monotonic() + self._timeout

    def _receive_all(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            # Of the whole message: who sends a byte now and then is not waited for any longer.
            left = deadline - time.monotonic()
            if left <= 0 or not self.is_readable(left):
                message = f"{self.peer} stopped in the middle of a message"
                raise ReplicationTimeoutError(message, self._timeout)
            with self._in_use() as used:
                count = used.recv_into(view)
            if not count:
                raise ConnectionResetError(f"{self.peer} ended the connection")
            view = view[count:]
        return data

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[socket.socket]:
        """Keep the descriptor from being closed, as its number might be another file's then."""
        with self._lock:
            if self._is_closed:
                raise ConnectionAbortedError(f"{self._peer}: the connection is closed")
            self._users += 1
        try:
            yield self._socket
        finally:
            with self._lock:
                self._users -= 1
                self._close_unused_locked()

    def _close_unused_locked(self) -> None:
        if self._is_closed and not self._users:
            self._socket.close()

    def close(self) -> None:
        """End the connection; who waits for it, in any thread, gets an error.  Idempotent."""
        with self._lock:
            self._is_closed = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._close_unused_locked()
