"""The command line. Azure is imported only by the commands that need it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from .settings import SettingsError


class CommandError(Exception):
    """What the command line asks for cannot be done; the message says why."""


def main() -> int:
    """Run the command that the command line names; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}",
        description="Training and batch-scoring pipelines, here and on Azure ML.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run a pipeline on this machine")
    run.set_defaults(command=_run)
    run.add_argument("pipeline", choices=["training", "scoring"])
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a pipeline parameter (may be repeated)",
    )
    run.add_argument("--step", help="run this step alone, in --folder")
    run.add_argument("--folder", type=Path, help="the folder of an earlier run")
    run.add_argument("--json", action="store_true", help="print the result as JSON")

    check = commands.add_parser("check", help="say what is wrong with the settings")
    check.set_defaults(command=_check)
    check.add_argument("--online", action="store_true", help="ask Azure too")
    check.add_argument("--json", action="store_true", help="print the result as JSON")

    args = parser.parse_args()
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


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from . import local_run, sdk_steps

    if (args.step is None) != (args.folder is None):
        raise CommandError("--step and --folder go together: a step runs in a folder.")
    console = Console(stderr=args.json)
    try:
        run = sdk_steps.prepare(
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

    return checks.main(online=args.online, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
