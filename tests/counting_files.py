"""A file system that counts what is asked of the one below it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pylog.storage.files import Directory, File, FileSystem


class CountingFiles:
    """Passes everything on; `data_syncs` counts the calls of File.sync_data, `made` directories.

    on_sync: called in each of those calls.
    """

    def __init__(self, files: FileSystem) -> None:
        self._files = files
        self.data_syncs = 0
        self.made: set[str] = set()
        self.on_sync: Callable[[], object] = lambda: None

    def root(self, path: str, *, create: bool) -> CountingDirectory:
        return CountingDirectory(self, self._files.root(path, create=create))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)


class CountingDirectory:
    def __init__(self, files: CountingFiles, directory: Directory) -> None:
        self._files = files
        self._directory = directory

    def directory(self, name: str) -> CountingDirectory:
        return CountingDirectory(self._files, self._directory.directory(name))

    def make(self) -> None:
        self._files.made.add(self._directory.path)
        self._directory.make()

    def open(self, name: str, **how: bool) -> CountingFile:
        return CountingFile(self._files, self._directory.open(name, **how))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._directory, name)


class CountingFile:
    def __init__(self, files: CountingFiles, file: File) -> None:
        self._files = files
        self._file = file
        self.pread = file.pread

    def sync_data(self) -> None:
        self._files.data_syncs += 1
        self._files.on_sync()
        self._file.sync_data()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
