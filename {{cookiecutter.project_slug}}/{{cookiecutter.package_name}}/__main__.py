"""The command line: `python -m {{ cookiecutter.package_name }} --help`."""

import sys

from .runtime import describe_missing_package

try:
    from .runtime.command_line import main
    from .runtime.project import Pipelines
    from .settings import PROJECT
except ModuleNotFoundError as error:
    # The message says which package is missing, and how to install it.
    sys.exit(describe_missing_package(error))


def load_pipelines() -> Pipelines:
    """Import pipelines.py, and return its table of pipelines.

    This also imports the SDK of Azure ML, which takes seconds. Commands that need no
    pipeline therefore do not call this function.
    """
    from .pipelines import PIPELINES

    return PIPELINES


def run_command() -> int:
    """Run the command in `sys.argv`, and return its exit code."""
    return main(PROJECT, load_pipelines)


if __name__ == "__main__":
    sys.exit(run_command())
