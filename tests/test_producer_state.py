"""What is remembered of producers: Kafka's rules and snapshots, against a plain model."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
from crc32c import crc32c

from pylog.errors import (
    CorruptFileError,
    InvalidProducerEpochError,
    NotAppendedError,
    OutOfOrderSequenceError,
)
from pylog.storage.producer_state import (
    KEPT_BATCHES,
    ProducedBatch,
    ProducerState,
    parse_snapshot,
)

NOW = 1_700_000_000_000
DAY = 86_400_000
LAST = 2**31 - 1
# Made by Kafka's ProducerStateManager: no producer; and one, whose last batch of four records ended
# with sequence 20 at offset 2003, in a transaction that began at 2000.
EMPTY = "000148674bc700000000"
ONE = (
    "000113cfe7d100000001000000000000109200030000001400000000000007d300000003"
    "0000018bcfe568030000000700000000000007d0"
)


def batch(
    first_sequence: int, count: int = 1, *, producer: int = 7, epoch: int = 0, offset: int = 0
) -> ProducedBatch:
    return ProducedBatch(producer, epoch, first_sequence, count, offset, NOW)


def state_of(*batches: ProducedBatch) -> ProducerState:
    state = ProducerState(0)
    for one in batches:
        state.add(one._replace(first_offset=state.end_offset), NOW)
        state.end_offset += one.sequence_count
    return state


# ---------------------------------------------------------------- sequences


def test_unknown_producer_may_begin_anywhere() -> None:
    assert state_of().judge([batch(500)], NOW) == [None]


def test_next_sequence_is_new_and_a_gap_is_refused() -> None:
    state = state_of(batch(0, 3))
    assert state.judge([batch(3)], NOW) == [None]
    for first in (1, 4, LAST):
        with pytest.raises(OutOfOrderSequenceError) as caught:
            state.judge([batch(first)], NOW)
        assert (caught.value.sequence, caught.value.expected) == (first, 3)


def test_each_of_the_last_five_batches_is_known_again() -> None:
    state = state_of(*[batch(2 * turn, 2) for turn in range(7)])
    for turn in range(2, 7):
        [known] = state.judge([batch(2 * turn, 2)], NOW)
        assert known is not None
        assert known.offsets == range(2 * turn, 2 * turn + 2)
    with pytest.raises(OutOfOrderSequenceError):
        state.judge([batch(2, 2)], NOW)


def test_batch_with_the_same_first_sequence_and_another_length_is_no_repetition() -> None:
    with pytest.raises(OutOfOrderSequenceError):
        state_of(batch(0, 3)).judge([batch(0, 2)], NOW)


def test_after_the_last_sequence_comes_zero() -> None:
    state = state_of(batch(LAST - 1, 4))
    assert batch(LAST - 1, 4).last_sequence == 1
    assert state.judge([batch(2)], NOW) == [None]
    assert state_of(batch(LAST - 1, 2)).judge([batch(0)], NOW) == [None]


def test_later_epoch_begins_with_zero_and_fences_the_earlier_one() -> None:
    state = state_of(batch(0, 3, epoch=4))
    with pytest.raises(OutOfOrderSequenceError):
        state.judge([batch(3, epoch=5)], NOW)
    assert state.judge([batch(0, epoch=5)], NOW) == [None]
    with pytest.raises(InvalidProducerEpochError) as caught:
        state.judge([batch(3, epoch=3)], NOW)
    assert (caught.value.epoch, caught.value.current) == (3, 4)
    state.add(batch(0, epoch=5), NOW)
    with pytest.raises(InvalidProducerEpochError):
        state.judge([batch(0, 3, epoch=4)], NOW)


def test_batches_that_are_judged_together_follow_each_other() -> None:
    state = state_of(batch(0))
    answers = state.judge([batch(0), batch(1), batch(2, producer=8), batch(2)], NOW)
    assert [answer is None for answer in answers] == [False, True, True, True]
    with pytest.raises(OutOfOrderSequenceError):
        state.judge([batch(1), batch(3)], NOW)
    assert state.judge([batch(1)], NOW) == [None]


def test_producer_is_forgotten_after_a_day_without_a_word() -> None:
    state = state_of(batch(0))
    with pytest.raises(OutOfOrderSequenceError):
        state.judge([batch(9)], NOW + DAY - 1)
    assert state.judge([batch(9)], NOW + DAY) == [None]
    state.forget_expired(NOW + DAY)
    assert state.entries == {}


def test_newer_state_takes_from_an_older_one_what_it_continues() -> None:
    older = state_of(*[batch(turn) for turn in range(4)], batch(0, producer=8))
    newer = ProducerState(4)
    for turn in (4, 5):
        newer.add(batch(turn, offset=turn + 1), NOW)
    newer.complete(older)
    assert [known.first_sequence for known in newer.entries[7].batches] == [1, 2, 3, 4, 5]
    assert newer.entries[8].batches == older.entries[8].batches
    # One that the newer knows is not put before itself, and a gap is not bridged.
    for first in (3, 6):
        other = ProducerState(0)
        other.add(batch(first, offset=first + 1), NOW)
        other.complete(older)
        assert [known.first_sequence for known in other.entries[7].batches] == [first]


def test_producers_that_nobody_hears_of_take_no_memory() -> None:
    state = ProducerState(0)
    for number in range(20_000):
        state.add(batch(0, producer=number, offset=number), NOW + number * DAY // 1000)
    assert len(state.entries) <= 2_000
    assert 19_999 in state.entries


def test_old_timestamps_do_not_make_a_producer_forgotten() -> None:
    state = ProducerState(0)
    state.add(batch(0)._replace(timestamp=5), NOW)
    with pytest.raises(OutOfOrderSequenceError):
        state.judge([batch(9)], NOW + 1000)


def test_control_batch_moves_the_epoch_only() -> None:
    state = state_of(batch(0, 3))
    state.add(ProducedBatch(7, 0, -1, 1, 3, NOW, is_control=True), NOW)
    assert state.judge([batch(3)], NOW) == [None]
    state.add(ProducedBatch(7, 1, -1, 1, 4, NOW, is_control=True), NOW)
    assert state.judge([batch(0, epoch=1)], NOW) == [None]


def test_state_agrees_with_a_model_over_random_retries_gaps_and_epochs() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    state = ProducerState(0)
    history: dict[int, list[ProducedBatch]] = defaultdict(list)
    outcomes: dict[str, int] = defaultdict(int)
    for turn in range(5000):
        producer = chance.randrange(3)
        known = history[producer]
        epoch = known[-1].epoch if known else 0
        following = (known[-1].last_sequence + 1) & LAST if known else 0
        kind = chance.choice(["next", "next", "retry", "gap", "epoch"])
        one = batch(following, chance.randint(1, 4), producer=producer, epoch=epoch)
        if kind == "retry" and known:
            one = chance.choice(known[-8:])
        elif kind == "gap":
            one = one._replace(first_sequence=(following + chance.randint(1, 3)) & LAST)
        elif kind == "epoch" and chance.random() < 0.1:
            one = one._replace(epoch=epoch + 1, first_sequence=chance.choice([0, 0, following]))
        # The model: all that was ever appended, and the rule in one line each.
        current = [b for b in known if b.epoch == epoch]
        repeated = [b for b in current[-KEPT_BATCHES:] if b[1:4] == one[1:4] and one.epoch == epoch]
        if not known:
            expected = "new"
        elif repeated:
            expected = "duplicate"
        elif one.epoch < epoch:
            expected = "fenced"
        elif one.first_sequence == (following if one.epoch == epoch else 0):
            expected = "new"
        else:
            expected = "gap"
        try:
            [answer] = state.judge([one], NOW)
            outcome = "new" if answer is None else "duplicate"
        except OutOfOrderSequenceError:
            outcome = "gap"
        except InvalidProducerEpochError:
            outcome = "fenced"
        assert outcome == expected, turn
        outcomes[outcome] += 1
        if outcome == "duplicate":
            assert answer is not None
            assert answer.offsets == repeated[0].offsets
        elif outcome == "new":
            one = one._replace(first_offset=state.end_offset)
            state.add(one, NOW)
            state.end_offset += one.sequence_count
            history[producer].append(one)
        if chance.random() < 0.01:
            # A restart knows the last batch of each by its snapshot, and by the log the others.
            newer = ProducerState(max(0, state.end_offset - 40))
            for found in sorted(
                (b for each in history.values() for b in each), key=lambda b: b.first_offset
            ):
                if found.first_offset >= newer.end_offset:
                    newer.add(found, NOW)
            newer.complete(parse_snapshot(state.encode(), state.end_offset, path="x"))
            newer.end_offset = state.end_offset
            assert {p: e.batches[-1] for p, e in newer.entries.items()} == {
                p: e.batches[-1] for p, e in state.entries.items()
            }
            state = newer
            history = defaultdict(list, {p: list(e.batches) for p, e in state.entries.items()})
    assert min(outcomes[name] for name in ("new", "duplicate", "fenced", "gap")) > 0


# ---------------------------------------------------------------- snapshots


def test_snapshots_are_kafkas() -> None:
    assert ProducerState(0).encode().hex() == EMPTY
    state = parse_snapshot(bytes.fromhex(ONE), 2004, path="x")
    [(producer_id, entry)] = state.entries.items()
    assert (producer_id, entry.epoch, entry.timestamp) == (4242, 3, NOW + 3)
    assert (entry.coordinator_epoch, entry.transaction_offset) == (7, 2000)
    [known] = entry.batches
    assert (known.first_sequence, known.last_sequence) == (17, 20)
    assert known.offsets == range(2000, 2004)
    assert state.encode().hex() == ONE


def test_snapshot_keeps_every_producers_last_batch() -> None:
    state = state_of(*[batch(2 * n, 2, producer=p) for n in range(3) for p in range(4)])
    found = parse_snapshot(state.encode(), state.end_offset, path="x")
    assert {p: list(e.batches) for p, e in found.entries.items()} == {
        p: [e.batches[-1]] for p, e in state.entries.items()
    }


def test_entry_without_batches_is_kept() -> None:
    state = ProducerState(9)
    state.add(ProducedBatch(7, 2, -1, 1, 8, NOW, is_control=True), NOW)
    found = parse_snapshot(state.encode(), 9, path="x")
    assert (found.entries[7].epoch, list(found.entries[7].batches)) == (2, [])


def sealed(body: bytes, version: int = 1) -> bytes:
    return version.to_bytes(2, "big") + crc32c(body).to_bytes(4, "big") + body


def test_damaged_snapshot_is_refused_wherever_it_is_cut_or_changed() -> None:
    data = bytes.fromhex(ONE)
    for size in range(len(data)):
        with pytest.raises(CorruptFileError):
            parse_snapshot(data[:size], 2004, path="x")
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises(CorruptFileError):
            parse_snapshot(bytes(changed), 2004, path="x")
    with pytest.raises(CorruptFileError):
        parse_snapshot(data + b"\0", 2004, path="x")


@pytest.mark.parametrize(
    "body",
    [
        (2**31 - 1).to_bytes(4, "big"),
        (-1).to_bytes(4, "big", signed=True),
        (2).to_bytes(4, "big") + bytes.fromhex(ONE)[10:],
        # Offsets beyond the end, deltas larger than the offset, a negative producer.
        bytes.fromhex(ONE)[6:10] + bytes.fromhex(ONE)[10:24] + b"\x7f" * 8 + bytes(24),
        bytes.fromhex(ONE)[6:32] + b"\x00\x00\x7f\xff" + bytes.fromhex(ONE)[36:],
        bytes.fromhex(ONE)[6:10] + b"\xff" * 8 + bytes.fromhex(ONE)[18:],
    ],
)
def test_snapshot_with_a_right_crc_and_impossible_contents_is_refused(body: bytes) -> None:
    with pytest.raises(CorruptFileError):
        parse_snapshot(sealed(body), 2004, path="x")


def test_snapshot_of_another_version_is_refused() -> None:
    with pytest.raises(CorruptFileError):
        parse_snapshot(sealed(bytes(4), version=2), 0, path="x")


def test_sequence_errors_say_that_nothing_was_appended() -> None:
    assert issubclass(OutOfOrderSequenceError, NotAppendedError)
    assert issubclass(InvalidProducerEpochError, NotAppendedError)
