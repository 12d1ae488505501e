"""Read earlier runs, and compare their settings, parameters, code and data.

A run is read from its folder and from MLflow's database. A run whose record cannot be read
is listed as an `UnreadableRun`, with the reason.
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

#: The files that each run copies from the project: the name to show for a file, and the
#: name of its copy in the folder of the run. The settings are not among these files,
#: because they are compared value by value.
COPIED_FILES = {"pipelines.py": "pipelines.py", "environment/steps.txt": "steps.txt"}
#: Verdicts of `evaluate` that are shown in other words than MLflow stores them.
SHOWN_VERDICTS = {"another question": "predicts something else"}


@dataclass(frozen=True)
class PastRun:
    """A run whose record can be read, and the metrics and tags that its steps logged."""

    folder: Path
    record: RunRecord
    #: The metrics and tags in MLflow.
    results: Results

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.name

    @property
    def rows(self) -> int | None:
        """The number of rows of training, including the held-out rows, or of scoring.

        None if the run has not logged the number.
        """
        metrics = self.results.metrics
        if "training_rows" in metrics and "holdout_rows" in metrics:
            return int(metrics["training_rows"] + metrics["holdout_rows"])
        if "rows" in metrics:
            return int(metrics["rows"])
        return None

    def describe_state(self) -> str:
        """Return the verdict on the run's model, or a text about an unfinished run.

        A finished run has the verdict of `evaluate`, such as "better". For an unfinished
        run, the text names the first step that has not succeeded, such as "running: train"
        or "did not finish: train". For a finished run without a verdict, such as a scoring
        run, the text is empty.
        """
        unfinished_steps = self.record.find_unfinished_steps()
        if not unfinished_steps:
            verdict = self.results.tags.get("verdict", "")
            return SHOWN_VERDICTS.get(verdict, verdict)
        if is_at_work(self.folder):
            return f"running: {unfinished_steps[0]}"
        return f"did not finish: {unfinished_steps[0]}"


@dataclass(frozen=True)
class UnreadableRun:
    """The folder of a run whose record cannot be read, with the reason."""

    folder: Path
    reason: str
    #: The time of the folder's last change, in nanoseconds since 1970.
    modified_ns: int

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.name


@dataclass(frozen=True)
class Change:
    """A setting, a parameter or a file that differs between two runs.

    For a file, `name` is its path in the project, and the values are its contents.
    """

    name: str
    #: The value in the first run, or None if the first run does not have it.
    before: str | None
    #: The value in the second run, or None if the second run does not have it.
    after: str | None


# Reading --------------------------------------------------------------------------------


def read_history(root: Path) -> list[PastRun | UnreadableRun]:
    """Return the runs of a project, newest first.

    `root` is the folder of the project. Runs whose records cannot be read are included.
    Raises sqlite3.Error if MLflow's database cannot be read.
    """
    runs: list[PastRun | UnreadableRun] = []
    folder_of_runs = root / "runs"
    if not folder_of_runs.is_dir():
        return []
    for folder in folder_of_runs.iterdir():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        run = _read_run(root, folder)
        if run is not None:
            runs.append(run)
    runs.sort(key=_get_sort_time, reverse=True)
    return runs


def _get_sort_time(run: PastRun | UnreadableRun) -> int:
    """Return the time by which runs are sorted, in nanoseconds since 1970.

    This is the start of the run, or the last change of the folder if the record cannot be
    read.
    """
    if isinstance(run, PastRun):
        return run.record.started
    return run.modified_ns


def _read_run(root: Path, folder: Path) -> PastRun | UnreadableRun | None:
    """Read the run in a folder, or return None if the folder is not that of a run.

    `root` is the folder of the project. Raises sqlite3.Error if MLflow's database cannot be
    read.
    """
    try:
        modified_ns = folder.stat().st_mtime_ns
    except FileNotFoundError:
        # Another process has just removed the run.
        return None
    if not is_utf8(folder.name):
        return UnreadableRun(folder, "the folder's name is not UTF-8", modified_ns)
    try:
        record = RunRecord.read(folder)
    except FileNotFoundError:
        # A folder with the name of a run has lost its record. Any other folder without a
        # record was not created by a run.
        if RUN_NAME.fullmatch(folder.name):
            return UnreadableRun(folder, f"it has no {RECORD}", modified_ns)
        return None
    except ValidationError as error:
        return UnreadableRun(folder, _describe_validation_error(error), modified_ns)
    except (OSError, ValueError) as error:
        return UnreadableRun(folder, f"{RECORD} cannot be read: {error}", modified_ns)

    step_run_ids = [
        record.done[step].mlflow_run for step in record.steps if step in record.done
    ]
    return PastRun(folder, record, read_results(root, step_run_ids))


def _describe_validation_error(error: ValidationError) -> str:
    """Return why a record is not valid, with the key of the first wrong value.

    The key consists of all keys on the way to the value, such as `done.prep.seconds`. It is
    "JSON" if the record is not JSON.
    """
    first_error = error.errors()[0]
    key = ".".join(str(part) for part in first_error["loc"]) or "JSON"
    return f"{RECORD} is not the record of a run ({key}: {first_error['msg']})"


def find_run(history: Sequence[PastRun | UnreadableRun], text: str) -> PastRun:
    """Return the run called `text`, or else the only run whose name contains `text`.

    `text` may also be the path of the run's folder. Raises CommandError if no run matches,
    if several runs match, or if the record of the run cannot be read.
    """
    # From the path runs/2026-11-23-093000-training/, this takes the name of the run.
    name_or_part = Path(text).name
    run_by_name = {run.name: run for run in history}
    if name_or_part in run_by_name:
        matches = [name_or_part]
    else:
        matches = [name for name in run_by_name if name_or_part in name]

    if not matches:
        raise make_not_found_error(history, text)
    if len(matches) > 1:
        raise CommandError(
            f"{len(matches)} runs have names that contain {text!r}, such as {matches[0]}"
            f" and {matches[1]}: write more of the name."
        )
    run = run_by_name[matches[0]]
    if isinstance(run, UnreadableRun):
        raise CommandError(f"The run {run.name} cannot be read: {run.reason}.")
    return run


def make_not_found_error(
    history: Sequence[PastRun | UnreadableRun], text: str
) -> CommandError:
    """Return the error that no run's name contains `text`, with the most similar name.

    `text` may also be the path of a run's folder.
    """
    names = [run.name for run in history]
    closest = difflib.get_close_matches(Path(text).name, names, n=1, cutoff=0)
    hint = f" The closest name is {closest[0]}." if closest else ""
    return CommandError(f"No run in runs/ has a name that contains {text!r}.{hint}")


# Comparing ------------------------------------------------------------------------------


def compare_settings(before: PastRun, after: PastRun) -> list[Change]:
    """Return the settings in settings.yml that differ between two runs.

    The list is empty if one of the runs has no copy of its settings that can be read.
    """
    content_before = _read_bytes(before.folder / "settings.yml")
    content_after = _read_bytes(after.folder / "settings.yml")
    if content_before is None or content_after is None:
        return []
    # Files with the same content need not be parsed.
    if content_before == content_after:
        return []

    settings_before = _flatten_settings(content_before)
    settings_after = _flatten_settings(content_after)
    if settings_before is None or settings_after is None:
        return []
    return _compare(settings_before, settings_after)


def compare_parameters(before: PastRun, after: PastRun) -> list[Change]:
    """Return the parameters from the command line that differ between two runs."""
    return _compare(before.record.set, after.record.set)


def compare_code(before: PastRun, after: PastRun) -> list[Change]:
    """Return the code files and package lists that differ between two runs.

    pipelines.py, environment/steps.txt and the files of each step are compared. A step is
    left out if one of the runs has neither executed it nor reused its results.
    """
    changes = _compare_copied_files(before, after)
    for step in after.record.steps:
        changes += _compare_step_code(before, after, step)
    return changes


def _compare_copied_files(before: PastRun, after: PastRun) -> list[Change]:
    """Return the files that both runs have copied from the project and that differ."""
    changes: list[Change] = []
    for path, name_in_run in COPIED_FILES.items():
        text_before = _read_text(before.folder / name_in_run)
        text_after = _read_text(after.folder / name_in_run)
        if text_before is not None and text_after is not None:
            changes += _compare({path: text_before}, {path: text_after})
    return changes


def _compare_step_code(before: PastRun, after: PastRun, step: str) -> list[Change]:
    """Return the files of a step that differ between two runs.

    The list is empty if the files are missing for one of the runs, because this run has
    neither executed the step nor reused its results.
    """
    folder_before = _find_code(before, step)
    folder_after = _find_code(after, step)
    # If one run has reused the results of the other, or both have reused the results of a
    # third run, there is only one folder with the files.
    if folder_before == folder_after:
        return []
    files_before = _read_code(folder_before, step)
    files_after = _read_code(folder_after, step)
    if not files_before or not files_after:
        return []
    return _compare(files_before, files_after)


def list_changed_data(before: PastRun, after: PastRun) -> list[str]:
    """Return the inputs whose data differs between two runs, such as "prep: raw".

    An input is left out if one of the runs has not recorded a fingerprint of its data.
    """
    fingerprints_before = _list_fingerprints(before)
    fingerprints_after = _list_fingerprints(after)
    return [
        name
        for name, fingerprint in fingerprints_after.items()
        if name in fingerprints_before and fingerprints_before[name] != fingerprint
    ]


def _compare(before: dict[str, str], after: dict[str, str]) -> list[Change]:
    """Return a change for each key whose values differ between two dicts.

    The changes are sorted like the keys of `after`. Keys that only `before` has come last.
    """
    names = list(after) + [name for name in before if name not in after]
    return [
        Change(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    ]


@cache
def _flatten_settings(content: bytes) -> dict[str, str] | None:
    """Return the settings in a file as a flat dict of text.

    From a section `data` with `target: Species`, the result is {"data.target": "Species"}.
    Returns None if `content` is not the content of a valid settings file.
    """
    try:
        settings = parse_yaml(content.decode("utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(settings, dict):
        return None
    return _flatten_section(settings, prefix="")


def _flatten_section(section: dict[Any, Any], prefix: str) -> dict[str, str]:
    """Return the values in a section of settings and in its subsections, as text.

    All keys of the result begin with `prefix`. This is the name of the section and a dot,
    such as "data.", or an empty string for the settings as a whole.
    """
    text_by_key: dict[str, str] = {}
    for name, value in section.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            text_by_key |= _flatten_section(value, prefix=f"{key}.")
        else:
            text_by_key[key] = _format_setting(value)
    return text_by_key


def _format_setting(value: object) -> str:
    """Return the value of a setting as text: a string unchanged, and other values as JSON.

    A string without letters and digits, such as the decimal comma, is also written as JSON,
    because without quotes it would look like punctuation.
    """
    if isinstance(value, str) and re.search(r"\w", value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _find_code(run: PastRun, step: str) -> Path:
    """Return the folder with the files of a step, as they were when the step was executed.

    If the run has neither executed the step nor reused its results, the folder does not
    exist.
    """
    results = run.record.done.get(step)
    run_folder = run.folder
    # If the run has reused the results of an earlier run, that run has the files.
    if results is not None and results.run:
        run_folder = run.folder.parent / results.run
    return run_folder / step / "code"


def _read_code(folder: Path, step: str) -> dict[str, str]:
    """Return the text of each file of a step, by the path of the file in the project.

    `folder` is the folder of a run that holds the step's files. The file `prep.py` of the
    step `prep` gets the path `steps/prep/prep.py`. Files that cannot be read are left out.
    """
    text_by_path: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        if "__pycache__" in file.parts or not file.is_file():
            continue
        text = _read_text(file)
        if text is not None:
            path = f"steps/{step}/{file.relative_to(folder).as_posix()}"
            text_by_path[path] = text
    return text_by_path


def _list_fingerprints(run: PastRun) -> dict[str, str]:
    """Return the fingerprints of the data that the steps of a run have read.

    A key names the step and its input, such as "prep: raw".
    """
    fingerprint_by_input: dict[str, str] = {}
    for step, results in run.record.done.items():
        for input_name, fingerprint in results.data.items():
            fingerprint_by_input[f"{step}: {input_name}"] = fingerprint
    return fingerprint_by_input


def _read_text(file: Path) -> str | None:
    """Return the text of a file, or None if the file cannot be read.

    Bytes that are not UTF-8 become replacement characters.
    """
    content = _read_bytes(file)
    return None if content is None else content.decode("utf-8", "replace")


def _read_bytes(file: Path) -> bytes | None:
    """Return the content of a file, or None if the file cannot be read."""
    try:
        return file.read_bytes()
    except OSError:
        return None
