"""Cut off the end of a log, or let it begin anew: it goes on in a new segment.

Knows the order of it.  Must not know why: whose history counts is for the leader to say.

    planned     the last segment that keeps anything is read up to its new end
    prepared    the new, empty segment has files of their own names, <base>.log.<revision>.cleaned
                and so on; the names are on disk, and what is kept is
    committed   a manifest that names them replaces the old one
    published   the page's marks say the new end; the leader epochs on disk end there, too
    in place    files are renamed; what lay behind the end is cut off the last segment, and removed

A crash between any two steps leaves the old log or the new one: before the commit nothing was
touched, after it the manifest tells what counts, and the rest is done by who finds it undone.

Why appends never go to a file that something was cut from
    Recovery scans the last segment for batches behind what it knows.  In a file that was cut it
    could find some that were cut off, as long as the cut itself is not on disk.  The new segment's
    files hold nothing that was there before; what was cut is sealed, and nobody scans it.

Why nobody takes the old files for the new ones
    Segments that are appended to after a truncation have its generation for a revision, so they are
    told from those that had the same base offsets (cleaned_files.py); their marks are at least of
    that generation.  The segment that was cut keeps its files, which only lost their end: who reads
    them by older marks finds what was there, or nothing, and looks for newer marks then.
    Its file is cut, which no map of a reader covers; its indexes are replaced, never cut, since
    touching a map behind the end of its file would end the process.

Locks: everything that ends in `_locked` is called with the page lock held.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pylog._native import Marks, Reader, Scanner, SharedPage
from pylog.storage import layout, recovery
from pylog.storage.cleaned_files import put_in_place
from pylog.storage.epoch_checkpoint import load_epochs, save_epochs
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.files import Directory, replace_file
from pylog.storage.lifecycle import (
    EMPTY_SEGMENT,
    IS_TRUNCATING,
    active_facts,
    empty_segment,
    sync_locked,
    write_manifest,
)
from pylog.storage.manifest import ActiveFacts, Cleaned, Manifest, SegmentFacts
from pylog.storage.policy import INDEX_ENTRY_BYTES, TIME_ENTRY_BYTES
from pylog.storage.scan import KnownEnd, walk_log
from pylog.storage.segment import Segment
from pylog.storage.segment_files import (
    cut_behind,
    drop_snapshots_after,
    mark_deleted,
    unlisted_bases,
)
from pylog.storage.segments import SegmentSet, is_active, view_of
from pylog.storage.sync import visible_end


class Cut(NamedTuple):
    """What is kept of a log, and where it goes on.

    indexes: what the offset and time index of the last kept segment shall hold; None: as they are.
    """

    kept: tuple[SegmentFacts, ...]
    end_offset: int
    indexes: tuple[bytes, bytes] | None = None


def plan_cut(
    segments: SegmentSet,
    marks: Marks,
    end_offset: int,
    *,
    reader: Reader,
    index_interval_bytes: int,
) -> Cut:
    """Return how to end the log at an offset, or before a batch that reaches over it.

    end_offset: at least the log start offset; above the log end nothing is cut, and a gap is left.
    Raises CorruptRangeError when it lies in damaged bytes, OSError.  Reads the segment up to there.
    """
    manifest = segments.manifest
    assert manifest is not None, "there is a log"
    facts = (*manifest.segments[:-1], active_facts(manifest, marks))
    place = segments.floor(end_offset)
    segment, last = segments.segments[place], facts[place]
    size = last.size
    if end_offset < last.end_offset:
        found = segment.read(
            reader, end_offset, view_of(segment, marks), marks.log_end_offset, max_bytes=1
        )
        if found is not None:
            size = found.end_position - found.nbytes
            first = int.from_bytes(found.batches[:8], "big")
            end_offset = max(min(end_offset, first), manifest.log_start_offset)
    if size == 0:
        return Cut(facts[:place], end_offset)
    if size == last.size and not is_active(segment, marks):
        return Cut(facts[: place + 1], end_offset)
    known = dataclasses.replace(last, size=size, end_offset=min(end_offset, last.end_offset))
    return _cut_in(segment, known, facts[:place], end_offset, index_interval_bytes)


def _cut_in(
    segment: Segment,
    known: SegmentFacts,
    before: tuple[SegmentFacts, ...],
    end_offset: int,
    index_interval_bytes: int,
) -> Cut:
    """Return what is kept when the last segment is sealed with the size and end of `known`."""
    scanner = Scanner(
        base_offset=known.base_offset,
        next_offset=known.base_offset,
        index_interval_bytes=index_interval_bytes,
        strict=not known.is_compacted,
    )
    walk = walk_log(
        segment.file(),
        scanner,
        end=known.size,
        maximum_offset=known.end_offset,
        known=KnownEnd(known.size, known.end_offset),
    )
    scanner.seal()
    index, timeindex = scanner.index, scanner.timeindex
    facts = dataclasses.replace(
        known,
        # Behind the last batch, where compaction left a gap before the end.
        end_offset=walk.next_offset if known.is_compacted else known.end_offset,
        max_timestamp=scanner.max_timestamp,
        index_entries=len(index) // INDEX_ENTRY_BYTES,
        time_entries=len(timeindex) // TIME_ENTRY_BYTES,
    )
    return Cut((*before, facts), end_offset, (index, timeindex))


def truncate_locked(
    directory: Directory,
    page: SharedPage,
    segments: SegmentSet,
    cut: Cut,
    *,
    log_start_offset: int,
) -> Manifest:
    """Let the log be what is kept of it, and go on in a new segment; returns the manifest.

    log_start_offset: from where on it is kept; where nothing is, it begins at its end.
    Raises PartitionFailedError when what is kept could not be synced, OSError: with the old log,
    or with the question open.  Blocks for a sync of each unsynced segment that is kept and five
    more.  Source: Kafka UnifiedLog.truncateTo, truncateFullyAndStartAt; neither is atomic there.
    """
    marks, manifest = page.marks(), segments.manifest
    assert manifest is not None, "there is a log"
    if not cut.kept:
        log_start_offset = cut.end_offset
    if marks.durable_offset < cut.end_offset:
        first = segments.floor(marks.durable_offset)
        for segment in segments.segments[first : len(cut.kept)]:
            sync_locked(page, segment)
    revision = manifest.generation + 1
    active = empty_segment(cut.end_offset, revision, append_time=marks.append_time)
    manifest = dataclasses.replace(
        manifest,
        generation=revision,
        is_clean=False,
        truncated_at=revision,
        log_start_offset=log_start_offset,
        high_watermark=max(
            min(visible_end(marks, cut.end_offset), cut.end_offset), log_start_offset
        ),
        durable_offset=cut.end_offset,
        cleaned=Cleaned(min(manifest.cleaned.offset, cut.end_offset), manifest.cleaned.time),
        active=ActiveFacts(),
        segments=(*cut.kept, active),
    )
    _create(directory, active)
    # From here on no map is appended through, since its serial is another.
    flags = marks.flags | IS_TRUNCATING
    page.publish(segment_serial=marks.segment_serial + 1, flags=flags)
    write_manifest(directory, manifest)
    return _finish_locked(directory, page, manifest, cut.indexes)


def _create(directory: Directory, facts: SegmentFacts) -> None:
    """Make the files of an empty segment that must not be taken for others of its base offset."""
    for name in layout.segment_names(facts.base_offset):
        name = layout.cleaned_name(name, facts.revision)
        file = directory.open(name, writable=True, create=True)
        try:
            if file.size() > 0:  # of a truncation that came to nothing
                file.truncate(0)
        finally:
            file.close()
    # Before a manifest names them: without them Kafka's names would be taken for theirs.
    directory.sync()


def finish_truncation_locked(directory: Directory, page: SharedPage) -> Manifest:
    """Finish or forget the truncation of a process that died in it; returns the manifest on disk.

    Raises OSError with the question still open.
    """
    manifest = recovery.load_manifest(directory)
    assert manifest is not None, "what was truncated had a manifest"
    # The entry that was found may be one that a power cut would still take back.
    directory.sync()
    return _finish_locked(directory, page, manifest, None)


def _finish_locked(
    directory: Directory,
    page: SharedPage,
    manifest: Manifest,
    indexes: tuple[bytes, bytes] | None,
) -> Manifest:
    """Do what follows the commit, if there was one.  Raises OSError; then it is done again."""
    if manifest.truncated_at > page.marks().truncated_at:
        _publish_locked(directory, page, manifest)
    if manifest.segments[-1].revision > 0:
        put_in_place(directory, manifest.segments[-1])
    _clear_away(directory, manifest, indexes)
    page.publish(flags=page.marks().flags & ~IS_TRUNCATING)
    return manifest


def _publish_locked(directory: Directory, page: SharedPage, manifest: Manifest) -> None:
    """Let the leader epochs end with the log, and publish that it ends there."""
    end_offset = manifest.log_end_offset
    epochs = load_epochs(directory)
    is_empty = manifest.log_start_offset == end_offset
    ended = LeaderEpochs() if is_empty else epochs.truncate_from_end(end_offset)
    if ended != epochs:
        save_epochs(directory, ended)
    page.publish(
        **EMPTY_SEGMENT,
        log_start_offset=manifest.log_start_offset,
        high_watermark=manifest.high_watermark,
        log_end_offset=end_offset,
        durable_offset=end_offset,
        base_offset=end_offset,
        generation=manifest.generation,
        truncated_at=manifest.truncated_at,
        leader_epoch=max(ended.latest_epoch, 0),
        segment_serial=page.marks().segment_serial + 1,
    )


def _clear_away(
    directory: Directory, manifest: Manifest, indexes: tuple[bytes, bytes] | None
) -> None:
    """Cut off and remove what does not count any more, so that Kafka's tools see the log's end."""
    drop_snapshots_after(directory, manifest.log_end_offset)
    listed = [facts.base_offset for facts in manifest.segments]
    for base_offset in unlisted_bases(directory, listed, is_truncated=True):
        mark_deleted(directory, base_offset)
    if len(manifest.segments) > 1:
        last = manifest.segments[-2]
        cut_behind(directory, last)
        names = layout.segment_names(last.base_offset)[1:]
        for name, data in zip(names, indexes or (), strict=False):
            replace_file(directory, name, data, sync_directory=False)
