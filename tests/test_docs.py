"""The pages of docs/ are true: their blocks run, what they name exists, and Sphinx builds them."""

from __future__ import annotations

import asyncio
import builtins
import html
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import blocks_of, check_blocks
from commands import ROOT
from patience import HANG_SECONDS

import pylog
from pylog import errors
from pylog.cli.program import program

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TUTORIALS = [page for page in PAGES if blocks_of(page.read_text("utf-8"))]


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_every_block_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    programs, sessions = check_blocks(blocks_of(page.read_text("utf-8")), tmp_path)
    assert programs + sessions >= 1


def test_every_page_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    contents = re.search(r"```\{toctree\}\n:hidden:\n\n(.*?)```", index, re.DOTALL)
    assert contents is not None
    listed = set(contents[1].split())
    assert listed == {page.stem for page in PAGES} - {"index"} | {"benchmarks/report"}
    assert set(re.findall(r"\]\(([\w/-]+)\.md\)", index)) == listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_errors_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = re.findall(r"`((?:pylog|tests|examples|bench|docs)/[\w/.]+)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    of_python = {*dir(builtins), *dir(asyncio)}
    assert set(re.findall(r"`(\w+Error)\b", text)) - of_python <= set(errors.__all__)
    links = re.findall(r"\]\(([\w/.-]+)\)", text)
    assert [link for link in links if not (DOCS / link).exists()] == []


def test_crash_tests_try_as_much_as_the_page_says() -> None:
    page = (DOCS / "crash-contract.md").read_text("utf-8")
    row = r"\| ([\d,]+)[^|]*\| ([\d,]*)[^|]*\| `(\w+)` in `(tests/\w+\.py)` \|"
    rows = re.findall(row, page)
    assert len(rows) >= 10
    for everyday, exhaustive, name, path in rows:
        if name.endswith("_PLANTS"):
            plants = getattr(importlib.import_module(Path(path).stem), name)
            assert everyday == exhaustive == str(len(plants))
            continue
        value = re.search(rf"^{name}\b.* = (.*)$", (ROOT / path).read_text("utf-8"), re.MULTILINE)
        assert value is not None, f"{name} is not in {path}"
        tried = {f"{int(one.replace('_', '')):,}" for one in re.findall(r"\d[\d_]*", value[1])}
        said = {everyday, exhaustive} if "IS_EXHAUSTIVE" in value[1] else {everyday}
        assert said <= tried, f"{path}: {value[0]}"


def test_picture_of_a_session_shows_every_command_of_it() -> None:
    picture = html.unescape((DOCS / "session.svg").read_text("utf-8")).replace("\xa0", " ")
    source = (DOCS / "session.py").read_text("utf-8")
    commands = re.findall(r'^    "(.*)",$', source, re.MULTILINE)
    assert len(commands) >= 5
    assert [one for one in commands if one.replace("\\\\", "\\") not in picture] == []


def test_operations_know_every_command() -> None:
    page = (DOCS / "operations.md").read_text("utf-8")
    assert [name for name in program.commands if f"`{name}" not in page] == []


def test_api_page_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text("utf-8")
    named = set(re.findall(r":: pylog\.(\w+)", page))
    assert set(pylog.__all__) - {"PylogError"} <= named
    for module in ("pylog.aio", "pylog.interop.kafka"):
        documented = set(re.findall(rf":: {re.escape(module)}\.(\w+)", page))
        assert set(importlib.import_module(module).__all__) <= documented, module


@pytest.mark.exhaustive
def test_sphinx_builds_the_pages_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(
            package, reason=f"{package} is not installed; it is in the extra `docs`"
        )
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "fdatasync" in (tmp_path / "concepts.html").read_text("utf-8")
