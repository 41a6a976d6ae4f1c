"""What happens to the replicas of replication_model.py, step by step, from a seed alone.

Messages are lost, repeated, late and overtaken; links of a node clog and clear in any order, and
processes stop and go on (swizzled); processes are killed, and power cuts take what was not synced;
clocks jump; elections begin while others are on, and while a leader is well.  After every step the
world is checked: what a reader could see stays as it was for ever, on every replica.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from typing import Any

from replication_model import ELECTOR, LAG_MS, Entry, Leader, Node

from pylog.errors import FencedLeaderEpochError, NotEligibleError
from pylog.replication.election import best_candidate, quorum
from pylog.replication.facts import InSync, ReplicaStatus
from pylog.storage.role import RoleKind

MAX_MESSAGES = 80
Message = tuple[str, str, str, tuple[Any, ...]]


class World:
    """Replicas, the network between them, who elects, and what was promised to clients."""

    def __init__(self, seed: int) -> None:
        self.source = source = random.Random(seed)
        count = source.choice((2, 3, 3, 3, 3, 4, 5))
        self.names = [f"r{number}" for number in range(count)]
        partitions = source.choice((1, 2, 2))
        least = source.choice((1, 2, 2, 2, 3))
        # min_insync_replicas, of each partition; an election goes by the least.
        self.needed = [min(count, least + source.choice((0, 0, 0, 1))) for _ in range(partitions)]
        durability = source.choice(("fsync", "fsync", "os", "mixed"))
        is_synced = [
            durability == "fsync" or (durability == "mixed" and number == 0)
            for number in range(partitions)
        ]
        self.now = 1_000_000
        self.numbers = 0
        self.epoch = 0
        self.messages: list[Message] = []
        self.clogged: set[str] = set()
        self.answers: dict[int, dict[str, ReplicaStatus]] = {}
        self.last_session: dict[str, int] = {}
        self.done: Counter[str] = Counter()
        # What readers saw: by partition and offset, what stood there, and the leader's epoch.
        self.visible: list[dict[int, tuple[Entry, int]]] = [{} for _ in range(partitions)]
        self.kept: list[dict[int, Entry]] = [{} for _ in range(partitions)]  # acknowledged to all
        self.deleted = [0] * partitions
        self.nodes = {name: Node(self, name, is_synced) for name in self.names}
        # How rough this world is: some are calm enough for long histories.
        self.roughness = source.choice((0.2, 0.5, 1.0, 1.5))
        first = self.nodes[self.names[0]]
        # The first one is promoted by people: it never had a role, so it has all that there is.
        first.rules.state = dataclasses.replace(first.state, kind=RoleKind.NONE)
        self.epoch = 1
        first.promote(1)
        if source.random() < 0.9:
            self.let_all_be_in_sync(first)
        first.settle()

    def let_all_be_in_sync(self, first: Node) -> None:
        """Begin with replicas that were well: otherwise many worlds are stuck before they live."""
        everybody = InSync(1, 1, frozenset(self.names))
        for node in self.nodes.values():
            if node is not first:
                node.rules.hello(epoch=1, leader_id=first.name, session=0)
            node.rules.note(everybody)
        first.leader = Leader(first)

    def count(self, what: str) -> None:
        self.done[what] += 1

    def new_number(self) -> int:
        self.numbers += 1
        return self.numbers

    @property
    def least_needed(self) -> int:
        return min(self.needed)

    def leaders(self) -> list[Leader]:
        return [node.leader for node in self.nodes.values() if node.leader is not None]

    # ------------------------------------------------------------ the network

    def post(self, sender: str, target: str, kind: str, *facts: Any) -> None:
        if len(self.messages) >= MAX_MESSAGES:
            self.messages.pop(self.source.randrange(len(self.messages)))
        self.messages.append((sender, target, kind, facts))

    def deliver(self) -> None:
        """Deliver one message, mostly an early one; or lose it, or deliver it once more later."""
        if not self.messages:
            return
        source = self.source
        index = 0 if source.random() < 0.6 else source.randrange(len(self.messages))
        sender, target, _, _ = message = self.messages[index]
        if self.clogged and (sender in self.clogged or target in self.clogged):
            return
        if target != ELECTOR and self.nodes[target].is_paused:
            return
        chance = source.random()
        if chance > 0.03 * self.roughness:
            del self.messages[index]
        else:
            self.count("repeated")
        if chance > 1 - 0.04 * self.roughness:
            self.count("lost")
            return
        self.hand_over(message)

    def hand_over(self, message: Message) -> None:
        sender, target, kind, facts = message
        if target == ELECTOR:
            if kind == "promised":
                self.promised(*facts)
        elif self.nodes[target].is_up:
            self.nodes[target].receive(sender, kind, facts)

    # ------------------------------------------------------------ elections

    def elect(self) -> None:
        self.epoch += 1
        self.answers[self.epoch] = {}
        for name in self.names:
            self.post(ELECTOR, name, "fence", self.epoch)
        self.count("elections")

    def promised(self, epoch: int, status: ReplicaStatus) -> None:
        if epoch in self.answers:
            self.answers[epoch][status.replica_id] = status
            self.count("promises")

    def conclude(self) -> None:
        """Promote whom the last election names, if enough have answered."""
        needed = quorum(replicas=len(self.names), min_insync_replicas=self.least_needed)
        epoch = max(self.answers, default=0)
        if len(self.answers.get(epoch, ())) < needed:
            return
        try:
            name = best_candidate(
                list(self.answers[epoch].values()),
                epoch=epoch,
                replicas=len(self.names),
                min_insync_replicas=self.least_needed,
            )
        except NotEligibleError:
            self.count("too few that count")
            return
        except FencedLeaderEpochError:
            self.count("overtaken elections")
        else:
            self.post(ELECTOR, name, "promote", epoch)
        del self.answers[epoch]

    # ------------------------------------------------------------ what must hold

    def became_visible(self, node: Node, number: int, start: int, end: int) -> None:
        """Assert that what can be read now is what stood there whenever it could be read."""
        disk, seen = node.disks[number], self.visible[number]
        epoch = node.state.promised_epoch
        for offset in range(max(start, disk.start), end):
            entry = disk.entries[offset - disk.start]
            known = seen.setdefault(offset, (entry, epoch))
            assert known[0] == entry, f"{node.name}: {number}@{offset} is {entry}, was {known}"

    def acknowledged(self, number: int, offset: int, entry: Entry) -> None:
        self.kept[number][offset] = entry
        self.count("acknowledged")

    def check_leader(self, node: Node, *, is_last: bool = False) -> None:
        """Assert that who is promoted has everything that was visible under older leaders."""
        for number, disk in enumerate(node.disks):
            for offset, (entry, epoch) in self.visible[number].items():
                if offset >= self.deleted[number] and (
                    is_last or epoch < node.state.promised_epoch
                ):
                    assert disk.start <= offset < disk.end, f"{node.name} lacks {number}@{offset}"
                    found = disk.entries[offset - disk.start]
                    assert found == entry, f"{node.name}: {number}@{offset} {found}, was {entry}"

    def check_kept(self, node: Node) -> None:
        """Assert that no acknowledged record is lost."""
        for number, disk in enumerate(node.disks):
            for offset, entry in self.kept[number].items():
                if offset >= self.deleted[number]:
                    assert disk.read(offset, 1) == [entry], f"{number}@{offset} is lost"

    # ------------------------------------------------------------ what happens

    def step(self) -> None:
        source = self.source
        self.now += source.choice((0, 0, 1, 5))
        chance = source.random()
        if chance < 0.52:
            self.deliver()
        elif chance < 0.66:
            self.pulse(self.nodes[source.choice(self.names)])
        elif chance < 0.80:
            if leaders := self.leaders():
                self.append(source.choice(leaders))
        elif chance < 0.87:
            node = self.nodes[source.choice(self.names)]
            if node.is_up and not node.is_paused:
                node.sync()
        elif chance < 0.90:
            self.conclude()
        elif source.random() < self.roughness:
            self.trouble()

    def pulse(self, node: Node) -> None:
        if node.is_up and not node.is_paused and node.leader is not None:
            node.leader.pulse()
            node.settle()

    def append(self, leader: Leader) -> None:
        if leader.node.is_paused:
            return
        number = self.source.randrange(len(self.needed))
        acks_all = self.source.random() < 0.7
        if leader.append(number, self.new_number(), acks_all=acks_all):
            self.count("appends")
        else:
            self.count("refused: too few in sync")
        leader.node.settle()

    def trouble(self) -> None:
        source = self.source
        node = self.nodes[source.choice(self.names)]
        chance = source.random()
        if chance < 0.25:
            self.calm_down()
        elif chance < 0.35:
            self.reset_connections()
        elif chance < 0.40:
            self.elect()
        elif chance < 0.53:
            self.usurp()
        elif chance < 0.66:
            self.swizzle(node)
        elif chance < 0.76:
            self.crash(node)
        elif chance < 0.86:
            if not node.is_up:
                node.start()
        elif chance < 0.89:
            node.clock_skew += source.choice((-5000, -50, 20, 500))
            self.count("clock jumps")
        elif chance < 0.94:
            self.now += source.choice((LAG_MS // 2, LAG_MS, 3 * LAG_MS))
        else:
            self.delete_records(node)

    def calm_down(self) -> None:
        """Let the network be well for a while, and who is paused go on."""
        self.clogged.clear()
        for node in self.nodes.values():
            node.is_paused = False
        for _ in range(self.source.randint(1, 3)):
            self.calm_round()
            self.conclude()

    def reset_connections(self) -> None:
        for leader in self.leaders():
            for name in list(leader.sessions):
                if self.source.random() < 0.5:
                    leader.begin(name)
            leader.node.settle()

    def usurp(self) -> None:
        """Cut a leader off, let it append what nobody gets in time, and elect another one."""
        if leaders := self.leaders():
            leader = self.source.choice(leaders)
            for _ in range(self.source.randint(1, 4)):
                self.append(leader)
            if self.source.random() < 0.7:
                self.clogged.add(leader.node.name)
        self.elect()

    def swizzle(self, node: Node) -> None:
        """Clog or pause a node; or clear one, or all."""
        chance = self.source.random()
        if chance < 0.35:
            self.clogged ^= {node.name}
        elif chance < 0.7:
            node.is_paused = not node.is_paused
        else:
            self.clogged.clear()
            for other in self.nodes.values():
                other.is_paused = False
        self.count("swizzles")

    def crash(self, node: Node) -> None:
        if not node.is_up:
            return
        node.is_paused = False
        if self.source.random() < 0.5:
            node.kill()
            self.count("killed")
        else:
            node.cut_power()

    def delete_records(self, node: Node) -> None:
        if node.leader is None or node.is_paused:
            return
        number = self.source.randrange(len(self.needed))
        disk = node.disks[number]
        offset = self.source.randint(disk.start, disk.high_watermark)
        self.deleted[number] = max(self.deleted[number], offset)
        disk.delete_below(offset)
        self.count("deletions")

    # ------------------------------------------------------------ healing

    def heal(self) -> bool:
        """Let everything be well; assert progress; return False when only people could help.

        That is when too few replicas can tell what they have: unclean elections lose records.
        """
        self.clogged.clear()
        for node in self.nodes.values():
            node.is_paused = False
            if not node.is_up:
                node.start()
        self.answers.clear()
        for _ in range(200):
            self.calm_round()
            self.calm_election()
            leader = self.leader_of_all()
            if leader is None:
                if not self.can_elect():
                    self.count("stuck")
                    return False
            elif self.is_whole(leader):
                self.check_leader(leader.node, is_last=True)
                self.check_kept(leader.node)
                return True
        raise AssertionError("no progress after healing")

    def calm_round(self) -> None:
        self.now += LAG_MS // 10
        for node in self.nodes.values():
            self.pulse(node)
            if node.is_up:
                node.sync()
        for _ in range(3):
            messages, self.messages = self.messages, []
            for message in messages:
                self.hand_over(message)

    def calm_election(self) -> None:
        self.conclude()
        if self.leader_of_all() is None and not self.answers and not self.messages:
            self.elect()

    def leader_of_all(self) -> Leader | None:
        """Return the leader of the last epoch that anybody promised, None when there is none."""
        latest = max(node.state.promised_epoch for node in self.nodes.values())
        for leader in self.leaders():
            if leader.epoch == latest:
                return leader
        return None

    def can_elect(self) -> bool:
        eligible = sum(node.state.in_sync is not None for node in self.nodes.values())
        least = self.least_needed
        return eligible >= quorum(replicas=len(self.names), min_insync_replicas=least)

    def is_whole(self, leader: Leader) -> bool:
        """Return whether all are in sync, a new record is acknowledged, and all have the same."""
        if leader.rules.in_sync_count < len(self.names):
            return False
        if not self.done["last appends"]:
            for number in range(len(self.needed)):
                assert leader.append(number, self.new_number(), acks_all=True)
            self.count("last appends")
            leader.node.settle()
        if leader.waiting:
            return False
        disks = [leader.node.disks, *(node.disks for node in self.nodes.values())]
        tails = [
            [
                (disk.end, disk.high_watermark, disk.read(max(start, disk.start), disk.end))
                for disk, start in zip(each, self.deleted, strict=True)
            ]
            for each in disks
        ]
        return all(tail == tails[0] for tail in tails) and self.holds_alike(leader)

    def holds_alike(self, leader: Leader) -> bool:
        return all(
            node is leader.node or node.state.kind is RoleKind.FOLLOWER
            for node in self.nodes.values()
        )
