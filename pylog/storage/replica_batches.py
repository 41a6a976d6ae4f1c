"""Batches as one replica hands them to another: whole, as stored, with their offsets and epochs.

Pure: bytes in, facts out.  They may come from an enemy, so nothing in them is believed unchecked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pylog._native import batch_headers, check_batches
from pylog.errors import InvalidRecordError
from pylog.storage.scan import REASONS

_NO_LIMIT = 2**63 - 1


class StoredBatches(NamedTuple):
    """What is read to be handed to another replica.

    data: whole batches, as stored; empty where nothing is left up to `end`.  first: the base offset
    of the first one, which may lie before the offset that was asked for.  end: where to go on.
    """

    data: memoryview
    first: int
    end: int


class Batch(NamedTuple):
    """Where one batch stands in the data, and what its header says of it."""

    position: int
    size: int
    base_offset: int
    end_offset: int
    leader_epoch: int
    max_timestamp: int


def replica_batches(data: memoryview) -> list[Batch]:
    """Return the batches in `data`, which is nothing but whole ones, in rising order of offsets.

    Raises InvalidRecordError for anything else, a wrong CRC among it.
    """
    status, start, end, *_ = check_batches(data, 0, 0, _NO_LIMIT, len(data), -1, False)
    if start != 0 or end != len(data):
        reason = REASONS.get(status, f"status {status}")
        raise InvalidRecordError(f"data at {end}: expected whole batches: {reason}")
    return [
        Batch(
            header["position"],
            header["size"],
            header["base_offset"],
            header["base_offset"] + header["last_offset_delta"] + 1,
            header["leader_epoch"],
            header["max_timestamp"],
        )
        for header in batch_headers(data)
    ]


def runs_of(batches: Sequence[Batch], max_bytes: int) -> list[Sequence[Batch]]:
    """Return the batches in runs of at most `max_bytes`, or of one batch, in their order."""
    runs: list[Sequence[Batch]] = []
    first = 0
    for number, batch in enumerate(batches):
        if number > first and batch.position + batch.size - batches[first].position > max_bytes:
            runs.append(batches[first:number])
            first = number
    if first < len(batches):
        runs.append(batches[first:])
    return runs


def has_gaps(run: Sequence[Batch], log_end_offset: int) -> bool:
    """Return whether offsets are missing before or between these batches."""
    ends = [log_end_offset, *(batch.end_offset for batch in run)]
    return any(batch.base_offset > end for batch, end in zip(run, ends, strict=False))
