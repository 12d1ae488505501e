"""The speed of prep compared with polars and pandas, and its memory.

Each program reads a CSV file of mixed types and writes Parquet: prep, polars with
scan_csv and sink_parquet, and pandas. Then the peak memory of prep is measured, for CSV
files of BENCHMARK_GB gigabytes (0.3 by default) and of ten times as much, and for Parquet
files of 2 and 10 million rows. The folder of temporary files must have room for them.
Last, prep and pandas read CSV files of many columns, and many small CSV files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from .measure import STEPS, Figures, Measured, measure, ratios

ROWS = 3_000_000
CHUNK = 250_000
# The arguments of Python, by program. TABLE and OUT stand for the file and for a folder.
COMMANDS = {
    # -B: bytecode in the template would be copied into generated projects.
    "prep": ["-B", f"{STEPS}/prep/prep.py", "--target", "class", "--raw", "TABLE"]
    + ["--prepared", "OUT/prepared", "--report", "OUT/report"],
    "polars": ["-c", "import polars; polars.scan_csv('TABLE').sink_parquet('OUT/out')"],
    "pandas": ["-c", "import pandas; pandas.read_csv('TABLE').to_parquet('OUT/out')"],
    "pandas, many files": [
        "-c",
        (
            "import pandas, pathlib; files = sorted(pathlib.Path('TABLE').iterdir());"
            " pandas.concat(map(pandas.read_csv, files)).to_parquet('OUT/out')"
        ),
    ],
}
LARGE_FILE = ("prep", "polars", "pandas")  # the programs that read one large file
WIDTHS = (10, 1_000, 5_000)
WIDE_ROWS = 500
FILE_COUNTS = (10, 100, 1_000, 3_000)
SMALL_ROWS = 100


def measure_prep(rounds: int) -> Figures:
    """Return megabytes per second, ratios of speeds, seconds, and megabytes of memory."""
    figures: Figures = {f"{name}, MB/s": [] for name in LARGE_FILE}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        larger = Path(folder) / "larger.csv"
        _write_table(table, ROWS)
        size = table.stat().st_size
        # The first run compiles bytecode and fills the disk's cache.
        for name in LARGE_FILE:
            _run(name, table)
        for _ in range(rounds):
            for name in LARGE_FILE:
                seconds = _run(name, table).seconds
                figures[f"{name}, MB/s"].append(size / 1e6 / seconds)
        for name in ("polars", "pandas"):
            figures[f"prep / {name}, speed"] = ratios(
                figures["prep, MB/s"], figures[f"{name}, MB/s"]
            )
        for times in (1, 10):
            gigabytes = times * float(os.environ.get("BENCHMARK_GB", "0.3"))
            _repeat(table, larger, gigabytes * 1e9)
            peak = _run("prep", larger).megabytes
            figures[f"prep, MB of memory for {gigabytes:g} GB of CSV"] = [peak]
        larger.unlink()
        for times in (2, 10):
            parquet = Path(folder) / "parquet"
            parquet.mkdir()
            part = pl.read_csv(table, n_rows=1_000_000)
            for number in range(times):
                part.write_parquet(
                    parquet / f"{number}.parquet", row_group_size=125_000
                )
            peak = _run("prep", parquet).megabytes
            figures[f"prep, MB of memory for {times} million rows of Parquet"] = [peak]
            shutil.rmtree(parquet)
        figures |= _measure_widths(Path(folder), rounds)
        figures |= _measure_file_counts(Path(folder), rounds)
    return figures


def _measure_widths(folder: Path, rounds: int) -> Figures:
    """Return the seconds and megabytes of prep and pandas for CSV files of many columns."""
    figures: Figures = {}
    table = folder / "wide.csv"
    for width in WIDTHS:
        _write_wide_table(table, width)
        for name in ("prep", "pandas"):
            title = f"{name}, {width:,} columns"
            figures |= _measure_repeatedly(title, name, table, rounds)
    table.unlink()
    return figures


def _measure_file_counts(folder: Path, rounds: int) -> Figures:
    """Return the seconds and megabytes of prep and pandas for many small CSV files."""
    figures: Figures = {}
    for count in FILE_COUNTS:
        small_files = folder / "small"
        small_files.mkdir()
        for number in range(count):
            _write_table(small_files / f"{number:04}.csv", SMALL_ROWS)
        for name in ("prep", "pandas, many files"):
            title = f"{name.partition(',')[0]}, {count:,} files"
            figures |= _measure_repeatedly(title, name, small_files, rounds)
        shutil.rmtree(small_files)
    return figures


def _measure_repeatedly(title: str, name: str, table: Path, rounds: int) -> Figures:
    """Return the seconds and megabytes that a program takes in each round."""
    runs = [_run(name, table) for _ in range(rounds)]
    return {
        f"{title}, seconds": [run.seconds for run in runs],
        f"{title}, MB of memory": [run.megabytes for run in runs],
    }


def _run(name: str, table: Path) -> Measured:
    """Run a program on a table, with a folder for its output."""
    with tempfile.TemporaryDirectory(dir=table.parent) as out:
        arguments = [
            part.replace("TABLE", str(table)).replace("OUT", out)
            for part in COMMANDS[name]
        ]
        return measure(table.parent, *arguments)


def _write_table(path: Path, rows: int) -> None:
    """Write a CSV file of numbers, categories, dates and times, some of them missing."""
    random = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        size = min(CHUNK, rows - start)
        chunk = pd.DataFrame({"id": np.arange(start, start + size)})
        chunk["price"] = random.normal(100, 30, size).round(2)
        chunk["a"] = random.normal(size=size).round(6)
        chunk["b"] = random.normal(size=size)
        chunk["b"] = chunk["b"].mask(random.random(size) < 0.1)
        chunk["count"] = random.integers(0, 1000, size)
        chunk["word"] = random.choice(["red", "green", "blue", "NA"], size)
        chunk["city"] = random.choice([f"city {i}" for i in range(500)], size)
        chunk["day"] = random.choice(["2024-02-29", "2025-12-31", ""], size)
        seconds = pd.to_timedelta(random.integers(0, 10**8, size), unit="s")
        chunk["time"] = pd.Timestamp("2024-01-01") + seconds
        chunk["flag"] = random.random(size) < 0.5
        chunk["class"] = random.choice(["yes", "no", ""], size, p=[0.45, 0.45, 0.1])
        chunk.to_csv(path, mode="a", header=start == 0, index=False)


def _write_wide_table(path: Path, width: int) -> None:
    """Write a CSV file of many columns of numbers, categories, dates and booleans."""
    random = np.random.default_rng(0)
    columns = {"class": random.choice(["yes", "no"], WIDE_ROWS)}
    values: Any
    for number in range(width - 1):
        kind = number % 5
        if kind == 0:
            values = random.integers(0, 1000, WIDE_ROWS)
        elif kind == 1:
            values = random.normal(size=WIDE_ROWS).round(4)
        elif kind == 2:
            values = random.choice(["red", "green", "blue", "NA"], WIDE_ROWS)
        elif kind == 3:
            values = random.choice(["2024-02-29", "2025-12-31"], WIDE_ROWS)
        else:
            values = random.random(WIDE_ROWS) < 0.5
        columns[f"column {number}"] = values
    pd.DataFrame(columns).to_csv(path, index=False)


def _repeat(table: Path, path: Path, size: float) -> None:
    """Write the rows of a table repeatedly, until the file has about `size` bytes."""
    with table.open("rb") as rows, path.open("wb") as file:
        file.write(header := rows.readline())
        while file.tell() < size:
            rows.seek(len(header))
            shutil.copyfileobj(rows, file, 2**20)
