"""Consumer settings: Kafka's names with underscores, with unit, default and range.

Knows types and ranges.  Must not know who reads a setting.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import Final

from pylog.config import NEVER
from pylog.errors import InvalidConfigurationError
from pylog.groups.assignors import DEFAULT_ASSIGNOR, Assignor, name_of
from pylog.groups.membership import DEFAULT_SESSION_TIMEOUT_MS

_MAX_INT: Final = 2**31 - 1
_POLICIES: Final = ("earliest", "latest", "none")
_BY_DURATION: Final = "by_duration:"
# What java.time.Duration.parse takes of ISO 8601, without signs.
_DURATION: Final = re.compile(
    r"P(?=.)(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d{1,9})?)S)?)?",
    re.IGNORECASE | re.ASCII,
)
_ALLOWED_RESET: Final = (
    "'earliest', 'latest', 'none', 'by_duration:' and an ISO 8601 duration such as PT1H, "
    "or a timedelta, not negative"
)

# name -> (minimum, maximum), both included
_RANGES: Final = {
    "max_poll_records": (1, _MAX_INT),
    "fetch_max_bytes": (1, NEVER),
    "max_partition_fetch_bytes": (1, NEVER),
    "session_timeout_ms": (0, _MAX_INT),
    "max_poll_interval_ms": (1, _MAX_INT),
    "auto_commit_interval_ms": (0, NEVER),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerConfig:
    """The settings of one consumer.  Defaults are Kafka's, but for auto_offset_reset.

    auto_offset_reset: where a partition is read from when nobody said so, or when what was said is
        out of range, as after retention.  "earliest": from its first record; "latest": from what is
        appended from now on; "none": that is an error; "by_duration:PT1H", or a timedelta: from the
        first record that is at most so old.
    max_poll_records: what `poll` returns at most.
    max_partition_fetch_bytes: of batches, for one read of a partition; at least one batch is read.
    fetch_max_bytes: of all that was read and not given yet: many partitions share it.
    group: the name of the consumer's group; None reads alone, and commits nothing.
    instance_id: Kafka's group.instance.id: who joins with the id of a member that is away gets
        what that one had, and nothing moves; who joins with that of a living one fences it.
    session_timeout_ms: how long a member with an instance_id may be away before others get what it
        has.  Without one a member is never away: when it ends or dies, others get it at once.
    max_poll_interval_ms: a member that does not ask for records for so long is taken for hung, and
        loses what it has; None, the default, lets work take its time.
    enable_auto_commit: commit what is done: records whose reader asked for the next.  Where a
        member begins by the time it does, "latest" or "by_duration", is committed in any case.
    auto_commit_interval_ms: how often; besides, before a partition is given to another member, and
        at the end.
    assignor: who decides which member gets what: "uniform", also called "sticky", "range",
        "round_robin", or a function; of several in one group the one that most members ask for.

    Raises InvalidConfigurationError that names setting, value and what is allowed.
    """

    auto_offset_reset: str | datetime.timedelta = "earliest"
    max_poll_records: int = 500
    max_partition_fetch_bytes: int = 1 << 20
    fetch_max_bytes: int = 50 << 20
    group: str | None = None
    instance_id: str | None = None
    session_timeout_ms: int = DEFAULT_SESSION_TIMEOUT_MS
    max_poll_interval_ms: int | None = None
    enable_auto_commit: bool = True
    auto_commit_interval_ms: int = 5000
    assignor: str | Assignor = DEFAULT_ASSIGNOR

    def __post_init__(self) -> None:
        for name, (minimum, maximum) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name == "max_poll_interval_ms":
                continue
            # A bool is an int to isinstance; here it is a mistake.
            if type(value) is not int or not minimum <= value <= maximum:
                allowed = f"an integer in [{minimum}, {maximum}]"
                raise InvalidConfigurationError(name, value, allowed)
        if self.auto_offset_reset not in _POLICIES and self.reset_ms is None:
            raise InvalidConfigurationError(
                "auto_offset_reset", self.auto_offset_reset, _ALLOWED_RESET
            )
        if type(self.enable_auto_commit) is not bool:
            raise InvalidConfigurationError(
                "enable_auto_commit", self.enable_auto_commit, "True or False"
            )
        self._check_names()

    def _check_names(self) -> None:
        for name in ("group", "instance_id"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise InvalidConfigurationError(name, value, "a name, or None")
        if self.instance_id is not None and self.group is None:
            raise InvalidConfigurationError("instance_id", self.instance_id, "a group as well")
        name_of(self.assignor)

    @property
    def reset_ms(self) -> int | None:
        """How old the first record may be, in milliseconds; None when age does not matter."""
        reset = self.auto_offset_reset
        if isinstance(reset, str) and reset.startswith(_BY_DURATION):
            parsed = _DURATION.fullmatch(reset.removeprefix(_BY_DURATION))
            if parsed is None:
                return None
            days, hours, minutes, seconds = parsed.groups(default="0")
            whole, _, fraction = seconds.partition(".")
            total = ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(whole)
            return total * 1000 + int(fraction.ljust(9, "0")) // 1_000_000
        if isinstance(reset, datetime.timedelta) and reset >= datetime.timedelta():
            return reset // datetime.timedelta(milliseconds=1)
        return None
