"""How fast scoring and training are beside plain pandas and scikit-learn, and their memory.

    .venv/bin/python benchmarks/scoring.py [--rows N] [--rounds N] [--trees N]
        [--own-model] [--train-rows N] [--json FILE]

In turns, each in a process of its own: `run scoring` of a generated project, with one and
with two worker processes, and a script that reads the same file with pandas, predicts all
of it in one go by the same model, and writes the same predictions. `--own-model` is a
random forest in place of the default model. Then the train step, beside nothing but the
fit of the same estimator on a table in memory. Memory is that of a process and of all
that it starts, without the pages of files. Needs Linux.
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
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

TEMPLATE = Path(__file__).resolve().parents[1]
CHUNK = 250_000
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
table = train.read(pathlib.Path(sys.argv[1]), "y", ["id"], "classification")
split = train.Split(["id"], 42, 0.2)
rows = train.divide(table, split, "y", ["id"])[0]
x, y = train.feature_table(rows, ["y", "id"]), rows["y"].to_pandas()
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


def date_parts'''


def write_table(path: Path, rows: int, seed: int, with_target: bool) -> None:
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


def memory(process: int) -> float:
    """Megabytes that a process, and all that it has started, hold of their own now."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        children = Path(f"/proc/{process}/task").glob("*/children")
        below = [int(child) for one in children for child in one.read_text().split()]
    except OSError:  # it has ended
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return (int(found[1]) / 1024 if found else 0.0) + sum(map(memory, below))


def measure(folder: Path, *arguments: object) -> tuple[float, float, Any]:
    """Seconds and peak megabytes of a Python process, and its last line, if it is JSON."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    variables |= {"PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "PASSIVE"}
    variables |= {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/benchmark.db"}
    command = [sys.executable, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:
        started, peak = time.perf_counter(), 0.0
        with subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=variables, cwd=folder
        ) as process:
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.02)
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, text
    last = text.rstrip().rpartition("\n")[2]
    return seconds, peak, json.loads(last) if last.startswith("{") else None


def generate(folder: Path, args: argparse.Namespace) -> Path:
    """A project for these tables, below `folder`."""
    command = ["cookiecutter", "--no-input", "-o", str(folder), str(TEMPLATE)]
    subprocess.run(
        [sys.executable, "-m", *command, "project_name=Benchmark"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    project = folder / "benchmark"
    settings = yaml.safe_load((project / "settings.yml").read_text())
    settings["data"] |= {"training": "../training.parquet", "target": "y"}
    settings["data"] |= {"scoring": "../scoring.parquet", "keys": ["id"], "ignore": []}
    settings["training"]["hyperparameters"] = {"max_iterations": args.trees}
    (project / "settings.yml").write_text(yaml.safe_dump(settings))
    if args.own_model:
        script = project / "steps/train/train.py"
        code = script.read_text().replace("\ndef date_parts", FOREST, 1)
        script.write_text(code)
    return project


def score(folder: Path, project: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds and megabytes of the ways to score, and how many times pandas' they are."""
    found: dict[str, list[float]] = {}
    trained = measure(project, "-m", "benchmark", "run", "training", "--json")[2]
    model = next(
        s["outputs"]["model"] for s in trained["steps"] if s["name"] == "train"
    )
    table, out = folder / "scoring.parquet", folder / "predictions.parquet"
    for _ in range(rounds):
        pandas, most, _ = measure(project, "-c", PANDAS, table, model, out)
        found.setdefault("pandas, s", []).append(pandas)
        found.setdefault("pandas, MB", []).append(most)
        for workers in (1, 2):
            name, count = f"{workers} worker", f"process_count_per_node={workers}"
            run = ("run", "scoring", "--fresh", "--json", "--set", count)
            seconds, peak, result = measure(project, "-m", "benchmark", *run)
            step = result["steps"][-1]["seconds"]
            # Once more, without prep, whose memory is another's figure.
            again = ("--step", "score", "--folder", result["folder"])
            own = measure(project, "-m", "benchmark", *run[:2], *run[4:], *again)[1]
            for what, value in {
                "run scoring, s": seconds,
                "score step, s": step,
                "run scoring, MB": peak,
                "score step, MB": own,
                "run scoring, times as fast": pandas / seconds,
                "score step, times as fast": pandas / step,
                "run scoring, share of memory": peak / most,
                "score step, share of memory": own / most,
            }.items():
                found.setdefault(f"{name}: {what}", []).append(value)
    return found


def train(project: Path, rounds: int, trees: int) -> dict[str, list[float]]:
    """Seconds and megabytes of the train step, beside the bare fit and the table."""
    found: dict[str, list[float]] = {}
    steps, work = project / "steps", project / "work"
    prep = ("--raw", "../training.parquet", "--target", "y", "--keys", "id")
    measure(
        project, steps / "prep/prep.py", *prep, "--prepared", work, "--report", work
    )
    step = ("--prepared", work, "--model", "m", "--holdout", "h", "--target", "y")
    role = ("--task", "classification", "--keys", "id")
    for _ in range(rounds):
        fit = measure(steps / "train", "-c", FIT, work, trees)[2]
        last = ("--hyperparameters", "max_iterations", trees)
        shutil.rmtree(project / "m", ignore_errors=True)
        script = steps / "train/train.py"
        seconds, peak, _ = measure(project, script, *step, *role, *last)
        for what, value in {
            "train, s": seconds,
            "bare fit, s": fit["seconds"],
            "train, times the bare fit": seconds / fit["seconds"],
            "train, MB": peak,
            "train, times the table": peak / fit["megabytes"],
        }.items():
            found.setdefault(what, []).append(value)
    return found


def main() -> None:
    """Measure in turns, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--own-model", action="store_true")
    parser.add_argument("--train-rows", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = generate(folder, args)
        write_table(folder / "training.parquet", args.train_rows or 100_000, 1, True)
        if args.rows:
            write_table(folder / "scoring.parquet", args.rows, 2, False)
            figures |= score(folder, project, args.rounds)
        if args.train_rows:
            figures |= train(project, args.rounds, args.trees)
    print(f"{'':40} minimum    median   maximum")
    for title, values in figures.items():
        shown = min(values), statistics.median(values), max(values)
        print(f"{title:40}" + "".join(f"{value:10.2f}" for value in shown))
    if args.json:
        args.json.write_text(json.dumps(vars(args) | {"figures": figures}, default=str))


if __name__ == "__main__":
    main()
