"""STYLE's rules that a test can check, over the whole tree, and proof that each checker finds.

Each checker is tried on text that breaks its rule and on text that looks alike and does not: a
checker that finds nothing is a test that cannot fail.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tidy_c import ANY_CHECKERS, C_CHECKERS, Checker
from tidy_python import PYTHON_CHECKERS

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("pylog", "tests", "bench", "examples")
ALL_CHECKERS = {
    checker.__name__: checker for checker in (*ANY_CHECKERS, *C_CHECKERS, *PYTHON_CHECKERS)
}

LIB = "pylog/topics/topic.py"
PURE = "pylog/storage/layout.py"
CORE = "pylog/_native/batch.c"
TEST = "tests/test_x.py"
LONG_BODY = "    x = 1\n" * 70

# (checker, path, text that breaks its rule)
BAD: list[tuple[str, str, str]] = [
    ("long_line", LIB, "x" * 101),
    ("long_line", CORE, "/* " + "x" * 98),
    ("long_file", LIB, "\n" * 501),
    ("stray_whitespace", LIB, "x = 1 \n"),
    ("stray_whitespace", CORE, "\tint x;\n"),
    ("stray_whitespace", LIB, "x = 1\r\n"),
    ("stray_whitespace", LIB, "x = 1"),
    ("long_function", LIB, f"def f():\n{LONG_BODY}"),
    ("long_function", TEST, f"class A:\n  async def f():\n{LONG_BODY}"),
    ("impure_below_engine", PURE, "import time"),
    ("impure_below_engine", PURE, "def f():\n    from random import random"),
    ("impure_below_engine", "pylog/config.py", "import datetime"),
    ("impure_below_engine", "pylog/storage/files.py", "import os\nos.environ['X']"),
    ("impure_below_engine", PURE, "import uuid\nuuid.uuid4()"),
    ("impure_below_engine", PURE, "from uuid import uuid4\nuuid4()"),
    ("impure_below_engine", PURE, "def f():\n    global x\n    x = 1"),
    ("system_access", PURE, "import os"),
    ("system_access", PURE, "import os.path"),
    ("system_access", PURE, "from mmap import mmap"),
    ("system_access", "pylog/config.py", "def f():\n    import socket"),
    ("system_access", PURE, "open('x')"),
    ("print_in_library", LIB, "def f():\n    print(1)"),
    ("abbreviation", LIB, "def f(buf): ..."),
    ("abbreviation", LIB, "max_val = 1"),
    ("abbreviation", LIB, "class A:\n    def seg(self): ..."),
    ("abbreviation", LIB, "for idx in range(3): ..."),
    ("abbreviation", LIB, "self._prev = 1"),
    ("missing_module_docstring", "bench/x.py", "import os"),
    ("missing_docstring", LIB, '"""M."""\ndef f(): ...'),
    ("missing_docstring", LIB, '"""M."""\nclass A: ...'),
    ("missing_docstring", LIB, '"""M."""\nclass A:\n    """A."""\n    async def f(self): ...'),
    ("missing_docstring", LIB, '"""M."""\ndef _f():\n' + "    x = 1\n" * 15),
    ("docstring_summary", LIB, '"""Know everything\nabout topics."""'),
    ("docstring_summary", LIB, '"""M."""\ndef f():\n    """Return the\n    value."""'),
    ("todo_without_issue", LIB, "# FIX" + "ME: broken"),
    ("todo_without_issue", CORE, "/* TO" + "DO: later */"),
    ("commented_out_code", LIB, "# x = compute()"),
    ("commented_out_code", LIB, "# return value"),
    ("commented_out_code", LIB, "# if x > 1:"),
    ("commented_out_code", LIB, "# else:"),
    ("commented_out_code", LIB, "# try:"),
    ("commented_out_code", LIB, "# except OSError as error:"),
    ("commented_out_code", LIB, "# import os"),
    ("commented_out_code", LIB, "# self.close()"),
    ("commented_out_code", LIB, "# for item in items:"),
    ("unsafe_evaluation", LIB, "import pickle"),
    ("unsafe_evaluation", "examples/x.py", "from marshal import loads"),
    ("unsafe_evaluation", LIB, "eval('1')"),
    ("unsafe_evaluation", LIB, "def f():\n    exec('1')"),
    ("broad_except", LIB, "try: f()\nexcept Exception: g()"),
    ("broad_except", TEST, "try: f()\nexcept: g()"),
    ("broad_except", LIB, "try: f()\nexcept (OSError, Exception): g()"),
    ("broad_except", LIB, "try: f()\nexcept BaseException: g()"),
    ("broad_except", LIB, "try: f()\nexcept OSError: pass"),
    ("sleep_in_test", TEST, "import time\ntime.sleep(1)"),
    ("sleep_in_test", TEST, "from time import sleep"),
    ("assertionless_test", TEST, "def test_a():\n    f()"),
    ("long_c_function", CORE, "static int f(int a)\n{\n" + "    a++;\n" * 70 + "}\n"),
    ("long_c_function", CORE, "int\nf(int a,\n  int b) {\n" + "    a++;\n" * 70 + "}\n"),
    ("python_in_core", CORE, "#include <Python.h>"),
    ("python_in_core", CORE, '#include "py_common.h"'),
    ("python_in_core", CORE, "static PyObject *x;"),
    ("python_in_core", CORE, "Py_ssize_t n;"),
    ("allocation_in_core", CORE, "x = malloc (3);"),
    ("allocation_in_core", CORE, "free(x);"),
    ("system_call_outside", CORE, "n = write(fd, x, 1);"),
    ("system_call_outside", CORE, "#include <sys/mman.h>"),
    ("system_call_outside", "pylog/_native/py_tail.c", "clock_gettime(CLOCK_REALTIME, &t);"),
    ("system_call_outside", CORE, "pthread_mutex_lock(&m);"),
    ("unprefixed_macro", "pylog/_native/base.h", "#define MIN(a, b) 1"),
    ("missing_c_opening", CORE, "#include <stdint.h>"),
]

# (checker, path, text that looks alike and keeps the rule)
GOOD: list[tuple[str, str, str]] = [
    ("long_line", LIB, "x" * 100),
    ("long_file", LIB, "\n" * 500),
    ("long_file", "pylog/_native.pyi", "\n" * 501),
    ("stray_whitespace", LIB, "x = 1\n\ny = 2\n"),
    ("long_function", LIB, "def f():\n" + "    x = 1\n" * 69),
    ("impure_below_engine", "pylog/engine/engine.py", "import time"),
    ("impure_below_engine", PURE, "import uuid\nuuid.UUID(bytes=b'')"),
    ("system_access", "pylog/storage/files.py", "import os, mmap, fcntl"),
    ("system_access", "pylog/engine/engine.py", "import os"),
    ("system_access", PURE, "directory.open('x')"),
    ("print_in_library", "pylog/cli/main.py", "print(1)"),
    ("print_in_library", LIB, "self.print(1)"),
    ("abbreviation", LIB, "crc = fd = io = id = isr = offset = position = 1"),
    ("abbreviation", LIB, "def __init__(self, values): f(val=1)"),
    ("abbreviation", TEST, "buf = 1"),
    ("missing_module_docstring", LIB, '"""Topics."""'),
    ("missing_docstring", LIB, '"""M."""\ndef _f(): ...\nclass _A:\n    def g(self): ...'),
    (
        "missing_docstring",
        LIB,
        '"""M."""\nclass A:\n    """A."""\n    def __init__(self):\n' + "        x = 1\n" * 20,
    ),
    (
        "missing_docstring",
        LIB,
        '"""M."""\nclass A(Protocol):\n    """A."""\n    def f(self):\n        """F."""\n'
        'class B:\n    """B."""\n    def f(self): ...',
    ),
    ("docstring_summary", LIB, '"""Know everything.\n\nAbout topics"""'),
    ("todo_without_issue", LIB, "# TO" + "DO (#12): later"),
    ("commented_out_code", LIB, "# The offset is x = 1, as Kafka has it."),
    ("commented_out_code", LIB, "# Windows"),
    ("commented_out_code", LIB, "# measured: 12 ns"),
    ("commented_out_code", LIB, "# for the caller: nothing"),
    ("commented_out_code", LIB, "x = 1  # position(0)"),
    ("commented_out_code", LIB, "# ---- names"),
    ("unsafe_evaluation", LIB, "import re\nre.compile('x')"),
    ("broad_except", LIB, "try: f()\nexcept OSError: g()"),
    ("broad_except", LIB, "try: f()\nexcept BaseException:\n    g()\n    raise"),
    ("sleep_in_test", TEST, "import time\ntime.monotonic()"),
    ("assertionless_test", TEST, "def test_a():\n    with pytest.raises(X): f()"),
    ("assertionless_test", TEST, "def test_a():\n    assert f()"),
    ("assertionless_test", TEST, "def test_a():\n    index.check()"),
    ("long_c_function", CORE, "int f(int a)\n{\n" + "    a++;\n" * 67 + "}\n"),
    ("long_c_function", CORE, "static T x[] = {\n" + "    {1},\n" * 80 + "};\n"),
    ("python_in_core", CORE, "/* Python.h and PyObject are for py_ files */"),
    ("python_in_core", "pylog/_native/py_tail.c", "#include <Python.h>"),
    ("allocation_in_core", CORE, "/* free(x) */ release_free(x);"),
    ("allocation_in_core", "pylog/_native/py_tail.c", "PyMem_Malloc(3);"),
    ("system_call_outside", "pylog/_native/shared_page.c", "#include <time.h>\nsyscall(1);"),
    ("system_call_outside", CORE, "#include <pthread.h>\npthread_once(&once, choose);"),
    ("system_call_outside", CORE, "#include <sys/auxv.h>"),
    ("system_call_outside", CORE, "page_read(x); mapping_close(y); // write(x)"),
    ("unprefixed_macro", "pylog/_native/base.h", "#define PLOG_MIN(a, b) 1"),
    ("unprefixed_macro", CORE, "#define MIN(a, b) 1"),
    ("missing_c_opening", CORE, "/* Batches. */\n#include <stdint.h>"),
]


def files_with(*suffixes: str) -> Iterator[Path]:
    yield from (path for path in [ROOT / "setup.py"] if ".py" in suffixes and path.exists())
    for folder in FOLDERS:
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes)


def findings(checker: Checker, *suffixes: str) -> list[str]:
    found: list[str] = []
    for path in files_with(*suffixes):
        found += checker(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
    return found


@pytest.mark.parametrize("checker", ANY_CHECKERS, ids=lambda checker: checker.__name__)
def test_every_file_is_tidy(checker: Checker) -> None:
    assert findings(checker, ".py", ".pyi", ".c", ".h") == []


@pytest.mark.parametrize("checker", PYTHON_CHECKERS, ids=lambda checker: checker.__name__)
def test_python_is_tidy(checker: Checker) -> None:
    assert findings(checker, ".py", ".pyi") == []


@pytest.mark.parametrize("checker", C_CHECKERS, ids=lambda checker: checker.__name__)
def test_c_is_tidy(checker: Checker) -> None:
    assert findings(checker, ".c", ".h") == []


@pytest.mark.parametrize(("name", "path", "text"), BAD)
def test_checker_finds_what_breaks_its_rule(name: str, path: str, text: str) -> None:
    assert list(ALL_CHECKERS[name](path, text)) != []


@pytest.mark.parametrize(("name", "path", "text"), GOOD)
def test_checker_leaves_alone_what_keeps_its_rule(name: str, path: str, text: str) -> None:
    assert list(ALL_CHECKERS[name](path, text)) == []


def test_every_checker_is_proved_both_ways() -> None:
    assert {name for name, _, _ in BAD} == {name for name, _, _ in GOOD} == set(ALL_CHECKERS)


def test_the_tree_is_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in files_with(".py", ".pyi", ".c")}
    assert {"pylog/errors/base.py", "pylog/_native.pyi", "tests/test_tidy.py"} <= names
    assert any(name.startswith("pylog/_native/") for name in names)


def run(*command: str) -> str:
    """Return what a tool printed if it failed, else an empty string."""
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr or f"exit {done.returncode}")


def needs_module(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed; it is in the extra `test`")


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check", "--diff")], ids=" ".join)
def test_ruff_finds_nothing(arguments: tuple[str, ...]) -> None:
    needs_module("ruff")
    assert run(sys.executable, "-m", "ruff", *arguments, "--no-cache", ".") == ""


@pytest.mark.slow
def test_types_hold_under_mypy_strict() -> None:
    needs_module("mypy")
    assert run(sys.executable, "-m", "mypy", "--strict", "pylog") == ""


def test_c_is_formatted() -> None:
    # The wheel puts the program beside the interpreter, which need not be on PATH.
    program = shutil.which("clang-format", path=str(Path(sys.executable).parent))
    program = program or shutil.which("clang-format")
    if program is None:
        pytest.skip("clang-format is not installed; it is in the extra `test`")
    sources = [str(path) for path in files_with(".c", ".h")]
    assert run(program, "--dry-run", "--Werror", *sources) == ""
