"""Print the speed table from a result of pytest-benchmark: medians, ratios, and what was promised.

    python -m pytest bench --benchmark-json result.json
    python -m bench.ratios result.json

Ends with status 0 whatever the figures are: a slow machine is no error.  A row whose lines are not
in the result is shown as such.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rows import ROWS, Comparison, Row

Lines = dict[tuple[str, str], "Line"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a result: the seconds of a round, median and best, and what a round handles."""

    seconds: float
    records: int
    bytes: int
    best_seconds: float
    durability: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row with its figures, in the unit of the row's comparison.

    value: of the medians; it decides.  best: of the best rounds, which other programs disturb less.
    """

    row: Row
    subject: Line
    baseline: Line
    value: float
    best: float

    @property
    def is_met(self) -> bool | None:
        """Whether the promise holds in this result; None when nothing was promised."""
        if self.row.target is None:
            return None
        is_rate = self.row.comparison in (
            Comparison.RECORDS_PER_SECOND,
            Comparison.BYTES_PER_SECOND,
            Comparison.OWN_RATE,
        )
        return self.value >= self.row.target if is_rate else self.value <= self.row.target


def read_lines(result: dict[str, Any]) -> Lines:
    """Return the lines of a result by group and name of the contestant."""
    lines = {}
    for benchmark in result["benchmarks"]:
        extra = benchmark["extra_info"]
        if "records" in extra:
            stats = benchmark["stats"]
            line = Line(
                stats["median"],
                extra["records"],
                extra["bytes"],
                stats["min"],
                extra["durability"],
            )
            lines[benchmark["group"], benchmark["param"]] = line
    return lines


def compare(row: Row, subject: Line, baseline: Line) -> Verdict:
    """Return a row's figures."""
    best = _value(row, _best_of(subject), _best_of(baseline))
    return Verdict(row, subject, baseline, _value(row, subject, baseline), best)


def _best_of(line: Line) -> Line:
    return dataclasses.replace(line, seconds=line.best_seconds)


def _value(row: Row, subject: Line, baseline: Line) -> float:
    return {
        Comparison.RECORDS_PER_SECOND: _quotient(
            subject.records * baseline.seconds, subject.seconds * baseline.records
        ),
        Comparison.BYTES_PER_SECOND: _quotient(
            subject.bytes * baseline.seconds, subject.seconds * baseline.bytes
        ),
        Comparison.TIME: _quotient(subject.seconds, baseline.seconds),
        Comparison.EXTRA_TIME: subject.seconds - baseline.seconds,
        Comparison.OWN_TIME: subject.seconds,
        Comparison.OWN_RATE: _quotient(subject.records, subject.seconds),
    }[row.comparison]


def _quotient(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else float("nan")


def judge(lines: Lines, rows: Iterable[Row] = ROWS) -> list[Verdict | Row]:
    """Return a verdict for each row, or the row itself when the result does not have its lines."""
    verdicts: list[Verdict | Row] = []
    for row in rows:
        subject = lines.get((row.group, row.subject))
        baseline = lines.get((row.group, row.baseline))
        if subject is None or baseline is None:
            verdicts.append(row)
        else:
            verdicts.append(compare(row, subject, baseline))
    return verdicts


COLUMNS = ("row", "pylog", "baseline", "figure", "best rounds", "target", "met")


def table(verdicts: Iterable[Verdict | Row]) -> str:
    """Return the table as Markdown."""
    return markdown(COLUMNS, [cells_of(verdict) for verdict in verdicts], numbers=(1, 6))


def markdown(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: tuple[int, int]
) -> str:
    """Return a table as Markdown.  numbers: [start, end) of the columns to align right."""
    start, end = numbers
    lines = ["---:" if start <= column < end else "---" for column in range(len(columns))]
    cells = [tuple(columns), tuple(lines), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = (
        " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )
    return "\n".join(f"| {line} |" for line in lines)


def cells_of(verdict: Verdict | Row) -> tuple[str, ...]:
    """Return one row of the table."""
    if isinstance(verdict, Row):
        return verdict.text, "not run", "", "", "", _target(verdict), ""
    row = verdict.row
    return (
        f"{row.text}: {row.subject} vs. {row.baseline}",
        _speed(row, verdict.subject),
        _speed(row, verdict.baseline),
        _figure(row, verdict.value),
        _figure(row, verdict.best),
        _target(row),
        {True: "yes", False: "NO", None: "-"}[verdict.is_met],
    )


def _target(row: Row) -> str:
    return "-" if row.target is None else _figure(row, row.target)


def refreshed(page: str, verdicts: Iterable[Verdict | Row]) -> str:
    """Return a page with the rows of its table of speeds as they are now.

    The page decides which rows it has; those that were not run stay as they are.
    """
    found = {one.row.text: cells_of(one)[:4] for one in verdicts if isinstance(one, Verdict)}

    def row_of(old: re.Match[str]) -> str:
        return f"| {' | '.join(found[old[1]])} |" if old[1] in found else old[0]

    return re.sub(r"^\| ([^|:]+): [^|]+ vs\. [^|]+ \|.*\|$", row_of, page, flags=re.MULTILINE)


def time_text(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 1e-5:
        return f"{seconds * 1e9:,.0f} ns"
    return f"{seconds * 1e6:,.1f} µs" if seconds < 1e-2 else f"{seconds * 1e3:,.1f} ms"


def _speed(row: Row, line: Line) -> str:
    if row.comparison is Comparison.BYTES_PER_SECOND:
        return f"{_quotient(line.bytes, line.seconds) / 1e9:.2f} GB/s"
    if row.comparison in (Comparison.EXTRA_TIME, Comparison.OWN_TIME):
        return time_text(line.seconds)
    return time_text(_quotient(line.seconds, line.records))


def _figure(row: Row, value: float) -> str:
    if row.comparison in (Comparison.EXTRA_TIME, Comparison.OWN_TIME):
        return time_text(value)
    if row.comparison is Comparison.OWN_RATE:
        return f"{value / 1e6:.2f} M/s"
    return f"{value:.2f} x"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ratios", description="Speed table.")
    parser.add_argument("result", type=Path, help="JSON written by --benchmark-json")
    result = json.loads(parser.parse_args(arguments).result.read_text(encoding="utf-8"))
    print(table(judge(read_lines(result))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
