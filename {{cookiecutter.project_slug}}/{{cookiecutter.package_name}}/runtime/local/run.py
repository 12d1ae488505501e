"""Run a pipeline's steps on this machine, as Azure ML would run them.

Each step is a process of its own, in a copy of exactly the files that Azure ML would be
sent, with the arguments, folders, parameters and environment variables it would give.
A run has its own folder below `runs/`, with a folder for each step:

    code/           the copy of the step's files, where it runs
    outputs/PORT/   what it writes
    log.txt         what it prints

`run.json` beside them says which pipeline it is, what was set on the command line, and
what each step that has ended well has made. A step that would make the same again is not
run: its results are used where they are (`reuse.py`).
"""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from graphlib import TopologicalSorter
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import (
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TimeElapsedColumn,
)
from rich.text import Text

from ..azure import sdk_steps
from ..files import list_files
from ..project import CommandError, Pipelines, Project, ProjectSettings
from ..steps import (
    LOG_END,
    Argument,
    Input,
    Output,
    Parameter,
    Source,
    Step,
    parameter_values,
)
from . import parallel_driver, reuse, tracking
from .processes import StepCommand, StepProcesses

NOTE = "note: "  # begins the lines of a log that are shown on the screen too
FULL = 2**16  # bytes left on a disk where nothing more can be written


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
        """The folder of what a step has written there; KeyError if there is none."""
        outputs = {k: v for step in self.steps for k, v in step.outputs.items()}
        return Path(outputs[port])


class LocalRunError(CommandError):
    """The run cannot be started; the message says why and how to mend it."""


class LocalRun:
    """One run of a pipeline in its own folder."""

    def __init__(
        self,
        project: Project[Any],
        settings: ProjectSettings,
        pipeline: str,
        steps: list[Step],
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
        self.project, self.settings, self.pipeline = project, settings, pipeline
        self.console, self.runs = console, project.root / "runs"
        order = TopologicalSorter({step.name: step.dependencies() for step in steps})
        by_name = {step.name: step for step in steps}
        self.steps = {name: by_name[name] for name in order.static_order()}
        self.state = _read_state(folder, pipeline) if folder else reuse.State(pipeline)
        self.state.set.update(values)
        self.values = parameter_values(project, steps, data, self.state.set)
        try:
            self.folder = folder or _new_folder(self.runs, pipeline)
            self.state.write(self.folder)
        except OSError as error:
            raise self._no_place(error) from None
        self.digests = reuse.Digests(self.runs / ".digests.db")
        self.processes = StepProcesses()

    def run(self, only: str | None = None, fresh: bool = False) -> RunResult:
        """Run the steps in the order of their dependencies, or `only` one of them.

        What an earlier run has made is used again, unless all is to be `fresh`.
        """
        if only is not None:
            self._check_inputs(only)
        try:
            lock = ExitStack()
            lock.enter_context(reuse.locked(self.folder, 0))
        except OSError as error:
            text = f"Another run is at work, or nothing can be written, in {error}."
            raise LocalRunError(text) from None
        results = [StepResult(name) for name in self.steps if only in (None, name)]
        with lock, closing(self.processes):
            self._open_database(results)
            for number, result in enumerate(results):
                step = self.steps[result.name]
                result.status = "failed"  # until it has ended well
                try:
                    if only or fresh or not self._reuse(step, result):
                        following = results[number + 1 :]
                        self._run_step(step, result, following)
                except (OSError, sqlite3.Error) as error:  # such as a full disk
                    self._print(f"[red]failed[/] {result.name}: ", str(error))
                if result.status == "failed":
                    break
        if only is None:
            self._prune()
        is_complete = all(result.status in ("ran", "reused") for result in results)
        status = "completed" if is_complete else "failed"
        return RunResult(self.pipeline, status, str(self.folder), results)

    def _no_place(self, error: Exception) -> LocalRunError:
        places = f"runs and mlruns in {self.project.root}"
        text = f"Nothing can be run, as {places} cannot be written: {error}."
        return LocalRunError(text)

    def _open_database(self, results: list[StepResult]) -> None:
        """Have MLflow's database; LocalRunError if there can be none."""
        root = self.project.root
        if not (root / tracking.DATABASE).exists():
            # Making one takes as long as the imports of packages.
            self.processes.load_packages(
                _environment(self.project, self.settings),
                self.steps[results[-1].name].environment_variables,
            )
        try:
            with self._progress("opening mlruns"):
                tracking.ensure_database(root, self.settings.name)
        except (OSError, sqlite3.Error) as error:
            raise self._no_place(error) from None

    def _check_inputs(self, only: str) -> None:
        """LocalRunError unless a step is there and what it needs has been made.

        What it needs is what the steps before it make with the settings as they are.
        """
        if only not in self.steps:
            names = ", ".join(self.steps)
            raise LocalRunError(f"No step is called {only!r}: there are {names}.")
        needed = self._before(only)
        for name, step in self.steps.items():
            done, now = self.state.done.get(name), self._words(step)
            places = [Path(self._place((name, port))) for port in step.outputs]
            is_there = all(place.exists() for place in places)
            if name not in needed or (done and done.words == now and is_there):
                continue
            why = f", as {name} has not ended well in {self.folder}"
            if done and is_there:
                old = " ".join(word for word in done.words if word not in now)
                new = " ".join(word for word in now if word not in done.words)
                why = f" on what {name} made with other settings"
                why += f" ({old or 'nothing'} is {new or 'nothing'} now)"
            elif done:
                why = f", as what {name} made is gone"
            again = f"run it first, with --step {name}"
            raise LocalRunError(f"{only} cannot run{why}: {again}.")

    def _before(self, name: str) -> set[str]:
        """All steps that must have ended before one."""
        found = self.steps[name].dependencies()
        for other in reversed(self.steps):
            if other in found:
                found |= self.steps[other].dependencies()
        return found

    def _reuse(self, step: Step, result: StepResult) -> bool:
        """Use what an earlier run has made of a step again, if it would be the same."""
        if not step.allow_reuse and not self._model(step):
            return False
        key, (model, _) = self._key(step, step.source_directory), self._looked_up(step)
        with reuse.locked(self.runs):  # no run is removed meanwhile
            made = reuse.find(self.runs, step.name, key, model) if key else None
            if made is None:
                return False
            self.state.done[step.name] = made
            self.state.write(self.folder)
        result.status = "reused"
        result.outputs = {port: self._place((step.name, port)) for port in step.outputs}
        self._print(f"[cyan]reused[/] {step.name:10}[dim]", f"({made.run})")
        return True

    def _prune(self) -> None:
        """Remove the runs beyond those that the settings keep, and say so."""
        try:
            keep = self.settings.keep_runs
            files = tracking.registered_files(self.project.root)
            with self._progress("removing old runs"):
                removed = reuse.prune(
                    self.runs, keep, lambda run: any(f"/{run}/" in one for one in files)
                )
        except (OSError, sqlite3.Error):
            return  # the next run does it
        for name in removed:
            self._print("[dim]removed[/] ", f"{name} (keep_runs: {keep})")

    def _run_step(
        self, step: Step, result: StepResult, following: list[StepResult]
    ) -> None:
        """Run a step anew; OSError if its files cannot be written."""
        folder = self.folder / step.name
        self.state.done.pop(step.name, None)
        self.state.write(self.folder)  # before its outputs change: they are not whole
        if folder.exists():
            shutil.rmtree(folder)  # of an earlier try
        for file in step.snapshot:
            copy = folder / "code" / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(step.source_directory / file, copy)
        result.outputs = {port: self._place((step.name, port)) for port in step.outputs}
        for output in result.outputs.values():
            Path(output).mkdir(parents=True)
        key, (model, _) = self._key(step, folder / "code"), self._looked_up(step)
        started = time.monotonic()
        code = self._run_process(step, result.outputs, following)
        result.seconds = round(time.monotonic() - started, 2)
        log = folder / "log.txt"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if code:
            self._show_failure(step, lines, log)
            return
        self._keep(step, key, model, result.seconds)
        result.status = "ran"
        head = f"[green]ran[/] {step.name:10}{result.seconds:6.1f} s  [dim]"
        self._print(head, lines[-1] if lines else "")
        # Each worker of a parallel step may say the same.
        for line in dict.fromkeys(line for line in lines if line.startswith(NOTE)):
            self._print("    ", line)

    def _keep(self, step: Step, key: str, model: str, seconds: float) -> None:
        """Write down what a step has made, and from what: `key` and `model`."""
        folder, done = self.folder / step.name, self.state.done
        if key != self._key(step, folder / "code"):
            key = ""  # its data has changed while it ran
        now, run = self._looked_up(step)
        if now != model and run != self.folder.name:
            key = ""  # somebody else has registered another one meanwhile
        elif now != model:
            # The step has registered what the steps before it have made and judged.
            for name in self._before(step.name) & done.keys():
                if model in done[name].models:
                    models = [*done[name].models, now]
                    done[name] = replace(done[name], models=models)
        files = reuse.listing(folder / "outputs")
        done[step.name] = reuse.Made(self._words(step), key, [now], files, seconds)
        self.state.write(self.folder)

    def _run_process(
        self, step: Step, outputs: dict[str, str], following: list[StepResult]
    ) -> int:
        """Run a step with all it prints in its log; return its exit code."""
        folder = self.folder / step.name
        places = {name: self._place(source) for name, source in step.inputs.items()}
        places |= outputs
        arguments = [parallel_driver.__file__ if step.is_parallel else step.script]
        arguments += [
            places[given] if isinstance(given, (Input, Output)) else self._text(given)
            for given in step.arguments
        ]
        tags = {"mlflow.runName": step.name, "run": self.folder.name}
        environment = {
            **_environment(self.project, self.settings),
            "MLFLOW_RUN_CONTEXT": json.dumps(tags),
            **places,
            **step.environment_variables,
        }
        before = 0.0  # seconds that it took; of mini-batches more can be said
        if self.console.is_terminal and not step.is_parallel:
            before = reuse.seconds(self.runs, self.pipeline, step.name)
        next_variables = None
        if following:
            next_variables = self.steps[following[0].name].environment_variables
        log = folder / "log.txt"
        with self._progress(step.name, folder, before):
            code = self.processes.run(
                StepCommand(arguments, str(folder / "code"), environment, str(log)),
                step.environment_variables,
                next_variables,
            )
        if code < 0:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"\nThe process was ended by signal {-code}.\n")
        return code

    def _place(self, source: Source) -> str:
        """The folder or file of data, or the folder that a step writes an output to."""
        if isinstance(source, Parameter):
            return str(self.project.root / str(self.values[source.name]))
        step, port = source
        made = self.state.done.get(step)
        folder = self.runs / made.run if made and made.run else self.folder
        return str(folder / step / "outputs" / port)

    def _text(self, given: Argument | Source) -> str:
        return str(self.values[given.name] if isinstance(given, Parameter) else given)

    def _words(self, step: Step) -> list[str]:
        """What decides what a step makes beside its files and its inputs' content.

        Without the project's own path: it may be moved.
        """
        return [self._text(given) for given in (*step.arguments, *step.inputs.values())]

    def _key(self, step: Step, code: Path) -> str:
        """A digest of all that decides what a step makes, with its files as in `code`.

        Empty if they or its data cannot be read.
        """
        inputs = {}
        try:
            with self._progress(f"{step.name}: looking for what has changed"):
                snapshot = {file.as_posix(): code / file for file in step.snapshot}
                files = self.digests.of(snapshot)
                for name, source in step.inputs.items():
                    if isinstance(source, Parameter):
                        data = list_files(Path(self._place(source)))
                        inputs[name] = self.digests.of(data)
                    else:
                        producer, port = source
                        inputs[name] = f"{self.state.done[producer].id} {port}"
        except OSError:
            return ""
        given = [
            [type(one).__name__, self._text(one)]  # as a text may read like an output
            for one in (*step.arguments, *step.unused_parameters)
        ]
        variables, environment = step.environment_variables, step.environment
        parts = [step.name, step.script, step.is_parallel, step.outputs, given, inputs]
        parts += [files, environment, variables]
        return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _model(self, step: Step) -> tuple[str, str] | None:
        """The name and version of the registered model that a step looks up, if any."""
        words = [self._text(given) for given in step.arguments]
        found = dict(pairwise(words))
        name = found.get("--model-name")
        if step.allow_reuse or name is None:
            return None
        return name, found.get("--model-version", "latest")

    def _looked_up(self, step: Step) -> tuple[str, str]:
        """The registered model that a step looks up, and the run that registered it."""
        if (asked := self._model(step)) is None:
            return "", ""
        version = tracking.registered_version(self.project.root, *asked)
        if version is None:
            return "none", ""
        files = list_files(version.files) if version.files else {}
        files.pop(tracking.LOADED, None)
        return f"{version.about} {self.digests.of(files)}", version.run

    @contextmanager
    def _progress(
        self, text: str, folder: Path | None = None, before: float = 0.0
    ) -> Iterator[None]:
        """Show that something is under way, where there is a screen.

        And how much there is in the outputs in a step's `folder`, how far its log says it
        has come, and how long it will take if it takes as many seconds as `before`.
        """
        columns = (
            SpinnerColumn(),
            "{task.description}",
            TimeElapsedColumn(),
            _HowFar(),
        )
        is_off = not self.console.is_terminal
        with Progress(
            *columns, console=self.console, transient=True, disable=is_off
        ) as progress:
            progress.add_task(text, total=None, folder=folder, before=before)
            yield

    def _print(self, markup: str, text: str) -> None:
        self.console.print(markup + escape(text), highlight=False, soft_wrap=True)

    def _show_failure(self, step: Step, log_lines: list[str], log: Path) -> None:
        """Show why a step failed, and how to go on."""
        lines = [f"{step.name}; its log ends:"]
        lines += [f"    {line}" for line in log_lines[-LOG_END:]]
        if shutil.disk_usage(self.folder).free < FULL:
            lines.append(f"The disk that {self.folder} is on is full.")
        here, folder = Path.cwd(), self.folder
        folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
        again = f"{self.project.command} run {self.pipeline} --step {step.name}"
        again += f" --folder {shlex.quote(str(folder))}"
        lines += [f"The whole log: {log}", f"To run this step again alone: {again}"]
        self._print("[red]failed[/] ", "\n".join(lines))


class _HowFar(ProgressColumn):
    """How far a step has come, how much it has written, and how long it may still take."""

    max_refresh = 1.0  # seconds

    def __init__(self) -> None:
        super().__init__()
        self.first_batch = 0.0  # seconds after which the first mini-batch was done

    def render(self, task: Task) -> Text:
        folder, elapsed = task.fields["folder"], task.elapsed or 0.0
        if folder is None:
            return Text("")
        words = []
        line = _last_progress(folder / "log.txt")
        if line:
            self.first_batch = self.first_batch or elapsed
            words += [_how_far(line, elapsed - self.first_batch)]
        size = 0
        with suppress(OSError):  # a file is gone by now
            for file in (folder / "outputs").rglob("*"):
                size += file.stat().st_size if file.is_file() else 0
        if size and elapsed:
            words += [f"{decimal(size)} written, {decimal(int(size / elapsed))}/s"]
        before = task.fields["before"]
        if before > elapsed:
            words += [f"about {before - elapsed:.0f} s left"]
        return Text(", ".join(words), "dim")


def _last_progress(log: Path) -> str:
    """Return the last line of a log that tells of mini-batches, or an empty text."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = file.read().decode("utf-8", "replace")
        # What follows the last line break is not complete yet.
        for line in reversed(text.split("\n")[:-1]):
            if line.startswith(parallel_driver.PROGRESS):
                return line
    return ""


def _environment(project: Project[Any], settings: ProjectSettings) -> dict[str, str]:
    """The environment variables that all steps are given."""
    return {
        **tracking.environment(project.root),
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_EXPERIMENT_NAME": settings.name,
    }


def new_run(
    project: Project[Any],
    pipelines: Pipelines,
    name: str,
    values: Mapping[str, str] | None = None,
    console: Console | None = None,
    folder: Path | None = None,
) -> LocalRun:
    """A local run of one of the project's pipelines.

    `values` sets pipeline parameters; with the `folder` of an earlier run, a step of it
    can be run again. Without a `console` plain lines are printed, as a notebook shows
    them best. LocalRunError and SettingsError say what stands in the way.
    """
    settings, pipeline = project.settings(), pipelines[name]
    steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
    data = {key: Path(getattr(settings.data, of)) for key, of in pipeline.data.items()}
    console = console or Console(force_jupyter=False, force_terminal=False)
    run = project, settings, name, steps, values or {}, data, console, folder
    return LocalRun(*run)


def _how_far(line: str, seconds: float) -> str:
    """How far a parallel step has come, and how fast.

    By a line of its log, so many seconds after the first one.
    """
    done, total = map(int, line.removeprefix(parallel_driver.PROGRESS).split("/"))
    text = f"{done} of {total} mini-batches"
    if done > 1 and seconds:  # the first one has waited for its worker
        left = seconds * (total - done) / (done - 1)
        text += f", {(done - 1) / seconds:.1f} a second, {left:.0f} s left"
    return text


def _read_state(folder: Path, pipeline: str) -> reuse.State:
    """What `run.json` says; LocalRunError if it is not that of a run of the pipeline."""
    try:
        state = reuse.State.read(folder)
    except (OSError, ValueError):
        raise LocalRunError(f"{folder} is not the folder of a run.") from None
    if state.pipeline != pipeline:
        raise LocalRunError(f"{folder} is of the pipeline {state.pipeline}.")
    return state


def _new_folder(runs: Path, pipeline: str) -> Path:
    """A folder that no other run has, even one started in the same second."""
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{pipeline}"
    for suffix in ["", *(f"-{number}" for number in range(2, 1000))]:
        with suppress(FileExistsError):
            (runs / f"{name}{suffix}").mkdir(parents=True)
            return runs / f"{name}{suffix}"
    raise LocalRunError(f"{runs / name} and 999 more exist: remove old runs.")
