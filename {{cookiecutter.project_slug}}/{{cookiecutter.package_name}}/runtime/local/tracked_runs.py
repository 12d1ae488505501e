"""Write the runs of pipelines and steps to MLflow's database, and read them from there.

Each run of a pipeline is a run in MLflow, and both have the same name. Each step that runs
has a child run in MLflow. As on Azure ML, the environment variable `MLFLOW_RUN_ID` holds
the id of the child run, and the step logs to this run. The database is written without
MLflow, because importing MLflow takes longer than a run in which all steps are reused.
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

#: The tag of a child run in MLflow that holds the id of its parent run.
PARENT_TAG = "mlflow.parentRunId"
#: The tag of a step's run that names the folder of the pipeline's run.
FOLDER_TAG = "run"
#: Creates a run. If the run exists already, because one of its steps runs again, its status
#: becomes RUNNING again.
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
#: MLflow keeps the newest value of each metric in the table `latest_metrics`, and all values
#: of each metric in the table `metrics`, which its charts show. This adds the newest values
#: of a pipeline's run to `metrics`. Earlier values are only in the runs of the steps.
FILL_METRIC_HISTORY = """
    INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid)
    SELECT key, value, timestamp, step, is_nan, run_uuid
    FROM latest_metrics WHERE run_uuid = :to_run
"""
#: The tags that MLflow or the local run has set are not results, so they are not copied.
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

    #: The values of the metrics, by name.
    metrics: dict[str, float]
    #: The values of the tags, by name.
    tags: dict[str, str]


def read_results(root: Path, run_ids: Sequence[str]) -> Results:
    """Return the metrics and tags of several runs in MLflow.

    If several runs have logged a metric or a tag with the same name, the value of the last
    run counts. `root` is the folder of the project. The results are empty if MLflow's
    database does not exist. Raises sqlite3.Error if the database cannot be read.
    """
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    database = root / DATABASE
    if not database.exists():
        return Results(metrics, tags)

    with closing(sqlite3.connect(database, timeout=60)) as connection:
        for run_id in run_ids:
            metrics.update(connection.execute(READ_METRICS, [run_id]).fetchall())
            tags.update(connection.execute(READ_TAGS, [run_id]).fetchall())
    return Results(metrics, tags)


def read_target(root: Path, run_id: str) -> str:
    """Return the target that the model of a run in MLflow predicts.

    Returns an empty string if the run has logged no target. `root` is the folder of the
    project. Raises sqlite3.Error if MLflow's database cannot be read.
    """
    with closing(sqlite3.connect(root / DATABASE, timeout=60)) as connection:
        row = connection.execute(READ_TARGET, [run_id]).fetchone()
    return str(row[0]) if row else ""


@dataclass
class TrackedRun:
    """A run in MLflow that is still running."""

    id: str
    #: The status that MLflow will show when the run has ended: "FINISHED", "FAILED", or
    #: "KILLED" if nobody sets the status before the end.
    status: str = "KILLED"


@dataclass(frozen=True)
class TrackedRuns:
    """The runs of an experiment in MLflow's database."""

    database: Path
    #: The name of the experiment, which exists in the database.
    experiment: str
    #: The tags that identify the commit of the project, from `find_git_tags`.
    git_tags: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def track(
        self, name: str, tags: Mapping[str, str], run_id: str = ""
    ) -> Iterator[TrackedRun]:
        """Create a run in MLflow, and keep it running during the `with` block.

        The block sets `status` of the `TrackedRun` that it receives. At the end of the
        block, the run in MLflow gets this status. If `run_id` is the id of an existing run,
        no new run is created, and the existing run continues. Raises sqlite3.Error if the
        database cannot be written when the run starts.
        """
        tracked = TrackedRun(run_id or uuid4().hex)
        self._insert_run(tracked, name, tags)
        try:
            yield tracked
        finally:
            # If the status cannot be written, MLflow still shows the run as running, but
            # the results of the run are complete.
            with suppress(sqlite3.Error):
                self._end_run(tracked)

    def _insert_run(
        self, tracked: TrackedRun, name: str, tags: Mapping[str, str]
    ) -> None:
        """Write a run and its tags to the database, with the status RUNNING.

        If the run exists already, its status and these tags are replaced.
        """
        user = _find_user()
        values = {
            "run": tracked.id,
            "name": name,
            "user": user,
            "now": _get_time_in_milliseconds(),
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

    def _end_run(self, tracked: TrackedRun) -> None:
        """Write the final status of a run to the database."""
        with closing(self._connect()) as connection, connection:
            connection.execute(
                "UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?",
                [tracked.status, _get_time_in_milliseconds(), tracked.id],
            )

    def set_results(
        self, run_id: str, parameters: Mapping[str, str], step_run_ids: Sequence[str]
    ) -> None:
        """Write the parameters and the steps' results into a pipeline's run in MLflow.

        The results are parameters, metrics and tags. They are copied from the steps' runs in
        MLflow, whose ids are `step_run_ids`, in the order of the steps. For a reused step,
        this is the run that logged the results which are reused. If several steps have
        logged a result with the same name, that of the last step is kept. Raises
        sqlite3.Error if the database cannot be written.
        """
        with closing(self._connect()) as connection, connection:
            # If this pipeline's run has been written before, because one of its steps has
            # run again, the earlier parameters and metrics are removed first. The tags are
            # kept, because they include those that describe the run, such as the user.
            for table in ("params", "latest_metrics", "metrics"):
                connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run_id])
            connection.executemany(
                "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
                [(key, value, run_id) for key, value in parameters.items()],
            )
            # The last step comes last, so its results replace those of the earlier steps.
            for step_run_id in step_run_ids:
                run_ids = {"from_run": step_run_id, "to_run": run_id}
                connection.execute(COPY_PARAMETERS, run_ids)
                connection.execute(COPY_METRICS, run_ids)
                connection.execute(COPY_TAGS, run_ids)
            connection.execute(FILL_METRIC_HISTORY, {"to_run": run_id})

    def _connect(self) -> sqlite3.Connection:
        """Open the database. A query waits up to a minute while another process writes."""
        return sqlite3.connect(self.database, timeout=60)


def find_git_tags(root: Path) -> dict[str, str]:
    """Return the tags for MLflow that identify the current git commit of a project.

    One tag holds the id of the commit. The other is "True" if a file of the project differs
    from the commit, and "False" if none does. Azure ML uses the same names for these tags.
    Returns no tags if the project has no commit, or if git is not installed.
    """
    commit = _run_git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    # `git status` would take a lock, which another git command may need at the same time.
    changes = _run_git(root, "--no-optional-locks", "status", "--porcelain", "--", ".")
    return {
        "mlflow.source.git.commit": commit,
        "azureml.git.dirty": str(bool(changes)),
    }


def _run_git(root: Path, *arguments: str) -> str:
    """Return the output of a git command that runs in the folder `root`.

    Returns an empty string if the command fails, takes more than 10 seconds, or cannot be
    started because git is not installed.
    """
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
    """Return the name of the user, or "unknown" if the system does not have it."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "unknown"


def _get_time_in_milliseconds() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 10**6
