"""`topics`, `create`, `describe`, `delete`: which topics there are, and what they hold."""

from __future__ import annotations

import dataclasses
from typing import Any, Final, Literal

import click

from pylog.cli import options, show
from pylog.config import TopicConfig
from pylog.log import open as open_log
from pylog.storage.partition import Partition
from pylog.topics.topic import Topic

_EMPTY: Final = {"state": None, "segments": 0, "size_bytes": 0}


@click.command("topics")
@options.directory
@options.as_json
def list_topics(*, directory: str, as_json: bool) -> None:
    """List the topics of the log.

    Opens no partition: it takes as long for many as for few.
    """
    with options.open_existing(directory) as log:
        found = [log.topic(name) for name in log.topics()]
        rows = [
            {
                "topic": topic.name,
                "partitions": len(topic),
                "durability": topic.config.durability,
                "cleanup_policy": topic.config.cleanup_policy,
            }
            for topic in found
        ]
    if as_json:
        show.print_json(rows)
    else:
        columns = ("TOPIC", "PARTITIONS", "DURABILITY", "CLEANUP")
        show.print_table(columns, [tuple(row.values()) for row in rows])


@click.command(short_help="Create topics.")
@click.argument("names", metavar="TOPIC...", nargs=-1, required=True)
@click.option(
    "-p",
    "--partitions",
    default=1,
    show_default=True,
    metavar="N",
    help="How many each topic gets.",
)
@click.option(
    "-c",
    "--config",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting, by pylog's name or Kafka's: retention_ms=3600000.  Can be repeated.",
)
@click.option(
    "--if-exists",
    type=click.Choice(["error", "ok"]),
    default="error",
    show_default=True,
    help="What a topic is that is there already.",
)
@options.directory
@options.as_json
def create(
    *,
    names: tuple[str, ...],
    partitions: int,
    settings: tuple[str, ...],
    if_exists: Literal["error", "ok"],
    directory: str,
    as_json: bool,
) -> None:
    """Create topics; the log, too, if it is not there."""
    given = options.parse_settings(settings)
    with open_log(directory) as log:
        made = [log.create_topic(name, partitions, if_exists=if_exists, **given) for name in names]
        counts = {topic.name: len(topic) for topic in made}
    if as_json:
        show.print_json([{"topic": name, "partitions": counts[name]} for name in counts])
    else:
        for name in counts:
            print(f"{name}: {show.counted(counts[name], 'partition')}")


@click.command(short_help="Tell a topic's settings and partitions.")
@click.argument("name", metavar="TOPIC")
@options.directory
@options.as_json
def describe(*, name: str, directory: str, as_json: bool) -> None:
    """Tell a topic's settings, and each partition's offsets and size."""
    with options.open_existing(directory) as log:
        topic = log.topic(name)
        settings = dataclasses.asdict(topic.config)
        rows = [_partition_values(partition) for partition in topic.partitions]
    if as_json:
        document = {"topic": name, "topic_id": str(topic.topic_id), "settings": settings}
        show.print_json(document | {"partitions": rows})
        return
    records = sum(row["high_watermark"] - row["log_start_offset"] for row in rows)
    print(
        f"{name}: {show.counted(len(rows), 'partition')}, {show.counted(records, 'offset')},"
        f" {sum(row['size_bytes'] for row in rows):,} bytes"
    )
    defaults = dataclasses.asdict(TopicConfig())
    changed = {name: value for name, value in settings.items() if value != defaults[name]}
    print("settings: " + (", ".join(f"{name}={changed[name]}" for name in changed) or "defaults"))
    columns = (
        "PARTITION",
        "START",
        "HIGH-WATERMARK",
        "END",
        "DURABLE",
        "SEGMENTS",
        "BYTES",
        "STATE",
    )
    show.print_table(columns, [tuple(row.values()) for row in rows])


def _partition_values(partition: Partition) -> dict[str, Any]:
    """Return what is told of a partition; one that was never written has no files, and no state."""
    start, end = partition.log_start_offset, partition.log_end_offset
    files = partition.metrics() or _EMPTY
    return {
        "partition": partition.number,
        "log_start_offset": start,
        "high_watermark": partition.high_watermark,
        "log_end_offset": end,
        "durable_offset": partition.durable_offset,
        "segments": files["segments"],
        "size_bytes": files["size_bytes"],
        "state": files["state"],
    }


@click.command(short_help="Delete topics with all their records.")
@click.argument("names", metavar="TOPIC...", nargs=-1, required=True)
@options.yes
@options.directory
@options.as_json
def delete(*, names: tuple[str, ...], yes: bool, directory: str, as_json: bool) -> None:
    """Delete topics with all their records, and what groups committed for them.

    Without --yes it is only said what would be deleted.
    """
    with options.open_existing(directory) as log:
        rows = [_deletion(log.topic(name), is_done=yes) for name in names]
        for row in rows:
            if yes:
                log.delete_topic(row["topic"])
            if not as_json:
                verb = "deleted" if yes else "would delete"
                print(
                    f"{verb} {row['topic']}: {show.counted(row['partitions'], 'partition')},"
                    f" {show.counted(row['offsets'], 'offset')}, {row['size_bytes']:,} bytes"
                )
    if as_json:
        show.print_json(rows)
    elif not yes:
        print("nothing was deleted: add --yes")


def _deletion(topic: Topic, *, is_done: bool) -> dict[str, Any]:
    rows = [_partition_values(partition) for partition in topic.partitions]
    return {
        "topic": topic.name,
        "partitions": len(rows),
        "offsets": sum(row["high_watermark"] - row["log_start_offset"] for row in rows),
        "size_bytes": sum(row["size_bytes"] for row in rows),
        "is_deleted": is_done,
    }


COMMANDS: Final = (list_topics, create, describe, delete)
