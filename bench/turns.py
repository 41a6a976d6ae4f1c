"""Races: the contestants of one benchmark, timed in turns.

A machine that is shared changes its speed within seconds.  So a round of each contestant is run,
then the next round of each, and a quiet or a noisy second touches all of them alike.
pytest-benchmark times one test after the other; it is shown the times taken here through a clock of
ours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# As in PEERS.md: where a record is once its append has returned.
MEMORY = "lost with the process"
KERNEL = "survives kill -9"
DISK = "survives power loss"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One line of a group.

    run: one round with its preparation; returns the seconds of the part that counts.
    records, bytes: what the timed part of a round handles.
    """

    run: Callable[[], float]
    durability: str
    records: int
    bytes: int


class Race:
    """Contestants that do the same job.  The rounds are run when the first result is asked for."""

    def __init__(self, group: str, contestants: dict[str, Contestant], *, rounds: int) -> None:
        self.group = group
        self.contestants = contestants
        self.rounds = rounds
        self._seconds: dict[str, list[float]] | None = None

    def seconds(self, name: str, *, rounds: int) -> list[float]:
        """Return the times of one contestant, one for each round."""
        if self._seconds is None:
            self._seconds = {name: [] for name in self.contestants}
            names = list(self.contestants)
            for turn in range(rounds):
                # Who begins changes, so that nobody always runs on the caches of the same one.
                start = turn % len(names)
                for other in names[start:] + names[:start]:
                    self._seconds[other].append(self.contestants[other].run())
        return self._seconds[name]


class Clock:
    """A clock for pytest-benchmark that moves only when it is told to."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: Iterator[float]) -> None:
        """Move by the next of `seconds`."""
        self._now += next(seconds)


def timed(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
