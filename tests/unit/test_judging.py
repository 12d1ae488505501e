"""Test how models are judged: metrics, intervals, the baseline, and the gate.

The tests call the functions of the steps on drawn rows, without a generated project.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import jackknife
import mlflow
import model_metrics
import numpy as np
import polars as pl
import prep_changes
import pytest
import register
import train
from baseline import fit_baseline
from difference import estimate_standard_error
from model_files import ModelDescription, save_model
from model_metrics import METRICS, CannotCompute, Predictions, compute_metric
from scipy import stats
from sklearn import metrics
from split import Split
from step_tracking import track_in

from benchmarks import gate

THREE_CLASSES = gate.Data(300, 1, (0.5, 0.3, 0.2))
RARE_CLASS = gate.Data(300, 1, (0.9, 0.1))
NUMBERS = gate.Data(300)
CASES = [
    pytest.param(data, metric, id=f"{metric.name}, {name}")
    for name, data in (
        ("three classes", THREE_CLASSES),
        ("rare class", RARE_CLASS),
        ("numbers", NUMBERS),
    )
    for metric in data.metrics
]


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow write to a temporary folder."""
    with track_in(tmp_path_factory.mktemp("mlruns"), "judging"):
        yield


# Metrics and intervals


def select(predictions: Predictions, rows: Any) -> Predictions:
    """Return the predictions of some rows."""
    if predictions.probabilities is None:
        return Predictions(predictions.values[rows])
    return Predictions(predictions.values[rows], predictions.probabilities[rows])


@pytest.mark.parametrize(("data", "metric"), CASES)
def test_metric_without_a_block_is_the_metric_of_the_other_rows(
    data: gate.Data, metric: Any
) -> None:
    rows = gate.draw_rows(np.random.default_rng(0), data, [1.0], 0.5)
    block_of_row = np.random.default_rng(1).integers(20, size=len(rows.target))
    computed = jackknife.compute_leaving_out_each_block(
        metric.name, rows.target, rows.models[0], block_of_row
    )
    expected = [
        compute_metric(
            metric.name,
            rows.target[block_of_row != block],
            select(rows.models[0], block_of_row != block),
        )
        for block in range(20)
    ]
    assert computed == pytest.approx(expected)


def test_r2_is_undefined_if_the_target_varies_in_a_single_block() -> None:
    block_of_row = np.arange(200) % 50
    target = np.full(200, 0.1)
    target[block_of_row == 7] = [1.3, 2.7, 0.9, 3.3]
    predictions = Predictions(target + np.random.default_rng(0).normal(size=200))
    values = jackknife.compute_leaving_out_each_block(
        "r2", target, predictions, block_of_row
    )
    assert np.flatnonzero(~np.isfinite(values)).tolist() == [7]


def test_metrics_are_those_of_scikit_learn() -> None:
    rows = gate.draw_rows(np.random.default_rng(0), THREE_CLASSES, [1.0], 0.5)
    target, predictions = rows.target, rows.models[0]
    probabilities: Any = predictions.probabilities
    values = {
        metric.name: compute_metric(metric.name, target, predictions)
        for metric in METRICS["classification"]
    }
    assert values == pytest.approx(
        {
            "log_loss": metrics.log_loss(target, probabilities),
            "roc_auc": metrics.roc_auc_score(target, probabilities, multi_class="ovr"),
            "average_precision": metrics.average_precision_score(target, probabilities),
            "f1_macro": metrics.f1_score(target, predictions.values, average="macro"),
            "balanced_accuracy": metrics.balanced_accuracy_score(
                target, predictions.values
            ),
            "accuracy": metrics.accuracy_score(target, predictions.values),
        }
    )


def test_many_different_probabilities_keep_their_order() -> None:
    """Intervals of large tables put similar probabilities together."""
    data = gate.Data(40_000, 1, (0.9, 0.1))
    rows = gate.draw_rows(np.random.default_rng(0), data, [1.0], 0.5)
    blocks = np.arange(40_000) % 50
    for name in ("roc_auc", "average_precision"):
        without = jackknife.compute_leaving_out_each_block(
            name, rows.target, rows.models[0], blocks
        )
        value = compute_metric(name, rows.target, rows.models[0])
        assert without.mean() == pytest.approx(value, rel=2e-3)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(gate.Data(200, 1, (0.6, 0.4)), id="rows"),
        pytest.param(gate.Data(60, 5, (0.6, 0.4)), id="groups of rows"),
        pytest.param(gate.Data(60, 5), id="groups of numbers"),
    ],
)
def test_intervals_contain_the_true_difference(data: gate.Data) -> None:
    """`python benchmarks/gate.py` shows it with more rounds and more kinds of data."""
    for name, share in gate.measure_coverage(data, 150).items():
        assert 0.88 <= share <= 1, name  # of 150 rounds, one of 10,000 is below


def test_standard_error_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).normal(size=200)
    without_each_value = (values.sum() - values) / 199
    error = estimate_standard_error(without_each_value)
    assert error.value == pytest.approx(stats.sem(values))
    assert 150 < error.degrees_of_freedom <= 199
    assert error.multiply_by_quantile(0.975) == pytest.approx(
        1.97 * stats.sem(values), rel=0.01
    )


def test_standard_error_that_a_few_rows_cause_is_less_certain() -> None:
    values = np.random.default_rng(0).normal(size=200)
    values[:5] += 30
    error = estimate_standard_error((values.sum() - values) / 199)
    assert 5 < error.degrees_of_freedom < 15
    assert error.multiply_by_quantile(0.975) > 2.1 * error.value
    # Two models that predict the same are no reason to divide by 0.
    assert estimate_standard_error(np.zeros(200)).value == 0


def test_metric_that_cannot_be_computed_is_explained() -> None:
    same_class = np.zeros(40, int)
    certain = Predictions(same_class, np.tile([0.9, 0.1], (40, 1)))
    with pytest.raises(CannotCompute, match="all rows are of one class"):
        compute_metric("roc_auc", same_class, certain)
    with pytest.raises(CannotCompute, match="the target is 0 in some rows"):
        compute_metric("mape", np.array([0.0, 1.0]), Predictions(np.array([1.0, 1.0])))
    with pytest.raises(CannotCompute, match="the same value in all rows"):
        compute_metric("r2", np.ones(9), Predictions(np.arange(9.0)))


# The gate


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(gate.Data(500, 1, (0.6, 0.4)), id="classes"),
        pytest.param(gate.Data(500), id="numbers"),
    ],
)
def test_equal_models_are_rarely_refused(data: gate.Data) -> None:
    metric = data.metrics[0]
    assert gate.share_refused_of_equal(data, [metric], 20)[metric.name] <= 0.08


@pytest.mark.parametrize(
    ("verdict", "is_far_better", "reference"),
    [
        ("no worse", False, "3"),
        ("within the margin", False, "3"),
        ("better", False, "3"),
        ("better", True, None),
        ("worse", False, None),
    ],
    ids=["no worse", "within the margin", "perhaps lucky", "far better", "by force"],
)
def test_only_a_model_that_is_far_better_replaces_the_reference(
    verdict: str, is_far_better: bool, reference: str | None
) -> None:
    comparison_by = {"becomes_reference": is_far_better}
    registered = {"version": "3", "verdict": verdict, "comparison": comparison_by}
    assert register.choose_reference({"registered": registered}) == reference


def test_many_small_losses_do_not_add_up() -> None:
    data = gate.Data(3000, 1, (0.6, 0.4))
    options: dict[str, Any] = {"loss_each_time": 0.02, "rounds": 5}
    accuracy = data.metrics[-1]
    now = gate.retrain(data, [accuracy], margin=0.05, **options)
    before = gate.retrain(data, [accuracy], margin=0, keep_reference=False, **options)
    assert now["accuracy"].most_lost <= 0.05
    assert before["accuracy"].mean_lost > 2 * now["accuracy"].mean_lost


def test_model_is_refused_only_if_it_is_worse_than_the_margin() -> None:
    data = gate.Data(20_000)
    rows = gate.draw_rows(np.random.default_rng(0), data, [1, 0.99, 0.9], 0.8)
    rmse = data.metrics[0]
    assert gate.compare(rmse, rows, 1, 0).verdict == "worse"
    assert gate.compare(rmse, rows, 1, 0, margin=0.02).verdict == "within the margin"
    assert gate.compare(rmse, rows, 2, 0, margin=0.02).verdict == "worse"
    better = gate.compare(rmse, rows, 0, 2, margin=0.02)
    assert better.verdict == "better"
    assert better.becomes_reference


# From training to registration


def draw_table(rows: int, signal: float, seed: int = 0) -> pl.DataFrame:
    """Draw rows of which the class `y` depends on `x`, the more the larger `signal` is."""
    random = np.random.default_rng(seed)
    x = random.normal(size=rows)
    score = signal * x + random.logistic(size=rows)
    return pl.DataFrame(
        {
            "id": random.integers(2**53, size=rows),
            "x": x,
            "z": random.normal(size=rows),
            "y": np.where(score > 0, "yes", "no"),
        }
    )


def run_training(
    table: pl.DataFrame,
    folder: Path,
    *,
    target: str = "y",
    task: str = "classification",
    metric: str = "default",
    rule: str = "unless_worse",
    schema: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train, evaluate and register as the pipeline does; return what was decided.

    `schema` is how prep says that it has read the data.
    """
    (folder / "prepared").mkdir(parents=True)
    metadata = None if schema is None else {"schema": json.dumps(schema)}
    table.write_parquet(folder / "prepared" / "part-00000.parquet", metadata=metadata)
    train.train(
        folder / "prepared",
        folder / "model",
        folder / "holdout",
        task=task,
        target=target,
        **{"keys": ["id"], "hyperparameters": {"max_iterations": 20}, **options},
    )
    name = f"model-{folder.parent.name}"
    evaluate.evaluate(
        folder / "model",
        folder / "holdout",
        folder / "evaluation",
        model_name=name,
        metric_name=metric,
    )
    register.register_if_allowed(
        folder / "model",
        folder / "evaluation",
        folder / "registration",
        model_name=name,
        rule=rule,
    )
    text = (folder / "registration" / "registration.json").read_text(encoding="utf-8")
    decision: dict[str, Any] = json.loads(text)
    return decision


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Return the figures that evaluate has written."""
    text = (folder / "evaluation" / "metrics.json").read_text(encoding="utf-8")
    evaluation: dict[str, Any] = json.loads(text)
    return evaluation


def test_first_model_must_beat_the_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = run_training(draw_table(400, signal=0), tmp_path / "noise")
    assert not noise["registered"]
    assert (
        "not better by more than chance than the baseline (class shares): log loss"
        in noise["reason"]
    )
    assert "to register it anyway: --set register=always" in noise["reason"]

    capsys.readouterr()
    learned = run_training(draw_table(400, signal=3), tmp_path / "learned")
    assert learned["version"] == "1"
    assert (
        "no model is registered yet, and the new model is better than the baseline"
        in (learned["reason"])
    )
    evaluation = read_evaluation(tmp_path / "learned")
    baseline = evaluation["baseline"]["metrics"]["log_loss"]
    assert baseline == pytest.approx(np.log(2), abs=0.03)
    assert f"(baseline: {baseline:.4g})" in capsys.readouterr().out
    page = (tmp_path / "learned/evaluation/report.html").read_text(encoding="utf-8")
    assert ">baseline (class shares)</th>" in page
    runs: Any = mlflow.search_runs()
    assert runs["metrics.baseline_log_loss"].max() > 0.6

    always = run_training(
        draw_table(400, signal=0, seed=1), tmp_path / "always", rule="always"
    )
    assert always["version"] == "2"


def test_few_held_out_rows_register_no_model(tmp_path: Path) -> None:
    decision = run_training(draw_table(30, signal=9), tmp_path / "few")
    assert not decision["registered"]
    assert "independent groups of rows are held out, and 10 are" in decision["reason"]


@pytest.mark.parametrize(
    ("metric", "task"),
    [(m.name, task) for task in METRICS for m in METRICS[task]],
)
def test_models_are_compared_by_the_metric_of_the_settings(
    metric: str, task: str, tmp_path: Path
) -> None:
    table = draw_table(400, signal=4)
    target = "y"
    if task == "regression":
        noise = np.random.default_rng(3).normal(size=400) / 3
        table = table.with_columns(y=pl.lit(5) + table["x"] + pl.Series(noise))
    for number in ("1", "2"):
        rows = table.sample(fraction=1 if number == "2" else 0.5, seed=0)
        decision = run_training(
            rows, tmp_path / number, target=target, task=task, metric=metric
        )
    comparison_by = decision["comparison"]
    assert comparison_by["metric"] == metric
    assert comparison_by["interval"][0] <= comparison_by["difference"]
    assert f"{model_metrics.find_metric(metric, task).title} " in decision["reason"]


def test_metric_of_another_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(evaluate.EvaluationError, match="training.metric .* log_loss"):
        run_training(draw_table(100, 3), tmp_path / "rmse", metric="rmse")


@pytest.fixture(scope="module")
def saved_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model of one feature as train does."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    features = pl.DataFrame({"x": [0.0, 1.0]}).to_pandas()
    target = pl.Series("y", ["no", "yes"]).to_pandas()
    baseline = fit_baseline(target, "classification", None)
    description = ModelDescription(
        task="classification",
        target="y",
        keys=[],
        split=Split(["x"], 0, 0.2),
        baseline=baseline.name,
    )
    pipeline = train.build_model(features, "classification", 0, 2).fit(features, target)
    save_model(pipeline, features, description, baseline, folder)
    return folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "task: classification",
            "task: clustering",
            "saved without a task \\(one of classification, regression\\): save it",
            id="unknown task",
        ),
        pytest.param(
            "target: y", "target: ''", "saved without the target:", id="no target"
        ),
        pytest.param(
            '"type": "double"',
            '"type": "long"',
            "cannot be loaded: in its signature, the column 'x' has the type long, which is not",
            id="unknown type",
        ),
        pytest.param(
            "python_version: 3",
            "python_version: 2",
            r"cannot be loaded: it was trained with Python 2\..* version of Python\.$",
            id="other Python",
        ),
        pytest.param(
            "\nsignature:", "\nno_signature:", "without a signature", id="no signature"
        ),
        pytest.param(None, "split.pkl", "without the file split.pkl:", id="no split"),
        pytest.param(
            None, "baseline.pkl", "without the file baseline.pkl:", id="no baseline"
        ),
        pytest.param(None, "model.pkl", "No such file", id="no pipeline"),
    ],
)
def test_message_explains_why_a_model_cannot_be_evaluated(
    old: str | None,
    new: str,
    message: str,
    saved_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Replace a text in the file MLmodel, or delete the file that `new` names."""
    folder = shutil.copytree(saved_folder, tmp_path / "model")
    if old is None:
        (folder / new).unlink()
    else:
        text = (folder / "MLmodel").read_text(encoding="utf-8")
        assert old in text
        (folder / "MLmodel").write_text(text.replace(old, new), encoding="utf-8")
    arguments = {
        "--model": folder,
        "--holdout": tmp_path,
        "--evaluation": tmp_path / "evaluation",
        "--model-name": "none",
    }
    argv = [str(text) for pair in arguments.items() for text in pair]
    monkeypatch.setattr("sys.argv", ["evaluate.py", *argv])
    with pytest.raises(SystemExit, match=f"^evaluate: .*{message}"):
        evaluate.main()


FIXED = {"early_stopping": False}  # Exactly so many trees are trained.


def test_reference_stays_until_a_model_is_better(tmp_path: Path) -> None:
    table = draw_table(1500, signal=2)
    client = mlflow.MlflowClient()
    name = f"model-{tmp_path.name}"
    options: dict[str, Any] = {"hyperparameters": {"max_iterations": 1, **FIXED}}
    assert run_training(table, tmp_path / "weak", **options)["version"] == "1"

    strong: dict[str, Any] = {"hyperparameters": {"max_iterations": 30, **FIXED}}
    assert run_training(table, tmp_path / "strong", **strong)["version"] == "2"
    assert "reference" not in client.get_model_version(name, "2").tags

    similar: dict[str, Any] = {"hyperparameters": {"max_iterations": 31, **FIXED}}
    decision = run_training(table, tmp_path / "similar", **similar)
    assert "than the registered version 2" in decision["reason"]
    assert client.get_model_version(name, "3").tags == {"reference": "2"}

    # It is compared with version 2 again, although version 3 is the newest.
    decision = run_training(table, tmp_path / "weaker", **options)
    assert not decision["registered"]
    reason = (
        "worse than the registered version 2 (no later version was clearly better) on"
    )
    assert reason in decision["reason"]
    again = run_training(table, tmp_path / "again", **similar)
    assert again["reason"] == (
        "the new model gives the same predictions as the registered version 3"
    )


def test_change_of_prep_is_in_the_reason_and_in_the_report(
    tmp_path: Path,
) -> None:
    schema: dict[str, Any] = {
        "code": "1234",
        "text_format": {"missing": ["n.v."]},
        "columns": {"x": {"type": "number"}, "z": {"type": "number"}},
    }
    decision = run_training(draw_table(400, 3), tmp_path / "first", schema=schema)
    assert "prep" not in decision["reason"]
    table = draw_table(600, 3)
    decision = run_training(table, tmp_path / "more rows", schema=schema)
    assert "prep" not in decision["reason"]

    changed: dict[str, Any] = {
        "code": "5678",
        "text_format": {"decimal": ","},
        "columns": {**schema["columns"], "z": {"type": "text"}},
    }
    fewer_trees: dict[str, Any] = {"hyperparameters": {"max_iterations": 10}}
    decision = run_training(table, tmp_path / "changed", schema=changed, **fewer_trees)
    assert (
        "prep has changed since version 1 was trained (the files of steps/prep,"
        " data.decimal, data.missing, the type of 'z'), so that version may have been"
        " evaluated on values that were prepared differently from its training data"
    ) in decision["reason"]
    page = (tmp_path / "changed/evaluation/report.html").read_text(encoding="utf-8")
    assert "prep has changed since version 1" in page


def test_model_without_a_record_of_prep_is_not_doubted() -> None:
    schema = {"code": "1", "text_format": {}, "columns": {"x": {"type": "number"}}}
    assert prep_changes.list_prep_changes(schema, {}, ["x"]) == []
    # A feature that features() in prep.py has added is no column of the raw data.
    assert prep_changes.list_prep_changes(schema, schema, ["x", "ratio"]) == []
    many_texts = {"columns": {name: {"type": "text"} for name in "abcde"}}
    many_dates = {"columns": {name: {"type": "date"} for name in "abcde"}}
    changes = prep_changes.list_prep_changes(many_texts, many_dates, list("abcde"))
    assert changes[-2:] == ["the type of 'c'", "the types of 2 more columns"]


def test_model_for_another_question_is_judged_by_the_baseline(tmp_path: Path) -> None:
    """Users meet this with the first model of their own data, after the sample's model."""
    table = draw_table(400, signal=3)
    assert run_training(table, tmp_path / "sample")["version"] == "1"
    table = table.rename({"y": "churned"})
    decision = run_training(table, tmp_path / "own", target="churned")
    assert decision["version"] == "2"
    assert "the registered version 1 predicts something else: it is a" in (
        decision["reason"]
    )
    assert "better than the baseline" in decision["reason"]
    hopeless = draw_table(400, signal=0).rename({"y": "left"})
    decision = run_training(hopeless, tmp_path / "hopeless", target="left")
    assert not decision["registered"]
