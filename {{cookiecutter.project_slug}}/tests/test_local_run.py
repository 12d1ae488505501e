"""Both pipelines on this machine, from start to end, on the data of settings.yml."""

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

MOST_BYTES = 50_000_000  # of data: with more, tests would take their time


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, whose runs and models are its own."""
    folder = tmp_path_factory.mktemp("project")
    data = PROJECT.list_data_paths().values()
    for name in (PROJECT.package, "steps", "environment", "settings.yml", *data):
        source, copy = PROJECT.root / name, folder / name
        files = [path for path in (source, *source.rglob("*")) if path.is_file()]
        if not files or sum(file.stat().st_size for file in files) > MOST_BYTES:
            pytest.skip(f"{name} is not here, or larger than {MOST_BYTES} bytes")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, dirs_exist_ok=True)
        else:
            shutil.copy(source, copy)
    return folder


def run(project: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", PROJECT.package, "run", *arguments, "--json"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_training_then_scoring(project: Path) -> None:
    code, training = run(project, "training")
    assert (code, training["status"]) == (0, "completed")
    assert {step["status"] for step in training["steps"]} == {"ran"}
    registration = Path(training["steps"][-1]["outputs"]["registration"])
    assert json.loads((registration / "registration.json").read_text())["registered"]

    code, again = run(project, "training")
    assert (code, again["status"]) == (0, "completed")
    assert {step["status"] for step in again["steps"]} == {"reused"}

    code, scoring = run(project, "scoring", "--set", "process_count_per_node=2")
    assert (code, scoring["status"]) == (0, "completed")
    outputs = {k: Path(v) for s in scoring["steps"] for k, v in s["outputs"].items()}
    prepared, scored = (
        pl.read_parquet(outputs[port]) for port in ("prepared", "predictions")
    )
    assert len(scored) == len(prepared)
    assert scored["prediction"].null_count() == 0
    keys = PROJECT.settings().data.keys or ["row"]
    assert scored.select(keys).sort(keys).equals(prepared.select(keys).sort(keys))


def test_a_failing_step_stops_the_run(project: Path) -> None:
    (project / "empty").mkdir()
    code, result = run(project, "training", "--set", "raw_data=empty")

    assert (code, result["status"]) == (1, "failed")
    first, *others = [step["status"] for step in result["steps"]]
    assert (first, {*others}) == ("failed", {"skipped"})
    log = Path(result["folder"]) / "prep" / "log.txt"
    assert "holds no file that ends in .csv" in log.read_text(encoding="utf-8")
