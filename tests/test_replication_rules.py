"""The rules of replication one by one: what a replica remembers, promises, cuts, acknowledges."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from pylog.errors import (
    DivergedReplicaError,
    FencedLeaderEpochError,
    InvalidMessageError,
    NotEligibleError,
)
from pylog.replication.divergence import StartAnew, Truncate, divergence
from pylog.replication.election import best_candidate, quorum
from pylog.replication.facts import MAX_EPOCHS, InSync, ReplicaPosition, ReplicaStatus
from pylog.replication.following import FollowerState
from pylog.replication.leading import LeaderState
from pylog.replication.standing import ReplicaState
from pylog.storage.role import RoleKind

CLUSTER = uuid.UUID(int=7)
ALL = InSync(3, 2, frozenset({"a", "b", "c"}))


def follower(**facts: object) -> ReplicaState:
    known = ReplicaState(
        replica_id="a",
        kind=RoleKind.FOLLOWER,
        promised_epoch=3,
        leader_id="b",
        in_sync=ALL,
        cluster_id=CLUSTER,
    )
    return dataclasses.replace(known, **facts)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what a replica remembers


def test_a_promise_forgets_the_leader_of_the_older_epoch() -> None:
    promised = follower().fenced(5)
    assert (promised.promised_epoch, promised.leader_id, promised.in_sync) == (5, None, ALL)
    assert promised.fenced(5) is promised


def test_a_leader_that_promises_leads_no_more() -> None:
    leader = follower().promoted(4, latest_epoch=3)
    assert leader.kind is RoleKind.LEADER
    assert leader.fenced(5).kind is RoleKind.FOLLOWER


@pytest.mark.parametrize(("epoch", "leader"), [(2, "b"), (3, "c"), (4, "a")])
def test_hello_of_who_may_not_lead_is_refused(epoch: int, leader: str) -> None:
    with pytest.raises(FencedLeaderEpochError) as caught:
        follower().following(epoch=epoch, leader_id=leader)
    assert (caught.value.epoch, caught.value.promised) == (epoch, 3)


def test_a_leader_may_say_hello_again_and_a_later_one_for_the_first_time() -> None:
    assert follower().following(epoch=3, leader_id="b") == follower()
    assert follower().following(epoch=4, leader_id="c").leader_id == "c"


def test_who_is_promoted_is_alone_in_sync_in_its_epoch() -> None:
    leader = follower().fenced(7).promoted(7, latest_epoch=3)
    assert leader.in_sync == InSync(7, 0, frozenset({"a"}))
    assert (leader.kind, leader.leader_id, leader.contradiction) == (RoleKind.LEADER, "a", None)


@pytest.mark.parametrize(("epoch", "latest"), [(2, 1), (3, 1), (5, 5), (5, 6)])
def test_an_epoch_that_was_promised_or_written_is_not_led(epoch: int, latest: int) -> None:
    with pytest.raises(FencedLeaderEpochError):
        follower().promoted(epoch, latest_epoch=latest)


def test_a_leader_does_not_lead_the_same_epoch_again() -> None:
    leader = follower().promoted(5, latest_epoch=3)
    with pytest.raises(FencedLeaderEpochError):
        leader.demoted().promoted(5, latest_epoch=3)


def test_who_may_lack_records_is_promoted_only_when_people_say_so() -> None:
    lost = follower().after_power_cut(lost_acknowledged=True)
    with pytest.raises(NotEligibleError):
        lost.promoted(5, latest_epoch=3)
    assert lost.promoted(5, latest_epoch=3, unclean=True).kind is RoleKind.LEADER


def test_a_log_that_never_had_a_role_may_lead() -> None:
    alone = ReplicaState(replica_id="a", cluster_id=CLUSTER)
    assert alone.promoted(1, latest_epoch=-1).kind is RoleKind.LEADER


def test_a_member_notes_who_is_in_sync_and_nobody_else_does() -> None:
    later = InSync(3, 4, frozenset({"a", "b"}))
    assert follower().noted(later).in_sync == later
    without = InSync(3, 4, frozenset({"b", "c"}))
    assert follower().noted(without) == follower()
    assert follower().noted(InSync(3, 1, ALL.members)) == follower()


def test_a_leader_leads_no_more_after_a_power_cut_and_stays_eligible_if_nothing_counted() -> None:
    leader = follower().promoted(5, latest_epoch=3)
    after = leader.after_power_cut(lost_acknowledged=False)
    assert (after.kind, after.in_sync) == (RoleKind.FOLLOWER, leader.in_sync)
    assert leader.after_power_cut(lost_acknowledged=True).in_sync is None


# ---------------------------------------------------------------- where histories part


def position(*epochs: tuple[int, int], end: int, start: int = 0, mark: int = 0) -> ReplicaPosition:
    return ReplicaPosition(
        epochs=epochs, log_start_offset=start, high_watermark=mark, log_end_offset=end
    )


@pytest.mark.parametrize(
    ("leader", "theirs", "plan"),
    [
        (position(end=0), position(end=0), None),
        (position((1, 0), end=9), position(end=0), None),
        (position((1, 0), end=9), position((1, 0), end=9), None),
        (position((1, 0), end=9), position((1, 0), end=4), None),
        # The leader lost what it had sent, and leads in a later epoch.
        (position((1, 0), (2, 4), end=4), position((1, 0), end=9), Truncate(4)),
        (position((1, 0), (2, 4), end=8), position((1, 0), end=9), Truncate(4)),
        # KIP-279: the follower led epoch 2 meanwhile, of which the leader knows nothing.
        (position((1, 0), (3, 10), end=12), position((1, 0), (2, 8), end=10), Truncate(8)),
        (position((1, 0), (3, 5), end=12), position((1, 0), (2, 8), end=10), Truncate(5)),
        # It led, and wrote nothing.
        (position((1, 0), (3, 9), end=9), position((1, 0), (2, 9), end=9), Truncate(9)),
        (position((1, 0), end=9), position((1, 0), (2, 4), end=4), Truncate(4)),
        # No epoch in common, and records that were there before any leader.
        (position((2, 0), end=9), position((1, 0), end=9), Truncate(0)),
        (position((2, 5), end=9), position(end=5), None),
        (position((2, 5), end=9), position(end=7), Truncate(5)),
        (position((2, 5), end=9), position((1, 3), end=7), Truncate(3)),
        # What the leader deleted is gone.
        (position((1, 6), end=9, start=6), position((1, 0), end=4), StartAnew(6)),
        (position((1, 6), end=9, start=6), position((1, 0), end=6), None),
        (position((3, 6), end=9, start=6), position((1, 0), (2, 4), end=8), StartAnew(6)),
        # The follower deleted everything, or more than the leader ever had.
        (position((1, 0), end=9), position(end=7, start=7), None),
        (position((1, 0), (3, 5), end=9), position((2, 6), end=7, start=6), Truncate(6)),
        (position((1, 0), end=5), position((1, 7), end=9, start=7), StartAnew(0)),
    ],
)
def test_a_follower_cuts_where_the_histories_part(
    leader: ReplicaPosition, theirs: ReplicaPosition, plan: object
) -> None:
    assert divergence(leader, theirs) == plan


def test_more_epochs_than_fit_into_a_message_are_gone_back_through() -> None:
    common = [(epoch, epoch) for epoch in range(1, 5)]
    own = [(epoch, epoch) for epoch in range(10, 10 + MAX_EPOCHS)]
    end = 20 + MAX_EPOCHS
    leader = position(*common, end=8)
    first = divergence(leader, position(*own, end=end))
    assert first == Truncate(10)
    assert divergence(leader, position(*common, end=10)) == Truncate(8)


# ---------------------------------------------------------------- elections


def status(name: str, in_sync: InSync | None, length: int = 0, promised: int = 9) -> ReplicaStatus:
    return ReplicaStatus(
        replica_id=name,
        cluster_id=CLUSTER,
        promised_epoch=promised,
        in_sync=in_sync,
        log_end_offset=length,
    )


@pytest.mark.parametrize(
    ("replicas", "needed", "asked"), [(3, 2, 2), (3, 1, 3), (3, 3, 1), (5, 2, 4), (1, 1, 1)]
)
def test_enough_are_asked_that_one_has_everything(replicas: int, needed: int, asked: int) -> None:
    assert quorum(replicas=replicas, min_insync_replicas=needed) == asked


def elect(*answers: ReplicaStatus) -> str:
    return best_candidate(answers, epoch=9, replicas=3, min_insync_replicas=2)


def test_the_last_in_sync_is_elected_and_of_equals_who_has_most() -> None:
    old, new = InSync(3, 9, frozenset("ab")), InSync(4, 1, frozenset("bc"))
    assert elect(status("a", old, 100), status("b", new, 5)) == "b"
    assert elect(status("a", new, 5), status("b", new, 7)) == "b"


@pytest.mark.parametrize(
    "other", [status("b", None), status("b", ALL, promised=8), status("a", ALL)]
)
def test_who_cannot_tell_or_did_not_promise_does_not_count(other: ReplicaStatus) -> None:
    with pytest.raises(NotEligibleError):
        elect(status("a", ALL), other)


def test_an_election_that_was_overtaken_ends() -> None:
    with pytest.raises(FencedLeaderEpochError):
        elect(status("a", ALL), status("b", ALL, promised=10))


# ---------------------------------------------------------------- what a follower takes


def test_a_message_of_another_session_or_an_older_leader_is_not_taken() -> None:
    rules = FollowerState(follower())
    with pytest.raises(InvalidMessageError):
        rules.check("first", epoch=3)
    rules.hello(epoch=3, leader_id="b", session="first")
    rules.check("first", epoch=3)
    rules.hello(epoch=3, leader_id="b", session="second")
    with pytest.raises(InvalidMessageError):
        rules.check("first", epoch=3)
    rules.fence(4)
    with pytest.raises(FencedLeaderEpochError):
        rules.check("second", epoch=3)


def test_a_refused_hello_leaves_the_session_as_it_was() -> None:
    rules = FollowerState(follower())
    rules.hello(epoch=3, leader_id="b", session="first")
    with pytest.raises(FencedLeaderEpochError):
        rules.hello(epoch=2, leader_id="c", session="other")
    rules.check("first", epoch=3)


def test_nothing_is_truncated_once_batches_came_until_the_next_session() -> None:
    rules = FollowerState(follower())
    rules.hello(epoch=3, leader_id="b", session=1)
    rules.check_truncation("p", end_offset=5, high_watermark=5)
    assert not rules.is_taking("p")
    assert not rules.takes("p", from_offset=4, log_end_offset=5)
    assert rules.is_taking("p")
    with pytest.raises(InvalidMessageError):
        rules.check_truncation("p", end_offset=5, high_watermark=5)
    rules.hello(epoch=3, leader_id="b", session=2)
    rules.check_truncation("p", end_offset=5, high_watermark=5)


def test_acknowledged_records_are_cut_only_where_others_are_lost_anyway() -> None:
    with pytest.raises(DivergedReplicaError) as caught:
        FollowerState(follower()).check_truncation("p", end_offset=4, high_watermark=5)
    assert (caught.value.end_offset, caught.value.high_watermark) == (4, 5)
    FollowerState(follower(in_sync=None)).check_truncation("p", end_offset=4, high_watermark=5)


@pytest.mark.parametrize(
    ("told", "known", "end", "mark"), [(5, 3, 9, 5), (5, 3, 4, 4), (2, 3, 9, 3), (5, 3, 2, 3)]
)
def test_a_followers_high_watermark_never_goes_back(
    told: int, known: int, end: int, mark: int
) -> None:
    assert FollowerState.high_watermark(told=told, known=known, log_end_offset=end) == mark


# ---------------------------------------------------------------- what a leader decides

LAG_MS = 100


class Leading:
    """A leader "a" of partitions 0 and 1, whose followers say what a test lets them say."""

    def __init__(self, *, needed: int = 2, end: int = 0) -> None:
        alone = InSync(3, 0, frozenset("a"))
        self.rules = LeaderState("a", last=alone, lag_time_max_ms=LAG_MS)
        self.now = 0
        for number in (0, 1):
            self.rules.partition_added(
                number,
                end_offset=end,
                own_offset=end,
                high_watermark=0,
                min_insync_replicas=needed,
                now_ms=0,
            )
        self.write_down()

    def write_down(self) -> None:
        if (unwritten := self.rules.unwritten) is not None:
            self.rules.noted(unwritten)
        self.rules.check()

    def say(self, name: str, *offsets: int, noted: bool = True) -> None:
        told = self.rules.to_note(name) if noted else None
        for number, offset in enumerate(offsets):
            self.rules.acknowledged(
                name,
                number,
                end_offset=offset,
                in_sync=None if told is None else told.order,
                now_ms=self.now,
            )
        self.write_down()

    def join(self, *names: str, end: int = 0) -> None:
        for name in names:
            self.rules.attached(name, None, now_ms=self.now)
            self.say(name, end, end)
            self.say(name, end, end)
        for name in names:
            self.say(name, end, end)

    def append(self, end: int, own: int | None = None) -> None:
        for number in (0, 1):
            self.rules.appended(
                number, end_offset=end, own_offset=end if own is None else own, now_ms=self.now
            )

    @property
    def marks(self) -> tuple[int, int]:
        return self.rules.high_watermark(0), self.rules.high_watermark(1)

    @property
    def members(self) -> str:
        return "".join(sorted(self.rules.in_sync.members))


def test_nothing_counts_before_the_leader_wrote_down_that_it_is_in_sync() -> None:
    rules = LeaderState("a", last=InSync(3, 5, frozenset("a")), lag_time_max_ms=LAG_MS)
    assert rules.in_sync_count == 0
    assert rules.unwritten == InSync(3, 6, frozenset("a"))
    rules.noted(rules.unwritten)
    assert (rules.in_sync_count, rules.unwritten) == (1, None)


def test_a_leader_alone_moves_its_mark_when_that_is_enough() -> None:
    alone = Leading(needed=1)
    alone.append(5, own=3)
    assert alone.marks == (3, 3)
    assert alone.rules.take_moved() == {0: 3, 1: 3}
    assert alone.rules.take_moved() == {}


def test_the_mark_is_the_least_of_all_in_sync_and_never_goes_back() -> None:
    leading = Leading()
    leading.join("b", "c")
    leading.append(5)
    leading.say("b", 5, 4)
    assert leading.marks == (0, 0)
    leading.say("c", 3, 5)
    assert leading.marks == (3, 4)
    leading.say("c", 2, 2)  # a message that was overtaken
    assert leading.marks == (3, 4)


def test_a_replica_is_in_sync_for_all_partitions_or_for_none() -> None:
    leading = Leading(end=5)
    leading.rules.attached("b", None, now_ms=0)
    leading.say("b", 5, 4)
    assert leading.members == "a"
    leading.say("b", 5, 5)
    assert leading.members == "ab"


def test_who_lacks_what_is_old_or_is_silent_is_dropped() -> None:
    leading = Leading()
    leading.join("b", "c", "d")
    leading.append(5)
    leading.now = LAG_MS
    leading.say("b", 5, 5)
    leading.say("c", 5, 4)  # alive, and late in partition 1
    leading.rules.tick(LAG_MS)
    assert leading.members == "abcd"
    leading.rules.tick(LAG_MS + 1)
    assert leading.members == "ab"


def test_who_always_reaches_what_was_there_is_in_time_though_never_at_the_end() -> None:
    leading = Leading()
    leading.join("b")
    for end in range(1, 50):
        leading.now += LAG_MS // 2
        leading.append(end)
        leading.say("b", end - 1, end - 1)
        leading.rules.tick(leading.now)
    assert leading.members == "ab"


def test_who_acknowledges_before_the_leader_has_looked_lacks_nothing() -> None:
    leading = Leading()
    leading.join("b")
    leading.say("b", 5, 5)
    leading.append(5)
    assert leading.marks == (5, 5)
    for _ in range(4):
        leading.now += LAG_MS // 2
        leading.say("b", 5)  # nothing is new in partition 1, so nothing is said of it
        leading.rules.tick(leading.now)
    assert leading.members == "ab"


def test_a_clock_that_goes_back_stands_still() -> None:
    leading = Leading()
    leading.join("b")
    leading.rules.tick(LAG_MS)
    leading.rules.tick(-10_000)
    leading.append(5)
    assert leading.members == "ab"
    leading.rules.tick(LAG_MS + 1)
    assert leading.members == "a"


def test_the_mark_stands_still_with_too_few_in_sync_and_goes_on_with_enough() -> None:
    leading = Leading()
    leading.join("b")
    leading.append(5)
    leading.rules.removed("b")
    leading.write_down()
    assert (leading.rules.in_sync_count, leading.marks) == (1, (0, 0))
    leading.join("b", end=5)
    assert (leading.rules.in_sync_count, leading.marks) == (2, (5, 5))


def test_a_topic_may_ask_for_more_or_less() -> None:
    leading = Leading(needed=2)
    leading.append(5)
    assert leading.marks == (0, 0)
    leading.rules.needed(1, 1)
    assert leading.marks == (0, 5)


def test_the_mark_waits_for_who_is_caught_up_and_about_to_come_in() -> None:
    leading = Leading(needed=1)
    leading.append(5)
    leading.rules.attached("b", None, now_ms=0)
    leading.append(7)
    leading.say("b", 5, 5)  # it has what was there when it came, not what can be read since
    assert (leading.members, leading.marks) == ("a", (7, 7))
    leading.append(9)
    assert leading.marks == (7, 7)
    leading.say("b", 7, 7)
    assert leading.members == "ab"


def test_a_set_counts_when_all_its_members_have_written_it_down() -> None:
    leading = Leading()
    leading.append(5)
    leading.rules.attached("b", None, now_ms=0)
    leading.say("b", 5, 5, noted=False)
    assert (leading.members, leading.rules.in_sync_count, leading.marks) == ("ab", 1, (0, 0))
    leading.say("b", 5, 5)
    assert (leading.rules.in_sync_count, leading.marks) == (2, (5, 5))


def test_a_set_counts_that_was_written_down_before_the_session_ended() -> None:
    leading = Leading()
    leading.rules.attached("b", None, now_ms=0)
    leading.say("b", 0, 0, noted=False)
    leading.rules.detached("b")
    leading.rules.attached("b", leading.rules.in_sync, now_ms=0)
    assert leading.rules.in_sync_count == 2


@pytest.mark.parametrize("is_known", [False, True])
def test_who_comes_back_with_less_is_dropped_and_told_nothing_of_before(is_known: bool) -> None:
    leading = Leading()
    leading.join("b", "c")
    leading.append(5)
    leading.say("b", 5, 5)
    leading.say("c", 5, 5)
    leading.rules.detached("b")
    noted = leading.rules.in_sync if is_known else None
    leading.rules.attached("b", noted, now_ms=0)
    if is_known:  # it lost records and does not know
        leading.rules.acknowledged("b", 0, end_offset=2, in_sync=noted.order, now_ms=0)
    assert leading.members == "ac"
    assert leading.rules.to_note("b") is None


def test_a_partition_that_is_made_or_deleted_meanwhile_is_taken_in_or_forgotten() -> None:
    leading = Leading()
    leading.join("b")
    leading.rules.partition_added(
        2, end_offset=0, own_offset=0, high_watermark=0, min_insync_replicas=2, now_ms=0
    )
    leading.rules.appended(2, end_offset=3, own_offset=3, now_ms=0)
    assert leading.rules.high_watermark(2) == 0
    leading.say("b", 0, 0, 3)
    assert leading.rules.high_watermark(2) == 3
    leading.rules.partition_removed(2)
    leading.say("b", 0, 0, 4)
    assert leading.rules.take_moved() == {}
