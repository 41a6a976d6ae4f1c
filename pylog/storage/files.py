"""The only module that calls the operating system.

Knows names, bytes, descriptors and locks, and how to be atomic.  Must not know formats, offsets
or topics.  Everything above works with the protocols `FileSystem`, `Directory` and `File`;
`OsFiles` is the real implementation, and the tests have one in memory that can crash.

Locks: none of its own.  A `File` may be used by many threads; `close` is the caller's to order.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import resource
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final, Protocol, TypeAlias

from pylog._native import Descriptor, Mapping

# What a file is mapped as.  The files in memory of the tests lend a view of their own bytes.
Memory: TypeAlias = Mapping | memoryview

_ZEROS: Final = bytes(1 << 20)  # one write of this size reaches 4-8 GB/s (measured by the design)
_OPEN_FLAGS: Final = os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
TEMPORARY_SUFFIX: Final = ".tmp"

# File systems whose locks or shared mappings do not join processes of different hosts.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    "9p afs beegfs ceph cifs coda davfs fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs gfs2 "
    "glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs pvfs2 smb2 smb3 smbfs virtiofs".split()
)


class File(Protocol):
    """An open file.  Positions and sizes are bytes; every method may raise OSError."""

    path: str
    pread: Callable[[int, int], bytes]  # (size, position); shorter only at the end of the file

    def pread_into(self, buffer: memoryview, position: int) -> int: ...
    def pwrite(self, data: bytes | bytearray | memoryview, position: int) -> None: ...
    def fill_zeros(self, start: int, end: int, *, step: int = ...) -> None: ...
    def truncate(self, size: int) -> None:
        """Cut or extend the file to `size`; what is added reads as zeros."""

    def size(self) -> int:
        """Return the size now."""

    def sync_data(self) -> None: ...
    def sync(self) -> None:
        """Make contents and size durable (fsync); a directory: its entries."""

    def take_time(self, source: File) -> None: ...
    def drop_cache(self, start: int) -> None: ...
    def map(self, size: int, *, position: int = 0, writable: bool) -> Memory: ...
    def identity(self) -> int: ...
    def lock(self, byte: int, *, exclusive: bool, blocking: bool) -> bool: ...
    def is_lockable(self, byte: int, *, exclusive: bool) -> bool: ...
    def unlock(self, byte: int) -> None:
        """Give up the lock of one byte."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def descriptor(self) -> Descriptor | None:
        """Return its owner, who keeps it open; None for a file that the system does not know."""

    def close(self) -> None:
        """Close the file; idempotent."""


class Directory(Protocol):
    """A directory by name; opened anew for each call, so that it holds no descriptor."""

    path: str

    def directory(self, name: str) -> Directory:
        """Return a directory in this one, which need not exist."""

    def exists(self) -> bool:
        """Return whether the directory exists."""

    def make(self) -> None: ...
    def remove(self) -> None:
        """Remove this directory, which must be empty."""

    def names(self) -> list[str]:
        """Return the names in the directory, sorted."""

    def open(self, name: str, *, writable: bool = False, create: bool = False) -> File: ...
    def rename(self, source: str, target: str) -> None:
        """Rename atomically, in place of what is called `target`; durable after `sync`."""

    def unlink(self, name: str) -> None:
        """Remove a file's name; who has it open keeps it."""

    def sync(self) -> None: ...


class FileSystem(Protocol):
    """What storage needs of a machine."""

    def root(self, path: str, *, create: bool) -> Directory: ...
    def boot_identity(self) -> str: ...
    def file_system_type(self, path: str) -> str: ...


def replace_file(
    directory: Directory, name: str, data: bytes, *, sync_directory: bool = True
) -> None:
    """Replace the contents of `name` atomically and durably; a crash leaves the old or the new.

    sync_directory: false when a later sync of the directory makes the new name durable.

    Raises OSError, with the old contents in place.  Four synced steps: write a temporary file,
    fsync it, rename, fsync the directory (RELIABILITY A8: a rename may outrun its contents).
    """
    temporary = name + TEMPORARY_SUFFIX
    file = directory.open(temporary, writable=True, create=True)
    try:
        file.truncate(0)
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()
    directory.rename(temporary, name)
    if sync_directory:
        directory.sync()


def read_file(directory: Directory, name: str, *, max_bytes: int) -> bytes | None:
    """Return the bytes of a small file, at most `max_bytes` + 1, or None when it does not exist.

    The byte above the limit lets the caller refuse a file that is too large without reading it.
    """
    try:
        file = directory.open(name)
    except FileNotFoundError:
        return None
    try:
        return file.pread(max_bytes + 1, 0)
    finally:
        file.close()


def _lock_request(kind: int, byte: int) -> bytes:
    if sys.platform == "darwin":
        return struct.pack("@qqihh", byte, 1, 0, kind, os.SEEK_SET)
    return struct.pack("@hhqqi0q", kind, os.SEEK_SET, byte, 1, 0)


def _lock_kind(answer: bytes) -> int:
    layout, field = ("@qqihh", 3) if sys.platform == "darwin" else ("@hhqqi0q", 0)
    return int(struct.unpack_from(layout, answer)[field])


class OsFile:
    """A file of the operating system."""

    __slots__ = ("__weakref__", "_descriptor", "_fd", "path", "pread")

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        # Readers hold the file while they read; the last one to let go closes it.
        self._descriptor: Descriptor | None = Descriptor(fd)
        self.path = path
        # A partial of the C function: the read path is too hot for one more Python frame.
        self.pread: Callable[[int, int], bytes] = functools.partial(os.pread, fd)

    def pread_into(self, buffer: memoryview, position: int) -> int:
        """Fill `buffer` from `position`; return how many bytes there were before the file ended."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self._fd, [buffer[done:]], position + done)
            if count == 0:
                break
            done += count
        return done

    def pwrite(self, data: bytes | bytearray | memoryview, position: int) -> None:
        """Write all of `data` at `position`; an error may leave a part of it written."""
        view = memoryview(data).cast("B")
        while view:
            count = os.pwrite(self._fd, view, position)
            view = view[count:]
            position += count

    def fill_zeros(self, start: int, end: int, *, step: int = len(_ZEROS)) -> None:
        """Write zeros over [start, end), so that the space is taken before anything is stored.

        step: bytes a write, at most 1 MiB.  Linux keeps in its cache as one folio what one write
        brought there, and a store through a map dirties the whole folio: small steps make small
        syncs (measured: 190 stored bytes cost a sync 4 KiB to 1 MiB of writing).
        """
        while start < end:
            size = min(end - start, step)
            self.pwrite(memoryview(_ZEROS)[:size], start)
            start += size

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def sync_data(self) -> None:
        """fdatasync.  After an error nothing may be assumed of the bytes: never call it again."""
        os.fdatasync(self._fd)

    def sync(self) -> None:
        os.fsync(self._fd)

    def take_time(self, source: File) -> None:
        """Be called as old as another file, whose contents this one has."""
        time = os.fstat(source.fileno()).st_mtime_ns
        os.utime(self._fd, ns=(time, time))

    def drop_cache(self, start: int) -> None:
        """Ask the kernel to forget clean cached pages from `start`, so that reads ask the disk."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, start, 0, os.POSIX_FADV_DONTNEED)

    def map(self, size: int, *, position: int = 0, writable: bool) -> Mapping:
        """Map [position, position + size); position is a multiple of the page size.

        Bytes past the end of the file must not be touched before it grows.
        """
        return Mapping(self._fd, size, position=position, writable=writable)

    def identity(self) -> int:
        """Return a number that no other file of this file system has while this one exists."""
        return os.fstat(self._fd).st_ino

    def lock(self, byte: int, *, exclusive: bool, blocking: bool) -> bool:
        """Lock one byte for this open file; return False when another holds it and not blocking.

        An open-file-description lock: it is dropped by the kernel when its last descriptor is
        gone, however the process ends, and not by closing another descriptor (RELIABILITY D4).
        Changing between shared and exclusive is atomic.
        """
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        command = fcntl.F_OFD_SETLKW if blocking else fcntl.F_OFD_SETLK
        try:
            fcntl.fcntl(self._fd, command, _lock_request(kind, byte))
        except OSError as error:
            if not blocking and error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def is_lockable(self, byte: int, *, exclusive: bool) -> bool:
        """Return whether `lock` would succeed now, without taking anything."""
        kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, _lock_request(kind, byte))
        return _lock_kind(answer) == fcntl.F_UNLCK

    def unlock(self, byte: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_UNLCK, byte))

    def fileno(self) -> int:
        return self._fd

    def descriptor(self) -> Descriptor | None:
        return self._descriptor

    def close(self) -> None:
        self._fd, self._descriptor = -1, None


class OsDirectory:
    """A directory of the operating system, found through its parents without following links."""

    __slots__ = ("_name", "_parent", "_root", "_root_fd", "path")

    def __init__(self, path: str, *, parent: OsDirectory | None, name: str, root_fd: int) -> None:
        self.path = path
        self._parent = parent
        self._name = name
        self._root_fd = root_fd
        self._root = Descriptor(root_fd) if parent is None else None

    @contextlib.contextmanager
    def _descriptor(self) -> Iterator[int]:
        if self._parent is None:
            yield self._root_fd
            return
        with self._parent._descriptor() as parent_fd:
            flags = _DIRECTORY_FLAGS | os.O_NOFOLLOW
            with _naming(self.path):
                fd = os.open(self._name, flags, dir_fd=parent_fd)
        try:
            yield fd
        finally:
            os.close(fd)

    def directory(self, name: str) -> OsDirectory:
        return OsDirectory(os.path.join(self.path, name), parent=self, name=name, root_fd=-1)

    def exists(self) -> bool:
        try:
            with self._descriptor():
                return True
        except FileNotFoundError:
            return False

    def make(self) -> None:
        """Create this directory in its parent, durably; no error if it is there."""
        assert self._parent is not None
        with (
            self._parent._descriptor() as fd,
            contextlib.suppress(FileExistsError),
            _naming(self.path),
        ):
            os.mkdir(self._name, _DIRECTORY_MODE, dir_fd=fd)
        self._parent.sync()

    def remove(self) -> None:
        assert self._parent is not None
        with self._parent._descriptor() as fd, _naming(self.path):
            os.rmdir(self._name, dir_fd=fd)

    def names(self) -> list[str]:
        with self._descriptor() as fd:
            return sorted(os.listdir(fd))

    def open(self, name: str, *, writable: bool = False, create: bool = False) -> OsFile:
        """Open a regular file.  Raises OSError, also for a symbolic link (ELOOP) or a directory."""
        path = os.path.join(self.path, name)
        flags = _OPEN_FLAGS | os.O_NONBLOCK | (os.O_RDWR if writable else os.O_RDONLY)
        with self._descriptor() as directory_fd, _naming(path):
            fd = os.open(
                name, flags | (os.O_CREAT if create else 0), _FILE_MODE, dir_fd=directory_fd
            )
        file = OsFile(fd, path)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            file.close()
            raise OSError(errno.EINVAL, "not a regular file", path)
        return file

    def rename(self, source: str, target: str) -> None:
        with self._descriptor() as fd, _naming(os.path.join(self.path, source)):
            os.rename(source, target, src_dir_fd=fd, dst_dir_fd=fd)

    def unlink(self, name: str) -> None:
        with self._descriptor() as fd, _naming(os.path.join(self.path, name)):
            os.unlink(name, dir_fd=fd)

    def sync(self) -> None:
        with self._descriptor() as fd, _naming(self.path):
            os.fsync(fd)

    def close(self) -> None:
        self._root_fd, self._root = -1, None


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Give an OSError of a call relative to a descriptor the path that the user knows."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise


class OsFiles:
    """The file systems of this machine."""

    def root(self, path: str, *, create: bool) -> OsDirectory:
        """Open the directory of a log; `path` itself may go through symbolic links."""
        if not path:
            # An empty setting is a mistake, and not the current directory, as for open(2).
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        path = os.path.abspath(path)
        if create and not os.path.isdir(path):
            os.makedirs(path, _DIRECTORY_MODE, exist_ok=True)
            _sync_directory(os.path.dirname(path))
        return OsDirectory(path, parent=None, name="", root_fd=os.open(path, _DIRECTORY_FLAGS))

    def boot_identity(self) -> str:
        """Return a text that changes with every boot and differs between process-id namespaces.

        A robust lock names its owner by thread id, so it is void after a boot and means nothing
        in another namespace (RELIABILITY D7, D8).
        """
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"

    def file_system_type(self, path: str) -> str:
        """Return the type of the file system that holds `path`, as the mount table names it."""
        path = os.path.realpath(path)
        best, found = "", "unknown"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(" ")
                mount = fields[4].replace("\\040", " ").rstrip("/")
                inside = path == mount or path.startswith(mount + "/")
                if inside and len(mount) >= len(best):
                    best, found = mount, fields[fields.index("-") + 1]
        return found


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open, as the limit is now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _sync_directory(path: str) -> None:
    fd = os.open(path, _DIRECTORY_FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
