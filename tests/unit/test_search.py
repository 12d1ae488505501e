"""Test the search for hyperparameters: its tries, how it judges them, and its records.

The tests call the functions of the step train on small tables, without a generated project.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cross_validation
import evaluate
import joblib
import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
import search
import search_report
import train
from cross_validation import (
    CannotCompute,
    Fold,
    assign_fold_numbers,
    cross_validate,
    list_folds,
)
from search import Search, SearchResult, Try, draw_candidates, read_search
from sklearn import metrics
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from split import Split, TimeSplit
from step_tracking import track_in
from training_rows import DataError

SPACE = {
    "learning_rate": {"low": 0.01, "high": 0.3, "log": True},
    "max_leaf_nodes": {"low": 3, "high": 9},
    "l2_regularization": [0, 1.5, None],
}
FEW_TREES = {"max_iterations": 5}


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow write to a temporary folder, and tries run in threads.

    Each process would have to import scikit-learn first.
    """
    with (
        track_in(tmp_path_factory.mktemp("mlruns"), "search"),
        joblib.parallel_config("threading"),
    ):
        yield


# What is tried


def test_first_try_has_the_values_of_settings_and_no_try_is_repeated() -> None:
    hyperparameters = {"max_iterations": 200, "learning_rate": 0.1}
    candidates = draw_candidates(Search("rmse", 60, SPACE), hyperparameters, seed=1)
    assert candidates[0] == hyperparameters
    assert len({str(candidate) for candidate in candidates}) == 60
    drawn = candidates[1:]
    assert {candidate["max_iterations"] for candidate in drawn} == {200}
    leaves = {candidate["max_leaf_nodes"] for candidate in drawn}
    assert leaves == set(range(3, 10))
    assert all(isinstance(number, int) for number in leaves)
    assert {candidate["l2_regularization"] for candidate in drawn} == {0, 1.5, None}
    rates = [candidate["learning_rate"] for candidate in drawn]
    assert 0.01 <= min(rates) < 0.02 and 0.2 < max(rates) <= 0.3
    # By their logarithms, this is the middle between 0.01 and 0.3.
    assert 0.035 < np.median(rates) < 0.085


def test_longer_search_goes_on_where_a_shorter_one_ended() -> None:
    short = draw_candidates(Search("rmse", 5, SPACE), {}, seed=7)
    long = draw_candidates(Search("rmse", 12, SPACE), {}, seed=7)
    assert long[:5] == short
    assert draw_candidates(Search("rmse", 5, SPACE), {}, seed=8)[1:] != short[1:]


def test_small_space_is_tried_completely() -> None:
    space = {"max_leaf_nodes": [4, 8], "learning_rate": [0.1, 0.2]}
    candidates = draw_candidates(Search("rmse", 50, space), {"learning_rate": 0.1}, 1)
    pairs = {(c.get("max_leaf_nodes"), c["learning_rate"]) for c in candidates}
    assert pairs == {(None, 0.1), (4, 0.1), (4, 0.2), (8, 0.1), (8, 0.2)}


# How a try is judged


def draw_table(rows: int = 300) -> tuple[pd.DataFrame, pd.Series, Any]:
    """Draw features with noise, and numbers that depend on them, and five folds."""
    random = np.random.default_rng(0)
    features = pd.DataFrame(random.normal(size=(rows, 3)), columns=["a", "b", "c"])
    numbers = 10 + features.a - features.b**2 + random.normal(size=rows)
    return features, numbers, random.integers(5, size=rows)


@pytest.mark.parametrize("count", [2, 3])
def test_metrics_of_classes_are_those_of_scikit_learn(count: int) -> None:
    features, numbers, folds = draw_table()
    answers = pd.Series(np.array(["x", "y", "z"])[pd.qcut(numbers, count).cat.codes])
    model = LogisticRegression()
    by_fold = {"cv": PredefinedSplit(folds), "X": features, "y": answers}
    shares = cross_val_predict(model, method="predict_proba", **by_fold)
    predicted = cross_val_predict(model, **by_fold)
    one_hot = pd.get_dummies(answers).to_numpy()
    # Of two classes with as many rows, the second one is judged, as in the evaluation.
    second = one_hot[:, 1], shares[:, 1]
    expected = {
        "log_loss": metrics.log_loss(answers, shares),
        "roc_auc": metrics.roc_auc_score(*second),
        "average_precision": metrics.average_precision_score(*second),
        "f1_macro": metrics.f1_score(answers, predicted, average="macro"),
        "balanced_accuracy": metrics.balanced_accuracy_score(answers, predicted),
        "accuracy": metrics.accuracy_score(answers, predicted),
    }
    if count == 3:
        expected["roc_auc"] = metrics.roc_auc_score(one_hot, shares)
        expected["average_precision"] = metrics.average_precision_score(one_hot, shares)
    masks = [Fold(folds != fold, folds == fold) for fold in range(5)]
    for metric, value in expected.items():
        judged = cross_validate(
            model, features, answers, masks, "classification", metric
        )
        assert judged == pytest.approx(value, rel=1e-9), metric


def test_metrics_of_numbers_are_those_of_scikit_learn() -> None:
    features, answers, folds = draw_table()
    model = LinearRegression()
    predicted = cross_val_predict(model, features, answers, cv=PredefinedSplit(folds))
    expected = {
        "rmse": metrics.root_mean_squared_error(answers, predicted),
        "mae": metrics.mean_absolute_error(answers, predicted),
        "mape": metrics.mean_absolute_percentage_error(answers, predicted),
        "r2": metrics.r2_score(answers, predicted),
    }
    masks = [Fold(folds != fold, folds == fold) for fold in range(5)]
    for metric, value in expected.items():
        judged = cross_validate(model, features, answers, masks, "regression", metric)
        assert judged == pytest.approx(value, rel=1e-9), metric


def test_class_that_a_fold_has_not_learned_counts_as_not_predicted() -> None:
    features, _, folds = draw_table()
    answers = pd.Series(np.where(features.a > 0, "x", "y"))
    answers[7] = "rare"
    masks = [Fold(folds != fold, folds == fold) for fold in range(5)]
    for metric in cross_validation.METRICS["classification"]:
        value = cross_validate(
            LogisticRegression(), features, answers, masks, "classification", metric
        )
        assert np.isfinite(value)


def test_rows_of_a_group_are_in_one_fold() -> None:
    rows = pl.DataFrame({"customer": np.repeat(np.arange(60), 5), "y": range(300)})
    split = Split(["customer"], 1, 0.2)
    numbers = assign_fold_numbers(rows, split)
    folds = list_folds(rows, numbers, split)
    assert len(folds) == 5
    assert np.sum([fold.test for fold in folds], axis=0).tolist() == [1] * 300
    for fold in folds:
        fitted = set(rows["customer"].filter(fold.train))
        assert not fitted & set(rows["customer"].filter(fold.test))


def test_with_a_holdout_by_time_later_rows_are_predicted_from_earlier_ones() -> None:
    start = datetime.date(2024, 1, 1)
    days = [start + datetime.timedelta(day) for day in range(100)]
    rows: Any = pl.DataFrame({"day": [*days, None], "y": range(101)}).sample(
        fraction=1, shuffle=True, seed=0
    )
    split = TimeSplit(["y"], 1, "day", "2024-06-01")
    folds = list_folds(rows, assign_fold_numbers(rows, split), split)
    assert [int(fold.test.sum()) for fold in folds] == [19, 20, 21]
    for fold in folds:
        assert (
            rows["day"].filter(fold.train).max() < rows["day"].filter(fold.test).min()
        )
        assert rows["day"].filter(fold.train).null_count() == 1


def test_figures_that_mean_nothing_are_refused() -> None:
    features, answers, folds = draw_table()
    masks = [Fold(folds != 0, folds == 0)]
    model = LinearRegression()
    answers[:] = np.arange(300) % 3
    with pytest.raises(CannotCompute, match="0 in some rows"):
        cross_validate(model, features, answers, masks, "regression", "mape")
    with pytest.raises(CannotCompute, match="same value in all rows"):
        one_row = [Fold(folds < 9, np.arange(300) == 7)]
        cross_validate(model, features, answers, one_row, "regression", "r2")
    with pytest.raises(CannotCompute, match="each fold has no test row"):
        nothing = [Fold(folds < 9, folds == 9)]
        cross_validate(model, features, answers, nothing, "regression", "rmse")


def test_metrics_are_those_of_the_evaluation() -> None:
    import model_metrics

    for task, names in cross_validation.METRICS.items():
        judged_by = model_metrics.METRICS[task]
        assert names == [metric.name for metric in judged_by]
        lower = {metric.name for metric in judged_by if not metric.higher_is_better}
        assert lower == set(names) & cross_validation.LOWER_IS_BETTER


# A search in the step


def write_table(folder: Path) -> Path:
    """Write a table as prep does, and return its folder."""
    features, numbers, _ = draw_table()
    folder.mkdir(parents=True, exist_ok=True)
    table = pl.from_pandas(features.assign(y=numbers))
    table.write_parquet(folder / "part-00000.parquet")
    return folder


def train_with(folder: Path, described: dict[str, Any], **options: Any) -> Any:
    """Train with a search, as settings.yml describes it; return the saved search."""
    settings: dict[str, Any] = {"hyperparameters": FEW_TREES, **options}
    train.train(
        write_table(folder / "prepared"),
        folder / "model",
        folder / "holdout",
        task="regression",
        target="y",
        search=read_search(
            json.dumps({"metric": "default", **described}), "regression"
        ),
        **settings,
    )
    return json.loads((folder / "model" / "search.json").read_text(encoding="utf-8"))


def find_children() -> list[Any]:
    """Return the nested runs of the newest run of the step, oldest first."""
    runs = mlflow.search_runs(order_by=["start_time DESC"], output_format="list")
    parent = next(run for run in runs if "training_rows" in run.data.metrics)
    return [
        run
        for run in reversed(runs)
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]


def test_best_try_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"learning_rate": [0.001, 0.5]}
    saved = train_with(tmp_path, {"tries": 3, "space": space})
    printed = capsys.readouterr().out
    assert saved["tries"][0]["hyperparameters"] == FEW_TREES
    best = saved["tries"][saved["best"]]
    assert best["hyperparameters"] == {"max_iterations": 5, "learning_rate": 0.5}
    assert best["score"] == min(t["score"] for t in saved["tries"])
    model = mlflow.sklearn.load_model(tmp_path / "model")
    assert model[-1].learning_rate == 0.5
    assert "note: the best of 3 tries has learning_rate = 0.5. With these" in printed
    assert "progress: 3 of 3 tries, best rmse" in printed

    evaluate.evaluate(
        tmp_path / "model", tmp_path / "holdout", tmp_path / "report", model_name="m"
    )
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    _, _, section = page.partition("<h2>Search for hyperparameters</h2>")
    assert "3 tries were compared by rmse" in section
    assert section.index("0.5") < section.index("settings.yml") < section.index("0.001")
    assert "The one with the values of settings.yml is orange." in page

    children = find_children()
    assert len(children) == 3
    assert {run.data.params.get("learning_rate") for run in children} == {
        None,
        "0.001",
        "0.5",
    }
    scores = sorted(run.data.metrics["cv_rmse"] for run in children)
    assert scores == sorted(t["score"] for t in saved["tries"])
    parent = mlflow.get_run(children[0].data.tags["mlflow.parentRunId"])
    assert parent.data.params["learning_rate"] == "0.5"
    assert parent.data.metrics["cv_rmse"] == best["score"]


def test_interrupted_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    described = {"tries": 6, "space": {"learning_rate": {"low": 0.1, "high": 0.5}}}
    # No other test has tried these, so none of its tries are found.
    options: dict[str, Any] = {"hyperparameters": {"max_iterations": 4}}
    record = search._record_try
    recorded: list[Try] = []

    def record_three(result: Try, metric: str, fingerprint: str) -> None:
        if len(recorded) == 3:
            raise KeyboardInterrupt
        record(result, metric, fingerprint)
        recorded.append(result)

    with monkeypatch.context() as patch:
        patch.setattr(search, "_record_try", record_three)
        with pytest.raises(KeyboardInterrupt):
            train_with(tmp_path / "first", described, **options)
    mlflow.end_run()

    capsys.readouterr()
    resumed = train_with(tmp_path / "second", described, **options)
    assert (
        "note: 3 of 6 tries are taken from an earlier search."
        in capsys.readouterr().out
    )
    assert len(find_children()) == 3

    # Another seed makes other folds, and other models.
    with_other_seed = train_with(tmp_path / "third", described, seed=7, **options)
    assert len(find_children()) == 6
    assert "earlier search" not in capsys.readouterr().out
    scores = [result["score"] for result in resumed["tries"]]
    assert len(scores) == 6
    assert scores != [result["score"] for result in with_other_seed["tries"]]


def test_no_try_begins_after_the_minutes_have_passed(tmp_path: Path) -> None:
    described = {"tries": 50, "minutes": 1e-9, "space": {"learning_rate": [0.2, 0.3]}}
    saved = train_with(tmp_path, described)
    assert len(saved["tries"]) == 1
    assert saved["best"] == 0


def test_try_that_fails_is_recorded_and_the_others_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"loss": ["squared_eror", "absolute_error"]}
    saved = train_with(tmp_path, {"tries": 3, "space": space})
    (failed,) = (t for t in saved["tries"] if t["score"] is None)
    assert failed["hyperparameters"]["loss"] == "squared_eror"
    assert "must be a str among" in failed["error"]
    errors = [run.data.tags.get("error", "") for run in find_children()]
    assert sum("squared_eror" in error for error in errors) == 1
    assert (
        "note: 1 of 3 tries failed. The first error was DataError"
        in capsys.readouterr().out
    )


def test_wrong_names_of_hyperparameters_are_all_named(tmp_path: Path) -> None:
    hyperparameters = {"learnin_rate": 0.1, "max_leaf_node": 4, "random_state": 1}
    folder = write_table(tmp_path / "prepared")
    with pytest.raises(DataError) as error:
        train.train(
            folder,
            tmp_path / "model",
            tmp_path / "holdout",
            task="regression",
            target="y",
            hyperparameters=hyperparameters,
        )
    assert str(error.value) == (
        "training.hyperparameters names learnin_rate, which build_model in"
        " steps/train/train.py does not take: write learning_rate."
        " training.hyperparameters names max_leaf_node, which build_model in"
        " steps/train/train.py does not take: write max_leaf_nodes."
        " training.hyperparameters names random_state, which build_model in"
        " steps/train/train.py does not take: delete it."
    )


@pytest.mark.parametrize("classifier", [LinearSVC(), RidgeClassifier()], ids=repr)
def test_classifier_without_probabilities_is_refused(
    classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = pd.DataFrame({"x": np.arange(40.0)})
    target = pd.Series(np.repeat(["a", "b"], 20))
    data = train.TrainingData(
        features, target, "classification", seed=0, fold_numbers=np.zeros(40, int)
    )
    monkeypatch.setattr(train, "build_model", lambda *_: make_pipeline(classifier))
    with pytest.raises(DataError, match=r"no method predict_proba.*CalibratedClassif"):
        train.fit_model(data, {})

    # The advice of the message works.
    calibrated = make_pipeline(CalibratedClassifierCV(classifier))
    monkeypatch.setattr(train, "build_model", lambda *_: calibrated)
    assert train.fit_model(data, {}).predict_proba(features).shape == (40, 2)


def test_wrong_names_in_the_space_are_all_named(tmp_path: Path) -> None:
    space = {"learning_rat": [0.1], "max_iteration": {"low": 5, "high": 9}, "zzz": [1]}
    with pytest.raises(DataError) as error:
        train_with(tmp_path, {"tries": 3, "space": space})
    message = str(error.value)
    assert "names learning_rat, which build_model" in message
    assert "does not take: write learning_rate." in message
    assert "write max_iterations." in message
    assert "names zzz, which" in message and message.endswith("delete it.")


def test_note_says_that_no_try_is_better() -> None:
    tries = [Try({"a": 1}, 0.5, 1.0), Try({"a": 2}, 0.5, 1.0), Try({"a": 3}, None, 1.0)]
    text, failed = search.describe_search(SearchResult("accuracy", True, tries, 0))
    assert text.startswith("no other try is better than training.hyperparameters")
    assert text.endswith(
        "with which accuracy is 0.5 in cross-validation (3 tries in total)."
    )
    assert failed.startswith("1 of 3 tries failed")


def test_report_shows_a_search_in_which_only_the_first_try_succeeded() -> None:
    tries = [
        {"hyperparameters": {"a": 1}, "score": 0.5},
        {"hyperparameters": {"a": 1, "b": 2}, "score": None},
    ]
    saved = {"metric": "rmse", "higher_is_better": False, "tries": tries, "best": 0}
    assert search_report.draw_search(saved) is None
    assert "1 of the tries failed." in search_report.render_search(saved)


# A metric without a value


def test_metric_that_cannot_judge_the_tries_is_explained(tmp_path: Path) -> None:
    """Use a table with a 0 in its target, by which mape would divide."""
    space = {"learning_rate": [0.2]}
    folder = tmp_path / "prepared"
    folder.mkdir()
    table = pl.DataFrame({"x": range(300), "y": [float(x % 7) for x in range(300)]})
    table.write_parquet(folder / "part-00000.parquet")
    with pytest.raises(DataError) as error:
        train.train(
            folder,
            tmp_path / "model",
            tmp_path / "holdout",
            task="regression",
            target="y",
            hyperparameters=FEW_TREES,
            search=Search("mape", 2, space),
        )
    assert str(error.value) == (
        "training.search cannot compare its tries by mape: the target is 0 in some rows,"
        " and mape divides by it. Choose another training.metric, or delete training.search, in"
        " settings.yml."
    )


def test_error_of_mlflow_is_not_blamed_on_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise mlflow.MlflowException("no space is left")

    monkeypatch.setattr(search, "_record_try", refuse)
    described = {"tries": 2, "space": {"learning_rate": [0.2]}}
    with pytest.raises(mlflow.MlflowException, match="^no space is left"):
        train_with(tmp_path, described, hyperparameters={"max_iterations": 3})
    mlflow.end_run()


def test_wrong_values_of_settings_are_explained(tmp_path: Path) -> None:
    described = {"tries": 2, "space": {"learning_rate": [0.2]}}
    with pytest.raises(
        DataError, match="^The model cannot be trained: .*learning_rate"
    ):
        train_with(tmp_path, described, hyperparameters={"learning_rate": -1})
    mlflow.end_run()


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_first_try_without_a_number_is_not_the_best(score: float) -> None:
    """Candidates are numbers, which are their own scores. The first one is not finite."""
    candidates = [{"a": score}, {"a": 1.0}]
    options: dict[str, Any] = {"fingerprint": f"not finite {score}", "rows": 10}
    with mlflow.start_run(), pytest.raises(CannotCompute, match="not a finite number"):
        search.run_search(
            Search("r2", 2, {"a": [1.0]}), candidates, lambda c: c["a"], **options
        )
    with mlflow.start_run():
        result = search.run_search(
            Search("r2", 2, {"a": [1.0]}), candidates[::-1], lambda c: c["a"], **options
        )
    assert result.best == 0
    assert result.tries[1].score is None
    assert "not a finite number" in result.tries[1].error
