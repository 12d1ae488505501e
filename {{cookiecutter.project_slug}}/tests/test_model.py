"""Test train, evaluate, register and score on small tables.

These tests have a model of their own, so they do not depend on `build_model` in
steps/train/train.py. Your `build_model` is tested by tests/test_local_run.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OrdinalEncoder

from steps.evaluate import difference, evaluate, model_metrics, saved_model
from steps.register import register
from steps.score import score
from steps.train import train


def table(rows: int = 200) -> pd.DataFrame:
    """A class and a number that depend on a word, a number and a day."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "key": range(rows),
            "word": random.choice(["red", "blue", None], rows),
            "size": random.normal(size=rows),
            "is_new": random.choice([True, False, None], rows),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(range(rows), "D"),
        }
    )
    frame["class"] = np.where((frame["size"] > 0) | (frame.word == "red"), "a", "b")
    frame["amount"] = frame["size"] * 10 + (frame.word == "red")
    return frame


def build_trees(features: pd.DataFrame, task: str) -> Pipeline:
    """Return an untrained model for features that are numbers, dates and text."""
    trees = {
        "classification": HistGradientBoostingClassifier,
        "regression": HistGradientBoostingRegressor,
    }
    texts = list(features.select_dtypes("object"))
    numbers = list(features.select_dtypes("number"))
    dates = list(features.select_dtypes("datetime"))
    categories = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan
    )
    columns = [
        ("categories", categories, texts),
        ("numbers", "passthrough", numbers),
        ("dates", FunctionTransformer(train.encode_dates), dates),
    ]
    model = trees[task](categorical_features=range(len(texts)), random_state=1)
    return Pipeline([("encode", ColumnTransformer(columns)), ("model", model)])


def train_model(
    frame: pd.DataFrame, target: str, task: str, keys: list[str], folder: Path
) -> tuple[pl.DataFrame, Path]:
    """Save a model as the train step does; return the rows held out and its folder."""
    folder.mkdir(exist_ok=True)
    frame.to_parquet(folder / "part-00000.parquet", index=False)
    table = train.read_training_table(folder, target=target, keys=keys, task=task)
    candidates = [name for name in table.columns if name != target]
    split = train.Split(keys or candidates, seed=1, fraction=0.25)
    rows = train.divide_rows(table, split, target, keys)
    features = train.select_features(rows.training, [target, *keys])
    pipeline = build_trees(features, task)
    pipeline.fit(features, rows.training[target].to_pandas())
    baseline = train.fit_baseline(rows.training[target].to_pandas(), task)
    description = train.ModelDescription(task, target, keys, split, baseline.name)
    train.save_model(pipeline, features, description, baseline, folder / "model")
    return rows.holdout, folder / "model"


@pytest.mark.parametrize(
    ("task", "target", "other", "metric"),
    [
        ("classification", "class", "amount", "accuracy"),
        ("regression", "amount", "class", "r2"),
    ],
)
def test_a_model_learns(
    task: str, target: str, other: str, metric: str, tmp_path: Path
) -> None:
    frame = table().drop(columns=other)
    holdout, folder = train_model(frame, target, task, ["key"], tmp_path)
    model = saved_model.load_model(folder)
    features = saved_model.select_columns(holdout, model.columns)
    actual = holdout[target].to_pandas()

    assert 30 < len(holdout) < 70
    assert "key" in holdout.columns  # so that a person can look rows up
    pipeline = model.pipeline
    assert model_metrics.measure(pipeline, features, actual, task)[metric] > 0.8
    ranked = evaluate.rank_features(
        pipeline, features, actual, model_metrics.find_metric("default", task)
    )
    assert ranked.index[0] == "size"
    assert (model.task, model.target) == (task, target)
    assert model.split and model.split.by == ["key"]


def held_out(frame: pd.DataFrame, by: list[str], seed: int = 1) -> Any:
    rows = pl.from_pandas(frame)
    return pd.Series(train.Split(by, seed, 0.25).held_out(rows), frame.index)


@pytest.mark.parametrize("by", [["key"], ["word", "size", "is_new", "day"]])
def test_a_row_stays_on_its_side_whatever_is_beside_it(by: list[str]) -> None:
    before = held_out(table(), by)
    assert 20 < before.sum() < 80
    assert list(before) != list(held_out(table(), by, seed=2))
    grown = pd.concat(
        [table().assign(word="new", key=range(1000, 1200)), table()]
    ).sample(frac=1)
    after = held_out(grown, by)[grown["word"].ne("new").to_numpy()]
    assert after.sort_index().equals(before)
    shuffled = table().sample(frac=1, random_state=3)[::-1]
    assert held_out(shuffled.iloc[:, ::-1], by).sort_index().equals(before)
    assert held_out(table().assign(new=None), [*by, "new"]).equals(before)


def test_a_value_is_the_same_in_every_type() -> None:
    forms = [[1, 0], [1.0, -0.0], [True, False], ["1", "0"], ["true", "0.0"]]
    tables = [pl.DataFrame({"a": form}) for form in forms]
    split = train.Split(["a"], 42, 0.5)
    groups = [split.groups(one).tolist() for one in tables]
    assert groups.count(groups[0]) == len(groups)
    day = pd.Timestamp("2024-02-29")
    assert (
        split.groups(pl.DataFrame({"a": [day.date()]}))
        == split.groups(pl.DataFrame({"a": [day.to_pydatetime()]}))
        == split.groups(pl.DataFrame({"a": ["2024-02-29"]}))
    )


def test_sides_are_evenly_drawn() -> None:
    rows = pl.DataFrame({"a": range(100_000)})
    split = train.Split(["a"], 42, 0.2)
    shares = np.bincount(split.groups(rows) >> np.uint64(60), minlength=16)
    assert ((shares - 6250) ** 2 / 6250).sum() < 37.7  # chi-square, 15 degrees, 0.1 %
    assert split.held_out(rows).mean() == pytest.approx(0.2, abs=0.005)


def test_repeats_are_dropped_only_where_that_is_certain() -> None:
    rows = pl.from_pandas(table(10))
    twice = pl.concat([rows, rows])
    once, notes = train.drop_repeated_rows(twice, ["key"])
    assert (len(once), notes[0][:16]) == (10, "10 of 20 rows re")
    assert train.drop_repeated_rows(twice, []) == (twice, [])
    rows_after, notes = train.drop_repeated_rows(twice, ["word"])
    assert len(rows_after) == 20
    assert "20 rows have only 3 different keys" in notes[0]


@pytest.mark.parametrize(
    ("column", "task", "message"),
    [
        (["a"] * 200, "classification", "the same value, 'a', in all 200 rows"),
        ([1.5, 2.5] * 100, "classification", "not whole, such as 1.5"),
        (["a", "b"] * 100, "regression", "needs numbers, but the target 'y' holds 'a'"),
        ([1.0, np.inf] * 100, "regression", "infinite"),
        ([f"id {i}" for i in range(200)], "classification", "200 classes in 200 rows"),
    ],
)
def test_a_target_that_cannot_be_learned(
    column: list[Any], task: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(train.DataError, match=message):
        train_model(table().assign(y=column), "y", task, ["key"], tmp_path)


def test_nothing_is_held_out_of_one_key(tmp_path: Path) -> None:
    with pytest.raises(train.DataError, match="raise training.test_fraction|lower"):
        train_model(table().assign(key=1), "class", "classification", ["key"], tmp_path)


def test_customers_whose_label_is_a_coin_are_not_learned(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    customers = pd.DataFrame(random.normal(size=(400, 3)), columns=list("abc"))
    customers = customers.assign(id=range(400), y=random.choice(["x", "y"], 400))
    visits = customers.loc[np.repeat(range(400), 5)].reset_index(drop=True)
    holdout, folder = train_model(visits, "y", "classification", ["id"], tmp_path)
    assert 0.35 < measure_accuracy(holdout, folder) < 0.65

    thrice = pd.concat([customers.drop(columns="id")] * 3, ignore_index=True)
    holdout, folder = train_model(
        thrice, "y", "classification", [], tmp_path / "thrice"
    )
    assert 0.35 < measure_accuracy(holdout, folder) < 0.65


def measure_accuracy(holdout: pl.DataFrame, folder: Path) -> float:
    """Return the accuracy of a saved model on its held-out rows."""
    model = saved_model.load_model(folder)
    features = saved_model.select_columns(holdout, model.columns)
    actual = holdout["y"].to_pandas()
    metrics = model_metrics.measure(model.pipeline, features, actual, "classification")
    return metrics["accuracy"]


def share_refused(new_accuracy: float, margin: float) -> float:
    """Return how often a model is refused beside one that is right in 80 % of 200 rows."""
    random = np.random.default_rng(0)
    metric = model_metrics.find_metric("accuracy", "classification")
    refused = 0
    for _ in range(60):
        actual = random.integers(2, size=200)
        new, registered = (
            model_metrics.Predictions(
                np.where(random.random(200) < right, actual, 1 - actual)
            )
            for right in (new_accuracy, 0.8)
        )
        result = difference.compare_predictions(
            metric, actual, new, registered, np.arange(200), margin
        )
        refused += result.verdict == "worse"
    return refused / 60


def test_equal_models_pass_and_a_worse_one_is_caught() -> None:
    assert share_refused(0.8, margin=0.02) <= 0.08
    assert share_refused(0.6, margin=0.02) >= 0.9
    assert share_refused(0.6, margin=0.5) <= 0.1


BEATEN = {"is_beaten": True, "reason": "it is better than the baseline"}
NOT_BEATEN = {"is_beaten": False, "reason": "it is not better than the baseline"}


@pytest.mark.parametrize(
    ("verdict", "is_registered"),
    [
        ("better", True),
        ("no worse", True),
        ("within the margin", True),
        ("worse", False),
        ("the same", False),
        ("not comparable", False),
        ("another question", False),
    ],
)
def test_a_model_is_registered_unless_it_is_worse(
    verdict: str, is_registered: bool
) -> None:
    registered = {"version": "3", "verdict": verdict, "reason": "why"}
    results = {"registered": registered, "baseline": NOT_BEATEN}
    decision, reason = register.decide(results)
    assert decision is is_registered
    assert reason.startswith("why")
    asks_a_person = verdict in ("not comparable", "another question")
    assert ("--set register=always" in reason) is asks_a_person
    assert register.decide(results, "always")[0] is True


def test_a_first_model_is_registered_if_it_beats_the_baseline() -> None:
    assert register.decide({"registered": None, "baseline": BEATEN})[0]
    assert not register.decide({"registered": None, "baseline": NOT_BEATEN})[0]
    of_another_target = {"version": "1", "verdict": "another question", "reason": "why"}
    assert register.decide({"registered": of_another_target, "baseline": BEATEN})[0]


@pytest.fixture
def scorer(tmp_path: Path) -> score.Scorer:
    frame = table().drop(columns="amount")
    train_model(frame, "class", "classification", ["key"], tmp_path)
    (tmp_path / "predictions").mkdir()
    description = mlflow.models.Model.load(str(tmp_path / "model"))
    return score.Scorer(
        name="penguins",
        version="1",
        model=mlflow.sklearn.load_model(str(tmp_path / "model")),
        columns=score.list_model_columns(description),
        predictions=tmp_path / "predictions",
    )


def score_part(scorer: score.Scorer, frame: pd.DataFrame) -> pl.DataFrame:
    part = scorer.predictions.parent / "part-00007.parquet"
    pl.from_pandas(frame).write_parquet(part, metadata={"keys": '["key"]'})
    assert score.score_part(scorer, part) == part.name
    assert [p.name for p in scorer.predictions.iterdir()] == [part.name]
    return pl.read_parquet(scorer.predictions / part.name)


def test_each_row_is_predicted(scorer: score.Scorer) -> None:
    rows = table().drop(columns=["class", "amount"])
    scored = score_part(scorer, rows)

    assert scored.columns == [
        "key",
        "prediction",
        "probability_a",
        "probability_b",
    ]
    assert scored["key"].to_list() == list(rows.key)
    predicted = np.array(scored["prediction"].to_list())
    assert (predicted == table()["class"]).mean() > 0.9


@pytest.mark.parametrize(
    ("task", "target", "more"),
    [
        ("classification", "class", {}),
        ("classification", "word", {"max_leaf_nodes": 60}),  # of several classes
        ("regression", "amount", {}),
    ],
)
def test_tables_predict_what_scikit_learn_does(
    task: str, target: str, more: dict[str, Any]
) -> None:
    frame = table(2000).fillna({target: "none"})
    x = train.select_features(pl.from_pandas(frame), ["key", target])
    model = build_trees(x, task)
    model[-1].set_params(**more)
    model.fit(x, frame[target])
    rows = pd.concat([x, x], ignore_index=True)
    rows.loc[:600, ["size", "day", "is_new"]] = None
    rows.loc[400:1000, "size"] = np.inf
    rows.loc[800:1400, x.columns.intersection(["word"])] = "unseen"
    predict = "predict_proba" if task == "classification" else "predict"
    expected = getattr(model, predict)(rows)
    score.use_lookup_tables(model)
    assert np.array_equal(getattr(model, predict)(rows), expected)


def test_a_model_without_tables_predicts_as_before() -> None:
    with pytest.raises(score.UnsupportedModel, match="of the class LinearRegression"):
        score.use_lookup_tables(LinearRegression())


def test_scoring_a_part_again_replaces_it(scorer: score.Scorer) -> None:
    first = score_part(scorer, table())
    assert score_part(scorer, table()).equals(first)


def test_unseen_categories_empty_and_extra_columns_are_taken(
    scorer: score.Scorer,
) -> None:
    rows = table(3).assign(word="green", extra=1, is_new=None)
    assert len(score_part(scorer, rows)) == 3


def test_a_missing_column_is_named(scorer: score.Scorer) -> None:
    with pytest.raises(
        score.ScoringError, match="part-00007.parquet: .*'size' is missing"
    ):
        score_part(scorer, table(3).drop(columns="size"))


def test_the_first_value_of_another_type_is_named(scorer: score.Scorer) -> None:
    rows = table(3).assign(size=["1.5", "big", "bigger"], unused=[{"a": 1}] * 3)
    with pytest.raises(score.ScoringError, match="'size' holds the text 'big', where"):
        score_part(scorer, rows)
    score_part(scorer, rows.assign(size=1))
