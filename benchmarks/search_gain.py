"""Compare a search for hyperparameters with the defaults, on the hold-outs of ten tables.

    .venv/bin/python benchmarks/search_gain.py FOLDER [SEED]

Eight of the tables are R's, which the package pydataset has too. FOLDER must have each of
them as a CSV file, such as `Hdma.csv`; the other two come with scikit-learn.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
import polars as pl
from sklearn import datasets

TEMPLATE = Path(__file__).resolve().parents[1]
STEPS = TEMPLATE / "{{cookiecutter.project_slug}}" / "steps"

sys.dont_write_bytecode = True  # in the template, whose steps are copied as they are
for step in ("train", "evaluate"):
    sys.path.insert(0, str(STEPS / step))

import evaluate
import train
from search import Search

TARGETS = {
    "Participation": "lfp",
    "Hdma": "deny",
    "Benefits": "ui",
    "breast_cancer": "target",
    "nlschools": "lang",
    "Hedonic": "mv",
    "Wages": "lwage",
    "Computers": "price",
    "diamonds": "price",
    "diabetes": "target",
}
CLASSIFICATIONS = ("Participation", "Hdma", "Benefits", "breast_cancer")
SAMPLED = ("Benefits", "Computers", "diamonds")
SAMPLE_ROWS = 1_500
TRIES = 25
# The values in settings.yml.
DEFAULTS = {"learning_rate": 0.1, "max_iterations": 200}
SPACE = {
    "learning_rate": {"low": 0.01, "high": 0.3, "log": True},
    "max_leaf_nodes": {"low": 4, "high": 64, "log": True},
    "l2_regularization": [0, 1, 10],
}


@dataclass(frozen=True)
class Gain:
    """The metric of the defaults and of a search, on the same held-out rows."""

    metric: str
    rows: int
    defaults: float
    searched: float


def read_table(name: str, folder: Path) -> pl.DataFrame:
    """Return a table, or some of its rows if it is long."""
    if name == "breast_cancer":
        return pl.from_pandas(datasets.load_breast_cancer(as_frame=True).frame)
    if name == "diabetes":
        return pl.from_pandas(datasets.load_diabetes(as_frame=True).frame)
    table = pl.read_csv(
        folder / f"{name}.csv", infer_schema_length=None, null_values=["NA"]
    )
    return table.sample(SAMPLE_ROWS, seed=0) if name in SAMPLED else table


def measure_gain(name: str, table: pl.DataFrame, seed: int) -> Gain:
    """Train with the defaults and with a search, and judge both on the hold-out."""
    task = "classification" if name in CLASSIFICATIONS else "regression"
    metric = "log_loss" if task == "classification" else "rmse"
    values = []
    rows = 0
    for search in (None, Search(metric, TRIES, SPACE)):
        with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            prepared = Path(folder, "prepared")
            prepared.mkdir()
            table.write_parquet(prepared / "part-00000.parquet")
            train.train(
                prepared,
                Path(folder, "model"),
                Path(folder, "holdout"),
                task=task,
                target=TARGETS[name],
                seed=seed,
                hyperparameters=DEFAULTS,
                search=search,
            )
            evaluate.evaluate(
                Path(folder, "model"),
                Path(folder, "holdout"),
                Path(folder, "evaluation"),
                model_name="search-gain",
            )
            file = Path(folder, "evaluation", "metrics.json")
            evaluation = json.loads(file.read_text(encoding="utf-8"))
        rows = evaluation["rows"]
        values.append(evaluation["metrics"][metric])
    return Gain(metric, rows, *values)


def main() -> None:
    """Print a line for each table."""
    folder = Path(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with TemporaryDirectory() as runs:
        mlflow.set_tracking_uri(f"sqlite:///{runs}/mlflow.db")
        mlflow.create_experiment("search-gain", Path(runs, "artifacts").as_uri())
        mlflow.set_experiment("search-gain")
        for name in TARGETS:
            gain = measure_gain(name, read_table(name, folder), seed)
            ratio = gain.searched / gain.defaults
            print(
                f"{name}: {gain.rows} held-out rows, {gain.metric}"
                f" {gain.defaults:.4g} -> {gain.searched:.4g} ({ratio:.3f} times)",
                flush=True,
            )


if __name__ == "__main__":
    main()
