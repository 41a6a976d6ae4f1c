"""`verify` and `dump` among the other commands; what they do is in verify.py and dump.py."""

from __future__ import annotations

from typing import Final

import click

from pylog.cli import dump, options, verify


def _help(description: str) -> str:
    """Return a text for click that keeps its lines."""
    return "\n\n".join("\b\n" + paragraph for paragraph in description.split("\n\n"))


@click.command("verify", help=_help(verify.DESCRIPTION), short_help=verify.SUMMARY)
@click.argument("path", metavar="[DIR]", required=False)
@options.directory
@options.as_json
def verify_command(*, path: str | None, directory: str, as_json: bool) -> int:
    """Examine a log or a partition, by default the log of the other commands."""
    return verify.run(directory if path is None else path, as_json=as_json)


@click.command("dump", help=_help(dump.DESCRIPTION), short_help=dump.SUMMARY)
@click.argument("file", metavar="FILE")
@click.option("--records", "with_records", is_flag=True, help="Also each record of a .log.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def dump_command(*, file: str, with_records: bool, as_json: bool) -> int:
    """Tell what stands in a file."""
    return dump.run(file, with_records=with_records, as_json=as_json)


COMMANDS: Final = (verify_command, dump_command)
