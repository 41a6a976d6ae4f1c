"""Small real disks for tests that run as root: full at will, and cut off from power at will.

Everything mounted or attached here is unmounted and detached when its `with` ends, by its exact
mount point and loop device.  Where mounting is not possible the test is skipped and says why.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from patience import HANG_SECONDS

# EXT4_IOC_SHUTDOWN: the file system never writes again, as if the power had gone.
_SHUTDOWN = 0x8004587D
LOG_FLUSH = 1  # the journal's running transaction is committed first
NO_LOG_FLUSH = 2  # it is lost, as in a power cut
_DETACH = 2  # MNT_DETACH: the mount point is free at once, the rest when its last user is gone

_REFUSED = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENODEV}
_BLOCKS = (1 << 16, 1 << 12, 1)

_libc = ctypes.CDLL(None, use_errno=True)


def _skip(reason: str) -> NoReturn:
    pytest.skip(f"no disk can be made here: {reason}")


def _mount(source: str, point: Path, kind: str, options: str) -> None:
    """Mount; skip the test when this user or kernel may not."""
    arguments = [os.fsencode(text) for text in (source, point, kind)]
    if _libc.mount(*arguments, ctypes.c_ulong(0), options.encode()) == 0:
        return
    code = ctypes.get_errno()
    if code in _REFUSED:
        _skip(f"mounting {kind} is refused: {os.strerror(code)}")
    raise OSError(code, os.strerror(code), str(point))


def _unmount(point: Path) -> None:
    """Unmount; who failed a test may still hold files of it, and is then cut off."""
    gc.collect()
    if _libc.umount2(os.fsencode(point), 0) == 0:
        return
    code = ctypes.get_errno()
    if code != errno.EBUSY or _libc.umount2(os.fsencode(point), _DETACH) != 0:
        raise OSError(code, os.strerror(code), str(point))


@contextlib.contextmanager
def memory_disk(point: Path, *, size: int, inodes: int = 0) -> Iterator[Path]:
    """Mount a tmpfs of `size` bytes, and of `inodes` files unless that is 0, at a new `point`."""
    point.mkdir()
    limit = f",nr_inodes={inodes}" if inodes else ""
    _mount("pylog", point, "tmpfs", f"size={size},mode=0700{limit}")
    try:
        yield point
    finally:
        _unmount(point)


class Ext4Disk:
    """An ext4 file system in an image file, on a loop device: mounted, cut off, mounted again."""

    def __init__(self, device: str, point: Path) -> None:
        self._device = device
        self.point = point
        self._is_mounted = False

    def mount(self) -> None:
        _mount(self._device, self.point, "ext4", "")
        self._is_mounted = True

    def unmount(self) -> None:
        if self._is_mounted:
            _unmount(self.point)
            self._is_mounted = False

    def cut_power(self, flags: int) -> None:
        """Let nothing reach the disk any more; `unmount` and `mount` are the reboot."""
        fd = os.open(self.point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", flags))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Unmount, so that no page of it is left in memory, and mount what is on the disk."""
        gc.collect()
        if _libc.umount2(os.fsencode(self.point), 0) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"{os.strerror(code)}: a process still uses it", str(self.point))
        self._is_mounted = False
        self.mount()


@contextlib.contextmanager
def ext4_disk(folder: Path, *, size: int, inodes: int = 0) -> Iterator[Ext4Disk]:
    """Make an ext4 file system of `size` bytes under `folder` and mount it.

    The image lies where directories of tests do, in memory if there is room for all of them: what
    is tested is what reaches the device.
    """
    for tool in ("mkfs.ext4", "losetup"):
        if shutil.which(tool) is None:
            _skip(f"{tool} is not installed")
    image = folder / "image.ext4"
    point = folder / "disk"
    point.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(image.unlink, missing_ok=True)
        with open(image, "wb") as file:
            file.truncate(size)
        # Root may use every block, and nothing is written later in the background.
        arguments = ["-q", "-F", "-m", "0", "-b", "4096", "-E", "lazy_itable_init=0"]
        _run("mkfs.ext4", *arguments, *(["-N", str(inodes)] if inodes else []), str(image))
        try:
            device = _run("losetup", "--find", "--show", str(image)).strip()
        except subprocess.CalledProcessError as error:
            _skip(f"no loop device: {error.stderr.strip()}")
        stack.callback(_run, "losetup", "--detach", device)
        disk = Ext4Disk(device, point)
        stack.callback(disk.unmount)
        disk.mount()
        yield disk


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_SECONDS,
    )
    return done.stdout


# ---------------------------------------------------------------- full


class Filler:
    """Files that leave a disk no byte, or no inode, or as much as is asked for."""

    def __init__(self, point: Path) -> None:
        self._folder = point / "filler"
        self._folder.mkdir(exist_ok=True)
        self._count = 0
        self._data = self._folder / "data"
        self._data.touch()

    def take_bytes(self) -> None:
        """Write until not one more byte can be written; the space found late counts, too."""
        before = -1
        while self._data.stat().st_size != before:
            before = self._data.stat().st_size
            with open(self._data, "ab", buffering=0) as file:
                for size in _BLOCKS:
                    _write_until_full(file.fileno(), bytes(size))
                os.fsync(file.fileno())

    def take_inodes(self) -> None:
        """Create files until no more can be created."""
        with _is_full_at_last():
            while True:
                (self._folder / f"{self._count}").touch(exist_ok=False)
                self._count += 1

    def give_bytes(self, count: int) -> None:
        """Give back space for at least `count` bytes, of a file or a directory."""
        block = 1 << 12
        size = self._data.stat().st_size
        os.truncate(self._data, max(0, (size - count) // block * block))
        self._sync()

    def give_inodes(self, count: int) -> None:
        """Give back the inodes of `count` files."""
        for _ in range(min(count, self._count)):
            self._count -= 1
            (self._folder / f"{self._count}").unlink()
        self._sync()

    def give_all(self) -> None:
        """Give back everything."""
        os.truncate(self._data, 0)
        self.give_inodes(self._count)

    def _sync(self) -> None:
        # What was given back is free when the journal says so.
        for path in (self._data, self._folder):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _write_until_full(fd: int, data: bytes) -> None:
    with _is_full_at_last():
        while True:
            os.write(fd, data)


@contextlib.contextmanager
def _is_full_at_last() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
