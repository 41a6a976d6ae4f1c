"""Make, cut and replace the files of a segment, and set aside what is not ours.

Knows names and zeros.  Must not know what the bytes of a segment mean, nor which segments count.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable
from typing import Final

from pylog.storage import layout
from pylog.storage.cleaned_files import open_revision
from pylog.storage.files import TEMPORARY_SUFFIX, Directory, File
from pylog.storage.manifest import SegmentFacts
from pylog.storage.scan import last_nonzero

logger = logging.getLogger("pylog")

_COPY_BYTES: Final = 1 << 20


def create_segment(directory: Directory, base_offset: int) -> None:
    """Create the three files of an empty segment.

    Their entries are durable when the manifest that names them is: its replacement syncs the
    directory.  Until then an empty segment may lose its files, and recovery makes them again.
    A file that is there already was left by a roll that was never committed and is emptied; if it
    holds anything but zeros it is not ours to empty, and is set aside.
    Raises OSError with no file of the old segment touched.
    """
    for name in layout.segment_names(base_offset):
        file = directory.open(name, writable=True, create=True)
        try:
            size = file.size()
            if last_nonzero(file, start=0, end=size) > 0 and name == layout.log_name(base_offset):
                file.close()
                set_aside(directory, name)
                file = directory.open(name, writable=True, create=True)
            elif size > 0:
                file.truncate(0)
                file.sync()
        finally:
            file.close()


def cut_zeros(directory: Directory, name: str, size: int) -> bool:
    """Cut a file to `size` if only zeros lie beyond; return whether there was anything to cut."""
    try:
        file = directory.open(name, writable=True)
    except FileNotFoundError:
        return False
    try:
        end = file.size()
        if end <= size or last_nonzero(file, start=size, end=end) > size:
            return False
        file.truncate(size)
        return True
    finally:
        file.close()


def cut_behind(directory: Directory, facts: SegmentFacts) -> None:
    """Cut what lies behind the end of a sealed segment's log, durably.  Raises OSError."""
    name = layout.log_name(facts.base_offset)
    with contextlib.suppress(FileNotFoundError):
        file = open_revision(directory, name, facts.revision, writable=True)
        try:
            if file.size() > facts.size:
                file.truncate(facts.size)
                file.sync()
        finally:
            file.close()


def write_index(directory: Directory, name: str, data: bytes) -> None:
    """Replace the entries of an index file, durably: a clean manifest vouches for their number."""
    file = directory.open(name, writable=True, create=True)
    try:
        file.truncate(0)
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()


def set_aside(directory: Directory, name: str) -> None:
    """Rename a file that cannot be parsed, so that writing a new one loses nothing."""
    names = set(directory.names())
    if name not in names:
        return
    number = 1
    while f"{name}.damaged-{number}" in names:
        number += 1
    directory.rename(name, f"{name}.damaged-{number}")


def remove_empty_segment(directory: Directory, base_offset: int) -> None:
    """Remove the files of a roll that came to nothing; one that holds anything is left."""
    for name in layout.segment_names(base_offset):
        try:
            file = directory.open(name)
        except FileNotFoundError:
            continue
        try:
            is_empty = file.size() == 0
        finally:
            file.close()
        if is_empty:
            directory.unlink(name)


def mark_deleted(directory: Directory, base_offset: int) -> None:
    """Rename the files of a segment that no manifest names any more.  Raises OSError.

    Who has one open keeps it.  Not synced: names that come back are found by `sweep`.
    """
    for name in layout.segment_names(base_offset):
        with contextlib.suppress(FileNotFoundError):
            directory.rename(name, layout.deleted_name(name))


def remove_indexes(directory: Directory, base_offset: int) -> None:
    """Remove the indexes of a segment, which is read without them.  Raises OSError."""
    for name in layout.segment_names(base_offset)[1:]:
        with contextlib.suppress(FileNotFoundError):
            directory.unlink(name)


def unlisted_bases(
    directory: Directory, listed: Collection[int], *, is_truncated: bool = False
) -> list[int]:
    """Return the base offsets of segments that have files and do not count, ascending.

    listed: of all that count, with the active one, which is the last: what lies behind it may be
    the beginning of a roll, and counts unless `is_truncated`.
    """
    parsed = map(layout.parse_segment_name, directory.names())
    found = {one[0] for one in parsed if one is not None}
    last = max(listed, default=0)
    return sorted(base for base in found.difference(listed) if is_truncated or base < last)


def deleted_names(directory: Directory) -> list[str]:
    """Return the names of the files that wait for their removal."""
    return [name for name in directory.names() if layout.parse_deleted_name(name) is not None]


def sweep(directory: Directory, listed: Collection[int], *, is_truncated: bool) -> None:
    """Remove what dead processes left half done; the caller is alone.  Errors are only reported.

    listed: the base offsets of all segments that count.  is_truncated: what lies behind the last
    one was cut off with the log.  Files of others before the last are those
    of a process that died before it renamed them: they are renamed now, and removed when they are
    found so the next time, which gives somebody who put them there by hand a chance.
    """
    try:
        for name in [*deleted_names(directory), *_unfinished_snapshots(directory)]:
            directory.unlink(name)
        for base_offset in unlisted_bases(directory, listed, is_truncated=is_truncated):
            mark_deleted(directory, base_offset)
    except OSError as error:
        logger.warning("%s: deleted files are left: %s", directory.path, error)


def sync_indexes(directory: Directory, base_offset: int) -> None:
    """Make the indexes of a sealed segment durable.  Errors are only reported."""
    try:
        for name in layout.segment_names(base_offset)[1:]:
            file = directory.open(name, writable=True)
            try:
                file.sync()
            finally:
                file.close()
    except FileNotFoundError:
        logger.debug("%s: segment %d was deleted before its sync", directory.path, base_offset)
    except OSError as error:
        # A cache: whoever finds it wrong rebuilds it.
        logger.warning("%s: index not synced: %s", directory.path, error)


def snapshot_offsets(directory: Directory) -> list[int]:
    """Return the offsets of the producers' snapshots that lie there, ascending."""
    found = (layout.parse_snapshot_name(name) for name in directory.names())
    return sorted(offset for offset in found if offset is not None)


def _unfinished_snapshots(directory: Directory) -> list[str]:
    """Return the names of those that nobody goes on writing: each has a name of its own."""
    names = [name for name in directory.names() if name.endswith(TEMPORARY_SUFFIX)]
    parse = layout.parse_snapshot_name
    return [name for name in names if parse(name.removesuffix(TEMPORARY_SUFFIX)) is not None]


def remove_snapshots(directory: Directory, offsets: Iterable[int]) -> None:
    """Remove producers' snapshots.  Raises OSError."""
    for offset in offsets:
        # Another process may have been faster.
        with contextlib.suppress(FileNotFoundError):
            directory.unlink(layout.snapshot_name(offset))


def drop_snapshots_after(directory: Directory, end_offset: int) -> None:
    """Remove the snapshots of records that were not known to be on disk.  Raises OSError.

    Other records may take their offsets.  Nothing is synced: who replaces the manifest does.
    """
    remove_snapshots(directory, [end for end in snapshot_offsets(directory) if end > end_offset])


# ------------------------------------------------------------------ what recovery keeps


def save_cut(directory: Directory, name: str, source: File, start: int, end: int) -> None:
    """Copy [start, end) of `source` to a file beside it, durably, before anything is cut.

    Other bytes that were cut at the same place before are set aside, not written over.
    Raises OSError with nothing left behind.
    """
    temporary = name + TEMPORARY_SUFFIX
    target = directory.open(temporary, writable=True, create=True)
    try:
        target.truncate(0)
        _copy(source, target, start, end)
        target.sync()
    except OSError:
        with contextlib.suppress(OSError):
            directory.unlink(temporary)
        raise
    finally:
        target.close()
    if not _holds(directory, name, source, start, end):
        set_aside(directory, name)
    directory.rename(temporary, name)
    directory.sync()


def _copy(source: File, target: File, start: int, end: int) -> None:
    for position in range(start, end, _COPY_BYTES):
        target.pwrite(source.pread(min(_COPY_BYTES, end - position), position), position - start)


def _holds(directory: Directory, name: str, source: File, start: int, end: int) -> bool:
    """Return whether the file holds just [start, end) of `source`."""
    try:
        file = directory.open(name)
    except FileNotFoundError:
        return False
    try:
        return file.size() == end - start and all(
            file.pread(_COPY_BYTES, position - start)
            == source.pread(min(_COPY_BYTES, end - position), position)
            for position in range(start, end, _COPY_BYTES)
        )
    finally:
        file.close()


def write_again(file: File, start: int, end: int) -> None:
    """Write [start, end) over itself.

    A write-back that failed leaves pages that look clean and are not on disk, so a sync alone would
    prove nothing (RELIABILITY A2).  What the kernel can drop was read from the disk again before.
    """
    end = min(end, file.size())
    for position in range(start, end, _COPY_BYTES):
        file.pwrite(file.pread(min(_COPY_BYTES, end - position), position), position)
