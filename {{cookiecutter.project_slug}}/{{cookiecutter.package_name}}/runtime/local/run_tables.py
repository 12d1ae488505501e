"""Tables of earlier runs as text, for the commands `runs` and `models`.

They fit into 80 columns, unless names or numbers are very long. Lines below a row are
indented. They are wrapped only in a terminal, so that other programs can read them.
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
#: What a cell without a value contains.
NOTHING = "-"
#: Values of settings that are longer than this are written below each other.
LONGEST_CELL = 20


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, its cells, and the side to which they are aligned."""

    heading: str
    cells: Sequence[str]
    is_number: bool = False


def align_columns(columns: Sequence[Column]) -> list[str]:
    """Return the lines of a table, the first of which has the headings."""
    aligned: list[list[str]] = []
    for column in columns:
        cells = [make_harmless(cell) for cell in (column.heading, *column.cells)]
        width = max(cell_len(cell) for cell in cells)
        aligned.append([_pad(cell, width, column.is_number) for cell in cells])
    return ["  ".join(row).rstrip() for row in zip(*aligned, strict=True)]


def _pad(text: str, width: int, is_number: bool) -> str:
    """Add spaces to a text until it has a width on the screen. Numbers are right-aligned."""
    spaces = " " * (width - cell_len(text))
    return spaces + text if is_number else text + spaces


# All runs -------------------------------------------------------------------------------


def format_runs(
    history: Sequence[PastRun | UnreadableRun],
    shown: Sequence[PastRun | UnreadableRun],
    width: int | None,
) -> list[str]:
    """Return a table of the `shown` runs, newest first.

    Each run is compared with the previous run of the same pipeline in `history`. Lines below
    a row are wrapped at `width`, if it is not None.
    """
    results = [_get_results(run) for run in shown]
    metric = _find_common_metric(results)
    rows = align_columns(
        [
            Column("run", [run.name for run in shown]),
            Column("started", [_describe_start(run) for run in shown]),
            Column("rows", [_describe_rows(run) for run in shown], is_number=True),
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
    )
    lines = rows[:1]
    for run, row in zip(shown, rows[1:], strict=True):
        lines.append(row)
        for detail in _describe_run(run, history):
            lines += _wrap(detail, width)
    return lines


def _get_results(run: PastRun | UnreadableRun) -> Results:
    """Return what the steps of a run have logged. Empty if its record is unreadable."""
    if isinstance(run, UnreadableRun):
        return Results({}, {})
    return run.results


def _describe_run(
    run: PastRun | UnreadableRun, history: Sequence[PastRun | UnreadableRun]
) -> list[str]:
    """Return the verdict on a run, its parameters, and what was edited before it."""
    if isinstance(run, UnreadableRun):
        return [run.reason]
    details: list[str] = []
    state = run.describe_state()
    if state:
        details.append(state)
    if run.record.set:
        values = [f"{name}={value}" for name, value in run.record.set.items()]
        details.append(f"set: {', '.join(values)}")
    edits = _list_edits(run, history)
    if edits:
        details.append(f"edited: {', '.join(edits)}")
    return details


def _list_edits(run: PastRun, history: Sequence[PastRun | UnreadableRun]) -> list[str]:
    """Return what was edited since the previous run of the same pipeline."""
    previous = _find_previous_run(run, history)
    if previous is None:
        return []

    edits = []
    for change in compare_settings(previous, run):
        if change.after is None:
            edits.append(f"{change.name} removed")
        else:
            edits.append(f"{change.name}: {change.after}")
    edits += [change.name for change in compare_code(previous, run)]
    if list_changed_data(previous, run):
        edits.append("content of the data")
    return edits


def _find_previous_run(
    run: PastRun, history: Sequence[PastRun | UnreadableRun]
) -> PastRun | None:
    """Return the newest run of the same pipeline that was started before this one."""
    for other in history:
        if (
            isinstance(other, PastRun)
            and other.record.pipeline == run.record.pipeline
            and other.record.started < run.record.started
        ):
            return other
    return None


def _find_common_metric(results: Sequence[Results]) -> str | None:
    """Return the metric by which all models are compared, or None if it varies."""
    metrics = {result.tags["metric"] for result in results if "metric" in result.tags}
    return metrics.pop() if len(metrics) == 1 else None


def _describe_start(run: PastRun | UnreadableRun) -> str:
    """Return when a run was started, in the time zone of this machine."""
    if isinstance(run, UnreadableRun):
        return NOTHING
    return describe_time(run.record.started / 10**9)


def describe_time(seconds: float) -> str:
    """Format a time in seconds since 1970, in the time zone of this machine."""
    try:
        moment = datetime.fromtimestamp(seconds, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return NOTHING
    return f"{moment:%Y-%m-%d %H:%M}"


def _describe_rows(run: PastRun | UnreadableRun) -> str:
    """Return the number of rows of a run as text."""
    if isinstance(run, UnreadableRun) or run.rows is None:
        return NOTHING
    return str(run.rows)


def _describe_metric(results: Results, common: str | None) -> str:
    """Return the metric by which models are compared, with its name if it varies."""
    name = results.tags.get("metric", "")
    if name not in results.metrics:
        return NOTHING
    value = _format_value(results.metrics[name])
    return value if name == common else f"{name} {value}"


def _wrap(text: str, width: int | None) -> list[str]:
    """Indent a text, and wrap it at a width. If the width is None, it stays on one line."""
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


def format_comparison(first: PastRun, second: PastRun) -> list[str]:
    """Return the differences between two runs and all their metrics, side by side."""
    lines = [
        f"A  {_introduce(first)}",
        f"B  {_introduce(second)}",
    ]
    parameters = [
        Change(f"--set {change.name}", change.before, change.after)
        for change in compare_parameters(first, second)
    ]
    settings = compare_settings(first, second)
    lines += _format_changed_values("settings", [*settings, *parameters])
    lines += _format_changed_code(compare_code(first, second))
    lines += _format_changed_data(list_changed_data(first, second))
    lines += _format_metrics(first, second)
    return lines


def _introduce(run: PastRun) -> str:
    """Return the name of a run, its verdict and its version, in one line."""
    parts = [run.name, run.describe_state()]
    version = run.results.tags.get("version")
    if version:
        parts.append(f"version {version}")
    return make_harmless(", ".join(part for part in parts if part))


def _format_changed_values(title: str, changes: Sequence[Change]) -> list[str]:
    """Return a table of the values that differ. Long values are below each other."""
    if not changes:
        return ["", f"{title}: the same"]

    names: list[str] = []
    before: list[str] = []
    after: list[str] = []
    long_values: list[str] = []
    for change in changes:
        value_before = NOTHING if change.before is None else change.before
        value_after = NOTHING if change.after is None else change.after
        if max(cell_len(value_before), cell_len(value_after)) > LONGEST_CELL:
            long_values.append(change.name)
            long_values.append(f"{INDENT}A  {value_before}")
            long_values.append(f"{INDENT}B  {value_after}")
        else:
            names.append(change.name)
            before.append(value_before)
            after.append(value_after)
    rows = align_columns(
        [Column(title, names), Column("A", before), Column("B", after)]
    )
    return ["", *rows, *[make_harmless(line) for line in long_values]]


def _format_changed_code(changes: Sequence[Change]) -> list[str]:
    """Return a table of the files that differ, with the numbers of changed lines."""
    if not changes:
        return ["", "code: the same"]
    return [
        "",
        *align_columns(
            [
                Column("code", [change.name for change in changes]),
                Column("from A to B", [_count_lines(change) for change in changes]),
            ]
        ),
    ]


def _count_lines(change: Change) -> str:
    """Return how many lines were added to a file and removed from it, such as "+3 -1"."""
    if change.before is None:
        return "new"
    if change.after is None:
        return "removed"
    added = 0
    removed = 0
    difference = difflib.unified_diff(
        change.before.splitlines(), change.after.splitlines(), n=0
    )
    # The first two lines of the difference name the files.
    for line in list(difference)[2:]:
        added += line.startswith("+")
        removed += line.startswith("-")
    return f"+{added} -{removed}"


def _format_changed_data(names: Sequence[str]) -> list[str]:
    """Return a line for each input of a step whose data differs."""
    if not names:
        return ["", "data: the same"]
    return ["", "data", *[f"{make_harmless(name)}: another content" for name in names]]


def _format_metrics(first: PastRun, second: PastRun) -> list[str]:
    """Return a table of all metrics of two runs, with the differences."""
    names = list(dict.fromkeys([*first.results.metrics, *second.results.metrics]))
    if not names:
        return ["", "metrics: none were logged"]
    before: list[str] = []
    after: list[str] = []
    differences: list[str] = []
    for name in names:
        value_before = first.results.metrics.get(name)
        value_after = second.results.metrics.get(name)
        before.append(_describe_number(value_before))
        after.append(_describe_number(value_after))
        if value_before is None or value_after is None:
            differences.append(NOTHING)
        else:
            difference = value_after - value_before
            differences.append(_format_difference(difference))
    return [
        "",
        *align_columns(
            [
                Column("metrics", names),
                Column("A", before, is_number=True),
                Column("B", after, is_number=True),
                Column("B - A", differences, is_number=True),
            ]
        ),
    ]


def _describe_number(value: float | None) -> str:
    """Return a number as text, with four digits if it has a fraction."""
    if value is None:
        return NOTHING
    if value.is_integer() and abs(value) < 10**15:
        return f"{int(value):,}"
    return _format_value(value)


def _format_difference(value: float) -> str:
    """Return a difference with its sign, or "0" if there is none."""
    return _format_value(value, signed=True) if value else "0"


def _format_value(value: float, *, signed: bool = False) -> str:
    """Return a number with four significant digits, as the report of evaluate shows it.

    Digits before the decimal point are never left out: 45231.7 is "45,232".
    """
    sign = "+" if signed else ""
    if 1_000 <= abs(value) < 1e15:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.4g}"


# Registered models ----------------------------------------------------------------------


def format_models(
    root: Path,
    versions: Sequence[VersionOrigin],
    history: Sequence[PastRun | UnreadableRun],
) -> list[str]:
    """Return a table of the versions of the registered model, newest first.

    Raises sqlite3.Error if MLflow's database cannot be read.
    """
    folders = {
        run.record.mlflow_run: run.name for run in history if isinstance(run, PastRun)
    }
    names: list[str] = []
    results: list[Results] = []
    targets: list[str] = []
    for version in versions:
        # A run that was renamed is found by its id in MLflow.
        name = version.run
        if version.mlflow_run:
            name = folders.get(version.mlflow_run, version.run)
        names.append(name or NOTHING)
        results.append(read_results(root, [version.mlflow_run]))
        targets.append(read_target(root, version.mlflow_run) or NOTHING)
    metric = _find_common_metric(results)
    return align_columns(
        [
            Column(
                "version", [version.version for version in versions], is_number=True
            ),
            Column(
                "registered",
                [describe_time(version.created / 1000) for version in versions],
            ),
            Column(
                metric or "metric",
                [_describe_metric(result, metric) for result in results],
                is_number=True,
            ),
            Column("target", targets),
            Column("run", names),
        ]
    )
