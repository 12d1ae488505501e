"""The command line of a project.

Each command imports the modules that it needs itself, so that `--help` and messages about
wrong options appear at once.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import shlex
import shutil
import signal
import sqlite3
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import VERSION, not_installed
from .errors import CommandError, SettingsError
from .harmless_text import is_utf8, make_harmless
from .project import Pipelines, Project
from .steps import find_unknown_steps
from .workspaces import SETTINGS

if TYPE_CHECKING:
    from .local.run_result import RunResult
    from .local.screen import Screen

PipelineLoader = Callable[[], Pipelines]


def main(project: Project[Any], load_pipelines: PipelineLoader) -> int:
    """Run the command that the command line names, and return its exit code."""
    if sys.getfilesystemencoding() != "utf-8":
        # The locale's encoding lacks most characters, so Python is started again in UTF-8.
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, command)
    for stream in (sys.stdout, sys.stderr):
        # Characters that the output's encoding lacks are printed as escape sequences.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # With this exception, a run that is terminated also ends its steps, as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        args = _make_parser(project, load_pipelines).parse_args()
        args.project = project
        _check_project_folder(project)
        args.load_pipelines = lambda: _load(load_pipelines)
        if getattr(args, "workspace", None) is not None:
            args.project = project.for_workspace(args.workspace)
        with _remove_temporary_files():
            code = args.function(args) or 0
        sys.stdout.flush()
        return code
    except CommandError as error:
        # The message may quote settings, data or Azure.
        print(make_harmless(str(error)), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(not_installed(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        return _end_without_output(error)


@contextmanager
def _remove_temporary_files() -> Iterator[None]:
    """Remove all temporary files of a command at its end.

    azureml-sdk would leave a folder for logs, `azureml-logs`, to which all users of the
    machine may write.
    """
    with ExitStack() as stack:
        # If no temporary file can be written, the commands that need some say so.
        with suppress(OSError):
            folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            tempfile.tempdir = stack.enter_context(folder)
            stack.callback(setattr, tempfile, "tempdir", None)
        yield


def _end_without_output(error: OSError) -> int:
    """Return the exit code of a command whose output cannot be written.

    `error` is raised again if it has another cause.
    """
    is_disk_full = error.errno in (errno.ENOSPC, errno.EIO) and not error.filename
    # A program that reads the output, such as `head`, closes the pipe once it has enough.
    is_pipe_closed = isinstance(error, BrokenPipeError)
    if not is_disk_full and not is_pipe_closed:
        raise error
    # When Python ends, it writes the rest of the output. This would fail again, so the rest
    # goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if is_disk_full:
        print(f"The output cannot be written: {error.strerror}.", file=sys.stderr)
    return 1


# The commands ---------------------------------------------------------------------------


def run(args: Namespace) -> int:
    """Run a pipeline, or one step of it, on this machine."""
    from rich.console import Console

    from .local.screen import Screen

    _check_step_options(args)
    _check_temporary_folder()
    parameters = _read_parameters(args)
    # With --json, standard output is for the JSON alone.
    screen = Screen(Console(stderr=args.json))
    try:
        result = _run_on_this_machine(args, parameters, screen)
    except (KeyboardInterrupt, SystemExit):
        # Without --fresh, the steps that have finished are not run again.
        arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
        continue_command = f"{args.project.command} {shlex.join(arguments)}"
        screen.print(
            "The run was stopped. The results of finished steps are kept. To continue,"
            f" run: {continue_command}"
        )
        raise
    if result.status == "completed":
        for step in result.steps:
            for output, folder in step.outputs.items():
                screen.print(f"{output:14}{folder}")
        reports = result.list_reports()
        if reports:
            screen.print("To look at the results, open:")
        for report in reports:
            screen.print(f"  {report.as_uri()}")
    if args.json:
        print(json.dumps(asdict(result)))
    return 0 if result.status == "completed" else 1


def _run_on_this_machine(
    args: Namespace, parameters: dict[str, str], screen: Screen
) -> RunResult:
    """Run a pipeline, or one step of it, and return how the run ended.

    With `--step`, only this step runs. It runs in the folder of an earlier run, because it
    reads what the steps before it have written there.
    """
    from .local.run import new_run
    from .local.step_alone import find_newest_run

    with screen.console.status("loading the SDK"):
        pipelines = _find_pipelines(args)

    earlier_run = None
    if args.folder is not None:
        earlier_run = args.folder.resolve()
    elif args.step:
        earlier_run = find_newest_run(args.project, args.pipeline)
        screen.print(f"The step uses the newest run: {earlier_run}")

    prepared_run = new_run(
        args.project,
        pipelines,
        args.pipeline,
        parameters,
        screen.console,
        earlier_run,
    )
    return prepared_run.run(args.step, args.fresh, args.debug)


def runs(args: Namespace) -> None:
    """Print a table of earlier runs, or two of them side by side."""
    from .local.run_history import find_run, read_history
    from .local.run_tables import format_comparison, format_runs

    root = args.project.root
    try:
        history = read_history(root)
    except sqlite3.Error as error:
        raise _make_database_error(root, error) from None
    if len(args.run) > 2:
        raise CommandError("Name two runs to compare them, or one part of their names.")
    if len(args.run) == 2:
        first = find_run(history, args.run[0])
        second = find_run(history, args.run[1])
        print("\n".join(format_comparison(first, second)))
        return

    text = args.run[0] if args.run else ""
    shown = [run for run in history if text in run.name]
    if shown:
        print("\n".join(format_runs(history, shown, _find_width())))
    elif history:
        find_run(history, text)
    else:
        print(f"There is no run yet. To make one: {args.project.command} run training")


def models(args: Namespace) -> None:
    """Print the versions of the registered model, and the one that each pipeline uses."""
    from .local.plan import make_plan
    from .local.registered_models import list_versions
    from .local.run_history import read_history
    from .local.run_tables import format_models

    project = args.project
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
        return

    print("\n".join(table))
    print()
    for name, pipeline in _load_pipelines(args).items():
        if pipeline.model_version is not None:
            chosen = make_plan(project, settings, name, pipeline, {}).model_version
            print(_describe_used_version(name, chosen, [v.version for v in versions]))


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
        " next run makes a new one, without the models that were registered."
    )


def _find_width() -> int | None:
    """Return the width of the terminal, or None if the output goes elsewhere."""
    if not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def check(args: Namespace) -> int:
    """Check the settings, and with `--online` what Azure says about them."""
    from .azure import checks, sdk_log

    with sdk_log.show_log() if args.debug else nullcontext():
        return checks.main(
            args.project, args.load_pipelines, online=args.online, as_json=args.json
        )


def lock(args: Namespace) -> None:
    """Pin the packages of the project, and show which pins have changed."""
    from .lock import STEPS_PINS, lock_packages

    environment = args.project.root / "environment"
    try:
        changes = lock_packages(environment, args.upgrade)
    except OSError as error:
        raise CommandError(
            f"The pins could not be read or written: {error}. Make sure that the folder "
            f"{environment} and its files are yours to change, then try again."
        ) from None

    if not changes:
        print("Nothing has changed: the pins agree with environment/*.in.")
        return
    for change in changes:
        print(change)

    print("\nInstall them with `pip install -e .`, then run the tests with `pytest`.")
    if any(change.file == STEPS_PINS for change in changes):
        print(
            "The steps run with other packages now: call "
            f"`{args.project.command} provision`, which registers their environment on "
            "Azure ML again, before you submit or publish."
        )


def draw(args: Namespace) -> None:
    """Print a picture of each pipeline."""
    from . import graph
    from .azure import sdk_steps

    settings = args.project.settings()
    for name, pipeline in _load_pipelines(args).items():
        steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
        print(f"`{name}`:\n\n{graph.draw(steps)}\n")


def provision(args: Namespace) -> None:
    """Create on Azure what the pipelines need."""
    from .azure.provision import provision as provision_workspace

    provision_workspace(
        args.project,
        _load_pipelines(args),
        create_workspace=args.create_workspace,
        debug=args.debug,
    )


def submit(args: Namespace) -> int:
    """Run a pipeline on Azure ML."""
    from .azure.submit import submit as submit_pipeline

    pipelines = _find_pipelines(args)
    parameters = _read_parameters(args)
    is_well = submit_pipeline(
        args.project,
        pipelines,
        args.pipeline,
        parameters,
        wait=args.wait,
        debug=args.debug,
    )
    return 0 if is_well else 1


def publish(args: Namespace) -> None:
    """Publish a pipeline on Azure ML."""
    from .azure.publish import publish as publish_pipeline

    pipelines = _find_pipelines(args)
    folders = _read_folders(args.data, list(pipelines[args.pipeline].data))
    publish_pipeline(
        args.project,
        pipelines,
        args.pipeline,
        folders,
        dry_run=args.dry_run,
        debug=args.debug,
    )


def status(args: Namespace) -> int:
    """Print how the newest runs on Azure ML have ended."""
    from .azure.status import show_status

    is_well = show_status(args.project, _load_pipelines(args), args.debug)
    return 0 if is_well else 1


# Checks, and options whose values have parts --------------------------------------------


def _check_project_folder(project: Project[Any]) -> None:
    """Raise CommandError if the package was installed apart from its project."""
    if (project.root / SETTINGS).exists() or (project.root / "steps").exists():
        return
    raise CommandError(
        f"{project.root} holds the package {project.package}, but neither {SETTINGS} nor "
        "steps/: the package was installed apart from its project. Run the command in "
        "the project's folder, or call `pip install -e .` there."
    )


def _check_step_options(args: Namespace) -> None:
    """Raise CommandError if options of `run` do not go together."""
    if args.step is None and args.folder is not None:
        raise CommandError(
            "--folder needs --step NAME, because only a single step runs in the folder of"
            " an earlier run."
        )
    if args.step is None and args.debug:
        raise CommandError(
            "--debug needs --step NAME, because one step is debugged at a time."
        )
    if args.debug and args.json:
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


def _load(load_pipelines: PipelineLoader) -> Pipelines:
    """Load the pipelines. This also imports the SDK of Azure ML."""
    # Imports leave no garbage behind, and the garbage collector would search for it long.
    gc.disable()
    pipelines = load_pipelines()
    gc.freeze()
    gc.enable()
    return pipelines


def _load_pipelines(args: Namespace) -> Pipelines:
    """Load the pipelines. Raises SettingsError if the settings name a step of none of them."""
    pipelines: Pipelines = args.load_pipelines()
    problems = find_unknown_steps(args.project, pipelines)
    if problems:
        raise SettingsError(problems)
    return pipelines


def _find_pipelines(args: Namespace) -> Pipelines:
    """Load the pipelines. Raises CommandError if the named one is not among them."""
    pipelines = _load_pipelines(args)
    if args.pipeline not in pipelines:
        raise CommandError(
            f"No pipeline is called {args.pipeline!r}. There are {', '.join(pipelines)}."
        )
    return pipelines


def _read_parameters(args: Namespace) -> dict[str, str]:
    """Return the values that `--set` gives to pipeline parameters, by their names.

    Raises CommandError if an assignment has no `=`, or is not UTF-8.
    """
    for assignment in args.set:
        if "=" not in assignment:
            raise CommandError(f"--set {assignment}: write --set NAME=VALUE.")
        if not is_utf8(assignment):
            raise CommandError(
                f"--set {assignment}: the terminal or the script has sent bytes that are"
                " not UTF-8. Write the value in UTF-8."
            )
    return dict(assignment.split("=", 1) for assignment in args.set)


def _read_folders(assignments: list[str], data: list[str]) -> dict[str, str]:
    """Return the folders that `--data` names, by the data parameter that reads them.

    `assignments` look like NAME=FOLDER. `data` are the names of the pipeline's parameters
    for data. If there is only one, NAME= may be left out. Raises CommandError if a name is
    not in `data`.
    """
    folders: dict[str, str] = {}
    for assignment in assignments:
        name, _, folder = assignment.rpartition("=")
        if not name and len(data) == 1:
            name = data[0]
        if name not in data:
            examples = " or ".join(
                f"{parameter}={folder or 'FOLDER'}" for parameter in data
            )
            raise CommandError(f"--data {assignment}: write {examples}.")
        folders[name] = folder
    return folders


# The parser -----------------------------------------------------------------------------


def _make_parser(
    project: Project[Any], load_pipelines: PipelineLoader
) -> ArgumentParser:
    """Return the parser of the command line.

    The parsed arguments have an attribute `function`, which runs the command.
    """
    parser = ArgumentParser(
        prog=project.command, description="Pipelines on this machine and on Azure ML."
    )
    parser.add_argument(
        "--version", action="version", version=f"version {VERSION} of the template"
    )
    commands = _Commands(
        parser.add_subparsers(metavar="COMMAND", required=True), load_pipelines
    )
    _add_local_commands(commands)
    _add_azure_commands(commands)
    return parser


class _Commands:
    """Adds commands to the command line, each with the function that runs it."""

    def __init__(self, subparsers: Any, load_pipelines: PipelineLoader) -> None:
        self._subparsers = subparsers
        self._load_pipelines = load_pipelines

    def add(
        self, function: Callable[[Namespace], int | None], help_text: str
    ) -> ArgumentParser:
        """Add a command that has the name of its function, and return its parser."""
        parser: ArgumentParser = self._subparsers.add_parser(
            function.__name__, help=help_text
        )
        parser.set_defaults(function=function)
        return parser

    def add_for_pipeline(
        self, function: Callable[[Namespace], int | None], help_text: str
    ) -> ArgumentParser:
        """Add a command that takes a pipeline. Its help lists the project's pipelines."""
        parser: ArgumentParser = self._subparsers.add_parser(
            function.__name__, help=help_text, add_help=False
        )
        parser.set_defaults(function=function)
        parser.add_argument(
            "-h",
            "--help",
            action=_HelpWithPipelines,
            const=self._load_pipelines,
            help="show this help message and exit",
        )
        parser.add_argument(
            "pipeline", metavar="PIPELINE", help="the name of a pipeline"
        )
        return parser


def _add_local_commands(commands: _Commands) -> None:
    """Add the commands that work without Azure."""
    parser = commands.add_for_pipeline(run, "run a pipeline on this machine")
    _add_parameters(parser)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="run all steps, also those that have not changed",
    )
    parser.add_argument(
        "--step", metavar="NAME", help="run this step alone, in an earlier run"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="the folder of that run (without it, the newest run)",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="run the step from steps/ in this terminal, so that breakpoint() works",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")

    parser = commands.add(runs, "list earlier runs, or compare two of them")
    parser.add_argument(
        "run",
        nargs="*",
        metavar="RUN",
        help="two runs to compare, or a part of the names of those to list",
    )

    commands.add(models, "list the versions of the registered model")

    parser = commands.add(check, "check the settings")
    _add_workspace(parser)
    parser.add_argument("--online", action="store_true", help="ask Azure too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    _add_sdk_debug(parser)

    parser = commands.add(lock, "pin the packages that environment/*.in name")
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="take the newest version of every package",
    )

    commands.add(draw, "print pictures of all pipelines, as Mermaid in Markdown")


def _add_azure_commands(commands: _Commands) -> None:
    """Add the commands that work on Azure."""
    parser = commands.add(provision, "create on Azure what the pipelines need")
    _add_workspace(parser)
    parser.add_argument(
        "--create-workspace",
        action="store_true",
        help="create the workspace if there is none",
    )
    _add_sdk_debug(parser)

    parser = commands.add_for_pipeline(submit, "run a pipeline on Azure ML")
    _add_workspace(parser)
    _add_parameters(parser)
    parser.add_argument("--wait", action="store_true", help="follow the run to its end")
    _add_sdk_debug(parser)

    parser = commands.add_for_pipeline(publish, "publish a pipeline on Azure ML")
    _add_workspace(parser)
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="read this folder of the default datastore anew in each run",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would change"
    )
    _add_sdk_debug(parser)

    parser = commands.add(
        status,
        "show the newest runs on Azure ML; exit with 1 if one failed or is overdue",
    )
    _add_workspace(parser)
    _add_sdk_debug(parser)


def _add_parameters(parser: ArgumentParser) -> None:
    """Add the option `--set`, which gives a value to a pipeline parameter."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a pipeline parameter (may be repeated)",
    )


def _add_workspace(parser: ArgumentParser) -> None:
    """Add the option `--workspace`, which chooses one of several workspaces."""
    parser.add_argument(
        "--workspace",
        metavar="NAME",
        help="use the workspace of .azureml/NAME.json, not of config.json",
    )


def _add_sdk_debug(parser: ArgumentParser) -> None:
    """Add the option `--debug` of the commands that use the SDK."""
    parser.add_argument(
        "--debug",
        action="store_true",
        help="show what the SDK of Azure ML prints and logs",
    )


class _HelpWithPipelines(argparse.Action):
    """Print the help of a command, with a list of the pipelines, and exit.

    The pipelines are loaded only when the help is printed, because importing the SDK takes
    a second. argparse passes the function that loads them as `const`.
    """

    def __init__(self, option_strings: Sequence[str], const: Any, **more: Any) -> None:
        more["dest"] = argparse.SUPPRESS
        super().__init__(option_strings, nargs=0, const=const, **more)

    def __call__(self, parser: ArgumentParser, *_: Any) -> NoReturn:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = _list_pipelines(self.const)
        parser.print_help()
        parser.exit()


def _list_pipelines(load_pipelines: PipelineLoader) -> str:
    """Return a line for each pipeline, with the first line of its docstring."""
    try:
        pipelines = load_pipelines()
    except ModuleNotFoundError as error:
        return f"The pipelines cannot be listed. {not_installed(error)}"
    width = max(map(len, pipelines), default=0)
    lines = ["pipelines:"]
    for name, pipeline in pipelines.items():
        summary = (pipeline.build.__doc__ or "").strip().partition("\n")[0]
        lines.append(f"  {name:{width}}  {summary}".rstrip())
    return "\n".join(lines)
