"""Appends to a topic with a codec, against the codec alone over the same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lz4.frame
import pytest

from bench import stores
from bench.conftest import Payload
from bench.turns import KERNEL, MEMORY, Contestant, Race, timed

ROUNDS = 15


@pytest.fixture(scope="module")
def compressed(directory: Path, payload: Payload, size: Callable[..., int]) -> Race:
    count = size(100_000, 1_000_000)
    batch = min(Payload.BATCH, count)
    events = payload.events(count)
    # Cut and joined beforehand: the codec alone has nothing to cut, and needs one piece.
    pieces = [events[start : start + batch] for start in range(0, count, batch)]
    joined = [b"".join(piece) for piece in pieces]
    total = sum(map(len, joined))

    def pylog(codec: str) -> float:
        def append_all() -> None:
            for piece in pieces:
                append_many(piece)

        with stores.fresh_partition(directory, "os", compression_type=codec) as partition:
            append_many = partition.append_many
            return timed(append_all)

    def codec_alone() -> float:
        def compress_all() -> None:
            for piece in joined:
                lz4.frame.compress(piece)

        return timed(compress_all)

    contestants = {
        "pylog": Contestant(lambda: pylog("lz4"), KERNEL, count, total),
        "pylog-uncompressed": Contestant(lambda: pylog("uncompressed"), KERNEL, count, total),
        "lz4.frame": Contestant(codec_alone, MEMORY, count, total),
    }
    return Race("append lz4", contestants, rounds=ROUNDS)


@pytest.mark.parametrize("name", ["pylog", "pylog-uncompressed", "lz4.frame"])
def test_append_lz4_batches_of_1000(show: Callable[..., None], compressed: Race, name: str) -> None:
    show(compressed, name)
