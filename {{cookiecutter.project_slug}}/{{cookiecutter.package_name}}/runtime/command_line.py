"""The command line. Azure is imported only by the commands that need it."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from . import VERSION, not_installed
from .project import CommandError, Pipelines, Project


def run(args: Namespace) -> int:
    from rich.console import Console

    from .local import run as local_run

    if (args.step is None) != (args.folder is None):
        raise CommandError("--step and --folder go together: a step runs in a folder.")
    values, console = _parameters(args), Console(stderr=args.json)
    folder = args.folder and args.folder.resolve()
    with console.status("loading the SDK"):
        pipelines = _pipelines(args)
    result = local_run.new_run(
        args.project, pipelines, args.pipeline, values, console, folder
    ).run(args.step, args.fresh)
    if result.status == "completed":
        for step in result.steps:
            for port, path in step.outputs.items():
                console.print(f"{port:14}{path}", markup=False, soft_wrap=True)
    if args.json:
        print(json.dumps(asdict(result)))
    return 0 if result.status == "completed" else 1


def check(args: Namespace) -> int:
    from .azure import checks

    return checks.main(args.project, online=args.online, as_json=args.json)


def draw(args: Namespace) -> None:
    from . import graph
    from .azure import sdk_steps

    settings = args.project.settings()
    for name, pipeline in args.load_pipelines().items():
        steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
        print(f"`{name}`:\n\n{graph.draw(steps)}\n")


def provision(args: Namespace) -> None:
    from .azure import workspace

    workspace.provision(args.project, args.load_pipelines(), args.create_workspace)


def submit(args: Namespace) -> int:
    from .azure import workspace

    pipelines, values = _pipelines(args), _parameters(args)
    went_well = workspace.submit(
        args.project, pipelines, args.pipeline, values, args.wait
    )
    return 0 if went_well else 1


def publish(args: Namespace) -> None:
    from .azure import workspace

    pipelines, folders = _pipelines(args), {}
    data = list(pipelines[args.pipeline].data)
    for word in args.data:
        name, _, folder = word.rpartition("=")
        name = name or (data[0] if len(data) == 1 else "")
        if name not in data:
            names = " or ".join(f"{name}={folder or 'FOLDER'}" for name in data)
            raise CommandError(f"--data {word}: write {names}.")
        folders[name] = folder
    workspace.publish(args.project, pipelines, args.pipeline, folders, args.dry_run)


def _loaded(pipelines: Callable[[], Pipelines]) -> Pipelines:
    """Import the SDK, in which there is no garbage to look for, now or at the end."""
    gc.disable()
    found = pipelines()
    gc.freeze()
    gc.enable()
    return found


def _pipelines(args: Namespace) -> Pipelines:
    """The project's pipelines, among which is the one that the command line names."""
    pipelines: Pipelines = args.load_pipelines()
    if args.pipeline not in pipelines:
        there = f"there are {', '.join(pipelines)}"
        raise CommandError(f"No pipeline is called {args.pipeline!r}: {there}.")
    return pipelines


def _parameters(args: Namespace) -> dict[str, str]:
    for assignment in args.set:
        if "=" not in assignment:
            raise CommandError(f"--set {assignment}: write --set NAME=VALUE.")
    return dict(assignment.split("=", 1) for assignment in args.set)


COMMANDS: dict[Callable[[Namespace], int | None], tuple[str, str]] = {
    run: (
        "pipeline --set --fresh --step --folder --json",
        "run a pipeline on this machine",
    ),
    check: ("--workspace --online --json", "say what is wrong with the settings"),
    draw: ("", "print pictures of all pipelines, as Mermaid in Markdown"),
    provision: ("--workspace --create-workspace", "have on Azure what is needed"),
    submit: ("pipeline --workspace --set --wait", "run a pipeline on Azure ML"),
    publish: (
        "pipeline --workspace --data --dry-run",
        "publish a pipeline on Azure ML",
    ),
}
SWITCH = {"action": "store_true"}
REPEATED = {"action": "append", "default": []}
WORKSPACE = "the one of .azureml/NAME.json, in place of config.json"
SET = "set a pipeline parameter (may be repeated)"
ANEW = "read this folder of the default datastore anew in each run"
OPTIONS: dict[str, dict[str, Any]] = {
    # Its names are known only once the SDK is imported, which takes a second.
    "pipeline": {"metavar": "PIPELINE", "help": "training or scoring"},
    "--workspace": {"metavar": "NAME", "help": WORKSPACE},
    "--set": {**REPEATED, "metavar": "NAME=VALUE", "help": SET},
    "--fresh": {**SWITCH, "help": "run steps that have not changed too"},
    "--step": {"help": "run this step alone, in --folder"},
    "--folder": {"type": Path, "help": "the folder of an earlier run"},
    "--json": {**SWITCH, "help": "print the result as JSON"},
    "--online": {**SWITCH, "help": "ask Azure too"},
    "--create-workspace": {**SWITCH, "help": "if there is none yet"},
    "--wait": {**SWITCH, "help": "follow it to its end"},
    "--data": {**REPEATED, "metavar": "[NAME=]FOLDER", "help": ANEW},
    "--dry-run": {**SWITCH, "help": "only say what changes"},
}


def main(project: Project[Any], pipelines: Callable[[], Pipelines]) -> int:
    """Run the command that the command line names; returns its exit code."""
    if sys.getfilesystemencoding() != "utf-8":  # a locale without umlauts
        again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, again)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # whatever its encoding, it is printed
            stream.reconfigure(errors="backslashreplace")
    description = "Pipelines here and on Azure ML."
    parser = ArgumentParser(prog=project.command, description=description)
    version = f"version {VERSION} of the template"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for function, (options, text) in COMMANDS.items():
        command = commands.add_parser(function.__name__, help=text)
        command.set_defaults(function=function)
        for option in options.split():
            command.add_argument(option, **OPTIONS[option])
    args = parser.parse_args()
    args.project, args.load_pipelines = project, lambda: _loaded(pipelines)
    # To be stopped is to be interrupted: what was started is stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if getattr(args, "workspace", None) is not None:
            args.project = project.at(args.workspace)
        code = args.function(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads what is printed, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CommandError as error:
        print(error, file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(not_installed(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
