"""A world of replicas that is all model but for the rules: networks that lie, crashes, elections.

`Node` is what a runtime has to be around `LeaderState`, `FollowerState`, `ReplicaState` and
`divergence`; the disk is lists.  `World` (replication_world.py) decides what happens when, from a
seed alone.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pylog.errors import FencedLeaderEpochError, InvalidMessageError, NotEligibleError
from pylog.replication import divergence as parting
from pylog.replication.divergence import StartAnew
from pylog.replication.facts import InSync, ReplicaPosition, ReplicaStatus
from pylog.replication.following import FollowerState
from pylog.replication.leading import LeaderState
from pylog.replication.standing import ReplicaState
from pylog.storage.epochs import LeaderEpochs
from pylog.storage.role import RoleKind

if TYPE_CHECKING:
    from replication_world import World

# An entry of a log: the epoch of the leader that wrote it, and a value that no other entry has.
Entry = tuple[int, int]

LAG_MS = 100
ELECTOR = "elector"
CLUSTER = uuid.UUID(int=7)


class Disk:
    """One partition of one replica: what is on its disk, and how much of that survives."""

    def __init__(self, *, is_synced: bool) -> None:
        self.is_synced = is_synced  # durability "fsync"; else "os"
        self.start = 0
        self.entries: list[Entry] = []
        self.epochs = LeaderEpochs()
        self.durable = 0
        self.high_watermark = 0
        self.damaged: int | None = None  # an offset that a leader cannot read here

    @property
    def end(self) -> int:
        return self.start + len(self.entries)

    @property
    def acknowledged(self) -> int:
        """Up to where it is as durable as the topic asks."""
        return self.durable if self.is_synced else self.end

    def append(self, entries: list[Entry]) -> None:
        for epoch, value in entries:
            self.epochs = self.epochs.assign(epoch, self.end)
            self.entries.append((epoch, value))

    def read(self, offset: int, count: int) -> list[Entry]:
        return self.entries[offset - self.start : offset - self.start + count]

    def readable(self, offset: int, count: int) -> list[Entry]:
        """Return what a leader can send, which ends before what is damaged."""
        if self.damaged is not None and self.damaged >= offset:
            count = min(count, self.damaged - offset)
        return self.read(offset, count)

    def truncate(self, end: int) -> None:
        del self.entries[max(0, end - self.start) :]
        self.epochs = self.epochs.truncate_from_end(end)
        self.durable = min(self.durable, self.end)

    def delete_below(self, offset: int) -> None:
        if offset > self.start:
            del self.entries[: offset - self.start]
            self.start = offset
            self.epochs = self.epochs.truncate_from_start(offset)
            self.durable = max(self.durable, offset)
            self.high_watermark = max(self.high_watermark, offset)

    def start_anew(self, offset: int) -> None:
        self.entries, self.epochs = [], LeaderEpochs()
        self.start = self.durable = self.high_watermark = offset

    def check(self) -> None:
        """Assert that the epochs tell of which epoch each entry is."""
        self.epochs.check()
        for offset, (epoch, _) in enumerate(self.entries, self.start):
            assert self.epochs.epoch_for_offset(offset) == epoch, (offset, epoch, self.epochs)

    def position(self) -> ReplicaPosition:
        return ReplicaPosition(
            epochs=self.epochs.entries,
            log_start_offset=self.start,
            high_watermark=self.high_watermark,
            log_end_offset=self.end,
        )


@dataclasses.dataclass
class Session:
    """What a leader knows of one session with a follower."""

    number: int
    is_greeted: bool = False
    # The call that is awaited, None when none is; and the partitions that are not in line yet.
    call: int | None = None
    call_age: int = 0
    unaligned: list[int] = dataclasses.field(default_factory=list)
    sent: dict[int, int] = dataclasses.field(default_factory=dict)
    acknowledged: dict[int, int] = dataclasses.field(default_factory=dict)
    idle: int = 0
    stalled: int = 0


class Leader:
    """The part of a runtime that leads; gone with its process, or when the node is fenced."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.world = node.world
        last = node.state.in_sync
        assert last is not None
        self.epoch = last.epoch
        self.rules = LeaderState(node.name, last=last, lag_time_max_ms=LAG_MS)
        self.sessions: dict[str, Session] = {}
        self.waiting: list[tuple[int, int, int]] = []  # partition, offset, value
        for number, disk in enumerate(node.disks):
            self.rules.partition_added(
                number,
                end_offset=disk.end,
                own_offset=disk.acknowledged,
                high_watermark=disk.high_watermark,
                min_insync_replicas=node.world.needed[number],
                now_ms=node.now,
            )

    # ------------------------------------------------------------ clients

    def append(self, number: int, value: int, *, acks_all: bool) -> bool:
        """Append, unless too few are in sync; return whether it was."""
        if acks_all and self.rules.in_sync_count < self.world.needed[number]:
            return False
        disk = self.node.disks[number]
        disk.append([(self.epoch, value)])
        if acks_all:
            self.waiting.append((number, disk.end - 1, value))
        if self.world.source.random() < 0.5:
            self.told_of(number)  # else the next look finds it
        return True

    def told_of(self, number: int) -> None:
        disk = self.node.disks[number]
        self.rules.appended(
            number, end_offset=disk.end, own_offset=disk.acknowledged, now_ms=self.node.now
        )

    # ------------------------------------------------------------ what the rules said

    def obey(self) -> None:
        """Do what the rules ask for after any event."""
        while (unwritten := self.rules.unwritten) is not None:
            self.node.note(unwritten)
            self.rules.noted(unwritten)
        for number, offset in self.rules.take_moved().items():
            self.node.raise_high_watermark(number, offset)
        still = []
        for number, offset, value in self.waiting:
            if offset < self.rules.high_watermark(number):
                self.world.acknowledged(number, offset, (self.epoch, value))
            else:
                still.append((number, offset, value))
        self.waiting = still

    def pulse(self) -> None:
        """Do what is due: new sessions, batches, heartbeats, dropping who is late."""
        for number in range(len(self.node.disks)):
            self.told_of(number)
        self.rules.tick(self.node.now)
        for name in self.world.names:
            if name == self.node.name:
                continue
            session = self.sessions.get(name)
            if session is None or session.idle > 5:
                self.begin(name)
                continue
            session.idle += 1
            session.call_age += 1
            if session.unaligned and (session.call is None or session.call_age > 4):
                self.ask(name, session)
            for number in list(session.sent):
                self.send(name, session, number)

    def begin(self, name: str) -> None:
        self.rules.detached(name)
        session = self.sessions[name] = Session(self.world.new_number())
        self.tell(name, "hello", session.number)

    def resend(self, name: str) -> None:
        """Send what there is to a follower, without having looked at the log."""
        session = self.sessions.get(name)
        for number in list(session.sent if session is not None else ()):
            assert session is not None
            self.send(name, session, number)

    def tell(self, name: str, kind: str, *facts: Any) -> None:
        self.world.post(self.node.name, name, f"take_{kind}", self.epoch, *facts)

    def ask(self, name: str, session: Session) -> None:
        session.call, session.call_age = self.world.new_number(), 0
        self.tell(name, "position", session.number, session.call, session.unaligned[-1])

    def send(self, name: str, session: Session, number: int) -> None:
        disk = self.node.disks[number]
        known = session.acknowledged.get(number, session.sent[number])
        if known < session.sent[number]:
            session.stalled += 1
            if session.stalled > 4:
                # Something was lost: once more from where it surely is.
                session.sent[number], session.stalled = known, 0
        offset = session.sent[number]
        if offset < disk.start:
            # What it lacks was deleted meanwhile.
            self.begin(name)
            return
        entries = disk.readable(offset, self.world.batch_size())
        if offset == disk.damaged:
            self.rules.stopped(name, number)
        session.sent[number] = offset + len(entries)
        note, mark = self.rules.to_note(name), self.world.some_of(self.rules.high_watermark(number))
        facts = (number, offset, entries, note, mark, disk.start)
        self.tell(name, "batches", session.number, *facts)

    # ------------------------------------------------------------ what followers say

    def session_of(self, name: str, number: int) -> Session | None:
        session = self.sessions.get(name)
        if session is None or session.number != number:
            return None
        session.idle = 0
        return session

    def hear_hello(self, name: str, number: int, in_sync: InSync | None) -> None:
        session = self.session_of(name, number)
        if session is None or session.is_greeted:
            return
        session.is_greeted = True
        session.unaligned = list(range(len(self.node.disks)))
        self.rules.attached(name, in_sync, now_ms=self.node.now)
        self.ask(name, session)

    def hear_over(self, name: str, number: int) -> None:
        if self.session_of(name, number) is not None:
            self.begin(name)

    def hear_position(self, name: str, number: int, call: int, theirs: ReplicaPosition) -> None:
        session = self.session_of(name, number)
        if session is None or session.call != call:
            return
        partition = session.unaligned[-1]
        plan = parting.divergence(self.node.disks[partition].position(), theirs)
        if plan is not None:
            session.call, session.call_age = self.world.new_number(), 0
            is_new = isinstance(plan, StartAnew)
            offset = plan.offset if isinstance(plan, StartAnew) else plan.end_offset
            self.tell(name, "truncate", number, session.call, partition, offset, is_new)
            return
        session.call = None
        session.unaligned.pop()
        session.sent[partition] = theirs.log_end_offset
        self.send(name, session, partition)

    def hear_acknowledgement(
        self, name: str, number: int, partition: int, end: int, noted: tuple[int, int] | None
    ) -> None:
        session = self.session_of(name, number)
        if session is None or partition not in session.sent:
            return
        if end > session.acknowledged.get(partition, -1):
            session.acknowledged[partition], session.stalled = end, 0
        self.rules.acknowledged(
            name, partition, end_offset=end, in_sync=noted, now_ms=self.node.now
        )


class Node:
    """One replica: its disk, its durable state, and the process that runs, or not."""

    def __init__(self, world: World, name: str, durabilities: tuple[bool, ...]) -> None:
        self.world = world
        self.name = name
        self.disks = [Disk(is_synced=is_synced) for is_synced in durabilities]
        # What a FollowerState says is written down before a message goes out.
        self.rules = FollowerState(
            ReplicaState(replica_id=name, cluster_id=CLUSTER, kind=RoleKind.FOLLOWER)
        )
        self.leader: Leader | None = None
        self.is_up = True
        self.is_paused = False
        self.clock_skew = 0

    @property
    def state(self) -> ReplicaState:
        return self.rules.state

    @property
    def now(self) -> int:
        return self.world.now + self.clock_skew

    def note(self, in_sync: InSync) -> None:
        self.rules.state = self.state.noted(in_sync)

    def answer(self, name: str, kind: str, *facts: Any) -> None:
        self.world.post(self.name, name, f"hear_{kind}", *facts)

    def receive(self, sender: str, kind: str, facts: tuple[Any, ...]) -> None:
        """Handle a message; what is refused is answered with why."""
        if kind.startswith("hear_"):
            if self.leader is not None:
                handler: Callable[..., None] = getattr(self.leader, kind)
                handler(sender, *facts)
        elif kind in ("fence", "promote"):
            getattr(self, kind)(*facts)
        else:
            try:
                getattr(self, kind)(sender, *facts)
            except FencedLeaderEpochError as error:
                self.world.post(self.name, sender, "fence", error.promised)
            except InvalidMessageError:
                self.world.count("messages of sessions that are over")
                self.answer(sender, "over", facts[1])
        self.settle()

    def settle(self) -> None:
        """Step down when fenced, obey the rules of a leader, check."""
        assert self.state.contradiction is None, self.state
        if self.leader is not None and self.state.kind is not RoleKind.LEADER:
            self.leader = None
            self.world.count("leaders fenced")
        if self.leader is not None:
            self.leader.obey()

    def raise_high_watermark(self, number: int, offset: int) -> None:
        disk = self.disks[number]
        assert offset >= disk.high_watermark, "a high watermark went back"
        before, disk.high_watermark = disk.high_watermark, offset
        self.world.became_visible(self, number, before, offset)

    def sync(self) -> None:
        """Let everything be durable, and say so; the kernel takes its time where nobody asked."""
        for number, disk in enumerate(self.disks):
            is_due = disk.is_synced or self.world.source.random() < 0.2
            if disk.durable < disk.end and is_due:
                disk.durable = disk.end
                if self.leader is not None:
                    self.leader.told_of(number)
                elif disk.is_synced and self.rules.is_taking(number):
                    self.acknowledge(number)
        self.settle()

    # ------------------------------------------------------------ as a follower

    def take_hello(self, leader: str, epoch: int, number: int) -> None:
        # A late copy of a hello that was answered must not begin the session again.
        if number <= self.world.last_session.get(self.name, 0):
            raise InvalidMessageError("an old hello")
        self.rules.hello(epoch=epoch, leader_id=leader, session=number)
        self.world.last_session[self.name] = number
        self.answer(leader, "hello", number, self.state.in_sync)

    def take_position(
        self, leader: str, epoch: int, number: int, call: int, partition: int
    ) -> None:
        self.rules.check(number, epoch=epoch)
        self.answer(leader, "position", number, call, self.disks[partition].position())

    def take_truncate(
        self,
        leader: str,
        epoch: int,
        number: int,
        call: int,
        partition: int,
        offset: int,
        is_new: bool,
    ) -> None:
        self.rules.check(number, epoch=epoch)
        disk = self.disks[partition]
        mark = 0 if is_new else disk.high_watermark
        self.rules.check_truncation(partition, end_offset=offset, high_watermark=mark)
        if is_new:
            disk.start_anew(offset)
            self.world.count("new beginnings")
        else:
            self.world.count("truncations")
            disk.truncate(offset)
            disk.high_watermark = min(disk.high_watermark, disk.end)
        self.answer(leader, "position", number, call, disk.position())

    def take_batches(
        self,
        leader: str,
        epoch: int,
        number: int,
        partition: int,
        from_offset: int,
        entries: list[Entry],
        note: InSync | None,
        mark: int,
        log_start: int,
    ) -> None:
        self.rules.check(number, epoch=epoch)
        disk = self.disks[partition]
        if self.rules.takes(partition, from_offset=from_offset, log_end_offset=disk.end):
            disk.append(entries)
            offset = self.rules.high_watermark(
                told=mark, known=disk.high_watermark, log_end_offset=disk.end
            )
            self.raise_high_watermark(partition, offset)
            disk.delete_below(min(log_start, disk.high_watermark))
        if note is not None:
            self.note(note)
        self.acknowledge(partition)

    def acknowledge(self, partition: int) -> None:
        noted = None if self.state.in_sync is None else self.state.in_sync.order
        leader, number = self.state.leader_id, self.rules.session
        assert leader is not None
        facts = (number, partition, self.disks[partition].acknowledged, noted)
        self.answer(leader, "acknowledgement", *facts)

    # ------------------------------------------------------------ elections

    def fence(self, epoch: int) -> None:
        """Promise; as told by who elects, or by a follower that has promised."""
        try:
            self.rules.fence(epoch)
        except FencedLeaderEpochError:
            return
        status = ReplicaStatus(
            replica_id=self.name,
            cluster_id=None,
            promised_epoch=self.state.promised_epoch,
            in_sync=self.state.in_sync,
            log_end_offset=self.world.told_length(self),
        )
        self.world.post(self.name, ELECTOR, "promised", epoch, status)

    def promote(self, epoch: int) -> None:
        latest = max(disk.epochs.latest_epoch for disk in self.disks)
        try:
            self.rules.state = self.state.promoted(epoch, latest_epoch=latest)
        except (FencedLeaderEpochError, NotEligibleError):
            self.world.count("promotions refused")
            return
        self.rules = FollowerState(self.state)
        for disk in self.disks:
            disk.epochs = disk.epochs.assign(epoch, disk.end)
        self.world.check_leader(self)
        self.leader = Leader(self)
        self.world.count("promotions")

    # ------------------------------------------------------------ crashes

    def kill(self) -> None:
        """Kill -9: what the kernel has stays."""
        self.is_up, self.leader = False, None
        self.rules = FollowerState(self.state)

    def cut_power(self, *, keeps_nothing: bool = False) -> None:
        """Lose what was not synced, or a part of it, and what only memory knew."""
        source, lost = self.world.source, False
        self.kill()
        for disk in self.disks:
            lost |= not disk.is_synced and disk.durable < disk.end
            known = min(disk.high_watermark, disk.durable)
            disk.truncate(disk.durable if keeps_nothing else source.randint(disk.durable, disk.end))
            # The last one that a manifest happened to be written with.
            disk.high_watermark = disk.start if keeps_nothing else source.randint(disk.start, known)
            disk.durable = disk.end
        self.rules = FollowerState(self.state.after_power_cut(lost_acknowledged=lost))
        self.world.count("power cuts that lost something" if lost else "power cuts")

    def start(self) -> None:
        self.is_up = True
        if self.state.kind is RoleKind.LEADER:
            self.leader = Leader(self)
            self.world.count("leaders resumed")
            self.settle()
