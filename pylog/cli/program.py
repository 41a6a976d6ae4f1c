"""All commands of `pylog`, and how click's words become exit codes."""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import shell_complete

from pylog.cli import bench, files, groups, mirror, options, produce, read, show, topics, upkeep

NAME: Final = "pylog"
_COMPLETE: Final = "_PYLOG_COMPLETE"  # as click names it; see its documentation of completion

_HELP = """Look into logs, and use them, from the shell.

A log is a directory.  Which one is said by -d, before or behind the command, or by the environment
variable PYLOG_DIRECTORY; by default it is "data".  Any number of commands and programs may use it
at the same time.

Exit codes: 0 done; 1 damage was found, or it could not be done; 2 wrong usage, or what was named is
not there; 130 interrupted; 141 nobody reads the output any more.
"""


class _Program(click.Group):
    """All commands, in the order in which they are of use."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


def _print_version(context: click.Context, parameter: click.Parameter, is_asked: object) -> None:
    # Looked up when it is asked for: it takes longer than the rest of a command's start.
    if is_asked and not context.resilient_parsing:
        print(show.version_text())
        context.exit()


@click.group(
    NAME,
    cls=_Program,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Tell the version, and what computes CRCs and compresses.",
)
@options.default_directory
@click.pass_context
def program(context: click.Context, directory: str) -> None:
    """Hand the directory to the command, which may be told another."""
    context.default_map = {name: {"directory": directory} for name in program.commands}


for _module in (topics, produce, read, groups, upkeep, mirror, files, bench):
    for _command in _module.COMMANDS:
        program.add_command(_command)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; raises what the command raises.

    Not click's own `main`, which says something when it is interrupted.
    """
    instruction = os.environ.get(_COMPLETE)
    if instruction:
        return shell_complete(program, {}, NAME, _COMPLETE, instruction)
    try:
        with program.make_context(NAME, arguments) as context:
            code: int | None = program.invoke(context)
            return code or 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
