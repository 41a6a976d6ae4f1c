"""How Sphinx builds these pages: `python -m sphinx -W docs build/docs` (extra `docs`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = "pylog"
author = "the authors of pylog"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["build"]
html_theme = "furo"
html_title = "pylog"
# The report is a page of its own, which needs nothing of Sphinx.
html_extra_path = ["benchmarks/report.html"]
myst_heading_anchors = 3
default_role = "literal"
# As the source has them: by what a reader looks for first.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Types that are written as they are imported, and those of the C core, have no page of their own.
suppress_warnings = ["ref.python"]


def as_written(
    app: object, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Keep the lines of a docstring: sentences, and lists of `name: meaning`, but no markup."""
    escaped = (re.sub(r"([\\*|])|(?<=\w)(_)(?!\w)", r"\\\g<0>", line) for line in lines)
    lines[:] = [f"| {line}" if line else "|" for line in escaped]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_written)
