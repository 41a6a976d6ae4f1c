"""Crash points of logs that are truncated and replicated, and bugs planted there.

PYLOG_CRASH_POINTS and PYLOG_CRASH_SEED are taken as in test_crash_points.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from crash_explorer import explore
from planted import Without
from truncated_lives import PROFILES

from pylog.storage import recovery, segment_files, truncation

POINTS = int(os.environ.get("PYLOG_CRASH_POINTS", "1000"))
FIRST_SEED = int(os.environ.get("PYLOG_CRASH_SEED", "0"))


def test_a_crash_leaves_what_was_there_before_a_truncation_or_after_it() -> None:
    points, violations = explore(FIRST_SEED, 1, POINTS, PROFILES)

    assert not violations, "\n".join(violations)
    assert points >= POINTS


def forgets_to_sync_what_is_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(truncation, "sync_locked", lambda *_: None)


def names_files_whose_names_are_not_on_disk(patch: pytest.MonkeyPatch) -> None:
    original = truncation._create
    patch.setattr(
        truncation, "_create", lambda directory, facts: original(Without(directory, "sync"), facts)
    )


def appends_to_the_file_that_it_cut(patch: pytest.MonkeyPatch) -> None:
    """Take Kafka's name for the new segment's, whatever lies there."""

    def open_revision(directory: Any, name: str, revision: int, *, writable: bool) -> Any:
        return directory.open(name, writable=writable)

    patch.setattr(recovery, "open_revision", open_revision)
    patch.setattr(recovery, "put_in_place", lambda *_: None)


def forgets_who_died_in_it(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(segment_files, "cut_behind", lambda *_: None)
    patch.setattr(truncation, "cut_behind", lambda *_: None)
    patch.setattr(recovery, "_finish_truncation", lambda *_: None)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "plant",
    [
        forgets_to_sync_what_is_kept,
        names_files_whose_names_are_not_on_disk,
        appends_to_the_file_that_it_cut,
        forgets_who_died_in_it,
    ],
    ids=lambda plant: plant.__name__,
)
def test_crash_points_find_a_planted_bug(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    points, violations = explore(FIRST_SEED, 1, 12_000, PROFILES, most=1)
    print(f"{plant.__name__}: found at point {points}: {violations}")

    assert violations, f"{plant.__name__} was not found within {points} points"
    assert "TypeError" not in violations[0]
    assert "AttributeError" not in violations[0]
