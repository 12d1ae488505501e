"""Format runs and registered models as tables, for the commands `runs` and `models`.

The tables fit into 80 columns, unless names or numbers are very long. The details of a run
are indented lines below its row. They are wrapped only in a terminal, so that a program
that reads the output finds each detail on one line.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.cells import cell_len

from ..harmless_text import make_harmless
from .registered_models import VersionOrigin
from .run_history import (
    Change,
    PastRun,
    UnreadableRun,
    compare_code,
    compare_parameters,
    compare_settings,
    list_changed_data,
)
from .tracked_runs import Results, read_results, read_target

INDENT = "    "
#: The content of a cell without a value.
NOTHING = "-"
#: If a value of a setting needs more columns of the screen than this, it is written below
#: the table.
MAX_CELL_WIDTH = 20
#: Numbers below this limit are written in full, with commas between groups of three digits.
MAX_GROUPED_NUMBER = 10**15


@dataclass(frozen=True)
class Column:
    """A column of a table. Columns of numbers are right-aligned."""

    heading: str
    cells: Sequence[str]
    is_number: bool = False


def align_columns(columns: Sequence[Column]) -> list[str]:
    """Return the lines of a table: a line with the headings, then a line for each row.

    Control characters in the cells are replaced by visible ones.
    """
    aligned_columns: list[list[str]] = []
    for column in columns:
        cells = [make_harmless(cell) for cell in (column.heading, *column.cells)]
        width = max(cell_len(cell) for cell in cells)
        aligned_columns.append([_pad(cell, width, column.is_number) for cell in cells])
    return ["  ".join(row).rstrip() for row in zip(*aligned_columns, strict=True)]


def _pad(text: str, width: int, is_number: bool) -> str:
    """Add spaces to a text until it fills `width` columns of the screen.

    The spaces are on the left of a number, and on the right of other text.
    """
    spaces = " " * (width - cell_len(text))
    return spaces + text if is_number else text + spaces


# All runs -------------------------------------------------------------------------------


def format_runs(
    history: Sequence[PastRun | UnreadableRun],
    shown: Sequence[PastRun | UnreadableRun],
    width: int | None,
) -> list[str]:
    """Return the lines of a table with a row for each of the `shown` runs.

    Each row is followed by details of the run, such as what was edited since the previous
    run of the same pipeline. That run is looked up in `history`, which has the newest run
    first. Details are wrapped at `width` columns of the screen, or not wrapped if `width`
    is None.
    """
    heading, *rows = align_columns(_make_run_columns(shown))
    lines = [heading]
    for run, row in zip(shown, rows, strict=True):
        lines.append(row)
        for detail in _describe_run(run, history):
            lines += _indent_and_wrap(detail, width)
    return lines


def _make_run_columns(runs: Sequence[PastRun | UnreadableRun]) -> list[Column]:
    """Return the columns of a table of runs, in which each run has one row.

    "version" is the version of the model that the run has registered or used.
    """
    results = [_get_results(run) for run in runs]
    # If all models were judged by the same metric, its name is the heading of the column.
    metric = _find_common_metric(results)
    return [
        Column("run", [run.name for run in runs]),
        Column("started", [_describe_start(run) for run in runs]),
        Column("rows", [_describe_rows(run) for run in runs], is_number=True),
        Column(
            "version",
            [result.tags.get("version", NOTHING) for result in results],
            is_number=True,
        ),
        Column(
            metric or "metric",
            [_describe_metric(result, metric) for result in results],
            is_number=True,
        ),
    ]


def _get_results(run: PastRun | UnreadableRun) -> Results:
    """Return the metrics and tags of a run. They are empty if its record is unreadable."""
    if isinstance(run, UnreadableRun):
        return Results(metrics={}, tags={})
    return run.results


def _describe_run(
    run: PastRun | UnreadableRun, history: Sequence[PastRun | UnreadableRun]
) -> list[str]:
    """Return up to three texts that describe a run.

    These are the state of the run, the parameters that were set, and what was edited since
    the previous run in `history`. Empty texts are left out. If the record of the run cannot
    be read, the only text says why.
    """
    if isinstance(run, UnreadableRun):
        return [run.reason]
    details: list[str] = []
    state = run.describe_state()
    if state:
        details.append(state)
    if run.record.set:
        assignments = [f"{name}={value}" for name, value in run.record.set.items()]
        details.append(f"set: {', '.join(assignments)}")
    edits = _list_edits(run, history)
    if edits:
        details.append(f"edited: {', '.join(edits)}")
    return details


def _list_edits(run: PastRun, history: Sequence[PastRun | UnreadableRun]) -> list[str]:
    """Return what was edited since the previous run of the same pipeline.

    A setting is listed with its new value, such as "training.seed: 3", and a file of code
    with its name, such as "steps/train/train.py". If any data was edited, the list ends
    with "content of the data".
    """
    previous_run = _find_previous_run(run, history)
    if previous_run is None:
        return []

    edits = []
    for change in compare_settings(previous_run, run):
        if change.after is None:
            edits.append(f"{change.name} removed")
        else:
            edits.append(f"{change.name}: {change.after}")
    edits += [change.name for change in compare_code(previous_run, run)]
    if list_changed_data(previous_run, run):
        edits.append("content of the data")
    return edits


def _find_previous_run(
    run: PastRun, history: Sequence[PastRun | UnreadableRun]
) -> PastRun | None:
    """Return the newest run of the same pipeline that was started before `run`.

    `history` has the newest run first. Returns None if `run` is the first of its pipeline.
    """
    for earlier_run in history:
        if (
            isinstance(earlier_run, PastRun)
            and earlier_run.record.pipeline == run.record.pipeline
            and earlier_run.record.started < run.record.started
        ):
            return earlier_run
    return None


def _find_common_metric(results: Sequence[Results]) -> str | None:
    """Return the name of the metric by which all models were judged.

    `evaluate` writes this name into the tag `metric`. Returns None if the models were
    judged by different metrics, or if no model was judged.
    """
    metrics = {result.tags["metric"] for result in results if "metric" in result.tags}
    return metrics.pop() if len(metrics) == 1 else None


def _describe_start(run: PastRun | UnreadableRun) -> str:
    """Return when a run was started, such as "2026-11-23 09:30", in the local time zone.

    Returns "-" if the record of the run cannot be read.
    """
    if isinstance(run, UnreadableRun):
        return NOTHING
    return describe_time(run.record.started / 10**9)


def describe_time(seconds: float) -> str:
    """Format a time in seconds since 1970 as "2026-11-23 09:30", in the local time zone.

    Returns "-" if the time is out of range.
    """
    try:
        moment = datetime.fromtimestamp(seconds, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return NOTHING
    return f"{moment:%Y-%m-%d %H:%M}"


def _describe_rows(run: PastRun | UnreadableRun) -> str:
    """Return how many rows of data a run has read, or "-" if the number is unknown."""
    if isinstance(run, UnreadableRun) or run.rows is None:
        return NOTHING
    return str(run.rows)


def _describe_metric(results: Results, common_metric: str | None) -> str:
    """Return the value of the metric by which a model was judged.

    The name of the metric is added if it is not the `common_metric`, which is the heading
    of the column. Returns "-" if the value is unknown.
    """
    metric = results.tags.get("metric", "")
    if metric not in results.metrics:
        return NOTHING
    value = _format_value(results.metrics[metric])
    return value if metric == common_metric else f"{metric} {value}"


def _indent_and_wrap(text: str, width: int | None) -> list[str]:
    """Indent a text and wrap it at `width` columns of the screen. Return the lines.

    If `width` is None, the text stays on one line. Control characters are replaced by
    visible ones.
    """
    text = make_harmless(text)
    if width is None:
        return [INDENT + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=INDENT,
        subsequent_indent=INDENT * 2,
        break_long_words=False,
        break_on_hyphens=False,
    )


# Two runs -------------------------------------------------------------------------------


def format_comparison(run_a: PastRun, run_b: PastRun) -> list[str]:
    """Return the lines of a comparison of two runs.

    The lines show the settings, the parameters, the code and the data that differ, and then
    all metrics of both runs, side by side.
    """
    lines = [
        f"A  {_introduce(run_a)}",
        f"B  {_introduce(run_b)}",
    ]
    parameters = [
        Change(f"--set {change.name}", change.before, change.after)
        for change in compare_parameters(run_a, run_b)
    ]
    settings = compare_settings(run_a, run_b)
    lines += _format_changed_values("settings", [*settings, *parameters])
    lines += _format_changed_code(compare_code(run_a, run_b))
    lines += _format_changed_data(list_changed_data(run_a, run_b))
    lines += _format_metrics(run_a.results, run_b.results)
    return lines


def _introduce(run: PastRun) -> str:
    """Return the name, the state and the model version of a run in one line.

    An example is "2026-11-23-093000-training, better, version 3". A state or version that
    the run does not have is left out.
    """
    texts = [run.name, run.describe_state()]
    version = run.results.tags.get("version")
    if version:
        texts.append(f"version {version}")
    return make_harmless(", ".join(text for text in texts if text))


def _format_changed_values(title: str, changes: Sequence[Change]) -> list[str]:
    """Return the lines of a table of the values that differ between run A and run B.

    `title` is the heading of the first column. Long values do not fit into the table, so
    they are listed below it.
    """
    if not changes:
        return ["", f"{title}: the same"]
    short_changes = [change for change in changes if not _is_long(change)]
    long_changes = [change for change in changes if _is_long(change)]
    table = align_columns(
        [
            Column(title, [change.name for change in short_changes]),
            Column("A", [_format_cell(change.before) for change in short_changes]),
            Column("B", [_format_cell(change.after) for change in short_changes]),
        ]
    )
    lines = ["", *table]
    for change in long_changes:
        lines.append(make_harmless(change.name))
        lines.append(f"{INDENT}A  {make_harmless(_format_cell(change.before))}")
        lines.append(f"{INDENT}B  {make_harmless(_format_cell(change.after))}")
    return lines


def _format_cell(value: str | None) -> str:
    """Return the value of a setting as the text of a cell, or "-" if there is none."""
    return NOTHING if value is None else value


def _is_long(change: Change) -> bool:
    """Return whether the value before or after a change is too wide for a table."""
    width_before = cell_len(_format_cell(change.before))
    width_after = cell_len(_format_cell(change.after))
    return max(width_before, width_after) > MAX_CELL_WIDTH


def _format_changed_code(changes: Sequence[Change]) -> list[str]:
    """Return the lines of a table of the files that differ between run A and run B.

    For each file, the table shows how many lines were added and removed, such as "+3 -1".
    """
    if not changes:
        return ["", "code: the same"]
    table = align_columns(
        [
            Column("code", [change.name for change in changes]),
            Column("from A to B", [_count_lines(change) for change in changes]),
        ]
    )
    return ["", *table]


def _count_lines(change: Change) -> str:
    """Return how many lines of a file were added and removed, such as "+3 -1".

    Returns "new" if only the second run has the file, and "removed" if only the first one
    has it.
    """
    if change.before is None:
        return "new"
    if change.after is None:
        return "removed"
    difference = difflib.unified_diff(
        change.before.splitlines(), change.after.splitlines(), n=0
    )
    # The first two lines of the difference name the files.
    changed_lines = list(difference)[2:]
    added = sum(line.startswith("+") for line in changed_lines)
    removed = sum(line.startswith("-") for line in changed_lines)
    return f"+{added} -{removed}"


def _format_changed_data(names: Sequence[str]) -> list[str]:
    """Return the lines that list the inputs with different data in the two runs.

    Each of the `names` consists of a step and one of its inputs, such as "prep: raw".
    """
    if not names:
        return ["", "data: the same"]
    return [
        "",
        "data",
        *[f"{make_harmless(name)}: different content" for name in names],
    ]


def _format_metrics(results_a: Results, results_b: Results) -> list[str]:
    """Return the lines of a table of all metrics of two runs, with their differences."""
    metrics_a = results_a.metrics
    metrics_b = results_b.metrics
    # The metrics of run A come first, then those that only run B has.
    names = list(dict.fromkeys([*metrics_a, *metrics_b]))
    if not names:
        return ["", "metrics: none"]
    table = align_columns(
        [
            Column("metrics", names),
            Column(
                "A",
                [_describe_number(metrics_a.get(name)) for name in names],
                is_number=True,
            ),
            Column(
                "B",
                [_describe_number(metrics_b.get(name)) for name in names],
                is_number=True,
            ),
            Column(
                "B - A",
                [
                    _describe_difference(metrics_a.get(name), metrics_b.get(name))
                    for name in names
                ],
                is_number=True,
            ),
        ]
    )
    return ["", *table]


def _describe_number(value: float | None) -> str:
    """Return a metric as text, such as "1,234" or "0.9123", or "-" if it is None.

    Whole numbers keep all their digits, other numbers about four.
    """
    if value is None:
        return NOTHING
    if value.is_integer() and abs(value) < MAX_GROUPED_NUMBER:
        return f"{int(value):,}"
    return _format_value(value)


def _describe_difference(value_a: float | None, value_b: float | None) -> str:
    """Return the value of run B minus the value of run A with its sign, such as "+0.01".

    Returns "0" if the values are equal, and "-" if one of them is None.
    """
    if value_a is None or value_b is None:
        return NOTHING
    difference = value_b - value_a
    if difference == 0:
        return "0"
    sign = "+" if difference > 0 else ""
    return f"{sign}{_format_value(difference)}"


def _format_value(value: float) -> str:
    """Return a number with four significant digits, as the report of `evaluate` shows it.

    A large number keeps all digits before the decimal point: 45231.7 becomes "45,232".
    """
    if 1_000 <= abs(value) < MAX_GROUPED_NUMBER:
        return f"{value:,.0f}"
    return f"{value:.4g}"


# Registered models ----------------------------------------------------------------------


def format_model_versions(
    root: Path,
    versions: Sequence[VersionOrigin],
    history: Sequence[PastRun | UnreadableRun],
) -> list[str]:
    """Return the lines of a table with a row for each version of the registered model.

    The rows are in the order of `versions`. The runs that have registered the versions are
    looked up in `history`. `root` is the folder of the project. Raises sqlite3.Error if
    MLflow's database cannot be read.
    """
    results = [read_results(root, [origin.mlflow_run_id]) for origin in versions]
    # The target is the column of the data that the model predicts.
    targets = [
        read_target(root, origin.mlflow_run_id) or NOTHING for origin in versions
    ]
    # If all models were judged by the same metric, its name is the heading of the column.
    metric = _find_common_metric(results)
    return align_columns(
        [
            Column("version", [origin.version for origin in versions], is_number=True),
            Column(
                "registered",
                [describe_time(origin.created / 1000) for origin in versions],
            ),
            Column(
                metric or "metric",
                [_describe_metric(result, metric) for result in results],
                is_number=True,
            ),
            Column("target", targets),
            Column("run", [_find_run_name(origin, history) for origin in versions]),
        ]
    )


def _find_run_name(
    origin: VersionOrigin, history: Sequence[PastRun | UnreadableRun]
) -> str:
    """Return the name of the run that has registered a version of a model.

    If a user has renamed the run's folder since then, the current name is returned. Returns
    "-" if no run has registered the version.
    """
    # The run is found by its id in MLflow, which stays the same when the folder is renamed.
    if origin.mlflow_run_id:
        for run in history:
            if isinstance(run, UnreadableRun):
                continue
            if run.record.mlflow_run == origin.mlflow_run_id:
                return run.name
    # The run is removed or unreadable, so only the name that it had when it registered the
    # version is left.
    return origin.run_name or NOTHING
