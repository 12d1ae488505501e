"""How fast scoring and training are beside plain pandas and scikit-learn, and their memory.

In turns, each in a process of its own: `run scoring` of a generated project, with one and
with two worker processes, and a script that reads the same file with pandas, predicts all
of it in one go by the same model, and writes the same predictions. Then the train step,
beside nothing but the fit of the same estimator on a table in memory.
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
PANDAS = """
import sys, mlflow, pandas
table = pandas.read_parquet(sys.argv[1])
model = mlflow.sklearn.load_model(sys.argv[2])
shares = model.predict_proba(table[list(model.feature_names_in_)])
found = table[["id"]].assign(prediction=model.classes_[shares.argmax(axis=1)])
for name, column in zip(model.classes_, shares.T):
    found[f"probability_{name}"] = column
found.to_parquet(sys.argv[3])
"""
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
FOREST = '''
def build_model(
    features: pd.DataFrame, task: str, seed: int, max_iterations: int = 100, **_: Any
) -> Pipeline:
    """A user's own: a random forest."""
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


def figures(rounds: int) -> Figures:
    """The default model on ROWS rows, with one and with two workers."""
    with tempfile.TemporaryDirectory() as name:
        project = _project(Path(name), 100_000)
        return _score(project, ROWS, rounds, (1, 2))


def own_model(rounds: int) -> Figures:
    """A user's own model, a random forest, on two fifths of ROWS."""
    with tempfile.TemporaryDirectory() as name:
        project = _project(Path(name), 100_000)
        script = project / "steps/train/train.py"
        code = script.read_text().replace("\ndef encode_dates", FOREST, 1)
        script.write_text(code)
        return _score(project, 2 * ROWS // 5, rounds, (2,))


def training(rounds: int) -> Figures:
    """The train step on a million rows: alone, and in a run, which starts it early."""
    found: Figures = {}
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
            for what, value in {
                "train alone, s": run.seconds,
                "train in a run, s": seconds,
                "bare fit, s": fit["seconds"],
                "train alone / bare fit, time": run.seconds / fit["seconds"],
                "train in a run / bare fit, time": seconds / fit["seconds"],
                "train, MB": run.megabytes,
                "train / the table, memory": run.megabytes / fit["megabytes"],
            }.items():
                found.setdefault(what, []).append(value)
    return found


def _step(run: Measured, name: str) -> Any:
    """What is said of a step of a run."""
    return next(step for step in run.result["steps"] if step["name"] == name)


def _project(folder: Path, rows: int) -> Path:
    """A project that trains on a table of so many rows, below `folder`."""
    project = generate(folder)
    settings = yaml.safe_load((project / "settings.yml").read_text())
    settings["data"] |= {"training": "../training.parquet", "target": "y"}
    settings["data"] |= {"scoring": "../scoring.parquet", "keys": ["id"], "ignore": []}
    settings["training"]["hyperparameters"] = {"max_iterations": TREES}
    (project / "settings.yml").write_text(yaml.safe_dump(settings))
    _write_table(folder / "training.parquet", rows, 1, True)
    return project


def _measure(project: Path, *command: object, code: Path | None = None) -> Measured:
    """Measure a process with the variables that a step has."""
    variables = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(code or project)}
    variables["MLFLOW_TRACKING_URI"] = f"sqlite:///{project}/benchmark.db"
    return measure(project, *command, variables=variables)


def _score(project: Path, rows: int, rounds: int, workers: tuple[int, ...]) -> Figures:
    """Seconds and megabytes of the ways to score, and what they are of pandas'."""
    found: Figures = {}
    table, out = project.parent / "scoring.parquet", project.parent / "out.parquet"
    _write_table(table, rows, 2, False)
    trained = _measure(project, *RUN, "training")
    model = _step(trained, "train")["outputs"]["model"]
    for _ in range(rounds):
        pandas = _measure(project, "-c", PANDAS, table, model, out)
        values = {"pandas, s": pandas.seconds, "pandas, MB": pandas.megabytes}
        for count in workers:
            run = (*RUN, "scoring", "--set", f"process_count_per_node={count}")
            whole = _measure(project, *run, "--fresh")
            # Once more, without prep, whose memory is another's figure.
            again = ("--step", "score", "--folder", whole.result["folder"])
            step = _measure(project, *run, *again)
            seconds = _step(whole, "score")["seconds"]
            way = f"{count} workers" if count > 1 else "1 worker"
            values |= {
                f"{way}: run scoring, s": whole.seconds,
                f"{way}: score step, s": seconds,
                f"{way}: score step, million rows/s": rows / seconds / 1e6,
                f"{way}: score step, MB": step.megabytes,
                f"{way}: run scoring / pandas, speed": pandas.seconds / whole.seconds,
                f"{way}: score step / pandas, speed": pandas.seconds / seconds,
                f"{way}: score step / pandas, memory": step.megabytes
                / pandas.megabytes,
            }
        for what, value in values.items():
            found.setdefault(f"{what}, {rows / 1e6:g} million rows", []).append(value)
    return found


def _write_table(path: Path, rows: int, seed: int, with_target: bool) -> None:
    """Five numbers and three categories, some missing, on which a class depends."""
    random, writer = np.random.default_rng(seed), None
    for start in range(0, rows, CHUNK):
        size = min(CHUNK, rows - start)
        chunk = pd.DataFrame({"id": np.arange(start, start + size)})
        for i in range(5):
            chunk[f"number {i}"] = random.normal(size=size).round(4)
        signal = chunk["number 0"] + chunk["number 1"] * chunk["number 2"]
        chunk["number 1"] = chunk["number 1"].mask(random.random(size) < 0.1)
        for count in (4, 50, 300):
            codes = random.integers(count, size=size)
            words = np.array([f"word {i}" for i in range(count)], object)
            chunk[f"{count} words"] = words[codes]
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
