"""train, evaluate, register and score: a model's life, on small tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.evaluate import evaluate
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


def read(folder: Path, frame: pd.DataFrame, target: str, keys: list[str]) -> Any:
    folder.mkdir(exist_ok=True)
    frame.to_parquet(folder / "part-00000.parquet", index=False)
    return train.read(folder, target, keys)


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
    features, values = read(tmp_path, table().drop(columns=other), target, ["key"])
    x, x_holdout, y, y_holdout = train.split(features, values, task, 0.25, seed=1)
    model = train.fit(train.build_model(x, task, 1, 0.1, 50), x, y)

    measured = evaluate.measure(model, x_holdout, y_holdout, task)
    assert len(x_holdout) == 50
    assert measured[metric] > 0.8
    assert evaluate.importance(model, x_holdout, y_holdout, task).index[0] == "size"


def test_a_split_is_stratified_and_repeatable(tmp_path: Path) -> None:
    features, target = read(tmp_path, table(), "class", ["key"])
    parts = [
        train.split(features, target, "classification", 0.2, seed) for seed in (1, 1, 2)
    ]
    assert parts[0][3].value_counts(normalize=True)["a"] == pytest.approx(
        target.value_counts(normalize=True)["a"], abs=0.02
    )
    assert list(parts[0][3].index) == list(parts[1][3].index)
    assert list(parts[0][3].index) != list(parts[2][3].index)


def test_a_class_with_one_row_is_trained_on(tmp_path: Path) -> None:
    frame = table()
    frame.loc[7, "class"] = "rare"
    features, target = read(tmp_path, frame, "class", ["key"])
    _, _, y, _ = train.split(features, target, "classification", 0.2, seed=1)
    assert "rare" in set(y)


def test_repeated_rows_count_once_where_keys_tell_rows_apart(tmp_path: Path) -> None:
    twice = pd.concat([table(10), table(10)])
    assert len(read(tmp_path, twice, "class", ["key"])[0]) == 10
    assert len(read(tmp_path, twice.drop(columns="key"), "class", [])[0]) == 20


@pytest.mark.parametrize(
    ("column", "task", "message"),
    [
        (["a"] * 200, "classification", "one class, 'a', in all 200 rows"),
        ([1.5, 2.5] * 100, "classification", "fractions such as 1.5"),
        (["a", "b"] * 100, "regression", "holds 'a', not numbers"),
    ],
)
def test_a_target_that_cannot_be_learned(
    column: list[Any], task: str, message: str, tmp_path: Path
) -> None:
    _, target = read(tmp_path, table().assign(y=column), "y", ["key"])
    with pytest.raises(train.DataError, match=message):
        train.check_target(target, task)


def evaluation(new: float, registered: float | None) -> dict[str, Any]:
    return {
        "metrics": {"f1_macro": new},
        "compared_by": {"metric": "f1_macro", "higher_is_better": True},
        "registered": registered
        and {"version": "3", "metrics": {"f1_macro": registered}},
    }


@pytest.mark.parametrize(
    ("new", "registered", "expected", "reason"),
    [
        (0.5, None, True, "no model is registered yet"),
        (0.5, 0.6, False, "worse than the registered version 3: f1_macro 0.5, not 0.6"),
        (0.6, 0.5, True, "better than the registered version 3"),
        (0.5, 0.5, True, "as good as the registered version 3"),
    ],
)
def test_a_model_is_registered_unless_it_is_worse(
    new: float, registered: float | None, expected: bool, reason: str
) -> None:
    decision, words = register.decide(evaluation(new, registered))
    assert decision is expected
    assert reason in words


def test_less_is_better_for_an_error() -> None:
    worse = evaluation(0.6, 0.5)
    worse["compared_by"]["higher_is_better"] = False
    assert register.decide(worse)[0] is False


@pytest.fixture
def scorer(tmp_path: Path) -> score.Scorer:
    features, target = read(tmp_path, table().drop(columns="amount"), "class", ["key"])
    model = train.fit(
        train.build_model(features, "classification", 1, 0.1, 20), features, target
    )
    train.save(model, features, tmp_path / "model")
    (tmp_path / "predictions").mkdir()
    return score.Scorer(
        model=mlflow.sklearn.load_model(str(tmp_path / "model")),
        columns=score.model_columns(str(tmp_path / "model")),
        keys=["key"],
        predictions=tmp_path / "predictions",
    )


def score_part(scorer: score.Scorer, frame: pd.DataFrame) -> pa.Table:
    part = scorer.predictions.parent / "part-00007.parquet"
    frame.to_parquet(part, index=False)
    assert score.score_part(scorer, part) == part.name
    assert [p.name for p in scorer.predictions.iterdir()] == [part.name]
    return pq.read_table(scorer.predictions / part.name)


def test_each_row_is_predicted(scorer: score.Scorer) -> None:
    rows = table().drop(columns=["class", "amount"])
    scored = score_part(scorer, rows)

    assert scored.column_names == [
        "key",
        "prediction",
        "probability_a",
        "probability_b",
    ]
    assert scored["key"].to_pylist() == list(rows.key)
    predicted = np.array(scored["prediction"].to_pylist())
    assert (predicted == table()["class"]).mean() > 0.9


def test_scoring_a_part_again_replaces_it(scorer: score.Scorer) -> None:
    first = score_part(scorer, table())
    assert score_part(scorer, table()) == first


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


def test_a_column_of_another_type_is_named(scorer: score.Scorer) -> None:
    with pytest.raises(score.ScoringError, match="'size' holds string .'big'"):
        score_part(scorer, table(3).assign(size="big"))
