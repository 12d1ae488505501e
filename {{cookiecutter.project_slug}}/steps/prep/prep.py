"""Prepare raw CSV and Parquet files for training or for scoring.

Reads a file or a folder (nested, CSV and Parquet mixed) and writes clean Parquet parts
of one schema. With a target, rows that lack it are dropped; without one every row is
kept, for scoring. Nothing is learned from the data here and nothing is held in memory,
so training and scoring are prepared alike, whatever their size.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from raw import (
    INTEGER,
    NAMES,
    NUMBER,
    TEXT,
    TIMESTAMP,
    USUAL,
    DataError,
    Format,
    Roles,
    exactly,
    name_of,
    open_all,
    unify,
    unite,
)

ROW = "row"  # numbers the rows to score, from 0, where no key column names them
SHOWN = 20  # notes on the screen; all are in the report
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; }
body { padding: 0 1rem; color: #222; }
table { border-collapse: collapse; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }
"""


def features(table: pl.LazyFrame) -> pl.LazyFrame:
    """Your own features: the typed table with further columns, of the same rows.

    For training and for scoring alike, where the target is missing. For example:
    `table.with_columns(area=pl.col("length") * pl.col("width"))`
    """
    return table


def prepare(
    raw: Path,
    prepared: Path,
    target: str | None = None,
    keys: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rows_per_part: int = 100_000,
    form: Format = USUAL,
) -> dict[str, Any]:
    """Write `raw` as Parquet parts of at most `rows_per_part` rows; returns a report.

    With a `target`, rows that lack it are left out. Without one and without `keys`, a
    first column `row` numbers the rows. DataError if the data cannot be prepared.
    """
    roles = Roles(target, keys, ignore)
    with TemporaryDirectory() as scratch:
        sources = open_all(raw, Path(scratch), form, roles)
        types = unify(sources, roles)
        files = {source.name: source.rows for source in sources}
        rows_in = sum(files.values())
        if not rows_in:
            raise DataError(f"{', '.join(files)}: there is no row of data.")
        read = unite(sources, types)
        rows_with_target = rows_in
        if target:
            rows_with_target = sum(source.columns[target].count for source in sources)
            read = read.filter(exactly(target).is_not_null())
            if not rows_with_target:
                raise DataError(f"The target '{target}' has no value in any row.")
        infinite = 0
        if target and types[target] == NUMBER:
            is_infinite = exactly(target).is_infinite()
            infinite = read.select(is_infinite.sum()).collect(engine="streaming").item()
            read = read.filter(~is_infinite)
        table = typed_features(read, [*keys, *([target] if target else [])])
        if not keys and ROW in table.collect_schema():
            raise DataError(
                f"The column '{ROW}' has the name of the row numbers in the predictions:"
                " list it under data.keys or data.ignore in settings.yml, or rename it."
            )
        if not target and not keys:
            table = table.with_row_index(ROW).cast({ROW: pl.Int64})
        parts = pl.PartitionBy(
            prepared,
            file_path_provider=lambda p: f"part-{p.index_in_partition:05}.parquet",
            max_rows_per_file=rows_per_part,
        )
        table.sink_parquet(parts, mkdir=True, engine="streaming")
    columns, rows_out = describe(prepared)
    if rows_out != rows_with_target - infinite:
        raise DataError(
            f"features() in prep.py made {rows_out} rows of"
            f" {rows_with_target - infinite}: it may add columns, but must keep each row."
        )
    dropped = {"no value in the target": rows_in - rows_with_target}
    if infinite:
        dropped["an infinite target"] = infinite
    notes = [
        f"{count} of {rows_in} rows are left out: {why} '{target}'."
        for why, count in dropped.items()
        if count
    ]
    notes += dict.fromkeys(note for source in sources for note in source.notes)
    for name, column in columns.items():
        filled = rows_out - column["missing"]
        if name == target or name in keys or any(f"'{name}'" in note for note in notes):
            continue
        if not filled:
            notes.append(f"column '{name}' holds no value.")
        elif filled >= 50 and column.get("distinct", 0) >= 0.9 * filled:
            notes.append(
                f"column '{name}' is text with a value of its own in nearly every row,"
                " of which little can be learned: list it under data.ignore."
            )
    return {
        "files": files,
        "rows_in": rows_in,
        "rows_out": rows_out,
        "dropped": dropped,
        "notes": notes,
        "columns": columns,
    }


def typed_features(table: pl.LazyFrame, needed: Sequence[str]) -> pl.LazyFrame:
    """The user's features as the types of prepared tables; DataError if they cannot."""
    made = features(table)
    schema = made.collect_schema()
    for name in needed:
        if name not in schema:
            raise DataError(
                f"features() in prep.py leaves out the column '{name}', which is"
                " the target or a key by settings.yml."
            )
    casts: dict[int, pl.DataType] = {}
    for i, (name, dtype) in enumerate(schema.items()):
        if name in needed or dtype in NAMES:
            continue
        if dtype.is_integer():
            casts[i] = INTEGER
        elif dtype.is_numeric():
            casts[i] = NUMBER
        elif isinstance(dtype, pl.Datetime) and not dtype.time_zone:
            casts[i] = TIMESTAMP
        elif dtype in (pl.Categorical, pl.Enum):
            casts[i] = TEXT
        else:
            raise DataError(
                f"features() in prep.py makes the column '{name}' of type {dtype}, which"
                " is neither a number nor a date nor text: convert it."
            )
    if not casts:
        return made
    columns = enumerate(schema)
    return made.select(
        pl.nth(i).cast(casts[i]) if i in casts else pl.nth(i) for i, _ in columns
    )


def describe(prepared: Path) -> tuple[dict[str, dict[str, Any]], int]:
    """The columns of the prepared parts, for the report, and their number of rows."""
    table = pl.scan_parquet(sorted(prepared.iterdir()), glob=False)
    schema = table.collect_schema()
    figures = [pl.len().alias("rows")]
    for i, dtype in enumerate(schema.dtypes()):
        figures.append(pl.nth(i).null_count().alias(f"missing {i}"))
        if dtype == pl.String:
            figures.append(pl.nth(i).approx_n_unique().alias(f"distinct {i}"))
        elif dtype.is_numeric() or dtype.is_temporal():
            figures.append(pl.nth(i).min().cast(pl.String).alias(f"smallest {i}"))
            figures.append(pl.nth(i).max().cast(pl.String).alias(f"largest {i}"))
    found = table.select(figures).collect(engine="streaming").row(0, named=True)
    columns = {}
    for i, (name, dtype) in enumerate(schema.items()):
        columns[name] = {"type": name_of(dtype)} | {
            figure: found[f"{figure} {i}"]
            for figure in ("missing", "distinct", "smallest", "largest")
            if f"{figure} {i}" in found
        }
    return columns, found["rows"]


def report_html(report: dict[str, Any]) -> str:
    """The report as one HTML page that needs no other file."""

    def rows(cells: list[list[Any]], tag: str = "td") -> str:
        return "".join(
            "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row)
            for row in cells
        )

    figures = ["type", "missing", "distinct", "smallest", "largest"]
    columns = [
        [name, *(column.get(figure, "") for figure in figures)]
        for name, column in report["columns"].items()
    ]
    notes = "".join(f"<li>{html.escape(note)}" for note in report["notes"])
    dropped = ", ".join(f"{n} dropped ({why})" for why, n in report["dropped"].items())
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data report</title>
<style>{STYLE}</style>
<h1>Data report</h1>
<p>{report["rows_in"]} rows read, {report["rows_out"]} prepared; {dropped}.</p>
<h2>Worth a look</h2>
<ul>{notes or "<li>Nothing."}</ul>
<h2>Columns</h2>
<table>{rows([["column", *figures]], "th")}{rows(columns)}</table>
<h2>Files</h2>
<table>{rows([["file", "rows"]], "th")}{rows(list(map(list, report["files"].items())))}
</table>
</html>
"""


def main() -> None:
    """Prepare the data as the command line says, and write a report on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--target")
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--ignore", nargs="*", default=[])
    parser.add_argument("--rows-per-part", type=int, default=100_000)
    parser.add_argument("--encoding", default="")
    parser.add_argument("--decimal", default=".")
    parser.add_argument("--thousands", default="")
    parser.add_argument("--units", nargs="*", default=[])
    parser.add_argument("--date-format", default="")
    parser.add_argument("--missing", nargs="*", default=[])
    args = parser.parse_args()
    form = Format(
        args.encoding,
        args.decimal,
        args.thousands,
        tuple(args.units),
        args.date_format,
        tuple(args.missing),
    )
    try:
        report = prepare(
            args.raw,
            args.prepared,
            args.target,
            args.keys,
            args.ignore,
            args.rows_per_part,
            form,
        )
    except DataError as error:
        sys.exit(f"prep: {error}")
    args.report.mkdir(parents=True, exist_ok=True)
    written = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False),
        "report.html": report_html(report),
    }
    for name, text in written.items():
        unfinished = args.report / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, args.report / name)
    notes = report["notes"]
    for note in notes[:SHOWN]:
        print(f"note: {note}")
    if len(notes) > SHOWN:
        print(f"note: {len(notes) - SHOWN} more are in the data report.")
    print(f"{report['rows_in']} rows read, {report['rows_out']} prepared")


if __name__ == "__main__":
    main()
