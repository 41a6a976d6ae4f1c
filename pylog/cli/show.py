"""How commands print: findings, JSON, counts, and text that a terminal does not obey."""

from __future__ import annotations

import json
from typing import Any

from pylog.storage.inspect_file import escaped
from pylog.storage.inspect_segment import Finding


def print_finding(finding: Finding) -> None:
    """Print a finding on a line of its own, damage so that it stands out."""
    kind = "DAMAGE" if finding.is_damage else "note"
    print(f"  {kind}: {printable(str(finding))}")


def finding_values(finding: Finding) -> dict[str, Any]:
    """Return a finding for JSON; first and end are the offsets that cannot be read, or null."""
    return {
        "kind": "damage" if finding.is_damage else "note",
        "path": finding.path,
        "position": finding.position,
        "message": finding.message,
        "first": finding.first,
        "end": finding.end,
    }


def print_json(values: dict[str, Any]) -> None:
    """Print one JSON value on one line, in ASCII."""
    print(json.dumps(values))


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 record", "2,000 records"; plural: if more than an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Return text in which what does not print is escaped; file names may come from an enemy."""
    return escaped(text.encode("utf-8", "surrogateescape"))
