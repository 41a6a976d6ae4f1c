"""The floors: a room imports only from floors below its own.

The table below is the house.  A module that has no place in it fails, so that a new module gets its
place on purpose.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Floor by floor, bottom up.  In a tuple the order counts too: a room may import those before it.
# Rooms in a set stand side by side and may not import each other.
# C is not seen here: the core takes its exception classes from errors when it is loaded.
HOUSE: list[tuple[str, ...] | set[str]] = [
    ("_native", "errors", "arguments", "callbacks", "closing", "codecs", "config", "records"),
    ("storage",),
    ("engine", "topics", "replication"),
    ("groups",),
    {"producer", "consumer"},
    {"table", "queue"},
    ("log",),
    ("aio", "interop", "cli"),  # the command line has commands for the room before it
    ("__init__", "__main__"),
]

# Folders whose inner order is fixed, bottom up.  In other folders any module may import any other.
FOLDERS: dict[str, tuple[str, ...]] = {
    "errors": (
        "base",
        "usage",
        "consumers",
        "disk",
        "appends",
        "groups",
        "tables",
        "replication",
        "mirrors",
        "__init__",
    ),
    "storage": (
        "files",
        "descriptors",
        "role",
        "cleaner_config",
        "environment",
        "layout",
        "epochs",
        "manifest",  # text of facts about segments, so it stands below those who act on them
        "epoch_checkpoint",
        "policy",
        "index",
        "scan",
        "shared_page",
        "cleaned_files",
        "segment",
        "segments",
        "times",
        "tail",
        "sync",
        "adoption",
        "segment_files",
        "recovery",
        "compaction",
        "lifecycle",
        "truncation",
        "known_segments",
        "inspect_segment",
        "inspect",
        "inspect_file",
        "encoding",
        "tail_rules",
        "validation",
        "producer_state",
        "writer",
        "attachment",
        "producer_files",
        "observer",
        "produced",
        "replica_waits",
        "handle",
        "retention",
        "dirty",
        "compacted",
        "timed",
        "readable",
        "replica_batches",
        "replicated",
        "decided",
        "partition",
        "__init__",
    ),
    "engine": (
        "moments",
        "log_files",
        "background",
        "due_work",
        "cleaner",
        "engine",
        "__init__",
    ),
    "topics": (
        "metadata",
        "cursors",
        "keyed",
        "topic",
        "registry",
        "verification",
        "__init__",
    ),
    "replication": (
        "config",
        "facts",
        "divergence",
        "election",
        "standing",
        "leading",
        "following",
        "role_file",
        "transport",
        "wire",
        "authentication",
        "connection",
        "socket_transport",
        "roles",
        "replicated_log",
        "replica",
        "directory_transport",
        "server",
        "leader",
        "link_session",
        "follower_link",
        "replicating",
        "__init__",
    ),
    "aio": (
        "closing",
        "calls",
        "watch",
        "listening",
        "prompt",
        "consumer",
        "producer",
        "table",
        "log",
        "__init__",
    ),
    "producer": (
        "config",
        "futures",
        "accumulator",
        "sender",
        "producer",
        "__init__",
    ),
    "consumer": (
        "config",
        "gate",
        "subscription",
        "positioned",
        "commits",
        "alone_part",
        "group_part",
        "consumer",
        "__init__",
    ),
    "table": (
        "position",
        "state",
        "store",
        "follower",
        "replay",
        "table",
        "__init__",
    ),
    "groups": (
        "facts",
        "descriptions",
        "wire",
        "schemas",
        "assignors",
        "state",
        "membership",
        "leaps",
        "liveness",
        "view",
        "group_log",
        "member",
        "administration",
        "coordinator",
        "__init__",
    ),
}

DYNAMIC_IMPORTS = {"importlib", "imp", "runpy", "pkgutil"}


def rank(room: str) -> tuple[int, int] | None:
    """Return (floor, place on the floor) of a room; None when it is not in the house."""
    for floor, rooms in enumerate(HOUSE):
        if room in rooms:
            return floor, rooms.index(room) if isinstance(rooms, tuple) else 0
    return None


def module_parts(path: str) -> list[str]:
    """Return the parts below the package: pylog/storage/tail.py -> ["storage", "tail"]."""
    return path.removesuffix(".pyi").removesuffix(".py").split("/")[1:]


def exists(parts: list[str]) -> bool:
    """Return whether the tables know a module of this name below the package."""
    if len(parts) == 1:
        return rank(parts[0]) is not None
    return len(parts) == 2 and parts[1] in FOLDERS.get(parts[0], ())


def imported(tree: ast.AST, importer: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, module below the package) for each import of the package, lazy ones included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names = alias.name.split(".")
                if names[0] == "pylog":
                    yield node.lineno, names[1:] or ["__init__"]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                # One dot is the package the importer stands in; each further dot one above it.
                names = ["pylog", *importer][: -node.level]
                names += node.module.split(".") if node.module else []
            else:
                names = (node.module or "").split(".")
            if names[0] != "pylog":
                continue
            for alias in node.names:
                inner = [*names[1:], alias.name]
                yield node.lineno, inner if exists(inner) else names[1:] or ["__init__"]


def complaint(importer: list[str], target: list[str]) -> str | None:
    """Return why `importer` may not import `target`, or None when it may."""
    source_rank, target_rank = rank(importer[0]), rank(target[0])
    if source_rank is None or target_rank is None:
        return "is not in the house"
    if importer[0] != target[0]:
        return None if target_rank < source_rank else "is not below"
    order = FOLDERS.get(importer[0])
    if order is None:
        # Modules of a folder without an order may import each other, a single module not itself.
        return None if len(importer) > 1 else "is itself"
    inner = target[1] if len(target) > 1 else "__init__"
    if inner not in order:
        return "is not in the folder's order"
    return None if order.index(inner) < order.index(importer[1]) else "is not below"


def floor_findings(path: str, text: str) -> Iterator[str]:
    """Yield a line for each import that climbs, and for a module that has no place."""
    importer = module_parts(path)
    if rank(importer[0]) is None or (
        importer[0] in FOLDERS and len(importer) > 1 and importer[1] not in FOLDERS[importer[0]]
    ):
        yield f"{path}: has no place in the house: add it to the table in tests/test_floors.py"
        return
    for line, target in imported(ast.parse(text), importer):
        reason = complaint(importer, target)
        if reason is not None:
            yield f"{path}:{line}: imports pylog.{'.'.join(target)} ({reason})"


def dynamic_findings(path: str, text: str) -> Iterator[str]:
    """Yield a line for each import that a reader, and this test, could not follow."""
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            # importlib.metadata tells versions and imports nothing.
            is_metadata = node.module == "importlib.metadata"
            names = [] if is_metadata else [(node.module or "").split(".")[0]]
        elif isinstance(node, ast.Name):
            names = [node.id] if node.id == "__import__" else []
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            # sys.modules is the other way to reach a module that no import names.
            names = ["sys.modules"] if (node.value.id, node.attr) == ("sys", "modules") else []
        for name in names:
            if name in DYNAMIC_IMPORTS or name in ("__import__", "sys.modules"):
                yield f"{path}:{node.lineno}: dynamic import through {name}"


def library_files() -> list[str]:
    """Return the paths of all modules and stubs of the package, from the root."""
    package = ROOT / "pylog"
    found = [*package.rglob("*.py"), *package.rglob("*.pyi")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def test_the_tree_is_found() -> None:
    assert "pylog/errors/base.py" in library_files()


@pytest.mark.parametrize("path", library_files())
def test_imports_only_go_down(path: str) -> None:
    text = (ROOT / path).read_text("utf-8")
    assert list(floor_findings(path, text)) == []
    assert list(dynamic_findings(path, text)) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pylog/errors/base.py", "import pylog.config"),
        ("pylog/errors/base.py", "import pylog"),
        ("pylog/errors/base.py", "from pylog import Log"),
        ("pylog/errors/base.py", "from pylog import config"),
        ("pylog/errors/base.py", "from ..config import TopicConfig"),
        ("pylog/errors/base.py", "from .. import config"),
        ("pylog/errors/base.py", "def f():\n    from pylog.storage import files"),
        ("pylog/errors/base.py", "if TYPE_CHECKING:\n    from pylog.records import Record"),
        ("pylog/errors/base.py", "from pylog.errors import ClosedError"),
        ("pylog/errors/usage.py", "from pylog.errors.disk import CorruptionError"),
        ("pylog/config.py", "import pylog.config"),
        ("pylog/storage/files.py", "from pylog.storage import layout"),
        ("pylog/storage/files.py", "from pylog.storage.layout import parse"),
        ("pylog/storage/files.py", "from . import layout"),
        ("pylog/storage/files.py", "from .layout import parse"),
        ("pylog/storage/files.py", "from .. import engine"),
        ("pylog/storage/files.py", "from pylog.engine.engine import Engine"),
        ("pylog/storage/files.py", "import pylog.storage"),
        ("pylog/storage/layout.py", "from pylog.storage.nowhere import x"),
        ("pylog/producer/producer.py", "from pylog.consumer.consumer import Consumer"),
        ("pylog/consumer/consumer.py", "from pylog.producer.producer import Producer"),
        ("pylog/interop/kafka/mirror.py", "from pylog.cli import show"),
        ("pylog/groups/members.py", "from pylog.log import Log"),
        ("pylog/engine/engine.py", "from pylog.topics.topic import Topic"),
        ("pylog/engine/engine.py", "import pylog.nowhere"),
        ("pylog/nowhere.py", ""),
        ("pylog/storage/nowhere.py", ""),
    ],
)
def test_an_import_that_climbs_is_found(path: str, text: str) -> None:
    assert list(floor_findings(path, text)) != []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pylog/config.py", "from pylog.errors import PylogError"),
        ("pylog/config.py", "from pylog import errors"),
        ("pylog/storage/layout.py", "from pylog.storage import files\nfrom .files import File"),
        (
            "pylog/storage/layout.py",
            "import os\nimport numpy.typing\nfrom ..errors import PylogError",
        ),
        (
            "pylog/engine/engine.py",
            "import pylog.storage.partition\nfrom pylog.engine.background import Background",
        ),
        ("pylog/cli/main.py", "from pylog.log import Log\nfrom pylog.cli import tables"),
        ("pylog/__init__.py", "from pylog.log import Log"),
        ("pylog/__main__.py", "from pylog.cli import main"),
        ("pylog/groups/schemas.py", "from pylog.groups.wire import Input"),
    ],
)
def test_an_import_that_goes_down_is_not_found(path: str, text: str) -> None:
    assert list(floor_findings(path, text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import importlib",
        "import importlib.util",
        "from importlib import import_module",
        "def f():\n    return __import__('pylog.engine.engine')",
        "import sys\nsys.modules['pylog.engine.engine']",
    ],
)
def test_a_dynamic_import_is_found(text: str) -> None:
    assert list(dynamic_findings("pylog/errors/base.py", text)) != []


def test_asking_for_a_version_is_no_dynamic_import() -> None:
    assert (
        list(dynamic_findings("pylog/cli/main.py", "from importlib.metadata import version")) == []
    )
