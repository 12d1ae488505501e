"""List the folders of runs below `runs/`, create new ones, and remove old ones.

Each run has a separate folder, which contains a folder for each step:

    run.json             the record: the pipeline, its parameters, and the finished steps
    settings.yml         a copy of the project's settings when the run started
    pipelines.py         a copy of the project's pipelines
    steps.txt            a copy of the pinned packages
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
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..harmless_text import is_utf8
from .run_record import RECORD, RunRecord

#: The name of a run's folder, such as 2026-11-23-093000-training. A user may rename the
#: folder to keep the run.
RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d-\d{6}-.+")
#: The names of this many runs that start in the same second are tried.
MAX_RUNS_IN_A_SECOND = 999


@dataclass(frozen=True)
class Run:
    """The folder of a run, and the record in it."""

    folder: Path
    record: RunRecord


def list_runs(runs: Path, pipeline: str | None = None) -> list[Run]:
    """Return the runs of a pipeline, or all runs if `pipeline` is None, newest first.

    `runs` is the folder of all runs. The list is empty if this folder does not exist or
    cannot be read. Runs without a readable record are left out. A run whose folder has a
    name that is not UTF-8 is left out too: its name could not be written into the record of
    another run that reuses its results, because records are UTF-8.
    """
    readable_runs: list[Run] = []
    # Before the first run, the folder does not exist.
    with suppress(OSError):
        for folder in runs.iterdir():
            if not is_utf8(folder.name):
                continue
            with suppress(OSError, ValueError):
                readable_runs.append(Run(folder, RunRecord.read(folder)))
    readable_runs.sort(key=lambda run: run.record.started, reverse=True)
    if pipeline is None:
        return readable_runs
    return [run for run in readable_runs if run.record.pipeline == pipeline]


def find_last_duration(runs: Path, pipeline: str, step_name: str) -> float:
    """Return the seconds that a step took in the newest run in which it succeeded.

    Returns 0 if there is no such run.
    """
    for run in list_runs(runs, pipeline):
        if step_name in run.record.done:
            return run.record.done[step_name].seconds
    return 0.0


def make_run_folder(runs: Path, record: RunRecord) -> Path:
    """Create the folder of a new run below `runs`, and write the run's record into it.

    The folder is named after the current time and the pipeline, such as
    2026-11-23-093000-training. If other runs have started in the same second, a number is
    added, such as 2026-11-23-093000-training-2. `record.started` is set to the current time
    in nanoseconds since 1970. Raises OSError if the folder cannot be created.
    """
    # Runs are sorted by `started`, and a new run must be the newest. If the clock was set
    # back, the current time is earlier than the start of other runs. The new run is then
    # recorded as starting 1 ns after the newest of them.
    record.started = time.time_ns()
    for run in list_runs(runs):
        record.started = max(record.started, run.record.started + 1)

    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{record.pipeline}"
    for number in range(1, MAX_RUNS_IN_A_SECOND + 1):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            record.write(folder)
            return folder
    raise FileExistsError(
        f"{MAX_RUNS_IN_A_SECOND} runs have started in this second, so the names"
        f" {name} to {name}-{MAX_RUNS_IN_A_SECOND} in {runs} are taken."
    )


def copy_project_files(root: Path, package: str, folder: Path) -> None:
    """Copy the project's settings, pipelines and pinned packages into a run's folder.

    Files that the project does not have are skipped. Raises OSError if a file cannot be
    copied.
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
def lock_folder(folder: Path, timeout_seconds: float = 60) -> Iterator[None]:
    """Hold the lock of a folder during the `with` block, so that no other process can.

    The lock is a transaction on an empty SQLite database in the folder, the file `.lock`.
    If this process is killed, the operating system releases the lock. Raises OSError if
    another process still holds the lock after `timeout_seconds`, or if nothing can be
    written to the folder.
    """
    with ExitStack() as stack:
        try:
            lock = sqlite3.connect(
                folder / ".lock", timeout=timeout_seconds, isolation_level=None
            )
            stack.enter_context(closing(lock))
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise OSError(f"{folder}: {error}") from None
        yield


def remove_old_runs(
    runs: Path, keep: int, current: Path, is_needed: Callable[[str], bool]
) -> list[str]:
    """Remove old runs and return the names of the removed runs.

    A run is complete if all its steps have succeeded. Otherwise it is incomplete: it has
    failed, was stopped or is still at work. The newest `keep` complete runs stay, and also
    the newest `keep` incomplete runs. As both are counted separately, incomplete runs never
    take the place of complete ones. Of the older runs, these stay too:

    - the run whose folder is `current`
    - runs for which `is_needed` returns True when it is called with the run's name
    - runs that are still at work
    - runs whose folder a user has renamed, or replaced by a link
    - runs whose results are used by a run that stays

    A run is removed in two stages. First its record is deleted while the folder of runs is
    locked, so that a new run can no longer use its results. Then its files are deleted,
    which may take a long time. If this process is killed between the stages, a folder
    without a record is left, and the next call removes this folder. Raises OSError if the
    folder `runs` cannot be written.
    """
    with lock_folder(runs):
        run_by_name = {run.folder.name: run for run in list_runs(runs)}
        names_to_remove = _choose_old_runs(run_by_name, keep, current, is_needed)
        for name in names_to_remove:
            (run_by_name[name].folder / RECORD).unlink(missing_ok=True)
        # These are the runs to remove, and folders that an interrupted call has left.
        folders_without_record = [
            folder
            for folder in runs.iterdir()
            if RUN_NAME.fullmatch(folder.name) and not (folder / RECORD).exists()
        ]

    for folder in folders_without_record:
        shutil.rmtree(folder, ignore_errors=True)
    return sorted(names_to_remove)


def _choose_old_runs(
    run_by_name: dict[str, Run],
    keep: int,
    current: Path,
    is_needed: Callable[[str], bool],
) -> set[str]:
    """Return the names of the runs to remove, by the rules of `remove_old_runs`.

    `run_by_name` holds all runs by the names of their folders, newest first.
    """
    complete, incomplete = _split_by_outcome(run_by_name)
    removable: set[str] = set()
    for name in complete[keep:] + incomplete[keep:]:
        must_stay = (
            name == current.name
            or is_needed(name)
            or is_at_work(run_by_name[name].folder)
        )
        if not must_stay:
            removable.add(name)

    # A run that stays may still use the results of a removable run, which then stays too.
    kept_runs = [run for name, run in run_by_name.items() if name not in removable]
    return removable - _find_used_runs(kept_runs, run_by_name)


def _split_by_outcome(run_by_name: dict[str, Run]) -> tuple[list[str], list[str]]:
    """Return the names of the complete runs, and the names of the incomplete runs.

    A run is complete if all its steps have succeeded. An incomplete run has failed, was
    stopped or is still at work. Both lists have the order of `run_by_name`. Runs that a
    user has renamed, or has moved elsewhere and replaced by a link, are in neither list.
    """
    complete: list[str] = []
    incomplete: list[str] = []
    for name, run in run_by_name.items():
        was_changed_by_user = not RUN_NAME.fullmatch(name) or run.folder.is_symlink()
        if was_changed_by_user:
            continue
        if run.record.find_unfinished_steps():
            incomplete.append(name)
        else:
            complete.append(name)
    return complete, incomplete


def _find_used_runs(kept_runs: list[Run], run_by_name: dict[str, Run]) -> set[str]:
    """Return the names of the runs whose results the kept runs use.

    If a kept run uses results of run A, and run A uses results of run B, both A and B are
    returned. `run_by_name` holds all runs by the names of their folders.
    """
    used: set[str] = set()
    runs_to_visit = list(kept_runs)
    while runs_to_visit:
        run = runs_to_visit.pop()
        for results in run.record.done.values():
            # The producer is the run that wrote the results. The name is empty if `run`
            # has written them itself.
            producer = results.run
            if producer in run_by_name and producer not in used:
                used.add(producer)
                runs_to_visit.append(run_by_name[producer])
    return used


def is_at_work(folder: Path) -> bool:
    """Return whether a run is still at work.

    A run that is at work holds the lock of its folder, so this function tries to get it.
    """
    try:
        with lock_folder(folder, timeout_seconds=0):
            return False
    except OSError:
        return True
