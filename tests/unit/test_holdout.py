"""Test which rows are held out: by group, from a date on, of every class; and the notes.

Some tests are about the number of trees that are trained. The tests call the functions of
the steps, without a generated project.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import polars as pl
import pytest
import register
import train
import yaml
from model_metrics import note_misleading_metrics
from sklearn.tree import DecisionTreeClassifier
from split import Split, TimeSplit
from step_tracking import track_in
from training_notes import (
    note_dates,
    note_holdout,
    note_many_classes,
    note_row_numbers,
)
from training_rows import (
    DataError,
    RowSettings,
    choose_split,
    divide_rows,
)


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow write to a temporary folder."""
    with track_in(tmp_path_factory.mktemp("mlruns"), "holdout"):
        yield


def train_and_evaluate(
    table: pl.DataFrame, folder: Path, **options: Any
) -> dict[str, Any]:
    """Train on a table, evaluate the model, and return the evaluation."""
    (folder / "prepared").mkdir(parents=True)
    table.write_parquet(folder / "prepared" / "part-00000.parquet")
    settings: dict[str, Any] = {
        "task": "classification",
        "target": "y",
        "hyperparameters": {"max_iterations": 50},
    }
    train.train(
        folder / "prepared",
        folder / "model",
        folder / "holdout",
        **{**settings, **options},
    )
    evaluate.evaluate(
        folder / "model",
        folder / "holdout",
        folder / "evaluation",
        model_name=f"model-{folder.parent.name}",
    )
    text = (folder / "evaluation" / "metrics.json").read_text(encoding="utf-8")
    evaluation: dict[str, Any] = json.loads(text)
    return evaluation


def draw_customers() -> pl.DataFrame:
    """Draw five orders for each of 200 customers, whose classes are drawn by chance."""
    random = np.random.default_rng(1)
    customer = np.repeat(np.arange(200), 5)
    return pl.DataFrame(
        {
            "order": range(1000),
            "customer": customer,
            "age": random.normal(size=200)[customer],
            "income": random.normal(size=200)[customer],
            "amount": random.normal(size=1000),
            "y": random.choice(["a", "b"], 200)[customer],
        }
    )


def test_orders_of_a_customer_are_on_one_side(tmp_path: Path) -> None:
    """Without the group, the class of a customer is known from other orders."""
    by_row = train_and_evaluate(draw_customers(), tmp_path / "row", keys=["order"])
    assert by_row["metrics"]["accuracy"] > 0.9
    by_group = train_and_evaluate(
        draw_customers(), tmp_path / "group", keys=["order"], group="customer"
    )
    assert 0.3 < by_group["metrics"]["accuracy"] < 0.7
    assert not by_group["baseline"]["is_beaten"]
    held_out = pl.read_parquet(tmp_path / "group" / "holdout")
    sizes = held_out.group_by("customer").len()["len"]
    assert sizes.unique().to_list() == [5]


def draw_prices(days: int = 600) -> pl.DataFrame:
    """Draw a price that goes up and down at random, day by day."""
    random = np.random.default_rng(0)
    start = datetime.date(2024, 1, 1)
    return pl.DataFrame(
        {
            "day": [start + datetime.timedelta(day) for day in range(days)],
            "volume": random.normal(size=days),
            "y": 100 + random.normal(size=days).cumsum(),
        }
    )


def test_rows_from_a_date_on_are_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"task": "regression"}
    at_random = train_and_evaluate(draw_prices(), tmp_path / "random", **options)
    start = "2025-04-25"
    holdout = f'{{column: "day", from: {start}}}'
    assert (
        f"set training.holdout in settings.yml to {holdout}. The"
        in capsys.readouterr().out
    )
    train_and_evaluate(
        draw_prices(), tmp_path / "decided", holdout_by="random", **options
    )
    assert "held out at random" not in capsys.readouterr().out
    later = train_and_evaluate(
        draw_prices(),
        tmp_path / "later",
        holdout_column="day",
        holdout_from=start,
        **options,
    )
    assert "held out at random" not in capsys.readouterr().out
    assert later["rows"] == 120
    report = tmp_path / "later" / "evaluation" / "report.html"
    page = report.read_text(encoding="utf-8")
    assert "holdout_from" in page
    assert "test_fraction" not in page
    assert later["baseline"]["name"] == "last value"
    assert later["metrics"]["rmse"] > 2 * at_random["metrics"]["rmse"]


def test_models_with_two_dates_are_compared_on_rows_after_both(tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": "regression", "holdout_column": "day"}
    train_and_evaluate(
        draw_prices(), tmp_path / "first", holdout_from="2025-06-01", **options
    )
    name = f"model-{tmp_path.name}"
    register.register(tmp_path / "first" / "model", name)
    second = train_and_evaluate(
        draw_prices(), tmp_path / "second", holdout_from="2025-03-01", **options
    )
    assert second["rows"] == 175
    assert second["registered"]["comparison"]["rows"] == 83

    del options["holdout_column"]
    at_random = train_and_evaluate(draw_prices(), tmp_path / "random", **options)
    assert "held out by the date in 'day'" in at_random["registered"]["reason"]
    assert at_random["registered"]["verdict"] == "not comparable"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "client"}, "data.group names the column 'client', which does not"),
        ({"group": "Volumne"}, r"remove it there\. Did you mean 'volume'\?$"),
        ({"holdout_column": "date"}, "training.holdout names the column 'date', which"),
        ({"holdout_column": "Days"}, r"remove it there\. Did you mean 'day'\?$"),
        ({"holdout_column": "y"}, "holds '98.8.* and not dates"),
        ({"holdout_from": "2030-01-01"}, "choose an earlier date than 2030-01-01"),
        ({"holdout_from": "2000-01-01"}, "choose a later date than 2000-01-01"),
    ],
)
def test_message_explains_why_no_rows_can_be_held_out(
    options: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"group": None, "holdout_column": "day"}
    settings |= {"holdout_from": "2025-01-01", "seed": 1, **options}
    table = draw_prices()
    with pytest.raises(DataError, match=message):
        split = choose_split(
            table, RowSettings(target="y", task="regression", **settings)
        )
        divide_rows(table, split, "y", [])


def test_row_without_a_date_is_trained_on() -> None:
    table = draw_prices(60).with_columns(
        pl.when(pl.col("volume") > 1).then(None).otherwise("day").alias("day")
    )
    split = TimeSplit(["volume"], 1, "day", "2024-02-01")
    divided = divide_rows(table, split, "y", [])
    assert divided.holdout["day"].min() == datetime.date(2024, 2, 1)
    assert divided.training["day"].null_count() == table["day"].null_count() > 0
    settings = RowSettings("regression", target="y")
    notes = note_holdout(table, divided, split, settings)
    assert any(
        "have no date in 'day', so they are trained on." in note for note in notes
    )


def draw_rare_classes() -> pl.DataFrame:
    """Return 505 rows, of which two are of one rare class and three of another."""
    classes = ["common"] * 500 + ["rare"] * 2 + ["odd"] * 3
    ids = np.random.default_rng(0).integers(2**53, size=505)
    return pl.DataFrame({"id": ids, "y": classes})


@pytest.mark.parametrize("seed", range(6))
def test_each_class_is_on_both_sides(seed: int) -> None:
    table = draw_rare_classes()
    settings = RowSettings("classification", target="y", keys=["id"], seed=seed)
    split = choose_split(table, settings)
    divided = divide_rows(table, split, "y", ["id"])
    assert divided.training["y"].n_unique() == 3
    assert divided.holdout["y"].n_unique() == 3
    assert 0.12 < len(divided.holdout) / 505 < 0.28
    # The side of a row depends on this row alone.
    alone = [bool(split.held_out(table[i])[0]) for i in range(480, 505)]
    assert alone == split.held_out(table)[480:].tolist()
    common = Split(["id"], seed, 0.2).held_out(table)[:500]
    assert np.array_equal(split.held_out(table)[:500], common)


def test_groups_with_several_classes_are_not_torn_apart() -> None:
    table = draw_rare_classes().with_columns(id=pl.int_range(505) // 5)
    table = table.with_columns(y=pl.when(pl.col("id") == 0).then("y").otherwise("y"))
    table = pl.concat([table, table[:1].with_columns(y=pl.lit("rare"))])
    settings = RowSettings("classification", target="y", keys=["id"], seed=1)
    split: Any = choose_split(table, settings)
    sides = table.with_columns(side=pl.Series(split.held_out(table)))
    assert sides.group_by("id").agg(pl.col("side").n_unique())["side"].max() == 1


# Notes and messages


def test_few_different_rows_are_counted_as_they_are() -> None:
    """Use a table like the Titanic's table of counts, with 14 different rows of 2,201."""
    table = pl.DataFrame({"a": np.arange(2100) % 14, "y": ["x", "y", "z"] * 700})
    split = Split(["a"], 3, 0.2)
    divided = divide_rows(table, split, "y", [])
    settings = RowSettings("classification", target="y")
    (note,) = note_holdout(table, divided, split, settings)
    held_out = table.filter(split.held_out(table))
    groups = held_out["a"].n_unique()
    assert note.startswith(
        f"fewer than 30 different rows are held out ({groups}, in {len(held_out)} rows):"
    )
    table = table.with_columns(id=pl.Series(np.arange(2100) % 50))
    split = Split(["id"], 3, 0.2)
    divided = divide_rows(table, split, "y", ["id"])
    settings = RowSettings("classification", target="y", keys=["id"])
    note, *_ = note_holdout(table, divided, split, settings)
    assert note.startswith("fewer than 30 different keys are held out (")


def test_columns_that_make_figures_worthless_are_named() -> None:
    table = pl.DataFrame(
        {
            "number": range(500),
            "x": np.random.default_rng(0).integers(50, size=500),
            "y": [f"c{i % 200}" for i in range(500)],
        }
    )
    (note,) = note_row_numbers(table, ["number", "x", "y"])
    assert note.startswith("'number' has a different whole number in every row.")
    assert not note_row_numbers(table, ["x", "y"])
    (note,) = note_many_classes(table, "y")
    assert note.startswith("there are 200 classes in 500 rows, only 2.5 rows per class")
    assert not note_many_classes(table.with_columns(pl.col("number") % 50), "number")
    assert not note_dates(table, table.columns, test_fraction=0.2)


def test_all_columns_of_dates_are_named() -> None:
    first_day = pl.date(2026, 1, 1)
    table = pl.select(days=pl.int_range(10)).select(
        built=first_day + pl.duration(days="days"),
        sold=first_day + pl.duration(days=pl.col("days") + 31),
    )
    (note,) = note_dates(table, table.columns, test_fraction=0.2)
    assert note.startswith(
        "there are dates in 'built' and 'sold', and rows are held out"
    )
    # The values can be copied into settings.yml, where they are YAML.
    values = note.partition("settings.yml to ")[2].partition(". The column")[0]
    assert [yaml.safe_load(value) for value in values.split(" or ")] == [
        {"column": "built", "from": datetime.date(2026, 1, 9)},
        {"column": "sold", "from": datetime.date(2026, 2, 9)},
    ]


def test_proposed_holdout_of_times_on_a_single_day_leaves_rows_to_train_on() -> None:
    noon = datetime.datetime(2026, 1, 1, 12)
    times = [noon + datetime.timedelta(minutes=minute) for minute in range(10)]
    (note,) = note_dates(pl.DataFrame({"time": times}), ["time"], test_fraction=0.2)
    value = note.partition("settings.yml to ")[2].partition(". The column")[0]
    assert yaml.safe_load(value) == {"column": "time", "from": times[8]}


def test_class_that_is_never_predicted_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    table = pl.DataFrame(
        {
            "id": range(2000),
            "x": random.normal(size=2000),
            "y": np.where(random.random(2000) < 0.01, "yes", "no"),
        }
    )
    evaluation = train_and_evaluate(table, tmp_path / "rare", keys=["id"])
    printed = capsys.readouterr().out
    assert "note: the model never predicts 'yes', although" in printed
    page = (tmp_path / "rare/evaluation/report.html").read_text(encoding="utf-8")
    assert "<li>The model never predicts &#x27;yes&#x27;" in page
    assert not evaluation["baseline"]["is_beaten"]


def test_class_that_is_hardly_ever_predicted_is_named() -> None:
    features = pl.DataFrame({"x": range(400)}).to_pandas()
    target = pl.Series(["yes"] * 40 + ["no"] * 360).to_pandas()

    def note_classes(predicted_rows: int) -> list[str]:
        answers = ["yes"] * predicted_rows + ["no"] * (400 - predicted_rows)
        model = DecisionTreeClassifier().fit(features, answers)
        return note_misleading_metrics(model, features, target, "classification")

    (note,) = note_classes(7)
    assert note.startswith(
        "the model predicts 'yes' for only 7 rows, although 40 of 400 have"
    )
    assert note.endswith("see docs/change.md, 'Decide by a threshold'.")
    assert note_classes(1)[0].startswith("the model predicts 'yes' for only 1 row,")
    assert not note_classes(8)


def test_metric_that_is_left_out_is_named(tmp_path: Path) -> None:
    x = np.arange(300) % 60
    table = pl.DataFrame({"id": range(300), "x": x, "y": np.maximum(x - 20.0, 0)})
    evaluation = train_and_evaluate(
        table, tmp_path / "zeros", keys=["id"], task="regression"
    )
    assert "mape" not in evaluation["metrics"]
    note = (
        "mean absolute percentage error is left out: the target is 0 in some rows, and this"
        " metric divides by it."
    )
    assert note in evaluation["notes"]

    evaluate.evaluate(
        tmp_path / "zeros/model",
        tmp_path / "zeros/holdout",
        tmp_path / "by mape",
        model_name="by-mape",
        metric_name="mape",
    )
    note = (
        "the features are ranked by root mean squared error, because mean absolute"
        " percentage error cannot be computed: the target is 0 in some rows, and"
        " this metric divides by it."
    )
    text = (tmp_path / "by mape/metrics.json").read_text(encoding="utf-8")
    assert note in json.loads(text)["notes"]
    page = (tmp_path / "by mape/report.html").read_text(encoding="utf-8")
    assert "how much worse root mean squared error gets" in page


# The number of trees


def test_noise_is_not_learned_and_signal_is() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 3))
    features = pl.DataFrame(x, schema=["a", "b", "c"]).to_pandas()
    folds = np.arange(600) % 5

    def count_trees(answers: Any, task: str) -> int:
        target = pl.Series(answers).to_pandas()
        data = train.TrainingData(features, target, task, 1, folds)
        pipeline = train.fit_model(data, {"max_iterations": 150})
        return int(pipeline[-1].n_iter_)

    assert count_trees(random.choice(["a", "b"], 600), "classification") < 10
    assert count_trees(random.normal(size=600), "regression") < 10
    assert count_trees(np.sin(3 * x[:, 0]) + x[:, 1], "regression") > 60
    target = pl.Series(x[:, 0]).to_pandas()
    data = train.TrainingData(features, target, "regression", 1, folds)
    fixed = train.fit_model(data, {"max_iterations": 7, "early_stopping": False})
    assert fixed[-1].n_iter_ == 7


def test_class_of_one_row_can_be_trained_on() -> None:
    features = pl.DataFrame({"a": range(100)}).to_pandas()
    target = pl.Series(["x"] * 60 + ["y"] * 39 + ["z"]).to_pandas()
    folds = np.arange(100) % 5
    data = train.TrainingData(features, target, "classification", 1, folds)
    pipeline = train.fit_model(data, {})
    assert list(pipeline.classes_) == ["x", "y", "z"]
