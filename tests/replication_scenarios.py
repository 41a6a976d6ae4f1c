"""The stories that replication is told by, played by the rules: each is a function that asserts.

Kafka's own (KIP-101, KIP-279, KIP-966), Raft's figure 8, and what random worlds found here.
"""

from __future__ import annotations

import pytest
from replication_model import ELECTOR, LAG_MS, Node
from replication_world import Message, Shape, World

from pylog.errors import NotEligibleError
from pylog.replication.facts import InSync
from pylog.replication.leading import LeaderState
from pylog.storage.role import RoleKind


class Stage(World):
    """A world in which nothing happens but what a story tells; all are in sync, r0 leads."""

    def __init__(
        self, replicas: int = 3, *, partitions: int = 1, is_synced: bool = True, batch: int = 3
    ) -> None:
        needed, synced = (2,) * partitions, (is_synced,) * partitions
        super().__init__(0, Shape(replicas=replicas, needed=needed, is_synced=synced, batch=batch))
        self.undelivered: list[Message] = []
        self.talk(*self.names)

    def talk(self, *names: str, rounds: int = 8) -> None:
        """Let some talk with each other; what they say to others is lost."""
        for _ in range(rounds):
            self.now += 1
            for name in names:
                self.pulse(self.nodes[name])
                self.nodes[name].sync()
            for _ in range(4):
                self.exchange(names)

    def exchange(self, names: tuple[str, ...], *, but: str = "") -> None:
        """Deliver what was said so far between some, but what is of one kind."""
        messages, self.messages = self.messages, []
        for message in messages:
            ends = {message[0], message[1]} - {ELECTOR}
            if message[2] == but:
                self.undelivered.append(message)
            elif ends <= set(names) and all(self.nodes[name].is_up for name in ends):
                self.hand_over(message)

    def write(self, name: str, *, number: int = 0, count: int = 1) -> None:
        """Append at a leader without waiting for anybody; who acknowledges is seen by its mark."""
        leader = self.nodes[name].leader
        assert leader is not None
        for _ in range(count):
            leader.append(number, self.new_number(), acks_all=leader.rules.in_sync_count >= 2)
        leader.node.sync()

    def promote(self, *asked: str) -> Node:
        """Elect among those who are asked; return the new leader, which has been checked."""
        self.elect(*asked)
        self.exchange(asked)
        self.exchange(asked)
        self.conclude()
        self.exchange(asked)
        leader = self.leader_of_all()
        assert leader is not None
        assert leader.epoch == self.epoch
        return leader.node

    def come_back(self, name: str) -> None:
        """Start a leader that was killed, as a follower."""
        node = self.nodes[name]
        node.rules.state = node.state.demoted()
        node.start()

    def mark(self, name: str, number: int = 0) -> int:
        return self.nodes[name].disks[number].high_watermark

    def drop_the_late(self, *names: str) -> None:
        """Let so much time pass that who is not among `names` is dropped."""
        self.now += 2 * LAG_MS
        self.talk(*names)


def kip_101_a_follower_restarts_and_leads_before_it_has_fetched_again() -> None:
    stage = Stage(2)
    stage.write("r0", count=2)
    stage.talk("r0", "r1")
    assert len(stage.kept[0]) == 2
    stage.nodes["r1"].cut_power(keeps_nothing=True)  # it lost but the high watermark
    stage.nodes["r1"].start()
    leader = stage.nodes["r0"].leader
    assert leader is not None
    leader.begin("r1")
    for _ in range(8):
        stage.exchange(("r0", "r1"), but="take_batches")
    assert stage.undelivered
    stage.nodes["r0"].kill()
    assert stage.promote("r1").disks[0].end == 2


def kip_101_two_logs_part_at_one_offset_and_come_together() -> None:
    stage = Stage(2, is_synced=False)
    stage.write("r0")
    stage.talk("r0", "r1")
    for node in stage.nodes.values():
        node.disks[0].durable = 1
    stage.write("r0")
    stage.talk("r0", "r1")
    lost = stage.kept[0].pop(1)
    for node in stage.nodes.values():
        node.disks[0].durable = 2 if node.name == "r0" else 1
        node.cut_power(keeps_nothing=True)
        node.start()
    assert [node.disks[0].end for node in stage.nodes.values()] == [2, 1]
    # Nobody can tell what was acknowledged: people choose, and lose a record.
    r0, r1 = stage.nodes.values()
    r0.rules.state = r0.state.after_power_cut(lost_acknowledged=True)
    del stage.visible[0][1]
    r1.rules.state = r1.state.promoted(2, latest_epoch=1, unclean=True)
    r1.disks[0].epochs = r1.disks[0].epochs.assign(2, 1)
    r1.start()
    stage.write("r1")
    stage.talk("r0", "r1", rounds=12)
    assert r0.disks[0].entries == r1.disks[0].entries
    assert lost not in r0.disks[0].entries


def kip_279_leaders_change_faster_than_followers_fetch() -> None:
    stage = Stage()
    stage.write("r0")
    stage.talk("r0", "r1", "r2")
    stage.write("r0", count=2)  # nobody gets them in time
    stage.nodes["r0"].kill()
    assert stage.promote("r1", "r2").name == "r2"
    stage.write("r2", count=1)  # nor this
    stage.nodes["r2"].kill()
    stage.come_back("r0")
    assert stage.promote("r0", "r1").name == "r0"
    stage.come_back("r2")
    stage.talk("r0", "r1", "r2", rounds=12)
    assert stage.mark("r0") == stage.mark("r2") == 3
    stage.check_disks()


def kip_966_the_high_watermark_stands_still_with_too_few_in_sync() -> None:
    stage = Stage(is_synced=False)
    stage.write("r0")
    stage.talk("r0", "r1", "r2")
    stage.drop_the_late("r0")
    leader = stage.nodes["r0"].leader
    assert leader is not None
    assert leader.rules.in_sync_count == 1
    assert not leader.append(0, 99, acks_all=True)
    stage.write("r0", count=3)
    stage.talk("r0")
    assert stage.mark("r0") == 1
    # The last replica standing loses everything: nobody had been told that it was there.
    stage.nodes["r0"].cut_power(keeps_nothing=True)
    assert stage.promote("r1", "r2").disks[0].end == 1


def kip_966_who_lost_what_was_not_synced_is_not_elected() -> None:
    stage = Stage(is_synced=False)
    stage.drop_the_late("r0", "r1")
    stage.write("r0")
    stage.talk("r0", "r1")
    assert len(stage.kept[0]) == 1
    for node in stage.nodes.values():
        node.disks[0].durable = 0
    stage.nodes["r1"].cut_power(keeps_nothing=True)
    stage.nodes["r1"].start()
    stage.nodes["r0"].kill()
    stage.elect("r1", "r2")
    for _ in range(2):
        stage.exchange(("r1", "r2"))
    stage.conclude()
    assert stage.done["too few that count"] == 1
    with pytest.raises(NotEligibleError):
        stage.nodes["r1"].state.promoted(stage.epoch, latest_epoch=1)
    stage.nodes["r0"].start()
    assert stage.promote("r0", "r1", "r2").name == "r0"


def raft_figure_8_records_of_an_older_epoch_do_not_count_alone() -> None:
    stage = Stage(5)
    stage.needed = (3,)
    stage.write("r0")  # reaches r1 alone: not acknowledged
    stage.talk("r0", "r1", rounds=2)
    assert not stage.kept[0]
    stage.nodes["r0"].kill()
    assert stage.promote("r2", "r3", "r4").name == "r4"
    stage.write("r4")
    stage.nodes["r4"].kill()
    assert stage.promote("r1", "r2", "r3").name == "r1"
    stage.talk("r1", "r2", "r3", rounds=12)  # now it is on most, and can be read
    assert stage.mark("r1") == 1
    stage.nodes["r1"].kill()
    stage.come_back("r4")
    assert stage.promote("r2", "r3", "r4").name != "r4"


def one_leader_has_what_was_acknowledged_in_all_partitions() -> None:
    stage = Stage(partitions=2)
    stage.drop_the_late("r0", "r1")
    stage.write("r0", number=0, count=2)
    stage.talk("r0", "r1")  # partition 0: r2 lacks them
    stage.talk("r0", "r1", "r2", rounds=12)  # r2 has come back
    stage.write("r0", number=0, count=9)
    stage.talk("r0", "r1", rounds=8)  # r1 has more of partition 0 than anybody, unacknowledged
    stage.drop_the_late("r0", "r2")
    stage.talk("r0", "r2", rounds=12)
    stage.write("r0", number=1)
    stage.talk("r0", "r2")
    assert len(stage.kept[1]) == 1
    stage.nodes["r0"].kill()
    assert stage.promote("r1", "r2").name == "r2"


def an_epoch_that_was_led_and_wrote_nothing_is_forgotten() -> None:
    stage = Stage()
    stage.write("r0")
    stage.talk("r0", "r1", "r2")
    stage.write("r0", count=2)
    stage.nodes["r0"].kill()
    stage.talk("r1", "r2")
    assert stage.promote("r1", "r2").name == "r2"
    stage.write("r2")
    stage.talk("r1", "r2", rounds=12)
    stage.write("r2", count=2)
    stage.come_back("r0")
    assert stage.promote("r0", "r1").name == "r1"  # and writes nothing
    assert stage.promote("r0", "r2").name == "r2"
    stage.talk("r1", "r2", rounds=12)
    stage.check_disks()
    assert stage.promote("r0", "r1").name == "r1"
    stage.talk("r0", "r1", "r2", rounds=12)
    stage.check_disks()


def a_truncation_that_comes_twice_cuts_once() -> None:
    stage = Stage()
    stage.write("r0", count=2)
    r0 = stage.nodes["r0"]
    assert stage.promote("r1", "r2").name == "r2"
    late: list[Message] = []
    for _ in range(16):
        stage.talk("r0", "r2", rounds=1)
        late += [message for message in stage.messages if message[2] == "take_truncate"]
        stage.pulse(stage.nodes["r2"])
        for _ in range(4):
            late += [message for message in stage.messages if message[2] == "take_truncate"]
            stage.exchange(("r0", "r2"))
    assert late
    stage.drop_the_late("r0", "r2")
    stage.write("r2")
    stage.talk("r0", "r2")
    assert len(stage.kept[0]) == 1
    for message in late:
        stage.hand_over(message)
    assert r0.disks[0].end == 1
    stage.nodes["r2"].kill()
    assert stage.promote("r0", "r1").name == "r0"


def who_has_but_the_high_watermark_is_not_in_sync() -> None:
    stage = Stage(batch=1)
    stage.drop_the_late("r0", "r1")
    stage.write("r0", count=20)
    stage.talk("r0", "r1", rounds=30)
    assert len(stage.kept[0]) == 20
    stage.nodes["r1"].cut_power(keeps_nothing=True)  # it forgot the high watermark
    stage.nodes["r1"].start()
    stage.nodes["r0"].kill()
    assert stage.promote("r1", "r2").name == "r1"
    stage.talk("r1", "r2", rounds=5)
    stage.nodes["r1"].kill()
    stage.come_back("r0")
    assert stage.promote("r0", "r2").name == "r0"


def who_is_dropped_binds_until_all_others_have_written_it_down() -> None:
    rules = LeaderState("r0", last=InSync(1, 0, frozenset({"r0"})), lag_time_max_ms=LAG_MS)
    rules.partition_added(
        0, end_offset=0, own_offset=0, high_watermark=0, min_insync_replicas=2, now_ms=0
    )

    def say(name: str, offset: int, version: int, now: int) -> None:
        rules.acknowledged(name, 0, end_offset=offset, in_sync=(1, version), now_ms=now)

    rules.noted(rules.in_sync)
    for name in ("r1", "r2"):
        rules.attached(name, None, now_ms=0)
        say(name, 0, 0, 0)
        rules.noted(rules.in_sync)
    version = rules.in_sync.version
    say("r1", 0, version, 0)
    say("r2", 0, version, 0)
    assert rules.in_sync_count == 3
    rules.appended(0, end_offset=1, own_offset=1, now_ms=1)
    say("r1", 1, version, 2)
    rules.tick(2 + LAG_MS)  # r2 is late
    assert rules.in_sync.members == {"r0", "r1"}
    # r2 could still be elected: r1 has written down nothing that is later.
    rules.noted(rules.in_sync)
    say("r1", 1, version, 3 + LAG_MS)
    assert rules.high_watermark(0) == 0
    say("r1", 1, version + 1, 4 + LAG_MS)
    assert rules.high_watermark(0) == 1


def who_comes_back_with_less_is_out_of_sync_at_once() -> None:
    stage = Stage(is_synced=False)
    stage.drop_the_late("r0", "r1")
    stage.write("r0", count=9)
    stage.talk("r0", "r1")
    assert len(stage.kept[0]) == 9
    for node in stage.nodes.values():
        node.disks[0].durable = 0
    stage.nodes["r1"].cut_power(keeps_nothing=True)
    stage.nodes["r1"].start()
    leader = stage.nodes["r0"].leader
    assert leader is not None
    leader.begin("r1")
    for _ in range(5):
        stage.exchange(("r0", "r1"))
    assert leader.rules.in_sync.members == {"r0"}
    stage.nodes["r0"].kill()
    stage.elect("r1", "r2")
    for _ in range(2):
        stage.exchange(("r1", "r2"))
    stage.conclude()
    stage.exchange(("r1", "r2"))
    assert stage.done["too few that count"] == 1
    assert all(
        node.state.kind is RoleKind.FOLLOWER or not node.is_up for node in stage.nodes.values()
    )


def damage_at_the_leader_stops_one_partition_and_no_other() -> None:
    stage = Stage(2, partitions=2)
    for number in range(2):
        stage.write("r0", number=number)
    stage.talk("r0", "r1")
    leader = stage.nodes["r0"].leader
    assert leader is not None
    stage.nodes["r0"].disks[0].damaged = 1
    stage.write("r0", number=0)
    for _ in range(4):
        stage.drop_the_late("r0", "r1")
    stage.write("r0", number=1)
    stage.talk("r0", "r1")
    assert (stage.mark("r0", 0), stage.mark("r0", 1)) == (1, 2)
    assert leader.rules.in_sync_count == 2
    stage.nodes["r0"].disks[0].damaged = None
    stage.talk("r0", "r1")
    assert stage.mark("r0", 0) == 2


def damage_keeps_out_who_lacks_what_an_older_leader_acknowledged() -> None:
    stage = Stage(3)
    stage.write("r0")
    stage.talk("r0", "r1", "r2")
    stage.drop_the_late("r0", "r1")
    stage.write("r0")
    stage.talk("r0", "r1")
    assert len(stage.kept[0]) == 2
    stage.nodes["r0"].kill()
    stage.nodes["r1"].cut_power(keeps_nothing=True)  # it lost but the high watermark
    stage.nodes["r1"].start()
    new = stage.promote("r1", "r2")
    assert (new.name, new.leader is not None, stage.mark("r1")) == ("r1", True, 0)
    assert new.leader is not None
    new.disks[0].damaged = 1
    stage.talk("r1", "r2")
    assert stage.nodes["r2"].disks[0].end == 1
    assert new.leader.rules.in_sync.members == {"r1"}
    new.disks[0].damaged = None
    stage.talk("r1", "r2")
    assert new.leader.rules.in_sync.members == {"r1", "r2"}


SCENARIOS = (
    kip_101_a_follower_restarts_and_leads_before_it_has_fetched_again,
    kip_101_two_logs_part_at_one_offset_and_come_together,
    kip_279_leaders_change_faster_than_followers_fetch,
    kip_966_the_high_watermark_stands_still_with_too_few_in_sync,
    kip_966_who_lost_what_was_not_synced_is_not_elected,
    raft_figure_8_records_of_an_older_epoch_do_not_count_alone,
    one_leader_has_what_was_acknowledged_in_all_partitions,
    an_epoch_that_was_led_and_wrote_nothing_is_forgotten,
    a_truncation_that_comes_twice_cuts_once,
    who_has_but_the_high_watermark_is_not_in_sync,
    who_is_dropped_binds_until_all_others_have_written_it_down,
    who_comes_back_with_less_is_out_of_sync_at_once,
    damage_at_the_leader_stops_one_partition_and_no_other,
    damage_keeps_out_who_lacks_what_an_older_leader_acknowledged,
)
