"""Checkers of STYLE rules for Python: each takes (path, text) and yields one line per finding.

A path is relative to the root, with forward slashes; a checker decides by it whether it applies.
The tests of the checkers, and the run over the whole tree, are in test_tidy.py.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Callable, Iterator

Checker = Callable[[str, str], Iterator[str]]

MAX_FUNCTION_LINES = 70
MAX_UNDOCUMENTED_LINES = 15

# Modules that reach the operating system: in storage only files.py may, below storage nobody may.
SYSTEM_MODULES = set(
    "_io ctypes fcntl glob io mmap multiprocessing os pathlib posix resource select selectors "
    "shutil signal socket subprocess tempfile".split()
)
# Modules and names that are not a function of their arguments.
IMPURE_MODULES = {"datetime", "random", "secrets", "time"}
IMPURE_NAMES = {"environ", "getenv", "urandom", "getrandom", "uuid1", "uuid4"}
# Modules and builtins that run what stands in their input.
UNSAFE_MODULES = {"dill", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "compile"}
# Rule 2 allows crc, fd, mmap, io, id, isr.  Python's own words (len, repr, init) are not ours.
ABBREVIATIONS = set(
    "addr amt arr avg buf bufs calc cb cfg cmd cnt conf ctx cur curr desc dest diff dir dirs dst "
    "elem err errs evt exc fmt fn fname func funcs hdr hdrs hw idx impl info kw leo lst mgr msg "
    "msgs mgmt num nums obj objs off offs opt opts param params pkt pos prev proc ptr qty rec recs "
    "ref refs req res resp ret rv sec seg segs seq sig sock src stmt str sz tbl tmp ts usr util "
    "utils val vals var vars ver".split()
)


@functools.cache
def parsed(text: str) -> ast.Module:
    """Return the tree of a module; several checkers ask for the same one."""
    return ast.parse(text)


def is_library(path: str) -> bool:
    return path.startswith("pylog/") and path.endswith((".py", ".pyi"))


def is_below_engine(path: str) -> bool:
    return path.startswith(("pylog/storage/", "pylog/errors/")) or path in (
        "pylog/config.py",
        "pylog/records.py",
    )


def is_files_module(path: str) -> bool:
    return path == "pylog/storage/files.py"


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, top name) of each absolute import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, (node.module or "").split(".")[0]


def comments(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, comment without its hash, whether it stands on a line of its own)."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = token.line[: token.start[1]].strip() == ""
            yield token.start[0], token.string.removeprefix("#").removeprefix(" "), alone


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


# ---------------------------------------------------------------- shape


def long_function(path: str, text: str) -> Iterator[str]:
    for node in functions(parsed(text)):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > MAX_FUNCTION_LINES:
            yield f"{path}:{node.lineno}: {node.name} has {length} lines, <= {MAX_FUNCTION_LINES}"


def impure_below_engine(path: str, text: str) -> Iterator[str]:
    if not is_below_engine(path):
        return
    for line, name in imported_modules(parsed(text)):
        if name in IMPURE_MODULES:
            yield f"{path}:{line}: {name} below engine/: pass the value in"
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Global):
            yield f"{path}:{node.lineno}: mutable global below engine/"
        name = getattr(node, "attr", None) or getattr(node, "id", None)
        if isinstance(node, ast.Attribute | ast.Name) and name in IMPURE_NAMES:
            yield f"{path}:{node.lineno}: {name} below engine/: pass the value in"


def system_access(path: str, text: str) -> Iterator[str]:
    if not is_below_engine(path) or is_files_module(path):
        return
    for line, name in imported_modules(parsed(text)):
        if name in SYSTEM_MODULES:
            yield f"{path}:{line}: {name}: only storage/files.py calls the operating system"
    for node in ast.walk(parsed(text)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "open"
        ):
            yield f"{path}:{node.lineno}: open(): only storage/files.py calls the operating system"


def print_in_library(path: str, text: str) -> Iterator[str]:
    if not is_library(path) or path.startswith("pylog/cli/"):
        return
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
            yield f"{path}:{node.lineno}: print in library code: use logging"


def abbreviation(path: str, text: str) -> Iterator[str]:
    if not is_library(path):
        return
    for line, name in defined_names(parsed(text)):
        short = sorted(ABBREVIATIONS.intersection(name.strip("_").lower().split("_")))
        if short and not (name.startswith("__") and name.endswith("__")):
            yield f"{path}:{line}: {name}: spell out {', '.join(short)}"


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of everything that the module itself names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


# ---------------------------------------------------------------- docstrings and comments


def missing_module_docstring(path: str, text: str) -> Iterator[str]:
    if path.endswith((".py", ".pyi")) and not ast.get_docstring(parsed(text)):
        yield f"{path}:1: module docstring missing"


def missing_docstring(path: str, text: str) -> Iterator[str]:
    if not is_library(path) or path.endswith(".pyi"):
        return
    promised = documented_methods(parsed(text))
    for node, owner in definitions(parsed(text)):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        is_private = node.name.startswith("_") or owner.startswith("_")
        is_long = not isinstance(node, ast.ClassDef) and length > MAX_UNDOCUMENTED_LINES
        # What a dunder method does is said by the language; its class says the rest.
        needed = is_long and not node.name.startswith("__") if is_private else True
        if needed and not ast.get_docstring(node) and not (owner and node.name in promised):
            yield f"{path}:{node.lineno}: {node.name}: docstring missing"


def documented_methods(tree: ast.Module) -> set[str]:
    """Return the methods some class here documents: a protocol's words hold for its classes."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {
        node.name
        for owner in classes
        for node in owner.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node)
    }


def definitions(
    tree: ast.Module,
) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, str]]:
    """Yield (definition, class it stands in or "") for module level and class level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node, ""
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            is_function = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and not is_overload_or_setter(inner):
                yield inner, node.name


def is_overload_or_setter(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {getattr(item, "id", None) or getattr(item, "attr", "") for item in node.decorator_list}
    return bool(names & {"overload", "setter", "deleter"})


def docstring_summary(path: str, text: str) -> Iterator[str]:
    if not is_library(path):
        return
    nodes = [parsed(text), *(node for node, _ in definitions(parsed(text)))]
    for node in nodes:
        summary = (ast.get_docstring(node) or ".").splitlines()[0]
        if not summary.endswith((".", "?")):
            line = getattr(node, "lineno", 1)
            yield f"{path}:{line}: the docstring's first line is not a whole sentence: {summary}"


def todo_without_issue(path: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        # Spelled so that this file does not find itself.
        if re.search(r"\bFIX" + r"ME\b|\bXX" + r"X\b", line):
            yield f"{path}:{number}: mend it or open an issue"
        if re.search(r"\bTO" + r"DO\b(?!.*#\d)", line):
            yield f"{path}:{number}: names no issue (#n)"


def commented_out_code(path: str, text: str) -> Iterator[str]:
    if not path.endswith((".py", ".pyi")):
        return
    for line, comment, alone in comments(text):
        if alone and is_code(comment):
            yield f"{path}:{line}: commented-out code: {comment.strip()}"


def is_code(comment: str) -> bool:
    """Return whether a comment parses as a statement that no sentence looks like."""
    source = comment.strip()
    if re.fullmatch(r"(else|try|finally|(if|elif|for|while|with|except|def|class)\b.*):", source):
        # A header parses only when its statement is whole: give it a body and what it follows.
        before = {"el": "if x: pass\n", "ex": "try: pass\n", "fi": "try: pass\n"}
        after = "\nfinally: pass" if source == "try:" else ""
        return bool(statements(before.get(source[:2], "") + source + " pass" + after))
    kinds = (ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom, ast.Return, ast.Raise)
    return any(
        isinstance(node, kinds)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await))
        or (isinstance(node, ast.AnnAssign) and node.value is not None)
        for node in statements(source)
    )


def statements(source: str) -> list[ast.stmt]:
    """Return the statements of a piece of source; none when it is not Python."""
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError):
        return []


# ---------------------------------------------------------------- errors and safety


def unsafe_evaluation(path: str, text: str) -> Iterator[str]:
    if path.startswith("tests/"):
        return  # the tests pickle exceptions, to see that users can
    for line, name in imported_modules(parsed(text)):
        if name in UNSAFE_MODULES:
            yield f"{path}:{line}: {name} runs what stands in its input"
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) in UNSAFE_CALLS:
            yield f"{path}:{node.lineno}: {ast.unparse(node.func)} runs what stands in its input"


def broad_except(path: str, text: str) -> Iterator[str]:
    for node in ast.walk(parsed(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        names = {"everything" if item is None else ast.unparse(item) for item in caught}
        last = node.body[-1]
        # Cleaning up and passing on is allowed for all that can be raised, KeyboardInterrupt too.
        passes_on = isinstance(last, ast.Raise) and last.exc is None
        if names & {"everything", "Exception", "builtins.Exception"} or (
            "BaseException" in names and not passes_on
        ):
            yield f"{path}:{node.lineno}: except catches {', '.join(sorted(names))}"
        if all(isinstance(item, ast.Pass) for item in node.body):
            yield f"{path}:{node.lineno}: silent pass: contextlib.suppress says what and why"


# ---------------------------------------------------------------- tests


def sleep_in_test(path: str, text: str) -> Iterator[str]:
    if not path.startswith("tests/"):
        return
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            if any(alias.name == "sleep" for alias in node.names):
                yield f"{path}:{node.lineno}: a test waits for an event, never for a while"
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep":
            yield f"{path}:{node.lineno}: a test waits for an event, never for a while"


def assertionless_test(path: str, text: str) -> Iterator[str]:
    if not path.startswith("tests/"):
        return
    for node in functions(parsed(text)):
        if node.name.startswith("test_") and not any(map(can_fail, ast.walk(node))):
            yield f"{path}:{node.lineno}: {node.name} asserts nothing"


def can_fail(node: ast.AST) -> bool:
    """Return whether a node asserts, or calls something that by its name does."""
    if isinstance(node, ast.Assert):
        return True
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return bool(re.search(r"\braises\b|\bwarns\b|\bfail\b|check|assert|expect|verify", called))


PYTHON_CHECKERS: list[Checker] = [
    long_function,
    impure_below_engine,
    system_access,
    print_in_library,
    abbreviation,
    missing_module_docstring,
    missing_docstring,
    docstring_summary,
    todo_without_issue,
    commented_out_code,
    unsafe_evaluation,
    broad_except,
    sleep_in_test,
    assertionless_test,
]
