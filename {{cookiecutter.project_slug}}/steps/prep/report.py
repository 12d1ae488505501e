"""The data report: what prep found in each column, as a page that a person opens."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from column_notes import note_columns
from sources import FILE, ColumnRoles, DataError, type_name
from write_parts import WrittenParts

# The statistics of a column that the report shows, in the order of its table.
STATISTICS = ("type", "missing", "distinct", "smallest", "largest")
STYLE = """
body { font: 1rem/1.5 system-ui; max-width: 50rem; margin: auto; padding: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
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
            f"features() in prep.py made {rows_written} rows of {rows_out}: it may add"
            " columns, but must keep each row."
        )
    notes = [
        f"{count} of {rows_in} rows are left out: {reason} '{roles.target}'."
        for reason, count in dropped.items()
        if count
    ]
    notes += dict.fromkeys(note for source in written.sources for note in source.notes)
    notes += note_columns(columns, prepared, rows_out, notes, written.sources, roles)
    return {
        "files": files,
        "rows_in": rows_in,
        "rows_out": rows_out,
        "dropped": dropped,
        "notes": notes,
        "columns": columns,
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


@dataclass(frozen=True)
class Statistic:
    """A statistic of a column, such as "missing", and how polars computes it."""

    column: str
    kind: str
    expression: pl.Expr


def describe_columns(prepared: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the statistics of each prepared column, and the number of prepared rows.

    All columns have a type and a number of missing values. Columns of text also have a
    number of distinct values; numbers and dates have a smallest and a largest value.
    """
    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    columns: dict[str, dict[str, Any]] = {}
    statistics: list[Statistic] = []
    for position, (name, dtype) in enumerate(table.collect_schema().items()):
        columns[name] = {"type": type_name(dtype)}
        # The column is selected by its position, because polars would treat a name such
        # as `^a$` as a regular expression.
        column = pl.nth(position)
        statistics.append(Statistic(name, "missing", column.null_count()))
        if dtype == pl.String:
            statistics.append(Statistic(name, "distinct", column.approx_n_unique()))
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
    return columns, rows


def render_report(report: dict[str, Any]) -> str:
    """Render the report as one HTML page that needs no other file."""
    dropped = ", ".join(
        f"{count} dropped ({reason})" for reason, count in report["dropped"].items()
    )
    notes = "".join(f"<li>{html.escape(note)}" for note in report["notes"])
    columns = [
        [name, *(column.get(kind, "") for kind in STATISTICS)]
        for name, column in report["columns"].items()
    ]
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data report</title><style>{STYLE}</style>
<h1>Data report</h1>
<p>{report["rows_in"]} rows read, {report["rows_out"]} prepared; {dropped}.</p>
<h2>Worth a look</h2>
<ul>{notes or "<li>Nothing."}</ul>
<h2>Columns</h2>
{render_table(["column", *STATISTICS], columns)}
<h2>Files</h2>
{render_table(["file", "rows"], report["files"].items())}
</html>
"""


def render_table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Render rows of texts and numbers as an HTML table with the column heads `heads`."""
    lines = ["".join(f"<td>{html.escape(str(cell))}" for cell in row) for row in rows]
    return f"<table><tr><th>{'<th>'.join(heads)}<tr>{'<tr>'.join(lines)}</table>"
