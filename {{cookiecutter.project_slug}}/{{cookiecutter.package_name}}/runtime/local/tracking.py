"""MLflow of this project: a database and files in `mlruns/`, wherever the project is.

MLflow writes whole paths into its database. Before each run those of a place where the
project was before, or of the project that this one is a copy of, become its own.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from urllib.request import url2pathname

DATABASE = "mlruns/mlflow.db"  # below the project
ARTIFACTS = "mlruns/artifacts"
LOADED = "registered_model_meta"  # written beside a model when it is loaded first
LOCATIONS = [  # the columns that hold paths
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]
CREATE = """
import gc, sys
gc.disable()  # as what is imported is no garbage, and it takes a third of the time
import mlflow
mlflow.set_experiment(sys.argv[1])
gc.freeze()
"""


def environment(root: Path, database: Path | None = None) -> dict[str, str]:
    """This process's environment, with MLflow set to the project's database and files."""
    path = database or root / DATABASE
    address = f"sqlite:///{path.as_posix()}"
    if "?" in address:  # would begin the options
        # With the driver's name, as MLflow would make a folder `file:` for `sqlite:`.
        name = path.as_uri().removeprefix("file://")
        address = f"sqlite+pysqlite:///file:{name}?uri=true"
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")},
        "PYTHONUTF8": "1",  # umlauts come through, whatever the locale
        "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"],
        "MLFLOW_TRACKING_URI": address,
        # Else files of a run would land in the copy of the code that made it.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (root / ARTIFACTS).as_uri(),
    }


def ensure_database(root: Path, experiment: str) -> None:
    """Have a database with that experiment, all of whose files are in this project.

    OSError and sqlite3.Error if it cannot be written.
    """
    database = root / DATABASE
    database.parent.mkdir(exist_ok=True)
    if not database.exists():
        # Made elsewhere and put in place whole: a run that was started at the same time
        # finds all of it, or makes one too, and the first one stays.
        with TemporaryDirectory(prefix=".", dir=database.parent) as folder:
            unfinished = Path(folder, database.name)
            _create(root, experiment, unfinished)
            try:
                os.link(unfinished, database)
            except OSError:  # there is one by now, or the file system has no links
                if not database.exists():
                    unfinished.replace(database)
    own = (root / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        found = "SELECT name, experiment_id, artifact_location FROM experiments"
        experiments = connection.execute(found).fetchall()
        for _, number, location in experiments:
            old = location.removesuffix(f"/{number}")
            # Elsewhere is a place that someone chose for an experiment.
            if old.startswith("file:") and old.endswith(f"/{ARTIFACTS}") and old != own:
                _relocate(connection, f"{old}/", f"{own}/")
    if experiment not in {name for name, _, _ in experiments}:
        _create(root, experiment, database)


@dataclass(frozen=True)
class Version:
    """A version of a registered model: what tells it from others, and who made it."""

    about: str
    files: Path | None  # if they are on this machine
    run: str  # the local run that registered it, if one did


def registered_version(root: Path, model: str, version: str) -> Version | None:
    """A version of a registered model, or the "latest"; None if there is none."""
    query = (
        "SELECT version, creation_time, run_id, source, (SELECT value FROM tags"
        " WHERE run_uuid = run_id AND key = 'run') FROM model_versions WHERE name = ?1"
        " AND current_stage IS NOT 'Deleted_Internal'"
        " AND (?2 = 'latest' OR version = ?2) ORDER BY version DESC"
    )
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        found = connection.execute(query, [model, version]).fetchone()
    if found is None:
        return None
    *about, source, run = found
    address = urlsplit(source or "")
    files = Path(url2pathname(address.path)) if address.scheme == "file" else None
    return Version(json.dumps(about), files, run or "")


def registered_files(root: Path) -> list[str]:
    """Where the files of all registered models are, as paths or addresses."""
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        found = connection.execute("SELECT source FROM model_versions").fetchall()
    return [source or "" for (source,) in found]


def _create(root: Path, experiment: str, database: Path) -> None:
    """Have the experiment in a database, which is made if need be.

    In a process of its own, as MLflow takes its settings from the environment.
    """
    done = subprocess.run(
        [sys.executable, "-c", CREATE, experiment],
        env=environment(root, database),
        cwd=root / "mlruns",
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise OSError(f"MLflow cannot make {database}: {last}")


def _relocate(connection: sqlite3.Connection, old: str, new: str) -> None:
    size = len(old)
    for table, column in LOCATIONS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, {size + 1})"
            f" WHERE substr({column}, 1, {size}) = ?",
            [new, old],
        )
