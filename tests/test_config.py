"""Topic settings: what is accepted, what is refused and how, and the way to Kafka and back."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylog.config import NEVER, SETTINGS, TopicConfig
from pylog.errors import InvalidConfigurationError, UnknownSettingError

# As in Kafka 4's documentation, as its AdminClient returns them.
KAFKA_DEFAULTS = {
    "segment.ms": "604800000",
    "segment.jitter.ms": "0",
    "segment.index.bytes": "10485760",
    "index.interval.bytes": "4096",
    "preallocate": "false",
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.after.max.ms": "3600000",
    "compression.type": "producer",
    "compression.gzip.level": "-1",
    "compression.lz4.level": "9",
    "compression.zstd.level": "3",
    "cleanup.policy": "delete",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "file.delete.delay.ms": "60000",
    "min.cleanable.dirty.ratio": "0.5",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "9223372036854775807",
    "delete.retention.ms": "86400000",
    "min.insync.replicas": "1",
}
OWN_DEFAULTS = {
    "segment.bytes": "67108864",
    "flush.ms": "1000",
    "pylog.durability": "fsync",
}

# A valid value other than the default for every setting: (pylog's name, value, Kafka's text).
OTHERS: list[tuple[str, Any, str]] = [
    ("durability", "interval", "interval"),
    ("flush_ms", 50, "50"),
    ("segment_bytes", 1 << 30, "1073741824"),
    ("segment_ms", 1, "1"),
    ("segment_jitter_ms", 5, "5"),
    ("segment_index_bytes", 24, "24"),
    ("index_interval_bytes", 0, "0"),
    ("preallocate", True, "true"),
    ("max_message_bytes", 2**31 - 13, "2147483635"),
    ("message_timestamp_type", "LogAppendTime", "LogAppendTime"),
    ("message_timestamp_before_max_ms", 0, "0"),
    ("message_timestamp_after_max_ms", NEVER, "9223372036854775807"),
    ("compression_type", "zstd", "zstd"),
    ("compression_gzip_level", 9, "9"),
    ("compression_lz4_level", 17, "17"),
    ("compression_zstd_level", -131072, "-131072"),
    ("cleanup_policy", "compact,delete", "compact,delete"),
    ("retention_ms", -1, "-1"),
    ("retention_bytes", 0, "0"),
    ("file_delete_delay_ms", 0, "0"),
    ("min_cleanable_dirty_ratio", 0.01, "0.01"),
    ("min_compaction_lag_ms", 1, "1"),
    ("max_compaction_lag_ms", 1, "1"),
    ("delete_retention_ms", 0, "0"),
    ("min_insync_replicas", 2, "2"),
]


def test_defaults_are_kafkas_but_for_those_that_say_why() -> None:
    assert TopicConfig().to_kafka() == KAFKA_DEFAULTS | OWN_DEFAULTS


def test_defaults_round_trip() -> None:
    assert TopicConfig.from_kafka(TopicConfig().to_kafka()) == TopicConfig()


def test_table_and_class_name_the_same_settings() -> None:
    assert list(SETTINGS) == [field.name for field in dataclasses.fields(TopicConfig)]


def test_docstring_explains_every_setting() -> None:
    assert TopicConfig.__doc__ is not None
    missing = [name for name in SETTINGS if f"{name}:" not in TopicConfig.__doc__.replace(",", ":")]
    assert missing == []


def test_every_setting_has_another_value_here() -> None:
    assert {name for name, _, _ in OTHERS} == set(SETTINGS)


@pytest.mark.parametrize(("name", "value", "text"), OTHERS)
def test_setting_goes_to_kafka_and_back(name: str, value: Any, text: str) -> None:
    config = TopicConfig(**{name: value})
    kafka_name = SETTINGS[name].kafka_name
    assert config.to_kafka()[kafka_name] == text
    assert TopicConfig.from_kafka(config.to_kafka()) == config
    assert TopicConfig.from_kafka({kafka_name: value}) == config
    assert TopicConfig.from_kafka({kafka_name: f" {text} "}) == config
    assert config != TopicConfig()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("segment_bytes", 13),
        ("segment_bytes", 2**31),
        ("segment_bytes", True),
        ("segment_bytes", 100.0),
        ("segment_bytes", "100"),
        ("segment_bytes", None),
        ("segment_ms", 0),
        ("segment_index_bytes", 23),
        ("index_interval_bytes", -1),
        ("max_message_bytes", 60),
        ("max_message_bytes", 2**31 - 12),
        ("retention_ms", -2),
        ("retention_ms", 2**63),
        ("flush_ms", 0),
        ("preallocate", 1),
        ("preallocate", "true"),
        ("min_cleanable_dirty_ratio", 1.01),
        ("min_cleanable_dirty_ratio", -0.01),
        ("min_cleanable_dirty_ratio", float("nan")),
        ("min_cleanable_dirty_ratio", True),
        ("durability", "FSYNC"),
        ("durability", None),
        ("compression_type", "lz5"),
        ("compression_gzip_level", 0),
        ("compression_gzip_level", 10),
        ("compression_gzip_level", -2),
        ("compression_lz4_level", 0),
        ("compression_lz4_level", 18),
        ("compression_zstd_level", -131073),
        ("compression_zstd_level", 23),
        ("cleanup_policy", "compact,compact"),
        ("cleanup_policy", "delete,"),
        ("cleanup_policy", ["delete"]),
        ("min_insync_replicas", 0),
    ],
)
def test_wrong_value_is_refused_with_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        TopicConfig(**{name: value})
    assert caught.value.setting == name
    assert caught.value.value is value
    assert caught.value.allowed == SETTINGS[name].allowed
    assert str(caught.value) == f"{name}={value!r}: expected {SETTINGS[name].allowed}"


def test_limits_are_inclusive() -> None:
    config = TopicConfig(segment_bytes=14, max_message_bytes=61, segment_ms=NEVER)
    assert (config.segment_bytes, config.max_message_bytes) == (14, 61)


def test_default_of_gzip_stands_beside_its_range() -> None:
    assert SETTINGS["compression_gzip_level"].allowed == "an integer in [1, 9], or -1"
    assert TopicConfig(compression_gzip_level=-1) == TopicConfig()


@pytest.mark.parametrize("policy", ["", "delete", "compact", "compact,delete", "delete,compact"])
def test_cleanup_policies_combine(policy: str) -> None:
    config = TopicConfig(cleanup_policy=policy)
    assert TopicConfig.from_kafka({"cleanup.policy": policy.replace(",", ", ")}) == config


def test_compaction_lags_must_not_cross() -> None:
    with pytest.raises(InvalidConfigurationError, match="at most max_compaction_lag_ms, 5"):
        TopicConfig(min_compaction_lag_ms=6, max_compaction_lag_ms=5)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("retention_mss", "retention_ms"),
        ("retention.ms", "retention_ms"),
        ("retention-bytes", "retention_bytes"),
        ("cleanup_polcy", "cleanup_policy"),
        ("partitions_of_unity_zzz", None),
    ],
)
def test_unknown_setting_names_the_nearest(name: str, nearest: str | None) -> None:
    with pytest.raises(UnknownSettingError) as caught:
        TopicConfig.from_settings(**{name: 5})
    assert (caught.value.setting, caught.value.value) == (name, 5)
    assert caught.value.nearest == nearest


@pytest.mark.parametrize("name", ["retention_ms", "retention.mss"])
def test_unknown_kafka_setting_names_the_nearest_of_kafkas(name: str) -> None:
    with pytest.raises(UnknownSettingError) as caught:
        TopicConfig.from_kafka({name: "5"})
    assert caught.value.nearest == "retention.ms"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("segment.bytes", "64MiB"),
        ("segment.bytes", ""),
        ("segment.bytes", "1_000"),
        ("segment.bytes", "1e6"),
        ("segment.bytes", "\u0661\u0661\u0661"),
        ("segment.bytes", "9" * 5000),
        ("segment.bytes", "--5"),
        ("segment.bytes", 1.0e6),
        ("preallocate", "yes"),
        ("min.cleanable.dirty.ratio", "half"),
        ("min.cleanable.dirty.ratio", "inf"),
        ("message.timestamp.type", "createtime"),
    ],
)
def test_wrong_kafka_text_is_refused_by_kafkas_name(name: str, text: Any) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        TopicConfig.from_kafka({name: text})
    assert caught.value.setting == name
    assert caught.value.value is text


def test_from_settings_replaces_only_what_is_given() -> None:
    config = TopicConfig.from_settings(retention_ms=5, durability="os")
    assert config == dataclasses.replace(TopicConfig(), retention_ms=5, durability="os")


def test_config_is_immutable_hashable_and_pickles() -> None:
    config = TopicConfig(segment_bytes=1000)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.segment_bytes = 5  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == config
    assert len({config, TopicConfig(segment_bytes=1000)}) == 1


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)), st.text(max_size=8)))
def test_any_text_gives_a_config_or_a_clear_error(settings: dict[str, str]) -> None:
    kafka = {SETTINGS[name].kafka_name: text for name, text in settings.items()}
    try:
        config = TopicConfig.from_kafka(kafka)
    except InvalidConfigurationError:
        return
    assert TopicConfig.from_kafka(config.to_kafka()) == config
