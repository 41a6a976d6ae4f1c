"""Who lives: each member holds a kernel lock for as long as its process does.

The lock is a byte of `pylog.lock`, above those of partitions, and follows from the group and the
member's id, which no two members ever share.  So nothing has to be written down or handed back: a
member is dead when its byte can be locked, after a reboot too.

Knows names and a file.  Must not know groups' states.
Locks: none of its own; the set of own bytes is changed by single steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from pylog.storage.files import File

_FIRST_BYTE: Final = 2**62  # partitions' bytes are below; see Engine.current_lock_file
_BYTES: Final = 2**61  # two of a million members share a byte with a chance of 1 : 4 million


def _byte(group: str, member_id: str) -> int:
    name = f"{group}\0{member_id}".encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    return _FIRST_BYTE + int.from_bytes(digest, "big") % _BYTES


class Liveness:
    """The locks of this process's members, and a look at those of others."""

    def __init__(self, lock_file: Callable[[], File]) -> None:
        self._lock_file = lock_file
        # A process does not meet its own locks, so it has to know them.
        self._own: set[int] = set()

    def hold(self, group: str, member_id: str) -> None:
        """Be seen as alive from now on, until `release` or the end of the process.

        Raises OSError, ClosedError.
        """
        byte = _byte(group, member_id)
        is_held = self._lock_file().lock(byte, exclusive=True, blocking=False)
        assert is_held, "a member's id is its own"
        self._own.add(byte)

    def release(self, group: str, member_id: str) -> None:
        """Be dead.  Raises OSError, ClosedError."""
        byte = _byte(group, member_id)
        self._own.discard(byte)
        self._lock_file().unlock(byte)

    def is_alive(self, group: str, member_id: str) -> bool:
        """Return whether a member's process lives.  One system call for those of others.

        Raises OSError, ClosedError.
        """
        byte = _byte(group, member_id)
        return byte in self._own or not self._lock_file().is_lockable(byte, exclusive=True)

    def after_fork(self) -> None:
        """In a forked child: the members are the parent's."""
        self._own = set()
