"""Run one step of a pipeline, in a process of its own.

The step has what it would have on Azure ML: a copy of the files that would be uploaded,
its arguments, the folders of its inputs and outputs, and its environment variables.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic

from ..steps import Input, Output, Step
from . import parallel_driver, tracking
from .processes import StepCommand, StepProcesses, run_in_terminal
from .reuse import NOT_REUSABLE, StepReuse, describe_value
from .run_context import RunContext, explain_full_disks
from .run_folder import find_last_duration
from .run_result import StepResult
from .screen import FAILED, RAN, LogSummary, summarize_log
from .tracked_runs import FOLDER_TAG, PARENT_TAG, TrackedRun, TrackedRuns


class StepRunner:
    """Runs the steps of a run, and records the results of those that succeed."""

    def __init__(
        self,
        context: RunContext,
        reuse: StepReuse,
        processes: StepProcesses,
        tracked_runs: TrackedRuns,
    ) -> None:
        self._context = context
        self._reuse = reuse
        self._processes = processes
        self._tracked_runs = tracked_runs

    def run(self, step: Step, next_step: Step | None) -> StepResult:
        """Run a step in a copy of its files, and return how it ended.

        Packages for `next_step` are loaded meanwhile. Raises OSError or sqlite3.Error if
        the files of the run cannot be written, or the registered model cannot be read.
        """
        step_folder = self._context.step_folder(step)
        code_folder = step_folder / "code"
        self._clear_step(step)
        copy_snapshot(step, code_folder)
        outputs = self._make_outputs(step)
        key = self._reuse.compute_key(step, code_folder)
        # Looked up before the step runs, because the step may register a new version.
        model_before = self._reuse.find_model(step)

        started = monotonic()
        with self._track_step(step) as tracked:
            exit_code = self._run_process(step, next_step, tracked.id)
            tracked.status = "FAILED" if exit_code else "FINISHED"
        seconds = round(monotonic() - started, 2)

        log = summarize_log(step_folder / "log.txt")
        if exit_code != 0:
            self._show_failure(step, log)
            return StepResult(step.name, "failed", seconds, outputs)
        if key != self._reuse.compute_key(step, code_folder):
            # The data has changed while the step read it.
            key = NOT_REUSABLE
        self._reuse.record_results(step, key, model_before, seconds, tracked.id)
        self._show_success(step, log, seconds)
        return StepResult(step.name, "ran", seconds, outputs)

    def debug(self, step: Step) -> StepResult:
        """Run a step from `steps/` itself, with this terminal as its input and output.

        The steps after it can use its results, but other runs do not. Raises OSError or
        sqlite3.Error as `run` does.
        """
        self._clear_step(step)
        outputs = self._make_outputs(step)
        # Looked up before the step runs, because the step may register a new version.
        model_before = self._reuse.find_model(step)

        arguments = self._list_arguments(step)
        if step.is_parallel:
            # The first argument is the driver, and this one is its option.
            arguments.insert(1, parallel_driver.IN_ONE_PROCESS)

        started = monotonic()
        with self._track_step(step) as tracked:
            environment = self._make_environment(step, tracked.id)
            # Otherwise Python would write __pycache__ into steps/, which would be uploaded.
            environment["PYTHONDONTWRITEBYTECODE"] = "1"
            exit_code = run_in_terminal(
                StepCommand(arguments, str(step.source_directory), environment)
            )
            tracked.status = "FAILED" if exit_code else "FINISHED"
        seconds = round(monotonic() - started, 2)

        label = FAILED
        status = "failed"
        if exit_code == 0:
            label = RAN
            status = "ran"
            self._reuse.record_results(
                step, NOT_REUSABLE, model_before, seconds, tracked.id
            )
        self._context.screen.print(
            f"{step.name} from {step.source_directory}", label=label
        )
        return StepResult(step.name, status, seconds, outputs)

    # Files ------------------------------------------------------------------------------

    def _clear_step(self, step: Step) -> None:
        """Remove what an earlier attempt at a step has left in this run."""
        # The record is removed first, because from now on the outputs are incomplete.
        self._context.forget_step(step.name)
        step_folder = self._context.step_folder(step)
        if step_folder.exists():
            shutil.rmtree(step_folder)

    def _make_outputs(self, step: Step) -> dict[str, str]:
        """Make the folders that a step writes to, and return them by their ports."""
        outputs = self._context.find_outputs(step)
        for output in outputs.values():
            Path(output).mkdir(parents=True)
        return outputs

    # Process ----------------------------------------------------------------------------

    def _track_step(self, step: Step) -> AbstractContextManager[TrackedRun]:
        """Create the run of a step in MLflow, below the run of the pipeline."""
        tags = {
            PARENT_TAG: self._context.record.mlflow_run,
            FOLDER_TAG: self._context.folder.name,
        }
        return self._tracked_runs.track(step.name, tags)

    def _run_process(self, step: Step, next_step: Step | None, mlflow_run: str) -> int:
        """Run a step's process, which prints to the step's log, and return its exit code.

        `mlflow_run` is the id of the run in MLflow that the step continues. The exit code
        is negative if a signal ended the process.
        """
        step_folder = self._context.step_folder(step)
        log = step_folder / "log.txt"
        command = StepCommand(
            arguments=self._list_arguments(step),
            folder=str(step_folder / "code"),
            environment=self._make_environment(step, mlflow_run),
            log=str(log),
        )
        if step.name in self._context.plan.model_readers:
            # It imports MLflow to look up the registered model.
            self._processes.start_fork_server(
                make_common_environment(self._context), step.environment_variables
            )
        next_step_variables = None
        if next_step is not None:
            next_step_variables = next_step.environment_variables

        last_duration = self._find_last_duration(step)
        with self._context.screen.show_progress(step.name, step_folder, last_duration):
            exit_code = self._processes.run(
                command, step.environment_variables, next_step_variables
            )
        if exit_code < 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\nThe process was ended by signal {-exit_code}.\n")
        return exit_code

    def _find_last_duration(self, step: Step) -> float:
        """Return the seconds that a step took in the last run, to estimate what is left.

        Returns 0 if no estimate is shown. That of a parallel step is made from its
        mini-batches, which is more exact.
        """
        context = self._context
        if step.is_parallel or not context.screen.console.is_terminal:
            return 0.0
        return find_last_duration(context.runs, context.plan.pipeline, step.name)

    def _list_arguments(self, step: Step) -> list[str]:
        """Return a step's script, or the driver of a parallel step, and its arguments."""
        folders = self._context.find_folders(step)
        arguments = [parallel_driver.__file__ if step.is_parallel else step.script]
        for argument in step.arguments:
            if isinstance(argument, (Input, Output)):
                arguments.append(folders[argument])
            else:
                arguments.append(describe_value(argument, self._context.plan.values))
        return arguments

    def _make_environment(self, step: Step, mlflow_run: str) -> dict[str, str]:
        """Return all environment variables of a step.

        The first run that the step starts in MLflow continues the run with the id
        `mlflow_run`. Further runs become its children.
        """
        tags = {
            "mlflow.runName": step.name,
            PARENT_TAG: mlflow_run,
            FOLDER_TAG: self._context.folder.name,
        }
        return {
            **make_common_environment(self._context),
            "MLFLOW_RUN_ID": mlflow_run,
            "MLFLOW_RUN_CONTEXT": json.dumps(tags),
            # As on Azure ML, a variable has the folder of each input and output.
            **self._context.find_folders(step),
            **step.environment_variables,
        }

    # Messages ---------------------------------------------------------------------------

    def _show_success(self, step: Step, log: LogSummary, seconds: float) -> None:
        """Show that a step has succeeded, with the last line and the notes of its log."""
        screen = self._context.screen
        label = f"{RAN}{step.name:10}{seconds:6.1f} s  "
        screen.print(log.last_line, label=label)
        screen.print_notes(log)

    def _show_failure(self, step: Step, log: LogSummary) -> None:
        """Show the end of a failed step's log, and the commands that run it again."""
        context = self._context
        step_folder = context.step_folder(step)
        # The log names files of the copy that ran, but the user edits those in `steps/`.
        code_folder = f"{step_folder / 'code'}{os.sep}"
        source_folder = f"{shorten_path(step.source_directory)}{os.sep}"

        lines = [f"{step.name}; its log ends:"]
        for line in log.last_lines:
            lines.append(f"    {line.replace(code_folder, source_folder)}")
        full_disks = explain_full_disks(context.folder)
        if full_disks:
            lines.append(full_disks)
        lines.append(f"The whole log: {step_folder / 'log.txt'}")
        rerun_command = (
            f"{context.project.command} run {context.plan.pipeline} --step {step.name}"
            f" --folder {shlex.quote(str(shorten_path(context.folder)))}"
        )
        lines.append(f"To run this step again alone: {rerun_command}")
        lines.append(f"To debug it at a breakpoint(): {rerun_command} --debug")
        context.screen.print("\n".join(lines), label=FAILED)


def make_common_environment(context: RunContext) -> dict[str, str]:
    """Return the environment variables that all steps of a run have."""
    return {
        **tracking.step_environment(context.project.root),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": context.temporary_files.name,
        "MLFLOW_EXPERIMENT_NAME": context.settings.name,
    }


def copy_snapshot(step: Step, folder: Path) -> None:
    """Copy the files of a step that would be uploaded to Azure ML into a folder."""
    for file in step.snapshot:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(step.source_directory / file, target)


def shorten_path(path: Path) -> Path:
    """Return a path relative to the current folder, if the path is below it."""
    here = Path.cwd()
    if path.is_relative_to(here):
        return path.relative_to(here)
    return path
