"""A leader and its followers as processes: killed without a word, elected, and nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import children, value_of
from replica_nodes import TOPIC, Life, Node, Start, nodes

import pylog
from pylog import Partition, Records, best_candidate
from pylog.groups.group_log import OFFSETS_TOPIC

# From 3.12 on Python warns of what these tests do on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def start() -> Iterator[Start]:
    with children() as born:
        yield born


def elect(survivors: list[Node], epoch: int) -> Node:
    """Return who may lead, by the documented rule: ask all that can be asked, then decide."""
    answers = {node.fence(epoch).replica_id: node for node in survivors}
    statuses = [node.fence(epoch) for node in survivors]
    winner = best_candidate(statuses, epoch=epoch, replicas=3, min_insync_replicas=2)
    return answers[winner]


def lead(leader: Node, all_nodes: list[Node], epoch: int) -> None:
    """Let a node lead the others, and wait until it has a follower."""
    leader.tell("lead", epoch, *(node.path for node in all_nodes if node is not leader))
    assert leader.hear() == ["leads"]


def note_all(node: Node, life: Life) -> None:
    """Take in what a node said before it was killed."""
    for word, *numbers in node.heard():
        assert word == "appended"
        note(life, numbers)


def note(life: Life, numbers: list[str]) -> None:
    turn, offset = map(int, numbers)
    assert turn == len(life.offsets)
    life.offsets.append(offset)


def stored(partition: Partition) -> bytes:
    """Return all batches of a partition, as they are stored."""
    data, offset = b"", partition.log_start_offset
    while offset < partition.log_end_offset:
        batches = partition.read_batches(offset, 1 << 20)
        data += bytes(batches.data)
        offset = batches.end
    return data


def check_acknowledged(path: Path, lives: list[Life]) -> int:
    """Assert that a log holds what was promised where it was promised; return all records.

    Besides, no more than one record of each life, the one that was in flight when it was killed.
    """
    with pylog.open(path, create=False) as log:
        partition = log.topic(TOPIC).partition(0)
        # Also what a follower was not told yet that all have.
        records = list(Records(stored(partition), topic=TOPIC))
    expected = {
        offset: value_of(life.number, turn)
        for life in lives
        for turn, offset in enumerate(life.offsets)
    }
    found = {record.offset: record.value for record in records}
    assert len(found) == len(records)
    missing = [offset for offset, value in expected.items() if found.get(offset) != value]
    assert missing == []
    in_flight = {value_of(life.number, len(life.offsets)) for life in lives}
    assert all(value in in_flight for offset, value in found.items() if offset not in expected)
    return len(records)


def gather(leader: Node) -> None:
    """Wait until all three are in sync."""
    leader.tell("gather", 3)
    assert leader.hear() == ["gathered"]


def storm(all_nodes: list[Node], choose: random.Random, rounds: int) -> list[Life]:
    """Kill the leader again and again; return what was promised."""
    leader, lives = all_nodes[0], []
    lead(leader, all_nodes, 1)
    # One that was never in sync cannot tell anything to who elects.
    gather(leader)
    for number in range(1, rounds + 1):
        life = Life(number)
        lives.append(life)
        leader.tell("append", number, 1_000_000)
        for _ in range(choose.randint(1, 60)):
            _, *numbers = leader.hear()
            note(life, numbers)
        leader.kill()
        note_all(leader, life)
        survivors = [node for node in all_nodes if node is not leader]
        new = elect(survivors, number + 1)
        if choose.random() < 0.5:
            # It comes back before it is led, and still takes itself for the leader.
            leader.start()
            lead(new, all_nodes, number + 1)
        else:
            lead(new, all_nodes, number + 1)
            leader.start()
        leader = new
    life = Life(rounds + 1)
    lives.append(life)
    leader.tell("append", rounds + 1, 10)
    for _ in range(10):
        note(life, leader.hear()[1:])
    gather(leader)
    return lives


def run_storm(start: Start, directory: Path, rounds: int) -> int:
    """Return how many records were acknowledged, all of which are there."""
    seed = random.randrange(2**32)
    print("seed", seed)
    with nodes(start, directory) as all_nodes:
        lives = storm(all_nodes, random.Random(seed), rounds)
        for node in all_nodes:
            node.kill()
    contents = set()
    for node in all_nodes:
        with pylog.open(node.path, create=False) as log:
            contents.add(stored(log.topic(TOPIC).partition(0)))
    assert len(contents) == 1, "the replicas are not the same"
    # Whoever led last is not known to who looks from outside: all have it.
    counts = {check_acknowledged(node.path, lives) for node in all_nodes}
    acknowledged = sum(len(life.offsets) for life in lives)
    assert max(counts) >= acknowledged
    return acknowledged


def test_no_acknowledged_record_is_lost_when_leaders_are_killed(
    start: Start, tmp_path: Path
) -> None:
    assert run_storm(start, tmp_path, rounds=3) > 3


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_no_acknowledged_record_is_lost_in_a_long_storm(tmp_path: Path) -> None:
    with children(alarm_seconds=1700) as born:
        assert run_storm(born, tmp_path, rounds=200) > 200


def test_a_group_goes_on_at_its_committed_offsets_on_the_promoted_follower(
    start: Start, tmp_path: Path
) -> None:
    with nodes(start, tmp_path) as all_nodes:
        leader = all_nodes[0]
        lead(leader, all_nodes, 1)
        leader.tell("append", 1, 20)
        for _ in range(20):
            leader.hear()
        leader.tell("consume", 12)
        said = [leader.hear() for _ in range(24)]
        assert said[-1] == ["committed", "12"]
        leader.kill()
        new = elect(all_nodes[1:], 2)
        lead(new, all_nodes, 2)
        new.tell("consume", 3)
        assert [new.hear() for _ in range(6)][::2] == [
            ["consumed", str(offset)] for offset in (12, 13, 14)
        ]
        for node in all_nodes[1:]:
            node.kill()
    with pylog.open(new.path, create=False) as log:
        assert log._registry.get(OFFSETS_TOPIC).partition(0).log_end_offset > 0
