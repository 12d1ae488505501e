"""The speed and memory of scoring and training, compared with pandas and scikit-learn.

Scoring: `run scoring` of a generated project, with one and with two worker processes, is
compared with a script that reads the same file with pandas, predicts it at once with the
same model, and writes the same predictions. Training: the train step is compared with the
fit of the same estimator on a table in memory. Each runs in a process of its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from .measure import Figures, Measured, generate, measure

ROWS = int(os.environ.get("BENCHMARK_ROWS", "10_000_000"))
TREES = 200
CHUNK = 250_000
RUN = ("-m", "benchmark", "run", "--json")
# Scores a table with pandas and scikit-learn alone.
PANDAS = """
import sys, mlflow, pandas
table = pandas.read_parquet(sys.argv[1])
model = mlflow.sklearn.load_model(sys.argv[2])
shares = model.predict_proba(table[list(model.feature_names_in_)])
scored = table[["id"]].assign(prediction=model.classes_[shares.argmax(axis=1)])
for name, column in zip(model.classes_, shares.T):
    scored[f"probability_{name}"] = column
scored.to_parquet(sys.argv[3])
"""
# Fits the estimator on the rows that train uses, and prints the seconds.
FIT = """
import json, pathlib, sys, time, train
table = train.read_training_table(
    pathlib.Path(sys.argv[1]), target="y", keys=["id"], task="classification"
)
split = train.Split(["id"], 42, 0.2)
rows = train.divide_rows(table, split, "y", ["id"]).training
x, y = train.select_features(rows, ["y", "id"]), rows["y"].to_pandas()
size = rows.to_pandas().memory_usage(deep=True).sum() / 1e6
model = train.build_model(x, "classification", 42, int(sys.argv[2]))
started = time.perf_counter()
model.fit(x, y)
print(json.dumps({"seconds": time.perf_counter() - started, "megabytes": size}))
"""
# A model of the user's own, in place of build_model.
FOREST = '''
def build_model(
    features: pd.DataFrame, task: str, seed: int, max_iterations: int = 100, **_: Any
) -> Pipeline:
    """Return an untrained random forest."""
    texts = list(features.select_dtypes("object"))
    encode = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1
    )
    columns = ColumnTransformer([("texts", encode, texts)], remainder="passthrough")
    model = ensemble.RandomForestClassifier(
        max_iterations, max_depth=12, random_state=seed
    )
    return Pipeline([("encode", columns), ("model", model)])


def encode_dates'''


def measure_scoring(rounds: int) -> Figures:
    """Return the figures of the default model on ROWS rows, with one and two workers."""
    with tempfile.TemporaryDirectory() as name:
        project = _project(Path(name), 100_000)
        return _score(project, ROWS, rounds, (1, 2))


def measure_own_model(rounds: int) -> Figures:
    """Return the figures of a random forest on two fifths of ROWS, with two workers."""
    with tempfile.TemporaryDirectory() as name:
        project = _project(Path(name), 100_000)
        script = project / "steps/train/train.py"
        code = script.read_text().replace("\ndef encode_dates", FOREST, 1)
        script.write_text(code)
        return _score(project, 2 * ROWS // 5, rounds, (2,))


def measure_training(rounds: int) -> Figures:
    """Return the figures of training on a million rows: the step alone, and in a run."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as name:
        project = _project(Path(name), 1_000_000)
        steps, work = project / "steps", project / "work"
        prep = ("--raw", "../training.parquet", "--target", "y", "--keys", "id")
        output = ("--prepared", work, "--report", work)
        measure(project, steps / "prep/prep.py", *prep, *output)
        step = ("--prepared", work, "--model", "m", "--holdout", "h", "--target", "y")
        role = ("--task", "classification", "--keys", "id")
        for _ in range(rounds):
            fit = _measure(project, "-c", FIT, work, TREES, code=steps / "train").result
            shutil.rmtree(project / "m", ignore_errors=True)
            last = ("--hyperparameters", "max_iterations", TREES)
            run = _measure(project, steps / "train/train.py", *step, *role, *last)
            whole = _measure(project, *RUN, "training", "--fresh")
            seconds = _step(whole, "train")["seconds"]
            for title, value in {
                "train alone, s": run.seconds,
                "train in a run, s": seconds,
                "bare fit, s": fit["seconds"],
                "train alone / bare fit, time": run.seconds / fit["seconds"],
                "train in a run / bare fit, time": seconds / fit["seconds"],
                "train, MB": run.megabytes,
                "train / the table, memory": run.megabytes / fit["megabytes"],
            }.items():
                figures.setdefault(title, []).append(value)
    return figures


def _step(run: Measured, name: str) -> Any:
    """Return the entry of a step in the JSON that a run printed."""
    return next(step for step in run.result["steps"] if step["name"] == name)


def _project(folder: Path, rows: int) -> Path:
    """Generate a project that trains on a table with this number of rows."""
    project = generate(folder)
    settings = yaml.safe_load((project / "settings.yml").read_text())
    settings["data"] |= {"training": "../training.parquet", "target": "y"}
    settings["data"] |= {"scoring": "../scoring.parquet", "keys": ["id"], "ignore": []}
    settings["training"]["hyperparameters"] = {"max_iterations": TREES}
    (project / "settings.yml").write_text(yaml.safe_dump(settings))
    _write_table(folder / "training.parquet", rows, 1, True)
    return project


def _measure(project: Path, *command: object, code: Path | None = None) -> Measured:
    """Measure a process with the environment variables of a step."""
    variables = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(code or project)}
    variables["MLFLOW_TRACKING_URI"] = f"sqlite:///{project}/benchmark.db"
    return measure(project, *command, variables=variables)


def _score(project: Path, rows: int, rounds: int, workers: tuple[int, ...]) -> Figures:
    """Return the seconds and megabytes of scoring, and their ratios to those of pandas."""
    figures: Figures = {}
    table = project.parent / "scoring.parquet"
    out = project.parent / "out.parquet"
    _write_table(table, rows, 2, False)
    trained = _measure(project, *RUN, "training")
    model = _step(trained, "train")["outputs"]["model"]
    for _ in range(rounds):
        pandas = _measure(project, "-c", PANDAS, table, model, out)
        values = {"pandas, s": pandas.seconds, "pandas, MB": pandas.megabytes}
        for count in workers:
            run = (*RUN, "scoring", "--set", f"process_count_per_node={count}")
            whole = _measure(project, *run, "--fresh")
            # Score alone, because prep would add its memory.
            alone = ("--step", "score", "--folder", whole.result["folder"])
            step = _measure(project, *run, *alone)
            seconds = _step(whole, "score")["seconds"]
            workers_title = f"{count} workers" if count > 1 else "1 worker"
            values |= {
                f"{workers_title}: run scoring, s": whole.seconds,
                f"{workers_title}: score step, s": seconds,
                f"{workers_title}: score step, million rows/s": rows / seconds / 1e6,
                f"{workers_title}: score step, MB": step.megabytes,
                f"{workers_title}: run scoring / pandas, speed": pandas.seconds
                / whole.seconds,
                f"{workers_title}: score step / pandas, speed": pandas.seconds
                / seconds,
                f"{workers_title}: score step / pandas, memory": step.megabytes
                / pandas.megabytes,
            }
        for title, value in values.items():
            title_with_rows = f"{title}, {rows / 1e6:g} million rows"
            figures.setdefault(title_with_rows, []).append(value)
    return figures


def _write_table(path: Path, rows: int, seed: int, with_target: bool) -> None:
    """Write numbers and categories, some missing, and a class that depends on them."""
    random = np.random.default_rng(seed)
    writer = None
    for start in range(0, rows, CHUNK):
        size = min(CHUNK, rows - start)
        chunk = pd.DataFrame({"id": np.arange(start, start + size)})
        for i in range(5):
            chunk[f"number {i}"] = random.normal(size=size).round(4)
        signal = chunk["number 0"] + chunk["number 1"] * chunk["number 2"]
        chunk["number 1"] = chunk["number 1"].mask(random.random(size) < 0.1)
        for count in (4, 50, 300):
            codes = random.integers(count, size=size)
            categories = np.array([f"word {i}" for i in range(count)], object)
            chunk[f"{count} words"] = categories[codes]
            signal = signal + codes % 7 / 6
        chunk["4 words"] = chunk["4 words"].mask(random.random(size) < 0.05)
        if with_target:
            noisy = signal + random.normal(size=size)
            chunk["y"] = np.where(noisy > 1.5, "yes", "no")
        batch = pa.Table.from_pandas(chunk, preserve_index=False)
        writer = writer or pq.ParquetWriter(path, batch.schema)
        writer.write_table(batch)
    if writer:
        writer.close()
