"""Partitions of a log that is one of several replicas, over files in memory."""

from __future__ import annotations

import dataclasses
import random

from crash_checks import Process
from crash_model import Damage, Disk, lose_all
from memory_files import MemoryFiles

from pylog import Record, _native
from pylog.config import TopicConfig
from pylog.storage.environment import Flushable
from pylog.storage.partition import Partition
from pylog.storage.role import NO_ROLE, Role, RoleKind

OS = TopicConfig(durability="os", segment_bytes=1 << 20)
FSYNC = TopicConfig(durability="fsync", segment_bytes=1 << 20)


def leader(epoch: int = 1) -> Role:
    return Role(kind=RoleKind.LEADER, epoch=epoch)


def follower(epoch: int = 1) -> Role:
    return Role(kind=RoleKind.FOLLOWER, epoch=epoch)


class Host:
    """A log's directory, and what its processes agree on."""

    def __init__(self, role: Role = NO_ROLE, disk: Disk | None = None, boot: int = 1) -> None:
        self._boot = boot
        self.files = MemoryFiles(disk, boot=boot, is_recording=True)
        self.role = role
        self.settings = _native.Events(bytearray(64))
        self.log_events = _native.Events(bytearray(64))
        self.lost: list[Flushable] = []
        self.refuses = False  # to note what is lost

    def process(self) -> Process:
        """Return one more process that knows the host's role."""
        process = Process(self.files)
        process.environment = dataclasses.replace(
            process.environment,
            settings=self.settings,
            log_events=self.log_events,
            role=lambda: self.role,
            on_lost_records=self._note_lost,
        )
        return process

    def _note_lost(self, partition: Flushable) -> None:
        if self.refuses:
            raise OSError("not noted")
        self.lost.append(partition)

    def partition(self, config: TopicConfig = OS) -> Partition:
        """Return the partition as one more process has it."""
        return self.process().partition(config)

    def killed(self, role: Role | None = None) -> Host:
        """Return the host after all its processes were killed, with this role or the same."""
        return Host(role or self.role, self.files.disk_after(), self._boot)

    def cut_off(self, role: Role | None = None, damage: Damage = lose_all) -> Host:
        """Return the host after a power cut, with this role or the same."""
        disk = self.files.disk_after().crash(damage, random.Random(0))
        return Host(role or self.role, disk, self._boot + 1)

    def become(self, role: Role) -> None:
        self.role = role
        self.settings.notify()


def values(partition: Partition) -> list[bytes | None]:
    return [record.value for record in partition.records()]


def all_records(partition: Partition) -> list[Record]:
    """Return what is placed, also what is not visible yet."""
    offset, found = partition.log_start_offset, []
    while offset < partition.log_end_offset:
        records = partition.read_placed(offset)
        found += list(records)
        offset = records.next_offset
    return found
