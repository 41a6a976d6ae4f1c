"""Two replicas of a partition, by turns leader and follower, whatever is done to them.

At random: appends, copies, changes of the leader, compaction and deletions on either side, kills
and power cuts.  Then the one is brought up to the other, by the rules that leaders go by, and both
have to say the same.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable, Mapping

import pytest
from conftest import IS_EXHAUSTIVE
from crash_checks import quiet
from replicas import Host, all_records, follower, leader

from pylog.config import TopicConfig
from pylog.replication.divergence import Truncate, divergence
from pylog.replication.replicated_log import position_of
from pylog.storage.partition import Partition

SEEDS = range(400 if IS_EXHAUSTIVE else 3)
STEPS = 100


class Pair:
    """Two hosts, one of which leads."""

    def __init__(self, rng: random.Random, config: TopicConfig) -> None:
        self.rng = rng
        self.config = config
        self.hosts = [Host(leader(1)), Host(follower(1))]
        self.partitions = [host.partition(config) for host in self.hosts]
        self.leading = 0
        self.epoch = 1
        self.cuts = 0
        policies = config.cleanup_policy.split(",")
        self.steps: Mapping[Callable[[], None], int] = {
            self.append: 10,
            self.copy_some: 6,
            self.compact: 2 if "compact" in policies else 0,
            self.delete: 1 if "delete" in policies else 0,
            self.change_leader: 3,
            self.crash: 3,
        }

    @property
    def leader(self) -> Partition:
        return self.partitions[self.leading]

    @property
    def follower(self) -> Partition:
        return self.partitions[1 - self.leading]

    def run(self) -> None:
        for step in self.rng.choices(list(self.steps), list(self.steps.values()), k=STEPS):
            step()
            for partition in self.partitions:
                partition.check()
        self.bring_on(reads=10**6)

    def append(self) -> None:
        rng = self.rng
        for _ in range(rng.randint(1, 8)):
            value = None if rng.random() < 0.15 else rng.randbytes(rng.randint(0, 80))
            self.leader.append(value, key=b"%d" % rng.randrange(6))

    def copy_some(self) -> None:
        self.bring_on(reads=self.rng.choice((1, 3, 100)))
        end = min(self.leader.log_end_offset, self.follower.log_end_offset)
        end = self.leader.advance_high_watermark(end)
        if self.rng.random() < 0.7:
            self.follower.advance_high_watermark(end)

    def bring_on(self, *, reads: int) -> None:
        """Do what a leader does: let the follower cut what is not the leader's, then send."""
        source, target = self.leader, self.follower
        while step := divergence(position_of(source), position_of(target)):
            if isinstance(step, Truncate):
                self.cuts += step.end_offset < target.log_end_offset
                # Which refuses to go below the high watermark.
                target.truncate(step.end_offset)
            else:
                target.start_anew(min(source.read_batches(step.offset, 1).first, step.offset))
                break
        while target.log_end_offset < source.log_end_offset and reads > 0:
            reads -= 1
            start = max(target.log_end_offset, source.log_start_offset)
            stored = source.read_batches(start, self.rng.choice((1, 300, 5000)))
            target.append_replica(stored.data, end_offset=stored.end)

    def compact(self) -> None:
        self.rng.choice(self.partitions).compact()

    def delete(self) -> None:
        start, end = self.leader.log_start_offset, self.leader.high_watermark
        self.leader.delete_records(self.rng.randint(start, end))

    def change_leader(self) -> None:
        """Let the other one lead if it has all that was acknowledged."""
        if self.follower.log_end_offset < self.leader.high_watermark:
            return
        self.epoch += 1
        self.hosts[self.leading].become(follower(self.epoch))
        self.leading = 1 - self.leading
        self.hosts[self.leading].become(leader(self.epoch))
        self.leader.begin_epoch(self.epoch)

    def crash(self) -> None:
        number = self.rng.randrange(2)
        if self.rng.random() < 0.3:
            self.partitions[number].close()
        is_kill = self.config.durability != "fsync" or self.rng.random() < 0.5
        host = self.hosts[number]
        self.hosts[number] = host.killed() if is_kill else host.cut_off()
        self.partitions[number] = self.hosts[number].partition(self.config)


def latest(partition: Partition, start: int) -> dict[bytes | None, tuple[int, bytes]]:
    """Return the last offset and value of each key that has one."""
    found: dict[bytes | None, tuple[int, bytes]] = {}
    for record in all_records(partition):
        if record.value is None:
            found.pop(record.key, None)
        elif record.offset >= start:
            found[record.key] = record.offset, record.value
    return found


def facts(partition: Partition, start: int) -> dict[int, tuple[int | None, bytes | None]]:
    records = [one for one in all_records(partition) if one.offset >= start]
    return {record.offset: (record.leader_epoch, record.value) for record in records}


@pytest.mark.parametrize("durability", ["os", "fsync"])
@pytest.mark.parametrize("policy", ["delete", "compact", "compact,delete"])
def test_a_follower_comes_to_say_what_its_leader_says(policy: str, durability: str) -> None:
    counts: collections.Counter[str] = collections.Counter()
    for seed in SEEDS:
        rng = random.Random(f"{seed} {policy} {durability}")
        config = TopicConfig(
            durability=durability,
            segment_bytes=1500,
            segment_index_bytes=240,
            max_message_bytes=700,
            cleanup_policy=policy,
            delete_retention_ms=rng.choice((0, 10**9)),
            file_delete_delay_ms=0,
        )
        pair = Pair(rng, config)
        with quiet():
            pair.run()
        one, other = pair.leader, pair.follower
        start = max(one.log_start_offset, other.log_start_offset)
        assert one.log_end_offset == other.log_end_offset, seed
        assert latest(one, start) == latest(other, start), seed
        theirs, ours = facts(one, start), facts(other, start)
        both = theirs.keys() & ours.keys()
        assert {at: theirs[at] for at in both} == {at: ours[at] for at in both}, seed
        assert policy != "delete" or theirs == ours, seed
        counts["records"] += len(both)
        counts["cuts"] += pair.cuts
    print(counts)
    assert min(counts["records"], counts["cuts"]) > 0
