"""Producer settings: Kafka's names with underscores, with unit, default and range.

Knows types and ranges.  Must not know who reads a setting.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pylog.codecs import NUMBERS, Compression
from pylog.config import NEVER
from pylog.errors import InvalidConfigurationError

_MAX_INT: Final = 2**31 - 1
_HEADER_BYTES: Final = 61
_ACKS: Final = (0, 1, "all")

# Of Kafka's settings compression.gzip.level and its like (KIP-390).
LEVELS: Final = {"gzip": (-1, 9), "lz4": (1, 17), "zstd": (-131_072, 22)}

# name -> (minimum, maximum), both included
_RANGES: Final = {
    "linger_ms": (0, NEVER),
    "batch_size": (_HEADER_BYTES, _MAX_INT),
    "buffer_memory": (_HEADER_BYTES, NEVER),
    "max_block_ms": (0, NEVER),
    "delivery_timeout_ms": (0, NEVER),
    "retry_backoff_ms": (0, NEVER),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProducerConfig:
    """The settings of one producer.  Defaults are Kafka's.

    acks: when a record counts as sent.  0: it is placed, its offset known, its durability not; 1:
        the topic's durability is reached; "all": that, in every in-sync replica too, where the log
        leads replicas; elsewhere the same as 1.
    linger_ms: how long a batch that is not full waits for more records.
    batch_size: bytes of a batch, uncompressed; a larger record makes a batch of its own.
    compression: "gzip", "snappy", "lz4" or "zstd", for topics whose compression_type is
        "producer"; by default none.  compression_level: by default Kafka's for the codec.
    buffer_memory: bytes of all batches that are not acknowledged yet; a send that finds no room
        waits.
    max_block_ms: how long it waits.
    delivery_timeout_ms: how long a record may take from `send` to its acknowledgement, retries
        included.
    retry_backoff_ms: the pause before a partition that was full is tried again.
    enable_idempotence: number the batches, so that none is appended twice, whatever is retried.

    Raises InvalidConfigurationError that names setting, value and what is allowed, and
    MissingExtraError for a codec whose package is not installed.
    """

    acks: int | str = "all"
    linger_ms: int = 5
    batch_size: int = 16_384
    compression: str | None = None
    compression_level: int | None = None
    buffer_memory: int = 32 << 20
    max_block_ms: int = 60_000
    delivery_timeout_ms: int = 120_000
    retry_backoff_ms: int = 100
    enable_idempotence: bool = True

    def __post_init__(self) -> None:
        # A bool is an int to isinstance; here it is a mistake.
        if type(self.acks) not in (int, str) or self.acks not in _ACKS:
            raise InvalidConfigurationError("acks", self.acks, "0, 1 or 'all'")
        for name, (minimum, maximum) in _RANGES.items():
            value = getattr(self, name)
            if type(value) is not int or not minimum <= value <= maximum:
                allowed = f"an integer in [{minimum}, {maximum}]"
                raise InvalidConfigurationError(name, value, allowed)
        if type(self.enable_idempotence) is not bool:
            raise InvalidConfigurationError(
                "enable_idempotence", self.enable_idempotence, "True or False"
            )
        self._check_pair("buffer_memory", "batch_size")
        self._check_pair("delivery_timeout_ms", "linger_ms")
        self._check_compression()

    @property
    def codec(self) -> Compression:
        """What `compression` and its level mean."""
        name = "none" if self.compression is None else self.compression
        return Compression.named(name, self.compression_level)

    def _check_compression(self) -> None:
        if self.compression not in (None, *NUMBERS):
            allowed = "None or one of " + ", ".join(NUMBERS)
            raise InvalidConfigurationError("compression", self.compression, allowed)
        level = self.compression_level
        lowest, highest = LEVELS.get(self.compression or "none", (0, -1))
        if level is not None and not (type(level) is int and lowest <= level <= highest):
            allowed = f"an integer in [{lowest}, {highest}]" if lowest <= highest else "None"
            raise InvalidConfigurationError("compression_level", level, allowed)
        if self.codec.codec:
            # A package that is missing is an error here, and not in every future.
            self.codec.compress(memoryview(b""))

    def _check_pair(self, greater: str, lesser: str) -> None:
        value, limit = getattr(self, greater), getattr(self, lesser)
        if value < limit:
            raise InvalidConfigurationError(greater, value, f"at least {lesser}, {limit}")
