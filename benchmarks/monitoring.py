"""The cost of monitoring: the profile within train, and the comparison of new rows.

The table has a million rows (or BENCHMARK_ROWS) and 50 features: numbers, some of them
missing, categories and dates. All times are CPU times, as those of the clock depend on how
busy the machine is.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from .measure import STEPS, Figures, measure

ROWS = int(os.environ.get("BENCHMARK_ROWS", "1_000_000"))
ROWS_PER_PART = 100_000
# The default is up to 200 trees, so train usually takes longer, and the share is smaller.
TREES = 20
# Trains a model, and prints the CPU seconds of train, and those that the profile takes.
TRAIN = """
import json, pathlib, sys, time, train

profile_seconds = 0.0

def measure_calls(name):
    function = getattr(train, name)

    def measured(*arguments):
        global profile_seconds
        started = time.process_time()
        result = function(*arguments)
        profile_seconds += time.process_time() - started
        return result

    setattr(train, name, measured)

for name in ("describe_training_data", "describe_predictions", "save_profile"):
    measure_calls(name)
folder = pathlib.Path(sys.argv[1])
started = time.process_time()
train.train(
    folder / "prepared",
    folder / "model",
    folder / "holdout",
    task="regression",
    target="y",
    hyperparameters={"max_iterations": int(sys.argv[2]), "early_stopping": False},
)
seconds = time.process_time() - started
print(json.dumps({"train": seconds, "profile": profile_seconds}))
"""
# Compares the rows with the profile of the model, and prints the CPU seconds. Beside it,
# polars computes the mean and three quantiles of each column of numbers.
COMPARE = """
import json, pathlib, sys, time
import polars.selectors as cs
from new_rows import count_new_rows, scan_parts
from profiles import parse_profile

folder = pathlib.Path(sys.argv[1])
profile = parse_profile(json.loads((folder / "model" / "profile.json").read_text()))
table = scan_parts(folder / "prepared")
names = [*profile.features]
started = time.process_time()
count_new_rows(table, profile.features, names, names)
seconds = time.process_time() - started

numbers = cs.numeric()
aggregations = [numbers.mean().name.suffix(" mean")]
for share in (0.05, 0.5, 0.95):
    aggregations.append(numbers.quantile(share).name.suffix(f" {share}"))
started = time.process_time()
table.select(aggregations).collect(engine="streaming")
beside = time.process_time() - started
print(json.dumps({"seconds": seconds, "beside": beside}))
"""


def measure_monitoring(rounds: int) -> Figures:
    """Return the share of the profile in train, and the rows that monitor compares."""
    figures: Figures = {
        "train, CPU s": [],
        "profile, CPU s": [],
        "profile / train, CPU time": [],
        "monitor, million rows per CPU s": [],
        "monitor / means and quantiles, CPU time": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_parts(folder / "prepared")
        variables = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/benchmark.db",
            "OMP_WAIT_POLICY": "PASSIVE",  # as in a run
        }
        for _ in range(rounds):
            variables["PYTHONPATH"] = str(STEPS / "train")
            train = measure(folder, "-c", TRAIN, folder, TREES, variables=variables)
            figures["train, CPU s"].append(train.result["train"])
            figures["profile, CPU s"].append(train.result["profile"])
            share = train.result["profile"] / train.result["train"]
            figures["profile / train, CPU time"].append(share)

            variables["PYTHONPATH"] = str(STEPS / "monitor")
            compared = measure(folder, "-c", COMPARE, folder, variables=variables)
            speed = ROWS / 1e6 / compared.result["seconds"]
            figures["monitor, million rows per CPU s"].append(speed)
            ratio = compared.result["seconds"] / compared.result["beside"]
            figures["monitor / means and quantiles, CPU time"].append(ratio)
    return figures


def _write_parts(folder: Path) -> None:
    """Write a table of 50 features and a target as prepared parts."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, start in enumerate(range(0, ROWS, ROWS_PER_PART)):
        rows = min(ROWS_PER_PART, ROWS - start)
        columns = {}
        for position in range(30):
            values = random.normal(size=rows).round(4)
            if position % 3 == 0:
                values[random.random(rows) < 0.1] = np.nan
            columns[f"number {position}"] = pl.Series(values).fill_nan(None)
        for position in range(15):
            categories = random.integers(0, 3 + 10 * position, rows)
            columns[f"category {position}"] = pl.Series(categories).cast(pl.String)
        for position in range(5):
            days = pl.Series(random.integers(18_000, 20_000, rows))
            columns[f"date {position}"] = days.cast(pl.Int32).cast(pl.Date)
        table = pl.DataFrame(columns)
        target = pl.col("number 1") + pl.col("number 2")
        part = folder / f"part-{number:05}.parquet"
        table.with_columns(y=target).write_parquet(part, metadata={"keys": "[]"})
