"""Run a pipeline on this machine, as Azure ML would run it.

`plan.py` reads the steps from the pipeline, `reuse.py` decides which of them must run, and
`step_runner.py` runs each in a process of its own. `run_folder.py` describes the folder of
a run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
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
from .tracked_runs import TrackedRuns, find_git_tags


def new_run(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str] | None = None,
    console: Console | None = None,
    folder: Path | None = None,
) -> LocalRun:
    """Prepare a run of one of the project's pipelines.

    `values` are pipeline parameters. With the `folder` of an earlier run, one step of that
    run can be run again. Without a `console`, plain lines are printed, as notebooks show
    them. Raises LocalRunError if the folder cannot be used, and PipelineError or
    SettingsError if the pipeline, a value or a setting is wrong.
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
    if folder is None:
        folder = _start_folder(project, record)

    if console is None:
        console = Console(force_jupyter=False, force_terminal=False)
    temporary_files = _make_temporary_folder()
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
    """A run of a pipeline in a folder of its own."""

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
        """Run the steps in the order of their dependencies, or a single step.

        Results of earlier runs are reused, unless the run is `fresh`. With `debug`, the
        single step runs from `steps/`, in this terminal. Raises LocalRunError if the folder
        of the run is in use or cannot be written, or if the single step lacks its inputs,
        and TrackingError if MLflow's database cannot be used.
        """
        plan = self.context.plan
        names = list(plan.steps)
        if single_step is not None:
            check_step_can_run(self.context, single_step)
            names = [single_step]
        self._describe_clusters(names)

        with ExitStack() as stack:
            self._lock_run_folder(stack)
            if single_step is not None:
                self._update_folder()
            stack.enter_context(self.context.temporary_files)
            stack.enter_context(closing(self._processes))
            self._open_database(last_step=plan.steps[names[-1]])
            stack.enter_context(self._track_run())
            if debug and single_step is not None:
                results = [self._step_runner.debug(plan.steps[single_step])]
            else:
                must_run = fresh or single_step is not None
                results = self._run_steps(names, must_run)

        if single_step is None:
            self._remove_old_runs()
        has_succeeded = all(result.status in ("ran", "reused") for result in results)
        status = "completed" if has_succeeded else "failed"
        return RunResult(plan.pipeline, status, str(self.folder), results)

    def _lock_run_folder(self, stack: ExitStack) -> None:
        """Lock the folder of this run until `stack` is closed.

        Raises LocalRunError if another run uses the folder, or if it cannot be written.
        """
        try:
            stack.enter_context(lock_folder(self.folder, timeout_seconds=0))
        except OSError as error:
            raise LocalRunError(
                f"Another run is at work, or nothing can be written, in {error}."
            ) from None

    def _update_folder(self) -> None:
        """Record in the folder of an earlier run what one of its steps now runs with.

        This happens only once it is certain that the step can run. Raises LocalRunError if
        the folder cannot be written.
        """
        project = self.context.project
        try:
            self.context.record.write(self.folder)
            copy_project_files(project.root, project.package, self.folder)
        except OSError as error:
            raise _make_write_error(project.root, error) from None

    def _describe_clusters(self, steps: Sequence[str]) -> None:
        """Say that all steps run here, if some of them have another cluster on Azure ML."""
        clusters = self.context.settings.steps
        others = [f"{step} on {clusters[step]}" for step in steps if step in clusters]
        if others:
            self.context.screen.print(
                f"On Azure ML, clusters of their own have: {', '.join(others)}. Here, this "
                "machine takes the place of all clusters."
            )

    def _open_database(self, last_step: Step) -> None:
        """Make MLflow's database if there is none, and check that it can be used."""
        context = self.context
        root = context.project.root
        if not (root / tracking.DATABASE).exists():
            # Making the database takes as long as loading the packages of the steps.
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
        """Show this run in MLflow while the block runs, and its results afterwards.

        Raises LocalRunError if MLflow's database cannot be written when the run starts.
        """
        context = self.context
        record = context.record
        with ExitStack() as stack:
            try:
                run = stack.enter_context(
                    self._tracked_runs.track(
                        self.folder.name,
                        {"pipeline": record.pipeline},
                        record.mlflow_run,
                    )
                )
            except sqlite3.Error as error:
                raise _make_write_error(context.project.root, error) from None
            record.mlflow_run = run.id
            yield
            run.status = "FAILED" if record.find_unfinished_steps() else "FINISHED"
            parameters = {
                name: str(value) for name, value in context.plan.values.items()
            }
            step_runs = [
                record.done[step].mlflow_run
                for step in record.steps
                if step in record.done
            ]
            # If this fails, the results are still in the steps' own runs.
            with suppress(sqlite3.Error):
                self._tracked_runs.set_results(run.id, parameters, step_runs)

    def _run_steps(self, names: Sequence[str], must_run: bool) -> list[StepResult]:
        """Run steps or reuse their earlier results. After a failure, skip the others."""
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
        """Reuse the results of an earlier run for a step, or run it. Show the outcome."""
        context = self.context
        try:
            results = None if must_run else self._reuse.take_earlier_results(step)
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
        """Show that a step is reused, with the last line and the notes of its log."""
        log_file = self.context.runs / earlier_run / step.name / "log.txt"
        log = LogSummary(last_lines=[], notes=[])
        with suppress(OSError):
            log = summarize_log(log_file)

        screen = self.context.screen
        text = f"{log.last_line} ({earlier_run})".lstrip()
        screen.print(text, label=f"{REUSED}{step.name:10}")
        screen.print_notes(log)

    def _remove_old_runs(self) -> None:
        """Remove the oldest runs, as the setting `keep_runs` demands, and show which."""
        context = self.context
        keep = context.settings.keep_runs
        try:
            sources = list_model_sources(context.project.root)

            def has_registered_model(run: str) -> bool:
                """Return whether the files of a registered model are in a run's folder."""
                return any(f"/{run}/" in source for source in sources)

            with context.screen.show_progress("removing old runs"):
                removed = remove_old_runs(
                    context.runs, keep, self.folder, has_registered_model
                )
        except (OSError, sqlite3.Error):
            # The next run tries again.
            return
        for name in removed:
            context.screen.print(f"{name} (keep_runs: {keep})", label=REMOVED)


def _start_folder(project: Project[Any], record: RunRecord) -> Path:
    """Make the folder of a new run, with its record and copies of the project's files.

    Raises LocalRunError if it cannot be written, and TrackingError if its path is too long.
    """
    runs = project.root / "runs"
    try:
        runs.mkdir(exist_ok=True)
        with lock_folder(runs):
            folder = make_run_folder(runs, record)
        copy_project_files(project.root, project.package, folder)
    except OSError as error:
        raise _make_write_error(project.root, error) from None
    tracking.check_path_length(folder / ".lock")
    return folder


def _make_temporary_folder() -> TemporaryDirectory[str]:
    """Make a folder for temporary files. Raises LocalRunError if it cannot be made."""
    try:
        # The run must not fail because a file in the folder cannot be removed.
        return TemporaryDirectory(prefix="steps-", ignore_cleanup_errors=True)
    except OSError as error:
        raise LocalRunError(
            f"Temporary files cannot be written: {error}. Free some space, or set the"
            " environment variable TMPDIR to another folder."
        ) from None


def _make_write_error(root: Path, error: Exception) -> LocalRunError:
    """Return the error of a run whose files cannot be written."""
    message = (
        f"Nothing can be run, as runs and mlruns in {root} cannot be written: {error}."
        f" {explain_full_disks(root)}"
    )
    return LocalRunError(message.rstrip())
