"""Set up MLflow for local runs: the database and the files in the project's `mlruns/`.

MLflow writes absolute paths into its database. After a project has been moved or copied,
these paths are wrong, so they are corrected before the next run.
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
#: The database is created in this folder, and moved to its final path when it is complete.
UNFINISHED_FOLDER = "mlruns/.new"
#: SQLite opens paths of up to 512 bytes. The paths of its temporary files are a few bytes
#: longer than the path of the database.
MAX_PATH_BYTES = 500
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
#: A program that creates the experiment, and the database if there is none. If it fails,
#: the last line of its output is the reason. It turns off the garbage collector, because
#: imports leave no garbage, and searching for it would take a third of the time.
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


def make_database_uri(database: Path) -> str:
    """Return the URI of a database for MLflow, such as sqlite:////me/mlflow.db."""
    uri = f"sqlite:///{database.as_posix()}"
    if "?" not in uri:
        return uri
    # A question mark in the path would begin the options of the URI. So the path is itself
    # written as a URI of a file, in which the question mark is escaped. The outer URI must
    # name the driver, `pysqlite`, or MLflow would create a folder called `file:`.
    path = database.as_uri().removeprefix("file://")
    return f"sqlite+pysqlite:///file:{path}?uri=true"


def make_step_environment(root: Path, database: Path | None = None) -> dict[str, str]:
    """Return the environment variables for a step: those of this process, with changes.

    Variables that hold secrets, such as passwords, are removed. The variables of MLflow are
    replaced, so that MLflow uses `database`, or the project's database if `database` is
    None. `PYTHONSAFEPATH` is removed, because a script could not import the modules in its
    own folder if this variable were set. `root` is the folder of the project.
    """
    inherited_variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MLFLOW_")
        and not SECRETS.fullmatch(name)
        and name != "PYTHONSAFEPATH"
    }
    return {
        **inherited_variables,
        # With this variable, Python reads and writes UTF-8 in every locale.
        "PYTHONUTF8": "1",
        # The project's package sets this variable when it is imported. All variables of
        # MLflow are dropped above, so this variable is added again.
        "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"],
        "MLFLOW_TRACKING_URI": make_database_uri(database or root / DATABASE),
        # The folder for the files that runs log. Without this variable, which is internal
        # to MLflow, the files would be written below the folder in which the step runs.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (root / ARTIFACTS).as_uri(),
    }


def ensure_database(root: Path, experiment: str) -> None:
    """Create the database and the experiment if they are missing, and check the database.

    If the project was moved to another folder, the paths in the database are corrected. The
    caller must hold the lock of `runs/`, so that two runs never change the database in this
    way at once. Raises TrackingError if MLflow cannot use the database, and OSError or
    sqlite3.Error if the database cannot be written.
    """
    database = root / DATABASE
    database.parent.mkdir(exist_ok=True)
    # A run that was killed may have left this folder.
    shutil.rmtree(root / UNFINISHED_FOLDER, ignore_errors=True)
    if not database.exists():
        _create_database(root, experiment)
    _check_revision(database)
    _check_experiment_not_deleted(database, experiment)
    _correct_paths(database, artifacts_uri=(root / ARTIFACTS).as_uri())
    # An existing database lacks the experiment if the project has been renamed.
    if not _has_experiment(database, experiment):
        _create_experiment(root, experiment, database)


def _correct_paths(database: Path, artifacts_uri: str) -> None:
    """Correct the paths in the database if the project was moved to another folder.

    The artifacts are the files that runs have logged, such as models. `artifacts_uri` is
    the URI of the folder in which the project's artifacts are now.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        experiments = connection.execute(
            "SELECT experiment_id, artifact_location FROM experiments"
        ).fetchall()
        for experiment_id, location in experiments:
            # MLflow stores the files of each experiment in a folder named after the id of
            # the experiment.
            folder_uri = location.removesuffix(f"/{experiment_id}")
            is_local = folder_uri.startswith("file:")
            # If the folder is not mlruns/artifacts of a project, a user has chosen it, so
            # its path stays.
            has_default_name = folder_uri.endswith(ARTIFACTS)
            if is_local and has_default_name and folder_uri != artifacts_uri:
                _replace_paths(connection, f"{folder_uri}/", f"{artifacts_uri}/")


def _has_experiment(database: Path, experiment: str) -> bool:
    """Return whether MLflow's database contains the experiment."""
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        row = connection.execute(
            "SELECT name FROM experiments WHERE name = ?", [experiment]
        ).fetchone()
    return row is not None


def check_path_length(database: Path) -> None:
    """Raise TrackingError if the path of a database is too long for SQLite."""
    path_bytes = len(os.fsencode(database))
    if path_bytes > MAX_PATH_BYTES:
        raise TrackingError(
            "The project's path is too long: SQLite, which MLflow uses, opens paths of up"
            f" to {MAX_PATH_BYTES} bytes, but {database} has {path_bytes}. Move the project"
            " to a folder with a shorter path."
        )


def _create_database(root: Path, experiment: str) -> None:
    """Create MLflow's database with the experiment in it.

    `root` is the folder of the project. The database is created in a temporary folder, and
    then moved to its final path. So a run that is killed never leaves an incomplete
    database at the final path. Raises OSError with the reason if the database cannot be
    created.
    """
    temporary_folder = root / UNFINISHED_FOLDER
    temporary_folder.mkdir()
    try:
        database = temporary_folder / "mlflow.db"
        # The database does not exist yet, so MLflow creates it before the experiment.
        _create_experiment(root, experiment, database)
        database.replace(root / DATABASE)
    finally:
        shutil.rmtree(temporary_folder, ignore_errors=True)


def _create_experiment(root: Path, experiment: str, database: Path) -> None:
    """Create an experiment in a database of MLflow. If the database is missing, create it.

    A separate process does this, because MLflow reads the URI of the database from the
    environment when it is imported. Raises OSError with the reason if the process fails.
    """
    process = subprocess.run(
        [sys.executable, "-c", CREATE_EXPERIMENT, experiment],
        env=make_step_environment(root, database),
        cwd=root / "mlruns",
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if process.returncode:
        error_lines = process.stderr.strip().splitlines()
        reason = "the process ended without a message"
        if error_lines:
            reason = error_lines[-1]
        raise OSError(f"MLflow could not create {database}: {reason}")


def _check_revision(database: Path) -> None:
    """Raise TrackingError unless the installed MLflow can use the database as it is.

    The database holds a revision, which is an id of the layout of its tables. A release of
    MLflow that changes the tables has a new revision.
    """
    revision = _read_revision(database)
    if revision is None:
        raise TrackingError(
            f"{database} is not an MLflow database. Move it away: the next run creates"
            " a new one, without the registered models."
        )
    known_revisions = _list_revisions()
    if not known_revisions:
        # This MLflow keeps its list of revisions in another place, so nothing is checked.
        return
    current_revision = known_revisions[-1]
    if revision == current_revision:
        return

    release = installed_version("mlflow")
    is_newer = revision not in known_revisions
    if is_newer:
        raise TrackingError(
            f"{database} was written by a newer MLflow than the one that is installed,"
            f" {release}. Install the newer one, or move the database away: the next run"
            " creates a new one, without the registered models."
        )
    command = shlex.join(
        [sys.executable, "-m", "mlflow", "db", "upgrade", make_database_uri(database)]
    )
    raise TrackingError(
        f"{database} was written by an older MLflow than the one that is installed,"
        f" {release}. Make a copy of it, then upgrade it: {command}"
    )


def _read_revision(database: Path) -> str | None:
    """Return the revision of MLflow's database, which is an id of the layout of its tables.

    Returns None if the file is not a database of MLflow. Raises sqlite3.OperationalError if
    the database cannot be read.
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
    except sqlite3.DatabaseError:
        # The file is not a SQLite database.
        return None
    return None if row is None else str(row[0])


def _check_experiment_not_deleted(database: Path, experiment: str) -> None:
    """Raise TrackingError if the experiment has been deleted.

    A user can delete it in MLflow's web interface. The message says how to restore it. An
    experiment that has never existed is no error.
    """
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        row = connection.execute(
            "SELECT experiment_id FROM experiments"
            " WHERE name = ? AND lifecycle_stage = 'deleted'",
            [experiment],
        ).fetchone()
    if row is None:
        return
    experiment_id = row[0]
    uri = shlex.quote(make_database_uri(database))
    raise TrackingError(
        f"The MLflow experiment {experiment!r} was deleted. To restore it, run:"
        f" MLFLOW_TRACKING_URI={uri} {shlex.quote(sys.executable)} -m mlflow experiments"
        f" restore --experiment-id {experiment_id}"
    )


def _list_revisions() -> list[str]:
    """Return the database revisions of all MLflow releases up to the installed one.

    The current revision is the last, and the others are in no particular order. The
    revisions are read from MLflow's files, because importing MLflow takes seconds. Returns
    an empty list if MLflow is not installed, or if its files do not have the expected form.
    """
    package = find_spec("mlflow")
    if package is None or package.origin is None:
        return []
    migrations = Path(package.origin).parent / "store" / "db_migrations" / "versions"
    revisions: set[str] = set()
    superseded_revisions: set[str] = set()
    # Each file upgrades a database from `down_revision` to `revision`.
    for file in migrations.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        revisions.update(re.findall(r'^revision = "(\w+)"', text, re.MULTILINE))
        superseded_revisions.update(
            re.findall(r'^down_revision = "(\w+)"', text, re.MULTILINE)
        )
    # The current revision is the only revision that no file upgrades to a newer one. If
    # there is not exactly one, the files do not have the expected form.
    current_revisions = revisions - superseded_revisions
    if len(current_revisions) != 1:
        return []
    return [*superseded_revisions, *current_revisions]


def _replace_paths(
    connection: sqlite3.Connection, old_prefix: str, new_prefix: str
) -> None:
    """Replace `old_prefix` with `new_prefix` in all columns of the database that hold paths.

    Paths that do not begin with `old_prefix` stay unchanged.
    """
    length = len(old_prefix)
    for table, column in PATH_COLUMNS:
        connection.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, {length + 1})"
            f" WHERE substr({column}, 1, {length}) = ?",
            [new_prefix, old_prefix],
        )
