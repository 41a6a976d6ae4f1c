"""What the tests of compaction share: few keys, much to leave out, and what a replay comes to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from partitions import make_partition

from pylog import Log, Partition, Record
from pylog.storage.cleaner_config import CleanerConfig
from pylog.storage.manifest import Manifest, parse_manifest


def manifest_of(path: Path) -> Manifest:
    return parse_manifest((path / "t-0" / "manifest").read_bytes(), path="")


def make_compacted(log: Log, **settings: Any) -> Partition:
    settings = {"cleanup_policy": "compact", "segment_bytes": 2000} | settings
    return make_partition(log, **settings)


def fold(partition: Partition) -> dict[bytes | None, bytes]:
    """What a replay of the whole log comes to."""
    state: dict[bytes | None, bytes] = {}
    for record in partition.records():
        if record.value is None:
            state.pop(record.key, None)
        else:
            state[record.key] = record.value
    return state


def update(partition: Partition, count: int, keys: int, seed: int = 0) -> dict[bytes, bytes]:
    """Append records of few keys, now and then a tombstone; return what they come to."""
    rng, state = random.Random(seed), dict[bytes, bytes]()
    for number in range(count):
        key = b"key-%d" % rng.randrange(keys)
        value = None if rng.random() < 0.1 else b"value %d of %d" % (number, seed)
        partition.append(value, key=key)
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    return state


def contents_of(record: Record) -> tuple[Any, ...]:
    return record.offset, record.timestamp, record.key, record.value, record.headers


def limit_memory(partition: Partition, dedupe_buffer_bytes: int) -> None:
    """Let so much memory remember keys: an entry has 24 bytes."""
    cleaner = CleanerConfig(dedupe_buffer_bytes=dedupe_buffer_bytes)
    object.__setattr__(partition._environment, "cleaner", cleaner)
