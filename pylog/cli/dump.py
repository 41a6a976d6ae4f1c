"""`dump FILE`: tell what stands in one file of a log, and what is wrong with it."""

from __future__ import annotations

from typing import Any

from pylog.cli import show
from pylog.storage.inspect_segment import Fact, Finding
from pylog.topics.verification import dump

SUMMARY = "Tell what stands in one file."
DESCRIPTION = """\
Tell what stands in one file: .log (batches, with every header field),
.index, .timeindex, manifest, leader-epoch-checkpoint, partition.metadata,
meta.properties or state.  Nothing is changed, and no lock is taken; of a
partition that is in use only what is published is shown.

Index entries are compared with the .log beside them.  Keys and values are
printed as text in which bytes that do not print are \\xNN and a backslash
is \\\\.
Exit code: 0 no damage, 1 damage, 2 wrong usage or FILE cannot be opened.
With --json: one object a line, whose "kind" says what it is; findings are
"damage" or "note"."""


def run(file: str, *, with_records: bool, as_json: bool) -> int:
    """Print what stands in a file, a line or a JSON object each; return the exit code.

    Raises what `pylog.topics.verification.dump` raises.
    """
    damages = 0
    for item in dump(file, with_records=with_records):
        damages += isinstance(item, Finding) and item.is_damage
        if as_json:
            show.print_json(_values(item))
        elif isinstance(item, Finding):
            show.print_finding(item)
        else:
            _print_fact(item)
    return 1 if damages else 0


def _values(item: Fact | Finding) -> dict[str, Any]:
    if isinstance(item, Finding):
        return show.finding_values(item)
    return {"kind": item.kind, **item.values}


def _print_fact(fact: Fact) -> None:
    indent = "  " if fact.kind == "record" else ""
    fields = " ".join(f"{name}: {_shown(value)}" for name, value in fact.values.items())
    print(f"{indent}{fact.kind}  {fields}")


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return str(value)
