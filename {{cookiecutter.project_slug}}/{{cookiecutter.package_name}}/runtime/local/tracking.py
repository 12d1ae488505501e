"""Set up MLflow for local runs. Its database and files are in the project's `mlruns/`.

MLflow writes absolute paths into its database. After a project has been moved or copied,
these paths are wrong, so they are replaced before the next run.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

from ..errors import CommandError

# These paths are relative to the project's folder.
DATABASE = "mlruns/mlflow.db"
ARTIFACTS = "mlruns/artifacts"
#: The database is made here, and moved to its place once it is complete.
UNFINISHED = "mlruns/.new"
#: SQLite accepts paths of 512 bytes, and adds endings for its temporary files.
LONGEST_PATH = 500
#: The columns of MLflow's tables that hold paths.
PATH_COLUMNS = [
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
]
#: Variables with secrets of a login or of a CI job. Steps on Azure ML do not have them.
SECRETS = re.compile(
    # Logins of Azure, of a managed identity and of Terraform.
    r"(AZURE|ARM|MSI|IDENTITY)_.*"
    # Jobs on GitHub, and its command line.
    r"|ACTIONS_.*|(GITHUB|GH)_TOKEN"
    # Jobs on Azure Pipelines, and its task AzureCLI with `addSpnToEnvironment`.
    r"|SYSTEM_ACCESSTOKEN|ENDPOINT_AUTH_.*|servicePrincipalKey|idToken",
    re.IGNORECASE,
)
#: A program that creates the experiment, and the database if there is none. If it fails, its
#: last line of output is the reason. It turns the garbage collector off: imports leave no
#: garbage, and the search for it would take a third of the time.
CREATE_EXPERIMENT = """
import ctypes, gc, signal, sys
if sys.platform == "linux":
    # If the run is killed, this process must not write beside the next run.
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
gc.disable()
try:
    import mlflow
    mlflow.set_experiment(sys.argv[1])
except Exception as error:
    # SQLAlchemy and MLflow wrap the error of SQLite in longer messages that explain less.
    reason = error
    while reason.__cause__ is not None:
        reason = reason.__cause__
    sys.exit(str(reason).partition("\\n")[0] or repr(reason))
gc.freeze()
"""


class TrackingError(CommandError):
    """MLflow's database cannot be used. The message says how to fix it."""


def database_uri(database: Path) -> str:
    """Return the URI by which MLflow opens a database."""
    uri = f"sqlite:///{database.as_posix()}"
    if "?" not in uri:
        return uri
    # In a URI, a question mark begins the options. So the path is written as a URI itself,
    # in which a question mark is escaped. The URI must also name the driver, `pysqlite`:
    # without it, MLflow would create a folder called `file:`.
    path = database.as_uri().removeprefix("file://")
    return f"sqlite+pysqlite:///file:{path}?uri=true"


def step_environment(root: Path, database: Path | None = None) -> dict[str, str]:
    """Return the environment variables for a step.

    They are those of this process without secrets and without the variables of MLflow, which
    are set anew: MLflow uses `database`, or the project's own database if it is None.
    `PYTHONSAFEPATH` is removed too, because with it a step would not find the modules in the
    folder of its script.
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
        # Python reads and writes UTF-8 in every locale.
        "PYTHONUTF8": "1",
        "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"],
        "MLFLOW_TRACKING_URI": database_uri(database or root / DATABASE),
        # Otherwise the files of a run would be written below the step's own folder.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (root / ARTIFACTS).as_uri(),
    }


def ensure_database(root: Path, experiment: str) -> None:
    """Create the database and the experiment if they are missing, and correct the paths.

    The caller must hold the lock of `runs/`, so that no other run does the same at this
    time. Raises TrackingError if MLflow cannot use the database, and OSError or
    sqlite3.Error if it cannot be written.
    """
    database = root / DATABASE
    database.parent.mkdir(exist_ok=True)
    # A run that was killed may have left this folder.
    shutil.rmtree(root / UNFINISHED, ignore_errors=True)
    if not database.exists():
        _create_database(root, experiment)
    _check_release(database)
    _check_experiment(database, experiment)
    experiments = _correct_paths(database, artifacts=(root / ARTIFACTS).as_uri())
    if experiment not in experiments:
        _create_experiment(root, experiment, database)


def _correct_paths(database: Path, artifacts: str) -> set[str]:
    """Correct the paths in a database whose project was moved to another folder.

    `artifacts` is the URI of the folder in which the project's artifacts are now. Returns
    the names of all experiments.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        experiments = connection.execute(
            "SELECT name, experiment_id, artifact_location FROM experiments"
        ).fetchall()
        for _, experiment_id, location in experiments:
            folder = location.removesuffix(f"/{experiment_id}")
            # Other folders were chosen by users, so their paths are not changed.
            is_in_mlruns = folder.startswith("file:") and folder.endswith(ARTIFACTS)
            if is_in_mlruns and folder != artifacts:
                _replace_paths(connection, f"{folder}/", f"{artifacts}/")
    return {name for name, _, _ in experiments}


def check_path_length(database: Path) -> None:
    """Raise TrackingError if a database's path is longer than SQLite accepts."""
    size = len(os.fsencode(database))
    if size > LONGEST_PATH:
        raise TrackingError(
            f"The project's path is too long: SQLite, which MLflow uses, opens paths of"
            f" {LONGEST_PATH} bytes, and {database} has {size}. Move the project"
            " to a folder with a shorter path."
        )


def _create_database(root: Path, experiment: str) -> None:
    """Create the database in a temporary folder, then move it to its final path.

    Even if a run is killed, there is never an incomplete database at the final path.
    """
    unfinished = root / UNFINISHED
    unfinished.mkdir()
    try:
        _create_experiment(root, experiment, unfinished / "mlflow.db")
        (unfinished / "mlflow.db").replace(root / DATABASE)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _create_experiment(root: Path, experiment: str, database: Path) -> None:
    """Create the experiment in a database, and the database first if it is missing.

    This happens in another process, because MLflow reads the database's URI from the
    environment. Raises OSError with the reason if it fails.
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
        lines = process.stderr.strip().splitlines()
        reason = lines[-1] if lines else "its process was killed"
        raise OSError(f"MLflow cannot make {database}: {reason}")


def _check_release(database: Path) -> None:
    """Raise TrackingError unless the installed MLflow can use the database unchanged."""
    revision = _read_revision(database)
    if revision is None:
        raise TrackingError(
            f"{database} is not an MLflow database. Move it away: the next run creates"
            " a new one, without the registered models."
        )
    known_revisions = _list_revisions()
    # If the list is empty, this MLflow keeps its revisions elsewhere, so nothing is checked.
    if not known_revisions or revision == known_revisions[-1]:
        return

    release = installed_version("mlflow")
    if revision not in known_revisions:
        raise TrackingError(
            f"{database} was written by a newer MLflow than the one that is installed,"
            f" {release}. Install the newer one, or move the database away: the next run"
            " creates a new one, without the registered models."
        )
    command = shlex.join(
        [sys.executable, "-m", "mlflow", "db", "upgrade", database_uri(database)]
    )
    raise TrackingError(
        f"{database} was written by an older MLflow than the one that is installed,"
        f" {release}. Make a copy of it, then upgrade it: {command}"
    )


def _read_revision(database: Path) -> str | None:
    """Return the revision of a database's tables, or None if it is not MLflow's database.

    Raises sqlite3.OperationalError if the database cannot be read.
    """
    try:
        with closing(sqlite3.connect(database, timeout=60)) as connection:
            row = connection.execute(
                "SELECT version_num FROM alembic_version"
            ).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    except sqlite3.DatabaseError:  # The file is not a database at all.
        return None
    return None if row is None else str(row[0])


def _check_experiment(database: Path, experiment: str) -> None:
    """Raise TrackingError if the experiment was deleted, which MLflow's pages allow."""
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


def _list_revisions() -> list[str]:
    """Return the revisions of tables that MLflow knows, with the current one at the end.

    They are read from MLflow's files, because importing MLflow takes seconds. The list is
    empty if the files do not have the expected form.
    """
    package = find_spec("mlflow")
    if package is None or package.origin is None:
        return []
    migrations = Path(package.origin).parent / "store" / "db_migrations" / "versions"
    revisions: set[str] = set()
    superseded: set[str] = set()
    for file in migrations.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        revisions.update(re.findall(r'^revision = "(\w+)"', text, re.MULTILINE))
        superseded.update(re.findall(r'^down_revision = "(\w+)"', text, re.MULTILINE))
    # Only the current revision is not superseded by another one.
    current = revisions - superseded
    if len(current) != 1:
        return []
    return [*superseded, *current]


def _replace_paths(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Replace the prefix `old` by `new` in all paths of the database that have it."""
    size = len(old)
    for table, column in PATH_COLUMNS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, {size + 1})"
            f" WHERE substr({column}, 1, {size}) = ?",
            [new, old],
        )
