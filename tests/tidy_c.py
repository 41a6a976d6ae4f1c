"""Checkers of STYLE rules for C, and for any file: each takes (path, text) and yields findings.

C is read line by line after comments and strings are blanked; clang-format's layout (a definition
starts in column 0 and ends with a brace in column 0) is what makes that enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

Checker = Callable[[str, str], Iterator[str]]

MAX_COLUMNS = 100
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70

# The files that stand on the operating system: lock and clock, waiting and waking, open files.
SYSTEM_FILES = ("shared_page", "events", "mapping")
ALLOCATION = r"\b(?:malloc|calloc|realloc|reallocarray|free|alloca|strdup|PyMem_\w+)\s*\("
SYSTEM_CALL = (
    r"\b(?:mmap|munmap|mremap|msync|madvise|mlock|open|openat|close|read|write|pread|pwrite|lseek|"
    r"ftruncate|fallocate|posix_fallocate|fsync|fdatasync|fcntl|flock|ioctl|stat|fstat|syscall|"
    r"futex|fork|getpid|gettid|kill|time|clock|clock_gettime|gettimeofday|nanosleep|usleep|sleep|"
    r"sched_yield|getenv|getrandom|rand|random|sysconf|fopen|fclose|fread|fwrite|printf|fprintf|"
    r"pthread_(?!once)\w+)\s*\("
)
# <sys/auxv.h> tells which instructions the processor has; it asks nothing of the kernel.
SYSTEM_HEADER = (
    r"#\s*include\s*<(?:sys/(?!auxv)|linux/|unistd\.h|fcntl\.h|sched\.h|time\.h|signal\.h|stdio\.h)"
)


def is_c(path: str) -> bool:
    return path.endswith((".c", ".h"))


def file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def is_core(path: str) -> bool:
    """Return whether a C file is below the Python boundary: its name does not start with py_."""
    return is_c(path) and not file_name(path).startswith("py_")


def blanked(text: str) -> str:
    """Return C with comments, strings and character constants replaced by blanks; lines stay."""
    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    return re.sub(pattern, lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.DOTALL)


def matches(path: str, text: str, pattern: str, reason: str) -> Iterator[str]:
    for number, line in enumerate(blanked(text).splitlines(), 1):
        found = re.search(pattern, line)
        if found:
            yield f"{path}:{number}: {found[0].strip(' (')}: {reason}"


# ---------------------------------------------------------------- any file


def long_line(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > MAX_COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, <= {MAX_COLUMNS}"


def long_file(path: str, text: str) -> Iterator[str]:
    count = len(text.splitlines())
    # A stub is split by purpose only where its module is, and the core is one module of many files.
    if count > MAX_FILE_LINES and not path.endswith(".pyi"):
        yield f"{path}: {count} lines, <= {MAX_FILE_LINES}: split it by purpose"


def stray_whitespace(path: str, text: str) -> Iterator[str]:
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at the end"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip() or "\t" in line:
            yield f"{path}:{number}: a tab, a carriage return or a blank at the end of the line"


# ---------------------------------------------------------------- C


def long_c_function(path: str, text: str) -> Iterator[str]:
    if not is_c(path):
        return
    start, head = 0, ""
    for number, line in enumerate(blanked(text).splitlines(), 1):
        if re.match(r"[A-Za-z_]", line):
            start, head = number, line
        elif line.startswith("}") and "(" in head and "=" not in head:
            length = number - start + 1
            if length > MAX_FUNCTION_LINES:
                name = head.split("(")[0].split()[-1].lstrip("*")
                yield f"{path}:{start}: {name} has {length} lines, <= {MAX_FUNCTION_LINES}"


def python_in_core(path: str, text: str) -> Iterator[str]:
    if not is_core(path):
        return
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*#\s*include\s*[<\"](?:Python\.h|py_|structmember\.h)", line):
            yield f"{path}:{number}: {line.strip()}: only py_ files know Python"
    yield from matches(path, text, r"\bPy(?:_\w+|[A-Z]\w*)", "only py_ files know Python")


def allocation_in_core(path: str, text: str) -> Iterator[str]:
    if is_core(path):
        yield from matches(path, text, ALLOCATION, "the caller brings the memory")


def system_call_outside(path: str, text: str) -> Iterator[str]:
    if is_c(path) and file_name(path).split(".")[0] not in SYSTEM_FILES:
        reason = f"system calls live in {', '.join(SYSTEM_FILES)} only"
        yield from matches(path, text, SYSTEM_CALL, reason)
        yield from matches(path, text, SYSTEM_HEADER, reason)


def unprefixed_macro(path: str, text: str) -> Iterator[str]:
    if not path.endswith(".h"):
        return
    pattern = r"^\s*#\s*define\s+(?!PLOG_|PY_SSIZE_T_CLEAN|_GNU_SOURCE)\w+"
    yield from matches(path, text, pattern, "macros of a header start with PLOG_")


def missing_c_opening(path: str, text: str) -> Iterator[str]:
    if is_c(path) and not text.lstrip().startswith(("/*", "//")):
        yield f"{path}:1: opens with no comment: what it is, knows and must not know"


ANY_CHECKERS: list[Checker] = [long_line, long_file, stray_whitespace]
C_CHECKERS: list[Checker] = [
    long_c_function,
    python_in_core,
    allocation_in_core,
    system_call_outside,
    unprefixed_macro,
    missing_c_opening,
]
