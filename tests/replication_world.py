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
from pylog.replication import election
from pylog.replication.facts import InSync, ReplicaStatus
from pylog.storage.role import RoleKind

MAX_MESSAGES = 80
RARE = ("take_truncate", "hear_position", "promote", "fence")  # repeated more often than others
Message = tuple[str, str, str, tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a world is made of.

    needed: min_insync_replicas, of each partition; an election goes by the least.  is_synced: of
    each partition, whether its durability is "fsync"; else "os".  batch: entries in one message.
    roughness: how bad it is; some worlds are calm enough for long histories.  steps: how long.
    """

    replicas: int = 3
    needed: tuple[int, ...] = (2,)
    is_synced: tuple[bool, ...] = (True,)
    batch: int = 3
    roughness: float = 0.0
    steps: int = 0
    is_established: bool = True

    @classmethod
    def random(cls, source: random.Random) -> Shape:
        replicas = source.choice((2, 3, 3, 3, 3, 4, 5))
        partitions = range(source.choice((1, 2, 2)))
        least = source.choice((1, 2, 2, 2, 3))
        durability = source.choice(("fsync", "fsync", "os", "mixed"))
        return cls(
            replicas=replicas,
            needed=tuple(min(replicas, least + source.choice((0, 0, 0, 1))) for _ in partitions),
            is_synced=tuple(
                durability == "fsync" or (durability == "mixed" and number == 0)
                for number in partitions
            ),
            batch=source.choice((1, 2, 3)),
            roughness=source.choice((0.15, 0.3, 0.6, 1.0)),
            steps=source.choice((150, 150, 300, 1000)),
            is_established=source.random() < 0.9,
        )


class World:
    """Replicas, the network between them, who elects, and what was promised to clients."""

    def __init__(self, seed: int, shape: Shape | None = None) -> None:
        self.source = source = random.Random(seed)
        self.shape = shape = shape or Shape.random(source)
        self.names = [f"r{number}" for number in range(shape.replicas)]
        self.needed = shape.needed
        self.now = 1_000_000
        self.numbers = 0
        self.epoch = 0
        self.messages: list[Message] = []
        self.late: list[Message] = []  # to be delivered once more
        self.clogged: set[str] = set()
        self.slow: set[str] = set()
        self.answers: dict[int, dict[str, ReplicaStatus]] = {}
        self.last_session: dict[str, int] = {}
        self.done: Counter[str] = Counter()
        # What readers saw: by partition and offset, what stood there, and the leader's epoch.
        self.visible: list[dict[int, tuple[Entry, int]]] = [{} for _ in self.needed]
        self.kept: list[dict[int, Entry]] = [{} for _ in self.needed]  # acknowledged to all
        self.written: set[tuple[int, int, int]] = set()
        self.deleted = [0] * len(self.needed)
        self.nodes = {name: Node(self, name, shape.is_synced) for name in self.names}
        first = self.nodes[self.names[0]]
        # The first one is promoted by people: it never had a role, so it has all that there is.
        first.rules.state = dataclasses.replace(first.state, kind=RoleKind.NONE)
        self.epoch = 1
        first.promote(1)
        if shape.is_established:
            self.let_all_be_in_sync(first)
        first.settle()

    def live(self) -> None:
        """Live, then heal."""
        for _ in range(self.shape.steps):
            self.step()
        self.heal()

    def let_all_be_in_sync(self, first: Node) -> None:
        """Begin with replicas that were well: otherwise many worlds are stuck before they live."""
        everybody = InSync(1, 1, frozenset(self.names))
        for node in self.nodes.values():
            if node is not first:
                node.rules.hello(epoch=1, leader_id=first.name, session=0)
            node.note(everybody)
        first.leader = Leader(first)

    def count(self, what: str) -> None:
        self.done[what] += 1

    def new_number(self) -> int:
        self.numbers += 1
        return self.numbers

    @property
    def least_needed(self) -> int:
        return min(self.needed)

    @property
    def quorum(self) -> int:
        return election.quorum(replicas=len(self.names), min_insync_replicas=self.least_needed)

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
        if target in self.slow and source.random() < 0.9:
            return
        del self.messages[index]
        if source.random() < (0.2 if message[2] in RARE else 0.03) * self.shape.roughness:
            self.late.append(message)
        if source.random() < 0.04 * self.shape.roughness:
            self.count("lost")
            return
        self.hand_over(message)

    def repeat(self) -> None:
        """Deliver a message once more, or the first time, if it was lost."""
        if self.late:
            self.messages.append(self.late.pop(self.source.randrange(len(self.late))))
            self.count("repeated")

    def batch_size(self) -> int:
        """Return how many entries go into the next message: at times none, as in a heartbeat."""
        is_empty = self.shape.roughness and self.source.random() < 0.3
        return 0 if is_empty else self.shape.batch

    def told_length(self, node: Node) -> int:
        """Return how much a node says it has.

        Of those who are as good as each other any may be elected; so in rough worlds any is.
        """
        if self.shape.roughness:
            return self.source.randrange(3)
        return sum(disk.end for disk in node.disks)

    def some_of(self, offset: int) -> int:
        """Return an offset or an older one: what a leader says first may arrive last."""
        is_newest = not self.shape.roughness or self.source.random() < 0.5
        return offset if is_newest else self.source.randint(0, offset)

    def hand_over(self, message: Message) -> None:
        sender, target, kind, facts = message
        if target == ELECTOR:
            if kind == "promised":
                self.promised(*facts)
        elif self.nodes[target].is_up:
            self.nodes[target].receive(sender, kind, facts)

    # ------------------------------------------------------------ elections

    def elect(self, *asked: str) -> None:
        """Begin an election; ask all, or just as few as it needs."""
        self.epoch += 1
        self.answers[self.epoch] = {}
        asked = self.names if len(asked) < self.quorum else asked
        for name in asked:
            self.post(ELECTOR, name, "fence", self.epoch)
        self.count("elections")

    def promised(self, epoch: int, status: ReplicaStatus) -> None:
        if epoch in self.answers:
            self.answers[epoch][status.replica_id] = status
            self.count("promises")

    def conclude(self) -> None:
        """Promote whom the last election names, if enough have answered."""
        epoch = max(self.answers, default=0)
        if len(self.answers.get(epoch, ())) < self.quorum:
            return
        try:
            name = election.best_candidate(
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

    def check_disks(self) -> None:
        """Assert what holds of every log, and of what leaders believe."""
        for leader in self.leaders():
            leader.rules.check()
        for node in self.nodes.values():
            for disk in node.disks:
                disk.check()

    def check_kept(self, node: Node) -> None:
        """Assert that no acknowledged record is lost."""
        for number, disk in enumerate(node.disks):
            for offset, entry in self.kept[number].items():
                if offset >= self.deleted[number]:
                    assert disk.read(offset, 1) == [entry], f"{number}@{offset} is lost"

    # ------------------------------------------------------------ what happens

    def step(self) -> None:
        source = self.source
        self.now += source.choice((0, 0, 0, 1, 2))
        chance = source.random()
        if chance < 0.52:
            self.deliver()
        elif chance < 0.66:
            if leaders := self.leaders():
                leader = source.choice(leaders)
                self.pulse(leader.node)
                leader.resend(source.choice(self.names))
        elif chance < 0.80:
            if leaders := self.leaders():
                self.append(source.choice(leaders))
        elif chance < 0.87:
            node = self.nodes[source.choice(self.names)]
            if node.is_up and not node.is_paused:
                node.sync()
        elif chance < 0.89:
            self.conclude()
        elif chance < 0.91:
            self.repeat()
        elif source.random() < self.shape.roughness:
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
            place = number, leader.epoch, leader.node.disks[number].end
            assert place not in self.written, "two records have one epoch and one offset"
            self.written.add(place)
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
            self.elect(*self.few())
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
        elif chance < 0.97:
            disk = source.choice(node.disks)
            disk.damaged = source.choice((None, disk.end, source.randint(disk.start, disk.end)))
            self.count("damage")
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
        self.elect(*self.few())

    def few(self) -> list[str]:
        count = self.quorum if self.source.random() < 0.5 else len(self.names)
        return self.source.sample(self.names, count)

    def swizzle(self, node: Node) -> None:
        """Clog or pause a node; or clear one, or all."""
        chance = self.source.random()
        if chance < 0.25:
            self.clogged ^= {node.name}
        elif chance < 0.5:
            node.is_paused = not node.is_paused
        elif chance < 0.75:
            self.slow ^= {node.name}
        else:
            self.clogged.clear()
            self.slow.clear()
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
        if self.source.random() < 0.4:
            node.start()

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
        self.slow.clear()
        self.late.clear()
        for node in self.nodes.values():
            node.is_paused = False
            for disk in node.disks:
                disk.damaged = None
            if not node.is_up:
                node.start()
        self.answers.clear()
        for _ in range(2000):
            self.calm_round()
            self.calm_election()
            leader = self.leader_of_all()
            if leader is None:
                if not self.can_elect():
                    self.count("stuck")
                    return False
            elif self.is_whole(leader):
                self.check_disks()
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
        return eligible >= self.quorum

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
