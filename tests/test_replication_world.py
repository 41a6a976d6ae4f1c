"""Thousands of random lives of replicas: nothing acknowledged is lost, whatever happens.

The everyday run lives PYLOG_REPLICATION_SEEDS (2,000) worlds, from PYLOG_REPLICATION_SEED (0) on; a
failure names its seed, and the same seed lives the same life.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from replication_world import World

SEEDS = int(os.environ.get("PYLOG_REPLICATION_SEEDS", "2000"))
FIRST_SEED = int(os.environ.get("PYLOG_REPLICATION_SEED", "0"))
EXHAUSTIVE_SEEDS = 500_000
STEPS = 300


def live(seed: int, steps: int = STEPS) -> Counter[str]:
    """Return what happened in a random life, checked at each step and at its end."""
    world = World(seed)
    try:
        for _ in range(steps):
            world.step()
        world.heal()
    except BaseException as error:
        error.add_note(f"PYLOG_REPLICATION_SEED={seed}")
        raise
    return world.done


def check_work(done: Counter[str], seeds: int) -> None:
    """Assert that the lives were full of what they are meant to try."""
    for what in (
        "acknowledged",
        "promotions",
        "leaders fenced",
        "lost",
        "repeated",
        "last appends",
    ):
        assert done[what] > seeds / 2, (what, done)
    for what in ("truncations", "leaders resumed", "killed", "power cuts", "clock jumps"):
        assert done[what] > seeds / 10, (what, done)
    for what in ("power cuts that lost something", "new beginnings", "deletions"):
        assert done[what] > seeds / 100, (what, done)


def test_random_lives_lose_nothing_and_go_on_once_all_is_well() -> None:
    done: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        done.update(live(seed))
    check_work(done, SEEDS)


@pytest.mark.exhaustive
@pytest.mark.timeout(4 * 3600)
def test_many_more_random_lives() -> None:
    done: Counter[str] = Counter()
    for seed in range(SEEDS, EXHAUSTIVE_SEEDS):
        done.update(live(seed))
    check_work(done, EXHAUSTIVE_SEEDS - SEEDS)


def test_a_seed_lives_the_same_life_again() -> None:
    assert live(7) == live(7)
