"""Which offset a record has on the other side: runs of records that follow each other on both.

Pure: knows numbers, and how they are written down.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pylog.errors import KafkaRefusedError


class Run(NamedTuple):
    """Records [source, source + length) that are [target, target + length) on the other side."""

    source: int
    target: int
    length: int


def runs_of(sources: Iterable[int], targets: Iterable[int]) -> list[Run]:
    """Return the runs of records, given the offsets of each on both sides, in order."""
    runs: list[Run] = []
    for source, target in zip(sources, targets, strict=True):
        if runs:
            last = runs[-1]
            if source == last.source + last.length and target == last.target + last.length:
                runs[-1] = Run(last.source, last.target, last.length + 1)
                continue
        runs.append(Run(source, target, 1))
    return runs


def encode_runs(runs: Sequence[Run]) -> bytes:
    """Return runs as JSON: [gap in the source, gap in the target, length] one after the other.

    Gaps are counted from the end of the run before, at first from 0.
    """
    rows = []
    source = target = 0
    for run in runs:
        rows.append([run.source - source, run.target - target, run.length])
        source, target = run.source + run.length, run.target + run.length
    return json.dumps(rows, separators=(",", ":")).encode()


def decode_runs(data: bytes) -> Iterator[Run]:
    """Yield what `encode_runs` was given.  Raises KafkaRefusedError for anything else."""
    source = target = 0
    try:
        for source_gap, target_gap, length in json.loads(data):
            run = Run(source + source_gap, target + target_gap, length)
            if min(source_gap, target_gap) < 0 or length < 1:
                raise ValueError(f"run {run}")
            yield run
            source, target = run.source + run.length, run.target + run.length
    except (ValueError, TypeError) as error:
        raise KafkaRefusedError("_BAD_MSG", f"offsets written down by a mirror: {error}") from error


class Translation:
    """Where offsets are on the other side; runs are shown to it in any order.

    offsets: those that are asked for, of the next record to read.
    """

    def __init__(self, offsets: Iterable[int]) -> None:
        # The end of the nearest run below, and of the nearest at or above.
        self._found: dict[int, int | None] = dict.fromkeys(offsets)
        self._next_source: dict[int, int] = {}

    def see(self, run: Run) -> None:
        """Take a run into account."""
        for offset, found in self._found.items():
            if run.source + run.length <= offset:
                continue  # all of it was read
            first = max(run.source, offset)
            if found is None or first < self._next_source[offset]:
                self._found[offset] = run.target + first - run.source
                self._next_source[offset] = first

    def at(self, offset: int) -> int | None:
        """Return where the first record at or after `offset` is; None when there is none yet."""
        return self._found[offset]
