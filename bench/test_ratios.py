"""The speed table: arithmetic, direction of each promise, and lines that are missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench import ratios
from bench.ratios import Line, Verdict
from bench.rows import ROWS, Comparison, Row
from bench.turns import KERNEL, Clock, Contestant, Race


def line_of(seconds: float, records: int, size: int) -> Line:
    return Line(seconds, records, size, best_seconds=seconds / 2)


# (comparison, subject, baseline, value): a round of 10 records and 1,000 bytes unless said
CASES = [
    (Comparison.RECORDS_PER_SECOND, line_of(2.0, 10, 1000), line_of(1.0, 10, 1000), 0.5),
    (Comparison.RECORDS_PER_SECOND, line_of(2.0, 80, 1000), line_of(1.0, 10, 1000), 4.0),
    (Comparison.BYTES_PER_SECOND, line_of(2.0, 10, 500), line_of(1.0, 10, 1000), 0.25),
    (Comparison.TIME, line_of(3.0, 10, 1000), line_of(2.0, 10, 1000), 1.5),
    (Comparison.EXTRA_TIME, line_of(3.0, 10, 1000), line_of(2.0, 0, 0), 1.0),
    (Comparison.OWN_TIME, line_of(3.0, 10, 1000), line_of(2.0, 10, 1000), 3.0),
    (Comparison.OWN_RATE, line_of(4.0, 10, 1000), line_of(2.0, 10, 1000), 2.5),
]


def row_of(comparison: Comparison, *, target: float) -> Row:
    return Row("text", "group", "pylog", "bare", comparison, target)


@pytest.mark.parametrize(("comparison", "subject", "baseline", "value"), CASES)
def test_figure_is_computed_from_medians_and_work(
    comparison: Comparison, subject: Line, baseline: Line, value: float
) -> None:
    verdict = ratios.compare(row_of(comparison, target=1.0), subject, baseline)
    assert verdict.value == pytest.approx(value)
    # The best rounds took half the time, on both sides.
    best = {
        Comparison.EXTRA_TIME: value / 2,
        Comparison.OWN_TIME: value / 2,
        Comparison.OWN_RATE: value * 2,
    }
    assert verdict.best == pytest.approx(best.get(comparison, value))


@pytest.mark.parametrize(
    ("comparison", "is_met_above"),
    [
        (Comparison.RECORDS_PER_SECOND, True),
        (Comparison.BYTES_PER_SECOND, True),
        (Comparison.TIME, False),
        (Comparison.EXTRA_TIME, False),
        (Comparison.OWN_TIME, False),
        (Comparison.OWN_RATE, True),
    ],
)
def test_rates_are_floors_and_times_are_ceilings(
    comparison: Comparison, is_met_above: bool
) -> None:
    line = line_of(1.0, 1, 1)
    for value, target in ((2.0, 1.0), (1.0, 2.0)):
        verdict = Verdict(row_of(comparison, target=target), line, line, value, best=value)
        assert verdict.is_met == (is_met_above == (value > target))


def test_a_page_keeps_its_choice_of_rows_and_gets_their_figures() -> None:
    row = Row("append, os", "group", "pylog", "bare", Comparison.RECORDS_PER_SECOND, 0.1)
    slow = dataclasses.replace(row, text="append, fsync")
    verdicts = [
        ratios.compare(one, line_of(2e-2, 10, 1000), line_of(1e-6, 10, 1000)) for one in (row, slow)
    ]
    page = "| append, os: pylog vs. old | 1 ns | 2 ns | 3 x |\n| other: a vs. b | 1 | 2 | 3 |\n"
    assert ratios.refreshed(page, [*verdicts, dataclasses.replace(row, text="other")]) == (
        "| append, os: pylog vs. bare | 2,000.0 µs | 100 ns | 0.00 x |\n"
        "| other: a vs. b | 1 | 2 | 3 |\n"
    )


def test_a_row_without_a_target_promises_nothing() -> None:
    row = Row("text", "group", "pylog", "bare", Comparison.RECORDS_PER_SECOND, None)
    verdict = ratios.compare(row, line_of(2.0, 10, 1000), line_of(1.0, 10, 1000))
    assert verdict.is_met is None
    assert ratios.cells_of(verdict)[3:] == ("0.50 x", "0.50 x", "-", "-")
    assert ratios.cells_of(row)[1:] == ("not run", "", "", "", "-", "")


def result_of(**medians: float) -> dict[str, Any]:
    return {
        "benchmarks": [
            {
                "group": "append one by one",
                "param": name,
                "extra_info": {"records": 10, "bytes": 1000, "durability": "any"},
                "stats": {"median": median, "min": median / 2},
            }
            for name, median in medians.items()
        ]
    }


def test_table_shows_every_row_and_says_which_were_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result_of(**{"pylog": 2e-6, "file.write": 1.5e-6})))

    assert ratios.main([str(path)]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ROWS) + 2
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert cells[0] == "append one by one, os: pylog vs. file.write"
    assert cells[1:] == ["200 ns", "150 ns", "0.75 x", "0.75 x", "0.50 x", "yes"]
    assert all("not run" in line for line in lines[3:])


def test_missed_promise_is_marked() -> None:
    lines = ratios.read_lines(result_of(**{"pylog": 9e-6, "file.write": 1e-6}))
    assert "NO" in ratios.table(ratios.judge(lines)).splitlines()[2]


def test_rounds_of_a_race_take_turns_and_begin_with_another_each_time() -> None:
    order: list[str] = []

    def contestant(name: str) -> Contestant:
        def run() -> float:
            order.append(name)
            return float(len(order))

        return Contestant(run, KERNEL, 1, 1)

    race = Race("group", {name: contestant(name) for name in "ab"}, rounds=3)
    assert race.seconds("b", rounds=3) == [2.0, 3.0, 6.0]
    assert race.seconds("a", rounds=3) == [1.0, 4.0, 5.0]
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_clock_moves_by_the_times_that_were_taken() -> None:
    clock = Clock()
    seconds = iter([0.5, 0.25])
    clock.advance(seconds)
    assert clock() == 0.5
    clock.advance(seconds)
    assert clock() == 0.75
