"""A file system in memory that can crash and fail: `pylog.storage.files.FileSystem` for tests.

A `MemoryFiles` begins from a `crash_model.Disk` and, if asked, records a trace of what was done.
Stores through maps are not calls: they are found by comparing mapped files with how they looked
last, before each recorded operation and on `note`.  `disk_after` gives the disk after any prefix of
the trace, `crash` every state that a power cut may leave of it; a new `MemoryFiles` goes on there,
in a new boot, or after a kill in the same one, page cache and all.
Calls can be made to fail: `fail`; space can be limited: `free_bytes`.  What a kernel would answer
by SIGBUS is an AssertionError here: a store past the end of a mapped file or into a hole of it.
Limit: a file that was mapped cannot outgrow the capacity that it got then (`map_bytes` at least).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator

from crash_model import (
    ROOT,
    CacheDropped,
    DirectorySync,
    Disk,
    Entry,
    Operation,
    Sync,
    SyncFailed,
    Truncate,
    Write,
)

_PAGE = 4096
_NO_BYTES = memoryview(bytes(1 << 20))


class Inode:
    """A file that is alive: its bytes, its maps and its locks."""

    __slots__ = ("capacity", "data", "holes", "locks", "number", "seen", "size")

    def __init__(self, number: int, contents: bytes | bytearray) -> None:
        self.number = number
        self.data: bytes | bytearray = contents  # bytes until the first change; longer once mapped
        self.size = len(contents)
        self.capacity = 0  # of a mapped file; 0: not mapped
        self.seen: bytes | None = None  # contents as last compared; None: not mapped for writing
        self.holes: set[int] = set()  # pages that were never written
        self.locks: dict[int, dict[MemoryFile, bool]] = {}  # byte -> holder -> is exclusive

    def contents(self) -> bytes:
        return bytes(memoryview(self.data)[: self.size])

    def writable(self, size: int) -> bytearray:
        """Return the bytes, changeable and at least `size` long."""
        data = self.data
        if not isinstance(data, bytearray):
            data = self.data = bytearray(data)
        if len(data) < size:
            assert not self.capacity, f"a mapped file outgrew its capacity of {self.capacity}"
            data.extend(bytes(size - len(data)))
        return data

    def stored_ranges(self) -> Iterator[tuple[int, bytes]]:
        """Yield (position, bytes) of what was stored through maps since the last look."""
        data, seen = self.data, self.seen
        assert isinstance(data, bytearray) and seen is not None
        beyond = len(data) - self.size
        assert data.endswith(_NO_BYTES[:beyond]), f"SIGBUS: file {self.number}: store past its end"
        if data.startswith(seen):
            return
        for start in range(0, self.size, 512):
            end = min(start + 512, self.size)
            if data[start:end] != seen[start:end]:
                assert start // _PAGE not in self.holes, f"SIGBUS: file {self.number}: a hole"
                yield start, bytes(data[start:end])
        self.seen = self.contents()


class Fault:
    """Which call fails, and how."""

    __slots__ = ("code", "is_lasting", "kinds", "left", "short_bytes")

    def __init__(
        self, kinds: frozenset[str], nth: int, code: int, *, is_lasting: bool, short_bytes: int
    ) -> None:
        self.kinds = kinds
        self.left = nth
        self.code = code
        self.is_lasting = is_lasting
        self.short_bytes = short_bytes

    def strikes(self, kind: str) -> bool:
        if self.kinds and kind not in self.kinds:
            return False
        self.left -= 1
        return self.left < 0 if self.is_lasting else self.left == -1


class MemoryFile:
    """An open file of a MemoryFiles."""

    __slots__ = ("__weakref__", "_files", "_inode", "_is_writable", "path")

    def __init__(self, files: MemoryFiles, inode: Inode, path: str, *, is_writable: bool) -> None:
        self._files = files
        self._inode = inode
        self._is_writable = is_writable
        self.path = path

    def pread(self, size: int, position: int) -> bytes:
        self._files.enter("pread", self.path)
        inode = self._inode
        end = min(position + size, inode.size)
        return memoryview(inode.data)[position:end].tobytes()

    def pread_into(self, buffer: memoryview, position: int) -> int:
        self._files.enter("pread", self.path)
        inode = self._inode
        count = max(min(len(buffer), inode.size - position), 0)
        buffer[:count] = memoryview(inode.data)[position : position + count]
        return count

    def pwrite(self, data: bytes | bytearray | memoryview, position: int) -> None:
        files = self._files
        assert self._is_writable, f"{self.path} is open for reading"
        try:
            files.enter("pwrite", self.path)
        except OSError:
            # An error in the middle of a write leaves what was written before it.
            self._store(memoryview(data)[: files.short_bytes], position)
            raise
        room = files.room_for(self._inode, position, len(data))
        self._store(memoryview(data)[:room], position)
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)

    def _store(self, data: memoryview, position: int) -> None:
        if not data:
            return
        files, inode, end = self._files, self._inode, position + len(data)
        files.record(Write, inode.number, position, data)
        if inode.holes:
            inode.holes.difference_update(range(position // _PAGE, -(-end // _PAGE)))
        if end > inode.size:
            inode.writable(end)[position:end] = data
            inode.size = end
        else:
            inode.writable(0)[position:end] = data
        if inode.seen is not None:
            inode.seen = inode.contents()

    def fill_zeros(self, start: int, end: int, *, step: int = 1 << 20) -> None:
        if start < end:
            self.pwrite(bytes(end - start), start)

    def truncate(self, size: int) -> None:
        self._files.enter("truncate", self.path)
        assert self._is_writable, f"{self.path} is open for reading"
        inode = self._inode
        if size == inode.size:
            return
        self._files.record(Truncate, inode.number, size)
        data = inode.writable(size)
        if size < inode.size:
            data[size : inode.size] = bytes(inode.size - size)
        else:
            inode.holes.update(range(-(-inode.size // _PAGE), -(-size // _PAGE)))
        inode.size = size
        if not inode.capacity:
            del data[size:]
        if inode.seen is not None:
            inode.seen = inode.contents()

    def size(self) -> int:
        self._files.enter("size", self.path)
        return self._inode.size

    def sync_data(self) -> None:
        self._sync("sync_data", is_full=False)

    def sync(self) -> None:
        self._sync("sync", is_full=True)

    def _sync(self, kind: str, *, is_full: bool) -> None:
        try:
            self._files.enter(kind, self.path)
        except OSError:
            self._files.has_stuck = True
            self._files.record(SyncFailed, self._inode.number)
            raise
        self._files.record(Sync, self._inode.number, is_full)

    def take_time(self, source: object) -> None:
        self._files.enter("take_time", self.path)

    def drop_cache(self, start: int) -> None:
        self._files.enter("drop_cache", self.path)
        if self._files.has_stuck:
            self._files.drop_cache(self._inode)

    def map(self, size: int, *, position: int = 0, writable: bool) -> memoryview:
        self._files.enter("map", self.path)
        inode = self._inode
        assert self._is_writable or not writable, f"{self.path} is open for reading"
        if not inode.capacity:
            capacity = max(inode.size, position + size, self._files.map_bytes)
            inode.writable(capacity)
            inode.capacity = capacity
        assert position + size <= inode.capacity, f"{self.path}: a map past {inode.capacity}"
        if writable and self._files.trace is not None:
            inode.seen = inode.contents()
            self._files.mapped[inode.number] = inode
        view = memoryview(inode.data)[position : position + size]
        return view if writable else view.toreadonly()

    def identity(self) -> int:
        return self._inode.number

    def lock(self, byte: int, *, exclusive: bool, blocking: bool) -> bool:
        """Lock a byte for this open file; one that would block for ever is a failed assertion."""
        self._files.enter("lock", self.path)
        if not self.is_lockable(byte, exclusive=exclusive):
            assert not blocking, f"{self.path}: waits for ever for byte {byte}"
            return False
        self._inode.locks.setdefault(byte, {})[self] = exclusive
        return True

    def is_lockable(self, byte: int, *, exclusive: bool) -> bool:
        holders = self._inode.locks.get(byte, {}).items()
        return not any(file is not self and (exclusive or other) for file, other in holders)

    def unlock(self, byte: int) -> None:
        self._files.enter("unlock", self.path)
        self._inode.locks.get(byte, {}).pop(self, None)

    def fileno(self) -> int:
        return -1

    def descriptor(self) -> None:
        return None

    def close(self) -> None:
        for holders in self._inode.locks.values():
            holders.pop(self, None)


class MemoryDirectory:
    """A directory by name, looked up anew for each call."""

    __slots__ = ("_files", "_name", "_parent", "path")

    def __init__(
        self, files: MemoryFiles, path: str, parent: MemoryDirectory | None, name: str
    ) -> None:
        self._files = files
        self._parent = parent
        self._name = name
        self.path = path

    def _number(self) -> int:
        if self._parent is None:
            return ROOT
        parent = self._parent._number()
        number = self._files.directories[parent].get(self._name)
        if number not in self._files.directories:
            raise _error(errno.ENOENT if number is None else errno.ENOTDIR, self.path)
        return number

    def directory(self, name: str) -> MemoryDirectory:
        return MemoryDirectory(self._files, f"{self.path}/{name}", self, name)

    def exists(self) -> bool:
        self._files.enter("exists", self.path)
        try:
            self._number()
        except FileNotFoundError:
            return False
        return True

    def make(self) -> None:
        assert self._parent is not None
        self._files.enter("make", self.path)
        parent = self._parent._number()
        if self._name not in self._files.directories[parent]:
            number = self._files.new_number()
            self._files.directories[number] = {}
            self._files.change(parent, {self._name: number}, new_directory=number)
        self._parent.sync()

    def remove(self) -> None:
        assert self._parent is not None
        self._files.enter("remove", self.path)
        if self._files.directories[self._number()]:
            raise _error(errno.ENOTEMPTY, self.path)
        self._files.change(self._parent._number(), {self._name: None})

    def names(self) -> list[str]:
        self._files.enter("names", self.path)
        return sorted(self._files.directories[self._number()])

    def open(self, name: str, *, writable: bool = False, create: bool = False) -> MemoryFile:
        files, path = self._files, f"{self.path}/{name}"
        directory = self._number()
        number = files.directories[directory].get(name)
        if number is None and not create:
            files.enter("open", path)
            raise _error(errno.ENOENT, path)
        files.enter("create" if number is None else "open", path)
        if number is None:
            files.take_space(path, _PAGE)
            number = files.new_number()
            files.inodes[number] = Inode(number, b"")
            files.change(directory, {name: number}, new_file=number)
        if number in files.directories:
            raise _error(errno.EISDIR, path)
        return MemoryFile(files, files.inode(number), path, is_writable=writable)

    def rename(self, source: str, target: str) -> None:
        self._files.enter("rename", f"{self.path}/{source}")
        directory = self._number()
        number = self._files.directories[directory].get(source)
        if number is None:
            raise _error(errno.ENOENT, f"{self.path}/{source}")
        self._files.change(directory, {source: None, target: number})

    def unlink(self, name: str) -> None:
        self._files.enter("unlink", f"{self.path}/{name}")
        directory = self._number()
        if name not in self._files.directories[directory]:
            raise _error(errno.ENOENT, f"{self.path}/{name}")
        self._files.change(directory, {name: None})

    def sync(self) -> None:
        self._files.enter("directory_sync", self.path)
        self._files.record(DirectorySync, self._number())


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


class MemoryFiles:
    """A machine's file system, from its boot or a kill to the next."""

    def __init__(
        self,
        disk: Disk | None = None,
        *,
        boot: int = 1,
        is_recording: bool = False,
        map_bytes: int = 16 << 10,
    ) -> None:
        """disk: what there is at the start; not changed.  map_bytes: least capacity of a map."""
        self._disk = disk or Disk()
        self._boot = boot
        self.map_bytes = map_bytes
        self.directories = {n: one.current.copy() for n, one in self._disk.directories.items()}
        self.inodes: dict[int, Inode] = {}
        self._last_number = max((ROOT, *self._disk.files, *self._disk.directories))
        self.mapped: dict[int, Inode] = {}
        self.trace: list[Operation] | None = [] if is_recording else None
        self.has_stuck = any(file.stuck for file in self._disk.files.values())
        self.calls: list[str] | None = None  # kinds of the calls made, once it is a list
        self._fault: Fault | None = None
        self.short_bytes = 0
        self.free_bytes: int | None = None  # None: without limit

    # FileSystem

    def root(self, path: str = "", *, create: bool = False) -> MemoryDirectory:
        return MemoryDirectory(self, path or "/memory", None, "")

    def boot_identity(self) -> str:
        return f"memory boot {self._boot}"

    def file_system_type(self, path: str) -> str:
        return "memory"

    # Faults

    def fail(
        self,
        *kinds: str,
        nth: int = 0,
        code: int = errno.EIO,
        is_lasting: bool = False,
        short_bytes: int = 0,
    ) -> None:
        """Let a coming call fail: of the given kinds, or of any; the `nth` from now, from 0.

        is_lasting: all later ones too, until `heal`.  short_bytes: a write stores these first.
        """
        self._fault = Fault(
            frozenset(kinds), nth, code, is_lasting=is_lasting, short_bytes=short_bytes
        )

    def heal(self) -> None:
        self._fault = None

    def enter(self, kind: str, path: str) -> None:
        """Count a call; raise what it was told to fail with."""
        if self.calls is not None:
            self.calls.append(kind)
        fault = self._fault
        if fault is not None and fault.strikes(kind):
            self.short_bytes = fault.short_bytes
            raise _error(fault.code, path)

    def room_for(self, inode: Inode, position: int, size: int) -> int:
        """Take space for a write; return how many of its bytes fit."""
        if self.free_bytes is None:
            return size
        owned = -(-inode.size // _PAGE) * _PAGE
        room = max(min(size, owned + self.free_bytes // _PAGE * _PAGE - position), 0)
        needed = -(-(position + room) // _PAGE) * _PAGE - owned
        self.free_bytes -= max(needed, 0)
        return room

    def take_space(self, path: str, size: int) -> None:
        if self.free_bytes is not None:
            if self.free_bytes < size:
                raise _error(errno.ENOSPC, path)
            self.free_bytes -= size

    # What is there

    def inode(self, number: int) -> Inode:
        inode = self.inodes.get(number)
        if inode is None:
            contents = self._disk.files[number].current
            inode = self.inodes[number] = Inode(number, bytes(contents))
        return inode

    def new_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def contents(self) -> dict[str, bytes]:
        """Return the bytes of every file, by path from the root; a directory's are empty."""
        found: dict[str, bytes] = {}

        def collect(number: int, prefix: str) -> None:
            for name, child in self.directories[number].items():
                if child in self.directories:
                    found[f"{prefix}{name}/"] = b""
                    collect(child, f"{prefix}{name}/")
                else:
                    found[prefix + name] = self.inode(child).contents()

        collect(ROOT, "")
        return found

    # The trace

    def record(self, make: Callable[..., Operation], *fields: object) -> None:
        if self.trace is None:
            return
        self.note()
        values = (bytes(f) if isinstance(f, memoryview) else f for f in fields)
        self.trace.append(make(*values))

    def note(self) -> int:
        """Record what was stored through maps by now; return the length of the trace."""
        assert self.trace is not None, "recording is off"
        for inode in self.mapped.values():
            for position, data in inode.stored_ranges():
                self.trace.append(Write(inode.number, position, data))
        return len(self.trace)

    def change(
        self,
        directory: int,
        changes: dict[str, int | None],
        *,
        new_file: int = 0,
        new_directory: int = 0,
    ) -> None:
        self.record(Entry, directory, changes, new_file, new_directory)
        entries = self.directories[directory]
        for name, number in changes.items():
            if number is None:
                entries.pop(name, None)
            else:
                entries[name] = number

    def disk_after(self, count: int | None = None) -> Disk:
        """Return disk and page cache after the first `count` operations of the trace, or all."""
        assert self.trace is not None, "recording is off"
        if count is None:
            count = self.note()
        return self._disk.copy().apply_all(self.trace[:count])

    def drop_cache(self, inode: Inode) -> None:
        """Show what the disk really holds where a failed sync left clean pages."""
        self.record(CacheDropped, inode.number)
        current = self.disk_after().files[inode.number].current
        inode.writable(0)[: inode.size] = current
        if inode.seen is not None:
            inode.seen = inode.contents()
