"""The data report: what prep found in each column, as a page that a person opens."""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
from raw import name_of

STYLE = """
body { font: 1rem/1.5 system-ui; max-width: 50rem; margin: auto; padding: 1rem; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
"""


def describe(prepared: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The columns of the prepared parts, for the report, and their number of rows."""
    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    ordered = cs.numeric() | cs.temporal()
    figures = table.select(
        cs.all().null_count().name.prefix("missing "),
        cs.string().approx_n_unique().name.prefix("distinct "),
        ordered.min().cast(pl.String).name.prefix("smallest "),
        ordered.max().cast(pl.String).name.prefix("largest "),
        pl.len().alias("rows"),
    )
    found = figures.collect(engine="streaming").row(0, named=True)
    rows = found.pop("rows")
    columns = {name: {"type": name_of(t)} for name, t in table.collect_schema().items()}
    for key, value in found.items():
        figure, name = key.split(" ", 1)
        columns[name][figure] = value
    return columns, rows


def report_html(report: dict[str, Any]) -> str:
    """The report as one HTML page that needs no other file."""
    dropped = ", ".join(f"{n} dropped ({why})" for why, n in report["dropped"].items())
    notes = "".join(f"<li>{html.escape(note)}" for note in report["notes"])
    figures = ("type", "missing", "distinct", "smallest", "largest")
    columns = [
        [name, *(column.get(figure, "") for figure in figures)]
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
{table_html("column", *figures, rows=columns)}
<h2>Files</h2>
{table_html("file", "rows", rows=report["files"].items())}
</html>
"""


def table_html(*head: str, rows: Iterable[Iterable[Any]]) -> str:
    """Rows of any texts and numbers as a table, below its head."""
    lines = ["".join(f"<td>{html.escape(str(cell))}" for cell in row) for row in rows]
    return f"<table><tr><th>{'<th>'.join(head)}<tr>{'<tr>'.join(lines)}</table>"
