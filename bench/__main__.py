"""`python -m bench`: run the benchmarks, and make the report of what they found.

python -m bench run [--full] [--scaling] [--output DIR]    both, in one command; behind --, more
                                                            for pytest: -- -k WORD
python -m bench report RESULT.json... [--output DIR]        of results that there are; where the
                                                            committed one lies, README's table, too
python -m bench ratios RESULT.json                          the table of promises alone
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench import ratios, report

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "benchmarks"
README = ROOT / "README.md"
RESULT = ROOT / ".benchmarks" / "result.json"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the benchmarks, then make the report")
    run.add_argument("--full", action="store_true", help="full sizes, many minutes")
    run.add_argument("--scaling", action="store_true", help="also the curves")
    run.add_argument("others", nargs="*", metavar="ARGUMENT", help="more for pytest, behind --")
    told = commands.add_parser("report", help="make the report of results")
    told.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    for command in (run, told):
        command.add_argument("--output", type=Path, default=OUTPUT, help="where it is written")
    promises = commands.add_parser("ratios", help="print the table of promises")
    promises.add_argument("results", nargs=1, type=Path, metavar="RESULT.json")
    options = parser.parse_args(arguments)
    if options.command == "ratios":
        return ratios.main([str(options.results[0])])
    if options.command == "run":
        return _run(options)
    return _report(options.results, options.output)


def _run(options: argparse.Namespace) -> int:
    """Run all benchmarks in a process of its own, then make the report."""
    RESULT.parent.mkdir(exist_ok=True)
    flags = [f"--{name}" for name in ("full", "scaling") if getattr(options, name)]
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-json", str(RESULT), *flags]
    command += options.others
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return code or _report([RESULT], options.output)


def _report(results: list[Path], output: Path) -> int:
    """Make the report; README shows some rows of the one that is committed."""
    return report.write(results, output, README if output == OUTPUT else None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
