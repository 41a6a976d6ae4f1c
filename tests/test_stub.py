"""The types of the C core: its stub says what the built module has, no more and no less."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from patience import HANG_SECONDS

ROOT = Path(__file__).resolve().parent.parent
# Since Python 3.12 only; before, the same protocol has no method that Python can see.
NOT_EVERYWHERE = "pylog._native.Mapping.__buffer__"


def stubtest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy.stubtest", "--mypy-config-file", "pyproject.toml"]
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )


@pytest.mark.slow
def test_stub_agrees_with_the_module(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed; the test extra has it")
    allowlist = tmp_path / "allowlist"
    allowlist.write_text(NOT_EVERYWHERE + "\n")
    result = stubtest("--allowlist", str(allowlist), "--ignore-unused-allowlist", "pylog._native")
    assert result.returncode == 0, result.stdout + result.stderr
