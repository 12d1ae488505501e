"""The data report: what prep found in each column, as a page that a person opens."""

from __future__ import annotations

import html
from collections.abc import Iterable
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

# The statistics of a column that the report shows, in the order of its table.
STATISTICS = ("type", "missing", "distinct", "smallest", "largest")
SHOWN_CLASSES = 30
# With more rows, the distinct texts of a column are estimated.
MOST_COUNTED_ROWS = 1_000_000
# Distinct values are counted in several passes if there are more values, because each
# value takes memory until its pass ends.
VALUES_PER_PASS = 2_000_000
# The picture of a distribution, in the units of its drawing.
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

    Raises DataError if the files have no row, if no row has a value in the target, or if
    `features` in prep.py has changed the number of rows.
    """
    files = _count_rows_by_file(written)
    rows_in = sum(files.values())
    if not rows_in:
        raise DataError(f"{', '.join(files)}: there is no row of data.")
    dropped = _count_dropped_rows(written, rows_in, roles.target)
    rows_out = rows_in - sum(dropped.values())
    columns, rows_written = describe_columns(prepared)
    if rows_written != rows_out:
        raise DataError(
            f"features() in prep.py turned {rows_out} rows into {rows_written}: it may add"
            " columns, but must keep each row."
        )
    sample = read_sample(prepared)
    notes = _note_dropped_rows(dropped, rows_in, roles.target)
    notes += _note_raw_files(written, roles)
    notes += _note_prepared_columns(
        columns=columns,
        prepared=prepared,
        sample=sample,
        rows=rows_out,
        noted_columns={note.column for note in notes},
        sources=written.sources,
        roles=roles,
    )
    return {
        "files": files,
        "rows_in": rows_in,
        "rows_out": rows_out,
        "dropped": dropped,
        "notes": [note.text for note in notes],
        "columns": columns,
        "roles": _name_roles(columns, roles),
        "classes": _count_classes(prepared, columns, roles.target),
        "sample": describe_sample(sample),
    }


def _count_rows_by_file(written: WrittenParts) -> dict[str, int]:
    """Return the number of rows in each raw file."""
    rows_by_position = dict(written.summary.select(FILE, "rows").iter_rows())
    return {
        source.name: rows_by_position.get(position, 0)
        for position, source in enumerate(written.sources)
    }


def _count_dropped_rows(
    written: WrittenParts, rows_in: int, target: str | None
) -> dict[str, int]:
    """Return how many rows are left out for each reason.

    Raises DataError if no row has a value in the target that can be used.
    """
    if not target:
        return {"no value in the target": 0}
    filled = int(written.summary["filled"].sum())
    infinite = int(written.summary["infinite"].sum())
    if not filled:
        raise DataError(f"The target '{target}' has no value in any row.")
    if filled == infinite:
        raise DataError(f"The target '{target}' has no finite value in any row.")
    dropped = {"no value in the target": rows_in - filled}
    if infinite:
        dropped["an infinite target"] = infinite
    return dropped


def _note_dropped_rows(
    dropped: dict[str, int], rows_in: int, target: str | None
) -> list[Note]:
    """Return a note for each reason for which rows are left out."""
    return [
        Note(f"{count} of {rows_in} rows are left out: {reason} '{target}'.")
        for reason, count in dropped.items()
        if count
    ]


def _note_raw_files(written: WrittenParts, roles: ColumnRoles) -> list[Note]:
    """Return the notes on the raw files: how they were read, and their missing values."""
    notes = list(written.notes)
    # Many files may have the same note, which is shown once.
    notes += dict.fromkeys(note for source in written.sources for note in source.notes)
    if roles.model_columns is None:
        # In data to score, the same words are missing values as in the training data.
        notes += note_missing_words(written.sources, written.types, roles)
    return notes


def _note_prepared_columns(
    columns: dict[str, dict[str, Any]],
    prepared: Path,
    sample: pl.DataFrame,
    *,
    rows: int,
    noted_columns: set[str | None],
    sources: list[Source],
    roles: ColumnRoles,
) -> list[Note]:
    """Return the notes on the columns of the prepared table.

    `columns` has the statistics of each column, and `rows` is the number of rows. The
    columns in `noted_columns` have a note already, and get no other.
    """
    notes = note_columns(columns, prepared, rows, noted_columns, sources, roles)
    if roles.model_columns is not None:
        # For data to score, `monitor` compares the range with that of the training data.
        return notes
    columns_with_note = noted_columns | {note.column for note in notes}
    notes += note_outliers(
        table=pl.scan_parquet(sorted(prepared.iterdir()), glob=False),
        sample=sample,
        columns=columns,
        skipped_names={*roles.keys, *columns_with_note},
        sources=sources,
    )
    return notes


def _name_roles(columns: Iterable[str], roles: ColumnRoles) -> dict[str, str]:
    """Return what each column is used for: target, key, group or feature."""
    names = {}
    for name in columns:
        names[name] = "feature"
        if name in roles.keys:
            names[name] = "key"
        elif name == roles.target:
            names[name] = "target"
        elif name == roles.group:
            names[name] = "group"
    return names


def _count_classes(
    prepared: Path, columns: dict[str, dict[str, Any]], target: str | None
) -> dict[str, int]:
    """Return the number of rows of the target's most frequent classes.

    There are none without a target, or if it is numbers or dates.
    """
    if target is None or columns[target]["type"] not in ("text", "boolean"):
        return {}
    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    # The column is selected by its position for the reason given in `describe_columns`.
    values = pl.nth(list(columns).index(target)).alias("value")
    counts = table.select(values).group_by("value").len(name="rows")
    most = counts.sort("rows", "value", descending=[True, False]).head(SHOWN_CLASSES)
    return {str(value): rows for value, rows in most.collect(engine="streaming").rows()}


@dataclass(frozen=True)
class Statistic:
    """A statistic of a column, such as "missing", and how polars computes it."""

    column: str
    kind: str
    expression: pl.Expr


def describe_columns(prepared: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the statistics of each prepared column, and the number of prepared rows.

    All columns have a type and a number of missing values. Numbers and dates also have a
    smallest and a largest value, and text and booleans a number of distinct values. That
    of text is an estimate if there are more than MOST_COUNTED_ROWS rows.
    """
    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    columns: dict[str, dict[str, Any]] = {}
    statistics: list[Statistic] = []
    text_positions: dict[str, int] = {}
    for position, (name, dtype) in enumerate(table.collect_schema().items()):
        columns[name] = {"type": get_type_name(dtype)}
        # The column is selected by its position, because polars would treat a name such
        # as `^a$` as a regular expression.
        column = pl.nth(position)
        statistics.append(Statistic(name, "missing", column.null_count()))
        if dtype == pl.String:
            text_positions[name] = position
            statistics.append(Statistic(name, "distinct", column.approx_n_unique()))
        elif dtype == pl.Boolean:
            statistics.append(Statistic(name, "distinct", column.n_unique()))
        elif dtype.is_numeric() or dtype.is_temporal():
            smallest = column.min().cast(pl.String)
            largest = column.max().cast(pl.String)
            statistics.append(Statistic(name, "smallest", smallest))
            statistics.append(Statistic(name, "largest", largest))

    # All statistics are computed in one pass over the rows. Their numbers serve as names
    # of the result's columns, because polars needs names that differ.
    numbered = [
        statistic.expression.alias(str(number))
        for number, statistic in enumerate(statistics)
    ]
    summary = table.select(pl.len().alias("rows"), *numbered)
    rows, *values = summary.collect(engine="streaming").row(0)
    for statistic, value in zip(statistics, values, strict=True):
        columns[statistic.column][statistic.kind] = value
    if rows <= MOST_COUNTED_ROWS:
        # Exact numbers replace the estimates.
        counts = _count_distinct_texts(table, text_positions, rows)
        for name, distinct in counts.items():
            columns[name]["distinct"] = distinct

    for figures in columns.values():
        if "distinct" not in figures:
            continue
        # polars counts a missing value as one of the distinct values.
        if figures["missing"] and figures["distinct"]:
            figures["distinct"] -= 1
        # An estimate can exceed the number of values.
        figures["distinct"] = min(figures["distinct"], rows - figures["missing"])
    return columns, rows


def _count_distinct_texts(
    table: pl.LazyFrame, positions: dict[str, int], rows: int
) -> dict[str, int]:
    """Return the number of distinct texts of each column; a missing value counts as one.

    `positions` has the position of each column by its name.
    """
    names = list(positions)
    columns_per_pass = max(1, VALUES_PER_PASS // max(1, rows))
    counts: dict[str, int] = {}
    for start in range(0, len(names), columns_per_pass):
        batch = names[start : start + columns_per_pass]
        # Hashes of 64 bits take less memory than the texts, and do not collide in
        # practice. Aliases are numbers, as names may be regular expressions.
        expressions = [
            pl.nth(positions[name]).hash().n_unique().alias(str(positions[name]))
            for name in batch
        ]
        values = table.select(expressions).collect(engine="streaming").row(0)
        counts |= dict(zip(batch, values, strict=True))
    return counts


def render_report(report: dict[str, Any]) -> str:
    """Render the report as one HTML page that needs no other file."""
    dropped = "".join(
        f"; {count:,} dropped ({reason})"
        for reason, count in report["dropped"].items()
        if count
    )
    notes = "".join(
        f"<li>{html.escape(note)}"
        for note in [*report["notes"], *describe_unusual_columns(report)]
    )
    violations = "".join(f"<li>{html.escape(text)}" for text in report["violations"])
    if violations:
        violations = f"<h2>Violations of data.expect</h2>\n<ul>{violations}</ul>"
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data report</title><style>{STYLE}</style>
<h1>Data report</h1>
<p>{report["rows_in"]:,} rows read, {report["rows_out"]:,} prepared{dropped}.</p>
{violations}
<h2>Worth a look</h2>
<ul>{notes or "<li>Nothing."}</ul>
{render_classes(report)}
<h2>Columns</h2>
{render_columns(report)}
<h2>First rows</h2>
{render_table(report["columns"], map(_escape_all, report["sample"]["first_rows"]))}
<h2>Files</h2>
{render_table(["file", "rows"], _list_shares(report["files"], report["rows_in"]))}
</html>
"""


def describe_unusual_columns(report: dict[str, Any]) -> list[str]:
    """Describe columns with a single value, and categories that differ only in case.

    These sentences are only in the report. Notes, which are also on the screen, are about
    probable mistakes.
    """
    sentences = []
    constant = [name for name in report["columns"] if _is_constant(report, name)]
    if constant:
        names = ", ".join(f"'{name}'" for name in constant)
        sentences.append(
            f"Only one value occurs in {names}. Nothing can be learned from it: list the"
            " column under data.ignore if this will not change."
        )
    for name, column in report["sample"]["columns"].items():
        texts = column.get("same_but_for_case")
        if texts:
            spellings = ", ".join(f"'{text}'" for text in texts)
            sentences.append(
                f"Column '{name}' has categories that differ only in upper and lower case,"
                f" such as {spellings}. A model treats them as different categories: if"
                " they are the same, make them equal in features() in prep.py."
            )
    return sentences


def _is_constant(report: dict[str, Any], name: str) -> bool:
    """Return whether all rows of a column that have a value have the same one."""
    column = report["columns"][name]
    if column["missing"] == report["rows_out"]:
        return False
    if "smallest" in column:
        return bool(column["smallest"] == column["largest"])
    return bool(column["distinct"] == 1)


def render_classes(report: dict[str, Any]) -> str:
    """Render the number of rows of each class of the target, if it has classes."""
    if not report["classes"]:
        return ""
    heads = ["class", "rows"]
    table = render_table(heads, _list_shares(report["classes"], report["rows_out"]))
    more = ""
    if sum(report["classes"].values()) < report["rows_out"]:
        more = f"<p>Only the {SHOWN_CLASSES} most frequent classes are listed.</p>"
    return f"<h2>Classes of the target</h2>\n{table}{more}"


def _list_shares(counts: dict[str, int], total: int) -> list[list[str]]:
    """Return names, and numbers of rows with their share of all rows, in HTML."""
    return [
        [_escape(name), f"{count:,} ({format_share(count, total)})"]
        for name, count in counts.items()
    ]


def render_columns(report: dict[str, Any]) -> str:
    """Render a table with the role, the statistics and the distribution of each column."""
    sample = report["sample"]
    lines = []
    for name, column in report["columns"].items():
        missing = format_share(column["missing"], report["rows_out"])
        line = [
            _escape(name),
            report["roles"][name],
            _escape(column["type"]),
            missing,
            _format_distinct(column, report["rows_out"]),
            _keep_on_a_line(column.get("smallest", "")),
            _keep_on_a_line(column.get("largest", "")),
            render_distribution(sample["columns"][name]),
        ]
        lines.append(line)
    caption = ""
    if sample["rows"] < report["rows_out"]:
        caption = f"<p>Distributions are those of {sample['rows']:,} rows.</p>\n"
    return caption + render_table(
        ["column", "role", *STATISTICS, "distribution"], lines
    )


def _format_distinct(column: dict[str, Any], rows: int) -> str:
    """Return a number of distinct values; an estimate begins with "about"."""
    distinct = column.get("distinct")
    if not distinct:
        return ""
    is_estimate = column["type"] == "text" and rows > MOST_COUNTED_ROWS
    if is_estimate:
        return f"about {distinct:,}"
    return f"{distinct:,}"


def format_share(count: int, total: int) -> str:
    """Return a share in percent, which is 0 % and 100 % only if it is so exactly."""
    if count in (0, total):
        return "100 %" if count and total else "0 %"
    percent = 100 * count / total
    if percent < 0.1:
        return "< 0.1 %"
    if percent > 99.9:
        return "> 99.9 %"
    return f"{percent:.1f} %"


def render_distribution(column: dict[str, Any]) -> str:
    """Render a histogram as a picture, or the most frequent values as text."""
    if "histogram" not in column:
        shares = [
            f"{_escape(text)} {100 * share:.1f} %" for text, share in column["frequent"]
        ]
        return "<br>".join(shares)
    counts = column["histogram"]
    if not counts:
        return ""
    width = PICTURE_WIDTH / len(counts)
    largest = max(counts)
    steps = [f"M0 {PICTURE_HEIGHT}"]
    for position, count in enumerate(counts, start=1):
        height = PICTURE_HEIGHT * (1 - count / largest)
        # Every value that occurs is visible, however rare it is.
        if count:
            height = min(height, PICTURE_HEIGHT - 1)
        steps.append(f"V{height:.1f}H{position * width:.0f}")
    return (
        f'<svg viewBox="0 0 {PICTURE_WIDTH} {PICTURE_HEIGHT}" width="{PICTURE_WIDTH}"'
        ' role="img" aria-label="histogram">'
        f'<path d="{"".join(steps)}V{PICTURE_HEIGHT}Z"/></svg>'
    )


def _escape(value: object) -> str:
    """Return a value of the data in HTML, in its own direction of writing."""
    return f"<bdi>{html.escape(str(value))}</bdi>" if str(value) else ""


def _keep_on_a_line(value: object) -> str:
    """Return a number or a date in HTML, which is not broken at a hyphen."""
    return f'<span class="whole">{html.escape(str(value))}</span>'


def _escape_all(values: Iterable[object]) -> list[str]:
    """Return values of the data in HTML."""
    return [_escape(value) for value in values]


def render_table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Render a table whose first column names the rows; its cells are HTML."""
    head = "".join(f'<th scope="col">{_escape(text)}</th>' for text in heads)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
