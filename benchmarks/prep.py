"""How fast prep is, and that its memory does not grow with the data.

    .venv/bin/python benchmarks/prep.py [ROWS]

Prepares a CSV file of ROWS rows (default 1,000,000) and one four times as long, each
in a process of its own, and prints megabytes a second and the peak memory. Needs Linux.
"""

from __future__ import annotations

import re
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
CHUNK = 250_000


def write_table(path: Path, rows: int) -> None:
    """Numbers, categories and dates, some of them missing."""
    random = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        chunk = pd.DataFrame(random.normal(size=(CHUNK, 4)), columns=list("abcd"))
        chunk["count"] = random.integers(0, 1000, CHUNK)
        chunk["word"] = random.choice(["red", "green", "blue", "NA"], CHUNK)
        chunk["day"] = random.choice(["2024-02-29", "2025-12-31", ""], CHUNK)
        chunk["class"] = random.choice(["yes", "no", ""], CHUNK, p=[0.45, 0.45, 0.1])
        chunk.to_csv(path, mode="a", header=start == 0, index=False)


def measure(table: Path, folder: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of one run of prep.

    Of its own memory: the pages of the file that it maps are the system's to take back.
    """
    # -B, as the template's steps are copied as they are, and are to hold no __pycache__.
    command = [sys.executable, "-B", str(PREP)]
    command += ["--raw", str(table), "--target", "class"]
    command += ["--prepared", str(folder / "out"), "--report", str(folder / "report")]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = re.search(r"RssAnon:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) if found else 0)
            time.sleep(0.02)
    assert process.returncode == 0
    return time.perf_counter() - started, peak / 1024


def main() -> None:
    """Measure the two tables, the smaller one first."""
    rows = int(sys.argv[1]) if sys.argv[1:] else 1_000_000
    for count in (rows, 4 * rows):
        with tempfile.TemporaryDirectory() as name:
            table = Path(name) / "table.csv"
            write_table(table, count)
            size = table.stat().st_size / 1e6
            seconds, peak = measure(table, Path(name))
            print(
                f"{count:>11,} rows, {size:5.0f} MB: {seconds:5.1f} s,"
                f" {size / seconds:4.0f} MB/s, peak {peak:4.0f} MB"
            )


if __name__ == "__main__":
    main()
