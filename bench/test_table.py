"""Rebuilding a table from its topic, against making the same dict from lists that are there."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pylog
from bench.conftest import Payload
from bench.turns import KERNEL, MEMORY, Contestant, Race, timed

ROUNDS = 15
UPDATES = 4  # records of each key, where a key has several


class Built:
    """Holds what a round built until the next one, so that freeing it is not timed."""

    def __init__(self) -> None:
        self.held: Any = None

    def time(self, build: Callable[[], Any], count: int) -> float:
        self.held = None

        def keep() -> None:
            self.held = build()

        seconds = timed(keep)
        assert len(self.held) == count
        return seconds


@pytest.fixture(scope="module")
def rebuild(directory: Path, payload: Payload, size: Callable[..., int]) -> Iterator[Race]:
    count = size(200_000, 2_000_000)
    # All distinct, as in a topic; keys come in no order, but lie in memory as they come.
    pick = random.Random(20261122)
    values = [pick.randbytes(Payload.VALUE_BYTES) for _ in range(count)]
    rows = list(range(count))
    pick.shuffle(rows)
    keys = [payload.keys(row, 1)[0] for row in rows]
    few = [keys[row % (count // UPDATES)] for row in range(count)]
    built = Built()
    with pylog.open(directory / "log") as log:
        for name, its_keys in (("once", keys), ("often", few)):
            topic = log.create_topic(name, durability="os", cleanup_policy="compact")
            for start in range(0, count, Payload.BATCH):
                end = min(start + Payload.BATCH, count)
                topic.append_many(values[start:end], its_keys[start:end])

        def table(name: str, keys_count: int) -> Callable[[], float]:
            return lambda: built.time(lambda: _filled(log.table(name)), keys_count)

        def python(its_keys: list[bytes], keys_count: int) -> Callable[[], float]:
            return lambda: built.time(lambda: dict(zip(its_keys, values, strict=True)), keys_count)

        def contestant(run: Callable[[], float], durability: str) -> Contestant:
            total = count * (Payload.KEY_BYTES + Payload.VALUE_BYTES)
            return Contestant(run, durability, count, total)

        contestants = {
            "pylog": contestant(table("once", count), KERNEL),
            "dict": contestant(python(keys, count), MEMORY),
            "pylog-updates": contestant(table("often", count // UPDATES), KERNEL),
            "dict-updates": contestant(python(few, count // UPDATES), MEMORY),
        }
        yield Race("table rebuild", contestants, rounds=ROUNDS)


def _filled(table: pylog.Table) -> pylog.Table:
    table.refresh()
    return table


@pytest.mark.parametrize("name", ["pylog", "dict", "pylog-updates", "dict-updates"])
def test_rebuild_a_table(show: Callable[..., None], rebuild: Race, name: str) -> None:
    show(rebuild, name)
