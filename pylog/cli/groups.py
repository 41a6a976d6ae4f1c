"""`groups`, `describe-group`, `seek`, `lag`: who reads what, how far, and from where on."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

import click

from pylog.cli import options, show
from pylog.cli.options import Kind, Place, PlaceType
from pylog.groups.administration import Groups
from pylog.groups.descriptions import GroupDescription, OffsetReset
from pylog.records import OffsetAndMetadata, TopicPartition

_LAG_COLUMNS: Final = ("GROUP", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER")
_FOUND: Final = 1  # the exit code of a lag that is too large


@click.command("groups")
@options.directory
@options.as_json
def list_groups(*, directory: str, as_json: bool) -> None:
    """List the consumer groups of the log."""
    with options.open_existing(directory) as log:
        rows = [dataclasses.asdict(listing) for listing in log.groups.list()]
    if as_json:
        show.print_json(rows)
    else:
        show.print_table(("GROUP", "STATE", "MEMBERS"), [tuple(row.values()) for row in rows])


@click.command("describe-group", short_help="Tell a group's members and offsets.")
@click.argument("name", metavar="GROUP")
@options.directory
@options.as_json
def describe_group(*, name: str, directory: str, as_json: bool) -> None:
    """Tell a group's members, what each has, and how far the group is in each partition."""
    with options.open_existing(directory) as log:
        group = log.groups.describe(name)
    members = [
        {
            "member_id": member.member_id,
            "instance_id": member.instance_id,
            "client_id": member.client_id,
            "host": member.client_host,
            "is_away": member.is_away,
            "topics": sorted(member.topics),
            "assigned": _names(member.assigned),
            "to_revoke": _names(member.to_revoke),
        }
        for member in group.members
    ]
    if as_json:
        document = {"group": name, "state": group.state, "epoch": group.epoch}
        document |= {"assignor": group.assignor or None, "lag": group.lag}
        show.print_json(document | {"members": members, "offsets": _lag_rows(group)})
        return
    led = f", assigned by {group.assignor}" if group.assignor else ""
    print(
        f"{show.printable(name)}: {group.state}, {show.counted(len(members), 'member')},"
        f" epoch {group.epoch}{led}, {group.lag:,} behind"
    )
    if members:
        columns = ("MEMBER", "INSTANCE", "HOST", "AWAY", "PARTITIONS", "TO REVOKE")
        fields = ("member_id", "instance_id", "host", "is_away", "assigned", "to_revoke")
        show.print_table(columns, [[_joined(row[field]) for field in fields] for row in members])
    show.print_table(_LAG_COLUMNS[1:], [tuple(row.values())[1:] for row in _lag_rows(group)])


def _names(partitions: frozenset[TopicPartition]) -> list[str]:
    return [f"{topic}-{number}" for topic, number in sorted(partitions)]


def _joined(value: Any) -> object:
    return ", ".join(value) if isinstance(value, list) else value


def _lag_rows(group: GroupDescription) -> list[dict[str, Any]]:
    """Return how far a group is, a row for each partition."""
    return [
        {
            "group": group.group,
            "topic": topic,
            "partition": number,
            "committed": offset.committed and offset.committed.offset,
            "high_watermark": offset.high_watermark,
            "lag": offset.lag,
            "member_id": offset.member_id,
        }
        for (topic, number), offset in group.offsets.items()
    ]


@click.command(short_help="Tell how far groups are behind.")
@click.argument("names", metavar="[GROUP]...", nargs=-1)
@click.option(
    "--max",
    "limit",
    type=click.IntRange(0),
    metavar="N",
    help="Exit with code 1 when a group is more than N records behind.",
)
@options.directory
@options.as_json
def lag(*, names: tuple[str, ...], limit: int | None, directory: str, as_json: bool) -> int:
    """Tell how far groups are behind in each partition; by default all groups."""
    with options.open_existing(directory) as log:
        chosen = names or [listing.group for listing in log.groups.list()]
        groups = [log.groups.describe(name) for name in chosen]
    rows = [row for group in groups for row in _lag_rows(group)]
    if as_json:
        show.print_json(rows)
    else:
        show.print_table(_LAG_COLUMNS, [tuple(row.values()) for row in rows])
    return _FOUND if limit is not None and any(group.lag > limit for group in groups) else 0


# ------------------------------------------------------------------ seek

_SEEK_HELP = """Let a group without members go on elsewhere.

Of the TOPICs, or partitions written as TOPIC:NUMBER; by default wherever it committed.  A group
that is not there is made.  Without --yes it is only said what would be committed.

\b
-o, where to go on in each partition:
  beginning, end   the first record there is; what comes from now on
  42, -10          an offset; so many offsets before the end
  s@TIME           the first record as late: milliseconds since the epoch, a
                   time as 2024-05-01T12:00 (local), or how long ago, as -15m

Example: pylog seek billing orders:2 -o s@-2h --yes
"""


@click.command(help=_SEEK_HELP, short_help="Let a group go on elsewhere.")
@click.argument("group", metavar="GROUP")
@click.argument("targets", metavar="[TOPIC[:NUMBER]]...", nargs=-1)
@click.option("-o", "--offset", "place", type=PlaceType(), help="See above.")
@click.option("--shift", type=int, metavar="N", help="So many records further, or back if below 0.")
@options.yes
@options.directory
@options.as_json
def seek(
    *,
    group: str,
    targets: tuple[str, ...],
    place: Place | None,
    shift: int | None,
    yes: bool,
    directory: str,
    as_json: bool,
) -> None:
    """Reset committed offsets."""
    if (place is None) == (shift is None):
        raise click.UsageError("say where to go on: one of -o and --shift")
    named = [_target(text) for text in targets] or None
    with options.open_existing(directory) as log:
        if place is None:
            resets = log.groups.reset_offsets(group, named, shift=shift, dry_run=not yes)
        else:
            resets = _reset(log.groups, group, named, place, is_done=yes)
    rows = [
        {"topic": topic, "partition": number, "before": reset.before, "after": reset.after}
        for (topic, number), reset in sorted(resets.items())
    ]
    if as_json:
        show.print_json({"group": group, "is_committed": yes, "offsets": rows})
        return
    columns = ("TOPIC", "PARTITION", "BEFORE", "AFTER")
    show.print_table(columns, [tuple(row.values()) for row in rows])
    if not yes:
        print("nothing was committed: add --yes")


def _target(text: str) -> str | TopicPartition:
    """Return a topic's name, or a partition that was written as TOPIC:NUMBER."""
    match = re.fullmatch(r"(.+):(\d+)", text, re.ASCII)
    return TopicPartition(match[1], int(match[2])) if match else text


def _reset(
    groups: Groups,
    group: str,
    named: list[str | TopicPartition] | None,
    place: Place,
    *,
    is_done: bool,
) -> dict[TopicPartition, OffsetReset]:
    """Reset offsets to a place; return where they were and are."""
    if place.kind is Kind.BEFORE_END:
        lowest = groups.reset_offsets(group, named, to="earliest", dry_run=True)
        highest = groups.reset_offsets(group, named, to="latest", dry_run=True)
        resets = {
            one: OffsetReset(reset.before, max(reset.after - place.number, lowest[one].after))
            for one, reset in highest.items()
        }
        if is_done:
            offsets = {one: OffsetAndMetadata(reset.after) for one, reset in resets.items()}
            groups.alter_offsets(group, offsets)
        return resets
    return groups.reset_offsets(group, named, to=place.target, dry_run=not is_done)


COMMANDS: Final = (list_groups, describe_group, lag, seek)
