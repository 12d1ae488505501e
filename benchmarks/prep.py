"""How fast prep is beside bare polars and pandas, and how its memory grows.

CSV of mixed types is read and Parquet written, in turns: by prep, by nothing but polars'
scan_csv and sink_parquet, and by pandas. Then prep's peak memory for a file of
BENCHMARK_GB gigabytes (default: 0.3) and for ten times it, for which the folder of
temporary files must have room; and for Parquet of 2 and of 10 million rows.
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
# What each process runs, on a table and a folder to write to.
COMMANDS = {
    # -B, as the template's steps are copied as they are, and are to hold no __pycache__.
    "prep": ["-B", f"{STEPS}/prep/prep.py", "--target", "class", "--raw", "TABLE"]
    + ["--prepared", "OUT/prepared", "--report", "OUT/report"],
    "polars": ["-c", "import polars; polars.scan_csv('TABLE').sink_parquet('OUT/out')"],
    "pandas": ["-c", "import pandas; pandas.read_csv('TABLE').to_parquet('OUT/out')"],
}


def figures(rounds: int) -> Figures:
    """Megabytes a second, times as fast, and peak megabytes."""
    found: Figures = {f"{name}, MB/s": [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        table, larger = Path(folder) / "table.csv", Path(folder) / "larger.csv"
        _write_table(table, ROWS)
        size = table.stat().st_size
        for name in COMMANDS:  # byte-compile, and read the file once
            _run(name, table)
        for _ in range(rounds):
            for name in COMMANDS:
                seconds = _run(name, table).seconds
                found[f"{name}, MB/s"].append(size / 1e6 / seconds)
        for name in ("polars", "pandas"):
            pair = found["prep, MB/s"], found[f"{name}, MB/s"]
            found[f"prep / {name}, speed"] = ratios(*pair)
        for times in (1, 10):
            gigabytes = times * float(os.environ.get("BENCHMARK_GB", "0.3"))
            _repeat(table, larger, gigabytes * 1e9)
            peak = _run("prep", larger).megabytes
            found[f"prep, MB of memory for {gigabytes:g} GB of CSV"] = [peak]
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
            found[f"prep, MB of memory for {times} million rows of Parquet"] = [peak]
            shutil.rmtree(parquet)
    return found


def _run(name: str, table: Path) -> Measured:
    with tempfile.TemporaryDirectory(dir=table.parent) as out:
        words = [
            part.replace("TABLE", str(table)).replace("OUT", out)
            for part in COMMANDS[name]
        ]
        return measure(table.parent, *words)


def _write_table(path: Path, rows: int) -> None:
    """Numbers, categories, dates and times, some of them missing."""
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
    """Write the rows of a table again and again, up to about `size` bytes."""
    with table.open("rb") as rows, path.open("wb") as file:
        file.write(header := rows.readline())
        while file.tell() < size:
            rows.seek(len(header))
            shutil.copyfileobj(rows, file, 2**20)
