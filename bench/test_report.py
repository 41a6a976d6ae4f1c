"""The report: its arithmetic, that only like is compared with like, and that a browser shows it."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as program
from bench import limits, plots, ratios, report
from bench.turns import DISK, KERNEL, MEMORY

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "headless_shell")
SECONDS = 300


def benchmark_of(group: str, name: str, durability: str, seconds: float) -> dict[str, Any]:
    return {
        "group": group,
        "param": name,
        "extra_info": {"records": 10, "bytes": 1000, "durability": durability},
        "stats": {"median": seconds, "min": seconds / 2},
    }


def point_of(x: int, seconds: float) -> dict[str, Any]:
    line = {"seconds": seconds, "records": 10, "bytes": 0, "durability": KERNEL}
    lines = {"append": line, "read": line | {"seconds": seconds / 2}}
    return {
        "group": "scaling: records",
        "param": x,
        "extra_info": {"x": x, "unit": "records in it", "lines": lines},
        "stats": {"median": seconds, "min": seconds},
    }


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result with a race, what it is made of, and a curve."""
    hardware = {"method-call": 1e-6, "crc32c": 2e-6, "memory-copy": 3e-6}
    content = {
        "machine_info": {
            "cpu": {"brand_raw": "A <fast> one", "count": 2},
            "system": "Linux",
            "release": "6",
            "python_version": "3.11",
            "packages": {"lmdb": "1"},
            "arguments": ["bench", "--benchmark-json", "x.json"],
            "file_system": "ext4",
        },
        "commit_info": {"id": "0123456789abcdef"},
        "datetime": "2026-11-23T12:00:00",
        "benchmarks": [
            benchmark_of("peers: append", "pylog", KERNEL, 2e-6),
            benchmark_of("peers: append", "slow", KERNEL, 9e-6),
            benchmark_of("peers: append", "synced", DISK, 8e-6),
            benchmark_of("peers: append", "list", MEMORY, 1e-6),
            benchmark_of("sequential", "pylog", KERNEL, 12e-6),
            *(benchmark_of("hardware", name, MEMORY, hardware[name]) for name in hardware),
            point_of(1000, 1e-6),
            point_of(10, 2e-6),
        ],
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content))
    return path


def test_only_like_is_compared_with_like(result: Path) -> None:
    lines = ratios.read_lines(json.loads(result.read_text()))
    (section,) = report.peer_sections(lines)
    found = {row[0]: (row[1], row[-1]) for row in section.rows}
    assert found == {
        "list": ("memory", "-"),
        "pylog": ("kill -9", "1.00 x"),
        "synced": ("power loss", "-"),
        "slow": ("kill -9", "4.50 x"),
    }
    assert [row[0] for row in section.rows] == ["list", "pylog", "synced", "slow"]
    assert section.kinds == ("other", "own", "other", "")


def test_limit_is_the_sum_of_what_cannot_be_spared(result: Path) -> None:
    lines = ratios.read_lines(json.loads(result.read_text()))
    (found,) = limits.closeness(lines)
    # A call for each of 10 records, and CRC and copy of as many bytes as were measured.
    assert found.least_seconds == pytest.approx((1e-6 + 2e-6 + 3e-6) / 10)
    assert found.share == pytest.approx(0.5)


def test_a_sync_is_compared_with_the_bare_syncs_of_the_same_race() -> None:
    line = ratios.Line(20e-6, 10, 1000, 20e-6)
    lines = {
        ("append fsync", "pylog"): line,
        ("append fsync", "fdatasync"): dataclasses.replace(line, seconds=15e-6),
        ("hardware", "fdatasync"): dataclasses.replace(line, seconds=90e-6),  # another minute
        ("hardware", "method-call"): dataclasses.replace(line, seconds=1e-6),
    }
    (found,) = limits.closeness(lines)
    assert found.least_seconds == pytest.approx((15e-6 + 1e-6) / 10)


def test_every_limit_is_of_a_row_that_the_benchmarks_have() -> None:
    promised = {(row.group, row.subject) for row in ratios.ROWS}
    assert {(limit.group, limit.line) for limit in limits.LIMITS} <= promised


def test_curves_are_seconds_for_a_record_in_the_order_of_x(result: Path) -> None:
    curves = plots.read_curves(json.loads(result.read_text()))
    assert [curve.name for curve in curves] == ["append", "read"]
    assert curves[0].points == ((10, pytest.approx(2e-7)), (1000, pytest.approx(1e-7)))
    assert plots.draw_curves([]) == plots.draw_peers({}) == ""


class Tags(html.parser.HTMLParser):
    """Checks that elements are closed in order, and notes what a page refers to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.references: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_pages_hold_tables_and_pictures_and_need_nothing_else(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert program.main(["report", str(result), "--output", str(output)]) == 0
    assert "sequential: 1,200 ns, the hardware allows 600 ns" in capsys.readouterr().out
    names = {"report.html", "report.md", "peers.svg", "scaling.svg"}
    assert {path.name for path in output.iterdir()} == names
    page = (output / "report.html").read_text("utf-8")
    tags = Tags(page)
    assert tags.open == []
    assert (tags.seen.count("table"), tags.seen.count("svg")) == (4, 2)
    assert "A &lt;fast&gt; one" in page and "4.50 x" in page
    assert "<code>python -m bench run --scaling</code>" in page and ">9,000 ns" not in page
    assert ">900 ns</text>" in page  # at the end of its bar
    # Pictures refer to their own parts only.
    assert all(reference.startswith("#") for reference in tags.references)
    text = (output / "report.md").read_text("utf-8")
    assert "![Curves](scaling.svg)" in text and "Commit 0123456789ab, 2026-11-23" in text
    assert "| slow   | kill -9" in text
    # What all lines say of one: for a record, in a second, and its bytes.
    assert "| 1,200 ns | 833,333     | 100   |" in text
    again = tmp_path / "again"
    assert program.main(["report", str(result), "--output", str(again)]) == 0
    assert (again / "peers.svg").read_bytes() == (output / "peers.svg").read_bytes()


@pytest.mark.browser
def test_browser_shows_the_page(result: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is here")
    assert report.write([result], tmp_path) == 0
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu"]
    common += [f"--user-data-dir={tmp_path / 'profile'}"]
    page = (tmp_path / "report.html").as_uri()
    shown = subprocess.run(
        [*common, "--dump-dom", page], capture_output=True, timeout=SECONDS, check=True
    ).stdout.decode()
    assert shown.count("<table>") == 4 and "pylog is faster by" in shown
    picture = tmp_path / "page.png"
    subprocess.run(
        [*common, f"--screenshot={picture}", "--window-size=1000,1400", page],
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    assert picture.stat().st_size > 10_000  # an empty page has about a tenth
