"""Walk a `.log` file from batch to batch, past damaged bytes.

Knows batches only through the C core.  Reads, never writes; used by readers, `verify` and recovery.
"""

from __future__ import annotations

import dataclasses
from typing import Final, NamedTuple

from pylog import _native
from pylog._native import Scanner, find_batch
from pylog.storage.files import File

_CHUNK_BYTES: Final = 1 << 20  # stays in the second-level cache while its CRC is computed
_SEARCH_BYTES: Final = 64 << 20  # searched at a time; batches up to half of it are always found
_BLOCK_BYTES: Final = 1 << 16

REASONS: Final = {
    _native.END: "the file ends early",
    _native.INCOMPLETE: "a batch runs past the end",
    _native.ZEROS: "zeros where a batch should be",
    _native.BAD_LENGTH: "impossible batch length",
    _native.BAD_MAGIC: "the magic byte is not 2",
    _native.BAD_CRC: "crc32c does not match",
    _native.BAD_OFFSET: "the base offset does not follow the batch before",
    _native.BAD_COUNT: "impossible record count",
}


class KnownEnd(NamedTuple):
    """Where a batch is known to end, and the offset that follows it."""

    position: int
    offset: int


NOT_KNOWN: Final = KnownEnd(-1, -1)
_MAX_OFFSET: Final = 2**63 - 1  # no batch begins there: it would have no end


@dataclasses.dataclass(frozen=True, slots=True)
class Intact:
    """The first whole batch after damage."""

    position: int
    base_offset: int


@dataclasses.dataclass(frozen=True, slots=True)
class Damage:
    """Bytes [start, end) that hold no batch; offsets [first_offset, end_offset) are missing."""

    start: int
    end: int
    first_offset: int
    end_offset: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Walk:
    """What a walk found: damage with intact batches after it, and where the last one ends."""

    damages: tuple[Damage, ...]
    position: int
    next_offset: int
    reason: str  # why the bytes at `position` are no batch; the last byte may be before the file's


def walk_log(
    file: File, scanner: Scanner, *, end: int, maximum_offset: int, known: KnownEnd
) -> Walk:
    """Feed the batches in [scanner.position, end) to `scanner`; go on after damage.

    maximum_offset: no batch at or above it is taken for intact after damage.
    known: what vouches for the last batch before it, whose base offset no other batch confirms.
    Raises OSError.  O(bytes): one pass, and a second one over damaged bytes.
    """
    damages: list[Damage] = []
    buffer = bytearray(min(_CHUNK_BYTES, max(1, end - scanner.position)))
    while True:
        status, buffer = _feed(file, scanner, end, buffer)
        start, first = scanner.position, scanner.next_offset
        reason = REASONS.get(status, f"status {status}")
        if last_nonzero(file, start=start, end=end) == start:
            return Walk(tuple(damages), start, first, reason)
        intact = next_intact(
            file, start=start + 1, end=end, minimum_offset=first, maximum_offset=maximum_offset,
            is_strict=scanner.is_strict, known=known,
        )  # fmt: skip
        if intact is None:
            return Walk(tuple(damages), start, first, reason)
        damages.append(Damage(start, intact.position, first, intact.base_offset, reason))
        scanner.skip_to(intact.position, intact.base_offset)


def _feed(file: File, scanner: Scanner, end: int, buffer: bytearray) -> tuple[int, bytearray]:
    """Feed chunks until something other than the end of a chunk stops the scanner."""
    while scanner.position < end:
        start = scanner.position
        view_bytes = min(len(buffer), end - start)
        view = memoryview(buffer)[:view_bytes]
        count = file.pread_into(view, start)
        status = scanner.feed(view[:count])
        view.release()
        if status == _native.INCOMPLETE and start + count < end and count == view_bytes:
            if scanner.position == start:
                # One batch is larger than the buffer; the file's own length bounds the growth.
                buffer = bytearray(min(2 * len(buffer), end - start))
        elif status != _native.END or count < view_bytes:
            return status, buffer
    return _native.END, buffer


def next_intact(
    file: File,
    *,
    start: int,
    end: int,
    minimum_offset: int,
    maximum_offset: int,
    is_strict: bool,
    known: KnownEnd,
) -> Intact | None:
    """Return the first intact batch at or after position `start`, or None when there is none.

    Only batches with a base offset in [minimum_offset, maximum_offset) count, and only if it can be
    believed: see the C core.  Raises OSError.
    Reads [start, end) at most twice; the C core bounds its checks to a multiple of that.
    """
    maximum_offset = min(maximum_offset, _MAX_OFFSET)
    while start < end:
        data = file.pread(min(_SEARCH_BYTES, end - start), start)
        found = find_batch(data, 0, minimum_offset, maximum_offset, start, is_strict, *known)
        if found >= 0:
            # A batch begins with its base offset: eight bytes, big-endian.
            return Intact(start + found, int.from_bytes(data[found : found + 8], "big"))
        if len(data) < _SEARCH_BYTES:
            return None
        # A batch may begin in this part and end in the next, so parts overlap by half.
        start += _SEARCH_BYTES // 2
    return None


def last_nonzero(file: File, *, start: int, end: int) -> int:
    """Return the position after the last byte in [start, end) that is not zero, or `start`."""
    position = end
    while position > start:
        begin = max(start, position - _BLOCK_BYTES)
        kept = file.pread(position - begin, begin).rstrip(b"\0")
        if kept:
            return begin + len(kept)
        position = begin
    return start
