"""Replication settings: what they default to and refuse."""

from __future__ import annotations

from typing import Any

import pytest

from pylog.errors import InvalidConfigurationError
from pylog.replication.config import ReplicationConfig


def test_defaults_are_kafkas() -> None:
    config = ReplicationConfig()
    assert (config.acks, config.min_insync_replicas) == ("all", 1)
    assert (config.replica_lag_time_max_ms, config.replica_fetch_wait_max_ms) == (30_000, 500)
    assert (config.replica_fetch_max_bytes, config.request_timeout_ms) == (1_048_576, 30_000)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("acks", 0),
        ("acks", True),
        ("acks", "most"),
        ("min_insync_replicas", 0),
        ("min_insync_replicas", True),
        ("replica_lag_time_max_ms", 0),
        ("replica_lag_time_max_ms", 1.5),
        ("replica_fetch_wait_max_ms", 0),
        ("replica_fetch_wait_max_ms", 30_000),
        ("replica_fetch_max_bytes", 60),
        ("replica_fetch_max_bytes", 1 << 31),
        ("max_in_flight_bytes", 60),
        ("request_timeout_ms", 0),
    ],
)
def test_what_is_not_allowed_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(InvalidConfigurationError, match=setting) as caught:
        ReplicationConfig(**{setting: value})
    assert caught.value.value == value


@pytest.mark.parametrize("acks", [1, "all"])
def test_an_append_waits_for_one_or_for_all(acks: Any) -> None:
    assert ReplicationConfig(acks=acks).acks == acks
