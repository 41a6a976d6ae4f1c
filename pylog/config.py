"""Topic settings: every knob with its unit, default, allowed range and Kafka name.

Knows: types and ranges.  Must not know: files, clocks, who reads a setting.  Names are Kafka's with
underscores for dots; where pylog's default is not Kafka's, the line says why.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pylog.codecs import DEFAULT_LEVELS
from pylog.errors import InvalidConfigurationError, UnknownSettingError

NEVER: Final = 2**63 - 1  # Kafka's Long.MAX_VALUE: a time or count that is not reached
UNLIMITED: Final = -1  # Kafka's sentinel in retention.ms and retention.bytes
_MAX_INT: Final = 2**31 - 1
_LAST_MESSAGE: Final = _MAX_INT - 12  # a batch's length field counts all but its first 12 bytes

DURABILITIES: Final = ("fsync", "interval", "os")
CLEANUP_POLICIES: Final = ("delete", "compact")
COMPRESSION_TYPES: Final = ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")
CREATE_TIME: Final = "CreateTime"
LOG_APPEND_TIME: Final = "LogAppendTime"
TIMESTAMP_TYPES: Final = (CREATE_TIME, LOG_APPEND_TIME)

Value = bool | int | float | str


@dataclasses.dataclass(frozen=True, slots=True)
class _Integers:
    """Integers in [minimum, maximum], both included as in Kafka's documentation.

    or_else: one more, that stands for a default.
    """

    minimum: int
    maximum: int = NEVER
    or_else: int | None = None

    def describe(self) -> str:
        more = "" if self.or_else is None else f", or {self.or_else}"
        return f"an integer in [{self.minimum}, {self.maximum}]{more}"

    def accepts(self, value: object) -> bool:
        # A bool is an int to isinstance; here it is a mistake.
        return type(value) is int and (
            self.minimum <= value <= self.maximum or value == self.or_else
        )

    def parse(self, text: str) -> Value:
        # int() takes "1_000" and other scripts' digits, which Kafka does not.
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()):
            raise ValueError(text)
        return int(text)


@dataclasses.dataclass(frozen=True, slots=True)
class _Ratio:
    """Floats in [0, 1]; an integer 0 or 1 is one, too."""

    def describe(self) -> str:
        return "a number in [0, 1]"

    def accepts(self, value: object) -> bool:
        return type(value) in (int, float) and 0 <= value <= 1  # type: ignore[operator]

    def parse(self, text: str) -> Value:
        return float(text)


@dataclasses.dataclass(frozen=True, slots=True)
class _Switch:
    """True or False; Kafka writes them in lower case."""

    def describe(self) -> str:
        return "True or False"

    def accepts(self, value: object) -> bool:
        return type(value) is bool

    def parse(self, text: str) -> Value:
        return {"true": True, "false": False}[text.lower()]


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def describe(self) -> str:
        return "one of " + ", ".join(self.words)

    def accepts(self, value: object) -> bool:
        return value in self.words

    def parse(self, text: str) -> Value:
        return text


@dataclasses.dataclass(frozen=True, slots=True)
class _Words:
    """Any of a few words, each at most once, joined by commas without blanks; none is allowed."""

    words: tuple[str, ...]

    def describe(self) -> str:
        return "a comma-separated list of " + ", ".join(self.words) + ", or nothing"

    def accepts(self, value: object) -> bool:
        if not isinstance(value, str):
            return False
        parts = value.split(",") if value else []
        return set(parts) <= set(self.words) and len(set(parts)) == len(parts)

    def parse(self, text: str) -> Value:
        return ",".join(part.strip() for part in text.split(","))


_Kind = _Integers | _Ratio | _Switch | _Choice | _Words


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table: what a setting is called, means and allows."""

    name: str
    kafka_name: str
    unit: str
    kind: _Kind

    @property
    def allowed(self) -> str:
        """The type and range in words, as errors and help texts show it."""
        return self.kind.describe()


def _setting(name: str, unit: str, kind: _Kind, kafka_name: str | None = None) -> Setting:
    kafka_name = kafka_name or name.replace("_", ".")
    return Setting(name=name, kafka_name=kafka_name, unit=unit, kind=kind)


_TABLE: Final = (
    _setting("durability", "", _Choice(DURABILITIES), "pylog.durability"),
    _setting("flush_ms", "ms", _Integers(1)),
    # From Kafka's minimum before 4.0: its 1 MiB of today (KIP-1030) protects shared brokers, and a
    # small segment is how one tries pylog out.  To the farthest position an index entry can hold.
    _setting("segment_bytes", "bytes", _Integers(14, _MAX_INT)),
    _setting("segment_ms", "ms", _Integers(1)),
    _setting("segment_jitter_ms", "ms", _Integers(0)),
    # From 24 bytes, so that both indexes hold an entry (12 bytes) and the one a seal adds.
    _setting("segment_index_bytes", "bytes", _Integers(24, _MAX_INT)),
    _setting("index_interval_bytes", "bytes", _Integers(0, _MAX_INT)),
    _setting("preallocate", "", _Switch()),
    # From one batch header, 61 bytes: less accepts no record at all.
    _setting("max_message_bytes", "bytes", _Integers(61, _LAST_MESSAGE)),
    _setting("message_timestamp_type", "", _Choice(TIMESTAMP_TYPES)),
    _setting("message_timestamp_before_max_ms", "ms", _Integers(0)),
    _setting("message_timestamp_after_max_ms", "ms", _Integers(0)),
    _setting("compression_type", "", _Choice(COMPRESSION_TYPES)),
    _setting("compression_gzip_level", "", _Integers(1, 9, or_else=DEFAULT_LEVELS["gzip"])),
    _setting("compression_lz4_level", "", _Integers(1, 17)),
    _setting("compression_zstd_level", "", _Integers(-131_072, 22)),
    _setting("cleanup_policy", "", _Words(CLEANUP_POLICIES)),
    _setting("retention_ms", "ms", _Integers(UNLIMITED)),
    _setting("retention_bytes", "bytes", _Integers(UNLIMITED)),
    _setting("file_delete_delay_ms", "ms", _Integers(0)),
    _setting("min_cleanable_dirty_ratio", "", _Ratio()),
    _setting("min_compaction_lag_ms", "ms", _Integers(0)),
    _setting("max_compaction_lag_ms", "ms", _Integers(1)),
    _setting("delete_retention_ms", "ms", _Integers(0)),
    _setting("min_insync_replicas", "replicas", _Integers(1, _MAX_INT)),
)

SETTINGS: Final[Mapping[str, Setting]] = {setting.name: setting for setting in _TABLE}
_BY_KAFKA_NAME: Final = {setting.kafka_name: setting for setting in _TABLE}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """The settings of one topic: Kafka's names with underscores, checked when they are given.

    Times are milliseconds, sizes bytes.  "Stored" means: checked and kept now, and without effect
    until the feature that is named exists.

    durability: what an acknowledged record survives: "fsync" power loss; "interval" power loss but
        for the last `flush_ms`; "os" a killed process only.
    flush_ms: the longest time before a record of durability "interval" is synced.  1 s, not Kafka's
        "never", which would make "interval" the same as "os".
    segment_bytes: a segment that would grow beyond is rolled.  64 MiB, not Kafka's 1 GiB: retention
        and compaction work on whole segments, and an embedded log shares a laptop's disk.
    segment_ms: a segment is rolled when an append's timestamp is later than its first one by more.
        Without timestamps, when its first append was longer ago.
    segment_jitter_ms: a partition's segments are rolled earlier by up to this, each partition's by
        as much every time, so that many do not roll at once.
    segment_index_bytes: a segment is rolled before one of its indexes outgrows this.
    index_interval_bytes: bytes of log between two index entries.
    preallocate: has no effect.  In steps of up to 1 MiB zeros are always written ahead, so that a
        full disk is an error before a byte of a record is placed; they are cut off with a roll.
    max_message_bytes: largest batch as it is written, header included.
    message_timestamp_type: "CreateTime" keeps the caller's timestamps, "LogAppendTime" ignores them
        and stamps each batch with the time of its append.
    message_timestamp_before_max_ms, message_timestamp_after_max_ms: how far from now a caller's
        timestamp may lie with "CreateTime"; one beyond is refused.
    compression_type: "producer" keeps batches as they come, so an append by the log itself is not
        compressed; a codec ("gzip", "snappy", "lz4", "zstd") or "uncompressed" is what every batch
        is brought to before it is written.
    compression_gzip_level, compression_lz4_level, compression_zstd_level: how hard to try; for gzip
        -1 is zlib's own default, for lz4 9 is its fast compressor.
    cleanup_policy: "delete" and "compact", joined by a comma, or "" to keep everything.  With
        "compact" every record needs a key, and the newest of each key stays.
    retention_ms, retention_bytes: "delete" drops the segments whose last record was appended longer
        ago, and those without which this many bytes are left; -1 is unlimited.
    file_delete_delay_ms: how long the files of deleted segments stay on disk, as `*.deleted`.
    min_cleanable_dirty_ratio: how much of a partition must be new since it was last compacted
        before it is compacted again; of the segments that may be.
    min_compaction_lag_ms: a segment appended to more recently is not compacted.
    max_compaction_lag_ms: a partition whose oldest new record was appended longer ago is compacted
        whatever its ratio, and its active segment is sealed in time for that.
    delete_retention_ms: how long tombstones stay after older values of their keys are gone.
    min_insync_replicas: where the log leads replicas: with fewer in sync, an append with acks="all"
        is refused.  The leader counts.

    Raises InvalidConfigurationError that names setting, value and what is allowed.
    """

    durability: str = "fsync"
    flush_ms: int = 1000
    segment_bytes: int = 64 << 20
    segment_ms: int = 7 * 86_400_000
    segment_jitter_ms: int = 0
    segment_index_bytes: int = 10 << 20
    index_interval_bytes: int = 4096
    preallocate: bool = False
    max_message_bytes: int = (1 << 20) + 12
    message_timestamp_type: str = CREATE_TIME
    message_timestamp_before_max_ms: int = NEVER
    message_timestamp_after_max_ms: int = 3_600_000
    compression_type: str = "producer"
    compression_gzip_level: int = DEFAULT_LEVELS["gzip"]
    compression_lz4_level: int = DEFAULT_LEVELS["lz4"]
    compression_zstd_level: int = DEFAULT_LEVELS["zstd"]
    cleanup_policy: str = "delete"
    retention_ms: int = 7 * 86_400_000
    retention_bytes: int = UNLIMITED
    file_delete_delay_ms: int = 60_000
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = NEVER
    delete_retention_ms: int = 86_400_000
    min_insync_replicas: int = 1

    def __post_init__(self) -> None:
        for setting in _TABLE:
            value = getattr(self, setting.name)
            if not setting.kind.accepts(value):
                raise InvalidConfigurationError(setting.name, value, setting.allowed)
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms:
            allowed = f"at most max_compaction_lag_ms, {self.max_compaction_lag_ms}"
            raise InvalidConfigurationError(
                "min_compaction_lag_ms", self.min_compaction_lag_ms, allowed
            )

    @classmethod
    def from_settings(cls, **settings: Any) -> TopicConfig:
        """Return the defaults with some settings replaced, by pylog's names.

        Raises UnknownSettingError that names the nearest known one, InvalidConfigurationError.
        """
        for name, value in settings.items():
            if name not in SETTINGS:
                raise UnknownSettingError(name, value, _nearest(name, SETTINGS))
        return cls(**settings)

    def altered(self, **settings: Any) -> TopicConfig:
        """Return these settings with some replaced, by pylog's names; None is a default.

        Raises UnknownSettingError that names the nearest known one, InvalidConfigurationError.
        Source: Kafka's incrementalAlterConfigs, SET and DELETE.
        """
        defaults = dataclasses.asdict(TopicConfig())
        given = {
            name: defaults.get(name) if value is None else value for name, value in settings.items()
        }
        return TopicConfig.from_settings(**(dataclasses.asdict(self) | given))

    @classmethod
    def from_kafka(cls, settings: Mapping[str, Value]) -> TopicConfig:
        """Return the defaults with some settings replaced, by Kafka's names.

        settings: values as Kafka writes them, all text, or already typed.
        Raises UnknownSettingError that names the nearest known one, InvalidConfigurationError,
        TypeError for what is no mapping.
        """
        if not isinstance(settings, Mapping):
            raise TypeError(f"settings must be a mapping, not {type(settings).__name__}")
        values: dict[str, Value] = {}
        for kafka_name, value in settings.items():
            setting = _BY_KAFKA_NAME.get(kafka_name)
            if setting is None:
                raise UnknownSettingError(kafka_name, value, _nearest(kafka_name, _BY_KAFKA_NAME))
            values[setting.name] = _from_kafka(setting, value)
        return cls.from_settings(**values)

    def to_kafka(self) -> dict[str, str]:
        """Return all settings as Kafka writes them; `from_kafka` gives the same settings back.

        Pylog's own carry the prefix "pylog.", so that they can be taken out before a broker sees
        them.
        """
        return {name: _to_text(getattr(self, row.name)) for name, row in _BY_KAFKA_NAME.items()}


def _from_kafka(setting: Setting, value: Value) -> Value:
    parsed = value
    if isinstance(value, str):
        # What does not parse stays text, which no setting of another type accepts.
        with contextlib.suppress(ValueError, KeyError):
            parsed = setting.kind.parse(value.strip())
    if not setting.kind.accepts(parsed):
        raise InvalidConfigurationError(setting.kafka_name, value, setting.allowed)
    return parsed


def _to_text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like `name`; None when none is more alike than not."""
    close = difflib.get_close_matches(str(name).replace("-", "_"), known, n=1)
    return close[0] if close else None
