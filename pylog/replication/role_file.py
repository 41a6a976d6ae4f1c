"""The file `replication` in a log's directory: what the log is among its replicas, and promised.

Pure but for `read_state` and `replace_state`: text in, value out, and back.  Replaced atomically
and durably, so a promise that was given holds after a power cut.  Must not know who changes it.

    pylog-replication 1
    replica 3f2a                      this log's id among the replicas
    cluster 6b1f...                   32 hex digits: what all of them have in common; "-": not yet
    role follower                     none, leader or follower
    promised 4 77c0                   takes nothing from a leader of an older epoch, nor from
                                      another of this one; "-": who leads it is not known yet
    in_sync 4 2 3f2a,77c0             epoch, version and members of the greatest InSync that it is a
                                      member of; "-": none, so it may not be elected
    acks all                          of appends that do not say it: all, or 1
    min_insync_replicas 2
    request_timeout_ms 30000
    boot 1f0c...                      of a leader: a digest of the boot that it was made one in
    crc32c 1a2b3c4d                   of all bytes above
"""

from __future__ import annotations

import re
import uuid
from typing import Final

from pylog._native import crc32c
from pylog.errors import CorruptFileError, IncompatibleFormatError
from pylog.replication.facts import MAX_EPOCH, InSync, is_replica_id
from pylog.replication.standing import ReplicaState
from pylog.storage.files import Directory, read_file, replace_file
from pylog.storage.role import RoleKind

ROLE_FILE: Final = "replication"
FORMAT_VERSION: Final = 1
_MAX_BYTES: Final = 1 << 20  # some ten thousand members; what is larger is not ours
_MAX_INT: Final = 2**31 - 1
_NOTHING: Final = "-"
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_HEX_ID: Final = re.compile(r"[0-9a-f]{32}")
_NAMES: Final = (
    "pylog-replication",
    "replica",
    "cluster",
    "role",
    "promised",
    "in_sync",
    "acks",
    "min_insync_replicas",
    "request_timeout_ms",
    "boot",
    "crc32c",
)


def encode_state(state: ReplicaState) -> bytes:
    """Return the text of the file."""
    assert state.contradiction is None, state.contradiction
    assert 0 <= state.promised_epoch <= MAX_EPOCH, state
    in_sync = state.in_sync
    values = (
        FORMAT_VERSION,
        state.replica_id,
        _NOTHING if state.cluster_id is None else state.cluster_id.hex,
        state.kind.value,
        f"{state.promised_epoch} {state.leader_id or _NOTHING}",
        _NOTHING
        if in_sync is None
        else f"{in_sync.epoch} {in_sync.version} {','.join(sorted(in_sync.members))}",
        "all" if state.waits_for_all else "1",
        state.min_insync_replicas,
        state.request_timeout_ms,
        state.boot or _NOTHING,
    )
    lines = [f"{name} {value}\n" for name, value in zip(_NAMES, values, strict=False)]
    body = "".join(lines).encode("ascii")
    return body + f"crc32c {crc32c(body):08x}\n".encode("ascii")


def parse_state(data: bytes, *, path: str) -> ReplicaState:
    """Return what the text of a role file says.

    Raises CorruptFileError that names what is wrong, IncompatibleFormatError for a later version.
    """
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise CorruptFileError(path, f"byte {error.start} is not ASCII") from None
    if not text.endswith("\n"):
        raise CorruptFileError(path, "the last line is cut")
    lines = [line.partition(" ") for line in text[:-1].split("\n")]
    if tuple(name for name, _, _ in lines) != _NAMES:
        raise CorruptFileError(path, f"expected the lines {', '.join(_NAMES)}")
    body = data[: data.rindex(b"crc32c ")]
    if lines[-1][2] != f"{crc32c(body):08x}":
        computed = f"{crc32c(body):08x}"
        raise CorruptFileError(path, f"crc32c {lines[-1][2][:20]} stored, {computed} computed")
    state = _Parser(path).state({name: value for name, _, value in lines})
    if state.contradiction is not None:
        raise CorruptFileError(path, state.contradiction)
    return state


class _Parser:
    """Reads the values of one file, whose path stands in its errors."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _wrong(self, name: str, value: str) -> CorruptFileError:
        return CorruptFileError(self._path, f"{name}: {value[:80]!r} is not one")

    def _number(self, name: str, value: str, *, lowest: int = 0) -> int:
        if _NUMBER.fullmatch(value) is None or not lowest <= int(value) <= _MAX_INT:
            raise self._wrong(name, value)
        return int(value)

    def _id(self, name: str, value: str) -> str:
        # A replica may be called "-": it is somebody else that is not known then.
        if not is_replica_id(value) or value == _NOTHING:
            raise self._wrong(name, value)
        return value

    def _in_sync(self, value: str) -> InSync | None:
        if value == _NOTHING:
            return None
        parts = value.split(" ")
        if len(parts) != 3:
            raise self._wrong("in_sync", value)
        members = [self._id("in_sync", member) for member in parts[2].split(",")]
        if members != sorted(set(members)):
            raise self._wrong("in_sync", value)
        epoch, version = (self._number("in_sync", part) for part in parts[:2])
        return InSync(epoch, version, frozenset(members))

    def _one_of(self, name: str, value: str, allowed: tuple[str, ...]) -> str:
        if value not in allowed:
            raise self._wrong(name, value)
        return value

    def state(self, values: dict[str, str]) -> ReplicaState:
        """Return what the lines say; whether that can be true together is not looked at."""
        version = self._number(_NAMES[0], values[_NAMES[0]])
        if version != FORMAT_VERSION:
            raise IncompatibleFormatError(self._path, version, FORMAT_VERSION)
        cluster = values["cluster"]
        if cluster != _NOTHING and _HEX_ID.fullmatch(cluster) is None:
            raise self._wrong("cluster", cluster)
        boot = values["boot"]
        if boot != _NOTHING and _HEX_ID.fullmatch(boot) is None:
            raise self._wrong("boot", boot)
        epoch, _, leader = values["promised"].partition(" ")
        kinds = tuple(kind.value for kind in RoleKind)
        return ReplicaState(
            replica_id=self._id("replica", values["replica"]),
            cluster_id=None if cluster == _NOTHING else uuid.UUID(hex=cluster),
            kind=RoleKind(self._one_of("role", values["role"], kinds)),
            promised_epoch=self._number("promised", epoch),
            leader_id=None if leader == _NOTHING else self._id("promised", leader),
            in_sync=self._in_sync(values["in_sync"]),
            waits_for_all=self._one_of("acks", values["acks"], ("all", "1")) == "all",
            min_insync_replicas=self._number(
                "min_insync_replicas", values["min_insync_replicas"], lowest=1
            ),
            request_timeout_ms=self._number("request_timeout_ms", values["request_timeout_ms"]),
            boot=None if boot == _NOTHING else boot,
        )


def read_state(root: Directory) -> ReplicaState | None:
    """Return what the log's role file says, None when there is none.

    Raises CorruptFileError, IncompatibleFormatError, OSError.
    """
    data = read_file(root, ROLE_FILE, max_bytes=_MAX_BYTES)
    return None if data is None else parse_state(data, path=f"{root.path}/{ROLE_FILE}")


def replace_state(root: Directory, state: ReplicaState) -> None:
    """Write the role file, durably; the old one or the new one is there at any moment.

    Raises OSError.  Blocks for two syncs.
    """
    replace_file(root, ROLE_FILE, encode_state(state))
