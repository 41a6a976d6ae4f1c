"""`mirror`: copy topics into a Kafka cluster, and the places of groups."""

from __future__ import annotations

from typing import Any, Final, Literal

import click

from pylog.cli import options, progress, show
from pylog.interop import kafka
from pylog.records import TopicPartition

_HELP = """Copy topics into a Kafka cluster: those that are there, or all that comes.

Of the TOPICs, by default all.  It goes on where the last run ended, however that was.  Ctrl-C ends
it when what is under way is acknowledged.

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
@click.option("-F", "--follow", is_flag=True, help="Go on, and copy what comes.")
@click.option("--pattern", metavar="REGEX", help="Topics that it matches, later ones as well.")
@click.option(
    "--offsets",
    type=click.Choice(["auto", "identity", "recorded"]),
    default="auto",
    show_default=True,
    help="The same in the cluster, or recorded there.",
)
@click.option("--create-topics", is_flag=True, help="Make those that are missing in the cluster.")
@click.option("--replication-factor", default=-1, metavar="N", help="Of those; -1: the cluster's.")
@click.option("--name", "mirror_name", default="mirror", show_default=True, help="Of the mirror.")
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
    follow: bool,
    pattern: str | None,
    offsets: Literal["auto", "identity", "recorded"],
    create_topics: bool,
    replication_factor: int,
    mirror_name: str,
    state_topic: str,
    with_groups: bool,
    yes: bool,
    directory: str,
    as_json: bool,
) -> None:
    """Mirror topics, then groups."""
    if with_groups and follow:
        raise click.UsageError("--groups: when all is copied, so not with --follow")
    with options.open_existing(directory) as log:
        made = kafka.Mirror(
            log,
            _settings(brokers, settings),
            topics=names or None,
            pattern=pattern,
            offsets=offsets,
            create_topics=create_topics,
            replication_factor=replication_factor,
            name=mirror_name,
            state_topic=state_topic,
        )
        with progress.shown("mirroring") as advance:
            copied = made.run(follow=follow, progress=_Tally(advance).tell)
        moved = made.copy_groups(dry_run=not yes) if with_groups else {}
    rows = [copied[place]._asdict() for place in sorted(copied)]
    groups = [_group_row(group, place, moved[group][place]) for group in sorted(moved)
              for place in sorted(moved[group])]  # fmt: skip
    if as_json:
        document: dict[str, Any] = {"partitions": rows}
        if with_groups:
            document |= {"groups": groups, "is_committed": yes}
        show.print_json(document)
        return
    columns = ("TOPIC", "PARTITION", "NEXT", "END", "IN CLUSTER", "RECORDS", "BYTES", "OFFSETS")
    show.print_table(columns, [tuple(row.values()) for row in rows])
    if with_groups:
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
