"""Settings of compaction in one log: Kafka's names with underscores, with unit, default and range.

Knows types and ranges.  Must not know who reads a setting.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pylog.config import NEVER
from pylog.errors import InvalidConfigurationError

_MIN_IO_BYTES: Final = 4096
_MAX_IO_BYTES: Final = 1 << 30

# name -> (minimum, maximum), both included
_RANGES: Final = {
    "dedupe_buffer_bytes": (1 << 10, 1 << 40),
    "cleaner_io_buffer_bytes": (_MIN_IO_BYTES, _MAX_IO_BYTES),
    "cleaner_io_max_bytes_per_second": (1, NEVER),
    "cleaner_backoff_ms": (1, NEVER),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CleanerConfig:
    """The settings of compaction, for all topics of a log in this process.

    cleaner_enable: compact in the background.  Somebody has to: another process, or who calls
        `Topic.compact`.
    dedupe_buffer_bytes: the most memory that keys are remembered in, by one compaction, and an
        eighth of it for offsets.  It begins small; more keys than fit make more rounds.
    cleaner_io_buffer_bytes: read at a time, and half of what is written; larger batches make it
        larger.  256 KiB as in Kafka: with what is written it fits into a core's second cache.
    cleaner_io_max_bytes_per_second: of reading and writing in the background; by default unlimited.
    cleaner_backoff_ms: how often the background looks whether there is anything to compact, and how
        long it leaves a partition alone after an error; doubled with each one, up to an hour.

    Raises InvalidConfigurationError that names setting, value and what is allowed.
    Source: Kafka CleanerConfig.
    """

    cleaner_enable: bool = True
    dedupe_buffer_bytes: int = 32 << 20
    cleaner_io_buffer_bytes: int = 256 << 10
    cleaner_io_max_bytes_per_second: int = NEVER
    cleaner_backoff_ms: int = 15_000

    def __post_init__(self) -> None:
        if not isinstance(self.cleaner_enable, bool):
            raise InvalidConfigurationError("cleaner_enable", self.cleaner_enable, "True or False")
        for name, (minimum, maximum) in _RANGES.items():
            value = getattr(self, name)
            is_whole = isinstance(value, int) and not isinstance(value, bool)
            if not is_whole or not minimum <= value <= maximum:
                allowed = f"a whole number from {minimum} to {maximum}"
                raise InvalidConfigurationError(name, value, allowed)
