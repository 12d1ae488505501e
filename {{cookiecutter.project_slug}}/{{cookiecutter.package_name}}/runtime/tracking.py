"""MLflow of this project: a database and files in `mlruns/`, wherever the project is.

MLflow writes whole paths into its database. Before each run those of a place where the
project was before, or of the project that this one is a copy of, become its own.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from uuid import uuid4

FOLDER = "mlruns"  # of a project
DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
LOCATIONS = [  # the columns that hold paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]
CREATE = """
import sys

import mlflow
from mlflow.exceptions import MlflowException

try:
    mlflow.create_experiment(sys.argv[1])
except MlflowException as error:
    if error.error_code != "RESOURCE_ALREADY_EXISTS":
        raise
"""


def environment(root: Path, name: str = DATABASE) -> dict[str, str]:
    """This process's environment, with MLflow set to the project's database and files."""
    database = root / FOLDER / name
    address = f"sqlite:///{database.as_posix()}"
    if "?" in address:  # would begin the options
        # With the driver's name, as MLflow would make a folder `file:` for `sqlite:`.
        path = database.as_uri().removeprefix("file://")
        address = f"sqlite+pysqlite:///file:{path}?uri=true"
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
        "PYTHONUTF8": "1",  # umlauts come through, whatever the locale
        "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"],
        "MLFLOW_TRACKING_URI": address,
        # Else files of a run would land in the copy of the code that made it.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (root / FOLDER / ARTIFACTS).as_uri(),
    }


def ensure_database(root: Path, experiment: str) -> None:
    """Have a database with that experiment, all of whose files are in this project.

    OSError and sqlite3.Error if it cannot be written.
    """
    folder = root / FOLDER
    folder.mkdir(exist_ok=True)
    database = folder / DATABASE
    if not database.exists():
        # Made elsewhere and put in place whole: a run that was started at the same time
        # finds all of it, or makes one too, and the first one stays.
        unfinished = folder / f".{uuid4().hex}.db"
        try:
            _create(root, experiment, unfinished.name)
            with suppress(FileExistsError):
                _put(unfinished, database)
        finally:
            unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        known = "SELECT count(*) FROM experiments WHERE name = ?"
        (count,) = connection.execute(known, [experiment]).fetchone()
        with connection:
            _relocate(connection, (folder / ARTIFACTS).as_uri())
    if not count:
        _create(root, experiment)


def _create(root: Path, experiment: str, database: str = DATABASE) -> None:
    """Have the experiment in a database, which is made if need be.

    In a process of its own, as MLflow takes its settings from the environment.
    """
    done = subprocess.run(
        [sys.executable, "-c", CREATE, experiment],
        env=environment(root, database),
        cwd=root / FOLDER,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        last = done.stdout.strip().rpartition("\n")[2]
        raise OSError(f"MLflow cannot make {root / FOLDER / database}: {last}")


def _put(unfinished: Path, database: Path) -> None:
    """Give a new database its name; FileExistsError if there is one by now."""
    try:
        os.link(unfinished, database)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if database.exists():
            raise FileExistsError(database) from None
        os.replace(unfinished, database)


def _relocate(connection: sqlite3.Connection, own: str) -> None:
    """Have all locations below `mlruns/artifacts` of any project below its `own`."""
    found = connection.execute(
        "SELECT experiment_id, artifact_location FROM experiments"
    )
    roots = {location.removesuffix(f"/{id_}") for id_, location in found.fetchall()}
    for root in roots - {own}:
        if not (root.startswith("file:") and root.endswith("/mlruns/artifacts")):
            continue  # a place that someone chose for an experiment
        for table, column in LOCATIONS:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?)"
                f" WHERE substr({column}, 1, ?) = ?",
                [own, len(root) + 1, len(root) + 1, f"{root}/"],
            )
