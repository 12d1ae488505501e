"""The commands of a project. Each is a function that returns the exit code.

Each command imports the modules that it needs itself, so that `--help` and messages about
wrong options appear at once.
"""

from __future__ import annotations

import gc
import json
import shlex
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CommandError, SettingsError
from .harmless_text import is_utf8
from .project import Pipelines, Project
from .steps import find_unknown_steps
from .workspaces import SETTINGS

if TYPE_CHECKING:
    from .local.run_result import RunResult
    from .local.screen import Screen

PipelineLoader = Callable[[], Pipelines]


@dataclass(frozen=True)
class CommandContext:
    """The project that a command works on, and how its pipelines are loaded."""

    project: Project[Any]
    pipeline_loader: PipelineLoader

    def import_pipelines(self) -> Pipelines:
        """Import the pipelines, and with them the SDK of Azure ML."""
        # Imports create many objects that stay, and the garbage collector would spend time
        # looking for unused ones among them.
        gc.disable()
        pipelines = self.pipeline_loader()
        gc.freeze()
        gc.enable()
        return pipelines

    def load_pipelines(self) -> Pipelines:
        """Import the pipelines, and check that the settings name only steps of them.

        Raises SettingsError if the settings name an unknown step.
        """
        pipelines = self.import_pipelines()
        problems = find_unknown_steps(self.project, pipelines)
        if problems:
            raise SettingsError(problems)
        return pipelines

    def load_pipelines_with(self, name: str) -> Pipelines:
        """Load the pipelines. Raises CommandError if none of them is called `name`."""
        pipelines = self.load_pipelines()
        if name not in pipelines:
            raise CommandError(
                f"No pipeline is called {name!r}. There are {', '.join(pipelines)}."
            )
        return pipelines


# Commands for this machine --------------------------------------------------------------


@dataclass(frozen=True)
class RunOptions:
    """What `run` is asked to do."""

    pipeline: str
    parameters: dict[str, str]
    fresh: bool
    step: str | None
    folder: Path | None
    debug: bool


def run(
    context: CommandContext,
    *,
    pipeline: str,
    assignments: list[str],
    fresh: bool,
    step: str | None,
    folder: Path | None,
    debug: bool,
    as_json: bool,
) -> int:
    """Run a pipeline, or one step of it, on this machine."""
    from rich.console import Console

    from .local.screen import Screen

    _check_step_options(step, folder, debug, as_json)
    _check_temporary_folder()
    parameters = _parse_parameters(assignments)
    options = RunOptions(pipeline, parameters, fresh, step, folder, debug)
    # With --json, standard output is for the JSON alone.
    screen = Screen(Console(stderr=as_json))
    try:
        result = _run_on_this_machine(context, options, screen)
    except (KeyboardInterrupt, SystemExit):
        _print_how_to_continue(context.project, screen)
        raise

    if result.status == "completed":
        _print_results(result, screen)
    if as_json:
        print(json.dumps(asdict(result)))
    return 0 if result.status == "completed" else 1


def _run_on_this_machine(
    context: CommandContext, options: RunOptions, screen: Screen
) -> RunResult:
    """Run a pipeline, or one step of it, and return how the run ended.

    A single step runs in the folder of an earlier run, because it reads what the steps
    before it have written there.
    """
    from .local.run import new_run
    from .local.step_alone import find_newest_run

    with screen.console.status("loading the SDK"):
        pipelines = context.load_pipelines_with(options.pipeline)

    earlier_run = None
    if options.folder is not None:
        earlier_run = options.folder.resolve()
    elif options.step:
        earlier_run = find_newest_run(context.project, options.pipeline)
        screen.print(f"The step uses the newest run: {earlier_run}")

    prepared_run = new_run(
        context.project,
        pipelines,
        options.pipeline,
        options.parameters,
        console=screen.console,
        folder=earlier_run,
    )
    return prepared_run.run(options.step, fresh=options.fresh, debug=options.debug)


def _print_how_to_continue(project: Project[Any], screen: Screen) -> None:
    """Print the command that continues an interrupted run."""
    # Without --fresh, the steps that have finished are not run again.
    arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
    screen.print(
        "The run was stopped. The results of finished steps are kept. To continue,"
        f" run: {project.command} {shlex.join(arguments)}"
    )


def _print_results(result: RunResult, screen: Screen) -> None:
    """Print the folders of all outputs, and the addresses of the reports."""
    for step in result.steps:
        for output, folder in step.outputs.items():
            screen.print(f"{output:14}{folder}")
    reports = result.list_reports()
    if reports:
        screen.print("To look at the results, open:")
    for report in reports:
        screen.print(f"  {report.as_uri()}")


def _check_step_options(
    step: str | None, folder: Path | None, debug: bool, as_json: bool
) -> None:
    """Raise CommandError if options of `run` do not go together."""
    if step is None and folder is not None:
        raise CommandError(
            "--folder needs --step NAME, because only a single step runs in the folder of"
            " an earlier run."
        )
    if step is None and debug:
        raise CommandError(
            "--debug needs --step NAME, because one step is debugged at a time."
        )
    if debug and as_json:
        raise CommandError(
            "--debug and --json do not go together, because a debugger needs the terminal."
        )


def _check_temporary_folder() -> None:
    """Raise CommandError if no temporary file can be written. The SDK needs some."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise CommandError(
            "Temporary files cannot be written, because every folder for them is full or"
            f" not writable ({error.strerror}). Free some space, or set the environment"
            " variable TMPDIR to another folder."
        ) from None


def runs(context: CommandContext, *, names: list[str]) -> int:
    """Print a table of earlier runs, or two of them side by side.

    `names` are the names of two runs to compare, or a part of the names of those to list.
    """
    from .local.run_history import find_run, read_history
    from .local.run_tables import format_comparison, format_runs

    if len(names) > 2:
        raise CommandError("Name two runs to compare them, or one part of their names.")
    root = context.project.root
    try:
        history = read_history(root)
    except sqlite3.Error as error:
        raise _make_database_error(root, error) from None

    if len(names) == 2:
        first = find_run(history, names[0])
        second = find_run(history, names[1])
        print("\n".join(format_comparison(first, second)))
        return 0

    if not history:
        print(
            f"There is no run yet. To make one: {context.project.command} run training"
        )
        return 0

    part = names[0] if names else ""
    shown = [run for run in history if part in run.name]
    if not shown:
        # This raises an error that suggests the most similar names.
        find_run(history, part)
    print("\n".join(format_runs(history, shown, _find_width())))
    return 0


def models(context: CommandContext) -> int:
    """Print the versions of the registered model, and the one that each pipeline uses."""
    from .local.plan import make_plan
    from .local.registered_models import list_versions
    from .local.run_history import read_history
    from .local.run_tables import format_models

    project = context.project
    settings = project.settings()
    try:
        versions = list_versions(project.root, settings.name)
        history = read_history(project.root)
        table = format_models(project.root, versions, history)
    except sqlite3.Error as error:
        raise _make_database_error(project.root, error) from None
    if not versions:
        print(
            f"No model {settings.name} is registered on this machine. To train one:"
            f" {project.command} run training"
        )
        return 0

    print("\n".join(table))
    print()
    print(f"New models are compared with version {versions[0].reference}.")
    version_numbers = [version.version for version in versions]
    for name, pipeline in context.load_pipelines().items():
        if pipeline.model_version is not None:
            plan = make_plan(project, settings, name, pipeline, {})
            print(_describe_used_version(name, plan.model_version, version_numbers))
    return 0


def _describe_used_version(pipeline: str, chosen: str, versions: Sequence[str]) -> str:
    """Return which version of the model a pipeline uses; `versions` are newest first."""
    setting = f"{SETTINGS}: scoring.model_version is {chosen}"
    if chosen == "latest":
        return f"{pipeline} uses version {versions[0]}, the newest ({setting})."
    if chosen in versions:
        return f"{pipeline} uses version {chosen} ({setting})."
    return f"{pipeline} will fail: there is no version {chosen} ({setting})."


def _make_database_error(root: Path, error: sqlite3.Error) -> CommandError:
    """Return the error of a command that cannot read MLflow's database."""
    return CommandError(
        f"MLflow's database in {root / 'mlruns'} cannot be read: {error}. Move it away: the"
        " next run creates a new one, without the registered models."
    )


def _find_width() -> int | None:
    """Return the width of the terminal, or None if the output goes elsewhere."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def check(context: CommandContext, *, online: bool, as_json: bool, debug: bool) -> int:
    """Check the settings, and with `--online` what Azure says about them."""
    from .azure import checks, sdk_log

    with sdk_log.show_log() if debug else nullcontext():
        return checks.main(
            context.project, context.import_pipelines, online=online, as_json=as_json
        )


def lock(context: CommandContext, *, upgrade: bool) -> int:
    """Pin the packages of the project, and show which pins have changed."""
    from .lock import STEPS_PINS, lock_packages

    environment = context.project.root / "environment"
    try:
        changes = lock_packages(environment, upgrade)
    except OSError as error:
        raise CommandError(
            f"The pins could not be read or written: {error}. Make sure that the folder "
            f"{environment} and its files are yours to change, then try again."
        ) from None

    if not changes:
        print("Nothing has changed: the pins agree with environment/*.in.")
        return 0
    for change in changes:
        print(change)

    print(
        "\nInstall them with `uv pip install -e .`, then run the tests with `pytest`."
    )
    if any(change.file == STEPS_PINS for change in changes):
        print(
            "The steps run with other packages now: call "
            f"`{context.project.command} provision`, which registers their environment on "
            "Azure ML again, before you submit or publish."
        )
    return 0


def draw(context: CommandContext) -> int:
    """Print a picture of each pipeline."""
    from . import graph
    from .azure import sdk_steps

    settings = context.project.settings()
    for name, pipeline in context.load_pipelines().items():
        steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
        print(f"`{name}`:\n\n{graph.draw(steps)}\n")
    return 0


# Commands for Azure ML ------------------------------------------------------------------


def provision(context: CommandContext, *, create_workspace: bool, debug: bool) -> int:
    """Create on Azure what the pipelines need."""
    from .azure.provision import provision as provision_workspace

    pipelines = context.load_pipelines()
    provision_workspace(
        context.project, pipelines, create_workspace=create_workspace, debug=debug
    )
    return 0


def submit(
    context: CommandContext,
    *,
    pipeline: str,
    assignments: list[str],
    wait: bool,
    debug: bool,
) -> int:
    """Run a pipeline on Azure ML."""
    from .azure.submit import submit as submit_pipeline

    pipelines = context.load_pipelines_with(pipeline)
    parameters = _parse_parameters(assignments)
    is_well = submit_pipeline(
        context.project, pipelines, pipeline, parameters, wait=wait, debug=debug
    )
    return 0 if is_well else 1


def publish(
    context: CommandContext,
    *,
    pipeline: str,
    data: list[str],
    dry_run: bool,
    debug: bool,
) -> int:
    """Publish a pipeline on Azure ML."""
    from .azure.publish import publish as publish_pipeline

    pipelines = context.load_pipelines_with(pipeline)
    folders = _parse_folders(data, list(pipelines[pipeline].data))
    publish_pipeline(
        context.project, pipelines, pipeline, folders, dry_run=dry_run, debug=debug
    )
    return 0


def status(context: CommandContext, *, debug: bool) -> int:
    """Print how the newest runs on Azure ML have ended."""
    from .azure.status import show_status

    is_well = show_status(context.project, context.load_pipelines(), debug)
    return 0 if is_well else 1


# Options whose values have parts --------------------------------------------------------


def _parse_parameters(assignments: list[str]) -> dict[str, str]:
    """Return the values that `--set` gives to pipeline parameters, by their names.

    Raises CommandError if an assignment has no `=`, or is not UTF-8.
    """
    parameters = {}
    for assignment in assignments:
        if "=" not in assignment:
            raise CommandError(f"--set {assignment}: write --set NAME=VALUE.")
        if not is_utf8(assignment):
            raise CommandError(
                f"--set {assignment}: the terminal or the script has sent bytes that are"
                " not UTF-8. Write the value in UTF-8."
            )
        name, _, value = assignment.partition("=")
        parameters[name] = value
    return parameters


def _parse_folders(
    assignments: list[str], data_parameters: list[str]
) -> dict[str, str]:
    """Return the folders that `--data` names, by the data parameters that read them.

    Assignments look like NAME=FOLDER. If the pipeline has only one data parameter, NAME=
    may be left out. Raises CommandError if a name is not that of a data parameter.
    """
    folders: dict[str, str] = {}
    for assignment in assignments:
        name, _, folder = assignment.rpartition("=")
        if not name and len(data_parameters) == 1:
            name = data_parameters[0]
        if name not in data_parameters:
            examples = " or ".join(
                f"{parameter}={folder or 'FOLDER'}" for parameter in data_parameters
            )
            raise CommandError(f"--data {assignment}: write {examples}.")
        folders[name] = folder
    return folders
