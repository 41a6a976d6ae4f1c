"""The greeting of a connection: both sides prove that they know the secret, and never send it.

    server -> client    MAGIC, 32 random bytes
    client -> server    MAGIC, 32 random bytes, HMAC-SHA256(secret, "client", theirs, ours)
    server -> client    HMAC-SHA256(secret, "server", theirs, ours)

Each side checks the other's before it believes a byte.  The random bytes of both are under both
proofs, so an old conversation proves nothing; "client" and "server" keep one side's proof from
being sent back to it as the other's.  What follows is neither encrypted nor signed: who can change
packets on the way needs to be kept out by the network (WireGuard, a tunnel of ssh or stunnel).
Source: the standard library's multiprocessing.connection, with SHA-256 and both ways bound.

Pure but for randomness, which is passed in.
"""

from __future__ import annotations

import hmac
from typing import Final

from pylog.errors import AuthenticationError, InvalidConfigurationError

MAGIC: Final = b"pylog-replica 1\n"  # and the version of all that follows
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
CHALLENGE_BYTES: Final = len(MAGIC) + NONCE_BYTES
ANSWER_BYTES: Final = CHALLENGE_BYTES + PROOF_BYTES
_MIN_SECRET_BYTES: Final = 16  # as many as keep it from being guessed, if they are random


def check_secret(secret: object) -> bytes:
    """Return a secret that is one.  Raises TypeError, InvalidConfigurationError for a short one."""
    if not isinstance(secret, bytes):
        raise TypeError(f"secret must be bytes, not {type(secret).__name__}")
    if len(secret) < _MIN_SECRET_BYTES:
        # Not the value itself: errors are written into logs.
        raise InvalidConfigurationError(
            "secret", f"{len(secret)} bytes", f"at least {_MIN_SECRET_BYTES} random bytes"
        )
    return secret


def challenge(nonce: bytes) -> bytes:
    """Return what a server sends first."""
    return MAGIC + nonce


def nonce_of(data: bytes) -> bytes:
    """Return the random bytes in a challenge, or at the beginning of an answer.

    Raises AuthenticationError for what greets in another way, or speaks another version.
    """
    if not data.startswith(MAGIC) or len(data) < CHALLENGE_BYTES:
        raise AuthenticationError("the other side does not speak this version of the protocol")
    return data[len(MAGIC) : CHALLENGE_BYTES]


def answer(secret: bytes, data: bytes, nonce: bytes) -> bytes:
    """Return what a client answers to a challenge.  Raises AuthenticationError."""
    return MAGIC + nonce + _proof(secret, b"client", nonce_of(data), nonce)


def check_answer(secret: bytes, data: bytes, nonce: bytes) -> bytes:
    """Return what a server sends to a client that answered right.

    nonce: of the challenge.  Raises AuthenticationError.
    """
    theirs = nonce_of(data)
    if not hmac.compare_digest(data[CHALLENGE_BYTES:], _proof(secret, b"client", nonce, theirs)):
        raise AuthenticationError("a client does not know the secret")
    return _proof(secret, b"server", theirs, nonce)


def check_proof(secret: bytes, data: bytes, *, challenge: bytes, nonce: bytes) -> None:
    """Accept a server that knows the secret.

    data: what it sent last.  challenge: what it sent first.  nonce: the client's.
    Raises AuthenticationError.
    """
    expected = _proof(secret, b"server", nonce, nonce_of(challenge))
    if not hmac.compare_digest(data, expected):
        raise AuthenticationError("the server does not know the secret")


def _proof(secret: bytes, side: bytes, theirs: bytes, ours: bytes) -> bytes:
    return hmac.digest(secret, side + b"\0" + theirs + ours, "sha256")
