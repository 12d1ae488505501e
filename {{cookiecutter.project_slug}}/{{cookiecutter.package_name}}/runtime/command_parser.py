"""The parser of the command line: its commands, their options and their help."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import VERSION, commands, not_installed
from .commands import PipelineLoader


def make_parser(program: str, load_pipelines: PipelineLoader) -> ArgumentParser:
    """Return the parser of the command line.

    Its result has the attribute `command`, which is a function of `commands.py`, and the
    keyword arguments of this function. Commands for Azure may also have `workspace`.
    """
    parser = ArgumentParser(
        prog=program, description="Pipelines on this machine and on Azure ML."
    )
    parser.add_argument(
        "--version", action="version", version=f"version {VERSION} of the template"
    )
    adder = _CommandAdder(
        parser.add_subparsers(metavar="COMMAND", required=True), load_pipelines
    )
    _add_local_commands(adder)
    _add_azure_commands(adder)
    return parser


class _CommandAdder:
    """Adds commands to the command line, each with the function that runs it."""

    def __init__(self, subparsers: Any, load_pipelines: PipelineLoader) -> None:
        self._subparsers = subparsers
        self._load_pipelines = load_pipelines

    def add(self, command: Callable[..., int], help_text: str) -> ArgumentParser:
        """Add a command that has the name of its function, and return its parser."""
        parser: ArgumentParser = self._subparsers.add_parser(
            command.__name__, help=help_text
        )
        parser.set_defaults(command=command)
        return parser

    def add_for_pipeline(
        self, command: Callable[..., int], help_text: str
    ) -> ArgumentParser:
        """Add a command that takes a pipeline. Its help lists the project's pipelines."""
        parser: ArgumentParser = self._subparsers.add_parser(
            command.__name__, help=help_text, add_help=False
        )
        parser.set_defaults(command=command)
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


def _add_local_commands(adder: _CommandAdder) -> None:
    """Add the commands that work without Azure."""
    _add_run(adder)

    parser = adder.add(commands.runs, "list earlier runs, or compare two of them")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="RUN",
        help="two runs to compare, or a part of the names of those to list",
    )

    adder.add(commands.models, "list the versions of the registered model")

    parser = adder.add(commands.check, "check the settings")
    _add_workspace_option(parser)
    parser.add_argument("--online", action="store_true", help="ask Azure too")
    _add_json_option(parser)
    _add_sdk_debug_option(parser)

    parser = adder.add(commands.lock, "pin the packages that environment/*.in name")
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="take the newest version of every package",
    )

    adder.add(commands.draw, "print pictures of all pipelines, as Mermaid in Markdown")


def _add_run(adder: _CommandAdder) -> None:
    """Add the command `run`."""
    parser = adder.add_for_pipeline(commands.run, "run a pipeline on this machine")
    _add_set_option(parser)
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
    _add_json_option(parser)


def _add_azure_commands(adder: _CommandAdder) -> None:
    """Add the commands that work on Azure."""
    parser = adder.add(commands.provision, "create on Azure what the pipelines need")
    _add_workspace_option(parser)
    parser.add_argument(
        "--create-workspace",
        action="store_true",
        help="create the workspace if there is none",
    )
    _add_sdk_debug_option(parser)

    parser = adder.add_for_pipeline(commands.submit, "run a pipeline on Azure ML")
    _add_workspace_option(parser)
    _add_set_option(parser)
    parser.add_argument("--wait", action="store_true", help="follow the run to its end")
    _add_sdk_debug_option(parser)

    parser = adder.add_for_pipeline(commands.publish, "publish a pipeline on Azure ML")
    _add_workspace_option(parser)
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
    _add_sdk_debug_option(parser)

    parser = adder.add(
        commands.status,
        "show the newest runs on Azure ML; exit with 1 if one failed or is overdue",
    )
    _add_workspace_option(parser)
    _add_sdk_debug_option(parser)


def _add_set_option(parser: ArgumentParser) -> None:
    """Add the option `--set`, which gives a value to a pipeline parameter."""
    parser.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a pipeline parameter (may be repeated)",
    )


def _add_json_option(parser: ArgumentParser) -> None:
    """Add the option `--json`, which prints the result for programs."""
    parser.add_argument(
        "--json",
        dest="as_json",
        action="store_true",
        help="print the result as JSON",
    )


def _add_workspace_option(parser: ArgumentParser) -> None:
    """Add the option `--workspace`, which chooses one of several workspaces."""
    parser.add_argument(
        "--workspace",
        metavar="NAME",
        help="use the workspace of .azureml/NAME.json, not of config.json",
    )


def _add_sdk_debug_option(parser: ArgumentParser) -> None:
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
    """Return the list of pipelines for the help text, each with its summary.

    The summary is the first line of the docstring. If a package is missing, the text says
    so instead.
    """
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
