"""How fast an operation could be at best: the sum of what it cannot do without, as measured.

The parts are lines of the group "hardware" in the same result.  Two are of the operation's own
race: a sync, for a disk changes its pace from minute to minute, and what a recovery reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.ratios import Lines

GROUP = "hardware"
RECORD = "record"
BYTE = "byte"


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is done for each record, or for each byte of keys and values."""

    name: str
    per: str
    group: str = GROUP

    def seconds(self, lines: Lines, records: int, size: int) -> float:
        """Return how long it takes for so many."""
        line = lines[self.group, self.name]
        if self.per == RECORD:
            return line.seconds / line.records * records
        return line.seconds / line.bytes * size


_CALL = Part("method-call", RECORD)
_CRC = Part("crc32c", BYTE)
_COPY = Part("memory-copy", BYTE)
_CACHE = Part("os.write", BYTE)
# Once over all of a file, and so at the pace of memory.
_CRC_OF_ALL = Part("crc32c", BYTE, "recover")
_SYNC = Part("fdatasync", RECORD, "append fsync")
_PREAD = Part("os.pread", RECORD)


@dataclass(frozen=True, slots=True)
class Limit:
    """An operation and what it is made of at least."""

    group: str
    line: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The parts in words."""
        return " + ".join(part.name for part in self.parts)


LIMITS: tuple[Limit, ...] = (
    Limit("append one by one", "pylog", (_CALL, _CRC, _COPY)),
    Limit("append batches", "pylog", (_CRC, _CACHE)),
    Limit("append bytes", "pylog", (_CRC, _CACHE)),
    Limit("append fsync", "pylog", (_CALL, _SYNC)),
    Limit("sequential", "pylog", (_CALL, _CRC, _COPY)),
    Limit("consume", "consumer", (_CALL, _CRC, _COPY)),
    Limit("columns", "pylog", (_CRC, _COPY)),
    Limit("random", "pylog", (_CALL, _PREAD)),
    Limit("recover", "pylog", (_CRC_OF_ALL,)),
    # It reads all twice, for the keys and for what stays of them, which is a twentieth.
    Limit("compact 1 KiB", "pylog", (_CRC, _COPY, _COPY)),
)


@dataclass(frozen=True, slots=True)
class Closeness:
    """A figure beside its limit, in seconds for a record."""

    limit: Limit
    seconds: float
    least_seconds: float

    @property
    def share(self) -> float:
        """How much of the time is what cannot be spared, in [0, 1] but for noise."""
        return self.least_seconds / self.seconds


def closeness(lines: Lines) -> Iterator[Closeness]:
    """Yield every operation of LIMITS whose lines are in a result."""
    for limit in LIMITS:
        line = lines.get((limit.group, limit.line))
        if line is not None and all((part.group, part.name) in lines for part in limit.parts):
            least = sum(part.seconds(lines, line.records, line.bytes) for part in limit.parts)
            yield Closeness(limit, line.seconds / line.records, least / line.records)
