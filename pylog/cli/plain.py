"""The commands that need nothing but pylog itself, for where the extra `cli` is not installed.

A log has to be examined where it lies, with what is there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pylog.cli import dump, show, verify

_OTHERS = "All other commands need click and rich: pip install 'pylog[cli]'"


def run(arguments: Sequence[str]) -> int:
    """Run `verify` or `dump` and return the exit code.

    Raises SystemExit for wrong usage, `--help` and `--version`, as argparse does.
    """
    parser = argparse.ArgumentParser(
        prog="pylog", description="Look into logs.  Reads only.", epilog=_OTHERS
    )
    parser.add_argument("--version", action="version", version=show.version_text())
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    examine = _command(commands, "verify", verify.SUMMARY, verify.DESCRIPTION)
    examine.add_argument("directory", metavar="DIR", help="a log's or a partition's directory")
    tell = _command(commands, "dump", dump.SUMMARY, dump.DESCRIPTION)
    tell.add_argument("file", metavar="FILE", help="a file in a log's or partition's directory")
    tell.add_argument("--records", action="store_true", help="also each record of a .log")
    if arguments and arguments[0] not in ("verify", "dump") and not arguments[0].startswith("-"):
        show.complain(f"{arguments[0]}: only verify and dump are here.  {_OTHERS}")
        return 2
    options = parser.parse_args(arguments)
    if options.command == "verify":
        return verify.run(options.directory, as_json=options.json)
    if options.command == "dump":
        return dump.run(options.file, with_records=options.records, as_json=options.json)
    parser.print_help(sys.stderr)
    return 2


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
