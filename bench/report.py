"""One HTML page and one Markdown page from results of the benchmarks: tables, ratios and plots.

Knows which tables there are.  Curves and bars are drawn in bench/plots.py.
"""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import limits, plots, ratios
from bench.plots import PEERS_PREFIX
from bench.ratios import Line, Lines, time_text
from bench.turns import DISK, KERNEL, MEMORY

HOW = "python -m bench run --scaling"
# What a reader has to know of a race against peers.
NOTES = {
    "append one by one": "Files and queues take the values only, all others keys and values.",
    "append batches": "Batches of 1,000; os.write joins the values of each before.",
    "append fsync": "os.write lets its file grow, as peers do, and each sync writes the new size,"
    " too. pylog writes into zeros that are there already, and so does the bare loop of fdatasync"
    " among its promises below.",
    "append batches, fsync": "A sync for every 1,000 records.",
    "sequential": "Key and value of every record are touched, in order.",
    "random": "By number, of as many records in each store, which came one by one.",
    "consume and commit": "The position is remembered every 1,000 records, so that it survives"
    " what the records do. Queues take each record away.",
}
SHORT = {MEMORY: "memory", KERNEL: "kill -9", DISK: "power loss"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>pylog: measured</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: 0.15rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
tr.own td {{ font-weight: 600; background: #eef4fb; }}
tr.other td {{ color: #888; }}
svg {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Section:
    """A table with what is said about it.

    numbers: [start, end) of the columns that hold numbers.  kinds: of each row: "own", "other", "".
    """

    title: str
    text: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, int]
    kinds: tuple[str, ...] = ()


def write(results: Iterable[Path], output: Path, page: Path | None = None) -> int:
    """Write report.html, report.md and its pictures to a directory; print what the limits say.

    results: of one machine; where several have a line, the last one counts.  page: has a table of
    speeds that is refreshed, too.
    """
    commands: list[str] = []
    merged: dict[str, Any] = {"benchmarks": [], "commands": commands}
    for path in results:
        result = json.loads(path.read_text("utf-8"))
        merged |= {name: result[name] for name in ("machine_info", "commit_info", "datetime")}
        merged["benchmarks"] += result["benchmarks"]
        commands.append(_command_of(result["machine_info"]))
    lines = ratios.read_lines(merged)
    curves = plots.read_curves(merged)
    sections = list(sections_of(lines))
    drawn = {"peers": plots.draw_peers(lines), "scaling": plots.draw_curves(curves)}
    pictures = {name: picture for name, picture in drawn.items() if picture}
    output.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (output / f"{name}.svg").write_text(picture, "utf-8")
    about = about_of(merged)
    (output / "report.md").write_text(markdown_page(about, sections, list(pictures)), "utf-8")
    (output / "report.html").write_text(html_page(about, sections, pictures), "utf-8")
    if page is not None:
        page.write_text(ratios.refreshed(page.read_text("utf-8"), ratios.judge(lines)), "utf-8")
    for found in limits.closeness(lines):
        print(
            f"{found.limit.group}: {time_text(found.seconds)}, the hardware allows"
            f" {time_text(found.least_seconds)} ({found.limit.text}): {found.share:.0%}"
        )
    print(f"written: {output}/report.html, report.md" + "".join(f", {p}.svg" for p in pictures))
    return 0


def about_of(result: dict[str, Any]) -> list[str]:
    """Return on which machine, with what, and by which command it was measured."""
    machine, commit = result["machine_info"], result["commit_info"]
    processor = machine.get("cpu", {}).get("brand_raw", machine.get("processor", "unknown"))
    packages = machine.get("packages", {})
    return [
        f"Machine: {machine.get('cpu', {}).get('count', '?')} processors ({processor}),"
        f" {machine['system']} {machine['release']},"
        f" files on {machine.get('file_system', 'unknown')}.",
        f"Python {machine['python_version']}; "
        + ", ".join(f"{name} {packages[name]}" for name in sorted(packages))
        + ".",
        f"Commit {str(commit.get('id', 'unknown'))[:12]}, {result['datetime'][:10]}, by"
        f" {', '.join(result['commands'])}; remade by `{HOW}`.",
    ]


def _command_of(machine: dict[str, Any]) -> str:
    """Return the command of a result; where the result was written is nobody's business."""
    arguments = [
        item
        for item in machine.get("arguments", [])
        if not item.startswith("--benchmark-json") and not item.endswith(".json")
    ]
    return f"`python -m pytest {shlex.join(arguments)}`"


# ------------------------------------------------------------------ tables


def sections_of(lines: Lines) -> Iterator[Section]:
    """Yield the tables of a result."""
    yield from peer_sections(lines)
    found = list(limits.closeness(lines))
    if found:
        yield Section(
            "What the hardware allows",
            "The least that an operation has to do, measured in the same run: each part once for"
            " every record or byte. The rest of the time is what pylog adds. Above 100 %: the parts"
            " were measured when the machine was busier.",
            ("operation", "takes", "least", "of that", "parts"),
            tuple(
                (
                    f"{one.limit.group}: {one.limit.line}",
                    time_text(one.seconds),
                    time_text(one.least_seconds),
                    f"{one.share:.0%}",
                    one.limit.text,
                )
                for one in found
            ),
            (1, 4),
        )
    verdicts = ratios.judge(lines)
    cells = tuple(ratios.cells_of(verdict) for verdict in verdicts)
    yield Section(
        "What pylog promises itself",
        "Each row against its baseline, of medians; the best rounds are disturbed less. Rows"
        " without a target are shown for orientation.",
        ratios.COLUMNS,
        cells,
        (1, 6),
    )
    yield Section(
        "All lines",
        "Medians; what an append that has returned survives; and the bytes of a record, or of"
        " memory that an idle partition takes. Opening, a wake-up and a rebalance are one each.",
        ("group", "line", "survives", "each", "in a second", "bytes"),
        tuple(_all_lines(lines)),
        (3, 6),
    )


def peer_sections(lines: Lines) -> Iterator[Section]:
    """Yield a table for each race against peers: the fastest first, ratios among equals only."""
    for group in plots.peer_groups(lines):
        names = sorted(
            (name for other, name in lines if other == group),
            key=lambda name: per_record(lines[group, name]),
        )
        own = lines.get((group, "pylog"))
        rows, kinds = [], []
        for name in names:
            line = lines[group, name]
            is_like = own is not None and line.durability == own.durability
            ratio = f"{per_record(line) / per_record(own):.2f} x" if own and is_like else "-"
            rows.append((name, SHORT[line.durability], *_rates(line), ratio))
            kinds.append("own" if name == "pylog" else "" if is_like else "other")
        yield Section(
            group.removeprefix(PEERS_PREFIX).capitalize(),
            NOTES.get(group.removeprefix(PEERS_PREFIX), ""),
            ("store", "survives", "a record", "records/s", "pylog is faster by"),
            tuple(rows),
            (2, 5),
            tuple(kinds),
        )


def _all_lines(lines: Lines) -> Iterator[tuple[str, ...]]:
    for (group, name), line in lines.items():
        if not group.startswith(PEERS_PREFIX) and line.records and line.durability in SHORT:
            size = f"{line.bytes / line.records:,.0f}"
            yield group, name, SHORT[line.durability], *_rates(line), size


def _rates(line: Line) -> tuple[str, str]:
    rate = line.records / line.seconds if line.seconds else 0.0
    return time_text(per_record(line)), f"{rate:,.0f}"


def per_record(line: Line) -> float:
    """Return the seconds for a record."""
    return line.seconds / max(line.records, 1)


# ------------------------------------------------------------------ pages

_INTRODUCTION = (
    "pylog beside other stores that Python programs use, with 100-byte values and 16-byte keys,"
    " and beside what the machine itself allows. A race's rounds are run in turns, so that a quiet"
    " or a noisy second touches all alike; the figures are medians. Trust ratios within a table,"
    " and compare only what survives the same: memory (lost with the process), kill -9 (the kernel"
    " has it), power loss (synced)."
)
_CAPTIONS = {"peers": "Time for a record", "scaling": "Curves"}


def markdown_page(about: list[str], sections: list[Section], pictures: list[str]) -> str:
    """Return the report as Markdown, which shows pictures that lie beside it."""
    parts = ["# Measured", _INTRODUCTION, "\n".join(f"* {line}" for line in about)]
    parts += [f"![{_CAPTIONS[name]}]({name}.svg)" for name in pictures]
    for section in sections:
        parts += [f"## {section.title}", section.text]
        parts.append(ratios.markdown(section.columns, section.rows, numbers=section.numbers))
    return "\n\n".join(part for part in parts if part) + "\n"


def html_page(about: list[str], sections: list[Section], pictures: dict[str, str]) -> str:
    """Return the report as one page that needs nothing beside it."""
    parts = ["<h1>Measured</h1>", f"<p>{html.escape(_INTRODUCTION)}</p>", "<ul>"]
    # Commands stand between backticks, as in Markdown.
    told = re.sub("`(.*?)`", r"<code>\1</code>", html.escape("\n".join(about)))
    parts += [f"<li>{line}</li>" for line in told.splitlines()]
    parts.append("</ul>")
    for name, picture in pictures.items():
        # Behind the declarations, which belong to a file of its own.
        drawing = picture[picture.index("<svg") :]
        parts.append(f'<h2>{_CAPTIONS[name]}</h2><figure id="{name}">{drawing}</figure>')
    parts += [_html_table(section) for section in sections]
    return _PAGE.format(body="\n".join(parts))


def _html_table(section: Section) -> str:
    start, end = section.numbers
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in section.columns)
    kinds = section.kinds or ("",) * len(section.rows)
    rows = []
    for kind, row in zip(kinds, section.rows, strict=True):
        cells = "".join(
            f'<td class="number">{html.escape(cell)}</td>'
            if start <= column < end
            else f"<td>{html.escape(cell)}</td>"
            for column, cell in enumerate(row)
        )
        rows.append(f'<tr class="{kind}">{cells}</tr>')
    return (
        f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )
