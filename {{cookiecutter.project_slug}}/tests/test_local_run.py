"""Both pipelines on this machine, from start to end, on a small table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

PACKAGE = "{{ cookiecutter.package_name }}"
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, with a small table of its own."""
    folder = tmp_path_factory.mktemp("project")
    for name in (PACKAGE, "steps", "environment"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    settings = yaml.safe_load((ROOT / "settings.yml").read_text(encoding="utf-8"))
    settings["data"] |= {
        "training": "training.csv",
        "scoring": "scoring.csv",
        "target": "y",
        "keys": [],
        "ignore": [],
        "rows_per_part": 10,
    }
    (folder / "settings.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    rows = pd.DataFrame({"x": range(100), "z": ["a", "b"] * 50})
    rows.assign(y=rows.x // 50).to_csv(folder / "training.csv", index=False)
    rows.head(25).to_csv(folder / "scoring.csv", index=False)
    return folder


def run(project: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", PACKAGE, "run", *arguments, "--json"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_training_then_scoring(project: Path) -> None:
    code, training = run(project, "training", "--set", "max_iterations=5")
    assert (code, training["status"]) == (0, "completed")
    assert [step["name"] for step in training["steps"]] == [
        "prep",
        "train",
        "evaluate",
        "register",
    ]
    registration = Path(training["steps"][-1]["outputs"]["registration"])
    assert json.loads((registration / "registration.json").read_text())["registered"]

    code, scoring = run(project, "scoring", "--set", "process_count_per_node=2")
    assert (code, scoring["status"]) == (0, "completed")
    predictions = Path(scoring["steps"][-1]["outputs"]["predictions"])
    assert len(list(predictions.iterdir())) == 3
    scored = pd.read_parquet(predictions)
    assert sorted(scored["row"]) == list(range(25))
    assert scored["prediction"].notna().all()


def test_a_failing_step_stops_the_run(project: Path) -> None:
    (project / "empty").mkdir()
    code, result = run(project, "training", "--set", "raw_data=empty")

    assert (code, result["status"]) == (1, "failed")
    statuses = [step["status"] for step in result["steps"]]
    assert statuses == ["failed", "skipped", "skipped", "skipped"]
    log = Path(result["folder"]) / "prep" / "log.txt"
    assert "holds no file that ends in .csv" in log.read_text(encoding="utf-8")
