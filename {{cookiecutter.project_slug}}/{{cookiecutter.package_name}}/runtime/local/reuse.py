"""Nothing is done twice: what an earlier run has made is found, checked and let go.

A step's results are used again by the rule that `allow_reuse` has on Azure ML: its files,
arguments, parameters, environment variables, environment and inputs are the same, which
its `key` says in short. Data is the same if it holds the same; what another step has made,
only if it was made by the same execution, so that what follows a step that runs, runs too.

A step that does not allow it, and is told a `--model-name`, looks up that registered model
(its `--model-version`, or else the newest one). Here its results are used again while
what it has looked up is the same too. A version that came of them counts as looked up:
once `evaluate` has compared a model and `register` has registered it, nothing is new.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

STATE = "run.json"  # of a run, in its folder
RUN = re.compile(r"\d{4}-\d\d-\d\d-\d{6}-.+")  # a run's folder, unless it was renamed
LARGE = 2**16  # bytes of a file whose digest is worth keeping
TICK = 2 * 10**9  # nanoseconds that the times of files may be coarse by


@dataclass(frozen=True)
class Made:
    """What a step has made: written once it has ended well, and all of it is there."""

    words: list[str]  # what it was told, to say what has changed
    key: str  # a digest of all that it depends on; empty: it is not used again
    models: list[str]  # that were registered: as it looked it up, and as came of it
    files: str  # its outputs, by `listing`
    seconds: float = 0.0  # that it took
    run: str = ""  # the run in whose folder they are, if that is another one
    id: str = field(default_factory=lambda: uuid4().hex)  # of this execution


@dataclass
class State:
    """`run.json`: the pipeline, what was set on the command line, and what is made."""

    pipeline: str
    set: dict[str, str] = field(default_factory=dict)
    done: dict[str, Made] = field(default_factory=dict)  # by step

    @classmethod
    def read(cls, folder: Path) -> State:
        """That of the run in a folder; ValueError and OSError if there is none."""
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        try:
            done = {name: Made(**made) for name, made in state["done"].items()}
            return cls(state["pipeline"], dict(state["set"]), done)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / STATE} is not of a run") from error

    def write(self, folder: Path) -> None:
        unfinished = folder / f".{STATE}"
        unfinished.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        unfinished.replace(folder / STATE)


@contextmanager
def locked(folder: Path, seconds: float = 60) -> Iterator[None]:
    """Hold the lock of a folder of runs or of a run, which is lost with this process.

    OSError if another process holds it for so long, or nothing can be written there.
    """
    lock = sqlite3.connect(folder / ".lock", timeout=seconds, isolation_level=None)
    with closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise OSError(f"{folder}: {error}") from None
        yield


def find(runs: Path, step: str, key: str, model: str) -> Made | None:
    """What the newest run has made of a step, if it is whole and as it was."""
    for folder in _newest_first(runs):
        made = _done(folder).get(step)
        if made and made.key == key and model in made.models:
            made = replace(made, run=made.run or folder.name)
            with suppress(OSError):
                if listing(runs / made.run / step / "outputs") == made.files:
                    return made
    return None


def earlier(runs: Path, pipeline: str) -> Iterator[tuple[Path, State]]:
    """The runs of a pipeline that there are, newest first: their folders and states."""
    for folder in _newest_first(runs):
        with suppress(OSError, ValueError):
            state = State.read(folder)
            if state.pipeline == pipeline:
                yield folder, state


def seconds(runs: Path, pipeline: str, step: str) -> float:
    """How long a step took in the newest run of a pipeline in which it ended well; or 0."""
    for _, state in earlier(runs, pipeline):
        if step in state.done:
            return state.done[step].seconds
    return 0.0


def prune(runs: Path, keep: int, is_needed: Callable[[str], bool]) -> list[str]:
    """Remove the runs beyond a number; returns their names.

    The newest stay, those that were renamed or are at work, those that are needed by
    name, and all whose results these use.
    """
    with locked(runs):
        folders = {folder.name: folder for folder in _newest_first(runs)}
        beyond = [name for name in folders if RUN.fullmatch(name)][keep:]
        old = {n for n in beyond if not (is_needed(n) or _is_at_work(folders[n]))}
        to_see = [name for name in folders if name not in old]
        while to_see:
            used = {made.run for made in _done(folders[to_see.pop()]).values()} & old
            to_see += used
            old -= used
        for name in old:  # first of all, so that nothing of it is used from now on
            (folders[name] / STATE).unlink(missing_ok=True)
    for name in old:
        shutil.rmtree(folders[name], ignore_errors=True)
    return sorted(old)


def _is_at_work(folder: Path) -> bool:
    try:
        with locked(folder, 0):
            return False
    except OSError:
        return True


def _newest_first(runs: Path) -> list[Path]:
    """The folders of runs; those of one second are numbered."""
    folders = [path for path in runs.iterdir() if path.is_dir()]
    return sorted(folders, key=lambda p: (p.name[:17], len(p.name), p.name))[::-1]


def _done(folder: Path) -> dict[str, Made]:
    with suppress(OSError, ValueError):
        return State.read(folder).done
    return {}


def listing(folder: Path) -> str:
    """A digest of the names, sizes and times of what is below a folder."""
    found = []
    for path in folder.rglob("*"):
        about = path.lstat()
        is_folder = stat.S_ISDIR(about.st_mode)
        size_and_time = () if is_folder else (about.st_size, about.st_mtime_ns)
        found.append((path.relative_to(folder).as_posix(), *size_and_time))
    return sha256(json.dumps(sorted(found)).encode()).hexdigest()


class Digests:
    """Digests of what files hold.

    As data can be large, they are kept in a database, together with what the file system
    says of the file: once it is changed, the time of its last change is another one. Not
    if that was only just now, as a further change might have the same time.
    """

    def __init__(self, database: Path) -> None:
        self.database = database
        self.known: dict[bytes, tuple[str, str]] = {}  # by path
        with suppress(sqlite3.Error), closing(sqlite3.connect(database)) as connection:
            columns = "path PRIMARY KEY, about, digest"
            connection.execute(f"CREATE TABLE IF NOT EXISTS files ({columns})")
            for path, *rest in connection.execute("SELECT * FROM files"):
                self.known[path] = (rest[0], rest[1])

    def of(self, files: Mapping[str, Path]) -> str:
        """A digest of what files are called and hold; OSError if one cannot be read."""
        before = dict(self.known)
        digests = {name: self._of_file(path) for name, path in files.items()}
        new = [(k, *v) for k, v in self.known.items() if v != before.get(k)]
        if new:
            with (
                suppress(sqlite3.Error),  # they are computed again then
                closing(sqlite3.connect(self.database)) as connection,
                connection,
            ):
                connection.executemany("REPLACE INTO files VALUES (?, ?, ?)", new)
        return sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def _of_file(self, path: Path) -> str:
        now, about = time.time_ns(), path.stat()
        times = about.st_mtime_ns, about.st_ctime_ns
        words = json.dumps([about.st_size, about.st_ino, *times])
        known, result = self.known.get(os.fsencode(path), ("", ""))
        if known == words:
            return result
        digest = sha256()
        with path.open("rb") as content:
            while chunk := content.read(2**20):
                digest.update(chunk)
        result = digest.hexdigest()
        if about.st_size >= LARGE and max(times) < now - TICK:
            self.known[os.fsencode(path)] = (words, result)
        return result
