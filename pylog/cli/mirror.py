"""`mirror`: copy topics into a Kafka cluster, and the places of groups; or topics out of one."""

from __future__ import annotations

from typing import Any, Final, Literal

import click

from pylog.cli import options, progress, show
from pylog.interop import kafka
from pylog.records import TopicPartition

_HELP = """Copy topics into a Kafka cluster: what is there, or all that comes.

The TOPICs, by default all; with --back out of the cluster into the log, at their own offsets.  It
goes on where the last run ended, however that was.  Ctrl-C ends it when what is under way is
acknowledged.

With --groups, where groups go on is copied, too, when the records are: without --yes it is only
said what would be committed in the cluster.  Let their members end here before.

Example: pylog mirror -b broker-1:9092 orders --create-topics --follow
"""


@click.command(help=_HELP, short_help="Copy topics into a Kafka cluster.")
@click.argument("names", metavar="[TOPIC]...", nargs=-1)
@click.option("-b", "--brokers", required=True, metavar="HOST:PORT,...", help="Of the cluster.")
@click.option(
    "-X",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of librdkafka, as kcat's.",
)
@click.option("--back", is_flag=True, help="Copy out of the cluster into the log instead.")
@click.option("-F", "--follow", is_flag=True, help="Go on, and copy what comes.")
@click.option("--pattern", metavar="REGEX", help="Topics that it matches, later ones as well.")
@click.option(
    "--offsets",
    type=click.Choice(["auto", "identity", "recorded"]),
    default="auto",
    show_default=True,
    help="The same in the cluster, or recorded there.",
)
@click.option("--create-topics", is_flag=True, help="Make those that are missing.")
@click.option("--replication-factor", default=-1, metavar="N", help="Of those; -1: the cluster's.")
@click.option("--name", "mirror_name", help="Of the mirror, where a log has several.")
@click.option("--state-topic", default="__pylog_mirror", show_default=True, help="In the cluster.")
@click.option("--groups", "with_groups", is_flag=True, help="See above.")
@options.yes
@options.directory
@options.as_json
def mirror(
    *,
    names: tuple[str, ...],
    brokers: str,
    settings: tuple[str, ...],
    back: bool,
    follow: bool,
    pattern: str | None,
    offsets: Literal["auto", "identity", "recorded"],
    create_topics: bool,
    replication_factor: int,
    mirror_name: str | None,
    state_topic: str,
    with_groups: bool,
    yes: bool,
    directory: str,
    as_json: bool,
) -> None:
    """Mirror topics, then groups."""
    if with_groups and (follow or back):
        raise click.UsageError("--groups: into the cluster, and when all is copied")
    moved: dict[str, dict[TopicPartition, kafka.CopiedOffset]] = {}
    common: dict[str, Any] = {"topics": names or None, "pattern": pattern}
    common |= {"create_topics": create_topics}
    common |= {} if mirror_name is None else {"name": mirror_name}
    servers = _settings(brokers, settings)
    with options.open_existing(directory) as log, progress.shown("mirroring") as advance:
        tell = _Tally(advance).tell
        if back:
            copied = kafka.Source(log, servers, **common).run(follow=follow, progress=tell)
        else:
            there = kafka.Mirror(
                log,
                servers,
                offsets=offsets,
                replication_factor=replication_factor,
                state_topic=state_topic,
                **common,
            )
            copied = there.run(follow=follow, progress=tell)
            if with_groups:
                moved = there.copy_groups(dry_run=not yes)
    rows = [copied[place]._asdict() for place in sorted(copied)]
    groups = [_group_row(group, place, moved[group][place]) for group in sorted(moved)
              for place in sorted(moved[group])]  # fmt: skip
    _print(rows, groups if with_groups else None, yes=yes, as_json=as_json)


def _print(
    rows: list[dict[str, Any]], groups: list[dict[str, Any]] | None, *, yes: bool, as_json: bool
) -> None:
    """Print what was copied; groups: None when nobody asked for them."""
    if as_json:
        document: dict[str, Any] = {"partitions": rows}
        if groups is not None:
            document |= {"groups": groups, "is_committed": yes}
        show.print_json(document)
        return
    columns = ("TOPIC", "PARTITION", "NEXT", "END", "THERE", "RECORDS", "BYTES", "OFFSETS")
    show.print_table(columns, [tuple(row.values()) for row in rows])
    if groups is not None:
        of_groups = ("GROUP", "TOPIC", "PARTITION", "HERE", "IN CLUSTER", "MISSING")
        show.print_table(of_groups, [tuple(row.values()) for row in groups])
        if not yes:
            print("no group was committed: add --yes")


class _Tally:
    """Adds up how far all partitions are."""

    def __init__(self, advance: progress.Advance) -> None:
        self._advance = advance
        self._places: dict[TopicPartition, kafka.MirrorProgress] = {}

    def tell(self, state: kafka.MirrorProgress) -> None:
        """Tell of one partition, and so of all of them."""
        self._places[TopicPartition(state.topic, state.partition)] = state
        done = sum(one.records for one in self._places.values())
        left = sum(max(one.end - one.position, 0) for one in self._places.values())
        self._advance(done, done + left)


def _settings(brokers: str, pairs: tuple[str, ...]) -> dict[str, str]:
    """Return librdkafka's settings.  Raises click.BadParameter."""
    settings = {"bootstrap.servers": brokers}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r}: expected NAME=VALUE", param_hint="-X")
        settings[name] = value
    return settings


def _group_row(group: str, place: TopicPartition, offset: kafka.CopiedOffset) -> dict[str, Any]:
    return {
        "group": group,
        "topic": place.topic,
        "partition": place.partition,
        "here": offset.source,
        "in_cluster": offset.target,
        "missing": offset.missing,
    }


COMMANDS: Final = (mirror,)
