"""Test the recipes of docs/change.md for other models: their code trains, saves and scores.

Each test follows a recipe in a copy of steps/train/train.py, and trains on a small table.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import evaluate
import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
import score
import train
import yaml
from sklearn import metrics
from step_tracking import track_in
from template_package import PROJECT

PAGE = (PROJECT / "docs" / "change.md").read_text(encoding="utf-8")
BUILD_MODEL = "def build_model("


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow write to a temporary folder."""
    with track_in(tmp_path_factory.mktemp("mlruns"), "recipes"):
        yield


def find_code(heading: str) -> tuple[list[str], dict[str, Any]]:
    """Return the Python code of a recipe, and the settings of its training."""
    recipe = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    code = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n(.*?)```", recipe, re.DOTALL)
    return code, yaml.safe_load(settings)


def import_changed_train(folder: Path, *, imports: str, functions: str) -> ModuleType:
    """Import a copy of train.py with further imports and other functions in it."""
    text = Path(train.__file__).read_text(encoding="utf-8")
    before, _, rest = text.partition(BUILD_MODEL)
    old, _, after = rest.partition("\n\n\ndef ")
    before = before.replace("import mlflow\n", f"import mlflow\n{imports}\n")
    if "build_trees" in functions:
        functions = f"def build_trees({old}\n\n\n{functions}"
    file = folder / "train.py"
    file.write_text(f"{before}{functions}\n\n\ndef {after}", encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"train_{folder.name}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    # The folder of the copy is not that of the step, so its code would not be saved.
    cloudpickle.register_pickle_by_value(module)
    return module


def draw_table(task: str) -> pl.DataFrame:
    """Draw a table with numbers, dates and texts, gaps in each, and a rare class."""
    random = np.random.default_rng(0)
    rows = 800
    size = random.normal(size=rows)
    color = random.choice(["red", "blue", "green"], rows)
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(rows), "D")
    signal = size + (color == "red") + 0.5 * random.normal(size=rows)
    target: Any = 1000 + 100 * signal
    if task == "classification":
        target = np.where(signal > 1.5, "yes", "no")
    table = pl.DataFrame(
        {"id": range(rows), "size": size, "color": color, "day": days.to_numpy()}
    )
    has_gap = pl.col("id") % 10
    return table.with_columns(
        pl.when(has_gap > 0).then(pl.col("size")),
        pl.when(has_gap != 1).then(pl.col("color")),
        pl.when(has_gap != 2).then(pl.col("day")),
        y=pl.Series(target),
    )


def train_and_score(
    module: Any, folder: Path, task: str, settings: dict[str, Any]
) -> pl.DataFrame:
    """Train, save, load and score; return the predictions for the hold-out, with `y`."""
    prepared = folder / "prepared"
    prepared.mkdir()
    draw_table(task).write_parquet(prepared / "part-00000.parquet")
    module.train(
        prepared,
        folder / "model",
        folder / "holdout",
        task=task,
        target="y",
        keys=["id"],
        hyperparameters=settings["hyperparameters"],
    )
    description = mlflow.models.Model.load(str(folder / "model"))
    held_out = pl.read_parquet(folder / "holdout")
    columns = score.list_model_columns(description)
    features = held_out.select(
        pl.col(name).cast(dtype) for name, dtype in columns.items()
    ).to_pandas()
    model = mlflow.sklearn.load_model(folder / "model")
    scored = score.predict(model, features, held_out.select("id"))
    return scored.with_columns(y=held_out["y"])


def evaluate_model(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Evaluate a model that was trained in a folder, and return its metrics."""
    evaluate.evaluate(
        folder / "model",
        folder / "holdout",
        folder / "evaluation",
        model_name="recipes",
        metric_name=settings.get("metric", "default"),
    )
    text = (folder / "evaluation" / "metrics.json").read_text(encoding="utf-8")
    evaluation = json.loads(text)
    values: dict[str, float] = evaluation["metrics"]
    return values


def list_requirements(folder: Path) -> list[str]:
    """Return the packages that a saved model names."""
    lines = (folder / "model" / "requirements.txt").read_text().splitlines()
    return [line.partition("==")[0] for line in lines]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_recipe_for_a_neural_network_works(task: str, tmp_path: Path) -> None:
    (imports, function), settings = find_code("Use a neural network")
    module = import_changed_train(tmp_path, imports=imports, functions=function)
    scored = train_and_score(module, tmp_path, task, settings)
    if task == "regression":
        assert metrics.r2_score(scored["y"], scored["prediction"]) > 0.7
    else:
        assert metrics.roc_auc_score(scored["y"], scored["probability_yes"]) > 0.8
    assert list_requirements(tmp_path) == [
        *("cloudpickle", "mlflow", "numpy", "pandas", "polars", "scikit-learn"),
    ]


def test_recipe_for_rare_classes_raises_their_recall(tmp_path: Path) -> None:
    _, settings = find_code("Weigh rare classes more")
    recalls = []
    for name, weight in (("weighted", "balanced"), ("plain", None)):
        folder = tmp_path / name
        folder.mkdir()
        settings["hyperparameters"]["class_weight"] = weight
        scored = train_and_score(train, folder, "classification", settings)
        recalls.append(
            metrics.recall_score(scored["y"], scored["prediction"], pos_label="yes")
        )
    assert recalls[0] > recalls[1]


def test_recipe_for_a_threshold_changes_the_decisions(tmp_path: Path) -> None:
    (imports, function, _), settings = find_code("Decide by a threshold")
    module = import_changed_train(tmp_path, imports=imports, functions=function)
    scored = train_and_score(module, tmp_path, "classification", settings)
    is_yes = scored["probability_yes"] >= 0.2
    assert ((scored["prediction"] == "yes") == is_yes).all()
    assert is_yes.sum() > (scored["probability_yes"] > 0.5).sum()
    # The evaluation judges the same decisions.
    expected = metrics.balanced_accuracy_score(scored["y"], scored["prediction"])
    values = evaluate_model(tmp_path, settings)
    assert values["balanced_accuracy"] == pytest.approx(expected)


def test_recipe_for_a_threshold_by_the_model_works(tmp_path: Path) -> None:
    (_, function, choice), settings = find_code("Decide by a threshold")
    before, _, after = function.partition("    decide = ")
    end = after[after.index("    return") :]
    module = import_changed_train(
        tmp_path,
        imports="from sklearn.model_selection import TunedThresholdClassifierCV\n",
        functions=f"{before}{choice}{end}",
    )
    scored = train_and_score(module, tmp_path, "classification", settings)
    predicted = scored.filter(prediction="yes")["probability_yes"]
    assert (predicted < 0.5).any()


@pytest.fixture(scope="module")
def lightgbm_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with LightGBM, which this environment does not have."""
    folder = tmp_path_factory.mktemp("packages")
    command = ["-m", "uv", "pip", "install", "--no-deps", "--quiet"]
    done = subprocess.run(
        [sys.executable, *command, "--target", folder, "lightgbm==4.6.0"],
        env={**os.environ, "UV_SYSTEM_CERTS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "error sending request" in done.stderr:
        pytest.skip("the package index cannot be reached")
    assert done.returncode == 0, done.stderr
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.mark.usefixtures("lightgbm_folder")
def test_recipe_for_lightgbm_works(tmp_path: Path) -> None:
    (function,), settings = find_code("Use LightGBM")
    module = import_changed_train(
        tmp_path, imports="import lightgbm", functions=function
    )
    scored = train_and_score(module, tmp_path, "classification", settings)
    assert metrics.roc_auc_score(scored["y"], scored["probability_yes"]) > 0.8
    assert evaluate_model(tmp_path, settings)["roc_auc"] > 0.8
    requirements = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert "lightgbm==4.6.0" in requirements

    wrong = {"hyperparameters": {**settings["hyperparameters"], "num_leaves": 1}}
    (tmp_path / "wrong").mkdir()
    with pytest.raises(module.DataError, match="cannot be trained: .*num_leaves"):
        train_and_score(module, tmp_path / "wrong", "classification", wrong)
