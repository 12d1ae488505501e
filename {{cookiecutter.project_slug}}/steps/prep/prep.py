"""Prepare raw CSV and Parquet files for training or for scoring.

Reads a file or a folder (nested, CSV and Parquet mixed) and writes clean Parquet parts
of one schema. With a target, rows that lack it are dropped; without one every row is
kept, for scoring. Nothing is learned from the data here and nothing is held in memory,
so training and scoring are prepared alike, whatever their size.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import polars as pl

CSV_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET_ENDINGS = (".parquet", ".pq")
SPELLINGS = ["", "?", "-", "NA", "N/A", "#N/A", "<NA>", "NaN", "-NaN", "NULL", "None"]
MISSING = sorted({form for s in SPELLINGS for form in (s, s.lower(), s.upper())})
ROW = "row"  # numbers the rows to score, from 0, where no key column names them
FIRST_ROWS = 10_000  # of a CSV file: they rule out most types of a column

TYPES: dict[str, pl.DataType] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "boolean": pl.Boolean(),
    "date": pl.Date(),
    "timestamp": pl.Datetime("us"),
    "text": pl.String(),
}


class DataError(Exception):
    """The data cannot be prepared; the message says which file and column, and why."""


@dataclass
class Column:
    """A column of one file: its type (None where it holds no value) and its values."""

    type: str | None
    values: pl.Expr
    count: int


@dataclass
class Source:
    """One raw file: its name in messages, its rows, and its columns by name."""

    name: str
    frame: pl.LazyFrame
    rows: int
    columns: dict[str, Column]


def find_files(raw: Path) -> list[Path]:
    """The CSV and Parquet files below a folder by the order of their paths, or a file."""
    endings = CSV_ENDINGS + PARQUET_ENDINGS
    if not raw.exists():
        raise DataError(f"There is no data at {raw}.")
    files = [
        path
        for path in (sorted(raw.rglob("*")) if raw.is_dir() else [raw])
        if path.name.lower().endswith(endings)
        and path.name[0] not in "._"
        and path.is_file()
    ]
    if not files:
        raise DataError(f"{raw} holds no file that ends in {', '.join(endings)}.")
    return files


def open_source(path: Path, name: str) -> Source:
    """Look through a whole file for its columns, their types and its number of rows."""
    if path.stat().st_size == 0:
        raise DataError(f"{name} is empty.")
    if path.name.lower().endswith(PARQUET_ENDINGS):
        return _open_parquet(path, name)
    return _open_csv(path, name)


def _open_parquet(path: Path, name: str) -> Source:
    try:
        frame = pl.scan_parquet(path, glob=False)
        typed = {
            column: _typed(pl.col(column), dtype)
            for column, dtype in frame.collect_schema().items()
            # pandas keeps the index of a table under such a name; it is not data.
            if not column.startswith("__index_level_")
        }
        rows, *counts = _count(frame, [values for _, values in typed.values()])
    except pl.exceptions.PolarsError:
        raise DataError(
            f"{name} is not a whole Parquet file, though its name says so."
        ) from None
    columns = {
        column: Column(type if count else None, values, count)
        for (column, (type, values)), count in zip(typed.items(), counts)
    }
    return Source(name, frame, rows, columns)


def _typed(column: pl.Expr, dtype: pl.DataType) -> tuple[str, pl.Expr]:
    """A Parquet column's type (the file's own where it is none of TYPES) and values."""
    if dtype.is_integer():
        return "integer", column
    if dtype.is_float() or dtype.is_decimal():
        return "number", column.cast(pl.Float64).fill_nan(None)
    if dtype == pl.Boolean:
        return "boolean", column
    if dtype == pl.Date:
        return "date", column
    if isinstance(dtype, pl.Datetime):
        utc = column.dt.convert_time_zone("UTC") if dtype.time_zone else column
        return "timestamp", utc.dt.replace_time_zone(None)
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text", _clean(column.cast(pl.String))
    return str(dtype), column


def _open_csv(path: Path, name: str) -> Source:
    delimiter, header = _csv_header(path, name)
    blank_lines = 0
    if _has_odd_lines(path, delimiter, len(header)):
        blank_lines = _check_lines(path, name, delimiter, len(header))
    frame = pl.scan_csv(
        path,
        glob=False,
        separator=delimiter,
        new_columns=header,
        infer_schema=False,
    )
    if blank_lines:
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    texts = {column: _clean(pl.col(column)) for column in header}
    likely = {column: list(TYPES) for column in header}
    try:
        # The first rows rule most types out, so that few are tried on the whole file.
        for rows in (frame.head(FIRST_ROWS), frame):
            tests = {(c, t): _parse(texts[c], t) for c in header for t in likely[c]}
            total, *counts = _count(rows, list(tests.values()))
            found = dict(zip(tests, counts))
            for column, types in likely.items():
                values = found[column, "text"]
                likely[column] = [t for t in types if found[column, t] == values]
    except pl.exceptions.PolarsError as error:
        _check_lines(path, name, delimiter, len(header))
        raise DataError(f"{name} cannot be read: {error}") from None
    columns = {}
    for column, (narrowest, *_) in likely.items():
        count = found[column, "text"]
        type = narrowest if count else None
        columns[column] = Column(type, _parse(texts[column], narrowest), count)
    return Source(name, frame, total, columns)


def _count(frame: pl.LazyFrame, columns: list[pl.Expr]) -> list[int]:
    """The rows of a table, and the values of each column."""
    counts = [column.count().alias(str(i)) for i, column in enumerate(columns)]
    row = frame.select(pl.len(), *counts).collect(engine="streaming").row(0)
    return list(row)


def _clean(text: pl.Expr) -> pl.Expr:
    """Text without blanks around it, missing where it spells a missing value."""
    stripped = text.str.strip_chars()
    return pl.when(~stripped.is_in(MISSING)).then(stripped)


def _parse(text: pl.Expr, type: str) -> pl.Expr:
    """Text as a type; missing where it is not of that type.

    Digits behind a zero (007), or too many of them for a number, are a code, which
    only text keeps as it is.
    """
    if type == "integer":
        is_integer = text.str.contains(r"^[+-]?(0|[1-9][0-9]{0,17})$")
        return pl.when(is_integer).then(text.cast(pl.Int64, strict=False))
    if type == "number":
        is_code = text.str.contains(r"^[+-]?(0[0-9]|[0-9]{19})")
        return pl.when(~is_code).then(text.cast(pl.Float64, strict=False))
    if type == "boolean":
        word = text.str.to_lowercase()
        return pl.when(word.is_in(["true", "false"])).then(word == "true")
    if type == "date":
        return text.str.to_date("%Y-%m-%d", strict=False)
    if type == "timestamp":
        plain = text.str.replace("T", " ", literal=True).str.strip_suffix("Z")
        forms = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"]
        return pl.coalesce(
            plain.str.to_datetime(form, time_unit="us", strict=False) for form in forms
        )
    return text


def _open_text(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _csv_header(path: Path, name: str) -> tuple[str, list[str]]:
    """The delimiter of a CSV file, which makes most columns of its header, and these."""
    try:
        with _open_text(path) as file:
            start = file.read(65536)
            if "\0" in start or start.startswith("PAR1"):
                raise DataError(f"{name} is not a CSV file, though its name says so.")
            headers: dict[str, list[str]] = {}
            for delimiter in ",;\t|":
                file.seek(0)
                headers[delimiter] = next(csv.reader(file, delimiter=delimiter), [])
    except (UnicodeDecodeError, gzip.BadGzipFile, csv.Error):
        raise DataError(
            f"{name} is not a CSV file in UTF-8: save it as one, or mend its name."
        ) from None
    delimiter, header = max(headers.items(), key=lambda found: len(found[1]))
    header = [column.strip() for column in header]
    for i, column in enumerate(header):
        if not column:
            raise DataError(f"{name}: column {i + 1} has no name in the first line.")
        if column in header[:i]:
            raise DataError(
                f"{name}: the first line names the column '{column}' twice."
            )
    return delimiter, header


def _has_odd_lines(path: Path, delimiter: str, columns: int) -> bool:
    """Whether a CSV file has lines that are blank, quoted or of another length."""
    lines = pl.scan_csv(
        path,
        glob=False,
        separator="\x1f",
        quote_char=None,
        new_columns=["line"],
        infer_schema=False,
    )
    delimiters = pl.col("line").str.count_matches(delimiter, literal=True)
    odd = pl.col("line").is_null() | (delimiters != columns - 1)
    try:
        found: bool = lines.select(odd.any()).collect(engine="streaming").item()
        return found
    except pl.exceptions.PolarsError:
        return True


def _check_lines(path: Path, name: str, delimiter: str, columns: int) -> int:
    """The blank lines of a CSV file; DataError if another line has not its columns.

    Line by line, as polars fills a line that is cut short with missing values.
    """
    blank = 0
    with _open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for values in reader:
                blank += not values
                if values and len(values) != columns:
                    raise DataError(
                        f"{name}, line {reader.line_num}: {len(values)} values where"
                        f" the first line names {columns} columns."
                    )
        except UnicodeDecodeError:
            raise DataError(
                f"{name}, below line {reader.line_num}: not UTF-8: save it as UTF-8."
            ) from None
        except csv.Error as error:
            raise DataError(f"{name}, line {reader.line_num}: {error}.") from None
    return blank


def unify(
    sources: list[Source],
    target: str | None,
    keys: Sequence[str],
    ignore: Sequence[str],
) -> dict[str, str]:
    """The columns to keep, with the type that holds each of them in every file.

    A file may lack a feature, which then counts as missing, but neither target nor key.
    """
    roles = dict.fromkeys(keys, "key") | ({target: "target"} if target else {})
    for source in sources:
        for name, role in roles.items():
            if name not in source.columns:
                raise DataError(
                    f"{source.name} has no column '{name}', the {role} by settings.yml;"
                    f" it has {', '.join(source.columns)}."
                )
    kept = dict.fromkeys(name for source in sources for name in source.columns)
    return {
        name: _common_type(sources, name, is_key=name in keys)
        for name in kept
        if name not in ignore
    }


def _common_type(sources: list[Source], name: str, is_key: bool) -> str:
    """The type that holds a column in every file.

    Integers give way to numbers; a key of several types is text, as it is only a name.
    """
    files: dict[str, str] = {}  # the first file of each type
    for source in sources:
        if (column := source.columns.get(name)) and column.type:
            files.setdefault(column.type, source.name)
    for type, file in files.items():
        if type not in TYPES:
            raise DataError(
                f"{file}: the column '{name}' is of type {type}, which no feature can"
                " be made of: list it under data.ignore in settings.yml."
            )
    if set(files) == {"integer", "number"}:
        return "number"
    if len(files) > 1 and not is_key:
        places = " and ".join(f"{type} in {file}" for type, file in files.items())
        raise DataError(
            f"The column '{name}' changes its type: {places}. Make it one type, or list"
            " it under data.ignore in settings.yml."
        )
    return next(iter(files)) if len(files) == 1 else "text"


def prepare(
    raw: Path,
    prepared: Path,
    target: str | None = None,
    keys: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rows_per_part: int = 100_000,
) -> dict[str, Any]:
    """Write `raw` as Parquet parts of at most `rows_per_part` rows; returns a report.

    With a `target`, rows that lack it are left out. Without one and without `keys`, a
    first column `row` numbers the rows. DataError if the data cannot be prepared.
    """
    files = find_files(raw)
    names = [p.relative_to(raw).as_posix() if p != raw else p.name for p in files]
    sources = [open_source(path, name) for path, name in zip(files, names)]
    types = unify(sources, target, keys, ignore)
    rows_in = sum(source.rows for source in sources)
    counts = {
        name: sum(s.columns[name].count for s in sources if name in s.columns)
        for name in types
    }
    rows_out = counts[target] if target else rows_in
    if not rows_in:
        raise DataError(f"{', '.join(names)}: there is no row of data.")
    if not rows_out:
        raise DataError(f"The target '{target}' has no value in any row.")
    table = pl.concat([_select(source, types) for source in sources])
    if target:
        table = table.filter(pl.col(target).is_not_null())
    elif not keys:
        if ROW in types:
            raise DataError(
                f"The column '{ROW}' has the name of the row numbers in the predictions:"
                " list it under data.keys or data.ignore in settings.yml."
            )
        table = table.with_row_index(ROW).cast({ROW: pl.Int64})
    parts = pl.PartitionBy(
        prepared,
        file_path_provider=lambda part: f"part-{part.index_in_partition:05}.parquet",
        max_rows_per_file=rows_per_part,
    )
    table.sink_parquet(parts, mkdir=True, engine="streaming")
    return {
        "files": {source.name: source.rows for source in sources},
        "rows_in": rows_in,
        "rows_out": rows_out,
        "dropped": {"no value in the target": rows_in - rows_out},
        "columns": {
            name: {"type": type, "missing": rows_in - counts[name]}
            for name, type in types.items()
        },
    }


def _select(source: Source, types: dict[str, str]) -> pl.LazyFrame:
    """All columns of `types` from one file; missing values where it lacks a column."""
    columns = []
    for name, type in types.items():
        known = name in source.columns
        values = source.columns[name].values if known else pl.lit(None)
        columns.append(values.cast(TYPES[type]).alias(name))
    return source.frame.select(columns)


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
    args = parser.parse_args()
    try:
        report = prepare(
            args.raw,
            args.prepared,
            args.target,
            args.keys,
            args.ignore,
            args.rows_per_part,
        )
    except DataError as error:
        sys.exit(f"prep: {error}")
    text = json.dumps(report, indent=2, ensure_ascii=False)
    args.report.mkdir(parents=True, exist_ok=True)
    (args.report / "report.json").write_text(text, encoding="utf-8")
    print(f"{report['rows_in']} rows read, {report['rows_out']} prepared")


if __name__ == "__main__":
    main()
