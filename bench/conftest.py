"""Fixtures of the benchmarks: sizes, a directory on the checkout's disk, and `show`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.turns import Clock, Race
from pylog.storage.files import OsFiles

# Nothing here takes longer; a hang ends the run instead of stopping it for ever.
TIMEOUT_SECONDS = 1800
CLOCK = Clock()


PACKAGES = (
    "pylog numpy lz4 crc32c lmdb rocksdict persist-queue diskcache litequeue confluent-kafka"
).split()


def installed_packages() -> dict[str, str]:
    """Return the versions of what takes part in the races."""
    versions = {"sqlite3": sqlite3.sqlite_version}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="full sizes: 10^7 records, gigabytes, many minutes"
    )
    parser.addoption(
        "--scaling",
        action="store_true",
        help="also the curves: cost against records, partitions, threads, processes and sizes;"
        " with --full up to 10^8 records and 100,000 partitions",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> Callable[..., int]:
    """Pick a size: size(small, full), a hundredth of small when nothing is measured."""
    is_full = request.config.getoption("--full")
    is_measured = not request.config.getoption("--benchmark-disable")

    def pick(small: int, full: int) -> int:
        assert small % 100 == 0, "a hundredth of it is used, too"
        return full if is_full else small if is_measured else small // 100

    return pick


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Note what else a figure depends on, for the report."""
    machine_info["packages"] = installed_packages()
    machine_info["arguments"] = list(config.invocation_params.args)
    machine_info["file_system"] = OsFiles().file_system_type(str(config.rootpath))


@pytest.fixture(scope="module")
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on the disk of the checkout: the usual temporary one may be in memory."""
    parent = request.config.rootpath / ".benchmarks"
    parent.mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="bench-", dir=parent))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def show(benchmark: BenchmarkFixture) -> Callable[[Race, str], None]:
    """Report one contestant of a race as this test's benchmark."""

    def report(race: Race, name: str) -> None:
        contestant = race.contestants[name]
        seconds = race.seconds(name, rounds=1 if benchmark.disabled else race.rounds)
        benchmark.group = race.group
        benchmark.extra_info["records"] = contestant.records
        benchmark.extra_info["bytes"] = contestant.bytes
        benchmark.extra_info["durability"] = contestant.durability
        pedantic: Callable[..., None] = benchmark.pedantic
        pedantic(CLOCK.advance, args=(iter(seconds),), rounds=len(seconds))

    return report


_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/141.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like "
    "Gecko) Version/18.6 Mobile/15E148 Safari/604.1",
)


class Payload:
    """Random values and ascending keys, the same in every run."""

    KEY_BYTES = 16
    VALUE_BYTES = 100
    BATCH = 1000

    def __init__(self) -> None:
        self._random = random.Random(20261122)

    def values(self, count: int, *, value_bytes: int = VALUE_BYTES) -> list[bytes]:
        """Return `count` values; a thousand of them are distinct, so that memory stays small."""
        distinct = [self._random.randbytes(value_bytes) for _ in range(min(count, self.BATCH))]
        return [distinct[row % len(distinct)] for row in range(count)]

    def events(self, count: int) -> list[bytes]:
        """Return page views of a shop as JSON, about 280 bytes each; lz4 makes a quarter of it."""
        return [self._event(row) for row in range(count)]

    def _event(self, row: int) -> bytes:
        pick = self._random
        event = {
            "event": pick.choice(("view", "click", "buy")),
            "user": pick.randrange(10**6),
            "session": f"{pick.getrandbits(64):016x}",
            "page": pick.choice(("/", "/shop", "/shop/shoes", "/cart", "/account/orders", "/help")),
            "agent": pick.choice(_AGENTS),
            "at": 1_700_000_000_000 + 37 * row,
            "duration_ms": pick.randrange(60_000),
            "price": pick.randrange(100, 20_000) / 100,
        }
        return json.dumps(event).encode()

    def keys(self, start: int, count: int) -> list[bytes]:
        """Return ascending keys, as large as offsets are long in text."""
        return [b"%016d" % row for row in range(start, start + count)]

    def rows(self, limit: int, count: int) -> list[int]:
        """Return `count` random numbers below `limit`."""
        return [self._random.randrange(limit) for _ in range(count)]


@pytest.fixture(scope="session")
def payload() -> Payload:
    return Payload()
