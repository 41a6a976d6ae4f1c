"""`verify DIR`: examine every byte of a log or of one partition, and say what is wrong."""

from __future__ import annotations

from typing import Any

from pylog.cli import progress, show
from pylog.storage.inspect import PartitionReport
from pylog.topics.verification import LogReport, verify

SUMMARY = "Examine a log or a partition."
DESCRIPTION = """\
Examine a log directory, or one partition directory: manifests, every batch
and record, leader epochs, index entries, file sizes, topics, and files that
do not belong.  Nothing is changed, and no lock is taken: what other
processes write meanwhile is not judged, and said to be in use.

A finding is DAMAGE when something written is lost, unreadable or
contradicted; otherwise a note.
Exit code: 0 no damage, 1 damage, 2 wrong usage or DIR cannot be opened.
With --json: one document, when all is done."""


def run(directory: str, *, as_json: bool) -> int:
    """Print each report as it is made, or all of them as JSON; return the exit code.

    Raises what `pylog.topics.verification.verify` raises.
    """
    reports = []
    with progress.shown("examining", prints=not as_json) as advance:
        for report in verify(directory):
            reports.append(report)
            advance(len(reports), None)
            if not as_json:
                _print_report(report)
    findings = [finding for report in reports for finding in report.findings]
    damages = sum(finding.is_damage for finding in findings)
    if as_json:
        show.print_json(_document(directory, reports, damages))
    else:
        partitions = sum(isinstance(report, PartitionReport) for report in reports)
        notes = len(findings) - damages
        print(
            f"{show.counted(partitions, 'partition')},"
            f" {show.counted(damages, 'damage')}, {show.counted(notes, 'note')}"
        )
    return 1 if damages else 0


def _print_report(report: PartitionReport | LogReport) -> None:
    if isinstance(report, PartitionReport):
        state = "DAMAGED" if report.is_damaged else "in use, ok" if report.is_in_use else "ok"
        print(
            f"{show.printable(report.path)}: {state}:"
            f" offsets [{report.log_start_offset}, {report.log_end_offset}),"
            f" {show.counted(report.records, 'record')} in"
            f" {show.counted(report.batches, 'batch', 'batches')},"
            f" {report.size:,} bytes, {show.counted(report.segments, 'segment')}"
        )
    for finding in report.findings:
        show.print_finding(finding)


def _document(
    path: str, reports: list[PartitionReport | LogReport], damages: int
) -> dict[str, Any]:
    """Return what `--json` prints."""
    partitions = []
    findings: list[dict[str, Any]] = []
    for report in reports:
        shown = [show.finding_values(finding) for finding in report.findings]
        if isinstance(report, LogReport):
            findings += shown
            continue
        partitions.append(
            {
                "path": report.path,
                "is_damaged": report.is_damaged,
                "is_in_use": report.is_in_use,
                "log_start_offset": report.log_start_offset,
                "log_end_offset": report.log_end_offset,
                "records": report.records,
                "batches": report.batches,
                "bytes": report.size,
                "segments": report.segments,
                "findings": shown,
            }
        )
    return {"path": path, "damages": damages, "partitions": partitions, "findings": findings}
