"""Prepare raw CSV and Parquet files for training or for scoring.

Reads a file or a folder (nested, CSV and Parquet mixed) and writes clean Parquet parts
of one schema. With a target, rows that lack it are dropped; without one every row is
kept, for scoring. Nothing is learned from the data here and nothing is held in memory,
so training and scoring are prepared alike, whatever their size.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import polars.selectors as cs
from raw import (
    FILE,
    NAMES,
    USUAL,
    DataError,
    Format,
    Roles,
    Source,
    held,
    note_words,
    open_all,
    tally,
    unify,
    unite,
)
from report import describe, report_html

ROW = "row"  # numbers the rows to score, from 0, where no key column names them
CHUNK = 20_000  # rows at a time, of which many are under way: less memory than usual
SHOWN = 20  # notes on the screen; all are in the report


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
    with TemporaryDirectory() as folder:
        scratch = Path(folder)
        sources: list[Source] = []
        trusted: set[str] = set()
        with suppress(pl.exceptions.PolarsError):
            # In one pass, as most files are in all rows as in the first.
            sources = open_all(raw, scratch, form, roles)
            with suppress(DataError):  # of types that may not be those of all rows
                types, seen = write(sources, prepared, rows_per_part, roles)
                trusted = held(sources, seen)
        if not sources or len(trusted) < len(sources):
            for part in prepared.glob("part-*.parquet"):
                part.unlink()
            sources = open_all(raw, scratch, form, roles, trusted)
            types, seen = write(sources, prepared, rows_per_part, roles)
            held(sources, seen)
        note_words(sources, types, roles)
    rows_of: dict[int, int] = dict(seen.select(FILE, "rows").iter_rows())
    files = {source.name: rows_of.get(i, 0) for i, source in enumerate(sources)}
    rows_in = sum(files.values())
    if not rows_in:
        raise DataError(f"{', '.join(files)}: there is no row of data.")
    dropped = {"no value in the target": 0}
    if target:
        filled, infinite = map(int, seen.select("filled", "infinite").sum().row(0))
        if filled == infinite:
            finite = "finite " if infinite else ""
            raise DataError(f"The target '{target}' has no {finite}value in any row.")
        dropped["no value in the target"] = rows_in - filled
        dropped |= {"an infinite target": infinite} if infinite else {}
    columns, rows_out = describe(prepared)
    rows = rows_in - sum(dropped.values())
    if rows_out != rows:
        raise DataError(
            f"features() in prep.py made {rows_out} rows of {rows}: it may add columns,"
            " but must keep each row."
        )
    notes = [
        f"{count} of {rows_in} rows are left out: {why} '{target}'."
        for why, count in dropped.items()
        if count
    ]
    notes += dict.fromkeys(note for source in sources for note in source.notes)
    for name, column in columns.items():
        values = rows - column["missing"]
        if name == target or name in keys or any(f"'{name}'" in note for note in notes):
            continue
        if not values:
            notes.append(f"column '{name}' holds no value.")
        elif values >= 50 and column.get("distinct", 0) >= 0.9 * values:
            notes.append(
                f"column '{name}' is text with a value of its own in nearly every row,"
                " of which little can be learned: list it under data.ignore."
            )
    report = {"files": files, "rows_in": rows_in, "rows_out": rows, "dropped": dropped}
    return {**report, "notes": notes, "columns": columns}


def write(
    sources: list[Source], prepared: Path, rows_per_part: int, roles: Roles
) -> tuple[dict[str, pl.DataType], pl.DataFrame]:
    """Write the prepared parts; returns the raw types, and what was seen of each file."""
    target, keys = roles.target, roles.keys
    types = unify(sources, roles)
    rows = unite(sources, types)
    table, figures = rows.drop(cs.starts_with("\0")), []
    if target:
        values = cs.by_name(target)
        figures.append(values.count().alias("filled"))
        table = table.drop_nulls(values)
        infinite = (
            values.is_infinite() if types[target] == pl.Float64 else pl.lit(False)
        )
        figures.append(infinite.sum().alias("infinite"))
        table = table.remove(infinite)
    table = typed_features(table, [*keys, target] if target else keys)
    if not keys and ROW in table.collect_schema():
        raise DataError(
            f"The column '{ROW}' has the name of the row numbers in the predictions:"
            " list it under data.keys or data.ignore in settings.yml, or rename it."
        )
    if not keys and not target:
        table = table.with_row_index(ROW).cast({ROW: pl.Int64})
    parts = pl.PartitionBy(
        prepared,
        file_path_provider=lambda p: f"part-{p.index_in_partition:05}.parquet",
        max_rows_per_file=rows_per_part,
    )
    written = table.sink_parquet(parts, compression_level=1, mkdir=True, lazy=True)
    with pl.Config(streaming_chunk_size=CHUNK):
        _, seen = pl.collect_all(
            [written, tally(rows, len(sources) > 1, *figures)],
            optimizations=pl.QueryOptFlags(comm_subplan_elim=False),  # see `unite`
            engine="streaming",
        )
    return types, seen


def typed_features(table: pl.LazyFrame, needed: Sequence[str]) -> pl.LazyFrame:
    """The user's features as the types of prepared tables; DataError if they cannot."""
    made = features(table)
    others = ~cs.by_name(*needed, require_all=False)
    typed = made.with_columns(
        (others & cs.integer()).cast(pl.Int64),
        (others & cs.numeric() - cs.integer()).cast(pl.Float64),
        (others & cs.datetime(time_zone=None)).cast(pl.Datetime("us")),
        (others & (cs.categorical() | cs.enum())).cast(pl.String),
    )
    try:
        schema = typed.collect_schema()
    except pl.exceptions.PolarsError as error:  # such as of a column that is not there
        problem = str(error).partition("\n")[0]
        raise DataError(f"features() in prep.py fails: {problem}.") from None
    for name in needed:
        if name not in schema:
            raise DataError(
                f"features() in prep.py leaves out the column '{name}', which is"
                " the target or a key by settings.yml."
            )
    for name, dtype in schema.items():
        if name not in needed and dtype not in NAMES:
            raise DataError(
                f"features() in prep.py makes the column '{name}' of type {dtype}, which"
                " is neither a number nor a date nor text: convert it."
            )
    return typed


def main() -> None:
    """Prepare the data as the command line says, and write a report on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--raw", "--prepared", "--report"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--target")
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--ignore", nargs="*", default=[])
    parser.add_argument("--rows-per-part", type=int, default=100_000)
    for name, usual in vars(USUAL).items():
        nargs = "*" if isinstance(usual, tuple) else None
        parser.add_argument(f"--{name.replace('_', '-')}", nargs=nargs, default=usual)
    args = vars(parser.parse_args())
    folder = args.pop("report")
    form = {name: args.pop(name) for name in vars(USUAL)}
    form |= {name: tuple(form[name]) for name in ("units", "missing")}
    try:
        report = prepare(**args, form=Format(**form))
    except DataError as error:
        sys.exit(f"prep: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    data, page = json.dumps(report, indent=2, ensure_ascii=False), report_html(report)
    for name, text in {"report.json": data, "report.html": page}.items():
        unfinished = folder / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)
    notes = report["notes"]
    for note in notes[:SHOWN]:
        print(f"note: {note}")
    if len(notes) > SHOWN:
        print(f"note: {len(notes) - SHOWN} more are in the data report.")
    print(f"{report['rows_in']} rows read, {report['rows_out']} prepared")


if __name__ == "__main__":
    main()
