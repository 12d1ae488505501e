"""How fast prep is beside bare polars and pandas, and that its memory does not grow.

    .venv/bin/python benchmarks/prep.py [--rows N] [--rounds N] [--gigabytes N] [--json FILE]

Reads one CSV file of mixed types and writes Parquet, in turns: by prep, by nothing but
polars' scan_csv and sink_parquet, and by pandas; each in a process of its own. Then prep's
peak memory for a file of the given size (default: that file) and for ten times it, for
which the folder of temporary files must have room. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

PREP = (
    Path(__file__).parents[1] / "{{cookiecutter.project_slug}}" / "steps/prep/prep.py"
)
# What each process runs, on a table and a folder to write to.
SCRIPTS = {
    # -B, as the template's steps are copied as they are, and are to hold no __pycache__.
    "prep": ["-B", str(PREP), "--target", "class", "--raw", "TABLE"]
    + ["--prepared", "OUT/prepared", "--report", "OUT/report"],
    "polars": ["-c", "import polars; polars.scan_csv('TABLE').sink_parquet('OUT/out')"],
    "pandas": ["-c", "import pandas; pandas.read_csv('TABLE').to_parquet('OUT/out')"],
}
CHUNK = 250_000


def write_table(path: Path, rows: int) -> None:
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


def repeat(table: Path, path: Path, size: float) -> None:
    """Write the rows of a table again and again, up to about `size` bytes."""
    with table.open("rb") as rows, path.open("wb") as file:
        file.write(header := rows.readline())
        while file.tell() < size:
            rows.seek(len(header))
            shutil.copyfileobj(rows, file, 2**20)


def measure(name: str, table: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of a process.

    Of its own memory: the pages of the file that it maps are the system's to take back.
    """
    with tempfile.TemporaryDirectory(dir=table.parent) as out:
        command = [sys.executable]
        for part in SCRIPTS[name]:
            command.append(part.replace("TABLE", str(table)).replace("OUT", out))
        environment = {k: v for k, v in os.environ.items() if k[:10] != "PYTHONDONT"}
        started, peak = time.perf_counter(), 0
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env=environment
        ) as process:
            while process.poll() is None:
                status = Path(f"/proc/{process.pid}/status").read_text()
                found = re.search(r"RssAnon:\s+(\d+) kB", status)
                peak = max(peak, int(found[1]) if found else 0)
                time.sleep(0.01)
        seconds = time.perf_counter() - started
    assert process.returncode == 0
    return seconds, peak / 1024


def main() -> None:
    """Measure in turns, then the memory, and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        write_table(table, args.rows)
        size = table.stat().st_size
        for name in SCRIPTS:  # byte-compile, and read the file once
            measure(name, table)
        seconds: dict[str, list[float]] = {name: [] for name in SCRIPTS}
        for _ in range(args.rounds):
            for name, found in seconds.items():
                found.append(measure(name, table)[0])
        print(f"{args.rows:,} rows, {size / 1e6:.0f} MB, {args.rounds} rounds")
        print(f"{'':26} minimum  median maximum")
        figures: dict[str, list[float]] = {
            f"{name}, MB/s": [size / 1e6 / s for s in found]
            for name, found in seconds.items()
        }
        for name in ("polars", "pandas"):
            pairs = zip(seconds[name], seconds["prep"], strict=True)
            figures[f"prep / {name}, speed"] = [other / own for other, own in pairs]
        for title, values in figures.items():
            shown = min(values), statistics.median(values), max(values)
            print(f"{title:26}" + "".join(f"{value:8.2f}" for value in shown))
        peaks = {}
        for times in (1, 10):
            larger = Path(folder) / "larger.csv"
            repeat(table, larger, times * (args.gigabytes * 1e9 or size))
            _, peaks[larger.stat().st_size] = measure("prep", larger)
        for larger_size, peak in peaks.items():
            print(f"peak memory of prep for {larger_size / 1e9:5.2f} GB: {peak:.0f} MB")
    if args.json:
        result = {"rows": args.rows, "bytes": size, "seconds": seconds}
        result |= {"figures": figures, "peak_megabytes": peaks}
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
