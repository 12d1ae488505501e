"""Run a pipeline's steps on this machine, as Azure ML would run them.

Each step is a process of its own, in a copy of exactly the files that Azure ML would be
sent, with the arguments, folders, parameters and environment variables that it would
give. A step that would make the same again is not run: what an earlier run has made is
used where it is (`reuse.py`). The folder of a run is described in `run_folder.py`.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console

from ..azure import sdk_steps
from ..errors import CommandError
from ..files import list_files
from ..project import Pipelines, Project
from ..settings_models import ProjectSettings
from ..steps import (
    Input,
    Output,
    Parameter,
    PipelineError,
    Source,
    Step,
    Value,
    parameter_values,
)
from . import parallel_driver, reuse, run_folder, tracking
from .fingerprints import Fingerprints, hash_listing
from .processes import StepCommand, StepProcesses, run_in_terminal
from .run_folder import RunRecord, StepRecord
from .screen import LogSummary, Screen, summarize_log

FULL_DISK = 2**16  # bytes left on a disk that count as none
#: The labels of the lines that say how a step ended, in rich's markup.
RAN = "[green]ran[/] "
REUSED = "[cyan]reused[/] "
FAILED = "[red]failed[/] "


@dataclass
class StepResult:
    """How a step ended."""

    name: str
    status: str = "skipped"  # or ran, reused, failed
    seconds: float = 0.0
    outputs: dict[str, str] = field(default_factory=dict)  # folders by port


@dataclass
class RunResult:
    """How a run ended: what `--json` prints."""

    pipeline: str
    status: str  # completed or failed
    folder: str
    steps: list[StepResult]

    def output(self, port: str) -> Path:
        """Return the folder that a step has written to a port.

        Raises KeyError if no step has such a port.
        """
        folders = {}
        for step in self.steps:
            folders.update(step.outputs)
        return Path(folders[port])


class LocalRunError(CommandError):
    """Report that a run cannot be started; the message says why, and how to mend it."""


@dataclass(frozen=True)
class RunPlan:
    """What a run is to run: the steps in their order, and the parameters' values."""

    pipeline: str
    steps: Mapping[str, Step]
    values: Mapping[str, Value]
    reads_model: frozenset[str]  # the steps that look up the registered model
    model_version: str  # the version that they look up: a number, or "latest"

    def steps_before(self, name: str) -> set[str]:
        """Return the names of all steps that must have ended before a step."""
        before = set(self.steps[name].dependencies())
        for other in reversed(list(self.steps)):
            if other in before:
                before |= self.steps[other].dependencies()
        return before


class LocalRun:
    """One run of a pipeline, in a folder of its own."""

    def __init__(
        self,
        project: Project[Any],
        settings: ProjectSettings,
        plan: RunPlan,
        record: RunRecord,
        screen: Screen,
        folder: Path | None,
    ) -> None:
        """Prepare a run; with the `folder` of an earlier run, go on in that one.

        Raises LocalRunError if nothing can be written where the run works.
        """
        self.project = project
        self.settings = settings
        self.plan = plan
        self.record = record
        self.screen = screen
        self.runs = project.root / "runs"
        self.folder = self._prepare_folder(folder)
        self.processes = StepProcesses()
        self.fingerprints = Fingerprints(self.runs / ".digests.db")
        self.models = reuse.ModelReader(
            root=project.root,
            model=settings.name,
            version=plan.model_version,
            steps=plan.reads_model,
            fingerprints=self.fingerprints,
        )

    def run(
        self, only: str | None = None, fresh: bool = False, debug: bool = False
    ) -> RunResult:
        """Run the steps in the order of their dependencies, or `only` one of them.

        Results of earlier runs are used again, unless the run is `fresh`. With `debug`,
        the step runs from `steps/`, in this terminal. Raises LocalRunError if the run's
        folder is in use or cannot be written, or if the step lacks its inputs, and
        TrackingError if MLflow's database cannot be used.
        """
        if only is not None:
            self._check_inputs(only)
        names = [only] if only is not None else list(self.plan.steps)
        with ExitStack() as stack:
            try:
                stack.enter_context(run_folder.lock_folder(self.folder, 0))
            except OSError as error:
                raise LocalRunError(
                    f"Another run is at work, or nothing can be written, in {error}."
                ) from None
            stack.enter_context(closing(self.processes))
            self._open_database(names)
            if debug and only is not None:
                results = [self._debug_step(self.plan.steps[only])]
            else:
                results = self._run_steps(names, must_run=fresh or only is not None)
        if only is None:
            self._remove_old_runs()
        is_complete = all(result.status in ("ran", "reused") for result in results)
        status = "completed" if is_complete else "failed"
        return RunResult(self.plan.pipeline, status, str(self.folder), results)

    # Before the first step ----------------------------------------------------------

    def _prepare_folder(self, folder: Path | None) -> Path:
        """Return the run's folder, with its record in it."""
        database = self.project.root / tracking.DATABASE
        tracking.check_path_length(database)
        try:
            if folder is None:
                self.runs.mkdir(exist_ok=True)
                with run_folder.lock_folder(self.runs):
                    folder = run_folder.make_run_folder(self.runs, self.record)
            else:
                self.record.write(folder)
        except OSError as error:
            raise self._cannot_write(error) from None
        tracking.check_path_length(folder / ".lock")
        return folder

    def _open_database(self, names: Sequence[str]) -> None:
        """Make MLflow's database if there is none, and check that it can be used."""
        root = self.project.root
        if not (root / tracking.DATABASE).exists():
            # Making the database takes as long as loading the packages.
            last_step = self.plan.steps[names[-1]]
            self.processes.load_packages(
                self._common_environment(), last_step.environment_variables
            )
        try:
            with (
                self.screen.show_progress("opening mlruns"),
                run_folder.lock_folder(self.runs),
            ):
                tracking.ensure_database(root, self.settings.name)
        except (OSError, sqlite3.Error) as error:
            raise self._cannot_write(error) from None

    def _cannot_write(self, error: Exception) -> LocalRunError:
        return LocalRunError(
            f"Nothing can be run, as runs and mlruns in {self.project.root} cannot be"
            f" written: {error}.{_explain_full_disks(self.project.root)}"
        )

    def _check_inputs(self, only: str) -> None:
        """Raise LocalRunError unless a step exists and the steps before it have results.

        The results must have been made with the settings as they are now.
        """
        if only not in self.plan.steps:
            raise LocalRunError(
                f"No step is called {only!r}: there are {', '.join(self.plan.steps)}."
            )
        needed = self.plan.steps_before(only)
        for name, step in self.plan.steps.items():
            if name not in needed:
                continue
            earlier = self.record.done.get(name)
            outputs = [Path(self._place((name, port))) for port in step.outputs]
            now = reuse.describe_step(step, self.plan.values)
            if earlier is None:
                reason = f"as {name} has not ended well in {self.folder}"
            elif not all(output.exists() for output in outputs):
                reason = f"as what {name} made is gone"
            elif earlier.words != now:
                old = " ".join(word for word in earlier.words if word not in now)
                new = " ".join(word for word in now if word not in earlier.words)
                reason = (
                    f"on what {name} made with other settings"
                    f" ({old or 'nothing'} is {new or 'nothing'} now)"
                )
            else:
                continue
            raise LocalRunError(
                f"{only} cannot run, {reason}: run it first, with --step {name}."
            )

    # The steps ----------------------------------------------------------------------

    def _run_steps(self, names: Sequence[str], must_run: bool) -> list[StepResult]:
        """Run steps, or use earlier results, until one fails."""
        results = [StepResult(name) for name in names]
        for number, result in enumerate(results):
            step = self.plan.steps[result.name]
            next_step = None
            if number + 1 < len(names):
                next_step = self.plan.steps[names[number + 1]]
            result.status = "failed"  # until it has ended well
            try:
                if must_run or not self._reuse_step(step, result):
                    self._run_step(step, result, next_step)
            except (OSError, sqlite3.Error) as error:
                self.screen.print(
                    f"{step.name}: {error}.{_explain_full_disks(self.project.root)}",
                    label=FAILED,
                )
            if result.status == "failed":
                break
        return results

    def _reuse_step(self, step: Step, result: StepResult) -> bool:
        """Use what an earlier run has made of a step; return False if it must run."""
        if not step.allow_reuse and step.name not in self.plan.reads_model:
            return False
        key = self._compute_key(step, step.source_directory)
        if key == reuse.NOT_REUSABLE:
            return False
        model = self.models.find(step.name)
        # No run is removed while this one takes over its results.
        with run_folder.lock_folder(self.runs):
            results = reuse.find_results(self.runs, step.name, key, model.fingerprint)
            if results is None:
                return False
            self.record.done[step.name] = results
            self.record.write(self.folder)
        result.status = "reused"
        result.outputs = self._outputs(step)
        self.screen.print(
            f"({results.run})", label=f"{REUSED}{step.name:10}", style="dim"
        )
        return True

    def _run_step(self, step: Step, result: StepResult, next_step: Step | None) -> None:
        """Run a step anew, and record its results.

        Packages for `next_step` are loaded meanwhile. Raises OSError if the step's files
        cannot be written.
        """
        step_folder = self.folder / step.name
        code_folder = step_folder / "code"
        self._clear_step(step)
        _copy_code(step, code_folder)
        result.outputs = self._make_outputs(step)
        key = self._compute_key(step, code_folder)
        # Looked up before the step runs, as the step may register a new version.
        model_before = self.models.find(step.name)

        started = monotonic()
        exit_code = self._run_process(step, next_step)
        result.seconds = round(monotonic() - started, 2)
        log = summarize_log(step_folder / "log.txt")
        if exit_code != 0:
            self._show_failure(step, log)
            return

        if key != self._compute_key(step, code_folder):
            # The step's data has changed while the step ran.
            key = reuse.NOT_REUSABLE
        self._record_step(step, key, model_before, result.seconds)
        result.status = "ran"
        self.screen.print(
            log.last_lines[-1] if log.last_lines else "",
            label=f"{RAN}{step.name:10}{result.seconds:6.1f} s  ",
            style="dim",
        )
        for note in log.notes:
            self.screen.print(f"    {note}")

    def _debug_step(self, step: Step) -> StepResult:
        """Run a step from `steps/` itself, with this terminal as its input and output.

        Its results are there for the steps after it, but no other run uses them.
        """
        self._clear_step(step)
        result = StepResult(step.name, "failed", outputs=self._make_outputs(step))
        # Looked up before the step runs, as the step may register a new version.
        model_before = self.models.find(step.name)
        arguments = [*self._arguments(step)]
        if step.is_parallel:
            arguments.insert(1, parallel_driver.IN_ONE_PROCESS)
        environment = {
            **self._environment(step),
            # Otherwise Python's __pycache__ in steps/ would be uploaded with the step.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        started = monotonic()
        exit_code = run_in_terminal(
            StepCommand(arguments, str(step.source_directory), environment)
        )
        result.seconds = round(monotonic() - started, 2)
        if exit_code == 0:
            result.status = "ran"
            self._record_step(step, reuse.NOT_REUSABLE, model_before, result.seconds)
        self.screen.print(
            f"{step.name} from {step.source_directory}",
            label=RAN if exit_code == 0 else FAILED,
        )
        return result

    def _clear_step(self, step: Step) -> None:
        """Remove what an earlier try of a step has left in this run."""
        # Recorded first, as its outputs are not whole from now on.
        self.record.done.pop(step.name, None)
        self.record.write(self.folder)
        if (self.folder / step.name).exists():
            shutil.rmtree(self.folder / step.name)

    def _record_step(
        self, step: Step, key: str, model_before: reuse.RegisteredModel, seconds: float
    ) -> None:
        """Record the results of a step, and the registered model that they hold for.

        `model_before` is the registered model as it was before the step ran.
        """
        results = StepRecord(
            words=reuse.describe_step(step, self.plan.values),
            key=key,
            models=[],
            files=hash_listing(self.folder / step.name / "outputs"),
            seconds=seconds,
        )
        reuse.record_results(
            self.record,
            step.name,
            results,
            model_before,
            after=self.models.find(step.name),
            steps_before=self.plan.steps_before(step.name),
            run=self.folder.name,
        )
        self.record.write(self.folder)

    def _run_process(self, step: Step, next_step: Step | None) -> int:
        """Run a step's process, which prints to the step's log; return its exit code.

        The exit code is negative if a signal ended the process.
        """
        step_folder = self.folder / step.name
        last_duration = 0.0
        # Shown as the time that is left. A parallel step does without: its finished
        # mini-batches tell more exactly how long it still takes.
        if self.screen.console.is_terminal and not step.is_parallel:
            last_duration = run_folder.find_last_duration(
                self.runs, self.plan.pipeline, step.name
            )
        next_variables = None
        if next_step is not None:
            # Packages are loaded with these variables while this step runs.
            next_variables = next_step.environment_variables
        log = step_folder / "log.txt"
        command = StepCommand(
            arguments=self._arguments(step),
            folder=str(step_folder / "code"),
            environment=self._environment(step),
            log=str(log),
        )
        with self.screen.show_progress(step.name, step_folder, last_duration):
            exit_code = self.processes.run(
                command, step.environment_variables, next_variables
            )
        if exit_code < 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\nThe process was ended by signal {-exit_code}.\n")
        return exit_code

    # Arguments, folders and variables of a step -------------------------------------

    def _place(self, source: Source) -> str:
        """Return where data is, or the folder that a step writes a port to."""
        if isinstance(source, Parameter):
            return str(self.project.root / str(self.plan.values[source.name]))
        step, port = source
        results = self.record.done.get(step)
        folder = self.runs / results.run if results and results.run else self.folder
        return str(folder / step / "outputs" / port)

    def _outputs(self, step: Step) -> dict[str, str]:
        return {port: self._place((step.name, port)) for port in step.outputs}

    def _make_outputs(self, step: Step) -> dict[str, str]:
        outputs = self._outputs(step)
        for output in outputs.values():
            Path(output).mkdir(parents=True)
        return outputs

    def _folders(self, step: Step) -> dict[str, str]:
        """Return the folders of a step's inputs and outputs, by their names."""
        inputs = {name: self._place(source) for name, source in step.inputs.items()}
        return {**inputs, **self._outputs(step)}

    def _arguments(self, step: Step) -> list[str]:
        """Return a step's script, or the driver of a parallel step, and its arguments."""
        folders = self._folders(step)
        arguments = [parallel_driver.__file__ if step.is_parallel else step.script]
        for argument in step.arguments:
            if isinstance(argument, (Input, Output)):
                arguments.append(folders[argument])
            else:
                arguments.append(reuse.describe_value(argument, self.plan.values))
        return arguments

    def _common_environment(self) -> dict[str, str]:
        """Return the variables that all steps have."""
        return {
            **tracking.step_environment(self.project.root),
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_EXPERIMENT_NAME": self.settings.name,
        }

    def _environment(self, step: Step) -> dict[str, str]:
        tags = {"mlflow.runName": step.name, "run": self.folder.name}
        return {
            **self._common_environment(),
            "MLFLOW_RUN_CONTEXT": json.dumps(tags),
            **self._folders(step),
            **step.environment_variables,
        }

    def _compute_key(self, step: Step, code: Path) -> str:
        """Return the reuse key of a step, or NOT_REUSABLE if its data cannot be read."""
        inputs = {}
        with self.screen.show_progress(f"{step.name}: looking for what has changed"):
            try:
                for name, source in step.inputs.items():
                    if isinstance(source, Parameter):
                        data = list_files(Path(self._place(source)))
                        inputs[name] = self.fingerprints.hash_files(data)
                    else:
                        producer, port = source
                        inputs[name] = f"{self.record.done[producer].id} {port}"
                return reuse.compute_key(
                    step, code, self.plan.values, inputs, self.fingerprints
                )
            except OSError:
                return reuse.NOT_REUSABLE

    # After a step, and after the run ------------------------------------------------

    def _show_failure(self, step: Step, log: LogSummary) -> None:
        """Show the end of a failed step's log, and the commands to run the step again."""
        step_folder = self.folder / step.name
        # The log names files of the copy that ran; the user edits those in `steps/`.
        code_folder = f"{step_folder / 'code'}{os.sep}"
        source_folder = f"{_shorten(step.source_directory)}{os.sep}"
        lines = [f"{step.name}; its log ends:"]
        for line in log.last_lines:
            lines.append(f"    {line.replace(code_folder, source_folder)}")
        full_disks = _explain_full_disks(self.folder)
        if full_disks:
            lines.append(full_disks.strip())
        lines.append(f"The whole log: {step_folder / 'log.txt'}")
        rerun_command = (
            f"{self.project.command} run {self.plan.pipeline} --step {step.name}"
            f" --folder {shlex.quote(str(_shorten(self.folder)))}"
        )
        lines.append(f"To run this step again alone: {rerun_command}")
        lines.append(f"To debug it at a breakpoint(): {rerun_command} --debug")
        self.screen.print("\n".join(lines), label=FAILED)

    def _remove_old_runs(self) -> None:
        """Remove the runs beyond those that the settings keep, and say so."""
        keep = self.settings.keep_runs
        try:
            sources = tracking.list_model_sources(self.project.root)
            with self.screen.show_progress("removing old runs"):
                removed = run_folder.remove_old_runs(
                    self.runs,
                    keep,
                    self.folder,
                    lambda run: any(f"/{run}/" in source for source in sources),
                )
        except (OSError, sqlite3.Error):
            return  # The next run tries again.
        for name in removed:
            self.screen.print(f"{name} (keep_runs: {keep})", label="[dim]removed[/] ")


def new_run(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str] | None = None,
    console: Console | None = None,
    folder: Path | None = None,
) -> LocalRun:
    """Prepare a local run of one of the project's pipelines.

    `values` sets pipeline parameters; with the `folder` of an earlier run, a step of it
    can be run again. Without a `console` plain lines are printed, as a notebook shows
    them best. Raises LocalRunError, PipelineError and SettingsError for what stands in
    the way.
    """
    settings = project.settings()
    pipeline = pipelines[name]
    steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
    record = RunRecord(name) if folder is None else read_record(folder, name)
    record.set.update(values or {})
    data = {
        parameter: Path(getattr(settings.data, setting))
        for parameter, setting in pipeline.data.items()
    }
    parameters = parameter_values(project, steps, data, record.set)

    step_names = {step.name for step in steps}
    for reader in pipeline.reads_model:
        if reader not in step_names:
            raise PipelineError(
                f"pipelines.py: reads_model of {name} names {reader!r}, but its steps are"
                f" {', '.join(sorted(step_names))}."
            )
    version = "latest"
    if pipeline.model_version is not None:
        version = str(parameters[pipeline.model_version])

    plan = RunPlan(
        name, order_steps(steps), parameters, frozenset(pipeline.reads_model), version
    )
    console = console or Console(force_jupyter=False, force_terminal=False)
    return LocalRun(project, settings, plan, record, Screen(console), folder)


def order_steps(steps: Sequence[Step]) -> dict[str, Step]:
    """Return steps by their names, in an order in which each follows what it needs."""
    by_name = {step.name: step for step in steps}
    order = TopologicalSorter({step.name: step.dependencies() for step in steps})
    return {name: by_name[name] for name in order.static_order()}


def read_record(folder: Path, pipeline: str) -> RunRecord:
    """Read the record of a run of a pipeline; raise LocalRunError if it is not one."""
    try:
        record = RunRecord.read(folder)
    except (OSError, ValueError):
        raise LocalRunError(f"{folder} is not the folder of a run.") from None
    if record.pipeline != pipeline:
        raise LocalRunError(
            f"{folder} is the folder of a run of the pipeline {record.pipeline}."
        )
    return record


def find_newest_run(project: Project[Any], pipeline: str) -> Path:
    """Return the folder of the newest run of a pipeline.

    Raises LocalRunError if there is none.
    """
    runs = run_folder.list_runs(project.root / "runs", pipeline)
    if not runs:
        raise LocalRunError(
            f"There is no run of {pipeline} in which a step could be run: run all of it"
            f" first, with {project.command} run {pipeline}."
        )
    return runs[0].folder


def _copy_code(step: Step, code_folder: Path) -> None:
    """Copy the files of a step's snapshot, those that would be uploaded to Azure ML."""
    for file in step.snapshot:
        target = code_folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(step.source_directory / file, target)


def _shorten(path: Path) -> Path:
    """Return a path relative to the current folder, if it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _explain_full_disks(folder: Path) -> str:
    """Name the full disks among those of a folder and of temporary files, if any."""
    text = ""
    for place in (folder, Path(tempfile.gettempdir())):
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            continue
        if free < FULL_DISK:
            text += f" The disk that {place} is on is full."
    return text
