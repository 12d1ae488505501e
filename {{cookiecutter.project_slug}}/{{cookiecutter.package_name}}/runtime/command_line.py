"""The command line. Azure is imported only by the commands that need it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from .project import Pipelines, Project, SettingsError


class CommandError(Exception):
    """What the command line asks for cannot be done; the message says why."""


def main(project: Project[Any], pipelines: Callable[[], Pipelines]) -> int:
    """Run the command that the command line names; returns its exit code."""
    if sys.getfilesystemencoding() != "utf-8":  # a locale without umlauts
        again = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execv(sys.executable, again)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # whatever its encoding, it is printed
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser(
        prog=project.command,
        description="Pipelines here and on Azure ML.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run a pipeline on this machine")
    run.set_defaults(command=_run)
    _add_pipeline(run)
    _add_set(run)
    run.add_argument("--step", help="run this step alone, in --folder")
    run.add_argument("--folder", type=Path, help="the folder of an earlier run")
    run.add_argument("--json", action="store_true", help="print the result as JSON")

    check = commands.add_parser("check", help="say what is wrong with the settings")
    check.set_defaults(command=_check)
    check.add_argument("--online", action="store_true", help="ask Azure too")
    check.add_argument("--json", action="store_true", help="print the result as JSON")

    draw = commands.add_parser("draw", help="draw the pictures of all pipelines")
    draw.set_defaults(command=_draw)

    provision = commands.add_parser("provision", help="have on Azure what is needed")
    provision.set_defaults(command=_provision)
    provision.add_argument(
        "--create-workspace", action="store_true", help="if there is none yet"
    )

    submit = commands.add_parser("submit", help="run a pipeline on Azure ML")
    submit.set_defaults(command=_submit)
    _add_pipeline(submit)
    _add_set(submit)
    submit.add_argument("--wait", action="store_true", help="follow it to its end")

    publish = commands.add_parser("publish", help="publish a pipeline on Azure ML")
    publish.set_defaults(command=_publish)
    _add_pipeline(publish)
    publish.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="read this folder of the default datastore anew in each run",
    )
    publish.add_argument("--dry-run", action="store_true", help="only say what changes")

    args = parser.parse_args()
    args.project, args.load_pipelines = project, pipelines
    # To be stopped is to be interrupted: what was started is stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        code: int = args.command(args)
        return code
    except (CommandError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _add_pipeline(command: argparse.ArgumentParser) -> None:
    # Its names are known only once the SDK is imported, which takes a second.
    command.add_argument("pipeline", metavar="PIPELINE", help="training or scoring")


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a pipeline parameter (may be repeated)",
    )


def _pipelines(args: argparse.Namespace) -> Pipelines:
    """The project's pipelines, among which is the one that the command line names."""
    pipelines: Pipelines = args.load_pipelines()
    if args.pipeline not in pipelines:
        there = f"there are {', '.join(pipelines)}"
        raise CommandError(f"No pipeline is called {args.pipeline!r}: {there}.")
    return pipelines


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from . import local_run, sdk_steps

    if (args.step is None) != (args.folder is None):
        raise CommandError("--step and --folder go together: a step runs in a folder.")
    pipelines = _pipelines(args)
    console = Console(stderr=args.json)
    try:
        run = sdk_steps.new_run(
            args.project,
            pipelines,
            args.pipeline,
            values=_parameters(args.set),
            console=console,
            folder=args.folder and args.folder.resolve(),
        )
        result = run.run(only=args.step)
    except local_run.LocalRunError as error:
        raise CommandError(error) from None
    if result.status == "completed":
        for step in result.steps:
            for port, folder in step.outputs.items():
                console.print(f"{port:14}{folder}", markup=False, soft_wrap=True)
    if args.json:
        print(result.as_json())
    return 0 if result.status == "completed" else 1


def _parameters(assignments: list[str]) -> dict[str, str]:
    """The pipeline parameters of NAME=VALUE texts."""
    for assignment in assignments:
        if "=" not in assignment:
            raise CommandError(f"--set {assignment}: write --set NAME=VALUE.")
    return dict(assignment.split("=", 1) for assignment in assignments)


def _check(args: argparse.Namespace) -> int:
    from . import checks

    return checks.main(args.project, online=args.online, as_json=args.json)


def _draw(args: argparse.Namespace) -> int:
    from . import graph, sdk_steps

    settings = args.project.settings()
    for name, pipeline in args.load_pipelines().items():
        steps = sdk_steps.read_steps(sdk_steps.build_steps(pipeline, settings))
        print(graph.write(steps, args.project.root / "docs" / f"{name}.svg"))
    return 0


def _provision(args: argparse.Namespace) -> int:
    with _azure() as workspace:
        workspace.provision(args.project, args.load_pipelines(), args.create_workspace)
    return 0


def _submit(args: argparse.Namespace) -> int:
    pipelines, values = _pipelines(args), _parameters(args.set)
    with _azure() as workspace:
        went_well = workspace.submit(
            args.project, pipelines, args.pipeline, values, args.wait
        )
    return 0 if went_well else 1


def _publish(args: argparse.Namespace) -> int:
    pipelines = _pipelines(args)
    data = list(pipelines[args.pipeline].data)
    folders = {}
    for word in args.data:
        name, _, folder = word.rpartition("=")
        name = name or (data[0] if len(data) == 1 else "")
        if name not in data:
            names = " or ".join(f"{name}={folder or 'FOLDER'}" for name in data)
            raise CommandError(f"--data {word}: write {names}.")
        folders[name] = folder
    with _azure() as workspace:
        workspace.publish(args.project, pipelines, args.pipeline, folders, args.dry_run)
    return 0


@contextmanager
def _azure() -> Iterator[Any]:
    """The module that works on Azure, whose errors are the command's."""
    from . import connection, local_run, workspace

    try:
        yield workspace
    except (connection.AzureError, local_run.LocalRunError) as error:
        raise CommandError(error) from None
