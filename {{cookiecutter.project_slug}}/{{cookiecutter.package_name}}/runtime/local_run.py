"""Run a pipeline's steps on this machine, as Azure ML would run them.

Each step is a process of its own, in a copy of exactly the files that Azure ML would be
sent, with the arguments, folders, parameters and environment variables it would give.
A run has its own folder below `runs/`, with a folder for each step:

    code/           the copy of the step's files, where it runs
    outputs/PORT/   what it writes
    log.txt         what it prints
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
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

from .parallel_run import PROGRESS
from .settings import ROOT

RUNS = ROOT / "runs"
TRACKING = ROOT / "mlruns"  # MLflow's database and files, models included
PARAMETERS = "parameters.json"  # of a run, in its folder
LOG_END = 20  # lines of a failed step's log to show

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
        return json.dumps(asdict(self), ensure_ascii=False)


class LocalRunError(Exception):
    """The run cannot be started; the message says why and how to mend it."""


class LocalRun:
    """One run of a pipeline in its own folder."""

    def __init__(
        self,
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
        data parameter are. LocalRunError for a parameter that the pipeline has not.
        """
        self.pipeline = pipeline
        self.experiment = experiment
        self.console = console
        self.steps = {step.name: step for step in steps}
        known: dict[str, str] = {}
        if folder:
            try:
                known = json.loads((folder / PARAMETERS).read_text(encoding="utf-8"))
            except FileNotFoundError:
                raise LocalRunError(f"{folder} is not the folder of a run.") from None
        self.values = parameter_values(steps, data, {**known, **values})
        self.folder = folder or _new_folder(pipeline)

    def run(self, only: str | None = None) -> RunResult:
        """Run all steps in the order of their dependencies, or `only` one of them."""
        graph = {step.name: step.dependencies() for step in self.steps.values()}
        order = [only] if only else list(TopologicalSorter(graph).static_order())
        if only:
            self._check_inputs(only)
        (self.folder / PARAMETERS).write_text(
            json.dumps(self.values, indent=2, default=str), encoding="utf-8"
        )
        results = [StepResult(name) for name in order]
        for result in results:
            self._run_step(self.steps[result.name], result)
            if result.status == "failed":
                break
        is_complete = all(result.status == "ran" for result in results)
        status = "completed" if is_complete else "failed"
        return RunResult(self.pipeline, status, str(self.folder), results)

    def _check_inputs(self, only: str) -> None:
        """LocalRunError unless a step is there and what it needs has been made."""
        if only not in self.steps:
            names = ", ".join(self.steps)
            raise LocalRunError(f"No step is called {only!r}: there are {names}.")
        for name, folder in self._folders(self.steps[only]).items():
            if name in self.steps[only].inputs and not folder.exists():
                raise LocalRunError(f"{only} cannot run, as {folder} does not exist.")

    def _run_step(self, step: LocalStep, result: StepResult) -> None:
        folder = self.folder / step.name
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)  # of an earlier try
        for file in step.snapshot:
            copy = folder / "code" / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(step.source_directory / file, copy)
        folders = self._folders(step)
        for name in step.outputs:
            folders[name].mkdir(parents=True)
        arguments = [str(self._argument(a, folders)) for a in step.arguments]
        module = ["-m", f"{__package__}.parallel_run"]
        command = [
            sys.executable,
            *(module if step.is_parallel else [step.script]),
            *arguments,
        ]
        started = time.monotonic()
        log = folder / "log.txt"
        code = self._run_process(step, command, folder / "code", folders, log)
        result.seconds = round(time.monotonic() - started, 2)
        result.status = "failed" if code else "ran"
        result.outputs = {name: str(folders[name]) for name in step.outputs}
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if code:
            self._explain(step, lines, log)
        else:
            last = lines[-1] if lines else ""
            line = f"[green]ran[/] {step.name:10}{result.seconds:6.1f} s  [dim]{escape(last)}"
            self.console.print(line, highlight=False, soft_wrap=True)

    def _run_process(
        self,
        step: LocalStep,
        command: list[str],
        code: Path,
        folders: dict[str, Path],
        log: Path,
    ) -> int:
        """Run a step, with its progress on screen and all it prints in its log."""
        console = self.console
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        show = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        with (
            show as progress,
            log.open("w", encoding="utf-8") as file,
            subprocess.Popen(
                command,
                cwd=code,
                env=self._environment(step, folders),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
            ) as process,
        ):
            task = progress.add_task(step.name, total=None)
            assert process.stdout
            try:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if line.startswith(PROGRESS):
                        progress.update(
                            task, description=f"{step.name}: {line.strip()}"
                        )
                return process.wait()
            finally:
                process.terminate()  # nothing goes on behind an interrupted run

    def _environment(self, step: LocalStep, folders: dict[str, Path]) -> dict[str, str]:
        """This process's environment, with MLflow set up and what Azure ML would add."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        tags = {"mlflow.runName": step.name, "run": self.folder.name}
        TRACKING.mkdir(exist_ok=True)
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8",
            "MLFLOW_DISABLE_TELEMETRY": os.environ["MLFLOW_DISABLE_TELEMETRY"],
            "MLFLOW_TRACKING_URI": f"sqlite:///{(TRACKING / 'mlflow.db').as_posix()}",
            "MLFLOW_EXPERIMENT_NAME": self.experiment,
            "MLFLOW_RUN_CONTEXT": json.dumps(tags),
            # Else files of a run would land in the copy of the code that made it.
            "_MLFLOW_SERVER_ARTIFACT_ROOT": (TRACKING / "artifacts").as_uri(),
            **{name: str(path) for name, path in folders.items()},
            **step.environment_variables,
        }

    def _folders(self, step: LocalStep) -> dict[str, Path]:
        """Where the inputs and outputs of a step are."""
        outputs = self.folder / step.name / "outputs"
        folders = {name: outputs / name for name in step.outputs}
        for name, source in step.inputs.items():
            if isinstance(source, Parameter):
                folders[name] = Path(str(self.values[source.name]))
            else:
                producer, port = source
                folders[name] = self.folder / producer / "outputs" / port
        return folders

    def _argument(self, argument: Argument, folders: dict[str, Path]) -> Value:
        if isinstance(argument, Parameter):
            return self.values[argument.name]
        if isinstance(argument, (Input, Output)):
            return folders[argument.name]
        return argument

    def _explain(self, step: LocalStep, lines: list[str], log: Path) -> None:
        """Show why a step failed, and how to go on."""
        again = f"python -m {__package__} run {self.pipeline} --step {step.name}"
        self.console.print(f"[red]failed[/] {step.name}; its log ends:")
        for line in lines[-LOG_END:]:
            self.console.print(
                f"    {line}", markup=False, highlight=False, soft_wrap=True
            )
        self.console.print(f"The whole log: {log}", markup=False, soft_wrap=True)
        self.console.print(
            f"To run this step again alone: {again} --folder {_shown(self.folder)}",
            markup=False,
            soft_wrap=True,
        )


def _new_folder(pipeline: str) -> Path:
    """A folder that no other run has, even one started in the same second."""
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{pipeline}"
    for number in range(1, 1000):
        folder = RUNS / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise LocalRunError(f"{RUNS / name} and 999 more exist: remove old runs.")


def _shown(path: Path) -> Path:
    """A path as a person would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def parameter_values(
    steps: list[LocalStep], data: Mapping[str, Value], values: Mapping[str, Any]
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
            try:
                found[name] = type(default)(values[name])
            except ValueError:
                raise LocalRunError(
                    f"{name} is {values[name]!r}, but must be like {default!r}."
                ) from None
        if isinstance(default, Path):
            found[name] = ROOT / str(found[name])
    return found
