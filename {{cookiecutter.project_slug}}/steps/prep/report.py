"""Build the data report: statistics of the prepared columns, notes, and an HTML page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from column_notes import note_columns
from missing_word_notes import note_missing_words
from outlier_notes import note_outliers
from row_sample import describe_sample, read_sample
from sources import FILE, ColumnRoles, DataError, Note, Source, get_type_name
from write_parts import WrittenParts

# The statistics of a column that the page shows, in the order of its table.
STATISTICS = ("type", "missing", "distinct", "smallest", "largest")
# The page lists this many of the target's classes.
SHOWN_CLASSES = 30
# An error names this many of the raw files.
SHOWN_FILES = 5
# The reasons why rows are left out, as the report names them.
NO_TARGET = "no value in the target"
INFINITE_TARGET = "an infinite target"
# With more rows than this, the number of distinct values of a text column is estimated.
MAX_ROWS_FOR_EXACT_COUNT = 1_000_000
# Distinct values are counted in passes over the rows. Each pass counts about this many
# values, because each distinct value takes memory until its pass ends.
VALUES_PER_PASS = 2_000_000
# The size of the picture of a distribution, in pixels.
PICTURE_WIDTH = 144
PICTURE_HEIGHT = 32
STYLE = """
:root { color-scheme: light; }
body { font: 1rem/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff;
  max-width: 75rem; margin: auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.2rem; margin-top: 2rem; }
p, li, th, td { overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid #d0d7de; text-align: start;
  vertical-align: top; min-width: 6rem; }
thead th { border-bottom: 2px solid #8c959f; }
tbody th { font-weight: 600; min-width: min(14rem, 35vw); }
.whole { white-space: nowrap; }
svg { display: block; fill: #1f5f99; }
@page { size: landscape; }
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; }
  table { font-size: .7rem; } th, td, tbody th { min-width: 3rem; padding: .2rem .4rem; }
  svg { width: 6rem; } tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def build_report(
    written: WrittenParts, prepared: Path, roles: ColumnRoles
) -> dict[str, Any]:
    """Build the content of `report.json`: statistics of files, rows and columns, and notes.

    `written` says what was written as Parquet parts into the folder `prepared`. Raises
    DataError if the files have no rows, if no row has a value in the target, or if
    features() in prep.py has changed the number of rows.
    """
    row_count_by_file = _count_rows_by_file(written)
    rows_in = sum(row_count_by_file.values())
    if not rows_in:
        raise DataError(_explain_no_rows(list(row_count_by_file)))
    dropped = _count_dropped_rows(written, rows_in, roles.target)
    rows_out = rows_in - sum(dropped.values())
    columns, rows_written = describe_columns(prepared)
    _check_row_count(rows_out, rows_written)

    sample = read_sample(prepared)
    notes = _note_dropped_rows(dropped, rows_in, roles.target)
    notes += _note_raw_files(written, roles)
    notes += _note_prepared_columns(
        columns=columns,
        prepared=prepared,
        sample=sample,
        row_count=rows_out,
        # These columns have a note on how they were read.
        noted_columns=_list_noted_columns(notes),
        sources=written.sources,
        roles=roles,
    )
    return {
        "files": row_count_by_file,
        "rows_in": rows_in,
        "rows_out": rows_out,
        "dropped": dropped,
        "notes": [note.text for note in notes],
        "columns": columns,
        "roles": _name_roles(columns, roles),
        "classes": _count_classes(prepared, columns, roles.target),
        "sample": describe_sample(sample),
    }


def _check_row_count(rows_out: int, rows_written: int) -> None:
    """Raise DataError if features() in prep.py has added or removed rows.

    `rows_out` is the number of rows before features() is called, and `rows_written` is the
    number of prepared rows.
    """
    if rows_written != rows_out:
        raise DataError(
            f"features() in prep.py turned {rows_out} rows into {rows_written}: it may add"
            " columns, but must not add or remove rows."
        )


def _list_noted_columns(notes: list[Note]) -> set[str]:
    """Return the names of the columns that have a note."""
    return {note.column for note in notes if note.column is not None}


def _explain_no_rows(files: list[str]) -> str:
    """Return the sentence that the files have no rows. It names only the first files."""
    named_files = ", ".join(files[:SHOWN_FILES])
    if len(files) > SHOWN_FILES:
        named_files += f" and {len(files) - SHOWN_FILES} more files"
    return f"There is no row of data in {named_files}."


def _scan_parts(prepared: Path) -> pl.LazyFrame:
    """Return the rows of all Parquet parts in a folder."""
    # Without this option, polars would read characters such as * in a path as a pattern.
    return pl.scan_parquet(sorted(prepared.iterdir()), glob=False)


def _count_rows_by_file(written: WrittenParts) -> dict[str, int]:
    """Return the number of rows in each raw file, by the name of the file."""
    row_count_by_position = dict(written.summary.select(FILE, "rows").iter_rows())
    return {
        # A file without rows is not in the summary.
        source.name: row_count_by_position.get(position, 0)
        for position, source in enumerate(written.sources)
    }


def _count_dropped_rows(
    written: WrittenParts, rows_in: int, target: str | None
) -> dict[str, int]:
    """Return how many rows are left out for each reason.

    NO_TARGET is always one of the reasons, even if its number of rows is 0. Raises
    DataError if no row has a finite value in the target.
    """
    if not target:
        return {NO_TARGET: 0}
    filled_targets = int(written.summary["filled"].sum())
    infinite_targets = int(written.summary["infinite"].sum())
    if not filled_targets:
        raise DataError(f"The target '{target}' has no value in any row.")
    if filled_targets == infinite_targets:
        raise DataError(f"The target '{target}' has no finite value in any row.")
    dropped = {NO_TARGET: rows_in - filled_targets}
    if infinite_targets:
        dropped[INFINITE_TARGET] = infinite_targets
    return dropped


def _note_dropped_rows(
    dropped: dict[str, int], rows_in: int, target: str | None
) -> list[Note]:
    """Return a note for each reason why rows are left out.

    For example, the note for the reason NO_TARGET may be "3 of 40 rows are left out: no
    value in the target 'price'." `dropped` has the number of rows for each reason.
    """
    notes = []
    for reason, count in dropped.items():
        if count == 0:
            continue
        verb = "is" if count == 1 else "are"
        text = f"{count} of {rows_in} rows {verb} left out: {reason} '{target}'."
        notes.append(Note(text))
    return notes


def _note_raw_files(written: WrittenParts, roles: ColumnRoles) -> list[Note]:
    """Return the notes on the raw files: how they were read, and their missing values."""
    notes = list(written.notes)
    # Many files may have the same note, which is shown once.
    notes += dict.fromkeys(note for source in written.sources for note in source.notes)
    if roles.model_columns is None:
        # In data to score, missing values are recognized as in the training data, so the
        # user has seen these notes before.
        notes += note_missing_words(written.sources, written.types, roles)
    return notes


def _note_prepared_columns(
    columns: dict[str, dict[str, Any]],
    prepared: Path,
    sample: pl.DataFrame,
    *,
    row_count: int,
    noted_columns: set[str],
    sources: list[Source],
    roles: ColumnRoles,
) -> list[Note]:
    """Return the notes on the columns of the prepared table.

    `prepared` is the folder with the Parquet parts, and `sample` holds some of their rows.
    `columns` has the statistics of each column, and `row_count` is the number of rows.
    Columns in `noted_columns` already have a note on how they were read. They get no second
    note, except on outliers: numbers that are far from all others.
    """
    notes = note_columns(columns, prepared, row_count, noted_columns, sources, roles)
    if roles.model_columns is not None:
        # In data to score, the step `monitor` compares the numbers with the training data.
        return notes
    # Columns that `note_columns` has noted are skipped, because their note may already be
    # about an outlier. Columns in `noted_columns` are not skipped, because the way in which
    # a column was read does not explain an outlier.
    skipped_names = {*roles.keys, *_list_noted_columns(notes)}
    notes += note_outliers(
        table=_scan_parts(prepared),
        sample=sample,
        columns=columns,
        skipped_names=skipped_names,
        sources=sources,
    )
    return notes


def _name_roles(columns: Iterable[str], roles: ColumnRoles) -> dict[str, str]:
    """Return what each column is used for: target, key, group or feature."""
    role_by_name = {}
    for name in columns:
        if name in roles.keys:
            role_by_name[name] = "key"
        elif name == roles.target:
            role_by_name[name] = "target"
        elif name == roles.group:
            role_by_name[name] = "group"
        else:
            role_by_name[name] = "feature"
    return role_by_name


def _count_classes(
    prepared: Path, columns: dict[str, dict[str, Any]], target: str | None
) -> dict[str, int]:
    """Count the rows in each of the most frequent classes of the target.

    `prepared` is the folder with the Parquet parts. The result is empty if there is no
    target, or if the target holds numbers or dates.
    """
    if target is None or columns[target]["type"] not in ("text", "boolean"):
        return {}
    table = _scan_parts(prepared)
    # The column is selected by its position, because polars would treat a name such as
    # `^a$` as a pattern.
    classes = pl.nth(list(columns).index(target)).alias("class")
    row_counts = table.select(classes).group_by("class").len(name="rows")
    # Equally frequent classes are sorted by their names.
    most_frequent = row_counts.sort("rows", "class", descending=[True, False])
    rows = most_frequent.head(SHOWN_CLASSES).collect(engine="streaming").rows()
    return {str(class_name): row_count for class_name, row_count in rows}


@dataclass(frozen=True)
class Statistic:
    """A statistic of a column, such as "missing", and the expression that computes it."""

    column: str
    kind: str
    expression: pl.Expr


def describe_columns(prepared: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the statistics of each prepared column, and the number of prepared rows.

    `prepared` is the folder with the Parquet parts. The statistics of a column are:

    - `type`, such as "text", and `missing`, the number of missing values,
    - for numbers and dates, the `smallest` and the `largest` value as text, and
    - for text and booleans, `distinct`, the number of distinct values. In text, this is an
      estimate if there are more than MAX_ROWS_FOR_EXACT_COUNT rows.

    For example, a column of text may have {"type": "text", "missing": 3, "distinct": 40}.
    """
    table = _scan_parts(prepared)
    statistics_by_column: dict[str, dict[str, Any]] = {}
    planned_statistics: list[Statistic] = []
    position_by_text_column: dict[str, int] = {}
    for position, (name, dtype) in enumerate(table.collect_schema().items()):
        statistics_by_column[name] = {"type": get_type_name(dtype)}
        planned_statistics += _plan_statistics(name, position, dtype)
        if dtype == pl.String:
            position_by_text_column[name] = position

    row_count, values = _compute_statistics(table, planned_statistics)
    for statistic, value in zip(planned_statistics, values, strict=True):
        statistics_by_column[statistic.column][statistic.kind] = value

    if row_count <= MAX_ROWS_FOR_EXACT_COUNT:
        # Exact numbers replace the estimates.
        exact_counts = _count_distinct_texts(table, position_by_text_column, row_count)
        for name, distinct_count in exact_counts.items():
            statistics_by_column[name]["distinct"] = distinct_count
    # Until here, a missing value counts as one of the distinct values.
    for column_statistics in statistics_by_column.values():
        _correct_distinct(column_statistics, row_count)
    return statistics_by_column, row_count


def _compute_statistics(
    table: pl.LazyFrame, statistics: list[Statistic]
) -> tuple[int, list[Any]]:
    """Return the number of rows, and the value of each statistic, in their order.

    All of them are computed in one pass over the rows.
    """
    # Numbers serve as names of the result's columns, because polars needs names that differ.
    numbered_expressions = [
        statistic.expression.alias(str(number))
        for number, statistic in enumerate(statistics)
    ]
    result = table.select(pl.len().alias("rows"), *numbered_expressions)
    row_count, *values = result.collect(engine="streaming").row(0)
    return row_count, values


def _plan_statistics(
    name: str, position: int, dtype: pl.DataType
) -> Iterator[Statistic]:
    """Yield the statistics to compute for the column at this position of the table.

    The type of the column decides which statistics these are.
    """
    # The column is selected by its position, because polars would treat a name such as
    # `^a$` as a pattern.
    column = pl.nth(position)
    yield Statistic(name, "missing", column.null_count())
    if dtype == pl.String:
        yield Statistic(name, "distinct", column.approx_n_unique())
    elif dtype == pl.Boolean:
        yield Statistic(name, "distinct", column.n_unique())
    elif dtype.is_numeric() or dtype.is_temporal():
        yield Statistic(name, "smallest", column.min().cast(pl.String))
        yield Statistic(name, "largest", column.max().cast(pl.String))


def _correct_distinct(column_statistics: dict[str, Any], row_count: int) -> None:
    """Correct the number of distinct values of a column, if it has this statistic.

    Missing values are not counted, and an estimate is limited to the number of values.
    """
    if "distinct" not in column_statistics:
        return
    missing = column_statistics["missing"]
    distinct = column_statistics["distinct"]
    # polars counts a missing value as one of the distinct values.
    if missing and distinct:
        distinct -= 1
    # An estimate can exceed the number of values.
    column_statistics["distinct"] = min(distinct, row_count - missing)


def _count_distinct_texts(
    table: pl.LazyFrame, position_by_name: dict[str, int], row_count: int
) -> dict[str, int]:
    """Count the distinct values of each column of text.

    A missing value counts as one of the values. `position_by_name` has the position of each
    column of text in the table, and `row_count` is the number of rows.
    """
    names = list(position_by_name)
    # The more rows there are, the fewer columns are counted in one pass, so that the values
    # fit in memory.
    columns_per_pass = max(1, VALUES_PER_PASS // max(1, row_count))
    count_by_name: dict[str, int] = {}
    for start in range(0, len(names), columns_per_pass):
        batch = names[start : start + columns_per_pass]
        # Columns are addressed by position, because polars would treat a name such as `^a$`
        # as a pattern.
        expressions = []
        for name in batch:
            position = position_by_name[name]
            # Hashes of 64 bits take less memory than the text, and two different texts
            # hardly ever have the same hash.
            distinct_count = pl.nth(position).hash().n_unique()
            expressions.append(distinct_count.alias(str(position)))
        counts = table.select(expressions).collect(engine="streaming").row(0)
        count_by_name |= dict(zip(batch, counts, strict=True))
    return count_by_name


def render_report(report: dict[str, Any]) -> str:
    """Render the report as a self-contained HTML page."""
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data report</title><style>{STYLE}</style>
<h1>Data report</h1>
<p>{_describe_row_counts(report)}</p>
{_render_violations(report)}
<h2>Worth a look</h2>
{_render_notes(report)}
{render_classes(report)}
<h2>Columns</h2>
{render_columns(report)}
<h2>First rows</h2>
{render_table(report["columns"], map(_escape_all, report["sample"]["first_rows"]))}
<h2>Files</h2>
{render_table(["file", "rows"], _list_shares(report["files"], report["rows_in"]))}
</html>
"""


def _describe_row_counts(report: dict[str, Any]) -> str:
    """Return the numbers of rows, such as "9 rows read, 8 prepared; 1 dropped (…)."."""
    dropped = [
        f"; {count:,} dropped ({reason})"
        for reason, count in report["dropped"].items()
        if count
    ]
    rows_in = report["rows_in"]
    rows_out = report["rows_out"]
    return f"{rows_in:,} rows read, {rows_out:,} prepared{''.join(dropped)}."


def _render_violations(report: dict[str, Any]) -> str:
    """Render the list of violated rules with its heading, or "" if no rule is violated."""
    if not report["violations"]:
        return ""
    items = "".join(f"<li>{html.escape(text)}" for text in report["violations"])
    return f"<h2>Violations of data.expect</h2>\n<ul>{items}</ul>"


def _render_notes(report: dict[str, Any]) -> str:
    """Render the notes as a list, with the sentences that appear only in report.html."""
    sentences = [*report["notes"], *describe_unusual_columns(report)]
    items = "".join(f"<li>{html.escape(sentence)}" for sentence in sentences)
    return f"<ul>{items or '<li>Nothing.'}</ul>"


def describe_unusual_columns(report: dict[str, Any]) -> list[str]:
    """Describe features with a single value, and categories that differ only in case.

    Features with a single value are described only for training data. Data to score may
    have a single row, and may not lack any column of the model. The sentences appear in
    report.html, but not on the screen, because these columns are seldom mistakes.
    """
    sentences = []
    roles = report["roles"]
    is_training_data = "target" in roles.values()
    features = [name for name in roles if roles[name] == "feature"]
    constant = []
    if is_training_data:
        constant = [f"'{name}'" for name in features if _is_constant(report, name)]
    if len(constant) == 1:
        sentences.append(
            f"Only one value occurs in {constant[0]}. Nothing can be learned from it: list"
            " the column under data.ignore if this will not change."
        )
    elif constant:
        sentences.append(
            f"Only one value occurs in each of {', '.join(constant)}. Nothing can be"
            " learned from them: list these columns under data.ignore if this will not"
            " change."
        )
    for name, distribution in report["sample"]["columns"].items():
        similar_categories = distribution.get("same_but_for_case")
        if similar_categories:
            examples = ", ".join(f"'{category}'" for category in similar_categories)
            sentences.append(
                f"Column '{name}' has categories that differ only in upper and lower case,"
                f" such as {examples}. A model treats them as different categories: if"
                " they are the same, make them equal in features() in prep.py."
            )
    return sentences


def _is_constant(report: dict[str, Any], name: str) -> bool:
    """Return whether a column has the same value in all rows that have a value."""
    column = report["columns"][name]
    if column["missing"] == report["rows_out"]:
        return False
    if "smallest" in column:
        return bool(column["smallest"] == column["largest"])
    return bool(column["distinct"] == 1)


def render_classes(report: dict[str, Any]) -> str:
    """Render the number of rows of each class of the target, or "" without classes."""
    classes = report["classes"]
    if not classes:
        return ""
    rows = _list_shares(classes, report["rows_out"])
    table = render_table(["class", "rows"], rows)
    more = ""
    if sum(classes.values()) < report["rows_out"]:
        more = f"<p>Only the {SHOWN_CLASSES} most frequent classes are listed.</p>"
    return f"<h2>Classes of the target</h2>\n{table}{more}"


def _list_shares(count_by_name: dict[str, int], total: int) -> list[list[str]]:
    """Return table rows in HTML: a name, and a number of rows with its share of all rows.

    For example, a number is "3 (1.5 %)".
    """
    return [
        [_escape(name), f"{count:,} ({format_share(count, total)})"]
        for name, count in count_by_name.items()
    ]


def render_columns(report: dict[str, Any]) -> str:
    """Render a table with the role, the statistics and the distribution of each column."""
    sample = report["sample"]
    rows = []
    for name, statistics in report["columns"].items():
        row = [
            _escape(name),
            report["roles"][name],
            _escape(statistics["type"]),
            format_share(statistics["missing"], report["rows_out"]),
            _format_distinct(statistics, report["rows_out"]),
            _keep_on_one_line(statistics.get("smallest")),
            _keep_on_one_line(statistics.get("largest")),
            render_distribution(sample["columns"][name]),
        ]
        rows.append(row)
    caption = ""
    if sample["rows"] < report["rows_out"]:
        caption = (
            "<p>The distributions are those of a sample of"
            f" {sample['rows']:,} rows.</p>\n"
        )
    return caption + render_table(["column", "role", *STATISTICS, "distribution"], rows)


def _format_distinct(statistics: dict[str, Any], row_count: int) -> str:
    """Return the number of distinct values of a column, such as "7" or "about 1,234,567".

    Returns "" if the column has no such number. An estimate begins with "about".
    """
    distinct = statistics.get("distinct")
    if not distinct:
        return ""
    is_text = statistics["type"] == "text"
    is_estimate = is_text and row_count > MAX_ROWS_FOR_EXACT_COUNT
    if is_estimate:
        return f"about {distinct:,}"
    return f"{distinct:,}"


def format_share(count: int, total: int) -> str:
    """Return the share of a count in a total in percent, such as "1.5 %".

    Only a share of exactly 0 or 100 percent is "0 %" or "100 %". Others may be "< 0.1 %" or
    "> 99.9 %".
    """
    if count in (0, total):
        return "100 %" if count and total else "0 %"
    percent = 100 * count / total
    if percent < 0.1:
        return "< 0.1 %"
    if percent > 99.9:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def render_distribution(distribution: dict[str, Any]) -> str:
    """Render the distribution of a column: a histogram, or the most frequent values.

    `distribution` is what `describe_distribution` returns.
    """
    if "histogram" in distribution:
        return _render_histogram(distribution["histogram"])
    lines = [
        f"{_escape(text)} {100 * share:.1f} %"
        for text, share in distribution["frequent"]
    ]
    return "<br>".join(lines)


def _render_histogram(counts: list[int]) -> str:
    """Render a histogram as a picture in SVG, with a bar for each range of values."""
    if not counts:
        return ""
    bar_width = PICTURE_WIDTH / len(counts)
    largest_count = max(counts)
    # The path is the outline of all bars: V draws a vertical line to the top of a bar, and H
    # a horizontal line to its right end. y is 0 at the top of the picture.
    path = [f"M0 {PICTURE_HEIGHT}"]
    for bar_number, count in enumerate(counts, start=1):
        top = PICTURE_HEIGHT * (1 - count / largest_count)
        if count:
            # A bar has a height of at least one pixel, so that rare values are visible.
            top = min(top, PICTURE_HEIGHT - 1)
        path.append(f"V{top:.1f}H{bar_number * bar_width:.0f}")
    path.append(f"V{PICTURE_HEIGHT}Z")
    return (
        f'<svg viewBox="0 0 {PICTURE_WIDTH} {PICTURE_HEIGHT}" width="{PICTURE_WIDTH}"'
        f' role="img" aria-label="histogram"><path d="{"".join(path)}"/></svg>'
    )


def _escape(value: object) -> str:
    """Return a value of the data in HTML.

    The tag `bdi` keeps text that is written from right to left apart from its surroundings.
    """
    return f"<bdi>{html.escape(str(value))}</bdi>" if str(value) else ""


def _keep_on_one_line(value: object) -> str:
    """Return a number or a date in HTML, so that no browser breaks it at a hyphen.

    None becomes "".
    """
    if value is None:
        return ""
    return f'<span class="whole">{html.escape(str(value))}</span>'


def _escape_all(values: Iterable[object]) -> list[str]:
    """Return values of the data in HTML."""
    return [_escape(value) for value in values]


def render_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a table. The first cell of each row is the name of the row.

    The cells of `rows` are HTML, and the `headings` are plain text.
    """
    head = "".join(f'<th scope="col">{_escape(heading)}</th>' for heading in headings)
    table_rows = []
    for name, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        table_rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    body = "\n".join(table_rows)
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
