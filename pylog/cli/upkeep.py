"""`compact` and `metrics`: what is done to a log, and what it looks like."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import click

from pylog.cli import options, progress, show
from pylog.log import Log
from pylog.records import CompactionProgress, CompactionReport
from pylog.storage.policy import is_compacted

# Of metrics(): what this process itself did, which is nothing but to look.
_OWN_WORK: Final = frozenset(
    "appended_records appended_bytes read_records read_bytes syncs sync_seconds last_sync_seconds"
    " compaction_error".split()
)
# Of its replication: what only the process knows that leads.
_OF_WHO_LEADS: Final = ("is_run_here", "error", "followers")
_NO_ROLE: Final = "none"


@click.command(short_help="Keep the newest record of each key.")
@click.argument("names", metavar="[TOPIC]...", nargs=-1)
@options.directory
@options.as_json
def compact(*, names: tuple[str, ...], directory: str, as_json: bool) -> None:
    """Compact topics now: of each key the newest record stays.

    By default all topics whose cleanup policy says so.  Readers and appenders go on meanwhile.
    """
    reports: list[CompactionReport] = []
    with options.open_existing(directory) as log:
        topics = [log.topic(name) for name in names or _compacted(log)]
        for topic in topics:
            if not is_compacted(topic.config):
                policy = topic.config.cleanup_policy
                raise options.UnusableError(
                    f"topic {topic.name!r} is not compacted: its cleanup_policy is {policy!r}"
                )
        with progress.shown("compacting", is_bytes=True) as advance:

            def tell(state: CompactionProgress) -> None:
                advance(state.done_bytes, state.total_bytes)

            for topic in topics:
                reports += topic.compact(progress=tell).values()
    if as_json:
        show.print_json([dataclasses.asdict(report) for report in reports])
        return
    columns = ("TOPIC", "PARTITION", "RECORDS", "KEPT", "BYTES", "AFTER", "SEGMENTS", "AFTER")
    rows = [
        (
            report.topic,
            report.partition,
            report.records_read,
            report.records_kept,
            report.bytes_before,
            report.bytes_after,
            report.segments_before,
            report.segments_after,
        )
        for report in reports
    ]
    show.print_table(columns, rows)


def _compacted(log: Log) -> list[str]:
    return [name for name in log.topics() if is_compacted(log.topic(name).config)]


@click.command(short_help="Tell numbers of each partition.")
@click.argument("names", metavar="[TOPIC]...", nargs=-1)
@options.directory
@options.as_json
def metrics(*, names: tuple[str, ...], directory: str, as_json: bool) -> None:
    """Tell numbers of each partition, by default of all topics.

    Opens every partition that it tells of.  What a process appended, read and synced is told by
    that process alone: `Log.metrics()`.
    """
    with options.open_existing(directory) as log:
        rows = []
        for name in names or log.topics():
            for partition in log.topic(name).partitions:
                numbers = partition.metrics() if partition.log_end_offset else None
                if numbers is not None:
                    rows.append({key: numbers[key] for key in numbers if key not in _OWN_WORK})
        known = log.metrics()
    document: dict[str, Any] = {key: known[key] for key in ("path", "log_id", "partitions_known")}
    status = known["replication"] or {}
    role = {key: status[key] for key in status if key not in _OF_WHO_LEADS}
    document["replication"] = role
    if as_json:
        partitions = {f"{row['topic']}-{row['partition']}": row for row in rows}
        show.print_json(document | {"partitions": partitions})
        return
    columns = "TOPIC PARTITION STATE START HIGH-WATERMARK END DURABLE SEGMENTS BYTES DIRTY"
    show.print_table([*columns.split(), "COMPACTED"], [_metrics_cells(row) for row in rows])
    if role.get("role", _NO_ROLE) != _NO_ROLE:
        print(
            f"replication: {role['role']} of epoch {role['epoch']},"
            f" in sync: {show.printable(', '.join(role['in_sync'])) or 'nobody'}"
        )


def _metrics_cells(row: dict[str, Any]) -> tuple[object, ...]:
    *cells, dirty, compacted_at = row.values()
    at = None if compacted_at is None else options.time_text(compacted_at)
    return *cells, None if dirty is None else f"{dirty:.2f}", at


COMMANDS: Final = (compact, metrics)
