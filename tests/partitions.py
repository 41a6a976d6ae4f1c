"""What the tests of partitions share: one topic, and a look at its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pylog import Log, Partition

NOW = 1_700_000_000_000


def make_partition(log: Log, **settings: Any) -> Partition:
    settings.setdefault("durability", "os")
    return log.create_topic("t", **settings).partition(0)


def logs_in(path: Path) -> list[Path]:
    return sorted((path / "t-0").glob("*.log"))


def bases(path: Path) -> list[int]:
    return [int(log.stem) for log in logs_in(path)]


def values(partition: Partition) -> list[bytes | None]:
    return [record.value for record in partition.records()]


def contents(path: Path) -> dict[str, bytes]:
    """All bytes of a partition but the shared page and the zeros that are written ahead."""
    return {
        file.name: file.read_bytes().rstrip(b"\0")
        for file in sorted((path / "t-0").iterdir())
        if file.name != "state"
    }
