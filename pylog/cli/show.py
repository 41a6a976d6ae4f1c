"""How commands print: findings, JSON, counts, and text that a terminal does not obey."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pylog._native import CRC_BACKEND
from pylog.storage.inspect_file import escaped
from pylog.storage.inspect_segment import Finding

# What each codec is done by: the package, and the module that a newer Python has instead.
_CODEC_PACKAGES: Final = {"lz4": "lz4", "snappy": "cramjam", "zstd": "backports.zstd"}
_HAS_OWN_ZSTD: Final = sys.version_info >= (3, 14)


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


def print_json(values: Any) -> None:
    """Print one JSON value on one line, in ASCII."""
    print(json.dumps(values))


def complain(text: str) -> None:
    """Say on standard error what went wrong, on one line."""
    # A backslash orders nothing, and nobody turns this text back.
    harmless = printable(text).replace("\\\\", "\\")
    print(f"pylog: {harmless}", file=sys.stderr)


def is_terminal() -> bool:
    """Return whether a person reads standard output."""
    return sys.stdout.isatty()


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun: "1 record", "2,000 records"; plural: if more than an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def printable(text: str) -> str:
    """Return text in which what does not print is escaped; file names may come from an enemy."""
    return escaped(text.encode("utf-8", "surrogateescape"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows below the names of their columns; numbers stand at the right, None is "-".

    With lines and colours for a terminal; elsewhere blanks, and nothing that a filter trips over.
    Raises MissingExtraError when it is for a terminal and rich is not installed.
    """
    rows = list(rows)
    is_number = [any(type(row[at]) is int for row in rows) for at in range(len(columns))]
    if is_terminal():
        from pylog.cli import terminal

        cells = [[_cell(value, thousands=",") for value in row] for row in rows]
        terminal.print_table(columns, cells, is_number)
        return
    lines = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    for line in lines:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        )
        print("  ".join(padded).rstrip())


def _cell(value: object, thousands: str = "") -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format(value, thousands) if isinstance(value, int) else printable(str(value))


def version_text() -> str:
    """Return what runs here: versions, and what computes CRCs and compresses."""
    codecs = [f"gzip (zlib {_zlib_version()})"]
    for codec, package in _CODEC_PACKAGES.items():
        if codec == "zstd" and _HAS_OWN_ZSTD:
            codecs.append(f"zstd (Python {platform.python_version()})")
        else:
            codecs.append(f"{codec} ({_package_version(package)})")
    return (
        f"pylog {_installed('pylog') or '(not installed)'},"
        f" Python {platform.python_version()}, crc32c by {CRC_BACKEND},"
        f" codecs: {', '.join(codecs)}"
    )


def _zlib_version() -> str:
    import zlib

    return zlib.ZLIB_RUNTIME_VERSION


def _package_version(package: str) -> str:
    number = _installed(package)
    return "not installed" if number is None else f"{package} {number}"


def _installed(package: str) -> str | None:
    # Here, for it takes as long to import as half of pylog.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
