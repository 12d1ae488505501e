"""Compute fingerprints of files. If two fingerprints are equal, so are the files."""

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

#: Hashes are stored only for files of at least this many bytes. To read a smaller file is
#: as quick as to look up its hash.
MIN_STORED_SIZE = 2**16
#: File systems round the times of files, to 2 seconds at most. The value is in nanoseconds.
MAX_TIME_ROUNDING = 2 * 10**9


def hash_json(value: object) -> str:
    """Return the SHA-256 of a value's JSON text, in hexadecimal digits."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_listing(folder: Path) -> str:
    """Return a fingerprint of the files and folders below a folder.

    The fingerprint covers the names of all files and folders, and the size and the time of
    the last change of each file. The contents of the files are not read. If somebody edits
    a file, the fingerprint changes nevertheless, because the file gets a new time. Raises
    OSError if the folder cannot be listed.
    """
    entries: list[list[object]] = []
    for path in folder.rglob("*"):
        status = path.lstat()
        entry: list[object] = [path.relative_to(folder).as_posix()]
        if not stat.S_ISDIR(status.st_mode):
            entry += [status.st_size, status.st_mtime_ns]
        entries.append(entry)
    # `rglob` lists files in an arbitrary order, so the entries are sorted by their text.
    # With another sort key, fingerprints in the records of earlier runs could be wrong.
    return hash_json(sorted(entries, key=str))


def hash_content(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits.

    Raises OSError if the file cannot be read.
    """
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class _StoredHash:
    """The hash of a file's content, and the state of the file when it was hashed."""

    #: The size, inode number and times of the file, as JSON.
    file_state: str
    content_hash: str


class Fingerprints:
    """Computes fingerprints of files from the names and contents of the files.

    It takes long to read a large file, so the hash of each large file is stored in a
    database, together with the size, the inode number and the times of the file. While
    these stay the same, the stored hash is used, and the file is not read again.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._stored_hashes: dict[bytes, _StoredHash] = {}  # by the path of the file
        # The column `about` holds the state of a file, and `digest` the hash of its
        # content. If the database cannot be read, all hashes are computed again.
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS files (path PRIMARY KEY, about, digest)"
            )
            for path, state, content_hash in connection.execute("SELECT * FROM files"):
                self._stored_hashes[path] = _StoredHash(state, content_hash)

    def hash_files(self, files: Mapping[str, Path]) -> str:
        """Return a fingerprint of the names and contents of files.

        `files` maps names to paths. The hash of a large file is stored, and used again
        until the size, the inode number or a time of the file changes. Raises OSError if a
        file cannot be read.
        """
        hash_by_name: dict[str, str] = {}
        hashes_to_store: dict[bytes, _StoredHash] = {}
        for name, path in files.items():
            time_before_reading = time.time_ns()
            status = path.stat()
            file_state = _describe_state(status)
            stored_hash = self._stored_hashes.get(os.fsencode(path))
            if stored_hash is not None and stored_hash.file_state == file_state:
                hash_by_name[name] = stored_hash.content_hash
                continue

            content_hash = hash_content(path)
            hash_by_name[name] = content_hash
            # If a file was changed just before it was read, a second change may leave the
            # file with the same times. A stored hash would then be used for the wrong
            # content, so it is not stored.
            is_large = status.st_size >= MIN_STORED_SIZE
            if is_large and not _was_just_changed(status, time_before_reading):
                hashes_to_store[os.fsencode(path)] = _StoredHash(
                    file_state, content_hash
                )

        if hashes_to_store:
            self._store(hashes_to_store)
        return hash_json(hash_by_name)

    def _store(self, hash_by_path: Mapping[bytes, _StoredHash]) -> None:
        """Keep hashes of files in memory and in the database.

        `hash_by_path` has the paths of the files as bytes, as the system writes them.
        """
        self._stored_hashes.update(hash_by_path)
        rows = [
            (path, stored.file_state, stored.content_hash)
            for path, stored in hash_by_path.items()
        ]
        # If the database cannot be written, the next run computes the hashes again.
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(self._database)) as connection,
            connection,
        ):
            connection.executemany("REPLACE INTO files VALUES (?, ?, ?)", rows)


def _was_just_changed(status: os.stat_result, time_before_reading: int) -> bool:
    """Return whether a file was changed less than MAX_TIME_ROUNDING before it was read.

    `time_before_reading` is in nanoseconds since 1970.
    """
    last_change = max(status.st_mtime_ns, status.st_ctime_ns)
    return last_change >= time_before_reading - MAX_TIME_ROUNDING


def _describe_state(status: os.stat_result) -> str:
    """Return a file's size, inode number and times as JSON.

    A change of the file's content also changes at least one of these four numbers, except
    within MAX_TIME_ROUNDING after an earlier change.
    """
    return json.dumps(
        [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    )
