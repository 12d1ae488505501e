"""The data report: what prep found in each column, as a page that a person opens."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
from column_notes import note_columns
from sources import FILE, ColumnRoles, DataError, type_name
from write_parts import WrittenParts

# The figures of a column, by the heads of the report's table.
FIGURES = ("type", "missing", "distinct", "smallest", "largest")
STYLE = """
body { font: 1rem/1.5 system-ui; max-width: 50rem; margin: auto; padding: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
"""


def build_report(
    written: WrittenParts, prepared: Path, roles: ColumnRoles
) -> dict[str, Any]:
    """Return the figures of files, rows and columns, and the notes, for `report.json`.

    Raises DataError if there is no row, or no target in any row, or if `features` has
    changed the number of rows.
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
    """Return how many rows are left out, by the reason. Raises DataError if all are."""
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


def describe_columns(prepared: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the figures of each column of the prepared parts, and the number of rows.

    Text has no smallest and largest value, and only text has a number of distinct ones.
    """
    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    columns: dict[str, dict[str, Any]] = {}
    expressions: dict[tuple[str, str], pl.Expr] = {}  # by column and figure
    for position, (name, dtype) in enumerate(table.collect_schema().items()):
        columns[name] = {"type": type_name(dtype)}
        # By its position, because polars takes a name like `^a$` for a pattern.
        column = pl.nth(position)
        expressions[name, "missing"] = column.null_count()
        if dtype == pl.String:
            expressions[name, "distinct"] = column.approx_n_unique()
        elif dtype.is_numeric() or dtype.is_temporal():
            expressions[name, "smallest"] = column.min().cast(pl.String)
            expressions[name, "largest"] = column.max().cast(pl.String)

    # All figures are computed in one pass over the rows.
    figures = table.select(
        pl.len().alias("rows"),
        *(figure.alias(str(i)) for i, figure in enumerate(expressions.values())),
    )
    rows, *values = figures.collect(engine="streaming").row(0)
    for (name, figure), value in zip(expressions, values, strict=True):
        columns[name][figure] = value
    return columns, rows


def render_report(report: dict[str, Any]) -> str:
    """Return the report as one HTML page that needs no other file."""
    dropped = ", ".join(
        f"{count} dropped ({reason})" for reason, count in report["dropped"].items()
    )
    notes = "".join(f"<li>{html.escape(note)}" for note in report["notes"])
    columns = [
        [name, *(column.get(figure, "") for figure in FIGURES)]
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
{render_table(["column", *FIGURES], columns)}
<h2>Files</h2>
{render_table(["file", "rows"], report["files"].items())}
</html>
"""


def render_table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Return rows of texts and numbers as an HTML table below its heads."""
    lines = ["".join(f"<td>{html.escape(str(cell))}" for cell in row) for row in rows]
    return f"<table><tr><th>{'<th>'.join(heads)}<tr>{'<tr>'.join(lines)}</table>"
