"""What stands on disk and is not what it should be.  Nothing is ever deleted because of it."""

from __future__ import annotations

import errno

from pylog.errors.base import PylogError, shown


class CorruptionError(PylogError):
    """Raised when stored bytes are not what was written.  Nothing is deleted because of it."""


class CorruptRangeError(CorruptionError):
    """Raised by a read that meets a damaged range of records; all others stay readable.

    first, last: offsets, both damaged, so reading goes on at `last + 1`.
    path, position: where the damage begins (file, byte), None where only memory was looked at.
    topic, partition: said by who reads several partitions, else None.
    """

    topic: str | None = None
    partition: int | None = None
    _fields = ("first", "last", "path", "position", "reason")

    def __init__(
        self,
        first: int,
        last: int,
        path: str | None = None,
        position: int | None = None,
        reason: str = "not a valid batch",
    ) -> None:
        place = f"{path or 'batch'}" + ("" if position is None else f" at {position}")
        super().__init__(f"{place}: {reason}; offsets {first} to {last} are unreadable")
        self.first = first
        self.last = last
        self.path = path
        self.position = position
        self.reason = reason


class CorruptFileError(CorruptionError):
    """Raised when a checkpoint, manifest or metadata file cannot be parsed.

    The file was left as it is.  reason: what was expected and what stands there, with its place.
    """

    _fields = ("path", "reason")

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class IncompatibleFormatError(PylogError):
    """Raised when a directory was written in a format this version cannot read.

    Nothing was changed.  found, supported: format versions or tags.
    """

    _fields = ("path", "found", "supported")

    def __init__(self, path: str, found: object, supported: object) -> None:
        super().__init__(f"{path}: format {shown(found)}, this pylog reads {shown(supported)}")
        self.path = path
        self.found = found
        self.supported = supported


class NetworkFileSystemError(PylogError, OSError):
    """Raised when a log would stand on a network file system, whose locks cannot be trusted.

    Nothing was created.  errno is ENOTSUP, filename the directory, file_system its type.
    """

    _fields = ("filename", "file_system")

    def __init__(self, filename: str, file_system: str) -> None:
        message = f"{file_system} is a network file system: locks and durability do not hold there"
        super().__init__(message)
        self.errno = errno.ENOTSUP
        self.strerror = message
        self.filename = filename
        self.file_system = file_system
