"""Read earlier runs, and compare their settings, parameters, code and data.

They are read from the folders of the runs and from MLflow's database. A run whose record
cannot be read is described by the reason.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import CommandError
from ..harmless_text import is_utf8
from ..settings_reader import parse_yaml
from .run_folder import RUN_NAME, is_at_work
from .run_record import RECORD, RunRecord
from .tracked_runs import Results, read_results

#: The copies of the project's files in the folder of a run, by their paths in the project.
#: The settings are not among them, because they are compared value by value.
COPIES = {"pipelines.py": "pipelines.py", "environment/steps.txt": "steps.txt"}
#: Verdicts that are shown in other words than they are stored in.
SHOWN_VERDICTS = {"another question": "predicts something else"}


@dataclass(frozen=True)
class PastRun:
    """A run whose record can be read, and what its steps have logged to MLflow."""

    folder: Path
    record: RunRecord
    results: Results

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.name

    @property
    def rows(self) -> int | None:
        """The number of rows that were trained on and held out, or that were scored."""
        metrics = self.results.metrics
        if "training_rows" in metrics and "holdout_rows" in metrics:
            return int(metrics["training_rows"] + metrics["holdout_rows"])
        if "rows" in metrics:
            return int(metrics["rows"])
        return None

    def describe_state(self) -> str:
        """Return the verdict on the run, or that it is running or did not finish."""
        unfinished = self.record.find_unfinished_steps()
        if not unfinished:
            verdict = self.results.tags.get("verdict", "")
            return SHOWN_VERDICTS.get(verdict, verdict)
        if is_at_work(self.folder):
            return f"running: {unfinished[0]}"
        return f"did not finish: {unfinished[0]}"


@dataclass(frozen=True)
class UnreadableRun:
    """A folder of a run whose record cannot be read, and the reason."""

    folder: Path
    reason: str
    changed: int  # nanoseconds since 1970

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.name


@dataclass(frozen=True)
class Change:
    """A setting, a parameter or a file that differs between two runs.

    `before` and `after` are its values as text, or None where there is none.
    """

    name: str
    before: str | None
    after: str | None


# Reading --------------------------------------------------------------------------------


def read_history(root: Path) -> list[PastRun | UnreadableRun]:
    """Return the runs of a project, with the newest first.

    Raises sqlite3.Error if MLflow's database cannot be read.
    """
    runs: list[tuple[int, PastRun | UnreadableRun]] = []
    folder_of_runs = root / "runs"
    if not folder_of_runs.is_dir():
        return []
    for folder in folder_of_runs.iterdir():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        run = _read_run(root, folder)
        if isinstance(run, PastRun):
            runs.append((run.record.started, run))
        elif run is not None:
            runs.append((run.changed, run))
    runs.sort(key=lambda dated: dated[0], reverse=True)
    return [run for _, run in runs]


def _read_run(root: Path, folder: Path) -> PastRun | UnreadableRun | None:
    """Read the run in a folder. Returns None if it is not the folder of a run."""
    try:
        changed = folder.stat().st_mtime_ns
    except FileNotFoundError:
        # Another process has just removed the run.
        return None
    if not is_utf8(folder.name):
        return UnreadableRun(folder, "its name is not UTF-8", changed)
    try:
        record = RunRecord.read(folder)
    except FileNotFoundError:
        if RUN_NAME.fullmatch(folder.name):
            return UnreadableRun(folder, f"it has no {RECORD}", changed)
        return None
    except ValidationError as error:
        return UnreadableRun(folder, _describe_validation_error(error), changed)
    except (OSError, ValueError) as error:
        return UnreadableRun(folder, f"{RECORD} cannot be read: {error}", changed)

    steps = [
        record.done[step].mlflow_run for step in record.steps if step in record.done
    ]
    return PastRun(folder, record, read_results(root, steps))


def _describe_validation_error(error: ValidationError) -> str:
    """Return why a record is not valid, with the first value that is wrong."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "JSON"
    return f"{RECORD} is not the record of a run ({place}: {first['msg']})"


def find_run(history: Sequence[PastRun | UnreadableRun], text: str) -> PastRun:
    """Return the run with a name, or the only run whose name contains the text.

    Raises CommandError if there is no such run, if there are several, or if its record
    cannot be read.
    """
    # The text may also be a path such as runs/2026-11-23-093000-training/.
    wanted = Path(text).name
    by_name = {run.name: run for run in history}
    matches = [name for name in by_name if wanted in name]
    if wanted in by_name:
        matches = [wanted]

    if not matches:
        close = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0)
        hint = f" The name most like it is {close[0]}." if close else ""
        raise CommandError(f"No run in runs/ has a name with {text!r} in it.{hint}")
    if len(matches) > 1:
        raise CommandError(
            f"{len(matches)} runs have {text!r} in their names, such as {matches[0]} and"
            f" {matches[1]}: write more of the name."
        )
    run = by_name[matches[0]]
    if isinstance(run, UnreadableRun):
        raise CommandError(f"{run.name} cannot be compared: {run.reason}.")
    return run


# Comparing ------------------------------------------------------------------------------


def compare_settings(before: PastRun, after: PastRun) -> list[Change]:
    """Return the settings in settings.yml that differ between two runs.

    The list is empty if one of the runs has no copy of its settings that can be read.
    """
    texts = [_read_bytes(run.folder / "settings.yml") for run in (before, after)]
    if None in texts or texts[0] == texts[1]:
        return []
    settings_before = _flatten_settings(texts[0])
    settings_after = _flatten_settings(texts[1])
    if settings_before is None or settings_after is None:
        return []
    return _compare(settings_before, settings_after)


def compare_parameters(before: PastRun, after: PastRun) -> list[Change]:
    """Return the parameters from the command line that differ between two runs."""
    return _compare(before.record.set, after.record.set)


def compare_code(before: PastRun, after: PastRun) -> list[Change]:
    """Return the files of code and of packages that differ between two runs.

    Files of a step are compared if both runs have run the step, or reused its results.
    """
    changes: list[Change] = []
    for path, copy in COPIES.items():
        text_before = _read_text(before.folder / copy)
        text_after = _read_text(after.folder / copy)
        if text_before is not None and text_after is not None:
            changes += _compare({path: text_before}, {path: text_after})
    for step in after.record.steps:
        folder_before = _find_code(before, step)
        folder_after = _find_code(after, step)
        if folder_before == folder_after:
            continue
        files_before = _read_code(folder_before, step)
        files_after = _read_code(folder_after, step)
        if files_before and files_after:
            changes += _compare(files_before, files_after)
    return changes


def list_changed_data(before: PastRun, after: PastRun) -> list[str]:
    """Return the data whose content differs between two runs, such as "prep: raw".

    Data is left out if one of the runs has not recorded a fingerprint of it.
    """
    data_before = _list_data(before)
    data_after = _list_data(after)
    return [
        name
        for name, fingerprint in data_after.items()
        if name in data_before and data_before[name] != fingerprint
    ]


def _compare(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    """Return the items that differ, in the order of `after`, then of `before`."""
    names = list(after) + [name for name in before if name not in after]
    return [
        Change(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


@cache
def _flatten_settings(text: bytes) -> dict[str, str] | None:
    """Return the values of a settings file by keys such as `data.target`, as text.

    Returns None if it is not a settings file that can be read.
    """
    try:
        settings = parse_yaml(text.decode("utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(settings, dict):
        return None
    values: dict[str, str] = {}
    _add_values(settings, "", values)
    return values


def _add_values(section: dict[Any, Any], prefix: str, values: dict[str, str]) -> None:
    """Add the values of a section of settings, and of the sections in it, to `values`."""
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            _add_values(value, f"{key}.", values)
        # Text without letters and digits, such as a decimal comma, is shown in quotes. It
        # could be taken for a mark of the table otherwise.
        elif isinstance(value, str) and re.search(r"\w", value):
            values[key] = value
        else:
            values[key] = json.dumps(value, ensure_ascii=False, default=str)


def _find_code(run: PastRun, step: str) -> Path:
    """Return the folder with the files of a step as a run has used them."""
    results = run.record.done.get(step)
    folder = run.folder
    if results is not None and results.run:
        folder = run.folder.parent / results.run
    return folder / step / "code"


def _read_code(folder: Path, step: str) -> dict[str, str]:
    """Return the texts of a step's files by their paths in the project."""
    files: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        if "__pycache__" in file.parts or not file.is_file():
            continue
        text = _read_text(file)
        if text is not None:
            files[f"steps/{step}/{file.relative_to(folder).as_posix()}"] = text
    return files


def _list_data(run: PastRun) -> dict[str, str]:
    """Return the fingerprints of the data that the steps have read, by step and input."""
    data: dict[str, str] = {}
    for step, results in run.record.done.items():
        for name, fingerprint in results.data.items():
            data[f"{step}: {name}"] = fingerprint
    return data


def _read_text(file: Path) -> str | None:
    """Return the text of a file, or None if it cannot be read."""
    content = _read_bytes(file)
    return None if content is None else content.decode("utf-8", "replace")


def _read_bytes(file: Path) -> bytes | None:
    """Return the content of a file, or None if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return None
