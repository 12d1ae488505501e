"""The command line: `python -m {{ cookiecutter.package_name }} --help`."""

import sys

from .runtime import not_installed

try:
    from .runtime.command_line import main
    from .runtime.project import Pipelines
    from .settings import PROJECT
except ModuleNotFoundError as error:
    # Say in one sentence which package is missing and how to install it.
    sys.exit(not_installed(error))


def load_pipelines() -> Pipelines:
    """Import the pipelines. This imports the SDK, which takes seconds, so it is done late."""
    from .pipelines import PIPELINES

    return PIPELINES


def run_command() -> int:
    """Run the command in `sys.argv`, and return its exit code."""
    return main(PROJECT, load_pipelines)


if __name__ == "__main__":
    sys.exit(run_command())
