"""The changes of a partition's durable facts: begin to write, roll, end cleanly.

Knows in which order files, manifest and page must change so that a crash between any two steps
leaves the old facts or the new ones.  Must not know how records are placed or read.

Locks: every function that ends in `_locked` is called with the page lock held.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import struct
import uuid
from collections.abc import Sequence
from typing import Final

from pylog import _native
from pylog._native import Marks, SharedPage
from pylog.errors import CorruptFileError, PartitionFailedError
from pylog.storage import layout, policy, recovery
from pylog.storage.epoch_checkpoint import save_epochs
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.files import Directory, read_file, replace_file
from pylog.storage.manifest import (
    MANIFEST_NAME,
    ActiveFacts,
    Clock,
    Manifest,
    SegmentFacts,
    encode_manifest,
)
from pylog.storage.policy import INDEX_ENTRY_BYTES, TIME_ENTRY_BYTES
from pylog.storage.recovery import Opened
from pylog.storage.segment import Segment
from pylog.storage.segment_files import create_segment, remove_empty_segment
from pylog.storage.sync import visible_end

logger = logging.getLogger("pylog")

_MAX_METADATA_BYTES: Final = 1 << 12

# Flags in the marks: what has to be done before the first write.
NEEDS_REPAIR: Final = 1  # recovery could not write its repairs: no space
IS_CLEAN: Final = 2  # the manifest promises an exact end and must be replaced first
IS_NEW: Final = 4  # there is no manifest and no segment yet
IS_DELETED: Final = 8  # the topic is gone; nothing can be done
IS_ROLLING: Final = 16  # a roll may have been committed; the manifest on disk tells
# The log start may have been moved, or segments cleaned; the manifest on disk tells.
IS_CHANGING: Final = 32
# The end may have been cut off, or the log begun anew; the manifest on disk tells.
IS_TRUNCATING: Final = 64
# The flags that may stand beside writes; with any other nothing was written since it was set.
WHILE_WRITING: Final = IS_ROLLING | IS_CHANGING | IS_TRUNCATING

_TIME_ENTRY: Final = struct.Struct(">qi")
assert _TIME_ENTRY.size == TIME_ENTRY_BYTES
EMPTY_SEGMENT: Final = {  # marks of an active segment that holds nothing
    "position": 0,
    "allocated": 0,
    "index_entries": 0,
    "index_allocated": 0,
    "time_entries": 0,
    "time_allocated": 0,
    "bytes_since_index_entry": 0,
    "first_timestamp": -1,
    "max_timestamp": -1,
    "max_timestamp_offset": -1,
    "last_time_entry": -1,
}


def initial_marks(
    opened: Opened, *, is_repaired: bool, now: int, high_watermark: int | None
) -> dict[str, int]:
    """Return the marks of a partition that was just opened and has nobody else.

    now: the clock's time, the latest at which records can have been appended that recovery found.
    high_watermark: where it is held, None where all that is there is visible.
    """
    manifest = opened.manifest
    common = {
        "segment_serial": 1,
        "state": _native.OPEN,
        "leader_epoch": max(opened.leader_epoch, 0),
        "is_held": high_watermark is not None,
        "truncated_at": 0 if manifest is None else manifest.truncated_at,
    }
    if manifest is None:
        offsets = dict.fromkeys(
            ("log_start_offset", "high_watermark", "log_end_offset", "durable_offset"), 0
        )
        flags = {"flags": IS_NEW, "generation": 0, "base_offset": 0, "append_time": -1}
        return common | offsets | flags | EMPTY_SEGMENT
    active, end = manifest.segments[-1], manifest.log_end_offset
    visible_end = end if high_watermark is None else min(high_watermark, end)
    is_exact = opened.repairs is None and active.append_time >= 0
    append_time = active.append_time if is_exact else max(now, active.append_time)
    # Indexes that were not rebuilt yet may hold anything; without entries readers scan instead.
    entries = (opened.index_entries, opened.time_entries) if is_repaired else (0, 0)
    return common | {
        "flags": IS_CLEAN if is_repaired else NEEDS_REPAIR,
        "generation": manifest.generation,
        "log_start_offset": manifest.log_start_offset,
        "high_watermark": max(visible_end, manifest.log_start_offset),
        "log_end_offset": end,
        "durable_offset": end,
        "base_offset": active.base_offset,
        "position": active.size,
        "allocated": active.size,
        "index_entries": entries[0],
        "index_allocated": entries[0],
        "time_entries": entries[1],
        "time_allocated": entries[1],
        "bytes_since_index_entry": manifest.active.bytes_since_index_entry,
        "first_timestamp": manifest.active.first_timestamp,
        "max_timestamp": manifest.active.max_timestamp,
        "max_timestamp_offset": manifest.active.max_timestamp_offset,
        "last_time_entry": opened.last_time_entry if is_repaired else -1,
        "append_time": append_time,
    }


def write_manifest(directory: Directory, manifest: Manifest) -> None:
    """Replace the manifest: the commit point of every change here.  Raises OSError."""
    replace_file(directory, MANIFEST_NAME, encode_manifest(manifest))


def begin_new_locked(
    directory: Directory, page: SharedPage, *, topic_id: uuid.UUID, now: int
) -> Manifest:
    """Create the files of a new partition, durably, before its first record.

    Raises OSError; what was created by then is created again the next time.
    """
    # Also when it is there: whoever made it may have died before its parent was synced.
    directory.make()
    # Replacing the manifest syncs the entries of all these files at once.
    metadata = layout.encode_partition_metadata(topic_id)
    replace_file(directory, layout.PARTITION_METADATA, metadata, sync_directory=False)
    epochs = LeaderEpochs(((page.marks().leader_epoch, 0),))
    save_epochs(directory, epochs, sync_directory=False)
    create_segment(directory, 0)
    manifest = Manifest(
        generation=1,
        is_clean=False,
        log_start_offset=0,
        durable_offset=0,
        active=ActiveFacts(),
        clock=Clock(now),
        segments=(empty_segment(0, 0, append_time=now),),
    )
    write_manifest(directory, manifest)
    page.publish(flags=0, generation=1, segment_serial=page.marks().segment_serial + 1)
    return manifest


def begin_again_locked(directory: Directory, page: SharedPage, manifest: Manifest) -> Manifest:
    """Withdraw the promise of a clean end, before the first write after it (RELIABILITY B9)."""
    # Whoever made the directory may have died before its parent was synced.
    directory.make()
    manifest = dataclasses.replace(manifest, generation=manifest.generation + 1, is_clean=False)
    write_manifest(directory, manifest)
    page.publish(flags=0, generation=manifest.generation)
    return manifest


def repair_locked(
    directory: Directory, page: SharedPage, *, index_interval_bytes: int, now: int
) -> Manifest | None:
    """Do the repairs for which there was no space when the partition was opened.

    Nothing was written since, so examining again finds the same; returns the manifest now on disk.
    """
    opened = recovery.examine(directory, index_interval_bytes=index_interval_bytes, same_boot=True)
    known = page.marks()
    if opened.leader_epoch < known.leader_epoch and opened.repairs is not None:
        opened = recovery.in_new_epoch(opened)
    if opened.repairs is not None:
        recovery.repair(directory, opened.repairs)
    held = known.high_watermark if known.is_held else None
    marks = initial_marks(opened, is_repaired=True, now=now, high_watermark=held)
    serial = known.segment_serial + 1
    page.publish(**(marks | {"segment_serial": serial}))
    return opened.manifest


def roll_locked(
    directory: Directory,
    page: SharedPage,
    manifest: Manifest,
    *,
    unsynced: Sequence[Segment],
) -> Manifest:
    """Seal the active segment and open the next one; returns the new manifest.

    unsynced: every segment that may hold bytes above the durable offset, to be made durable first;
    none: the durable offset stays where it is, for a sync to come.
    Raises OSError with the old segment still active.  Blocks all appenders for two syncs and those
    of `unsynced`: replacing the manifest syncs the directory, and so the new files' entries.
    Source: Kafka LocalLog.roll; the manifest takes the place of its recovery checkpoint.
    """
    marks = page.marks()
    base = marks.log_end_offset
    try:
        create_segment(directory, base)
        for segment in unsynced:
            sync_locked(page, segment)
        time_entries = _seal_timeindex(directory, marks)
    except OSError:
        with contextlib.suppress(OSError):
            remove_empty_segment(directory, base)
        raise
    durable_offset = base if unsynced else marks.durable_offset
    manifest = dataclasses.replace(
        manifest,
        generation=manifest.generation + 1,
        is_clean=False,
        high_watermark=marks.high_watermark,
        durable_offset=durable_offset,
        active=ActiveFacts(),
        segments=(
            *manifest.segments[:-1],
            _sealed_facts(manifest, marks, time_entries),
            empty_segment(base, manifest.truncated_at, append_time=marks.append_time),
        ),
    )
    # From here on no map is appended through, since its serial is another: if this process dies
    # after the commit, a record that went to the old segment would be lost at the next recovery.
    page.publish(segment_serial=marks.segment_serial + 1, flags=IS_ROLLING)
    write_manifest(directory, manifest)
    _publish_roll_locked(page, manifest)
    trim(directory, marks, time_entries, sync=False)
    return manifest


def sync_locked(page: SharedPage, segment: Segment) -> None:
    """Make a segment's log durable.  Raises PartitionFailedError: so the partition is, then."""
    file = segment.file()
    try:
        file.sync_data()
    except OSError as error:
        # Whatever its errno, a sync that failed is never tried again (RELIABILITY A1).
        page.publish(state=_native.FAILED)
        raise PartitionFailedError(f"{segment.path}: {error.strerror}") from error


def _publish_roll_locked(page: SharedPage, manifest: Manifest) -> None:
    """Make the segment that the manifest names last the active one; it is empty.

    Whoever wrote the manifest had synced as far as it says.
    """
    marks = page.marks()
    durable_offset = max(marks.durable_offset, manifest.durable_offset)
    page.publish(
        **EMPTY_SEGMENT,
        durable_offset=durable_offset,
        high_watermark=visible_end(marks, durable_offset),
        base_offset=manifest.segments[-1].base_offset,
        generation=manifest.generation,
        segment_serial=marks.segment_serial + 1,
        flags=0,
    )


def finish_roll_locked(directory: Directory, page: SharedPage) -> Manifest:
    """Finish or forget the roll of a process that died in it; returns the manifest on disk.

    Raises OSError with the question still open.
    """
    manifest = recovery.load_manifest(directory)
    assert manifest is not None, "a roll begins with a manifest"
    # The entry that was found may be one that a power cut would still take back.
    directory.sync()
    if manifest.generation > page.marks().generation:
        _publish_roll_locked(page, manifest)
    else:
        remove_empty_segment(directory, page.marks().log_end_offset)
        page.publish(flags=0)
    return manifest


def advance_start_locked(
    directory: Directory,
    page: SharedPage,
    manifest: Manifest,
    active: Segment,
    log_start_offset: int,
) -> Manifest:
    """Forget the records below an offset, and segments that hold no others; returns the manifest.

    manifest: the current one, or with newer facts of its segments.
    log_start_offset: at most the log end offset; below the current one it stays where it is, since
    another process may have moved it when the caller looked.  The files of segments that no longer
    count are the caller's to remove, now that the manifest does not name them.
    Raises OSError with the old start, or, if it was the directory's sync that failed, with the
    question open.  Blocks appenders for two syncs, and for one more when the new start is not yet
    known to be on disk.  Source: Kafka UnifiedLog.maybeIncrementLogStartOffset, KIP-107.
    """
    marks = page.marks()
    log_start_offset = max(log_start_offset, marks.log_start_offset)
    facts = manifest.segments[-1]
    if log_start_offset > facts.end_offset:
        # After a power cut the log must not end below its start.
        sync_locked(page, active)
        facts = active_facts(manifest, marks)
    segments = policy.segments_from((*manifest.segments[:-1], facts), log_start_offset)
    manifest = dataclasses.replace(
        manifest,
        generation=manifest.generation + 1,
        log_start_offset=log_start_offset,
        segments=segments,
    )
    commit_locked(directory, page, manifest)
    return manifest


def commit_locked(directory: Directory, page: SharedPage, manifest: Manifest) -> None:
    """Replace the manifest by one with another log start or other sealed segments.

    Raises OSError with the old one, or, if it was the directory's sync that failed, with the
    question open.  Blocks appenders for two syncs.
    """
    marks = page.marks()
    page.publish(flags=marks.flags | IS_CHANGING)
    write_manifest(directory, dataclasses.replace(manifest, high_watermark=marks.high_watermark))
    _publish_change_locked(page, manifest)


def _publish_change_locked(page: SharedPage, manifest: Manifest) -> None:
    page.publish(
        log_start_offset=manifest.log_start_offset,
        generation=manifest.generation,
        flags=page.marks().flags & ~IS_CHANGING,
    )


def finish_change_locked(directory: Directory, page: SharedPage) -> Manifest:
    """Finish or forget the replacement of the manifest of a process that died in it.

    Returns the manifest on disk.  Raises OSError with the question still open.
    """
    manifest = recovery.load_manifest(directory)
    assert manifest is not None, "what was changed had a manifest"
    # The entry that was found may be one that a power cut would still take back.
    directory.sync()
    if manifest.generation > page.marks().generation:
        _publish_change_locked(page, manifest)
    else:
        page.publish(flags=page.marks().flags & ~IS_CHANGING)
    return manifest


def end_cleanly_locked(directory: Directory, page: SharedPage, manifest: Manifest) -> Manifest:
    """Promise an exact end: everything is synced, the files hold nothing else, and say so.

    The caller is alone and has synced the log's data.  Raises OSError with no promise made.
    """
    marks = page.marks()
    # A thread that waits for the page lock with this segment's maps must not store through them:
    # what they reach beyond is cut off now, and no longer anybody's promise.
    page.publish(segment_serial=marks.segment_serial + 1)
    time_entries = _seal_timeindex(directory, marks)
    trim(directory, marks, time_entries, sync=True)
    manifest = dataclasses.replace(
        manifest,
        generation=manifest.generation + 1,
        is_clean=True,
        high_watermark=marks.high_watermark,
        log_start_offset=marks.log_start_offset,
        durable_offset=marks.log_end_offset,
        active=ActiveFacts(
            first_timestamp=marks.first_timestamp,
            max_timestamp=marks.max_timestamp,
            max_timestamp_offset=marks.max_timestamp_offset,
            bytes_since_index_entry=marks.bytes_since_index_entry,
        ),
        segments=(*manifest.segments[:-1], _sealed_facts(manifest, marks, time_entries)),
    )
    write_manifest(directory, manifest)
    return manifest


def empty_segment(base_offset: int, revision: int, *, append_time: int) -> SegmentFacts:
    """Return the facts of a segment that is to be appended to.  append_time: of what was before."""
    return SegmentFacts(
        base_offset=base_offset,
        end_offset=base_offset,
        size=0,
        max_timestamp=-1,
        append_time=append_time,
        revision=revision,
    )


def active_facts(manifest: Manifest, marks: Marks) -> SegmentFacts:
    """Return what the marks say of the active segment."""
    return _sealed_facts(manifest, marks, marks.time_entries)


def _sealed_facts(manifest: Manifest, marks: Marks, time_entries: int) -> SegmentFacts:
    return dataclasses.replace(
        manifest.segments[-1],
        end_offset=marks.log_end_offset,
        size=marks.position,
        max_timestamp=marks.max_timestamp,
        index_entries=marks.index_entries,
        time_entries=time_entries,
        append_time=marks.append_time,
    )


def _seal_timeindex(directory: Directory, marks: Marks) -> int:
    """Write the final time entry, if it says anything new; returns the number of entries.

    Source: Kafka LogSegment.onBecomeInactiveSegment.
    """
    if marks.max_timestamp <= marks.last_time_entry:
        return marks.time_entries
    entry = _TIME_ENTRY.pack(marks.max_timestamp, marks.max_timestamp_offset - marks.base_offset)
    name = layout.timeindex_name(marks.base_offset)
    file = directory.open(name, writable=True, create=True)
    try:
        file.pwrite(entry, marks.time_entries * TIME_ENTRY_BYTES)
    finally:
        file.close()
    return marks.time_entries + 1


def trim(directory: Directory, marks: Marks, time_entries: int, *, sync: bool) -> None:
    """Cut the zeros after the end of a segment's files, so that Kafka's tools read them.

    Other processes may still map these files; nobody touches bytes past the published end of a
    segment that is no longer active.  sync: as a clean end demands, which vouches for the sizes; a
    roll need not wait, since zeros that come back after a power cut are cut by recovery.
    """
    sizes = (
        marks.position,
        marks.index_entries * INDEX_ENTRY_BYTES,
        time_entries * TIME_ENTRY_BYTES,
    )
    for name, size in zip(layout.segment_names(marks.base_offset), sizes, strict=True):
        # An index that somebody removed is made again: its size is part of a clean end.
        file = directory.open(
            name, writable=True, create=name != layout.log_name(marks.base_offset)
        )
        try:
            if file.size() > size:
                file.truncate(size)
            if sync:
                file.sync()
        finally:
            file.close()


def remove_directory(directory: Directory) -> None:
    """Remove a deleted partition's files and its directory.  Raises OSError; may be repeated."""
    for name in directory.names():
        # Whoever compacts it may be letting go of its files.
        with contextlib.suppress(FileNotFoundError):
            directory.unlink(name)
    directory.remove()


def check_owner(directory: Directory, topic_id: uuid.UUID) -> None:
    """Refuse a directory that belongs to another topic, as a copy to the wrong place would.

    A directory without an id is taken for the topic's own, and so is one whose id cannot be parsed:
    metadata that is lost must not hide data.  Raises CorruptFileError, OSError.
    """
    name = layout.PARTITION_METADATA
    path = f"{directory.path}/{name}"
    data = read_file(directory, name, max_bytes=_MAX_METADATA_BYTES)
    if not data:
        return
    try:
        found = layout.parse_partition_metadata(data, path=path)
    except CorruptFileError as error:
        logger.error("%s; taken for the id of the topic that is opened", error)
        return
    if found != topic_id:
        raise CorruptFileError(path, f"topic id {found} stored, {topic_id} expected")
