"""Run a pipeline's steps on this machine, as Azure ML would run them.

Each step is a process of its own, in a copy of exactly the files that Azure ML would be
sent, with the arguments, folders, parameters and environment variables it would give.
A run has its own folder below `runs/`, with a folder for each step:

    code/           the copy of the step's files, where it runs
    outputs/PORT/   what it writes
    log.txt         what it prints

`run.json` beside them says which pipeline it is, what was set on the command line, and
with which arguments each step has ended well.
"""

from __future__ import annotations

import difflib
import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from . import parallel_run, step_process, tracking
from .project import Project

STATE = "run.json"  # of a run, in its folder
LOG_END = 20  # lines of a failed step's log to show
NOTE = "note: "  # begins the lines of a log that are shown on the screen too
FULL = 2**16  # bytes left on a disk where nothing more can be written

Value = str | int | float | bool | Path


@dataclass(frozen=True)
class Parameter:
    """A pipeline parameter; one without a default stands for data."""

    name: str
    default: Value | None


@dataclass(frozen=True)
class Input:
    """In an argument's place: the folder of an input."""

    name: str


@dataclass(frozen=True)
class Output:
    """In an argument's place: the folder of an output."""

    name: str


Argument = str | Parameter | Input | Output


@dataclass(frozen=True)
class LocalStep:
    """What a step of either SDK comes to on this machine.

    `inputs` maps a name to a pipeline parameter or to a step and its output port.
    """

    name: str
    source_directory: Path
    snapshot: list[Path]
    script: str
    arguments: list[Argument]
    inputs: dict[str, Parameter | tuple[str, str]]
    outputs: list[str]
    run_after: list[str]  # steps to wait for beside those that inputs come from
    environment_variables: dict[str, str]
    unused_parameters: list[Parameter]  # without a meaning on one machine
    is_parallel: bool

    def dependencies(self) -> set[str]:
        """The steps that must have ended before this one."""
        producers = {s[0] for s in self.inputs.values() if isinstance(s, tuple)}
        return producers | set(self.run_after)

    def parameters(self) -> Iterable[Parameter]:
        """All pipeline parameters that the step takes."""
        for value in (*self.arguments, *self.inputs.values(), *self.unused_parameters):
            if isinstance(value, Parameter):
                yield value


@dataclass
class StepResult:
    """How a step ended."""

    name: str
    status: str = "skipped"  # or ran, reused, failed
    seconds: float = 0.0
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass
class RunResult:
    """How a run ended: what `--json` prints."""

    pipeline: str
    status: str  # completed or failed
    folder: str
    steps: list[StepResult]

    def output(self, port: str) -> Path:
        """The folder of what a step that ran wrote there; KeyError if there is none."""
        outputs = {k: v for step in self.steps for k, v in step.outputs.items()}
        return Path(outputs[port])

    def as_json(self) -> str:
        """The result on one line."""
        return json.dumps(asdict(self))


class LocalRunError(Exception):
    """The run cannot be started; the message says why and how to mend it."""


class LocalRun:
    """One run of a pipeline in its own folder."""

    def __init__(
        self,
        project: Project[Any],
        pipeline: str,
        experiment: str,
        steps: list[LocalStep],
        values: Mapping[str, str],
        data: Mapping[str, Path],
        console: Console,
        folder: Path | None = None,
    ) -> None:
        """Prepare a run, or go on in the `folder` of an earlier one.

        `values` are those set on the command line, `data` is where the files of each
        data parameter are. LocalRunError for a parameter that the pipeline does not
        have, and for a folder that cannot be worked in.
        """
        self.project = project
        self.pipeline = pipeline
        self.experiment = experiment
        self.console = console
        self.steps = {step.name: step for step in steps}
        state = _read_state(folder, pipeline) if folder else {"set": {}, "done": {}}
        self.set: dict[str, str] = {**state["set"], **values}
        self.done: dict[str, list[str]] = state["done"]
        self.values = parameter_values(project, steps, data, self.set)
        try:
            tracking.ensure_database(project.root, experiment)
            self.folder = folder or _new_folder(project.root / "runs", pipeline)
            self._write_state()
        except (OSError, sqlite3.Error) as error:
            raise LocalRunError(
                f"Nothing can be run, as runs and mlruns in {project.root} cannot be"
                f" written: {error}."
            ) from None

    def run(self, only: str | None = None) -> RunResult:
        """Run all steps in the order of their dependencies, or `only` one of them."""
        graph = {step.name: step.dependencies() for step in self.steps.values()}
        order = [only] if only else list(TopologicalSorter(graph).static_order())
        if only:
            self._check_inputs(only)
        results = [StepResult(name) for name in order]
        for result in results:
            step = self.steps[result.name]
            try:
                self._run_step(step, result)
            except OSError as error:  # a full disk, or a folder that was removed
                result.status = "failed"
                self._print(f"[red]failed[/] {step.name}: {escape(str(error))}")
            if result.status == "failed":
                break
        is_complete = all(result.status == "ran" for result in results)
        status = "completed" if is_complete else "failed"
        return RunResult(self.pipeline, status, str(self.folder), results)

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)

    def _check_inputs(self, only: str) -> None:
        """LocalRunError unless a step is there and what it needs has been made.

        What it needs is what the steps before it make with the settings as they are.
        """
        if only not in self.steps:
            names = ", ".join(self.steps)
            raise LocalRunError(f"No step is called {only!r}: there are {names}.")
        needed, waiting = [], [only]
        while waiting:
            for name in self.steps[waiting.pop()].dependencies():
                needed.append(name)
                waiting.append(name)
        for name in self.steps:
            if name not in needed:
                continue
            again = f"run it first, with --step {name}"
            before, now = self.done.get(name), self._words(self.steps[name])
            if before is None:
                raise LocalRunError(
                    f"{only} cannot run, as {name} has not ended well in"
                    f" {self.folder}: {again}."
                )
            if before != now:
                old = " ".join(word for word in before if word not in now)
                new = " ".join(word for word in now if word not in before)
                raise LocalRunError(
                    f"{only} cannot run on what {name} made with other settings"
                    f" ({old or 'nothing'} is {new or 'nothing'} now): {again}."
                )

    def _run_step(self, step: LocalStep, result: StepResult) -> None:
        """Run a step anew; OSError if its files cannot be written."""
        folder = self.folder / step.name
        self.done.pop(step.name, None)
        self._write_state()  # before its outputs change, so they are never taken for whole
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)  # of an earlier try
        for file in step.snapshot:
            copy = folder / "code" / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(step.source_directory / file, copy)
        folders = self._folders(step)
        for name in step.outputs:
            folders[name].mkdir(parents=True)
        # By its path, as the package may be installed from another project.
        script = parallel_run.__file__ if step.is_parallel else step.script
        arguments = [str(self._argument(a, folders)) for a in step.arguments]
        command = [sys.executable, script, *arguments]
        started = time.monotonic()
        log = folder / "log.txt"
        code = self._run_process(step, command, folder / "code", folders, log)
        result.seconds = round(time.monotonic() - started, 2)
        result.outputs = {name: str(folders[name]) for name in step.outputs}
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if code:
            result.status = "failed"
            self._show_failure(step, lines, log)
            return
        self.done[step.name] = self._words(step)
        self._write_state()
        result.status = "ran"
        line = f"[green]ran[/] {step.name:10}{result.seconds:6.1f} s"
        self._print(f"{line}  [dim]{escape(lines[-1]) if lines else ''}")
        # Each worker of a parallel step may say the same.
        for line in dict.fromkeys(line for line in lines if line.startswith(NOTE)):
            self._print(f"    {escape(line)}")

    def _run_process(
        self,
        step: LocalStep,
        command: list[str],
        code: Path,
        folders: dict[str, Path],
        log: Path,
    ) -> int:
        """Run a step, with its progress on screen and all it prints in its log."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with (
            progress,
            log.open("w", encoding="utf-8") as file,
            subprocess.Popen(
                [sys.executable, "-I", "-S", step_process.__file__, *command],
                cwd=code,
                env=self._environment(step, folders),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            ) as process,
        ):
            assert process.stdin and process.stdout
            task = progress.add_task(step.name, total=None)
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if line.startswith(parallel_run.PROGRESS):
                        description = f"{step.name}: {line.strip()}"
                        progress.update(task, description=description)
                return process.wait()
            finally:
                process.stdin.close()  # which ends the step, if the run is interrupted

    def _environment(self, step: LocalStep, folders: dict[str, Path]) -> dict[str, str]:
        """This process's environment, with MLflow set up and what Azure ML would add."""
        tags = {"mlflow.runName": step.name, "run": self.folder.name}
        return {
            **tracking.environment(self.project.root),
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_EXPERIMENT_NAME": self.experiment,
            "MLFLOW_RUN_CONTEXT": json.dumps(tags),
            **{name: str(path) for name, path in folders.items()},
            **step.environment_variables,
        }

    def _folders(self, step: LocalStep) -> dict[str, Path]:
        """Where the inputs and outputs of a step are."""
        outputs = self.folder / step.name / "outputs"
        folders = {name: outputs / name for name in step.outputs}
        for name, source in step.inputs.items():
            if isinstance(source, Parameter):
                folders[name] = self.project.root / str(self.values[source.name])
            else:
                producer, port = source
                folders[name] = self.folder / producer / "outputs" / port
        return folders

    def _argument(self, argument: Argument, folders: dict[str, Path]) -> Value:
        if isinstance(argument, Parameter):
            value = self.values[argument.name]
            return self.project.root / value if isinstance(value, Path) else value
        if isinstance(argument, (Input, Output)):
            return folders[argument.name]
        return argument

    def _words(self, step: LocalStep) -> list[str]:
        """What decides what a step makes beside its files and its inputs' content.

        Without the project's own path: it may be moved.
        """
        given = [*step.arguments, *step.inputs.values()]
        words = [self.values[v.name] if isinstance(v, Parameter) else v for v in given]
        return [str(word) for word in words]

    def _write_state(self) -> None:
        state = {"pipeline": self.pipeline, "set": self.set, "done": self.done}
        unfinished = self.folder / f".{STATE}"
        unfinished.write_text(json.dumps(state, indent=2), encoding="utf-8")
        unfinished.replace(self.folder / STATE)

    def _show_failure(self, step: LocalStep, lines: list[str], log: Path) -> None:
        """Show why a step failed, and how to go on."""
        again = f"{self.project.command} run {self.pipeline} --step {step.name}"
        self._print(f"[red]failed[/] {step.name}; its log ends:")
        for line in lines[-LOG_END:]:
            self._print(f"    {escape(line)}")
        if shutil.disk_usage(self.folder).free < FULL:
            self._print(escape(f"The disk that {self.folder} is on is full."))
        self._print(escape(f"The whole log: {log}"))
        folder = shlex.quote(str(_shown(self.folder)))
        self._print(escape(f"To run this step again alone: {again} --folder {folder}"))


def _read_state(folder: Path, pipeline: str) -> dict[str, Any]:
    """What `run.json` says; LocalRunError if it is not that of a run of the pipeline."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        of, _, _ = state["pipeline"], {**state["set"]}, {**state["done"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise LocalRunError(f"{folder} is not the folder of a run.") from None
    if of != pipeline:
        raise LocalRunError(f"{folder} is of the pipeline {of}.")
    return state


def _new_folder(runs: Path, pipeline: str) -> Path:
    """A folder that no other run has, even one started in the same second."""
    runs.mkdir(exist_ok=True)
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{pipeline}"
    for number in range(1, 1000):
        folder = runs / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise LocalRunError(f"{runs / name} and 999 more exist: remove old runs.")


def _shown(path: Path) -> Path:
    """A path as a person would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def parameter_values(
    project: Project[Any],
    steps: list[LocalStep],
    data: Mapping[str, Value],
    values: Mapping[str, Any],
) -> dict[str, Value]:
    """The value of each pipeline parameter; LocalRunError for one that is wrong."""
    parameters = {p.name: p for step in steps for p in step.parameters()}
    for name in values:
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, 1)
            meant = f" Did you mean {close[0]}?" if close else ""
            raise LocalRunError(
                f"The pipeline has no parameter {name!r}.{meant}"
                f" It has: {', '.join(sorted(parameters))}."
            )
    found: dict[str, Value] = {}
    for name, parameter in parameters.items():
        default = data[name] if parameter.default is None else parameter.default
        found[name] = default
        if name in values:
            text = project.parameter_value(name, values[name])
            try:
                if text == "":
                    raise ValueError  # a path of nothing would be the project's folder
                found[name] = type(default)(text)
            except ValueError:
                raise LocalRunError(
                    f"{name} is {text!r}, but must be like {default}."
                ) from None
    return found
