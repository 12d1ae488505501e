"""Fingerprints of files: two that are equal mean that the files are the same."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

SMALLEST_CACHED = 2**16  # bytes; reading a smaller file again costs less than a look-up
CLOCK_TICK = 2 * 10**9  # nanoseconds by which the times of a file system may be coarse


def hash_json(value: object) -> str:
    """Return the SHA-256 of a value that JSON can hold."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_listing(folder: Path) -> str:
    """Return a fingerprint of the names, sizes and times of all files below a folder.

    It tells whether results were edited, without reading them. Raises OSError if the
    folder cannot be listed.
    """
    entries: list[list[object]] = []
    for path in folder.rglob("*"):
        status = path.lstat()
        entry: list[object] = [path.relative_to(folder).as_posix()]
        if not stat.S_ISDIR(status.st_mode):
            entry += [status.st_size, status.st_mtime_ns]
        entries.append(entry)
    return hash_json(sorted(entries, key=str))


@dataclass(frozen=True)
class _CachedHash:
    """The hash of a file, and the size, number and times that the file had then."""

    status: str
    content: str


class Fingerprints:
    """Fingerprints of what files hold.

    As data can be large, hashes are kept in a database, together with the size and times
    of the file: once a file changes, its times do too. A file that has changed only just
    now is not kept, because a further change might have the same time.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._cached: dict[bytes, _CachedHash] = {}  # by path
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path PRIMARY KEY, about, digest)"
            )
            for path, status, content in connection.execute("SELECT * FROM files"):
                self._cached[path] = _CachedHash(status, content)

    def hash_files(self, files: Mapping[str, Path]) -> str:
        """Return a fingerprint of the names and contents of files.

        Raises OSError if one of them cannot be read.
        """
        cached_before = dict(self._cached)
        hashes = {name: self._hash_file(path) for name, path in files.items()}
        new = {
            path: cached
            for path, cached in self._cached.items()
            if cached_before.get(path) != cached
        }
        if new:
            self._write(new)
        return hash_json(hashes)

    def _write(self, cached: Mapping[bytes, _CachedHash]) -> None:
        rows = [(path, hash.status, hash.content) for path, hash in cached.items()]
        # If the database cannot be written, the hashes are computed again next time.
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(self._database)) as connection,
            connection,
        ):
            connection.executemany("REPLACE INTO files VALUES (?, ?, ?)", rows)

    def _hash_file(self, path: Path) -> str:
        now = time.time_ns()
        status = path.stat()
        times = [status.st_mtime_ns, status.st_ctime_ns]
        status_text = json.dumps([status.st_size, status.st_ino, *times])

        cached = self._cached.get(os.fsencode(path))
        if cached and cached.status == status_text:
            return cached.content

        digest = sha256()
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
        content = digest.hexdigest()
        if status.st_size >= SMALLEST_CACHED and max(times) < now - CLOCK_TICK:
            self._cached[os.fsencode(path)] = _CachedHash(status_text, content)
        return content
