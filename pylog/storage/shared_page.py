"""Attach to a partition's shared page: who is here, and is the page to be trusted.

Knows the `state` file, the presence locks and what makes a page valid.  Must not know what the
marks mean.  The page itself (marks, lock, wake-up) is in the C core.

Who cleans the partition holds a lock, too, of the `state` file itself and through a descriptor of
its own: threads keep each other out as processes do, and it outlives an attachment.

Two bytes of `pylog.lock` belong to each partition, numbered by the inode of its `state` file:

    gate       exclusive while somebody attaches or detaches
    presence   shared by every attached process; exclusive means "I am alone"

The kernel drops both when a process dies, so liveness needs no process id.  Whoever finds itself
alone trusts nothing in the page: it recovers from the log and the manifest, and initializes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from pylog._native import LOCKS_BY_DESCRIPTOR, PAGE_ABI, PAGE_BYTES, Marks, SharedPage
from pylog.errors import IncompatibleFormatError
from pylog.storage.files import Directory, File

STATE_NAME: Final = "state"
_SERIALS: Final = 2**62  # a page that nobody vouches for may hold any number; there is room above
_CLEANER_BYTE: Final = 0  # of the `state` file
_LOCK_BYTES: Final = 2**61  # inode numbers are folded into this range; offsets of locks are 63 bits


def gate_byte(state_file: File) -> int:
    """Return the byte of `pylog.lock` that is this partition's gate; its presence is the next."""
    return 2 * (state_file.identity() % _LOCK_BYTES)


def peek(directory: Directory, lock_file: File) -> tuple[bool, Marks | None]:
    """Return whether any process has the partition open, and the marks if they tell the truth.

    The marks are None while somebody opens, recovers or ends the partition, and when nobody has it
    open: then the page says nothing.  They are copied by a read that may be torn by a writer: what
    is concluded from them has to be looked at twice.
    Takes no lock and writes nothing; works with files that may only be read.  Raises OSError.
    """
    try:
        file = directory.open(STATE_NAME)
    except FileNotFoundError:
        return False, None
    try:
        presence = gate_byte(file) + 1
        if lock_file.is_lockable(presence, exclusive=True):
            return False, None
        if not lock_file.is_lockable(presence, exclusive=False):
            return True, None
        return True, copied_marks(file.pread(PAGE_BYTES, 0))
    finally:
        file.close()


def copied_marks(data: bytes) -> Marks | None:
    """Return the marks in the bytes of a page, None when it is not a page of this build."""
    if len(data) != PAGE_BYTES:
        return None
    page = SharedPage(bytearray(data))
    if not page.is_valid or not page.identity.startswith(f"{PAGE_ABI} ".encode()):
        return None
    return page.marks()


def lock_cleaner(directory: Directory, *, blocking: bool) -> File | None:
    """Return a file whose closing lets the next one clean; None when another cleans.

    blocking: wait until that one is done.  The kernel lets go of it when its holder dies.
    Raises OSError.
    """
    file = directory.open(STATE_NAME, writable=True)
    try:
        if file.lock(_CLEANER_BYTE, exclusive=True, blocking=blocking):
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


class Presence:
    """This process's place at one partition: its two lock bytes and its map of the page."""

    def __init__(self, directory: Directory, lock_file: File, *, boot_identity: str) -> None:
        self._directory = directory
        self._lock_file = lock_file
        self._identity = f"{PAGE_ABI} {boot_identity}".encode()
        self._state_file: File | None = None
        self._gate = -1
        self.page: SharedPage | None = None

    def open(self) -> None:
        """Open and map the state file, creating it if need be.  Raises OSError."""
        file = self._directory.open(STATE_NAME, writable=True, create=True)
        self._state_file = file
        self._gate = gate_byte(file)
        if file.size() < PAGE_BYTES:
            self._make_page(file)
        self.page = SharedPage(file.map(PAGE_BYTES, writable=True), lock_fd=file.fileno())
        if not LOCKS_BY_DESCRIPTOR:
            # The map keeps the file, and so the inode's number, from being used by another.
            self._close_state_file()

    def _make_page(self, file: File) -> None:
        """Give a new state file its size, durably: after a power cut opening needs no space (B6).

        Inside the gate, or these zeros could fall on a page that a faster process made meanwhile.
        """
        self._lock_file.lock(self._gate, exclusive=True, blocking=True)
        try:
            if file.size() < PAGE_BYTES:
                file.fill_zeros(file.size(), PAGE_BYTES)
                file.sync()
        finally:
            self._lock_file.unlock(self._gate)

    @contextlib.contextmanager
    def gate(self) -> Iterator[bool]:
        """Hold the gate; yields whether nobody else is attached.

        While it yields True the presence is exclusive; leaving makes it shared (atomically, so that
        nobody can find themselves alone in between) unless `leave` was called.  Blocks while
        another process attaches or recovers.
        """
        assert self._gate >= 0, "open() first"
        lock, unlock = self._lock_file.lock, self._lock_file.unlock
        try:
            try:
                # Inside, for an interrupt may come with the lock; unlocking what is not held is
                # nothing.
                lock(self._gate, exclusive=True, blocking=True)
                is_alone = lock(self._gate + 1, exclusive=True, blocking=False)
                yield is_alone
                if self.page is not None:
                    lock(self._gate + 1, exclusive=False, blocking=True)
                else:
                    unlock(self._gate + 1)
            except BaseException:
                unlock(self._gate + 1)
                raise
            finally:
                unlock(self._gate)
        except BaseException:
            # An interrupt may have come in the middle of the unlocking.
            unlock(self._gate + 1)
            unlock(self._gate)
            raise

    def is_shareable(self) -> bool:
        """Return whether the page was made since the last boot, by a compatible build."""
        assert self.page is not None
        return self.page.is_valid and self.page.identity == self._identity

    def last_marks(self) -> Marks | None:
        """Return what was published last since the boot; None when that is not known."""
        assert self.page is not None
        return self.page.marks() if self.is_shareable() else None

    def may_be_of_this_boot(self) -> bool:
        """Return whether the page cache may still hold what this boot's processes wrote.

        True also when the page tells nothing: then the worst is assumed.
        """
        assert self.page is not None
        return not self.page.is_valid or self.is_shareable()

    def check_compatible(self) -> None:
        """Raise IncompatibleFormatError when living processes use a page this one cannot share.

        That is another build's lock layout, or another process-id namespace (a container), where
        the owner of a robust lock cannot be told.
        """
        assert self.page is not None
        if not self.is_shareable():
            raise IncompatibleFormatError(
                f"{self._directory.path}/{STATE_NAME}",
                found=self.page.identity.decode(errors="replace"),
                supported=self._identity.decode(),
            )

    def initialize(self, marks: dict[str, int]) -> None:
        """Make the page anew.  The caller is alone (inside `gate`).

        Serials go on, so that maps from before, which a thread may still hold, are known as such.
        """
        assert self.page is not None
        serial = self.page.marks().segment_serial if self.page.is_valid else 0
        marks = marks | {"segment_serial": serial % _SERIALS + marks["segment_serial"]}
        self.page.initialize(self._identity, **marks)

    def leave(self) -> None:
        """Let go of the page; inside `gate` this also gives up the presence when it ends."""
        # Not released: a reader in another thread may be about to copy its marks.
        self.page = None
        self._close_state_file()

    def _close_state_file(self) -> None:
        if self._state_file is not None:
            self._state_file.close()
            self._state_file = None
