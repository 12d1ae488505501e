"""The parser of the command line: its commands, their options and their help."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import VERSION, commands, describe_missing_package
from .commands import PipelineLoader


def make_parser(program: str, load_pipelines: PipelineLoader) -> ArgumentParser:
    """Return the parser of the project's command line.

    `program` is what users write before the name of a command; the help shows it. Parsing
    returns a namespace. Its attribute `command` is the function of commands.py to call. Its
    attribute `workspace` is the workspace to work on, and exists only for some commands. All
    other attributes are keyword arguments for the function.
    """
    parser = ArgumentParser(
        prog=program, description="Pipelines on this machine and on Azure ML."
    )
    parser.add_argument(
        "--version", action="version", version=f"version {VERSION} of the template"
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    adder = _CommandAdder(subparsers, load_pipelines)

    _add_run(adder)
    _add_runs(adder)
    adder.add(commands.models, "list the versions of the registered model")
    _add_check(adder)
    _add_lock(adder)
    adder.add(commands.draw, "print a diagram of each pipeline, as Mermaid in Markdown")
    _add_provision(adder)
    _add_submit(adder)
    _add_publish(adder)
    _add_status(adder)
    return parser


class _CommandAdder:
    """Adds commands to the parser, each with the function that runs it."""

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
        """Add a command whose first argument is a pipeline, and return its parser.

        The help of the command lists the project's pipelines.
        """
        # The option --help of argparse is left out, and replaced by the one below.
        parser: ArgumentParser = self._subparsers.add_parser(
            command.__name__, help=help_text, add_help=False
        )
        parser.set_defaults(command=command)
        # _HelpWithPipelines calls `const` to load the pipelines only if a user asks for
        # help.
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


# Commands for this machine


def _add_run(adder: _CommandAdder) -> None:
    """Add the command `run`."""
    parser = adder.add_for_pipeline(commands.run, "run a pipeline on this machine")
    _add_set_option(parser)
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="run all steps, even those that have not changed",
    )
    parser.add_argument(
        "--step",
        metavar="NAME",
        help="run only this step, in the folder of an earlier run",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="with --step: the folder of the earlier run (default: the newest run)",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="with --step: run the step in this terminal, so that breakpoint() works",
    )
    _add_json_option(parser)


def _add_runs(adder: _CommandAdder) -> None:
    """Add the command `runs`."""
    parser = adder.add(commands.runs, "list earlier runs, or compare two of them")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="RUN",
        help="two runs to compare, or a text to list only the runs whose names contain it",
    )


def _add_check(adder: _CommandAdder) -> None:
    """Add the command `check`."""
    parser = adder.add(commands.check, "check the settings")
    _add_workspace_option(parser)
    parser.add_argument(
        "--online",
        action="store_true",
        help="also compare the settings with the resources on Azure",
    )
    _add_json_option(parser)
    _add_sdk_debug_option(parser)


def _add_lock(adder: _CommandAdder) -> None:
    """Add the command `lock`."""
    parser = adder.add(commands.lock, "pin the packages listed in environment/*.in")
    parser.add_argument(
        "--upgrade",
        action="store_true",
        help="upgrade every package to its newest version",
    )


# Commands for Azure ML


def _add_provision(adder: _CommandAdder) -> None:
    """Add the command `provision`."""
    parser = adder.add(
        commands.provision, "create the Azure resources that the pipelines need"
    )
    _add_workspace_option(parser)
    parser.add_argument(
        "--create-workspace",
        action="store_true",
        help="create the workspace if it does not exist",
    )
    _add_sdk_debug_option(parser)


def _add_submit(adder: _CommandAdder) -> None:
    """Add the command `submit`."""
    parser = adder.add_for_pipeline(commands.submit, "run a pipeline on Azure ML")
    _add_workspace_option(parser)
    _add_set_option(parser)
    parser.add_argument(
        "--wait",
        action="store_true",
        help="show the progress of the run, and wait until it ends",
    )
    _add_sdk_debug_option(parser)


def _add_publish(adder: _CommandAdder) -> None:
    """Add the command `publish`."""
    parser = adder.add_for_pipeline(commands.publish, "publish a pipeline on Azure ML")
    _add_workspace_option(parser)
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="a folder in the default datastore; each run reads the files that are in it at"
        " that time",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only show what would change"
    )
    _add_sdk_debug_option(parser)


def _add_status(adder: _CommandAdder) -> None:
    """Add the command `status`."""
    parser = adder.add(
        commands.status,
        "show the newest runs on Azure ML; exit with 1 if one failed or is overdue",
    )
    _add_workspace_option(parser)
    _add_sdk_debug_option(parser)


# Options of several commands


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
    """Prints the help of a command, with a list of the pipelines, and exits.

    argparse passes the constant `const` of an option to the action of this option. Here
    `const` is the function that loads the pipelines. The function imports the SDK, which
    takes a second, so it is called only when the help is printed.
    """

    def __init__(self, option_strings: Sequence[str], const: Any, **more: Any) -> None:
        more["dest"] = argparse.SUPPRESS
        super().__init__(option_strings, nargs=0, const=const, **more)

    def __call__(self, parser: ArgumentParser, *_: Any) -> NoReturn:
        """Print the help, and exit. argparse calls this method for the option."""
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = _describe_pipelines(self.const)
        parser.print_help()
        parser.exit()


def _describe_pipelines(load_pipelines: PipelineLoader) -> str:
    """Return a text for the help, with a line for each pipeline: its name and its summary.

    The summary is the first line of the docstring of the function that builds the pipeline.
    If a package is missing, the text says instead which package this is.
    """
    try:
        pipelines = load_pipelines()
    except ModuleNotFoundError as error:
        return f"The pipelines cannot be listed. {describe_missing_package(error)}"

    width = max(map(len, pipelines), default=0)
    lines = ["pipelines:"]
    for name, pipeline in pipelines.items():
        summary = (pipeline.build.__doc__ or "").strip().partition("\n")[0]
        lines.append(f"  {name:{width}}  {summary}".rstrip())
    return "\n".join(lines)
