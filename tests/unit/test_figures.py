"""That figures can be believed: the hold-out, the gate, and tables of every kind.

The steps' own functions, on made tables and on scikit-learn's data sets, without a
generated project.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.util
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
from conftest import PYTHONS, SDKS, TEMPLATE
from step_tracking import track_in

STEPS = TEMPLATE / "{{cookiecutter.project_slug}}" / "steps"
#: On Linux, it has imported the packages already.
PYTHON = PYTHONS[SDKS[0]]


def load(path: Path) -> Any:
    """A Python file as a module, under a name that no other file has."""
    spec = importlib.util.spec_from_file_location(f"figures_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


train, evaluate, register, score = (
    load(STEPS / name / f"{name}.py")
    for name in ("train", "evaluate", "register", "score")
)
comparison = load(STEPS / "evaluate" / "comparison.py")
saved_model = load(STEPS / "evaluate" / "saved_model.py")


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
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
    """Train and evaluate on these rows; returns the saved model and its metrics."""
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


def rows_of(count: int, seed: int = 0) -> pd.DataFrame:
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


def prepared(raw: Path, keys: list[str]) -> pl.DataFrame:
    """The rows of a raw folder as the prep step gives them to train."""
    out = raw.parent / f"{raw.name}-prepared"
    command = [PYTHON, "-B", str(STEPS / "prep" / "prep.py"), "--raw", str(raw)]
    command += ["--prepared", str(out), "--report", str(out) + "-report"]
    command += ["--target", "y", "--keys", *keys]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table: pl.DataFrame = train.read_training_table(
        out, target="y", keys=keys, task="classification"
    )
    return table


def sides(table: pl.DataFrame, keys: list[str]) -> dict[str, bool]:
    """Whether each row is held out, by its `tag`, a column that is no feature."""
    by = keys or [n for n in table.columns if n not in ("y", "tag")]
    held_out = train.Split(by, 42, 0.3).held_out(table)
    return dict(zip(table["tag"].to_list(), held_out.tolist(), strict=True))


@pytest.mark.parametrize("keys", [["id"], []])
def test_a_row_keeps_its_side(keys: list[str], tmp_path: Path) -> None:
    """Whatever file and format it is in, where it stands there, and what is beside it."""
    frame = rows_of(400).assign(tag=[f"t{i}" for i in range(400)])
    if not keys:
        frame = frame.drop(columns="id")
    more = rows_of(300, seed=1)[[c for c in frame if c != "tag"]]
    more["tag"] = [f"new {i}" for i in range(300)]
    more["whole"] = more["whole"] + 0.5  # so that the column is one of fractions
    shuffled = frame.sample(frac=1, random_state=1)[frame.columns[::-1]]

    raw = {name: tmp_path / name for name in ("csv", "parquet", "grown", "mixed")}
    for folder in raw.values():
        folder.mkdir()
    frame.to_csv(raw["csv"] / "a.csv", index=False)
    shuffled.to_parquet(raw["parquet"] / "a.parquet", index=False)
    pd.concat([more, shuffled, frame[:50]]).to_csv(raw["grown"] / "b.csv", index=False)
    shuffled[:150].to_csv(raw["mixed"] / "z.csv", index=False)
    more.to_parquet(raw["mixed"] / "b.parquet", index=False)
    shuffled[150:].to_parquet(raw["mixed"] / "c.parquet", index=False)

    found = {name: sides(prepared(folder, keys), keys) for name, folder in raw.items()}
    expected = found["csv"]
    assert len(expected) == 400
    assert 80 < sum(expected.values()) < 160
    for name, others in found.items():
        assert {tag: others[tag] for tag in expected} == expected, name
    assert found["grown"] == found["mixed"]


def test_the_hash_is_the_same_everywhere() -> None:
    """Fixed numbers: another platform, Python or library must find them too."""
    table = pl.DataFrame(
        {
            "i": [1, 2**53, None],
            "f": [0.1, -0.0, float("nan")],
            "t": ["grün", "", None],
            "b": [True, False, None],
            "d": [datetime.date(2024, 2, 29), datetime.date(9999, 12, 31), None],
        }
    )
    found = train.Split(list("iftbd"), 42, 0.2).groups(table).tolist()
    assert found == [
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


def test_what_is_a_coin_scores_as_one(tmp_path: Path) -> None:
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


def test_a_model_of_grown_data_is_not_refused(tmp_path: Path) -> None:
    """The old model has not seen the rows on which the new one is judged."""
    refused, advantage = 0, []
    for seed in range(10):
        random = np.random.default_rng(seed)

        def draw(count: int, random: Any = random) -> pd.DataFrame:
            x = random.normal(size=(count, 6))
            noise = random.gumbel(size=(count, 3))
            y = np.array(["a", "b", "c"])[(2 * x[:, :3] + noise).argmax(axis=1)]
            frame = pd.DataFrame(x, columns=list("uvwxyz")).assign(target=y)
            return frame.assign(id=random.integers(2**53, size=count))

        data, fresh = draw(2400), pl.from_pandas(draw(1000))
        models, holdout = [], pl.DataFrame()
        for rows in (data[:2000], data.sample(frac=1, random_state=seed)):
            table = pl.from_pandas(rows)
            split = train.Split(["id"], 42, 0.25)
            divided = train.divide_rows(table, split, "target", ["id"])
            holdout = divided.holdout
            x = train.select_features(divided.training, ["target", "id"])
            pipeline = train.build_model(x, "classification", 42, max_iterations=20)
            pipeline.fit(x, divided.training["target"].to_pandas())
            models.append(
                saved_model.SavedModel(
                    pipeline=pipeline,
                    columns={name: pl.Float64() for name in "uvwxyz"},
                    categories={},
                    task="classification",
                    target="target",
                    split=split,
                )
            )
        shared = comparison.find_shared_rows(*models[::-1], holdout)
        assert len(shared.table) == len(holdout) > 400

        def difference(rows: pl.DataFrame, groups: Any, models: Any = models) -> Any:
            features = saved_model.select_columns(rows, models[0].columns)
            target = rows["target"].to_pandas()
            old, new = (
                comparison.ModelOnRows(model.pipeline, features) for model in models
            )
            metric = comparison.Metric("f1_macro", "macro F1", higher_is_better=True)
            return comparison.compare_pipelines(metric, new, old, target, groups)

        refused += difference(shared.table, shared.groups).verdict == "worse"
        found = difference(fresh, np.arange(1000, dtype=np.uint64))
        advantage.append(found.difference)
    assert abs(np.mean(advantage)) < 0.01  # on fresh rows they are equal
    assert refused <= 1


def test_a_key_of_few_values_is_no_ground_to_compare(tmp_path: Path) -> None:
    """3 stores that are held out are three rows' worth, however many rows they have."""
    frame = rows_of(2000).assign(store=np.arange(2000) % 12)
    model, _ = learn(frame.drop(columns="id"), "y", tmp_path, keys=["store"])
    holdout = pl.read_parquet(tmp_path / "holdout")
    assert len(holdout) > 300
    with pytest.raises(
        comparison.NotComparable, match="too few groups of rows.*: ., and"
    ):
        comparison.find_shared_rows(model, model, holdout)


@pytest.mark.parametrize(
    ("change", "verdict", "problem"),
    [
        (
            {"target": "flag"},
            "another question",
            "it is a classification of 'y', not a",
        ),
        (
            {"target": "part", "task": "regression"},
            "another question",
            "not a regression of 'part'",
        ),
        (
            {"seed": 7, "test_fraction": 0.04},
            "not comparable",
            r"too few groups of rows .*: \d+, and 30 are",
        ),
        ({"drop": "word"}, "not comparable", "it needs columns that are gone: word"),
        ({"gone": True}, "not comparable", "its files are gone"),
        ({"seed": 7}, "", ""),
    ],
)
def test_only_what_can_be_compared_is(
    change: dict[str, Any], verdict: str, problem: str, tmp_path: Path
) -> None:
    name = f"model-{tmp_path.name}"
    frame = rows_of(1200)
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
    found = json.loads(text)
    if not problem:
        assert 30 <= found["registered"]["comparison"]["rows"] < found["rows"]
        return
    assert found["registered"]["verdict"] == verdict
    # Nothing can be learned of these rows, so the baseline stands.
    decision, reason = register.decide(found)
    assert not decision
    assert re.search(problem, reason)


@pytest.mark.parametrize("says_its_rows", [True, False])
def test_a_model_of_version_1_is_still_compared_and_scored(
    says_its_rows: bool, tmp_path: Path
) -> None:
    """Its split was an attribute of the pipeline, and its metadata held no keys."""
    name = f"model-{tmp_path.name}"
    rows = rows_of(1200)
    learn(rows, "y", tmp_path / "new", keys=["id"])
    current = saved_model.load_model(tmp_path / "new" / "model")
    expected = current.pipeline.predict_proba
    if says_its_rows:
        current.pipeline.split = current.split
    mlflow.sklearn.save_model(
        current.pipeline,
        tmp_path / "version-1",
        serialization_format="cloudpickle",
        signature=mlflow.models.Model.load(str(tmp_path / "new/model")).signature,
        metadata={"task": "classification", "target": "y"} if says_its_rows else None,
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
    if says_its_rows:
        assert registered["comparison"]["rows"] >= 30
    else:
        why = "it does not say which rows it was trained on"
        assert registered["reason"].endswith(why)
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
    learn(rows_of(200), "y", tmp_path, keys=["id"])
    no_folder = tmp_path / "file" / "output"
    no_folder.parent.write_text(
        "This is no folder, so nothing can be written below it."
    )
    is_a_target = {"task": "classification", "target": "y"}
    prepared = {"prepared": tmp_path / "prepared", "holdout": no_folder}
    judged = {"model": tmp_path / "model", "holdout": tmp_path / "holdout"}
    failing = {
        "train": run_step("train", model=tmp_path / "m", **prepared, **is_a_target),
        "evaluate": run_step(
            "evaluate", evaluation=no_folder, model_name="n", **judged
        ),
        "register": run_step(
            "register",
            model=tmp_path / "model",
            evaluation=tmp_path / "evaluation",
            registration=no_folder,
            model_name="n",
            register="unless_worse",
        ),
    }
    for name, done in failing.items():
        last_line = done.stderr.splitlines()[-1]
        assert done.returncode == 1, name
        assert last_line.startswith(f"{name}: a file cannot be read or written: ")
        assert str(no_folder) in last_line
        assert "Traceback" not in done.stderr

    (tmp_path / "empty").mkdir()
    with pytest.raises(train.DataError, match="There is no Parquet file in .*/empty"):
        train.read_training_table(
            tmp_path / "empty", target="y", keys=[], task="regression"
        )


def test_a_model_whose_split_fails_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that takes tables of another library."""
    name = f"model-{tmp_path.name}"
    model, _ = learn(rows_of(300), "y", tmp_path, keys=["id"], model_name=name)
    register.register(tmp_path / "model", name)
    foreign_split = SimpleNamespace(
        by=["id"], held_out=lambda table: table.column_names
    )
    current = dataclasses.replace(model, split=foreign_split)
    monkeypatch.setattr(comparison, "load_model", lambda folder: current)
    holdout = pl.read_parquet(tmp_path / "holdout")
    metric = comparison.Metric("accuracy", "accuracy", higher_is_better=True)
    found = comparison.compare_with_registered(name, model, holdout, metric, 0.02)
    why = "it cannot say which rows it was trained on ('DataFrame' object has no"
    assert f"not comparable with the registered version 1: {why}" in found["reason"]


def test_a_model_is_given_the_types_it_knows_or_nothing() -> None:
    number, day, text = (saved_model.TYPES[n] for n in ("double", "datetime", "string"))
    table = pl.DataFrame(
        {
            "^n$": [1, None],
            "*": [True, False],
            "t": ["x", None],
            "d": [datetime.date.max] * 2,
        }
    ).with_columns(none=pl.lit(None, pl.String))
    wanted = {"^n$": number, "*": number, "t": text, "d": day, "none": day}
    found = saved_model.select_columns(table, wanted)
    assert [dtype.kind for dtype in found.dtypes] == list("ffOMM")
    assert found["none"].isna().all()
    assert saved_model.select_columns(table, {"^n$": text})["^n$"][0] == "1"
    for name, dtype in {"d": number, "^n$": day, "t": number, "gone": number}.items():
        with pytest.raises((TypeError, pl.exceptions.PolarsError)):
            saved_model.select_columns(table, {name: dtype})


def test_a_model_that_cannot_be_had_is_said(tmp_path: Path) -> None:
    with pytest.raises(score.ScoringError, match="Run the training pipeline first"):
        score.download_model("nobody's", "latest")
    (tmp_path / "a").write_text("")
    register.register(tmp_path, "lost")
    assert (score.download_model("lost", "latest") / "a").exists()
    with pytest.raises(score.ScoringError, match="pin a registered version"):
        score.download_model("lost", "9")
    source = mlflow.MlflowClient().get_model_version("lost", "1").source
    Path(source.removeprefix("file://")).rename(tmp_path / "moved")
    with pytest.raises(score.ScoringError, match="files are gone. Train again"):
        score.download_model("lost", "latest")


def test_a_model_of_another_python_is_refused_before_it_is_loaded(
    tmp_path: Path,
) -> None:
    """Its bytecode would end the process by a signal, without a word."""
    name = f"model-{tmp_path.name}"
    model, _ = learn(rows_of(300), "y", tmp_path, keys=["id"], model_name=name)
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
X = np.random.default_rng(0).normal(size=COUNT)
AB = np.where(X > 0, "a", "b")


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"prediction": range(COUNT), "x": X, "y": AB},
            {"keys": ["prediction"]},
            "Rename",
        ),
        (
            {"probability_a": range(COUNT), "x": X, "y": AB},
            {"keys": ["probability_a"]},
            "Rename",
        ),
        ({"row": X, "y": AB}, {}, "the name of the row numbers"),
        ({"row": X, "id": range(COUNT), "y": AB}, {"keys": ["id"]}, None),
        ({"x": X, "y": np.where(X > 0, 1.0, 2.0)}, {}, None),
        ({"x": X, "y": np.where(X > 0, "1", "2")}, {}, None),
        ({"x": X, "y": X > 0}, {}, None),
        (
            {"x": X, "y": [datetime.date(2024, 1, 1 + (v > 0)) for v in X]},
            {},
            None,
        ),
        (
            {
                "z": X,
                "x": [datetime.datetime(9999, 12, 31)] * 9 + [None] * 111,
                "y": AB,
            },
            {},
            None,
        ),
        ({"x": X, "y": [f"c{i}" for i in range(COUNT)]}, {}, "120 classes in 120 rows"),
        ({"x": X[:2], "y": ["a", "b"]}, {}, "2 classes in 2 rows"),
        (
            {"x": X, "y": X},
            {"task": "regression", "test_fraction": 0.999},
            "lower training.test_fraction",
        ),
        (
            {"x": X, "y": X},
            {"task": "regression", "test_fraction": 1e-9},
            "raise training.test_fraction",
        ),
        ({"x": X, "y": [np.inf, *X[1:]]}, {"task": "regression"}, "infinite"),
        ({"x": [np.inf, *X[1:]], "y": X}, {"task": "regression"}, None),
        ({"x": X, "y": AB}, {"task": "regression"}, "needs numbers"),
        ({"x": np.arange(COUNT, dtype=np.uint64) + 2**63, "y": AB}, {}, None),
        ({"x": X, "y": AB, "z": ["$a_b^$", None] * 60}, {}, None),
        (
            {"^x$": X, "*": [1, None] * 60, "^.*$": AB, "a[0]": range(COUNT)},
            {"target": "^.*$", "keys": ["a[0]"]},
            None,
        ),
        (
            {r"cost $ per \frac$": X, "<b>🐧</b>": X, "y": np.where(X > 0, "$", "_$")},
            {},
            None,
        ),
        (
            {"x": X, "y": AB},
            {"hyperparameters": {"learning_rate": -1}},
            "learning_rate",
        ),
        ({"x": X, "y": AB}, {"hyperparameters": {"lerning_rate": 1}}, "lerning_rate"),
        ({"x": X, "y": AB}, {"hyperparameters": {"max_iterations": 0}}, "max_iter"),
        ({"id": range(COUNT), "y": AB}, {"keys": ["id"]}, "No column is left"),
    ],
)
def test_a_table_is_learned_or_refused_in_a_sentence(
    columns: dict[str, Any],
    options: dict[str, Any],
    message: str | None,
    tmp_path: Path,
) -> None:
    table = pl.DataFrame(columns)
    options = {"target": "y", **options}
    if message:
        with pytest.raises(train.DataError, match=message):
            learn(table, folder=tmp_path, **options)
        return
    model, _ = learn(table, folder=tmp_path, **options)
    report = (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in report
    # The predictions, which a worker of the scoring pipeline makes, are read by anyone.
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


def test_a_saved_model_needs_no_file_of_the_project(tmp_path: Path) -> None:
    learn(rows_of(200), "y", tmp_path, keys=["id"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").rename(tmp_path / "elsewhere" / "model")
    code = (
        "import cloudpickle, mlflow, pathlib, polars as pl\n"
        "mlflow.sklearn.load_model('model')\n"
        "split = cloudpickle.loads(pathlib.Path('model/split.pkl').read_bytes())\n"
        "print(split.groups(pl.DataFrame({'id': ['1']}))[0])"
    )
    done = subprocess.run(
        [PYTHON, "-B", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path / "elsewhere",
        check=False,
    )
    expected = train.Split(["id"], 42, 0.25).groups(pl.DataFrame({"id": ["1"]}))[0]
    assert done.stdout.split() == [str(expected)], done.stderr
