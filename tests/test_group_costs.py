"""What a member does not work out, as nothing changed for it."""

from __future__ import annotations

import pytest

from pylog import Log
from pylog.groups import membership
from pylog.groups.membership import Standing
from pylog.groups.state import Group, Member


def test_what_others_do_is_not_worked_out_by_those_whom_it_does_not_concern(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.create_topic("orders", 6)
    groups = log._coordinator
    members = [groups.join("g", ["orders"], instance_id=f"w{number:02}") for number in range(6)]
    held = [member.look().assigned for member in members]
    while any(len(places) != 1 for places in held):
        for member in members:
            member.let_go(member.look().to_revoke)
        held = [member.look().assigned for member in members]
    standings = [member.look() for member in members]
    worked_out: list[str] = []
    standing_of = membership.standing_of

    def noted(group: Group, member: Member) -> Standing:
        assert member.said is not None
        worked_out.append(str(member.said.instance_id))
        return standing_of(group, member)

    monkeypatch.setattr(membership, "standing_of", noted)
    late = groups.join("g", ["orders"], instance_id="late")
    for member, standing in zip(members, standings, strict=True):
        member.is_due(standing)
        assert member.look() is standing
    assert worked_out == []
    assert late.look().assigned == frozenset()
    assert worked_out == ["late"]
