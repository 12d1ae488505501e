"""The speed of prep compared with polars and pandas, and its memory.

Each program reads a CSV file of mixed types and writes Parquet: prep, polars with
scan_csv and sink_parquet, and pandas. Then the peak memory of prep is measured, for CSV
files of BENCHMARK_GB gigabytes (0.3 by default) and of ten times as much, and for Parquet
files of 2 and 10 million rows. The folder of temporary files must have room for them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

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
}


def measure_prep(rounds: int) -> Figures:
    """Return megabytes per second, ratios of speeds, and megabytes of peak memory."""
    figures: Figures = {f"{name}, MB/s": [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        larger = Path(folder) / "larger.csv"
        _write_table(table, ROWS)
        size = table.stat().st_size
        # The first run compiles bytecode and fills the disk's cache.
        for name in COMMANDS:
            _run(name, table)
        for _ in range(rounds):
            for name in COMMANDS:
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
    return figures


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


def _repeat(table: Path, path: Path, size: float) -> None:
    """Write the rows of a table repeatedly, until the file has about `size` bytes."""
    with table.open("rb") as rows, path.open("wb") as file:
        file.write(header := rows.readline())
        while file.tell() < size:
            rows.seek(len(header))
            shutil.copyfileobj(rows, file, 2**20)
