"""Thousands of random lives of replicas, the stories that are known, and mistakes that are caught.

The everyday run lives PYLOG_REPLICATION_SEEDS (2,000) worlds, from PYLOG_REPLICATION_SEED (0) on; a
failure names its seed, and the same seed lives the same life.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from unittest import mock

import pytest
from planted_replication import PLANTED
from replication_scenarios import SCENARIOS
from replication_world import World

from pylog.errors import PylogError

SEEDS = int(os.environ.get("PYLOG_REPLICATION_SEEDS", "2000"))
FIRST_SEED = int(os.environ.get("PYLOG_REPLICATION_SEED", "0"))
EXHAUSTIVE_SEEDS = 500_000
# Twice what the mistake that is found latest takes.
PLANTED_SEEDS = 500


def live(seed: int) -> Counter[str]:
    """Return what happened in a random life, checked at each step and at its end."""
    world = World(seed)
    try:
        world.live()
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
    for what in ("power cuts that lost something", "new beginnings", "deletions", "damage"):
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


@pytest.mark.parametrize("story", SCENARIOS, ids=lambda story: story.__name__)
def test_story(story: Callable[[], None]) -> None:
    story()
    assert story in SCENARIOS  # a story asserts what it tells


def is_caught() -> bool:
    """Return whether a story or a random life fails."""
    lives = [lambda seed=seed: live(seed) for seed in range(PLANTED_SEEDS)]
    for life in (*SCENARIOS, *lives):
        # An assertion of the model or of a story, or a rule that meets the impossible.
        try:
            life()
        except (AssertionError, PylogError, pytest.fail.Exception):
            return True
    return False


@pytest.mark.parametrize("mistake", PLANTED)
def test_mistake_is_caught(mistake: str) -> None:
    with contextlib.ExitStack() as planted:
        for patch in PLANTED[mistake]:
            planted.enter_context(mock.patch.object(*patch))
        assert is_caught()
