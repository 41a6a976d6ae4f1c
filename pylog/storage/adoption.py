"""Derive the facts of a partition from its `.log` files alone.

This is how a partition that Kafka wrote is opened, and one whose manifest is lost or damaged.
Knows batches only through the C core.  Reads, never writes; recovery does what follows from it.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pylog import _native
from pylog._native import Scanner
from pylog.storage import layout
from pylog.storage.files import Directory, read_file
from pylog.storage.manifest import ActiveFacts, Manifest, SegmentFacts
from pylog.storage.policy import INDEX_ENTRY_BYTES, OFFSETS_PER_SEGMENT, TIME_ENTRY_BYTES
from pylog.storage.scan import NOT_KNOWN, REASONS, last_nonzero, walk_log

_AT_THE_END: Final = REASONS[_native.END]
_MAX_INDEX_BYTES: Final = 64 << 20  # more than a segment of 2 GiB fills at the usual interval


def manifest_from_files(directory: Directory, index_interval_bytes: int) -> Manifest | None:
    """Derive the manifest of a directory that has none from its `.log` files; None without any.

    Raises OSError.  O(bytes of all segments).
    """
    bases = sorted(
        base
        for name in (directory.names() if directory.exists() else [])
        if (base := layout.parse_log_name(name)) is not None
    )
    if not bases:
        return None
    # All of them count, whatever the batches of others say: no CRC covers where a batch stands.
    segments = [
        _facts_from_file(directory, base, end, index_interval_bytes)
        for base, end in zip(bases, [*bases[1:], None], strict=True)
    ]
    # The active segment is scanned as after a crash: nothing of it is known to be durable.
    active = segments.pop()
    segments.append(dataclasses.replace(active, end_offset=active.base_offset, size=0))
    return Manifest(
        generation=0,
        is_clean=False,
        log_start_offset=bases[0],
        # Sealed segments are taken as they are, as Kafka takes them.
        durable_offset=bases[-1],
        active=ActiveFacts(),
        segments=tuple(segments),
    )


def _facts_from_file(
    directory: Directory, base: int, end: int | None, index_interval_bytes: int
) -> SegmentFacts:
    """Return what a segment's own files say; `end` is the base of the next one, if any."""
    maximum = base + OFFSETS_PER_SEGMENT if end is None else end
    name = layout.log_name(base)
    file = directory.open(name)
    try:
        results = []
        for strict in (True, False):
            scanner = Scanner(
                base_offset=base,
                next_offset=base,
                index_interval_bytes=index_interval_bytes,
                strict=strict,
            )
            walk = walk_log(file, scanner, end=file.size(), maximum_offset=maximum, known=NOT_KNOWN)
            results.append((walk, scanner))
            if not walk.damages and walk.reason == _AT_THE_END:
                break
        # Gaps between intact batches are compaction's work, not damage.
        (strict_walk, _), (loose_walk, _) = results[0], results[-1]
        fewer = len(strict_walk.damages) - len(loose_walk.damages)
        # Before the last batch nothing intact follows that would tell a gap from its damage; but
        # that it stands there by a flipped bit is ruled out if it ends before the next segment.
        is_last = loose_walk.position > strict_walk.position
        is_inside = end is not None and loose_walk.next_offset <= end
        has_gaps = fewer > 0 or (fewer == 0 and is_last and is_inside)
        walk, scanner = results[-1] if has_gaps else results[0]
        size = last_nonzero(file, start=walk.position, end=file.size())
        # So is one at the end, behind which nothing stands: batches may be gone that were the last.
        ends_early = end is not None and walk.next_offset < end and size <= walk.position
    finally:
        file.close()
    index = read_file(directory, layout.index_name(base), max_bytes=_MAX_INDEX_BYTES) or b""
    timeindex = read_file(directory, layout.timeindex_name(base), max_bytes=_MAX_INDEX_BYTES) or b""
    return SegmentFacts(
        base_offset=base,
        end_offset=walk.next_offset if end is None else end,
        size=max(size, walk.position),
        max_timestamp=scanner.max_timestamp,
        # Kafka leaves the zeros of the active segment's indexes when it is killed.
        index_entries=-(-len(index.rstrip(b"\0")) // INDEX_ENTRY_BYTES),
        time_entries=-(-len(timeindex.rstrip(b"\0")) // TIME_ENTRY_BYTES),
        is_compacted=has_gaps or ends_early,
    )
