"""The commands of a project. Each is a function that returns the exit code.

The functions import the modules that they need themselves. Importing all of them here would
delay `--help` and messages about wrong options.
"""

from __future__ import annotations

import gc
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
from .harmless_text import format_json, is_utf8
from .project import Pipelines, Project
from .steps import find_unknown_steps, suggest_similar_name
from .workspaces import SETTINGS

if TYPE_CHECKING:
    from .local.run_history import PastRun, UnreadableRun
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
        # Imports create many objects that stay in use. The garbage collector would search
        # them for unused objects again and again. gc.freeze makes it ignore them.
        gc.disable()
        pipelines = self.pipeline_loader()
        gc.freeze()
        gc.enable()
        return pipelines

    def load_pipelines(self) -> Pipelines:
        """Import the pipelines, and check that they have all steps named in the settings.

        Raises SettingsError if the settings name an unknown step.
        """
        pipelines = self.import_pipelines()
        problems = find_unknown_steps(self.project, pipelines)
        if problems:
            raise SettingsError(problems)
        return pipelines

    def load_pipelines_including(self, required: str) -> Pipelines:
        """Import all pipelines, as `load_pipelines` does.

        Raises CommandError if there is no pipeline of the name `required`.
        """
        pipelines = self.load_pipelines()
        if required not in pipelines:
            suggestion = suggest_similar_name(required, pipelines)
            raise CommandError(
                f"No pipeline is called {required!r}.{suggestion} The pipelines are:"
                f" {', '.join(pipelines)}."
            )
        return pipelines


# Commands for this machine --------------------------------------------------------------


@dataclass(frozen=True)
class RunOptions:
    """The options of the command `run`."""

    #: The name of a pipeline.
    pipeline: str
    #: The values of pipeline parameters, as text.
    parameters: dict[str, str]
    #: Whether steps run again although nothing has changed.
    fresh: bool
    #: The only step to run, or None to run all steps.
    step: str | None
    #: The folder of an earlier run in which the step runs, or None for the newest run.
    folder: Path | None
    #: Whether the step runs in the terminal, so that a debugger works.
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
    """Run a pipeline, or one step of it, on this machine.

    `assignments` are values of pipeline parameters, such as `max_iterations=100`. Returns 0
    if all steps have succeeded, and 1 otherwise.
    """
    from rich.console import Console

    from .local.screen import Screen

    _check_step_options(step, folder, debug, as_json)
    _require_temporary_files()
    options = RunOptions(
        pipeline=pipeline,
        parameters=_parse_parameters(assignments),
        fresh=fresh,
        step=step,
        folder=folder,
        debug=debug,
    )
    # With --json, standard output is for the JSON alone.
    screen = Screen(Console(stderr=as_json))
    try:
        result = _run_on_this_machine(context, options, screen)
    except (KeyboardInterrupt, SystemExit):
        # The user has pressed Ctrl-C, or the process was told to terminate.
        _print_how_to_continue(context.project, screen)
        raise

    is_completed = result.status == "completed"
    if is_completed:
        _print_results(result, screen)
    if as_json:
        print(format_json(asdict(result)))
    return 0 if is_completed else 1


def _run_on_this_machine(
    context: CommandContext, options: RunOptions, screen: Screen
) -> RunResult:
    """Run a pipeline, or one of its steps, and return how the run ended.

    A single step runs in the folder of an earlier run, because the step reads what the
    steps before it have written into that folder.
    """
    from .local.run import new_run
    from .local.step_alone import find_newest_run

    with screen.console.status("loading the SDK"):
        pipelines = context.load_pipelines_including(options.pipeline)

    folder_of_earlier_run = None
    if options.folder is not None:
        folder_of_earlier_run = options.folder.resolve()
    elif options.step is not None:
        folder_of_earlier_run = find_newest_run(context.project, options.pipeline)
        screen.print(f"The step uses the newest run: {folder_of_earlier_run}")

    # If there is no folder of an earlier run, new_run makes a folder for the new run.
    local_run = new_run(
        context.project,
        pipelines,
        options.pipeline,
        options.parameters,
        console=screen.console,
        folder=folder_of_earlier_run,
    )
    return local_run.run(options.step, fresh=options.fresh, debug=options.debug)


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
            screen.print(f"{output:13} {folder}")
    reports = result.list_reports()
    if reports:
        screen.print("To look at the results, open:")
    for report in reports:
        screen.print(f"  {report.as_uri()}")


def _check_step_options(
    step: str | None, folder: Path | None, debug: bool, as_json: bool
) -> None:
    """Raise CommandError if the options of `run` cannot be combined."""
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
            "--debug and --json cannot be combined, because the debugger needs the terminal."
        )


def _require_temporary_files() -> None:
    """Raise CommandError if temporary files, which the SDK needs, cannot be written."""
    try:
        tempfile.gettempdir()
    except OSError as error:
        raise CommandError(
            "Temporary files cannot be written, because every folder for them is full or"
            f" not writable ({error.strerror}). Free some space, or set the environment"
            " variable TMPDIR to another folder."
        ) from None


def runs(context: CommandContext, *, names: list[str]) -> int:
    """Print a table of earlier runs, or compare two of them side by side.

    If `names` is empty, all runs are listed. One name lists the runs whose names contain it,
    and two names compare these two runs.
    """
    from .local.run_history import read_history

    if len(names) > 2:
        raise CommandError(
            "Give two names to compare two runs, or part of a name to list the runs whose"
            " names contain it."
        )
    root = context.project.root
    try:
        history = read_history(root)
    except sqlite3.Error as error:
        raise _make_database_error(root, error) from None

    if len(names) == 2:
        _print_comparison(history, names[0], names[1])
    elif not history:
        print(
            "There is no run on this machine yet. To run a pipeline:"
            f" {context.project.command} run training"
        )
    elif names:
        _print_runs(history, name_part=names[0])
    else:
        _print_runs(history, name_part="")
    return 0


def _print_comparison(
    history: Sequence[PastRun | UnreadableRun], first_name: str, second_name: str
) -> None:
    """Print two runs side by side. Raises CommandError if one of them is not found."""
    from .local.run_history import find_run
    from .local.run_tables import format_comparison

    first_run = find_run(history, first_name)
    second_run = find_run(history, second_name)
    print("\n".join(format_comparison(first_run, second_run)))


def _print_runs(history: Sequence[PastRun | UnreadableRun], name_part: str) -> None:
    """Print a table of the runs whose names contain `name_part`.

    `name_part` may also be the path of a run's folder. Raises CommandError if there is no
    such run.
    """
    from .local.run_history import make_not_found_error
    from .local.run_tables import format_runs

    # The last part of a path such as runs/2026-11-23-093000-training/ is the run's name.
    searched_text = Path(name_part).name
    matching_runs = [run for run in history if searched_text in run.name]
    if not matching_runs:
        raise make_not_found_error(history, searched_text)
    print("\n".join(format_runs(history, matching_runs, _find_terminal_width())))


def _find_terminal_width() -> int | None:
    """Return the width of the terminal in characters.

    Returns None if the output goes to a file or another program.
    """
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def models(context: CommandContext) -> int:
    """Print the registered model's versions, and which of them each pipeline uses."""
    from .local.registered_models import list_versions
    from .local.run_history import read_history
    from .local.run_tables import format_model_versions

    project = context.project
    model_name = project.settings().name
    try:
        model_versions = list_versions(project.root, model_name)
        if not model_versions:
            print(
                f"No model {model_name} is registered on this machine. To train one:"
                f" {project.command} run training"
            )
            return 0
        history = read_history(project.root)
        table = format_model_versions(project.root, model_versions, history)
    except sqlite3.Error as error:
        raise _make_database_error(project.root, error) from None

    print("\n".join(table))
    print()
    reference_number = model_versions[0].reference
    print(f"New models are compared with version {reference_number}.")
    numbers = [model_version.version for model_version in model_versions]
    _print_used_versions(context, numbers)
    return 0


def _print_used_versions(
    context: CommandContext, version_numbers: Sequence[str]
) -> None:
    """Print which version of the registered model each pipeline uses.

    A pipeline without a parameter for the version is left out. `version_numbers` are the
    numbers of all registered versions, the newest first.
    """
    from .local.plan import make_plan

    settings = context.project.settings()
    for name, pipeline in context.load_pipelines().items():
        version_parameter = pipeline.model_version
        if version_parameter is None:
            continue
        # The plan of a run says which version the run would use: a number, or "latest".
        plan = make_plan(context.project, settings, name, pipeline, overrides={})
        print(_describe_used_version(name, plan.model_version, version_numbers))


def _describe_used_version(
    pipeline: str, chosen_version: str, version_numbers: Sequence[str]
) -> str:
    """Return a sentence that says which version of the model a pipeline uses.

    `chosen_version` is a number or "latest". `version_numbers` are the numbers of all
    registered versions, the newest first.
    """
    setting = f"{SETTINGS}: scoring.model_version is {chosen_version}"
    if chosen_version == "latest":
        return f"{pipeline} uses version {version_numbers[0]}, the newest ({setting})."
    if chosen_version in version_numbers:
        return f"{pipeline} uses version {chosen_version} ({setting})."
    return f"{pipeline} will fail: there is no version {chosen_version} ({setting})."


def _make_database_error(root: Path, error: sqlite3.Error) -> CommandError:
    """Return the error of a command that cannot read MLflow's database."""
    return CommandError(
        f"MLflow's database in {root / 'mlruns'} cannot be read: {error}. Move it away: the"
        " next run creates a new one, without the registered models."
    )


def check(context: CommandContext, *, online: bool, as_json: bool, debug: bool) -> int:
    """Check the settings, and with `online` also compare them with the resources on Azure.

    With `debug`, the command also shows the messages of the SDK. Returns 1 if something is
    wrong or if Azure could not be asked about a workspace, and 0 otherwise.
    """
    from .azure import checks, sdk_log

    with sdk_log.show_log() if debug else nullcontext():
        return checks.main(
            context.project, context.import_pipelines, online=online, as_json=as_json
        )


def lock(context: CommandContext, *, upgrade: bool) -> int:
    """Pin the packages of the project, and print which pins have changed.

    Pins stay as they are as long as they are compatible. With `upgrade`, every package gets
    its newest version that is compatible with the others.
    """
    from .lock import STEPS_PINS, lock_packages

    environment = context.project.root / "environment"
    try:
        changes = lock_packages(environment, upgrade)
    except OSError as error:
        raise CommandError(
            f"The pins could not be read or written: {error}. Make sure that you may write "
            f"to the folder {environment} and its files, then try again."
        ) from None

    if not changes:
        print("Nothing has changed: the pins are up to date with environment/*.in.")
        return 0
    for change in changes:
        print(change)

    print(
        "\nInstall them with `uv pip install -e .`, then run the tests with `pytest`."
    )
    if any(change.file == STEPS_PINS for change in changes):
        print(
            "The packages of the steps have changed. Before you submit or publish, run "
            f"`{context.project.command} provision` to register the new environment on "
            "Azure ML."
        )
    return 0


def draw(context: CommandContext) -> int:
    """Print a diagram of each pipeline, as Mermaid in Markdown."""
    from . import graph
    from .azure import sdk_steps

    settings = context.project.settings()
    for name, pipeline in context.load_pipelines().items():
        steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
        print(f"`{name}`:\n\n{graph.draw(steps)}\n")
    return 0


# Commands for Azure ML ------------------------------------------------------------------


def provision(context: CommandContext, *, create_workspace: bool, debug: bool) -> int:
    """Create the Azure resources that the pipelines need.

    The workspace itself is created only with `create_workspace`. With `debug`, the command
    also shows the messages of the SDK.
    """
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
    """Start a run of a pipeline on Azure ML, and with `wait` follow it to its end.

    `assignments` are values of pipeline parameters, such as `max_iterations=100`. With
    `debug`, the command also shows the messages of the SDK. Returns 1 if the run is known to
    have failed, and 0 otherwise.
    """
    from .azure.submit import submit as submit_pipeline

    pipelines = context.load_pipelines_including(pipeline)
    has_not_failed = submit_pipeline(
        context.project,
        pipelines,
        pipeline,
        _parse_parameters(assignments),
        wait=wait,
        debug=debug,
    )
    return 0 if has_not_failed else 1


def publish(
    context: CommandContext,
    *,
    pipeline: str,
    data: list[str],
    dry_run: bool,
    debug: bool,
) -> int:
    """Publish a pipeline on Azure ML, so that it can run on a schedule or on request.

    `data` holds folders of the default datastore, such as `raw_data=customers/all`. With
    `dry_run`, the command only prints what would change. With `debug`, it also shows the
    messages of the SDK.
    """
    from .azure.publish import publish as publish_pipeline

    pipelines = context.load_pipelines_including(pipeline)
    data_parameters = list(pipelines[pipeline].data)
    publish_pipeline(
        context.project,
        pipelines,
        name=pipeline,
        folders=_parse_folders(data, data_parameters),
        dry_run=dry_run,
        debug=debug,
    )
    return 0


def status(context: CommandContext, *, debug: bool) -> int:
    """Print the state of the newest runs on Azure ML.

    With `debug`, the command also shows the messages of the SDK. Returns 1 if a run has
    failed or is overdue, and 0 otherwise.
    """
    from .azure.status import show_status

    is_healthy = show_status(context.project, context.load_pipelines(), debug)
    return 0 if is_healthy else 1


# Options of the form NAME=VALUE ---------------------------------------------------------


def _parse_parameters(assignments: list[str]) -> dict[str, str]:
    """Return the values that `--set` gives to pipeline parameters, as a dict by name.

    `["max_iterations=100"]` gives `{"max_iterations": "100"}`. Raises CommandError if an
    assignment has no `=`, or is not valid UTF-8.
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
    """Return the folders that `--data` gives to data parameters, as a dict by name.

    `["raw_data=customers/all"]` gives `{"raw_data": "customers/all"}`. If the pipeline has
    only one data parameter, its name may be left out: `["customers/all"]` gives the same.
    Raises CommandError if a folder is empty, or if a name is missing or is not in
    `data_parameters`.
    """
    folder_by_parameter: dict[str, str] = {}
    for assignment in assignments:
        name, folder = _split_folder_assignment(assignment)
        if name == "" and len(data_parameters) == 1:
            name = data_parameters[0]
        # A variable that is not set in a script gives an empty folder.
        if name not in data_parameters or folder == "":
            examples = " or ".join(
                f"{parameter}={folder or 'FOLDER'}" for parameter in data_parameters
            )
            raise CommandError(f"--data {assignment}: write {examples}.")
        folder_by_parameter[name] = folder
    return folder_by_parameter


def _split_folder_assignment(assignment: str) -> tuple[str, str]:
    """Return the name and the folder in NAME=FOLDER. The name is "" if there is none.

    A folder may have `=` in its own name: `raw_data=sales/year=2026` is the folder
    `sales/year=2026` for `raw_data`, and `sales/year=2026` is a folder without a name.
    """
    name, equals, folder = assignment.partition("=")
    is_part_of_folder = equals == "" or "/" in name
    if is_part_of_folder:
        return "", assignment
    return name, folder
