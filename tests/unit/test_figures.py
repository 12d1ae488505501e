"""Test which rows are held out, which models are compared, and which tables are refused.

The tests call the functions of the steps, without a generated project.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scoring_model
from conftest import PYTHONS, SDKS, TEMPLATE
from registered_model import load_registered_model
from sources import DataError
from step_tracking import track_in

STEPS = TEMPLATE / "{{cookiecutter.project_slug}}" / "steps"
#: On Linux, it has imported the packages already.
PYTHON = PYTHONS[SDKS[0]]


train = importlib.import_module("train")
evaluate = importlib.import_module("evaluate")
register = importlib.import_module("register")
score = importlib.import_module("score")
comparison = importlib.import_module("comparison")
saved_model = importlib.import_module("saved_model")


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow write to a temporary folder."""
    with track_in(tmp_path_factory.mktemp("mlruns"), "figures"):
        yield


def learn(
    rows: pd.DataFrame | pl.DataFrame,
    target: str,
    folder: Path,
    *,
    task: str = "classification",
    keys: Sequence[str] = (),
    test_fraction: float = 0.25,
    seed: int = 42,
    hyperparameters: Mapping[str, Any] = MappingProxyType({"max_iterations": 20}),
    model_name: str = "figures",
) -> tuple[Any, dict[str, float]]:
    """Train on rows and evaluate the model; return it as it was saved, and its metrics."""
    if isinstance(rows, pd.DataFrame):
        rows = pl.from_pandas(rows)
    (folder / "prepared").mkdir(parents=True, exist_ok=True)
    rows.write_parquet(
        folder / "prepared" / "part-00000.parquet",
        metadata={"keys": json.dumps(list(keys))},
    )
    train.train(
        folder / "prepared",
        folder / "model",
        folder / "holdout",
        task=task,
        target=target,
        keys=keys,
        test_fraction=test_fraction,
        seed=seed,
        hyperparameters=hyperparameters,
    )
    evaluate.evaluate(
        folder / "model",
        folder / "holdout",
        folder / "evaluation",
        model_name=model_name,
    )
    text = (folder / "evaluation" / "metrics.json").read_text()
    metrics = json.loads(text, parse_constant=pytest.fail)["metrics"]
    return saved_model.load_model(folder / "model"), metrics


# The hold-out


def draw_rows(count: int, seed: int = 0) -> pd.DataFrame:
    """Draw rows with a key, a target, and a column of each type."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "id": [f"{seed}-{i:05}" for i in range(count)],
            "whole": random.integers(0, 1000, count),
            "part": random.normal(size=count).round(6),
            "word": random.choice(
                np.array(["red", "blue", "grün", None], object), count
            ),
            "flag": random.choice([True, False], count),
            "day": np.datetime64("2024-01-01") + random.integers(0, 900, count),
        }
    )
    frame["day"] = frame["day"].dt.date
    frame["y"] = random.choice(["a", "b"], count)
    return frame


def prepare_table(raw: Path, keys: list[str]) -> pl.DataFrame:
    """Run the step prep on a raw folder, and read its output as train does."""
    prepared = raw.parent / f"{raw.name}-prepared"
    report = raw.parent / f"{raw.name}-report"
    command = [PYTHON, "-B", str(STEPS / "prep" / "prep.py"), "--raw", str(raw)]
    command += ["--prepared", str(prepared), "--report", str(report)]
    command += ["--target", "y", "--keys", *keys]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    table: pl.DataFrame = train.read_training_table(
        prepared, target="y", keys=keys, task="classification"
    )
    return table


def find_held_out(table: pl.DataFrame, keys: list[str]) -> dict[str, bool]:
    """Return whether each row is held out, by its `tag`. The column `tag` is no feature."""
    columns = keys or [name for name in table.columns if name not in ("y", "tag")]
    held_out = train.Split(columns, 42, 0.3).held_out(table)
    return dict(zip(table["tag"].to_list(), held_out.tolist(), strict=True))


@pytest.mark.parametrize(
    "keys", [pytest.param(["id"], id="key"), pytest.param([], id="no key")]
)
def test_hold_out_depends_on_the_row_alone(keys: list[str], tmp_path: Path) -> None:
    """Write the same rows to other files and formats, in another order, with more rows."""
    frame = draw_rows(400).assign(tag=[f"t{i}" for i in range(400)])
    if not keys:
        frame = frame.drop(columns="id")
    more_rows = draw_rows(300, seed=1)[[name for name in frame if name != "tag"]]
    more_rows["tag"] = [f"new {i}" for i in range(300)]
    # With these rows, the column of whole numbers is one of fractions.
    more_rows["whole"] = more_rows["whole"] + 0.5
    shuffled = frame.sample(frac=1, random_state=1)[frame.columns[::-1]]
    grown = pd.concat([more_rows, shuffled, frame[:50]])

    raw = {name: tmp_path / name for name in ("csv", "parquet", "grown", "mixed")}
    for folder in raw.values():
        folder.mkdir()
    frame.to_csv(raw["csv"] / "a.csv", index=False)
    shuffled.to_parquet(raw["parquet"] / "a.parquet", index=False)
    grown.to_csv(raw["grown"] / "b.csv", index=False)
    shuffled[:150].to_csv(raw["mixed"] / "z.csv", index=False)
    more_rows.to_parquet(raw["mixed"] / "b.parquet", index=False)
    shuffled[150:].to_parquet(raw["mixed"] / "c.parquet", index=False)

    held_out = {
        name: find_held_out(prepare_table(folder, keys), keys)
        for name, folder in raw.items()
    }
    expected = held_out["csv"]
    assert len(expected) == 400
    assert 80 < sum(expected.values()) < 160
    for name, rows in held_out.items():
        assert {tag: rows[tag] for tag in expected} == expected, name
    assert held_out["grown"] == held_out["mixed"]


def test_hash_of_a_row_is_the_same_everywhere() -> None:
    """Compare with fixed numbers, which each platform, Python and library must return."""
    table = pl.DataFrame(
        {
            "i": [1, 2**53, None],
            "f": [0.1, -0.0, float("nan")],
            "t": ["grün", "", None],
            "b": [True, False, None],
            "d": [datetime.date(2024, 2, 29), datetime.date(9999, 12, 31), None],
        }
    )
    hashes = train.Split(list("iftbd"), 42, 0.2).groups(table).tolist()
    assert hashes == [
        16777410660226875233,
        3946560232919493927,
        9408262079334015829,
    ]


@pytest.mark.parametrize(
    "column",
    [
        range(100_000),
        np.arange(100_000) / 1000,
        [f"{i:06}x" for i in range(100_000)],
        np.datetime64("2000-01-01", "ms") + 60_000 * np.arange(100_000),
    ],
)
def test_sides_are_drawn_evenly(column: Any) -> None:
    groups = train.Split(["a"], 42, 0.2).groups(pl.DataFrame({"a": column}))
    for shift in (60, 30, 0):
        shares = np.bincount((groups >> np.uint64(shift)) & np.uint64(15))
        chi_square = ((shares - 6250) ** 2 / 6250).sum()
        assert chi_square < 44  # 15 degrees of freedom: one of 10,000 is above


# What is measured


def test_model_of_pure_chance_scores_as_chance(tmp_path: Path) -> None:
    """Five rows a customer, and every row three times: no row is known from training."""
    random = np.random.default_rng(0)
    customers = pd.DataFrame(random.normal(size=(800, 3)), columns=list("abc"))
    customers = customers.assign(y=random.choice(["x", "y"], 800))
    visits = customers.assign(id=range(800)).loc[np.repeat(range(800), 5)]
    many_trees = {"max_iterations": 100}
    _, metrics = learn(
        visits, "y", tmp_path / "1", keys=["id"], hyperparameters=many_trees
    )
    assert 0.4 < metrics["accuracy"] < 0.6
    thrice = pd.concat([customers] * 3)
    _, metrics = learn(thrice, "y", tmp_path / "2", hyperparameters=many_trees)
    assert 0.4 < metrics["accuracy"] < 0.6


def draw_three_classes(random: np.random.Generator, count: int) -> pd.DataFrame:
    """Draw rows with a key and six features, three of which tell the class."""
    x = random.normal(size=(count, 6))
    noise = random.gumbel(size=(count, 3))
    y = np.array(["a", "b", "c"])[(2 * x[:, :3] + noise).argmax(axis=1)]
    frame = pd.DataFrame(x, columns=list("uvwxyz")).assign(target=y)
    return frame.assign(id=random.integers(2**53, size=count))


def train_on_three_classes(rows: pd.DataFrame) -> tuple[Any, pl.DataFrame]:
    """Train a model, and return it with its hold-out."""
    split = train.Split(["id"], 42, 0.25)
    divided = train.divide_rows(pl.from_pandas(rows), split, "target", ["id"])
    x = train.select_features(divided.training, ["target", "id"])
    pipeline = train.build_model(x, "classification", 42, max_iterations=20)
    pipeline.fit(x, divided.training["target"].to_pandas())
    model = saved_model.SavedModel(
        pipeline=pipeline,
        columns={name: pl.Float64() for name in "uvwxyz"},
        categories={},
        task="classification",
        target="target",
        split=split,
    )
    return model, divided.holdout


def compare_on_rows(new: Any, old: Any, rows: pl.DataFrame, groups: Any) -> Any:
    """Compare the macro F1 of two models on some rows."""
    features = saved_model.select_columns(rows, new.columns)
    metric = comparison.Metric("f1_macro", "macro F1", higher_is_better=True)
    return comparison.compare_pipelines(
        metric,
        comparison.ModelOnRows(new.pipeline, features),
        comparison.ModelOnRows(old.pipeline, features),
        rows["target"].to_pandas(),
        groups,
    )


def test_model_of_more_rows_is_not_refused() -> None:
    """Train ten times on some rows, and on these and more.

    The models are compared on rows that neither of them was trained on. On new rows, they
    are equally good.
    """
    refusals = 0
    differences = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        data = draw_three_classes(random, 2400)
        new_rows = pl.from_pandas(draw_three_classes(random, 1000))
        old, _ = train_on_three_classes(data[:2000])
        shuffled = data.sample(frac=1, random_state=seed)
        new, holdout = train_on_three_classes(shuffled)

        shared = comparison.find_shared_rows(new, old, holdout)
        assert len(shared.table) == len(holdout) > 400
        if compare_on_rows(new, old, shared.table, shared.groups).verdict == "worse":
            refusals += 1
        groups = np.arange(1000, dtype=np.uint64)
        differences.append(compare_on_rows(new, old, new_rows, groups).difference)
    assert abs(np.mean(differences)) < 0.01
    assert refusals <= 1


def test_models_are_not_compared_on_few_groups(tmp_path: Path) -> None:
    """Hold out 3 stores of 12, which count like 3 rows, however many rows they have."""
    frame = draw_rows(2000).assign(store=np.arange(2000) % 12)
    model, _ = learn(frame.drop(columns="id"), "y", tmp_path, keys=["store"])
    holdout = pl.read_parquet(tmp_path / "holdout")
    assert len(holdout) > 300
    with pytest.raises(
        comparison.NotComparable,
        match="only . independent groups of rows .* and 30 are",
    ):
        comparison.find_shared_rows(model, model, holdout)


@pytest.mark.parametrize(
    ("change", "verdict", "problem"),
    [
        pytest.param(
            {"target": "flag"},
            "another question",
            "it is a classification of 'y', not a",
            id="other target",
        ),
        pytest.param(
            {"target": "part", "task": "regression"},
            "another question",
            "not a regression of 'part'",
            id="other task",
        ),
        pytest.param(
            {"seed": 7, "test_fraction": 0.04},
            "not comparable",
            r"only \d+ independent groups of rows .* and 30 are",
            id="few shared rows",
        ),
        pytest.param(
            {"drop": "word"},
            "not comparable",
            "it needs columns that are missing now: word",
            id="column is missing",
        ),
        pytest.param(
            {"gone": True},
            "not comparable",
            "its files cannot be downloaded",
            id="files are gone",
        ),
        pytest.param({"seed": 7}, "", "", id="other seed"),
    ],
)
def test_models_are_compared_if_they_can_be(
    change: dict[str, Any], verdict: str, problem: str, tmp_path: Path
) -> None:
    name = f"model-{tmp_path.name}"
    frame = draw_rows(1200)
    learn(frame, "y", tmp_path / "old", keys=["id"], model_name=name)
    assert register.register(tmp_path / "old" / "model", name) == "1"
    change = dict(change)
    if change.pop("gone", False):
        version = mlflow.MlflowClient().get_model_version(name, "1")
        folder = Path(version.source.removeprefix("file://"))
        folder.rename(folder.with_name("moved"))
    frame = frame.drop(columns=change.pop("drop", []))
    target = change.pop("target", "y")
    learn(frame, target, tmp_path / "new", keys=["id"], model_name=name, **change)
    text = (tmp_path / "new" / "evaluation" / "metrics.json").read_text()
    metrics = json.loads(text)
    if not problem:
        assert 30 <= metrics["registered"]["comparison"]["rows"] < metrics["rows"]
        return
    assert metrics["registered"]["verdict"] == verdict
    # The target of these rows is random, so no model is better than the baseline.
    must_register, reason = register.decide(metrics)
    assert not must_register
    assert re.search(problem, reason)


@pytest.mark.parametrize(
    "has_split",
    [pytest.param(True, id="with a split"), pytest.param(False, id="without a split")],
)
def test_models_of_version_1_are_still_scored_and_compared(
    has_split: bool, tmp_path: Path
) -> None:
    """Save a model as version 1 did: the split is an attribute of the pipeline."""
    name = f"model-{tmp_path.name}"
    rows = draw_rows(1200)
    learn(rows, "y", tmp_path / "new", keys=["id"])
    current = saved_model.load_model(tmp_path / "new" / "model")
    expected = current.pipeline.predict_proba
    if has_split:
        current.pipeline.split = current.split
    mlflow.sklearn.save_model(
        current.pipeline,
        tmp_path / "version-1",
        serialization_format="cloudpickle",
        signature=mlflow.models.Model.load(str(tmp_path / "new/model")).signature,
        metadata={"task": "classification", "target": "y"} if has_split else None,
    )
    register.register(tmp_path / "version-1", name)

    scorer = score.load_scorer(name, "1", predictions=tmp_path / "out")
    score.score_part(scorer, tmp_path / "new" / "prepared" / "part-00000.parquet")
    scored = pl.read_parquet(tmp_path / "out" / "part-00000.parquet")
    features = saved_model.select_columns(pl.from_pandas(rows), current.columns)
    assert scored["probability_b"].to_list() == expected(features)[:, 1].tolist()

    learn(rows, "y", tmp_path / "next", keys=["id"], seed=7, model_name=name)
    text = (tmp_path / "next" / "evaluation" / "metrics.json").read_text()
    registered = json.loads(text)["registered"]
    if has_split:
        assert registered["comparison"]["rows"] >= 30
    else:
        problem = "does not record which rows it was trained on"
        assert registered["reason"].endswith(problem)
        assert registered["verdict"] == "not comparable"


def run_step(name: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a step as the pipeline does."""
    command = [PYTHON, "-B", str(STEPS / name / f"{name}.py")]
    for option, value in options.items():
        command += [f"--{option.replace('_', '-')}", str(value)]
    variables = {**os.environ, "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False
    )


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    learn(draw_rows(200), "y", tmp_path, keys=["id"])
    # A file is where the parent of this folder must be, so it cannot be created.
    impossible_folder = tmp_path / "file" / "output"
    impossible_folder.parent.write_text("")
    failed_steps = {
        "train": run_step(
            "train",
            prepared=tmp_path / "prepared",
            model=tmp_path / "other model",
            holdout=impossible_folder,
            task="classification",
            target="y",
        ),
        "evaluate": run_step(
            "evaluate",
            model=tmp_path / "model",
            holdout=tmp_path / "holdout",
            evaluation=impossible_folder,
            model_name="n",
        ),
        "register": run_step(
            "register",
            model=tmp_path / "model",
            evaluation=tmp_path / "evaluation",
            registration=impossible_folder,
            model_name="n",
            register="unless_worse",
        ),
    }
    for name, process in failed_steps.items():
        last_line = process.stderr.splitlines()[-1]
        assert process.returncode == 1, name
        assert last_line.startswith(f"{name}: a file cannot be read or written: ")
        assert str(impossible_folder) in last_line
        assert "Traceback" not in process.stderr

    (tmp_path / "empty").mkdir()
    with pytest.raises(train.DataError, match="There is no Parquet file in .*/empty"):
        train.read_training_table(
            tmp_path / "empty", target="y", keys=[], task="regression"
        )


def test_model_whose_split_fails_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Give a model a split that expects tables of another library."""
    name = f"model-{tmp_path.name}"
    model, _ = learn(draw_rows(300), "y", tmp_path, keys=["id"], model_name=name)
    register.register(tmp_path / "model", name)
    foreign_split = SimpleNamespace(
        by=["id"], held_out=lambda table: table.column_names
    )
    current = dataclasses.replace(model, split=foreign_split)
    monkeypatch.setattr(comparison, "load_model", lambda folder: current)
    holdout = pl.read_parquet(tmp_path / "holdout")
    metric = comparison.Metric("accuracy", "accuracy", higher_is_better=True)
    judged = comparison.compare_with_registered(name, model, holdout, metric, 0.02)
    assert (
        "not comparable with the registered version 1: it cannot say which rows it was"
        " trained on ('DataFrame' object has no"
    ) in judged["reason"]


def test_features_get_the_types_of_the_model_or_are_refused() -> None:
    number = saved_model.TYPES["double"]
    day = saved_model.TYPES["datetime"]
    text = saved_model.TYPES["string"]
    table = pl.DataFrame(
        {
            "^n$": [1, None],
            "*": [True, False],
            "t": ["x", None],
            "d": [datetime.date.max] * 2,
        }
    ).with_columns(none=pl.lit(None, pl.String))
    types_of_model = {"^n$": number, "*": number, "t": text, "d": day, "none": day}
    features = saved_model.select_columns(table, types_of_model)
    assert [dtype.kind for dtype in features.dtypes] == ["f", "f", "O", "M", "M"]
    assert features["none"].isna().all()
    assert saved_model.select_columns(table, {"^n$": text})["^n$"][0] == "1"
    impossible_types = {"d": number, "^n$": day, "t": number, "gone": number}
    for name, dtype in impossible_types.items():
        with pytest.raises((TypeError, pl.exceptions.PolarsError)):
            saved_model.select_columns(table, {name: dtype})


def test_message_explains_why_a_model_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(score.ScoringError, match="run the training pipeline first"):
        score.download_model("unknown", "latest")
    (tmp_path / "a").write_text("")
    register.register(tmp_path, "lost")
    assert (score.download_model("lost", "latest") / "a").exists()
    register.register(tmp_path, "lost")
    missing_version = (
        r"no version 9 of the model lost\. The newest versions are: 1, 2\."
    )
    with pytest.raises(score.ScoringError, match=missing_version):
        score.download_model("lost", "9")
    with pytest.raises(scoring_model.MonitorError, match=missing_version):
        scoring_model.download_model("lost", "9")
    with pytest.raises(DataError, match="no version 9 .* the newest one is version 2"):
        load_registered_model("lost", "9")
    source = mlflow.MlflowClient().get_model_version("lost", "2").source
    Path(source.removeprefix("file://")).rename(tmp_path / "moved")
    with pytest.raises(score.ScoringError, match="files are gone. Train again"):
        score.download_model("lost", "latest")


def test_model_of_another_python_is_refused_before_it_is_loaded(
    tmp_path: Path,
) -> None:
    """To load its bytecode would end the process by a signal, without a message."""
    name = f"model-{tmp_path.name}"
    model, _ = learn(draw_rows(300), "y", tmp_path, keys=["id"], model_name=name)
    description = tmp_path / "model" / "MLmodel"
    running = f"python_version: {sys.version_info.major}.{sys.version_info.minor}."
    text = description.read_text()
    assert running in text
    description.write_text(text.replace(running, "python_version: 3.99."))
    register.register(tmp_path / "model", name)

    with pytest.raises(score.ScoringError, match="was trained with Python 3.99, and"):
        score.load_scorer(name, "latest", predictions=tmp_path / "out")
    holdout = pl.read_parquet(tmp_path / "holdout")
    metric = comparison.Metric("accuracy", "accuracy", higher_is_better=True)
    judged = comparison.compare_with_registered(name, model, holdout, metric, 0.02)
    assert "it was trained with Python 3.99" in judged["reason"]


# Tables of every kind


COUNT = 120
NUMBERS = np.random.default_rng(0).normal(size=COUNT)
CLASSES = np.where(NUMBERS > 0, "a", "b")
#: The columns of tables, and the options of the training.
TRAINABLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "feature named row": (
        {"row": NUMBERS, "id": range(COUNT), "y": CLASSES},
        {"keys": ["id"]},
    ),
    "classes are fractions": ({"x": NUMBERS, "y": np.where(NUMBERS > 0, 1.0, 2.0)}, {}),
    "classes are digits": ({"x": NUMBERS, "y": np.where(NUMBERS > 0, "1", "2")}, {}),
    "classes are true and false": ({"x": NUMBERS, "y": NUMBERS > 0}, {}),
    "classes are dates": (
        {"x": NUMBERS, "y": [datetime.date(2024, 1, 1 + (n > 0)) for n in NUMBERS]},
        {},
    ),
    "dates far in the future": (
        {
            "z": NUMBERS,
            "x": [datetime.datetime(9999, 12, 31)] * 9 + [None] * 111,
            "y": CLASSES,
        },
        {},
    ),
    "infinite feature": (
        {"x": [np.inf, *NUMBERS[1:]], "y": NUMBERS},
        {"task": "regression"},
    ),
    "integers of 64 bits": (
        {"x": np.arange(COUNT, dtype=np.uint64) + 2**63, "y": CLASSES},
        {},
    ),
    "categories with signs": (
        {"x": NUMBERS, "y": CLASSES, "z": ["$a_b^$", None] * 60},
        {},
    ),
    "names are patterns": (
        {"^x$": NUMBERS, "*": [1, None] * 60, "^.*$": CLASSES, "a[0]": range(COUNT)},
        {"target": "^.*$", "keys": ["a[0]"]},
    ),
    "names are formulas and HTML": (
        {
            r"cost $ per \frac$": NUMBERS,
            "<b>🐧</b>": NUMBERS,
            "y": np.where(NUMBERS > 0, "$", "_$"),
        },
        {},
    ),
}
#: The columns of tables, the options of the training, and a part of the message.
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "key named prediction": (
        {"prediction": range(COUNT), "x": NUMBERS, "y": CLASSES},
        {"keys": ["prediction"]},
        "Rename",
    ),
    "key named like a probability": (
        {"probability_a": range(COUNT), "x": NUMBERS, "y": CLASSES},
        {"keys": ["probability_a"]},
        "Rename",
    ),
    "feature named row without keys": (
        {"row": NUMBERS, "y": CLASSES},
        {},
        "the name of the row numbers",
    ),
    "a class for each row": (
        {"x": NUMBERS, "y": [f"c{i}" for i in range(COUNT)]},
        {},
        "120 classes in 120 rows",
    ),
    "two rows": ({"x": NUMBERS[:2], "y": ["a", "b"]}, {}, "2 classes in 2 rows"),
    "nothing to train on": (
        {"x": NUMBERS, "y": NUMBERS},
        {"task": "regression", "test_fraction": 0.999},
        "lower training.test_fraction",
    ),
    "nothing is held out": (
        {"x": NUMBERS, "y": NUMBERS},
        {"task": "regression", "test_fraction": 1e-9},
        "raise training.test_fraction",
    ),
    "infinite target": (
        {"x": NUMBERS, "y": [np.inf, *NUMBERS[1:]]},
        {"task": "regression"},
        "infinite",
    ),
    "regression of classes": (
        {"x": NUMBERS, "y": CLASSES},
        {"task": "regression"},
        "needs numbers",
    ),
    "negative learning rate": (
        {"x": NUMBERS, "y": CLASSES},
        {"hyperparameters": {"learning_rate": -1}},
        "learning_rate",
    ),
    "unknown hyperparameter": (
        {"x": NUMBERS, "y": CLASSES},
        {"hyperparameters": {"lerning_rate": 1}},
        "lerning_rate",
    ),
    "no iteration": (
        {"x": NUMBERS, "y": CLASSES},
        {"hyperparameters": {"max_iterations": 0}},
        "max_iter",
    ),
    "no feature": (
        {"id": range(COUNT), "y": CLASSES},
        {"keys": ["id"]},
        "No column is left",
    ),
}


@pytest.mark.parametrize(
    ("columns", "options", "message"), REFUSED.values(), ids=REFUSED.keys()
)
def test_tables_that_cannot_be_trained_on_are_refused(
    columns: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    options = {"target": "y", **options}
    with pytest.raises(train.DataError, match=message):
        learn(pl.DataFrame(columns), folder=tmp_path, **options)


@pytest.mark.parametrize(
    ("columns", "options"), TRAINABLE.values(), ids=TRAINABLE.keys()
)
def test_unusual_tables_are_trained_on_and_scored(
    columns: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    table = pl.DataFrame(columns)
    options = {"target": "y", **options}
    model, _ = learn(table, folder=tmp_path, **options)
    report = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    # Names of columns are escaped.
    assert "<b>" not in report
    scorer = score.Scorer(
        name="figures",
        version="1",
        model=model.pipeline,
        columns=model.columns,
        predictions=tmp_path,
    )
    part = tmp_path / "prepared" / "part-00000.parquet"
    if not options.get("keys"):
        table.with_row_index("row").write_parquet(part)
    name = score.score_part(scorer, part)
    assert pl.read_parquet(tmp_path / name)["prediction"].null_count() == 0


def test_saved_model_needs_no_file_of_the_project(tmp_path: Path) -> None:
    learn(draw_rows(200), "y", tmp_path, keys=["id"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").rename(tmp_path / "elsewhere" / "model")
    code = (
        "import cloudpickle, mlflow, pathlib, polars as pl\n"
        "mlflow.sklearn.load_model('model')\n"
        "split = cloudpickle.loads(pathlib.Path('model/split.pkl').read_bytes())\n"
        "print(split.groups(pl.DataFrame({'id': ['1']}))[0])"
    )
    process = subprocess.run(
        [PYTHON, "-B", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path / "elsewhere",
        check=False,
    )
    expected = train.Split(["id"], 42, 0.25).groups(pl.DataFrame({"id": ["1"]}))[0]
    assert process.stdout.split() == [str(expected)], process.stderr
