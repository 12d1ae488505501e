"""MLflow of this project: a database and files in `mlruns/`, wherever the project is.

MLflow writes whole paths into its database. Before each run, the paths of a place where
the project was before, or of the project that it is a copy of, are replaced by its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..errors import CommandError

DATABASE = "mlruns/mlflow.db"  # below the project's folder
ARTIFACTS = "mlruns/artifacts"
UNFINISHED = "mlruns/.new"  # where the database is made before it is put in place
LOADED_MARK = "registered_model_meta"  # MLflow writes this file beside a loaded model
SQLITE_LONGEST_PATH = 500  # bytes; a few more are for its temporary files
#: The columns of MLflow's tables that hold paths.
PATH_COLUMNS = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]
#: Secrets of a login, or of a CI job; steps on Azure ML do not have them either.
SECRETS = re.compile(r"(AZURE|ARM|ACTIONS)_.*|GITHUB_TOKEN|SYSTEM_ACCESSTOKEN")
#: A program that makes the database and the experiment. What it imports is no garbage,
#: and looking for garbage would take a third of the time.
CREATE_EXPERIMENT = """
import gc, sys
gc.disable()
import mlflow
mlflow.set_experiment(sys.argv[1])
gc.freeze()
"""


class TrackingError(CommandError):
    """Report that MLflow's database cannot be used; the message says how to mend it."""


def database_uri(database: Path) -> str:
    """Return the address by which MLflow opens a database."""
    address = f"sqlite:///{database.as_posix()}"
    if "?" not in address:
        return address
    # A question mark would begin the options. The driver's name must be given here, as
    # MLflow would make a folder called `file:` otherwise.
    path = database.as_uri().removeprefix("file://")
    return f"sqlite+pysqlite:///file:{path}?uri=true"


def step_environment(root: Path, database: Path | None = None) -> dict[str, str]:
    """Return the variables of a step: this process's, and the project's MLflow.

    Left out are MLflow's own, secrets, and `PYTHONSAFEPATH`, with which a step would not
    find the modules beside its script.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_")
        and not SECRETS.fullmatch(name)
        and name != "PYTHONSAFEPATH"
    }
    return {
        **inherited,
        "PYTHONUTF8": "1",  # Umlauts come through, whatever the locale is.
        "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"],
        "MLFLOW_TRACKING_URI": database_uri(database or root / DATABASE),
        # Otherwise the files of a run would be written below the step's own folder.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (root / ARTIFACTS).as_uri(),
    }


def ensure_database(root: Path, experiment: str) -> None:
    """Create the database and the experiment if needed, and correct the paths in it.

    Paths of a folder where the project was before are replaced by those of today. The
    caller holds the lock of `runs/`, so that no other run does the same. Raises
    TrackingError if MLflow cannot use the database, and OSError or sqlite3.Error if it
    cannot be written.
    """
    database = root / DATABASE
    database.parent.mkdir(exist_ok=True)
    if not database.exists():
        _create_database(root, experiment)
    _check_release(database)
    _check_experiment(database, experiment)

    artifacts = (root / ARTIFACTS).as_uri()
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        experiments = connection.execute(
            "SELECT name, experiment_id, artifact_location FROM experiments"
        ).fetchall()
        for _, number, location in experiments:
            folder = location.removesuffix(f"/{number}")
            # A user has chosen any other folder for this experiment, so it stays.
            is_of_a_project = folder.startswith("file:") and folder.endswith(ARTIFACTS)
            if is_of_a_project and folder != artifacts:
                _replace_paths(connection, f"{folder}/", f"{artifacts}/")
    if experiment not in {name for name, _, _ in experiments}:
        _create_experiment(root, experiment, database)


def check_path_length(database: Path) -> None:
    """Raise TrackingError if a database's path is longer than SQLite accepts."""
    size = len(os.fsencode(database))
    if size > SQLITE_LONGEST_PATH:
        raise TrackingError(
            f"The project's path is too long: SQLite, which MLflow uses, opens paths of"
            f" {SQLITE_LONGEST_PATH} bytes, and {database} has {size}. Move the project"
            " to a folder with a shorter path."
        )


def _create_database(root: Path, experiment: str) -> None:
    """Create the database in another folder, then move it into place.

    So a run that is killed meanwhile leaves no half-made database.
    """
    unfinished = root / UNFINISHED
    # A run that was killed may have left this folder.
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        _create_experiment(root, experiment, unfinished / "mlflow.db")
        (unfinished / "mlflow.db").replace(root / DATABASE)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _create_experiment(root: Path, experiment: str, database: Path) -> None:
    """Create the experiment in a database, and the database first if it is missing.

    A process of its own does this, as MLflow reads the database's address from the
    environment. Raises OSError with MLflow's reason if it fails.
    """
    process = subprocess.run(
        [sys.executable, "-c", CREATE_EXPERIMENT, experiment],
        env=step_environment(root, database),
        cwd=root / "mlruns",
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["it was killed"]
        raise OSError(f"MLflow cannot make {database}: {lines[-1]}")


def _check_release(database: Path) -> None:
    """Raise TrackingError if another release of MLflow has made the database."""
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            row = connection.execute(
                "SELECT version_num FROM alembic_version"
            ).fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(
            error
        ):
            raise
        row = None
    if row is None:
        raise TrackingError(
            f"{database} is not a database of MLflow. Move it away: the next run makes a"
            " new one, without the models that were registered."
        )
    schemas = _read_schemas()
    if not schemas or row[0] == schemas[-1]:
        return
    release = installed_version("mlflow")
    if row[0] not in schemas:
        raise TrackingError(
            f"{database} was written by a newer MLflow than the one that is installed,"
            f" {release}. Install the newer one, or move the database away: the next run"
            " makes a new one, without the models that were registered."
        )
    command = shlex.join(
        [sys.executable, "-m", "mlflow", "db", "upgrade", database_uri(database)]
    )
    raise TrackingError(
        f"{database} was written by an older MLflow than the one that is installed,"
        f" {release}. Make a copy of it, then upgrade it: {command}"
    )


def _check_experiment(database: Path, experiment: str) -> None:
    """Raise TrackingError if the experiment was deleted, as in MLflow's user interface."""
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        row = connection.execute(
            "SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = ?",
            [experiment],
        ).fetchone()
    if row is None or row[1] != "deleted":
        return
    uri = shlex.quote(database_uri(database))
    raise TrackingError(
        f"The MLflow experiment {experiment!r} was deleted. Restore it:"
        f" MLFLOW_TRACKING_URI={uri} {shlex.quote(sys.executable)} -m mlflow experiments"
        f" restore --experiment-id {row[0]}"
    )


def _read_schemas() -> list[str]:
    """Return the versions of the database's schema that MLflow knows, the current last.

    They are read from MLflow's files, as importing MLflow takes seconds. The list is
    empty if the files do not have the expected form.
    """
    package = find_spec("mlflow")
    if package is None or package.origin is None:
        return []
    migrations = Path(package.origin).parent / "store" / "db_migrations" / "versions"
    revisions: set[str] = set()
    replaced: set[str] = set()
    for file in migrations.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        revisions.update(re.findall(r'^revision = "(\w+)"', text, re.MULTILINE))
        replaced.update(re.findall(r'^down_revision = "(\w+)"', text, re.MULTILINE))
    current = revisions - replaced
    # Only the newest schema is not replaced by another one.
    return [*replaced, *current] if len(current) == 1 else []


def _replace_paths(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Let all paths that begin with `old` begin with `new`."""
    size = len(old)
    for table, column in PATH_COLUMNS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, {size + 1})"
            f" WHERE substr({column}, 1, {size}) = ?",
            [new, old],
        )


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model."""

    identity: str  # what tells it from all other versions
    files: Path | None  # None if they are not on this machine
    run: str  # the local run that has registered it, or an empty text


def find_model_version(root: Path, model: str, version: str) -> ModelVersion | None:
    """Return a version of a registered model, or the newest for "latest".

    Returns None if there is none. Raises sqlite3.Error if the database cannot be read.
    """
    query = (
        "SELECT version, creation_time, run_id, source, (SELECT value FROM tags"
        " WHERE run_uuid = run_id AND key = 'run') FROM model_versions WHERE name = ?1"
        " AND current_stage IS NOT 'Deleted_Internal'"
        " AND (?2 = 'latest' OR version = ?2) ORDER BY version DESC"
    )
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        row = connection.execute(query, [model, version]).fetchone()
    if row is None:
        return None
    number, created, mlflow_run, source, local_run = row
    address = urlsplit(source or "")
    files = Path(url2pathname(address.path)) if address.scheme == "file" else None
    identity = json.dumps([number, created, mlflow_run])
    return ModelVersion(identity, files, local_run or "")


def list_model_sources(root: Path) -> list[str]:
    """Return where the files of all registered models are, as paths or addresses."""
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        rows = connection.execute("SELECT source FROM model_versions").fetchall()
    return [source or "" for (source,) in rows]
