"""Examine one partition directory while anybody may be using it: reads, never writes, never locks.

Knows how manifest, segments, epochs and strays must fit together.  Must not know topics' meaning.

What counts is taken from one moment: the manifest, whether any process has the partition open,
and if so the published marks.  Everything below the published end is immutable and is judged; what
lies above it belongs to the writers and is not.  The moment may be torn by a writer (see `peek`),
or pass while files are read, so a partition that moves and seems damaged is looked at again.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Final

from pylog import _native
from pylog._native import Marks, Record
from pylog.errors import CorruptFileError, CorruptionError, IncompatibleFormatError
from pylog.storage import layout
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.files import TEMPORARY_SUFFIX, Directory, File, read_file
from pylog.storage.inspect_segment import (
    Extent,
    Finding,
    Rest,
    SegmentReport,
    inspect_segment,
    new_scanner,
    records_in,
    scan,
)
from pylog.storage.lifecycle import NEEDS_REPAIR
from pylog.storage.manifest import MANIFEST_NAME, Manifest
from pylog.storage.recovery import load_manifest
from pylog.storage.shared_page import STATE_NAME, peek

_ROUNDS: Final = 3  # a writer that disturbs so many looks in a row was not seen yet (guessed)
_MAX_TEXT_BYTES: Final = 64 << 20
_OWN_NAMES: Final = frozenset(
    {MANIFEST_NAME, STATE_NAME, layout.LEADER_EPOCH_CHECKPOINT, layout.PARTITION_METADATA}
)
_STATES: Final = {
    _native.FULL: "is FULL: there was no space for the last append",
    _native.FAILED: "is FAILED: a write to disk failed; read-only until everybody has closed it",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What counts in a partition at one moment.

    marks: None unless living processes publish them.
    """

    manifest: Manifest | None
    is_in_use: bool
    marks: Marks | None
    sizes: tuple[tuple[int, int], ...]  # (base offset, bytes) of the `.log` files there are
    was_pylogs: bool  # pylog opened it before: there is a page, so there should be a manifest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReport:
    """What a partition holds, intact, and what was noticed."""

    path: str
    is_in_use: bool
    log_start_offset: int = 0
    log_end_offset: int = 0
    segments: int = 0
    batches: int = 0
    records: int = 0
    size: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def is_damaged(self) -> bool:
        """Whether anything was found that is more than a note."""
        return any(finding.is_damage for finding in self.findings)


def inspect_partition(directory: Directory, lock_file: File | None) -> PartitionReport:
    """Examine a partition: every batch, record, index entry and fact.

    lock_file: the log's `pylog.lock`, which tells whether the partition is in use; None when there
    is none, as in a copy of one partition's directory.
    Raises OSError when the directory itself cannot be read; what is wrong with its files is told in
    the report.  O(bytes), two passes over the data.
    """
    report, moment = _look(directory, lock_file)
    for _ in range(_ROUNDS - 1):
        if not report.is_damaged:
            break
        later, _ = take_moment(directory, lock_file)
        if not (moment.is_in_use or later.is_in_use) and moment.manifest == later.manifest:
            break
        report, moment = _look(directory, lock_file)
    return report


def _look(directory: Directory, lock_file: File | None) -> tuple[PartitionReport, Moment]:
    """Examine once; return the report and the moment that it is about."""
    moment, findings = take_moment(directory, lock_file)
    extents = extents_of(moment)
    reports = [inspect_segment(directory, extent) for extent in extents]
    findings += _state_findings(directory.path, moment, reports)
    for segment in reports:
        findings += segment.findings
    findings += _epoch_findings(directory, moment, extents, reports)
    findings += _stray_findings(directory, moment)
    manifest, marks = moment.manifest, moment.marks
    end = reports[-1].end_offset if reports else 0
    report = PartitionReport(
        path=directory.path,
        is_in_use=moment.is_in_use,
        log_start_offset=_log_start(moment),
        log_end_offset=max(end, marks.log_end_offset if marks else 0, _end_of(manifest)),
        segments=len(extents),
        batches=sum(segment.batches for segment in reports),
        records=sum(segment.records for segment in reports),
        size=sum(segment.position for segment in reports),
        findings=tuple(findings),
    )
    return report, moment


def records_of(directory: Directory, lock_file: File | None) -> Iterator[Record]:
    """Yield the records of a partition that are intact, in order, as of now.

    Raises CorruptRangeError or InvalidRecordError for a batch that is whole and whose records do
    not parse; OSError.
    """
    moment, _ = take_moment(directory, lock_file)
    for extent in extents_of(moment):
        file = extent.open(directory, layout.log_name(extent.base_offset))
        try:
            batches, _ = scan(file, new_scanner(extent), extent)
            yield from records_in(file, batches)
        finally:
            file.close()


def _log_start(moment: Moment) -> int:
    if moment.marks is not None:
        return moment.marks.log_start_offset
    if moment.manifest is not None:
        return moment.manifest.log_start_offset
    return moment.sizes[0][0] if moment.sizes else 0


def _end_of(manifest: Manifest | None) -> int:
    return 0 if manifest is None else manifest.log_end_offset


# ------------------------------------------------------------------ what counts


def take_moment(directory: Directory, lock_file: File | None) -> tuple[Moment, list[Finding]]:
    """Return what counts now, and what is wrong with the files that say so.  Raises OSError.

    The page is looked at before the manifest: of a roll in between, the marks say less than the
    manifest, and the segment that they call active is listed in both.
    """
    findings: list[Finding] = []
    is_in_use, marks = False, None
    if lock_file is not None:
        try:
            is_in_use, marks = peek(directory, lock_file)
        except OSError as error:
            message = f"cannot tell whether the partition is in use: {error.strerror}"
            path = f"{directory.path}/{STATE_NAME}"
            findings.append(Finding(path=path, message=message, is_damage=False))
    manifest = None
    try:
        manifest = load_manifest(directory)
    except (CorruptFileError, IncompatibleFormatError) as error:
        reason = getattr(error, "reason", None) or str(error)
        findings.append(Finding(path=f"{directory.path}/{MANIFEST_NAME}", message=reason))
    except OSError as error:
        message = f"cannot be read: {error.strerror}"
        findings.append(Finding(path=f"{directory.path}/{MANIFEST_NAME}", message=message))
    names = directory.names()
    moment = Moment(
        manifest=manifest,
        is_in_use=is_in_use,
        marks=marks,
        sizes=tuple(
            (base, _size_of(directory, name))
            for name in names
            if (base := layout.parse_log_name(name)) is not None
        ),
        was_pylogs=STATE_NAME in names,
    )
    return moment, findings


def _size_of(directory: Directory, name: str) -> int:
    """Return a file's size, 0 when it cannot be opened: who examines it will say so."""
    try:
        file = directory.open(name)
    except OSError:
        return 0
    try:
        return file.size()
    finally:
        file.close()


def extents_of(moment: Moment) -> list[Extent]:
    """Return how much of each segment counts, oldest first."""
    if moment.manifest is None:
        return _extents_without_manifest(moment.sizes)
    extents = [
        Extent(
            base_offset=facts.base_offset,
            end_offset=facts.end_offset,
            size=facts.size,
            rest=Rest.NOTHING,
            index_entries=facts.index_entries,
            time_entries=facts.time_entries,
            is_compacted=facts.is_compacted,
            revision=facts.revision,
        )
        for facts in moment.manifest.segments
    ]
    marks = moment.marks
    is_unrepaired = marks is not None and bool(marks.flags & NEEDS_REPAIR)
    if marks is not None and not is_unrepaired:
        return [_published(extent, marks) for extent in extents]
    if moment.is_in_use and not is_unrepaired:
        extents[-1] = dataclasses.replace(extents[-1], rest=Rest.OTHERS, is_index_due=False)
    elif not moment.manifest.is_clean:
        extents[-1] = dataclasses.replace(
            extents[-1],
            rest=Rest.BATCHES,
            index_entries=None,
            time_entries=None,
            is_index_due=False,
        )
    return extents


def _published(extent: Extent, marks: Marks) -> Extent:
    """Return an extent as the marks of living processes bound it."""
    if extent.base_offset > marks.base_offset:
        # A roll was committed after the marks were copied: nothing of it is known.
        return dataclasses.replace(extent, rest=Rest.OTHERS, is_index_due=False)
    if extent.base_offset < marks.base_offset or extent.revision > marks.generation:
        return extent  # cleaned, perhaps since the marks were copied, or of a later truncation
    return dataclasses.replace(
        extent,
        end_offset=marks.log_end_offset,
        size=marks.position,
        rest=Rest.OTHERS,
        index_entries=marks.index_entries,
        time_entries=marks.time_entries,
    )


def _extents_without_manifest(sizes: Sequence[tuple[int, int]]) -> list[Extent]:
    """Return the extents of a directory whose only facts are its files, as Kafka's are.

    Gaps between offsets may be compaction's work, so they are not damage here.
    """
    extents = [
        Extent(
            base_offset=base,
            end_offset=following,
            size=size,
            rest=Rest.NOTHING,
            is_compacted=True,
        )
        for (base, size), (following, _) in itertools.pairwise(sizes)
    ]
    if sizes:
        base = sizes[-1][0]
        last = Extent(
            base_offset=base,
            end_offset=base,
            size=0,
            rest=Rest.BATCHES,
            is_compacted=True,
        )
        extents.append(last)
    return extents


# ------------------------------------------------------------------ facts against each other


def _state_findings(
    path: str, moment: Moment, reports: Sequence[SegmentReport]
) -> Iterator[Finding]:
    """Say in what state the partition is, as far as a user has to know it."""
    manifest, marks = moment.manifest, moment.marks
    if marks is not None and marks.state in _STATES:
        yield Finding(path=path, message=_STATES[marks.state], is_damage=False)
    if marks is not None and marks.flags & NEEDS_REPAIR:
        message = "waits for free space to be repaired; it can be read"
        yield Finding(path=path, message=message, is_damage=False)
    if manifest is not None:
        if not (moment.is_in_use or manifest.is_clean):
            message = "was not closed: the next open recovers the active segment"
            yield Finding(path=path, message=message, is_damage=False)
        return
    if any(report.batches for report in reports):
        message = "has no manifest: its segments are taken from the file names"
        yield Finding(path=path, message=message, is_damage=moment.was_pylogs)
    for report, (base, _) in zip(reports, moment.sizes[1:], strict=False):
        if report.end_offset != base:
            message = f"no batch holds offsets {report.end_offset} to {base - 1}"
            yield Finding(path=path, message=message, is_damage=False)


def _epoch_findings(
    directory: Directory,
    moment: Moment,
    extents: Sequence[Extent],
    reports: Sequence[SegmentReport],
) -> Iterator[Finding]:
    """Compare leader-epoch-checkpoint with the epochs that the batches carry."""
    name = layout.LEADER_EPOCH_CHECKPOINT
    path = f"{directory.path}/{name}"
    found = [entry for report in reports for entry in report.epochs if entry[0] >= 0]
    try:
        data = read_file(directory, name, max_bytes=_MAX_TEXT_BYTES)
        if data is None:
            if found:
                yield Finding(path=path, message="is missing")
            return
        epochs = LeaderEpochs(layout.parse_leader_epochs(data, path=path))
    except CorruptFileError as error:
        yield Finding(path=path, message=error.reason)
        return
    except OSError as error:
        yield Finding(path=path, message=f"cannot be read: {error.strerror}")
        return
    # The first batch may begin below the log start, the epochs never do.
    log_start = _log_start(moment)
    found = [(epoch, max(offset, log_start)) for epoch, offset in found]
    # After an unclean end the batches are newer, and the next open writes the file anew.
    is_due = moment.manifest is not None and (moment.is_in_use or moment.manifest.is_clean)
    for epoch, offset in found:
        known = epochs.epoch_for_offset(offset)
        if known != epoch:
            said = "none" if known is None else f"{known}"
            message = f"says leader epoch {said} at offset {offset}, the batch there says {epoch}"
            yield Finding(path=path, message=message, is_damage=is_due)
    if not found:
        return
    starts, first, end = {offset for _, offset in found}, found[0][1], reports[-1].end_offset
    for epoch, start in epochs.entries:
        # Of a compacted segment the batch may be gone with which an epoch began.
        is_checked = first < start < end and not any(
            extent.is_compacted and extent.base_offset <= start < extent.end_offset
            for extent in extents
        )
        if is_checked and start not in starts:
            message = f"says leader epoch {epoch} begins at {start}, no batch does"
            yield Finding(path=path, message=message, is_damage=is_due)


def _stray_findings(directory: Directory, moment: Moment) -> Iterator[Finding]:
    """Name the files that do not belong to what counts; they are not looked into further."""
    manifest = moment.manifest
    listed = {base for base, _ in moment.sizes}
    end = None
    if manifest is not None:
        listed = {facts.base_offset for facts in manifest.segments}
        end = manifest.segments[-1].base_offset
    for name in directory.names():
        path = f"{directory.path}/{name}"
        segment = layout.parse_segment_name(name)
        cut, cleaned = layout.parse_cut_name(name), layout.parse_cleaned_name(name)
        is_own = name in _OWN_NAMES or layout.parse_snapshot_name(name) is not None
        if is_own or (segment is not None and segment[0] in listed):
            if name == layout.PARTITION_METADATA:
                yield from _metadata_findings(directory)
        elif layout.parse_deleted_name(name) is not None:
            message = "waits for its removal; no record counts on it"
            yield Finding(path=path, message=message, is_damage=False)
        elif cleaned is not None:
            yield Finding(path=path, message=_cleaned_message(manifest, *cleaned), is_damage=False)
        elif cut is not None:
            message = f"was cut off by recovery at position {cut[1]}; no record counts on it"
            yield Finding(path=path, message=message, is_damage=False)
        elif segment is not None and moment.is_in_use:
            # Perhaps a roll that is being made; the next look will tell.
            yield Finding(path=path, message="is not in the manifest", is_damage=False)
        elif segment is not None:
            yield from _unlisted_findings(directory, name, is_later=end is None or segment[0] > end)
        elif name.endswith(TEMPORARY_SUFFIX):
            message = "was left by a write that never ended"
            yield Finding(path=path, message=message, is_damage=False)
        else:
            yield Finding(path=path, message="is not a file of a partition", is_damage=False)


def _cleaned_message(manifest: Manifest | None, name: str, base_offset: int, revision: int) -> str:
    """Say what a file is that compaction wrote, and that is not called by Kafka's name yet."""
    segments = () if manifest is None else manifest.segments
    if any(facts.identity == (base_offset, revision) for facts in segments):
        return f"counts; the next open or compaction puts it in the place of {name}"
    return "is being written by a compaction, or was left by one; no record counts on it"


def _unlisted_findings(directory: Directory, name: str, *, is_later: bool) -> Iterator[Finding]:
    """Judge a segment file that the manifest does not name.

    Empty or older than the log: left by a crash, harmless.  Records past the end of the manifest
    are records that a reader will never see.
    """
    path = f"{directory.path}/{name}"
    try:
        file = directory.open(name)
    except OSError as error:
        message = f"is not in the manifest and cannot be opened: {error.strerror}"
        yield Finding(path=path, message=message, is_damage=False)
        return
    try:
        holds_records = layout.parse_log_name(name) is not None and any(file.pread(64, 0))
    finally:
        file.close()
    is_damage = is_later and holds_records
    message = "holds records and is not in the manifest" if is_damage else "is not in the manifest"
    yield Finding(path=path, message=message, is_damage=is_damage)


def _metadata_findings(directory: Directory) -> Iterator[Finding]:
    path = f"{directory.path}/{layout.PARTITION_METADATA}"
    try:
        data = read_file(directory, layout.PARTITION_METADATA, max_bytes=_MAX_TEXT_BYTES)
        if data is not None:
            layout.parse_partition_metadata(data, path=path)
    except CorruptionError as error:
        yield Finding(path=path, message=getattr(error, "reason", str(error)))
    except OSError as error:
        yield Finding(path=path, message=f"cannot be read: {error.strerror}")
