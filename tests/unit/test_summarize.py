"""Test the summary of the predictions: its figures, its page, and missing rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import datasets
from sklearn.linear_model import LinearRegression, LogisticRegression
from step_tracking import track_in
from summarize import SummaryError, summarize

NO_DRIFT = "150 rows compared with version 3: no drift in 4 features"


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow write to a temporary folder."""
    with track_in(tmp_path_factory.mktemp("tracking"), "summaries"):
        yield


@pytest.fixture(scope="module")
def wines() -> pd.DataFrame:
    """Predictions of scikit-learn's table of wines, with their probabilities."""
    features, target = datasets.load_wine(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=50).fit(features[["alcohol"]], target)
    table = pd.DataFrame({"row": range(len(features))})
    table["prediction"] = "class " + pd.Series(
        model.predict(features[["alcohol"]])
    ).astype(str)
    for number, column in enumerate(model.predict_proba(features[["alcohol"]]).T):
        table[f"probability_class {number}"] = column
    return table


@pytest.fixture(scope="module")
def diabetes() -> pd.DataFrame:
    """Predictions of scikit-learn's table of diabetes, which are numbers."""
    features, target = datasets.load_diabetes(return_X_y=True)
    predicted = LinearRegression().fit(features, target).predict(features)
    return pd.DataFrame({"row": range(len(features)), "prediction": predicted})


def write_predictions(table: pd.DataFrame, folder: Path, kind: str = "parquet") -> Path:
    """Write predictions in parts as score does, and return their folder."""
    folder.mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(table)), 3)):
        part = pl.from_pandas(table.iloc[rows])
        file = folder / f"part-{number:05}.{kind}"
        part.write_csv(file) if kind == "csv" else part.write_parquet(file)
    return folder


def write_drift_report(
    folder: Path, rows: int, summary: str = NO_DRIFT, drift: tuple[str, ...] = ()
) -> Path:
    """Write the result of monitor, and return its folder."""
    folder.mkdir()
    contents = {
        "model": "wines",
        "version": "3",
        "rows": rows,
        "summary": summary,
        "drift": drift,
    }
    (folder / "drift.json").write_text(json.dumps(contents), encoding="utf-8")
    return folder


def sum_up(
    table: pd.DataFrame,
    folder: Path,
    task: str,
    kind: str = "parquet",
    **monitored: Any,
) -> Any:
    """Return the summary of predictions as JSON."""
    predictions = write_predictions(table, folder / "predictions", kind)
    monitored = {"rows": len(table), **monitored}
    drift_report = write_drift_report(folder / "drift_report", **monitored)
    summarize(predictions, drift_report, folder / "summary", task=task)
    # The step writes nothing into the folder of the predictions.
    assert {file.suffix for file in predictions.iterdir()} == {f".{kind}"}
    text = (folder / "summary" / "summary.json").read_text(encoding="utf-8")
    return json.loads(text)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_summary_counts_the_predicted_classes(
    wines: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    summary = sum_up(wines, tmp_path, "classification", kind)

    counts = wines["prediction"].value_counts()
    shares = counts / len(wines)
    assert [(group["label"], group["rows"]) for group in summary["classes"]] == [
        *counts.items()
    ]
    assert [group["share"] for group in summary["classes"]] == pytest.approx([*shares])
    top = wines.filter(like="probability_").max(axis=1).mean()
    assert summary["mean_top_probability"] == pytest.approx(top)
    assert (summary["model"], summary["version"]) == ("wines", "3")
    assert (summary["rows"], summary["rows_without_prediction"]) == (178, 0)
    assert (summary["monitor"], summary["drift"]) == (NO_DRIFT, [])
    out = capsys.readouterr().out
    most = f"{shares.iloc[0]:.1%} {counts.index[0]}"
    assert out.startswith(f"178 rows predicted by version 3: {most}, ")
    logged = mlflow.last_active_run().data.metrics
    assert logged[f"share {counts.index[0]}"] == pytest.approx(shares.iloc[0])
    assert logged["rows"] == 178
    page = (tmp_path / "summary" / "report.html").read_text(encoding="utf-8")
    assert f"{top:.1%}" in page
    assert NO_DRIFT in page


def test_shares_of_classes_are_logged_whatever_the_classes_are_called(
    tmp_path: Path,
) -> None:
    labels = ["km/", "a//b", "x" * 300]
    table = pd.DataFrame(
        {
            "prediction": labels,
            **{f"probability_{label}": [0.4, 0.3, 0.3] for label in labels},
        }
    )

    sum_up(table, tmp_path, "classification")

    logged = mlflow.last_active_run().data.metrics
    shares = [name for name in logged if name.startswith("share ")]
    assert sorted(shares) == ["share a__b", "share km_", f"share {'x' * 244}"]


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_summary_describes_the_predicted_numbers(
    diabetes: pd.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    summary = sum_up(diabetes, tmp_path, "regression", kind)

    described = diabetes["prediction"].describe()
    for name, name_in_pandas in {
        "mean": "mean",
        "smallest": "min",
        "lower_quartile": "25%",
        "median": "50%",
        "upper_quartile": "75%",
        "largest": "max",
    }.items():
        assert summary[name] == pytest.approx(described[name_in_pandas])
    counts, _ = np.histogram(diabetes["prediction"], bins=20)
    assert [part["rows"] for part in summary["ranges"]] == [*counts]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line == (
        f"442 rows predicted by version 3: mean {described['mean']:.6g}, from"
        f" {described['min']:.6g} to {described['max']:.6g}"
    )


def test_summary_counts_rows_without_a_prediction(
    diabetes: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Leave out rows, as of files that failed, and predict no finite number for two."""
    predictions = diabetes.head(400).copy()
    predictions.loc[[3, 7], "prediction"] = [np.nan, np.inf]
    summary = sum_up(predictions, tmp_path, "regression", rows=442)

    assert (summary["rows"], summary["rows_without_prediction"]) == (398, 44)
    assert summary["largest"] == pytest.approx(
        diabetes["prediction"][:400].drop([3, 7]).max()
    )
    note, _ = capsys.readouterr().out.splitlines()
    assert note.startswith("note: 44 of 442 rows have no prediction.")
    page = (tmp_path / "summary" / "report.html").read_text(encoding="utf-8")
    assert "44 of 442 rows have no prediction" in page


@pytest.mark.parametrize("state", ["only missing", "no file", "another column"])
def test_step_fails_without_any_prediction(
    diabetes: pd.DataFrame, tmp_path: Path, state: str
) -> None:
    table = diabetes.assign(prediction=np.nan)
    if state == "another column":
        table = diabetes.rename(columns={"prediction": "predicted"})
    predictions = write_predictions(table, tmp_path / "predictions")
    if state == "no file":
        shutil.rmtree(predictions)
    drift_report = write_drift_report(tmp_path / "drift_report", rows=442)
    with pytest.raises(
        SummaryError, match="No row has a prediction in .*Look at the log"
    ):
        summarize(predictions, drift_report, tmp_path / "summary", task="regression")


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_step_fails_if_the_result_of_monitor_cannot_be_read(
    diabetes: pd.DataFrame, tmp_path: Path, text: str | None
) -> None:
    predictions = write_predictions(diabetes, tmp_path / "predictions")
    if text is not None:
        (tmp_path / "drift.json").write_text(text)
    with pytest.raises(SummaryError, match="The result of the step monitor cannot"):
        summarize(predictions, tmp_path, tmp_path / "summary", task="regression")


def test_names_of_classes_are_text_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names come from the data, and may have markup, line breaks, or digits alone."""
    names = ["<script>alert(1)</script>", "two\nlines", "007", "x" * 99, "^a.*$", "نعم"]
    table = pd.DataFrame({"probability_key": "a", "prediction": names})
    for name in names:
        table[f"probability_{name}"] = (table["prediction"] == name).astype(float)
    drift = ("'<b>': PSI 3.22, missing in 9% of the rows instead of 0%.",)
    summary = sum_up(
        table, tmp_path, "classification", "csv", summary="6 rows: drift", drift=drift
    )

    assert sorted(group["label"] for group in summary["classes"]) == sorted(names)
    assert summary["mean_top_probability"] == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line) < 200
    page = (tmp_path / "summary" / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "<b>" not in page
    assert "'&lt;b&gt;': PSI 3.22" in page.replace("&#x27;", "'")
