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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from advice import note_missing_words
from report import build_report, render_report
from sources import ColumnRoles, DataError
from text_values import USUAL_FORMAT, TextFormat
from write_parts import PartWriter, write_parts

SHOWN_NOTES = 20  # on the screen; all are in the report


def features(table: pl.LazyFrame) -> pl.LazyFrame:
    """Return the typed table with your own features as further columns, row by row.

    It is called for training and for scoring alike, where the target is missing. For
    example: `table.with_columns(area=pl.col("length") * pl.col("width"))`
    """
    return table


def prepare(
    raw: Path,
    prepared: Path,
    target: str | None = None,
    keys: Sequence[str] = (),
    ignore: Sequence[str] = (),
    rows_per_part: int = 100_000,
    text_format: TextFormat = USUAL_FORMAT,
) -> dict[str, Any]:
    """Write `raw` as Parquet parts into the folder `prepared`, and return a report.

    With a `target`, rows that lack it are left out. Without one and without `keys`, a
    first column `row` numbers the rows. Raises DataError if the data cannot be prepared.
    """
    roles = ColumnRoles(target, keys, ignore)
    writer = PartWriter(prepared, rows_per_part, roles, features)
    with TemporaryDirectory() as scratch:
        written = write_parts(raw, Path(scratch), text_format, writer)
        note_missing_words(written.sources, written.types, roles)
    return build_report(written, prepared, roles)


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write the report as `report.json` and as `report.html` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.json": json.dumps(report, indent=2, ensure_ascii=False),
        "report.html": render_report(report),
    }
    for name, text in texts.items():
        # Renamed when it is complete, so that nobody reads half a report.
        unfinished = folder / f".{name}"
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)


def print_summary(report: dict[str, Any]) -> None:
    """Print the first notes, and how many rows were read and prepared."""
    notes = report["notes"]
    for note in notes[:SHOWN_NOTES]:
        print(f"note: {note}")
    if len(notes) > SHOWN_NOTES:
        print(f"note: {len(notes) - SHOWN_NOTES} more are in the data report.")
    print(f"{report['rows_in']} rows read, {report['rows_out']} prepared")


def main() -> None:
    """Prepare the data that the command line names, and write a report on it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--target")
    parser.add_argument("--keys", nargs="*", default=[])
    parser.add_argument("--ignore", nargs="*", default=[])
    parser.add_argument("--rows-per-part", type=int, default=100_000)
    parser.add_argument(
        "--text-format", type=TextFormat.from_json, default=USUAL_FORMAT
    )
    args = parser.parse_args()
    try:
        report = prepare(
            raw=args.raw,
            prepared=args.prepared,
            target=args.target,
            keys=args.keys,
            ignore=args.ignore,
            rows_per_part=args.rows_per_part,
            text_format=args.text_format,
        )
        write_report(report, args.report)
    except DataError as error:
        sys.exit(f"prep: {error}")
    except OSError as error:
        sys.exit(f"prep: a file cannot be read or written: {error}")
    print_summary(report)


if __name__ == "__main__":
    main()
