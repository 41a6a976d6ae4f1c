"""The only module that repairs.

Opens a partition when nobody else has it open: reads what is there (`examine`), decides, and only
then writes (`repair`).  Everything it does is idempotent, so a crash inside recovery is one more
crash; and reading needs none of the writes, so a full disk does not keep a log from being read.

Three things are kept apart (RELIABILITY B1, B2):

    torn tail     in the active segment, past the point known durable, nothing valid after it:
                  the bytes are saved beside the file and cut
    corruption    anything else that is no batch: left where it is; reading it raises
    I/O error     OSError passes through, and not one byte was changed

Must not know the shared page: it returns the marks to begin with.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging

from pylog._native import Scanner
from pylog.errors import CorruptFileError
from pylog.storage import layout, segment_files
from pylog.storage.adoption import manifest_from_files
from pylog.storage.cleaned_files import open_revision, put_in_place
from pylog.storage.epoch_checkpoint import load_epochs, save_epochs
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.files import (
    Directory,
    read_file,
    replace_file,
)
from pylog.storage.index import entries_agree
from pylog.storage.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    ActiveFacts,
    Manifest,
    SegmentFacts,
    encode_manifest,
    parse_manifest,
)
from pylog.storage.policy import INDEX_ENTRY_BYTES, OFFSETS_PER_SEGMENT, TIME_ENTRY_BYTES
from pylog.storage.scan import KnownEnd, Walk, last_nonzero, walk_log
from pylog.storage.segment_files import (
    create_segment,
    cut_zeros,
    save_cut,
    set_aside,
    write_again,
    write_index,
)

logger = logging.getLogger("pylog")


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """A partition as it begins: its durable facts and the sizes of the active segment's indexes.

    `repairs` is None when nothing has to be written before the next append.
    """

    manifest: Manifest | None
    index_entries: int
    time_entries: int
    last_time_entry: int
    leader_epoch: int
    repairs: Repairs | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Repairs:
    """What an unclean end left to do.  Positions are in the active segment's `.log`."""

    manifest: Manifest  # as it shall be when all is done
    damaged_manifest: bool  # a manifest that could not be parsed is set aside first
    unsynced: tuple[SegmentFacts, ...]  # sealed ones that were not known to be on disk
    active: SegmentFacts  # as found; no longer the last one of `manifest` if it is damaged
    durable_offset: int  # up to where the log was known to be on disk
    rewrite_from: int  # bytes [rewrite_from, active.size) were not known to be on disk
    torn_end: int  # bytes [active.size, torn_end) are the torn tail
    index: bytes
    timeindex: bytes
    epochs: LeaderEpochs
    epochs_changed: bool
    known_epoch: int  # the latest that was on disk before, also if nothing of it survived
    is_damaged: bool  # offsets are there that cannot be read
    index_interval_bytes: int


def examine(directory: Directory, *, index_interval_bytes: int, same_boot: bool) -> Opened:
    """Find out what a partition holds, without writing.  The caller is alone.

    same_boot: the page cache may hold bytes that the disk refused; they will be written again.
    Reads no data when the manifest says that the partition was closed cleanly and the file sizes
    agree; otherwise scans the active segment.  Raises OSError, IncompatibleFormatError.
    """
    manifest, is_damaged = _try_manifest(directory)
    if manifest is None:
        manifest = manifest_from_files(directory, index_interval_bytes)
        if manifest is None:
            return Opened(None, 0, 0, -1, 0)
    epochs = load_epochs(directory)
    if manifest.is_clean and _sizes_agree(directory, manifest.segments[-1]):
        return _opened_clean(directory, manifest, epochs)
    return _opened_unclean(
        directory,
        manifest,
        epochs,
        index_interval_bytes=index_interval_bytes,
        same_boot=same_boot,
        damaged_manifest=is_damaged,
    )


def in_new_epoch(opened: Opened) -> Opened:
    """Return the same with a leader epoch that nobody used, for a log that may have lost its end.

    Others will have the offsets of what was lost.  By the epoch whoever read that can tell them
    apart, and knows where the log ended.  Source: KIP-320, where a new leader does it.
    """
    repairs = opened.repairs
    assert repairs is not None, "a clean end lost nothing"
    epoch = repairs.known_epoch + 1
    epochs = repairs.epochs.assign(epoch, repairs.active.end_offset)
    repairs = dataclasses.replace(repairs, epochs=epochs, epochs_changed=True)
    return dataclasses.replace(opened, leader_epoch=epoch, repairs=repairs)


def load_manifest(directory: Directory) -> Manifest | None:
    """Return the manifest on disk, None when there is none.

    Raises CorruptFileError, IncompatibleFormatError, OSError.
    """
    data = read_file(directory, MANIFEST_NAME, max_bytes=MAX_MANIFEST_BYTES)
    return None if data is None else parse_manifest(data, path=f"{directory.path}/{MANIFEST_NAME}")


def _try_manifest(directory: Directory) -> tuple[Manifest | None, bool]:
    try:
        return load_manifest(directory), False
    except CorruptFileError as error:
        logger.error("%s; the segments are found from their files instead", error)
        return None, True


def _size_of(directory: Directory, name: str) -> int | None:
    try:
        file = directory.open(name)
    except FileNotFoundError:
        return None
    try:
        return file.size()
    finally:
        file.close()


def _sizes_agree(directory: Directory, active: SegmentFacts) -> bool:
    """Return whether the active segment's three files are as long as a clean end left them."""
    indexes = (active.index_entries * INDEX_ENTRY_BYTES, active.time_entries * TIME_ENTRY_BYTES)
    sizes = (active.size, *indexes)
    names = layout.segment_names(active.base_offset)
    return all(_size_of(directory, name) == size for name, size in zip(names, sizes, strict=True))


def _opened_clean(directory: Directory, manifest: Manifest, epochs: LeaderEpochs) -> Opened:
    """Believe the manifest; nothing is read but the newest time entry."""
    active = manifest.segments[-1]
    last_time_entry = -1
    if active.time_entries:
        file = directory.open(layout.timeindex_name(active.base_offset))
        try:
            entry = file.pread(8, (active.time_entries - 1) * TIME_ENTRY_BYTES)
        finally:
            file.close()
        last_time_entry = int.from_bytes(entry, "big", signed=True)
    return Opened(
        manifest, active.index_entries, active.time_entries, last_time_entry, epochs.latest_epoch
    )


def _opened_unclean(
    directory: Directory,
    manifest: Manifest,
    epochs: LeaderEpochs,
    *,
    index_interval_bytes: int,
    same_boot: bool,
    damaged_manifest: bool,
) -> Opened:
    """Scan the active segment and plan its repairs; writes nothing."""
    known = manifest.segments[-1]
    scanner = Scanner(
        base_offset=known.base_offset,
        next_offset=known.base_offset,
        index_interval_bytes=index_interval_bytes,
        strict=not known.is_compacted,
    )
    walk, torn_end = _walk_active(directory, known, scanner, same_boot=same_boot)
    is_short = walk.position < known.size or walk.next_offset < known.end_offset
    scanner.seal()
    active = dataclasses.replace(
        known,
        size=max(walk.position, known.size),
        end_offset=max(walk.next_offset, known.end_offset),
        max_timestamp=max(scanner.max_timestamp, known.max_timestamp),
        index_entries=len(scanner.index) // INDEX_ENTRY_BYTES,
        time_entries=len(scanner.timeindex) // TIME_ENTRY_BYTES,
    )
    _report(directory, active, walk, is_short=is_short, torn_end=torn_end)
    found_epochs = epochs.merged(scanner.epochs, active.end_offset)
    if found_epochs.latest_epoch < 0:
        # What is appended next carries epoch 0, and only this entry will say where that began: the
        # one that a new partition is made with goes if it is killed before its first record.
        found_epochs = found_epochs.assign(0, active.end_offset)
    found_epochs = found_epochs.truncate_from_start(manifest.log_start_offset)
    repaired = _repaired_manifest(manifest, active, scanner, is_short=is_short)
    repairs = Repairs(
        manifest=repaired,
        damaged_manifest=damaged_manifest,
        unsynced=_unsynced_segments(manifest) if same_boot else (),
        active=active,
        durable_offset=manifest.durable_offset,
        rewrite_from=known.size if same_boot else active.size,
        torn_end=torn_end,
        index=scanner.index,
        timeindex=scanner.timeindex,
        epochs=found_epochs,
        epochs_changed=found_epochs != epochs,
        known_epoch=max(epochs.latest_epoch, found_epochs.latest_epoch),
        is_damaged=is_short or bool(walk.damages),
        index_interval_bytes=index_interval_bytes,
    )
    is_new = is_short  # a damaged end is sealed as it is; appends go to a new, empty segment
    return Opened(
        manifest=repaired,
        index_entries=0 if is_new else active.index_entries,
        time_entries=0 if is_new else active.time_entries,
        last_time_entry=-1 if is_new else scanner.max_timestamp,
        leader_epoch=found_epochs.latest_epoch,
        repairs=repairs,
    )


def _unsynced_segments(manifest: Manifest) -> tuple[SegmentFacts, ...]:
    """Return the sealed segments that a roll left unsynced: durability "interval" and "os".

    What was cleaned was synced before it counted.
    """
    sealed = filter(manifest.was_appended_to, manifest.segments[:-1])
    return tuple(facts for facts in sealed if facts.end_offset > manifest.durable_offset)


def _walk_active(
    directory: Directory, known: SegmentFacts, scanner: Scanner, *, same_boot: bool
) -> tuple[Walk, int]:
    """Scan the active segment; returns the walk and where the torn bytes after it end."""
    try:
        name = layout.log_name(known.base_offset)
        file = open_revision(directory, name, known.revision, writable=False)
    except FileNotFoundError:
        return Walk((), 0, known.base_offset, "the file is missing"), known.size
    try:
        if same_boot:
            # What the disk refused must be found out before it is believed (RELIABILITY A2).
            file.drop_cache(known.size)
        size = file.size()
        walk = walk_log(
            file,
            scanner,
            end=size,
            maximum_offset=known.base_offset + OFFSETS_PER_SEGMENT,
            known=KnownEnd(known.size, known.end_offset),
        )
        start = max(walk.position, known.size)
        return walk, last_nonzero(file, start=start, end=max(size, start))
    finally:
        file.close()


def _report(
    directory: Directory, active: SegmentFacts, walk: Walk, *, is_short: bool, torn_end: int
) -> None:
    """Log what the scan found, with offsets and positions."""
    path = f"{directory.path}/{layout.log_name(active.base_offset)}"
    for damage in walk.damages:
        logger.error(
            "%s at %d: %s; offsets %d to %d are unreadable",
            path, damage.start, damage.reason, damage.first_offset, damage.end_offset - 1,
        )  # fmt: skip
    if is_short:
        logger.error(
            "%s at %d: %s; offsets %d to %d, known to be durable, are unreadable",
            path, walk.position, walk.reason, walk.next_offset, active.end_offset - 1,
        )  # fmt: skip
    if torn_end > active.size:
        logger.warning(
            "%s: cut a torn tail of %d bytes at %d (%s)",
            path, torn_end - active.size, active.size, walk.reason,
        )  # fmt: skip


def _repaired_manifest(
    manifest: Manifest, active: SegmentFacts, scanner: Scanner, *, is_short: bool
) -> Manifest:
    """Return the manifest after the repairs: clean, with a new active segment if the end is bad."""
    segments = (*manifest.segments[:-1], active)
    facts = ActiveFacts(
        first_timestamp=scanner.first_timestamp,
        max_timestamp=scanner.max_timestamp,
        max_timestamp_offset=scanner.max_timestamp_offset,
        bytes_since_index_entry=scanner.bytes_since_index_entry,
    )
    if is_short:
        end = active.end_offset
        new = SegmentFacts(base_offset=end, end_offset=end, size=0, max_timestamp=-1)
        segments += (dataclasses.replace(new, revision=manifest.truncated_at),)
        facts = ActiveFacts()
    return dataclasses.replace(
        manifest,
        generation=manifest.generation + 1,
        is_clean=True,
        durable_offset=active.end_offset,
        active=facts,
        segments=segments,
    )


# ------------------------------------------------------------------ writing


def repair(directory: Directory, repairs: Repairs) -> None:
    """Do what `examine` found: save and cut the torn tail, sync what is kept, write the manifest.

    Raises OSError; whatever was done by then is done again the next time, to the same end.
    """
    if repairs.damaged_manifest:
        set_aside(directory, MANIFEST_NAME)
    segment_files.drop_snapshots_after(directory, repairs.durable_offset)
    _finish_truncation(directory, repairs)
    for facts in repairs.unsynced:
        _sync_again(directory, facts)
    _repair_log(directory, repairs)
    base = repairs.active.base_offset
    write_index(directory, layout.index_name(base), repairs.index)
    write_index(directory, layout.timeindex_name(base), repairs.timeindex)
    if repairs.epochs_changed:
        save_epochs(directory, repairs.epochs)
    manifest = _mend_sealed_segments(directory, repairs)
    if repairs.manifest.segments[-1] is not repairs.active:
        create_segment(directory, repairs.manifest.segments[-1].base_offset)
    replace_file(directory, MANIFEST_NAME, encode_manifest(manifest))


def _finish_truncation(directory: Directory, repairs: Repairs) -> None:
    """Give the files that a truncation made their names, and cut the segment before them."""
    truncated_at = repairs.manifest.truncated_at
    if truncated_at == 0:
        return
    if repairs.active.revision > 0:
        # What was found may be a manifest that a power cut would still take back.
        directory.sync()
        put_in_place(directory, repairs.active)
    for before, after in itertools.pairwise(repairs.manifest.segments):
        if before.revision != truncated_at == after.revision:
            segment_files.cut_behind(directory, before)


def _mend_sealed_segments(directory: Directory, repairs: Repairs) -> Manifest:
    """Mend what rolls left unsynced; return the manifest with the index counts that are true now.

    A roll holds nobody up for the indexes and the trimming of what it seals.  From the newest
    segment back, until one is as it should be: whoever rolled it had synced the one before.  What
    was cleaned is synced, under whichever name; what compaction found nothing to leave out of is
    as it was rolled.
    """
    segments = list(repairs.manifest.segments)
    known = segments.index(repairs.active)
    for place in range(known - 1, -1, -1):
        facts = segments[place]
        if not repairs.manifest.was_appended_to(facts):
            continue
        was_cut = cut_zeros(directory, layout.log_name(facts.base_offset), facts.size)
        if _indexes_agree(directory, facts) and not was_cut:
            break
        segments[place] = _rebuild_indexes(directory, facts, repairs.index_interval_bytes)
    return dataclasses.replace(repairs.manifest, segments=tuple(segments))


def _indexes_agree(directory: Directory, facts: SegmentFacts) -> bool:
    sizes = (facts.index_entries * INDEX_ENTRY_BYTES, facts.time_entries * TIME_ENTRY_BYTES)
    names = layout.segment_names(facts.base_offset)[1:]
    if tuple(_size_of(directory, name) or 0 for name in names) != sizes:
        return False
    index, timeindex = (
        read_file(directory, name, max_bytes=size) or b""
        for name, size in zip(names, sizes, strict=True)
    )
    if (len(index), len(timeindex)) != sizes:
        return False
    span = facts.end_offset - facts.base_offset
    return entries_agree(index, timeindex, size=facts.size, offsets=span)


def _rebuild_indexes(
    directory: Directory, facts: SegmentFacts, index_interval_bytes: int
) -> SegmentFacts:
    """Write a sealed segment's indexes anew from its batches; a missing log is left missing."""
    try:
        file = directory.open(layout.log_name(facts.base_offset))
    except FileNotFoundError:
        return facts
    scanner = Scanner(
        base_offset=facts.base_offset,
        next_offset=facts.base_offset,
        index_interval_bytes=index_interval_bytes,
        strict=not facts.is_compacted,
    )
    try:
        walk_log(
            file,
            scanner,
            end=min(facts.size, file.size()),
            maximum_offset=facts.end_offset,
            known=KnownEnd(facts.size, facts.end_offset),
        )
    finally:
        file.close()
    scanner.seal()
    write_index(directory, layout.index_name(facts.base_offset), scanner.index)
    write_index(directory, layout.timeindex_name(facts.base_offset), scanner.timeindex)
    return dataclasses.replace(
        facts,
        index_entries=len(scanner.index) // INDEX_ENTRY_BYTES,
        time_entries=len(scanner.timeindex) // TIME_ENTRY_BYTES,
    )


def _repair_log(directory: Directory, repairs: Repairs) -> None:
    """Save and cut the torn tail, and make durable what is kept."""
    size = repairs.active.size
    name = layout.log_name(repairs.active.base_offset)
    try:
        file = directory.open(name, writable=True)
    except FileNotFoundError:
        if size == 0:
            create_segment(directory, repairs.active.base_offset)
        return
    try:
        if repairs.torn_end > size:
            cut_name = layout.cut_name(repairs.active.base_offset, size)
            save_cut(directory, cut_name, file, size, repairs.torn_end)
        write_again(file, repairs.rewrite_from, size)
        if file.size() > size:
            file.truncate(size)
        file.sync()
    finally:
        file.close()


def _sync_again(directory: Directory, facts: SegmentFacts) -> None:
    """Make a sealed segment durable of which the page cache may hold more than the disk."""
    try:
        file = directory.open(layout.log_name(facts.base_offset), writable=True)
    except FileNotFoundError:
        return
    try:
        file.drop_cache(0)
        write_again(file, 0, facts.size)
        file.sync()
    finally:
        file.close()
