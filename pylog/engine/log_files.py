"""The files of a log itself: its properties, and the lock file that every process maps.

Knows their names and who may make them.  Must not know partitions, nor who opens the log.
"""

from __future__ import annotations

import errno
import uuid
from typing import Final

from pylog._native import PAGE_BYTES
from pylog.storage import layout
from pylog.storage.files import Directory, File, Memory, read_file, replace_file

LOCK_NAME: Final = "pylog.lock"
_MAX_PROPERTIES_BYTES: Final = 1 << 16
# Bytes of pylog.lock: held shared while the log is open, and alone while its files are made.
_PRESENCE_BYTE: Final = 0
_MAKING_BYTE: Final = 1


def open_properties(root: Directory, *, create: bool) -> uuid.UUID:
    """Return the log's id; writes the properties of a new log."""
    data = read_file(root, layout.META_PROPERTIES, max_bytes=_MAX_PROPERTIES_BYTES)
    if data is not None:
        return layout.parse_meta_properties(data, path=f"{root.path}/{layout.META_PROPERTIES}")
    if not create:
        raise FileNotFoundError(errno.ENOENT, "not a pylog directory", root.path)
    lock_file = root.open(LOCK_NAME, writable=True, create=True)
    try:
        # One process at a time: who comes second reads what the first has written.
        lock_file.lock(_MAKING_BYTE, exclusive=True, blocking=True)
        if read_file(root, layout.META_PROPERTIES, max_bytes=0) is None:
            data = layout.encode_meta_properties(uuid.uuid4())
            replace_file(root, layout.META_PROPERTIES, data)
    finally:
        lock_file.close()
    return open_properties(root, create=False)


def map_lock_file(root: Directory) -> Memory:
    """Map the lock file, through another opening of it than the one that holds the locks.

    A map keeps its opening alive, also in a forked child: the locks of a parent that was killed
    would last as long as the child.
    """
    file = root.open(LOCK_NAME, writable=True)
    try:
        return file.map(PAGE_BYTES, writable=True)
    finally:
        file.close()


def open_lock_file(root: Directory) -> File:
    """Open the lock file, made if need be, and hold it shared: that is what keeps a log open."""
    file = root.open(LOCK_NAME, writable=True, create=True)
    if file.size() < PAGE_BYTES:
        # Alone, and looked at again: another process may count in the page already.
        file.lock(_MAKING_BYTE, exclusive=True, blocking=True)
        size = file.size()
        if size < PAGE_BYTES:
            file.fill_zeros(size, PAGE_BYTES)
            # After a power cut it has its size, so that opening needs no space (RELIABILITY B6).
            file.sync()
        file.unlock(_MAKING_BYTE)
    file.lock(_PRESENCE_BYTE, exclusive=False, blocking=True)
    return file
