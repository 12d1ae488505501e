"""Both pipelines, run on this machine with the data of settings.yml.

The runs take place in a copy of the project, so they leave your runs and models alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from {{ cookiecutter.package_name }}.settings import (
    PROJECT,
)

MOST_BYTES = 50_000_000  # With more data, these tests would take minutes.


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the project; skip the test if data is missing or large."""
    data = list(PROJECT.list_data_paths().values())
    for path in data:
        skip_missing_or_large_data(PROJECT.root / path)

    copy = tmp_path_factory.mktemp("project")
    for name in [PROJECT.package, "steps", "environment", "settings.yml", *data]:
        copy_file_or_folder(PROJECT.root / name, copy / name)
    return copy


def skip_missing_or_large_data(path: Path) -> None:
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    if not files:
        pytest.skip(f"{path} is missing")
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        pytest.skip(f"{path} has more than {MOST_BYTES} bytes")


def copy_file_or_folder(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def run_pipeline(project: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code of a run, and the JSON in its last line."""
    process = subprocess.run(
        [sys.executable, "-m", PROJECT.package, "run", *arguments, "--json"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return process.returncode, json.loads(process.stdout.splitlines()[-1])


def get_output(run: dict[str, Any], step: str, port: str) -> Path:
    """Return the folder that a step of a run wrote."""
    outputs = {step["name"]: step["outputs"] for step in run["steps"]}
    return Path(outputs[step][port])


def read_predictions(folder: Path, key_types: pl.Schema) -> pl.DataFrame:
    """Read predictions in either format of `scoring.format`.

    CSV files have no types, so `key_types` has those of the keys.
    """
    csv_files = sorted(folder.glob("*.csv"))
    if csv_files:
        return pl.read_csv(csv_files, schema_overrides=key_types, glob=False)
    return pl.read_parquet(folder)


def test_training_then_scoring(project: Path) -> None:
    # On your data, the model may not be better than the baseline.
    always = ("--set", "register=always")
    exit_code, training = run_pipeline(project, "training", *always)
    assert (exit_code, training["status"]) == (0, "completed")
    assert {step["status"] for step in training["steps"]} == {"ran"}
    register = training["steps"][-1]
    registration = Path(register["outputs"]["registration"], "registration.json")
    assert json.loads(registration.read_text())["registered"]

    exit_code, unchanged = run_pipeline(project, "training", *always)
    assert (exit_code, unchanged["status"]) == (0, "completed")
    assert {step["status"] for step in unchanged["steps"]} == {"reused"}

    exit_code, scoring = run_pipeline(project, "scoring")
    assert (exit_code, scoring["status"]) == (0, "completed")
    keys = PROJECT.settings().data.keys or ["row"]
    prepared = pl.read_parquet(get_output(scoring, "prep", "prepared")).select(keys)
    folder = get_output(scoring, "score", "predictions")
    predictions = read_predictions(folder, prepared.schema)
    assert len(predictions) == len(prepared)
    assert predictions["prediction"].null_count() == 0
    assert predictions.select(keys).sort(keys).equals(prepared.sort(keys))


def test_a_failing_step_ends_the_run(project: Path) -> None:
    (project / "empty").mkdir()
    exit_code, run = run_pipeline(project, "training", "--set", "raw_data=empty")

    assert (exit_code, run["status"]) == (1, "failed")
    prep, *later_steps = [step["status"] for step in run["steps"]]
    assert prep == "failed"
    assert set(later_steps) == {"skipped"}
    log = Path(run["folder"], "prep", "log.txt").read_text(encoding="utf-8")
    assert "holds no file that ends in .csv" in log
