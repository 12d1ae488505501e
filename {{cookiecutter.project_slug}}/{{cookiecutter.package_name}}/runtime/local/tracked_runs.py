"""Write the runs of pipelines and of their steps into MLflow's database, and read them.

A run of a pipeline is a run of MLflow with the name of its folder. Below it is a run for
each step that has run. A step continues its run, which the variable `MLFLOW_RUN_ID` names,
as on Azure ML. The database is written without MLflow, because importing MLflow takes
longer than all the rest of a run in which nothing has changed.
"""

from __future__ import annotations

import getpass
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from .tracking import DATABASE

#: The tag by which MLflow finds the run that another run belongs to.
PARENT_TAG = "mlflow.parentRunId"
#: The tag of a step's run that names the folder of the pipeline's run.
FOLDER_TAG = "run"
#: If the run exists already, it is opened again, because one of its steps runs again.
INSERT_RUN = """
    INSERT INTO runs (
        run_uuid, name, source_type, source_name, entry_point_name, user_id, status,
        start_time, source_version, lifecycle_stage, artifact_uri, experiment_id
    )
    SELECT
        :run, :name, 'UNKNOWN', '', '', :user, 'RUNNING',
        :now, '', 'active', artifact_location || '/' || :run || '/artifacts', experiment_id
    FROM experiments WHERE name = :experiment
    ON CONFLICT (run_uuid) DO UPDATE SET status = 'RUNNING', end_time = NULL
"""
COPY_PARAMETERS = """
    REPLACE INTO params (key, value, run_uuid)
    SELECT key, value, :to_run FROM params WHERE run_uuid = :from_run
"""
COPY_METRICS = """
    REPLACE INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
    SELECT key, value, timestamp, step, is_nan, :to_run
    FROM latest_metrics WHERE run_uuid = :from_run
"""
#: The earlier values of a metric are not copied. The step's own run has them.
FILL_METRIC_HISTORY = """
    INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)
    SELECT key, value, timestamp, step, is_nan, run_uuid
    FROM latest_metrics WHERE run_uuid = :to_run
"""
#: The tags of MLflow itself and of a local run are not results.
COPY_TAGS = """
    REPLACE INTO tags (key, value, run_uuid)
    SELECT key, value, :to_run FROM tags
    WHERE run_uuid = :from_run AND key <> 'run' AND key NOT LIKE 'mlflow.%'
"""
READ_METRICS = """
    SELECT key, CAST(value AS REAL) FROM latest_metrics WHERE run_uuid = ? AND NOT is_nan
"""
READ_TARGET = "SELECT value FROM params WHERE run_uuid = ? AND key = 'target'"
READ_TAGS = "SELECT key, value FROM tags WHERE run_uuid = ? AND value IS NOT NULL"


@dataclass(frozen=True)
class Results:
    """The newest value of each metric and of each tag that runs have logged to MLflow."""

    metrics: dict[str, float]
    tags: dict[str, str]


def read_results(root: Path, runs: Sequence[str]) -> Results:
    """Return what the runs with these ids have logged.

    If several runs have logged the same name, the last of them counts. Raises sqlite3.Error
    if the database cannot be read.
    """
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    database = root / DATABASE
    if not database.exists():
        return Results(metrics, tags)

    with closing(sqlite3.connect(database, timeout=60)) as connection:
        for run in runs:
            metrics.update(connection.execute(READ_METRICS, [run]).fetchall())
            tags.update(connection.execute(READ_TAGS, [run]).fetchall())
    return Results(metrics, tags)


def read_target(root: Path, run: str) -> str:
    """Return the target that a run's model predicts, or "" if the run has logged none.

    Raises sqlite3.Error if the database cannot be read.
    """
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        row = connection.execute(READ_TARGET, [run]).fetchone()
    return str(row[0]) if row else ""


@dataclass
class TrackedRun:
    """A run in MLflow that is still running."""

    id: str
    #: The status with which the run will end, in MLflow's terms. It stays "KILLED" if the
    #: run is stopped.
    status: str = "KILLED"


@dataclass(frozen=True)
class TrackedRuns:
    """The runs of an experiment in MLflow's database."""

    database: Path
    experiment: str
    #: The tags that say which commit of the project is running.
    git_tags: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def track(
        self, name: str, tags: Mapping[str, str], run: str = ""
    ) -> Iterator[TrackedRun]:
        """Create a run that is running during the `with` block, and end it afterwards.

        If `run` is the id of an existing run, this run is opened again. Raises sqlite3.Error
        if the database cannot be written when the run starts.
        """
        tracked = TrackedRun(run or uuid4().hex)
        self._start(tracked, name, tags)
        try:
            yield tracked
        finally:
            # If this fails, MLflow shows the run as running. Its results are not affected.
            with suppress(sqlite3.Error):
                self._end(tracked)

    def _start(self, tracked: TrackedRun, name: str, tags: Mapping[str, str]) -> None:
        """Write a run and its tags into the database, with the status RUNNING."""
        user = _find_user()
        values = {
            "run": tracked.id,
            "name": name,
            "user": user,
            "now": _read_clock(),
            "experiment": self.experiment,
        }
        all_tags = {
            "mlflow.runName": name,
            "mlflow.user": user,
            **self.git_tags,
            **tags,
        }
        with closing(self._connect()) as connection, connection:
            connection.execute(INSERT_RUN, values)
            connection.executemany(
                "REPLACE INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                [(key, value, tracked.id) for key, value in all_tags.items()],
            )

    def _end(self, tracked: TrackedRun) -> None:
        """Write the final status of a run into the database."""
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?",
                [tracked.status, _read_clock(), tracked.id],
            )

    def set_results(
        self, run: str, parameters: Mapping[str, str], steps: Sequence[str]
    ) -> None:
        """Write parameters into the run of a pipeline, and copy its steps' results to it.

        `steps` are the ids of the steps' runs, which may belong to an earlier run of the
        pipeline. If several of them have logged the same name, the last of them counts.
        Raises sqlite3.Error if the database cannot be written.
        """
        with closing(self._connect()) as connection, connection:
            # If one of its steps was run again, the run already has results.
            for table in ("params", "latest_metrics", "metrics"):
                connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run])
            connection.executemany(
                "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
                [(key, value, run) for key, value in parameters.items()],
            )
            for step in steps:
                runs = {"from_run": step, "to_run": run}
                connection.execute(COPY_PARAMETERS, runs)
                connection.execute(COPY_METRICS, runs)
                connection.execute(COPY_TAGS, runs)
            connection.execute(FILL_METRIC_HISTORY, {"to_run": run})

    def _connect(self) -> sqlite3.Connection:
        """Open the database. Wait up to a minute while another process writes to it."""
        return sqlite3.connect(self.database, timeout=60)


def find_git_tags(root: Path) -> dict[str, str]:
    """Return tags with the commit of a project, and whether files differ from it.

    They have the names that Azure ML uses, too. There are none if the project is not in
    git.
    """
    commit = _run_git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    # Another git command may be running, whose lock must not be taken.
    changes = _run_git(root, "--no-optional-locks", "status", "--porcelain", "--", ".")
    return {
        "mlflow.source.git.commit": commit,
        "azureml.git.dirty": str(bool(changes)),
    }


def _run_git(root: Path, *arguments: str) -> str:
    """Return what git prints, or an empty text if it fails."""
    try:
        process = subprocess.run(
            ["git", *arguments],
            cwd=root,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return process.stdout.strip()


def _find_user() -> str:
    """Return the name of the user, or "unknown" if the system has none."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "unknown"


def _read_clock() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 10**6
