"""The folders of runs below `runs/`: list them, make new ones, and remove old ones.

Each run has a folder of its own, with a folder for each step:

    run.json             the record: the pipeline, its parameters, and the finished steps
    settings.yml         copies of files of the project that steps depend on, as they were
    pipelines.py         when the run started
    steps.txt
    STEP/code/           the copy of the step's files, in which the step runs
    STEP/outputs/PORT/   the files that the step writes
    STEP/log.txt         the text that the step prints
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..harmless_text import is_utf8
from .run_record import RECORD, RunRecord

#: The name of a run's folder, unless a user has renamed it to keep the run.
RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d-\d{6}-.+")
MOST_RUNS_IN_A_SECOND = 1000


@dataclass(frozen=True)
class Run:
    """The folder of a run, and the record in it."""

    folder: Path
    record: RunRecord


def list_runs(runs: Path, pipeline: str | None = None) -> list[Run]:
    """Return the runs of a pipeline, or of all pipelines, with the newest first.

    Folders without a record, or with one that cannot be read, are left out. So are those
    whose names are not UTF-8, as no record could name them.
    """
    readable: list[Run] = []
    with suppress(OSError):
        for folder in runs.iterdir():
            if not is_utf8(folder.name):
                continue
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
    """Make the folder of a new run, and write the record of the run into it.

    `record.started` is set to the current time in nanoseconds. If the clock was set back,
    it is set to one more than the latest start, so that the run is newer than all others.
    Raises OSError if the folder cannot be made.
    """
    record.started = time.time_ns()
    for run in list_runs(runs):
        record.started = max(record.started, run.record.started + 1)

    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{record.pipeline}"
    for number in range(1, MOST_RUNS_IN_A_SECOND):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            record.write(folder)
            return folder
    raise FileExistsError(
        f"{MOST_RUNS_IN_A_SECOND - 1} runs have started in this second, so the names "
        f"{runs / name} to {name}-{MOST_RUNS_IN_A_SECOND - 1} are taken."
    )


def copy_project_files(root: Path, package: str, folder: Path) -> None:
    """Copy the project's settings, pipelines and pins into the folder of a run.

    Raises OSError if they cannot be copied.
    """
    sources = [
        root / "settings.yml",
        root / package / "pipelines.py",
        root / "environment" / "steps.txt",
    ]
    for source in sources:
        if source.is_file():
            shutil.copyfile(source, folder / source.name)


@contextmanager
def lock_folder(folder: Path, seconds: float = 60) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process holds it at the same time.

    It is the lock of a SQLite database, which the operating system releases if this process
    is killed. Raises OSError if another process still holds the lock after `seconds`, or
    if nothing can be written in the folder.
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
    """Remove all runs except the newest `keep`, and return the names of those removed.

    Runs that have failed are counted apart: the newest `keep` of them stay, so that they
    never take the place of runs that went well. Some older runs stay too: the `current`
    one, those that a user has renamed or replaced by a link, those that are still at work,
    those for whose name `is_needed` returns True, and those whose results are used by a run
    that stays. Raises OSError if the folder `runs` cannot be written.

    A run is removed in two stages. First its record is deleted while the folder of runs is
    locked, so that a new run cannot use its results any more. Then its files are deleted,
    which may take long. If this process is killed in between, a folder without a record is
    left, and the next call removes it.
    """
    with lock_folder(runs):
        by_name = {run.folder.name: run for run in list_runs(runs)}
        old = _choose_old_runs(by_name, keep, current, is_needed)
        for name in old:
            (by_name[name].folder / RECORD).unlink(missing_ok=True)
        # These are the old runs, and what earlier calls may have left.
        without_record = [
            folder
            for folder in runs.iterdir()
            if RUN_NAME.fullmatch(folder.name) and not (folder / RECORD).exists()
        ]

    for folder in without_record:
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(old)


def _choose_old_runs(
    by_name: dict[str, Run], keep: int, current: Path, is_needed: Callable[[str], bool]
) -> set[str]:
    """Return the names of the runs to remove, by the rules of remove_old_runs.

    `by_name` has all runs by the names of their folders, with the newest first.
    """
    complete: list[str] = []
    failed: list[str] = []
    for name, run in by_name.items():
        # A run that a user has renamed, or moved elsewhere and replaced by a link, is never
        # removed, and does not count.
        if not RUN_NAME.fullmatch(name) or run.folder.is_symlink():
            continue
        if run.record.find_unfinished_steps():
            failed.append(name)
        else:
            complete.append(name)

    old: set[str] = set()
    for name in complete[keep:] + failed[keep:]:
        must_stay = (
            name == current.name or is_needed(name) or is_at_work(by_name[name].folder)
        )
        if not must_stay:
            old.add(name)

    kept = [run for name, run in by_name.items() if name not in old]
    return old - _find_used_runs(kept, by_name)


def _find_used_runs(kept: list[Run], by_name: dict[str, Run]) -> set[str]:
    """Return the names of the runs whose results the kept runs use.

    A run whose results are used may itself use results of others. These are included.
    """
    used: set[str] = set()
    to_visit = list(kept)
    while to_visit:
        for step in to_visit.pop().record.done.values():
            if step.run in by_name and step.run not in used:
                used.add(step.run)
                to_visit.append(by_name[step.run])
    return used


def is_at_work(folder: Path) -> bool:
    """Return whether a run still holds the lock of its folder."""
    try:
        with lock_folder(folder, 0):
            return False
    except OSError:
        return True
