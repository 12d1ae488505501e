"""Test what happens if MLflow's database cannot be made, or its run is killed.

These tests use the real SQLAlchemy. Their package `mlflow` is a small imitation, because the
real one takes seconds to import.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from template_package import load

tracking = load("runtime.local.tracking")

OPENS_A_DATABASE_IN_A_MISSING_FOLDER = """
from sqlalchemy import create_engine
def set_experiment(name):
    create_engine("sqlite:////no/such/folder/mlflow.db").connect()
"""
FAILS = {
    "SQLite cannot open the file": (
        OPENS_A_DATABASE_IN_A_MISSING_FOLDER,
        "unable to open database file",
    ),
    "an error with several lines": (
        "def set_experiment(name):\n    raise ValueError('first\\nsecond')",
        "first",
    ),
    "an error without a text": (
        "def set_experiment(name):\n    raise ValueError",
        "ValueError()",
    ),
    "an import fails": ("import no_such_module", "No module named 'no_such_module'"),
}


@pytest.mark.parametrize(("module", "reason"), FAILS.values(), ids=FAILS)
def test_reason_of_a_failure_is_one_line(
    tmp_path: Path, module: str, reason: str
) -> None:
    (tmp_path / "mlflow.py").write_text(module)
    process = subprocess.run(
        [sys.executable, "-c", tracking.CREATE_EXPERIMENT, "penguins"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert process.stderr == f"{reason}\n"


def test_temporary_folder_of_a_killed_run_is_removed(tmp_path: Path) -> None:
    """Leave the folder of a run that was killed after it had moved the database."""
    unfinished = tmp_path / "mlruns" / ".new"
    unfinished.mkdir(parents=True)
    (tmp_path / tracking.DATABASE).touch()
    with pytest.raises(tracking.TrackingError):
        # The empty file is no database of MLflow, which does not matter here.
        tracking.ensure_database(tmp_path, "penguins")
    assert not unfinished.exists()


STARTS_THE_PROGRAM = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[1], "penguins"])
"""
WAITS = """
import pathlib, time
def set_experiment(name):
    pathlib.Path("started").touch()
    time.sleep(3)
    pathlib.Path("ended").touch()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends it at once")
def test_nothing_is_written_once_the_run_is_killed(tmp_path: Path) -> None:
    """The next run may make the same database meanwhile."""
    (tmp_path / "mlflow.py").write_text(WAITS)
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_THE_PROGRAM, tracking.CREATE_EXPERIMENT],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    ) as run:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.kill()
    time.sleep(4)
    assert not (tmp_path / "ended").exists()
