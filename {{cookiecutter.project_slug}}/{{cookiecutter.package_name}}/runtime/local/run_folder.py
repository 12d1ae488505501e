"""The folders of runs below `runs/`: what each records, and how long it is kept.

A run has a folder of its own, with a folder for each step:

    run.json             the pipeline, its parameters, and the steps that have ended well
    STEP/code/           the copy of the step's files, where the step runs
    STEP/outputs/PORT/   what the step writes
    STEP/log.txt         what the step prints
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from uuid import uuid4

RECORD = "run.json"
#: The name of a run's folder, unless somebody has renamed it to keep the run.
RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d-\d{6}-.+")
MOST_RUNS_IN_A_SECOND = 1000


@dataclass(frozen=True)
class StepRecord:
    """What a step has made, and from what; it is written once the step has ended well."""

    words: list[str]  # its arguments and inputs as text, to tell what has changed
    key: str  # its reuse key; empty if the results must not be used again
    models: list[str]  # the registered models for which the results hold
    files: str  # the fingerprint of its outputs
    seconds: float = 0.0  # how long it took
    run: str = ""  # the run in whose folder the outputs are, if it is another one
    id: str = field(default_factory=lambda: uuid4().hex)  # of this execution


@dataclass
class RunRecord:
    """What `run.json` holds."""

    pipeline: str
    set: dict[str, str] = field(default_factory=dict)  # parameters of the command line
    done: dict[str, StepRecord] = field(default_factory=dict)  # by step
    started: int = 0  # nanoseconds since 1970, and later than those of earlier runs

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read the record of the run in a folder.

        Raises OSError if there is none, and ValueError if it is not one of a run.
        """
        path = folder / RECORD
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            steps = {name: StepRecord(**step) for name, step in content["done"].items()}
            started = content.get("started", path.stat().st_mtime_ns)
            record = cls(content["pipeline"], dict(content["set"]), steps, started)
        except (AttributeError, KeyError, RecursionError, TypeError) as error:
            raise ValueError(f"{path} is not the record of a run.") from error
        record._check_types(path)
        return record

    def _check_types(self, path: Path) -> None:
        """Raise ValueError if the file holds what this program would not write."""
        texts: list[object] = [self.pipeline, *self.set, *self.set.values()]
        numbers: list[object] = [self.started]
        for step in self.done.values():
            texts += [
                *step.words,
                step.key,
                *step.models,
                step.files,
                step.run,
                step.id,
            ]
            numbers.append(step.seconds)
        are_texts = all(isinstance(text, str) for text in texts)
        are_numbers = all(isinstance(number, (int, float)) for number in numbers)
        # The names of runs become parts of paths.
        are_names = all(Path(str(s.run)).name == s.run for s in self.done.values())
        if not (are_texts and are_numbers and are_names):
            raise ValueError(f"{path} holds other values than the record of a run.")

    def write(self, folder: Path) -> None:
        """Write the record into the folder of its run, whole or not at all."""
        unfinished = folder / f".{RECORD}"
        unfinished.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        unfinished.replace(folder / RECORD)


@dataclass(frozen=True)
class Run:
    """A run that can be read: its folder, and what is recorded there."""

    folder: Path
    record: RunRecord


def list_runs(runs: Path, pipeline: str | None = None) -> list[Run]:
    """Return the runs of a pipeline, or of all pipelines, the newest first.

    Folders whose record cannot be read are left out.
    """
    readable: list[Run] = []
    with suppress(OSError):
        for folder in runs.iterdir():
            with suppress(OSError, ValueError):
                readable.append(Run(folder, RunRecord.read(folder)))
    newest_first = sorted(readable, key=lambda run: run.record.started, reverse=True)
    return [run for run in newest_first if pipeline in (None, run.record.pipeline)]


def find_last_duration(runs: Path, pipeline: str, step: str) -> float:
    """Return how many seconds a step took in the newest run in which it ended well.

    Returns 0 if there is no such run.
    """
    for run in list_runs(runs, pipeline):
        if step in run.record.done:
            return run.record.done[step].seconds
    return 0.0


def make_run_folder(runs: Path, record: RunRecord) -> Path:
    """Make a folder for a new run, write its record there, and return the folder.

    The run counts as newer than all others, even if the clock was set back. Raises
    OSError if the folder cannot be made.
    """
    starts = [run.record.started for run in list_runs(runs)]
    record.started = max([time.time_ns(), *(start + 1 for start in starts)])
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{record.pipeline}"
    for number in range(1, MOST_RUNS_IN_A_SECOND):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            record.write(folder)
            return folder
    raise FileExistsError(f"{runs / name} and all names after it are taken")


@contextmanager
def lock_folder(folder: Path, seconds: float = 60) -> Iterator[None]:
    """Hold the lock of a folder, which is let go when this process ends.

    Raises OSError if another process holds the lock for so many seconds, or if nothing
    can be written in the folder.
    """
    lock = sqlite3.connect(folder / ".lock", timeout=seconds, isolation_level=None)
    with closing(lock):
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise OSError(f"{folder}: {error}") from None
        yield


def remove_old_runs(
    runs: Path, keep: int, current: Path, is_needed: Callable[[str], bool]
) -> list[str]:
    """Remove all but the newest runs, and return the names of those removed.

    These stay too: the `current` run, runs that were renamed, runs at work, runs that
    are needed by name, and all runs whose results are used by a run that stays. Raises
    OSError if the folder of runs cannot be written.
    """
    with lock_folder(runs):
        by_name = {run.folder.name: run for run in list_runs(runs)}
        beyond = [name for name in by_name if RUN_NAME.fullmatch(name)][keep:]
        old = {
            name
            for name in beyond
            if name != current.name
            and not is_needed(name)
            and not _is_at_work(by_name[name].folder)
        }
        old -= _used_runs(
            [run for name, run in by_name.items() if name not in old], by_name
        )
        # Without its record, no other run uses a folder's results from now on.
        for name in old:
            (by_name[name].folder / RECORD).unlink(missing_ok=True)
        # Some may be left of a run that was killed while it removed others.
        without_record = [
            folder
            for folder in runs.iterdir()
            if RUN_NAME.fullmatch(folder.name) and not (folder / RECORD).exists()
        ]
    for folder in without_record:
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(old)


def _used_runs(kept: list[Run], by_name: dict[str, Run]) -> set[str]:
    """Return the names of all runs whose results are used by runs that are kept."""
    used: set[str] = set()
    to_visit = list(kept)
    while to_visit:
        for step in to_visit.pop().record.done.values():
            if step.run in by_name and step.run not in used:
                used.add(step.run)
                to_visit.append(by_name[step.run])
    return used


def _is_at_work(folder: Path) -> bool:
    try:
        with lock_folder(folder, 0):
            return False
    except OSError:
        return True
