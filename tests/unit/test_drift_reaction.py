"""Test what monitor does about drift: `on_drift`, `ignore`, and a model without a profile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import polars as pl
import pytest
from monitor import monitor
from register import register
from scoring_model import MonitorError
from sklearn import datasets
from step_tracking import track_in
from train import train

NAME = "iris"
LENGTH = "petal length (cm)"


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pl.DataFrame]:
    """The iris table, with a registered model that has learnt to predict its species."""
    folder = tmp_path_factory.mktemp("iris")
    table = pl.from_pandas(datasets.load_iris(as_frame=True).frame)
    write_parts(table, folder / "prepared")
    with track_in(folder, "iris"):
        train(
            folder / "prepared",
            folder / "model",
            folder / "holdout",
            task="classification",
            target="target",
            hyperparameters={"max_iterations": 5, "early_stopping": False},
        )
        register(folder / "model", NAME)
        yield table.drop("target")


def write_parts(table: pl.DataFrame, folder: Path) -> Path:
    """Write a table as prep does, and return its folder."""
    folder.mkdir()
    table.write_parquet(folder / "part-00000.parquet", metadata={"keys": "[]"})
    return folder


@pytest.fixture
def in_millimetres(iris: pl.DataFrame, tmp_path: Path) -> Path:
    """The parts of iris, with one length in another unit."""
    return write_parts(iris.with_columns(pl.col(LENGTH) * 10), tmp_path / "prepared")


def test_drift_stops_the_run_only_if_the_settings_say_so(
    in_millimetres: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor(in_millimetres, tmp_path / "warned", model_name=NAME)
    warned = capsys.readouterr().out
    assert f"note: drift: '{LENGTH}'" in warned
    assert "150 rows compared with version 1: drift in" in warned.splitlines()[-1]

    with pytest.raises(MonitorError) as error:
        monitor(in_millimetres, tmp_path / "stopped", model_name=NAME, on_drift="stop")
    message = str(error.value)
    assert f"('{LENGTH}')" in message
    assert "Nothing is scored, because monitoring.on_drift is 'stop'" in message
    assert "--set on_drift=warn" in message
    # The page that the message names is there, and the figures are in MLflow.
    assert LENGTH in (tmp_path / "stopped" / "report.html").read_text("utf-8")
    stopped = json.loads((tmp_path / "stopped" / "drift.json").read_text("utf-8"))
    logged = mlflow.last_active_run().data.metrics
    psi = stopped["features"][LENGTH]["psi"]
    assert logged["psi petal length _cm_"] == psi > 0.2


def test_unchanged_data_does_not_stop_the_run(
    iris: pl.DataFrame, tmp_path: Path
) -> None:
    parts = write_parts(iris.head(75).vstack(iris.tail(75)), tmp_path / "prepared")
    monitor(parts, tmp_path / "report", model_name=NAME, on_drift="stop")


def test_drift_of_an_ignored_feature_does_not_stop_the_run(
    iris: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The trees of this model do not look at the feature, so its predictions stay the same.
    moved = iris.with_columns(pl.col("sepal width (cm)") + 5)
    parts = write_parts(moved, tmp_path / "prepared")
    ignore = ["sepal width (cm)", "sepal widht (cm)"]
    monitor(parts, tmp_path / "report", model_name=NAME, on_drift="stop", ignore=ignore)
    lines = capsys.readouterr().out.splitlines()
    notes = [line for line in lines if line.startswith("note: monitoring.ignore")]
    assert len(notes) == 1
    assert "names 'sepal widht (cm)', which is not a feature of the model." in notes[0]
    assert lines[-1].endswith("no drift in 3 features")


def test_model_without_a_profile_is_scored_with_a_note(
    in_millimetres: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "older"
    shutil.copytree(mlflow.artifacts.download_artifacts(f"models:/{NAME}/1"), folder)
    (folder / "profile.json").unlink()
    register(folder, "older")

    monitor(in_millimetres, tmp_path / "report", model_name="older", on_drift="stop")

    lines = capsys.readouterr().out.splitlines()
    assert (
        "note: older, version 1, was saved without a profile of its training"
        in lines[-2]
    )
    assert lines[-2].endswith("Train again to get one.")
    assert lines[-1] == "not compared with the training data"
    written = json.loads((tmp_path / "report" / "drift.json").read_text("utf-8"))
    assert written["summary"] == lines[-1]
    # The step summarize reads these, too.
    assert (written["model"], written["version"], written["rows"]) == (
        "older",
        "1",
        150,
    )
