"""Replication settings: Kafka's names with underscores, with unit, default and range.

Knows types and ranges.  Must not know who reads a setting.
"""

from __future__ import annotations

import dataclasses
from typing import Final

from pylog.config import NEVER
from pylog.errors import InvalidConfigurationError

_MAX_INT: Final = 2**31 - 1
_HEADER_BYTES: Final = 61
_ACKS: Final = (1, "all")

# name -> (minimum, maximum), both included
_RANGES: Final = {
    "min_insync_replicas": (1, _MAX_INT),
    "replica_lag_time_max_ms": (1, NEVER),
    "replica_fetch_wait_max_ms": (1, NEVER),
    "replica_fetch_max_bytes": (_HEADER_BYTES, _MAX_INT),
    "max_in_flight_bytes": (_HEADER_BYTES, NEVER),
    "request_timeout_ms": (1, NEVER),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationConfig:
    """The settings of a log that leads replicas.  Defaults are Kafka's where Kafka has the setting.

    acks: when an append that is not a producer's is acknowledged.  1: this node has it, as durable
        as its topic asks; "all": every replica that is in sync has it so.
    min_insync_replicas: the least for every topic, internal ones included; a topic's own setting
        may ask for more.  The leader counts.  With fewer in sync, acks="all" is refused and the
        high watermark stands still.  With n replicas, an election has to ask
        n - min_insync_replicas + 1 of them.
    replica_lag_time_max_ms: a replica that lacks what was appended so long ago is not in sync.
    replica_fetch_wait_max_ms: how often a replica that has everything is told so; it answers.
    replica_fetch_max_bytes: of batches in one message; a larger batch makes a message of its own.
    max_in_flight_bytes: sent to one replica and not acknowledged, 256 more for each message; what
        is above it waits.  Not Kafka's, whose followers fetch.
    request_timeout_ms: how long an append waits for the other replicas.

    Raises InvalidConfigurationError that names setting, value and what is allowed.
    """

    acks: int | str = "all"
    min_insync_replicas: int = 1
    replica_lag_time_max_ms: int = 30_000
    replica_fetch_wait_max_ms: int = 500
    replica_fetch_max_bytes: int = 1 << 20
    max_in_flight_bytes: int = 8 << 20  # guessed: 80 ms of a disk that writes 100 MB/s
    request_timeout_ms: int = 30_000

    def __post_init__(self) -> None:
        if isinstance(self.acks, bool) or self.acks not in _ACKS:
            raise InvalidConfigurationError("acks", self.acks, "1 or 'all'")
        for name, (minimum, maximum) in _RANGES.items():
            value = getattr(self, name)
            # A bool is an int to isinstance; here it is a mistake.
            if type(value) is not int or not minimum <= value <= maximum:
                allowed = f"an integer in [{minimum}, {maximum}]"
                raise InvalidConfigurationError(name, value, allowed)
        if self.replica_fetch_wait_max_ms >= self.replica_lag_time_max_ms:
            allowed = f"less than replica_lag_time_max_ms, {self.replica_lag_time_max_ms}"
            raise InvalidConfigurationError(
                "replica_fetch_wait_max_ms", self.replica_fetch_wait_max_ms, allowed
            )
