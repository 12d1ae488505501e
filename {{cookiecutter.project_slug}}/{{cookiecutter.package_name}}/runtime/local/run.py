"""Run a pipeline on this machine, as Azure ML would run it.

`new_run` prepares a run, and `LocalRun.run` executes it with these objects:

    RunContext (run_context.py)      the plan, the folder and the record of the run
    StepReuse (reuse.py)             decides which steps must run
    StepRunner (step_runner.py)      runs one step
    StepProcesses (processes.py)     starts the processes of steps
    TrackedRuns (tracked_runs.py)    shows the run and its steps in MLflow
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from ..errors import LocalRunError
from ..project import Pipelines, Project
from ..steps import Step
from . import tracking
from .plan import make_plan
from .processes import StepProcesses
from .registered_models import list_model_uris
from .reuse import StepReuse
from .run_context import RunContext, explain_full_disks
from .run_folder import (
    copy_project_files,
    lock_folder,
    make_run_folder,
    remove_old_runs,
)
from .run_record import RunRecord
from .run_result import RunResult, StepResult
from .screen import (
    FAILED,
    REMOVED,
    REUSED,
    STEP_NAME_WIDTH,
    LogSummary,
    Screen,
    summarize_log,
)
from .step_alone import check_step_can_run, read_earlier_run
from .step_runner import StepRunner, make_common_environment
from .tracked_runs import TrackedRun, TrackedRuns, find_git_tags


def new_run(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str] | None = None,
    console: Console | None = None,
    folder: Path | None = None,
) -> LocalRun:
    """Prepare a run of the pipeline called `name`, which `LocalRun.run` then executes.

    `values` holds the values of pipeline parameters as text, by the name of the parameter.
    `folder` is the folder of an earlier run, in which one step will run again. The
    parameters of that run stay the same, except those in `values`. If `folder` is None, the
    run gets a new folder. Messages are printed on `console`. If `console` is None, they are
    printed as plain lines without colors, in a notebook too. Raises LocalRunError if the
    folder cannot be used, PipelineError if the pipeline or a parameter is not valid,
    SettingsError if a setting is not valid, and TrackingError if the path of the project is
    too long.
    """
    settings = project.settings()
    if folder is None:
        record = RunRecord(pipeline=name)
    else:
        record = read_earlier_run(folder, name)
    record.set.update(values or {})
    plan = make_plan(project, settings, name, pipelines[name], record.set)
    record.steps = list(plan.steps)
    tracking.check_path_length(project.root / tracking.DATABASE)

    # A run that cannot start must not leave a folder. So a new folder is created only after
    # the pipeline and all values have been checked.
    run_folder = _create_folder(project, record) if folder is None else folder
    if console is None:
        console = Console(force_jupyter=False, force_terminal=False)
    context = RunContext(
        project=project,
        settings=settings,
        plan=plan,
        folder=run_folder,
        record=record,
        screen=Screen(console),
        temporary_files=_create_temporary_folder(),
    )
    return LocalRun(context)


class LocalRun:
    """A run of a pipeline on this machine. Its results are written into `folder`."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.folder = context.folder
        self._processes = StepProcesses(make_common_environment(context))
        self._reuse = StepReuse(context)
        root = context.project.root
        self._tracked_runs = TrackedRuns(
            root / tracking.DATABASE, context.settings.name, find_git_tags(root)
        )
        self._step_runner = StepRunner(
            context, self._reuse, self._processes, self._tracked_runs
        )

    def run(
        self, single_step: str | None = None, fresh: bool = False, debug: bool = False
    ) -> RunResult:
        """Run all steps in the order of their dependencies, or only `single_step`.

        A step is not run if it has valid results of an earlier run, which are then reused.
        If `fresh` is true, all steps run. A single step always runs. If `debug` is true,
        the single step runs in its folder below `steps/`, attached to this terminal;
        without a single step, `debug` has no effect. After a run of all steps, old runs are
        removed. Raises LocalRunError if the folder of the run is in use or cannot be
        written, or if the single step lacks its inputs. Raises TrackingError if MLflow's
        database cannot be used.
        """
        plan = self.context.plan
        step_names = list(plan.steps)
        if single_step is not None:
            check_step_can_run(self.context, single_step)
            step_names = [single_step]
        self._print_clusters(step_names)

        is_earlier_run = single_step is not None
        with self._open_run(is_earlier_run, last_step=plan.steps[step_names[-1]]):
            if debug and single_step is not None:
                results = [self._step_runner.debug(plan.steps[single_step])]
            else:
                must_run = fresh or single_step is not None
                results = self._run_steps(step_names, must_run)

        if single_step is None:
            self._remove_old_runs()
        has_succeeded = all(result.status in ("ran", "reused") for result in results)
        status = "completed" if has_succeeded else "failed"
        return RunResult(plan.pipeline, status, str(self.folder), results)

    @contextmanager
    def _open_run(self, is_earlier_run: bool, last_step: Step) -> Iterator[None]:
        """Make all that steps need available during the `with` block.

        These are the locked folder of the run, a folder for temporary files, the processes
        of steps, and MLflow's database, in which this run is shown as running. They are
        released in the reverse order: the processes end before their temporary files are
        removed, and the lock is released last. Raises the same errors as `run`.
        """
        with self._lock_run_folder():
            if is_earlier_run:
                self._update_earlier_run()
            with self.context.temporary_files, closing(self._processes):
                self._import_packages_early(last_step)
                self._open_database()
                with self._track_run():
                    yield

    @contextmanager
    def _lock_run_folder(self) -> Iterator[None]:
        """Lock the folder of this run during the `with` block.

        Raises LocalRunError if another run uses the folder, or if the folder cannot be
        written.
        """
        # The `try` must not contain the `yield`, or errors of the block would be caught
        # too. So the lock is acquired with a stack, which releases it after the block.
        with ExitStack() as stack:
            try:
                stack.enter_context(lock_folder(self.folder, timeout_seconds=0))
            except OSError as error:
                raise LocalRunError(
                    f"The folder is in use by another run, or cannot be written: {error}."
                ) from None
            yield

    def _update_earlier_run(self) -> None:
        """Update the folder of an earlier run before one of its steps runs again.

        Writes the current parameters, settings, pipelines and pinned packages into it.
        Raises LocalRunError if the folder cannot be written.
        """
        project = self.context.project
        try:
            self.context.record.write(self.folder)
            copy_project_files(project.root, project.package, self.folder)
        except OSError as error:
            raise _make_write_error(project.root, error) from None

    def _print_clusters(self, step_names: Sequence[str]) -> None:
        """Print which of the steps would run on a cluster other than the default one."""
        # This setting names the cluster of each step that does not run on the default one.
        cluster_by_step = self.context.settings.steps
        steps_on_other_clusters = [
            f"{name} on {cluster_by_step[name]}"
            for name in step_names
            if name in cluster_by_step
        ]
        if steps_on_other_clusters:
            self.context.screen.print(
                "On Azure ML, some steps do not run on the default cluster:"
                f" {', '.join(steps_on_other_clusters)}. In this run, all steps run on this"
                " machine."
            )

    def _import_packages_early(self, last_step: Step) -> None:
        """Start a fork server that imports the packages of steps, in a project's first run.

        The first run must create MLflow's database. This takes as long as importing the
        packages, so both are done at the same time. In later runs, all steps may be reused,
        and the server would not be needed.
        """
        is_first_run = not (self.context.project.root / tracking.DATABASE).exists()
        if is_first_run:
            # A server serves only the steps that declare the same environment variables.
            # Most steps declare none, so most steps can be forked from this server.
            self._processes.start_fork_server(last_step.environment_variables)

    def _open_database(self) -> None:
        """Create MLflow's database if there is none, and check that it can be used.

        Raises TrackingError if the database cannot be used, and LocalRunError if it cannot
        be written.
        """
        context = self.context
        root = context.project.root
        try:
            with (
                context.screen.show_progress("opening mlruns"),
                lock_folder(context.runs),
            ):
                tracking.ensure_database(root, context.settings.name)
        except (OSError, sqlite3.Error) as error:
            raise _make_write_error(root, error) from None

    @contextmanager
    def _track_run(self) -> Iterator[None]:
        """Show this run in MLflow: as running during the block, and with results afterwards.

        If the `with` block raises an error, MLflow shows the run as stopped, without
        results. Raises LocalRunError if MLflow's database cannot be written when the run
        starts.
        """
        record = self.context.record
        # The `try` must not contain the `yield`, or errors of the block would be caught
        # too. So the tracking is started with a stack, which ends it after the block.
        with ExitStack() as stack:
            try:
                tracked = stack.enter_context(
                    self._tracked_runs.track(
                        self.folder.name,
                        {"pipeline": record.pipeline},
                        record.mlflow_run,
                    )
                )
            except sqlite3.Error as error:
                raise _make_write_error(self.context.project.root, error) from None
            record.mlflow_run = tracked.id
            yield
            self._set_tracked_results(tracked)

    def _set_tracked_results(self, tracked: TrackedRun) -> None:
        """Write the status, the parameters and the steps' results of this run to MLflow.

        The status is set in `tracked`, and is written when the tracking ends.
        """
        record = self.context.record
        tracked.status = "FAILED" if record.find_unfinished_steps() else "FINISHED"
        parameters = {
            name: str(value) for name, value in self.context.plan.values.items()
        }
        step_run_ids = [
            record.done[step].mlflow_run for step in record.steps if step in record.done
        ]
        # If the results cannot be copied, they are still in MLflow's runs of the steps.
        with suppress(sqlite3.Error):
            self._tracked_runs.set_results(tracked.id, parameters, step_run_ids)

    def _run_steps(self, names: Sequence[str], must_run: bool) -> list[StepResult]:
        """Run steps one after another, or reuse the valid results of earlier runs.

        If `must_run` is true, no results are reused. After a step has failed, the steps
        that follow it are skipped.
        """
        steps = [self.context.plan.steps[name] for name in names]
        results: list[StepResult] = []
        for step, next_step in zip(steps, [*steps[1:], None], strict=True):
            if results and results[-1].status in ("failed", "skipped"):
                results.append(StepResult(step.name, "skipped"))
            else:
                results.append(self._run_or_reuse(step, next_step, must_run))
        return results

    def _run_or_reuse(
        self, step: Step, next_step: Step | None, must_run: bool
    ) -> StepResult:
        """Reuse a step's results from an earlier run, or run the step. Print the outcome.

        If `must_run` is true, the step always runs. Otherwise it runs only if it has no
        valid results. If the files of the run cannot be read or written, the step fails.
        """
        context = self.context
        results = None
        try:
            if not must_run:
                # This returns None if there are no valid results.
                results = self._reuse.take_earlier_results(step)
            if results is None:
                return self._step_runner.run(step, next_step)
        except (OSError, sqlite3.Error) as error:
            full_disks = explain_full_disks(context.project.root)
            message = f"{step.name}: {error}. {full_disks}".rstrip()
            context.screen.print(message, label=FAILED)
            return StepResult(step.name, "failed")

        self._show_reuse(step, results.run)
        return StepResult(step.name, "reused", outputs=context.find_outputs(step))

    def _show_reuse(self, step: Step, earlier_run: str) -> None:
        """Print that a step is reused, with the last line and the notes of its log.

        `earlier_run` is the name of the run that ran the step and wrote the log.
        """
        log_file = self.context.runs / earlier_run / step.name / "log.txt"
        log = LogSummary(last_lines=[], notes=[])
        # A user may have removed the log.
        with suppress(OSError):
            log = summarize_log(log_file)

        screen = self.context.screen
        origin = f"({earlier_run})"
        text = f"{log.last_line} {origin}" if log.last_line else origin
        screen.print(text, label=f"{REUSED}{step.name:{STEP_NAME_WIDTH}} ")
        screen.print_notes(log)

    def _remove_old_runs(self) -> None:
        """Remove old runs, so that not more stay than the setting `keep_runs` allows.

        Prints the names of the removed runs. If the folder of runs or MLflow's database
        cannot be used, nothing is removed.
        """
        context = self.context
        keep = context.settings.keep_runs
        try:
            has_registered_model = _make_registered_model_check(context.project.root)
            with context.screen.show_progress("removing old runs"):
                removed = remove_old_runs(
                    context.runs, keep, self.folder, has_registered_model
                )
        except (OSError, sqlite3.Error):
            # Old runs that are left do no harm, and the next run tries again.
            return
        for name in removed:
            context.screen.print(f"{name} (keep_runs: {keep})", label=REMOVED)


def _make_registered_model_check(root: Path) -> Callable[[str], bool]:
    """Return a function that tells whether a run's folder contains a registered model.

    The function takes the name of the run. `root` is the folder of the project. Raises
    sqlite3.Error if MLflow's database cannot be read.
    """
    model_uris = list_model_uris(root)

    def has_registered_model(run_name: str) -> bool:
        """Return whether the files of a registered model are in the run's folder."""
        # The name contains the time of the run, so no other folder in a URI has this name.
        return any(f"/{run_name}/" in uri for uri in model_uris)

    return has_registered_model


def _create_folder(project: Project[Any], record: RunRecord) -> Path:
    """Create the folder of a new run, with its record and copies of the project's files.

    Raises LocalRunError if the folder cannot be written, and TrackingError if its path is
    too long.
    """
    runs = project.root / "runs"
    try:
        runs.mkdir(exist_ok=True)
        with lock_folder(runs):
            folder = make_run_folder(runs, record)
        copy_project_files(project.root, project.package, folder)
    except OSError as error:
        raise _make_write_error(project.root, error) from None
    # The lock of the folder is a SQLite file, and SQLite cannot open very long paths. The
    # folder is named after the time of its creation, so its path is known only now.
    tracking.check_path_length(folder / ".lock")
    return folder


def _create_temporary_folder() -> TemporaryDirectory[str]:
    """Create a folder for the temporary files of steps.

    Raises LocalRunError if the folder cannot be created.
    """
    try:
        # The run must not fail because a file in the folder cannot be removed at the end.
        return TemporaryDirectory(prefix="steps-", ignore_cleanup_errors=True)
    except OSError as error:
        raise LocalRunError(
            f"Temporary files cannot be written: {error}. Free some space, or set the"
            " environment variable TMPDIR to another folder."
        ) from None


def _make_write_error(root: Path, error: Exception) -> LocalRunError:
    """Return the error to raise if the folders `runs` or `mlruns` cannot be written."""
    message = (
        f"Nothing can be run, because runs/ or mlruns/ in {root} cannot be written:"
        f" {error}. {explain_full_disks(root)}"
    )
    return LocalRunError(message.rstrip())
