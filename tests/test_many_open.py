"""Many partitions in one process: how many stay open, and how far their logs grow ahead."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

import pylog
from pylog.storage import policy
from pylog.storage.descriptors import MAX_BUDGET, budget_of
from pylog.storage.files import descriptor_limit

MIB = 1 << 20


@pytest.fixture
def soft_limit() -> Iterator[None]:
    """The process's limit of descriptors may be changed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_half_of_the_descriptors_are_taken_up_to_what_maps_allow() -> None:
    assert budget_of(1024) == 512
    assert budget_of(4096) == 2048
    assert budget_of(1 << 30) == MAX_BUDGET


@pytest.mark.usefixtures("soft_limit")
def test_a_log_keeps_as_many_partitions_open_as_the_process_may(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (256, 1024):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        assert descriptor_limit() == limit
        with pylog.open(tmp_path / str(limit)) as log:
            assert log._engine._max_open_partitions == limit // 2


def test_logs_grow_by_less_the_more_of_them_are_open() -> None:
    assert policy.growth_limit(0) == policy.growth_limit(256) == MIB
    assert policy.growth_limit(1400) == 128 << 10
    assert policy.growth_limit(10**6) == policy.MIN_GROWTH
    grown = policy.grown_size(
        allocated=MIB, needed=MIB + 1, segment_bytes=64 * MIB, max_growth=128 << 10
    )
    assert grown == MIB + (128 << 10)
