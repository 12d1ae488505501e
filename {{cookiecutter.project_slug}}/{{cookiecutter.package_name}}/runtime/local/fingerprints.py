"""Fingerprints of files: if two are equal, the files are the same."""

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

#: The hash of a smaller file, in bytes, is not stored: reading the file costs no more.
SMALLEST_STORED = 2**16
#: The nanoseconds by which the times of files may be rounded.
CLOCK_TICK = 2 * 10**9


def hash_json(value: object) -> str:
    """Return the SHA-256 of a value that JSON can hold."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_listing(folder: Path) -> str:
    """Return a fingerprint of the names, sizes and times of all files below a folder.

    It shows whether results were edited, without reading them. Raises OSError if the
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


def hash_content(path: Path) -> str:
    """Return the SHA-256 of a file's content. Raises OSError if it cannot be read."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class _StoredHash:
    """The hash of a file's content, and the file's state when it was computed."""

    state: str  # the size, number and times of the file, as JSON
    content: str


class Fingerprints:
    """Compute fingerprints of files by their contents.

    As data can be large, the hash of each large file is stored in a database, together
    with the size and times of the file. It is used again while these stay the same.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._stored: dict[bytes, _StoredHash] = {}  # by path
        # Without a database that can be read, all hashes are computed again.
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path PRIMARY KEY, about, digest)"
            )
            for path, state, content in connection.execute("SELECT * FROM files"):
                self._stored[path] = _StoredHash(state, content)

    def hash_files(self, files: Mapping[str, Path]) -> str:
        """Return a fingerprint of the names and contents of files.

        Raises OSError if one of them cannot be read.
        """
        hashes: dict[str, str] = {}
        new: dict[bytes, _StoredHash] = {}
        for name, path in files.items():
            started = time.time_ns()
            status = path.stat()
            state = _describe_state(status)
            stored = self._stored.get(os.fsencode(path))
            if stored and stored.state == state:
                hashes[name] = stored.content
                continue

            hashes[name] = hash_content(path)
            # If a file has just changed, its next change might leave it the same times.
            last_change = max(status.st_mtime_ns, status.st_ctime_ns)
            is_settled = last_change < started - CLOCK_TICK
            if status.st_size >= SMALLEST_STORED and is_settled:
                new[os.fsencode(path)] = _StoredHash(state, hashes[name])
        if new:
            self._store(new)
        return hash_json(hashes)

    def _store(self, new: Mapping[bytes, _StoredHash]) -> None:
        """Remember hashes by the paths of their files, here and in the database."""
        self._stored.update(new)
        rows = [(path, stored.state, stored.content) for path, stored in new.items()]
        # If the database cannot be written, the hashes are computed again next time.
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(self._database)) as connection,
            connection,
        ):
            connection.executemany("REPLACE INTO files VALUES (?, ?, ?)", rows)


def _describe_state(status: os.stat_result) -> str:
    """Return what changes whenever a file's content does: size, number and times."""
    return json.dumps(
        [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    )
