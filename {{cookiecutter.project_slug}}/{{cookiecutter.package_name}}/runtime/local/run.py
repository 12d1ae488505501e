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
from .registered_models import list_model_sources
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
from .screen import FAILED, REMOVED, REUSED, LogSummary, Screen, summarize_log
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
    """Prepare a run of the pipeline called `name`.

    `values` maps pipeline parameters to their values as text. If `folder` is the folder of
    an earlier run, a step of that run can be run again. Otherwise, the run gets a new
    folder. If there is no `console`, plain lines are printed, which also suits notebooks.
    Raises LocalRunError if the folder cannot be used, and PipelineError or SettingsError if
    the pipeline, a value or a setting is wrong.
    """
    settings = project.settings()
    if folder is None:
        record = RunRecord(pipeline=name)
    else:
        record = read_earlier_run(folder, name)
    # An earlier run keeps its parameters, except those that are set now.
    record.set.update(values or {})
    plan = make_plan(project, settings, name, pipelines[name], record.set)
    record.steps = list(plan.steps)
    tracking.check_path_length(project.root / tracking.DATABASE)
    # The new folder is created only after the pipeline and all values have been checked.
    if folder is None:
        folder = _create_folder(project, record)

    if console is None:
        console = Console(force_jupyter=False, force_terminal=False)
    temporary_files = _create_temporary_folder()
    context = RunContext(
        project=project,
        settings=settings,
        plan=plan,
        folder=folder,
        record=record,
        screen=Screen(console),
        temporary_files=temporary_files,
    )
    return LocalRun(context)


class LocalRun:
    """A run of a pipeline on this machine, which writes into the folder `folder`."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.folder = context.folder
        self._processes = StepProcesses()
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

        Results of earlier runs are reused, unless the run is `fresh`. A single step always
        runs. With `debug`, it runs from `steps/`, attached to this terminal. Raises
        LocalRunError if the folder of the run is in use or cannot be written, or if the
        single step lacks its inputs, and TrackingError if MLflow's database cannot be used.
        """
        plan = self.context.plan
        step_names = list(plan.steps)
        if single_step is not None:
            check_step_can_run(self.context, single_step)
            step_names = [single_step]
        self._print_clusters(step_names)

        # At the end, the stack undoes these in the reverse order: the processes end before
        # their temporary files are removed, and the lock is released last.
        with ExitStack() as stack:
            self._lock_run_folder(stack)
            if single_step is not None:
                self._update_earlier_run()
            stack.enter_context(self.context.temporary_files)
            stack.enter_context(closing(self._processes))
            self._open_database(last_step=plan.steps[step_names[-1]])
            stack.enter_context(self._track_run())
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

    def _lock_run_folder(self, stack: ExitStack) -> None:
        """Lock the folder of this run until `stack` is closed.

        Raises LocalRunError if another run uses the folder, or if the folder cannot be
        written.
        """
        try:
            stack.enter_context(lock_folder(self.folder, timeout_seconds=0))
        except OSError as error:
            raise LocalRunError(
                f"The folder is in use by another run, or cannot be written: {error}."
            ) from None

    def _update_earlier_run(self) -> None:
        """Update the folder of an earlier run before one of its steps runs again.

        The folder then has the current parameters, settings, pipelines and pinned packages.
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
        cluster_by_step = self.context.settings.steps
        exceptions = [
            f"{name} on {cluster_by_step[name]}"
            for name in step_names
            if name in cluster_by_step
        ]
        if exceptions:
            self.context.screen.print(
                f"On Azure ML, some steps run on another cluster: {', '.join(exceptions)}."
                " In this run, all steps run on this machine."
            )

    def _open_database(self, last_step: Step) -> None:
        """Create MLflow's database if there is none, and check that it can be used.

        Raises TrackingError if the database cannot be used, and LocalRunError if it cannot
        be written.
        """
        context = self.context
        root = context.project.root
        if not (root / tracking.DATABASE).exists():
            # It takes as long to create the database as to import the packages of the
            # steps, so both are done at the same time. Most steps declare no variables, so
            # they can be forked from the same server as the last step.
            self._processes.start_fork_server(
                make_common_environment(context), last_step.environment_variables
            )
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
        """Show this run in MLflow as running during the `with` block, then its results.

        If the block raises an error, MLflow shows the run as stopped, without results.
        Raises LocalRunError if MLflow's database cannot be written when the run starts.
        """
        record = self.context.record
        # With the stack, the `except` below applies only to the start of the tracking, and
        # not to errors of the block.
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
        """Write the status, the parameters and the steps' results of this run to MLflow."""
        record = self.context.record
        tracked.status = "FAILED" if record.find_unfinished_steps() else "FINISHED"
        parameters = {
            name: str(value) for name, value in self.context.plan.values.items()
        }
        step_run_ids = [
            record.done[step].mlflow_run for step in record.steps if step in record.done
        ]
        # If this fails, the results are still in the steps' own runs.
        with suppress(sqlite3.Error):
            self._tracked_runs.set_results(tracked.id, parameters, step_run_ids)

    def _run_steps(self, names: Sequence[str], must_run: bool) -> list[StepResult]:
        """Run steps, or reuse their earlier results unless they `must_run`.

        After a step has failed, the steps that follow it are skipped.
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

        Unless the step `must_run`, it runs only if no earlier results are valid.
        """
        context = self.context
        results = None
        try:
            if not must_run:
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
        text = f"{log.last_line} ({earlier_run})".lstrip()
        screen.print(text, label=f"{REUSED}{step.name:10}")
        screen.print_notes(log)

    def _remove_old_runs(self) -> None:
        """Remove the oldest runs beyond the setting `keep_runs`, and print their names."""
        context = self.context
        keep = context.settings.keep_runs
        try:
            has_registered_model = _make_model_check(context.project.root)
            with context.screen.show_progress("removing old runs"):
                removed = remove_old_runs(
                    context.runs, keep, self.folder, has_registered_model
                )
        except (OSError, sqlite3.Error):
            # The next run tries again.
            return
        for name in removed:
            context.screen.print(f"{name} (keep_runs: {keep})", label=REMOVED)


def _make_model_check(root: Path) -> Callable[[str], bool]:
    """Return a function that tells whether a run's folder contains a registered model.

    The function takes the name of the run. `root` is the folder of the project. Raises
    sqlite3.Error if MLflow's database cannot be read.
    """
    model_uris = list_model_sources(root)

    def has_registered_model(run: str) -> bool:
        """Return whether the URI of a registered model leads into the run's folder."""
        return any(f"/{run}/" in uri for uri in model_uris)

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
    # The lock of the folder is a SQLite file, whose path must not be too long either.
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
