"""Run one step of a pipeline in a separate process.

The step receives the same as on Azure ML: a copy of the files that would be uploaded, its
arguments, the folders of its inputs and outputs, and its environment variables.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from contextlib import AbstractContextManager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from time import monotonic

from ..steps import Input, Output, Step
from . import parallel_driver, tracking
from .processes import StepCommand, StepProcesses, run_in_terminal
from .reuse import NOT_REUSABLE, StepReuse, describe_value
from .run_context import RunContext, explain_full_disks
from .run_folder import find_last_duration
from .run_result import StepResult
from .screen import FAILED, RAN, STEP_NAME_WIDTH, LogSummary, summarize_log
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
        """Copy a step's files, run the step in the copy, and return how the step ended.

        If the step succeeds, its results are recorded. The outcome is printed. While the
        step runs, another process imports the packages of `next_step`. Raises OSError or
        sqlite3.Error if the files of the run cannot be written, or if the registered model
        cannot be read.
        """
        step_folder = self._context.step_folder(step)
        code_folder = step_folder / "code"
        self._clear_step(step)
        copy_snapshot(step, code_folder)
        outputs = self._create_outputs(step)
        key = self._reuse.compute_key(step, code_folder)
        # The step may register a new model, so the model is looked up before the step runs.
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
            # The data or the code has changed while the step ran. It is unknown whether the
            # step has read the old or the new version, so the results must not be reused.
            key = NOT_REUSABLE
        self._reuse.record_results(step, key, model_before, seconds, tracked.id)
        self._show_success(step, log, seconds)
        return StepResult(step.name, "ran", seconds, outputs)

    def debug(self, step: Step) -> StepResult:
        """Run a step in its own folder below `steps/`, attached to this terminal.

        Unlike `run`, this does not copy the step's files, so that a debugger shows the files
        that the user edits. The results are recorded, so the next steps of this run can use
        them, but other runs do not reuse them. The outcome is printed and returned. Raises
        OSError or sqlite3.Error if the files of the run cannot be written, or if the
        registered model cannot be read.
        """
        self._clear_step(step)
        outputs = self._create_outputs(step)
        # The step may register a new model, so the model is looked up before the step runs.
        model_before = self._reuse.find_model(step)

        started = monotonic()
        with self._track_step(step) as tracked:
            exit_code = self._run_process_in_terminal(step, tracked.id)
            tracked.status = "FAILED" if exit_code else "FINISHED"
        seconds = round(monotonic() - started, 2)

        message = f"{step.name} from {step.source_directory}"
        if exit_code != 0:
            self._context.screen.print(message, label=FAILED)
            return StepResult(step.name, "failed", seconds, outputs)
        self._reuse.record_results(
            step, NOT_REUSABLE, model_before, seconds, tracked.id
        )
        self._context.screen.print(message, label=RAN)
        return StepResult(step.name, "ran", seconds, outputs)

    # Files ------------------------------------------------------------------------------

    def _clear_step(self, step: Step) -> None:
        """Remove the folder and the recorded results of a step from this run."""
        # As soon as the first file is removed, the results are incomplete, and another run
        # must not reuse them. So they are removed from the record before the files.
        self._context.forget_step(step.name)
        step_folder = self._context.step_folder(step)
        if step_folder.exists():
            shutil.rmtree(step_folder)

    def _create_outputs(self, step: Step) -> dict[str, str]:
        """Create the folders of a step's outputs. Return each by the name of the output."""
        folder_by_output = self._context.find_outputs(step)
        for folder in folder_by_output.values():
            Path(folder).mkdir(parents=True)
        return folder_by_output

    # Process ----------------------------------------------------------------------------

    def _track_step(self, step: Step) -> AbstractContextManager[TrackedRun]:
        """Return a context manager that shows a step in MLflow while the step runs.

        The step's run in MLflow is a child of the pipeline's run.
        """
        tags = {
            PARENT_TAG: self._context.record.mlflow_run,
            FOLDER_TAG: self._context.folder.name,
        }
        return self._tracked_runs.track(step.name, tags)

    def _run_process(
        self, step: Step, next_step: Step | None, mlflow_run_id: str
    ) -> int:
        """Run a step in a process that writes to the step's log, and return its exit code.

        `mlflow_run_id` is the id of the run in MLflow to which the step logs. The exit code
        is negative if a signal ended the process. The progress of the step is shown on the
        screen.
        """
        step_folder = self._context.step_folder(step)
        log = step_folder / "log.txt"
        command = StepCommand(
            arguments=self._list_arguments(step),
            folder=str(step_folder / "code"),
            environment=self._make_environment(step, mlflow_run_id),
            log=str(log),
        )
        self._start_server_for_model_reader(step)
        next_step_variables = next_step.environment_variables if next_step else None

        last_duration = self._find_last_duration(step)
        with self._context.screen.show_progress(step.name, step_folder, last_duration):
            exit_code = self._processes.run(
                command, step.environment_variables, next_step_variables
            )
        if exit_code < 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\nThe process was ended by signal {-exit_code}.\n")
        return exit_code

    def _start_server_for_model_reader(self, step: Step) -> None:
        """Start a fork server for a step that looks up the registered model.

        Does nothing for other steps. A step that looks up the model imports MLflow, which
        takes seconds. If a fork server imports MLflow instead, and the step is forked from
        this server, the step does not take longer. The next step can then be forked from
        the same server and need not import MLflow again.
        """
        if step.name in self._context.plan.model_readers:
            self._processes.start_fork_server(step.environment_variables)

    def _run_process_in_terminal(self, step: Step, mlflow_run_id: str) -> int:
        """Run a step in its folder below `steps/` in this terminal. Return its exit code.

        `mlflow_run_id` is the id of the run in MLflow to which the step logs.
        """
        arguments = self._list_arguments(step)
        if step.is_parallel:
            # The first argument is the path of the driver, and the options of the driver
            # follow the path.
            arguments.insert(1, parallel_driver.IN_ONE_PROCESS)
        environment = self._make_environment(step, mlflow_run_id)
        # Without this variable, Python would create __pycache__ in steps/, and the next
        # `submit` would upload it.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        folder = str(step.source_directory)
        return run_in_terminal(StepCommand(arguments, folder, environment))

    def _find_last_duration(self, step: Step) -> float:
        """Return the seconds that a step took in the last run, to estimate the time left.

        Returns 0 if no estimate is needed. Without a terminal, no estimate is shown. For a
        parallel step, the finished mini-batches give a better estimate.
        """
        context = self._context
        if step.is_parallel or not context.screen.console.is_terminal:
            return 0.0
        return find_last_duration(context.runs, context.plan.pipeline, step.name)

    def _list_arguments(self, step: Step) -> list[str]:
        """Return the command line of a step: its script, followed by its arguments.

        A parallel step is run by `parallel_driver.py`, which takes the place of the script.
        Each input or output among the arguments is replaced by the path of its folder.
        """
        folder_by_name = self._context.find_folders(step)
        program = parallel_driver.__file__ if step.is_parallel else step.script
        arguments = [program]
        for argument in step.arguments:
            if isinstance(argument, (Input, Output)):
                # Input and Output are subclasses of `str`, so the argument is itself the
                # name of the input or output.
                arguments.append(folder_by_name[argument])
            else:
                arguments.append(describe_value(argument, self._context.plan.values))
        return arguments

    def _make_environment(self, step: Step, mlflow_run_id: str) -> dict[str, str]:
        """Return all environment variables of a step.

        `mlflow_run_id` is the id of the step's run in MLflow. The step's first call of
        `mlflow.start_run()` continues this run, and each later call starts a child of it.
        """
        tags_of_child_runs = {
            "mlflow.runName": step.name,
            PARENT_TAG: mlflow_run_id,
            FOLDER_TAG: self._context.folder.name,
        }
        return {
            **make_common_environment(self._context),
            # MLflow uses this id for the first run, and removes the variable.
            "MLFLOW_RUN_ID": mlflow_run_id,
            # MLflow gives these tags to the runs that the step starts afterwards.
            "MLFLOW_RUN_CONTEXT": json.dumps(tags_of_child_runs),
            # As on Azure ML, one variable for each input and output holds its folder.
            **self._context.find_folders(step),
            **step.environment_variables,
        }

    # Messages ---------------------------------------------------------------------------

    def _show_success(self, step: Step, log: LogSummary, seconds: float) -> None:
        """Print that a step has succeeded, with the last line and the notes of its log."""
        screen = self._context.screen
        label = f"{RAN}{step.name:{STEP_NAME_WIDTH}} {seconds:6.1f} s  "
        screen.print(log.last_line, label=label)
        screen.print_notes(log)

    def _show_failure(self, step: Step, log: LogSummary) -> None:
        """Print the end of a failed step's log, its likely cause, and how to continue."""
        context = self._context
        step_folder = context.step_folder(step)
        # The step has run in a copy of its files, so the log has the paths of the copies.
        # The user edits the files in `steps/`, so their paths are shown instead.
        code_folder = f"{step_folder / 'code'}{os.sep}"
        source_folder = f"{shorten_path(step.source_directory)}{os.sep}"

        lines = [f"{step.name}. The end of its log:"]
        for line in log.last_lines:
            lines.append(f"    {line.replace(code_folder, source_folder)}")
        full_disks = explain_full_disks(context.folder)
        if full_disks:
            lines.append(full_disks)
        missing_packages = self._explain_missing_packages(log)
        if missing_packages:
            lines.append(missing_packages)

        lines.append(f"Full log: {step_folder / 'log.txt'}")
        lines.append(
            "When you have fixed the problem, run this command, which reuses the results of"
            f" unchanged steps: {context.run_command}"
        )
        folder = shlex.quote(str(shorten_path(context.folder)))
        lines.append(
            "To stop at a breakpoint() in this step:"
            f" {context.project.command} run {context.plan.pipeline}"
            f" --step {step.name} --folder {folder} --debug"
        )
        context.screen.print("\n".join(lines), label=FAILED)

    def _explain_missing_packages(self, log: LogSummary) -> str:
        """Return a message about missing packages, if a step failed because of one.

        A package is missing if it is pinned, but not installed. This is the case if the
        user has run the command `lock`, which writes the pins, but has not yet run
        `uv pip install`. Returns an empty string if all pinned packages are installed, or
        if the step's log does not end with a ModuleNotFoundError.
        """
        if not any("ModuleNotFoundError" in line for line in log.last_lines):
            return ""
        pins = self._context.project.root / "environment" / "project.txt"
        packages = find_missing_packages(pins)
        if not packages:
            return ""
        return (
            f"These packages are pinned in environment/{pins.name}, but not installed:"
            f" {', '.join(packages)}. Install them with: uv pip install -e ."
        )


def find_missing_packages(pins: Path) -> list[str]:
    """Return the names of pinned packages that are not installed.

    `pins` is a file with lines such as `pandas==2.3.1`. A line such as
    `pywin32==312 ; sys_platform == 'win32'` counts only on the systems that the line is
    meant for. Lines that are not pins are skipped. If the file cannot be read, the list is
    empty.
    """
    # Only a failed step needs this package, so it is not imported for every run.
    from packaging.requirements import InvalidRequirement, Requirement

    missing = []
    lines: list[str] = []
    with suppress(OSError):
        lines = pins.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            pin = Requirement(line)
        except InvalidRequirement:
            continue
        is_for_this_system = pin.marker is None or pin.marker.evaluate()
        if is_for_this_system and not is_installed(pin.name):
            missing.append(pin.name)
    return missing


def is_installed(package: str) -> bool:
    """Return whether a package is installed for the Python that runs the steps."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def make_common_environment(context: RunContext) -> dict[str, str]:
    """Return the environment variables that all steps of a run have in common."""
    return {
        **tracking.make_step_environment(context.project.root),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": context.temporary_files.name,
        "MLFLOW_EXPERIMENT_NAME": context.settings.name,
    }


def copy_snapshot(step: Step, folder: Path) -> None:
    """Copy the files of a step that would be uploaded to Azure ML into a folder.

    Raises OSError if a file cannot be copied.
    """
    for file in step.snapshot:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(step.source_directory / file, target)


def shorten_path(path: Path) -> Path:
    """Return a path relative to the current folder, if the path is below this folder.

    Any other path is returned unchanged.
    """
    current_folder = Path.cwd()
    if path.is_relative_to(current_folder):
        return path.relative_to(current_folder)
    return path
