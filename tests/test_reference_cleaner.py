"""The oracle of compaction against batches that Kafka's own classes cleaned."""

from __future__ import annotations

import json
import pathlib
import random
from typing import Any

import pytest
import reference_cleaner
from cleaner_logs import pack, random_log, unpack
from reference_cleaner import Round

pytestmark = pytest.mark.usefixtures("quick_checksums")

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "batches.json").read_text())
BATCHES = {name: bytes.fromhex(text) for name, text in GOLDEN["batches"].items()}
T = 1_700_000_000_000
DAY = 86_400_000


def clean(name: str, latest: dict[bytes, int], **options: Any) -> bytes:
    data = BATCHES[name]
    options = {"latest_offset": 10_000, "end": 0, "now": -1, "delete_retention_ms": DAY} | options
    return reference_cleaner.clean(data, Round(latest=latest, **options), unpack=unpack, pack=pack)


def test_a_batch_that_lost_a_record_is_what_kafka_makes_of_it() -> None:
    assert clean("V1", {b"k2": 1002}) == BATCHES["V4a"]


def test_a_compressed_batch_that_lost_records_holds_what_kafka_leaves_in_it() -> None:
    found = clean("V2", {b"key-0": 9000, b"key-3": 9000})
    expected = BATCHES["V4b_partial_lz4_stored_block_from_V2"]
    assert reference_cleaner.plain(found, unpack) == reference_cleaner.plain(expected, unpack)


@pytest.mark.parametrize("options", [{"end": 2004}, {"kept_offsets": frozenset({2003})}])
def test_an_emptied_batch_is_what_kafka_leaves_of_it(options: dict[str, Any]) -> None:
    gone = {b"key-%d" % number: 9000 for number in range(4)}
    assert clean("V2", gone, **options) == BATCHES["V3"]
    assert clean("V2", gone) == b""


def test_a_tombstone_gets_the_horizon_that_kafka_gives_it() -> None:
    assert clean("V1", {}, now=T + 100_000) == BATCHES["V5"]
    assert clean("V1", {}) == BATCHES["V1"]
    horizon = T + 100_000 + DAY
    assert clean("V5", {b"k1": 9000}, now=T) == BATCHES["V5b"]
    assert clean("V5b", {}, now=horizon - 1) == BATCHES["V5b"]
    assert clean("V5b", {}, now=horizon) == b""


@pytest.mark.parametrize("name", ["V6_COMMIT", "V6_ABORT"])
def test_control_batches_stay_as_they_are(name: str) -> None:
    assert clean(name, {b"\0\0\0\1": 9000}, now=2**62) == BATCHES[name]


def test_a_random_log_means_the_same_after_any_rounds() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    dropped = 0
    for _ in range(60):
        log = original = random_log(rng, batches=rng.randrange(1, 25))
        end = reference_cleaner.end_of(log)
        first, now = 0, T
        while first < end:
            last = rng.randrange(first, end)
            newest = reference_cleaner.newest_offsets(
                log, first_offset=first, last_offset=last, unpack=unpack
            )
            now += rng.choice((0, 1, DAY, 2 * DAY))
            round_ = Round(
                latest=newest, latest_offset=last, end=end, now=now, delete_retention_ms=DAY
            )
            log = reference_cleaner.clean(log, round_, unpack=unpack, pack=pack)
            first = last + 1
        before, after = (reference_cleaner.rows(data, unpack) for data in (original, log))
        assert set(after) <= set(before)
        assert reference_cleaner.fold(after) == reference_cleaner.fold(before)
        assert reference_cleaner.end_of(log) == end
        dropped += len(before) - len(after)
    assert dropped > 500
