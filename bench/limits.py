"""How fast an operation could be at best: the sum of what it cannot do without, as measured.

The parts are the lines of the group "hardware" in the same result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.ratios import Line, Lines

GROUP = "hardware"
RECORD = "record"
BYTE = "byte"


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is done for each record, or for each byte of keys and values."""

    hardware: str
    per: str

    def seconds(self, hardware: Mapping[str, Line], records: int, size: int) -> float:
        """Return how long it takes for so many."""
        line = hardware[self.hardware]
        if self.per == RECORD:
            return line.seconds / line.records * records
        return line.seconds / line.bytes * size


_CALL = Part("method-call", RECORD)
_CRC = Part("crc32c", BYTE)
_COPY = Part("memory-copy", BYTE)
_CACHE = Part("os.write", BYTE)
_SYNC = Part("fdatasync", RECORD)
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
        return " + ".join(part.hardware for part in self.parts)


LIMITS: tuple[Limit, ...] = (
    Limit("append one by one", "pylog", (_CALL, _CRC, _COPY)),
    Limit("append batches", "pylog", (_CRC, _COPY, _CACHE)),
    Limit("append bytes", "pylog", (_CRC, _COPY, _CACHE)),
    Limit("append fsync", "pylog", (_CALL, _SYNC)),
    Limit("sequential", "pylog", (_CALL, _CRC, _COPY)),
    Limit("consume", "consumer", (_CALL, _CRC, _COPY)),
    Limit("columns", "pylog", (_CRC, _COPY)),
    Limit("random", "pylog", (_CALL, _PREAD)),
    Limit("recover", "pylog", (_CRC, _COPY)),
    Limit("compact 1 KiB", "pylog", (_CRC, _CRC, _COPY, _CACHE)),
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
    hardware = {name: line for (group, name), line in lines.items() if group == GROUP}
    for limit in LIMITS:
        line = lines.get((limit.group, limit.line))
        if line is not None and all(part.hardware in hardware for part in limit.parts):
            least = sum(part.seconds(hardware, line.records, line.bytes) for part in limit.parts)
            yield Closeness(limit, line.seconds / line.records, least / line.records)
