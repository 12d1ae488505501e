"""New data is read by the schema of the model that scores it.

The steps' own functions on made tables, from raw files to predictions, without a
generated project.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comparison
import mlflow
import model_metrics
import numpy as np
import pandas as pd
import polars as pl
import prep
import pytest
import register
import saved_model
import score
import train
from registered_model import find_registered_model
from text_values import USUAL_FORMAT, TextFormat
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("mlruns")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("schema", (folder / "artifacts").as_uri())
    mlflow.set_experiment("schema")
    with threadpool_limits(1):  # tables so small are not worth two threads
        yield
    mlflow.set_tracking_uri(before)


@dataclass
class Project:
    """A folder with raw files and a registered model, as the pipelines make them."""

    folder: Path
    name: str
    keys: Sequence[str] = ()
    compared: dict[str, Any] | None = None

    def train(
        self,
        raw: Path,
        target: str = "y",
        text_format: TextFormat = USUAL_FORMAT,
        task: str = "classification",
    ) -> None:
        """Run prep, train and register on raw files."""
        count = len(list(self.folder.glob("train-*")))
        folder = self.folder / f"train-{count}"
        prep.prepare(
            raw, folder / "prepared", target, self.keys, text_format=text_format
        )
        train.train(
            folder / "prepared",
            folder / "model",
            folder / "holdout",
            task=task,
            target=target,
            keys=self.keys,
            hyperparameters={"max_iterations": 10, "min_samples_leaf": 5},
        )
        self.compared = comparison.compare_with_registered(
            self.name,
            saved_model.load_model(folder / "model"),
            pl.read_parquet(folder / "holdout"),
            model_metrics.find_metric("default", task),
            margin=0.02,
        )
        register.register(folder / "model", self.name)

    def score(
        self,
        raw: Path,
        version: str = "latest",
        rows_per_part: int = 100_000,
        **settings: Any,
    ) -> tuple[pl.DataFrame, dict[str, Any]]:
        """Run prep and score on raw files; return the predictions and prep's report."""
        count = len(list(self.folder.glob("score-*")))
        folder = self.folder / f"score-{count}"
        report = prep.prepare_for_model(
            raw,
            folder / "prepared",
            find_registered_model(self.name, version),
            keys=settings.pop("keys", self.keys),
            rows_per_part=rows_per_part,
            **settings,
        )
        score.scorer = score.load_scorer(
            self.name, version, predictions=folder / "predictions"
        )
        score.run(sorted(map(str, (folder / "prepared").iterdir())))
        parts = sorted((folder / "predictions").iterdir())
        return pl.concat([pl.read_parquet(part) for part in parts]), report


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, f"model-{tmp_path.name}")


def write(path: Path, rows: pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(path, index=False)
    return path


def table(column: list[str], rows: int = 240) -> pd.DataFrame:
    """The values of a column in turn, a number, and a class that the first value decides."""
    values = np.resize(column, rows)
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": values,
            "n": random.normal(size=rows).round(3),
            "y": np.where(values == column[0], "yes", "no"),
        }
    )


# The values of a column in training; the first decides the class.
ODD_COLUMNS = {
    "a sign before a number": ["+1", "0", "-1", "DK"],
    "trailing zeros": ["1.10", "0.10", "007"],
    "codes": ["007", "7.5", "12"],
    "booleans and a word": ["True", "False", "Unknown"],
    "numbers and a limit": ["0.5", "1.5", "<0.1"],
    "dates and a word": ["2021-05-06", "2022-01-01", "before 2020"],
}


@pytest.mark.parametrize("column", ODD_COLUMNS.values(), ids=ODD_COLUMNS)
def test_a_batch_without_the_odd_value_is_read_as_in_training(
    column: list[str], project: Project, tmp_path: Path
) -> None:
    rows = table(column)
    project.train(write(tmp_path / "raw" / "a.csv", rows))
    whole, _ = project.score(write(tmp_path / "new" / "a.csv", rows.drop(columns="y")))
    assert (whole["prediction"] == pl.Series(rows["y"])).all()
    for value in column:
        batch = rows[rows["x"] == value]
        scored, report = project.score(write(tmp_path / "batch" / "b.csv", batch))
        expected = whole.filter(pl.Series(rows["x"] == value))
        assert scored.drop("row").equals(expected.drop("row"))
        assert report["columns"]["x"]["type"] == "text"
        one, _ = project.score(write(tmp_path / "row" / "c.csv", batch[:1]))
        assert one.drop("row").equals(expected[:1].drop("row"))


CLEANED = {
    "a sign that numbers lose": (
        ["+1", "0", "-1", "DK"],
        ["+1", "0", "-1"],
        "was text",
    ),
    "zeros that numbers lose": (
        ["0.10", "1.5", "x"],
        ["0.10", "1.5", "2.5"],
        "was text",
    ),
    "numbers as they were": (["1", "0", "-1", "DK"], ["1", "0", "-1"], None),
    "a word among numbers": (["0.5", "1.5"], ["0.5", "1.5", "<0.1"], "was numbers"),
    "a word among dates": (
        ["2021-05-06", "2022-01-01"],
        ["2021-05-06", "2022-01-01", "before 2020"],
        "was Datetime",
    ),
    "booleans beside a word": (["True", "False", "-?"], ["True", "False"], "was text"),
}


@pytest.mark.parametrize(
    ("before", "after", "reason"), CLEANED.values(), ids=CLEANED.keys()
)
def test_a_model_is_not_judged_on_values_it_would_read_otherwise(
    before: list[str], after: list[str], reason: str | None, project: Project
) -> None:
    project.train(write(project.folder / "old" / "a.csv", table(before)))
    assert project.compared is None
    project.train(write(project.folder / "new" / "a.csv", table(after)))
    assert project.compared is not None
    if reason is None:
        assert project.compared["metrics"]["f1_macro"] == 1
        return
    assert project.compared["verdict"] == "not comparable"
    assert reason in project.compared["reason"]
