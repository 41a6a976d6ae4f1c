"""Crash points of topics that are compacted, and bugs planted there; see test_crash_points.py.

PYLOG_CRASH_POINTS and PYLOG_CRASH_SEED are taken as there; the everyday run visits 6,000 points.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import random

import pytest
from compacted import read_rows
from compacted_lives import COMPACTED_PROFILES
from crash_checks import Process, quiet
from crash_explorer import explore
from crash_model import DAMAGES, Disk, lose_all
from memory_files import MemoryFiles
from planted_compaction import COMPACTION_PLANTS, Plant

PROCESSES = 2
POINTS = int(os.environ.get("PYLOG_CRASH_POINTS", "6000"))
FIRST_SEED = int(os.environ.get("PYLOG_CRASH_SEED", "0"))
POINTS_TO_FIND_A_PLANT = 6_000  # the everyday run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_crash_point_of_a_compacted_topic_keeps_the_last_value_of_each_key() -> None:
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        runs = [
            pool.submit(
                explore, FIRST_SEED + number, PROCESSES, POINTS // PROCESSES, COMPACTED_PROFILES
            )
            for number in range(PROCESSES)
        ]
        results = [run.result() for run in runs]
    points = sum(count for count, _ in results)
    violations = [text for _, found in results for text in found]
    print(f"seed {FIRST_SEED}: {points} points, {len(violations)} violations")

    assert not violations, "\n".join(violations)
    assert points >= POINTS


def test_what_was_read_after_kills_in_compaction_and_in_recovery_survives_a_power_cut() -> None:
    # A commit that is seen may not be on disk: its process died before the directory was synced,
    # and so did the one that recovered after it.
    profile = COMPACTED_PROFILES[0]
    files = MemoryFiles(Disk(), boot=1, is_recording=True, map_bytes=profile.map_bytes)
    partition = Process(files).partition(profile.config)
    for number in range(25):
        partition.append(b"%d " % number + bytes(20), key=b"k%d" % (number % 4))
    start = files.note()
    partition.compact()
    points = 0
    rng = random.Random(0)
    with quiet():
        for position in range(start, files.note() + 1):
            killed = MemoryFiles(
                files.disk_after(position), is_recording=True, map_bytes=profile.map_bytes
            )
            Process(killed).partition(profile.config).marks()
            for second in range(killed.note() + 1):
                again = MemoryFiles(
                    killed.disk_after(second), is_recording=True, map_bytes=profile.map_bytes
                )
                shown = read_rows(Process(again).partition(profile.config))
                for damage in (lose_all, DAMAGES[points % len(DAMAGES)]):
                    cut = MemoryFiles(
                        again.disk_after().crash(damage, rng), boot=2, map_bytes=profile.map_bytes
                    )
                    assert read_rows(Process(cut).partition(profile.config)) == shown
                    points += 1
    assert points > 1000


@pytest.mark.slow
@pytest.mark.parametrize("plant", COMPACTION_PLANTS, ids=lambda plant: plant.__name__)
def test_crash_points_find_a_bug_planted_into_compaction(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    points, violations = explore(FIRST_SEED, 1, POINTS_TO_FIND_A_PLANT, COMPACTED_PROFILES, most=1)
    print(f"{plant.__name__}: found at point {points}: {violations}")

    assert violations, f"{plant.__name__} was not found within {points} points"
    # A plant that no longer fits the code would be "found" by its own error.
    assert "TypeError" not in violations[0]
    assert "AttributeError" not in violations[0]
